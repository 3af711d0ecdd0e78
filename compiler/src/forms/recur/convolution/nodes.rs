//! Writes nodes that depend on parameters alone: what is made of them once, when weights are loaded.

use super::matrix::Block;
use crate::graph::shape::{Env, infer};
use crate::graph::{Graph, Node, NodeId};
use braid_dsl::model::{Axis, AxisId, Binary, Elem, Op, Reduce, ScopeId, Size, Type};
use braid_dsl::span::Span;
use std::collections::HashMap;

/// What was made, if its types fit.
///
/// # Errors
/// That they do not, in words.
pub fn typed<T>(made: Option<T>) -> Result<T, String> {
    made.ok_or_else(|| "axes of its equations meet under names that it uses already".into())
}

/// Adds nodes to a graph; equal ones once.
pub struct Nodes<'g> {
    /// The graph.
    pub graph: &'g mut Graph,
    span: Span,
    scope: ScopeId,
    known: HashMap<String, NodeId>,
}

impl<'g> Nodes<'g> {
    /// Nodes that belong to where another one does.
    pub fn beside(graph: &'g mut Graph, node: NodeId) -> Nodes<'g> {
        let Node { span, scope, .. } = *graph.node(node);
        Nodes { graph, span, scope, known: HashMap::new() }
    }

    /// The axis of that name and size, added if it is new. A user's axis cannot be called so: names end with `'`.
    pub fn axis(&mut self, name: &str, size: usize) -> AxisId {
        named(&mut self.graph.axes, name, size)
    }

    /// Whether a node varies along an axis.
    pub fn carries(&self, x: NodeId, axis: AxisId) -> bool {
        self.graph.ty(x).axes.contains(&axis)
    }

    /// An op applied to nodes; `None` if the types do not fit.
    pub fn op(&mut self, op: Op, args: &[NodeId]) -> Option<NodeId> {
        let types: Vec<Type> = args.iter().map(|arg| self.graph.ty(*arg).clone()).collect();
        let types: Vec<&Type> = types.iter().collect();
        let ty = infer(&Env { axes: &self.graph.axes, ..Env::default() }, &op, &types).ok()?;
        Some(self.put(op, args, ty))
    }

    /// A constant of a type of elements.
    pub fn constant(&mut self, number: f64, elem: Elem) -> NodeId {
        self.put(Op::Const(number), &[], Type { elem, axes: vec![] })
    }

    fn put(&mut self, op: Op, args: &[NodeId], ty: Type) -> NodeId {
        let key = format!("{op:?} {args:?} {:?}", ty.elem);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let made = self.graph.add(Node { op, ty, span: self.span, scope: self.scope }, args);
        self.known.insert(key, made);
        made
    }

    /// `a b`.
    pub fn mul(&mut self, a: NodeId, b: NodeId) -> Option<NodeId> {
        let is_one = |x| *self.graph.op(x) == Op::Const(1.0);
        match (is_one(a), is_one(b)) {
            (true, _) => Some(b),
            (_, true) => Some(a),
            _ => self.op(Op::Binary(Binary::Mul), &[a, b]),
        }
    }

    /// `a + b`; what is missing is zero. `None` if the types do not fit.
    pub fn plus(&mut self, a: Block, b: Block) -> Option<Block> {
        match (a, b) {
            (Some(a), Some(b)) => self.op(Op::Binary(Binary::Add), &[a, b]).map(Some),
            (a, b) => Some(a.or(b)),
        }
    }

    /// `sum[over] a b`; an axis that neither carries multiplies.
    pub fn contract(&mut self, a: NodeId, b: NodeId, over: &[AxisId]) -> Option<NodeId> {
        if !over.is_empty() && over.iter().all(|axis| self.carries(a, *axis) && self.carries(b, *axis)) {
            return self.op(Op::Contract(over.to_vec()), &[a, b]);
        }
        let product = self.mul(a, b)?;
        self.sum(product, over)
    }

    /// `sum[over] x`; an axis that `x` lacks multiplies.
    pub fn sum(&mut self, x: NodeId, over: &[AxisId]) -> Option<NodeId> {
        let (own, missing): (Vec<AxisId>, Vec<AxisId>) = over.iter().partition(|axis| self.carries(x, **axis));
        let times: usize = missing.iter().filter_map(|axis| self.graph.size(*axis)).product();
        let total = if own.is_empty() { x } else { self.op(Op::Reduce(Reduce::Sum, own), &[x])? };
        let times = self.constant(times as f64, Elem::Float);
        self.mul(total, times)
    }

    /// `x` with other names for axes that it has.
    pub fn renamed(&mut self, x: NodeId, names: &[(AxisId, AxisId)]) -> Option<NodeId> {
        names.iter().try_fold(x, |x, (from, to)| match self.carries(x, *from) && from != to {
            true => self.op(Op::Rename(*from, *to), &[x]),
            false => Some(x),
        })
    }

    /// `x` along an axis, if it does not have it: the same everywhere.
    pub fn along(&mut self, x: NodeId, axis: AxisId) -> Option<NodeId> {
        if self.carries(x, axis) {
            return Some(x);
        }
        let index = self.op(Op::Index(axis), &[])?;
        let (index, zero) = (self.op(Op::ToFloat, &[index])?, self.constant(0.0, Elem::Float));
        let zeros = self.op(Op::Binary(Binary::Mul), &[index, zero])?;
        self.op(Op::Binary(Binary::Add), &[x, zeros])
    }
}

/// The axis of that name and size of a table of axes, added if it is new.
pub fn named(all: &mut Vec<Axis>, name: &str, size: usize) -> AxisId {
    let axis = Axis { name: name.into(), size: Size::Fixed(size) };
    let at = all.iter().position(|known| *known == axis).unwrap_or_else(|| {
        all.push(axis);
        all.len() - 1
    });
    AxisId(at as u32)
}
