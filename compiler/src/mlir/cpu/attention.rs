//! Attention over a cache: a kernel that stores the call's keys and values, and one that reads them with a running softmax.
//!
//! Keys lie in blocks of 16 positions, `[groups][blocks][key][16]`, so that a vector's lanes are positions: scores need no
//! horizontal sums. What `keep` and `score` ask of the key's position lies behind a key as more of its channels. Values lie as
//! `[groups][slots][value]`. A table holds the position of every slot, -1 where there is none; what a query may see is decided by the
//! declaration's `keep` over that table, whatever the order of the slots.

use crate::forms::{BLOCK, Reach};
use crate::fuse::kernel::{Attention, BATCH, COLUMN, INNER};
use crate::mlir::common::cache::{Caches, slot_of};
use crate::mlir::common::pair::{Pair, body, capture};
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use braid_dsl::model::Op;

/// Scratch of the reading kernel: weighted sums of values, and the block's weights, of each head.
pub fn scratch_bytes(code: &Attention) -> usize {
    code.heads_at_once() * (padded(code.value) + BLOCK) * 4
}

fn padded(value: usize) -> usize {
    value.next_multiple_of(64)
}

/// Emits the storing or the reading kernel.
pub fn emit(e: &Emitter, name: &str, code: &Attention, stores_keys: bool, setting: Setting) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut work = Work { e, code, site, args, setting };
        for_each(e, args.begin, args.end, e.i64(1), |task| match stores_keys {
            true => work.store_row(task),
            false => work.read_row(task),
        });
    });
}

struct Work<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Attention,
    site: Site<'k, 'c>,
    args: KernelArgs<'c>,
    setting: Setting,
}

/// One query head while blocks go by.
#[derive(Clone, Copy)]
struct Head<'c> {
    /// Its query.
    query: Val<'c>,
    /// Its index along `per`.
    number: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    fn store_row(&mut self, row: Val<'c>) {
        let e = self.e;
        self.site.set_row(row, false);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let slot = slot_of(e, self.code, position);
        e.store(e.element(caches.positions, slot, 4), e.to_i32(position));
        let (block, lane) = (e.div(slot, e.i64(BLOCK)), e.rem(slot, e.i64(BLOCK)));
        let (key, value) = (self.code.key, self.code.value);
        let blocks = e.div(caches.slots, e.i64(BLOCK));
        let channels = self.code.channels();
        for_each(e, e.i64(0), e.i64(self.code.groups), e.i64(1), |group| {
            self.site.index.insert(INNER, group);
            self.site.index.insert(BATCH, e.i64(0));
            let base = e.mul(e.add(e.mul(group, blocks), block), e.i64(channels * BLOCK));
            for (number, count) in &self.code.keyed {
                let first = self.code.channel(*number).map_or(0, |(first, _)| first);
                for_each(e, e.i64(0), e.i64(*count), e.i64(1), |head| {
                    self.site.index.insert(BATCH, head);
                    let x = capture(&self.site, self.code, *number);
                    let at = e.add(e.add(base, e.mul(e.add(head, e.i64(first)), e.i64(BLOCK))), lane);
                    e.store(e.element(caches.keys, at, 4), x);
                });
            }
            self.site.index.insert(BATCH, e.i64(0));
            for_each(e, e.i64(0), e.i64(key), e.i64(1), |k| {
                self.site.index.insert(COLUMN, k);
                let x = e.load(self.site.address(&self.code.views.keys), Ty::F32);
                let at = e.add(e.add(base, e.mul(k, e.i64(BLOCK))), lane);
                e.store(e.element(caches.keys, at, 4), x);
            });
            let base = e.mul(e.add(e.mul(group, caches.slots), slot), e.i64(value));
            for_each(e, e.i64(0), e.i64(value), e.i64(1), |v| {
                self.site.index.insert(COLUMN, v);
                let x = e.load(self.site.address(&self.code.views.values), Ty::F32);
                e.store(e.element(caches.values, e.add(base, v), 4), x);
            });
        });
    }

    /// A task is a row, a group and so many of its heads.
    fn read_row(&mut self, task: Val<'c>) {
        let e = self.e;
        let heads = self.code.heads_at_once();
        let parts = self.code.per / heads;
        let row = e.div(task, e.i64(self.code.groups * parts));
        let rest = e.rem(task, e.i64(self.code.groups * parts));
        let (group, part) = (e.div(rest, e.i64(parts)), e.rem(rest, e.i64(parts)));
        self.site.set_row(row, false);
        self.site.index.insert(INNER, group);
        self.site.index.insert(COLUMN, e.i64(0));
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let heads: Vec<Head> = (0..heads)
            .map(|h| {
                let number = e.add(e.mul(part, e.i64(heads)), e.i64(h));
                self.site.index.insert(BATCH, number);
                Head { query: self.site.address(&self.code.views.query), number }
            })
            .collect();
        let sums = scratch(e, self.args, self.setting, 0);
        let zero = e.float(Ty::f32(64), 0.0);
        for_each(e, e.i64(0), e.i64(heads.len() * padded(self.code.value)), e.i64(64), |at| {
            e.store(e.element(sums, at, 4), zero);
        });
        let last = e.sub(e.add(segment.position, segment.rows), e.i64(1));
        // Blocks of a ring are counted as if it were unrolled.
        let (ring, (first, seen)) = match self.code.reach {
            Reach::Window { rows, window } => {
                (Some(e.i64(rows / BLOCK)), (e.max(e.sub(position, e.i64(window - 1)), e.i64(0)), position))
            }
            _ => (None, caches.seen(e, self.code, position, last)),
        };
        let (first, end) = (e.div(first, e.i64(BLOCK)), e.add(e.div(seen, e.i64(BLOCK)), e.i64(1)));
        // Of each head the running maximum and the running sum of weights.
        let start: Vec<Val> = heads.iter().flat_map(|_| [e.f32(f32::NEG_INFINITY), e.f32(0.0)]).collect();
        let ends = e.for_loop(first, end, e.i64(1), &start, |block, state| {
            let block = ring.map_or(block, |blocks| e.rem(block, blocks));
            self.block(caches, group, block, position, &heads, state)
        });
        for (at, head) in heads.iter().enumerate() {
            self.finish(*head, at, ends[2 * at], ends[2 * at + 1]);
        }
    }

    /// One block of positions for all heads; the new maxima and sums. A block of which no head may see anything costs a look at `keep`.
    fn block(
        &mut self,
        caches: Caches<'c>,
        group: Val<'c>,
        block: Val<'c>,
        query: Val<'c>,
        heads: &[Head<'c>],
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let first = e.mul(block, e.i64(BLOCK));
        let positions = e.load(e.element(caches.positions, first, 4), Ty::i32(BLOCK));
        let keys = self.keys_of(caches, group, block);
        let pair = Pair { query: e.to_i32(query), key: positions, channels: Some(keys), score: None };
        let visible = self.visible(heads, pair);
        let some = visible.iter().copied().reduce(|a, b| e.or(a, b)).map_or(e.bool(false), |all| e.any(all));
        let seen = || self.seen_block((caches, group, first), keys, heads, (pair, &visible), state);
        e.if_else(some, seen, || state.to_vec())
    }

    /// Which keys of a block each head sees.
    fn visible(&mut self, heads: &[Head<'c>], pair: Pair<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let there = e.cmp(Cmp::Ge, pair.key, e.i32(0));
        let by_head = self.code.attend.keep.values.iter().any(|value| matches!(value.op, Op::Capture(_)));
        let different = if by_head { heads.len() } else { 1 };
        let one = |head: &Head<'c>| {
            self.site.index.insert(BATCH, head.number);
            let keep = body(&self.site, self.code, &self.code.attend.keep, self.code.attend.keep_result, pair);
            e.and(e.splat(keep, BLOCK), there)
        };
        let masks: Vec<Val> = heads[..different].iter().map(one).collect();
        heads.iter().enumerate().map(|(at, _)| masks[at.min(different - 1)]).collect()
    }

    fn seen_block(
        &mut self,
        (caches, group, first): (Caches<'c>, Val<'c>, Val<'c>),
        keys: Val<'c>,
        heads: &[Head<'c>],
        (pair, visible): (Pair<'c>, &[Val<'c>]),
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let dots = self.dots(keys, heads);
        let mut next = Vec::new();
        let mut scales = Vec::new();
        for (at, head) in heads.iter().enumerate() {
            let (most, sum) = (state[2 * at], state[2 * at + 1]);
            self.site.index.insert(BATCH, head.number);
            let pair = Pair { score: Some(dots[at]), ..pair };
            let score = body(&self.site, self.code, &self.code.attend.score, self.code.attend.score_result, pair);
            if self.code.attend.plain {
                let weights = e.select(visible[at], e.splat(score, BLOCK), e.float(Ty::f32(BLOCK), 0.0));
                e.store(self.weights_of(at), weights);
                next.extend([most, sum]);
                scales.push(e.f32(1.0));
                continue;
            }
            let hidden = e.float(Ty::f32(BLOCK), f64::NEG_INFINITY);
            let score = e.select(visible[at], e.splat(score, BLOCK), hidden);
            let most_now = e.max(most, e.reduce_max(score));
            // Where nothing was seen yet the maximum stays minus infinity; any finite anchor gives weights of zero.
            let none = e.cmp(Cmp::Eq, most_now, e.f32(f32::NEG_INFINITY));
            let anchor = e.select(none, e.f32(0.0), most_now);
            let scale = e.exp(e.sub(most, anchor));
            let weights = e.exp(e.sub(score, anchor));
            e.store(self.weights_of(at), weights);
            next.push(most_now);
            next.push(e.add(e.mul(sum, scale), e.reduce_add(weights)));
            scales.push(scale);
        }
        self.add_values(caches, group, first, &scales);
        next
    }

    /// Where a block of a group's keys is.
    fn keys_of(&self, caches: Caches<'c>, group: Val<'c>, block: Val<'c>) -> Val<'c> {
        let e = self.e;
        let blocks = e.div(caches.slots, e.i64(BLOCK));
        let base = e.mul(e.add(e.mul(group, blocks), block), e.i64(self.code.channels() * BLOCK * 4));
        e.offset(caches.keys, base)
    }

    /// Dot products of all heads with a block of keys; lanes are positions.
    fn dots(&self, keys: Val<'c>, heads: &[Head<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let key = self.code.key;
        let stride = self.code.views.query.stride(COLUMN) * 4;
        // Few heads walk several elements at once, so that enough sums are under way.
        let together = [4, 2].into_iter().find(|n| heads.len() * n <= 8 && key.is_multiple_of(*n)).unwrap_or(1);
        let start = vec![e.float(Ty::f32(BLOCK), 0.0); heads.len() * together];
        let sums = e.for_loop(e.i64(0), e.i64(key), e.i64(together), &start, |k, sums| {
            let mut sums = sums.to_vec();
            for part in 0..together {
                let k = e.add(k, e.i64(part));
                let column = e.load(e.offset(keys, e.mul(k, e.i64(BLOCK * 4))), Ty::f32(BLOCK));
                for (h, head) in heads.iter().enumerate() {
                    let q = e.load(e.offset(head.query, e.mul(k, e.i64(stride))), Ty::F32);
                    let sum = &mut sums[part * heads.len() + h];
                    *sum = e.fma(e.splat(q, BLOCK), column, *sum);
                }
            }
            sums
        });
        (0..heads.len()).map(|h| (1..together).fold(sums[h], |sum, part| e.add(sum, sums[part * heads.len() + h]))).collect()
    }

    fn weights_of(&self, head: usize) -> Val<'c> {
        let at = (self.code.heads_at_once() * padded(self.code.value) + head * BLOCK) * 4;
        scratch(self.e, self.args, self.setting, at)
    }

    fn sums_of(&self, head: usize) -> Val<'c> {
        scratch(self.e, self.args, self.setting, head * padded(self.code.value) * 4)
    }

    /// `sums = sums · scale + weights · values`, a vector of value elements at a time.
    fn add_values(&self, caches: Caches<'c>, group: Val<'c>, first: Val<'c>, scales: &[Val<'c>]) {
        let e = self.e;
        let value = self.code.value;
        let row = e.mul(e.add(e.mul(group, caches.slots), first), e.i64(value * 4));
        let values = e.offset(caches.values, row);
        self.over_value(|lanes, at, mask| {
            let start: Vec<Val> = scales
                .iter()
                .enumerate()
                .map(|(h, scale)| e.mul(e.load(e.element(self.sums_of(h), at, 4), Ty::f32(lanes)), *scale))
                .collect();
            let sums = e.for_loop(e.i64(0), e.i64(BLOCK), e.i64(1), &start, |lane, sums| {
                let place = e.element(e.offset(values, e.mul(lane, e.i64(value * 4))), at, 4);
                let part = match mask {
                    Some(mask) => e.load_masked(place, mask, Ty::f32(lanes)),
                    None => e.load(place, Ty::f32(lanes)),
                };
                let weigh = |h: usize| e.splat(e.load(e.element(self.weights_of(h), lane, 4), Ty::F32), lanes);
                sums.iter().enumerate().map(|(h, sum)| e.fma(weigh(h), part, *sum)).collect()
            });
            for (h, sum) in sums.into_iter().enumerate() {
                e.store(e.element(self.sums_of(h), at, 4), sum);
            }
        });
    }

    /// Calls `body(lanes, first element, mask)` over the elements of a value.
    fn over_value(&self, body: impl Fn(usize, Val<'c>, Option<Val<'c>>)) {
        let e = self.e;
        let lanes = (2 * self.setting.lanes).min(64);
        let (whole, left) = (self.code.value / lanes * lanes, self.code.value % lanes);
        if whole > 0 {
            for_each(e, e.i64(0), e.i64(whole), e.i64(lanes), |at| body(lanes, at, None));
        }
        if left > 0 {
            body(lanes, e.i64(whole), Some(e.mask(lanes, e.i64(left))));
        }
    }

    /// Divides by the sum of weights, which a sink joins, and stores the head's result.
    fn finish(&mut self, head: Head<'c>, at: usize, most: Val<'c>, sum: Val<'c>) {
        let e = self.e;
        self.site.index.insert(BATCH, head.number);
        let (scale, sum) = match self.code.attend.sink {
            None if self.code.attend.plain => (e.f32(1.0), e.f32(1.0)),
            None => (e.f32(1.0), sum),
            Some(number) => {
                let sink = capture(&self.site, self.code, number);
                let anchor = e.max(most, sink);
                let scale = e.exp(e.sub(most, anchor));
                (scale, e.add(e.mul(sum, scale), e.exp(e.sub(sink, anchor))))
            }
        };
        let none = e.cmp(Cmp::Eq, sum, e.f32(0.0));
        let factor = e.select(none, e.f32(0.0), e.div(scale, sum));
        let out = self.site.address(&self.code.views.out);
        self.over_value(|lanes, from, mask| {
            let made = e.mul(e.load(e.element(self.sums_of(at), from, 4), Ty::f32(lanes)), factor);
            let place = e.element(out, from, 4);
            match mask {
                Some(mask) => e.store_masked(place, mask, made),
                None => e.store(place, made),
            }
        });
    }
}
