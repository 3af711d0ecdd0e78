//! The model as a graph: the same closed op set, equal computations merged, nothing that the output does not need.
//!
//! `Model` becomes a [`Graph`] (build.rs), types follow from operands (shape.rs), the rules of a well-formed graph are checked
//! (verify.rs) and it prints as stable text (print.rs). Bodies of recurrences and attentions stay the small arenas of
//! [`braid_dsl::model::Body`], cleaned by the same rules (body.rs). This is the only folder that names the graph library.

pub mod body;
mod build;
mod print;
pub mod shape;
mod verify;

pub use print::{axes_text, body_text, number_text, op_text, scope_path, type_text};
pub use verify::{Check, Fault, Verified};

use braid_dsl::model::{Axis, AxisId, Constant, Elem, Generate, Op, Param, Scope, ScopeId, Size, Type};
use braid_dsl::span::Span;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::collections::HashMap;

/// Names one node of a [`Graph`]. After [`Graph::compact`] ids count up in [`Graph::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index into per-node tables of [`Graph::bound`] entries.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// One operation; its operands are edges of the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// The result's type.
    pub ty: Type,
    /// The equation it comes from.
    pub span: Span,
    /// The block instance it belongs to.
    pub scope: ScopeId,
}

/// A model's computation. Acyclic; every node is needed for the output.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// All axes.
    pub axes: Vec<Axis>,
    /// All parameters; those that the graph does not use have no node.
    pub params: Vec<Param>,
    /// All block instances; the first is the model.
    pub scopes: Vec<Scope>,
    /// The inputs' names and types.
    pub inputs: Vec<(String, Type)>,
    /// What a row of the result has behind the result itself: names and types.
    pub outputs: Vec<(String, Type)>,
    /// How the model generates.
    pub generate: Generate,
    /// Positions that stand ahead of every text.
    pub ahead: usize,
    /// Every compile-time parameter with its value, by name.
    pub constants: Vec<(String, Constant)>,
    /// What the text calls nodes; not all have a name.
    names: HashMap<NodeId, String>,
    /// Edges run from an operand to its user and carry the operand's place.
    net: StableDiGraph<Node, u32>,
    output: NodeId,
}

impl Graph {
    /// The input that is token ids: the first one of an Int for each position.
    pub fn token_input(&self) -> Option<usize> {
        let has_one = |ty: &Type| ty.elem == Elem::Int && ty.axes.len() == 1 && !self.of_source(ty);
        self.inputs.iter().position(|(_, ty)| has_one(ty))
    }

    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.net[NodeIndex::new(id.index())]
    }

    /// The node of that id, to change.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.net[NodeIndex::new(id.index())]
    }

    /// Its op.
    pub fn op(&self, id: NodeId) -> &Op {
        &self.node(id).op
    }

    /// Its type.
    pub fn ty(&self, id: NodeId) -> &Type {
        &self.node(id).ty
    }

    /// Its operands, in the order that the op documents.
    pub fn args(&self, id: NodeId) -> Vec<NodeId> {
        let mut found: Vec<(u32, NodeId)> = self
            .net
            .edges_directed(NodeIndex::new(id.index()), Direction::Incoming)
            .map(|edge| (*edge.weight(), NodeId(edge.source().index() as u32)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, source)| source).collect()
    }

    /// The nodes that read it, each once, by rising id.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self
            .net
            .neighbors_directed(NodeIndex::new(id.index()), Direction::Outgoing)
            .map(|user| NodeId(user.index() as u32))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The result.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Makes another node the result.
    pub fn set_output(&mut self, id: NodeId) {
        self.output = id;
    }

    /// One more than the highest id: the length of per-node tables.
    pub fn bound(&self) -> usize {
        self.net.node_indices().map(|at| at.index() + 1).max().unwrap_or(0)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.net.node_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.net.node_count() == 0
    }

    /// All nodes that the output needs, operands first: depth first from the output, operands in their order. The same for
    /// graphs that differ only in their ids.
    pub fn order(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.bound()];
        let mut order = Vec::with_capacity(self.len());
        let mut stack = vec![(self.output, self.args(self.output), 0)];
        seen[self.output.index()] = true;
        while let Some((id, args, next)) = stack.last_mut() {
            let Some(&arg) = args.get(*next) else {
                order.push(*id);
                stack.pop();
                continue;
            };
            *next += 1;
            if !std::mem::replace(&mut seen[arg.index()], true) {
                stack.push((arg, self.args(arg), 0));
            }
        }
        order
    }

    /// What the text calls a node.
    pub fn name(&self, id: NodeId) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// Calls a node so, where texts speak of it.
    pub fn call(&mut self, id: NodeId, name: &str) {
        self.names.insert(id, name.into());
    }

    /// Adds a node.
    pub fn add(&mut self, node: Node, args: &[NodeId]) -> NodeId {
        let at = self.net.add_node(node);
        for (place, arg) in args.iter().enumerate() {
            self.net.add_edge(NodeIndex::new(arg.index()), at, place as u32);
        }
        NodeId(at.index() as u32)
    }

    /// Gives a node other operands.
    pub fn set_args(&mut self, id: NodeId, args: &[NodeId]) {
        let at = NodeIndex::new(id.index());
        let old: Vec<_> = self.net.edges_directed(at, Direction::Incoming).map(|edge| edge.id()).collect();
        for edge in old {
            self.net.remove_edge(edge);
        }
        for (place, arg) in args.iter().enumerate() {
            self.net.add_edge(NodeIndex::new(arg.index()), at, place as u32);
        }
    }

    /// Lets every user of `old` (and the output) read `new` instead. `old` stays until [`Graph::prune`].
    pub fn replace(&mut self, old: NodeId, new: NodeId) {
        for user in self.users(old) {
            let args: Vec<NodeId> = self.args(user).into_iter().map(|arg| if arg == old { new } else { arg }).collect();
            self.set_args(user, &args);
        }
        if self.output == old {
            self.output = new;
        }
        if let Some(name) = self.names.remove(&old) {
            self.names.entry(new).or_insert(name);
        }
    }

    /// Drops the nodes that the output does not need.
    pub fn prune(&mut self) {
        let mut needed = vec![false; self.bound()];
        self.order().into_iter().for_each(|id| needed[id.index()] = true);
        self.net.retain_nodes(|_, at| needed[at.index()]);
        self.names.retain(|id, _| needed[id.index()]);
    }

    /// The same graph with nothing superfluous and ids that count up in [`Graph::order`].
    pub fn compact(&self) -> Graph {
        let order = self.order();
        let mut names = vec![NodeId(0); self.bound()];
        let mut net = StableDiGraph::with_capacity(order.len(), order.len() * 2);
        for (number, &id) in order.iter().enumerate() {
            names[id.index()] = NodeId(number as u32);
            let at = net.add_node(self.node(id).clone());
            for (place, arg) in self.args(id).into_iter().enumerate() {
                net.add_edge(NodeIndex::new(names[arg.index()].index()), at, place as u32);
            }
        }
        let called = order.iter().filter_map(|id| Some((names[id.index()], self.names.get(id)?.clone())));
        Graph { net, output: names[self.output.index()], names: called.collect(), ..self.frame() }
    }

    /// Everything but the nodes.
    fn frame(&self) -> Graph {
        Graph {
            name: self.name.clone(),
            axes: self.axes.clone(),
            params: self.params.clone(),
            scopes: self.scopes.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            generate: self.generate.clone(),
            ahead: self.ahead,
            constants: self.constants.clone(),
            names: HashMap::new(),
            net: StableDiGraph::new(),
            output: NodeId(0),
        }
    }

    /// The axis of that id.
    pub fn axis(&self, id: AxisId) -> &Axis {
        &self.axes[id.0 as usize]
    }

    /// Its length; `None` for a sequence axis.
    pub fn size(&self, id: AxisId) -> Option<usize> {
        shape::size(&self.axes, id)
    }

    /// Whether a value of that type has a row for every position.
    pub fn has_seq(&self, ty: &Type) -> bool {
        self.seq(ty).is_some()
    }

    /// The sequence axis of a type.
    pub fn seq(&self, ty: &Type) -> Option<AxisId> {
        ty.axes.iter().copied().find(|&axis| self.axis(axis).size == Size::Seq)
    }

    /// The axis of a second sequence: the first one of a model is that of its own positions.
    pub fn source(&self) -> Option<AxisId> {
        let mut seqs = (0..self.axes.len()).filter(|at| self.axes[*at].size == Size::Seq);
        seqs.nth(1).map(|at| AxisId(at as u32))
    }

    /// Whether a value of that type has a row for each position of the source.
    pub fn of_source(&self, ty: &Type) -> bool {
        self.source().is_some_and(|source| ty.axes.contains(&source))
    }

    /// Elements of one row: the product of the fixed axes.
    pub fn row_elements(&self, ty: &Type) -> usize {
        ty.axes.iter().filter_map(|&axis| self.size(axis)).product()
    }
}
