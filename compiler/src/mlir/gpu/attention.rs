//! Attention over a cache (kept.rs).
//!
//! Warps take chunks of positions in turn (chunk.rs), each with a running softmax of its own, and are merged through shared memory at the end.

use super::kept::Kept;
use super::left::Left;
use super::packed::{self, Look};
use super::{STEP_ROWS, THREADS, WARPS, ask};
use crate::forms::BLOCK;
use crate::fuse::kernel::{Attention, BATCH, COLUMN, COUNTERS, INNER};
use crate::mlir::common::cache::{Caches, slot_of};
use crate::mlir::common::device::WARP;
use crate::mlir::common::pair::capture;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::plan::{Function, Per, attention_tiles};

/// Positions of a chunk.
pub(super) const CHUNK: usize = BLOCK;
/// Words of the operands that say where the caches are.
const CACHE_WORDS: usize = 6;

/// Shared memory: the queries, then each warp's sums, maxima and totals; bytes.
pub fn shared_bytes(code: &Attention) -> usize {
    let heads = code.heads_of_a_block();
    heads * packed::query_bytes(code) + WARPS * code.part_bytes(heads)
}

/// Emits the storing or the reading kernel.
pub fn emit(e: &Emitter, function: &Function, code: &Attention, setting: Setting) {
    let stores_keys = function.stores_keys;
    let work = |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        Work { e, code, site, args, heads: code.heads_of_a_block(), stores: function.alone.is_some() }
    };
    if let Some(name) = ask::name(function) {
        e.kernel(&name, |args| work(args).each_task(Work::ask_for_row));
    }
    e.kernel(&function.name, |args| {
        let mut work = work(args);
        let (one, several): (Each<'_, '_>, Each<'_, '_>) = match stores_keys {
            true => (Work::store_row, Work::store_rows),
            false => (Work::read_row, Work::read_rows),
        };
        let Some(tiles) = attention_tiles(code, stores_keys, Per::Row) else { return work.each_task(one) };
        let many = e.cmp(Cmp::Ge, e.call_field(args.call, Field::Rows), e.i64(tiles.from));
        e.if_then(many, || work.each_task(several));
        e.if_then(e.not(many), || work.each_task(one));
    });
}

/// What a task is done by.
type Each<'k, 'c> = fn(&mut Work<'k, 'c>, Val<'c>);

pub(super) struct Work<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) code: &'k Attention,
    pub(super) site: Site<'k, 'c>,
    pub(super) args: KernelArgs<'c>,
    /// Heads of a task.
    pub(super) heads: usize,
    /// Whether tasks of a call of one row store its keys and values first.
    pub(super) stores: bool,
}

impl<'c> Work<'_, 'c> {
    fn each_task(&mut self, one: fn(&mut Self, Val<'c>)) {
        let (e, args) = (self.e, self.args);
        for_each(e, args.begin, args.end, e.blocks(), |task| one(self, task));
    }

    /// Stores the keys and values of a row, an element a thread.
    fn store_row(&mut self, row: Val<'c>) {
        let e = self.e;
        self.site.set_row(row, false);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let slot = slot_of(e, self.code, position);
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(e.element(caches.positions, slot, 4), e.to_i32(position));
        });
        self.site.index.insert(BATCH, e.i64(0));
        let code = self.code;
        let Attention { groups, key, value, .. } = *code;
        let place = |at: Val<'c>, size: usize| (e.to_i64(e.div(at, e.i32(size as i32))), e.to_i64(e.rem(at, e.i32(size as i32))));
        let load = |this: &mut Self, (group, column): (Val<'c>, Val<'c>), keys: bool| {
            this.site.index.insert(INNER, group);
            this.site.index.insert(COLUMN, column);
            let views = &this.code.views;
            e.load(this.site.address(if keys { &views.keys } else { &views.values }), Ty::F32)
        };
        let load_key = |this: &mut Self, at| load(this, place(at, key), true);
        self.each_place(groups * key, load_key, |_, at, x| {
            let (group, k) = place(at, key);
            let keys = Kept::keys(e, code, &caches, group);
            keys.store(keys.place(keys.row(slot), k), &[x]);
        });
        let load_value = |this: &mut Self, at| load(this, place(at, value), false);
        self.each_place(groups * value, load_value, |_, at, x| {
            let (group, v) = place(at, value);
            let values = Kept::values(e, code, &caches, group);
            values.store(values.place(values.row(slot), v), &[x]);
        });
    }

    /// Where a task is: a row, a group, so many of its heads, and a part of the positions.
    fn place(&mut self, task: Val<'c>) -> Place<'c> {
        let e = self.e;
        let parts = self.code.per / self.heads;
        let (number, split) = self.without_split(task);
        let tasks = e.i64(self.code.groups * parts);
        let (row, rest) = (e.div(number, tasks), e.rem(number, tasks));
        let (group, part) = (e.div(rest, e.i64(parts)), e.rem(rest, e.i64(parts)));
        let first = e.mul(part, e.i64(self.heads));
        self.site.set_row(row, false);
        self.site.index.insert(INNER, group);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let last = e.sub(e.add(segment.position, segment.rows), e.i64(1));
        let (before, seen) = caches.seen(e, self.code, position, last);
        let start = e.div(before, e.i64(CHUNK));
        let chunks = e.sub(e.add(e.div(seen, e.i64(CHUNK)), e.i64(1)), start);
        let own = self.split_of(chunks, number, split);
        let own = Split { from: e.add(own.from, start), to: e.add(own.to, start), ..own };
        let look = Look { caches, segment, row, position, heads: (group, first), chunks: (own.from, own.to) };
        Place { look, own }
    }

    fn read_row(&mut self, task: Val<'c>) {
        let e = self.e;
        // Others are not even looked up.
        let used = e.cmp(Cmp::Lt, self.without_split(task).1, self.splits());
        e.if_then(used, || {
            let Place { look, own } = self.place(task);
            e.if_then(e.cmp(Cmp::Lt, own.from, own.to), || {
                self.walk(look);
                e.sync();
                self.merge(look.heads.1, own);
            });
        });
    }

    /// Asks for what a task is about to look at.
    fn ask_for_row(&mut self, task: Val<'c>) {
        let Place { look, .. } = self.place(task);
        self.ask(look.caches, look.heads.0, look.chunks);
    }

    /// The task's number without its part of the positions, and that part: all tasks of the first part come first, so that blocks have as many of
    /// them, however few parts there are.
    fn without_split(&self, task: Val<'c>) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        match self.code.splits {
            1 => (task, e.i64(0)),
            splits => {
                let (task, all) = (e.to_i32(task), e.to_i32(e.div(self.args.end, e.i64(splits))));
                (e.to_i64(e.rem(task, all)), e.to_i64(e.div(task, all)))
            }
        }
    }

    /// Most parts of the positions in this call: with more rows there are fewer, as blocks have work without; in a call of many there is one.
    fn splits(&self) -> Val<'c> {
        let e = self.e;
        let rows = e.to_i32(e.call_field(self.args.call, Field::Rows));
        let few = e.cmp(Cmp::Le, rows, e.i32(STEP_ROWS as i32));
        let splits = e.max(e.div(e.i32(self.code.splits as i32), rows), e.i32(1));
        e.to_i64(e.select(few, splits, e.i32(1)))
    }

    /// A part is at least two chunks for each warp.
    fn split_of(&self, chunks: Val<'c>, number: Val<'c>, split: Val<'c>) -> Split<'c> {
        let e = self.e;
        if self.code.splits == 1 {
            return Split { number, split, from: split, to: chunks, used: e.i64(1) };
        }
        let span = e.max(e.div_up(chunks, self.splits()), e.i64(2 * WARPS));
        let from = e.mul(split, span);
        let used = e.to_i64(e.div_up(e.to_i32(chunks), e.to_i32(span)));
        Split { number, split, from, to: e.min(e.add(from, span), chunks), used }
    }

    /// Chunks of positions, and what each warp leaves of them.
    fn walk(&mut self, look: Look<'c>) {
        let (e, packed) = (self.e, packed::is_used(self.code));
        let Look { caches, heads, position, chunks: (from, to), .. } = look;
        e.sync();
        let own = self.own_key(caches, heads.0, position);
        if packed {
            self.fetch_halved_queries(heads.1)
        } else {
            self.fetch_queries(heads.1)
        }
        own.into_iter().for_each(|own| own.store(e));
        e.sync();
        if packed {
            return self.look(look);
        }
        let thread = e.to_i64(e.thread());
        let (warp, lane) = (e.div(thread, e.i64(WARP)), e.rem(thread, e.i64(WARP)));
        let sums = self.sums();
        // Of each head the running maximum, the running sum of weights, and the lane's sums of values.
        let start: Vec<Val> = (0..self.heads)
            .flat_map(|_| [e.f32(f32::NEG_INFINITY), e.f32(0.0)].into_iter().chain(vec![e.f32(0.0); sums]))
            .collect();
        let ends = e.for_loop(e.add(from, warp), to, e.i64(WARPS), &start, |chunk, state| {
            self.chunk(caches, heads, chunk, lane, position, state)
        });
        self.leave(warp, lane, &ends);
    }

    /// The queries of the task's heads to shared memory, `[heads][key]`.
    fn fetch_queries(&mut self, first: Val<'c>) {
        let e = self.e;
        let key = self.code.key;
        for_each(e, e.to_i64(e.thread()), e.i64(self.heads * key), e.i64(THREADS), |at| {
            self.site.index.insert(BATCH, e.add(first, e.div(at, e.i64(key))));
            self.site.index.insert(COLUMN, e.rem(at, e.i64(key)));
            let x = e.load(self.site.address(&self.code.views.query), Ty::F32);
            e.store(e.element(e.shared_memory(), at, 4), x);
        });
        self.site.index.insert(COLUMN, e.i64(0));
    }

    /// Where a warp leaves its sums (`[warps][heads][value]`), maxima and totals (`[warps][heads][2]`).
    pub(super) fn left(&self) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let sums = e.offset_by(e.shared_memory(), self.heads * packed::query_bytes(self.code));
        (sums, e.offset_by(sums, 4 * WARPS * self.heads * self.code.value))
    }

    fn leave(&self, warp: Val<'c>, lane: Val<'c>, ends: &[Val<'c>]) {
        let e = self.e;
        let value = self.code.value;
        let sums = value.div_ceil(WARP);
        let (to_sums, to_totals) = self.left();
        for head in 0..self.heads {
            let own = &ends[head * (2 + sums)..][..2 + sums];
            let row = e.add(e.mul(warp, e.i64(self.heads)), e.i64(head));
            e.if_then(e.cmp(Cmp::Eq, lane, e.i64(0)), || {
                let at = e.element(to_totals, row, 8);
                e.store(at, own[0]);
                e.store(e.offset_by(at, 4), own[1]);
            });
            for (part, sum) in own[2..].iter().enumerate() {
                let column = self.column(lane, part);
                let put = || e.store(e.element(to_sums, e.add(e.mul(row, e.i64(value)), column), 4), *sum);
                match (part + 1) * WARP <= value {
                    true => put(),
                    false => e.if_then(e.cmp(Cmp::Lt, column, e.i64(value)), put),
                }
            }
        }
    }

    /// Adds up what the warps left; if the positions were cut, the last part to be done adds up all of them.
    fn merge(&mut self, first: Val<'c>, own: Split<'c>) {
        let e = self.e;
        if self.code.splits == 1 {
            return self.merge_warps(first);
        }
        let alone = e.cmp(Cmp::Eq, own.used, e.i64(1));
        e.if_then(alone, || self.merge_warps(first));
        e.if_then(e.not(alone), || self.merge_splits(first, own));
    }

    fn merge_warps(&mut self, first: Val<'c>) {
        self.each(|this, head, column| {
            let sum = this.of_warps(head, column);
            this.finish(first, head, column, sum);
        });
    }

    fn merge_splits(&mut self, first: Val<'c>, own: Split<'c>) {
        let (e, code) = (self.e, self.code);
        let workspace = self.workspace();
        let counter = e.element(workspace, own.number, 4);
        let number = e.mul(own.number, e.i64(code.splits));
        let at = e.element(e.offset_by(workspace, 4 * COUNTERS), number, code.part_bytes(self.heads));
        let parts = Left { e, at, code, heads: self.heads };
        self.each(|this, head, column| parts.put(own.split, (head, column), &[this.of_warps(head, column)]));
        let last = e.last_of(counter, own.used);
        // Two columns a thread, so that all of them wait for what parts have left at the same time.
        let columns = if code.value.is_multiple_of(2) { 2 } else { 1 };
        e.if_then(last, || {
            self.each_of(columns, |this, head, column| {
                for (at, sum) in parts.all(own.used, (head, column), columns).into_iter().enumerate() {
                    this.finish(first, head, e.add(column, e.i64(at)), sum);
                }
            });
        });
    }

    /// Where counters of tasks stand, and behind them what parts of the positions leave.
    pub(super) fn workspace(&self) -> Val<'c> {
        let e = self.e;
        let prepared = e.call_field(self.args.call, Field::Prepared);
        e.device_memory(e.offset(prepared, e.operand(self.args.operands, self.code.caches + CACHE_WORDS)))
    }

    /// Does `body` for each head of the task and each element of a value, an element a thread.
    fn each(&mut self, body: impl FnOnce(&mut Self, Val<'c>, Val<'c>)) {
        self.each_of(1, body);
    }

    /// The same for so many elements side by side.
    fn each_of(&mut self, columns: usize, body: impl FnOnce(&mut Self, Val<'c>, Val<'c>)) {
        let e = self.e;
        let across = e.i64(self.code.value / columns);
        for_each(e, e.to_i64(e.thread()), e.i64(self.heads * self.code.value / columns), e.i64(THREADS), |at| {
            body(self, e.div(at, across), e.mul(e.rem(at, across), e.i64(columns)));
        });
    }

    /// What all warps left of an element.
    fn of_warps(&self, head: Val<'c>, column: Val<'c>) -> Sum<'c> {
        let e = self.e;
        let (sums, totals) = self.left();
        let of_warp = |warp: usize| {
            let row = e.add(e.i64(warp * self.heads), head);
            let own = e.element(totals, row, 8);
            let sum = e.load(e.element(sums, e.add(e.mul(row, e.i64(self.code.value)), column), 4), Ty::F32);
            Sum { most: e.load(own, Ty::F32), total: e.load(e.offset_by(own, 4), Ty::F32), sum }
        };
        (1..WARPS).fold(of_warp(0), |all, warp| join(e, all, of_warp(warp)))
    }

    /// Divides by the sum of weights, which a sink joins, and stores the result.
    pub(super) fn finish(&mut self, first: Val<'c>, head: Val<'c>, column: Val<'c>, own: Sum<'c>) {
        let made = self.result(first, head, column, own);
        self.e.store(self.site.address(&self.code.views.out), made);
    }

    /// The same without storing it: the site is where it goes.
    pub(super) fn result(&mut self, first: Val<'c>, head: Val<'c>, column: Val<'c>, own: Sum<'c>) -> Val<'c> {
        let e = self.e;
        self.site.index.insert(BATCH, e.add(first, head));
        self.site.index.insert(COLUMN, column);
        let sink = self.code.attend.sink.map(|number| capture(&self.site, self.code, number));
        let own = match sink {
            Some(most) => join(e, own, Sum { most, total: e.f32(1.0), sum: e.f32(0.0) }),
            None => own,
        };
        let empty = e.cmp(Cmp::Eq, own.total, e.f32(0.0));
        e.select(empty, e.f32(0.0), e.div(own.sum, own.total))
    }
}

/// Where a task is.
struct Place<'c> {
    look: Look<'c>,
    own: Split<'c>,
}

/// A part of the positions of a task.
#[derive(Clone, Copy)]
struct Split<'c> {
    /// The task, all parts counted once.
    number: Val<'c>,
    /// Which part.
    split: Val<'c>,
    /// Its first chunk.
    from: Val<'c>,
    /// Past its last chunk.
    to: Val<'c>,
    /// How many parts there are.
    used: Val<'c>,
}

/// A sum of values weighted by `exp(score - most)`, and the total of the weights.
#[derive(Clone, Copy)]
pub(super) struct Sum<'c> {
    pub(super) most: Val<'c>,
    pub(super) total: Val<'c>,
    pub(super) sum: Val<'c>,
}

/// Both sums, relative to the larger maximum.
pub(super) fn join<'c>(e: &Emitter<'c>, a: Sum<'c>, b: Sum<'c>) -> Sum<'c> {
    let most = e.max(a.most, b.most);
    // Where nothing was seen the maximum stays minus infinity; any finite anchor gives weights of zero.
    let none = e.cmp(Cmp::Eq, most, e.f32(f32::NEG_INFINITY));
    let anchor = e.select(none, e.f32(0.0), most);
    let (x, y) = (e.exp(e.sub(a.most, anchor)), e.exp(e.sub(b.most, anchor)));
    let of = |a: Val<'c>, b: Val<'c>| e.fma(b, y, e.mul(a, x));
    Sum { most, total: of(a.total, b.total), sum: of(a.sum, b.sum) }
}
