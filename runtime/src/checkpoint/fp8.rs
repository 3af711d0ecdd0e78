//! Numbers of eight bits with four of exponent and three of fraction, e4m3 without infinities (Micikevicius et al. 2022, arXiv:2209.05433), and the scales that
//! checkpoints have beside them.

use half::f16;

/// The largest number.
pub const LARGEST: f32 = 448.0;

/// What eight bits mean.
pub fn number(byte: u8) -> f32 {
    if byte & 0x7f == 0x7f {
        return f32::NAN;
    }
    // The bits are those of a half-precision number that is 256 times smaller.
    let bits = u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7;
    f16::from_bits(bits).to_f32() * 256.0
}

/// The nearest number, halves to the even one; the largest where it is too large, none where it is none.
pub fn nearest(x: f32) -> u8 {
    let (sign, size) = ((x.to_bits() >> 24 & 0x80) as u8, x.abs());
    let code = if size.is_nan() {
        0x7f
    } else if size >= LARGEST {
        0x7e
    } else if size < 1.0 / 64.0 {
        (size * 512.0).round_ties_even() as u8
    } else {
        let bits = size.to_bits();
        ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20).saturating_sub(120 << 3) as u8
    };
    sign | code
}

/// Scales of a tensor of e4m3 numbers: of all of it, of its rows, or of blocks.
pub struct Scales {
    numbers: Vec<f32>,
    /// Of each axis, slowest first: its size, elements of a block, blocks.
    axes: Vec<[usize; 3]>,
}

impl Scales {
    /// Those of a tensor of this shape: one number, or as many axes, of which each is cut into blocks of one size, a power of two unless
    /// they divide the axis.
    ///
    /// # Errors
    /// Scales that do not fit the shape.
    pub fn new(numbers: Vec<f32>, of: &[usize], shape: &[usize]) -> Result<Scales, String> {
        let one = vec![1; shape.len()];
        let of = if numbers.len() == 1 { &one[..] } else { of };
        let misfit = || format!("scales of shape {of:?} do not fit numbers of shape {shape:?}");
        if of.len() != shape.len() || of.iter().product::<usize>() != numbers.len() {
            return Err(misfit());
        }
        let axis = |(size, blocks): (&usize, &usize)| {
            let powers = (0..usize::BITS - 1).map(|n| 1 << n).take_while(|block| *block < 2 * size.max(&1));
            let whole = (*blocks > 0 && *size > 0 && size.is_multiple_of(*blocks)).then(|| size / blocks);
            let block = powers.chain(whole).find(|block| size.div_ceil(*block) == *blocks);
            Some([*size, block?, *blocks])
        };
        let axes = shape.iter().zip(of).map(axis).collect::<Option<_>>().ok_or_else(misfit)?;
        Ok(Scales { numbers, axes })
    }

    /// That of element `index` of the tensor.
    pub fn of(&self, index: usize) -> f32 {
        let (mut rest, mut at, mut step) = (index, 0, 1);
        for [size, block, blocks] in self.axes.iter().rev() {
            at += rest % size / block * step;
            (rest, step) = (rest / size, step * blocks);
        }
        self.numbers[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_its_own_nearest() {
        for byte in (0..=255u8).filter(|byte| byte & 0x7f != 0x7f) {
            assert_eq!(nearest(number(byte)), byte);
        }
        assert_eq!([0x7e, 0x38, 0x01, 0x08, 0xb8].map(number), [448.0, 1.0, 1.0 / 512.0, 1.0 / 64.0, -1.0]);
        assert!(number(nearest(f32::NAN)).is_nan());
        assert_eq!(
            [1e9, -1e9, 17.0, 19.0, 1.0 / 1024.0, 3.0 / 1024.0].map(|x| number(nearest(x))),
            [448.0, -448.0, 16.0, 20.0, 0.0, 1.0 / 256.0]
        );
    }

    #[test]
    fn scales_of_tensors_rows_and_blocks() {
        let all = |scales: &Scales, count: usize| (0..count).map(|at| scales.of(at)).collect::<Vec<_>>();
        assert_eq!(all(&Scales::new(vec![2.0], &[], &[2, 3]).expect("one"), 6), [2.0; 6]);
        let rows = Scales::new(vec![1.0, 2.0], &[2, 1], &[2, 3]).expect("rows");
        assert_eq!(all(&rows, 6), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let blocks = Scales::new((0..15).map(|n| n as f32).collect(), &[5, 3], &[576, 320]).expect("blocks of 128");
        assert_eq!(
            [0, 127, 128, 319, 127 * 320, 128 * 320, 575 * 320 + 319].map(|at| blocks.of(at)),
            [0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 14.0]
        );
        for (of, shape) in [(vec![2], vec![2, 3]), (vec![2, 2], vec![2, 0]), (vec![4, 3], vec![5, 3])] {
            assert!(Scales::new(vec![1.0; of.iter().product()], &of, &shape).is_err(), "{of:?} {shape:?}");
        }
    }
}
