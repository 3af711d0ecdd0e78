//! Numbers to integers with scales, a group at a time.
//!
//! The first candidate of each kind is what GGUF's Q8_0, Q4_0 and Q4_1 do; the others are taken only where their squared error is
//! less. What was stored by such a rule has no error under it, and so is found again exactly; Q4_K's grids too, but for the rounding
//! of their scales to f16.

use crate::artifact::{Dtype, GROUP, PART, Part};
use crate::checkpoint::fp8;
use half::{bf16, f16};

/// The numbers of one column and one group.
type Numbers = [f32; GROUP];

/// Integers, and what makes numbers of them: `scale · q + offset`.
#[derive(Clone, Copy)]
struct Fit {
    scale: f16,
    offset: f32,
    q: Numbers,
    error: f32,
}

/// Writes the numbers of one column of a panel's group. `out`: the whole group, of `width` columns.
pub(super) fn encode(dtype: Dtype, numbers: &Numbers, out: &mut [u8], column: usize, width: usize) {
    let fit = match dtype {
        Dtype::Int8 | Dtype::Int8Quads => return encode_int8(dtype, numbers, out, column, width),
        Dtype::Fp8 => return encode_fp8(numbers, out, column, width),
        Dtype::Int4 | Dtype::Int4Quads => int4(numbers),
        Dtype::Int4z | Dtype::Int4zQuads => int4z(numbers),
        // Pairs of a part of a group, if it is the last.
        _ => return encode_pairs(numbers, out, column, width),
    };
    bits_at(out, column, fit.scale.to_bits());
    let mut integers = width;
    if dtype.plain() == Dtype::Int4z {
        bits_at(out, width + column, f16::from_f32(fit.offset).to_bits());
        integers += width;
    }
    if dtype.has_quads() {
        for (row, q) in fit.q.as_chunks::<8>().0.iter().enumerate() {
            let word = &mut out[2 * integers + 4 * (row * width + column)..][..4];
            word.iter_mut().enumerate().for_each(|(j, byte)| *byte = q[j] as u8 | (q[4 + j] as u8) << 4);
        }
        return;
    }
    for row in 0..4 {
        for j in 0..2 {
            let nibbles = (0..4).map(|p| (fit.q[8 * row + 2 * p + j] as u16) << (4 * p));
            let word = nibbles.fold(0, |word, nibble| word | nibble);
            bits_at(out, integers + 2 * (row * width + column) + j, word);
        }
    }
}

/// Writes a group of a column in parts; `out` is the whole column, `group` the group's number.
pub(super) fn encode_part(dtype: Dtype, part: Part, numbers: &Numbers, out: &mut [u8], group: usize) {
    let (first, within) = (group / part.groups * PART, group % part.groups);
    let last = out.len().min(first + PART);
    let own = &mut out[first..last];
    let (scale, offset, q) = match dtype {
        Dtype::Int8 => {
            let (scale, q) = int8(numbers);
            (scale, 0.0, q.map(|q| q.to_le_bytes()[0]))
        }
        Dtype::Fp8 => {
            let (scale, q) = fp8(numbers);
            (scale, 0.0, q)
        }
        dtype => {
            let fit = if dtype == Dtype::Int4 { int4(numbers) } else { int4z(numbers) };
            (fit.scale, fit.offset, fit.q.map(|q| q as u8))
        }
    };
    bits_at(own, within, scale.to_bits());
    if part.offsets {
        bits_at(own, part.groups + within, f16::from_f32(offset).to_bits());
    }
    let integers = &mut own[part.head + within * part.group_bytes..][..part.group_bytes];
    for (at, byte) in integers.iter_mut().enumerate() {
        let low = at / 4 * 8 + at % 4;
        *byte = if part.group_bytes == GROUP { q[at] } else { q[low] | q[low + 4] << 4 };
    }
}

fn bits_at(out: &mut [u8], index: usize, bits: u16) {
    out[2 * index..2 * index + 2].copy_from_slice(&bits.to_le_bytes());
}

fn encode_int8(dtype: Dtype, numbers: &Numbers, out: &mut [u8], column: usize, width: usize) {
    let (scale, q) = int8(numbers);
    bits_at(out, column, scale.to_bits());
    // How many neighbours lie side by side, and what is added to each.
    let (beside, more) = if dtype.has_quads() { (4, 128) } else { (2, 0) };
    let integers = &mut out[2 * width..];
    for (at, q) in q.iter().enumerate() {
        integers[beside * (at / beside * width + column) + at % beside] = q.cast_unsigned().wrapping_add(more);
    }
}

fn encode_fp8(numbers: &Numbers, out: &mut [u8], column: usize, width: usize) {
    let (scale, q) = fp8(numbers);
    bits_at(out, column, scale.to_bits());
    out[2 * width..].chunks_exact_mut(width).zip(q).for_each(|(row, q)| row[column] = q);
}

fn encode_pairs(numbers: &Numbers, out: &mut [u8], column: usize, width: usize) {
    for (row, pairs) in out.chunks_exact_mut(4 * width).enumerate() {
        for j in 0..2 {
            bits_at(pairs, 2 * column + j, bf16::from_f32(numbers[2 * row + j]).to_bits());
        }
    }
}

/// What a scale is divided by; a scale of zero makes zeros.
fn inverse(scale: f16) -> f32 {
    if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() }
}

/// The number of the largest size; NaN if there is one.
fn extreme(numbers: &Numbers) -> f32 {
    numbers.iter().fold(0f32, |most, x| if x.abs() <= most.abs() || most.is_nan() { most } else { *x })
}

/// The nearest integer of a number below 2^22, ties to even. Processors of the oldest kind have no instruction for it, and calling
/// a function for each number would be most of the work.
fn nearest(x: f32) -> f32 {
    const SHIFTER: f32 = 12_582_912.0;
    (x + SHIFTER) - SHIFTER
}

fn int8(numbers: &Numbers) -> (f16, [i8; GROUP]) {
    let scale = f16::from_f32(extreme(numbers).abs() / 127.0);
    let inverse = inverse(scale);
    (scale, numbers.map(|x| nearest((x * inverse).clamp(-127.0, 127.0)) as i8))
}

/// The scale, 256 times as large, and e4m3 numbers. The number of the largest size is one of those between 240 and 448 that there are: what was stored so,
/// under whatever scale, is found again but for the rounding of the scale.
fn fp8(numbers: &Numbers) -> (f16, [u8; GROUP]) {
    let most = extreme(numbers).abs();
    let at = |largest: f32| {
        let scale = f16::from_f32(256.0 * most / largest);
        let (step, inverse) = (scale.to_f32() / 256.0, 256.0 * inverse(scale));
        let q = numbers.map(|x| fp8::nearest(x * inverse));
        let error: f32 = numbers.iter().zip(q).map(|(x, q)| (x - step * fp8::number(q)).powi(2)).sum();
        (error, scale, q)
    };
    let mut best = at(448.0);
    for largest in [416.0, 384.0, 352.0, 320.0, 288.0, 256.0, 240.0] {
        if best.0 <= most * most * 2e-6 || !most.is_finite() {
            break;
        }
        let other = at(largest);
        best = if other.0 < best.0 { other } else { best };
    }
    (best.1, best.2)
}

impl Fit {
    fn new(numbers: &Numbers, scale: f16, offset: f32) -> Fit {
        let (inverse, step) = (inverse(scale), scale.to_f32());
        let q = numbers.map(|x| nearest(((x - offset) * inverse).clamp(0.0, 15.0)));
        // Eight sums, so that they are not one long chain.
        let mut sums = [0.0; 8];
        for (x, q) in numbers.chunks_exact(8).zip(q.chunks_exact(8)) {
            for (sum, (x, q)) in sums.iter_mut().zip(x.iter().zip(q)) {
                *sum += (x - (step * q + offset)).powi(2);
            }
        }
        let error = sums.iter().sum();
        Fit { scale, offset, q, error }
    }

    /// Both in f16.
    fn rounded(numbers: &Numbers, scale: f32, offset: f32) -> Fit {
        Fit::new(numbers, f16::from_f32(scale), f16::from_f32(offset).to_f32())
    }

    /// The better one; `self` if they are equal, or if no error is a number.
    fn or(self, other: Fit) -> Fit {
        if other.error < self.error { other } else { self }
    }
}

/// `scale · (q - 8)`: the number of the largest size is `-8 · scale`, so that scales may be negative.
fn int4(numbers: &Numbers) -> Fit {
    let extreme = extreme(numbers);
    let at = |divisor: f32| {
        let scale = f16::from_f32(extreme / divisor);
        Fit::new(numbers, scale, -8.0 * scale.to_f32())
    };
    let mut best = at(-8.0);
    for divisor in [-7.75, -7.5, -7.25, -7.0, -8.25, -8.5, -8.75, -9.0, 7.0, 7.25, 7.5] {
        if best.error == 0.0 {
            break;
        }
        best = best.or(at(divisor));
    }
    best
}

/// `scale · q + offset`. A range of more than 15 steps is clipped at both ends; one of less is what a grid has that did not use its
/// ends.
fn int4z(numbers: &Numbers) -> Fit {
    let low = numbers.iter().fold(f32::INFINITY, |a, b| a.min(*b));
    let high = numbers.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    if numbers.iter().any(|x| !x.is_finite()) {
        return Fit { scale: f16::NAN, offset: f32::NAN, q: [0.0; GROUP], error: 0.0 };
    }
    let mut best = Fit::rounded(numbers, (high - low) / 15.0, low);
    for steps in [15.5, 16.0, 16.5, 17.0, 17.5, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0] {
        // An exact grid misses by no more than the rounding of its scale.
        if best.error <= (high - low).powi(2) * 1e-6 {
            break;
        }
        let step = (high - low) / steps;
        let clipped = (steps - 15.0_f32).max(0.0) / 2.0 * step;
        best = best.or(Fit::rounded(numbers, step, low + clipped));
    }
    best.or(refined(numbers, &best))
}

/// The scale and offset of the least squared error for these integers.
fn refined(numbers: &Numbers, fit: &Fit) -> Fit {
    let count = GROUP as f32;
    let q = &fit.q;
    let (sum_q, sum_x): (f32, f32) = (q.iter().sum(), numbers.iter().sum());
    let square: f32 = q.iter().map(|q| q * q).sum();
    let product: f32 = q.iter().zip(numbers).map(|(q, x)| q * x).sum();
    let determinant = count * square - sum_q * sum_q;
    if determinant <= 0.0 {
        return *fit;
    }
    let scale = (count * product - sum_q * sum_x) / determinant;
    Fit::rounded(numbers, scale, (sum_x - scale * sum_q) / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{STEP, mix};

    fn noise(seed: u64) -> Numbers {
        std::array::from_fn(|at| (mix(seed.wrapping_add((at as u64).wrapping_mul(STEP))) >> 40) as f32 / (1 << 23) as f32 - 1.0)
    }

    fn norm(numbers: &[f32]) -> f32 {
        numbers.iter().map(|x| x * x).sum::<f32>().sqrt()
    }

    /// Numbers as the rules of GGUF's quantiser store them.
    fn stored(kind: Dtype, x: &Numbers) -> Numbers {
        let extreme = x.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        let (low, high) = (x.iter().copied().fold(f32::MAX, f32::min), x.iter().copied().fold(f32::MIN, f32::max));
        let (scale, offset, top) = match kind {
            Dtype::Int8 => (extreme.abs() / 127.0, 0.0, 127.0),
            Dtype::Int4 => (extreme / -8.0, 0.0, 7.0),
            _ => ((high - low) / 15.0, low, 15.0),
        };
        let q = x.map(|x| ((x - offset) / scale).round().min(top));
        let (scale, offset) = (f16::from_f32(scale).to_f32(), f16::from_f32(offset).to_f32());
        q.map(|q| scale * q + offset)
    }

    #[test]
    fn what_gguf_stored_is_found_again() {
        for seed in 0..2000 {
            let size = 10f32.powi((seed % 7) as i32 - 4);
            let x = noise(mix(seed)).map(|x| x * size);
            let wanted = stored(Dtype::Int8, &x);
            let (scale, q) = int8(&wanted);
            assert_eq!(q.map(|q| scale.to_f32() * f32::from(q)), wanted);
            let wanted = stored(Dtype::Int4, &x);
            let fit = int4(&wanted);
            assert_eq!(fit.q.map(|q| fit.scale.to_f32() * (q - 8.0)), wanted);
            let wanted = stored(Dtype::Int4z, &x);
            let fit = int4z(&wanted);
            assert_eq!(fit.q.map(|q| fit.scale.to_f32() * q + fit.offset), wanted);
        }
    }

    /// Numbers of eight bits under a scale of a tensor or a block, as checkpoints have them.
    #[test]
    fn numbers_of_eight_bits_are_found_again() {
        for seed in 0..500u64 {
            let scale = 0.000_123_4 * (1.0 + seed as f32 / 77.0);
            let bytes: [u8; GROUP] = std::array::from_fn(|at| (mix(seed * 32 + at as u64) >> 30) as u8);
            let bytes = bytes.map(|byte| if byte & 0x7f > 0x7e - (seed % 40) as u8 { byte & 0x80 } else { byte });
            let (found, q) = fp8(&bytes.map(|byte| fp8::number(byte) * scale));
            for (q, byte) in q.iter().zip(bytes) {
                let (x, wanted) = (found.to_f32() / 256.0 * fp8::number(*q), scale * fp8::number(byte));
                assert!((x - wanted).abs() <= 6e-4 * wanted.abs(), "{seed}: {x} for {wanted}");
            }
        }
    }

    /// Grids with scales of more digits than f16 has, which do not use all 16 values.
    #[test]
    fn other_grids_are_found_but_for_rounding() {
        for seed in 0..500 {
            let (step, low, top) = (0.012_345 + seed as f32 * 1e-5, -0.087_654, 7.0 + (seed % 9) as f32);
            let mut x = noise(mix(seed)).map(|x| ((x + 1.0) / 2.0 * top).round() * step + low);
            (x[0], x[1]) = (low, top * step + low);
            let fit = int4z(&x);
            let off: Vec<f32> = x.iter().zip(fit.q).map(|(x, q)| x - fit.scale.to_f32() * q - fit.offset).collect();
            assert!(norm(&off) < 2e-3 * norm(&x), "{seed}: {}", norm(&off) / norm(&x));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = noise(1);
            x[5] = bad;
            let (scale, fit, other) = (int8(&x).0, int4(&x), int4z(&x));
            assert!([scale, fp8(&x).0, fit.scale, other.scale].iter().all(|scale| !scale.is_finite()));
        }
    }

    #[test]
    fn zeros_are_zeros() {
        let x = [0.0; GROUP];
        assert_eq!([int8(&x).0, fp8(&x).0, int4(&x).scale, int4z(&x).scale], [f16::ZERO; 4]);
        assert_eq!(int4z(&x).offset, 0.0);
    }
}
