//! What a graph carries from call to call.
//!
//! One equation serves both forms. *Prefill* walks many rows of a sequence, *step* one; between calls a `recur` keeps its state,
//! a `convolve` the rows under its window, a `shift` the rows it looks back to, an `attend` the keys and values that its `keep`
//! can still reach (reach.rs). Row-wise nodes carry nothing.

mod choice;
mod linear;
mod once;
mod print;
mod reach;
pub mod recur;
mod shared;
mod wanted;
mod whole;

use crate::graph::{Graph, NodeId, scope_path};
use braid_dsl::model::{Attend, AxisId, Gives, Op};
use std::collections::HashMap;

pub use choice::{Beside, Choice, decided};
pub use print::print;
pub use reach::{BLOCK, MAX_ROWS, Range, Reach, TILE, Together, WHOLE, cached, never, together};
pub use recur::chunk::Chunk;
pub use shared::keep_the_same;
pub use whole::{Form, Whole, whole};

/// Names one piece of carried memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u32);

impl StateId {
    /// As an index into [`Forms::states`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a piece of carried memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateKind {
    /// The state of a recurrence.
    Recurrence,
    /// The last rows under a convolution's window.
    Convolution,
    /// The last rows that a shift looks back to.
    Shift,
    /// Keys of attention.
    Keys,
    /// Values of attention.
    Values,
    /// The position of each key; -1 where there is none.
    Positions,
}

impl StateKind {
    /// The name in reports and manifests.
    pub fn name(self) -> &'static str {
        match self {
            StateKind::Recurrence => "recurrence",
            StateKind::Convolution => "convolution",
            StateKind::Shift => "shift",
            StateKind::Keys => "keys",
            StateKind::Values => "values",
            StateKind::Positions => "positions",
        }
    }
}

/// How much memory a sequence needs for it, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The same for every length.
    Fixed {
        /// All of them.
        elements: usize,
    },
    /// A ring of so many rows.
    Ring {
        /// Rows.
        rows: usize,
        /// Elements of a row.
        elements: usize,
    },
    /// Grows with the context.
    PerPosition {
        /// Elements of a position.
        elements: usize,
    },
}

/// One piece of memory that a sequence carries.
#[derive(Clone, Debug)]
pub struct StateDecl {
    /// `layers.3.mixer.S`.
    pub name: String,
    /// What it is.
    pub kind: StateKind,
    /// Whose.
    pub node: NodeId,
    /// The axes of a row or of the state: as declared, and after fusion as stored.
    pub axes: Vec<AxisId>,
    /// What every element starts with.
    pub init: f64,
    /// How much.
    pub extent: Extent,
}

/// A graph with everything that it carries.
#[derive(Clone, Debug)]
pub struct Forms {
    /// The graph; only wanted rows go through its end.
    pub graph: Graph,
    /// All carried memory.
    pub states: Vec<StateDecl>,
    /// Which states a node carries, in the order of its declaration (keys, values, positions for attention).
    pub carried: HashMap<NodeId, Vec<StateId>>,
    /// What kind of memory each recurrence is.
    pub classes: HashMap<NodeId, recur::Class>,
    /// How many rows of each recurrence are done at once, or why they are not.
    pub chunks: HashMap<NodeId, Result<Chunk, String>>,
    /// What a call must hold of a sequence.
    pub together: Together,
    /// Most rows of a call, where it need not hold more: rings have room for so many beside their windows.
    pub rows: usize,
    reaches: HashMap<NodeId, (Reach, Range)>,
}

impl Forms {
    /// What the cache of an attention keeps.
    pub fn reach(&self, node: NodeId) -> Reach {
        self.reaches.get(&node).map_or(Reach::Full, |(reach, _)| *reach)
    }

    /// Where the queries of an attention have to look in a cache of every position.
    pub fn range(&self, node: NodeId) -> Range {
        self.reaches.get(&node).map_or(Range::default(), |(_, range)| *range)
    }
}

/// Whether recurrences walk a long sequence in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Chunks {
    /// Where that takes fewer operations, in chunks of [`CHUNK`] rows.
    #[default]
    Auto,
    /// Never: step by step.
    Off,
    /// Wherever it is possible, in chunks of so many rows.
    Rows(usize),
    /// For matrix units: wherever sums of products over whole chunks say all of it.
    Matrices {
        /// Rows of a chunk.
        rows: usize,
        /// The same where the update reads the state: more has to lie side by side in a block's memory then.
        solving: usize,
        /// Where keys decay each in its own way.
        decaying: Decaying,
    },
}

/// Chunks for matrix units of recurrences whose keys decay each in its own way, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decaying {
    /// None: step by step.
    Never,
    /// Where decays are powers of e, whose products are powers of sums.
    Powers,
    /// Also by halves of halves of a chunk, which is no faster than steps.
    Halves,
}

/// Rows of a chunk: enough to keep the state's traffic small beside the products, few enough for their own score matrices to be.
pub const CHUNK: usize = 16;
/// Rows of a chunk that is a convolution: several pieces, and enough to make up for fetching the tables in a call of one chunk.
pub const CONVOLUTION: usize = 64;
/// Rows of a chunk for matrix units, which hold fragments of 16.
pub const MATRIX_CHUNK: usize = 64;

/// Derives what a graph carries, and its chunk forms, for calls of at most `rows` rows where they need not hold more. A ring with sinks is looked
/// at as a whole by every query: it has room for short calls alone.
pub fn derive(graph: &Graph, chunks: Chunks, rows: usize) -> Forms {
    let mut graph = wanted::insert(&recur::split(graph));
    let nodes: Vec<NodeId> = graph.order().into_iter().filter(|node| matches!(graph.op(*node), Op::Recur(_))).collect();
    let classes = nodes.iter().filter_map(|node| Some((*node, recur::classify(&graph, *node)?))).collect();
    let chunks = nodes.iter().map(|node| (*node, recur::chunked(&mut graph, *node, chunks))).collect();
    let together = together(graph.order().iter().map(|node| graph.op(*node)), graph.source());
    let sinks = |op: &Op| matches!(op, Op::Attend(attend) if matches!(cached(attend, together), Reach::SinksAndWindow { .. }));
    let rows = if graph.order().into_iter().any(|node| sinks(graph.op(node))) { rows.min(MAX_ROWS) } else { rows };
    let reaches = HashMap::new();
    let mut forms = Forms { graph, states: vec![], carried: HashMap::new(), classes, chunks, together, reaches, rows };
    forms.graph.order().into_iter().for_each(|node| forms.carry(node));
    forms
}

impl Forms {
    fn carry(&mut self, node: NodeId) {
        match self.graph.op(node).clone() {
            Op::Recur(recur) => {
                for state in &recur.states {
                    let elements = self.elements(&state.axes);
                    let extent = Extent::Fixed { elements };
                    self.declare(node, &state.name, StateKind::Recurrence, state.axes.clone(), state.init, extent);
                }
            }
            Op::Conv(width) => {
                let taps = self.graph.size(width).unwrap_or(1);
                let axes = self.row_axes(node);
                let extent = Extent::Fixed { elements: (taps - 1) * self.elements(&axes) };
                self.declare(node, "window", StateKind::Convolution, axes, 0.0, extent);
            }
            Op::Shift(by) => {
                let axes = self.row_axes(node);
                let extent = Extent::Fixed { elements: by * self.elements(&axes) };
                self.declare(node, "before", StateKind::Shift, axes, 0.0, extent);
            }
            // It looks at what its own call holds.
            Op::Attend(attend) if matches!(attend.gives, Gives::Tally { .. }) => {}
            Op::Attend(attend) => {
                let (reach, range) = match self.graph.source() {
                    // A source comes in one call, and is kept as long as the sequence.
                    Some(source) if attend.keys == source => {
                        let range =
                            if attend.seq == source { reach::of(&attend, Together::ALL, self.rows).1 } else { Range::default() };
                        (Reach::Full, range)
                    }
                    _ => reach::of(&attend, self.together, self.rows),
                };
                self.reaches.insert(node, (reach, range));
                if let Some(states) = self.kept_already(node, &attend) {
                    self.carried.insert(node, states);
                    return;
                }
                let args = self.graph.args(node);
                let keys = self.row_axes(args[1]);
                let groups: Vec<AxisId> = keys.iter().copied().filter(|axis| !attend.contract.contains(axis)).collect();
                let parts = self.elements(&groups);
                let key = self.elements(&keys) / parts + self.keyed(&attend, &args);
                self.declare(node, "keys", StateKind::Keys, keys.clone(), 0.0, reach.extent(parts, key));
                if attend.gives == Gives::Values {
                    let own = self.row_axes(args[2]);
                    // Values that do not vary over the keys' heads are still stored once for each: the kernels find them by head.
                    let missing = groups.iter().filter(|axis| !own.contains(axis));
                    let values: Vec<AxisId> = missing.chain(&own).copied().collect();
                    let extent = reach.extent(parts, self.elements(&values) / parts);
                    self.declare(node, "values", StateKind::Values, values, 0.0, extent);
                }
                if reach.every() == 1 {
                    self.declare(node, "positions", StateKind::Positions, vec![], -1.0, reach.extent(1, 1));
                }
            }
            _ => {}
        }
    }

    /// The cache of an earlier attention that keeps what this one asks for.
    fn kept_already(&self, node: NodeId, attend: &Attend) -> Option<Vec<StateId>> {
        let args = self.graph.args(node);
        let same = |other: &NodeId| match self.graph.op(*other) {
            Op::Attend(of_other) => keep_the_same((of_other, &self.graph.args(*other)), (attend, &args)),
            _ => false,
        };
        self.carried.iter().find(|(other, _)| same(other)).map(|(_, states)| states.clone())
    }

    /// Elements that a key has beside it: what `keep` and `score` ask of its position, for each head of queries that it differs in.
    fn keyed(&self, attend: &Attend, args: &[NodeId]) -> usize {
        let heads =
            |n: usize| self.row_axes(args[n]).into_iter().filter(|axis| !attend.contract.contains(axis)).collect::<Vec<_>>();
        let (groups, all) = (heads(1), heads(0));
        let per: Vec<AxisId> = all.into_iter().filter(|axis| !groups.contains(axis)).collect();
        let one = |n: &usize| {
            let varies = self.row_axes(args[attend.operands() + n]).iter().any(|axis| per.contains(axis));
            if varies { self.elements(&per) } else { 1 }
        };
        attend.keyed.iter().map(one).sum()
    }

    fn declare(&mut self, node: NodeId, name: &str, kind: StateKind, axes: Vec<AxisId>, init: f64, extent: Extent) {
        let path = scope_path(&self.graph.scopes, self.graph.node(node).scope);
        let name = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        self.carried.entry(node).or_default().push(StateId(self.states.len() as u32));
        self.states.push(StateDecl { name, kind, node, axes, init, extent });
    }

    /// Whether a node is computed once for a sequence, from its source: it has a row for each of the source's positions.
    pub fn is_encoded(&self, node: NodeId) -> bool {
        match self.graph.op(node) {
            Op::Recur(recur) => Some(recur.seq) == self.graph.source(),
            _ => self.graph.of_source(self.graph.ty(node)),
        }
    }

    /// Whether a state is filled by the source alone: what encoded nodes carry, and keys and values of it.
    pub fn holds_source(&self, state: &StateDecl) -> bool {
        let of_keys = |attend: &Attend| Some(attend.keys) == self.graph.source();
        self.is_encoded(state.node) || matches!(self.graph.op(state.node), Op::Attend(attend) if of_keys(attend))
    }

    /// Axes of a row: all but the sequence.
    fn row_axes(&self, node: NodeId) -> Vec<AxisId> {
        self.graph.ty(node).axes.iter().copied().filter(|a| self.graph.size(*a).is_some()).collect()
    }

    fn elements(&self, axes: &[AxisId]) -> usize {
        axes.iter().filter_map(|a| self.graph.size(*a)).product()
    }
}
