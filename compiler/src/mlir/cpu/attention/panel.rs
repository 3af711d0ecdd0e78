//! Keys of which one stands for a block of positions lie side by side, channel behind channel. Where many queries of a group follow each other, the first
//! of these keys are laid with one key a lane beforehand, as keys of every position lie: dot products then need no sums across lanes, and heads share loads.

use super::runs::Run;
use super::walk::Task;
use super::{Work, best, own_scratch_bytes};
use crate::forms::BLOCK;
use crate::fuse::kernel::Attention;
use crate::mlir::common::pair::Channels;
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Ty, Val};

/// Bytes that may be laid so: a part of a second-level cache.
const ROOM: usize = 64 * 1024;
/// Fewer queries look at keys as they lie.
const LEAST: usize = 16;

/// Bytes of sixteen keys.
fn block_bytes(code: &Attention) -> usize {
    code.channels() * BLOCK * 4
}

/// Blocks that are laid beforehand.
fn blocks(code: &Attention) -> usize {
    (ROOM / block_bytes(code)).max(1)
}

/// Where they are.
fn panel_at(code: &Attention) -> usize {
    let before = if code.best > 0 { best::scratch_bytes(code) } else { own_scratch_bytes(code) };
    before.next_multiple_of(64)
}

/// Scratch of the kernel: that of a task, the blocks, and room for those that are looked at behind them.
pub fn scratch_bytes(code: &Attention) -> usize {
    panel_at(code) + (blocks(code) + code.blocks_of_a_range()) * block_bytes(code)
}

impl<'c> Work<'_, 'c> {
    /// Those of one sequence and group follow each other.
    pub(super) fn read_panels(&mut self) {
        let e = self.e;
        self.runs(None, |work, run| {
            let enough = e.cmp(Cmp::Ge, run.count, e.i64(LEAST));
            for laid in [true, false] {
                let these = if laid { enough } else { e.not(enough) };
                e.if_then(these, || work.read_panel(run, laid));
            }
        });
    }

    fn read_panel(&mut self, run: Run<'c>, laid: bool) {
        let e = self.e;
        if laid {
            let (row, part) = self.place(run, e.sub(run.count, e.i64(1)));
            let (task, _) = self.task_at(row, run.group, part);
            self.lay(&task);
        }
        self.laid = laid;
        for_each(e, e.i64(0), run.count, e.i64(1), |number| {
            let (row, part) = self.place(run, number);
            let (task, head) = self.task_at(row, run.group, part);
            self.one(&task, head);
        });
        self.laid = false;
    }

    fn one(&mut self, task: &Task<'c>, head: Val<'c>) {
        match self.code.best {
            0 => self.read(task, head),
            _ => self.choose(task, head),
        }
    }

    /// Lays the first blocks that a query sees.
    fn lay(&self, task: &Task<'c>) {
        let e = self.e;
        let (_, seen) = task.caches.seen(e, self.code, task.query, task.last);
        let size = e.i64(BLOCK * self.code.reach.every());
        let count = e.min(e.add(e.div(e.max(seen, e.i64(0)), size), e.i64(1)), e.i64(blocks(self.code)));
        for_each(e, e.i64(0), count, e.i64(1), |block| {
            let from = self.block_as_it_lies(task, block).channels;
            self.lay_block(from, self.place_of(block));
        });
    }

    fn lay_block(&self, from: Channels<'c>, to: Val<'c>) {
        let e = self.e;
        for_each(e, e.i64(0), e.i64(self.code.channels()), e.i64(1), |channel| {
            e.store(e.element(to, channel, 4 * BLOCK), from.load(e, channel, Ty::f32(BLOCK)));
        });
    }

    fn place_of(&self, block: Val<'c>) -> Val<'c> {
        let panel = scratch(self.e, self.args, self.setting, panel_at(self.code));
        self.e.element(panel, block, block_bytes(self.code))
    }

    /// A block's channels, one key a lane; those behind the first ones are laid now, as the `n`-th of those that are looked at together.
    pub(super) fn laid_channels(&self, block: Val<'c>, n: usize, lies: Channels<'c>) -> Channels<'c> {
        let e = self.e;
        let first = e.i64(blocks(self.code));
        let behind = e.cmp(Cmp::Ge, block, first);
        let place = self.place_of(e.select(behind, e.add(first, e.i64(n)), block));
        e.if_then(behind, || self.lay_block(lies, place));
        Channels { base: place, stride: 4 * BLOCK, offsets: None }
    }
}
