//! Kernels as data: what is computed over which loops, and which tensors are touched. Two kernels with equal [`Code`] share one
//! function of the artifact; only their operands (offsets) differ.

use super::expr::{Expr, KAxis, TensorId, View};
use braid_dsl::model::{Op, Reduce};
use braid_runtime::artifact::Dtype;

/// Which rows a kernel walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rows {
    /// No rows: computed once, when the weights are loaded.
    Once,
    /// Every row of a call with the source of some sequences.
    Source,
    /// Every row of the call.
    All,
    /// The rows whose outputs the caller wants.
    Wanted,
}

/// Which memory a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// Activations; one word: bytes to be multiplied by the row capacity.
    Arena,
    /// The weights blob; one word: byte offset.
    Weights,
    /// Values computed once from the weights; one word: byte offset.
    Prepared,
    /// A slot's states; one word: byte offset.
    State,
    /// The caller's result.
    Output,
    /// The caller's token ids.
    Tokens,
    /// Per-thread scratch at this byte offset.
    Scratch(usize),
    /// The accumulators of a matrix product's tile.
    Tile,
}

impl Base {
    /// Whether the address needs a word of the kernel's operands.
    pub fn has_operand(self) -> bool {
        matches!(self, Base::Arena | Base::Weights | Base::Prepared | Base::State)
    }
}

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// A Float.
    F32,
    /// A Float of the weights blob.
    Bf16,
    /// Panels of a matrix product, which know more of themselves than a size of elements.
    Panels(Dtype),
    /// An Int, or a Bool as 0 or 1.
    I32,
}

impl Store {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Store::F32 | Store::I32 => 4,
            Store::Bf16 => 2,
            // Offsets inside of panels are in bytes.
            Store::Panels(_) => 1,
        }
    }
}

/// One tensor of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Its memory.
    pub base: Base,
    /// Which word of the operands holds its offset, if [`Base::has_operand`].
    pub operand: usize,
    /// Elements from one row to the next; 0 if all rows share it.
    pub row: usize,
    /// How elements are stored.
    pub store: Store,
    /// Rows are looked up in the call's list of wanted rows.
    pub through_wanted: bool,
}

/// `target = expr`, or `target = reduce over axes of expr`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stmt {
    /// Where the value goes.
    pub target: View,
    /// The value.
    pub expr: Expr,
    /// How, and over which axes, it is reduced.
    pub reduce: Option<Reduction>,
    /// The axis along which its elements need those before (behind, if falling): it is walked outermost, in order.
    pub ordered: Option<Order>,
    /// An axis that is walked only below the index along another.
    pub below: Option<Below>,
    /// All axes that are walked, sorted.
    pub space: Vec<KAxis>,
    /// Linear systems: `expr` is their matrix, `target` holds the right sides and then the solutions; both are overwritten.
    pub system: Option<System>,
}

/// Systems of linear equations, one for each index of a statement's space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct System {
    /// Equations, and unknowns; rows of the matrix lie side by side.
    pub size: usize,
    /// Right sides; those of one equation lie side by side.
    pub sides: usize,
    /// The axes inside of a system.
    pub inside: Vec<KAxis>,
}

/// How a statement is reduced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduction {
    /// How.
    pub how: Reduce,
    /// Over which axes.
    pub over: Vec<KAxis>,
    /// What a sum starts with, over the target's axes; none: 0.
    pub start: Option<Expr>,
}

/// An axis that is walked in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Which.
    pub axis: KAxis,
    /// From the last index to the first.
    pub falling: bool,
    /// The statement must be done in the loops of the one before, element by element.
    pub lockstep: bool,
}

/// Indices along `axis` that are less than the one along `by`, or equal if `inclusive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Below {
    /// What is walked.
    pub axis: KAxis,
    /// By what it is bounded.
    pub by: KAxis,
    /// See the type.
    pub inclusive: bool,
}

impl Reduction {
    /// Over whole axes, from nothing.
    pub fn plain(how: Reduce, over: Vec<KAxis>) -> Reduction {
        Reduction { how, over, start: None }
    }
}

/// Loops around statements that share them. `parallel` loops stand outside `reduced` loops; the `vector` axis, one of either,
/// is innermost of its kind and advances by `lanes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nest {
    /// Loops whose axes the targets carry, outermost first.
    pub parallel: Vec<KAxis>,
    /// Loops that are reduced, outermost first.
    pub reduced: Vec<KAxis>,
    /// The axis that vectors run along.
    pub vector: Option<KAxis>,
    /// Elements of a vector.
    pub lanes: usize,
    /// An axis of which so many indices are done at once, so that they share loads; innermost of the parallel loops.
    pub tile: Option<(KAxis, usize)>,
    /// In order.
    pub stmts: Vec<Stmt>,
}

/// How a kernel of nests walks the call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Walk {
    /// Each row alone; a task is a row.
    Rows(Rows),
    /// Along each sequence; a task is a sequence and one index of each grid axis. `blocked`: the last grid axis is cut into
    /// blocks of so many indices.
    Segments {
        /// Independent axes, first slowest.
        grid: Vec<KAxis>,
        /// The axis that is walked in vectors of so many lanes, one block a task.
        blocked: Option<(KAxis, usize)>,
        /// Which of a sequence's rows, and how many at a time.
        part: Part,
    },
}

/// Which rows of a sequence a kernel walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// All, one after the other.
    All,
    /// Whole chunks of so many rows, one after the other.
    Chunks(usize),
    /// What whole chunks of so many rows leave over, one row after the other.
    Rest(usize),
}

/// Nests done in order for each row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nests {
    /// How rows are walked.
    pub walk: Walk,
    /// Sizes of the kernel's axes.
    pub sizes: Vec<usize>,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// The work.
    pub nests: Vec<Nest>,
    /// Scratch bytes of a thread.
    pub scratch: usize,
}

impl Nests {
    /// Into how many pieces of about `elements` elements a row can be cut whose pieces need nothing of each other; 1 if it cannot.
    pub fn pieces(&self, elements: usize) -> usize {
        let place = |view: &View| {
            let tensor = self.tensors[view.tensor.0];
            (tensor.base, tensor.operand)
        };
        let stmts: Vec<&Stmt> = self.nests.iter().flat_map(|nest| &nest.stmts).collect();
        let alone = stmts.iter().all(|s| s.reduce.is_none() && s.ordered.is_none() && s.system.is_none());
        let reads_made = self.nests.iter().enumerate().any(|(at, nest)| {
            let made = self.nests[..at].iter().flat_map(|nest| &nest.stmts).map(|s| place(&s.target)).collect::<Vec<_>>();
            nest.stmts.iter().flat_map(|s| s.expr.views()).any(|view| made.contains(&place(view)))
        });
        if !alone || reads_made || self.scratch > 0 || self.walk == Walk::Rows(Rows::Once) {
            return 1;
        }
        let size = |s: &&Stmt| s.space.iter().map(|axis| self.sizes[axis.0]).product::<usize>();
        stmts.iter().map(size).max().unwrap_or(1).div_ceil(elements).max(1)
    }
}

/// Inner rows of a matrix product (several rows of the left operand for each row of the call).
pub const INNER: KAxis = KAxis(0);
/// Batch elements of a matrix product.
pub const BATCH: KAxis = KAxis(1);
/// The contracted axis of a matrix product.
pub const DEPTH: KAxis = KAxis(2);
/// The result axis of a matrix product.
pub const COLUMN: KAxis = KAxis(3);

/// `out[row, inner, batch, n] = epilogue(Σ_k a[row, inner, batch, k] · w[batch, k, n])`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Which rows.
    pub rows: Rows,
    /// Sizes of [`INNER`], [`BATCH`], [`DEPTH`], [`COLUMN`].
    pub sizes: [usize; 4],
    /// Columns of a weight panel.
    pub width: usize,
    /// Tensors; the first is the tile.
    pub tensors: Vec<Tensor>,
    /// The left operand; stride 1 along [`DEPTH`].
    pub left: View,
    /// The packed weights.
    pub weights: TensorId,
    /// The result; stride 1 along [`COLUMN`].
    pub out: View,
    /// From the tile's element to the result's.
    pub epilogue: Expr,
    /// Each inner row multiplies a batch element of its own, chosen at run time: the ids' view (along [`INNER`]) and how many
    /// batch elements there are. `sizes[BATCH]` is 1 then.
    pub chosen: Option<(View, usize)>,
    /// What makes the row of the left operand in a call of one row.
    pub prologue: Option<Box<Prologue>>,
}

/// The making of a row before it is multiplied. What it needs stands in the kernel behind what the product itself needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prologue {
    /// The work; its tensors of [`Base::Tile`] are the row.
    pub nests: Nests,
    /// How many of the kernel's operands are the product's own.
    pub operands: usize,
    /// How many of the buffers that the kernel reads the product itself reads.
    pub reads: usize,
}

impl Prologue {
    /// The tensors that are the row.
    pub fn row(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nests.tensors.len()).filter(|tensor| self.nests.tensors[*tensor].base == Base::Tile)
    }
}

impl Matmul {
    /// Whether rows of the left operand begin at multiples of four numbers, and those of the weights at multiples of `numbers`.
    pub fn is_aligned(&self, numbers: usize) -> bool {
        let left = &self.left;
        self.sizes[2].is_multiple_of(numbers)
            && self.tensors[left.tensor.0].row.is_multiple_of(4)
            && left.offset.is_multiple_of(4)
            && left.strides.iter().all(|(axis, stride)| *axis == DEPTH || stride.is_multiple_of(4))
    }

    /// What rows of the left operand are prepared for, if the weights meet them as pairs of 16-bit numbers.
    pub fn prepared(&self) -> Option<Dtype> {
        match self.tensors[self.weights.0].store {
            Store::Panels(dtype) => Some(dtype),
            _ => None,
        }
    }
}

/// Causal depthwise convolution or shift along the sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Along {
    /// Taps: the width of a convolution; for a shift the distance plus one.
    pub taps: usize,
    /// Channels of a row.
    pub channels: usize,
    /// Tensors; the first is the tile.
    pub tensors: Vec<Tensor>,
    /// The input's row; stride 1 along [`COLUMN`].
    pub input: View,
    /// `[taps][channels]`, oldest first; a shift has none.
    pub weights: Option<TensorId>,
    /// `[taps - 1][channels]`, oldest first.
    pub state: TensorId,
    /// The result.
    pub out: View,
    /// From the tile's element to the result's.
    pub epilogue: Expr,
}

/// The largest elements along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Top {
    /// Which rows.
    pub rows: Rows,
    /// Independent searches for each row.
    pub outer: usize,
    /// Elements searched.
    pub size: usize,
    /// Elements kept.
    pub count: usize,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// Searched along [`COLUMN`], for each [`INNER`].
    pub input: View,
    /// The ids, along [`COLUMN`], for each [`INNER`].
    pub out: View,
}

/// Views of attention: [`INNER`] runs along groups, [`BATCH`] along `per`, [`COLUMN`] along a key or a value.
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
    /// What `keep` and `score` capture; ids of chosen keys run along [`COLUMN`].
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
    /// The keys that were chosen for it, if its `keep` says so.
    pub chosen: Option<Chosen>,
    /// Which positions the cache keeps.
    pub reach: crate::forms::Reach,
    /// Where queries look in a cache of every position.
    pub range: crate::forms::Range,
    /// What `keep` and `score` ask of the key's position: captures, each with how many channels it has beside a key, 1 or `per`.
    pub keyed: Vec<(usize, usize)>,
    /// Captures that are tables, whose rows run along [`COLUMN`] and are looked up by an index of `keep` or `score`; how many rows each has.
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
}

impl Attention {
    /// Whether a GPU's matrix units do calls of many rows: keys and values fit in shared memory, and a value's elements come in fours.
    pub fn is_tiled(&self) -> bool {
        self.rounded && self.key <= 256 && self.value <= 256 && self.value.is_multiple_of(4)
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

    /// Whether a key's channels lie side by side: keys are then looked up one by one, or one stands for a block.
    pub fn by_row(&self) -> bool {
        let alone = |chosen: Chosen| !chosen.block.is_multiple_of(crate::forms::BLOCK);
        self.reach.every() > 1 || self.chosen.is_some_and(alone)
    }

    /// Heads of a group that one task does: those that look at the same keys.
    pub fn heads_of_a_task(&self) -> usize {
        match (self.best, &self.chosen) {
            (1.., _) if self.joined => self.per,
            (1.., _) | (_, Some(Chosen { by_head: true, .. })) => 1,
            _ => self.heads_at_once(),
        }
    }

    /// Blocks of keys that a task's heads look at together: enough sums are under way then, and the running maximum moves less often.
    pub fn blocks_at_once(&self) -> usize {
        if self.best > 0 { 1 } else { (8 / self.heads_of_a_task()).clamp(1, 4) }
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
        if keep.values.iter().all(|value| is_bound(&value.op)) { self.blocks_at_once() } else { 1 }
    }

    /// Heads of a group whose scores are computed together: they share the loads of keys and values.
    pub fn heads_at_once(&self) -> usize {
        (1..=8).rev().find(|n| self.per.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Bytes of workspace for calls of at most `rows` rows: a counter for each task, and what each part of the positions leaves of
    /// each head: its sums, their maximum and their total.
    pub fn workspace_bytes(&self, rows: usize) -> usize {
        let tasks = rows * self.groups * self.per / self.heads_of_a_block();
        let part = self.heads_of_a_block() * (self.value + 2) * 4;
        if self.splits == 1 { 0 } else { (tasks * 4).next_multiple_of(64) + tasks * self.splits * part }
    }

    /// [`Attention::heads_at_once`] for a GPU, where each thread of a warp keeps sums for some elements of every head's value.
    pub fn heads_of_a_block(&self) -> usize {
        let sums = self.value.div_ceil(32);
        (1..=8).rev().find(|n| self.per.is_multiple_of(*n) && n * sums <= 48).unwrap_or(1)
    }
}

/// What one kernel does.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "few exist")]
pub enum Code {
    /// Pointwise functions and reductions.
    Nests(Nests),
    /// A matrix product.
    Matmul(Matmul),
    /// A convolution or shift along the sequence.
    Along(Along),
    /// A search for the largest.
    Top(Top),
    /// Attention.
    Attention(Attention),
}

/// Whether an op is computed by nests, row by row, with everything around it.
pub fn is_rowwise(op: &Op) -> bool {
    !matches!(op, Op::Recur(_) | Op::Attend(_) | Op::Conv(_) | Op::Shift(_) | Op::Fetch(_) | Op::Top { .. } | Op::Result(_))
}
