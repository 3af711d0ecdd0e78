//! Only the rows whose outputs the caller wants go through the end of the graph.

use crate::graph::{Graph, Node, NodeId};
use braid_dsl::model::Op;
use std::collections::{BTreeMap, HashMap};

/// The graph with an [`Op::Wanted`] as early as one value decides the output row by row.
pub fn insert(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let Some(Narrow { value, behind }) = narrowest(&graph) else { return graph };
    let Node { ty, span, scope, .. } = graph.node(value).clone();
    let wanted = graph.add(Node { op: Op::Wanted, ty, span, scope }, &[value]);
    for user in behind {
        let args: Vec<NodeId> = graph.args(user).into_iter().map(|a| if a == value { wanted } else { a }).collect();
        graph.set_args(user, &args);
    }
    if graph.output() == value {
        graph.set_output(wanted);
    }
    graph.compact()
}

/// A value through which all rows of the output come, and the nodes behind it on the way there.
struct Narrow {
    value: NodeId,
    behind: Vec<NodeId>,
}

/// Walks back from the output, latest node first, until one reads other rows; the last time that a single value was left is the
/// earliest place.
fn narrowest(graph: &Graph) -> Option<Narrow> {
    let order: HashMap<NodeId, usize> = graph.order().into_iter().enumerate().map(|(at, node)| (node, at)).collect();
    let output = graph.output();
    if !graph.has_seq(graph.ty(output)) {
        return None;
    }
    let mut open = BTreeMap::from([(order[&output], output)]);
    let mut behind = Vec::new();
    let mut found = Narrow { value: output, behind: vec![] };
    while let Some((_, node)) = open.pop_last() {
        if open.is_empty() {
            found = Narrow { value: node, behind: behind.clone() };
        }
        let rows: Vec<NodeId> = graph.args(node).into_iter().filter(|a| graph.has_seq(graph.ty(*a))).collect();
        let other_rows = matches!(
            graph.op(node),
            Op::Recur(_) | Op::Attend(_) | Op::Conv(_) | Op::Shift(_) | Op::Fetch(..) | Op::Largest { .. } | Op::Result(_)
        );
        if other_rows || rows.is_empty() {
            break;
        }
        behind.push(node);
        open.extend(rows.into_iter().map(|arg| (order[&arg], arg)));
    }
    Some(found)
}
