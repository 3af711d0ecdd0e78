//! What the steps of recurrences make of weights alone, dearly and each time anew, is made once instead: `exp(dt * -exp(a_log))` reads `-exp(a_log)`.
//!
//! This comes behind classification and the derivation of chunks, which look at the equations as they are written.

use super::Forms;
use crate::graph::{Graph, Node, NodeId, body};
use braid_dsl::model::{Binary, Body, Op, Unary, Value, ValueId};
use std::collections::HashMap;

impl Forms {
    /// Moves what recurrences make of weights alone out of the bodies of their steps and chunks, in front of them.
    pub fn make_once(&mut self) {
        let mut moved = Moved { graph: &mut self.graph, made: HashMap::new() };
        for node in moved.graph.order() {
            let Op::Recur(mut recur) = moved.graph.op(node).clone() else { continue };
            let results = recur.next.iter_mut().chain(recur.outputs.iter_mut());
            moved.body(node, &mut recur.body, results.collect());
            moved.graph.node_mut(node).op = Op::Recur(recur);
            if let Some(Ok(chunk)) = self.chunks.get_mut(&node) {
                let results = chunk.next.iter_mut().chain(chunk.outputs.iter_mut());
                moved.body(node, &mut chunk.body, results.collect());
            }
        }
    }
}

struct Moved<'a> {
    graph: &'a mut Graph,
    /// What was made already, under its equation.
    made: HashMap<String, NodeId>,
}

impl Moved<'_> {
    /// Lets a body capture what it made of weights alone.
    fn body(&mut self, node: NodeId, own: &mut Body, mut results: Vec<&mut ValueId>) {
        let args = self.graph.args(node);
        let (mut fixed, mut dear) = (vec![], vec![]);
        for value in &own.values {
            let of = |known: &[bool]| value.args.iter().map(|arg| known[arg.0 as usize]).collect::<Vec<bool>>();
            fixed.push(match value.op {
                Op::Capture(n) => of_weights(self.graph, args[n]),
                Op::Const(_) => true,
                _ => is_pointwise(&value.op) && of(&fixed).iter().all(|fixed| *fixed),
            });
            dear.push(is_dear(&value.op) || of(&dear).contains(&true));
        }
        let moves: Vec<bool> = fixed.iter().zip(&dear).map(|(fixed, dear)| *fixed && *dear).collect();
        let mut read: Vec<bool> = vec![false; own.values.len()];
        results.iter().for_each(|result| read[result.0 as usize] = true);
        for (at, value) in own.values.iter().enumerate() {
            value.args.iter().filter(|_| !moves[at]).for_each(|arg| read[arg.0 as usize] = true);
        }
        let moves: Vec<usize> = (0..moves.len()).filter(|at| moves[*at] && read[*at]).collect();
        if moves.is_empty() {
            return;
        }
        for at in moves {
            let made = self.node(node, own, at);
            own.values[at].op = Op::Capture(self.captured(node, made));
            own.values[at].args.clear();
        }
        *own = body::cleaned(own, &self.graph.axes, &mut results);
    }

    /// The place of an operand of a recurrence, which may be new.
    fn captured(&mut self, node: NodeId, operand: NodeId) -> usize {
        let mut args = self.graph.args(node);
        args.iter().position(|arg| *arg == operand).unwrap_or_else(|| {
            args.push(operand);
            self.graph.set_args(node, &args);
            args.len() - 1
        })
    }

    /// The node of a value of a body.
    fn node(&mut self, owner: NodeId, own: &Body, at: usize) -> NodeId {
        let Value { op, args, ty, span, scope } = own.values[at].clone();
        if let Op::Capture(n) = op {
            return self.graph.args(owner)[n];
        }
        let args: Vec<NodeId> = args.into_iter().map(|arg| self.node(owner, own, arg.0 as usize)).collect();
        let graph = &mut *self.graph;
        *self.made.entry(format!("{op:?} {args:?}")).or_insert_with(|| graph.add(Node { op, ty, span, scope }, &args))
    }
}

/// Whether a node is made of weights and numbers alone.
fn of_weights(graph: &Graph, id: NodeId) -> bool {
    match graph.op(id) {
        Op::Param(_) | Op::Const(_) => true,
        op => is_pointwise(op) && graph.args(id).into_iter().all(|arg| of_weights(graph, arg)),
    }
}

fn is_pointwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select | Op::ToFloat)
}

/// Whether making it takes longer than reading it.
fn is_dear(op: &Op) -> bool {
    match op {
        Op::Unary(f) => !matches!(f, Unary::Neg | Unary::Abs | Unary::Not | Unary::Floor | Unary::Round),
        Op::Binary(f) => matches!(f, Binary::Pow | Binary::Div | Binary::Rem),
        _ => false,
    }
}
