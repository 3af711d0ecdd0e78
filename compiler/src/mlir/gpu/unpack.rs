//! Quantised weights on their way into a tile: a thread copies its pieces to shared memory as they are, several stages ahead, and makes
//! bfloat16 numbers of those of the next stage while one is multiplied.

use super::THREADS;
use super::parts::{Parts, Scale};
use super::tile::{PIECE as EIGHT, STAGES, STAGES_OF_ROWS, Tile, Work};
use crate::mlir::common::{Cmp, Ty, Val};
use braid_runtime::artifact::{PART, PIECE};

/// A thread's part of a stage: a piece of some columns.
pub(super) struct Pieces<'c> {
    parts: Parts,
    /// Where the tile's columns begin.
    base: Val<'c>,
    /// Bytes from there to the thread's columns; `i32`.
    places: Vec<Val<'c>>,
    /// Columns from one to the next.
    step: usize,
    /// The thread's first column in the tile, and its piece in a stage.
    column: Val<'c>,
    piece: Val<'c>,
    /// Whether there is something for the thread.
    there: Val<'c>,
}

/// Pieces of a column in a stage.
fn pieces(tile: &Tile, parts: Parts) -> usize {
    tile.depth / parts.part.piece()
}

/// Bytes of a stage as it is stored.
pub(super) fn stage_bytes(tile: &Tile, parts: Parts) -> usize {
    tile.tiling.columns * pieces(tile, parts) * PIECE
}

impl<'c> Pieces<'c> {
    /// Of the thread at hand; `columns` are there from `base` on.
    pub fn new(work: &Work<'_, 'c>, parts: Parts, base: Val<'c>, columns: Val<'c>) -> Self {
        let (e, tile) = (work.e, &work.tile);
        let (across, most) = (pieces(tile, parts), tile.tiling.columns);
        let (column, piece) = (e.div(e.thread(), e.i32(across as i32)), e.rem(e.thread(), e.i32(across as i32)));
        let last = e.to_i32(e.sub(e.min(columns, e.i64(most)), e.i64(1)));
        let (step, bytes) = (THREADS / across, parts.column_bytes(e, work.depth));
        // Past the last column the last one is read again.
        let place = |at: usize| e.mul(e.min(e.add(column, e.i32((at * step) as i32)), last), bytes);
        let places = (0..most.div_ceil(step)).map(place).collect();
        Pieces { parts, base, places, step, column, piece, there: e.cmp(Cmp::Lt, column, e.i32(most as i32)) }
    }
}

impl<'c> Work<'_, 'c> {
    /// Whether a stage has something for a thread's piece, and where that lies: the part in a column, and the piece in it. Past the end
    /// it is the first.
    fn piece_of(&self, own: &Pieces<'c>, stage: Val<'c>) -> (Val<'c>, Val<'c>, Val<'c>) {
        let (e, part) = (self.e, own.parts.part);
        let piece = e.add(e.mul(stage, e.i32(pieces(&self.tile, own.parts) as i32)), own.piece);
        let there = e.cmp(Cmp::Lt, e.mul(piece, e.i32(part.piece() as i32)), self.depth);
        let piece = e.select(there, piece, e.i32(0));
        let most = e.i32(part.pieces() as i32);
        (there, e.mul(e.div(piece, most), e.i32(PART as i32)), e.rem(piece, most))
    }

    /// Where the thread's pieces of a stage come to.
    fn raw_place(&self, own: &Pieces<'c>, stage: Val<'c>) -> Val<'c> {
        let (e, tile) = (self.e, &self.tile);
        let before = STAGES_OF_ROWS * tile.tiling.columns * tile.row_bytes();
        let ring = e.mul(e.and(stage, e.i32(STAGES as i32 - 1)), e.i32(stage_bytes(tile, own.parts) as i32));
        let within = e.add(ring, e.shift_left(e.thread(), i64::from(PIECE.ilog2())));
        e.offset_by(e.offset(self.weights_at, e.to_i64(within)), before)
    }

    /// Begins the copies of a stage.
    pub(super) fn copy_pieces(&self, own: &Pieces<'c>, stage: Val<'c>) {
        let e = self.e;
        let (_, part, piece) = self.piece_of(own, stage);
        let within = e.add(part, e.add(e.mul(piece, e.i32(PIECE as i32)), e.i32(own.parts.part.head as i32)));
        let (from, to) = (e.offset(own.base, e.to_i64(within)), self.raw_place(own, stage));
        e.if_then(own.there, || {
            for (at, place) in own.places.iter().enumerate() {
                let to = e.offset_by(to, at * THREADS * PIECE);
                e.begin_copy(to, e.offset(from, e.to_i64(*place)), e.i32(PIECE as i32));
            }
        });
        e.close_copies();
    }

    /// Begins the loads of what stands beside the pieces' groups.
    pub(super) fn fetch_scales(&self, own: &Pieces<'c>, stage: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let (_, part, piece) = self.piece_of(own, stage);
        let (from, group) = (e.offset(own.base, e.to_i64(part)), e.to_i64(own.parts.group(e, piece)));
        let load = |place: &Val<'c>| own.parts.scale(e, e.offset(from, e.to_i64(*place)), group).values().collect::<Vec<_>>();
        own.places.iter().flat_map(load).collect()
    }

    /// Makes numbers of the pieces of a stage, whose copies have ended, and puts them there; what is past the end becomes zero.
    pub(super) fn put_pieces(&self, own: &Pieces<'c>, scales: &[Val<'c>], stage: Val<'c>) {
        let (e, tile, parts) = (self.e, &self.tile, own.parts);
        let (there, ..) = self.piece_of(own, stage);
        let size = tile.tiling.columns * tile.row_bytes();
        let ring = e.mul(e.and(stage, e.i32(STAGES_OF_ROWS as i32 - 1)), e.i32(size as i32));
        let (from, to) = (self.raw_place(own, stage), e.offset(self.weights_at, e.to_i64(ring)));
        let eights = parts.part.piece() / EIGHT;
        e.if_then(own.there, || {
            for (at, scale) in scales.chunks_exact(scales.len() / own.places.len()).enumerate() {
                let scale = Scale::from(scale).single(e);
                let words = e.load_aligned(e.offset_by(from, at * THREADS * PIECE), Ty::i32(4));
                let words: Vec<Val> = (0..4).map(|at| e.extract(words, at)).collect();
                for (eight, words) in words.chunks_exact(4 / eights).enumerate() {
                    let numbers: Vec<Val> = words.iter().flat_map(|word| parts.numbers(e, *word, scale)).collect();
                    let pairs = numbers.chunks_exact(2).map(|pair| e.select(there, e.pack_bf16(pair[0], pair[1]), e.i32(0)));
                    let made = pairs.enumerate().fold(e.poison(Ty::i32(4)), |made, (at, pair)| e.insert(made, at, pair));
                    let place = e.add(e.mul(own.piece, e.i32(eights as i32)), e.i32(eight as i32));
                    let place = e.offset(to, e.to_i64(tile.piece(e, own.column, place)));
                    e.store_aligned(e.offset_by(place, at * own.step * tile.row_bytes()), made);
                }
            }
        });
    }
}
