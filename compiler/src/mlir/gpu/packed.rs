//! A warp's look at a chunk of sixteen positions on the matrix units, for rows of a step of decoding: heads that share keys are eight rows of a
//! product. Queries and weights go as two halves each, as rows do there (halves.rs), so what comes out is as exact as keys and values are.
//!
//! Scores are queries times keys; sums are values times weights, so that a lane's scores of a head are where the second product wants its
//! weights, and sums take half of the registers. Lanes load 16 bytes of a key, which are two instructions' numbers, as the units add up in any
//! order; and 16 bytes of four values, pairs of which are joined to columns.

use super::attention::{CHUNK, Work};
use super::halves;
use super::kept::{Kept, side_by_side};
use super::sight::Sight;
use super::softmax::{self, Row};
use super::team::across_lanes;
use super::wide::numbers;
use super::{THREADS, WARPS};
use crate::fuse::kernel::{Attention, BATCH, Store};
use crate::mlir::common::cache::Caches;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, SegmentFields, Ty, Val};
use braid_dsl::model::Reduce;

/// Rows of queries, and columns of a fragment.
const EIGHT: usize = 8;
/// Numbers of a key that four lanes load at once.
const LOAD: usize = 32;
/// Numbers of a value that eight lanes load at once.
const COLUMNS: usize = 64;
/// Loads of keys, or of values, that are under way together.
const TOGETHER: usize = 8;
/// What is carried of a row ahead of the sums.
const CARRIED: usize = 2;
/// So many bytes further the next head's queries are in other banks.
const ASIDE: usize = COPY;

/// Whether steps of an attention go so.
pub(super) fn is_used(code: &Attention) -> bool {
    let whole = code.key.is_multiple_of(LOAD) && code.value.is_multiple_of(COLUMNS);
    code.is_packed() && code.kept == Some(Store::Bf16) && whole && code.heads_of_a_block() <= EIGHT
}

/// Bytes of a head's queries in shared memory.
pub(super) fn query_bytes(code: &Attention) -> usize {
    4 * code.key + if is_used(code) { ASIDE } else { 0 }
}

/// Where a warp looks.
#[derive(Clone, Copy)]
pub(super) struct Look<'c> {
    pub(super) caches: Caches<'c>,
    pub(super) segment: SegmentFields<'c>,
    /// The row, and the position of its query.
    pub(super) row: Val<'c>,
    pub(super) position: Val<'c>,
    /// The group, and the first of the task's heads.
    pub(super) heads: (Val<'c>, Val<'c>),
    /// The first chunk, and past the last.
    pub(super) chunks: (Val<'c>, Val<'c>),
}

/// A lane among those of its row of a fragment, and its row; `i32`.
#[derive(Clone, Copy)]
struct Lane<'c> {
    within: Val<'c>,
    row: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    /// The queries of the task's heads to shared memory, halved: of eight numbers first halves, then what is left.
    pub(super) fn fetch_halved_queries(&mut self, first: Val<'c>) {
        let e = self.e;
        let (eights, bytes) = (self.code.key / EIGHT, query_bytes(self.code));
        for_each(e, e.to_i64(e.thread()), e.i64(self.heads * eights), e.i64(THREADS), |at| {
            let (head, eight) = (e.div(at, e.i64(eights)), e.rem(at, e.i64(eights)));
            self.site.index.insert(BATCH, e.add(first, head));
            let own = numbers(&mut self.site, &self.code.views.query, e.mul(eight, e.i64(EIGHT)), EIGHT);
            let place = e.element(e.element(e.shared_memory(), head, bytes), eight, 4 * EIGHT);
            halves::store(e, place, [side_by_side(e, &own[..4]), side_by_side(e, &own[4..])]);
        });
    }

    /// Every so many chunks of those that are looked at; leaves what the warp has of them.
    pub(super) fn look(&mut self, look: Look<'c>) {
        let (e, code) = (self.e, self.code);
        let thread = e.thread();
        let (warp, lane) = (e.shift_right(thread, i64::from(WARP.ilog2())), e.and(thread, e.i32(WARP as i32 - 1)));
        let own = Lane { within: e.and(lane, e.i32(3)), row: e.shift_right(lane, 2) };
        // Past the last head it is that one.
        let head = e.min(own.row, e.i32(self.heads as i32 - 1));
        let query = e.to_i32(look.position);
        let row = Row { row: look.row, query, head: Some(e.add(look.heads.1, e.to_i64(head))) };
        let sight = Sight::of(e, code, look.segment, (vec![row], [query; 2]));
        let start: Vec<Val> = softmax::nothing(e, 1).into_iter().chain(vec![e.f32(0.0); EIGHT * code.value / WARP]).collect();
        let (from, to) = look.chunks;
        let [keys, values] = [Kept::keys(e, code, &look.caches, look.heads.0), Kept::values(e, code, &look.caches, look.heads.0)];
        let fits = code.key / LOAD * 2 <= TOGETHER && code.value / COLUMNS * 4 <= TOGETHER;
        let ends = e.for_loop(e.add(from, e.to_i64(warp)), to, e.i64(WARPS), &start, |chunk, state| {
            let position = e.mul(chunk, e.i64(CHUNK));
            let base = Caches::block_at(e, code, position);
            let first = self.load_keys(keys, (base, own), 0);
            // Values come while scores are made, as far as registers have room for both; asked for ahead of them, into a cache, they come later.
            let early = fits.then(|| self.load_some_values(values, (base, own), 0));
            let mut scores = self.scores_of(keys, (base, own), head, first);
            let step = sight.weigh(self, (e.to_i32(position), lane), &mut scores, &state[..CARRIED]);
            let sums = self.rescaled(own, &step, &state[CARRIED..]);
            let sums = self.with_values(values, (base, own), (&scores, early), sums);
            step.carried.into_iter().chain(sums).collect()
        });
        self.leave_look(warp, own, &ends);
        // What was known of it is known in the loop alone.
        self.site.set_row(look.row, false);
    }

    /// What a lane has of keys, from number `first` on: of two of the chunk's, 16 bytes of each [`LOAD`] numbers.
    fn load_keys(&self, keys: Kept<'_, 'c>, (base, own): (Val<'c>, Lane<'c>), first: usize) -> Vec<[Val<'c>; 2]> {
        let e = self.e;
        let rows = [0, EIGHT].map(|by| keys.row(e.add(base, e.to_i64(e.add(own.row, e.i32(by as i32))))));
        let piece = e.to_i64(e.shift_left(own.within, i64::from(EIGHT.ilog2())));
        let load = |at: usize| rows.map(|row| keys.load(keys.place(row, e.add(piece, e.i64(at))), EIGHT));
        (first..self.code.key).step_by(LOAD).take(TOGETHER / 2).map(load).collect()
    }

    /// Scores of the lane's head, of two of every eight positions. `head`: the lane's; `first`: the first keys that were loaded.
    fn scores_of(&self, keys: Kept<'_, 'c>, place: (Val<'c>, Lane<'c>), head: Val<'c>, first: Vec<[Val<'c>; 2]>) -> Vec<Val<'c>> {
        let e = self.e;
        let query = e.element(e.shared_memory(), e.to_i64(head), query_bytes(self.code));
        let query = e.element(query, e.to_i64(place.1.within), 4 * EIGHT);
        let mut sums = [[e.f32(0.0); 4]; 2];
        let mut loaded = first;
        for at in (0..self.code.key).step_by(LOAD) {
            let within = at / LOAD % (TOGETHER / 2);
            if within == 0 && at > 0 {
                loaded = self.load_keys(keys, place, at);
            }
            let [high, low] = [0, COPY].map(|by| e.load_aligned(e.offset_by(query, 4 * at + by), Ty::i32(4)));
            for half in [0, 2] {
                let left = [(high, half), (low, half), (high, half + 1), (low, half + 1)].map(|(words, n)| e.extract(words, n));
                for (keys, sums) in loaded[within].iter().zip(&mut sums) {
                    let right = [half, half + 1].map(|n| e.extract(*keys, n));
                    *sums = e.multiply_fragments(left, right, *sums);
                }
            }
        }
        // The products of both halves are in rows of their own.
        sums.iter().flat_map(|sums| [0, 1].map(|at| e.add(sums[at], sums[at + 2]))).collect()
    }

    /// Sums, of two heads of the lane's own, brought to new bases.
    fn rescaled(&self, own: Lane<'c>, step: &softmax::Step<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let rises = e.in_any_lane(step.rises);
        let scaled = || {
            // Lanes of a row begin at multiples of four.
            let first = e.shift_left(own.within, 3);
            let scales = [0, 4].map(|by| e.of_lane(step.scales[0], e.add(first, e.i32(by))));
            sums.iter().enumerate().map(|(at, sum)| e.mul(*sum, scales[at % 2])).collect()
        };
        e.if_else(rises, scaled, || sums.to_vec())
    }

    /// What a lane has of values, from column `first` on: of four of the chunk's, 16 bytes of each [`COLUMNS`] numbers.
    fn load_some_values(&self, values: Kept<'_, 'c>, (base, own): (Val<'c>, Lane<'c>), first: usize) -> Vec<[Val<'c>; 4]> {
        let e = self.e;
        let own_first = e.add(base, e.to_i64(e.shift_left(own.within, 1)));
        let rows = [0, 1, EIGHT, EIGHT + 1].map(|by| values.row(e.add(own_first, e.i64(by))));
        let piece = e.to_i64(e.shift_left(own.row, i64::from(EIGHT.ilog2())));
        let load = |at: usize| rows.map(|row| values.load(values.place(row, e.add(piece, e.i64(at))), EIGHT));
        (first..self.code.value).step_by(COLUMNS).take(TOGETHER / 4).map(load).collect()
    }

    /// Adds values, times the weights of a lane's head, to the sums of columns of its own and two heads: four for each two columns.
    fn with_values(
        &self,
        values: Kept<'_, 'c>,
        place: (Val<'c>, Lane<'c>),
        (weights, early): (&[Val<'c>], Option<Vec<[Val<'c>; 4]>>),
        mut sums: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let halves = [0, 2].map(|at| halves::halved_pair(e, [weights[at], weights[at + 1]]));
        let right = [0, 1].map(|half| [halves[0][half], halves[1][half]]);
        let mut loaded = early.unwrap_or_else(|| self.load_some_values(values, place, 0));
        for (at, sums) in sums.chunks_exact_mut(2 * EIGHT).enumerate() {
            let within = at % (TOGETHER / 4);
            if within == 0 && at > 0 {
                loaded = self.load_some_values(values, place, at * COLUMNS);
            }
            let rows = loaded[within];
            for (word, sums) in sums.chunks_exact_mut(4).enumerate() {
                let [a, b, c, d] = rows.map(|row| e.extract(row, word));
                let ([a, b], [c, d]) = (e.joined_halves(a, b), e.joined_halves(c, d));
                for right in right {
                    sums.copy_from_slice(&e.multiply_fragments([a, b, c, d], right, [sums[0], sums[1], sums[2], sums[3]]));
                }
            }
        }
        sums
    }

    /// Leaves a warp's sums, maxima and totals where they are merged.
    fn leave_look(&self, warp: Val<'c>, own: Lane<'c>, ends: &[Val<'c>]) {
        let e = self.e;
        let (to_sums, to_totals) = self.left();
        let heads = e.i32(self.heads as i32);
        let number = |head: Val<'c>| e.to_i64(e.add(e.mul(warp, heads), head));
        let (most, total) = (softmax::most(e, ends[0]), across_lanes(e, Reduce::Sum, ends[1], 4));
        let first = e.and(e.cmp(Cmp::Eq, own.within, e.i32(0)), e.cmp(Cmp::Lt, own.row, heads));
        e.if_then(first, || e.store_aligned(e.element(to_totals, number(own.row), 8), side_by_side(e, &[most, total])));
        for head in 0..2 {
            let which = e.add(e.shift_left(own.within, 1), e.i32(head as i32));
            e.if_then(e.cmp(Cmp::Lt, which, heads), || {
                let row = e.element(to_sums, number(which), 4 * self.code.value);
                let own = e.element(row, e.to_i64(own.row), 4 * EIGHT);
                // Two columns of each four sums.
                for (at, eight) in ends[CARRIED..].chunks_exact(EIGHT).enumerate() {
                    let four = [0, 2, 4, 6].map(|column| eight[column + head]);
                    let place = e.offset_by(own, at / 2 * 4 * COLUMNS + at % 2 * COPY);
                    e.store_aligned(place, side_by_side(e, &four));
                }
            });
        }
    }
}

/// A load is two instructions' numbers of each lane, and sixteen positions are both of a fragment's eights.
const _: () = assert!(LOAD == 4 * EIGHT && CHUNK == 2 * EIGHT && COLUMNS == EIGHT * EIGHT);
