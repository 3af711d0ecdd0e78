//! Recurrences whose steps threads of a GPU do alone: each keeps elements of the states for the whole walk, and needs nothing of the
//! others within a step but sums over the one axis that elements of a channel have. What this finds is read off what statements read
//! and write; the class of the recurrence plays no part.

mod parts;

use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, Nests, Part, Stmt, Store, Tensor, Walk};
use braid_dsl::model::Elem;
use parts::Parts;
use std::collections::BTreeSet;

/// Numbers of single precision that are copied at once, and what shared memory is cut into.
pub const QUAD: usize = 4;

/// A recurrence as its threads do it. A channel is an index of the axis that tasks are cut along.
#[derive(Debug)]
pub struct Lanes {
    /// The axis of channels, and how many a task has.
    pub cut: (KAxis, usize),
    /// How many there are in all.
    pub channels: usize,
    /// The axis of a channel's elements, and its size.
    pub inner: Option<(KAxis, usize)>,
    /// What needs no state and is the same for several threads, in order: done for a batch of rows ahead.
    pub ahead: Vec<Stmt>,
    /// The statements of a step in groups, in order; the sums of a group are complete behind it.
    pub steps: Vec<Vec<Stmt>>,
    /// The states.
    pub states: Vec<View>,
    /// What is the same in all rows, under views that stand for it in `steps`.
    pub fixed: Vec<(View, Expr)>,
    /// Powers of two of what needs no state, in order, under views that stand for them in `steps` and in later ones.
    pub powers: Vec<Power>,
    /// What of each row lies in shared memory: first what is copied, then what is made ahead.
    pub slots: Vec<Slot>,
}

/// A power of two.
#[derive(Clone, Debug)]
pub struct Power {
    /// Stands for it.
    pub view: View,
    /// The exponent.
    pub exponent: Expr,
    /// Whether it differs between elements of a channel.
    pub inner: bool,
}

/// A row's part of a tensor, dense in shared memory.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Where it comes from, or what it stands for.
    pub view: View,
    /// Its axes within a task and how many indices they have, fastest first.
    pub axes: Vec<(KAxis, usize)>,
    /// How its numbers are stored.
    pub store: Store,
    /// Where it begins in a row of the batch, in numbers of single precision.
    pub at: usize,
    /// Whether it is copied by as many bytes as [`QUAD`] of these have at once.
    pub wide: bool,
    /// Whether it is made ahead, not copied.
    pub made: bool,
}

/// How many numbers are copied at once, stored so.
fn at_once(store: Store) -> usize {
    4 * QUAD / store.bytes()
}

impl Slot {
    /// How many numbers are copied at once.
    pub fn at_once(&self) -> usize {
        if self.wide { at_once(self.store) } else { 1 }
    }

    /// How much of a row of the batch it has, in numbers of single precision.
    fn pitch(&self) -> usize {
        (self.numbers() * self.store.bytes()).div_ceil(4).next_multiple_of(QUAD)
    }

    /// How many numbers it has.
    pub fn numbers(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }

    /// Numbers from one index along an axis to the next.
    pub fn stride(&self, axis: KAxis) -> usize {
        let Some(at) = self.axes.iter().position(|(own, _)| *own == axis) else { return 0 };
        self.axes[..at].iter().map(|(_, size)| size).product()
    }
}

impl Lanes {
    /// The recurrence of a kernel, if it is one of these.
    pub fn of(code: &Nests) -> Option<Lanes> {
        let Walk::Segments { blocked: Some((_, width)), .. } = &code.walk else { return None };
        Lanes::of_width(code, *width)
    }

    /// The same where tasks have so many channels.
    pub fn of_width(code: &Nests, width: usize) -> Option<Lanes> {
        let Walk::Segments { grid, blocked: Some((axis, _)), part } = &code.walk else { return None };
        let cut = (*axis, width);
        if matches!(part, Part::Chunks(_) | Part::Intra(_) | Part::Batches(_)) {
            return None;
        }
        let single = grid.iter().copied().filter(|axis| *axis != cut.0).collect();
        Finder { code, cut, single }.find()
    }

    /// Numbers of shared memory for a row.
    pub fn pitch(&self) -> usize {
        self.slots.iter().map(Slot::pitch).sum()
    }

    /// Whether a statement has a value for each element of a channel.
    pub fn is_inner(&self, stmt: &Stmt) -> bool {
        self.inner.is_some_and(|(axis, _)| stmt.space.contains(&axis))
    }

    /// Whether anything of a step reads what a statement makes.
    pub fn is_read(&self, stmt: &Stmt) -> bool {
        self.steps.iter().flatten().any(|own| own.reads().any(|view| view.tensor == stmt.target.tensor))
    }
}

struct Finder<'a> {
    code: &'a Nests,
    cut: (KAxis, usize),
    /// Axes that have one index in a task.
    single: BTreeSet<KAxis>,
}

impl Finder<'_> {
    fn tensor(&self, view: &View) -> &Tensor {
        &self.code.tensors[view.tensor.0]
    }

    /// Where a view's tensor lies.
    fn place(&self, view: &View) -> (Base, usize) {
        let tensor = self.tensor(view);
        (tensor.base, if tensor.base.has_operand() { tensor.operand } else { 0 })
    }

    fn find(&self) -> Option<Lanes> {
        let stmts: Vec<&Stmt> = self.code.nests.iter().flat_map(|nest| &nest.stmts).collect();
        let plain = |stmt: &&Stmt| stmt.ordered.is_none() && stmt.below.is_none() && stmt.system.is_none();
        let total = |stmt: &Stmt| stmt.reduce.as_ref().is_none_or(|reduction| reduction.epilogue.is_none());
        if !stmts.iter().all(|stmt| plain(stmt) && total(stmt)) {
            return None;
        }
        let bound = self.bound(&stmts);
        let free = |stmt: &Stmt| stmt.reduce.is_none() && !bound.contains(&stmt.target.tensor) && self.is_temporary(&stmt.target);
        let inner = self.inner(stmts.iter().copied().filter(|stmt| !free(stmt)))?;
        let whole = |stmt: &Stmt| stmt.space.contains(&self.cut.0) && inner.is_none_or(|(axis, _)| stmt.space.contains(&axis));
        let mut ahead: Vec<Stmt> = vec![];
        let mut steps: Vec<Vec<Stmt>> = vec![];
        for nest in &self.code.nests {
            let made = |view: &View, ahead: &[Stmt]| ahead.iter().any(|own| own.target == *view);
            let (early, own): (Vec<Stmt>, Vec<Stmt>) = nest.stmts.iter().cloned().partition(|stmt| {
                let known = stmt.reads().all(|view| !self.is_temporary(view) || made(view, &ahead));
                free(stmt) && !whole(stmt) && known
            });
            ahead.extend(early);
            steps.push(own);
        }
        steps.retain(|group| !group.is_empty());
        let states = self.states(&steps)?;
        let sound = self.inner(steps.iter().flatten())? == inner && self.is_in_order(&ahead, &steps);
        if !sound {
            return None;
        }
        let written = steps.iter().flatten().map(|stmt| stmt.target.tensor).collect();
        let mut parts = Parts { finder: self, written, inner, fixed: vec![], powers: vec![] };
        steps.iter_mut().flatten().for_each(|stmt| stmt.expr = parts.without(&stmt.expr));
        let Parts { fixed, powers, .. } = parts;
        let slots = self.slots(&ahead, &steps, &powers);
        let channels = self.code.sizes[self.cut.0.0];
        Some(Lanes { cut: self.cut, channels, inner, ahead, steps, states, fixed, powers, slots })
    }

    fn is_temporary(&self, view: &View) -> bool {
        matches!(self.tensor(view).base, Base::Scratch(_))
    }

    fn is_state(&self, view: &View) -> bool {
        self.code.tensors.get(view.tensor.0).is_some_and(|tensor| tensor.base == Base::State)
    }

    /// Tensors that hold states or what was made of them.
    fn bound(&self, stmts: &[&Stmt]) -> BTreeSet<TensorId> {
        let mut bound = BTreeSet::new();
        loop {
            let waits = |view: &View| bound.contains(&view.tensor) || self.tensor(view).base == Base::State;
            let made = stmts.iter().filter(|stmt| stmt.reads().any(waits)).map(|stmt| stmt.target.tensor);
            let made: Vec<TensorId> = made.filter(|tensor| !bound.contains(tensor)).collect();
            if made.is_empty() {
                return bound;
            }
            bound.extend(made);
        }
    }

    /// The one axis beside that of channels that statements of a step walk, if they walk one; none: they are of another kind.
    fn inner<'s>(&self, stmts: impl Iterator<Item = &'s Stmt>) -> Option<Option<(KAxis, usize)>> {
        let (mut axes, mut summed) = (BTreeSet::new(), BTreeSet::new());
        for stmt in stmts {
            axes.extend(stmt.space.iter().copied().filter(|axis| *axis != self.cut.0 && !self.single.contains(axis)));
            summed.extend(stmt.reduce.iter().flat_map(|reduction| reduction.over.iter().copied()));
        }
        let inner = axes.iter().next().map(|axis| (*axis, self.code.sizes[axis.0]));
        let sound = axes.len() <= 1 && summed.is_subset(&axes);
        sound.then_some(inner)
    }

    /// The views of states; none: an element is read elsewhere than where it is written.
    fn states(&self, steps: &[Vec<Stmt>]) -> Option<Vec<View>> {
        let mut states: Vec<View> = vec![];
        for view in steps.iter().flatten().flat_map(Stmt::views).filter(|view| self.tensor(view).base == Base::State) {
            match states.iter().find(|own| self.place(own) == self.place(view)) {
                Some(own) if own != view => return None,
                Some(_) => {}
                None => states.push(view.clone()),
            }
        }
        Some(states)
    }

    /// Whether what is written in a step is read only where the same threads wrote it before.
    fn is_in_order(&self, ahead: &[Stmt], steps: &[Vec<Stmt>]) -> bool {
        let targets: Vec<&View> = steps.iter().flatten().map(|stmt| &stmt.target).collect();
        let mut written: Vec<&View> = ahead.iter().map(|stmt| &stmt.target).collect();
        if ahead.iter().any(|stmt| targets.iter().any(|target| target.tensor == stmt.target.tensor)) {
            return false;
        }
        // Nothing that was made ahead reads what steps write.
        let apart = |view: &View| !targets.iter().any(|target| self.place(target) == self.place(view));
        if !ahead.iter().flat_map(Stmt::reads).all(apart) {
            return false;
        }
        for group in steps {
            let mut summed: Vec<&View> = vec![];
            for stmt in group {
                let known = |view: &View| {
                    let touched = targets.iter().any(|target| self.place(target) == self.place(view));
                    let state = self.tensor(view).base == Base::State;
                    state || written.contains(&view) || (!touched && !self.is_temporary(view))
                };
                if !stmt.reads().all(|view| known(view) && !summed.contains(&view)) || !self.is_direct(&stmt.expr) {
                    return false;
                }
                if stmt.reduce.is_some() { summed.push(&stmt.target) } else { written.push(&stmt.target) }
            }
            written.extend(summed);
        }
        true
    }

    /// Whether what is looked up or read of other rows is nothing that steps write.
    fn is_direct(&self, expr: &Expr) -> bool {
        let mut direct = true;
        expr.walk(&mut |part| {
            if let Expr::Gather { view, .. } | Expr::Row { view, .. } = part {
                direct &= !self.is_temporary(view) && self.tensor(view).base != Base::State;
            }
        });
        direct
    }

    /// Whether an expression reads memory, and only what is the same in all rows.
    fn is_fixed(&self, expr: &Expr) -> bool {
        let (mut fixed, mut reads) = (true, false);
        expr.walk(&mut |part| match part {
            Expr::Load(view, _) => {
                reads = true;
                let tensor = self.code.tensors.get(view.tensor.0);
                fixed &= tensor.is_some_and(|own| matches!(own.base, Base::Weights | Base::Prepared) && own.row == 0);
            }
            Expr::Gather { .. } | Expr::Row { .. } | Expr::Position | Expr::Length => fixed = false,
            _ => {}
        });
        fixed && reads
    }

    fn slots(&self, ahead: &[Stmt], steps: &[Vec<Stmt>], powers: &[Power]) -> Vec<Slot> {
        let stmts = || ahead.iter().chain(steps.iter().flatten());
        let mut slots: Vec<Slot> = vec![];
        let add = |view: &View, made: bool, slots: &mut Vec<Slot>| {
            if !slots.iter().any(|slot| slot.view == *view) {
                let at = slots.last().map_or(0, |last| last.at + last.pitch());
                slots.push(self.slot(view, at, made));
            }
        };
        let start = |stmt: &'_ Stmt| stmt.reduce.as_ref().and_then(|reduction| reduction.start.clone());
        let exprs = stmts().flat_map(|stmt| [Some(stmt.expr.clone()), start(stmt)].into_iter().flatten());
        for expr in exprs.chain(powers.iter().map(|power| power.exponent.clone())) {
            let mut views = vec![];
            expr.walk(&mut |part| {
                if let Expr::Load(view, Elem::Float) = part {
                    views.push(view);
                }
            });
            let comes = |view: &&View| self.is_input(view) && !stmts().any(|own| self.is_same(&own.target, view));
            views.into_iter().filter(comes).for_each(|view| add(view, false, &mut slots));
        }
        ahead.iter().for_each(|stmt| add(&stmt.target, true, &mut slots));
        slots
    }

    fn is_same(&self, target: &View, view: &View) -> bool {
        self.place(target) == self.place(view)
    }

    /// Whether a view is of a row of numbers in the device's memory that can be copied.
    fn is_input(&self, view: &View) -> bool {
        let Some(tensor) = self.code.tensors.get(view.tensor.0) else { return false };
        let row = tensor.base == Base::Arena && tensor.row > 0 && !tensor.through_wanted;
        // Less than four bytes are not copied.
        row && (tensor.store == Store::F32 || tensor.store == Store::Bf16 && self.slot(view, 0, false).wide)
    }

    fn slot(&self, view: &View, at: usize, made: bool) -> Slot {
        let mut own: Vec<(usize, KAxis)> =
            view.strides.iter().filter(|(axis, _)| !self.single.contains(axis)).map(|(axis, stride)| (*stride, *axis)).collect();
        own.sort();
        let size = |axis: KAxis| if axis == self.cut.0 { self.cut.1 } else { self.code.sizes[axis.0] };
        let axes: Vec<(KAxis, usize)> = own.iter().map(|(_, axis)| (*axis, size(*axis))).collect();
        let fastest = own.first().copied().filter(|(stride, _)| *stride == 1).map(|(_, axis)| axis);
        // What is made here is in single precision.
        let store = if made { Store::F32 } else { self.tensor(view).store };
        let pieces = |number: usize| number.is_multiple_of(at_once(store));
        let whole = |axis: KAxis| pieces(size(axis)) && pieces(self.code.sizes[axis.0]);
        let others = view.strides.iter().all(|(axis, stride)| Some(*axis) == fastest || pieces(*stride));
        let wide = !made && fastest.is_some_and(whole) && others && pieces(view.offset) && pieces(self.tensor(view).row);
        Slot { view: view.clone(), axes, store, at, wide, made }
    }
}
