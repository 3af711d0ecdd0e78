//! Factors of products over rows as powers of e, where they are such: also those of other kernels, and `sigmoid(x) = e^-softplus(-x)`.

use super::Chunk;
use super::derive::capture_type;
use crate::graph::{Graph, Node, NodeId};
use braid_dsl::model::{Op, Recur, Unary, Value, ValueId};
use std::collections::HashMap;

/// Lets products over rows, and scores, of a chunk have powers of e as factors, if what they have is one by another name. Exponents that come
/// from outside are operands that the step does not have.
pub fn as_powers(graph: &mut Graph, node: NodeId, recur: &Recur, chunk: &mut Chunk) {
    let mut made = Powers { values: vec![], names: vec![], known: HashMap::new() };
    for value in &chunk.body.values {
        let mut args: Vec<ValueId> = value.args.iter().map(|arg| made.names[arg.0 as usize]).collect();
        let factor = match value.op {
            Op::Products { .. } => Some(0),
            Op::Scores { .. } => Some(2),
            _ => None,
        };
        if let Some(at) = factor
            && let Some(power) = made.power(graph, (node, recur, chunk.row), args[at])
        {
            args[at] = power;
        }
        made.values.push(Value { args, ..value.clone() });
        made.names.push(ValueId(made.values.len() as u32 - 1));
    }
    chunk.next.iter_mut().chain(&mut chunk.outputs).for_each(|id| *id = made.names[id.0 as usize]);
    chunk.body.values = made.values;
    let mut results: Vec<&mut ValueId> = chunk.next.iter_mut().chain(chunk.outputs.iter_mut()).collect();
    chunk.body = crate::graph::body::cleaned(&chunk.body, &graph.axes, &mut results);
}

/// A body in work.
struct Powers {
    values: Vec<Value>,
    /// The old body's values.
    names: Vec<ValueId>,
    /// Powers by the value that they are.
    known: HashMap<ValueId, ValueId>,
}

impl Powers {
    /// A value of the type of another, where that comes from.
    fn push(&mut self, op: Op, args: Vec<ValueId>, like: &Value) -> ValueId {
        self.values.push(Value { op, args, ..like.clone() });
        ValueId(self.values.len() as u32 - 1)
    }

    /// The power that a value is.
    fn power(
        &mut self,
        graph: &mut Graph,
        (node, recur, row): (NodeId, &Recur, braid_dsl::model::AxisId),
        of: ValueId,
    ) -> Option<ValueId> {
        if let Some(known) = self.known.get(&of) {
            return Some(*known);
        }
        let own = self.values[of.0 as usize].clone();
        let made = match own.op {
            Op::Unary(Unary::Sigmoid) => {
                let steps = [Unary::Neg, Unary::Softplus, Unary::Neg, Unary::Exp];
                steps.into_iter().fold(own.args[0], |x, f| self.push(Op::Unary(f), vec![x], &own))
            }
            Op::Capture(n) => {
                let exponent = exponent(graph, graph.args(node)[n])?;
                let mut all = graph.args(node);
                let at = all.iter().position(|arg| *arg == exponent).unwrap_or(all.len());
                if at == all.len() {
                    all.push(exponent);
                    graph.set_args(node, &all);
                }
                let like = Value { ty: capture_type(graph.ty(exponent), recur.seq, row), ..own };
                let captured = self.push(Op::Capture(at), vec![], &like);
                self.push(Op::Unary(Unary::Exp), vec![captured], &like)
            }
            _ => return None,
        };
        self.known.insert(of, made);
        Some(made)
    }
}

/// The node whose power of e a node is, made if need be.
fn exponent(graph: &mut Graph, power: NodeId) -> Option<NodeId> {
    let own = graph.node(power).clone();
    let of = *graph.args(power).first()?;
    let mut step = |f: Unary, of: NodeId| graph.add(Node { op: Op::Unary(f), ..own.clone() }, &[of]);
    match own.op {
        Op::Unary(Unary::Exp) => Some(of),
        Op::Unary(Unary::Sigmoid) => {
            let turned = step(Unary::Neg, of);
            let softplus = step(Unary::Softplus, turned);
            Some(step(Unary::Neg, softplus))
        }
        _ => None,
    }
}
