//! Which keys a query looks at, sixteen at a time, and where they lie.

use super::{Work, places_at};
use crate::forms::{BLOCK, Reach};
use crate::fuse::kernel::{COLUMN, Chosen};
use crate::mlir::common::cache::{Caches, Rows};
use crate::mlir::common::pair::Channels;
use crate::mlir::common::site::scratch;
use crate::mlir::common::{Cmp, Elem, SegmentFields, Ty, Val};

/// A query of a group, or several.
#[derive(Clone, Copy)]
pub struct Task<'c> {
    /// The caches of its sequence.
    pub caches: Caches<'c>,
    /// The group.
    pub group: Val<'c>,
    /// The query's position; of several the first one's.
    pub query: Val<'c>,
    /// The last one's.
    pub until: Val<'c>,
    /// The last position in the caches.
    pub last: Val<'c>,
}

/// Sixteen keys.
#[derive(Clone, Copy)]
pub struct Keys<'c> {
    /// Their channels.
    pub channels: Channels<'c>,
    /// Their positions; -1: there is none, or it is not to be looked at.
    pub positions: Val<'c>,
    values: Rows<'c>,
    /// Slots of their values: all, or the first of as many side by side.
    slots: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    /// Visits all keys that the query may see; `state` goes from visit to visit.
    pub(super) fn all(
        &mut self,
        task: &Task<'c>,
        state: &[Val<'c>],
        visit: impl FnOnce(&mut Self, &[Keys<'c>], &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        // Blocks of a ring are counted as if it were unrolled.
        if let Reach::Window { rows, window } = self.code.reach {
            let first = e.max(e.sub(task.query, e.i64(window - 1)), e.i64(0));
            return self.between(task, (first, task.until), (Some(rows), self.code.blocks_of_a_range()), state, visit);
        }
        let (first, _) = task.caches.seen(e, self.code, task.query, task.last);
        let (_, seen) = task.caches.seen(e, self.code, task.until, task.last);
        self.between(task, (first, seen), (None, self.code.blocks_of_a_range()), state, visit)
    }

    /// Visits the first positions, and then a window up to the query.
    pub(super) fn near(
        &mut self,
        task: &Task<'c>,
        (window, first): (usize, usize),
        state: &[Val<'c>],
        visit: impl Fn(&mut Self, &[Keys<'c>], &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let start = e.max(e.sub(task.query, e.i64(window.max(1) - 1)), e.i64(0));
        let mut state = state.to_vec();
        let mut from = start;
        if first > 0 {
            let ends = e.i64(first.next_multiple_of(BLOCK));
            let last = e.min(e.sub(ends, e.i64(1)), task.until);
            state = self.between(task, (e.i64(0), last), (None, 1), &state, &visit);
            from = e.max(start, ends);
        }
        if window == 0 { state } else { self.between(task, (from, task.until), (None, 1), &state, visit) }
    }

    /// Visits the slots from one to another, in a ring of so many, so many blocks at once.
    pub(super) fn between(
        &mut self,
        task: &Task<'c>,
        (first, last): (Val<'c>, Val<'c>),
        (ring, at_once): (Option<usize>, usize),
        state: &[Val<'c>],
        visit: impl FnOnce(&mut Self, &[Keys<'c>], &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let size = BLOCK * self.code.reach.every();
        let begin = e.div(first, e.i64(size));
        // Where nothing lies between the two, the loop has no turn.
        let end = e.add(e.div(e.max(last, e.i64(-1)), e.i64(size)), e.i64(1));
        let end = e.select(e.cmp(Cmp::Lt, last, first), begin, end);
        let final_one = e.sub(end, e.i64(1));
        e.for_loop(begin, end, e.i64(at_once), state, |block, state| {
            let one = |n: usize| {
                let own = e.add(block, e.i64(n));
                // Behind the end the last block stands once more, and is not looked at.
                let here = if n == 0 { own } else { e.min(own, final_one) };
                let here = ring.map_or(here, |rows| e.rem(here, e.i64(rows / BLOCK)));
                let keys = self.block(task, here, n);
                let nothing = e.int(Ty::i32(BLOCK), -1);
                let inside = e.cmp(Cmp::Le, own, final_one);
                let positions = if n == 0 { keys.positions } else { e.select(inside, keys.positions, nothing) };
                Keys { positions, ..keys }
            };
            let keys: Vec<Keys> = (0..at_once).map(one).collect();
            visit(self, &keys, state)
        })
    }

    /// Sixteen rows, the `n`-th of those that are looked at together.
    fn block(&self, task: &Task<'c>, block: Val<'c>, n: usize) -> Keys<'c> {
        let keys = self.block_as_it_lies(task, block);
        match self.laid {
            true => Keys { channels: self.laid_channels(block, n, keys.channels), ..keys },
            false => keys,
        }
    }

    /// Sixteen rows side by side.
    pub(super) fn block_as_it_lies(&self, task: &Task<'c>, block: Val<'c>) -> Keys<'c> {
        let e = self.e;
        let every = self.code.reach.every();
        let first = e.mul(block, e.i64(BLOCK * every));
        let (keys, values) = self.rows(task);
        if every == 1 {
            let positions = e.load(e.element(task.caches.positions, first, 4), Ty::i32(BLOCK));
            let offset = keys.offset(e, first);
            let channels = match self.code.by_row() {
                false => Channels { base: e.offset(keys.base, offset), stride: keys.stride, offsets: None },
                true => {
                    let lanes = e.add(e.splat(first, BLOCK), e.convert(e.iota(BLOCK), Elem::I64));
                    Channels { base: keys.base, stride: keys.stride, offsets: Some(keys.offset(e, lanes)) }
                }
            };
            return Keys { channels, positions, values, slots: first };
        }
        let steps = e.mul(e.convert(e.iota(BLOCK), Elem::I64), e.int(Ty::vector(Elem::I64, BLOCK), every as i64));
        let begins = e.add(e.splat(first, BLOCK), steps);
        self.listed(task, e.add(begins, e.like(begins, (every - 1) as f64)))
    }

    /// Keys at these positions; what is behind the last one is not looked at.
    pub(super) fn listed(&self, task: &Task<'c>, positions: Val<'c>) -> Keys<'c> {
        let e = self.e;
        let (keys, values) = self.rows(task);
        let nothing = e.like(positions, -1.0);
        let positions = e.select(e.cmp(Cmp::Le, positions, e.splat(task.last, BLOCK)), positions, nothing);
        let (zero, every) = (e.like(positions, 0.0), self.code.reach.every());
        let here = e.max(positions, zero);
        let slots = if every == 1 { here } else { e.sub(here, e.rem(here, e.like(here, every as f64))) };
        let channels = Channels { base: keys.base, stride: keys.stride, offsets: Some(keys.offset(e, slots)) };
        Keys { channels, positions: e.to_i32(positions), values, slots }
    }

    /// Sixteen keys of a sequence's rows in the call, from one on, where they were made.
    pub(super) fn of_call(&self, own: SegmentFields<'c>, first: Val<'c>) -> Keys<'c> {
        let e = self.e;
        let view = &self.code.views.keys;
        let wide = |x: Val<'c>| e.splat(x, BLOCK);
        let lanes = e.convert(e.iota(BLOCK), Elem::I64);
        let numbers = e.add(wide(first), lanes);
        let there = e.cmp(Cmp::Lt, numbers, wide(own.rows));
        let lanes = e.min(lanes, wide(e.sub(e.sub(own.rows, e.i64(1)), first)));
        let base = self.site.address_in_row(view, e.add(own.row, first));
        let rows = Rows::side_by_side(base, self.site.row_elements(view));
        let stride = 4 * view.stride(COLUMN).max(1);
        let channels = Channels { base, stride, offsets: Some(rows.offset(e, lanes)) };
        let positions = e.to_i32(e.select(there, numbers, e.like(numbers, -1.0)));
        Keys { channels, positions, values: rows, slots: first }
    }

    fn rows(&self, task: &Task<'c>) -> (Rows<'c>, Rows<'c>) {
        let e = self.e;
        (Rows::keys(e, self.code, &task.caches, task.group), Rows::values(e, self.code, &task.caches, task.group))
    }

    /// Visits the blocks of all ids.
    pub(super) fn chosen(
        &mut self,
        task: &Task<'c>,
        chosen: Chosen,
        state: &[Val<'c>],
        visit: impl FnOnce(&mut Self, &[Keys<'c>], &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        self.site.index.insert(COLUMN, e.i64(0));
        let view = &self.code.views.captures[chosen.ids];
        let (ids, stride) = (self.site.address(view), view.stride(COLUMN));
        if !chosen.block.is_multiple_of(BLOCK) {
            return self.chosen_one_by_one(task, chosen, (ids, stride), state, visit);
        }
        e.for_loop(e.i64(0), e.i64(chosen.count), e.i64(1), state, |slot, state| {
            let id = e.to_i64(e.load(e.element(ids, e.mul(slot, e.i64(stride)), 4), Ty::I32));
            let first = e.sub(id, e.rem(id, e.i64(chosen.block)));
            let last = e.min(e.add(first, e.i64(chosen.block - 1)), task.last);
            // An id below zero is none.
            let last = e.select(e.cmp(Cmp::Lt, id, e.i64(0)), e.i64(-1), last);
            let first = e.max(first, e.i64(0));
            let at_once = self.code.blocks_at_once().min(chosen.block / BLOCK);
            self.between(task, (first, last), (None, at_once), state, visit)
        })
    }

    /// Sixteen positions of chosen blocks at a time, wherever they lie.
    fn chosen_one_by_one(
        &mut self,
        task: &Task<'c>,
        chosen: Chosen,
        (ids, stride): (Val<'c>, usize),
        state: &[Val<'c>],
        visit: impl FnOnce(&mut Self, &[Keys<'c>], &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let at_once = self.code.blocks_at_once();
        let all = chosen.count * chosen.block;
        e.for_loop(e.i64(0), e.i64(all), e.i64(at_once * BLOCK), state, |from, state| {
            let positions = |n: usize| self.positions(chosen, (ids, stride), e.add(from, e.i64(n * BLOCK)));
            let positions: Vec<Val> = (0..at_once).map(positions).collect();
            let zero = e.like(positions[0], 0.0);
            let some = positions.iter().map(|all| e.cmp(Cmp::Ge, *all, zero)).reduce(|a, b| e.or(a, b));
            let some = some.map_or(e.bool(false), |some| e.any(some));
            let keys: Vec<Keys> = positions.into_iter().map(|positions| self.listed(task, positions)).collect();
            e.if_else(some, || visit(self, &keys, state), || state.to_vec())
        })
    }

    /// Sixteen positions of chosen blocks, from one on; -1: none.
    fn positions(&self, chosen: Chosen, (ids, stride): (Val<'c>, usize), from: Val<'c>) -> Val<'c> {
        let e = self.e;
        let wide = Ty::vector(Elem::I64, BLOCK);
        let numbers = e.add(e.splat(from, BLOCK), e.convert(e.iota(BLOCK), Elem::I64));
        let there = e.cmp(Cmp::Lt, numbers, e.int(wide, (chosen.count * chosen.block) as i64));
        let (slots, within) = match chosen.block {
            1 => (numbers, e.int(wide, 0)),
            block => (e.div(numbers, e.int(wide, block as i64)), e.rem(numbers, e.int(wide, block as i64))),
        };
        let places = e.mul(slots, e.int(wide, stride as i64 * 4));
        let ids = e.to_i64(e.gather(ids, places, there, Ty::i32(BLOCK)));
        let there = e.and(there, e.cmp(Cmp::Ge, ids, e.int(wide, 0)));
        let begins = if chosen.block == 1 { ids } else { e.sub(ids, e.rem(ids, e.int(wide, chosen.block as i64))) };
        e.select(there, e.add(begins, within), e.int(wide, -1))
    }

    /// Makes it known where the values of a block of keys are that do not lie side by side.
    pub(super) fn list(&self, keys: Keys<'c>, block: usize) {
        if keys.slots.lanes() > 1 {
            self.e.store(self.places(block), keys.values.offset(self.e, keys.slots));
        }
    }

    /// Where the value of a key is.
    pub(super) fn value_of(&self, keys: Keys<'c>, block: usize, lane: Val<'c>) -> Val<'c> {
        let e = self.e;
        let offset = match keys.slots.lanes() {
            1 => keys.values.offset(e, e.add(keys.slots, lane)),
            _ => e.load(e.element(self.places(block), lane, 8), Ty::I64),
        };
        e.offset(keys.values.base, offset)
    }

    fn places(&self, block: usize) -> Val<'c> {
        scratch(self.e, self.args, self.setting, places_at(self.code) + block * BLOCK * 8)
    }
}
