//! The contract between compiler and runtime: what an artifact holds and how its code is called.
//!
//! An artifact is one file: an ELF shared library (as `dlopen` takes it) followed by a trailer
//! `manifest (JSON) · manifest length (u64 LE) · FNV-1a-64 of all bytes before this field (u64 LE) · format version (u32 LE) · "BRAIDART"`.
//! The library exports `braid_prepare`, `braid_encode`, `braid_prefill` and `braid_step`, each `int32_t (const BraidCall *)`.
//! Code for a GPU is PTX text in the place of the library; device.rs says how it is launched.

mod apart;
mod check;
mod device;
mod dtype;
mod features;
mod file;
mod header;
mod input;
mod level;
mod part;
mod state;
mod work;

pub use apart::{Apart, Chosen, Lines, Lists, Multiplied};
pub use device::{Device, Grid, Launch, Order, STEP_WORDS, STREAM_WORDS, Stream, Tiles};
pub use dtype::{Dtype, GROUP};
pub use features::{host_features, missing_feature};
pub use file::{ArtifactError, decode, encode, write};
#[cfg(feature = "run")]
pub(crate) use file::{fnv1a, fnv1a_on, replace};
pub use header::header;
pub use input::{Input, Output, Source};
pub use part::{PART, PIECE, Part};
pub use state::{POSITIONS, State, Truncate};
pub use work::{Amount, Work};

use serde::{Deserialize, Serialize};

/// The last eight bytes of every artifact.
pub const MAGIC: &[u8; 8] = b"BRAIDART";
/// Raised whenever the manifest or [`Call`] changes its meaning.
pub const VERSION: u32 = 8;
/// Alignment in bytes of every buffer that generated code touches.
pub const ALIGN: usize = 64;

/// Everything that is known about an artifact but its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name.
    pub model: String,
    /// As given to `--target`, resolved: `cpu:x86-64-v4`.
    pub target: String,
    /// CPU features that the code uses, as Rust and LLVM spell them (`avx512f`, `avx2`, `fma` …).
    pub features: Vec<String>,
    /// Storage of the large weights.
    pub dtype: Dtype,
    /// Floats in a row of the output: those of the model's result (the vocabulary of a language model), and behind them
    /// [`Manifest::outputs`].
    pub vocab: usize,
    /// What blocks declare beside the result, in the order in which a row has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
    /// Token ids are below this: the rows of the smallest table that they are looked up in. 0: the model takes none, and a call's ids
    /// only count its rows.
    pub tokens: usize,
    /// What else the model is given for each row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Most positions of a sequence: the rows of the smallest table that positions are looked up in; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<usize>,
    /// The same of a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_places: Option<usize>,
    /// Whether the model declares `generate autoregressive`.
    pub autoregressive: bool,
    /// Positions that stand ahead of every text: whoever begins a sequence feeds so many rows first, of ids 0 and without other inputs.
    #[serde(default, skip_serializing_if = "is_none_ahead")]
    pub ahead: usize,
    /// How the model fills masked positions, if it declares `generate masked_diffusion`.
    #[serde(default)]
    pub unmask: Option<Unmask>,
    /// Most rows of one sequence in one call (longer prompts are cut into several calls).
    pub max_rows: usize,
    /// So many of a sequence's first rows must come in one call; `None`: all of them, since every query sees every key.
    #[serde(default = "none_together")]
    pub first_rows: Option<usize>,
    /// A call begins at a multiple of so many rows: the queries of such a block see all of its keys.
    #[serde(default = "any_block")]
    pub block_rows: usize,
    /// The first call holds the whole prompt, however long it is: later ones know of it what it left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole_prompt: bool,
    /// Parameters and where their numbers come from in a checkpoint. Empty bindings: the model has no weight map.
    pub params: Vec<Param>,
    /// What the weights blob holds, in order of offset.
    pub packed: Vec<Packed>,
    /// Bytes of the weights blob.
    pub weights_bytes: usize,
    /// Bytes of the blob that a step of one token reads, each counted once: of tables the rows that are looked up, of experts those that
    /// are chosen. 0: not said.
    #[serde(default)]
    pub token_weights_bytes: usize,
    /// Bytes of the region that `braid_prepare` fills once.
    pub prepared_bytes: usize,
    /// Arena bytes for each row of `rows_capacity`.
    pub arena_row_bytes: usize,
    /// Scratch bytes for each thread.
    pub scratch_bytes: usize,
    /// Caches and states of one sequence, in order of offset.
    pub states: Vec<State>,
    /// Bytes of one sequence's states that do not depend on the capacity.
    pub state_fixed_bytes: usize,
    /// Bytes of one sequence's states for each position of capacity.
    pub state_position_bytes: usize,
    /// What each kernel of `braid_prefill` and `braid_step` does, in order; `braid_part` runs some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub work: Vec<Work>,
    /// How the code is launched, if it is for a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// What the names of the entries end with, if the library holds those of several levels.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub entries: String,
    /// The same model's code for further levels of the processor, each faster than those before where it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Manifest>,
}

impl Manifest {
    /// Floats of the model's result in a row of the output.
    pub fn result(&self) -> usize {
        self.vocab - self.outputs.iter().map(Output::elements).sum::<usize>()
    }

    /// Whether a sequence has a source, which `braid_encode` takes.
    pub fn encodes(&self) -> bool {
        self.inputs.iter().any(|input| input.encoded)
    }
}

/// Whether nothing stands ahead of a text.
fn is_none_ahead(rows: &usize) -> bool {
    *rows == 0
}

/// What a manifest says that does not tell [`Manifest::first_rows`].
fn none_together() -> Option<usize> {
    Some(0)
}

/// What a manifest says that does not tell [`Manifest::block_rows`].
fn any_block() -> usize {
    1
}

/// How masked positions are filled: blocks from left to right, a block in some passes, each of which keeps the candidates of some positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unmask {
    /// The token that stands where none is chosen yet; it is never chosen.
    pub mask: i32,
    /// Positions of a block.
    pub block: usize,
    /// Passes over a block.
    pub steps: usize,
    /// Positions are chosen at random, not by the probability of their candidate.
    pub random: bool,
    /// Tokens whose logits count as minus infinity.
    pub never: Vec<i32>,
    /// Strength `w` of classifier-free guidance: `(1 + w) logits - w` logits of a masked prompt.
    pub guidance: f32,
}

/// One parameter of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Dotted path, `layers.3.mixer.wq`.
    pub path: String,
    /// Names of its axes, in declared order.
    pub axes: Vec<String>,
    /// Their sizes.
    pub shape: Vec<usize>,
    /// Where a checkpoint holds it; `None`: no map was given.
    pub binding: Option<Binding>,
}

/// Element `i_0, i_1 …` of a parameter is element `offset + Σ strides[a]·i_a` of the checkpoint's tensor; an axis in `splits` counts
/// with its factors instead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// The tensor's name, or one name for each index of `stacked`. `a|b` is `a`, or `b` in a checkpoint that has no `a`.
    pub tensors: Vec<String>,
    /// The axis (index into the parameter's) along which the tensors are stacked; its stride is 0.
    pub stacked: Option<usize>,
    /// The shape each tensor must have.
    pub shape: Vec<usize>,
    /// First element.
    pub offset: usize,
    /// In elements, one for each axis of the parameter.
    pub strides: Vec<usize>,
    /// Axes whose elements the tensor has in another order; their stride is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<Split>,
}

/// An axis as a product of factors, slowest first: its element `Σ digits` lies at `Σ stride·digit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Index into the parameter's axes.
    pub axis: usize,
    /// Size and stride of each factor.
    pub factors: Vec<(usize, usize)>,
}

impl Binding {
    /// `(size, stride)` of an axis of that size, or of its factors.
    pub fn steps(&self, axis: usize, size: usize) -> Vec<(usize, usize)> {
        let split = self.splits.iter().find(|split| split.axis == axis);
        split.map_or_else(|| vec![(size, self.strides[axis])], |split| split.factors.clone())
    }
}

/// One tensor of the weights blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Index into [`Manifest::params`].
    pub param: usize,
    /// Byte offset in the blob, a multiple of [`ALIGN`].
    pub offset: usize,
    /// Bytes, padding included.
    pub bytes: usize,
    /// Storage.
    pub dtype: Dtype,
    /// Order of the numbers.
    pub layout: Layout,
}

/// Order of a packed tensor. Axes are indices into the parameter's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// Row-major in this order of axes.
    Dense(Vec<usize>),
    /// For matrix products: `[batch…][⌈N/width⌉][K][width]`, where N and K run over the listed axes (first slowest) and columns
    /// past N are zero. Each batch element is padded on its own.
    Panels {
        /// Axes kept apart.
        batch: Vec<usize>,
        /// Contracted axes.
        k: Vec<usize>,
        /// Result axes.
        n: Vec<usize>,
        /// Columns of a panel.
        width: usize,
    },
    /// Quantised matrices for GPUs: `[batch…][N]` columns of K numbers in parts ([`Part`]).
    Columns {
        /// Axes kept apart.
        batch: Vec<usize>,
        /// Contracted axes.
        k: Vec<usize>,
        /// Result axes.
        n: Vec<usize>,
    },
}

/// One sequence's part of a call: `rows` consecutive rows of all per-row tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose states: `states + slot · (state_fixed_bytes + state_position_bytes · capacity)`.
    pub slot: i32,
    /// First row.
    pub row: i32,
    /// How many.
    pub rows: i32,
    /// Absolute position of the first row: how many positions the states have seen.
    pub position: i32,
    /// How many positions of a source the states hold; 0 if there is none.
    pub source: i32,
}

/// A generated kernel: does tasks `begin..end` as thread `thread`.
pub type Kernel = unsafe extern "C" fn(call: *const Call, operands: *const i64, begin: i64, end: i64, thread: i64);

/// Runs `tasks` tasks of `kernel` on some threads and returns when all are done.
pub type Parallel = unsafe extern "C" fn(call: *const Call, kernel: Kernel, operands: *const i64, tasks: i64);

/// The one argument of every entry point. Pointers are aligned to [`ALIGN`] where they point to numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Rows (tokens) in this call, over all sequences. At most `rows_capacity`.
    pub rows: i64,
    /// The row count that the arena was made for.
    pub rows_capacity: i64,
    /// Sequences in this call.
    pub segments: i64,
    /// Rows whose outputs are wanted.
    pub wanted: i64,
    /// Positions that each sequence's caches hold; a multiple of 16.
    pub capacity: i64,
    /// `[rows]` token ids, checked by the caller.
    pub tokens: *const i32,
    /// `[rows]` absolute position of each row.
    pub positions: *const i32,
    /// `[rows]` index into `segment_table` of each row.
    pub row_segments: *const i32,
    /// `[segments]`.
    pub segment_table: *const Segment,
    /// `[wanted]` row numbers, rising.
    pub wanted_rows: *const i32,
    /// The weights blob, packed as the manifest says.
    pub weights: *const u8,
    /// `prepared_bytes`, filled by `braid_prepare`.
    pub prepared: *mut u8,
    /// `arena_row_bytes · rows_capacity`; contents are lost between calls. [`Manifest::inputs`] are written here before each.
    pub arena: *mut u8,
    /// States of all slots.
    pub states: *mut u8,
    /// Bytes from one slot's states to the next: `state_fixed_bytes + state_position_bytes · capacity`.
    pub slot_bytes: i64,
    /// `scratch_bytes` for each thread.
    pub scratch: *mut u8,
    /// `[wanted][vocab]` results.
    pub output: *mut f32,
    /// Spreads tasks over threads; null: the calling thread does all.
    pub parallel: Option<Parallel>,
    /// For `parallel`'s own use.
    pub pool: *mut std::ffi::c_void,
}

/// An entry point of an artifact.
pub type Entry = unsafe extern "C" fn(call: *const Call) -> i32;

/// `braid_part`: runs `count` kernels of a call, from the one of number `first` on.
pub type PartEntry = unsafe extern "C" fn(call: *const Call, first: i64, count: i64) -> i32;
