//! Products of many rows, tile by tile on the matrix units (tile.rs): where a tile's rows and columns are, and its epilogue.

use super::cut::Part;
use super::matmul::Product;
use super::tile::Tile;
use super::{THREADS, grouped};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{BATCH, COLUMN, DEPTH, Matmul};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};
use crate::plan::{STEP_ROWS, Tiling, chosen_tiling, tilings};

/// Results of a thread that are under way at once.
const AHEAD: usize = 8;

/// What the matrix units want operands to be aligned to, in bytes.
const TILE_ALIGN: usize = 1024;

/// Shared memory of a product in tiles: addresses of a tile's rows, and what the tile needs; bytes.
pub fn shared_bytes(code: &Matmul, groups: bool) -> usize {
    let own = |(tiling, _)| TILE_ALIGN + Tile::of(code, tiling, groups).shared_bytes() + 8 * tiling.rows;
    let chosen = chosen_tiling(code).map_or(0, |chosen| own(chosen) + grouped::list_bytes());
    tilings(code).into_iter().map(own).max().unwrap_or(0).max(chosen)
}

/// A tile: the batch element, the first row and the first column.
#[derive(Clone, Copy)]
pub(super) struct Place<'c> {
    pub(super) element: Val<'c>,
    pub(super) row: Val<'c>,
    pub(super) column: Val<'c>,
    /// Where the numbers of its rows are listed, if they do not follow one another; `i32`.
    pub(super) list: Option<Val<'c>>,
}

impl<'c> Place<'c> {
    /// The number of a row of the tile.
    fn number(&self, e: &Emitter<'c>, row: Val<'c>) -> Val<'c> {
        match self.list {
            Some(list) => e.to_i64(e.load(e.element(list, row, 4), Ty::I32)),
            None => e.add(self.row, row),
        }
    }
}

impl<'c> Product<'_, 'c> {
    /// Does the call in tiles if it has many rows; gives whether it did.
    pub fn tiles(&mut self, count: Val<'c>) -> Val<'c> {
        let e = self.e;
        let rows = e.call_field(self.args.call, Field::Rows);
        let mut left = e.cmp(Cmp::Gt, rows, e.i64(STEP_ROWS));
        let mut done = e.bool(false);
        for (tiling, from) in tilings(self.code).into_iter().rev() {
            let tile = Tile::of(self.code, tiling, e.has_groups());
            tile.emit(e);
            let own = e.and(left, e.cmp(Cmp::Ge, count, e.i64(from)));
            e.if_then(own, || {
                for_each(e, self.args.begin, self.args.end, e.blocks(), |task| self.one_tile(tile, task, count));
            });
            done = e.or(done, own);
            left = e.and(left, e.not(own));
        }
        if let Some((tiling, from)) = chosen_tiling(self.code) {
            let tile = Tile::of(self.code, tiling, e.has_groups());
            tile.emit(e);
            done = e.cmp(Cmp::Ge, rows, e.i64(from));
            e.if_then(done, || {
                for_each(e, self.args.begin, self.args.end, e.blocks(), |task| self.chosen_tiles(tile, task, count));
            });
        }
        done
    }

    /// Where a tile is. Tiles come in pairs of the same rows, and pairs of the same columns one after the other, so that the weights are
    /// read at the same time; what an odd number of columns leaves over comes last.
    fn place(&self, tile: Tile, number: Val<'c>, count: Val<'c>) -> Place<'c> {
        let e = self.e;
        let Tiling { rows, columns } = tile.tiling;
        let across = self.code.sizes[3].div_ceil(columns);
        let (rows, in_pairs) = (e.i64(rows), e.i64(across / 2 * 2));
        let down = e.div_up(count, rows);
        let (element, number) = match self.code.sizes[1] {
            1 => (e.i64(0), number),
            _ => (e.div(number, e.mul(down, e.i64(across))), e.rem(number, e.mul(down, e.i64(across)))),
        };
        let paired = e.cmp(Cmp::Lt, number, e.mul(down, in_pairs));
        let pair = e.div(number, e.i64(2));
        let column = e.add(e.mul(e.div(pair, down), e.i64(2)), e.rem(number, e.i64(2)));
        let row = e.select(paired, e.rem(pair, down), e.sub(number, e.mul(down, in_pairs)));
        let column = e.select(paired, column, in_pairs);
        Place { element, row: e.mul(row, rows), column: e.mul(column, e.i64(columns)), list: None }
    }

    /// The tile of a task. Of all blocks the second half is as a rule on the multiprocessors of the first, in the same order: tasks are
    /// dealt such that both have tiles of one pair, and the second block finds the rows in the first-level cache.
    pub(super) fn number(&self, (task, tiles): (Val<'c>, Val<'c>)) -> Val<'c> {
        let e = self.e;
        let (blocks, two) = (e.blocks(), e.i64(2));
        let within = e.rem(task, blocks);
        let before = e.sub(task, within);
        let half = e.div(e.add(blocks, e.i64(1)), two);
        let pairs = e.max(e.sub(e.min(blocks, e.sub(tiles, before)), half), e.i64(0));
        let first = e.add(within, e.min(within, pairs));
        let second = e.add(e.mul(e.sub(within, half), two), e.i64(1));
        e.add(before, e.select(e.cmp(Cmp::Lt, within, half), first, second))
    }

    /// Where a tile's shared memory begins.
    pub(super) fn tile_memory(&self) -> Val<'c> {
        self.e.aligned(self.e.shared_memory(), TILE_ALIGN)
    }

    fn one_tile(&mut self, tile: Tile, task: Val<'c>, count: Val<'c>) {
        let e = self.e;
        let at = |this: &Self, number: Val<'c>| {
            let place = this.place(tile, number, count);
            (place, e.min(e.i64(tile.tiling.rows), e.sub(count, place.row)))
        };
        if !self.is_cut(tile) {
            let (place, rows) = at(self, self.number((task, self.args.end)));
            return self.tile_at(tile, place, rows, None);
        }
        self.part(tile, (task, count), |this, part| {
            let (place, rows) = at(this, part.tile);
            this.tile_at(tile, place, rows, Some(part));
        });
    }

    /// One tile, of which so many rows are there, or a part of it.
    pub(super) fn tile_at(&mut self, tile: Tile, place: Place<'c>, count: Val<'c>, part: Option<Part<'c>>) {
        let e = self.e;
        let [_, _, depth, columns] = self.code.sizes.map(|size| e.i64(size));
        let (begin, numbers) = part.map_or((e.i64(0), depth), |part| (part.first, part.depth));
        let rows = e.i64(tile.tiling.rows);
        let (memory, thread) = (self.tile_memory(), e.to_i64(e.thread()));
        let table = e.offset_by(memory, tile.shared_bytes());
        self.site.index.insert(BATCH, place.element);
        self.site.index.insert(DEPTH, e.i64(0));
        e.sync();
        e.if_then(e.cmp(Cmp::Lt, thread, rows), || {
            // Past the last row it is read again.
            let row = e.min(thread, e.sub(count, e.i64(1)));
            self.site.set_product_row(self.code, place.number(e, row));
            let row = self.site.address(&self.code.left);
            e.store(e.element(table, thread, 8), if part.is_some() { e.element(row, begin, 4) } else { row });
        });
        e.sync();
        let weights = self.weights(place.element, place.column);
        let weights = if part.is_some() { e.element(weights, begin, 2) } else { weights };
        let arguments = [table, weights, e.sub(columns, place.column), numbers, memory, depth];
        e.call(&tile.name(), &arguments, None);
        e.sync();
        match part {
            Some(part) => self.joined(tile, part, |this| this.finish_tile(tile, place, count)),
            None => self.finish_tile(tile, place, count),
        }
    }

    /// The epilogue: a thread has results of one column, of which it makes some before it stores them.
    fn finish_tile(&mut self, tile: Tile, place: Place<'c>, count: Val<'c>) {
        let e = self.e;
        let width = tile.tiling.columns;
        let (row, within) = (e.div(e.thread(), e.i32(width as i32)), e.rem(e.thread(), e.i32(width as i32)));
        let column = e.add(place.column, e.to_i64(within));
        let step = THREADS / width;
        e.if_then(e.cmp(Cmp::Lt, column, e.i64(self.code.sizes[3])), || {
            self.site.index.insert(COLUMN, column);
            let rows = count;
            for_each(e, e.to_i64(row), rows, e.i64(AHEAD * step), |row| {
                let own: Vec<Val> = (0..AHEAD).map(|at| e.add(row, e.i64(at * step))).collect();
                let made: Vec<Val> = own.iter().map(|row| self.make(tile, place, (*row, within), rows)).collect();
                for (row, made) in own.into_iter().zip(made) {
                    e.if_then(e.cmp(Cmp::Lt, row, rows), || {
                        self.site.set_product_row(self.code, place.number(e, row));
                        store(&self.site, &self.code.out, made);
                    });
                }
            });
        });
    }

    /// One result; of a row that is not there, that of the last one.
    fn make(&mut self, tile: Tile, place: Place<'c>, (row, column): (Val<'c>, Val<'c>), rows: Val<'c>) -> Val<'c> {
        let e = self.e;
        let row = e.min(row, e.sub(rows, e.i64(1)));
        let sum = e.load(e.offset(self.tile_memory(), tile.place(e, e.to_i32(row), column)), Ty::F32);
        self.site.set_product_row(self.code, place.number(e, row));
        self.site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, sum));
        let made = value(&self.site, &self.code.epilogue);
        self.site.fresh.clear();
        made
    }
}
