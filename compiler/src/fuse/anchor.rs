//! Which nodes get a skeleton of their own, and where each value is laid down for them.

use super::kernel::{Rows, is_rowwise};
use super::layout::{Layouts, renamed_param};
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{Attend, AxisId, Gives, Op, ParamId, Size};
use std::collections::HashMap;

/// A matrix product found in the graph.
#[derive(Clone, Debug)]
pub struct Product {
    /// The left operand.
    pub left: NodeId,
    /// The weights.
    pub param: ParamId,
    /// The weights' own axes (indices) by role.
    pub param_batch: Vec<usize>,
    /// See `param_batch`.
    pub param_depth: Vec<usize>,
    /// See `param_batch`.
    pub param_columns: Vec<usize>,
    /// Axes of the result, slowest first: inner rows, batch, columns.
    pub inner: Vec<AxisId>,
    /// Batch axes, slowest first.
    pub batch: Vec<AxisId>,
    /// Contracted axes, slowest first.
    pub depth: Vec<AxisId>,
    /// Columns, slowest first.
    pub columns: Vec<AxisId>,
    /// The node with the ids, if each inner row chooses its batch element.
    pub ids: Option<NodeId>,
}

/// Facts about every node that the later steps ask for.
pub struct Anchors {
    /// Storage.
    pub layouts: Layouts,
    /// Matrix products by their node.
    pub products: HashMap<NodeId, Product>,
    /// Which rows a node has.
    pub rows: HashMap<NodeId, Rows>,
}

impl Anchors {
    /// Decides for all nodes of a graph.
    pub fn find(graph: &Graph) -> Anchors {
        let order = graph.order();
        let asked = asked_orders(graph, &order);
        let mut anchors = Anchors { layouts: Layouts::new(graph), products: HashMap::new(), rows: HashMap::new() };
        for node in order {
            let rows = rows_of(graph, node, &anchors.rows);
            anchors.rows.insert(node, rows);
            let own = match product(graph, node, &anchors.layouts, asked.get(&node)) {
                Some(found) => {
                    let order = [&found.inner[..], &found.batch, &found.columns].concat();
                    anchors.products.insert(node, found);
                    Some(order)
                }
                // The caller writes an input as it is declared.
                None if matches!(graph.op(node), Op::Input(_)) => Some(fixed_axes(graph, node)),
                None => asked.get(&node).cloned(),
            };
            anchors.layouts.place_node(graph, node, own);
        }
        anchors
    }

    /// Whether a node is computed by nests together with its neighbours.
    pub fn is_rowwise(&self, graph: &Graph, node: NodeId) -> bool {
        is_rowwise(&graph.node(node).op) && !self.products.contains_key(&node)
    }
}

fn fixed_axes(graph: &Graph, node: NodeId) -> Vec<AxisId> {
    graph.ty(node).axes.iter().copied().filter(|axis| graph.size(*axis).is_some()).collect()
}

fn rows_of(graph: &Graph, node: NodeId, known: &HashMap<NodeId, Rows>) -> Rows {
    if matches!(graph.node(node).op, Op::Wanted) {
        return Rows::Wanted;
    }
    let from_args = graph.args(node).iter().map(|a| known[a]).max().unwrap_or(Rows::Once);
    let own = match graph.node(node).op {
        Op::Recur(ref recur) if Some(recur.seq) == graph.source() => Rows::Source,
        Op::Recur(_) => Rows::All,
        _ if graph.of_source(&graph.node(node).ty) => Rows::Source,
        _ if graph.has_seq(&graph.node(node).ty) => Rows::All,
        _ => Rows::Once,
    };
    own.max(from_args)
}

/// Orders that attention and searches need of their operands: first come, first served; a copy serves the rest.
fn asked_orders(graph: &Graph, order: &[NodeId]) -> HashMap<NodeId, Vec<AxisId>> {
    let mut asked = HashMap::new();
    for node in order {
        let args = graph.args(*node);
        match &graph.node(*node).op {
            Op::Attend(attend) => {
                for (arg, order) in args.iter().zip(attention_orders(graph, &args, attend)) {
                    let own = &graph.node(*arg).ty.axes;
                    asked.entry(*arg).or_insert(order.into_iter().filter(|axis| own.contains(axis)).collect());
                }
                asked.insert(*node, attention_result(graph, *node, attend));
            }
            Op::Top { axis, into } => {
                let ty = &graph.node(args[0]).ty;
                let outer: Vec<AxisId> =
                    ty.axes.iter().copied().filter(|a| a != axis && graph.axis(*a).size != Size::Seq).collect();
                asked.entry(args[0]).or_insert([&outer[..], &[*axis]].concat());
                asked.insert(*node, [&outer[..], &[*into]].concat());
            }
            _ => {}
        }
    }
    asked
}

/// Axes of attention by role: groups (of keys), per (of queries only), contracted, and those of a value or what a choice counts.
pub fn attention_axes(graph: &Graph, args: &[NodeId], attend: &Attend) -> [Vec<AxisId>; 4] {
    let axes = |n: usize| fixed_axes(graph, args[n]);
    let (q, k) = (axes(0), axes(1));
    let groups: Vec<AxisId> = k.iter().copied().filter(|a| !attend.contract.contains(a)).collect();
    let per = q.into_iter().filter(|a| !attend.contract.contains(a) && !groups.contains(a)).collect();
    let last = match attend.gives {
        Gives::Values => axes(2).into_iter().filter(|a| !groups.contains(a)).collect(),
        Gives::Total | Gives::Tally { .. } => vec![],
        Gives::Best(slot) => vec![slot],
    };
    [groups, per, attend.contract.clone(), last]
}

/// The orders of its queries, keys and values.
fn attention_orders(graph: &Graph, args: &[NodeId], attend: &Attend) -> Vec<Vec<AxisId>> {
    let [groups, per, key, value] = attention_axes(graph, args, attend);
    let orders = [[&groups[..], &per, &key].concat(), [&groups[..], &key].concat(), [&groups[..], &value].concat()];
    orders[..attend.operands()].to_vec()
}

/// The order of its result: a choice by a score of all heads of a group has no axes of these.
fn attention_result(graph: &Graph, node: NodeId, attend: &Attend) -> Vec<AxisId> {
    let [groups, per, _, last] = attention_axes(graph, &graph.args(node), attend);
    let own = &graph.node(node).ty.axes;
    [groups, per, last].concat().into_iter().filter(|axis| own.contains(axis)).collect()
}

/// A product of a row-dependent value with a parameter, or with one gathered by ids, whose operand lies as the skeleton needs.
fn product(graph: &Graph, node: NodeId, layouts: &Layouts, asked: Option<&Vec<AxisId>>) -> Option<Product> {
    let Op::Contract(over) = &graph.node(node).op else { return None };
    let args = graph.args(node);
    let fixed = |n: NodeId| !graph.has_seq(&graph.node(n).ty);
    let (left, weights) = match (weights_of(graph, args[0]), weights_of(graph, args[1])) {
        // A row of a table by ids is weights only beside a value that is not.
        (_, Some(found)) if fixed(args[1]) => (args[0], found),
        (Some(found), _) if fixed(args[0]) => (args[1], found),
        (None, Some(found)) => (args[0], found),
        (Some(found), None) => (args[1], found),
        _ => return None,
    };
    let (param, names, chosen) = weights;
    let seq_axes = |n: NodeId| graph.node(n).ty.axes.iter().copied().filter(|a| graph.axis(*a).size != Size::Seq);
    if !graph.has_seq(&graph.node(left).ty) {
        return None;
    }
    let left_axes: Vec<AxisId> = seq_axes(left).collect();
    let result: Vec<AxisId> = seq_axes(node).collect();
    let (expert, slots) = match chosen {
        Some((axis, ids)) => (Some(axis), Some((ids, seq_axes(ids).collect::<Vec<_>>()))),
        None => (None, None),
    };
    let in_param = |a: &AxisId| names.contains(a) && Some(*a) != expert;
    let depth: Vec<AxisId> = over.iter().copied().filter(|a| in_param(a) && left_axes.contains(a)).collect();
    if depth.len() != over.len() || depth.is_empty() {
        return None;
    }
    let batch: Vec<AxisId> = result.iter().copied().filter(|a| in_param(a) && left_axes.contains(a)).collect();
    let columns: Vec<AxisId> = result.iter().copied().filter(|a| in_param(a) && !left_axes.contains(a)).collect();
    let inner: Vec<AxisId> = result.iter().copied().filter(|a| !in_param(a)).collect();
    let view = &layouts.place(left).view;
    let (depth, unit) = layouts.dense_block(view, &depth)?;
    let (batch, _) = layouts.dense_block(view, &batch).or((batch.is_empty()).then_some((vec![], 1)))?;
    let inner = match &slots {
        // Every inner row is one choice: the ids' own axes, no others, one list.
        Some((_, slots)) => (inner.iter().all(|a| slots.contains(a)) && slots.len() == 1 && batch.is_empty()).then_some(inner)?,
        None if inner.is_empty() => inner,
        None => layouts.dense_block(view, &inner)?.0,
    };
    if unit != 1 || columns.is_empty() {
        return None;
    }
    let position = |axes: &[AxisId]| axes.iter().map(|a| names.iter().position(|n| n == a)).collect::<Option<Vec<_>>>();
    let columns = in_order(layouts, columns, asked);
    let param_batch = match expert {
        Some(axis) => position(&[axis])?,
        None => position(&batch)?,
    };
    Some(Product {
        left,
        param,
        param_batch,
        param_depth: position(&depth)?,
        param_columns: position(&columns)?,
        inner,
        batch,
        depth,
        columns,
        ids: slots.map(|(ids, _)| ids),
    })
}

fn in_order(layouts: &Layouts, mut axes: Vec<AxisId>, asked: Option<&Vec<AxisId>>) -> Vec<AxisId> {
    axes.sort_by_key(|a| match asked {
        Some(order) => order.iter().position(|o| o == a).unwrap_or(usize::MAX),
        None => layouts.ranks[a.0 as usize],
    });
    axes
}

/// A parameter, maybe renamed, maybe gathered by ids: with the names of its axes and the gathered axis and ids.
#[allow(clippy::type_complexity, reason = "used in one place")]
fn weights_of(graph: &Graph, node: NodeId) -> Option<(ParamId, Vec<AxisId>, Option<(AxisId, NodeId)>)> {
    if let Op::Gather(axis) = graph.node(node).op {
        let args = graph.args(node);
        let (param, names) = renamed_param(graph, args[0])?;
        return graph.has_seq(&graph.node(args[1]).ty).then_some((param, names, Some((axis, args[1]))));
    }
    renamed_param(graph, node).map(|(param, names)| (param, names, None))
}
