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
        let bf16 = self.attribute("#nvvm.mma_type<bf16>");
        let attributes = [
            ("shape", self.attribute("#nvvm.shape<m = 16, n = 8, k = 16>")),
            ("layoutA", self.attribute("#nvvm.mma_layout<row>")),
            ("layoutB", self.attribute("#nvvm.mma_layout<col>")),
            ("multiplicandAPtxType", bf16),
            ("multiplicandBPtxType", bf16),
            ("operandSegmentSizes", DenseI32ArrayAttribute::new(self.cx(), &[4, 2, 4]).into()),
        ];
        let operands: Vec<Val> = left.into_iter().chain(right).chain(sums).collect();
        let made = self.op_members("nvvm.mma.sync", &operands, &attributes, &[Ty::F32; 4]);
        std::array::from_fn(|at| made[at])
    }

    /// `left · right + sums` of a whole warp: 16 x 8 by 8 x 8 numbers of single precision, of which the first 10 bits behind the point
    /// count. Lane `l` has of the left matrix columns `l % 4` and that plus 4, each in rows `l / 4` and that plus 8, and of the right
    /// one rows `l % 4` and that plus 4 of column `l / 4`; sums as ever.
    pub fn multiply_singles(&self, left: [Val<'c>; 4], right: [Val<'c>; 2], sums: [Val<'c>; 4]) -> [Val<'c>; 4] {
        let tf32 = self.attribute("#nvvm.mma_type<tf32>");
        let attributes = [
            ("shape", self.attribute("#nvvm.shape<m = 16, n = 8, k = 8>")),
            ("layoutA", self.attribute("#nvvm.mma_layout<row>")),
            ("layoutB", self.attribute("#nvvm.mma_layout<col>")),
            ("multiplicandAPtxType", tf32),
            ("multiplicandBPtxType", tf32),
            ("operandSegmentSizes", DenseI32ArrayAttribute::new(self.cx(), &[4, 2, 4]).into()),
        ];
        let bits = |value: Val<'c>| self.bitcast(value, Elem::I32);
        let operands: Vec<Val> = left.into_iter().chain(right).map(bits).chain(sums).collect();
        let made = self.op_members("nvvm.mma.sync", &operands, &attributes, &[Ty::F32; 4]);
        std::array::from_fn(|at| made[at])
    }

    /// A number of single precision moved up so far that [`Emitter::multiply_singles`], which drops all but ten bits behind the point, takes
    /// the right one on average: by a third to two thirds of the last of them. What has only ten bits stays, as does what is no number.
    pub fn round_tf32(&self, value: Val<'c>) -> Val<'c> {
        self.mul(value, self.like(value, 1.0 + 0.3466 / 1024.0))
    }

    /// Two numbers rounded to bfloat16 (to the nearest, ties to even), the first in the low half of an `i32`.
    pub fn pack_bf16(&self, low: Val<'c>, high: Val<'c>) -> Val<'c> {
        let pair = self.insert(self.insert(self.poison(Ty::f32(2)), 0, low), 1, high);
        let narrow = self.convert(pair, Elem::Bf16);
        self.op("llvm.bitcast", &[narrow], &[], Ty::I32)
    }

    // ---- groups of four warps (sm_90a) --------------------------------------------------------------------------

    /// What describes a matrix at an address in shared memory, a multiple of 1024, to the matrix units: rows of 128 bytes, one behind the
    /// other, whose pieces of 16 bytes are exchanged: piece `p` of row `r` lies where `p ^ (r % 8)` would.
    pub fn matrix_at(&self, address: Val<'c>) -> Val<'c> {
        let number = self.op("llvm.ptrtoint", &[address], &[], Ty::I64);
        let place = self.shift_right(self.and(number, self.i64(0x3FFFF)), 4);
        // Eight rows take 1024 bytes; the two highest bits say how pieces are exchanged.
        self.or(place, self.i64((1_i64 << 62) | (64 << 32) | (1 << 16)))
    }

    /// The matrix that begins so many bytes (an `i64`, a multiple of 16) behind.
    pub fn matrix_behind(&self, matrix: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        self.add(matrix, self.shift_right(bytes, 4))
    }

    /// Begins to add products of bfloat16 matrices, 64 rows and 16 columns by 16 rows and some columns (which lie as rows), to sums:
    /// a lane of warp `w` of the group has columns `8 j + 2 (l % 4)` and the next of rows `16 w + l / 4` and of that plus 8.
    pub fn begin_products(&self, pairs: &[(Val<'c>, Val<'c>)], sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let [one, bf16] = [self.attribute("#nvvm.wgmma_scale_in<one>"), self.attribute("#nvvm.wgmma_type<bf16>")];
        let shape = self.attribute_of(format!("#nvvm.shape<m = 64, n = {}, k = 16>", 2 * sums.len()));
        let attributes = [
            ("shape", shape),
            ("typeA", bf16),
            ("typeB", bf16),
            ("typeD", self.attribute("#nvvm.wgmma_type<f32>")),
            ("scaleD", self.attribute("#nvvm.wgmma_scale_out<one>")),
            ("scaleA", one),
            ("scaleB", one),
            ("layoutA", self.attribute("#nvvm.mma_layout<row>")),
            ("layoutB", self.attribute("#nvvm.mma_layout<col>")),
        ];
        self.op_none("nvvm.wgmma.fence.aligned", &[], &[]);
        let members = vec![Ty::F32; sums.len()];
        let mut all = self.whole_of(sums);
        for (left, right) in pairs {
            all = self.op_whole("nvvm.wgmma.mma_async", &[all, *left, *right], &attributes, &members);
        }
        self.op_none("nvvm.wgmma.commit.group.sync.aligned", &[], &[]);
        self.members(all, &members)
    }

    /// Waits until of what was begun, one [`Emitter::begin_products`] after the other, at most the last `begun` are not there yet.
    pub fn await_products(&self, begun: usize) {
        self.op_none("nvvm.wgmma.wait.group.sync.aligned", &[], &[("group", self.i64_attribute(begun as i64))]);
    }

    /// By all threads of a group of four warps: from here on each has so many registers, fewer than before.
    pub fn give_registers(&self, count: usize) {
        self.set_registers(count, "#nvvm<action decrease>");
    }

    /// The same with more of them, which others gave.
    pub fn take_registers(&self, count: usize) {
        self.set_registers(count, "#nvvm<action increase>");
    }

    fn set_registers(&self, count: usize, action: &'static str) {
        let attributes = [("regCount", self.i32_attribute(count as i64)), ("action", self.attribute(action))];
        self.op_none("nvvm.setmaxregister", &[], &attributes);
    }
}
