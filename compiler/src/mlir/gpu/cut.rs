//! Tiles whose contracted axis is cut into parts, where a call has fewer tiles than there are blocks: each block does a part of one, and
//! whoever ends last adds up all parts, in their order.
//!
//! What a block has made of its part lies in its own scratch memory, behind what other steps have there, and behind that a counter of the tile
//! whose number is the block's.

use super::THREADS;
use super::matmul::Product;
use super::tile::Tile;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Field, Ty, Val};
use crate::plan::SMALL;

/// Least stages of a part: there are so many under way as it begins.
const LEAST: i64 = 4;
/// Parts that are loaded together.
const TOGETHER: usize = 4;
/// Numbers of a copy.
const FOUR: usize = COPY / 4;

/// Bytes of what a part leaves, and of the counter behind it.
pub const SCRATCH: usize = 4 * SMALL.rows * SMALL.columns + COPY;

/// The part of a tile that is at hand; `i64`.
#[derive(Clone, Copy)]
pub(super) struct Part<'c> {
    /// The tile's number, and of how many.
    pub(super) tile: Val<'c>,
    tiles: Val<'c>,
    /// Which part, and of how many.
    own: Val<'c>,
    parts: Val<'c>,
    /// The first number of the contracted axis, and how many.
    pub(super) first: Val<'c>,
    pub(super) depth: Val<'c>,
}

impl<'c> Product<'_, 'c> {
    /// Whether its tiles of a shape may be cut.
    pub(super) fn is_cut(&self, tile: Tile) -> bool {
        self.parts > 1 && tile.tiling == SMALL
    }

    /// Does `body` for the part of a tile that a task is, of so many rows; tasks behind the last part have nothing to do.
    pub(super) fn part(&mut self, tile: Tile, (task, count): (Val<'c>, Val<'c>), body: impl FnOnce(&mut Self, Part<'c>)) {
        let e = self.e;
        let tiles = e.mul(e.div_up(count, e.i64(SMALL.rows)), e.i64(self.code.sizes[3].div_ceil(SMALL.columns)));
        let depth = e.i64(self.code.sizes[2]);
        let stage = e.i64(tile.depth);
        let stages = e.div_up(depth, stage);
        // Each block has one part at most: its scratch memory is the part's.
        let most = e.min(e.min(e.div(e.blocks(), tiles), e.div(stages, e.i64(LEAST))), e.i64(self.parts));
        let span = e.div_up(stages, e.max(most, e.i64(1)));
        let parts = e.div_up(stages, span);
        let cut = e.cmp(Cmp::Gt, parts, e.i64(1));
        e.if_then(e.cmp(Cmp::Lt, task, e.mul(tiles, parts)), || {
            let number = e.select(cut, e.rem(task, tiles), self.number((task, tiles)));
            let own = e.select(cut, e.div(task, tiles), e.i64(0));
            let first = e.mul(e.mul(own, span), stage);
            let rest = e.sub(depth, first);
            body(self, Part { tile: number, tiles, own, parts, first, depth: e.min(rest, e.mul(span, stage)) });
        });
    }

    /// Where block `block` leaves its part.
    fn left(&self, block: Val<'c>) -> Val<'c> {
        let e = self.e;
        let all = e.device_memory(e.call_field(self.args.call, Field::Scratch));
        let bytes = self.streams.scratch;
        e.offset_by(e.element(all, block, bytes), bytes - SCRATCH)
    }

    /// Does `body` when the sums of all parts are in shared memory, by the block that has the last of them.
    pub(super) fn joined(&mut self, tile: Tile, part: Part<'c>, body: impl FnOnce(&mut Self)) {
        let e = self.e;
        let cut = e.cmp(Cmp::Gt, part.parts, e.i64(1));
        let last = e.if_else(cut, || vec![self.leave_part(tile, part)], || vec![e.bool(true)])[0];
        e.if_then(last, || body(self));
    }

    /// Leaves the sums of a part; if it is the last one to be left, adds up all of them. Gives whether it is.
    fn leave_part(&self, tile: Tile, part: Part<'c>) -> Val<'c> {
        let e = self.e;
        let (memory, copies) = (self.tile_memory(), e.i64(tile.tiling.rows * tile.tiling.columns / FOUR));
        let (thread, step) = (e.to_i64(e.thread()), e.i64(THREADS));
        let at = |base: Val<'c>, copy: Val<'c>| e.element(base, copy, COPY);
        let own = self.left(e.block_number());
        for_each(e, thread, copies, step, |copy| {
            e.store_aligned(at(own, copy), e.load_aligned(at(memory, copy), Ty::f32(FOUR)));
        });
        let counter = e.offset_by(self.left(part.tile), SCRATCH - COPY);
        let flag = e.shared_place("last_part", 4);
        let last = e.last_of_some((counter, part.parts), e.thread(), flag, || e.sync());
        e.if_then(last, || {
            for_each(e, thread, copies, step, |copy| {
                let start = vec![e.float(Ty::f32(FOUR), 0.0)];
                let sum = e.for_loop(e.i64(0), part.parts, e.i64(TOGETHER), &start, |first, sum| {
                    let numbers: Vec<Val> = (0..TOGETHER).map(|by| e.add(first, e.i64(by))).collect();
                    let load = |number: &Val<'c>| {
                        let there = e.cmp(Cmp::Lt, *number, part.parts);
                        // Past the last one that is loaded again, and left out.
                        let number = e.min(*number, e.sub(part.parts, e.i64(1)));
                        (there, e.load_aligned(at(self.left(self.block_of(part, number)), copy), Ty::f32(FOUR)))
                    };
                    let loaded: Vec<_> = numbers.iter().map(load).collect();
                    let none = e.float(Ty::f32(FOUR), 0.0);
                    let add = |sum: Val<'c>, (there, own): (Val<'c>, Val<'c>)| e.add(sum, e.select(there, own, none));
                    vec![loaded.into_iter().fold(sum[0], add)]
                });
                e.store_aligned(at(memory, copy), sum[0]);
            });
            e.sync();
        });
        last
    }

    /// The block that does part `number` of the same tile: tasks are dealt to blocks one after the other.
    fn block_of(&self, part: Part<'c>, number: Val<'c>) -> Val<'c> {
        let e = self.e;
        let ahead = e.mul(e.sub(number, part.own), part.tiles);
        let block = e.add(e.block_number(), ahead);
        // Within a round of all blocks in either direction.
        e.rem(e.add(block, e.blocks()), e.blocks())
    }
}
