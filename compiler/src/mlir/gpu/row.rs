//! The row that a product multiplies, in shared memory: copied, or made there by the block itself. In a launch that reads ahead it
//! stays for the next product, if that multiplies the same row.

use super::ahead::Ahead;
use super::dot::Dot;
use super::matmul::is_read_ahead;
use super::{THREADS, nest};
use crate::fuse::kernel::{Matmul, Prologue, Rows};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Elem, Emitter, Field, KernelArgs, Ty, Val};
use crate::schedule::Schedule;

/// Where the block remembers which row it has: the address that the row has, or would have, in the device's memory, and how many
/// numbers. Another row may begin at the same place.
const KEPT: &str = "kept_row";
const KEPT_BYTES: usize = 16;

/// Numbers of a row in shared memory: whole units.
fn padded(code: &Matmul) -> usize {
    code.sizes[2].next_multiple_of(WARP * Dot::of(code, 1).vector)
}

/// Shared bytes of a row of the product that begins at byte `at`, and of what makes it.
pub fn end(code: &Matmul, at: usize) -> usize {
    let end = at + 4 * padded(code);
    code.prologue.as_ref().map_or(end, |prologue| end + nest::shared_bytes(&prologue.nests))
}

/// Forgets the row: its place is used for something else, or it may have changed.
pub fn forget(e: &Emitter) {
    let kept = e.shared_place(KEPT, KEPT_BYTES);
    e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || e.store(kept, e.i64(0)));
}

/// Whether the block has the product's row from the last one.
fn is_kept<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>) -> Val<'c> {
    if !is_read_ahead(code) {
        return e.bool(false);
    }
    let kept = e.shared_place(KEPT, KEPT_BYTES);
    let place = e.cmp(Cmp::Eq, e.load(kept, Ty::scalar(Elem::Global)), left);
    let depth = e.cmp(Cmp::Eq, e.load(e.offset_by(kept, 8), Ty::I64), e.i64(code.sizes[2]));
    e.and(Ahead::is_on(e), e.and(place, depth))
}

/// Puts a row of the product's left operand to byte `at` of shared memory, unless it is there. `left`: where it is in the
/// device's memory. All threads of the block; they must meet before they read it.
pub fn fetch<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>, at: usize, args: KernelArgs<'c>) {
    let there = is_kept(e, code, left);
    fill(e, code, at);
    e.if_then(e.not(there), || {
        let Some(prologue) = &code.prologue else { return copy(e, code, left, at) };
        let alone = e.cmp(Cmp::Eq, e.call_field(args.call, Field::Rows), e.i64(1));
        e.if_then(alone, || make(e, code, prologue, at, args));
        e.if_then(e.not(alone), || copy(e, code, left, at));
    });
}

/// Remembers the row for the next product; one that is not read ahead may have only a part of it.
pub fn keep<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>) {
    if is_read_ahead(code) {
        let kept = e.shared_place(KEPT, KEPT_BYTES);
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(kept, left);
            e.store(e.offset_by(kept, 8), e.i64(code.sizes[2]));
        });
    }
}

/// Does the maker's work for the call's one row.
fn make<'c>(e: &Emitter<'c>, code: &Matmul, prologue: &Prologue, at: usize, args: KernelArgs<'c>) {
    let (nests, shared) = (&prologue.nests, at + 4 * padded(code));
    let setting = Setting { lanes: 1, scratch: nests.scratch, schedule: Schedule::GPU, shared: Some(shared), vnni: false };
    let mut site = Site::new(e, args, &nests.tensors, setting);
    let own = e.offset_by(e.shared_memory(), at);
    prologue.row().for_each(|tensor| site.set_base(tensor, own));
    site.set_row(e.i64(0), code.rows == Rows::Wanted);
    nest::row(&mut site, nests, shared);
}

/// Zeros behind the row.
fn fill(e: &Emitter, code: &Matmul, at: usize) {
    let (depth, end) = (code.sizes[2], padded(code));
    if depth < end {
        let thread = e.to_i64(e.thread());
        for_each(e, e.add(thread, e.i64(depth)), e.i64(end), e.i64(THREADS), |number| {
            e.store(e.element(e.offset_by(e.shared_memory(), at), number, 4), e.f32(0.0));
        });
    }
}

/// Copies the row, four numbers a thread at a time.
fn copy<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>, at: usize) {
    let to = e.offset_by(e.shared_memory(), at);
    let aligned = Dot::of(code, 1).aligned;
    for_each(e, e.to_i64(e.thread()), e.i64(code.sizes[2] / 4), e.i64(THREADS), |four| {
        let place = e.element(left, four, 16);
        let own = match aligned {
            true => e.load_aligned(place, Ty::f32(4)),
            false => {
                let lanes = (0..4).map(|at| e.load(e.offset_by(place, 4 * at), Ty::F32));
                lanes.enumerate().fold(e.poison(Ty::f32(4)), |four, (at, x)| e.insert(four, at, x))
            }
        };
        e.store_aligned(e.element(to, four, 16), own);
    });
}
