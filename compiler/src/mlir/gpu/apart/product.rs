//! A product of many rows: tiles of 128 rows by some columns.

use super::pipeline::Pipeline;
use super::{ALIGNED, AT_ONCE, NUMBERS, ROUNDING_THREADS, ROWS};
use crate::fuse::kernel::{BATCH, DEPTH, Matmul};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::mlir::gpu::MOST_ROWS;
use crate::plan::{self, Tiling};

/// Stages under way.
const STAGES: usize = 4;
/// Numbers that a thread rounds at once.
const ROUNDED: usize = 8;

/// A product whose calls of many rows are launches of their own.
#[derive(Clone, Copy, Debug)]
pub struct Apart {
    /// Its tiles.
    pub tiling: Tiling,
    /// Rows of a call from which on it is.
    pub from: usize,
}

impl Apart {
    /// Of a product; `groups`: the GPU multiplies for groups of four warps.
    pub fn of(code: &Matmul, groups: bool) -> Option<Apart> {
        let (tiling, from) = plan::apart(code)?;
        (groups && from <= MOST_ROWS).then_some(Apart { tiling, from })
    }

    /// Bytes of a stage: rows, then columns.
    fn stage_bytes(&self) -> usize {
        (self.tiling.rows + self.tiling.columns) * NUMBERS * 2
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        ALIGNED + Pipeline::shared_bytes(STAGES, self.stage_bytes())
    }

    /// Emits the body of the entry that multiplies, with maps of rounded rows and of weights.
    pub fn emit<'c>(
        &self,
        e: &Emitter<'c>,
        code: &Matmul,
        setting: Setting,
        args: KernelArgs<'c>,
        [rows, weights]: [Val<'c>; 2],
    ) {
        let memory = e.aligned(e.shared_memory(), ALIGNED);
        let pipeline = Pipeline { e, memory, stages: STAGES, bytes: self.stage_bytes() };
        let work = Work { e, apart: *self, code, setting, args, pipeline };
        super::roles(e, &pipeline, || work.ask(rows, weights), |group| work.multiply(group));
    }
}

/// Rounds the rows of the left operand, one behind the other.
pub fn round<'c>(e: &Emitter<'c>, code: &Matmul, setting: Setting, args: KernelArgs<'c>, to: Val<'c>) {
    let mut site = Site::new(e, args, &code.tensors, setting);
    site.index.insert(BATCH, e.i64(0));
    site.index.insert(DEPTH, e.i64(0));
    let (depth, rows) = (code.sizes[2], e.call_field(args.call, Field::Rows));
    for_each(e, e.block_number(), rows, e.blocks(), |row| {
        site.set_product_row(code, row);
        let (from, to) = (site.address(&code.left), e.element(to, row, 2 * depth));
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

/// One launch.
pub(super) struct Work<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) apart: Apart,
    pub(super) code: &'k Matmul,
    setting: Setting,
    pub(super) args: KernelArgs<'c>,
    pipeline: Pipeline<'k, 'c>,
}

/// Where a tile begins; 32-bit.
#[derive(Clone, Copy)]
pub(super) struct Place<'c> {
    pub(super) row: Val<'c>,
    pub(super) column: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    /// Stages of a tile.
    fn stages(&self) -> Val<'c> {
        self.e.i32(self.code.sizes[2].div_ceil(NUMBERS) as i32)
    }

    /// Does `body` for each tile of the block, with values carried from one to the next.
    fn tiles(&self, start: &[Val<'c>], body: impl FnOnce(Place<'c>, &[Val<'c>]) -> Vec<Val<'c>>) {
        let (e, Tiling { rows, columns }) = (self.e, self.apart.tiling);
        let count = e.to_i32(e.call_field(self.args.call, Field::Rows));
        let down = e.div(e.add(count, e.i32(rows as i32 - 1)), e.i32(rows as i32));
        let across = e.i32(self.code.sizes[3].div_ceil(columns) as i32);
        let (block, blocks) = (e.to_i32(e.block_number()), e.to_i32(e.blocks()));
        e.for_loop(block, e.mul(down, across), blocks, start, |number, state| {
            // Blocks side by side have the same columns, whose weights are then read once.
            let (row, column) = (e.rem(number, down), e.div(number, down));
            body(Place { row: e.mul(row, e.i32(rows as i32)), column: e.mul(column, e.i32(columns as i32)) }, state)
        });
    }

    /// One thread asks for all stages of all tiles.
    fn ask(&self, rows: Val<'c>, weights: Val<'c>) {
        let e = self.e;
        self.tiles(&[e.i32(0)], |place, state| {
            e.for_loop(e.i32(0), self.stages(), e.i32(1), state, |stage, state| {
                let turn = state[0];
                let barrier = self.pipeline.begin(turn);
                let (to, first) = (self.pipeline.place(turn), e.mul(stage, e.i32(NUMBERS as i32)));
                e.begin_matrix_copy(to, rows, (first, place.row), barrier);
                let behind = e.offset_by(to, self.apart.tiling.rows * NUMBERS * 2);
                e.begin_matrix_copy(behind, weights, (first, place.column), barrier);
                vec![e.add(turn, e.i32(1))]
            })
        });
    }

    /// Group `group` multiplies its rows of all tiles.
    fn multiply(&self, group: Val<'c>) {
        let (e, tiling) = (self.e, self.apart.tiling);
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let first = e.cmp(Cmp::Eq, lane, e.i32(0));
        let one = e.i32(1);
        let mut site = Site::new(e, self.args, &self.code.tensors, self.setting);
        site.index.insert(BATCH, e.i64(0));
        self.tiles(&[e.i32(0)], |place, state| {
            let start: Vec<Val> = state.iter().copied().chain(vec![e.f32(0.0); tiling.columns / 2]).collect();
            let end = e.for_loop(e.i32(0), self.stages(), one, &start, |stage, state| {
                let (turn, sums) = (state[0], &state[1..]);
                self.pipeline.arrive(turn);
                let sums = e.begin_products(&self.operands(turn, group), sums);
                // While these go on, those before are done.
                e.await_products(1);
                e.if_then(e.and(first, e.cmp(Cmp::Gt, stage, e.i32(0))), || self.pipeline.leave(e.sub(turn, one)));
                std::iter::once(e.add(turn, one)).chain(sums).collect()
            });
            e.await_products(0);
            e.if_then(first, || self.pipeline.leave(e.sub(end[0], one)));
            self.finish(&mut site, place, group, &end[1..]);
            vec![end[0]]
        });
    }

    /// What the group's instructions multiply of the stage of a turn.
    fn operands(&self, turn: Val<'c>, group: Val<'c>) -> Vec<(Val<'c>, Val<'c>)> {
        let e = self.e;
        let place = self.pipeline.place(turn);
        let own = e.element(place, e.to_i64(group), ROWS * NUMBERS * 2);
        let left = e.matrix_at(own);
        let right = e.matrix_at(e.offset_by(place, self.apart.tiling.rows * NUMBERS * 2));
        let behind = |matrix: Val<'c>, at: usize| e.matrix_behind(matrix, e.i64(at * AT_ONCE * 2));
        (0..NUMBERS / AT_ONCE).map(|at| (behind(left, at), behind(right, at))).collect()
    }
}
