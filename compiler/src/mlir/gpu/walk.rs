//! The entries. Each walks a table of steps with all blocks of one launch; blocks wait for each other where a step needs what others
//! wrote. A deeper model has a longer table, not more code.

use super::ahead::{Ahead, Source};
use super::clerk::Clerk;
use super::ring::Ring;
use super::{BLOCKS, STEP_ROWS, Streams, THREADS, WARPS};
use super::{ask, matmul, row, segments};
use crate::fuse::kernel::Code;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Linkage, Ty, Val};
use crate::plan::{Function, Plan, Step};
use braid_runtime::artifact::{Call, STEP_WORDS};

/// Which words of a step are how often it counts things, and how many tasks there are of each.
const TIMES: usize = 2;
const FACTOR: usize = 4;

/// Words of a row of the tables of steps.
pub fn row_words(plan: &Plan) -> usize {
    let most = plan.prepare.iter().chain(&plan.steps).map(|step| step.words.len()).max().unwrap_or(0);
    // Whole copies.
    (STEP_WORDS + most).next_multiple_of(COPY / 8)
}

/// Emits `braid_prepare`, `braid_prefill` and `braid_step`.
pub fn emit(e: &Emitter, plan: &Plan, streams: Streams) {
    // What calls of few rows never do is no code of theirs.
    let used = |steps: &[Step], most: usize| -> Vec<usize> {
        let does = |step: &Step| step.tasks.least <= most && (most <= STEP_ROWS || step.tasks.most > STEP_ROWS);
        let uses = |at: usize| steps.iter().any(|step| step.function == at && does(step));
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
        // Calls of many rows read nothing ahead, and do in tiles what they can.
        let needs = |at: &usize| match &plan.functions[*at].code {
            Code::Matmul(code) => streams.of_several(code).is_some() && !(many && matmul::is_tiled(code)),
            _ => false,
        };
        let several = streams.several.filter(|_| functions.iter().any(needs));
        several.iter().for_each(|several| Ahead::new(e, several.ring).prepare());
        let several = several.filter(|several| !many && several.ahead).map(|several| (several.ring, several.rows));
        Ahead::new(e, streams.rings.0).begin(several, call, (table, length), own);
        let clerk = Clerk { e, call, many };
        clerk.begin(rows.place(e.i64(0)));
        let walk = Walk { e, plan, streams, functions, call, barrier, clerk, many };
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
const ROWS: usize = 4;

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

    /// Copies the batch of rows from `first` on; past the last row that is copied again. Where rings are filled by the copy engine nobody waits for it
    /// here: [`Rows::arrive`].
    fn fetch(&self, first: Val<'c>) {
        let (e, words) = (self.e, self.words);
        let last = e.sub(self.count, e.i64(1));
        let each = if self.comes_later() { COPY / 8 } else { 1 };
        // The first warp is about to watch for other blocks.
        let own = e.to_i64(e.sub(e.i32(THREADS as i32 - 1), e.thread_anew()));
        for_each(e, own, e.i64(ROWS * words / each), e.i64(THREADS), |number| {
            let number = e.mul(number, e.i64(each));
            let (row, word) = (e.add(first, e.div(number, e.i64(words))), e.rem(number, e.i64(words)));
            let from = e.element(self.steps, e.max(e.min(row, last), e.i64(0)), words * 8);
            let (to, from) = (e.element(self.place(row), word, 8), e.element(from, word, 8));
            match self.comes_later() {
                true => e.begin_copy(to, from, e.i32(COPY as i32)),
                false => e.store(to, e.load_constant(from, Ty::I64)),
            }
        });
        if self.comes_later() {
            e.close_copies();
        }
    }

    /// Whether copies of the threads are free for it: else weights are under way so, which must not be waited for.
    fn comes_later(&self) -> bool {
        self.e.has_groups()
    }

    /// Waits for what the thread copies of a batch; the block's threads must meet behind it.
    fn arrive(&self) {
        if self.comes_later() {
            self.e.wait_copies(0);
        }
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
        self.put(e.shared_place(SEEN, 4), e.i32(0));
        self.fetch(e.i64(0));
        row::forget(e);
        self.arrive();
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
    matches!(code, Code::Matmul(product) if matmul::keeps_row(product))
}

/// Whether it is the block's first thread, which waits for other blocks.
fn first<'c>(e: &Emitter<'c>) -> Val<'c> {
    e.cmp(Cmp::Eq, e.thread_anew(), e.i32(0))
}

/// Where the first thread tells the block how many arrivals of blocks it has seen.
const SEEN: &str = "arrivals_seen";
/// Nanoseconds that a warp leaves the multiprocessor to others between two looks.
const PAUSE: usize = 40;

struct Walk<'k, 'c> {
    e: &'k Emitter<'c>,
    plan: &'k Plan,
    streams: Streams,
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
        rows.arrive();
        e.sync();
        let arrivals = self.clerk.arrivals(at);
        let waiting = e.cmp(Cmp::Gt, arrivals, e.i32(0));
        e.if_then(waiting, || {
            e.if_then(first(e), || {
                e.count_up(self.barrier, e.i32(1));
            });
        });
        // While other blocks arrive.
        let following = e.add(at, e.i64(1));
        self.clerk.decide(following, rows.place(following));
        rows.advance(at);
        e.if_then(waiting, || {
            // The first warp watches meanwhile.
            if !self.many {
                e.if_then(e.cmp(Cmp::Ge, e.thread_anew(), e.i32(WARP as i32)), || self.ask_ahead(rows, at));
            }
            self.wait(arrivals);
        });
        let [begin, tasks, block] = self.clerk.decided(at);
        let row = rows.place(at);
        let function = e.load(row, Ty::I64);
        let arguments = [self.call, e.offset_by(row, 8 * STEP_WORDS), begin, tasks, block];
        e.if_then(e.cmp(Cmp::Lt, begin, tasks), || self.dispatch(function, &arguments));
    }

    /// Asks for what step `at` and the next ones are about to look at of what sequences keep and of small weights, if the call is of one row: where all
    /// multiprocessors find it, so that any block may ask for any task.
    fn ask_ahead(&self, rows: &Rows<'_, 'c>, at: Val<'c>) {
        let e = self.e;
        let asks = |number: &&usize| ask::name(&self.plan.functions[**number]).is_some();
        let asking: Vec<usize> = self.functions.iter().filter(asks).copied().collect();
        let alone = e.cmp(Cmp::Eq, e.call_field(self.call, Field::Rows), e.i64(1));
        e.if_then(alone, || {
            // Rows that have come, whichever step is at hand. Behind a choice that is still to be made nobody knows what was chosen.
            e.for_loop(e.i64(0), e.i64(ROWS), e.i64(1), &[e.bool(true)], |next, known| {
                let row = rows.place(e.add(at, next));
                let function = e.load(row, Ty::I64);
                let is = |number: &usize| e.cmp(Cmp::Eq, function, e.i64(*number));
                let word = |at: usize| e.load(e.offset_by(row, 8 * at), Ty::I64);
                let ask = |number: usize| {
                    let function = &self.plan.functions[number];
                    let Some(name) = ask::name(function) else { return };
                    let (tasks, block) = (e.mul(word(FACTOR), word(TIMES)), e.block_number());
                    let call = || {
                        e.call(&name, &[self.call, e.offset_by(row, 8 * STEP_WORDS), block, tasks, block], None);
                    };
                    let chosen = matches!(&function.code, Code::Matmul(product) if ask::is_chosen(product));
                    e.if_then(e.and(is(&number), if chosen { known[0] } else { e.bool(true) }), call);
                };
                self.find(&asking, function, &ask);
                let chooses = |number: &&usize| matches!(self.plan.functions[**number].code, Code::Top(_));
                let known = self.functions.iter().filter(chooses).fold(known[0], |known, number| e.and(known, e.not(is(number))));
                vec![known]
            });
        });
    }

    /// Calls the function of that number.
    fn dispatch(&self, function: Val<'c>, arguments: &[Val<'c>]) {
        let e = self.e;
        self.find(self.functions, function, &|number| {
            let function = &self.plan.functions[number];
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
        });
    }

    /// Does `what` for the function of that number, if it is one of these; it may be another one. A search by halves.
    fn find(&self, functions: &[usize], function: Val<'c>, what: &dyn Fn(usize)) {
        let e = self.e;
        match functions {
            [] => {}
            [only] => what(*only),
            _ => {
                let (low, high) = functions.split_at(functions.len() / 2);
                let below = |functions: &[usize]| {
                    self.find(functions, function, what);
                    vec![]
                };
                e.if_else(e.cmp(Cmp::Lt, function, e.i64(high[0])), || below(low), || below(high));
            }
        }
    }

    /// Goes on when so many blocks have arrived in all.
    fn wait(&self, arrivals: Val<'c>) {
        let e = self.e;
        let all = || e.cmp(Cmp::Ge, e.watch(self.barrier), arrivals);
        let alone = || e.if_then(first(e), || e.until(all));
        // Calls of many rows read nothing ahead.
        if !self.many && self.streams.rings.0.fills_up() {
            let (one, some) = (Ahead::is_on(e), self.rows_ahead());
            let several = some.map_or(e.bool(false), |_| Ahead::is_on_for_several(e));
            e.if_then(one, || self.fill_up(self.streams.rings.0, arrivals, all));
            if let Some(ring) = some {
                e.if_then(several, || self.fill_up(ring, arrivals, all));
            }
            e.if_then(e.not(e.or(one, several)), alone);
        } else {
            alone();
        }
        row::forget(e);
        e.sync();
    }

    /// Where calls of several rows read ahead.
    fn rows_ahead(&self) -> Option<Ring> {
        self.streams.several.filter(|several| several.ahead).map(|several| several.ring)
    }

    /// Asks for weights meanwhile: each warp until its ring is full, or the first thread has seen that all blocks have arrived.
    fn fill_up(&self, ring: Ring, arrivals: Val<'c>, all: impl Fn() -> Val<'c>) {
        let e = self.e;
        let seen = e.shared_place(SEEN, 4);
        // A warp's lanes go on together.
        let of_first = |what: Val<'c>| e.cmp(Cmp::Ne, e.of_lane(e.select(what, e.i32(1), e.i32(0)), e.i32(0)), e.i32(0));
        e.until(|| {
            e.if_then(first(e), || e.if_then(all(), || e.show_number(seen, arrivals)));
            let over = of_first(e.cmp(Cmp::Ge, e.watch_shared(seen), arrivals));
            let go_on = || {
                let room = self.ask_meanwhile(ring);
                // The first warp looks after the others.
                let later = e.cmp(Cmp::Ge, e.thread_anew(), e.i32(WARP as i32));
                e.if_then(later, || e.pause(PAUSE));
                vec![of_first(e.and(later, e.not(room)))]
            };
            e.if_else(over, || vec![e.bool(true)], go_on)[0]
        });
    }

    /// See [`Ahead::meanwhile`]. Gives whether the warp's ring has room.
    fn ask_meanwhile(&self, ring: Ring) -> Val<'c> {
        let (e, name) = (self.e, &format!("ask_meanwhile_{}", ring.name()));
        if e.first_time(name) {
            let parameters = [Ty::scalar(Elem::Global), Ty::scalar(Elem::Shared)];
            e.function(name, Linkage::Private, &parameters, None, |values| {
                let [weights, table] = *values else { return None };
                Ahead::new(e, ring).meanwhile(Source { weights, table });
                None
            });
        }
        let weights = e.device_memory(e.call_field(self.call, Field::Weights));
        let table = e.offset_by(e.shared_memory(), self.streams.table);
        e.call(name, &[weights, table], None);
        Ahead::new(e, ring).has_room()
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
