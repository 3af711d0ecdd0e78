//! Attention over a cache: a kernel that stores the call's keys and values, and one that reads them: with a running softmax, or to choose some
//! of them (attention/best.rs). Which keys a query looks at, and where they lie, is in attention/walk.rs.
//!
//! Keys lie in blocks of 16 positions, `[groups][blocks][key][16]`, so that a vector's lanes are positions: scores need no
//! horizontal sums. What `keep` and `score` ask of the key's position lies behind a key as more of its channels. Values lie as
//! `[groups][slots][value]`. A table holds the position of every slot, -1 where there is none; what a query may see is decided by the
//! declaration's `keep` over that table, whatever the order of the slots. Where only the last position of each block is stored, a row lies
//! side by side in the place of the block's positions, and there is no table.

mod best;
mod dots;
mod walk;

use crate::forms::{BLOCK, Beside, decided};
use crate::fuse::kernel::{Attention, BATCH, COLUMN, INNER};
use crate::mlir::common::cache::{Caches, Rows, slot_of};
use crate::mlir::common::pair::{Pair, Scores, body, capture, captures};
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use braid_dsl::model::{Body, Gives};
use walk::{Keys, Task};

/// Scratch of the reading kernel: weighted sums of values, and the weights of the blocks at hand, of each head; where the blocks' values are.
pub fn scratch_bytes(code: &Attention) -> usize {
    match code.best {
        0 => places_at(code) + code.blocks_at_once() * BLOCK * 8,
        _ => best::scratch_bytes(code),
    }
}

/// Where the list of places of values begins.
fn places_at(code: &Attention) -> usize {
    code.heads_of_a_task() * (padded(code.value) + code.blocks_at_once() * BLOCK) * 4
}

fn padded(value: usize) -> usize {
    value.next_multiple_of(64)
}

/// Emits the storing or the reading kernel.
pub fn emit(e: &Emitter, name: &str, code: &Attention, stores_keys: bool, setting: Setting) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut work = Work { e, code, site, args, setting };
        for_each(e, args.begin, args.end, e.i64(1), |task| match (stores_keys, code.best) {
            (true, _) => work.store_row(task),
            (false, 0) => work.read_row(task),
            (false, _) => work.choose_row(task),
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

/// Which keys count: those that a predicate lets a query see, unless they counted already.
struct Sight {
    seen: Body,
    unless: Option<Body>,
}

impl<'c> Work<'_, 'c> {
    fn store_row(&mut self, row: Val<'c>) {
        let e = self.e;
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let every = self.code.reach.every();
        if every == 1 {
            return self.store_position(row, position);
        }
        let ends = e.cmp(Cmp::Eq, e.rem(position, e.i64(every)), e.i64(every - 1));
        e.if_then(ends, || self.store_position(row, position));
    }

    fn store_position(&mut self, row: Val<'c>, position: Val<'c>) {
        let e = self.e;
        self.site.set_row(row, false);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let slot = slot_of(e, self.code, position);
        if self.code.reach.every() == 1 {
            e.store(e.element(caches.positions, slot, 4), e.to_i32(position));
        }
        for_each(e, e.i64(0), e.i64(self.code.groups), e.i64(1), |group| {
            self.site.index.insert(INNER, group);
            let keys = Rows::keys(e, self.code, &caches, group);
            let row = keys.offset(e, slot);
            for (number, count) in &self.code.keyed {
                let first = self.code.channel(*number).map_or(0, |(first, _)| first);
                for_each(e, e.i64(0), e.i64(*count), e.i64(1), |head| {
                    self.site.index.insert(BATCH, head);
                    let x = capture(&self.site, self.code, *number);
                    e.store(keys.element(e, row, e.add(head, e.i64(first))), x);
                });
            }
            self.site.index.insert(BATCH, e.i64(0));
            for_each(e, e.i64(0), e.i64(self.code.key), e.i64(1), |k| {
                self.site.index.insert(COLUMN, k);
                e.store(keys.element(e, row, k), e.load(self.site.address(&self.code.views.keys), Ty::F32));
            });
            if self.code.value > 0 {
                let values = Rows::values(e, self.code, &caches, group);
                let row = values.offset(e, slot);
                for_each(e, e.i64(0), e.i64(self.code.value), e.i64(1), |v| {
                    self.site.index.insert(COLUMN, v);
                    e.store(values.element(e, row, v), e.load(self.site.address(&self.code.views.values), Ty::F32));
                });
            }
        });
    }

    /// A task is a row, a group and so many of its heads.
    fn read_row(&mut self, task: Val<'c>) {
        let e = self.e;
        let (task, first) = self.task(task);
        let heads = self.heads(first, self.code.heads_of_a_task());
        let sums = scratch(e, self.args, self.setting, 0);
        let zero = e.float(Ty::f32(64), 0.0);
        for_each(e, e.i64(0), e.i64(heads.len() * padded(self.code.value)), e.i64(64), |at| {
            e.store(e.element(sums, at, 4), zero);
        });
        // Of each head the running maximum and the running sum of weights.
        let start: Vec<Val> = heads.iter().flat_map(|_| [e.f32(f32::NEG_INFINITY), e.f32(0.0)]).collect();
        let keep = &self.code.attend.keep;
        let ends = match self.code.chosen {
            None => {
                let sight = Sight { seen: keep.clone(), unless: None };
                self.all(&task, &start, |work, keys, state| work.visit(&task, &heads, keys, &sight, state))
            }
            Some(chosen) => {
                let beside = Sight { seen: decided(keep, false), unless: None };
                let visit =
                    |work: &mut Self, keys: &[Keys<'c>], state: &[Val<'c>]| work.visit(&task, &heads, keys, &beside, state);
                let state = match chosen.beside {
                    Beside::Nothing => start,
                    Beside::Near { window, first } => self.near(&task, (window, first), &start, visit),
                    Beside::Anything => self.all(&task, &start, visit),
                };
                let sight = Sight { seen: decided(keep, true), unless: Some(decided(keep, false)) };
                self.chosen(&task, chosen, &state, |work, keys, state| work.visit(&task, &heads, keys, &sight, state))
            }
        };
        for (at, head) in heads.iter().enumerate() {
            self.finish(*head, at, ends[2 * at], ends[2 * at + 1]);
        }
    }

    /// The row and group of a task, and the first of its heads.
    fn task(&mut self, task: Val<'c>) -> (Task<'c>, Val<'c>) {
        let e = self.e;
        let heads = self.code.heads_of_a_task();
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
        let seen = match self.code.attend.seq == self.code.attend.keys {
            true => e.add(segment.position, segment.rows),
            false => segment.source,
        };
        let last = e.sub(seen, e.i64(1));
        (Task { caches, group, query: position, last }, e.mul(part, e.i64(heads)))
    }

    /// So many heads from one on.
    fn heads(&mut self, first: Val<'c>, count: usize) -> Vec<Head<'c>> {
        let e = self.e;
        let head = |h: usize| {
            let number = e.add(first, e.i64(h));
            self.site.index.insert(BATCH, number);
            Head { query: self.site.address(&self.code.views.query), number }
        };
        (0..count).map(head).collect()
    }

    /// Blocks of keys for all heads; the new maxima and sums. Keys of which no head may see anything cost a look at `keep`.
    fn visit(
        &mut self,
        task: &Task<'c>,
        heads: &[Head<'c>],
        keys: &[Keys<'c>],
        sight: &Sight,
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let query = e.to_i32(task.query);
        let pair = |keys: &Keys<'c>| Pair { query, key: keys.positions, channels: Some(keys.channels), score: None };
        let pairs: Vec<Pair> = keys.iter().map(pair).collect();
        let visible: Vec<Vec<Val>> = pairs.iter().map(|pair| self.visible(heads, *pair, sight)).collect();
        let some = visible.iter().flatten().copied().reduce(|a, b| e.or(a, b)).map_or(e.bool(false), |all| e.any(all));
        let seen = || self.seen_keys(keys, heads, (&pairs, &visible), state);
        e.if_else(some, seen, || state.to_vec())
    }

    /// Which keys each head sees.
    fn visible(&mut self, heads: &[Head<'c>], pair: Pair<'c>, sight: &Sight) -> Vec<Val<'c>> {
        let e = self.e;
        let there = e.cmp(Cmp::Ge, pair.key, e.i32(0));
        let result = self.code.attend.keep_result;
        let by_head = captures(&sight.seen, result) || sight.unless.as_ref().is_some_and(|unless| captures(unless, result));
        let different = if by_head { heads.len() } else { 1 };
        let one = |head: &Head<'c>| {
            self.site.index.insert(BATCH, head.number);
            let keep = body(&mut self.site, self.code, &sight.seen, result, pair);
            let seen = e.and(e.splat(keep, BLOCK), there);
            match &sight.unless {
                None => seen,
                Some(unless) => {
                    let counted = body(&mut self.site, self.code, unless, result, pair);
                    e.and(seen, e.not(e.splat(counted, BLOCK)))
                }
            }
        };
        let masks: Vec<Val> = heads[..different].iter().map(one).collect();
        heads.iter().enumerate().map(|(at, _)| masks[at.min(different - 1)]).collect()
    }

    fn seen_keys(
        &mut self,
        keys: &[Keys<'c>],
        heads: &[Head<'c>],
        (pairs, visible): (&[Pair<'c>], &[Vec<Val<'c>>]),
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let dots = self.dots(keys, heads);
        let hidden = e.float(Ty::f32(BLOCK), if self.code.attend.plain { 0.0 } else { f64::NEG_INFINITY });
        let mut next = Vec::new();
        let mut scales = Vec::new();
        for (at, head) in heads.iter().enumerate() {
            let (most, sum) = (state[2 * at], state[2 * at + 1]);
            self.site.index.insert(BATCH, head.number);
            let scores: Vec<Val> = (0..keys.len())
                .map(|block| {
                    let pair = Pair { score: Some(Scores::Here(dots[block][at])), ..pairs[block] };
                    let score = body(&mut self.site, self.code, &self.code.attend.score, self.code.attend.score_result, pair);
                    e.select(visible[block][at], e.splat(score, BLOCK), hidden)
                })
                .collect();
            if self.code.attend.plain {
                self.store_weights(at, &scores);
                next.extend([most, sum]);
                scales.push(e.f32(1.0));
                continue;
            }
            let largest = scores.iter().copied().reduce(|a, b| e.max(a, b)).unwrap_or(hidden);
            let most_now = e.max(most, e.reduce_max(largest));
            // Where nothing was seen yet the maximum stays minus infinity; any finite anchor gives weights of zero.
            let none = e.cmp(Cmp::Eq, most_now, e.f32(f32::NEG_INFINITY));
            let anchor = e.select(none, e.f32(0.0), most_now);
            let scale = e.exp(e.sub(most, anchor));
            let weights: Vec<Val> = scores.iter().map(|score| e.exp(e.sub(*score, anchor))).collect();
            let total = weights.iter().copied().reduce(|a, b| e.add(a, b)).unwrap_or(hidden);
            next.push(most_now);
            next.push(e.add(e.mul(sum, scale), e.reduce_add(total)));
            if self.code.value > 0 {
                self.store_weights(at, &weights);
                scales.push(scale);
            }
        }
        if self.code.value > 0 {
            self.add_values(keys, &scales);
        }
        next
    }

    fn store_weights(&self, head: usize, weights: &[Val<'c>]) {
        weights.iter().enumerate().for_each(|(block, weights)| self.e.store(self.weights_of(head, block), *weights));
    }

    fn weights_of(&self, head: usize, block: usize) -> Val<'c> {
        let before = head * self.code.blocks_at_once() + block;
        let at = (self.code.heads_of_a_task() * padded(self.code.value) + before * BLOCK) * 4;
        scratch(self.e, self.args, self.setting, at)
    }

    fn sums_of(&self, head: usize) -> Val<'c> {
        scratch(self.e, self.args, self.setting, head * padded(self.code.value) * 4)
    }

    /// `sums = sums · scale + weights · values`, a vector of value elements at a time. Blocks have sums of their own until the end.
    fn add_values(&self, keys: &[Keys<'c>], scales: &[Val<'c>]) {
        let e = self.e;
        keys.iter().enumerate().for_each(|(block, keys)| self.list(*keys, block));
        self.over_value(|lanes, at, mask| {
            let before = |h: usize| e.mul(e.load(e.element(self.sums_of(h), at, 4), Ty::f32(lanes)), scales[h]);
            let mut start: Vec<Val> = (0..scales.len()).map(before).collect();
            start.resize(scales.len() * keys.len(), e.float(Ty::f32(lanes), 0.0));
            let sums = e.for_loop(e.i64(0), e.i64(BLOCK), e.i64(1), &start, |lane, sums| {
                let mut next = Vec::new();
                for (block, (keys, sums)) in keys.iter().zip(sums.chunks(scales.len())).enumerate() {
                    let place = e.element(self.value_of(*keys, block, lane), at, 4);
                    let part = match mask {
                        Some(mask) => e.load_masked(place, mask, Ty::f32(lanes)),
                        None => e.load(place, Ty::f32(lanes)),
                    };
                    let weigh = |h: usize| e.splat(e.load(e.element(self.weights_of(h, block), lane, 4), Ty::F32), lanes);
                    next.extend(sums.iter().enumerate().map(|(h, sum)| e.fma(weigh(h), part, *sum)));
                }
                next
            });
            for h in 0..scales.len() {
                let own = sums.iter().copied().skip(h).step_by(scales.len());
                let sum = own.reduce(|a, b| e.add(a, b)).unwrap_or(sums[h]);
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
        let (scale, sum, anchor) = match self.code.attend.sink {
            None if self.code.attend.plain => (e.f32(1.0), e.f32(1.0), most),
            None => (e.f32(1.0), sum, most),
            Some(number) => {
                let sink = capture(&self.site, self.code, number);
                let anchor = e.max(most, sink);
                let scale = e.exp(e.sub(most, anchor));
                (scale, e.add(e.mul(sum, scale), e.exp(e.sub(sink, anchor))), anchor)
            }
        };
        let none = e.cmp(Cmp::Eq, sum, e.f32(0.0));
        if self.code.attend.gives == Gives::Total {
            let total = e.select(none, e.f32(f32::NEG_INFINITY), e.add(anchor, e.log(sum)));
            return e.store(self.site.address(&self.code.views.out), total);
        }
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
