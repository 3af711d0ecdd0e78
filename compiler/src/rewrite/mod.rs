//! Rewrites: rules as data, one row an equation, one family a file, applied until nothing changes.
//!
//! Laws of every rule: the result has the type that the value had; it is never dearer, neither in elements computed nor in
//! passes over memory; numbers change by rounding only. The same rules work on the graph and on the bodies of recurrences and
//! attentions: a rule sees [`Values`] and answers with a [`New`].

mod algebra;
mod bodies;
mod fold;
mod products;
mod share;
#[cfg(test)]
mod tests;
mod views;

use crate::graph::{Graph, Node, NodeId, shape};
use braid_dsl::model::{Axis, Elem, Op, Type};

/// Values that rules look at.
pub trait Values {
    /// All axes.
    fn axes(&self) -> &[Axis];
    /// A value's op.
    fn op(&self, id: usize) -> &Op;
    /// Its operands.
    fn args(&self, id: usize) -> Vec<usize>;
    /// Its type.
    fn ty(&self, id: usize) -> &Type;
    /// Whether one value alone reads it.
    fn has_one_user(&self, id: usize) -> bool;

    /// The number, if it is a constant.
    fn number(&self, id: usize) -> Option<f64> {
        match self.op(id) {
            Op::Const(number) => Some(*number),
            _ => None,
        }
    }
}

/// What a rule puts in the place of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum New {
    /// A value that is there.
    Old(usize),
    /// A constant.
    Number(f64, Elem),
    /// An op over new values.
    Make(Op, Vec<New>),
}

/// One equation.
pub struct Rule {
    /// The equation, for people.
    pub name: &'static str,
    /// What the value becomes, if the rule applies.
    pub apply: fn(&dyn Values, usize) -> Option<New>,
}

/// All rules, cheapest questions first.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [fold::RULES, algebra::RULES, views::RULES, products::RULES].into_iter().flatten()
}

/// More rounds than this would mean rules that undo one another.
const ROUNDS: usize = 32;

/// Applies all rules everywhere until nothing changes.
pub fn apply(graph: &Graph) -> Graph {
    let mut graph = share::merged(graph);
    for _ in 0..ROUNDS {
        let in_bodies = bodies::apply(&mut graph);
        if !round(&mut graph) && !in_bodies {
            break;
        }
        graph = share::merged(&graph);
    }
    graph
}

/// Tries every rule on every value once; whether any applied.
fn round(graph: &mut Graph) -> bool {
    let mut changed = false;
    for id in graph.order() {
        let found = rules().find_map(|rule| (rule.apply)(graph, id.index()));
        let Some(id_new) = found.and_then(|new| fits(graph, id, &new).then(|| build(graph, id, new))) else { continue };
        graph.replace(id, id_new);
        changed = true;
    }
    graph.prune();
    changed
}

/// Whether the new value has the old one's type: the law that every rule is held to.
fn fits(graph: &Graph, id: NodeId, new: &New) -> bool {
    type_of(graph, new).is_some_and(|ty| shape::same(&ty, graph.ty(id)))
}

/// The type of a new value.
pub fn type_of(values: &dyn Values, new: &New) -> Option<Type> {
    match new {
        New::Old(id) => Some(values.ty(*id).clone()),
        New::Number(_, elem) => Some(Type { elem: *elem, axes: vec![] }),
        New::Make(op, args) => {
            let types = args.iter().map(|arg| type_of(values, arg)).collect::<Option<Vec<Type>>>()?;
            let env = shape::Env { axes: values.axes(), ..shape::Env::default() };
            shape::infer(&env, op, &types.iter().collect::<Vec<_>>()).ok()
        }
    }
}

/// Adds a new value; it stands where the old one stood in the text.
fn build(graph: &mut Graph, at: NodeId, new: New) -> NodeId {
    let ty = type_of(graph, &new);
    let (op, args) = match new {
        New::Old(id) => return NodeId(id as u32),
        New::Number(number, _) => (Op::Const(number), vec![]),
        New::Make(op, args) => (op, args.into_iter().map(|arg| build(graph, at, arg)).collect()),
    };
    let old = graph.node(at).clone();
    let ty = ty.unwrap_or_else(|| old.ty.clone());
    graph.add(Node { op, ty, ..old }, &args)
}

impl Values for Graph {
    fn axes(&self) -> &[Axis] {
        &self.axes
    }
    fn op(&self, id: usize) -> &Op {
        Graph::op(self, NodeId(id as u32))
    }
    fn args(&self, id: usize) -> Vec<usize> {
        Graph::args(self, NodeId(id as u32)).into_iter().map(NodeId::index).collect()
    }
    fn ty(&self, id: usize) -> &Type {
        Graph::ty(self, NodeId(id as u32))
    }
    fn has_one_user(&self, id: usize) -> bool {
        let id = NodeId(id as u32);
        let users = self.users(id);
        users.len() == 1 && self.output() != id && Graph::args(self, users[0]).iter().filter(|arg| **arg == id).count() == 1
    }
}
