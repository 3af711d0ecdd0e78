//! Products whose rows choose their weights, in tiles: a block looks for the rows that chose one batch element, and multiplies them as
//! soon as there are enough for a tile.

use super::matmul::Product;
use super::tile::Tile;
use super::tiles::Place;
use super::{THREADS, WARPS};
use crate::fuse::kernel::BATCH;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Rows that a thread looks at together.
const EACH: usize = 8;
/// Rows that a block looks at together.
const ROUND: usize = EACH * THREADS;
/// Most rows of a tile.
const MOST: usize = 128;

/// Shared memory for the numbers of rows, and for how many each warp found.
pub fn list_bytes() -> usize {
    4 * (MOST + ROUND + WARPS)
}

impl<'c> Product<'_, 'c> {
    /// All rows that chose a batch element times some columns.
    pub fn chosen_tiles(&mut self, tile: Tile, task: Val<'c>, count: Val<'c>) {
        let e = self.e;
        let width = tile.tiling.columns;
        let across = e.i64(self.code.sizes[3].div_ceil(width));
        let (element, column) = (e.div(task, across), e.mul(e.rem(task, across), e.i64(width)));
        let list = e.offset_by(self.tile_memory(), tile.shared_bytes() + 8 * tile.tiling.rows);
        let place = Place { element, row: e.i64(0), column, list: Some(list) };
        let rows = e.i64(tile.tiling.rows);
        let left = e.for_loop(e.i64(0), count, e.i64(ROUND), &[e.i64(0)], |first, found| {
            let found = self.look(element, list, (first, count), found[0]);
            let whole = e.mul(e.div(found, rows), rows);
            for_each(e, e.i64(0), whole, rows, |from| {
                let list = e.element(list, from, 4);
                self.tile_at(tile, Place { list: Some(list), ..place }, rows, None);
            });
            let left = e.sub(found, whole);
            move_up(e, list, (whole, left));
            vec![left]
        });
        e.if_then(e.cmp(Cmp::Gt, left[0], e.i64(0)), || self.tile_at(tile, place, left[0], None));
    }

    /// Adds those of a round's rows to the list that chose the element, in their order; gives how many are there then.
    fn look(&mut self, element: Val<'c>, list: Val<'c>, (first, count): (Val<'c>, Val<'c>), found: Val<'c>) -> Val<'c> {
        let e = self.e;
        let totals = e.offset_by(list, 4 * (MOST + ROUND));
        let own = e.add(first, e.mul(e.to_i64(e.thread()), e.i64(EACH)));
        let rows: Vec<Val> = (0..EACH).map(|at| e.add(own, e.i64(at))).collect();
        let hits: Vec<Val> = rows.iter().map(|row| self.chose(element, *row, count)).collect();
        let ones: Vec<Val> = hits.iter().map(|hit| e.select(*hit, e.i32(1), e.i32(0))).collect();
        let sum = ones.iter().skip(1).fold(ones[0], |sum, one| e.add(sum, *one));
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let (warp, upto) = (e.shift_right(e.thread(), i64::from(WARP.ilog2())), summed(e, lane, sum));
        e.if_then(e.cmp(Cmp::Eq, lane, e.i32(WARP as i32 - 1)), || e.store(e.element(totals, e.to_i64(warp), 4), upto));
        e.sync();
        let (mut before, mut all) = (e.to_i32(found), e.to_i32(found));
        for other in 0..WARPS {
            let total = e.load(e.offset_by(totals, 4 * other), Ty::I32);
            let is_before = e.cmp(Cmp::Lt, e.i32(other as i32), warp);
            before = e.add(before, e.select(is_before, total, e.i32(0)));
            all = e.add(all, total);
        }
        let mut place = e.add(before, e.sub(upto, sum));
        for ((row, hit), one) in rows.into_iter().zip(hits).zip(ones) {
            e.if_then(hit, || e.store(e.element(list, e.to_i64(place), 4), e.to_i32(row)));
            place = e.add(place, one);
        }
        e.sync();
        e.to_i64(all)
    }

    /// Whether a row chose the element.
    fn chose(&mut self, element: Val<'c>, row: Val<'c>, count: Val<'c>) -> Val<'c> {
        let e = self.e;
        let there = e.cmp(Cmp::Lt, row, count);
        let Some((ids, _)) = &self.code.chosen else { return there };
        self.site.index.insert(BATCH, e.i64(0));
        self.site.set_product_row(self.code, e.min(row, e.sub(count, e.i64(1))));
        let id = e.to_i64(e.load(self.site.address(ids), Ty::I32));
        e.and(there, e.cmp(Cmp::Eq, id, element))
    }
}

/// The sum of a value over the lanes up to this one; `i32`.
pub(super) fn summed<'c>(e: &Emitter<'c>, lane: Val<'c>, value: Val<'c>) -> Val<'c> {
    let mut sum = value;
    for by in (0..WARP.ilog2()).map(|bit| 1 << bit) {
        let other = e.of_lane(sum, e.max(e.sub(lane, e.i32(by)), e.i32(0)));
        sum = e.add(sum, e.select(e.cmp(Cmp::Ge, lane, e.i32(by)), other, e.i32(0)));
    }
    sum
}

/// Moves what is left in a list to its beginning.
fn move_up<'c>(e: &Emitter<'c>, list: Val<'c>, (from, count): (Val<'c>, Val<'c>)) {
    let thread = e.to_i64(e.thread());
    let mine = e.cmp(Cmp::Lt, thread, count);
    e.sync();
    let kept = e.load(e.element(list, e.add(from, e.select(mine, thread, e.i64(0))), 4), Ty::I32);
    e.sync();
    e.if_then(mine, || e.store(e.element(list, thread, 4), kept));
    e.sync();
}

/// A thread for each row that is left over.
const _: () = assert!(MOST <= THREADS);
