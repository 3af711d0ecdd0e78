//! The ceiling of products of bfloat16 numbers, measured.

use std::hint::black_box;
use std::time::Instant;

/// Operations a second of independent products of pairs in registers, all threads; none if the processor has no instruction for them.
pub fn flops(threads: usize) -> Option<f64> {
    const TURNS: usize = 4_000_000;
    if !is_x86_feature_detected!("avx512bf16") {
        return None;
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            // SAFETY: the processor has the feature that the function is compiled for.
            scope.spawn(|| unsafe { chains_bf16(TURNS) });
        }
    });
    Some((threads * TURNS * 12 * 32 * 2) as f64 / start.elapsed().as_secs_f64())
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn chains_bf16(turns: usize) {
    use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_set1_ps};
    // SAFETY: both are 512 bits that mean something whatever they are.
    let pairs = |bits: i32| unsafe { std::mem::transmute::<_, __m512bh>(_mm512_set1_epi32(black_box(bits))) };
    let (a, b) = (pairs(0x3f7f_3f7f), pairs(0x3a80_3a80));
    let mut sums = [_mm512_set1_ps(1.0); 12];
    for _ in 0..turns {
        sums.iter_mut().for_each(|s| *s = _mm512_dpbf16_ps(*s, a, b));
    }
    black_box(sums);
}
