//! Graph to kernels: which values are computed together, in which loops, in which memory.
//!
//! layout.rs orders every value's axes; anchor.rs finds the skeletons (matrix products, recurrences, attention …); group.rs
//! joins the rest to them; narrow.rs says what crosses between kernels in bfloat16; build.rs writes each kernel as data
//! (kernel.rs): expressions (expr.rs) in statements (stmt.rs, made by nest.rs) in loops (loops.rs).

pub mod anchor;
mod attend;
pub mod attention;
mod build;
mod exponents;
pub mod expr;
mod factors;
pub mod group;
mod halves;
mod intra;
pub mod kernel;
pub mod lanes;
pub mod layout;
mod loops;
mod narrow;
mod nest;
mod parted;
mod print;
pub mod product;
mod recurrence;
mod rows;
pub mod scattered;
mod scores;
mod scratch;
mod skeleton;
mod solve;
mod staging;
mod stmt;
mod storage;

use crate::forms::Forms;
use crate::graph::NodeId;
use braid_dsl::model::{Op, ParamId};
use braid_runtime::artifact::{Dtype, Layout};
use kernel::{Code, Rows, Store};

pub use print::{operand_name, print};

/// What the target tells this stage.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `f32` elements of one hardware vector.
    pub lanes: usize,
    /// Columns of a weight panel.
    pub width: usize,
    /// Vectors of sums that a tile may keep in registers.
    pub sums: usize,
    /// Storage of large weights.
    pub dtype: Dtype,
    /// Blocks of a GPU that are to have work in a step of decoding; 0 for a CPU.
    pub blocks: usize,
    /// Bytes of a GPU's shared memory that a kernel of chunks may use.
    pub chunk_bytes: usize,
    /// Whether products of bfloat16 numbers go by pairs, left operands rounded.
    pub pairs: bool,
    /// Whether rows that meet quantised weights have eight bits, and these lie in quads.
    pub bytes: bool,
}

impl Options {
    /// Whether a processor multiplies what meets in chunks of recurrences by pairs, both factors rounded: only where weights are rounded as well.
    pub fn rounds_chunks(&self) -> bool {
        self.pairs && self.blocks == 0 && self.dtype != Dtype::F32
    }
}

/// A value in memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Whose value.
    pub node: NodeId,
    /// Which rows it has.
    pub rows: Rows,
    /// Elements of one row.
    pub elements: usize,
    /// How they are stored.
    pub store: Store,
    /// Whether it is the model's output.
    pub output: bool,
}

/// A parameter as some kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PackedParam {
    /// Which.
    pub param: ParamId,
    /// In which order.
    pub layout: Layout,
    /// How its numbers are stored.
    pub dtype: Dtype,
}

/// What a word of a kernel's operands is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Offset of a buffer; an index into [`Fused::buffers`].
    Buffer(usize),
    /// Offset of packed weights; an index into [`Fused::packed`].
    Packed(usize),
    /// Fixed part of a state's offset; an index into `Forms::states`.
    State(usize),
    /// The part of a state's offset that grows with the capacity.
    StatePerPosition(usize),
    /// Offset of what kernels use while they run, behind the prepared values.
    Workspace,
}

/// One kernel of the model.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it does.
    pub code: Code,
    /// The words that it is called with.
    pub operands: Vec<Operand>,
    /// Which rows.
    pub rows: Rows,
    /// Rows of a call below which nothing needs it.
    pub least: usize,
    /// Nodes that it computes, in graph order.
    pub nodes: Vec<NodeId>,
    /// Buffers that it reads and writes.
    pub reads: Vec<usize>,
    /// See `reads`.
    pub writes: Vec<usize>,
}

/// A model as kernels, in the order of execution.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The graph with its states; the axes of a recurrence's are in the order in which they are stored.
    pub forms: Forms,
    /// In order; those of [`Rows::Once`] first.
    pub kernels: Vec<Kernel>,
    /// Values that cross kernels.
    pub buffers: Vec<Buffer>,
    /// Weights as the kernels want them.
    pub packed: Vec<PackedParam>,
    /// Nodes that did not join, and why.
    pub notes: Vec<(NodeId, String)>,
}

impl Fused {
    /// Whether the caller writes a buffer.
    pub fn is_input(&self, buffer: &Buffer) -> bool {
        matches!(self.forms.graph.op(buffer.node), Op::Input(_))
    }
}

/// Fuses a model's forms into kernels.
///
/// # Errors
/// A construct that no skeleton takes yet.
pub fn fuse(forms: &Forms, options: Options) -> Result<Fused, crate::error::Error> {
    build::Fuser::new(forms, options).run()
}
