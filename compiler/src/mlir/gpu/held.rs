//! A row that a block makes for itself, whose numbers threads hold in registers from the first nest to the last: all that is read is asked for at
//! once, and not again by each nest, and threads meet only where a sum is over all of them.

use super::far::Slots;
use super::reduce::identity;
use super::team::{across_lanes, combine};
use super::wide::side_by_side;
use super::{THREADS, WARPS};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, Nest, Nests, Stmt, Store};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value, value_to_round};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Ty, Val};
use braid_dsl::model::{Elem, Reduce};

/// Numbers side by side that a thread has.
pub const EIGHT: usize = 8;
/// Most bytes that a thread reads and keeps.
const KEPT: usize = 256;
/// Most sums over all threads, each of which has a place for every warp.
const SUMS: usize = THREADS / WARPS;

/// What takes numbers of the row.
pub type Put<'p, 'c> = &'p dyn Fn(Val<'c>, &[Val<'c>]);

/// What a nest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One number, which every thread makes.
    Once,
    /// Something of each number of the row, or a sum over all of them.
    Row,
}

/// Nests whose rows are held so.
pub struct Held<'n> {
    pub(super) code: &'n Nests,
    kinds: Vec<Kind>,
    /// The row's axes, the last one fastest.
    axes: Vec<KAxis>,
    /// What is read side by side, or is the same for all that lie so.
    pub(super) reads: Vec<&'n View>,
    /// Where groups are that do not fit into registers; none: all of them do.
    pub(super) far: Option<Slots>,
}

/// What a thread has of one of its groups of numbers.
#[derive(Clone)]
pub struct Group<'c> {
    /// Indices along the row's axes.
    places: Vec<Val<'c>>,
    /// Whether there is such a group; none: always.
    alive: Option<Val<'c>>,
    known: Vec<(View, Vec<Val<'c>>)>,
    /// Where its numbers are instead, if not in registers.
    far: Option<Val<'c>>,
}

impl<'n> Held<'n> {
    /// The nests as such, if each is of the whole row or of one number, and reads whole eights, numbers for all of them, or what was made before.
    pub fn of(code: &'n Nests) -> Option<Held<'n>> {
        Held::of_any(code).filter(|held| held.kept() <= KEPT)
    }

    /// The same, however long the row is.
    pub(super) fn of_any(code: &'n Nests) -> Option<Held<'n>> {
        let long = |nest: &&Nest| !axes(code, nest).is_empty();
        let axes_of_row = axes(code, code.nests.iter().find(long)?);
        let kind = |nest: &Nest| match axes(code, nest) {
            own if own.is_empty() && nest.stmts.iter().all(|stmt| stmt.reduce.is_none()) => Some(Kind::Once),
            own if own == axes_of_row => Some(Kind::Row),
            _ => None,
        };
        let kinds = code.nests.iter().map(kind).collect::<Option<Vec<Kind>>>()?;
        let mut held = Held { code, kinds, axes: axes_of_row, reads: vec![], far: None };
        let last = code.sizes[held.fastest().0];
        let fits = last.is_multiple_of(EIGHT) && held.numbers() >= THREADS;
        let sums = code.nests.iter().flat_map(|nest| &nest.stmts).filter(|stmt| stmt.reduce.is_some()).count();
        held.reads = held.find_reads()?;
        (fits && sums <= SUMS).then_some(held)
    }

    pub(super) fn fastest(&self) -> KAxis {
        self.axes[self.axes.len() - 1]
    }

    /// Numbers of the row.
    fn numbers(&self) -> usize {
        self.axes.iter().map(|axis| self.code.sizes[axis.0]).product()
    }

    /// Groups of a thread.
    pub(super) fn groups(&self) -> usize {
        (self.numbers() / EIGHT).div_ceil(THREADS)
    }

    /// Bytes that a thread keeps of what is read.
    pub(super) fn kept(&self) -> usize {
        self.groups() * self.reads.iter().map(|view| self.bytes_of(view)).sum::<usize>()
    }

    /// Bytes of a group of what is read.
    pub(super) fn bytes_of(&self, view: &View) -> usize {
        match view.stride(self.fastest()) {
            0 => Store::F32.bytes(),
            _ => EIGHT * self.code.tensors[view.tensor.0].store.bytes(),
        }
    }

    /// Whether what is read is another in each row.
    pub(super) fn is_of_row(&self, view: &View) -> bool {
        self.code.tensors[view.tensor.0].row > 0
    }

    /// What is read, if all of it can be held.
    fn find_reads(&self) -> Option<Vec<&'n View>> {
        let (mut made, mut reads): (Vec<&View>, Vec<&View>) = (vec![], vec![]);
        for (nest, kind) in self.code.nests.iter().zip(&self.kinds) {
            for stmt in &nest.stmts {
                let mut plain = stmt.ordered.is_none() && stmt.below.is_none() && stmt.system.is_none();
                stmt.expr.walk(&mut |part| match part {
                    Expr::Gather { .. } | Expr::Row { .. } => plain = false,
                    Expr::Load(view, elem) if !made.contains(&view) => {
                        let fresh = made.iter().all(|own| own.tensor != view.tensor);
                        plain &= fresh && *kind == Kind::Row && *elem == Elem::Float && self.is_read(view);
                        if !reads.contains(&view) {
                            reads.push(view);
                        }
                    }
                    _ => {}
                });
                if !plain || !self.is_made(stmt, *kind) {
                    return None;
                }
                made.push(&stmt.target);
            }
        }
        Some(reads)
    }

    fn is_read(&self, view: &View) -> bool {
        matches!(self.code.tensors[view.tensor.0].base, Base::Arena | Base::Weights | Base::Prepared)
            && self.lies_in_eights(view, 0)
    }

    /// Whether a statement's numbers go where threads can put them.
    fn is_made(&self, stmt: &Stmt, kind: Kind) -> bool {
        let whole = || self.lies_in_eights(&stmt.target, 1);
        match &stmt.reduce {
            Some(reduction) => {
                let one = self.axes.iter().all(|axis| stmt.target.stride(*axis) == 0 && reduction.over.contains(axis));
                one && reduction.start.is_none() && reduction.epilogue.is_none()
            }
            None => kind == Kind::Once || stmt.expr.elem() == Elem::Float && whole(),
        }
    }

    /// Whether what a view has along the fastest axis lies in whole eights, or is one number for all, if it may be (`least` 0).
    fn lies_in_eights(&self, view: &View, least: usize) -> bool {
        let tensor = &self.code.tensors[view.tensor.0];
        let stride = view.stride(self.fastest());
        let others = view.strides.iter().all(|(axis, stride)| *axis == self.fastest() || stride.is_multiple_of(EIGHT));
        let whole = others && view.offset.is_multiple_of(EIGHT) && tensor.row.is_multiple_of(EIGHT);
        matches!(tensor.store, Store::F32 | Store::Bf16) && stride <= 1 && stride >= least && (stride == 0 || whole)
    }

    /// Makes the site's row; all threads of the block, which must meet afterwards. `sums`: where sums over all threads lie in shared memory.
    /// `put` takes eight numbers of the row, and at which number of it they begin (`i64`).
    pub fn emit<'c>(&self, site: &mut Site<'_, 'c>, sums: Val<'c>, put: Put<'_, 'c>) {
        let groups = self.groups_of(site);
        let asked = self.ask(site, &groups, |_| true);
        self.make(site, (groups, &asked), sums, put);
    }

    /// Makes the site's row of what was asked for.
    pub(super) fn make<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        (mut groups, asked): (Vec<Group<'c>>, &[Val<'c>]),
        sums: Val<'c>,
        put: Put<'_, 'c>,
    ) {
        let e = site.e;
        let each = self.reads.len().max(1);
        for (group, asked) in groups.iter_mut().zip(asked.chunks(each)) {
            let lanes = |(view, asked): (&&View, &Val<'c>)| ((*view).clone(), self.lanes_of(site, view, *asked));
            group.known = self.reads.iter().zip(asked).map(lanes).collect();
        }
        let (mut numbers, mut place) = (vec![], sums);
        for (nest, kind) in self.code.nests.iter().zip(&self.kinds) {
            let mut totals = vec![];
            for stmt in &nest.stmts {
                match (kind, &stmt.reduce) {
                    (Kind::Once, _) => {
                        site.fresh.clone_from(&numbers);
                        let made = value(site, &stmt.expr);
                        self.put_one(site, &stmt.target, made);
                        numbers.push((stmt.target.clone(), made));
                    }
                    (Kind::Row, None) => self.each(site, stmt, (&mut groups, &numbers), put),
                    (Kind::Row, Some(reduction)) => {
                        let own = self.own_sum(site, (stmt, reduction.how), (&groups, &numbers));
                        totals.push((stmt, reduction.how, own, place));
                        place = e.offset_by(place, 4 * WARPS);
                    }
                }
            }
            // All sums of a nest together.
            let warp = e.to_i64(e.shift_right(e.thread(), i64::from(WARP.ilog2())));
            let first = e.cmp(Cmp::Eq, e.and(e.thread(), e.i32(WARP as i32 - 1)), e.i32(0));
            for (_, how, own, place) in &totals {
                let own = across_lanes(e, *how, *own, WARP);
                e.if_then(first, || e.store(e.element(*place, warp, 4), own));
            }
            if !totals.is_empty() {
                e.sync();
            }
            for (stmt, how, own, place) in totals {
                let parts = (0..WARPS).map(|warp| e.load(e.offset_by(place, 4 * warp), own.ty()));
                let made = parts.reduce(|sum, part| combine(e, how, sum, part)).unwrap_or(own);
                self.put_one(site, &stmt.target, made);
                numbers.push((stmt.target.clone(), made));
            }
        }
        site.fresh.clear();
    }

    /// The thread's groups.
    pub(super) fn groups_of<'c>(&self, site: &mut Site<'_, 'c>) -> Vec<Group<'c>> {
        for axis in (0..self.code.sizes.len()).filter(|axis| self.code.sizes[*axis] == 1) {
            site.index.insert(KAxis(axis), site.e.i64(0));
        }
        (0..self.groups()).map(|at| self.group(site, at)).collect()
    }

    /// The thread's group of that number.
    fn group<'c>(&self, site: &Site<'_, 'c>, at: usize) -> Group<'c> {
        let (e, count) = (site.e, self.numbers() / EIGHT);
        let number = e.add(e.thread(), e.i32((at * THREADS) as i32));
        let alive = (!count.is_multiple_of(THREADS)).then(|| e.cmp(Cmp::Lt, number, e.i32(count as i32)));
        // Past the end the last one is made again.
        let mut rest = if alive.is_some() { e.min(number, e.i32(count as i32 - 1)) } else { number };
        let mut places = vec![];
        for (at, axis) in self.axes.iter().enumerate().rev() {
            let side = if at + 1 == self.axes.len() { EIGHT } else { 1 };
            let steps = e.i32((self.code.sizes[axis.0] / side) as i32);
            let own = if at == 0 { rest } else { e.rem(rest, steps) };
            rest = if at == 0 { rest } else { e.div(rest, steps) };
            places.insert(0, e.to_i64(e.mul(own, e.i32(side as i32))));
        }
        let far = self.far.as_ref().and_then(|slots| slots.place(e, at));
        Group { places, alive, known: vec![], far }
    }

    /// Asks for what groups read of the site's row, of some views, as it is stored; group by group. What is not for registers is on its way then.
    pub(super) fn ask<'c>(&self, site: &mut Site<'_, 'c>, groups: &[Group<'c>], which: impl Fn(&View) -> bool) -> Vec<Val<'c>> {
        let e = site.e;
        let mut asked = vec![];
        for group in groups {
            self.stand(site, group, 0);
            for view in self.reads.iter().filter(|view| which(view)) {
                let place = site.address(view);
                if let (Some(slots), Some(own)) = (&self.far, group.far) {
                    slots.ask(e, own, (view, self.bytes_of(view)), place);
                    continue;
                }
                asked.push(match (view.stride(self.fastest()), site.store_of(view)) {
                    (0, Store::Bf16) => e.load_bf16_aligned(place, 1),
                    (0, _) => e.load(place, Ty::F32),
                    (_, Store::Bf16) => e.load_aligned(place, Ty::i32(EIGHT / 2)),
                    _ => e.load_aligned(place, Ty::f32(EIGHT)),
                });
            }
        }
        asked
    }

    /// The numbers of a group in what was asked for.
    fn lanes_of<'c>(&self, site: &Site<'_, 'c>, view: &View, asked: Val<'c>) -> Vec<Val<'c>> {
        if view.stride(self.fastest()) == 0 { vec![asked; EIGHT] } else { site.e.singles(asked) }
    }

    /// Sets the site's indices to a number of a group.
    fn stand<'c>(&self, site: &mut Site<'_, 'c>, group: &Group<'c>, lane: usize) {
        for (axis, place) in self.axes.iter().zip(&group.places) {
            let place = if lane > 0 && *axis == self.fastest() { site.e.add(*place, site.e.i64(lane)) } else { *place };
            site.index.insert(*axis, place);
        }
    }

    /// A statement's numbers of a group.
    fn lanes<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        stmt: &Stmt,
        (group, numbers): (&Group<'c>, &[(View, Val<'c>)]),
    ) -> Vec<Val<'c>> {
        let e = site.e;
        let last = self.code.nests.last().and_then(|nest| nest.stmts.last());
        let rounded = last.is_some_and(|last| std::ptr::eq(last, stmt)) && site.store_of(&stmt.target) == Store::Bf16;
        let far = match (&self.far, group.far) {
            (Some(slots), Some(own)) => slots.lanes(e, own, stmt),
            _ => vec![],
        };
        let lane = |lane: usize| {
            self.stand(site, group, lane);
            let own = group.known.iter().chain(&far).map(|(view, lanes)| (view.clone(), lanes[lane]));
            site.fresh = numbers.iter().cloned().chain(own).collect();
            if rounded { value_to_round(site, &stmt.expr) } else { value(site, &stmt.expr) }
        };
        (0..EIGHT).map(lane).collect()
    }

    /// Makes a statement's numbers of all groups, and puts them where they go.
    fn each<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        stmt: &Stmt,
        (groups, numbers): (&mut [Group<'c>], &[(View, Val<'c>)]),
        put: Put<'_, 'c>,
    ) {
        let e = site.e;
        for group in groups {
            let made = self.lanes(site, stmt, (group, numbers));
            self.stand(site, group, 0);
            match site.tensor(&stmt.target).base {
                Base::Scratch(_) => {}
                Base::Tile => {
                    let target = &stmt.target;
                    let along = target.strides.iter().map(|(axis, stride)| e.mul(site.index[axis], e.i64(*stride)));
                    put(along.fold(e.i64(target.offset), |place, along| e.add(place, along)), &made);
                }
                _ => {
                    let all = side_by_side(e, site.store_of(&stmt.target), &made);
                    e.store_aligned(site.address(&stmt.target), all);
                }
            }
            match (&self.far, group.far) {
                (Some(slots), Some(own)) => slots.keep(e, own, &stmt.target, &made),
                _ => group.known.push((stmt.target.clone(), made)),
            }
        }
    }

    /// The thread's part of a sum.
    fn own_sum<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        (stmt, how): (&Stmt, Reduce),
        (groups, numbers): (&[Group<'c>], &[(View, Val<'c>)]),
    ) -> Val<'c> {
        let e = site.e;
        let none = identity(e, stmt, how);
        groups.iter().fold(none, |total, group| {
            let made = self.lanes(site, stmt, (group, numbers));
            let own = made.into_iter().reduce(|sum, part| combine(e, how, sum, part)).unwrap_or(none);
            let own = group.alive.map_or(own, |alive| e.select(alive, own, none));
            combine(e, how, total, own)
        })
    }

    /// One number, which one thread puts where others find it.
    fn put_one<'c>(&self, site: &mut Site<'_, 'c>, target: &View, made: Val<'c>) {
        let e = site.e;
        if !matches!(site.tensor(target).base, Base::Scratch(_)) {
            e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || store(site, target, made));
        }
    }
}

/// A nest's axes with more than one index, the last one fastest.
fn axes(code: &Nests, nest: &Nest) -> Vec<KAxis> {
    let all = nest.parallel.iter().chain(&nest.reduced).copied();
    all.filter(|axis| code.sizes[axis.0] > 1).collect()
}
