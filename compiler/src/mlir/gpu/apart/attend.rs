//! Attention of many rows as a launch of its own: 128 rows of one head against 128 positions at a time. One thread asks the copy engine
//! for keys and values, far ahead; two groups of four warps have 64 rows each, so that one weighs scores while the other multiplies.
//!
//! Queries and weights are rounded to bfloat16 on their way into shared memory; scores, maxima and sums are in single precision.
//! Dao, FlashAttention-2 (2023); Shah et al., FlashAttention-3 (2024); Milakov and Gimelshein, Online normalizer calculation (2018).

use super::caches::{POSITIONS, count, group_of};
use super::pipeline::Pipeline;
use super::{ALIGNED, AT_ONCE, GROUP, GROUPS, LINE, MAP, Next, ROWS};
use crate::fuse::kernel::{Attention, BATCH, COLUMN, INNER};
use crate::mlir::common::cache::Caches;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, SegmentFields, Ty, Val};
use crate::mlir::gpu::attend::Weighed;
use crate::mlir::gpu::attention::{Sum, Work};
use crate::mlir::gpu::team::across_lanes;
use crate::plan::{NUMBERS, TILE_ROWS};
use braid_dsl::model::Reduce;

/// Stages under way.
const STAGES: usize = 2;
/// Loads of a thread that are under way at once.
const AHEAD: usize = 4;
/// Numbers of a piece of 16 bytes.
const PIECE: usize = 8;
/// Pieces of a line.
const PIECES: usize = NUMBERS / PIECE;

/// Bytes of a stage: keys, then values.
fn stage_bytes(code: &Attention) -> usize {
    (code.key + code.value) * POSITIONS * 2
}

/// Where each group's queries and weights lie behind the stages.
fn own_bytes(code: &Attention) -> usize {
    (code.key + POSITIONS) * ROWS * 2
}

/// Dynamic shared memory of a block.
pub fn shared_bytes(code: &Attention) -> usize {
    ALIGNED + GROUPS * own_bytes(code) + Pipeline::shared_bytes(STAGES, stage_bytes(code))
}

/// Emits the body of the entry, with the maps of keys and of values; `next`: where results go, rounded.
pub fn emit<'c>(
    e: &Emitter<'c>,
    code: &Attention,
    setting: Setting,
    args: KernelArgs<'c>,
    (maps, next): (Val<'c>, Option<Next<'c>>),
) {
    let own = e.aligned(e.shared_memory(), ALIGNED);
    let memory = e.offset_by(own, GROUPS * own_bytes(code));
    let pipeline = Pipeline { e, memory, stages: STAGES, bytes: stage_bytes(code) };
    let launch = Launch { e, code, args, pipeline, own, next };
    super::roles(e, &pipeline, || launch.ask(maps, e.offset_by(maps, MAP)), |group| launch.multiply(setting, group));
}

#[derive(Clone, Copy)]
struct Launch<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Attention,
    args: KernelArgs<'c>,
    pipeline: Pipeline<'k, 'c>,
    /// Where the groups' own memory begins.
    own: Val<'c>,
    /// Where results go, rounded.
    next: Option<Next<'c>>,
}

/// Rows of one sequence in a task, and the positions that they see.
#[derive(Clone, Copy)]
struct Part<'c> {
    segment: SegmentFields<'c>,
    /// The query's head of all, and the group of keys.
    head: Val<'c>,
    group: Val<'c>,
    /// The first row, and how many.
    first: Val<'c>,
    rows: Val<'c>,
    /// The first stage, and past the last.
    stages: (Val<'c>, Val<'c>),
}

impl<'c> Launch<'_, 'c> {
    /// Does `body` for each part of each of the block's tasks, with a turn carried from one to the next. The last rows, which see most,
    /// come first; in every second round tasks are dealt backwards, so that who had much has little.
    fn parts(&self, body: impl FnOnce(Part<'c>, Val<'c>) -> Val<'c>) {
        let (e, code, call) = (self.e, self.code, self.args.call);
        let heads = e.i64(code.groups * code.per);
        let (rows, size) = (e.call_field(call, Field::Rows), e.i64(TILE_ROWS));
        let tiles = e.div(e.sub(e.add(rows, size), e.i64(1)), size);
        let (tasks, blocks) = (e.mul(tiles, heads), e.blocks());
        let rounds = e.div(e.sub(e.add(tasks, blocks), e.i64(1)), blocks);
        e.for_loop(e.i64(0), rounds, e.i64(1), &[e.i32(0)], |round, state| {
            let (own, odd) = (e.block_number(), e.cmp(Cmp::Ne, e.and(round, e.i64(1)), e.i64(0)));
            let own = e.select(odd, e.sub(e.sub(blocks, e.i64(1)), own), own);
            let task = e.add(e.mul(round, blocks), own);
            let there = e.cmp(Cmp::Lt, task, tasks);
            // Past the last task there are no rows.
            let task = e.min(task, e.sub(tasks, e.i64(1)));
            let tile = e.sub(e.sub(tiles, e.i64(1)), e.div(task, heads));
            let head = e.rem(task, heads);
            let start = e.mul(tile, size);
            let end = e.min(e.add(start, size), rows);
            let of_row = |row: Val<'c>| e.table_entry(call, Field::RowSegments, row);
            let (first, last) = (of_row(start), of_row(e.sub(end, e.i64(1))));
            let end_segment = e.select(there, e.add(last, e.i64(1)), first);
            e.for_loop(first, end_segment, e.i64(1), state, |segment, state| {
                let segment = e.segment(call, segment);
                let first = e.max(segment.row, start);
                let rows = e.sub(e.min(e.add(segment.row, segment.rows), end), first);
                let stages = self.stages(segment, (first, rows));
                let group = e.div(head, e.i64(code.per));
                vec![body(Part { segment, head, group, first, rows, stages }, state[0])]
            })
        });
    }

    fn stages(&self, segment: SegmentFields<'c>, (first, rows): (Val<'c>, Val<'c>)) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let position = |row: Val<'c>| e.table_entry(self.args.call, Field::Positions, row);
        let last = e.sub(count(e, segment), e.i64(1));
        let (before, _) = caches.seen(e, self.code, position(first), last);
        let (_, seen) = caches.seen(e, self.code, position(e.sub(e.add(first, rows), e.i64(1))), last);
        (e.div(before, e.i64(POSITIONS)), e.add(e.div(seen, e.i64(POSITIONS)), e.i64(1)))
    }

    /// One thread asks for all stages of all parts.
    fn ask(&self, keys: Val<'c>, values: Val<'c>) {
        let (e, code) = (self.e, self.code);
        let capacity = e.call_field(self.args.call, Field::Capacity);
        self.parts(|part, turn| {
            let group = group_of(e, code, part.segment.slot, part.group);
            let (lines, elements) = (e.mul(group, capacity), e.to_i32(e.mul(group, e.i64(code.value))));
            let end = e.for_loop(part.stages.0, part.stages.1, e.i64(1), &[turn], |stage, state| {
                let turn = state[0];
                let barrier = self.pipeline.begin(turn);
                let (to, first) = (self.pipeline.place(turn), e.mul(stage, e.i64(POSITIONS)));
                let line = e.to_i32(e.add(lines, first));
                for half in 0..code.key / NUMBERS {
                    let to = e.offset_by(to, half * POSITIONS * LINE);
                    e.begin_matrix_copy(to, keys, (e.i32((half * NUMBERS) as i32), line), barrier);
                }
                let to = e.offset_by(to, code.key * POSITIONS * 2);
                for half in 0..POSITIONS / NUMBERS {
                    let (to, first) = (e.offset_by(to, half * code.value * LINE), e.add(first, e.i64(half * NUMBERS)));
                    e.begin_matrix_copy(to, values, (e.to_i32(first), elements), barrier);
                }
                vec![e.add(turn, e.i32(1))]
            });
            end[0]
        });
    }

    /// Group `group` of warps does its rows of all parts.
    fn multiply(&self, setting: Setting, group: Val<'c>) {
        let (e, code) = (self.e, self.code);
        let site = Site::new(e, self.args, &code.tensors, setting);
        let mut work = Work { e, code, site, args: self.args, heads: 1 };
        let own = e.element(self.own, e.to_i64(group), own_bytes(code));
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let warp = e.and(e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.i32(GROUP as i32 - 1));
        self.parts(|part, turn| {
            work.site.index.insert(INNER, part.group);
            work.site.index.insert(BATCH, e.rem(part.head, e.i64(code.per)));
            let rows = Rows { launch: *self, part, group, warp, lane, own };
            rows.run(&mut work, turn)
        });
    }
}

/// A group's rows of a part.
struct Rows<'k, 'c> {
    launch: Launch<'k, 'c>,
    part: Part<'c>,
    group: Val<'c>,
    warp: Val<'c>,
    lane: Val<'c>,
    own: Val<'c>,
}

impl<'c> Rows<'_, 'c> {
    /// The number among the part's rows of the group's row `at` (`i32`).
    fn within(&self, at: Val<'c>) -> Val<'c> {
        let e = self.launch.e;
        e.to_i64(e.add(e.mul(self.group, e.i32(ROWS as i32)), at))
    }

    /// The call's row; past the last of the part that one.
    fn row(&self, at: Val<'c>) -> Val<'c> {
        let e = self.launch.e;
        e.add(self.part.first, e.min(self.within(at), e.sub(self.part.rows, e.i64(1))))
    }

    /// The lane's two rows of the group's.
    fn lane_rows(&self) -> [Val<'c>; 2] {
        let e = self.launch.e;
        let first = e.add(e.shift_left(self.warp, 4), e.shift_right(self.lane, 2));
        [first, e.add(first, e.i32(8))]
    }

    fn meet(&self) {
        let e = self.launch.e;
        e.show_shared();
        e.sync_some(e.add(self.group, e.i32(1)), GROUP * WARP);
    }

    /// All stages; gives the next turn.
    fn run(&self, work: &mut Work<'_, 'c>, turn: Val<'c>) -> Val<'c> {
        let Launch { e, code, pipeline, args, .. } = self.launch;
        self.fetch(work);
        let rows = self.lane_rows().map(|at| self.row(at));
        let queries = rows.map(|row| e.to_i32(e.table_entry(args.call, Field::Positions, row)));
        let last = e.to_i32(count(e, self.part.segment));
        let first = e.cmp(Cmp::Eq, self.lane, e.i32(0));
        let sums = code.value / 2;
        let state = [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0].into_iter().chain(vec![0.0; sums]).map(|x| e.f32(x));
        let start: Vec<Val> = std::iter::once(turn).chain(state).collect();
        let one = e.i32(1);
        let end = e.for_loop(self.part.stages.0, self.part.stages.1, e.i64(1), &start, |stage, state| {
            let (turn, state) = (state[0], &state[1..]);
            pipeline.arrive(turn);
            let mut scores = e.begin_products(&self.keys(turn), &vec![e.f32(0.0); POSITIONS / 2]);
            // With these, the products with the stage before are there.
            e.await_products(0);
            e.if_then(e.and(first, e.cmp(Cmp::Gt, stage, self.part.stages.0)), || pipeline.leave(e.sub(turn, one)));
            let positions = self.positions(stage, last);
            let state = work.weigh(&mut scores, &positions, Weighed { rows, queries }, state);
            self.put(&scores);
            self.meet();
            let sums = e.begin_products(&self.values(turn), &state[4..]);
            std::iter::once(e.add(turn, one)).chain(state[..4].iter().copied()).chain(sums).collect()
        });
        e.await_products(0);
        e.if_then(first, || pipeline.leave(e.sub(end[0], one)));
        self.finish(work, &end[1..]);
        end[0]
    }

    /// The group's queries into its memory, `[halves][rows][numbers]`.
    fn fetch(&self, work: &mut Work<'_, 'c>) {
        let Launch { e, code, .. } = self.launch;
        let pieces = code.key / PIECE;
        let threads = GROUP * WARP;
        let thread = e.and(e.thread(), e.i32(threads as i32 - 1));
        // All are done with what was there.
        self.meet();
        for first in (0..ROWS * pieces).step_by(AHEAD * threads) {
            let places: Vec<Val> = (0..AHEAD).map(|turn| e.add(thread, e.i32((first + turn * threads) as i32))).collect();
            let loaded: Vec<Vec<Val>> = places.iter().map(|at| self.query(work, *at, pieces)).collect();
            for (at, own) in places.into_iter().zip(loaded) {
                let (row, piece) = (e.div(at, e.i32(pieces as i32)), e.rem(at, e.i32(pieces as i32)));
                let half = e.div(piece, e.i32(PIECES as i32));
                let line = e.add(e.mul(half, e.i32(ROWS as i32)), row);
                let place = e.add(e.mul(line, e.i32(LINE as i32)), self.piece(row, e.rem(piece, e.i32(PIECES as i32))));
                let packed = own.chunks_exact(2).map(|pair| e.pack_bf16(pair[0], pair[1]));
                let whole = packed.enumerate().fold(e.poison(Ty::i32(PIECE / 2)), |whole, (at, pair)| e.insert(whole, at, pair));
                e.store_aligned(e.offset(self.own, e.to_i64(place)), whole);
            }
        }
        self.meet();
    }

    /// Eight numbers of a row's query.
    fn query(&self, work: &mut Work<'_, 'c>, at: Val<'c>, pieces: usize) -> Vec<Val<'c>> {
        let Launch { e, code, .. } = self.launch;
        work.site.set_row(self.row(e.div(at, e.i32(pieces as i32))), false);
        let column = e.mul(e.to_i64(e.rem(at, e.i32(pieces as i32))), e.i64(PIECE));
        let number = |at: usize| {
            work.site.index.insert(COLUMN, e.add(column, e.i64(at)));
            e.load(work.site.address(&code.views.query), Ty::F32)
        };
        (0..PIECE).map(number).collect()
    }

    /// Where a piece of a row lies in its line, in bytes.
    fn piece(&self, row: Val<'c>, piece: Val<'c>) -> Val<'c> {
        let e = self.launch.e;
        e.shift_left(e.xor(piece, e.and(row, e.i32(7))), 4)
    }

    /// Queries and keys, as the matrix units take them.
    fn keys(&self, turn: Val<'c>) -> Vec<(Val<'c>, Val<'c>)> {
        let Launch { e, code, pipeline, .. } = self.launch;
        let (left, right) = (e.matrix_at(self.own), e.matrix_at(pipeline.place(turn)));
        self.pairs((left, ROWS), (right, POSITIONS), code.key)
    }

    /// Weights and values.
    fn values(&self, turn: Val<'c>) -> Vec<(Val<'c>, Val<'c>)> {
        let Launch { e, code, pipeline, .. } = self.launch;
        let left = e.matrix_at(e.offset_by(self.own, code.key * ROWS * 2));
        let right = e.matrix_at(e.offset_by(pipeline.place(turn), code.key * POSITIONS * 2));
        self.pairs((left, ROWS), (right, code.value), POSITIONS)
    }

    /// What each instruction takes of two matrices of so many lines, which lie in parts of as many numbers as a line has.
    fn pairs(&self, left: (Val<'c>, usize), right: (Val<'c>, usize), depth: usize) -> Vec<(Val<'c>, Val<'c>)> {
        let e = self.launch.e;
        let behind = |(matrix, lines): (Val<'c>, usize), at: usize| {
            let (part, within) = (at * AT_ONCE / NUMBERS, at * AT_ONCE % NUMBERS);
            e.matrix_behind(matrix, e.i64(part * lines * LINE + 2 * within))
        };
        (0..depth / AT_ONCE).map(|at| (behind(left, at), behind(right, at))).collect()
    }

    /// The positions of the lane's scores; none is below zero.
    fn positions(&self, stage: Val<'c>, last: Val<'c>) -> Vec<Val<'c>> {
        let e = self.launch.e;
        let own = e.add(e.to_i32(e.mul(stage, e.i64(POSITIONS))), e.shift_left(e.and(self.lane, e.i32(3)), 1));
        let position = |at: usize| {
            let own = e.add(own, e.i32((8 * (at / 2) + at % 2) as i32));
            e.select(e.cmp(Cmp::Lt, own, last), own, e.i32(-1))
        };
        (0..POSITIONS / 4).map(position).collect()
    }

    /// The lane's weights into the group's memory, `[halves][rows][positions]`.
    fn put(&self, weights: &[Val<'c>]) {
        let Launch { e, code, .. } = self.launch;
        let all = e.offset_by(self.own, code.key * ROWS * 2);
        for (half, row) in self.lane_rows().into_iter().enumerate() {
            let line = e.add(e.mul(row, e.i32(LINE as i32)), e.shift_left(e.and(self.lane, e.i32(3)), 2));
            for (at, four) in weights.chunks_exact(4).enumerate() {
                let place = e.add(line, self.piece(row, e.i32((at % PIECES) as i32)));
                let to = e.offset_by(all, at / PIECES * ROWS * LINE);
                e.store(e.offset(to, e.to_i64(place)), e.pack_bf16(four[2 * half], four[2 * half + 1]));
            }
        }
    }

    /// Divides the sums by their totals, and stores them.
    fn finish(&self, work: &mut Work<'_, 'c>, state: &[Val<'c>]) {
        let Launch { e, code, .. } = self.launch;
        let (heads, value) = (code.groups * code.per, code.value);
        let head = work.site.index[&BATCH];
        let column = e.to_i64(e.shift_left(e.and(self.lane, e.i32(3)), 1));
        for (half, row) in self.lane_rows().into_iter().enumerate() {
            let total = across_lanes(e, Reduce::Sum, state[2 + half], 4);
            e.if_then(e.cmp(Cmp::Lt, self.within(row), self.part.rows), || {
                work.site.set_row(self.row(row), false);
                let columns = (0..code.value / 4).map(|at| e.add(column, e.i64(8 * (at / 2) + at % 2)));
                let sums = state[4..].chunks_exact(4).flat_map(|four| [four[2 * half], four[2 * half + 1]]);
                let made = |(column, sum)| (column, work.result(head, e.i64(0), column, Sum { most: state[half], total, sum }));
                let made: Vec<(Val, Val)> = columns.zip(sums).map(made).collect();
                let next = self.launch.next.map(|next| next.row(e, self.row(row), heads * value));
                let mut stored = || {
                    for (column, made) in &made {
                        work.site.index.insert(COLUMN, *column);
                        e.store(work.site.address(&code.views.out), *made);
                    }
                };
                let Some(next) = next else { return stored() };
                e.if_then(e.not(next.taken), stored);
                e.if_then(next.taken, || {
                    let own = e.element(e.element(next.rows, self.part.head, 2 * value), column, 2);
                    for (at, pair) in made.chunks_exact(2).enumerate() {
                        e.store(e.offset_by(own, 16 * at), e.pack_bf16(pair[0].1, pair[1].1));
                    }
                });
            });
        }
    }
}
