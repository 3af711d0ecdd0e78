//! Recurrences without the outputs that nothing reads: every name that a body assigns is one, most are read inside only.

use super::{Graph, NodeId, body};
use braid_dsl::model::{Op, ValueId};

/// Takes unread outputs away, and the operands that only they need.
pub fn remove(graph: &mut Graph) {
    for id in graph.order() {
        let Op::Recur(recur) = graph.op(id) else { continue };
        let results: Vec<(NodeId, usize)> = graph.users(id).into_iter().filter_map(|user| result(graph, user)).collect();
        let read = |n: &usize| results.iter().any(|(_, of)| of == n);
        let kept: Vec<usize> = (0..recur.outputs.len()).filter(read).collect();
        if kept.len() == recur.outputs.len() {
            continue;
        }
        let mut recur = recur.clone();
        recur.outputs = kept.iter().map(|n| recur.outputs[*n]).collect();
        let mut ends: Vec<&mut ValueId> = recur.next.iter_mut().chain(recur.outputs.iter_mut()).collect();
        recur.body = body::cleaned(&recur.body, &graph.axes, &mut ends);
        let old = graph.args(id);
        let mut args: Vec<NodeId> = vec![];
        for value in &mut recur.body.values {
            let Op::Capture(n) = &mut value.op else { continue };
            args.push(old[*n]);
            *n = args.len() - 1;
        }
        graph.node_mut(id).op = Op::Recur(recur);
        graph.set_args(id, &args);
        for (result, n) in results {
            let place = kept.iter().position(|kept| *kept == n).unwrap_or(n);
            graph.node_mut(result).op = Op::Result(place);
        }
    }
}

/// A result of a recurrence, and which.
fn result(graph: &Graph, user: NodeId) -> Option<(NodeId, usize)> {
    match graph.op(user) {
        Op::Result(n) => Some((user, *n)),
        _ => None,
    }
}
