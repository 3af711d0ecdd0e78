//! Dot products of a few rows with a few columns of weights, by all warps of a block.

use super::WARPS;
use super::parts::Parts;
use super::team::across_lanes;
use crate::fuse::kernel::{Matmul, Store};
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use crate::plan::COLUMNS_AT_ONCE;
use braid_dsl::model::Reduce;
use braid_runtime::artifact::{GROUP, PART, PIECE};

/// Numbers of rows that there are functions for, falling; one row is stream.rs's where it can be.
pub const ROWS: [usize; 4] = [8, 4, 2, 1];
/// The first of them.
pub const MOST_ROWS: usize = ROWS[0];
/// Bytes of the sums `[warps][rows][columns]` for any number of rows.
pub const SUMS_BYTES: usize = 4 * WARPS * MOST_ROWS * 4;

/// How the warps of a block share a tile of so many rows.
#[derive(Clone, Copy)]
pub struct Share {
    /// Columns that a warp does at once: they share the loads of the rows.
    pub columns: usize,
    /// Warps that walk parts of the same columns.
    pub splits: usize,
    /// Loads of a column that are under way at once.
    ahead: usize,
}

impl Share {
    /// For so many rows: more rows share their loads among more columns.
    pub fn of(rows: usize) -> Share {
        let (columns, ahead) = match rows {
            1 => (1, 8),
            2 => (2, 4),
            4 => (4, 2),
            _ => (4, 1),
        };
        Share { columns, splits: WARPS * columns / COLUMNS_AT_ONCE, ahead }
    }
}

/// One function: `sums[warp][row][column] = Σ_k rows[row][k] · weights[column][k]`, over the warp's columns and part of `k`.
#[derive(Clone, Copy)]
pub struct Dot {
    /// How many rows.
    pub rows: usize,
    /// How weights are stored.
    pub weights: Store,
    /// Numbers that a lane loads at once: 16 bytes of weights, or one.
    pub vector: usize,
    /// Rows begin at multiples of 16 bytes.
    pub aligned: bool,
}

impl Dot {
    /// The function for so many rows of a product.
    pub fn of(code: &Matmul, rows: usize) -> Dot {
        let weights = code.tensors[code.weights.0].store;
        if let Some(parts) = Parts::of(weights) {
            return Dot { rows, weights, vector: parts.part.piece(), aligned: code.is_aligned(GROUP) };
        }
        let wide = 16 / weights.bytes();
        let vector = if code.sizes[2].is_multiple_of(wide) { wide } else { 1 };
        Dot { rows, weights, vector, aligned: vector > 1 && code.is_aligned(wide) }
    }

    /// Its name.
    pub fn name(&self) -> String {
        let plain = if self.weights == Store::Bf16 { "bf16" } else { "f32" };
        let store = Parts::of(self.weights).map_or(plain.into(), Parts::name);
        format!("dot_{}_{store}x{}{}", self.rows, self.vector, if self.aligned { "_aligned" } else { "" })
    }

    /// Defines it, `(rows, weights, columns, depth, sums)`: addresses of rows, the first of so many columns that are there, and
    /// where the sums go.
    pub fn emit(&self, e: &Emitter) {
        let name = self.name();
        if !e.first_time(&name) {
            return;
        }
        let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
        let parameters = [shared, global, Ty::I64, Ty::I64, shared];
        e.function(&name, Linkage::Private, &parameters, None, |values| {
            let [rows, weights, columns, depth, sums] = *values else { return None };
            self.body(e, [rows, weights, columns, depth, sums]);
            None
        });
    }

    fn body<'c>(&self, e: &Emitter<'c>, [rows, weights, columns, depth, sums]: [Val<'c>; 5]) {
        let share = Share::of(self.rows);
        let thread = e.thread();
        let (warp, lane) = (e.shift_right(thread, i64::from(WARP.ilog2())), e.and(thread, e.i32(WARP as i32 - 1)));
        let splits = e.i32(share.splits as i32);
        let (group, split) = (e.div(warp, splits), e.rem(warp, splits));
        let first = e.to_i64(e.mul(group, e.i32(share.columns as i32)));
        let row = |i: usize| e.load(e.offset_by(rows, 8 * i), Ty::scalar(Elem::Global));
        let lefts: Vec<Val> = (0..self.rows).map(row).collect();
        let stride = self.column_bytes(e, depth);
        // Past the last column the last one is read again.
        let column = |i: usize| e.min(e.add(first, e.i64(i)), e.sub(columns, e.i64(1)));
        let weights: Vec<Val> = (0..share.columns).map(|i| e.offset(weights, e.mul(column(i), stride))).collect();
        let made = match Parts::of(self.weights) {
            Some(parts) => self.walk_parts(e, parts, (&lefts, &weights), depth, (split, lane), share),
            None => {
                let start = e.to_i64(e.add(e.mul(split, e.i32(WARP as i32)), lane));
                self.walk(e, &lefts, &weights, (e.mul(start, e.i64(self.vector)), depth), share)
            }
        };
        let made: Vec<Val> = made.into_iter().map(|sum| across_lanes(e, Reduce::Sum, sum, WARP)).collect();
        let own = e.element(sums, e.to_i64(warp), made.len() * 4);
        e.if_then(e.cmp(Cmp::Eq, lane, e.i32(0)), || {
            made.iter().enumerate().for_each(|(at, sum)| e.store(e.offset_by(own, 4 * at), *sum));
        });
    }

    /// A lane's sums, `[rows][columns]`: it takes every so many numbers, from `first` on.
    fn walk<'c>(
        &self,
        e: &Emitter<'c>,
        lefts: &[Val<'c>],
        weights: &[Val<'c>],
        (first, depth): (Val<'c>, Val<'c>),
        share: Share,
    ) -> Vec<Val<'c>> {
        let step = share.splits * WARP * self.vector;
        let zero = vec![e.f32(0.0); lefts.len() * weights.len()];
        let several = |ahead: usize| {
            move |k: Val<'c>, sums: &[Val<'c>]| {
                let at: Vec<Val> = (0..ahead).map(|part| e.add(k, e.i64(part * step))).collect();
                // All loads first: they are under way together.
                let loaded: Vec<Vec<Val>> =
                    at.iter().map(|k| weights.iter().map(|column| self.fetch(e, *column, *k)).collect()).collect();
                at.iter().zip(&loaded).fold(sums.to_vec(), |sums, (k, loaded)| self.multiply(e, lefts, loaded, *k, &sums))
            }
        };
        if share.ahead == 1 {
            return e.for_loop(first, depth, e.i64(step), &zero, several(1));
        }
        // The same number of turns for every lane.
        let stride = step * share.ahead;
        let whole = e.mul(e.div(depth, e.i64(stride)), e.i64(stride));
        let sums = e.for_loop(e.i64(0), whole, e.i64(stride), &zero, |at, sums| several(share.ahead)(e.add(first, at), sums));
        e.for_loop(e.add(first, whole), depth, e.i64(step), &sums, several(1))
    }

    /// Bytes of a column of so many numbers.
    pub fn column_bytes<'c>(&self, e: &Emitter<'c>, depth: Val<'c>) -> Val<'c> {
        match Parts::of(self.weights) {
            Some(parts) => parts.column_bytes(e, depth),
            None => e.mul(depth, e.int(depth.ty(), self.weights.bytes() as i64)),
        }
    }

    /// The same of quantised weights: warps take every so many parts, and lanes a piece of each.
    fn walk_parts<'c>(
        &self,
        e: &Emitter<'c>,
        parts: Parts,
        (lefts, weights): (&[Val<'c>], &[Val<'c>]),
        depth: Val<'c>,
        (split, lane): (Val<'c>, Val<'c>),
        share: Share,
    ) -> Vec<Val<'c>> {
        let most = parts.part.pieces();
        let pieces = e.div(e.to_i32(depth), e.i32(self.vector as i32));
        let count = e.div(e.add(pieces, e.i32(most as i32 - 1)), e.i32(most as i32));
        let zero = vec![e.f32(0.0); lefts.len() * weights.len()];
        let within = e.to_i64(parts.group(e, lane));
        e.for_loop(split, count, e.i32(share.splits as i32), &zero, |part, sums| {
            let before = e.mul(part, e.i32(most as i32));
            let there = e.cmp(Cmp::Lt, lane, e.min(e.sub(pieces, before), e.i32(most as i32)));
            let add = || {
                let part = |column: &Val<'c>| e.element(*column, e.to_i64(part), PART);
                let own: Vec<Val> = weights.iter().map(part).collect();
                let piece = |part: &Val<'c>| e.element(e.offset_by(*part, parts.part.head), e.to_i64(lane), PIECE);
                let words: Vec<Val> = own.iter().map(|part| e.load_constant_aligned(piece(part), Ty::i32(4))).collect();
                let scales: Vec<_> = own.iter().map(|part| parts.scale(e, *part, within)).collect();
                let scales: Vec<_> = scales.into_iter().map(|scale| scale.single(e)).collect();
                let k = e.mul(e.to_i64(e.add(before, lane)), e.i64(self.vector));
                // Few numbers at a time, as there are few registers.
                (0..self.vector).step_by(4).fold(sums.to_vec(), |sums, at| {
                    let (word, within) = (at / parts.word(), at % parts.word());
                    let four =
                        |(words, scale): (&Val<'c>, _)| parts.numbers(e, e.extract(*words, word), scale)[within..][..4].to_vec();
                    let weights: Vec<Vec<Val>> = words.iter().zip(scales.iter().copied()).map(four).collect();
                    self.add_products(e, lefts, &weights, e.add(k, e.i64(at)), &sums)
                })
            };
            e.if_else(there, add, || sums.to_vec())
        })
    }

    /// What a lane loads at once.
    fn loaded(&self) -> Ty {
        if self.weights == Store::Bf16 { Ty::i32(self.vector / 2) } else { Ty::f32(self.vector) }
    }

    /// A lane's weights of one column at `k`, as they are stored.
    fn fetch<'c>(&self, e: &Emitter<'c>, column: Val<'c>, k: Val<'c>) -> Val<'c> {
        let place = e.offset(column, e.mul(k, e.i64(self.weights.bytes())));
        match (self.weights, self.vector) {
            (Store::Bf16, 1) => e.load_bf16(place, 1),
            _ => e.load_constant_aligned(place, self.loaded()),
        }
    }

    /// Adds the products of a lane's numbers at `k`.
    fn multiply<'c>(&self, e: &Emitter<'c>, lefts: &[Val<'c>], loaded: &[Val<'c>], k: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let weights: Vec<Vec<Val>> = loaded.iter().map(|loaded| e.singles(*loaded)).collect();
        self.add_products(e, lefts, &weights, k, sums)
    }

    /// The same with the columns' weights at `k` in single precision.
    fn add_products<'c>(
        &self,
        e: &Emitter<'c>,
        lefts: &[Val<'c>],
        weights: &[Vec<Val<'c>>],
        k: Val<'c>,
        sums: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let (mut sums, count) = (sums.to_vec(), weights.len());
        for (i, left) in lefts.iter().enumerate() {
            let x = self.numbers(e, e.offset(*left, e.mul(k, e.i64(4))), weights[0].len());
            for (c, weights) in weights.iter().enumerate() {
                let sum = &mut sums[i * count + c];
                *sum = x.iter().zip(weights).fold(*sum, |sum, (x, w)| e.fma(*x, *w, sum));
            }
        }
        sums
    }

    /// So many numbers of one row.
    fn numbers<'c>(&self, e: &Emitter<'c>, place: Val<'c>, count: usize) -> Vec<Val<'c>> {
        if !self.aligned {
            return (0..count).map(|at| e.load(e.offset_by(place, 4 * at), Ty::F32)).collect();
        }
        let fours = (0..count / 4).map(|part| e.load_aligned(e.offset_by(place, 16 * part), Ty::f32(4)));
        fours.flat_map(|four| (0..4).map(move |at| e.extract(four, at))).collect()
    }
}
