//! Queries of a prompt that follow each other look at the same keys: several rows of a group side by side, so that keys and values come once for all of
//! them, and as many sums are under way as registers hold. Each head does what it would do alone, so that who is beside it changes no bit.

use super::runs::Run;
use super::{Work, own_scratch_bytes, padded};
use crate::forms::{BLOCK, Reach};
use crate::fuse::kernel::Attention;
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Field, Ty, Val};

/// Heads that look together at most.
pub const HEADS: usize = 12;
/// Blocks of keys that they look at, at most.
const BLOCKS: usize = 2;
/// Sequences with fewer rows in a call go row by row.
const LEAST: usize = 16;

/// Where the parts of the scratch begin: weighted values, queries channel by channel; and the end.
fn parts(code: &Attention) -> [usize; 3] {
    let first = own_scratch_bytes(code).next_multiple_of(64);
    let queries = first + HEADS * padded(code.value) * 4;
    [first, queries, queries + HEADS * code.key * 4]
}

/// Scratch behind that of a task.
pub fn scratch_bytes(code: &Attention) -> usize {
    parts(code)[2] - own_scratch_bytes(code)
}

/// Whether every query sees keys from the first on, in a cache that has all of them.
fn sees_from_the_first(code: &Attention) -> bool {
    let chosen = code.best > 0 || code.chosen.is_some() || code.tally.is_some();
    code.reach == Reach::Full && !chosen && code.named().is_none() && code.value > 0
}

impl<'c> Work<'_, 'c> {
    /// Sums of sixteen lanes that registers hold, beside what is added to them: of 32 registers of 16 lanes, 16 of 8 (AVX2), 32 of 4 (NEON).
    fn sums(&self) -> usize {
        if self.setting.lanes < BLOCK { HEADS / 2 } else { HEADS * BLOCKS }
    }

    /// Blocks that are looked at together.
    fn blocks_together(&self) -> usize {
        (self.sums() / HEADS).clamp(1, BLOCKS).min(self.code.blocks_of_a_range())
    }

    /// Tasks whose heads look together; 1: each alone.
    pub(super) fn tasks_together(&self) -> usize {
        let heads = (self.sums() / self.blocks_together()).min(HEADS);
        if sees_from_the_first(self.code) { heads / self.code.heads_of_a_task() } else { 1 }
    }

    pub(super) fn read_rows(&mut self) {
        let e = self.e;
        self.runs(None, |work, run| {
            // Whatever rows a thread has, their sequence decides, so that threads change no bit.
            let (row, _) = work.place(run, e.i64(0));
            let own = e.segment(work.args.call, e.table_entry(work.args.call, Field::RowSegments, row));
            let enough = e.cmp(Cmp::Ge, own.rows, e.i64(LEAST));
            e.if_then(enough, || {
                let step = e.i64(work.tasks_together());
                for_each(e, e.i64(0), run.count, step, |first| work.read_together(run, first));
            });
            e.if_then(e.not(enough), || work.read_one_by_one(run));
        });
    }

    /// Tasks of a run from one on.
    fn read_together(&mut self, run: Run<'c>, first: Val<'c>) {
        let e = self.e;
        let numbers: Vec<Val> = (0..self.tasks_together()).map(|n| e.add(first, e.i64(n))).collect();
        let (task, mut heads) = self.looking(run, &numbers);
        let [sums, queries, _] = parts(self.code).map(|at| scratch(e, self.args, self.setting, at));
        let step = 4 * heads.len();
        for (at, head) in heads.iter_mut().enumerate() {
            let own = e.offset_by(queries, 4 * at);
            for_each(e, e.i64(0), e.i64(self.code.key), e.i64(1), |k| {
                e.store(e.element(own, k, step), e.load(e.element(head.query, k, head.step), Ty::F32));
            });
            (head.query, head.step) = (own, step);
            head.sums = e.offset_by(sums, at * padded(self.code.value) * 4);
        }
        let start = self.begin(&heads);
        let sight = self.sight();
        let (_, seen) = task.caches.seen(e, self.code, task.until, task.last);
        let visit = |work: &mut Self, keys: &[_], state: &[Val<'c>]| work.visit(&heads, keys, &sight, state);
        let ends = self.between(&task, (e.i64(0), seen), (None, self.blocks_together()), &start, visit);
        self.finish_all(&heads, &ends);
    }
}
