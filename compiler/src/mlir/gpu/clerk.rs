//! Who decides what a block does in a step.

use super::{STEP_ROWS, THREADS};
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};
use crate::plan::Per;
use braid_runtime::artifact::STEP_WORDS;

/// Where the clerk's books lie: what it knows after the step that it decided last, then two places for what it decided.
const BOOKS: &str = "books";
const DECISIONS_AT: usize = 32;
const DECISION_BYTES: usize = 32;

/// One thread of the block, which decides what the block does in a step while the others do the step before, and writes it to shared
/// memory. What every thread kept over a step for that would go to the device's memory, and come back from afar: waiting for other
/// blocks empties the first cache.
#[derive(Clone, Copy)]
pub(super) struct Clerk<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) call: Val<'c>,
    /// Calls of the entry may have many rows.
    pub(super) many: bool,
}

impl<'c> Clerk<'_, 'c> {
    fn books(&self) -> Val<'c> {
        self.e.shared_place(BOOKS, DECISIONS_AT + 2 * DECISION_BYTES)
    }

    fn decision(&self, at: Val<'c>) -> Val<'c> {
        let e = self.e;
        let all = e.offset_by(self.books(), DECISIONS_AT);
        e.element(all, e.and(at, e.i64(1)), DECISION_BYTES)
    }

    /// Opens the books, and decides the first step, whose row of the table lies at `row`.
    pub(super) fn begin(&self, row: Val<'c>) {
        let e = self.e;
        self.alone(|| {
            (0..4).for_each(|word| e.store(e.offset_by(self.books(), 4 * word), e.i32(0)));
            self.write(e.i64(0), row);
        });
    }

    /// Decides step `at`, whose row of the table lies at `row`.
    pub(super) fn decide(&self, at: Val<'c>, row: Val<'c>) {
        self.alone(|| self.write(at, row));
    }

    fn alone(&self, work: impl FnOnce()) {
        let e = self.e;
        e.if_then(e.cmp(Cmp::Eq, e.thread_anew(), e.i32((THREADS - WARP) as i32)), work);
    }

    fn write(&self, at: Val<'c>, row: Val<'c>) {
        let e = self.e;
        let word = |n: usize| e.load(e.offset_by(row, 8 * n), Ty::I64);
        let [_, per, times, _, factor, least, most, order] = std::array::from_fn(word);
        let tasks = self.tasks([per, times, factor], [least, most]);
        let tasks = if self.many { self.tiles(tasks, std::array::from_fn(|n| word(8 + n))) } else { tasks };
        // How often blocks have waited; since then, how many tasks were dealt before the last step, and with it; whether a step that
        // had nothing to do in this call would have waited.
        let place = |n: usize| e.offset_by(self.books(), 4 * n);
        let [waits, before, dealt, owed] = std::array::from_fn(|n| e.load(place(n), Ty::I32));
        let (wanting, following) = (e.cmp(Cmp::Eq, order, e.i64(1)), e.cmp(Cmp::Eq, order, e.i64(2)));
        // Whoever has nothing to do leaves the wait to whoever comes next and has.
        let (wanting, some) = (e.or(wanting, e.cmp(Cmp::Ne, owed, e.i32(0))), e.cmp(Cmp::Gt, tasks, e.i64(0)));
        let waiting = e.and(wanting, some);
        let waits = e.add(waits, e.select(waiting, e.i32(1), e.i32(0)));
        let (block, blocks) = (e.block_number(), e.to_i32(e.blocks()));
        // Blocks that had nothing to do in the steps before begin with this one's tasks.
        let from = e.select(following, before, e.select(waiting, e.i32(0), dealt));
        let turn = e.sub(e.to_i32(block), from);
        let begin = e.add(turn, e.select(e.cmp(Cmp::Lt, turn, e.i32(0)), blocks, e.i32(0)));
        let dealt = e.rem(e.to_i32(e.add(e.to_i64(from), tasks)), blocks);
        let owed = e.select(e.and(wanting, e.not(some)), e.i32(1), e.i32(0));
        [waits, from, dealt, owed].into_iter().enumerate().for_each(|(n, word)| e.store(place(n), word));
        let own = self.decision(at);
        e.store(own, e.select(waiting, e.mul(waits, blocks), e.i32(0)));
        [e.to_i64(begin), tasks, block].into_iter().enumerate().for_each(|(n, word)| e.store(e.offset_by(own, 8 + 8 * n), word));
    }

    /// How many arrivals of blocks step `at` waits for, in all since the launch began (`i32`); none: it does not wait.
    pub(super) fn arrivals(&self, at: Val<'c>) -> Val<'c> {
        self.e.load(self.decision(at), Ty::I32)
    }

    /// The block's first task of step `at`, the number of all tasks, and the block's own number; `i64`.
    pub(super) fn decided(&self, at: Val<'c>) -> [Val<'c>; 3] {
        let own = self.decision(at);
        std::array::from_fn(|n| self.e.load(self.e.offset_by(own, 8 + 8 * n), Ty::I64))
    }

    fn tasks(&self, [per, times, factor]: [Val<'c>; 3], [least, most]: [Val<'c>; 2]) -> Val<'c> {
        let e = self.e;
        let is = |what: Per| e.cmp(Cmp::Eq, per, e.i64(what as i64));
        let (rows, segments) = (e.call_field(self.call, Field::Rows), e.call_field(self.call, Field::Segments));
        let long = e.select(e.cmp(Cmp::Ge, longest(e, self.call), least), segments, e.i64(0));
        let sequences = e.select(is(Per::Segment), segments, e.select(is(Per::Long), long, e.i64(1)));
        let wanted = e.select(is(Per::Wanted), e.call_field(self.call, Field::Wanted), sequences);
        let counted = e.select(is(Per::Row), rows, e.select(is(Per::Block), e.blocks(), wanted));
        // On a GPU no task has several of what is counted: `by` is 1.
        let tasks = e.mul(factor, e.mul(counted, times));
        let fits = e.and(e.cmp(Cmp::Ge, rows, least), e.cmp(Cmp::Le, rows, most));
        e.select(fits, tasks, e.i64(0))
    }

    /// The tasks of a call of many rows: tiles, if the step has some for so many.
    fn tiles(&self, tasks: Val<'c>, [per, times, own @ ..]: [Val<'c>; STEP_WORDS - 8]) -> Val<'c> {
        let e = self.e;
        let rows = e.call_field(self.call, Field::Rows);
        let is = |what: Per| e.cmp(Cmp::Eq, per, e.i64(what as i64));
        let of_segments = e.or(is(Per::Segment), is(Per::Long));
        let others = e.select(of_segments, e.call_field(self.call, Field::Segments), rows);
        let counted = e.mul(e.select(is(Per::Wanted), e.call_field(self.call, Field::Wanted), others), times);
        let measured = e.select(is(Per::Long), longest(e, self.call), counted);
        let many = e.cmp(Cmp::Gt, rows, e.i64(STEP_ROWS));
        own.chunks_exact(3).fold(tasks, |tasks, own| {
            let above = e.sub(e.add(counted, e.shifted_left(e.i64(1), own[1])), e.i64(1));
            let tiles = e.mul(own[2], e.shifted_right(above, own[1]));
            e.select(e.and(many, e.cmp(Cmp::Ge, measured, own[0])), tiles, tasks)
        })
    }
}

/// Most rows that a sequence of a call may have: all others have one each, or more.
pub(super) fn longest<'c>(e: &Emitter<'c>, call: Val<'c>) -> Val<'c> {
    let [rows, segments] = [Field::Rows, Field::Segments].map(|field| e.call_field(call, field));
    e.sub(rows, e.sub(segments, e.i64(1)))
}
