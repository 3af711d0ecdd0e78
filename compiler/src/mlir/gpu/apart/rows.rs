//! The rows of products as the copy engine brings them to the matrix units: bfloat16 numbers, one row behind the other.

use super::ROUNDING_THREADS;
use super::product::Group;
use crate::fuse::kernel::{BATCH, DEPTH};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Emitter, Field, KernelArgs, Ty, Val};
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

/// Rounds the rows of the left operand, which are made first where the product says how.
pub fn round<'c>(e: &Emitter<'c>, group: &Group, setting: Setting, args: KernelArgs<'c>, to: Val<'c>) {
    let code = group.first();
    let mut site = Site::new(e, args, &code.tensors, setting);
    site.index.insert(BATCH, e.i64(0));
    site.index.insert(DEPTH, e.i64(0));
    let (depth, rows) = (code.sizes[2], e.call_field(args.call, Field::Rows));
    for_each(e, e.block_number(), rows, e.blocks(), |number| {
        let from = match &code.prologue {
            Some(prologue) => {
                let own = e.shared_memory();
                // All are done with the row before.
                e.sync();
                row::make(e, prologue, (own, row_bytes(depth)), args, (number, false));
                e.sync();
                own
            }
            None => {
                site.set_product_row(code, number);
                site.address(&code.left)
            }
        };
        let to = e.element(to, number, 2 * depth);
        for_each(e, e.to_i64(e.thread()), e.i64(depth / ROUNDED), e.i64(ROUNDING_THREADS), |number| {
            let from = e.element(from, number, 4 * ROUNDED);
            let pairs = (0..ROUNDED / 4).flat_map(|at| {
                let four = e.load_aligned(e.offset_by(from, 16 * at), Ty::f32(4));
                [0, 2].map(|at| e.pack_bf16(e.extract(four, at), e.extract(four, at + 1)))
            });
            let whole = pairs.enumerate().fold(e.poison(Ty::i32(ROUNDED / 2)), |whole, (at, pair)| e.insert(whole, at, pair));
            e.store_aligned(e.element(to, number, 2 * ROUNDED), whole);
        });
    });
}
