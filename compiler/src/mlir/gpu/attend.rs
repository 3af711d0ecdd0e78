//! Attention of many rows on the matrix units: 64 rows of one head against 64 positions at a time, weights as a running softmax.
//!
//! Queries, keys, values and weights are rounded to bfloat16 on their way into shared memory or fragments; scores, maxima and sums
//! are in single precision. A warp has 16 rows; two groups of warps share the positions (each has every second 32 of them, and both
//! are joined at the end) or, where values are long, the elements of a value.
//! Dao, FlashAttention-2 (2023); Milakov and Gimelshein, Online normalizer calculation for softmax (2018).

use super::THREADS;
use super::attention::{CHUNK, Sum, Work, join};
use super::kept::Kept;
use super::softmax::{self, CARRIED, Row};
use crate::forms::TILE;
use crate::fuse::kernel::{Attention, BATCH, COLUMN, INNER};
use crate::mlir::common::cache::Caches;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, SegmentFields, Ty, Val};
use crate::plan::QUERIES;

/// Positions of a stage.
const KEYS: usize = 64;
/// Rings have whole stages, and whole chunks.
const _: () = assert!(TILE.is_multiple_of(KEYS) && TILE.is_multiple_of(CHUNK));
/// Positions that a warp weighs at once.
const AT_ONCE: usize = 32;
/// Loads of a thread that are under way at once.
const AHEAD: usize = 8;
/// Longest value whose sums a warp keeps alone.
const WIDE: usize = 128;

/// Where things lie in shared memory, in bytes.
#[derive(Clone, Copy)]
struct Layout {
    /// A key's elements in whole fragments.
    key: usize,
    /// Elements of a value that a warp has.
    columns: usize,
    /// Whether the groups of warps share the positions; otherwise a value's elements.
    shared_keys: bool,
    /// Bytes of a row of queries, or of keys, and of values.
    query_row: usize,
    value_row: usize,
    keys_at: usize,
    values_at: usize,
    positions_at: usize,
    end: usize,
}

impl Layout {
    fn of(code: &Attention) -> Layout {
        let shared_keys = code.value <= WIDE;
        let parts = if shared_keys { 1 } else { 2 };
        let (key, columns) = (code.key.next_multiple_of(16), code.value.div_ceil(parts).next_multiple_of(16));
        // An odd number of 16-byte pieces: eight rows begin at different banks.
        let row = |elements: usize| 16 * ((elements / 8) | 1);
        let (query_row, value_row) = (row(key), row(columns * parts));
        let keys_at = QUERIES * query_row;
        let values_at = keys_at + KEYS * query_row;
        let positions_at = values_at + KEYS * value_row;
        let end = positions_at + KEYS * 4;
        Layout { key, columns, shared_keys, query_row, value_row, keys_at, values_at, positions_at, end }
    }

    /// Where the sums of the two groups begin to be followed by their maxima and totals.
    fn totals_at(&self) -> usize {
        2 * QUERIES * self.columns * 4
    }
}

/// Shared memory: queries, and a stage of keys, values and positions; then what both groups leave; bytes.
pub fn shared_bytes(code: &Attention) -> usize {
    let layout = Layout::of(code);
    if code.is_tiled() { layout.end.max(layout.totals_at() + 2 * QUERIES * 8) } else { 0 }
}

/// Where a thread stands.
#[derive(Clone, Copy)]
struct Lane<'c> {
    /// Its lane in the warp.
    lane: Val<'c>,
    /// Which 16 rows the warp has.
    rows: Val<'c>,
    /// The warp's group.
    group: Val<'c>,
}

/// What a task reads: rows of one sequence, and their keys.
#[derive(Clone, Copy)]
struct Part<'c> {
    caches: Caches<'c>,
    group: Val<'c>,
    /// The first row, and how many; `i64`.
    first: Val<'c>,
    count: Val<'c>,
}

impl<'c> Part<'c> {
    /// A row of the part; past the last, that one. `at` is an `i32`.
    fn row(&self, e: &Emitter<'c>, at: Val<'c>) -> Val<'c> {
        e.add(self.first, e.min(e.to_i64(at), e.sub(self.count, e.i64(1))))
    }
}

impl<'c> Work<'_, 'c> {
    /// A task is some rows and a head; the last rows, which see most, come first.
    pub fn read_rows(&mut self, task: Val<'c>) {
        let e = self.e;
        let (per, heads) = (e.i64(self.code.per), e.i64(self.code.groups * self.code.per));
        let rows = e.call_field(self.args.call, Field::Rows);
        let queries = e.i64(QUERIES);
        let tiles = e.div_up(rows, queries);
        let tile = e.sub(e.sub(tiles, e.i64(1)), e.div(task, heads));
        let head = e.rem(task, heads);
        let group = e.div(head, per);
        self.site.index.insert(INNER, group);
        self.site.index.insert(BATCH, e.rem(head, per));
        let start = e.mul(tile, queries);
        let end = e.min(e.add(start, queries), rows);
        let segment = |row: Val<'c>| e.table_entry(self.args.call, Field::RowSegments, row);
        let (first, last) = (segment(start), segment(e.sub(end, e.i64(1))));
        for_each(e, first, e.add(last, e.i64(1)), e.i64(1), |segment| {
            let own = e.segment(self.args.call, segment);
            let from = e.max(own.row, start);
            let to = e.min(e.add(own.row, own.rows), end);
            let caches = Caches::of(e, self.args, self.code, own.slot);
            self.read_part(Part { caches, group, first: from, count: e.sub(to, from) }, own);
        });
    }

    fn read_part(&mut self, part: Part<'c>, segment: SegmentFields<'c>) {
        let e = self.e;
        let layout = Layout::of(self.code);
        let call = self.args.call;
        let position = |row: Val<'c>| e.table_entry(call, Field::Positions, row);
        let last = e.sub(e.add(segment.position, segment.rows), e.i64(1));
        let (before, _) = part.caches.seen(e, self.code, position(part.first), last);
        let end_row = e.sub(e.add(part.first, part.count), e.i64(1));
        let (_, seen) = part.caches.seen(e, self.code, position(end_row), last);
        e.sync();
        self.fetch_rows(layout, part);
        let lane = self.lane();
        let within = e.add(e.shift_left(lane.rows, 4), e.shift_right(lane.lane, 2));
        let rows = [within, e.add(within, e.i32(8))].map(|at| part.row(e, at));
        let queries = rows.map(|row| e.to_i32(position(row)));
        let sums = layout.columns / 2;
        let start: Vec<Val> = softmax::nothing(e, 2).into_iter().chain(vec![e.f32(0.0); sums]).collect();
        let stage = e.i64(KEYS);
        let stages = (e.div(before, stage), e.add(e.div(seen, stage), e.i64(1)));
        let ends = e.for_loop(stages.0, stages.1, e.i64(1), &start, |at, state| {
            e.sync();
            self.fetch_stage(layout, part, e.mul(at, stage));
            e.sync();
            self.stage(layout, lane, (rows, queries), state)
        });
        e.sync();
        self.leave_rows(layout, lane, &ends);
        e.sync();
        self.finish_rows(layout, part);
    }

    fn lane(&self) -> Lane<'c> {
        let e = self.e;
        let (warp, lane) = (e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.and(e.thread(), e.i32(WARP as i32 - 1)));
        Lane { lane, rows: e.and(warp, e.i32(QUERIES as i32 / 16 - 1)), group: e.div(warp, e.i32(QUERIES as i32 / 16)) }
    }

    // ---- into shared memory -----------------------------------------------------------------------------------

    /// Does `load` and then `put` for so many places, a place a thread, several at once; some may be done twice.
    pub(super) fn each_place<T>(
        &mut self,
        places: usize,
        load: impl Fn(&mut Self, Val<'c>) -> T,
        put: impl Fn(&mut Self, Val<'c>, T),
    ) {
        let e = self.e;
        let turns = places.div_ceil(THREADS);
        let last = e.i32(places as i32 - 1);
        let at = |turn: usize| e.min(e.add(e.thread(), e.i32((turn * THREADS) as i32)), last);
        for first in (0..turns).step_by(AHEAD) {
            let turns = first..turns.min(first + AHEAD);
            let loaded: Vec<T> = turns.clone().map(|turn| load(self, at(turn))).collect();
            for (turn, loaded) in turns.zip(loaded) {
                put(self, at(turn), loaded);
            }
        }
    }

    /// Queries, `[rows][key]`; zero behind a key's elements.
    fn fetch_rows(&mut self, layout: Layout, part: Part<'c>) {
        let e = self.e;
        let (pairs, key) = (layout.key / 2, self.code.key);
        let place = move |at: Val<'c>| (e.div(at, e.i32(pairs as i32)), e.rem(at, e.i32(pairs as i32)));
        let load = |this: &mut Self, at: Val<'c>| {
            let (row, pair) = place(at);
            this.site.set_row(part.row(e, row), false);
            let mut one = |within: i32| {
                let column = e.add(e.shift_left(pair, 1), e.i32(within));
                let there = e.cmp(Cmp::Lt, column, e.i32(key as i32));
                this.site.index.insert(COLUMN, e.to_i64(e.select(there, column, e.i32(0))));
                let x = e.load(this.site.address(&this.code.views.query), Ty::F32);
                if layout.key == key { x } else { e.select(there, x, e.f32(0.0)) }
            };
            let (low, high) = (one(0), one(1));
            e.pack_bf16(low, high)
        };
        let memory = e.shared_memory();
        self.each_place(QUERIES * pairs, load, |_, at, packed| {
            let (row, pair) = place(at);
            let bytes = e.add(e.mul(row, e.i32(layout.query_row as i32)), e.shift_left(pair, 2));
            e.store(e.offset(memory, e.to_i64(bytes)), packed);
        });
        // Keys have no numbers there, which must be no NaN.
        let (keys, missing) = (e.offset_by(memory, layout.keys_at), (layout.key - key) as i64);
        for_each(e, e.to_i64(e.thread()), e.i64(missing * KEYS as i64), e.i64(THREADS), |at| {
            let (row, column) = (e.div(at, e.i64(missing.max(1))), e.rem(at, e.i64(missing.max(1))));
            let own = e.element(e.element(keys, row, layout.query_row), column, 2);
            e.store(e.offset_by(own, 2 * key), e.convert(e.f32(0.0), Elem::Bf16));
        });
    }

    /// Keys, values and the positions from `first` on.
    fn fetch_stage(&mut self, layout: Layout, part: Part<'c>, first: Val<'c>) {
        let e = self.e;
        let (caches, memory, first) = (part.caches, e.shared_memory(), Caches::block_at(e, self.code, first));
        let thread = e.to_i64(e.thread());
        e.if_then(e.cmp(Cmp::Lt, thread, e.i64(KEYS)), || {
            let slot = e.add(first, thread);
            let there = e.cmp(Cmp::Lt, slot, caches.slots);
            let position = e.load(e.element(caches.positions, e.select(there, slot, e.i64(0)), 4), Ty::I32);
            let to = e.element(e.offset_by(memory, layout.positions_at), thread, 4);
            e.store(to, e.select(there, position, e.i32(-1)));
        });
        // Past the last place it is read again; its positions were marked.
        let kept = [Kept::keys(e, self.code, &caches, part.group), Kept::values(e, self.code, &caches, part.group)];
        let places = [(layout.keys_at, layout.query_row), (layout.values_at, layout.value_row)];
        for (kept, (at, row)) in kept.into_iter().zip(places) {
            kept.copy(KEYS, (first, e.sub(caches.slots, e.i64(1))), (e.offset_by(memory, at), row));
        }
    }

    // ---- a stage ----------------------------------------------------------------------------------------------

    /// What the warp makes of a stage; the new state.
    fn stage(&mut self, layout: Layout, lane: Lane<'c>, rows: ([Val<'c>; 2], [Val<'c>; 2]), state: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        if layout.shared_keys {
            return self.some_keys(layout, lane, (e.mul(lane.group, e.i32(AT_ONCE as i32)), e.i32(0)), rows, state);
        }
        let column = e.mul(lane.group, e.i32(layout.columns as i32));
        e.for_loop(e.i32(0), e.i32(KEYS as i32), e.i32(AT_ONCE as i32), state, |first, state| {
            self.some_keys(layout, lane, (first, column), rows, state)
        })
    }

    /// Some positions of a stage, from `first` on, for values from `column` on.
    fn some_keys(
        &mut self,
        layout: Layout,
        lane: Lane<'c>,
        (first, column): (Val<'c>, Val<'c>),
        (rows, queries): ([Val<'c>; 2], [Val<'c>; 2]),
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let mut scores = self.scores(layout, lane, first);
        let positions = self.positions(layout, lane, first);
        let own = [0, 1].map(|at| Row { row: rows[at], query: queries[at], head: None });
        self.score(&mut scores, &positions, &own);
        self.hide(&mut scores, &positions, &own, |key| e.cmp(Cmp::Ge, key, e.i32(0)));
        let step = softmax::weigh(e, &mut scores, 1.0, &state[..CARRIED]);
        let sums = softmax::rescale(e, &state[CARRIED..], &step.scales);
        self.add_rows(layout, lane, (first, column), &scores, step.carried.into_iter().chain(sums).collect())
    }

    /// Dot products of the warp's rows with some keys, as fragments of 8 keys.
    fn scores(&self, layout: Layout, lane: Lane<'c>, first: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let row = e.add(e.shift_left(lane.rows, 4), e.and(lane.lane, e.i32(15)));
        let query = e.add(e.mul(row, e.i32(layout.query_row as i32)), e.shift_left(e.shift_right(lane.lane, 4), 4));
        let query = e.offset(e.shared_memory(), e.to_i64(query));
        // Of two matrices of eight positions the first sixteen bytes, and those behind.
        let row = e.add(e.and(lane.lane, e.i32(7)), e.shift_left(e.shift_right(lane.lane, 4), 3));
        let row = e.mul(e.add(first, row), e.i32(layout.query_row as i32));
        let keys = e.add(row, e.shift_left(e.and(e.shift_right(lane.lane, 3), e.i32(1)), 4));
        let keys = e.offset(e.offset_by(e.shared_memory(), layout.keys_at), e.to_i64(keys));
        let mut sums = vec![e.f32(0.0); AT_ONCE / 2];
        for step in 0..layout.key / 16 {
            let left = e.load_fragments(e.offset_by(query, 32 * step));
            for pair in 0..AT_ONCE / 16 {
                let right = e.load_fragments(e.offset_by(keys, 16 * pair * layout.query_row + 32 * step));
                add_products(e, left, right, &mut sums[8 * pair..][..8]);
            }
        }
        sums
    }

    /// The positions of the lane's keys.
    fn positions(&self, layout: Layout, lane: Lane<'c>, first: Val<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let own = e.add(first, e.shift_left(e.and(lane.lane, e.i32(3)), 1));
        let place = e.element(e.offset_by(e.shared_memory(), layout.positions_at), e.to_i64(own), 4);
        let pair = |at: usize| e.load_aligned(e.offset_by(place, 32 * at), Ty::i32(2));
        (0..AT_ONCE / 8).map(pair).flat_map(|pair| [e.extract(pair, 0), e.extract(pair, 1)]).collect()
    }

    /// Adds weighted values to the sums behind what else is carried.
    fn add_rows(
        &self,
        layout: Layout,
        lane: Lane<'c>,
        (first, column): (Val<'c>, Val<'c>),
        weights: &[Val<'c>],
        mut state: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let row = e.add(first, e.and(lane.lane, e.i32(15)));
        let column = e.add(column, e.shift_left(e.shift_right(lane.lane, 4), 3));
        let bytes = e.add(e.mul(row, e.i32(layout.value_row as i32)), e.shift_left(column, 1));
        let values = e.offset(e.offset_by(e.shared_memory(), layout.values_at), e.to_i64(bytes));
        for (step, own) in weights.chunks_exact(8).enumerate() {
            let left = std::array::from_fn(|at| e.pack_bf16(own[2 * at], own[2 * at + 1]));
            for pair in 0..layout.columns / 16 {
                let right = e.load_turned_fragments(e.offset_by(values, 16 * step * layout.value_row + 32 * pair));
                add_products(e, left, right, &mut state[CARRIED + 8 * pair..][..8]);
            }
        }
        state
    }

    // ---- the end ----------------------------------------------------------------------------------------------

    /// Leaves a warp's sums, `[groups][rows][columns]`, and maxima and totals, `[groups][rows][2]`.
    fn leave_rows(&self, layout: Layout, lane: Lane<'c>, ends: &[Val<'c>]) {
        let e = self.e;
        let memory = e.shared_memory();
        let row = e.add(e.shift_left(lane.rows, 4), e.shift_right(lane.lane, 2));
        let row = e.add(e.mul(lane.group, e.i32(QUERIES as i32)), row);
        for half in 0..2 {
            let row = e.to_i64(e.add(row, e.i32(8 * half as i32)));
            let (most, total) = (softmax::most(e, ends[half]), softmax::total(e, ends[2 + half]));
            let both = e.insert(e.insert(e.poison(Ty::f32(2)), 0, most), 1, total);
            let first = e.cmp(Cmp::Eq, e.and(lane.lane, e.i32(3)), e.i32(0));
            e.if_then(first, || e.store_aligned(e.element(e.offset_by(memory, layout.totals_at()), row, 8), both));
            let column = e.to_i64(e.shift_left(e.and(lane.lane, e.i32(3)), 1));
            let place = e.element(e.element(memory, row, 4 * layout.columns), column, 4);
            for (at, four) in ends[CARRIED..].chunks_exact(4).enumerate() {
                let pair = e.insert(e.insert(e.poison(Ty::f32(2)), 0, four[2 * half]), 1, four[2 * half + 1]);
                e.store_aligned(e.offset_by(place, 32 * at), pair);
            }
        }
    }

    /// Joins what both groups left, and stores the result.
    fn finish_rows(&mut self, layout: Layout, part: Part<'c>) {
        let e = self.e;
        let (memory, value) = (e.shared_memory(), e.i64(self.code.value));
        let sum = |group: Val<'c>, row: Val<'c>, column: Val<'c>| {
            let row = e.add(e.mul(group, e.i64(QUERIES)), row);
            let total = e.load_aligned(e.element(e.offset_by(memory, layout.totals_at()), row, 8), Ty::f32(2));
            let sum = e.load(e.element(memory, e.add(e.mul(row, e.i64(layout.columns)), column), 4), Ty::F32);
            Sum { most: e.extract(total, 0), total: e.extract(total, 1), sum }
        };
        let (columns, head) = (e.i64(layout.columns), self.site.index[&BATCH]);
        for_each(e, e.to_i64(e.thread()), e.mul(part.count, value), e.i64(THREADS), |at| {
            let (row, column) = (e.div(at, value), e.rem(at, value));
            let own = match layout.shared_keys {
                true => join(e, sum(e.i64(0), row, column), sum(e.i64(1), row, column)),
                false => sum(e.div(column, columns), row, e.rem(column, columns)),
            };
            self.site.set_row(e.add(part.first, row), false);
            self.finish(head, e.i64(0), column, own);
        });
    }
}

/// Adds the products with two fragments of eight columns to their sums.
pub(super) fn add_products<'c>(e: &Emitter<'c>, left: [Val<'c>; 4], right: [Val<'c>; 4], sums: &mut [Val<'c>]) {
    for (right, sum) in right.chunks_exact(2).zip(sums.chunks_exact_mut(4)) {
        sum.copy_from_slice(&e.multiply_fragments(left, [right[0], right[1]], [sum[0], sum[1], sum[2], sum[3]]));
    }
}
