//! Attention of many sequences of which the call has few rows each: steps of decoding side by side. Heads that share keys are rows of one
//! product, so that keys and values are read once for all of them; a task is a row, such heads, and a part of the positions that the row sees.
//!
//! The copy engine brings stages as it does for tiles. Of each stage a warp has sixteen positions, and a running softmax of its own; what warps
//! have is joined in shared memory, what parts have in the device's, by whoever ends last.
//! Dao, Haziza, Massa and Sizov, Flash-Decoding for long-context inference (2023).

use super::attend::Launch;
use super::queries::packed;
use super::{AT_ONCE, GROUP, GROUPS, LINE, positions};
use crate::fuse::kernel::{Attention, BATCH, COLUMN, COUNTERS, INNER, MOST_PARTS};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Field, SegmentFields, Val};
use crate::mlir::gpu::attend::add_products;
use crate::mlir::gpu::attention::{Sum, Work};
use crate::mlir::gpu::left::Left;
use crate::mlir::gpu::sight::Sight;
use crate::mlir::gpu::softmax::{self, CARRIED};
use crate::mlir::gpu::wide::numbers;
use crate::plan::{FEW_ROWS, NUMBERS};

/// Warps that multiply.
const WARPS: usize = GROUPS * GROUP;
/// Tasks of a block: with so many, the last round is a small part of all.
const TASKS: usize = 8;
/// Least stages of a part: each has to be joined with the others.
const LEAST: i64 = 2;
/// Rows of a fragment that a lane has.
const HALVES: usize = 2;
/// Rows between them.
const EIGHT: usize = 8;
/// Neighbouring numbers of a value that a thread finishes.
const PAIR: usize = 2;

/// Shared memory: of each warp the sums of all heads, then their maxima and totals; bytes.
pub(super) fn shared_bytes(code: &Attention) -> usize {
    WARPS * code.part_bytes(code.packed_heads())
}

/// Does the rows of a launch one by one.
#[derive(Clone, Copy)]
pub(super) struct Decode<'k, 'c> {
    pub(super) launch: Launch<'k, 'c>,
}

/// What is looked at together.
#[derive(Clone, Copy)]
struct Task<'c> {
    row: Val<'c>,
    segment: SegmentFields<'c>,
    position: Val<'c>,
    group: Val<'c>,
    /// The first head of the group, and how many.
    heads: (Val<'c>, Val<'c>),
    /// Its stages: the first, and past the last.
    stages: (Val<'c>, Val<'c>),
    parts: Parts<'c>,
}

/// The parts of the positions that a row sees.
#[derive(Clone, Copy)]
struct Parts<'c> {
    /// The row and heads, all parts counted once.
    number: Val<'c>,
    /// Most parts of each, those that have something, and which one this is.
    most: Val<'c>,
    used: Val<'c>,
    own: Val<'c>,
}

impl<'c> Decode<'_, 'c> {
    /// Whether the call is of this kind: its sequences have few rows on average.
    pub(super) fn is_used(&self) -> Val<'c> {
        let Launch { e, args, .. } = self.launch;
        let [rows, segments] = [Field::Rows, Field::Segments].map(|field| e.call_field(args.call, field));
        e.cmp(Cmp::Le, rows, e.mul(segments, e.i64(FEW_ROWS)))
    }

    /// Does `body` for each of the block's tasks, with a turn carried from one to the next.
    fn tasks(&self, body: impl FnOnce(Task<'c>, Val<'c>) -> Val<'c>) {
        let Launch { e, code, args, .. } = self.launch;
        let sides = code.groups * code.per.div_ceil(code.packed_heads());
        let number = e.mul(e.call_field(args.call, Field::Rows), e.i64(sides));
        let blocks = e.blocks();
        let wanted = e.min(e.mul(blocks, e.i64(TASKS)), e.i64(MOST_PARTS));
        let most = e.max(e.div(wanted, number), e.i64(1));
        e.for_loop(e.block_number(), e.mul(number, most), blocks, &[e.i32(0)], |at, state| {
            let (number, own) = (e.div(at, most), e.rem(at, most));
            let task = self.task(number, (most, own));
            let some = e.cmp(Cmp::Lt, task.stages.0, task.stages.1);
            e.if_else(some, || vec![body(task, state[0])], || state.to_vec())
        });
    }

    fn task(&self, number: Val<'c>, (most, own): (Val<'c>, Val<'c>)) -> Task<'c> {
        let Launch { e, code, args, .. } = self.launch;
        let together = code.packed_heads();
        let sides = code.per.div_ceil(together);
        let (row, rest) = (e.div(number, e.i64(code.groups * sides)), e.rem(number, e.i64(code.groups * sides)));
        let (group, side) = (e.div(rest, e.i64(sides)), e.rem(rest, e.i64(sides)));
        let first = e.mul(side, e.i64(together));
        let count = e.min(e.sub(e.i64(code.per), first), e.i64(together));
        let segment = e.segment(args.call, e.table_entry(args.call, Field::RowSegments, row));
        let position = e.table_entry(args.call, Field::Positions, row);
        let (from, to) = self.launch.stages(segment, (row, e.i64(1)));
        let all = e.sub(to, from);
        let span = e.max(e.div_up(all, most), e.i64(LEAST));
        let begin = e.add(from, e.mul(own, span));
        let stages = (begin, e.min(e.add(begin, span), to));
        let parts = Parts { number, most, used: e.div_up(all, span), own };
        Task { row, segment, position, group, heads: (first, count), stages, parts }
    }

    /// One thread asks for all stages of all tasks.
    pub(super) fn ask(&self, maps: [Val<'c>; 2]) {
        self.tasks(|task, turn| self.launch.bring(maps, (task.group, task.segment), task.stages, turn));
    }

    /// Group `group` of warps does its part of all tasks.
    pub(super) fn multiply(&self, setting: Setting, group: Val<'c>) {
        let Launch { e, code, args, .. } = self.launch;
        let site = Site::new(e, args, &code.tensors, setting);
        let mut work = Work { e, code, site, args, heads: code.packed_heads(), stores: false };
        let thread = e.sub(e.thread(), e.i32((GROUP * WARP) as i32));
        let (warp, lane) = (e.shift_right(thread, i64::from(WARP.ilog2())), e.and(thread, e.i32(WARP as i32 - 1)));
        let team = Team { launch: self.launch, group, thread, warp, lane };
        self.tasks(|task, turn| {
            work.site.index.insert(INNER, task.group);
            team.run(&mut work, task, turn)
        });
    }
}

/// The warps that multiply, as a thread of them sees it; `i32`.
#[derive(Clone, Copy)]
struct Team<'k, 'c> {
    launch: Launch<'k, 'c>,
    group: Val<'c>,
    /// Among all that multiply.
    thread: Val<'c>,
    warp: Val<'c>,
    lane: Val<'c>,
}

impl<'c> Team<'_, 'c> {
    fn meet(&self) {
        let e = self.launch.e;
        // Behind those of the groups, and of their turns.
        e.sync_some(e.i32(1 + 2 * GROUPS as i32), WARPS * WARP);
    }

    /// The lane's rows of fragments: heads of the task. Past the last head it is that one.
    fn lane_heads(&self, task: &Task<'c>) -> [Val<'c>; HALVES] {
        let e = self.launch.e;
        let own = e.to_i64(e.shift_right(self.lane, 2));
        [0, EIGHT].map(|by| e.min(e.add(own, e.i64(by)), e.sub(task.heads.1, e.i64(1))))
    }

    /// All stages of a task; gives the next turn.
    fn run(&self, work: &mut Work<'_, 'c>, task: Task<'c>, turn: Val<'c>) -> Val<'c> {
        let Launch { e, code, .. } = self.launch;
        let heads = self.lane_heads(&task).map(|head| e.add(task.heads.0, head));
        let queries = self.queries(work, (task.row, heads));
        let position = e.to_i32(task.position);
        let rows = heads.map(|head| softmax::Row { row: task.row, query: position, head: Some(head) });
        let sight = Sight::of(e, code, task.segment, (rows.to_vec(), [position; 2]));
        let sums = vec![e.f32(0.0); AT_ONCE * code.value / WARP];
        let start: Vec<Val> = std::iter::once(turn).chain(softmax::nothing(e, HALVES)).chain(sums).collect();
        let end = e.for_loop(task.stages.0, task.stages.1, e.i64(1), &start, |stage, state| {
            let (turn, own) = (state[0], &state[1..]);
            let made = match positions(code) / AT_ONCE {
                WARPS => self.stage(work, (&queries, &sight), (stage, turn, self.warp), own),
                // There are positions for one group.
                _ => {
                    let warp = e.and(self.warp, e.i32(GROUP as i32 - 1));
                    let mine = e.cmp(Cmp::Eq, e.to_i32(e.and(stage, e.i64(1))), self.group);
                    let mut looked = || self.stage(work, (&queries, &sight), (stage, turn, warp), own);
                    e.if_else(mine, &mut looked, || {
                        self.pass_by(turn);
                        own.to_vec()
                    })
                }
            };
            std::iter::once(e.add(turn, e.i32(2))).chain(made).collect()
        });
        self.join(work, &task, &end[1..]);
        end[0]
    }

    /// The queries of the task's heads, as fragments: for each instruction a lane's two rows, and these again eight numbers further.
    fn queries(&self, work: &mut Work<'_, 'c>, (row, heads): (Val<'c>, [Val<'c>; HALVES])) -> Vec<[Val<'c>; 4]> {
        let Launch { e, code, .. } = self.launch;
        work.site.set_row(row, false);
        let own = e.to_i64(e.shift_left(e.and(self.lane, e.i32(3)), 1));
        let mut pair = |head: Val<'c>, at: usize| {
            work.site.index.insert(BATCH, head);
            packed(e, &numbers(&mut work.site, &code.views.query, e.add(own, e.i64(at)), 2))[0]
        };
        let none = e.i32(0);
        let mut fragment = |at: usize| {
            let mut of =
                |half: usize, by: usize| if half * EIGHT < code.packed_heads() { pair(heads[half], at + by) } else { none };
            [of(0, 0), of(1, 0), of(0, EIGHT), of(1, EIGHT)]
        };
        (0..code.key).step_by(AT_ONCE).map(&mut fragment).collect()
    }

    /// The warp has read what came at a turn.
    fn leave(&self, turn: Val<'c>) {
        let e = self.launch.e;
        e.sync_warp();
        e.if_then(e.cmp(Cmp::Eq, self.lane, e.i32(0)), || self.launch.pipeline.leave(turn));
    }

    /// Leaves what comes at a turn, and at the next, to others.
    fn pass_by(&self, turn: Val<'c>) {
        let e = self.launch.e;
        for turn in [turn, e.add(turn, e.i32(1))] {
            self.launch.pipeline.arrive(turn);
            self.leave(turn);
        }
    }

    /// What becomes of the softmax and the sums behind the positions of a stage that warp `warp` has.
    fn stage(
        &self,
        work: &mut Work<'_, 'c>,
        (queries, sight): (&[[Val<'c>; 4]], &Sight<'c>),
        (stage, turn, warp): (Val<'c>, Val<'c>, Val<'c>),
        state: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let Launch { e, code, pipeline, .. } = self.launch;
        let (carried, sums) = state.split_at(CARRIED);
        let line = e.mul(warp, e.i32(AT_ONCE as i32));
        pipeline.arrive(turn);
        let mut scores = self.scores(queries, pipeline.place(turn), line);
        self.leave(turn);
        let first = e.add(e.to_i32(e.mul(stage, e.i64(positions(code)))), line);
        let step = sight.weigh(work, (first, self.lane), &mut scores, carried);
        let rises = e.in_any_lane(step.rises);
        let mut sums = e.if_else(rises, || softmax::rescale(e, sums, &step.scales), || sums.to_vec());
        let values = e.add(turn, e.i32(1));
        pipeline.arrive(values);
        self.add_values(&scores, pipeline.place(values), line, &mut sums);
        self.leave(values);
        step.carried.into_iter().chain(sums).collect()
    }

    /// Where a lane finds 16 bytes of a line: `piece` (`i32`) is the first such of the lanes' own, that many of a line's eight; further ones
    /// are told by the function that it gives.
    fn lines(&self, place: Val<'c>, line: Val<'c>, piece: Val<'c>) -> impl Fn(usize) -> Val<'c> {
        let Launch { e, code, .. } = self.launch;
        let own = e.offset(place, e.to_i64(e.mul(line, e.i32(LINE as i32))));
        // Pieces of a line lie in an order of the line's own.
        let swizzled = e.xor(piece, e.and(line, e.i32(7)));
        move |number: usize| {
            let (part, within) = (number / NUMBERS, number % NUMBERS / EIGHT);
            let piece = e.shift_left(e.xor(swizzled, e.i32(within as i32)), 4);
            e.offset(e.offset_by(own, part * positions(code) * LINE), e.to_i64(piece))
        }
    }

    /// Products of the queries with the keys of sixteen lines, as two fragments.
    fn scores(&self, queries: &[[Val<'c>; 4]], place: Val<'c>, line: Val<'c>) -> Vec<Val<'c>> {
        let e = self.launch.e;
        // Of eight lines the first eight numbers, and the next, then of eight more.
        let (low, high) = (e.and(self.lane, e.i32(7)), e.shift_left(e.shift_right(self.lane, 4), 3));
        let piece = e.and(e.shift_right(self.lane, 3), e.i32(1));
        let at = self.lines(place, e.add(line, e.add(low, high)), piece);
        let mut sums = vec![e.f32(0.0); 2 * EIGHT / 2];
        for (step, left) in queries.iter().enumerate() {
            add_products(e, *left, e.load_fragments(at(step * AT_ONCE)), &mut sums);
        }
        sums
    }

    /// Adds the values of sixteen lines, weighed, to the sums.
    fn add_values(&self, weights: &[Val<'c>], place: Val<'c>, line: Val<'c>, sums: &mut [Val<'c>]) {
        let e = self.launch.e;
        let left = packed(e, weights);
        let left = [left[0], left[1], left[2], left[3]];
        let own = e.and(self.lane, e.i32(AT_ONCE as i32 - 1));
        let at = self.lines(place, e.add(line, own), e.shift_right(self.lane, 4));
        for (pair, sums) in sums.chunks_exact_mut(EIGHT).enumerate() {
            add_products(e, left, e.load_turned_fragments(at(pair * AT_ONCE)), sums);
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------

    /// Joins what all warps have, and what other parts have, if this is the last of them.
    fn join(&self, work: &mut Work<'_, 'c>, task: &Task<'c>, ends: &[Val<'c>]) {
        let Launch { e, code, own, .. } = self.launch;
        // All are done with what was left before.
        self.meet();
        self.put(ends);
        self.meet();
        let left = Left { e, at: own, code, heads: code.packed_heads() };
        let alone = e.cmp(Cmp::Eq, task.parts.used, e.i64(1));
        e.if_then(alone, || {
            self.each_pair(task, |head, column| {
                self.finish(work, task, (head, column), left.all(e.i64(WARPS), (head, column), PAIR))
            });
        });
        e.if_then(e.not(alone), || self.join_parts(work, task, left));
    }

    /// Leaves the warp's sums for the others.
    fn put(&self, ends: &[Val<'c>]) {
        let Launch { e, code, own, .. } = self.launch;
        let left = Left { e, at: own, code, heads: code.packed_heads() };
        let (head, within) = (e.shift_right(self.lane, 2), e.shift_left(e.and(self.lane, e.i32(3)), 1));
        for half in 0..code.packed_heads().div_ceil(EIGHT) {
            let head = e.add(head, e.i32((half * EIGHT) as i32));
            let own = (softmax::most(e, ends[half]), softmax::total(e, ends[HALVES + half]));
            e.if_then(e.cmp(Cmp::Lt, head, e.i32(code.packed_heads() as i32)), || {
                let (warp, head) = (e.to_i64(self.warp), e.to_i64(head));
                for (at, four) in ends[CARRIED..].chunks_exact(4).enumerate() {
                    let column = e.to_i64(e.add(within, e.i32((at * EIGHT) as i32)));
                    let pair = [0, 1].map(|at| Sum { most: own.0, total: own.1, sum: four[2 * half + at] });
                    left.put(warp, (head, column), &pair);
                }
            });
        }
    }

    /// Does `body` for each head of the task and every second number of a value, a pair a thread.
    fn each_pair(&self, task: &Task<'c>, body: impl FnOnce(Val<'c>, Val<'c>)) {
        let Launch { e, code, .. } = self.launch;
        let pairs = e.i64(code.value / PAIR);
        for_each(e, e.to_i64(self.thread), e.mul(task.heads.1, pairs), e.i64(WARPS * WARP), |at| {
            body(e.div(at, pairs), e.shift_left(e.rem(at, pairs), 1));
        });
    }

    /// Leaves the part's sums in the workspace; the last part joins all of them.
    fn join_parts(&self, work: &mut Work<'_, 'c>, task: &Task<'c>, left: Left<'_, 'c>) {
        let Launch { e, code, .. } = self.launch;
        let workspace = work.workspace();
        let counter = e.element(workspace, task.parts.number, 4);
        let first = e.element(
            e.offset_by(workspace, 4 * COUNTERS),
            e.mul(task.parts.number, task.parts.most),
            code.part_bytes(code.packed_heads()),
        );
        let parts = Left { at: first, ..left };
        self.each_pair(task, |head, column| {
            parts.put(task.parts.own, (head, column), &left.all(e.i64(WARPS), (head, column), PAIR));
        });
        let flag = e.shared_place("last_part", 4);
        let last = e.last_of_some((counter, task.parts.used), self.thread, flag, || self.meet());
        e.if_then(last, || {
            self.each_pair(task, |head, column| {
                self.finish(work, task, (head, column), parts.all(task.parts.used, (head, column), PAIR))
            });
        });
    }

    /// Stores a pair of results, or hands them on, rounded.
    fn finish(&self, work: &mut Work<'_, 'c>, task: &Task<'c>, (head, column): (Val<'c>, Val<'c>), both: Vec<Sum<'c>>) {
        let Launch { e, code, next, .. } = self.launch;
        work.site.set_row(task.row, false);
        let results = both.into_iter().enumerate();
        let made: Vec<Val> = results.map(|(at, own)| work.result(task.heads.0, head, e.add(column, e.i64(at)), own)).collect();
        let next = next.map(|next| next.row(e, task.row, code.groups * code.per * code.value));
        let mut stored = || {
            for (at, made) in made.iter().enumerate() {
                work.site.index.insert(COLUMN, e.add(column, e.i64(at)));
                e.store(work.site.address(&code.views.out), *made);
            }
        };
        let Some(next) = next else { return stored() };
        e.if_then(e.not(next.taken), stored);
        e.if_then(next.taken, || {
            let head = e.add(e.mul(task.group, e.i64(code.per)), e.add(task.heads.0, head));
            let place = e.element(e.element(next.rows, head, 2 * code.value), column, 2);
            e.store(place, packed(e, &made)[0]);
        });
    }
}
