//! Between which numbers a value lies, whatever the inputs and parameters are.

use crate::graph::{Graph, NodeId};
use braid_dsl::model::{Binary, Body, Op, Unary, ValueId};

/// From, to; both may be infinite.
pub type Range = (f64, f64);

const ALL: Range = (f64::NEG_INFINITY, f64::INFINITY);

/// The range of a value of a body of `node`.
pub fn of_value(graph: &Graph, node: NodeId, body: &Body, id: ValueId) -> Range {
    let value = &body.values[id.0 as usize];
    let arg = |n: usize| of_value(graph, node, body, value.args[n]);
    match &value.op {
        Op::Capture(n) => of_node(graph, graph.args(node)[*n]),
        op => of_op(op, &arg, value.args.len()),
    }
}

fn of_node(graph: &Graph, id: NodeId) -> Range {
    let args = graph.args(id);
    let arg = |n: usize| of_node(graph, args[n]);
    of_op(graph.op(id), &arg, args.len())
}

fn of_op(op: &Op, arg: &dyn Fn(usize) -> Range, count: usize) -> Range {
    let hull = |a: Range, b: Range| (a.0.min(b.0), a.1.max(b.1));
    match op {
        Op::Const(x) => (*x, *x),
        Op::Index(_) | Op::Position(_) | Op::Length(..) => (0.0, f64::INFINITY),
        Op::Unary(f) => of_unary(*f, arg(0)),
        Op::Binary(f) => of_binary(*f, arg(0), arg(1)),
        Op::Select => hull(arg(1), arg(2)),
        Op::ToFloat | Op::Rename(..) | Op::Slice { .. } | Op::Pick { .. } | Op::Split(..) | Op::Merge(..) | Op::Gather(_) => {
            arg(0)
        }
        Op::Concat(..) => (1..count).fold(arg(0), |all, n| hull(all, arg(n))),
        _ => ALL,
    }
}

fn of_unary(f: Unary, (low, high): Range) -> Range {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    match f {
        Unary::Neg => (-high, -low),
        Unary::Exp => (low.exp(), high.exp()),
        Unary::Sigmoid => (1.0 / (1.0 + (-low).exp()), 1.0 / (1.0 + (-high).exp())),
        Unary::Tanh => (low.tanh(), high.tanh()),
        Unary::Softplus => (softplus(low), softplus(high)),
        Unary::Sqrt => (low.max(0.0).sqrt(), high.max(0.0).sqrt()),
        Unary::Abs => (low.max(-high).max(0.0), high.max(-low)),
        Unary::Sin | Unary::Cos | Unary::Erf => (-1.0, 1.0),
        _ => ALL,
    }
}

fn of_binary(f: Binary, a: Range, b: Range) -> Range {
    // Infinity times zero is zero here: the bound is not reached.
    let times = |x: f64, y: f64| if x == 0.0 || y == 0.0 { 0.0 } else { x * y };
    match f {
        Binary::Add => (a.0 + b.0, a.1 + b.1),
        Binary::Sub => (a.0 - b.1, a.1 - b.0),
        Binary::Mul => {
            let all = [times(a.0, b.0), times(a.0, b.1), times(a.1, b.0), times(a.1, b.1)];
            (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        }
        Binary::Div if b.0 > 0.0 => of_binary(Binary::Mul, a, (1.0 / b.1, 1.0 / b.0)),
        Binary::Min => (a.0.min(b.0), a.1.min(b.1)),
        Binary::Max => (a.0.max(b.0), a.1.max(b.1)),
        Binary::Pow if a.0 >= 0.0 && a.1 <= 1.0 && b.0 >= 0.0 => (0.0, 1.0),
        Binary::Pow if a.0 >= 1.0 && a.0 == a.1 => (a.0.powf(b.0), a.0.powf(b.1)),
        _ => ALL,
    }
}
