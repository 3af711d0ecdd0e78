//! Mini-batches that the text means, and states that start with a tensor.
//!
//! Where conditions on the position say that something happens at every n-th, a chunk is n rows that begin at such a position: the
//! conditions are then known row by row. A state that is renewed only there is the same for all rows of a chunk, so that whatever is made
//! of it (a gradient, linear or not) is known for all of them at once (Sun et al. 2024, arXiv:2407.04620, section 2.4). The first position
//! of a sequence is always the first row of a chunk, so what a state starts with is part of what enters.

use super::choices;
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{Binary, Op, Recur, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The longest mini-batch that is one chunk.
const LONGEST: usize = 128;

/// What the conditions of a step say of positions.
#[derive(Default)]
pub struct Batches {
    /// Rows of a mini-batch, if there are any.
    pub every: Option<usize>,
    /// Positions modulo that many: the row of a chunk.
    pub(super) counts: Vec<ValueId>,
    /// States' values as the present mini-batch began.
    pub(super) held: Vec<ValueId>,
    /// What stands for a state that starts with a tensor: that at the first position, else the state.
    pub(super) firsts: HashMap<ValueId, usize>,
}

/// The states of a recurrence that are renewed only where a mini-batch begins, and how long one is.
pub fn held(graph: &Graph, node: NodeId, recur: &Recur) -> BTreeMap<usize, usize> {
    let found = Batches::of(graph, node, recur);
    let state = |id: &ValueId| recur.next.iter().position(|next| next == id);
    found.held.iter().filter_map(|id| Some((state(id)?, found.every?))).collect()
}

/// A step and what its captures are.
struct Step<'a> {
    graph: &'a Graph,
    args: Vec<NodeId>,
    recur: &'a Recur,
}

impl Batches {
    /// Looks at the conditions of a recurrence.
    pub fn of(graph: &Graph, node: NodeId, recur: &Recur) -> Batches {
        let step = Step { graph, args: graph.args(node), recur };
        let mut found = Batches { firsts: step.firsts(), ..Batches::default() };
        let held: Vec<ValueId> = step.ids().filter(|id| step.is_held(*id)).collect();
        // What other conditions say of positions is known row by row, whatever a chunk is.
        let telling = if held.is_empty() { choices(recur) } else { held.clone() };
        let lengths: BTreeSet<usize> = telling.iter().filter_map(|id| step.chosen(*id)).map(|(length, ..)| length).collect();
        let mut lengths = lengths.into_iter();
        if let (Some(every @ 2..=LONGEST), None) = (lengths.next(), lengths.next()) {
            found.every = Some(every);
            found.counts = step.ids().filter(|id| step.counts(*id) == Some(every)).collect();
            found.held = held;
        }
        found
    }
}

impl Step<'_> {
    fn ids(&self) -> impl Iterator<Item = ValueId> {
        (0..self.recur.body.values.len() as u32).map(ValueId)
    }

    fn op(&self, id: ValueId) -> (&Op, &[ValueId]) {
        let value = &self.recur.body.values[id.0 as usize];
        (&value.op, &value.args)
    }

    fn number(&self, id: ValueId) -> Option<f64> {
        if let Op::Const(number) = self.op(id).0 { Some(*number) } else { None }
    }

    fn is_position(&self, id: ValueId) -> bool {
        matches!(self.op(id).0, Op::Capture(n) if matches!(self.graph.op(self.args[*n]), Op::Position(_)))
    }

    /// `n` of `position % n`.
    fn counts(&self, id: ValueId) -> Option<usize> {
        let (Op::Binary(Binary::Rem), [position, by]) = self.op(id) else { return None };
        self.number(*by).filter(|by| self.is_position(*position) && *by >= 1.0).map(|by| by as usize)
    }

    /// What is compared with zero.
    fn zeroed(&self, id: ValueId) -> Option<ValueId> {
        match self.op(id) {
            (Op::Binary(Binary::Eq), [a, b]) if self.number(*b) == Some(0.0) => Some(*a),
            (Op::Binary(Binary::Eq), [a, b]) if self.number(*a) == Some(0.0) => Some(*b),
            _ => None,
        }
    }

    /// `n`, `a`, `b` of `select(position % n == 0, a, b)`.
    fn chosen(&self, id: ValueId) -> Option<(usize, ValueId, ValueId)> {
        let (Op::Select, [condition, a, b]) = self.op(id) else { return None };
        Some((self.counts(self.zeroed(*condition)?)?, *a, *b))
    }

    /// Whether a value is a state's next one, and the state itself but where a mini-batch begins.
    fn is_held(&self, id: ValueId) -> bool {
        let Some((_, _, old)) = self.chosen(id) else { return false };
        matches!(self.op(old).0, Op::State(n) if self.recur.next[*n] == id && self.users(old) == 1)
    }

    fn users(&self, id: ValueId) -> usize {
        let args = self.recur.body.values.iter().flat_map(|value| &value.args);
        args.chain(&self.recur.next).chain(&self.recur.outputs).filter(|arg| **arg == id).count()
    }

    fn firsts(&self) -> HashMap<ValueId, usize> {
        let first = |id: ValueId| {
            let (Op::Select, [condition, start, old]) = self.op(id) else { return None };
            let at_first = self.zeroed(*condition).is_some_and(|at| self.is_position(at));
            let plain = matches!(self.op(*start).0, Op::Capture(_));
            match self.op(*old).0 {
                Op::State(n) if at_first && plain && self.users(*old) == 1 => Some((id, *n)),
                _ => None,
            }
        };
        self.ids().filter_map(first).collect()
    }
}
