//! The place of a computation inside a kernel: addresses of tensors, indices, lanes.

use super::{Emitter, Field, KernelArgs, Val};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, INNER, Matmul, Rows, Store, Tensor};
use crate::schedule::Schedule;
use std::collections::HashMap;

/// What every kernel of an artifact is told.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `f32` elements of a hardware vector.
    pub lanes: usize,
    /// Scratch bytes of a thread.
    pub scratch: usize,
    /// How matrix products are cut.
    pub schedule: Schedule,
    /// Where scratch begins in a block's shared memory, if it lies there.
    pub shared: Option<usize>,
    /// Whether one instruction multiplies pairs of 16-bit integers and adds both to a sum.
    pub vnni: bool,
}

/// The place of the computation: which row, which index along each axis, which lanes.
pub struct Site<'k, 'c> {
    /// Appends operations.
    pub e: &'k Emitter<'c>,
    /// The kernel's arguments.
    pub args: KernelArgs<'c>,
    tensors: &'k [Tensor],
    /// Where row 0 of each tensor is; states and tiles are known later.
    bases: Vec<Option<Val<'c>>>,
    /// Where the row at hand is.
    rows: Vec<Option<Val<'c>>>,
    /// The number of the row in the call's tables.
    pub row: Option<Val<'c>>,
    /// The index along each axis that is fixed or looped over; 64-bit.
    pub index: HashMap<KAxis, Val<'c>>,
    /// The axis that vectors run along.
    pub vector: Option<KAxis>,
    /// Its lanes.
    pub lanes: usize,
    /// Whether all vectors in memory lie at multiples of their bytes.
    pub whole: bool,
    /// Which lanes count; none: all.
    pub mask: Option<Val<'c>>,
    /// Values stored in this iteration.
    pub fresh: Vec<(View, Val<'c>)>,
    /// What was made ahead of a loop that does not change it.
    pub held: Vec<(Expr, Val<'c>)>,
}

impl<'k, 'c> Site<'k, 'c> {
    /// Computes the addresses that are the same for all tasks.
    pub fn new(e: &'k Emitter<'c>, args: KernelArgs<'c>, tensors: &'k [Tensor], setting: Setting) -> Site<'k, 'c> {
        let bases = tensors.iter().map(|t| base(e, args, t, setting)).collect();
        Site {
            e,
            args,
            tensors,
            bases,
            rows: vec![None; tensors.len()],
            row: None,
            index: HashMap::new(),
            vector: None,
            lanes: 1,
            whole: false,
            mask: None,
            fresh: vec![],
            held: vec![],
        }
    }

    /// Tells where the states of a slot are.
    pub fn set_slot(&mut self, slot: Val<'c>) {
        let e = self.e;
        let states = e.call_field(self.args.call, Field::States);
        let bytes = e.call_field(self.args.call, Field::SlotBytes);
        let own = e.device_memory(e.offset(states, e.mul(slot, bytes)));
        for (at, tensor) in self.tensors.iter().enumerate() {
            if tensor.base == Base::State {
                self.set_base(at, e.offset(own, e.operand(self.args.operands, tensor.operand)));
            }
        }
    }

    /// Tells where a tensor is that is the same in all rows.
    pub fn set_base(&mut self, tensor: usize, place: Val<'c>) {
        self.bases[tensor] = Some(place);
        self.rows[tensor] = Some(place);
    }

    /// Where a tensor is, if that is known.
    pub fn base(&self, tensor: usize) -> Option<Val<'c>> {
        self.bases[tensor]
    }

    /// Tells which row is at hand; `wanted`: it counts the wanted rows.
    pub fn set_row(&mut self, row: Val<'c>, wanted: bool) {
        let e = self.e;
        let listed = wanted.then(|| e.table_entry(self.args.call, Field::WantedRows, row));
        self.row = Some(listed.unwrap_or(row));
        for (at, tensor) in self.tensors.iter().enumerate() {
            let Some(start) = self.bases[at] else { continue };
            let number = match (tensor.through_wanted, listed) {
                (true, Some(listed)) => listed,
                _ => row,
            };
            self.rows[at] = Some(match tensor.row {
                0 => start,
                elements => e.offset(start, e.mul(number, e.i64(elements * tensor.store.bytes()))),
            });
        }
    }

    /// Tells which row of a product is at hand, inner rows counted: sets the row, and the index along [`INNER`].
    pub fn set_product_row(&mut self, code: &Matmul, m: Val<'c>) {
        let (e, inner) = (self.e, code.sizes[0]);
        let (row, within) = match inner {
            1 => (m, e.i64(0)),
            _ => (e.div(m, e.i64(inner)), e.rem(m, e.i64(inner))),
        };
        self.set_row(row, code.rows == Rows::Wanted);
        self.index.insert(INNER, within);
    }

    /// What a view is of.
    pub fn tensor(&self, view: &View) -> &'k Tensor {
        &self.tensors[view.tensor.0]
    }

    /// How a view's elements are stored.
    pub fn store_of(&self, view: &View) -> Store {
        self.tensors[view.tensor.0].store
    }

    /// Elements from one row of a view's tensor to the next.
    pub fn row_elements(&self, view: &View) -> usize {
        self.tensors[view.tensor.0].row
    }

    /// The address of a view's element at the present indices.
    pub fn address(&self, view: &View) -> Val<'c> {
        let e = self.e;
        let Some(row) = self.rows[view.tensor.0].or(self.bases[view.tensor.0]) else {
            e.fault(format!("tensor {} has no address yet", view.tensor.0));
            return e.null();
        };
        self.address_behind(view, row)
    }

    /// The same in another row of the call.
    pub fn address_in_row(&self, view: &View, row: Val<'c>) -> Val<'c> {
        let e = self.e;
        let tensor = &self.tensors[view.tensor.0];
        let Some(start) = self.bases[view.tensor.0] else {
            e.fault(format!("tensor {} has no rows", view.tensor.0));
            return e.null();
        };
        self.address_behind(view, e.offset(start, e.mul(row, e.i64(tensor.row * tensor.store.bytes()))))
    }

    fn address_behind(&self, view: &View, row: Val<'c>) -> Val<'c> {
        let e = self.e;
        let tensor = &self.tensors[view.tensor.0];
        let bytes = tensor.store.bytes();
        let mut place = if view.offset == 0 { row } else { e.offset_by(row, view.offset * bytes) };
        for (axis, stride) in &view.strides {
            match self.index.get(axis) {
                Some(index) => place = e.offset(place, e.mul(*index, e.i64(stride * bytes))),
                None => e.fault(format!("axis {} has no index", axis.0)),
            }
        }
        place
    }

    /// The stride of a view along the vector axis.
    pub fn vector_stride(&self, view: &View) -> usize {
        self.vector.map_or(0, |axis| view.stride(axis))
    }
}

fn base<'c>(e: &Emitter<'c>, args: KernelArgs<'c>, tensor: &Tensor, setting: Setting) -> Option<Val<'c>> {
    let word = || e.operand(args.operands, tensor.operand);
    Some(match tensor.base {
        Base::Arena => {
            let capacity = e.call_field(args.call, Field::RowsCapacity);
            e.device_memory(e.offset(e.call_field(args.call, Field::Arena), e.mul(word(), capacity)))
        }
        Base::Weights => e.device_memory(e.offset(e.call_field(args.call, Field::Weights), word())),
        Base::Prepared => e.device_memory(e.offset(e.call_field(args.call, Field::Prepared), word())),
        Base::Output => e.device_memory(e.call_field(args.call, Field::Output)),
        Base::Tokens => e.device_memory(e.call_field(args.call, Field::Tokens)),
        Base::Scratch(at) => scratch(e, args, setting, at),
        Base::State | Base::Tile => return None,
    })
}

/// An address in the thread's scratch; on a GPU the block's.
pub fn scratch<'c>(e: &Emitter<'c>, args: KernelArgs<'c>, setting: Setting, at: usize) -> Val<'c> {
    if let Some(first) = setting.shared {
        return e.offset_by(e.shared_memory(), first + at);
    }
    let own = e.mul(args.thread, e.i64(setting.scratch));
    e.offset_by(e.device_memory(e.offset(e.call_field(args.call, Field::Scratch), own)), at)
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for `bytes` of a stream that are used `ahead` bytes later: even the largest tiles wait for weights that no cache holds yet.
pub fn stream<'c>(e: &Emitter<'c>, place: Val<'c>, bytes: usize, ahead: usize) {
    let lines = (0..bytes).step_by(LINE).filter(|_| ahead > 0);
    lines.for_each(|line| e.prefetch_line(e.offset_by(place, ahead + line)));
}

/// `for i in (lo..hi).step_by(step)`.
pub fn for_each<'c>(e: &Emitter<'c>, lo: Val<'c>, hi: Val<'c>, step: Val<'c>, body: impl FnOnce(Val<'c>)) {
    e.for_loop(lo, hi, step, &[], |at, _| {
        body(at);
        Vec::new()
    });
}
