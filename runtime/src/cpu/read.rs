//! How fast some threads read memory.

use crate::buffer::Buffer;
use crate::error::Result;
use std::hint::black_box;
use std::time::Instant;

/// More than caches hold.
const BYTES: usize = 1 << 30;
/// The best of so many counts.
const ROUNDS: usize = 5;

/// Bytes a second that `threads` threads read together.
pub(super) fn bandwidth(threads: usize) -> Result<f64> {
    let mut buffer = Buffer::<u8>::new(BYTES, "memory to read")?;
    buffer.slice_mut().fill(1);
    let parts: Vec<&[u8]> = buffer.slice().chunks(BYTES.div_ceil(threads.max(1))).collect();
    let round = || {
        let start = Instant::now();
        std::thread::scope(|scope| parts.iter().for_each(|part| drop(scope.spawn(|| black_box(sum(part))))));
        BYTES as f64 / start.elapsed().as_secs_f64().max(1e-9)
    };
    Ok((0..ROUNDS).map(|_| round()).fold(0.0, f64::max))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}
