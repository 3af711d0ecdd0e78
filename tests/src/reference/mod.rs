//! The oracle: evaluates a graph in double precision, as plainly as can be.
//!
//! One sequence at a time. A [`Reference`] carries states from call to call, so that a whole sequence in one call, a prompt
//! followed by single steps and any other cut can be compared. Caches keep every position: what an attention sees is decided
//! by `keep` alone. `Wanted` keeps all rows here.

mod carried;
pub mod checkpoint;
pub mod ops;
pub mod tensor;
#[cfg(test)]
mod tests;

use braid_compiler::forms::{Chunk, Forms};
use braid_compiler::graph::{Graph, NodeId};
use braid_dsl::model::{Op, Recur, Size};
use std::collections::HashMap;
use std::rc::Rc;
use tensor::{Dim, Tensor};

/// Evaluates one graph for one sequence.
pub struct Reference<'a> {
    graph: &'a Graph,
    order: Vec<NodeId>,
    /// Values that depend on parameters only.
    fixed: HashMap<NodeId, Rc<Tensor>>,
    /// States, windows and caches by the node that carries them.
    carried: HashMap<NodeId, Vec<Tensor>>,
    /// Positions seen so far.
    position: usize,
    /// Results of recurrences in this call.
    results: HashMap<NodeId, Vec<Tensor>>,
    /// What was computed from the source.
    source: HashMap<NodeId, Rc<Tensor>>,
    /// Recurrences that go by chunks.
    chunks: HashMap<NodeId, Chunk>,
}

impl<'a> Reference<'a> {
    /// An evaluator of a graph at the start of a sequence. `params` gives the numbers of a parameter by its path, row-major in
    /// declared order.
    pub fn new(graph: &'a Graph, params: impl Fn(&str) -> Vec<f64>) -> Reference<'a> {
        let order = graph.order();
        let empty = HashMap::new;
        let mut made = Reference {
            graph,
            order,
            fixed: empty(),
            carried: HashMap::new(),
            position: 0,
            results: HashMap::new(),
            source: HashMap::new(),
            chunks: HashMap::new(),
        };
        for id in made.order.clone() {
            if let Op::Param(param) = graph.op(id) {
                let param = &graph.params[param.0 as usize];
                let dims: Vec<Dim> = param.axes.iter().map(|a| (*a, graph.size(*a).expect("a fixed axis"))).collect();
                let mut tensor = Tensor::filled(&dims, 0.0);
                let data = params(&param.path);
                assert_eq!(data.len(), tensor.data.len(), "numbers of {}", param.path);
                tensor.data = data;
                made.fixed.insert(id, Rc::new(tensor));
            } else if made.is_fixed(id) {
                let value = made.value(id, &made.fixed.clone(), &[], 0);
                made.fixed.insert(id, Rc::new(value));
            }
        }
        made
    }

    /// An evaluator of a graph and of its chunk forms, where it has them.
    pub fn in_chunks(forms: &'a Forms, params: impl Fn(&str) -> Vec<f64>) -> Reference<'a> {
        let chunks = forms.chunks.iter().filter_map(|(node, chunk)| Some((*node, chunk.clone().ok()?)));
        Reference { chunks: chunks.collect(), ..Reference::new(&forms.graph, params) }
    }

    /// Whether a node is the same in every call.
    fn is_fixed(&self, id: NodeId) -> bool {
        let leaf = matches!(self.graph.op(id), Op::Input(_) | Op::Position(_) | Op::Length(..));
        let stateful = matches!(self.graph.op(id), Op::Recur(_) | Op::Result(_));
        !leaf && !stateful && self.graph.args(id).iter().all(|arg| self.fixed.contains_key(arg))
    }

    /// Back to the start of a sequence.
    pub fn reset(&mut self) {
        self.carried.clear();
        self.source.clear();
        self.position = 0;
    }

    /// The recurrence with a state of that name, and the state's place in it. Panics if there is none: a test's own mistake.
    fn recurrence(&self, state: &str) -> (NodeId, &Recur, usize) {
        let here = |id: &NodeId| match self.graph.op(*id) {
            Op::Recur(recur) => recur.states.iter().position(|s| s.name == state).map(|at| (*id, &**recur, at)),
            _ => None,
        };
        self.order.iter().find_map(here).unwrap_or_else(|| panic!("no state {state}"))
    }

    /// The names of a state's axes, and its numbers after what was run so far.
    pub fn state(&self, name: &str) -> (Vec<String>, Vec<f64>) {
        let (id, recur, at) = self.recurrence(name);
        let axes = recur.states[at].axes.iter().map(|axis| self.graph.axis(*axis).name.clone()).collect();
        let data = self
            .carried
            .get(&id)
            .map_or_else(|| carried::first(&self.graph.axes, recur)[at].data.clone(), |all| all[at].data.clone());
        (axes, data)
    }

    /// Gives a state its numbers, in the order of [`Reference::state`].
    pub fn set_state(&mut self, name: &str, data: Vec<f64>) {
        let (id, recur, at) = self.recurrence(name);
        let first = carried::first(&self.graph.axes, recur);
        let states = self.carried.entry(id).or_insert(first);
        assert_eq!(states[at].data.len(), data.len(), "numbers of {name}");
        states[at].data = data;
    }

    /// The outputs of the next rows, whose tokens are given; axes in the order of the output's type.
    pub fn run(&mut self, tokens: &[i64]) -> Tensor {
        let axes = self.graph.inputs[0].1.axes.clone();
        let data = tokens.iter().map(|token| *token as f64).collect();
        self.run_inputs(&[Tensor { axes, shape: vec![tokens.len()], data }])
    }

    /// As [`Reference::run`], for any inputs.
    pub fn run_inputs(&mut self, inputs: &[Tensor]) -> Tensor {
        let is_seq = |dim: &Dim| self.graph.axis(dim.0).size == Size::Seq;
        let rows_of = |source: bool| {
            let own = |dim: &Dim| is_seq(dim) && (Some(dim.0) == self.graph.source()) == source;
            inputs.iter().flat_map(|x| x.dims()).find(own).map_or(1, |dim| dim.1)
        };
        let (rows, source_rows) = (rows_of(false), rows_of(true));
        let mut values = self.fixed.clone();
        values.extend(self.source.clone());
        self.results.clear();
        for id in self.order.clone() {
            if values.contains_key(&id) {
                continue;
            }
            // The source is there once, as a whole, from its first position on.
            let encoded = self.is_encoded(id);
            let (rows, position) = if encoded { (source_rows, 0) } else { (rows, self.position) };
            let now = std::mem::replace(&mut self.position, position);
            let value = Rc::new(self.step(id, &values, inputs, rows));
            self.position = now;
            if encoded {
                self.source.insert(id, value.clone());
            }
            values.insert(id, value);
        }
        self.position += rows;
        let output = self.graph.output();
        values[&output].ordered(&self.graph.ty(output).axes)
    }

    fn is_encoded(&self, id: NodeId) -> bool {
        match self.graph.op(id) {
            Op::Recur(recur) => Some(recur.seq) == self.graph.source(),
            _ => self.graph.of_source(self.graph.ty(id)),
        }
    }

    /// The value of a node that may carry a state.
    fn step(&mut self, id: NodeId, values: &HashMap<NodeId, Rc<Tensor>>, inputs: &[Tensor], rows: usize) -> Tensor {
        let args: Vec<Rc<Tensor>> = self.graph.args(id).iter().map(|arg| values[arg].clone()).collect();
        let args: Vec<&Tensor> = args.iter().map(|arg| &**arg).collect();
        let before = self.carried.remove(&id);
        let (value, after) = match self.graph.op(id) {
            Op::Shift(by) => carried::shift(self.graph, args[0], *by, before),
            Op::Conv(width) => carried::convolve(self.graph, args[0], args[1], *width, before),
            Op::Attend(attend) => carried::attend(&self.graph.axes, attend, &args, before, self.position),
            Op::Recur(recur) => {
                let rows = (self.position, rows);
                let (outputs, after) = carried::recur(&self.graph.axes, recur, self.chunks.get(&id), &args, before, rows);
                self.results.insert(id, outputs);
                (Tensor::scalar(0.0), after)
            }
            Op::Result(n) => return self.results[&self.graph.args(id)[0]][*n].clone(),
            _ => return self.value(id, values, inputs, rows),
        };
        self.carried.insert(id, after);
        value
    }

    /// The value of a node without state.
    fn value(&self, id: NodeId, values: &HashMap<NodeId, Rc<Tensor>>, inputs: &[Tensor], rows: usize) -> Tensor {
        let args = |n: usize| &*values[&self.graph.args(id)[n]];
        match self.graph.op(id) {
            Op::Input(n) => inputs[*n].clone(),
            Op::Const(value) => Tensor::scalar(*value),
            Op::Index(axis) => Tensor::count(*axis, self.graph.size(*axis).expect("a fixed axis"), 0),
            Op::Position(axis) => Tensor::count(*axis, rows, self.position),
            // What a first call holds is all that may be looked at.
            Op::Length(axis, _) => Tensor::filled(&[(*axis, rows)], if self.position == 0 { rows as f64 } else { 0.0 }),
            Op::Fetch(axis, _) => ops::fetch(args(0), args(1), *axis, self.position == 0),
            Op::Largest { seq, count, .. } => ops::largest(args(0), *seq, *count, self.position == 0),
            op => {
                let args: Vec<Rc<Tensor>> = self.graph.args(id).iter().map(|arg| values[arg].clone()).collect();
                ops::apply(&self.graph.axes, op, &args.iter().map(|arg| &**arg).collect::<Vec<_>>())
            }
        }
    }
}
