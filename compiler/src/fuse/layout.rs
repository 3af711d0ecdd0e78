//! Where every value lies: the order of its axes in memory, and whether it is a view of another value's memory.
//!
//! All axes of a model have one storage order (their *rank*), so that most values of a kernel agree about what is contiguous.
//! A matrix product orders its result by its own needs; attention asks for its operands' order.

use super::expr::{KAxis, TensorId, View, ViewStep};
use crate::forms::recur::{contracted_axes, value_axis};
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{AxisId, Op, ParamId, Recur, Size, Type};
use std::collections::{BTreeSet, HashMap};

/// The memory behind a value. Axes are the model's (`KAxis(id)` for `AxisId(id)`), without the sequence axis; the view's
/// tensor is the root's node index.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node whose memory it is.
    pub root: NodeId,
    /// Which of its elements.
    pub view: View,
}

/// Storage decisions for a graph.
pub struct Layouts {
    /// Sizes of the model's axes; 0 for sequences.
    pub sizes: Vec<usize>,
    /// Storage rank of each axis; lower is slower.
    pub ranks: Vec<usize>,
    places: HashMap<NodeId, Place>,
    orders: HashMap<NodeId, Vec<AxisId>>,
}

impl Layouts {
    /// Ranks the axes; values are placed one by one with [`Layouts::place_node`].
    pub fn new(graph: &Graph) -> Layouts {
        let sizes: Vec<usize> = graph
            .axes
            .iter()
            .map(|a| match a.size {
                Size::Fixed(n) => n,
                Size::Seq => 0,
            })
            .collect();
        let ranks = rank(graph, &sizes);
        Layouts { sizes, ranks, places: HashMap::new(), orders: HashMap::new() }
    }

    /// Where a node's value lies.
    pub fn place(&self, node: NodeId) -> &Place {
        &self.places[&node]
    }

    /// Axes of a root's memory, slowest first.
    pub fn order(&self, root: NodeId) -> &[AxisId] {
        &self.orders[&root]
    }

    /// Axes of a type in storage order, without the sequence.
    pub fn sorted(&self, ty: &Type) -> Vec<AxisId> {
        let mut axes: Vec<AxisId> = ty.axes.iter().copied().filter(|a| self.sizes[a.0 as usize] > 0).collect();
        axes.sort_by_key(|a| (self.ranks[a.0 as usize], *a));
        axes
    }

    /// Elements of one row of a type.
    pub fn elements(&self, ty: &Type) -> usize {
        self.sorted(ty).iter().map(|a| self.sizes[a.0 as usize]).product()
    }

    /// Places a node; its arguments are placed already. `order`: the order of its own memory, if it is not by rank.
    pub fn place_node(&mut self, graph: &Graph, node: NodeId, order: Option<Vec<AxisId>>) {
        if order.is_none()
            && let Some(step) = view_step(&graph.node(node).op)
        {
            let place = &self.places[&graph.args(node)[0]];
            if let Some(view) = place.view.transformed(&step, &self.sizes) {
                let place = Place { root: place.root, view };
                self.places.insert(node, place);
                return;
            }
        }
        let order = order.unwrap_or_else(|| self.sorted(&graph.node(node).ty));
        let view = self.row_major(node, &order);
        self.orders.insert(node, order);
        self.places.insert(node, Place { root: node, view });
    }

    fn row_major(&self, node: NodeId, order: &[AxisId]) -> View {
        let mut stride = 1;
        let mut strides = Vec::new();
        for axis in order.iter().rev() {
            strides.push((KAxis(axis.0 as usize), stride));
            stride *= self.sizes[axis.0 as usize];
        }
        strides.sort();
        View { tensor: TensorId(node.index()), offset: 0, strides }
    }

    /// `axes` from slowest to fastest in `view`, if they lie there as one dense row-major block; with the block's unit stride.
    pub fn dense_block(&self, view: &View, axes: &[AxisId]) -> Option<(Vec<AxisId>, usize)> {
        let stride = |a: &AxisId| view.stride(KAxis(a.0 as usize));
        let size = |a: &AxisId| self.sizes[a.0 as usize];
        let mut order: Vec<AxisId> = axes.iter().copied().filter(|a| size(a) > 1).collect();
        order.sort_by_key(|a| (std::cmp::Reverse(stride(a)), *a));
        let unit = order.last().map_or(1, stride);
        let dense = order.windows(2).all(|w| stride(&w[0]) == stride(&w[1]) * size(&w[1]));
        let mut all: Vec<AxisId> = axes.iter().copied().filter(|a| size(a) == 1).collect();
        all.extend(order);
        (dense && unit > 0).then_some((all, unit))
    }
}

/// The substitution that a view op is.
pub fn view_step(op: &Op) -> Option<ViewStep> {
    let axis = |a: &AxisId| KAxis(a.0 as usize);
    let all = |list: &[AxisId]| list.iter().map(axis).collect();
    Some(match op {
        Op::Rename(from, to) => ViewStep::Slice { axis: axis(from), start: 0, to: axis(to) },
        Op::Slice { axis: from, start, to } => ViewStep::Slice { axis: axis(from), start: *start, to: axis(to) },
        Op::Pick { axis: from, index } => ViewStep::Pick { axis: axis(from), index: *index },
        Op::Split(from, into) => ViewStep::Split { axis: axis(from), into: all(into) },
        Op::Merge(from, into) => ViewStep::Merge { axes: all(from), into: axis(into) },
        _ => return None,
    })
}

/// A parameter under renamed axes: for each of its own axes the axis that the value calls it by.
pub fn renamed_param(graph: &Graph, node: NodeId) -> Option<(ParamId, Vec<AxisId>)> {
    match &graph.node(node).op {
        Op::Param(id) => Some((*id, graph.params[id.0 as usize].axes.clone())),
        Op::Rename(from, to) => {
            let (id, axes) = renamed_param(graph, graph.args(node)[0])?;
            Some((id, axes.into_iter().map(|a| if a == *from { *to } else { a }).collect()))
        }
        _ => None,
    }
}

/// Storage ranks: the order in which axes were declared, but for `a before b` wishes, most urgent first, as long as they do not
/// contradict each other.
fn rank(graph: &Graph, sizes: &[usize]) -> Vec<usize> {
    let mut wishes: Vec<(AxisId, AxisId)> = Vec::new();
    for node in graph.order() {
        match &graph.node(node).op {
            Op::Split(_, parts) | Op::Merge(parts, _) => wishes.extend(parts.windows(2).map(|w| (w[0], w[1]))),
            _ => {}
        }
    }
    for node in graph.order() {
        match &graph.node(node).op {
            Op::Recur(recur) => wishes.extend(recurrence_wishes(recur, sizes)),
            Op::Contract(over) => wishes.extend(choice_wishes(graph, node, over)),
            Op::Attend(attend) => {
                let query = graph.node(graph.args(node)[0]).ty.axes.clone();
                let others = query.iter().filter(|a| !attend.contract.contains(a) && **a != attend.seq);
                wishes.extend(others.flat_map(|a| attend.contract.iter().map(|c| (*a, *c))));
            }
            _ => {}
        }
    }
    for node in graph.order() {
        if let Op::Gather(row) = graph.op(node) {
            wishes.extend(table_wishes(graph, graph.args(node)[0], *row));
        }
    }
    for node in graph.order() {
        if let Op::Recur(recur) = graph.op(node) {
            wishes.extend(convolution_wishes(graph, node, recur, sizes));
        }
    }
    let count = sizes.len();
    let mut before: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); count];
    for (a, b) in wishes {
        let (a, b) = (a.0 as usize, b.0 as usize);
        if a != b && !reaches(&before, a, b) {
            before[b].insert(a);
        }
    }
    let mut ranks = vec![usize::MAX; count];
    for rank in 0..count {
        let free = |axis: &usize| ranks[*axis] == usize::MAX && before[*axis].iter().all(|b| ranks[*b] != usize::MAX);
        if let Some(next) = (0..count).find(free) {
            ranks[next] = rank;
        }
    }
    ranks
}

/// Vectors run along the axis of a state's values in the tables of a convolution too: operands that no step reads.
fn convolution_wishes(graph: &Graph, node: NodeId, recur: &Recur, sizes: &[usize]) -> Vec<(AxisId, AxisId)> {
    let captures = recur.body.values.iter().filter_map(|value| if let Op::Capture(n) = value.op { Some(n + 1) } else { None });
    let tables = graph.args(node).split_off(captures.max().unwrap_or(0));
    let fastest = |axes: &[AxisId]| value_axis(recur, axes, |axis| sizes[axis.0 as usize]);
    let Some(fastest) = recur.states.iter().find_map(|state| fastest(&state.axes)) else { return vec![] };
    // Views lie where what they view does.
    let root = |table: NodeId| std::iter::successors(Some(table), |x| view_step(graph.op(*x)).map(|_| graph.args(*x)[0])).last();
    let slow = tables.into_iter().filter_map(root).flat_map(|table| graph.ty(table).axes.clone());
    slow.filter(|axis| *axis != fastest).map(|axis| (axis, fastest)).collect()
}

/// A row of a table that is looked up lies side by side: few pages of it are touched then.
fn table_wishes(graph: &Graph, table: NodeId, row: AxisId) -> Vec<(AxisId, AxisId)> {
    match graph.op(table) {
        Op::Param(_) => graph.node(table).ty.axes.iter().map(|axis| (row, *axis)).collect(),
        _ => vec![],
    }
}

/// A product with weights that each row chooses reads the summed axes side by side, for one choice after the other.
fn choice_wishes(graph: &Graph, node: NodeId, over: &[AxisId]) -> Vec<(AxisId, AxisId)> {
    let chosen = |arg: NodeId| match graph.op(arg) {
        Op::Gather(_) => {
            let args = graph.args(arg);
            renamed_param(graph, args[0])?;
            graph.has_seq(&graph.node(args[1]).ty).then(|| graph.node(args[1]).ty.axes.clone())
        }
        _ => None,
    };
    let slots = graph.args(node).into_iter().filter_map(chosen).flatten().filter(|a| graph.size(*a).is_some());
    slots.flat_map(|slot| over.iter().map(move |axis| (slot, *axis))).collect()
}

/// Whether `to` already has to stand before `from`.
fn reaches(before: &[BTreeSet<usize>], from: usize, to: usize) -> bool {
    let mut open = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(axis) = open.pop() {
        if axis == to {
            return true;
        }
        open.extend(before[axis].iter().copied().filter(|a| seen.insert(*a)));
    }
    false
}

/// Vectors run along the axis of a state's values; reads walk the contracted axes outside of it. A state that is read along all axes but those
/// of all states (a memory of keys for each head) is one task for each of these.
fn recurrence_wishes(recur: &Recur, sizes: &[usize]) -> Vec<(AxisId, AxisId)> {
    let contracted = contracted_axes(recur);
    let mut wishes = Vec::new();
    let solves = recur.body.values.iter().any(|value| matches!(value.op, Op::Solve { .. }));
    let of_all = |axis: &AxisId| recur.states.iter().all(|state| state.axes.contains(axis));
    for state in &recur.states {
        let (read, free): (Vec<AxisId>, Vec<AxisId>) = state.axes.iter().partition(|axis| contracted.contains(axis));
        if read.len() > 1 && !solves && free.iter().all(of_all) {
            wishes.extend(free.iter().flat_map(|task| read.iter().map(move |axis| (*task, *axis))));
            continue;
        }
        let Some(fastest) = value_axis(recur, &state.axes, |axis| sizes[axis.0 as usize]) else { continue };
        let slow = state.axes.iter().filter(|a| contracted.contains(a));
        wishes.extend(slow.clone().map(|a| (*a, fastest)));
        let others = state.axes.iter().filter(|a| !contracted.contains(a) && **a != fastest);
        wishes.extend(others.flat_map(|free| slow.clone().map(|slow| (*free, *slow))));
    }
    wishes
}
