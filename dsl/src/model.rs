//! The checked model: what the front end hands to the compiler.
//!
//! A [`Model`] is a list of [`Value`]s in an order in which every value stands after its arguments. Each value applies one
//! [`Op`] of a closed, small set over named axes. Blocks, functions, `repeat` and `match` are gone: they were evaluated.
//! What is left of the text is the place of each value ([`Span`]) and the instance that it belongs to ([`Scope`]).

mod op;

pub use op::{Binary, Held, Op, Reduce, Rows, Unary};

use crate::span::Span;

/// Names one axis of a [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AxisId(pub u32);
/// Names one value; an index into [`Model::values`] or [`Body::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);
/// Names one parameter; an index into [`Model::params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);
/// Names one block instance; an index into [`Model::scopes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeId(pub u32);

/// How long an axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// Known while compiling.
    Fixed(usize),
    /// A sequence: known only when the artifact runs.
    Seq,
}

/// A named axis. Two axes of one model with equal name and size are one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// The name in the text; a renamed local carries a `'n` suffix.
    pub name: String,
    /// Its length.
    pub size: Size,
}

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// A real number.
    Float,
    /// An integer: token ids, positions, expert ids.
    Int,
    /// A truth value.
    Bool,
}

/// Element type and axes; the order of the axes is that of the declaration and carries no meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// What one element is.
    pub elem: Elem,
    /// Distinct axes.
    pub axes: Vec<AxisId>,
}

/// One operation applied to earlier values.
#[derive(Clone, Debug)]
pub struct Value {
    /// What is done.
    pub op: Op,
    /// Its operands, in the order that the op documents.
    pub args: Vec<ValueId>,
    /// The result's type.
    pub ty: Type,
    /// The equation it comes from.
    pub span: Span,
    /// The block instance it belongs to.
    pub scope: ScopeId,
}

/// A small program over one step or one pair of positions; the last ids are named by its owner.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Values in order; ids index this list.
    pub values: Vec<Value>,
}

/// `recur S: [..], … over t { … }`.
#[derive(Clone, Debug)]
pub struct Recur {
    /// The sequence axis.
    pub seq: AxisId,
    /// The memory that is carried.
    pub states: Vec<State>,
    /// One step.
    pub body: Body,
    /// For each state its value after the step (a `Float` with exactly the state's axes, up to order).
    pub next: Vec<ValueId>,
    /// What is read; each becomes a value with the sequence axis added, see [`Op::Result`].
    pub outputs: Vec<ValueId>,
}

/// One state of a recurrence.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Its name in the text.
    pub name: String,
    /// Its axes; no sequence axis.
    pub axes: Vec<AxisId>,
    /// What every element starts with (may be infinite).
    pub init: f64,
}

/// What an attention gives of the keys that a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gives {
    /// Their values, weighed.
    Values,
    /// `log Σ exp(score)`: the logarithm of what a softmax divides by; minus infinity where nothing is seen.
    Total,
    /// The positions of the `size(axis)` keys of largest score (ties to the earlier one), by rising position, then -1 where there are fewer;
    /// Int. Its score is over the axes of the result without that axis.
    Best(AxisId),
    /// For each key of the prompt what the last `queries` queries of the prompt give to it, as a softmax does, added up; or, `apart`, for each
    /// distance `n` what they give to the keys `n` positions before them. Zero behind the prompt.
    Tally {
        /// How many queries.
        queries: usize,
        /// By distances, not by keys.
        apart: bool,
    },
}

/// `attend[k](q, k, v) { keep: …  score: …  sink: … }`: softmax over the keys that `keep` lets a query see; with `weight: …` in the place of
/// `score` the weights themselves. Without values, or as `choose[k as slot](q, k, n) { … }` or `tally[k](q, k, n) { … }`, it gives something else of the same keys.
#[derive(Clone, Debug)]
pub struct Attend {
    /// What comes out.
    pub gives: Gives,
    /// The sequence axis of the queries.
    pub seq: AxisId,
    /// The sequence axis of the keys and values: the same, or the source's.
    pub keys: AxisId,
    /// Axes that the dot product contracts.
    pub contract: Vec<AxisId>,
    /// Which key a query may see; `Bool`, from positions and captures.
    pub keep: Body,
    /// The value of `keep`.
    pub keep_result: ValueId,
    /// The score expression over [`Op::Score`].
    pub score: Body,
    /// The value of `score`.
    pub score_result: ValueId,
    /// Capture index of a learned logit that joins the softmax's denominator, if any.
    pub sink: Option<usize>,
    /// The scores are the weights, and nothing is normalised.
    pub plain: bool,
    /// Captures that have the value of the key's position; all others have that of the query's, or vary along no sequence.
    pub keyed: Vec<usize>,
    /// Captures that have the value at position `query - key` of the prompt; zero where there is none.
    pub apart: Vec<usize>,
}

impl PartialEq for Recur {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
            && self.states == other.states
            && self.next == other.next
            && self.outputs == other.outputs
            && self.body == other.body
    }
}
impl PartialEq for Attend {
    fn eq(&self, other: &Self) -> bool {
        (self.seq, self.keys, self.gives) == (other.seq, other.keys, other.gives)
            && self.contract == other.contract
            && self.keep == other.keep
            && self.score == other.score
            && (self.keep_result, self.score_result, self.sink) == (other.keep_result, other.score_result, other.sink)
            && (self.plain, &self.keyed, &self.apart) == (other.plain, &other.keyed, &other.apart)
    }
}
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.values.len() == other.values.len()
            && self.values.iter().zip(&other.values).all(|(a, b)| a.op == b.op && a.args == b.args && a.ty == b.ty)
    }
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Dotted path of instance names and the parameter's own: `layers.3.mixer.wq`.
    pub path: String,
    /// Its axes, in declared order (that of a checkpoint unless a weight map says otherwise).
    pub axes: Vec<AxisId>,
    /// Where it is declared.
    pub span: Span,
    /// How its numbers are stored, if the text says so.
    pub stored: Option<Stored>,
}

/// What the text says of how a parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As what.
    pub storage: Storage,
    /// Where that is said.
    pub span: Span,
}

/// How the numbers of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Storage {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Integers of 8 bits, 32 of which share a scale.
    Int8,
    /// e4m3 numbers of 8 bits, 32 of which share a scale.
    Fp8,
    /// Integers of 4 bits, 32 of which share a scale.
    Int4,
    /// Integers of 4 bits, 32 of which share a scale and an offset.
    Int4z,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 6] = [Storage::F32, Storage::Bf16, Storage::Int8, Storage::Fp8, Storage::Int4, Storage::Int4z];

    /// Its name in the text and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
            Storage::Int8 => "int8",
            Storage::Fp8 => "fp8",
            Storage::Int4 => "int4",
            Storage::Int4z => "int4z",
        }
    }
}

/// One instance of a block (or the model itself), for reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The enclosing instance; `None` for the model.
    pub parent: Option<ScopeId>,
    /// The instance's own name; iterations of a `repeat` read `layers.3`.
    pub name: String,
    /// The block's name in the text.
    pub block: String,
}

/// How the outputs are used to make more inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Generate {
    /// Not declared: one pass.
    None,
    /// One token after another, each from the logits of the one before.
    Autoregressive,
    /// Positions that hold a mask token are filled, some in each pass.
    Unmask(Unmask),
}

/// Masked diffusion (Nie et al. 2025, arXiv:2502.09992): the logits of a masked position say what stands there. Blocks are filled from left to
/// right; each pass keeps the candidates of some positions of the block, and the rest stay masked.
#[derive(Clone, Debug, PartialEq)]
pub struct Unmask {
    /// The token that stands where none is chosen yet; it is never chosen.
    pub mask: usize,
    /// Positions of a block.
    pub block: usize,
    /// Passes over a block.
    pub steps: usize,
    /// Which candidates are kept.
    pub remask: Remask,
    /// Tokens whose logits count as minus infinity.
    pub never: Vec<usize>,
    /// Strength `w` of classifier-free guidance: `(1 + w) logits - w` logits of a masked prompt; 0: none.
    pub guidance: f64,
}

/// Which candidates stay masked after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remask {
    /// Those of least probability.
    LowConfidence,
    /// Any.
    Random,
}

/// A compile-time value that a model was instantiated with; weight maps compute with them.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// A whole number, also the size of a `dim`.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Constant>),
}

/// A whole model: checked, every size known but the sequence's.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name in the text.
    pub name: String,
    /// The doc comment.
    pub doc: String,
    /// All axes.
    pub axes: Vec<Axis>,
    /// All parameters that are used.
    pub params: Vec<Param>,
    /// All block instances; the first is the model.
    pub scopes: Vec<Scope>,
    /// All values, arguments first.
    pub values: Vec<Value>,
    /// The inputs' names and types.
    pub inputs: Vec<(String, Type)>,
    /// The result.
    pub output: ValueId,
    /// What blocks declare beside it: paths of their instances with names, and types.
    pub outputs: Vec<(String, Type)>,
    /// A row of the result with those of all outputs behind it, if there are any.
    pub joined: Option<ValueId>,
    /// How it generates.
    pub generate: Generate,
    /// Positions that stand ahead of every text.
    pub ahead: usize,
    /// Every compile-time parameter with its value, by name.
    pub constants: Vec<(String, Constant)>,
    /// What the text calls values, for messages; the last name of each counts.
    pub names: Vec<(ValueId, String)>,
}

impl Model {
    /// The model that gives its outputs too, behind its result; `None` if it declares none.
    pub fn with_outputs(mut self) -> Option<Model> {
        self.output = self.joined?;
        Some(self)
    }

    /// The outputs that it gives behind its result.
    pub fn delivered(&self) -> &[(String, Type)] {
        if self.joined == Some(self.output) { &self.outputs } else { &[] }
    }
}
