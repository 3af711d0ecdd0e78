//! The rows of products as the copy engine brings them to the matrix units: bfloat16 numbers, one row behind the other.

use super::ROUNDING_THREADS;
use super::product::Group;
use super::sorts::Lists;
use crate::fuse::kernel::{BATCH, DEPTH, INNER, Matmul, Prologue, Store};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Emitter, Field, KernelArgs, Ty, Val};
use crate::mlir::gpu::held::Held;
use crate::mlir::gpu::wide::side_by_side;
use crate::mlir::gpu::{THREADS, nest, row};

/// Numbers that a thread rounds at once.
const ROUNDED: usize = 8;
/// Threads share what makes a row as they do in the walk of steps.
const _: () = assert!(ROUNDING_THREADS == THREADS);

/// Shared memory of a block: a row, if it is made here, and what makes it.
pub fn shared_bytes(group: &Group) -> usize {
    let code = group.first();
    code.prologue.as_ref().map_or(0, |prologue| row_bytes(code.sizes[2]) + nest::shared_bytes(&prologue.nests))
}

fn row_bytes(numbers: usize) -> usize {
    (4 * numbers).next_multiple_of(64)
}

/// Whether each choice of a row has a row of its own.
fn has_own_rows(code: &Matmul) -> bool {
    code.sizes[0] > 1 && code.left.strides.iter().any(|(axis, _)| *axis == INNER)
}

/// Rounds the rows of the left operand, which are made first where the product says how. Where rows choose their weights (`lists`), each goes
/// to the places of its choices.
pub fn round<'c>(
    e: &Emitter<'c>,
    group: &Group,
    setting: Setting,
    args: KernelArgs<'c>,
    (to, lists): (Val<'c>, Option<Lists<'c>>),
) {
    let code = group.first();
    let mut site = Site::new(e, args, &code.tensors, setting);
    site.index.insert(BATCH, e.i64(0));
    site.index.insert(DEPTH, e.i64(0));
    let (depth, rows, own) = (code.sizes[2], e.call_field(args.call, Field::Rows), has_own_rows(code));
    let count = if own { e.mul(rows, e.i64(code.sizes[0])) } else { rows };
    for_each(e, e.block_number(), count, e.blocks(), |number| {
        let places: Vec<Val> = match lists {
            None => vec![number],
            Some(lists) if own => vec![lists.place(e, number)],
            Some(lists) => {
                let first = e.mul(number, e.i64(code.sizes[0]));
                (0..code.sizes[0]).map(|at| lists.place(e, e.add(first, e.i64(at)))).collect()
            }
        };
        let to: Vec<Val> = places.into_iter().map(|place| e.element(to, place, 2 * depth)).collect();
        if let Some(prologue) = &code.prologue {
            // All are done with the row before.
            e.sync();
            return make(e, (prologue, depth), args, (number, &to));
        }
        match own {
            true => site.set_product_row(code, number),
            false => {
                site.set_row(number, false);
                site.index.insert(INNER, e.i64(0));
            }
        }
        copy(e, site.address(&code.left), depth, &to);
    });
}

/// Makes a row of so many numbers, and puts it rounded to some places.
fn make<'c>(e: &Emitter<'c>, (prologue, depth): (&Prologue, usize), args: KernelArgs<'c>, (number, to): (Val<'c>, &[Val<'c>])) {
    let (row, shared) = (e.shared_memory(), row_bytes(depth));
    let mut site = row::site(e, prologue, (row, shared), args, (number, false));
    if let Some(held) = Held::of(&prologue.nests) {
        let put = |first: Val<'c>, eight: &[Val<'c>]| {
            let made = side_by_side(e, Store::Bf16, eight);
            to.iter().for_each(|to| e.store_aligned(e.element(*to, first, 2), made));
        };
        return held.emit(&mut site, e.offset_by(row, shared + nest::sums_at(&prologue.nests)), &put);
    }
    nest::row(&mut site, &prologue.nests, shared);
    e.sync();
    copy(e, row, depth, to);
}

/// Rounds so many numbers from an address on, and puts them to some places.
fn copy<'c>(e: &Emitter<'c>, from: Val<'c>, depth: usize, to: &[Val<'c>]) {
    for_each(e, e.to_i64(e.thread()), e.i64(depth / ROUNDED), e.i64(ROUNDING_THREADS), |number| {
        let made = rounded(e, e.element(from, number, 4 * ROUNDED));
        to.iter().for_each(|to| e.store_aligned(e.element(*to, number, 2 * ROUNDED), made));
    });
}

/// [`ROUNDED`] numbers from an address on.
fn rounded<'c>(e: &Emitter<'c>, from: Val<'c>) -> Val<'c> {
    let pairs = (0..ROUNDED / 4).flat_map(|at| {
        let four = e.load_aligned(e.offset_by(from, 16 * at), Ty::f32(4));
        [0, 2].map(|at| e.pack_bf16(e.extract(four, at), e.extract(four, at + 1)))
    });
    pairs.enumerate().fold(e.poison(Ty::i32(ROUNDED / 2)), |whole, (at, pair)| e.insert(whole, at, pair))
}
