//! What the machine can do at most, measured beside what is profiled.

use crate::error::Result;
use crate::session::Session;
use std::hint::black_box;
use std::time::Instant;

/// Ceilings of all threads together.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Bytes a second that are read from memory.
    pub bandwidth: f64,
    /// Operations a second of fused multiply-adds in single precision.
    pub flops: f64,
}

/// Runs of the measurement of arithmetic; the best counts.
const RUNS: usize = 9;
/// Multiply-adds of a chain in one run.
const TURNS: usize = 2_000_000;
/// Independent chains, so that none waits for the one before.
const CHAINS: usize = 12;

impl Ceilings {
    /// Measures with the session's threads.
    ///
    /// # Errors
    /// Too little memory to read.
    pub fn measure(session: &mut Session) -> Result<Self> {
        let threads = session.threads();
        let flops = best(|| {
            let done = std::thread::scope(|scope| {
                let running: Vec<_> = (0..threads).map(|_| scope.spawn(multiply_adds)).collect();
                running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum::<usize>()
            });
            done as f64
        });
        Ok(Self { bandwidth: session.bandwidth()?.bytes, flops })
    }
}

/// The best rate of several runs; each says how much it did.
fn best(run: impl Fn() -> f64) -> f64 {
    let rate = |_| {
        let start = Instant::now();
        run() / start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(rate).fold(0.0, f64::max)
}

/// Operations done by one thread with the widest vectors that there are.
fn multiply_adds() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { wide_512() };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { wide_256() };
        }
    }
    chains::<4>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn wide_512() -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..TURNS {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, a, b));
    }
    black_box(sums);
    TURNS * CHAINS * 16 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wide_256() -> usize {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..TURNS {
        sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, a, b));
    }
    black_box(sums);
    TURNS * CHAINS * 8 * 2
}

/// Without vectors that have a name here: what the compiler makes of lanes.
fn chains<const LANES: usize>() -> usize {
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums = [[1.0f32; LANES]; CHAINS];
    for _ in 0..TURNS {
        sums.iter_mut().flatten().for_each(|sum| *sum = sum.mul_add(a, b));
    }
    black_box(sums);
    TURNS * CHAINS * LANES * 2
}
