//! The ceiling of arithmetic, measured.

use std::hint::black_box;
use std::time::Instant;

/// Operations a second of independent fused multiply-adds in registers, all threads.
pub fn flops(threads: usize) -> f64 {
    const TURNS: usize = 4_000_000;
    let start = Instant::now();
    let lanes: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| multiply_adds(TURNS))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread")).next().unwrap_or(0)
    });
    (threads * TURNS * 12 * lanes * 2) as f64 / start.elapsed().as_secs_f64()
}

/// Twelve chains of vector multiply-adds; returns the lanes of a vector.
fn multiply_adds(turns: usize) -> usize {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature that the function is compiled for.
        unsafe { chains_512(turns) };
        return 16;
    }
    assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "AVX2 and FMA are needed");
    // SAFETY: as above.
    unsafe { chains_256(turns) };
    8
}

#[target_feature(enable = "avx512f")]
fn chains_512(turns: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(1.0); 12];
    for _ in 0..turns {
        sums.iter_mut().for_each(|s| *s = _mm512_fmadd_ps(*s, a, b));
    }
    black_box(sums);
}

#[target_feature(enable = "avx2,fma")]
fn chains_256(turns: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_set1_ps(1.0); 12];
    for _ in 0..turns {
        sums.iter_mut().for_each(|s| *s = _mm256_fmadd_ps(*s, a, b));
    }
    black_box(sums);
}
