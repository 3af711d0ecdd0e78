//! Arithmetic on scalars and vectors alike; a scalar meeting a vector is spread.

use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// Comparisons; on real numbers all but `Ne` are false where an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the comparisons")]
pub enum Cmp {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

/// Products and sums may fuse; nothing else is relaxed.
const CONTRACT: &str = "#arith.fastmath<contract>";

impl<'c> Emitter<'c> {
    /// Both operands in the wider of their two shapes.
    pub fn unified(&self, a: Val<'c>, b: Val<'c>) -> (Val<'c>, Val<'c>) {
        let lanes = a.lanes().max(b.lanes());
        if a.elem() != b.elem() {
            self.fault(format!("operands of types {} and {}", a.ty(), b.ty()));
            return (a, self.poison(a.ty()));
        }
        (self.splat(a, lanes), self.splat(b, lanes))
    }

    fn binary(&self, int: &'static str, float: &'static str, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        match a.elem().is_float() {
            true => self.op(float, &[a, b], &[("fastmath", self.attribute(CONTRACT))], a.ty()),
            false => self.op(int, &[a, b], &[], a.ty()),
        }
    }

    /// `a + b`.
    pub fn add(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.addi", "arith.addf", a, b)
    }

    /// `a - b`.
    pub fn sub(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.subi", "arith.subf", a, b)
    }

    /// `a · b`.
    pub fn mul(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.muli", "arith.mulf", a, b)
    }

    /// `a / b`; integers are truncated.
    pub fn div(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.divsi", "arith.divf", a, b)
    }

    /// `⌈a / b⌉` of integers that are not negative, and `b` positive.
    pub fn div_up(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.div(self.sub(self.add(a, b), self.like(b, 1.0)), b)
    }

    /// What is left of `a` after truncating division by `b`; the sign of `a`.
    pub fn rem(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        if !a.elem().is_float() {
            return self.binary("arith.remsi", "arith.remsi", a, b);
        }
        // `arith.remf` would call the C library.
        let whole = self.intrinsic("llvm.intr.trunc", self.div(a, b));
        self.sub(a, self.mul(whole, b))
    }

    /// The smaller one; `b` if either is NaN.
    pub fn min(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        self.select(self.cmp(Cmp::Lt, a, b), a, b)
    }

    /// The larger one; `b` if either is NaN.
    pub fn max(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        self.select(self.cmp(Cmp::Gt, a, b), a, b)
    }

    /// The larger of two real numbers; the other one if either is NaN. One instruction on a GPU.
    pub fn larger(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        self.op("llvm.intr.maxnum", &[a, b], &[], a.ty())
    }

    /// `-a`.
    pub fn neg(&self, a: Val<'c>) -> Val<'c> {
        match a.elem().is_float() {
            true => self.op("arith.negf", &[a], &[("fastmath", self.attribute(CONTRACT))], a.ty()),
            false => self.sub(self.int(a.ty(), 0), a),
        }
    }

    /// `a · b + c`, rounded once.
    pub fn fma(&self, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Val<'c> {
        if !a.elem().is_float() {
            return self.add(self.mul(a, b), c);
        }
        let (a, b) = self.unified(a, b);
        let (a, c) = self.unified(a, c);
        let b = self.splat(b, a.lanes());
        self.op("llvm.intr.fma", &[a, b, c], &[], a.ty())
    }

    /// A comparison of signed integers, real numbers or addresses.
    pub fn cmp(&self, how: Cmp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        let result = a.ty().with(Elem::I1);
        if a.elem().is_float() {
            let code = match how {
                Cmp::Eq => 1,
                Cmp::Gt => 2,
                Cmp::Ge => 3,
                Cmp::Lt => 4,
                Cmp::Le => 5,
                Cmp::Ne => 13,
            };
            let attributes = [("predicate", self.i64_attribute(code)), ("fastmath", self.attribute(CONTRACT))];
            return self.op("arith.cmpf", &[a, b], &attributes, result);
        }
        let code = match how {
            Cmp::Eq => 0,
            Cmp::Ne => 1,
            Cmp::Lt => 2,
            Cmp::Le => 3,
            Cmp::Gt => 4,
            Cmp::Ge => 5,
        };
        let name = if a.elem().is_address() { "llvm.icmp" } else { "arith.cmpi" };
        self.op(name, &[a, b], &[("predicate", self.i64_attribute(code))], result)
    }

    /// `a` where `condition`, `b` elsewhere.
    pub fn select(&self, condition: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.unified(a, b);
        let lanes = a.lanes().max(condition.lanes());
        let (a, b) = (self.splat(a, lanes), self.splat(b, lanes));
        self.op("arith.select", &[condition, a, b], &[], a.ty())
    }

    /// Bitwise, on truth values logical, and.
    pub fn and(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.andi", "arith.andi", a, b)
    }

    /// Bitwise, on truth values logical, or.
    pub fn or(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.ori", "arith.ori", a, b)
    }

    /// Bitwise exclusive or.
    pub fn xor(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary("arith.xori", "arith.xori", a, b)
    }

    /// Every bit turned.
    pub fn not(&self, a: Val<'c>) -> Val<'c> {
        self.xor(a, self.int(a.ty(), if a.elem() == Elem::I1 { 1 } else { -1 }))
    }

    /// `a · 2^by`.
    pub fn shift_left(&self, a: Val<'c>, by: i64) -> Val<'c> {
        self.binary("arith.shli", "arith.shli", a, self.int(a.ty(), by))
    }

    /// `⌊a / 2^by⌋`.
    pub fn shift_right(&self, a: Val<'c>, by: i64) -> Val<'c> {
        self.binary("arith.shrsi", "arith.shrsi", a, self.int(a.ty(), by))
    }

    /// `a · 2^by`, where `by` is no constant.
    pub fn shifted_left(&self, a: Val<'c>, by: Val<'c>) -> Val<'c> {
        self.binary("arith.shli", "arith.shli", a, by)
    }

    /// `⌊a / 2^by⌋`, where `by` is no constant.
    pub fn shifted_right(&self, a: Val<'c>, by: Val<'c>) -> Val<'c> {
        self.binary("arith.shrsi", "arith.shrsi", a, by)
    }

    /// An operation of one operand that keeps its type.
    pub(super) fn intrinsic(&self, name: &'static str, a: Val<'c>) -> Val<'c> {
        self.op(name, &[a], &[], a.ty())
    }

    /// Sets the type of the lanes without changing their bits.
    pub fn bitcast(&self, a: Val<'c>, elem: Elem) -> Val<'c> {
        if a.elem() == elem { a } else { self.op("arith.bitcast", &[a], &[], a.ty().with(elem)) }
    }

    /// The same number in another type. Integers keep their sign, truth values become 0 and 1, real numbers are truncated to
    /// integers (of which they must be in range).
    pub fn convert(&self, a: Val<'c>, elem: Elem) -> Val<'c> {
        let from = a.elem();
        if from == elem {
            return a;
        }
        let name = match (from.is_float(), elem.is_float()) {
            (true, true) if from.bytes() < elem.bytes() => "arith.extf",
            (true, true) => "arith.truncf",
            (true, false) => "arith.fptosi",
            (false, true) if from == Elem::I1 => "arith.uitofp",
            (false, true) => "arith.sitofp",
            _ if from == Elem::I1 => "arith.extui",
            _ if elem == Elem::I1 => return self.cmp(Cmp::Ne, a, self.int(a.ty(), 0)),
            _ if from.bytes() < elem.bytes() => "arith.extsi",
            _ => "arith.trunci",
        };
        self.op(name, &[a], &[], a.ty().with(elem))
    }

    /// Any number as single precision.
    pub fn to_f32(&self, a: Val<'c>) -> Val<'c> {
        self.convert(a, Elem::F32)
    }

    /// Any number as a 64-bit integer.
    pub fn to_i64(&self, a: Val<'c>) -> Val<'c> {
        self.convert(a, Elem::I64)
    }

    /// Any number as a 32-bit integer.
    pub fn to_i32(&self, a: Val<'c>) -> Val<'c> {
        self.convert(a, Elem::I32)
    }

    /// `value` in each of `lanes` lanes.
    pub fn splat(&self, value: Val<'c>, lanes: usize) -> Val<'c> {
        match value.lanes() {
            n if n == lanes => value,
            1 => self.op("vector.broadcast", &[value], &[], Ty::vector(value.elem(), lanes)),
            n => {
                self.fault(format!("{n} lanes meet {lanes}"));
                self.poison(Ty::vector(value.elem(), lanes))
            }
        }
    }
}
