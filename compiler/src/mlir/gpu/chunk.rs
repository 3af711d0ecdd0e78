//! A warp's look at a chunk of positions. Of the keys a lane takes four positions, side by side, and every eighth element; sums of lanes are
//! added up so that two lanes have a position each, whose scores they make for all heads of the task. Then the warp adds up values with
//! lanes along a value's elements. So what a chunk reads is under way in two parts, keys and values.

use super::attention::{CHUNK, Work};
use super::team::{across_lanes, deal};
use crate::forms::BLOCK;
use crate::fuse::kernel::BATCH;
use crate::mlir::common::cache::Caches;
use crate::mlir::common::device::WARP;
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Ty, Val};
use braid_dsl::model::Reduce;

/// Positions of which a lane loads keys at once, and the slices that the lanes cut a key into.
const QUAD: usize = 4;
const SLICES: usize = WARP / (CHUNK / QUAD);
/// Words that a lane has under way and sums at once.
const WORDS: usize = 72;
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
        let base = e.mul(chunk, e.i64(CHUNK));
        self.prefetch_values(caches, group, base, lane);
        let slot = e.add(base, self.position_of(lane));
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
            // Each position is in two lanes.
            let total = e.mul(across_lanes(e, Reduce::Sum, weight, WARP), e.f32(0.5));
            next.push(e.fma(own[1], scale, total));
            next.extend(own[2..].iter().map(|sum| e.mul(*sum, scale)));
        }
        self.add_values(caches, group, base, lane, &weights, next)
    }

    /// Asks for the values of a chunk, which are needed when its scores are known.
    fn prefetch_values(&self, caches: Caches<'c>, group: Val<'c>, base: Val<'c>, lane: Val<'c>) {
        let e = self.e;
        let row = self.code.value * 4;
        let first = e.element(caches.values, e.add(e.mul(group, caches.slots), base), row);
        let end = e.mul(e.min(e.sub(caches.slots, base), e.i64(CHUNK)), e.i64(row));
        for_each(e, e.mul(lane, e.i64(LINE)), end, e.i64(WARP * LINE), |at| e.prefetch_far(e.offset(first, at)));
    }

    /// The lane's position in its chunk.
    fn position_of(&self, lane: Val<'c>) -> Val<'c> {
        let e = self.e;
        let bit = |from: i64| e.and(e.shift_right(lane, from), e.i64(1));
        let quad = e.mul(e.and(lane, e.i64(CHUNK / QUAD - 1)), e.i64(QUAD));
        e.add(quad, e.add(e.mul(bit(4), e.i64(2)), bit(3)))
    }

    /// A lane whose position that is; `i32`.
    fn lane_of(&self, position: Val<'c>) -> Val<'c> {
        let e = self.e;
        let bit = |from: i64| e.and(e.shift_right(position, from), e.i32(1));
        e.add(e.shift_right(position, 2), e.add(e.mul(bit(1), e.i32(16)), e.mul(bit(0), e.i32(8))))
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

    /// Dot products of all heads with the key of the lane's position.
    fn dots(&self, caches: Caches<'c>, group: Val<'c>, base: Val<'c>, lane: Val<'c>) -> Vec<Val<'c>> {
        let (e, key, heads) = (self.e, self.code.key, self.heads);
        let row = e.mul(e.add(e.mul(group, caches.slots), base), e.i64(key));
        let quad = e.mul(e.and(lane, e.i64(CHUNK / QUAD - 1)), e.i64(QUAD));
        let keys = e.element(caches.keys, e.add(row, quad), 4);
        let (slice, queries) = (e.shift_right(lane, 2), e.shared_memory());
        let turns = key.div_ceil(SLICES);
        let fits = |n: &usize| QUAD * (n + heads) + self.state() <= WORDS;
        let together = [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1).min(turns);
        let add = |k: Val<'c>, sums: &[Val<'c>]| {
            let elements: Vec<Val> = (0..together).map(|turn| e.add(k, e.i64(turn * SLICES))).collect();
            // Behind the last element that is read again, for queries of zero.
            let load = |k: &Val<'c>| {
                let k = e.min(*k, e.i64(key - 1));
                e.load_aligned(e.offset(keys, e.mul(k, e.i64(BLOCK * 4))), Ty::f32(QUAD))
            };
            let loaded: Vec<Val> = elements.iter().map(load).collect();
            let mut sums = sums.to_vec();
            for (k, four) in elements.iter().zip(loaded) {
                let inside = |x| if key.is_multiple_of(SLICES * together) { x } else { self.inside(*k, x) };
                let four: Vec<Val> = (0..QUAD).map(|at| inside(e.extract(four, at))).collect();
                for (head, sums) in sums.chunks_exact_mut(QUAD).enumerate() {
                    let place = e.add(e.min(*k, e.i64(key - 1)), e.i64(head * key));
                    let q = e.load(e.element(queries, place, 4), Ty::F32);
                    sums.iter_mut().zip(&four).for_each(|(sum, x)| *sum = e.fma(q, *x, *sum));
                }
            }
            sums
        };
        let start = vec![e.f32(0.0); heads * QUAD];
        let (end, by) = (e.add(slice, e.i64(turns * SLICES)), e.i64(together * SLICES));
        let sums = e.for_loop(slice, end, by, &start, add);
        sums.chunks_exact(QUAD).map(|four| self.own_sum(lane, four)).collect()
    }

    /// A number of a key that is there, or zero.
    fn inside(&self, element: Val<'c>, x: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.select(e.cmp(Cmp::Lt, element, e.i64(self.code.key)), x, e.f32(0.0))
    }

    /// Of the sums of four positions the lane's own, of all slices: lanes give each other the other half.
    fn own_sum(&self, lane: Val<'c>, four: &[Val<'c>]) -> Val<'c> {
        let e = self.e;
        let (sum, by) = deal(e, e.to_i32(lane), four);
        // Lanes that differ in the bit below have the same positions.
        e.add(sum, e.exchange(sum, by / 2))
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
        let (value, sums, wide) = (self.code.value, self.sums(), self.wide());
        let load = |at: Val<'c>| -> Vec<Val<'c>> {
            let slot = e.add(base, at);
            let row = e.element(caches.values, e.mul(e.add(e.mul(group, caches.slots), slot), e.i64(value)), 4);
            let part = |first: usize| {
                let column = e.min(self.column(lane, first), e.i64(value - 1));
                e.load_aligned(e.element(row, column, 4), Ty::f32(wide))
            };
            let parts = (0..sums).step_by(wide).map(part);
            parts.flat_map(|part| (0..wide).map(move |at| e.extract(part, at))).collect()
        };
        let fits = |n: &usize| n * sums + self.state() + self.heads <= WORDS;
        let together = [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        e.for_loop(e.i64(0), e.i64(CHUNK), e.i64(together), &state, |first, state| {
            let mut state = state.to_vec();
            let positions: Vec<Val> = (0..together).map(|at| e.add(first, e.i64(at))).collect();
            // All loads first: they are under way together.
            let loaded: Vec<Vec<Val>> = positions.iter().map(|at| load(*at)).collect();
            for (at, parts) in positions.iter().zip(loaded) {
                let from = self.lane_of(e.to_i32(*at));
                for (head, weight) in weights.iter().enumerate() {
                    let weight = e.of_lane(*weight, from);
                    for (part, x) in parts.iter().enumerate() {
                        let sum = &mut state[head * (2 + sums) + 2 + part];
                        *sum = e.fma(weight, *x, *sum);
                    }
                }
            }
            state
        })
    }
}
