//! Weights of bfloat16 numbers on their way into a tile: threads copy pieces of columns to shared memory as they are, several stages ahead.

use super::THREADS;
use super::tile::{PIECE, STAGES, Work};
use crate::mlir::common::{Cmp, Val};

/// Pieces of some columns, which are copied as they are.
pub(super) struct Columns<'c> {
    /// Where the tile's columns begin, at the thread's piece.
    base: Val<'c>,
    /// Bytes from there to the thread's columns; `i32`, as there are few registers.
    places: Vec<Val<'c>>,
    /// The first number.
    first: Val<'c>,
    /// Where the pieces go in a stage.
    place: Val<'c>,
    /// Columns from one to the next.
    step: usize,
}

impl<'c> Columns<'c> {
    /// Of the thread at hand: so many columns are there from `weights` on, each of `stride` numbers (`i32`).
    pub fn new(work: &Work<'_, 'c>, weights: Val<'c>, (columns, stride): (Val<'c>, Val<'c>)) -> Self {
        let (e, tile) = (work.e, work.tile);
        let threads = tile.depth / PIECE;
        let (column, piece) = (e.div(e.thread(), e.i32(threads as i32)), e.rem(e.thread(), e.i32(threads as i32)));
        let step = THREADS / threads;
        // There are more than fit 32 bits in no tile.
        let last = e.to_i32(e.sub(e.min(columns, e.i64(tile.tiling.columns)), e.i64(1)));
        let base = e.offset(weights, e.mul(e.to_i64(piece), e.i64(2 * PIECE)));
        let bytes = e.shift_left(stride, 1);
        // Past the last column the last one is read again.
        let place = |at: usize| e.mul(e.min(e.add(column, e.i32((at * step) as i32)), last), bytes);
        let places = (0..tile.tiling.columns / step).map(place).collect();
        Columns { base, places, first: e.mul(piece, e.i32(PIECE as i32)), place: e.to_i64(tile.piece(e, column, piece)), step }
    }
}

impl<'c> Work<'_, 'c> {
    /// Begins the copies of a stage; what is past the end becomes zero.
    pub(super) fn copy_columns(&self, columns: &Columns<'c>, stage: Val<'c>) {
        let (e, tile) = (self.e, self.tile);
        let k = e.mul(stage, e.i32(tile.depth as i32));
        let there = e.cmp(Cmp::Lt, e.add(k, columns.first), self.depth);
        let bytes = e.select(there, e.i32(16), e.i32(0));
        let skip = e.to_i64(e.select(there, e.shift_left(k, 1), e.sub(e.i32(0), e.shift_left(columns.first, 1))));
        let size = tile.tiling.columns * tile.row_bytes();
        let ring = e.mul(e.and(stage, e.i32(STAGES as i32 - 1)), e.i32(size as i32));
        let to = e.offset(e.offset(self.weights_at, columns.place), e.to_i64(ring));
        let from = e.offset(columns.base, skip);
        for (at, place) in columns.places.iter().enumerate() {
            e.begin_copy(e.offset_by(to, at * columns.step * tile.row_bytes()), e.offset(from, e.to_i64(*place)), bytes);
        }
        e.close_copies();
    }
}
