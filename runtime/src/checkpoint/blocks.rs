//! Numbers of blocks that share scales, as the GGUF format lays them out. `d` and `m` are half precision; sums are made in f32.

use super::kind::Block;
use half::f16;

/// Most elements of a block.
pub(crate) const LARGEST: usize = 256;

/// The numbers of one block: `bytes` and `out` are as long as [`Block::size`] says.
pub(crate) fn decode(block: Block, bytes: &[u8], out: &mut [f32]) {
    match block {
        // d, sixteen bytes with two numbers each: element i in the low half of byte i, element i + 16 in the high one.
        Block::Q4_0 => halves(&bytes[2..], 16, out, |q, _| half(bytes, 0) * (q as f32 - 8.0)),
        Block::Q4_1 => halves(&bytes[4..], 16, out, |q, _| half(bytes, 0) * q as f32 + half(bytes, 2)),
        // The same with the fifth bits of all elements in a word before the halves.
        Block::Q5_0 => halves(&bytes[6..], 16, out, |q, at| half(bytes, 0) * (fifth(&bytes[2..], q, at) as f32 - 16.0)),
        Block::Q5_1 => halves(&bytes[8..], 16, out, |q, at| half(bytes, 0) * fifth(&bytes[4..], q, at) as f32 + half(bytes, 2)),
        Block::Q8_0 => {
            let d = half(bytes, 0);
            bytes[2..].iter().zip(out).for_each(|(q, out)| *out = d * f32::from(*q as i8));
        }
        Block::Q4_K => scaled_groups(bytes, &bytes[16..], |q, _| q, out),
        Block::Q5_K => {
            let high = |q, at: usize| q | (bytes[16 + at % 32] >> (at / 32) & 1) << 4;
            scaled_groups(bytes, &bytes[48..], high, out);
        }
        Block::Q6_K => sixes(bytes, out),
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Runs of `2 run` elements in `run` bytes: the first half in the low four bits, the second in the high ones.
#[inline(always)]
fn halves(bytes: &[u8], run: usize, out: &mut [f32], value: impl Fn(u8, usize) -> f32) {
    for (part, (bytes, out)) in bytes.chunks_exact(run).zip(out.chunks_exact_mut(2 * run)).enumerate() {
        for (at, byte) in bytes.iter().enumerate() {
            out[at] = value(byte & 15, 2 * run * part + at);
            out[at + run] = value(byte >> 4, 2 * run * part + at + run);
        }
    }
}

/// A number with its fifth bit, which is bit `at` of the word.
fn fifth(word: &[u8], q: u8, at: usize) -> u8 {
    q | (word[at / 8] >> (at % 8) & 1) << 4
}

/// `d`, `m`, eight pairs of six-bit scales: group `g` of 32 elements is `d scale_g q - m least_g`.
#[inline(always)]
fn scaled_groups(bytes: &[u8], low: &[u8], q: impl Fn(u8, usize) -> u8, out: &mut [f32]) {
    let (d, m) = (half(bytes, 0), half(bytes, 2));
    let mut groups = [(0.0, 0.0); 8];
    for (group, scaled) in groups.iter_mut().enumerate() {
        let (scale, least) = six_bits(&bytes[4..16], group);
        *scaled = (d * f32::from(scale), m * f32::from(least));
    }
    halves(low, 32, out, |four, at| {
        let (scale, least) = groups[at / 32];
        scale * f32::from(q(four, at)) - least
    });
}

/// Scale and least value of a group. The first four of each fill six bits of a byte; the others have their low four bits in the last
/// four bytes and the high two in what the first left free.
fn six_bits(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
}

/// 128 bytes of low halves, 64 of high pairs of bits, sixteen signed scales, d. Each half of the block has four groups of 32 elements.
fn sixes(bytes: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&bytes[..128], &bytes[128..192], &bytes[192..208], half(bytes, 208));
    for (at, out) in out.iter_mut().enumerate() {
        let (part, group, element) = (at / 128, at / 32 % 4, at % 32);
        let four = low[64 * part + 32 * (group % 2) + element] >> (4 * (group / 2)) & 15;
        let two = high[32 * part + element] >> (2 * group) & 3;
        let scale = f32::from(scales[at / 16] as i8);
        *out = d * scale * (f32::from(four | two << 4) - 32.0);
    }
}
