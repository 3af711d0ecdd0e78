//! A tile of a product by groups of four warps, where the GPU has them: both operands are read from shared memory by the matrix units
//! themselves, while the threads fetch what comes next.

use super::tile::{Rows, STAGES_OF_ROWS, Weights, Work};
use crate::mlir::common::Val;
use crate::mlir::common::device::WARP;

/// Warps of a group.
const GROUP: usize = 4;
/// Rows of a group.
const ROWS: usize = 64;
/// Numbers of the contracted axis that one instruction takes.
const AT_ONCE: usize = 16;

impl<'c> Work<'_, 'c> {
    /// All stages.
    pub(super) fn walk_in_groups(&self, rows: Rows<'c>, columns: Weights<'c>) {
        let (e, tile) = (self.e, self.tile);
        let count = tile.tiling.columns / 2;
        self.begin(&rows, &columns);
        let group = e.shift_right(e.thread(), i64::from((GROUP * WARP).ilog2()));
        let own = e.offset(self.memory, e.to_i64(e.mul(group, e.i32((ROWS * tile.row_bytes()) as i32))));
        let (left, right) = (e.matrix_at(own), e.matrix_at(self.weights_at));
        let start: Vec<Val> = vec![e.f32(0.0); count].into_iter().chain(self.fetch(&rows, &columns, e.i32(1))).collect();
        let end = e.for_loop(e.i32(0), self.stages(), e.i32(1), &start, |stage, state| {
            let (sums, own) = state.split_at(count);
            self.await_weights(&columns);
            e.show_shared();
            e.sync();
            let ring = |stages: usize, lines: usize| {
                let bytes = e.i32((lines * tile.row_bytes()) as i32);
                e.to_i64(e.mul(e.and(stage, e.i32(stages as i32 - 1)), bytes))
            };
            let left = e.matrix_behind(left, ring(STAGES_OF_ROWS, tile.tiling.rows));
            let right = e.matrix_behind(right, ring(tile.stages(), tile.tiling.columns));
            let step = |matrix: Val<'c>, step: usize| e.matrix_behind(matrix, e.i64(step * AT_ONCE * 2));
            let steps = (0..tile.depth / AT_ONCE).map(|at| (step(left, at), step(right, at))).collect::<Vec<_>>();
            let made = e.begin_products(&steps, sums);
            let next = self.go_on(&rows, &columns, own, stage);
            // The loads begin here: they take as long as a stage.
            e.sync_warp();
            e.await_products(0);
            made.into_iter().chain(next).collect()
        });
        e.wait_copies(0);
        e.sync();
        self.leave(&end[..count]);
    }
}
