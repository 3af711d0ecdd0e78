//! Attention of many rows as a launch of its own: 128 rows of one head against 128 positions at a time, or 64. One thread asks the copy engine
//! for keys and values, far ahead; two groups of four warps have 64 rows each, so that one weighs scores while the other multiplies. Rows of many
//! sequences, few of each, go another way (decode.rs).
//!
//! Queries are rounded to bfloat16 on their way into shared memory, weights where they are, in registers; scores, maxima and sums are in
//! single precision. Dao, FlashAttention-2 (2023); Shah et al., FlashAttention-3 (2024).

use super::decode::{self, Decode};
use super::pipeline::Pipeline;
use super::queries::Rows;
use super::{ALIGNED, GROUP, GROUPS, LINE, MAP, Next, ROWS, positions};
use crate::fuse::kernel::{Attention, BATCH, INNER};
use crate::mlir::common::cache::Caches;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, SegmentFields, Val};
use crate::mlir::gpu::attention::Work;
use crate::plan::{NUMBERS, TILE_ROWS};

/// Places under way: the keys of some positions have one, and their values the next.
const PLACES: usize = 4;

/// Bytes of a stage's keys, or values, of so many numbers.
fn place_bytes(code: &Attention, numbers: usize) -> usize {
    numbers * positions(code) * 2
}

/// Bytes of a group's queries.
fn own_bytes(code: &Attention) -> usize {
    code.key * ROWS * 2
}

/// Bytes of both groups' queries, or of what warps leave for each other.
fn ahead_bytes(code: &Attention) -> usize {
    (GROUPS * own_bytes(code)).max(decode::shared_bytes(code)).next_multiple_of(ALIGNED)
}

/// Stages with places for keys or values.
fn most_bytes(code: &Attention) -> usize {
    place_bytes(code, code.key.max(code.value))
}

/// Dynamic shared memory of a block.
pub fn shared_bytes(code: &Attention) -> usize {
    ALIGNED + ahead_bytes(code) + Pipeline::shared_bytes(PLACES, most_bytes(code))
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
    let memory = e.offset_by(own, ahead_bytes(code));
    let pipeline = Pipeline { e, memory, stages: PLACES, bytes: most_bytes(code) };
    let launch = Launch { e, code, args, pipeline, own, next };
    let maps = [maps, e.offset_by(maps, MAP)];
    let decode = Decode { launch };
    let ask = || {
        let few = decode.is_used();
        e.if_then(few, || decode.ask(maps));
        e.if_then(e.not(few), || launch.ask(maps));
    };
    let multiply = |group: Val<'c>| {
        let few = decode.is_used();
        e.if_then(few, || decode.multiply(setting, group));
        e.if_then(e.not(few), || launch.multiply(setting, group));
    };
    super::roles(e, &pipeline, ask, multiply);
}

#[derive(Clone, Copy)]
pub(super) struct Launch<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) code: &'k Attention,
    pub(super) args: KernelArgs<'c>,
    pub(super) pipeline: Pipeline<'k, 'c>,
    /// Where the groups' own memory begins.
    pub(super) own: Val<'c>,
    /// Where results go, rounded.
    pub(super) next: Option<Next<'c>>,
}

/// Rows of one sequence in a task, and the positions that they see.
#[derive(Clone, Copy)]
pub(super) struct Part<'c> {
    pub(super) segment: SegmentFields<'c>,
    /// The query's head of all, and the group of keys.
    pub(super) head: Val<'c>,
    group: Val<'c>,
    /// The first row, and how many.
    pub(super) first: Val<'c>,
    pub(super) rows: Val<'c>,
    /// The first stage, and past the last.
    pub(super) stages: (Val<'c>, Val<'c>),
}

impl<'c> Launch<'_, 'c> {
    /// Does `body` for each part of each of the block's tasks, with a turn carried from one to the next. The last rows, which see most,
    /// come first; in every second round tasks are dealt backwards, so that who had much has little.
    fn parts(&self, body: impl FnOnce(Part<'c>, Val<'c>) -> Val<'c>) {
        let (e, code, call) = (self.e, self.code, self.args.call);
        let heads = e.i64(code.groups * code.per);
        let (rows, size) = (e.call_field(call, Field::Rows), e.i64(TILE_ROWS));
        let tiles = e.div_up(rows, size);
        let (tasks, blocks) = (e.mul(tiles, heads), e.blocks());
        let rounds = e.div_up(tasks, blocks);
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

    /// The stages that rows of a sequence see: the first, and past the last.
    pub(super) fn stages(&self, segment: SegmentFields<'c>, (first, rows): (Val<'c>, Val<'c>)) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let position = |row: Val<'c>| e.table_entry(self.args.call, Field::Positions, row);
        let last = e.sub(count(e, segment), e.i64(1));
        let (before, _) = caches.seen(e, self.code, position(first), last);
        let (_, seen) = caches.seen(e, self.code, position(e.sub(e.add(first, rows), e.i64(1))), last);
        let size = e.i64(positions(self.code));
        (e.div(before, size), e.add(e.div(seen, size), e.i64(1)))
    }

    /// One thread asks for all stages of all parts; the maps are those of keys and of values.
    fn ask(&self, maps: [Val<'c>; 2]) {
        self.parts(|part, turn| self.bring(maps, (part.group, part.segment), part.stages, turn));
    }

    /// Asks for some stages of a sequence's group of keys, and gives the next turn.
    pub(super) fn bring(
        &self,
        [keys, values]: [Val<'c>; 2],
        (group, segment): (Val<'c>, SegmentFields<'c>),
        (from, to): (Val<'c>, Val<'c>),
        turn: Val<'c>,
    ) -> Val<'c> {
        let (e, code) = (self.e, self.code);
        let [group, slot] = [group, segment.slot].map(|x| e.to_i32(x));
        let bring = |(map, numbers): (Val<'c>, usize), first: Val<'c>, turn: Val<'c>| {
            let (to, barrier) = (self.pipeline.place(turn), self.pipeline.begin(turn, place_bytes(code, numbers)));
            for part in 0..numbers / NUMBERS {
                let place = [e.i32((part * NUMBERS) as i32), first, group, slot];
                e.begin_matrix_copy(e.offset_by(to, part * positions(code) * LINE), map, &place, barrier);
            }
        };
        let end = e.for_loop(from, to, e.i64(1), &[turn], |stage, state| {
            let turn = state[0];
            let first = e.to_i32(Caches::block_at(e, code, e.mul(stage, e.i64(positions(code)))));
            let behind = e.add(turn, e.i32(1));
            bring((keys, code.key), first, turn);
            bring((values, code.value), first, behind);
            vec![e.add(behind, e.i32(1))]
        });
        end[0]
    }

    /// Group `group` of warps does its rows of all parts.
    fn multiply(&self, setting: Setting, group: Val<'c>) {
        let (e, code) = (self.e, self.code);
        let site = Site::new(e, self.args, &code.tensors, setting);
        let mut work = Work { e, code, site, args: self.args, heads: 1, stores: false };
        let own = e.element(self.own, e.to_i64(group), own_bytes(code));
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let warp = e.and(e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.i32(GROUP as i32 - 1));
        let turns = Turns { e, group };
        turns.begin();
        self.parts(|part, turn| {
            work.site.index.insert(INNER, part.group);
            work.site.index.insert(BATCH, e.rem(part.head, e.i64(code.per)));
            let rows = Rows { launch: *self, part, group, warp, lane, own, turns };
            rows.run(&mut work, turn)
        });
        turns.end();
    }
}

/// Positions of a sequence, those of the call counted.
pub(super) fn count<'c>(e: &Emitter<'c>, segment: SegmentFields<'c>) -> Val<'c> {
    e.add(segment.position, segment.rows)
}

/// Two groups take turns in asking for products: while those of one go on, the other one weighs.
#[derive(Clone, Copy)]
pub(super) struct Turns<'k, 'c> {
    e: &'k Emitter<'c>,
    /// The group's number.
    group: Val<'c>,
}

impl<'c> Turns<'_, 'c> {
    /// Barriers behind those of the groups themselves.
    fn barrier(&self, group: Val<'c>) -> Val<'c> {
        self.e.add(group, self.e.i32(1 + GROUPS as i32))
    }

    /// The first group begins.
    fn begin(&self) {
        self.e.if_then(self.e.cmp(Cmp::Eq, self.group, self.e.i32(1)), || self.pass());
    }

    /// It is the group's turn when the other one has passed.
    pub(super) fn take(&self) {
        self.e.sync_some(self.barrier(self.group), GROUPS * GROUP * WARP);
    }

    /// Lets the other group go on.
    pub(super) fn pass(&self) {
        let other = self.e.sub(self.e.i32(1), self.group);
        self.e.pass_some(self.barrier(other), GROUPS * GROUP * WARP);
    }

    /// What was passed last is taken.
    fn end(&self) {
        self.e.if_then(self.e.cmp(Cmp::Eq, self.group, self.e.i32(0)), || self.take());
    }
}
