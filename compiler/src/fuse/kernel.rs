//! Kernels as data: what is computed over which loops, and which tensors are touched. Two kernels with equal [`Code`] share one
//! function of the artifact; only their operands (offsets) differ.

pub use super::attention::{Attention, AttentionViews, COUNTERS, Chosen, MOST_PARTS};
use super::expr::{Expr, KAxis, TensorId, View};
pub use super::stmt::{Below, Order, Reduction, Stmt, System};
use braid_dsl::model::Op;
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
    /// A Float rounded to bfloat16: of the weights, or a factor of products that the matrix units take so.
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
    /// Whole chunks of so many rows, as far as they need no state, in any order: a task has one of each [`CHUNKS_AT_ONCE`].
    Intra(usize),
    /// What whole chunks of so many rows leave over, one row after the other.
    Rest(usize),
    /// What is ahead of the first mini-batch of so many rows, one row after the other.
    Ahead(usize),
    /// Whole mini-batches of so many rows, which begin at positions that so many divide.
    Batches(usize),
    /// What is behind whole mini-batches of so many rows, one row after the other.
    Behind(usize),
}

/// Chunks of a sequence that are side by side.
pub const CHUNKS_AT_ONCE: usize = 32;

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
    /// What is copied to where the work is done.
    pub staging: Staging,
}

/// Copies that a GPU's kernel of chunks keeps in a block's shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Staging {
    /// Done once, before the first chunk: states come.
    pub before: Vec<Nest>,
    /// Done once, after the last: states go back.
    pub after: Vec<Nest>,
    /// Rows of a chunk that are copied while earlier work goes on, in the order in which their places become free; where chunks are done
    /// side by side, in that in which they are needed.
    pub staged: Vec<Staged>,
    /// Factors of products may be rounded to what the matrix units, or a processor's products of pairs, take at once, as the model's weights are
    /// rounded to bfloat16.
    pub rounded: bool,
    /// Whether these and all temporaries are in the block's shared memory; there is nothing to copy otherwise. On a processor: whether
    /// temporaries have room for the task's block of the axis that is cut alone.
    pub shared: bool,
    /// Places that each copy has, where chunks follow one another: as many chunks' rows are there or under way. With one place, what the next
    /// chunk has comes when nobody reads this one's any more.
    pub places: usize,
}

/// Bytes that are copied at once.
pub const COPIED: usize = 16;

/// Rows of a buffer that are copied for each chunk, or of a matrix that a chunk has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Staged {
    /// Where they are.
    pub from: View,
    /// Where they go.
    pub to: View,
    /// The axes that count rows and the numbers of a row, where there are several. Numbers of a row lie side by side, and go by
    /// [`COPIED`] bytes at once.
    pub axes: [Option<KAxis>; 2],
    /// The first and the last nest that reads them.
    pub used: [usize; 2],
    /// Numbers from one place to the next.
    pub apart: usize,
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
    /// Whether a call of several rows on a GPU finds integers in the place of the left operand's rows.
    pub ready: bool,
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

    /// What rows of the left operand are prepared for, if the weights meet them as pairs of 16-bit numbers; those of eight bits meet them as they are.
    pub fn prepared(&self) -> Option<Dtype> {
        match self.tensors[self.weights.0].store {
            Store::Panels(Dtype::Fp8) => None,
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

/// The largest rows of a sequence, element by element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Largest {
    /// Elements of a row.
    pub columns: usize,
    /// Which one is looked for: the first is the largest.
    pub count: usize,
    /// Tensors.
    pub tensors: Vec<Tensor>,
    /// Searched, along [`COLUMN`].
    pub input: View,
    /// What is found, for each row, along [`COLUMN`].
    pub out: View,
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
    /// A search along a sequence.
    Largest(Largest),
    /// Attention.
    Attention(Attention),
}

/// Whether an op is computed by nests, row by row, with everything around it.
pub fn is_rowwise(op: &Op) -> bool {
    !matches!(
        op,
        Op::Recur(_)
            | Op::Attend(_)
            | Op::Conv(_)
            | Op::Shift(_)
            | Op::Fetch(..)
            | Op::Largest { .. }
            | Op::Top { .. }
            | Op::Result(_)
    )
}
