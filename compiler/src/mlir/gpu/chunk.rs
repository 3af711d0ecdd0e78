//! A warp's look at a chunk of positions. Two lanes side by side have a position, whose key they take by turns, as many numbers as a load
//! brings, and make its scores for all heads of the task. Then the warp adds up values with lanes along a value's elements. So what a chunk
//! reads is under way in two parts, keys and values.

use super::attention::{CHUNK, Work};
use super::kept::{Kept, wide};
use super::team::across_lanes;
use crate::fuse::kernel::BATCH;
use crate::mlir::common::cache::Caches;
use crate::mlir::common::device::WARP;
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Ty, Val};
use braid_dsl::model::Reduce;

/// Lanes of a position.
const LANES: usize = WARP / CHUNK;
/// Words that a lane has under way and sums at once.
const WORDS: usize = 72;
/// The same where keys and values are under way together.
const EARLY: usize = 84;
/// Bytes of a cache line.
const LINE: usize = 128;

impl<'c> Work<'_, 'c> {
    /// A chunk for all heads of the task; the new state.
    pub(super) fn chunk(
        &mut self,
        caches: Caches<'c>,
        (group, first): (Val<'c>, Val<'c>),
        chunk: Val<'c>,
        lane: Val<'c>,
        query: Val<'c>,
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let base = Caches::block_at(e, self.code, e.mul(chunk, e.i64(CHUNK)));
        // Values come while scores are made, into registers if these have room for keys as well.
        let early = self.values_fit().then(|| self.load_values(caches, group, base, lane, (e.i64(0), CHUNK)));
        if early.is_none() {
            self.prefetch_values(caches, group, base, lane);
        }
        let slot = e.add(base, e.div(lane, e.i64(LANES)));
        let place = e.load(e.element(caches.positions, slot, 4), Ty::I32);
        let there = e.cmp(Cmp::Ge, place, e.i32(0));
        let dots = self.dots(caches, group, base, lane);
        let sums = self.sums();
        let mut next = Vec::new();
        let mut weights = Vec::new();
        for (head, dot) in dots.into_iter().enumerate() {
            let own = &state[head * (2 + sums)..][..2 + sums];
            self.site.index.insert(BATCH, e.add(first, e.i64(head)));
            let pair = Pair { query: e.to_i32(query), key: place, channels: None, score: Some(Scores::Here(dot)) };
            let attend = &self.code.attend;
            let keep = body(&mut self.site, self.code, &attend.keep, attend.keep_result, pair);
            let score = body(&mut self.site, self.code, &attend.score, attend.score_result, pair);
            let score = e.select(e.and(keep, there), score, e.f32(f32::NEG_INFINITY));
            let most = e.max(own[0], across_lanes(e, Reduce::Max, score, WARP));
            // Where nothing was seen yet the maximum stays minus infinity; any finite anchor gives weights of zero.
            let none = e.cmp(Cmp::Eq, most, e.f32(f32::NEG_INFINITY));
            let anchor = e.select(none, e.f32(0.0), most);
            let scale = e.exp(e.sub(own[0], anchor));
            let weight = e.exp(e.sub(score, anchor));
            weights.push(weight);
            next.push(most);
            // Each position is in all of its lanes.
            let total = e.mul(across_lanes(e, Reduce::Sum, weight, WARP), e.f32(1.0 / LANES as f32));
            next.push(e.fma(own[1], scale, total));
            next.extend(own[2..].iter().map(|sum| e.mul(*sum, scale)));
        }
        match early {
            Some(loaded) => self.weighted(&weights, e.i64(0), loaded, next),
            None => self.add_values(caches, group, base, lane, &weights, next),
        }
    }

    /// Whether all values of a chunk fit a lane's registers beside keys.
    fn values_fit(&self) -> bool {
        let bytes = self.code.kept_bytes();
        let keys = (self.keys_together() * wide(self.code.key, bytes) * bytes).div_ceil(4);
        keys + (CHUNK * self.sums() * bytes).div_ceil(4) + self.state() + self.heads <= EARLY
    }

    /// Asks for the values of a chunk, which are needed when its scores are known.
    fn prefetch_values(&self, caches: Caches<'c>, group: Val<'c>, base: Val<'c>, lane: Val<'c>) {
        let e = self.e;
        let values = Kept::values(e, self.code, &caches, group);
        let (first, row) = (values.row(base), values.numbers * values.bytes());
        let end = e.mul(e.min(e.sub(caches.slots, base), e.i64(CHUNK)), e.i64(row));
        for_each(e, e.mul(lane, e.i64(LINE)), end, e.i64(WARP * LINE), |at| e.prefetch_far(e.offset(first, at)));
    }

    /// Numbers of a lane's state: of each head the running maximum, the running sum of weights, and sums of values.
    fn state(&self) -> usize {
        self.heads * (2 + self.sums())
    }

    /// Sums of values that a lane has of each head.
    pub(super) fn sums(&self) -> usize {
        self.code.value.div_ceil(WARP)
    }

    /// How many of them lie side by side.
    fn wide(&self) -> usize {
        [4, 2].into_iter().find(|wide| self.code.value.is_multiple_of(wide * WARP)).unwrap_or(1)
    }

    /// Which element of a value a lane's sum is.
    pub(super) fn column(&self, lane: Val<'c>, sum: usize) -> Val<'c> {
        let (e, wide) = (self.e, self.wide());
        e.add(e.mul(lane, e.i64(wide)), e.i64(sum / wide * wide * WARP + sum % wide))
    }

    /// Pieces of a key that a lane has under way at once.
    fn keys_together(&self) -> usize {
        let (bytes, wide) = (self.code.kept_bytes(), wide(self.code.key, self.code.kept_bytes()));
        let turns = (self.code.key / wide).div_ceil(LANES);
        let fits = |n: &usize| (n * wide * bytes).div_ceil(4) + wide + self.heads + self.state() <= WORDS;
        [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1).min(turns)
    }

    /// Dot products of all heads with the key of the lane's position.
    fn dots(&self, caches: Caches<'c>, group: Val<'c>, base: Val<'c>, lane: Val<'c>) -> Vec<Val<'c>> {
        let (e, heads) = (self.e, self.heads);
        let keys = Kept::keys(e, self.code, &caches, group);
        let (wide, part) = (keys.wide(), e.rem(lane, e.i64(LANES)));
        let row = keys.row(e.add(base, e.div(lane, e.i64(LANES))));
        let pieces = keys.numbers / wide;
        let (turns, together) = (pieces.div_ceil(LANES), self.keys_together());
        let whole = pieces.is_multiple_of(LANES * together);
        let add = |first: Val<'c>, sums: &[Val<'c>]| {
            let own = |turn: usize| e.add(e.mul(e.add(first, e.i64(turn)), e.i64(LANES)), part);
            let pieces: Vec<[Val; 2]> = (0..together).map(|turn| self.piece(own(turn), pieces, whole)).collect();
            let place = |[at, _]: &[Val<'c>; 2]| keys.load(keys.place(row, e.mul(*at, e.i64(wide))), wide);
            // All loads first: they are under way together.
            let loaded: Vec<Val> = pieces.iter().map(place).collect();
            let mut sums = sums.to_vec();
            for ([at, there], loaded) in pieces.into_iter().zip(loaded) {
                let numbers = e.singles(loaded);
                for (head, sum) in sums.iter_mut().enumerate() {
                    let queries = self.queries(e.add(e.i64(head * keys.numbers), e.mul(at, e.i64(wide))), wide);
                    let added = numbers.iter().zip(queries).fold(*sum, |sum, (key, query)| e.fma(query, *key, sum));
                    *sum = if whole { added } else { e.select(there, added, *sum) };
                }
            }
            sums
        };
        let sums = e.for_loop(e.i64(0), e.i64(turns), e.i64(together), &vec![e.f32(0.0); heads], add);
        sums.into_iter().map(|sum| across_lanes(e, Reduce::Sum, sum, LANES)).collect()
    }

    /// A piece that may be behind the last one, and whether it is there: the last one stands in for it.
    fn piece(&self, own: Val<'c>, pieces: usize, whole: bool) -> [Val<'c>; 2] {
        let e = self.e;
        match whole {
            true => [own, e.bool(true)],
            false => [e.min(own, e.i64(pieces - 1)), e.cmp(Cmp::Lt, own, e.i64(pieces))],
        }
    }

    /// Numbers of the queries from a multiple of as many on.
    fn queries(&self, first: Val<'c>, count: usize) -> Vec<Val<'c>> {
        let e = self.e;
        let at_once = count.min(4);
        let place = e.element(e.shared_memory(), first, 4);
        let parts = (0..count).step_by(at_once).map(|at| e.load_aligned(e.offset_by(place, 4 * at), Ty::f32(at_once)));
        parts.flat_map(|part| (0..at_once).map(move |at| e.extract(part, at))).collect()
    }

    /// Adds the weighted values of a chunk to the lane's sums.
    fn add_values(
        &self,
        caches: Caches<'c>,
        group: Val<'c>,
        base: Val<'c>,
        lane: Val<'c>,
        weights: &[Val<'c>],
        state: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let (sums, bytes) = (self.sums(), self.code.kept_bytes());
        let fits = |n: &usize| (n * sums * bytes).div_ceil(4) + sums + self.state() + self.heads <= WORDS;
        let together = [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        e.for_loop(e.i64(0), e.i64(CHUNK), e.i64(together), &state, |first, state| {
            let loaded = self.load_values(caches, group, base, lane, (first, together));
            self.weighted(weights, first, loaded, state.to_vec())
        })
    }

    /// What a lane has of the values of so many positions of a chunk, which are under way together.
    fn load_values(
        &self,
        caches: Caches<'c>,
        group: Val<'c>,
        base: Val<'c>,
        lane: Val<'c>,
        (first, count): (Val<'c>, usize),
    ) -> Vec<Vec<Val<'c>>> {
        let e = self.e;
        let (value, sums, wide) = (self.code.value, self.sums(), self.wide());
        let values = Kept::values(e, self.code, &caches, group);
        let load = |at: usize| -> Vec<Val<'c>> {
            let row = values.row(e.add(base, e.add(first, e.i64(at))));
            let part = |first: usize| {
                let column = e.min(self.column(lane, first), e.i64(value - 1));
                values.load(values.place(row, column), wide)
            };
            (0..sums).step_by(wide).map(part).collect()
        };
        (0..count).map(load).collect()
    }

    /// Adds loaded values from position `first` of the chunk on to the lane's sums.
    fn weighted(&self, weights: &[Val<'c>], first: Val<'c>, loaded: Vec<Vec<Val<'c>>>, mut state: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let (e, sums) = (self.e, self.sums());
        for (at, parts) in loaded.into_iter().enumerate() {
            let parts: Vec<Val> = parts.into_iter().flat_map(|part| e.singles(part)).collect();
            let from = e.mul(e.to_i32(e.add(first, e.i64(at))), e.i32(LANES as i32));
            for (head, weight) in weights.iter().enumerate() {
                let weight = e.of_lane(*weight, from);
                for (part, x) in parts.iter().enumerate() {
                    let sum = &mut state[head * (2 + sums) + 2 + part];
                    *sum = e.fma(weight, *x, *sum);
                }
            }
        }
        state
    }
}
