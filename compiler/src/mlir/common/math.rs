//! Elementary functions of single precision from arithmetic alone: the library that results links against nothing.

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// Numbers of a vector of AVX-512.
const SIXTEEN: usize = 16;

/// `c[0]·x^n + c[1]·x^(n-1) + … + c[n]`.
pub(super) fn polynomial<'c>(e: &Emitter<'c>, x: Val<'c>, coefficients: &[f64]) -> Val<'c> {
    let mut terms = coefficients.iter().map(|c| e.like(x, *c));
    let first = terms.next().unwrap_or_else(|| e.like(x, 0.0));
    terms.fold(first, |sum, c| e.fma(sum, x, c))
}

impl<'c> Emitter<'c> {
    /// The same emitter, for a processor that multiplies vectors of 16 numbers by powers of two (AVX-512), or does not.
    pub fn scaling(mut self, scales: bool) -> Self {
        self.scales = scales;
        self
    }

    /// Whether vectors of so many numbers are multiplied by powers of two by an instruction, or by one for each 16.
    fn scales(&self, lanes: usize) -> bool {
        self.scales && lanes > 0 && lanes.is_multiple_of(16)
    }

    /// The square root, rounded correctly.
    pub fn sqrt(&self, x: Val<'c>) -> Val<'c> {
        self.intrinsic("llvm.intr.sqrt", x)
    }

    /// `1 / sqrt(x)`.
    pub fn rsqrt(&self, x: Val<'c>) -> Val<'c> {
        self.div(self.like(x, 1.0), self.sqrt(x))
    }

    /// The largest integer that is not above `x`.
    pub fn floor(&self, x: Val<'c>) -> Val<'c> {
        if x.elem().is_float() { self.intrinsic("llvm.intr.floor", x) } else { x }
    }

    /// The nearest whole number, halves to the even one.
    pub fn round(&self, x: Val<'c>) -> Val<'c> {
        self.intrinsic("llvm.intr.roundeven", x)
    }

    /// `x` without its sign; integers too.
    pub fn abs(&self, x: Val<'c>) -> Val<'c> {
        if x.elem().is_float() { self.intrinsic("llvm.intr.fabs", x) } else { self.max(x, self.neg(x)) }
    }

    /// The magnitude of `x` with the sign of `sign`.
    pub fn copysign(&self, x: Val<'c>, sign: Val<'c>) -> Val<'c> {
        let (x, sign) = self.unified(x, sign);
        self.op("llvm.intr.copysign", &[x, sign], &[], x.ty())
    }

    /// `2^n` for the integer `n` in `-126 ..= 127`.
    fn power_of_two(&self, n: Val<'c>) -> Val<'c> {
        self.bitcast(self.shift_left(self.add(n, self.int(n.ty(), 127)), 23), Elem::F32)
    }

    /// `2^x` as the hardware of a GPU makes it, to about 22 bits; zero where that is less than any normal number.
    pub fn power_of_two_of(&self, x: Val<'c>) -> Val<'c> {
        self.singly(x, "llvm.nvvm.ex2.approx.ftz.f")
    }

    /// What a GPU's instruction for single numbers makes of each.
    fn singly(&self, x: Val<'c>, name: &'static str) -> Val<'c> {
        let one = |x: Val<'c>| self.target_intrinsic(name, &[x], x.ty());
        if x.lanes() == 1 {
            return one(x);
        }
        (0..x.lanes()).fold(self.poison(x.ty()), |whole, lane| self.insert(whole, lane, one(self.extract(x, lane))))
    }

    /// `e^x`. Cody and Waite's reduction by ln 2 and the polynomial of degree 6 that comes nearest (Remez), within 3.1e-9; on a GPU the hardware's
    /// power of two, which is off by `|x| · 2^-23` of the value or two units of the last place.
    pub fn exp(&self, x: Val<'c>) -> Val<'c> {
        // Past this bound the result is infinite anyway. NaN passes, as the comparison is false.
        let high = self.like(x, 89.0);
        self.bounded_exp(if self.is_device() { x } else { self.select(self.cmp(Cmp::Gt, x, high), high, x) })
    }

    /// `e^x` of what is at most 89.
    fn bounded_exp(&self, x: Val<'c>) -> Val<'c> {
        if self.is_device() {
            return self.power_of_two_of(self.mul(x, self.like(x, std::f64::consts::LOG2_E)));
        }
        // Past this bound the result is zero anyway.
        let low = self.like(x, -104.0);
        let x = self.select(self.cmp(Cmp::Lt, x, low), low, x);
        // Adding 1.5·2^23 rounds to an integer that then stands in the low bits.
        let shifter = self.like(x, 12_582_912.0);
        let shifted = self.fma(x, self.like(x, std::f64::consts::LOG2_E), shifter);
        let n = self.sub(shifted, shifter);
        let r = self.fma(n, self.like(x, -0.693_359_375), x);
        let r = self.fma(n, self.like(x, 2.121_944_400_546_905_8e-4), r);
        let coefficients = [1.381_454e-3, 8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1, 1.0, 1.0];
        let p = polynomial(self, r, &coefficients);
        if self.scales(x.lanes()) {
            return self.scaled(p, n);
        }
        // In two steps, for `2^n` alone may be too large or too small.
        let bits = self.bitcast(shifted, Elem::I32);
        let n = self.sub(bits, self.int(bits.ty(), 0x4B40_0000));
        let half = self.shift_right(n, 1);
        let rest = self.sub(n, half);
        self.mul(self.mul(p, self.power_of_two(half)), self.power_of_two(rest))
    }

    /// `p · 2^n` for whole numbers `n`, rounded once, of vectors of 16.
    fn scaled(&self, p: Val<'c>, n: Val<'c>) -> Val<'c> {
        let as_ever = self.i32(4);
        self.by_sixteen(p.lanes(), |at, all| {
            let (p, n) = (self.slice(p, at, SIXTEEN), self.slice(n, at, SIXTEEN));
            self.target_intrinsic("llvm.x86.avx512.mask.scalef.ps.512", &[p, n, p, all, as_ever], p.ty())
        })
    }

    /// `a / b` for `b` in `1 ..= 2`, within two units of the last place. A division takes as long as ten multiplications: a GPU's reciprocal is right
    /// to its last bit there, and with AVX-512 a step of Newton's makes one of an estimate of 14 bits.
    fn over(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        if self.is_device() {
            return self.mul(a, self.reciprocal(b));
        }
        if !self.scales(b.lanes()) {
            return self.div(a, b);
        }
        let near = self.by_sixteen(b.lanes(), |at, all| {
            let b = self.slice(b, at, SIXTEEN);
            self.target_intrinsic("llvm.x86.avx512.rcp14.ps.512", &[b, b, all], b.ty())
        });
        self.mul(a, self.fma(near, self.fma(self.neg(b), near, self.like(b, 1.0)), near))
    }

    /// `1 / b` on a GPU, right to the last bit but one. Of a `b` below 2^-126 it is infinite, and a result below that is zero.
    pub fn reciprocal(&self, b: Val<'c>) -> Val<'c> {
        self.singly(b, "llvm.nvvm.rcp.approx.ftz.f")
    }

    /// `a / b` of single numbers on a GPU within two units of the last place, of any numbers; right to the last bit it takes three times as long.
    pub fn quotient(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        self.target_intrinsic("llvm.nvvm.div.full", &[a, b], a.ty())
    }

    /// Vectors of 16, of which each is made from a lane on with a mask of all, as one.
    fn by_sixteen(&self, lanes: usize, make: impl Fn(usize, Val<'c>) -> Val<'c>) -> Val<'c> {
        let all = self.int(Ty::scalar(Elem::I16), -1);
        self.joined(&(0..lanes).step_by(SIXTEEN).map(|at| make(at, all)).collect::<Vec<_>>())
    }

    /// The natural logarithm.
    pub fn log(&self, x: Val<'c>) -> Val<'c> {
        // Subnormal numbers are scaled into the normal range.
        let tiny = self.cmp(Cmp::Lt, x, self.like(x, f64::from(f32::MIN_POSITIVE)));
        let scaled = self.select(tiny, self.mul(x, self.like(x, 8_388_608.0)), x);
        let bits = self.bitcast(scaled, Elem::I32);
        let int = |value| self.int(bits.ty(), value);
        // The exponent such that the mantissa is in sqrt(1/2) .. sqrt(2).
        let above = self.sub(bits, int(0x3F35_04F3));
        let exponent = self.shift_right(above, 23);
        let m = self.bitcast(self.sub(bits, self.shift_left(exponent, 23)), Elem::F32);
        let exponent = self.sub(exponent, self.select(tiny, int(23), int(0)));
        let k = self.to_f32(exponent);
        let f = self.sub(m, self.like(x, 1.0));
        let square = self.mul(f, f);
        let coefficients = [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ];
        let y = self.mul(self.mul(polynomial(self, f, &coefficients), f), square);
        let y = self.fma(k, self.like(x, -2.121_944_4e-4), y);
        let y = self.fma(square, self.like(x, -0.5), y);
        let y = self.fma(k, self.like(x, 0.693_359_375), self.add(f, y));
        // -inf at zero, NaN below, infinity and NaN themselves.
        let zero = self.like(x, 0.0);
        let finite = self.cmp(Cmp::Lt, x, self.like(x, f64::INFINITY));
        let y = self.select(finite, y, x);
        let y = self.select(self.cmp(Cmp::Eq, x, zero), self.like(x, f64::NEG_INFINITY), y);
        self.select(self.cmp(Cmp::Lt, x, zero), self.like(x, f64::NAN), y)
    }

    /// `log(1 + x)` for `x` in `0 ..= 1`: the polynomial that comes nearest (Remez), within 1.5e-7 of it in single precision. A division and a
    /// logarithm take four times as long.
    fn log1p_unit(&self, x: Val<'c>) -> Val<'c> {
        let coefficients = [
            -3.244_011_9e-3,
            1.985_140_1e-2,
            -5.695_941_4e-2,
            1.060_364_2e-1,
            -1.530_558_5e-1,
            1.967_593_6e-1,
            -2.495_413_4e-1,
            3.332_996_2e-1,
            -4.999_990_2e-1,
            1.0,
        ];
        self.mul(polynomial(self, x, &coefficients), x)
    }

    /// The hyperbolic tangent.
    pub fn tanh(&self, x: Val<'c>) -> Val<'c> {
        let one = self.like(x, 1.0);
        let size = self.abs(x);
        let grown = self.exp(self.add(size, size));
        let large = self.sub(one, self.div(self.like(x, 2.0), self.add(grown, one)));
        let z = self.mul(x, x);
        let coefficients = [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1];
        let small = self.fma(self.mul(polynomial(self, z, &coefficients), z), x, x);
        self.select(self.cmp(Cmp::Lt, size, self.like(x, 0.625)), small, self.copysign(large, x))
    }

    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(&self, x: Val<'c>) -> Val<'c> {
        let shrunk = self.bounded_exp(self.neg(self.abs(x)));
        let one = self.like(x, 1.0);
        let upper = self.select(self.cmp(Cmp::Lt, x, self.like(x, 0.0)), shrunk, one);
        self.over(upper, self.add(one, shrunk))
    }

    /// `log(1 + e^x)`.
    pub fn softplus(&self, x: Val<'c>) -> Val<'c> {
        let shrunk = self.bounded_exp(self.neg(self.abs(x)));
        self.add(self.max(x, self.like(x, 0.0)), self.log1p_unit(shrunk))
    }

    /// The error function: an odd polynomial near zero, `1 - e^p(|x|)` beyond.
    pub fn erf(&self, x: Val<'c>) -> Val<'c> {
        let t = self.abs(x);
        let s = self.mul(x, x);
        let c = |value| self.like(x, value);
        let r = self.fma(c(-1.728_534_7e-5), t, c(3.831_971_3e-4));
        let u = self.fma(c(-3.883_964_4e-3), t, c(2.425_462_2e-2));
        let r = self.fma(r, s, u);
        let r = self.fma(r, t, c(-1.067_778_8e-1));
        let r = self.fma(r, t, c(-6.348_468_7e-1));
        let r = self.fma(r, t, c(-1.287_175_1e-1));
        let r = self.fma(r, t, self.neg(t));
        let far = self.copysign(self.sub(c(1.0), self.exp(r)), x);
        let coefficients = [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1];
        let near = self.fma(polynomial(self, s, &coefficients), x, x);
        self.select(self.cmp(Cmp::Gt, t, c(0.927_734_375)), far, near)
    }
}
