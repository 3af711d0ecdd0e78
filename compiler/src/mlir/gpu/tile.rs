//! A tile of a product on the matrix units: `sums[row][column] = Σ_k rows[row][k] · weights[column][k]` in bfloat16, sums in single
//! precision, by all warps of a block.
//!
//! A stage is so many numbers of every row and column of the tile, in shared memory. Weights are copied there as they are, several
//! stages ahead; quantised ones are unpacked behind that (unpack.rs). Rows are in single precision: a thread loads its part of a stage two stages ahead, and rounds it on its way into shared
//! memory. Both lie in rows of 16-byte pieces, whose order differs from row to row so that warps read without conflicts.

use super::columns::Columns;
use super::parts::Parts;
use super::unpack::{Pieces, stage_bytes};
use super::{THREADS, WARPS};
use crate::fuse::kernel::Matmul;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use crate::plan::Tiling;

/// Stages of weights.
pub(super) const STAGES: usize = 4;
/// Stages of rows, before those of weights.
pub(super) const STAGES_OF_ROWS: usize = 2;
/// Numbers of a piece of 16 bytes.
pub(super) const PIECE: usize = 8;

/// One function of an artifact.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Its shape.
    pub tiling: Tiling,
    /// Numbers of the contracted axis in a stage.
    pub(super) depth: usize,
    /// Warps along rows, and along columns.
    warps: (usize, usize),
    /// Whether groups of four warps multiply together.
    groups: bool,
    /// How weights are stored, if they are quantised.
    pub(super) parts: Option<Parts>,
}

impl Tile {
    /// The function for tiles of a shape of a product; `groups`: the GPU multiplies for groups of four warps.
    pub fn of(code: &Matmul, tiling: Tiling, groups: bool) -> Tile {
        let parts = Parts::of(code.tensors[code.weights.0].store);
        if groups && tiling.rows == 128 {
            return Tile { tiling, depth: 64, warps: (WARPS, 1), groups, parts };
        }
        // A thread has 16 numbers of the rows under way.
        Tile { tiling, depth: 16 * THREADS / tiling.rows, warps: (2, WARPS / 2), groups: false, parts }
    }

    /// Bytes of a row in a stage.
    pub(super) fn row_bytes(&self) -> usize {
        2 * self.depth
    }

    /// Shared bytes: two stages of rows and some of weights; then in their place the sums.
    pub fn shared_bytes(&self) -> usize {
        let Tiling { rows, columns } = self.tiling;
        let raw = self.parts.map_or(0, |parts| STAGES * stage_bytes(self, parts));
        let stages = (STAGES_OF_ROWS * rows + self.stages() * columns) * self.row_bytes();
        (stages + raw).max(rows * columns * 4)
    }

    /// Stages of weights as they are multiplied.
    pub(super) fn stages(&self) -> usize {
        if self.parts.is_some() { STAGES_OF_ROWS } else { STAGES }
    }

    /// Its name.
    pub fn name(&self) -> String {
        let store = self.parts.map_or(String::new(), |parts| format!("_{}", parts.name()));
        format!("tile_{}x{}{store}", self.tiling.rows, self.tiling.columns)
    }

    /// Where a sum lies, in bytes: `row` and `column` are `i32`.
    pub fn place<'c>(&self, e: &Emitter<'c>, row: Val<'c>, column: Val<'c>) -> Val<'c> {
        let turned = e.xor(column, e.shift_left(e.and(row, e.i32(3)), 3));
        e.to_i64(e.shift_left(e.add(e.mul(row, e.i32(self.tiling.columns as i32)), turned), 2))
    }

    /// Defines it, `(rows, weights, columns, depth, memory, stride)`: in shared memory the addresses of the tile's rows; the first of so many
    /// columns that are there, how many numbers of them are multiplied, [`Tile::shared_bytes`] of shared memory, where the sums are afterwards, and
    /// how many numbers a column has, which counts for those of bfloat16.
    pub fn emit(&self, e: &Emitter) {
        if !e.first_time(&self.name()) {
            return;
        }
        let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
        e.function(&self.name(), Linkage::Private, &[shared, global, Ty::I64, Ty::I64, shared, Ty::I64], None, |values| {
            let [rows, weights, columns, depth, memory, stride] = *values else { return None };
            let weights_at = e.offset_by(memory, STAGES_OF_ROWS * self.tiling.rows * self.row_bytes());
            let work = Work { e, tile: *self, depth: e.to_i32(depth), memory, weights_at };
            let rows = Rows::new(&work, rows);
            let columns = match self.parts {
                Some(parts) => Weights::Pieces(Pieces::new(&work, parts, weights, columns)),
                None => Weights::Columns(Columns::new(&work, weights, (columns, e.to_i32(stride)))),
            };
            match self.groups {
                true => work.walk_in_groups(rows, columns),
                false => work.walk(rows, columns),
            }
            None
        });
    }

    /// The place of a piece in a stage, in bytes: `row` and `piece` are `i32`.
    pub(super) fn piece<'c>(&self, e: &Emitter<'c>, row: Val<'c>, piece: Val<'c>) -> Val<'c> {
        let turned = e.xor(piece, self.turn(e, row));
        e.add(e.mul(row, e.i32(self.row_bytes() as i32)), e.shift_left(turned, 4))
    }

    /// How the pieces of a row are turned: rows that a warp reads at once differ.
    fn turn<'c>(&self, e: &Emitter<'c>, row: Val<'c>) -> Val<'c> {
        let pieces = self.depth / PIECE;
        // Short rows share the 128 bytes that are read at once.
        let row = if pieces < 8 { e.shift_right(row, i64::from((8 / pieces).ilog2())) } else { row };
        e.and(row, e.i32(pieces.min(8) as i32 - 1))
    }
}

pub(super) struct Work<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) tile: Tile,
    /// Numbers of a row; `i32`.
    pub(super) depth: Val<'c>,
    pub(super) memory: Val<'c>,
    pub(super) weights_at: Val<'c>,
}

/// A thread's part of a stage of rows: four numbers each of some rows.
pub(super) struct Rows<'c> {
    /// Addresses of the rows, the first of which is the thread's first.
    table: Val<'c>,
    /// The first number.
    first: Val<'c>,
    /// Where they go in a stage.
    place: Val<'c>,
    /// Rows from one to the next, and how many.
    step: usize,
    count: usize,
}

impl<'c> Rows<'c> {
    fn new(work: &Work<'_, 'c>, table: Val<'c>) -> Self {
        let (e, tile) = (work.e, work.tile);
        let threads = tile.depth / 4;
        let (row, part) = (e.div(e.thread(), e.i32(threads as i32)), e.rem(e.thread(), e.i32(threads as i32)));
        let piece = tile.piece(e, row, e.shift_right(part, 1));
        let place = e.to_i64(e.add(piece, e.shift_left(e.and(part, e.i32(1)), 3)));
        let step = THREADS / threads;
        let first = e.shift_left(part, 2);
        Rows { table: e.element(table, e.to_i64(row), 8), first, place, step, count: tile.tiling.rows / step }
    }
}

/// A thread's part of a stage of weights.
pub(super) enum Weights<'c> {
    /// Of bfloat16 numbers.
    Columns(Columns<'c>),
    /// Of quantised ones.
    Pieces(Pieces<'c>),
}

impl<'c> Work<'_, 'c> {
    /// All stages.
    fn walk(&self, rows: Rows<'c>, columns: Weights<'c>) {
        let e = self.e;
        self.begin(&rows, &columns);
        let (left, right) = (self.left_place(), self.right_place());
        let sums = vec![e.f32(0.0); 4 * self.fragments().0 * self.fragments().1];
        let start: Vec<Val> = sums.iter().copied().chain(self.fetch(&rows, &columns, e.i32(1))).collect();
        let end = e.for_loop(e.i32(0), self.stages(), e.i32(1), &start, |stage, state| {
            let (sums, own) = state.split_at(sums.len());
            self.await_weights(&columns);
            e.sync();
            let next = self.go_on(&rows, &columns, own, stage);
            // The loads begin here: there is little else to hide their latency.
            e.sync_warp();
            self.multiply(stage, (left, right), sums).into_iter().chain(next).collect()
        });
        e.wait_copies(0);
        e.sync();
        self.leave(&end[..sums.len()]);
    }

    /// Begins the copies of the first stages of weights, and puts what goes through the threads of the first stage there.
    pub(super) fn begin(&self, rows: &Rows<'c>, columns: &Weights<'c>) {
        let e = self.e;
        for stage in 0..STAGES - 1 {
            self.copy_weights(columns, e.i32(stage as i32));
        }
        let first = self.fetch(rows, columns, e.i32(0));
        if self.tile.parts.is_some() {
            e.wait_copies(STAGES - 2);
        }
        self.put(rows, columns, &first, e.i32(0));
    }

    /// While stage `stage` is multiplied: puts what was loaded of the next one there, and begins to load the one behind that.
    pub(super) fn go_on(&self, rows: &Rows<'c>, columns: &Weights<'c>, own: &[Val<'c>], stage: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        self.put(rows, columns, own, e.add(stage, e.i32(1)));
        let next = self.fetch(rows, columns, e.add(stage, e.i32(2)));
        self.copy_weights(columns, e.add(stage, e.i32(STAGES as i32 - 1)));
        next
    }

    /// Begins the loads of what goes through the thread on its way to a stage: rows, and what quantised weights are multiplied with.
    pub(super) fn fetch(&self, rows: &Rows<'c>, columns: &Weights<'c>, stage: Val<'c>) -> Vec<Val<'c>> {
        let mut loaded = self.fetch_rows(rows, stage);
        if let Weights::Pieces(own) = columns {
            loaded.extend(self.fetch_scales(own, stage));
        }
        loaded
    }

    /// Puts it there.
    fn put(&self, rows: &Rows<'c>, columns: &Weights<'c>, loaded: &[Val<'c>], stage: Val<'c>) {
        let (own, scales) = loaded.split_at(rows.count);
        self.put_rows(rows, own, stage);
        if let Weights::Pieces(own) = columns {
            self.put_pieces(own, scales, stage);
        }
    }

    /// Waits for the thread's copies of weights that are read next: its own of the next stage, or those of this one, which all read.
    pub(super) fn await_weights(&self, columns: &Weights<'c>) {
        self.e.wait_copies(if matches!(columns, Weights::Pieces(_)) { STAGES - 3 } else { STAGES - 2 });
    }

    /// How many stages there are; `i32`.
    pub(super) fn stages(&self) -> Val<'c> {
        let (e, depth) = (self.e, self.tile.depth as i32);
        e.div(e.add(self.depth, e.i32(depth - 1)), e.i32(depth))
    }

    /// Fragments of a warp: 16 rows each, and 8 columns each.
    fn fragments(&self) -> (usize, usize) {
        let Tile { tiling, warps, .. } = self.tile;
        (tiling.rows / warps.0 / 16, tiling.columns / warps.1 / 8)
    }

    /// Begins the copies of a stage of weights.
    fn copy_weights(&self, columns: &Weights<'c>, stage: Val<'c>) {
        match columns {
            Weights::Columns(own) => self.copy_columns(own, stage),
            Weights::Pieces(own) => self.copy_pieces(own, stage),
        }
    }

    /// Begins the loads of a thread's part of a stage of rows.
    fn fetch_rows(&self, rows: &Rows<'c>, stage: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let k = e.add(e.mul(stage, e.i32(self.tile.depth as i32)), rows.first);
        // Past the end the beginning is read again.
        let k = e.select(e.cmp(Cmp::Lt, k, self.depth), k, e.i32(0));
        let bytes = e.to_i64(e.shift_left(k, 2));
        let load = |at: usize| {
            let row = e.load(e.offset_by(rows.table, 8 * at * rows.step), Ty::scalar(Elem::Global));
            e.load_aligned(e.offset(row, bytes), Ty::f32(4))
        };
        (0..rows.count).map(load).collect()
    }

    /// Rounds what was loaded for a stage, and puts it there; what is past the end becomes zero.
    fn put_rows(&self, rows: &Rows<'c>, loaded: &[Val<'c>], stage: Val<'c>) {
        let (e, tile) = (self.e, self.tile);
        let k = e.add(e.mul(stage, e.i32(tile.depth as i32)), rows.first);
        let there = e.cmp(Cmp::Lt, k, self.depth);
        let size = tile.tiling.rows * tile.row_bytes();
        let ring = e.mul(e.and(stage, e.i32(STAGES_OF_ROWS as i32 - 1)), e.i32(size as i32));
        let to = e.offset(e.offset(self.memory, rows.place), e.to_i64(ring));
        for (at, four) in loaded.iter().enumerate() {
            let pair = |at: usize| {
                let packed = e.pack_bf16(e.extract(*four, at), e.extract(*four, at + 1));
                e.select(there, packed, e.i32(0))
            };
            let both = e.insert(e.insert(e.poison(Ty::i32(2)), 0, pair(0)), 1, pair(2));
            e.store_aligned(e.offset_by(to, at * rows.step * tile.row_bytes()), both);
        }
    }

    /// The lane, and the number of its warp along rows and along columns; `i32`.
    fn lane(&self) -> (Val<'c>, Val<'c>, Val<'c>) {
        let e = self.e;
        let (warp, lane) = (e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.and(e.thread(), e.i32(WARP as i32 - 1)));
        let along = e.i32(self.tile.warps.1 as i32);
        (lane, e.div(warp, along), e.rem(warp, along))
    }

    /// Which row and which piece a lane names in the first load of rows.
    fn left_place(&self) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let (lane, warp, _) = self.lane();
        let row = e.add(e.mul(warp, e.i32(16 * self.fragments().0 as i32)), e.and(lane, e.i32(15)));
        (row, e.shift_right(lane, 4))
    }

    /// Which column and which piece a lane names in the first load of weights: two fragments at once.
    fn right_place(&self) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let (lane, _, warp) = self.lane();
        let within = e.add(e.and(lane, e.i32(7)), e.shift_left(e.shift_right(lane, 4), 3));
        let column = e.add(e.mul(warp, e.i32(8 * self.fragments().1 as i32)), within);
        (column, e.and(e.shift_right(lane, 3), e.i32(1)))
    }

    /// Adds the products of a stage to a warp's sums, `[rows][columns][4]`.
    fn multiply(
        &self,
        stage: Val<'c>,
        (left, right): ((Val<'c>, Val<'c>), (Val<'c>, Val<'c>)),
        sums: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let (e, tile) = (self.e, self.tile);
        let (down, across) = self.fragments();
        let ring = |stages: usize, lines: usize| {
            let bytes = e.i32((lines * tile.row_bytes()) as i32);
            e.to_i64(e.mul(e.and(stage, e.i32(stages as i32 - 1)), bytes))
        };
        let lefts = e.offset(self.memory, ring(STAGES_OF_ROWS, tile.tiling.rows));
        let rights = e.offset(self.weights_at, ring(tile.stages(), tile.tiling.columns));
        let mut sums = sums.to_vec();
        for step in 0..tile.depth / 16 {
            let place = |memory: Val<'c>, (line, piece): (Val<'c>, Val<'c>)| {
                e.offset(memory, e.to_i64(tile.piece(e, line, e.add(piece, e.i32(2 * step as i32)))))
            };
            let (from_left, from_right) = (place(lefts, left), place(rights, right));
            let load = |from: Val<'c>, at: usize| e.load_fragments(e.offset_by(from, 16 * at * tile.row_bytes()));
            let pairs: Vec<[Val; 4]> = (0..across / 2).map(|at| load(from_right, at)).collect();
            for i in 0..down {
                let own = load(from_left, i);
                for j in 0..across {
                    let pair = pairs[j / 2];
                    let sum: &mut [Val] = &mut sums[4 * (i * across + j)..][..4];
                    let right = [pair[2 * (j % 2)], pair[2 * (j % 2) + 1]];
                    sum.copy_from_slice(&e.multiply_fragments(own, right, [sum[0], sum[1], sum[2], sum[3]]));
                }
            }
        }
        sums
    }

    /// Leaves a warp's sums in shared memory.
    pub(super) fn leave(&self, sums: &[Val<'c>]) {
        let e = self.e;
        let (down, across) = self.fragments();
        let (lane, above, before) = self.lane();
        let first_row = e.add(e.mul(above, e.i32(16 * down as i32)), e.shift_right(lane, 2));
        let first_column = e.add(e.mul(before, e.i32(8 * across as i32)), e.shift_left(e.and(lane, e.i32(3)), 1));
        for (at, four) in sums.chunks_exact(4).enumerate() {
            let column = e.add(first_column, e.i32(8 * (at % across) as i32));
            for (half, pair) in four.chunks_exact(2).enumerate() {
                let row = e.add(first_row, e.i32((16 * (at / across) + 8 * half) as i32));
                let both = e.insert(e.insert(e.poison(Ty::f32(2)), 0, pair[0]), 1, pair[1]);
                e.store_aligned(e.offset(self.memory, self.tile.place(e, row, column)), both);
            }
        }
    }
}
