//! Powers, computed in double precision so that one rounding is left.

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::math::polynomial;
use super::ty::Elem;

impl<'c> Emitter<'c> {
    /// `x^y` as C's `powf` has it. Integers go through real numbers by the caller.
    pub fn pow(&self, x: Val<'c>, y: Val<'c>) -> Val<'c> {
        let (x, y) = self.unified(x, y);
        let (zero, one, inf) = (self.like(x, 0.0), self.like(x, 1.0), self.like(x, f64::INFINITY));
        let size = self.abs(x);
        let regular = self.power_of_positive(size, y);
        // Zero and infinity have no mantissa: which of both results depends on the sign of the exponent alone.
        let is_zero = self.cmp(Cmp::Eq, size, zero);
        let rises = self.xor(is_zero, self.cmp(Cmp::Gt, y, zero));
        let extreme = self.or(is_zero, self.cmp(Cmp::Eq, size, inf));
        let result = self.select(extreme, self.select(rises, inf, zero), regular);
        // Below zero only whole exponents have a result; odd ones keep the sign.
        let whole = self.cmp(Cmp::Eq, self.floor(y), y);
        let half = self.mul(y, self.like(y, 0.5));
        let odd = self.and(whole, self.cmp(Cmp::Ne, self.floor(half), half));
        let result = self.select(odd, self.copysign(result, x), result);
        let lost = self.and(self.cmp(Cmp::Lt, x, zero), self.not(whole));
        let lost = self.and(lost, self.cmp(Cmp::Ne, size, inf));
        let result = self.select(lost, self.like(x, f64::NAN), result);
        // NaN in, NaN out, but for the two cases that hold for every number.
        let unordered = self.or(self.cmp(Cmp::Ne, x, x), self.cmp(Cmp::Ne, y, y));
        let result = self.select(unordered, self.add(x, y), result);
        let always = self.or(self.cmp(Cmp::Eq, y, zero), self.cmp(Cmp::Eq, x, one));
        let minus = self.and(self.cmp(Cmp::Eq, x, self.neg(one)), self.cmp(Cmp::Eq, self.abs(y), inf));
        self.select(self.or(always, minus), one, result)
    }

    /// `2^(y · log2 x)` for `x` positive and finite.
    fn power_of_positive(&self, x: Val<'c>, y: Val<'c>) -> Val<'c> {
        let (x, y) = (self.convert(x, Elem::F64), self.convert(y, Elem::F64));
        let product = self.mul(self.log2_double(x), y);
        let (low, high) = (self.like(x, -300.0), self.like(x, 300.0));
        let product = self.select(self.cmp(Cmp::Lt, product, low), low, product);
        let product = self.select(self.cmp(Cmp::Gt, product, high), high, product);
        self.to_f32(self.exp2_double(product))
    }

    fn log2_double(&self, x: Val<'c>) -> Val<'c> {
        let bits = self.bitcast(x, Elem::I64);
        // The bits of sqrt(1/2), so that the mantissa is in sqrt(1/2) .. sqrt(2).
        let exponent = self.shift_right(self.sub(bits, self.int(bits.ty(), 0x3FE6_A09E_667F_3BCD)), 52);
        let m = self.bitcast(self.sub(bits, self.shift_left(exponent, 52)), Elem::F64);
        let one = self.like(x, 1.0);
        let s = self.div(self.sub(m, one), self.add(m, one));
        let z = self.mul(s, s);
        let series: Vec<f64> = (0..8).rev().map(|k| 2.0 * std::f64::consts::LOG2_E / f64::from(2 * k + 1)).collect();
        let fraction = self.mul(polynomial(self, z, &series), s);
        self.add(self.to_double(exponent), fraction)
    }

    /// A small 64-bit integer as double precision, without the conversion that older vector units lack.
    fn to_double(&self, n: Val<'c>) -> Val<'c> {
        let biased = self.add(n, self.int(n.ty(), 0x4338_0000_0000_0000));
        let shifted = self.bitcast(biased, Elem::F64);
        self.sub(shifted, self.like(shifted, 6_755_399_441_055_744.0))
    }

    /// `2^x` for `|x| ≤ 1000`.
    fn exp2_double(&self, x: Val<'c>) -> Val<'c> {
        let shifter = self.like(x, 6_755_399_441_055_744.0);
        let shifted = self.add(x, shifter);
        let r = self.mul(self.sub(x, self.sub(shifted, shifter)), self.like(x, std::f64::consts::LN_2));
        let mut factorial = 1.0;
        let mut series = vec![1.0];
        for k in 1..=9 {
            factorial *= f64::from(k);
            series.insert(0, 1.0 / factorial);
        }
        let p = polynomial(self, r, &series);
        let bits = self.bitcast(shifted, Elem::I64);
        // The low bits of the shifted number are the exponent.
        let n = self.sub(bits, self.int(bits.ty(), 0x4338_0000_0000_0000));
        let scale = self.bitcast(self.shift_left(self.add(n, self.int(n.ty(), 1023)), 52), Elem::F64);
        self.mul(p, scale)
    }
}
