//! A GPU's matrix units: loads of fragments from shared memory, products, rounding.
//!
//! Fragments are those of PTX's `mma.m16n8k16`: lane `l` has of the left matrix pairs of columns of rows `l / 4` and `l / 4 + 8`, of the
//! right one pairs of rows of column `l / 4`, and of the result columns `2 (l % 4)` and the next of the same two rows.

use melior::ir::attribute::DenseI32ArrayAttribute;

use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

impl<'c> Emitter<'c> {
    /// Four matrices of 8 rows of 16 bytes each; lane `l` has the address of row `l % 8` of matrix `l / 8`, and gets of each matrix the
    /// four bytes number `l % 4` of row `l / 4`.
    pub fn load_fragments(&self, row: Val<'c>) -> [Val<'c>; 4] {
        self.fragments(row, "#nvvm.mma_layout<row>")
    }

    /// The same of matrices of 16-bit numbers, turned: a lane gets of each numbers `2 (l % 4)` and the next of column `l / 4`.
    pub fn load_turned_fragments(&self, row: Val<'c>) -> [Val<'c>; 4] {
        self.fragments(row, "#nvvm.mma_layout<col>")
    }

    fn fragments(&self, row: Val<'c>, layout: &'static str) -> [Val<'c>; 4] {
        let attributes = [
            ("num", self.i32_attribute(4)),
            ("layout", self.attribute(layout)),
            ("shape", self.attribute("#nvvm.ld_st_matrix_shape<m = 8, n = 8>")),
            ("eltType", self.attribute("#nvvm.ld_st_matrix_elt_type<b16>")),
        ];
        let made = self.op_members("nvvm.ldmatrix", &[row], &attributes, &[Ty::I32; 4]);
        std::array::from_fn(|at| made[at])
    }

    /// `left · right + sums` of a whole warp: 16 x 16 by 16 x 8 bfloat16 numbers, sums in single precision.
    pub fn multiply_fragments(&self, left: [Val<'c>; 4], right: [Val<'c>; 2], sums: [Val<'c>; 4]) -> [Val<'c>; 4] {
        self.multiply_all(("#nvvm.mma_type<bf16>", "#nvvm.shape<m = 16, n = 8, k = 16>"), left, right, sums)
    }

    /// `left · right + sums` of a whole warp: 16 x 32 by 32 x 8 bytes with signs, sums of 32 bits. A lane has four bytes side by side where it
    /// has pairs of [`Emitter::multiply_fragments`].
    pub fn multiply_bytes(&self, left: [Val<'c>; 4], right: [Val<'c>; 2], sums: [Val<'c>; 4]) -> [Val<'c>; 4] {
        self.multiply_all(("#nvvm.mma_type<s8>", "#nvvm.shape<m = 16, n = 8, k = 32>"), left, right, sums)
    }

    /// `left · right + sums` of a whole warp: 16 x 8 by 8 x 8 numbers of single precision, of which the first 10 bits behind the point
    /// count. Lane `l` has of the left matrix columns `l % 4` and that plus 4, each in rows `l / 4` and that plus 8, and of the right
    /// one rows `l % 4` and that plus 4 of column `l / 4`; sums as ever.
    pub fn multiply_singles(&self, left: [Val<'c>; 4], right: [Val<'c>; 2], sums: [Val<'c>; 4]) -> [Val<'c>; 4] {
        let bits = |value: Val<'c>| self.bitcast(value, Elem::I32);
        self.multiply_all(("#nvvm.mma_type<tf32>", "#nvvm.shape<m = 16, n = 8, k = 8>"), left.map(bits), right.map(bits), sums)
    }

    /// A product of numbers of a kind, in a shape.
    fn multiply_all(
        &self,
        (kind, shape): (&'static str, &'static str),
        left: [Val<'c>; 4],
        right: [Val<'c>; 2],
        sums: [Val<'c>; 4],
    ) -> [Val<'c>; 4] {
        let kind = self.attribute(kind);
        let mut attributes = vec![
            ("shape", self.attribute(shape)),
            ("layoutA", self.attribute("#nvvm.mma_layout<row>")),
            ("layoutB", self.attribute("#nvvm.mma_layout<col>")),
            ("multiplicandAPtxType", kind),
            ("multiplicandBPtxType", kind),
            ("operandSegmentSizes", DenseI32ArrayAttribute::new(self.cx(), &[4, 2, 4]).into()),
        ];
        if sums[0].elem() == Elem::I32 {
            attributes.push(("intOverflowBehavior", self.attribute("#nvvm.mma_int_overflow<wrapped>")));
        }
        let operands: Vec<Val> = left.into_iter().chain(right).chain(sums).collect();
        let made = self.op_members("nvvm.mma.sync", &operands, &attributes, &[sums[0].ty(); 4]);
        std::array::from_fn(|at| made[at])
    }

    /// A number of single precision moved up so far that [`Emitter::multiply_singles`], which drops all but ten bits behind the point, takes
    /// the right one on average: by a third to two thirds of the last of them. What has only ten bits stays, as does what is no number.
    pub fn round_tf32(&self, value: Val<'c>) -> Val<'c> {
        self.mul(value, self.like(value, 1.0 + 0.3466 / 1024.0))
    }

    /// The lower halves of two words in one, and the higher ones in another.
    pub fn joined_halves(&self, low: Val<'c>, high: Val<'c>) -> [Val<'c>; 2] {
        let join = |bytes: i32| self.target_intrinsic("llvm.nvvm.prmt", &[low, high, self.i32(bytes)], Ty::I32);
        [0x5410, 0x7632].map(join)
    }

    /// Two numbers rounded to bfloat16 (to the nearest, ties to even), the first in the low half of an `i32`.
    pub fn pack_bf16(&self, low: Val<'c>, high: Val<'c>) -> Val<'c> {
        let pair = self.insert(self.insert(self.poison(Ty::f32(2)), 0, low), 1, high);
        let narrow = self.convert(pair, Elem::Bf16);
        self.op("llvm.bitcast", &[narrow], &[], Ty::I32)
    }

    /// Byte `at` of each of four words, as one word.
    pub fn bytes_of(&self, words: [Val<'c>; 4], at: usize) -> Val<'c> {
        let pick =
            |low, high, bytes: usize| self.target_intrinsic("llvm.nvvm.prmt", &[low, high, self.i32(bytes as i32)], Ty::I32);
        let two = |low, high| pick(low, high, at | (4 + at) << 4);
        pick(two(words[0], words[1]), two(words[2], words[3]), 0x5410)
    }
}
