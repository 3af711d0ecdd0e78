//! Sine and cosine of every single-precision number.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::math::polynomial;
use super::ty::Elem;

/// `π/2` less its nearest double.
const FRAC_PI_2_LOW: f64 = 6.123_233_995_736_766e-17;
/// 1.5·2^52: adding it rounds to an integer that then stands in the low bits.
const SHIFTER: f64 = 6_755_399_441_055_744.0;
/// Up to here two doubles of π/2 are enough.
const MEDIUM: f64 = 1.0e7;
/// The first bits of `2/π` after the point.
const TWO_OVER_PI: [u32; 12] = [
    0xA2F9_836E,
    0x4E44_1529,
    0xFC27_57D1,
    0xF534_DDC0,
    0xDB62_9599,
    0x3C43_9041,
    0xFE51_63AB,
    0xDEBB_C561,
    0xB724_6E3A,
    0x424D_D2E0,
    0x0649_2EEA,
    0x09D1_921C,
];
const TABLE: &str = "two_over_pi";
/// Least biased exponent of the table.
const FIRST_EXPONENT: i64 = 149;
/// Parts of 28 bits for each exponent.
const PARTS: usize = 3;

/// `count` bits of `2/π` from bit `first` after the point (from 0) as an integer; bits before the point are zero.
fn bits_of_two_over_pi(first: i64, count: i64) -> u64 {
    (first..first + count).fold(0, |value, i| {
        let bit = match usize::try_from(i) {
            Ok(i) if i / 32 < TWO_OVER_PI.len() => u64::from(TWO_OVER_PI[i / 32] >> (31 - i % 32) & 1),
            _ => 0,
        };
        value * 2 + bit
    })
}

/// For each biased exponent `E` from [`FIRST_EXPONENT`]: `2^(E-150) · 2/π` modulo 4 in parts of 28 bits, so that their
/// products with a mantissa are exact.
fn table() -> Vec<f64> {
    let mut parts = Vec::new();
    for exponent in FIRST_EXPONENT..=254 {
        let shift = exponent - 150;
        for part in 0..PARTS as i64 {
            // Bit `i` after the point weighs 2^(shift - 1 - i); those of weight 4 and more fall away.
            let first = shift - 2 + 28 * part;
            parts.push(bits_of_two_over_pi(first, 28) as f64 * 2f64.powi(1 - 27 - 28 * part as i32));
        }
    }
    parts
}

impl<'c> Emitter<'c> {
    /// The sine.
    pub fn sin(&self, x: Val<'c>) -> Val<'c> {
        self.wave(x, 0)
    }

    /// The cosine.
    pub fn cos(&self, x: Val<'c>) -> Val<'c> {
        self.wave(x, 1)
    }

    /// `sin(x + quarter · π/2)`.
    fn wave(&self, x: Val<'c>, quarter: i64) -> Val<'c> {
        let large = self.cmp(Cmp::Gt, self.abs(x), self.like(x, MEDIUM));
        let medium = self.reduce_medium(x);
        let reduced = self.if_else(
            self.any(large),
            || {
                let far = self.reduce_large(x);
                vec![self.select(large, far.0, medium.0), self.select(large, far.1, medium.1)]
            },
            || vec![medium.0, medium.1],
        );
        let [r, quadrant] = reduced[..] else { return x };
        let quadrant = self.add(quadrant, self.int(quadrant.ty(), quarter));
        let z = self.mul(r, r);
        let sine = polynomial(self, z, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let sine = self.fma(self.mul(sine, z), r, r);
        let cosine = polynomial(self, z, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]);
        let cosine = self.fma(self.mul(cosine, z), z, self.fma(z, self.like(z, -0.5), self.like(z, 1.0)));
        let bit = |mask| {
            let set = self.and(quadrant, self.int(quadrant.ty(), mask));
            self.cmp(Cmp::Ne, set, self.int(quadrant.ty(), 0))
        };
        let value = self.select(bit(1), cosine, sine);
        self.select(bit(2), self.neg(value), value)
    }

    /// The nearest integer, and as `i32` modulo 2^32.
    fn rounded(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let shifter = self.like(x, SHIFTER);
        let shifted = self.add(x, shifter);
        (self.sub(shifted, shifter), self.to_i32(self.bitcast(shifted, Elem::I64)))
    }

    /// `x` less the nearest multiple of π/2, and which multiple.
    fn reduce_medium(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let wide = self.convert(x, Elem::F64);
        let (n, quadrant) = self.rounded(self.mul(wide, self.like(wide, FRAC_2_PI)));
        let r = self.fma(n, self.like(wide, -FRAC_PI_2), wide);
        let r = self.fma(n, self.like(wide, -FRAC_PI_2_LOW), r);
        (self.to_f32(r), quadrant)
    }

    /// The same by Payne and Hanek's method, for numbers above one half of 2^23; NaN for infinity.
    fn reduce_large(&self, x: Val<'c>) -> (Val<'c>, Val<'c>) {
        let bits = self.bitcast(x, Elem::I32);
        let int = |value| self.int(bits.ty(), value);
        let exponent = self.and(self.shift_right(bits, 23), int(0xFF));
        let index = self.max(self.min(exponent, int(254)), int(FIRST_EXPONENT));
        let index = self.to_i64(self.sub(index, int(FIRST_EXPONENT)));
        let mantissa = self.or(self.and(bits, int(0x7F_FFFF)), int(0x80_0000));
        let mantissa = self.convert(mantissa, Elem::F64);
        let table = self.two_over_pi();
        let whole = self.splat(self.bool(true), x.lanes());
        let part = |i: usize| {
            let bytes = self.mul(index, self.int(index.ty(), 8 * PARTS as i64));
            let value = self.gather(self.offset_by(table, 8 * i), bytes, whole, mantissa.ty());
            self.mul(value, mantissa)
        };
        let first = part(0);
        let (n, mut quadrant) = self.rounded(first);
        let rest = self.add(self.sub(first, n), part(1));
        let (n, more) = self.rounded(rest);
        quadrant = self.add(quadrant, more);
        let rest = self.add(self.sub(rest, n), part(2));
        let r = self.to_f32(self.mul(rest, self.like(rest, FRAC_PI_2)));
        let negative = self.cmp(Cmp::Lt, bits, int(0));
        let r = self.select(negative, self.neg(r), r);
        let quadrant = self.select(negative, self.neg(quadrant), quadrant);
        let finite = self.cmp(Cmp::Lt, self.abs(x), self.like(x, f64::INFINITY));
        (self.select(finite, r, self.like(x, f64::NAN)), quadrant)
    }

    fn two_over_pi(&self) -> Val<'c> {
        if self.first_time(TABLE) {
            self.table_f64(TABLE, &table());
        }
        self.address_of(TABLE)
    }
}
