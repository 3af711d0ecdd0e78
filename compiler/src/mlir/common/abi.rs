//! The shapes of [`braid_runtime::artifact`]: kernels, entry points, fields of a call.

use std::mem::offset_of;

use braid_runtime::artifact::Call;

use super::control::Linkage;
use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// The fields of a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented at `Call`")]
pub enum Field {
    Rows,
    RowsCapacity,
    Segments,
    Wanted,
    Capacity,
    Tokens,
    Positions,
    RowSegments,
    SegmentTable,
    WantedRows,
    Weights,
    Prepared,
    Arena,
    States,
    SlotBytes,
    Scratch,
    Output,
    Parallel,
    Pool,
}

impl Field {
    fn place(self) -> (usize, Ty) {
        match self {
            Field::Rows => (offset_of!(Call, rows), Ty::I64),
            Field::RowsCapacity => (offset_of!(Call, rows_capacity), Ty::I64),
            Field::Segments => (offset_of!(Call, segments), Ty::I64),
            Field::Wanted => (offset_of!(Call, wanted), Ty::I64),
            Field::Capacity => (offset_of!(Call, capacity), Ty::I64),
            Field::Tokens => (offset_of!(Call, tokens), Ty::PTR),
            Field::Positions => (offset_of!(Call, positions), Ty::PTR),
            Field::RowSegments => (offset_of!(Call, row_segments), Ty::PTR),
            Field::SegmentTable => (offset_of!(Call, segment_table), Ty::PTR),
            Field::WantedRows => (offset_of!(Call, wanted_rows), Ty::PTR),
            Field::Weights => (offset_of!(Call, weights), Ty::PTR),
            Field::Prepared => (offset_of!(Call, prepared), Ty::PTR),
            Field::Arena => (offset_of!(Call, arena), Ty::PTR),
            Field::States => (offset_of!(Call, states), Ty::PTR),
            Field::SlotBytes => (offset_of!(Call, slot_bytes), Ty::I64),
            Field::Scratch => (offset_of!(Call, scratch), Ty::PTR),
            Field::Output => (offset_of!(Call, output), Ty::PTR),
            Field::Parallel => (offset_of!(Call, parallel), Ty::PTR),
            Field::Pool => (offset_of!(Call, pool), Ty::PTR),
        }
    }
}

/// The parameters of a kernel.
#[derive(Clone, Copy)]
pub struct KernelArgs<'c> {
    /// The call.
    pub call: Val<'c>,
    /// The kernel's words.
    pub operands: Val<'c>,
    /// First task.
    pub begin: Val<'c>,
    /// Past the last task.
    pub end: Val<'c>,
    /// Which thread; on a GPU which block.
    pub thread: Val<'c>,
}

impl<'c> Emitter<'c> {
    /// Defines a private function of the kernel ABI. On a GPU the call and the words are copies in shared memory.
    pub fn kernel(&self, name: &str, fill: impl FnOnce(KernelArgs<'c>)) {
        let address = if self.is_device() { Ty::scalar(Elem::Shared) } else { Ty::PTR };
        let params = [address, address, Ty::I64, Ty::I64, Ty::I64];
        self.function(name, Linkage::Private, &params, None, |v| {
            fill(KernelArgs { call: v[0], operands: v[1], begin: v[2], end: v[3], thread: v[4] });
            None
        });
    }

    /// Defines an entry point of the library; `fill` gives its status.
    pub fn entry(&self, name: &str, fill: impl FnOnce(Val<'c>) -> Val<'c>) {
        self.function(name, Linkage::Public, &[Ty::PTR], Some(Ty::I32), |v| Some(fill(v[0])));
    }

    /// A field of the call.
    pub fn call_field(&self, call: Val<'c>, field: Field) -> Val<'c> {
        let (offset, ty) = field.place();
        self.load(self.offset_by(call, offset), ty)
    }

    /// A kernel's word.
    pub fn operand(&self, operands: Val<'c>, index: usize) -> Val<'c> {
        self.load(self.offset_by(operands, 8 * index), Ty::I64)
    }
}
