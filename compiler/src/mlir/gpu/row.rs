//! The row that a product multiplies, in shared memory: copied, or made there by the block itself. In a launch that reads ahead it
//! stays for the next product, if that multiplies the same row.

use super::ahead::Ahead;
use super::dot::Dot;
use super::halves;
use super::held::{EIGHT, Held};
use super::matmul::keeps_row;
use super::parts::Parts;
use super::wide::side_by_side;
use super::{THREADS, nest};
use crate::fuse::kernel::{Matmul, Prologue, Rows, Store};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Elem, Emitter, Field, KernelArgs, Ty, Val};
use crate::schedule::Schedule;
use braid_runtime::artifact::Dtype;

/// Where the block remembers which row it has: the address that the row has, or would have, in the device's memory, and how many
/// numbers, and what was made of them. Another row may begin at the same place.
const KEPT: &str = "kept_row";
const KEPT_BYTES: usize = 16;

/// Bytes of a row in shared memory: as stream.rs multiplies it, whole units where that reads behind its end.
fn row_bytes(code: &Matmul) -> usize {
    match parts(code) {
        Some(parts) => parts.row_bytes(code.sizes[2]).next_multiple_of(64),
        // What lies behind a row of halves is not read.
        None if halves::are_used(Dot::of(code, 1)) => 4 * code.sizes[2],
        None => 4 * code.sizes[2].next_multiple_of(WARP * Dot::of(code, 1).vector),
    }
}

/// How the product's weights are stored, if they are quantised: the row becomes integers.
fn parts(code: &Matmul) -> Option<Parts> {
    Parts::of(code.tensors[code.weights.0].store)
}

/// What tells rows apart that begin at the same place: how many numbers, and what was made of them.
fn kind(code: &Matmul) -> i64 {
    let halved = halves::are_used(Dot::of(code, 1)).then_some(Dtype::Bf16);
    let made = parts(code).map(|parts| parts.dtype).or(halved).map_or(0, |dtype| 1 + dtype as i64);
    code.sizes[2] as i64 | made << 48
}

/// Shared bytes of a row of the product that begins at byte `at`, and of what makes it.
pub fn end(code: &Matmul, at: usize) -> usize {
    let end = at + row_bytes(code);
    code.prologue.as_ref().map_or(end, |prologue| end + nest::shared_bytes(&prologue.nests))
}

/// Forgets the row: its place is used for something else, or it may have changed.
pub fn forget(e: &Emitter) {
    let kept = e.shared_place(KEPT, KEPT_BYTES);
    e.if_then(e.cmp(Cmp::Eq, e.thread_anew(), e.i32(0)), || e.store(kept, e.i64(0)));
}

/// Whether the block has the product's row from the last one.
fn is_kept<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>) -> Val<'c> {
    if !keeps_row(code) {
        return e.bool(false);
    }
    let kept = e.shared_place(KEPT, KEPT_BYTES);
    let place = e.cmp(Cmp::Eq, e.load(kept, Ty::scalar(Elem::Global)), left);
    let kind = e.cmp(Cmp::Eq, e.load(e.offset_by(kept, 8), Ty::I64), e.i64(kind(code)));
    e.and(Ahead::is_on(e), e.and(place, kind))
}

/// Puts a row of the product's left operand to byte `at` of shared memory, unless it is there. `left`: where it is in the
/// device's memory. All threads of the block; they see it afterwards.
pub fn fetch<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>, at: usize, args: KernelArgs<'c>) {
    let there = is_kept(e, code, left);
    let short = parts(code).is_none() && 4 * code.sizes[2] < row_bytes(code);
    if short {
        fill(e, code, at);
    }
    e.if_then(e.not(there), || {
        bring(e, code, left, at, args);
        if let Some(parts) = parts(code) {
            e.sync();
            parts.prepare(e, e.offset_by(e.shared_memory(), at), code.sizes[2]);
        }
    });
    // Blocks that have the row have met since it came.
    e.if_then(e.or(e.not(there), e.bool(short)), || e.sync());
}

/// Copies the row, or makes it.
fn bring<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>, at: usize, args: KernelArgs<'c>) {
    let Some(prologue) = &code.prologue else { return copy(e, code, left, at) };
    let alone = e.cmp(Cmp::Eq, e.call_field(args.call, Field::Rows), e.i64(1));
    e.if_then(alone, || make(e, code, prologue, at, args));
    e.if_then(e.not(alone), || copy(e, code, left, at));
}

/// Remembers the row for the next product; one that is not read ahead may have only a part of it.
pub fn keep<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>) {
    if keeps_row(code) {
        let kept = e.shared_place(KEPT, KEPT_BYTES);
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(kept, left);
            e.store(e.offset_by(kept, 8), e.i64(kind(code)));
        });
    }
}

/// Does the maker's work for the only row of the call (or, if so, of the wanted ones); what that needs lies behind the row. All threads of the
/// block, which must meet afterwards.
fn make<'c>(e: &Emitter<'c>, code: &Matmul, prologue: &Prologue, at: usize, args: KernelArgs<'c>) {
    let nests = &prologue.nests;
    let (own, shared, halved) = (e.offset_by(e.shared_memory(), at), at + row_bytes(code), halves::are_used(Dot::of(code, 1)));
    let mut site = site(e, prologue, (own, shared), args, (e.i64(0), code.rows == Rows::Wanted));
    if let Some(held) = Held::of(nests) {
        let put = |first: Val<'c>, eight: &[Val<'c>]| {
            let place = e.element(own, first, 4);
            let fours = [0, EIGHT / 2].map(|at| side_by_side(e, Store::F32, &eight[at..at + EIGHT / 2]));
            match halved {
                true => halves::store(e, place, fours),
                false => fours.into_iter().enumerate().for_each(|(at, four)| e.store_aligned(e.offset_by(place, 16 * at), four)),
            }
        };
        return held.emit(&mut site, e.offset_by(e.shared_memory(), shared + nest::sums_at(nests)), &put);
    }
    nest::row(&mut site, nests, shared);
    if halved {
        e.sync();
        halves::prepare(e, own, code.sizes[2]);
    }
}

/// The site of what makes a row of the call (or, if so, of the wanted ones): the row comes to `own` in shared memory, and what is needed to make it
/// begins at byte `shared`.
pub fn site<'k, 'c>(
    e: &'k Emitter<'c>,
    prologue: &'k Prologue,
    (own, shared): (Val<'c>, usize),
    args: KernelArgs<'c>,
    (row, wanted): (Val<'c>, bool),
) -> Site<'k, 'c> {
    let nests = &prologue.nests;
    let setting = Setting { lanes: 1, scratch: nests.scratch, schedule: Schedule::GPU, shared: Some(shared), vnni: false };
    let mut site = Site::new(e, args, &nests.tensors, setting);
    prologue.row().for_each(|tensor| site.set_base(tensor, own));
    site.set_row(row, wanted);
    site
}

/// Zeros behind the row.
fn fill(e: &Emitter, code: &Matmul, at: usize) {
    let thread = e.to_i64(e.thread());
    for_each(e, e.add(thread, e.i64(code.sizes[2])), e.i64(row_bytes(code) / 4), e.i64(THREADS), |number| {
        e.store(e.element(e.offset_by(e.shared_memory(), at), number, 4), e.f32(0.0));
    });
}

/// Loads of a thread that are under way at once.
const AHEAD: usize = 8;

/// Copies the row, four numbers a thread at a time, or eight where they are halved.
fn copy<'c>(e: &Emitter<'c>, code: &Matmul, left: Val<'c>, at: usize) {
    let to = e.offset_by(e.shared_memory(), at);
    let dot = Dot::of(code, 1);
    let each = if halves::are_used(dot) { 2 } else { 1 };
    let (thread, count) = (e.to_i64(e.thread()), code.sizes[2] / (4 * each));
    let load = |place: Val<'c>| {
        if dot.aligned {
            return e.load_aligned(place, Ty::f32(4));
        }
        let lanes = (0..4).map(|at| e.load(e.offset_by(place, 4 * at), Ty::F32));
        lanes.enumerate().fold(e.poison(Ty::f32(4)), |four, (at, x)| e.insert(four, at, x))
    };
    for first in (0..count).step_by(AHEAD / each * THREADS) {
        let turns = (first..count.min(first + AHEAD / each * THREADS)).step_by(THREADS);
        // Past the last numbers those are loaded again.
        let places: Vec<Val> = turns.map(|turn| e.add(thread, e.i64(turn))).collect();
        let own = |number: &Val<'c>| {
            let from = e.element(left, e.min(*number, e.i64(count - 1)), 16 * each);
            (0..each).map(|four| load(e.offset_by(from, 16 * four))).collect()
        };
        let loaded: Vec<Vec<Val>> = places.iter().map(own).collect();
        for (number, own) in places.into_iter().zip(loaded) {
            // Not behind a question: the loads would wait for its answer, one after the other.
            let place = e.element(to, e.min(number, e.i64(count - 1)), 16 * each);
            match own[..] {
                [first, second] => halves::store(e, place, [first, second]),
                _ => own.iter().for_each(|own| e.store_aligned(place, *own)),
            }
        }
    }
}
