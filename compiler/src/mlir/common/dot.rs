//! Products of neighbouring pairs of 16-bit numbers, added to sums of 32 bits: what processors have instructions for.

use melior::ir::attribute::StringAttribute;

use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// 1.5 · 2^23: a number of at most 22 bits that is added to it ends up, rounded, in the lowest bits.
const SHIFTER: f32 = 12_582_912.0;

impl<'c> Emitter<'c> {
    /// An intrinsic of the target.
    pub(super) fn target_intrinsic(&self, name: &str, operands: &[Val<'c>], result: Ty) -> Val<'c> {
        let attributes = [
            ("intrin", StringAttribute::new(self.cx(), name).into()),
            ("operandSegmentSizes", self.attribute_of(format!("array<i32: {}, 0>", operands.len()))),
            ("op_bundle_sizes", self.attribute("array<i32>")),
        ];
        self.op("llvm.call_intrinsic", operands, &attributes, result)
    }

    /// The same bits as lanes of another size.
    pub fn recast(&self, a: Val<'c>, ty: Ty) -> Val<'c> {
        if a.ty() == ty { a } else { self.op("llvm.bitcast", &[a], &[], ty) }
    }

    /// The 32 bits at `ptr`, some numbers of so many bits, over and over.
    pub fn load_word(&self, ptr: Val<'c>, elem: Elem, times: usize) -> Val<'c> {
        self.recast(self.splat(self.load(ptr, Ty::I32), times), Ty::vector(elem, times * 4 / elem.bytes()))
    }

    /// `sums + a₀ · b₀ + a₁ · b₁` in each lane of 32 bits, of 16-bit integers whose products' sum fits. `vnni`: the target has one
    /// instruction for it.
    pub fn dot_i16(&self, sums: Val<'c>, a: Val<'c>, b: Val<'c>, vnni: bool) -> Val<'c> {
        let ty = sums.ty();
        match (ty.lanes, vnni) {
            (16, true) => self.target_intrinsic("llvm.x86.avx512.vpdpwssd.512", &[sums, a, b], ty),
            (16, false) => self.add(sums, self.target_intrinsic("llvm.x86.avx512.pmaddw.d.512", &[a, b], ty)),
            (8, _) => self.add(sums, self.target_intrinsic("llvm.x86.avx2.pmadd.wd", &[a, b], ty)),
            (lanes, _) => {
                self.fault(format!("no products of pairs in {lanes} lanes"));
                sums
            }
        }
    }

    /// `sums + a₀ · b₀ + a₁ · b₁` in each lane, of bfloat16 numbers: 16 lanes on x86-64, 4 on ARM.
    pub fn dot_bf16(&self, sums: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let name = if sums.lanes() == 4 { "llvm.aarch64.neon.bfdot.v4f32.v8bf16" } else { "llvm.x86.avx512bf16.dpbf16ps.512" };
        self.target_intrinsic(name, &[sums, a, b], sums.ty())
    }

    /// Two vectors rounded to bfloat16, the numbers of `b` behind those of `a`, for [`Emitter::dot_bf16`].
    pub fn both_bf16(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match a.lanes() {
            16 => self.target_intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", &[b, a], Ty::vector(Elem::Bf16, 32)),
            _ => self.convert(self.beside(a, b), Elem::Bf16),
        }
    }

    /// `sums + a₀ · b₀ + … + a₃ · b₃` in each lane of 32 bits, of bytes: those of `a` have no sign, those of `b` have one. 16 lanes on x86-64, 4 on ARM.
    pub fn dot_quads(&self, sums: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let name = if sums.lanes() == 4 { "llvm.aarch64.neon.usdot.v4i32.v16i8" } else { "llvm.x86.avx512.vpdpbusd.512" };
        self.target_intrinsic(name, &[sums, a, b], sums.ty())
    }

    /// `sum + a₀ · b₀ + a₁ · b₁ + a₂ · b₂ + a₃ · b₃` on a GPU: `a` are four 16-bit integers in two `i32`, `b` four bytes; all signed.
    pub fn dot_bytes(&self, sum: Val<'c>, a: [Val<'c>; 2], b: Val<'c>) -> Val<'c> {
        let half = |sum, a, high| self.target_intrinsic("llvm.nvvm.idp2a.s.s", &[a, b, self.bool(high), sum], Ty::I32);
        half(half(sum, a[0], false), a[1], true)
    }

    /// 2^23 and what byte `at` of an `i32` holds, on a GPU.
    pub fn byte_beyond_2_23(&self, word: Val<'c>, at: usize) -> Val<'c> {
        // The bytes 1 to 3 of the number are those of 2^23: of the second operand.
        let places = self.i32(0x7650 | at as i32);
        let bits = self.target_intrinsic("llvm.nvvm.prmt", &[word, self.i32(0x4B00_0000), places], Ty::I32);
        self.bitcast(bits, Elem::F32)
    }

    /// The nearest integer of numbers below 2^22; any integer for what is none.
    pub fn round_i32(&self, x: Val<'c>) -> Val<'c> {
        let shifted = self.bitcast(self.add(x, self.like(x, f64::from(SHIFTER))), Elem::I32);
        self.sub(shifted, self.int(shifted.ty(), i64::from(SHIFTER.to_bits())))
    }

    /// The lowest 16 bits are those of the nearest integer of `x · by`, if that has no more.
    pub fn round_low(&self, x: Val<'c>, by: Val<'c>) -> Val<'c> {
        self.bitcast(self.fma(x, by, self.like(x, f64::from(SHIFTER))), Elem::I32)
    }

    /// Numbers of eight bits at `ptr`, e4m3, as single precision, each 256 times smaller than it is: so it has the bits of a half-precision number.
    pub fn load_e4m3(&self, ptr: Val<'c>, lanes: usize) -> Val<'c> {
        let bits = self.convert(self.load(ptr, Ty::vector(Elem::I8, lanes)), Elem::I16);
        let moved = self.shift_left(bits, 7);
        // The sign that was spread over the upper byte leaves the first bit of the exponent.
        let half = self.and(moved, self.int(moved.ty(), i64::from(0xbfff_u16.cast_signed())));
        self.to_f32(self.bitcast(half, Elem::F16))
    }

    /// The four numbers of eight bits of a word, e4m3, as single precision, each 256 times smaller than it is, as [`Emitter::load_e4m3`] has it.
    pub fn e4m3_of(&self, word: Val<'c>) -> Vec<Val<'c>> {
        // Bytes of even numbers and of odd ones, each in the upper half of 16 bits.
        let [even, odd] = [self.shift_left(word, 8), word].map(|word| {
            let sign = self.and(word, self.i32(i32::from_le_bytes([0, 0x80, 0, 0x80])));
            let size = self.and(self.shift_right(word, 1), self.i32(i32::from_le_bytes([0x80, 0x3F, 0x80, 0x3F])));
            self.op("llvm.bitcast", &[self.or(sign, size)], &[], Ty::vector(Elem::F16, 2))
        });
        [(even, 0), (odd, 0), (even, 1), (odd, 1)].map(|(pair, at)| self.to_f32(self.extract(pair, at))).to_vec()
    }

    /// Half-precision numbers at `ptr` as single precision.
    pub fn load_f16(&self, ptr: Val<'c>, lanes: usize) -> Val<'c> {
        self.to_f32(self.load(ptr, Ty::vector(Elem::F16, lanes)))
    }
}
