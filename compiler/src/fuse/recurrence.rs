//! Recurrences: the step's equations as nests inside a loop along the sequence, in place in the state's memory.

use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::group::Owner;
use super::kernel::{Base, Code, Nests, Stmt, Store, Tensor, Walk};
use super::layout::contracted_axes;
use super::nest::{Axes, Builder, Item, What};
use super::{Kernel, Operand, loops};
use crate::error::Error;
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Elem, Op, Recur};
use std::collections::BTreeSet;

/// The kernel of a recurrence; `members` are its node and its results.
pub fn build(fuser: &mut Fuser, owner: Owner, members: &[NodeId], recur: &Recur) -> Result<Kernel, Error> {
    let node = members[0];
    let mut draft = Draft::new(owner.rows);
    let args = fuser.forms.graph.args(node);
    for value in &recur.body.values {
        for axis in value.ty.axes.iter().chain(recur.states.iter().flat_map(|s| s.axes.iter())) {
            fuser.axis(&mut draft, *axis);
        }
        fuser.intern_op(&mut draft, &value.op);
    }
    let old = state_views(fuser, &mut draft, node, recur);
    // The memory after the update, under tensors of its own until it is known that nothing reads the old state late.
    let new: Vec<View> = old.iter().map(|view| again(&mut draft, view)).collect();
    let mut items = Vec::new();
    for value in &recur.body.values {
        let what = match &value.op {
            Op::Capture(n) => What::Given(fuser.outside(&mut draft, args[*n], false)?),
            Op::State(n) => What::Given(Expr::Load(old[*n].clone(), value.ty.elem)),
            Op::Const(number) => What::Given(Expr::Const(number.to_bits(), value.ty.elem)),
            Op::Index(axis) => What::Given(Expr::Index(fuser.axis(&mut draft, *axis))),
            Op::Position(_) => What::Given(Expr::Position),
            op => What::Apply(op.clone(), value.args.iter().map(|a| a.0 as usize).collect()),
        };
        let axes = fuser.anchors.layouts.sorted(&value.ty).into_iter().map(|a| fuser.axis(&mut draft, a)).collect();
        items.push(Item { what, axes, elem: value.ty.elem, stores: vec![] });
    }
    for result in &members[1..] {
        let Op::Result(n) = fuser.forms.graph.node(*result).op else { continue };
        let place = fuser.write(&mut draft, *result);
        items[recur.outputs[n].0 as usize].stores.push(place);
    }
    for (n, value) in recur.next.iter().enumerate() {
        if recur.body.values[value.0 as usize].op != Op::State(n) {
            // The state's own memory first: later statements of the step then read it there.
            items[value.0 as usize].stores.insert(0, new[n].clone());
        }
    }
    let (grid, blocked) = grid(fuser, &mut draft, recur);
    let axes = std::mem::take(&mut draft.axes);
    // Temporaries hold a whole block of the blocked axis, and one element of the other grid axes.
    let single: Vec<KAxis> = grid.iter().copied().filter(|a| blocked.is_none_or(|(cut, _)| cut != *a)).collect();
    let builder = Builder { axes: &axes, grid: &single, tensors: &mut draft.tensors, scratch: &mut draft.scratch, stmts: vec![] };
    let stmts = builder.run(&items);
    let stmts = in_place(stmts, &old, &new, &axes, &mut draft);
    let nests = loops::nests(stmts, &axes.sizes, &grid, blocked, fuser.options.lanes);
    let walk = Walk::Segments { grid, blocked };
    let code = Nests { walk, sizes: axes.sizes, tensors: draft.tensors.clone(), nests, scratch: draft.scratch };
    Ok(draft.finish(Code::Nests(code), members.to_vec()))
}

fn state_views(fuser: &Fuser, draft: &mut Draft, node: NodeId, recur: &Recur) -> Vec<View> {
    let mut views = Vec::new();
    for (state, id) in recur.states.iter().zip(&fuser.forms.carried[&node]) {
        let operand = draft.operand(Operand::State(id.index()));
        let tensor = draft.tensor(Tensor { base: Base::State, operand, row: 0, store: Store::F32, through_wanted: false });
        let axes: Vec<KAxis> = state.axes.iter().map(|a| fuser.axis(draft, *a)).collect();
        views.push(draft.axes.dense(tensor, &axes, &[]).0);
    }
    views
}

fn again(draft: &mut Draft, view: &View) -> View {
    draft.tensors.push(draft.tensors[view.tensor.0]);
    View { tensor: TensorId(draft.tensors.len() - 1), ..view.clone() }
}

/// Axes along which the whole step is independent, in storage order, and the block that the fastest is cut into.
fn grid(fuser: &Fuser, draft: &mut Draft, recur: &Recur) -> (Vec<KAxis>, Option<(KAxis, usize)>) {
    let contracted = contracted_axes(recur);
    let moved: BTreeSet<AxisId> = recur.body.values.iter().flat_map(|v| moved_axes(&v.op)).collect();
    let results: Vec<&Vec<AxisId>> =
        recur.outputs.iter().chain(&recur.next).map(|v| &recur.body.values[v.0 as usize].ty.axes).collect();
    let free = |axis: &AxisId| {
        !contracted.contains(axis)
            && !moved.contains(axis)
            && recur.states.iter().all(|s| s.axes.contains(axis))
            && results.iter().all(|axes| axes.contains(axis))
    };
    let ranks = &fuser.anchors.layouts.ranks;
    let mut kept: Vec<AxisId> = recur.states.iter().take(1).flat_map(|s| s.axes.iter().copied()).filter(free).collect();
    kept.sort_by_key(|a| ranks[a.0 as usize]);
    let fastest = recur.states.iter().flat_map(|s| s.axes.iter().copied()).max_by_key(|a| ranks[a.0 as usize]);
    let grid: Vec<KAxis> = kept.iter().map(|a| fuser.axis(draft, *a)).collect();
    let solves = recur.body.values.iter().any(|v| matches!(v.op, Op::Solve { .. }));
    let blocked = (kept.last().copied() == fastest && fastest.is_some() && !solves).then(|| {
        let axis = grid[grid.len() - 1];
        (axis, loops::vector_lanes(draft.axes.sizes[axis.0], fuser.options.lanes))
    });
    (grid, blocked)
}

/// Axes that an op renames, cuts or looks up: no independent walk along them.
fn moved_axes(op: &Op) -> Vec<AxisId> {
    match op {
        Op::Rename(a, b) | Op::Solve { rows: a, columns: b } => vec![*a, *b],
        Op::Slice { axis, to, .. } => vec![*axis, *to],
        Op::Pick { axis, .. } | Op::Gather(axis) => vec![*axis],
        Op::Split(axis, parts) | Op::Merge(parts, axis) | Op::Concat(parts, axis) => [&parts[..], &[*axis]].concat(),
        _ => vec![],
    }
}

/// Lets the new state overwrite the old one at once if nothing reads the old one afterwards, or elsewhere than at the element
/// being written; otherwise the new state waits in scratch until the step is over.
fn in_place(mut stmts: Vec<Stmt>, old: &[View], new: &[View], axes: &Axes, draft: &mut Draft) -> Vec<Stmt> {
    let mut late = Vec::new();
    for (old, new) in old.iter().zip(new) {
        let Some(write) = stmts.iter().position(|s| s.target.tensor == new.tensor) else { continue };
        let reads = |s: &Stmt| s.expr.views().into_iter().any(|v| v.tensor == old.tensor);
        let elsewhere = |s: &Stmt| s.expr.views().into_iter().any(|v| v.tensor == old.tensor && v != old);
        let stale = stmts[write + 1..].iter().any(reads) || elsewhere(&stmts[write]) || stmts[write].reduce.is_some();
        if !stale {
            stmts = stmts.into_iter().map(|s| renamed(s, new.tensor, old.tensor)).collect();
            continue;
        }
        let elements: usize = old.strides.iter().map(|(a, _)| axes.sizes[a.0]).product();
        draft.tensors[new.tensor.0].base = Base::Scratch(draft.scratch);
        draft.scratch += (elements * 4).next_multiple_of(braid_runtime::artifact::ALIGN);
        let space = old.strides.iter().map(|(a, _)| *a).collect();
        late.push(Stmt { target: old.clone(), expr: Expr::Load(new.clone(), Elem::Float), reduce: None, space, system: None });
    }
    stmts.extend(late);
    stmts
}

fn renamed(mut stmt: Stmt, from: TensorId, to: TensorId) -> Stmt {
    let rename = |view: &mut View| {
        if view.tensor == from {
            view.tensor = to;
        }
    };
    rename(&mut stmt.target);
    stmt.expr.views_mut(&mut |view| rename(view));
    stmt
}
