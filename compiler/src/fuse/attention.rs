//! Attention over a cache as data: which heads, which keys, how a task looks at them.

use super::expr::View;
use super::kernel::{Store, Tensor};
use crate::forms::{BLOCK, Range, Reach, TILE};
use braid_dsl::model::Op;

/// Most blocks of keys that are looked at together: kernels have scratch for so many.
pub const MOST_BLOCKS: usize = 4;

/// Counters of tasks that stand first in the workspace of attentions, whatever their shapes: parts of one lie where no other one counts.
pub const COUNTERS: usize = 2048;
/// Most parts that the positions of all rows are cut into in a call of many sequences.
pub const MOST_PARTS: usize = 1024;
const _: () = assert!(MOST_PARTS <= COUNTERS);

/// Views of attention: [`super::kernel::INNER`] runs along groups, [`super::kernel::BATCH`] along `per`, [`super::kernel::COLUMN`] along a key or a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionViews {
    /// Queries.
    pub query: View,
    /// Keys of the row.
    pub keys: View,
    /// Values of the row.
    pub values: View,
    /// The result.
    pub out: View,
    /// What `keep` and `score` capture; ids of chosen keys run along [`super::kernel::COLUMN`].
    pub captures: Vec<View>,
}

/// Keys that are seen because an earlier kernel chose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The capture with the ids.
    pub ids: usize,
    /// How many there are.
    pub count: usize,
    /// Positions of the block that an id stands for.
    pub block: usize,
    /// What is seen whatever was chosen.
    pub beside: crate::forms::Beside,
    /// Each head of a group has ids of its own.
    pub by_head: bool,
}

/// What the last queries of a prompt give to its keys, added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many queries.
    pub queries: usize,
    /// By distances, not by keys.
    pub apart: bool,
}

/// Attention over a cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Heads that keys and queries share.
    pub groups: usize,
    /// Query heads of a group.
    pub per: usize,
    /// Length of a key.
    pub key: usize,
    /// Length of a value; 0 if none are weighed.
    pub value: usize,
    /// Of a choice: how many keys it takes; 0: it is none.
    pub best: usize,
    /// The score of a choice is one for all heads of a group.
    pub joined: bool,
    /// It adds up what it gives to the keys of its own call, and has no cache.
    pub tally: Option<Tally>,
    /// The keys that were chosen for it, if its `keep` says so.
    pub chosen: Option<Chosen>,
    /// Which positions the cache keeps.
    pub reach: Reach,
    /// Where queries look in a cache of every position.
    pub range: Range,
    /// What `keep` and `score` ask of the key's position: captures, each with how many channels it has beside a key, 1 or `per`.
    pub keyed: Vec<(usize, usize)>,
    /// Captures of the position that is as far from the first as the key is from the query.
    pub apart: Vec<usize>,
    /// Captures that are tables, whose rows run along [`super::kernel::COLUMN`] and are looked up by an index of `keep` or `score`; how many rows each has.
    pub tables: Vec<(usize, usize)>,
    /// The declaration, for its `keep` and `score`.
    pub attend: braid_dsl::model::Attend,
    /// What is read and written.
    pub views: AttentionViews,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// Words of the operands that hold the byte offsets (fixed, per position) of the caches of keys, values and positions.
    pub caches: usize,
    /// Into how many parts the positions are cut in a call of few rows, so that every block of a GPU has work. More than one: the
    /// word behind those of the caches is the workspace.
    pub splits: usize,
    /// Calls of many rows may round queries, keys, values and weights to bfloat16, as the model's weights are.
    pub rounded: bool,
    /// How a GPU keeps keys and values: whole ones one behind the other, of these numbers; none: this is not for a GPU.
    pub kept: Option<Store>,
}

impl Attention {
    /// Whether a GPU's matrix units do calls of many rows: keys and values fit in shared memory, and a value's elements come in fours.
    pub fn is_tiled(&self) -> bool {
        self.rounded && self.key <= 256 && self.value <= 256 && self.value.is_multiple_of(4)
    }

    /// Whether its cache has a place for every position that a query sees, each with its own key, where it is counted on from the first.
    pub fn has_every_position(&self) -> bool {
        let plain = self.best == 0 && self.chosen.is_none() && self.value > 0;
        plain && (self.reach == Reach::Full || self.unrolled().is_some()) && !self.has_lone_rows()
    }

    /// Rows and window of a ring whose positions are counted as if it were unrolled: on a GPU, where the ring is made of whole tiles.
    pub fn unrolled(&self) -> Option<(usize, usize)> {
        match self.reach {
            Reach::Window { rows, window } if self.kept.is_some() && rows.is_multiple_of(TILE) => Some((rows, window)),
            _ => None,
        }
    }

    /// Channels of a position in the cache of keys.
    pub fn channels(&self) -> usize {
        self.key + self.keyed.iter().map(|(_, count)| count).sum::<usize>()
    }

    /// The first channel of a capture that the key's position has, and how many it has.
    pub fn channel(&self, capture: usize) -> Option<(usize, usize)> {
        let at = self.keyed.iter().position(|(n, _)| *n == capture)?;
        Some((self.key + self.keyed[..at].iter().map(|(_, count)| count).sum::<usize>(), self.keyed[at].1))
    }

    /// How many rows a capture has that is looked up in.
    pub fn table(&self, capture: usize) -> Option<usize> {
        self.tables.iter().find(|(n, _)| *n == capture).map(|(_, rows)| *rows)
    }

    /// Whether it keeps keys, or sees those of its call alone.
    pub fn has_cache(&self) -> bool {
        self.tally.is_none()
    }

    /// Whether a key's channels lie side by side: on a GPU, or if keys are looked up one by one, or one stands for a block.
    pub fn by_row(&self) -> bool {
        self.kept.is_some() || self.has_lone_rows()
    }

    /// Bytes of a number of keys and values in the caches.
    pub fn kept_bytes(&self) -> usize {
        self.kept.unwrap_or(Store::F32).bytes()
    }

    /// Whether keys are looked up one by one, or one stands for a block.
    pub fn has_lone_rows(&self) -> bool {
        let alone = |chosen: Chosen| !chosen.block.is_multiple_of(BLOCK);
        self.reach.every() > 1 || self.chosen.is_some_and(alone) || self.named().is_some()
    }

    /// Whether queries that chose the same block may look at it together: tasks then count the rows of a group before they come to the next one.
    pub fn shares_blocks(&self) -> bool {
        let blocks = |chosen: Chosen| chosen.block.is_multiple_of(BLOCK);
        self.best == 0 && self.reach == Reach::Full && self.chosen.is_some_and(blocks)
    }

    /// Heads of a group that one task does: those that look at the same keys.
    pub fn heads_of_a_task(&self) -> usize {
        match (self.best, &self.chosen) {
            _ if self.tally.is_some() => 1,
            (1.., _) if self.joined => self.per,
            (1.., _) | (_, Some(Chosen { by_head: true, .. })) => 1,
            _ => self.heads_at_once(),
        }
    }

    /// Blocks of keys that a task's heads look at together: enough sums are under way then, and the running maximum moves less often.
    pub fn blocks_at_once(&self) -> usize {
        if self.best > 0 { 1 } else { (8 / self.heads_of_a_task()).clamp(1, MOST_BLOCKS) }
    }

    /// Blocks that are looked at together where a query may see all positions of a range but those at its ends; elsewhere each block may be one
    /// of which nothing is seen.
    pub fn blocks_of_a_range(&self) -> usize {
        use braid_dsl::model::Binary::{Add, And, Ge, Gt, Le, Lt, Sub};
        let keep = &self.attend.keep;
        let is_bound = |op: &Op| match op {
            Op::QueryPosition | Op::KeyPosition | Op::Const(_) => true,
            Op::Binary(f) => matches!(f, Add | And | Ge | Gt | Le | Lt | Sub),
            _ => false,
        };
        // What stands for whole blocks is seen but for the last ones.
        let dense = self.reach.every() > 1 || keep.values.iter().all(|value| is_bound(&value.op));
        if dense { self.blocks_at_once() } else { 1 }
    }

    /// Heads of a group whose scores are computed together: they share the loads of keys and values.
    pub fn heads_at_once(&self) -> usize {
        (1..=8).rev().find(|n| self.per.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Bytes of workspace for calls of at most `rows` rows, and for calls of many sequences: behind the counters what each part of the
    /// positions leaves of each head: its sums, their maximum and their total.
    pub fn workspace_bytes(&self, rows: usize) -> usize {
        let tasks = rows * self.groups * self.per / self.heads_of_a_block();
        let steps = if self.splits == 1 { 0 } else { tasks * self.splits * self.part_bytes(self.heads_of_a_block()) };
        let decodes = if self.is_packed() { MOST_PARTS * self.part_bytes(self.packed_heads()) } else { 0 };
        debug_assert!(self.splits == 1 || tasks <= COUNTERS);
        match steps.max(decodes) {
            0 => 0,
            bytes => 4 * COUNTERS + bytes,
        }
    }

    /// Bytes of what a part of the positions leaves of so many heads: `[heads][value]` sums, then `[heads][2]` maxima and totals.
    pub fn part_bytes(&self, heads: usize) -> usize {
        self.sums_bytes(heads) + heads * 8
    }

    /// Bytes of the sums alone: maxima and totals behind them are pairs.
    pub fn sums_bytes(&self, heads: usize) -> usize {
        (heads * self.value * 4).next_multiple_of(8)
    }

    /// Whether a GPU may look at keys with the heads of a group, which are rows of one product then: each has its place, and all are rounded.
    pub fn is_packed(&self) -> bool {
        self.is_tiled() && self.has_every_position() && self.keyed.is_empty()
    }

    /// How many of them: as many as rows that the matrix units multiply, or half, where what all warps leave would not fit shared memory.
    pub fn packed_heads(&self) -> usize {
        self.per.min(if self.value > 128 { 8 } else { 16 })
    }

    /// [`Attention::heads_at_once`] for a GPU, where each thread of a warp keeps sums for some elements of every head's value.
    pub fn heads_of_a_block(&self) -> usize {
        let sums = self.value.div_ceil(32);
        (1..=8).rev().find(|n| self.per.is_multiple_of(*n) && n * sums <= 48).unwrap_or(1)
    }
}
