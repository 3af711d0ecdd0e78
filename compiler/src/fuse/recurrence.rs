//! Recurrences: the equations of a step, or of a chunk of rows, as nests inside a loop along the sequence, in place in the state's
//! memory.

use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::group::Owner;
use super::halves::Halves;
use super::kernel::{Base, Code, Nests, Part, Staging, Stmt, Store, Tensor, Walk};
use super::layout::Layouts;
use super::nest::{Axes, Builder, Item, What};
use super::parted::{Parted, parted};
use super::{Kernel, Operand, loops, product, staging};
use crate::error::Error;
use crate::forms::Chunk;
use crate::forms::recur::contracted_axes;
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Binary, Body, Elem, Op, Recur, Value, ValueId};
use braid_runtime::artifact::Dtype;
use std::collections::BTreeSet;

/// One form of a recurrence, in the terms of its equations.
struct Form<'a> {
    body: &'a Body,
    next: &'a [ValueId],
    outputs: &'a [ValueId],
    part: Part,
    /// The axis that counts the rows of a chunk.
    row: Option<AxisId>,
}

/// The kernels of a recurrence: of its chunks, if it has them, and of single steps; `members` are its node and its results.
pub fn build(fuser: &mut Fuser, owner: Owner, members: &[NodeId], recur: &Recur) -> Result<Vec<Kernel>, Error> {
    let (body, next, outputs) = (&recur.body, &recur.next[..], &recur.outputs[..]);
    let steps = |part| Form { body, next, outputs, part, row: None };
    let Some(Ok(chunk)) = fuser.forms.chunks.get(&members[0]) else {
        return kernels(fuser, owner, members, recur, &steps(Part::All));
    };
    let Chunk { body, next, outputs, rows, row, aligned, .. } = chunk;
    let whole = if *aligned { Part::Batches(*rows) } else { Part::Chunks(*rows) };
    let chunks = Form { body, next, outputs, part: whole, row: Some(*row) };
    let parts = if *aligned {
        vec![steps(Part::Ahead(*rows)), chunks, steps(Part::Behind(*rows))]
    } else {
        vec![chunks, steps(Part::Rest(*rows))]
    };
    let mut made = vec![];
    for form in &parts {
        made.extend(kernels(fuser, owner, members, recur, form)?);
    }
    Ok(made)
}

fn kernels(fuser: &mut Fuser, owner: Owner, members: &[NodeId], recur: &Recur, form: &Form) -> Result<Vec<Kernel>, Error> {
    let node = members[0];
    let mut draft = Draft::new(owner.rows);
    if let Some(Ok(chunk)) = fuser.forms.chunks.get(&node).filter(|_| form.row.is_some()) {
        // Rows of a chunk are slowest, in temporaries too, and then what stands side by side.
        for axis in [chunk.row, chunk.column].iter().chain(&chunk.stacks) {
            draft.axes.intern(*axis, fuser.anchors.layouts.sizes[axis.0 as usize], 0);
        }
    }
    for value in &form.body.values {
        for axis in value.ty.axes.iter().chain(recur.states.iter().flat_map(|s| s.axes.iter())) {
            fuser.axis(&mut draft, *axis);
        }
        fuser.intern_op(&mut draft, &value.op);
    }
    let old = state_views(fuser, &mut draft, node, recur);
    // The memory after the update, under tensors of its own until it is known that nothing reads the old state late.
    let new: Vec<View> = old.iter().map(|view| again(&mut draft, view)).collect();
    let items = items(fuser, &mut draft, members, form, &old, &new)?;
    let (grid, blocked) = grid(fuser, &mut draft, recur);
    let on_gpu = fuser.options.blocks > 0;
    let walks = on_gpu && matches!(form.part, Part::All | Part::Chunks(_));
    let blocked =
        if walks { blocked.map(|cut| Narrowed::of(form, recur, &grid).block(&grid, cut, &draft.axes.sizes)) } else { blocked };
    let whole = form.row.is_some() && !on_gpu;
    let pieces = fuser.forms.chunks.get(&node).is_some_and(|chunk| chunk.as_ref().is_ok_and(|chunk| chunk.pieces.is_some()));
    let pieces = pieces && whole;
    // Pieces share the vectors of a table: narrow blocks leave registers for more of them, and caches hold the tables.
    let blocked = if pieces { blocked.map(|(axis, width)| (axis, width.min(2 * fuser.options.lanes))) } else { blocked };
    let (grid, blocked) = if whole { wide(grid, blocked, &draft.axes.sizes) } else { (grid, blocked) };
    let triangular = |value: &Value| matches!(value.op, Op::Scores { .. } | Op::Substitute { .. });
    let rows = fuser.forms.chunks.get(&node).and_then(|chunk| chunk.as_ref().ok()).map(|chunk| chunk.rows);
    let by_halves = form.row.is_some() && on_gpu && form.body.values.iter().any(triangular);
    let halves = rows.filter(|_| by_halves).and_then(|rows| Halves::of(&mut draft.axes, rows));
    let axes = std::mem::take(&mut draft.axes);
    // Temporaries hold a whole block of the blocked axis, and one element of the other grid axes.
    let single: Vec<KAxis> = grid.iter().copied().filter(|a| blocked.is_none_or(|(cut, _)| cut != *a)).collect();
    let mut builder = Builder::new(&axes, &single, &mut draft.tensors, &mut draft.scratch);
    builder.halves = halves;
    builder.exponents = form.row.is_some() && on_gpu && fuser.options.dtype != Dtype::F32;
    if form.row.is_some() {
        builder.repeatable = 0;
    }
    let stmts = builder.run(&items);
    let stmts = in_place(stmts, &old, &new, &axes, &mut draft);
    if let (Some(Ok(chunk)), Some(_), true) = (fuser.forms.chunks.get(&node), form.row, on_gpu) {
        let rows: Vec<KAxis> = [chunk.row, chunk.column].into_iter().chain(chunk.third).map(|axis| axes.find(axis)).collect();
        if !matches!(form.part, Part::Chunks(_)) {
            return Err(Error::bug("fused", "mini-batches have no two kernels"));
        }
        let cut = cut_later(fuser, recur, &axes);
        let work = Parted { axes, grid, single, blocked, cut, rows, chunk: chunk.rows };
        return parted(fuser, draft, members, stmts, work);
    }
    let sums = if form.row.is_some() { fuser.options.sums } else { 0 };
    let lanes = fuser.options.lanes;
    let setting = loops::Setting { sizes: &axes.sizes, grid: &grid, blocked, lanes, sums };
    let (nests, tensors, scratch) = (loops::nests(stmts, &setting), draft.tensors.clone(), draft.scratch);
    let staging::Placed { nests, tensors, staging, scratch } = match pieces {
        true => {
            staging::Chunks { nests, tensors, setting, single: &single, rows: &[], walks: true, rounded: false, most: 0 }.beside()
        }
        false => {
            let rounded = form.row.is_some() && fuser.options.rounds_chunks();
            staging::Placed { nests, tensors, staging: Staging { rounded, ..Staging::default() }, scratch }
        }
    };
    let walk = Walk::Segments { grid, blocked, part: form.part };
    let code = Nests { walk, sizes: axes.sizes, tensors, nests, scratch, staging };
    Ok(vec![draft.finish(Code::Nests(code), members.to_vec())])
}

/// The axis of all states whose elements lie side by side: tasks are cut along it.
pub(super) fn fastest_axis(recur: &Recur, layouts: &Layouts) -> Option<AxisId> {
    recur.states.iter().flat_map(|state| state.axes.iter().copied()).max_by_key(|axis| layouts.ranks[axis.0 as usize])
}

/// The fastest axis of the states, if some lack it and no step goes across it.
fn cut_later(fuser: &Fuser, recur: &Recur, axes: &Axes) -> Option<KAxis> {
    let fastest = fastest_axis(recur, &fuser.anchors.layouts)?;
    let crossed = contracted_axes(recur).contains(&fastest)
        || recur.body.values.iter().any(|value| moved_axes(&value.op).contains(&fastest));
    let lacked = recur.states.iter().any(|state| !state.axes.contains(&fastest));
    (lacked && !crossed).then(|| axes.find(fastest))
}

/// The body's values, and where they are wanted.
fn items(
    fuser: &mut Fuser,
    draft: &mut Draft,
    members: &[NodeId],
    form: &Form,
    old: &[View],
    new: &[View],
) -> Result<Vec<Item>, Error> {
    let args = fuser.forms.graph.args(members[0]);
    let row = form.row.map(|row| fuser.axis(draft, row));
    let mut items = Vec::new();
    for value in &form.body.values {
        let what = match &value.op {
            Op::Capture(n) => What::Given(capture(fuser, draft, args[*n], row)?),
            Op::State(n) => What::Given(Expr::Load(old[*n].clone(), value.ty.elem)),
            Op::Const(number) => What::Given(Expr::Const(number.to_bits(), value.ty.elem)),
            Op::Index(axis) => What::Given(Expr::Index(fuser.axis(draft, *axis))),
            Op::Position(_) => What::Given(Expr::Position),
            op => What::Apply(op.clone(), value.args.iter().map(|a| a.0 as usize).collect()),
        };
        let axes = fuser.anchors.layouts.sorted(&value.ty).into_iter().map(|a| fuser.axis(draft, a)).collect();
        items.push(Item { what, axes, elem: value.ty.elem, stores: vec![] });
    }
    for result in &members[1..] {
        let Op::Result(n) = fuser.forms.graph.node(*result).op else { continue };
        let place = fuser.write(draft, *result);
        items[form.outputs[n].0 as usize].stores.push(rowwise(draft, place, row));
    }
    for (n, value) in form.next.iter().enumerate() {
        if form.body.values[value.0 as usize].op != Op::State(n) {
            // The state's own memory first: later statements of the step then read it there.
            items[value.0 as usize].stores.insert(0, new[n].clone());
        }
    }
    Ok(items)
}

/// A captured value at the row at hand, or at all rows of a chunk.
fn capture(fuser: &mut Fuser, draft: &mut Draft, node: NodeId, row: Option<KAxis>) -> Result<Expr, Error> {
    let expr = fuser.outside(draft, node, false)?;
    Ok(match (expr, row) {
        (Expr::Load(view, elem), _) => Expr::Load(rowwise(draft, view, row), elem),
        (Expr::Position, Some(row)) => Expr::Binary(Binary::Add, Elem::Int, Box::new(Expr::Position), Box::new(Expr::Index(row))),
        (expr, _) => expr,
    })
}

/// A view of one row as one of all rows of a chunk.
fn rowwise(draft: &Draft, mut view: View, row: Option<KAxis>) -> View {
    let step = draft.tensors[view.tensor.0].row;
    if let (Some(row), 1..) = (row, step) {
        view.strides.push((row, step));
        view.strides.sort();
    }
    view
}

/// Fewest tasks for a sequence that are worth repeating what blocks of a state have in common.
const FEW: usize = 4;

/// The grid of chunks: all of a state is one task, unless there are few.
fn wide(mut grid: Vec<KAxis>, blocked: Option<(KAxis, usize)>, sizes: &[usize]) -> (Vec<KAxis>, Option<(KAxis, usize)>) {
    let Some((cut, _)) = blocked else { return (grid, None) };
    let others: usize = grid.iter().filter(|axis| **axis != cut).map(|axis| sizes[axis.0]).product();
    if others < FEW {
        return (grid, blocked);
    }
    grid.retain(|axis| *axis != cut);
    (grid, None)
}

/// How narrow blocks of an axis are, where steps or chunks follow one another all the way and what else runs side by side is all there is.
#[derive(Clone, Copy)]
pub(super) struct Narrowed {
    /// Tasks for a sequence that a GPU is to have, if blocks are not too narrow.
    enough: usize,
    /// Fewest indices of a block that are worth a task.
    least: usize,
}

impl Narrowed {
    /// Blocks of single steps: some share a multiprocessor, and fill each other's waits.
    const STEPS: Narrowed = Narrowed { enough: 192, least: 8 };
    /// Of single steps of a number each, whose rows would be short pieces of memory.
    const NUMBERS: Narrowed = Narrowed { enough: 96, ..Narrowed::STEPS };
    /// Of chunks, whose products go in fragments: one for each of a chip's multiprocessors.
    pub(super) const CHUNKS: Narrowed = Narrowed { enough: 128, least: product::FRAGMENT[0] };
    /// Of chunks with a system of equations. These wait for one product after the other: blocks that share a multiprocessor fill these waits.
    const SYSTEMS: Narrowed = Narrowed { enough: 192, ..Narrowed::CHUNKS };

    fn of(form: &Form, recur: &Recur, grid: &[KAxis]) -> Narrowed {
        let system = |value: &Value| matches!(value.op, Op::Substitute { .. });
        match form.row {
            None if recur.states.iter().all(|state| state.axes.len() == grid.len()) => Narrowed::NUMBERS,
            None => Narrowed::STEPS,
            Some(_) if form.body.values.iter().any(system) => Narrowed::SYSTEMS,
            Some(_) => Narrowed::CHUNKS,
        }
    }

    /// Blocks of an axis that are so narrow that there are enough of them.
    pub(super) fn block(self, grid: &[KAxis], (cut, mut width): (KAxis, usize), sizes: &[usize]) -> (KAxis, usize) {
        let others: usize = grid.iter().filter(|axis| **axis != cut).map(|axis| sizes[axis.0]).product();
        while width > self.least && others * sizes[cut.0].div_ceil(width) < self.enough {
            width /= 2;
        }
        (cut, width)
    }
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
    let fastest = fastest_axis(recur, &fuser.anchors.layouts);
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
        // A sum may start with the old element, but not go through old ones.
        let sums = stmts[write].reduce.is_some() && reads(&stmts[write]);
        let stale = stmts[write + 1..].iter().any(reads) || elsewhere(&stmts[write]) || sums;
        if !stale {
            stmts = stmts.into_iter().map(|s| renamed(s, new.tensor, old.tensor)).collect();
            continue;
        }
        let elements: usize = old.strides.iter().map(|(a, _)| axes.sizes[a.0]).product();
        draft.tensors[new.tensor.0].base = Base::Scratch(draft.scratch);
        draft.scratch += (elements * 4).next_multiple_of(braid_runtime::artifact::ALIGN);
        late.push(Stmt::plain(old.clone(), Expr::Load(new.clone(), Elem::Float)));
    }
    stmts.extend(late);
    stmts
}

fn renamed(mut stmt: Stmt, from: TensorId, to: TensorId) -> Stmt {
    stmt.views_mut(&mut |view| {
        if view.tensor == from {
            view.tensor = to;
        }
    });
    stmt
}
