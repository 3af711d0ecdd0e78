//! Rows of a call of many that are little work each: a warp does one, in scratch of its own, and a block has one for each of its warps.

use super::{WARPS, nest};
use crate::fuse::kernel::{Base, Nests, Rows};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Val};
use crate::plan::{ROWS_OF_A_BLOCK, STEP_ROWS, by_warps};

/// Each warp has a row.
const _: () = assert!(ROWS_OF_A_BLOCK == WARPS);

/// Shared memory of a block, in calls of many rows: the scratch of each warp; bytes.
pub fn shared_bytes(code: &Nests) -> usize {
    if by_warps(code) { WARPS * scratch_bytes(code) } else { 0 }
}

fn scratch_bytes(code: &Nests) -> usize {
    code.scratch.next_multiple_of(16)
}

/// Rows that are walked.
fn count<'c>(e: &Emitter<'c>, args: KernelArgs<'c>, rows: Rows) -> Val<'c> {
    e.call_field(args.call, if rows == Rows::Wanted { Field::Wanted } else { Field::Rows })
}

/// Whether tasks are rows for all warps of a block, rather than one row.
pub fn has_many<'c>(e: &Emitter<'c>, args: KernelArgs<'c>, rows: Rows) -> Val<'c> {
    e.cmp(Cmp::Gt, count(e, args, rows), e.i64(STEP_ROWS))
}

/// Does `body` for the warp's row of a task, if there is one.
pub fn for_row<'c>(e: &Emitter<'c>, args: KernelArgs<'c>, (rows, task): (Rows, Val<'c>), body: impl FnOnce(Val<'c>)) {
    let row = e.add(e.mul(task, e.i64(WARPS)), warp(e));
    e.if_then(e.cmp(Cmp::Lt, row, count(e, args, rows)), || body(row));
}

fn warp<'c>(e: &Emitter<'c>) -> Val<'c> {
    e.to_i64(e.shift_right(e.thread(), i64::from(WARP.ilog2())))
}

/// A task: a row for each warp, or, where there are few, one for the block.
pub fn task<'c>(site: &mut Site<'_, 'c>, code: &Nests, (rows, task): (Rows, Val<'c>)) {
    let (e, args) = (site.e, site.args);
    let many = has_many(e, args, rows);
    e.if_then(e.not(many), || {
        site.set_row(task, rows == Rows::Wanted);
        e.sync();
        nest::row(site, code, 0);
    });
    e.if_then(many, || {
        let own = e.element(e.shared_memory(), warp(e), scratch_bytes(code));
        for (at, tensor) in code.tensors.iter().enumerate() {
            if let Base::Scratch(byte) = tensor.base {
                site.set_base(at, e.offset_by(own, byte));
            }
        }
        // Another kernel may have left its own there; lanes are done with the row before.
        e.sync();
        for_row(e, args, (rows, task), |row| {
            site.set_row(row, rows == Rows::Wanted);
            nest::row_of_warp(site, code);
        });
    });
}
