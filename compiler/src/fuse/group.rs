//! Which nodes are computed together: epilogues join the skeleton before them, row-wise nodes join their neighbours.
//!
//! A node's *level* is the number of skeletons on the longest path to it. Row-wise nodes of one level have no skeleton between
//! them, so all of them are one kernel, unless a later one alone wants what is made of values in memory. An epilogue is a region of
//! pointwise nodes behind a skeleton whose other operands are ready before it starts.

use super::anchor::Anchors;
use super::kernel::Rows;
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{AxisId, Op};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Names a kernel before it is built; the order is that of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Weights-only work comes first, wanted rows last.
    pub rows: Rows,
    /// See the module.
    pub level: usize,
    /// Skeletons stand before the row-wise kernel of their level.
    pub rowwise: bool,
    /// Place in the graph's order, for skeletons and for what is made once ([`apart`]).
    pub at: usize,
}

/// Who computes what.
pub struct Groups {
    /// The kernel of each computed node.
    pub owners: HashMap<NodeId, Owner>,
    /// Members of each kernel, in graph order.
    pub members: std::collections::BTreeMap<Owner, Vec<NodeId>>,
    /// Roots that must be in memory.
    pub stored: HashSet<NodeId>,
    /// Why the next node did not join a skeleton's epilogue, for `explain`.
    pub notes: Vec<(NodeId, String)>,
}

/// Nodes that need no computation.
pub fn is_leaf(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Param(_) | Op::Const(_) | Op::Index(_) | Op::Position(_) | Op::Length(..))
}

/// Most nodes of an epilogue.
const LONGEST: usize = 32;

impl Groups {
    /// Groups a graph's nodes.
    pub fn find(graph: &Graph, anchors: &Anchors) -> Groups {
        let order = graph.order();
        let at: HashMap<NodeId, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let levels = levels(graph, anchors, &order);
        let mut groups =
            Groups { owners: HashMap::new(), members: Default::default(), stored: HashSet::new(), notes: Vec::new() };
        for node in &order {
            if anchors.is_rowwise(graph, *node) || matches!(graph.node(*node).op, Op::Result(_)) {
                continue;
            }
            let owner = Owner { rows: anchors.rows[node], level: levels[node], rowwise: false, at: at[node] };
            let region = groups.epilogue(graph, anchors, &levels, &at, owner, *node);
            for member in region {
                groups.owners.insert(member, owner);
            }
        }
        let levels = sunk(graph, anchors, levels, &groups.owners, &order);
        let apart = apart(graph, anchors, &levels, &order);
        for node in &order {
            let op = &graph.node(*node).op;
            if is_leaf(op) || groups.owners.contains_key(node) {
                continue;
            }
            let owner = match op {
                Op::Result(_) => groups.owners[&graph.args(*node)[0]],
                _ => {
                    let at = apart.get(node).copied().unwrap_or(0);
                    Owner { rows: anchors.rows[node], level: levels[node], rowwise: true, at }
                }
            };
            groups.owners.insert(*node, owner);
        }
        for node in &order {
            if let Some(owner) = groups.owners.get(node) {
                groups.members.entry(*owner).or_default().push(*node);
            }
        }
        groups.stored = stored(graph, anchors, &groups.owners, &order);
        groups
    }

    /// The node and the pointwise region behind it that it can finish in registers.
    fn epilogue(
        &mut self,
        graph: &Graph,
        anchors: &Anchors,
        levels: &HashMap<NodeId, usize>,
        at: &HashMap<NodeId, usize>,
        owner: Owner,
        node: NodeId,
    ) -> Vec<NodeId> {
        let columns = match (anchors.products.get(&node), &graph.node(node).op) {
            (Some(product), _) => [product.columns.clone(), product.inner.clone(), product.batch.clone()],
            (None, Op::Conv(_) | Op::Shift(_)) => [anchors.layouts.order(node).to_vec(), vec![], vec![]],
            _ => return vec![node],
        };
        let mut region = vec![node];
        let mut open: BTreeSet<usize> = graph.users(node).iter().map(|u| at[u]).collect();
        let by_place: HashMap<usize, NodeId> = at.iter().map(|(n, i)| (*i, *n)).filter(|(i, _)| *i >= at[&node]).collect();
        while let (Some(next), true) = (open.pop_first(), region.len() < LONGEST) {
            let user = by_place[&next];
            if region.contains(&user) {
                continue;
            }
            match self.obstacle(graph, anchors, levels, (&region, owner), &columns, user) {
                None => {
                    region.push(user);
                    open.extend(graph.users(user).iter().map(|u| at[u]));
                }
                Some(why) => self.notes.push((node, format!("{user} did not join: {why}"))),
            }
        }
        let closed = |count: usize| {
            let part = &region[..count];
            let leaves = |n: &NodeId| *n == graph.output() || graph.users(*n).iter().any(|u| !part.contains(u));
            part[..count - 1].iter().all(|n| !leaves(n)) && lies_in_columns(anchors, part[count - 1], &columns)
        };
        let count = (1..=region.len()).rev().find(|count| closed(*count)).unwrap_or(1);
        region.truncate(count);
        region
    }

    /// Why `user` cannot be computed where the columns of `region`'s first node are.
    fn obstacle(
        &self,
        graph: &Graph,
        anchors: &Anchors,
        levels: &HashMap<NodeId, usize>,
        (region, owner): (&[NodeId], Owner),
        columns: &[Vec<AxisId>; 3],
        user: NodeId,
    ) -> Option<String> {
        let first = region[0];
        let node = graph.node(user);
        if !matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Select | Op::ToFloat) {
            return Some("it is not pointwise".into());
        }
        let axes = |n: NodeId| graph.node(n).ty.axes.iter().copied().collect::<BTreeSet<_>>();
        if axes(user) != axes(first) || anchors.rows[&user] != anchors.rows[&first] {
            return Some("it has other axes".into());
        }
        for arg in graph.args(user) {
            let op = &graph.node(arg).op;
            if region.contains(&arg) || matches!(op, Op::Const(_)) {
                continue;
            }
            let ready = is_leaf(op)
                || anchors.rows[&arg] == Rows::Once
                || levels[&arg] < levels[&first]
                || self.owners.get(&anchors.layouts.place(arg).root).is_some_and(|before| !before.rowwise && *before < owner);
            if !ready {
                return Some(format!("its operand {arg} is not ready before the skeleton"));
            }
            if matches!(op, Op::Index(_) | Op::Position(_) | Op::Length(..)) || !lies_in_columns(anchors, arg, columns) {
                return Some(format!("its operand {arg} does not lie along the columns"));
            }
        }
        None
    }
}

/// Whether a value's memory runs along the columns with unit stride, or does not vary along them; and evenly along the two
/// other lists (inner rows and batch), or not at all.
fn lies_in_columns(anchors: &Anchors, node: NodeId, [columns, inner, batch]: &[Vec<AxisId>; 3]) -> bool {
    let view = &anchors.layouts.place(node).view;
    let evenly = |axes| flat_stride(anchors, view, axes);
    matches!(evenly(columns), Some(0 | 1)) && evenly(inner).is_some() && evenly(batch).is_some()
}

/// The stride with which a view runs along `axes` (slowest first) as if they were one; 0 if it does not vary along them.
pub fn flat_stride(anchors: &Anchors, view: &super::expr::View, axes: &[AxisId]) -> Option<usize> {
    let layouts = &anchors.layouts;
    let stride = |a: &AxisId| view.stride(super::expr::KAxis(a.0 as usize));
    let long: Vec<AxisId> = axes.iter().copied().filter(|a| layouts.sizes[a.0 as usize] > 1).collect();
    if long.iter().all(|a| stride(a) == 0) {
        return Some(0);
    }
    let even = long.windows(2).all(|w| stride(&w[0]) == stride(&w[1]) * layouts.sizes[w[1].0 as usize]);
    even.then(|| long.last().map_or(0, stride))
}

/// What is made once of different weights is made apart, so that equal layers share one function: of each row-wise node that is made once a number
/// that all those it has to do with share, on its level. Those that no weights are in come before the others, which do not meet through them.
fn apart(graph: &Graph, anchors: &Anchors, levels: &HashMap<NodeId, usize>, order: &[NodeId]) -> HashMap<NodeId, usize> {
    let mut weighed: HashSet<NodeId> = HashSet::new();
    let mut numbers: HashMap<NodeId, usize> = HashMap::new();
    for (at, node) in order.iter().enumerate() {
        let (op, args) = (&graph.node(*node).op, graph.args(*node));
        if matches!(op, Op::Param(_)) || args.iter().any(|arg| weighed.contains(arg)) {
            weighed.insert(*node);
        }
        if is_leaf(op) || anchors.rows.get(node) != Some(&Rows::Once) || !anchors.is_rowwise(graph, *node) {
            continue;
        }
        let weighs = weighed.contains(node);
        let beside = |arg: &&NodeId| levels[*arg] == levels[node] && weighed.contains(*arg) == weighs;
        let met: BTreeSet<usize> = args.iter().filter(beside).filter_map(|arg| numbers.get(arg).copied()).collect();
        let own = met.first().copied().unwrap_or(if weighs { order.len() + at } else { at });
        if met.len() > 1 {
            numbers.values_mut().filter(|number| met.contains(number)).for_each(|number| *number = own);
        }
        numbers.insert(*node, own);
    }
    numbers
}

fn levels(graph: &Graph, anchors: &Anchors, order: &[NodeId]) -> HashMap<NodeId, usize> {
    let mut levels: HashMap<NodeId, usize> = HashMap::new();
    for node in order {
        let below = graph.args(*node).iter().map(|a| levels[a]).max().unwrap_or(0);
        let own = match &graph.node(*node).op {
            Op::Result(_) => below,
            _ if anchors.is_rowwise(graph, *node) => below,
            _ => below + 1,
        };
        levels.insert(*node, own);
    }
    levels
}

/// Levels as before, but for pointwise nodes that only row-wise kernels of one later level want, made of what is in memory anyway: those are
/// made there, so that what they are made of is read once more instead of being written and read. `owners`: who is computed by skeletons.
fn sunk(
    graph: &Graph,
    anchors: &Anchors,
    mut levels: HashMap<NodeId, usize>,
    owners: &HashMap<NodeId, Owner>,
    order: &[NodeId],
) -> HashMap<NodeId, usize> {
    let rowwise = |node: NodeId| !owners.contains_key(&node) && anchors.is_rowwise(graph, node);
    for node in order.iter().rev() {
        let pointwise = matches!(graph.op(*node), Op::Unary(_) | Op::Binary(_) | Op::Select | Op::ToFloat);
        if !pointwise || !rowwise(*node) || anchors.rows[node] == Rows::Once || *node == graph.output() {
            continue;
        }
        let users = graph.users(*node);
        let Some(later) = users.first().map(|user| levels[user]).filter(|later| *later > levels[node]) else { continue };
        let together = |user: &NodeId| rowwise(*user) && levels[user] == later && anchors.rows[user] == anchors.rows[node];
        let kept = |arg: &NodeId| {
            let stays = is_leaf(graph.op(*arg)) || owners.contains_key(arg) || levels[arg] < levels[node];
            stays || anchors.rows[arg] == Rows::Once || graph.users(*arg).iter().any(|user| owners.contains_key(user))
        };
        if users.iter().all(together) && graph.args(*node).iter().all(kept) {
            levels.insert(*node, later);
        }
    }
    levels
}

/// The memory that crosses from one kernel to another.
fn stored(graph: &Graph, anchors: &Anchors, owners: &HashMap<NodeId, Owner>, order: &[NodeId]) -> HashSet<NodeId> {
    let mut stored = HashSet::from([anchors.layouts.place(graph.output()).root]);
    for node in order {
        let Some(owner) = owners.get(node) else { continue };
        if matches!(graph.node(*node).op, Op::Result(_)) {
            continue;
        }
        for arg in operands(graph, anchors, *node) {
            let root = anchors.layouts.place(arg).root;
            let inside = owners.get(&arg) == Some(owner);
            if !inside && !is_leaf(&graph.node(root).op) {
                stored.insert(root);
            }
        }
    }
    stored
}

/// What a node's kernel reads for it: a product that chooses its weights reads the ids, not the gathered weights.
pub fn operands(graph: &Graph, anchors: &Anchors, node: NodeId) -> Vec<NodeId> {
    match anchors.products.get(&node) {
        Some(product) => [product.left].into_iter().chain(product.ids).collect(),
        None => graph.args(node),
    }
}
