//! What of a chunk needs no state: a kernel of its own does it for all chunks at once, ahead of the one that goes from chunk to chunk.
//! What the second reads of the first crosses in buffers with a row for each row of the call.

use super::Operand;
use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, COPIED, Stmt, Store, Tensor};
use super::nest::Axes;
use crate::graph::NodeId;
use braid_dsl::model::{Elem, Reduce};
use std::collections::{BTreeSet, HashMap};

/// The statements of a chunk, parted.
pub struct Split {
    /// What needs no state.
    pub intra: Vec<Stmt>,
    /// What does.
    pub inter: Vec<Stmt>,
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
    /// The axis that states are cut along, if factors are rounded: what chunks leave of them lies along the other one, as it is summed over.
    pub cut: Option<KAxis>,
}

/// Parts the statements of a chunk; `draft` gets the tensors of what crosses.
pub fn split(fuser: &mut Fuser, draft: &mut Draft, stmts: Vec<Stmt>, crossing: &Crossing) -> Split {
    let (stmts, early) = sums_apart(draft, stmts);
    let bound = bound(states(draft), &stmts, &early);
    apportioned(fuser, draft, stmts, crossing, (&bound, &early))
}

/// Parts the statements that need states once more: first what needs only some of them. `later`: the others. None: what needs the others
/// reads the first states themselves, or is not all as `wanted`, or there is nothing else.
pub fn split_states(
    fuser: &mut Fuser,
    draft: &mut Draft,
    stmts: &[Stmt],
    crossing: &Crossing,
    later: BTreeSet<TensorId>,
    wanted: &dyn Fn(&Stmt) -> bool,
) -> Option<Split> {
    let bound = bound(later.clone(), stmts, &BTreeSet::new());
    let first: BTreeSet<TensorId> = states(draft).difference(&later).copied().collect();
    let waits = |stmt: &&Stmt| reads(stmt, &bound) || bound.contains(&stmt.target.tensor);
    let mut waiting = stmts.iter().filter(waits);
    if stmts.iter().all(|stmt| waits(&stmt)) || !waiting.all(|stmt| wanted(stmt) && !reads(stmt, &first)) {
        return None;
    }
    Some(apportioned(fuser, draft, stmts.to_vec(), crossing, (&bound, &BTreeSet::new())))
}

/// Parts statements into what states are made of, and the rest, which only reads what they are as a chunk begins and is done for all chunks
/// of so many rows at once behind it. The first leaves the states of each chunk in buffers; what the second needs that is made of no state
/// and without sums is made in both. None: nothing is of the second kind, or it reads what becomes of a state, or what is written again
/// later.
pub fn split_outputs(fuser: &mut Fuser, draft: &mut Draft, stmts: &[Stmt], crossing: &Crossing, chunk: usize) -> Option<Split> {
    let states = states(draft);
    let needed = made_of(&states, stmts);
    let reads_only = |stmt: &Stmt| !needed.contains(&stmt.target.tensor);
    let bound = bound(states.clone(), stmts, &BTreeSet::new());
    let waits = |stmt: &Stmt| bound.contains(&stmt.target.tensor) || reads(stmt, &bound);
    let ordered = |stmt: &Stmt| waits(stmt) && (stmt.ordered.is_some() || stmt.system.is_some());
    if !stmts.iter().any(|stmt| reads_only(stmt) && reads(stmt, &states)) || stmts.iter().any(ordered) {
        return None;
    }
    let again = made_again(draft, stmts, (&needed, &bound));
    let behind = |stmt: &Stmt| reads_only(stmt) || again.contains(&stmt.target.tensor);
    for (at, stmt) in stmts.iter().enumerate().filter(|(_, stmt)| behind(stmt)) {
        let is_written = |list: &[Stmt], view: &View| list.iter().any(|own| !reads_only(own) && own.target.tensor == view.tensor);
        let stale = |view: &View| match states.contains(&view.tensor) {
            _ if again.contains(&view.tensor) => false,
            true => is_written(&stmts[..at], view),
            // A matrix that no rows count has no place in buffers of rows.
            false => is_written(&stmts[at..], view) || is_written(&stmts[..at], view) && crossing.is_matrix(view),
        };
        if stmt.reads().any(stale) {
            return None;
        }
    }
    // What is made again first, so that what is done to a sum follows it, and what needs states last: these take room that others leave.
    let order = |stmt: &&Stmt| if reads_only(stmt) { 1 + usize::from(waits(stmt)) } else { 0 };
    let mut outputs: Vec<&Stmt> = stmts.iter().filter(|stmt| behind(stmt)).collect();
    outputs.sort_by_key(order);
    let mut outputs: Vec<Stmt> = outputs.into_iter().cloned().collect();
    let updates = stmts.iter().filter(|stmt| !reads_only(stmt)).cloned();
    let mut saved: Vec<(View, View)> = vec![];
    for view in outputs.iter().flat_map(Stmt::reads).filter(|view| states.contains(&view.tensor)) {
        if !saved.iter().any(|(own, _)| own == view) {
            let place = crossing.saved(fuser, draft, view, chunk);
            saved.push((view.clone(), place));
        }
    }
    for stmt in &mut outputs {
        stmt.reads_mut(&mut |view| {
            if let Some((_, place)) = saved.iter().find(|(own, _)| own == view) {
                *view = place.clone();
            }
        });
    }
    let leave = saved.into_iter().map(|(state, place)| Stmt::plain(place, Expr::Load(state, Elem::Float)));
    let mut split = Split { intra: leave.chain(updates).collect(), inter: outputs };
    cross(fuser, draft, &mut split, crossing);
    Some(split)
}

/// Temporaries that states are made of, the rest needs, and that are made of no state and without sums: to make them again takes less than to
/// hand them on.
fn made_again(draft: &Draft, stmts: &[Stmt], (needed, bound): (&BTreeSet<TensorId>, &BTreeSet<TensorId>)) -> BTreeSet<TensorId> {
    let plain = |stmt: &Stmt| stmt.reduce.is_none() && stmt.system.is_none();
    // Factors of sums cross, rounded.
    let multiplied = |own: &TensorId| {
        let summed = |stmt: &&Stmt| stmt.reduce.is_some() && stmt.expr.views().iter().any(|view| view.tensor == *own);
        stmts.iter().filter(summed).any(|stmt| !needed.contains(&stmt.target.tensor))
    };
    let cheap = |own: &TensorId| {
        let is_scratch = matches!(draft.tensors[own.0].base, Base::Scratch(_)) && !bound.contains(own);
        let plain = stmts.iter().filter(|stmt| stmt.target.tensor == *own).all(plain);
        is_scratch && needed.contains(own) && plain && !multiplied(own)
    };
    let mut again = BTreeSet::new();
    loop {
        let is_made = |stmt: &&Stmt| !needed.contains(&stmt.target.tensor) || again.contains(&stmt.target.tensor);
        let read = stmts.iter().filter(is_made).flat_map(Stmt::reads).map(|view| view.tensor);
        let found: Vec<TensorId> = read.filter(|own| cheap(own) && !again.contains(own)).collect();
        if found.is_empty() {
            return again;
        }
        again.extend(found);
    }
}

/// Tensors, and all that is read for what is written there.
fn made_of(tensors: &BTreeSet<TensorId>, stmts: &[Stmt]) -> BTreeSet<TensorId> {
    let mut needed = tensors.clone();
    loop {
        let makers = stmts.iter().filter(|stmt| needed.contains(&stmt.target.tensor));
        let read: Vec<TensorId> =
            makers.flat_map(Stmt::reads).map(|view| view.tensor).filter(|id| !needed.contains(id)).collect();
        if read.is_empty() {
            return needed;
        }
        needed.extend(read);
    }
}

fn apportioned(
    fuser: &mut Fuser,
    draft: &mut Draft,
    stmts: Vec<Stmt>,
    crossing: &Crossing,
    (bound, early): (&BTreeSet<TensorId>, &BTreeSet<usize>),
) -> Split {
    let mut split = Split { intra: vec![], inter: vec![] };
    for (at, stmt) in stmts.into_iter().enumerate() {
        let waits = !early.contains(&at) && (reads(&stmt, bound) || bound.contains(&stmt.target.tensor));
        if waits { split.inter.push(stmt) } else { split.intra.push(stmt) }
    }
    cross(fuser, draft, &mut split, crossing);
    split
}

fn reads(stmt: &Stmt, tensors: &BTreeSet<TensorId>) -> bool {
    stmt.reads().any(|view| tensors.contains(&view.tensor))
}

fn states(draft: &Draft) -> BTreeSet<TensorId> {
    (0..draft.tensors.len()).filter(|at| draft.tensors[*at].base == Base::State).map(TensorId).collect()
}

/// Tensors that hold states or what was made of them.
fn bound(states: BTreeSet<TensorId>, stmts: &[Stmt], early: &BTreeSet<usize>) -> BTreeSet<TensorId> {
    let mut bound = states;
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
    let waiting = bound(states(draft), &stmts, &BTreeSet::new());
    // What only reads states is done for all chunks at once, sums of either kind behind one another.
    let needed = made_of(&states(draft), &stmts);
    let (mut parted, mut early): (Vec<Stmt>, BTreeSet<usize>) = (vec![], BTreeSet::new());
    for mut stmt in stmts {
        let start = onto_what_waits(draft, &stmt, &waiting).filter(|_| needed.contains(&stmt.target.tensor));
        let Some(start) = start else {
            parted.push(stmt);
            continue;
        };
        let target = stmt.target.clone();
        let onto_itself = start == Expr::Load(target.clone(), Elem::Float);
        let chain = if onto_itself { first_of_chain(&parted, &target) } else { None };
        // Nobody may write over the sum before it is added.
        if parted[..chain.unwrap_or(parted.len())].iter().any(|earlier| earlier.target.tensor == target.tensor) {
            parted.push(stmt);
            continue;
        }
        stmt.target = apart(draft, &target);
        stmt.reduce.iter_mut().for_each(|reduction| reduction.start = None);
        let sum = Expr::Load(stmt.target.clone(), Elem::Float);
        match chain {
            // Sums in one place: the first one begins with this one.
            Some(first) => {
                let other = parted[first].reduce.iter_mut();
                other.for_each(|own| own.start = Some(own.start.take().map_or(sum.clone(), |start| add(start, sum.clone()))));
                parted.insert(first, stmt);
                early = early.into_iter().map(|at| at + usize::from(at >= first)).chain([first]).collect();
            }
            None => {
                early.insert(parted.len());
                parted.extend([stmt, Stmt::plain(target, add(start, sum))]);
            }
        }
    }
    (parted, early)
}

/// What a sum of what needs no state is added onto, if that does.
fn onto_what_waits(draft: &Draft, stmt: &Stmt, waiting: &BTreeSet<TensorId>) -> Option<Expr> {
    let waits = |expr: &Expr| expr.views().iter().any(|view| waiting.contains(&view.tensor));
    // A state has one place for all chunks.
    let stays = draft.tensors[stmt.target.tensor.0].base == Base::State;
    let plain = !stays && stmt.ordered.is_none() && stmt.below.is_none() && stmt.system.is_none();
    let reduction = stmt.reduce.as_ref().filter(|reduction| plain && reduction.how == Reduce::Sum && !waits(&stmt.expr))?;
    reduction.start.clone().filter(waits)
}

/// Where the last statements begin that are sums into one place, each but the first added onto the one before.
fn first_of_chain(stmts: &[Stmt], target: &View) -> Option<usize> {
    let onto = Expr::Load(target.clone(), Elem::Float);
    let sum = |stmt: &Stmt| stmt.reduce.clone().filter(|own| stmt.target == *target && own.how == Reduce::Sum);
    for (at, stmt) in stmts.iter().enumerate().rev() {
        if sum(stmt)?.start != Some(onto.clone()) {
            let reads = stmt.reads().any(|view| view.tensor == target.tensor);
            return (!reads).then_some(at);
        }
    }
    None
}

fn add(a: Expr, b: Expr) -> Expr {
    Expr::Binary(braid_dsl::model::Binary::Add, Elem::Float, Box::new(a), Box::new(b))
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
    // Statements that solve a system read what they have written.
    let made: BTreeSet<TensorId> = split.inter.iter().map(|stmt| stmt.target.tensor).collect();
    let mut places: HashMap<View, View> = HashMap::new();
    for stmt in &mut split.inter {
        let mut found = Vec::new();
        let mut look = |view: &mut View| {
            let is_scratch = matches!(draft.tensors[view.tensor.0].base, Base::Scratch(_));
            if is_scratch && !made.contains(&view.tensor) {
                found.push(view.clone());
            }
        };
        stmt.reads_mut(&mut look);
        for view in found {
            let (general, axis) = view.by_row(crossing.rows);
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
    }
    let mut places: Vec<(View, View)> = places.into_iter().collect();
    places.sort_by_key(|(_, place)| place.tensor);
    for at in 0..places.len() {
        let (from, place) = places[at].clone();
        // Several views of one value each need it where it was made.
        let alone = places.iter().filter(|(other, _)| other.tensor == from.tensor).count() == 1;
        leave(&mut split.intra, (from, place), crossing.rows, alone);
    }
}

/// Writes what crosses to its buffer: at once, if nothing else is to be read where it was (`alone`: nothing else of it crosses), or by a copy.
fn leave(intra: &mut Vec<Stmt>, (from, place): (View, View), rows: &[KAxis], alone: bool) {
    let read = !alone || intra.iter().any(|stmt| stmt.reads().any(|view| view.tensor == from.tensor));
    let mut writers = intra.iter_mut().filter(|stmt| stmt.target.tensor == from.tensor);
    if let (Some(only), None, false) = (writers.next(), writers.next(), read) {
        // Rows may be counted by another axis where it is made.
        let (general, axis) = only.target.by_row(rows);
        if general == from {
            only.target = axis.map_or(place.clone(), |axis| place.renamed(rows[0], axis));
            only.space.extend(only.target.strides.iter().map(|(axis, _)| *axis));
            only.space.sort();
            only.space.dedup();
            return;
        }
    }
    intra.push(Stmt::plain(place, Expr::Load(from, Elem::Float)));
}

impl Crossing<'_> {
    /// A buffer for a value: for each row what it has there, at each place of the grid. A value without rows stands in the first.
    fn buffer(&self, fuser: &mut Fuser, draft: &mut Draft, view: &View) -> View {
        self.laid(fuser, draft, (view, self.grid), Store::F32)
    }

    /// A buffer for what a view has of each row, rounded.
    pub fn rounded(&self, fuser: &mut Fuser, draft: &mut Draft, view: &View) -> View {
        self.laid(fuser, draft, (view, &[]), Store::Bf16)
    }

    /// A buffer in which a view's numbers lie as they do, all of them for each index of the axes beside.
    fn laid(&self, fuser: &mut Fuser, draft: &mut Draft, (view, beside): (&View, &[KAxis]), store: Store) -> View {
        let mut own: Vec<(KAxis, usize)> = view.strides.iter().copied().filter(|(axis, _)| *axis != self.rows[0]).collect();
        own.sort_by_key(|(axis, stride)| (*stride, *axis));
        let fastest_first = own.into_iter().map(|(axis, _)| axis).chain(beside.iter().rev().copied());
        let (mut strides, mut elements) = (vec![], 1);
        for axis in fastest_first {
            strides.push((axis, elements));
            elements *= self.axes.sizes[axis.0];
        }
        if view.stride(self.rows[0]) > 0 {
            strides.push((self.rows[0], elements));
        }
        strides.sort();
        View { tensor: self.rows_of(fuser, draft, elements, store), offset: 0, strides }
    }

    /// A buffer with so many numbers for each row.
    fn rows_of(&self, fuser: &mut Fuser, draft: &mut Draft, row: usize, store: Store) -> TensorId {
        let operand = draft.operand(Operand::Buffer(fuser.spill(self.node, row, store)));
        draft.tensor(Tensor { base: Base::Arena, operand, row, store, through_wanted: false })
    }

    /// Whether a value without rows varies along several axes in a task.
    fn is_matrix(&self, view: &View) -> bool {
        let own = view.strides.iter().filter(|(axis, _)| !self.grid.contains(axis));
        own.count() > 1 && view.by_row(self.rows).1.is_none()
    }

    /// A buffer for a state as each chunk begins: it takes the room of the chunk's rows.
    fn saved(&self, fuser: &mut Fuser, draft: &mut Draft, state: &View, chunk: usize) -> View {
        let elements: usize = state.strides.iter().map(|(axis, _)| self.axes.sizes[axis.0]).product();
        let row = elements.div_ceil(chunk).next_multiple_of(COPIED / Store::Bf16.bytes());
        View { tensor: self.rows_of(fuser, draft, row, Store::F32), ..self.turned(state) }
    }

    /// The same numbers of a state in another order: those along the other axis than the cut lie side by side.
    fn turned(&self, state: &View) -> View {
        let own: Vec<(KAxis, usize)> = state.strides.iter().copied().filter(|(axis, _)| !self.grid.contains(axis)).collect();
        let [a, b] = own[..] else { return state.clone() };
        let Some(cut) = self.cut.filter(|cut| [a.0, b.0].contains(cut)) else { return state.clone() };
        let other = if a.0 == cut { b.0 } else { a.0 };
        if state.stride(cut) != 1 || state.stride(other) != self.axes.sizes[cut.0] || state.offset > 0 {
            return state.clone();
        }
        let turn = |(axis, stride): &(KAxis, usize)| match *axis {
            own if own == cut => (own, self.axes.sizes[other.0]),
            own if own == other => (own, 1),
            own => (own, *stride),
        };
        View { strides: state.strides.iter().map(turn).collect(), ..state.clone() }
    }
}
