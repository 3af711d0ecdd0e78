//! The ceilings of products whose operands meet as pairs of bfloat16 numbers, and as quads of bytes, measured.

use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_set1_ps};
use std::hint::black_box;
use std::time::Instant;

/// Turns of a thread's chains.
const TURNS: usize = 4_000_000;
/// Chains that do not wait for each other.
const CHAINS: usize = 12;

/// Operations a second of independent products of pairs in registers, all threads; none if the processor has no instruction for them.
pub fn flops(threads: usize) -> Option<f64> {
    // SAFETY: the processor has the feature that the function is compiled for.
    is_x86_feature_detected!("avx512bf16").then(|| rate(threads, 32, || unsafe { chains_bf16() }))
}

/// The same of quads of bytes.
pub fn of_bytes(threads: usize) -> Option<f64> {
    // SAFETY: as above.
    is_x86_feature_detected!("avx512vnni").then(|| rate(threads, 64, || unsafe { chains_bytes() }))
}

/// Operations a second of threads that each do their chains, of which an instruction does so many products.
fn rate(threads: usize, products: usize, chains: impl Fn() + Copy + Send) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(chains);
        }
    });
    (threads * TURNS * CHAINS * products * 2) as f64 / start.elapsed().as_secs_f64()
}

#[target_feature(enable = "avx512f")]
fn words(bits: i32) -> __m512i {
    _mm512_set1_epi32(black_box(bits))
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn chains_bf16() {
    // SAFETY: both are 512 bits that mean something whatever they are.
    let [a, b]: [__m512bh; 2] = unsafe { std::mem::transmute([words(0x3f7f_3f7f), words(0x3a80_3a80)]) };
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..TURNS {
        sums.iter_mut().for_each(|s| *s = _mm512_dpbf16_ps(*s, a, b));
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn chains_bytes() {
    let (a, b) = (words(0x0102_0304), words(0x01ff_01ff));
    let mut sums = [words(0); CHAINS];
    for _ in 0..TURNS {
        sums.iter_mut().for_each(|s| *s = _mm512_dpbusd_epi32(*s, a, b));
    }
    black_box(sums);
}
