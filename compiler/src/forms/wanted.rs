//! Only the rows whose outputs the caller wants go through the end of the graph.

use crate::graph::{Graph, Node, NodeId};
use braid_dsl::model::Op;

/// The graph with an [`Op::Wanted`] as early as one value decides the output row by row.
pub fn insert(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let Some((user, value)) = place(&graph) else { return graph };
    let Node { ty, span, scope, .. } = graph.node(value).clone();
    let wanted = graph.add(Node { op: Op::Wanted, ty, span, scope }, &[value]);
    match user {
        Some(user) => {
            let args: Vec<NodeId> = graph.args(user).into_iter().map(|a| if a == value { wanted } else { a }).collect();
            graph.set_args(user, &args);
        }
        None => graph.set_output(wanted),
    }
    graph.compact()
}

/// The value that becomes wanted rows, and its user on the way to the output (none: it is the output).
fn place(graph: &Graph) -> Option<(Option<NodeId>, NodeId)> {
    let mut user = None;
    let mut at = graph.output();
    if !graph.has_seq(graph.ty(at)) {
        return None;
    }
    loop {
        let rows: Vec<NodeId> = graph.args(at).into_iter().filter(|a| graph.has_seq(graph.ty(*a))).collect();
        let stateful = matches!(graph.op(at), Op::Recur(_) | Op::Attend(_) | Op::Conv(_) | Op::Shift(_) | Op::Result(_));
        let leaf = rows.is_empty();
        let shared = user.is_some() && graph.users(at).len() > 1;
        match rows[..] {
            [one] if !stateful && !leaf && !shared => {
                user = Some(at);
                at = one;
            }
            _ => return Some((user, at)),
        }
    }
}
