//! The entries. Each walks a table of steps with all blocks of one launch; blocks wait for each other where a step needs what others
//! wrote. A deeper model has a longer table, not more code.

use super::ahead::Ahead;
use super::{BLOCKS, STEP_ROWS, Streams, THREADS, WARPS};
use super::{matmul, row, segments};
use crate::fuse::kernel::Code;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};
use crate::plan::{Function, Per, Plan, Step};
use braid_runtime::artifact::{Call, STEP_WORDS};

/// Words of a row of the tables of steps.
pub fn row_words(plan: &Plan) -> usize {
    STEP_WORDS + plan.prepare.iter().chain(&plan.steps).map(|step| step.words.len()).max().unwrap_or(0)
}

/// Emits `braid_prepare`, `braid_prefill` and `braid_step`.
pub fn emit(e: &Emitter, plan: &Plan, streams: Streams) {
    // What calls of few rows never do is no code of theirs.
    let used = |steps: &[Step], most: usize| -> Vec<usize> {
        let uses = |at: usize| steps.iter().any(|step| step.function == at && step.tasks.least <= most);
        (0..plan.functions.len()).filter(|at| uses(*at)).collect()
    };
    entry(e, "braid_prepare", plan, &used(&plan.prepare, usize::MAX), (streams, false));
    entry(e, "braid_prefill", plan, &used(&plan.steps, usize::MAX), (streams, true));
    entry(e, "braid_step", plan, &used(&plan.steps, STEP_ROWS), (streams, false));
}

/// The name of the code for calls of many rows, where a function has some of its own.
pub fn name_for_many(function: &Function) -> String {
    let kind = if matches!(function.code, Code::Matmul(_)) { "tiled" } else { "many" };
    format!("{}_{kind}", function.name)
}

/// `many`: calls may have more than [`STEP_ROWS`] rows.
fn entry(e: &Emitter, name: &str, plan: &Plan, functions: &[usize], (streams, many): (Streams, bool)) {
    let parameters = [Ty::PTR, Ty::PTR, Ty::I64, Ty::PTR, Ty::I64, Ty::PTR];
    e.device_entry(name, (THREADS, BLOCKS), &parameters, |values| {
        let [call, steps, count, table, length, barrier] = *values else { return };
        let [call, steps, table, barrier] = [call, steps, table, barrier].map(|at| e.device_memory(at));
        let rows = Rows::new(e, steps, count, row_words(plan));
        let call = rows.begin(call);
        let own = e.offset_by(e.shared_memory(), streams.table);
        if streams.rings.1 != streams.rings.0 {
            Ahead::new(e, streams.rings.1).prepare();
        }
        Ahead::new(e, streams.rings.0).begin(call, (table, length), own);
        let clerk = Clerk { e, call, many };
        clerk.begin(rows.place(e.i64(0)));
        let walk = Walk { e, plan, functions, call, barrier, clerk, many };
        e.if_then(e.cmp(Cmp::Gt, count, e.i64(0)), || {
            e.until(|| {
                let at = rows.at();
                walk.step(&rows, at);
                e.cmp(Cmp::Ge, rows.count_on(), count)
            });
        });
        walk.leave();
    });
}

/// Rows of the table in shared memory: two batches, of which one comes while the other is worked through.
struct Rows<'k, 'c> {
    e: &'k Emitter<'c>,
    steps: Val<'c>,
    count: Val<'c>,
    words: usize,
}

/// Rows that come together.
const ROWS: usize = 2;

impl<'k, 'c> Rows<'k, 'c> {
    fn new(e: &'k Emitter<'c>, steps: Val<'c>, count: Val<'c>, words: usize) -> Self {
        Rows { e, steps, count, words }
    }

    /// Where row `at` lies in shared memory.
    fn place(&self, at: Val<'c>) -> Val<'c> {
        let place = self.e.shared_place("rows", 2 * ROWS * self.words * 8);
        self.e.element(place, self.e.and(at, self.e.i64(2 * ROWS - 1)), self.words * 8)
    }

    /// Where the warp keeps the number of its step: what it had in a register while it calls a function would come back from the
    /// device's memory.
    fn own(&self) -> Val<'c> {
        let warp = self.e.shift_right(self.e.thread_anew(), i64::from(WARP.ilog2()));
        self.e.element(self.e.shared_place("at", 4 * WARPS), self.e.to_i64(warp), 4)
    }

    /// The step at hand.
    fn at(&self) -> Val<'c> {
        self.e.to_i64(self.e.load(self.own(), Ty::I32))
    }

    /// Goes on to the next step, and gives it.
    fn count_on(&self) -> Val<'c> {
        let (e, own) = (self.e, self.own());
        let next = e.add(e.load(own, Ty::I32), e.i32(1));
        // All lanes have read it, and see what one of them writes.
        e.sync_warp();
        self.put(own, next);
        e.sync_warp();
        e.to_i64(next)
    }

    fn put(&self, own: Val<'c>, at: Val<'c>) {
        let e = self.e;
        let lane = e.and(e.thread_anew(), e.i32(WARP as i32 - 1));
        e.if_then(e.cmp(Cmp::Eq, lane, e.i32(0)), || e.store(own, at));
    }

    /// Copies the batch of rows from `first` on; past the last row that is copied again.
    fn fetch(&self, first: Val<'c>) {
        let (e, words) = (self.e, self.words);
        let last = e.sub(self.count, e.i64(1));
        for_each(e, e.to_i64(e.thread_anew()), e.i64(ROWS * words), e.i64(THREADS), |number| {
            let (row, word) = (e.add(first, e.div(number, e.i64(words))), e.rem(number, e.i64(words)));
            let from = e.element(self.steps, e.max(e.min(row, last), e.i64(0)), words * 8);
            e.store(e.element(self.place(row), word, 8), e.load_constant(e.element(from, word, 8), Ty::I64));
        });
    }

    /// Copies the call, its tables and the first rows to shared memory; gives where the call is.
    fn begin(&self, call: Val<'c>) -> Val<'c> {
        let e = self.e;
        let own = e.shared_place("call", size_of::<Call>());
        let thread = e.to_i64(e.thread());
        e.if_then(e.cmp(Cmp::Lt, thread, e.i64(size_of::<Call>() / 8)), || {
            e.store(e.element(own, thread, 8), e.load(e.element(call, thread, 8), Ty::I64));
        });
        self.put(self.own(), e.i32(0));
        self.fetch(e.i64(0));
        row::forget(e);
        e.sync();
        e.copy_tables(own, THREADS);
        own
    }

    /// At step `at`: fetches the batch behind the one that begins with it.
    fn advance(&self, at: Val<'c>) {
        let e = self.e;
        let begins = e.cmp(Cmp::Eq, e.and(at, e.i64(ROWS - 1)), e.i64(0));
        e.if_then(begins, || self.fetch(e.add(at, e.i64(ROWS))));
    }
}

/// Whether a function leaves the row in shared memory that the last product multiplied.
fn keeps_row(code: &Code) -> bool {
    matches!(code, Code::Matmul(product) if matmul::is_read_ahead(product))
}

/// Where the clerk's books lie: what it knows after the step that it decided last, then two places for what it decided.
const BOOKS: &str = "books";
const DECISIONS_AT: usize = 32;
const DECISION_BYTES: usize = 32;

/// One thread of the block, which decides what the block does in a step while the others do the step before, and writes it to shared
/// memory. What every thread kept over a step for that would go to the device's memory, and come back from afar: waiting for other
/// blocks empties the first cache.
#[derive(Clone, Copy)]
struct Clerk<'k, 'c> {
    e: &'k Emitter<'c>,
    call: Val<'c>,
    /// Calls of the entry may have many rows.
    many: bool,
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
    fn begin(&self, row: Val<'c>) {
        let e = self.e;
        self.alone(|| {
            (0..4).for_each(|word| e.store(e.offset_by(self.books(), 4 * word), e.i32(0)));
            self.write(e.i64(0), row);
        });
    }

    /// Decides step `at`, whose row of the table lies at `row`.
    fn decide(&self, at: Val<'c>, row: Val<'c>) {
        self.alone(|| self.write(at, row));
    }

    fn alone(&self, work: impl FnOnce()) {
        let e = self.e;
        e.if_then(e.cmp(Cmp::Eq, e.thread_anew(), e.i32((THREADS - WARP) as i32)), work);
    }

    fn write(&self, at: Val<'c>, row: Val<'c>) {
        let e = self.e;
        let word = |n: usize| e.load(e.offset_by(row, 8 * n), Ty::I64);
        let [_, per, times, _, factor, least, order] = std::array::from_fn(word);
        let tasks = self.tasks([per, times, factor, least]);
        let tasks = if self.many { self.tiles(tasks, std::array::from_fn(|n| word(7 + n))) } else { tasks };
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
    fn arrivals(&self, at: Val<'c>) -> Val<'c> {
        self.e.load(self.decision(at), Ty::I32)
    }

    /// The block's first task of step `at`, the number of all tasks, and the block's own number; `i64`.
    fn decided(&self, at: Val<'c>) -> [Val<'c>; 3] {
        let own = self.decision(at);
        std::array::from_fn(|n| self.e.load(self.e.offset_by(own, 8 + 8 * n), Ty::I64))
    }

    fn tasks(&self, [per, times, factor, least]: [Val<'c>; 4]) -> Val<'c> {
        let e = self.e;
        let is = |n: i64| e.cmp(Cmp::Eq, per, e.i64(n));
        let segments = e.select(is(3), e.call_field(self.call, Field::Segments), e.i64(1));
        let wanted = e.select(is(2), e.call_field(self.call, Field::Wanted), segments);
        let rows = e.call_field(self.call, Field::Rows);
        let counted = e.select(is(1), rows, e.select(is(4), e.blocks(), wanted));
        // On a GPU no task has several of what is counted: `by` is 1.
        let tasks = e.mul(factor, e.mul(counted, times));
        e.select(e.cmp(Cmp::Ge, rows, least), tasks, e.i64(0))
    }

    /// The tasks of a call of many rows: tiles, if the step has some for so many.
    fn tiles(&self, tasks: Val<'c>, [per, times, own @ ..]: [Val<'c>; STEP_WORDS - 7]) -> Val<'c> {
        let e = self.e;
        let rows = e.call_field(self.call, Field::Rows);
        let is = |what: Per| e.cmp(Cmp::Eq, per, e.i64(what as i64));
        let others = e.select(is(Per::Segment), e.call_field(self.call, Field::Segments), rows);
        let counted = e.mul(e.select(is(Per::Wanted), e.call_field(self.call, Field::Wanted), others), times);
        let many = e.cmp(Cmp::Gt, rows, e.i64(STEP_ROWS));
        own.chunks_exact(3).fold(tasks, |tasks, own| {
            let above = e.sub(e.add(counted, e.shifted_left(e.i64(1), own[1])), e.i64(1));
            let tiles = e.mul(own[2], e.shifted_right(above, own[1]));
            e.select(e.and(many, e.cmp(Cmp::Ge, counted, own[0])), tiles, tasks)
        })
    }
}

struct Walk<'k, 'c> {
    e: &'k Emitter<'c>,
    plan: &'k Plan,
    functions: &'k [usize],
    call: Val<'c>,
    barrier: Val<'c>,
    clerk: Clerk<'k, 'c>,
    /// Calls of the entry may have many rows.
    many: bool,
}

impl<'c> Walk<'_, 'c> {
    /// Step `at`.
    fn step(&self, rows: &Rows<'_, 'c>, at: Val<'c>) {
        let e = self.e;
        // All threads are done with the step before, and see the next row and what the clerk decided.
        e.sync();
        let arrivals = self.clerk.arrivals(at);
        let waiting = e.cmp(Cmp::Gt, arrivals, e.i32(0));
        let first = || e.cmp(Cmp::Eq, e.thread_anew(), e.i32(0));
        e.if_then(waiting, || {
            e.if_then(first(), || {
                e.count_up(self.barrier, e.i32(1));
            });
        });
        // While other blocks arrive.
        let following = e.add(at, e.i64(1));
        self.clerk.decide(following, rows.place(following));
        rows.advance(at);
        e.if_then(waiting, || self.wait(first(), arrivals));
        let [begin, tasks, block] = self.clerk.decided(at);
        let row = rows.place(at);
        let function = e.load(row, Ty::I64);
        let arguments = [self.call, e.offset_by(row, 8 * STEP_WORDS), begin, tasks, block];
        e.if_then(e.cmp(Cmp::Lt, begin, tasks), || self.dispatch(self.functions, function, &arguments));
    }

    /// Calls the function of that number: a search by halves.
    fn dispatch(&self, functions: &[usize], function: Val<'c>, arguments: &[Val<'c>]) {
        let e = self.e;
        match functions {
            [] => {}
            [only] => {
                let function = &self.plan.functions[*only];
                if !keeps_row(&function.code) {
                    row::forget(e);
                }
                let split = match &function.code {
                    Code::Matmul(product) => matmul::is_split(product),
                    Code::Nests(nests) => segments::is_split(nests, e.has_groups()),
                    _ => false,
                };
                let name = if self.many && split { name_for_many(function) } else { function.name.clone() };
                e.call(&name, arguments, None);
            }
            _ => {
                let (low, high) = functions.split_at(functions.len() / 2);
                let below = |functions: &[usize]| {
                    self.dispatch(functions, function, arguments);
                    vec![]
                };
                e.if_else(e.cmp(Cmp::Lt, function, e.i64(high[0])), || below(low), || below(high));
            }
        }
    }

    /// Goes on when so many blocks have arrived in all.
    fn wait(&self, first: Val<'c>, arrivals: Val<'c>) {
        let e = self.e;
        e.if_then(first, || {
            e.until(|| e.cmp(Cmp::Ge, e.watch(self.barrier), arrivals));
            row::forget(e);
        });
        e.sync();
    }

    /// The last block to leave makes the barrier ready for the next launch.
    fn leave(&self) {
        let e = self.e;
        // What was asked for and not needed must not arrive when this memory is another launch's.
        e.wait_copies(0);
        e.sync();
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            let left = e.offset_by(self.barrier, 4);
            let before = e.count_up(left, e.i32(1));
            let last = e.cmp(Cmp::Eq, e.to_i64(before), e.sub(e.blocks(), e.i64(1)));
            e.if_then(last, || {
                e.store(self.barrier, e.i32(0));
                e.store(left, e.i32(0));
            });
        });
    }
}
