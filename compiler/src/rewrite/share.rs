//! Equal values are computed once, also if commuting operands stand the other way round.

use crate::graph::{Graph, NodeId};
use braid_dsl::model::{Binary, Op};
use std::collections::HashMap;

/// The graph with equal values merged and ids that count up.
pub fn merged(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let mut known: HashMap<String, NodeId> = HashMap::new();
    for id in graph.order() {
        let mut args = graph.args(id);
        if commutes(graph.op(id)) {
            args.sort_unstable();
        }
        // Bodies print with their places in the text, so recurrences and attentions of different calls never merge.
        let key = format!("{:?} {args:?} {:?}", graph.op(id), graph.ty(id).elem);
        match known.get(&key) {
            Some(same) => graph.replace(id, *same),
            None => drop(known.insert(key, id)),
        }
    }
    graph.compact()
}

fn commutes(op: &Op) -> bool {
    use Binary::*;
    matches!(op, Op::Binary(Add | Mul | Min | Max | Eq | Ne | And | Or) | Op::Contract(_))
}
