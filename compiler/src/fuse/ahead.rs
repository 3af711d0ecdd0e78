//! What of a chunk needs no state: a kernel of its own does it for all chunks at once, ahead of the one that goes from chunk to chunk.
//! What the second reads of the first crosses in buffers with a row for each row of the call.

use super::Operand;
use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, Reduction, Stmt, Tensor};
use super::nest::Axes;
use crate::graph::NodeId;
use braid_dsl::model::{Elem, Reduce};
use std::collections::{BTreeSet, HashMap};

/// The statements of a chunk, parted.
pub struct Split {
    /// What needs no state.
    pub ahead: Vec<Stmt>,
    /// What does.
    pub walk: Vec<Stmt>,
}

/// Where values cross.
pub struct Crossing<'a> {
    /// Whose.
    pub node: NodeId,
    /// Axes that count rows of a chunk; of a value that has several, the first does.
    pub rows: &'a [KAxis],
    /// Axes that are one index for a whole task.
    pub grid: &'a [KAxis],
    /// All axes.
    pub axes: &'a Axes,
}

/// Parts the statements of a chunk; `draft` gets the tensors of what crosses.
pub fn split(fuser: &mut Fuser, draft: &mut Draft, stmts: Vec<Stmt>, crossing: &Crossing) -> Split {
    let (stmts, early) = sums_apart(draft, stmts);
    let bound = bound(draft, &stmts, &early);
    let mut split = Split { ahead: vec![], walk: vec![] };
    for (at, stmt) in stmts.into_iter().enumerate() {
        let waits = !early.contains(&at) && (reads(&stmt, &bound) || bound.contains(&stmt.target.tensor));
        if waits { split.walk.push(stmt) } else { split.ahead.push(stmt) }
    }
    cross(fuser, draft, &mut split, crossing);
    split
}

fn reads(stmt: &Stmt, tensors: &BTreeSet<TensorId>) -> bool {
    stmt.reads().any(|view| tensors.contains(&view.tensor))
}

/// Tensors that hold the state or what was made of it.
fn bound(draft: &Draft, stmts: &[Stmt], early: &BTreeSet<usize>) -> BTreeSet<TensorId> {
    let states = (0..draft.tensors.len()).filter(|at| draft.tensors[*at].base == Base::State);
    let mut bound: BTreeSet<TensorId> = states.map(TensorId).collect();
    loop {
        let made = stmts.iter().enumerate().filter(|(at, stmt)| !early.contains(at) && reads(stmt, &bound));
        let made: Vec<TensorId> = made.map(|(_, stmt)| stmt.target.tensor).filter(|tensor| !bound.contains(tensor)).collect();
        if made.is_empty() {
            return bound;
        }
        bound.extend(made);
    }
}

/// Sums of what needs no state that are added onto something that does: the sum comes first, and is what the other is added onto.
/// Gives which statements these sums are.
fn sums_apart(draft: &mut Draft, stmts: Vec<Stmt>) -> (Vec<Stmt>, BTreeSet<usize>) {
    let waiting = bound(draft, &stmts, &BTreeSet::new());
    let (mut parted, mut early): (Vec<Stmt>, _) = (vec![], BTreeSet::new());
    for mut stmt in stmts {
        // A state has one place for all chunks.
        let stays = draft.tensors[stmt.target.tensor.0].base == Base::State;
        let plain = !stays && stmt.ordered.is_none() && stmt.below.is_none() && stmt.system.is_none();
        let sums = stmt.reduce.as_ref().is_some_and(|reduction| reduction.how == Reduce::Sum);
        let own_waits = stmt.expr.views().iter().any(|view| waiting.contains(&view.tensor));
        let start = stmt.reduce.as_mut().filter(|_| plain && sums && !own_waits).and_then(|reduction| reduction.start.take());
        let Some(start) = start else {
            parted.push(stmt);
            continue;
        };
        if !start.views().iter().any(|view| waiting.contains(&view.tensor)) {
            stmt.reduce.iter_mut().for_each(|reduction| reduction.start = Some(start.clone()));
            parted.push(stmt);
            continue;
        }
        let target = stmt.target.clone();
        stmt.target = apart(draft, &target);
        let sum = Expr::Load(stmt.target.clone(), Elem::Float);
        let onto = |start: Option<Expr>| match start {
            None => sum.clone(),
            Some(start) => add(start, sum.clone()),
        };
        match parted.pop() {
            // Two sums in one place: the one that waits begins with the other.
            Some(mut other) if is_sum_into(&other, &target) && start == Expr::Load(target.clone(), Elem::Float) => {
                other.reduce =
                    other.reduce.take().map(|reduction| Reduction { start: Some(onto(reduction.start.clone())), ..reduction });
                early.insert(parted.len());
                parted.extend([stmt, other]);
            }
            other => {
                parted.extend(other);
                early.insert(parted.len());
                let space = stmt.target.strides.iter().chain(&target.strides).map(|(axis, _)| *axis).collect::<BTreeSet<_>>();
                let space = space.into_iter().collect();
                let joined =
                    Stmt { target, expr: onto(Some(start)), reduce: None, ordered: None, below: None, system: None, space };
                parted.extend([stmt, joined]);
            }
        }
    }
    (parted, early)
}

fn add(a: Expr, b: Expr) -> Expr {
    Expr::Binary(braid_dsl::model::Binary::Add, Elem::Float, Box::new(a), Box::new(b))
}

fn is_sum_into(stmt: &Stmt, target: &View) -> bool {
    let starts_there = |reduction: &Reduction| reduction.start.as_ref().is_some_and(|start| start.views().contains(&target));
    stmt.target == *target && stmt.reduce.as_ref().is_some_and(|sum| sum.how == Reduce::Sum && !starts_there(sum))
}

/// A place for a sum that is made ahead: that of the result, if it lies in a buffer, or a temporary of the same shape.
fn apart(draft: &mut Draft, target: &View) -> View {
    if !matches!(draft.tensors[target.tensor.0].base, Base::Scratch(_)) {
        return target.clone();
    }
    draft.tensors.push(draft.tensors[target.tensor.0]);
    View { tensor: TensorId(draft.tensors.len() - 1), ..target.clone() }
}

/// Lets the second part read what the first left in temporaries from buffers.
fn cross(fuser: &mut Fuser, draft: &mut Draft, split: &mut Split, crossing: &Crossing) {
    let mut made = BTreeSet::new();
    let mut places: HashMap<View, View> = HashMap::new();
    for stmt in &mut split.walk {
        let mut found = Vec::new();
        let mut look = |view: &mut View| {
            let is_scratch = matches!(draft.tensors[view.tensor.0].base, Base::Scratch(_));
            if is_scratch && !made.contains(&view.tensor) {
                found.push(view.clone());
            }
        };
        stmt.reads_mut(&mut look);
        for view in found {
            let (general, axis) = crossing.general(&view);
            let place = match places.get(&general) {
                Some(place) => place.clone(),
                None => {
                    let place = crossing.buffer(fuser, draft, &general);
                    places.insert(general.clone(), place.clone());
                    place
                }
            };
            let place = axis.map_or(place.clone(), |axis| place.renamed(crossing.rows[0], axis));
            stmt.reads_mut(&mut |own| {
                if *own == view {
                    *own = place.clone();
                }
            });
        }
        made.insert(stmt.target.tensor);
    }
    let mut places: Vec<(View, View)> = places.into_iter().collect();
    places.sort_by_key(|(_, place)| place.tensor);
    places.into_iter().for_each(|(from, place)| leave(&mut split.ahead, from, place));
}

/// Writes what crosses to its buffer: at once, if nothing else is to be read where it was, or by a copy.
fn leave(ahead: &mut Vec<Stmt>, from: View, place: View) {
    let read = ahead.iter().any(|stmt| stmt.reads().any(|view| view.tensor == from.tensor));
    let mut writers = ahead.iter_mut().filter(|stmt| stmt.target.tensor == from.tensor);
    if let (Some(only), None, false) = (writers.next(), writers.next(), read)
        && only.target == from
    {
        only.space.extend(place.strides.iter().map(|(axis, _)| *axis));
        only.space.sort();
        only.space.dedup();
        only.target = place;
        return;
    }
    let mut space: Vec<KAxis> = place.strides.iter().map(|(axis, _)| *axis).collect();
    space.sort();
    let expr = Expr::Load(from, Elem::Float);
    ahead.push(Stmt { target: place, expr, reduce: None, ordered: None, below: None, system: None, space });
}

impl Crossing<'_> {
    /// The view with its rows along the first of the axes that count them, and the axis that they run along.
    fn general(&self, view: &View) -> (View, Option<KAxis>) {
        let axis = self.rows.iter().copied().find(|axis| view.stride(*axis) > 0);
        (axis.map_or(view.clone(), |axis| view.renamed(axis, self.rows[0])), axis)
    }

    /// A buffer for a value: for each row what it has there, at each place of the grid. A value without rows stands in the first.
    fn buffer(&self, fuser: &mut Fuser, draft: &mut Draft, view: &View) -> View {
        let mut own: Vec<(KAxis, usize)> = view.strides.iter().copied().filter(|(axis, _)| *axis != self.rows[0]).collect();
        own.sort_by_key(|(axis, stride)| (*stride, *axis));
        let fastest_first = own.into_iter().map(|(axis, _)| axis).chain(self.grid.iter().rev().copied());
        let (mut strides, mut elements) = (vec![], 1);
        for axis in fastest_first {
            strides.push((axis, elements));
            elements *= self.axes.sizes[axis.0];
        }
        if view.stride(self.rows[0]) > 0 {
            strides.push((self.rows[0], elements));
        }
        strides.sort();
        let at = fuser.spill(self.node, elements);
        let operand = draft.operand(Operand::Buffer(at));
        let store = super::kernel::Store::F32;
        let tensor = draft.tensor(Tensor { base: Base::Arena, operand, row: elements, store, through_wanted: false });
        View { tensor, offset: 0, strides }
    }
}
