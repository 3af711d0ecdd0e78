//! Raw memory: addresses, loads, stores. Vectors need only the alignment of their elements.

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

impl<'c> Emitter<'c> {
    /// `bytes` (an `i64`, or a vector of them for a vector of addresses) past `base`.
    pub fn offset(&self, base: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        let lanes = base.lanes().max(bytes.lanes());
        let attributes = [("rawConstantIndices", self.attribute("array<i32: -2147483648>")), ("elem_type", self.attribute("i8"))];
        self.op("llvm.getelementptr", &[base, bytes], &attributes, Ty::vector(base.elem(), lanes))
    }

    /// A fixed number of bytes past `base`.
    pub fn offset_by(&self, base: Val<'c>, bytes: usize) -> Val<'c> {
        if bytes == 0 { base } else { self.offset(base, self.i64(bytes)) }
    }

    /// `index · bytes` bytes past `base`; `index` is an `i64`.
    pub fn element(&self, base: Val<'c>, index: Val<'c>, bytes: usize) -> Val<'c> {
        self.offset(base, self.mul(index, self.i64(bytes)))
    }

    /// The first address from `base` on that is a multiple of `bytes`, a power of two.
    pub fn aligned(&self, base: Val<'c>, bytes: usize) -> Val<'c> {
        let number = self.op("llvm.ptrtoint", &[base], &[], Ty::I64);
        self.offset(base, self.and(self.sub(self.i64(0), number), self.i64(bytes - 1)))
    }

    /// Whether there is something at an address: it is not null.
    pub fn is_there(&self, address: Val<'c>) -> Val<'c> {
        let number = self.op("llvm.ptrtoint", &[address], &[], Ty::I64);
        self.cmp(Cmp::Ne, number, self.i64(0))
    }

    fn alignment(&self, ty: Ty) -> melior::ir::Attribute<'c> {
        self.attribute(match ty.elem.bytes() {
            1 => "1 : i64",
            2 => "2 : i64",
            4 => "4 : i64",
            _ => "8 : i64",
        })
    }

    fn alignment_i32(&self, ty: Ty) -> melior::ir::Attribute<'c> {
        self.i32_attribute(ty.elem.bytes() as i64)
    }

    /// What stands at `ptr`.
    pub fn load(&self, ptr: Val<'c>, ty: Ty) -> Val<'c> {
        self.op("llvm.load", &[ptr], &[("alignment", self.alignment(ty))], ty)
    }

    /// What stands at `ptr` now, even if that seems to be known: for what has no room in registers.
    pub fn load_anew(&self, ptr: Val<'c>, ty: Ty) -> Val<'c> {
        let attributes = [("alignment", self.alignment(ty)), ("volatile_", self.attribute("unit"))];
        self.op("llvm.load", &[ptr], &attributes, ty)
    }

    /// What stands at `ptr`, and never changes while the function runs.
    pub fn load_constant(&self, ptr: Val<'c>, ty: Ty) -> Val<'c> {
        let attributes = [("alignment", self.alignment(ty)), ("invariant", self.attribute("unit"))];
        self.op("llvm.load", &[ptr], &attributes, ty)
    }

    /// A whole vector at `ptr`, which is aligned to its bytes, of memory that never changes: a GPU reads it by one instruction.
    pub fn load_constant_aligned(&self, ptr: Val<'c>, ty: Ty) -> Val<'c> {
        let attributes = [("alignment", self.whole(ty)), ("invariant", self.attribute("unit"))];
        self.op("llvm.load", &[ptr], &attributes, ty)
    }

    /// A whole vector at `ptr`, which is aligned to its bytes.
    pub fn load_aligned(&self, ptr: Val<'c>, ty: Ty) -> Val<'c> {
        self.op("llvm.load", &[ptr], &[("alignment", self.whole(ty))], ty)
    }

    /// Writes a whole vector to `ptr`, which is aligned to its bytes.
    pub fn store_aligned(&self, ptr: Val<'c>, value: Val<'c>) {
        self.op_none("llvm.store", &[value, ptr], &[("alignment", self.whole(value.ty()))]);
    }

    fn whole(&self, ty: Ty) -> melior::ir::Attribute<'c> {
        self.i64_attribute(ty.bytes() as i64)
    }

    /// Writes `value` to `ptr`.
    pub fn store(&self, ptr: Val<'c>, value: Val<'c>) {
        self.op_none("llvm.store", &[value, ptr], &[("alignment", self.alignment(value.ty()))]);
    }

    /// The lanes at `ptr` where `mask`, zero elsewhere; nothing else is touched.
    pub fn load_masked(&self, ptr: Val<'c>, mask: Val<'c>, ty: Ty) -> Val<'c> {
        let zero = self.constant_of(ty, 0.0);
        if ty.lanes == 1 {
            return self.if_else(mask, || vec![self.load(ptr, ty)], || vec![zero])[0];
        }
        self.op("llvm.intr.masked.load", &[ptr, mask, zero], &[("alignment", self.alignment_i32(ty))], ty)
    }

    /// Writes the lanes where `mask`.
    pub fn store_masked(&self, ptr: Val<'c>, mask: Val<'c>, value: Val<'c>) {
        if value.lanes() == 1 {
            return self.if_then(mask, || self.store(ptr, value));
        }
        let alignment = self.alignment_i32(value.ty());
        self.op_none("llvm.intr.masked.store", &[value, ptr, mask], &[("alignment", alignment)]);
    }

    /// bfloat16 bits as single precision.
    fn widened(&self, bits: Val<'c>) -> Val<'c> {
        let wide = self.op("arith.extui", &[bits], &[], bits.ty().with(Elem::I32));
        self.bitcast(self.shift_left(wide, 16), Elem::F32)
    }

    /// What was loaded, number by number in single precision: as it is, or of words (`i32`) of two bfloat16 numbers each, the lower half first.
    pub fn singles(&self, loaded: Val<'c>) -> Vec<Val<'c>> {
        let all = (0..loaded.lanes()).map(|at| self.extract(loaded, at));
        if loaded.elem() == Elem::F32 {
            return all.collect();
        }
        let halves = |word: Val<'c>| [self.shift_left(word, 16), self.and(word, self.i32(!0xFFFF))];
        all.flat_map(halves).map(|bits| self.bitcast(bits, Elem::F32)).collect()
    }

    /// bfloat16 numbers at `ptr` as single precision.
    pub fn load_bf16(&self, ptr: Val<'c>, lanes: usize) -> Val<'c> {
        self.widened(self.load(ptr, Ty::vector(Elem::I16, lanes)))
    }

    /// The same, of an address that is aligned to all of them.
    pub fn load_bf16_aligned(&self, ptr: Val<'c>, lanes: usize) -> Val<'c> {
        self.widened(self.load_aligned(ptr, Ty::vector(Elem::I16, lanes)))
    }

    /// bfloat16 numbers where `mask`, zero elsewhere.
    pub fn load_bf16_masked(&self, ptr: Val<'c>, mask: Val<'c>, lanes: usize) -> Val<'c> {
        self.widened(self.load_masked(ptr, mask, Ty::vector(Elem::I16, lanes)))
    }

    /// Lanes from `byte_offsets` (`i64` lanes) past `base` where `mask`, zero elsewhere.
    pub fn gather(&self, base: Val<'c>, byte_offsets: Val<'c>, mask: Val<'c>, ty: Ty) -> Val<'c> {
        let places = self.offset(base, byte_offsets);
        if ty.lanes == 1 {
            return self.load_masked(places, mask, ty);
        }
        // Hardware gathers exist for lanes of 32 and 64 bits; others go lane by lane through the same operation.
        let zero = self.constant_of(ty, 0.0);
        let mask = self.splat(mask, ty.lanes);
        self.op("llvm.intr.masked.gather", &[places, mask, zero], &[("alignment", self.alignment_i32(ty))], ty)
    }

    /// bfloat16 lanes from `byte_offsets` past `base` where `mask`, zero elsewhere.
    pub fn gather_bf16(&self, base: Val<'c>, byte_offsets: Val<'c>, mask: Val<'c>, lanes: usize) -> Val<'c> {
        self.widened(self.gather(base, byte_offsets, mask, Ty::vector(Elem::I16, lanes)))
    }

    /// Asks for the cache line at `ptr`, which need not be memory of ours.
    pub fn prefetch_line(&self, ptr: Val<'c>) {
        let attributes = [("rw", 0), ("hint", 3), ("cache", 1)].map(|(name, value)| (name, self.i32_attribute(value)));
        self.op_none("llvm.intr.prefetch", &[ptr], &attributes);
    }

    /// Memory of the current function's frame, aligned for any vector.
    pub fn alloca(&self, bytes: usize) -> Val<'c> {
        let make = || {
            let attributes = [("elem_type", self.attribute("i8")), ("alignment", self.attribute("64 : i64"))];
            self.op("llvm.alloca", &[self.i64(bytes)], &attributes, Ty::PTR)
        };
        self.at_entry(make).unwrap_or_else(make)
    }
}
