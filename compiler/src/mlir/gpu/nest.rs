//! Kernels of nests: a block does a row, or a sequence at one place of the grid; its threads share the elements of each nest.

use super::chains;
use super::held::Held;
use super::once::Once;
use super::pairs::Pairs;
use super::substitution::Substitution;
use super::team::{Teams, member_of};
use super::units::Units;
use super::wide::{self, SIDE, Wide};
use super::{THREADS, is_shared, segments, small};
use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{Base, Below, Nest, Nests, Part, Reduction, Rows, Walk};
use crate::fuse::product::Product;
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::value;
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Cmp, Elem, Emitter, Val};
use crate::mlir::cpu::solve;
use crate::plan::{PIECE, Places, by_warps};

/// Shared memory: scratch that fits, then what sums over teams need; bytes.
pub fn shared_bytes(code: &Nests) -> usize {
    let sums = code.nests.iter().map(|nest| teams(code, nest, THREADS).map_or(0, Teams::shared_bytes)).max().unwrap_or(0);
    let once = [false, true].into_iter().find_map(|many| Once::of(code, many)).map_or(0, |once| once.shared_bytes());
    once.max(sums_at(code) + sums)
}

pub(super) fn sums_at(code: &Nests) -> usize {
    if is_shared(code) { code.scratch.next_multiple_of(16) } else { 0 }
}

/// The teams of a nest with sums, of so many threads.
fn teams(code: &Nests, nest: &Nest, threads: usize) -> Option<Teams> {
    if nest.reduced.is_empty() {
        return None;
    }
    let results = parallel(code, nest).iter().map(|(_, size)| size).product();
    let parts = nest.reduced.iter().map(|axis| code.sizes[axis.0]).product();
    let along = nest.vector.is_some_and(|axis| nest.reduced.contains(&axis));
    Some(Teams::new(threads, results, parts, along))
}

/// The axes that threads are dealt to, with how many indices each has in a task: loops, and the block of the grid's last axis.
pub(super) fn parallel(code: &Nests, nest: &Nest) -> Vec<(KAxis, usize)> {
    let ordered = nest.stmts[0].ordered.map(|order| order.axis);
    let loops = nest.parallel.iter().filter(|axis| ordered != Some(**axis)).map(|axis| (*axis, code.sizes[axis.0]));
    loops.chain(blocked(code, nest)).collect()
}

/// The grid's last axis, where the nest walks a block of it.
fn blocked(code: &Nests, nest: &Nest) -> Option<(KAxis, usize)> {
    match code.walk {
        Walk::Segments { blocked, .. } => blocked.filter(|(axis, _)| nest.vector == Some(*axis)),
        Walk::Rows(_) => None,
    }
}

/// Emits the kernel. `alone`: how a call of one row does it.
pub fn emit(e: &Emitter, name: &str, code: &Nests, (setting, alone): (Setting, Option<&Places>), many: bool) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        let scratch = |at| scratch(e, args, setting, at);
        // Where calls of many rows have no code of their own, this is that of one row, too.
        let wide = many && segments::is_split(code, e.has_groups());
        let once = Once::of(code, wide).filter(|_| alone.is_none());
        let done = once.map(|once| once.emit(&mut site, args));
        let held = Held::of_kernel(code, e.has_groups(), many).filter(|_| alone.is_none());
        let mut tasks = || {
            if let Some(held) = &held {
                return held.emit_rows(&mut site);
            }
            for_each(e, args.begin, args.end, e.blocks(), |task| match &code.walk {
                Walk::Rows(_) if let Some(places) = alone => {
                    at_place(&mut site, places, task);
                    site.set_row(e.i64(0), false);
                    e.sync();
                    all(&mut site, code, None, 0);
                }
                Walk::Rows(rows) if many && by_warps(code) => small::task(&mut site, code, (*rows, task)),
                Walk::Rows(rows) => {
                    let pieces = code.pieces(PIECE);
                    let (row, piece) = (e.div(task, e.i64(pieces)), e.rem(task, e.i64(pieces)));
                    if *rows != Rows::Once {
                        site.set_row(row, *rows == Rows::Wanted);
                    }
                    e.sync();
                    all(&mut site, code, Some((piece, pieces)), 0);
                }
                Walk::Segments { .. } => segments::task_of(&mut site, code, task, (args, &scratch), many),
            })
        };
        match done {
            None => tasks(),
            Some(done) => e.if_then(e.not(done), tasks),
        }
    });
}

/// Sets the site's indices to a task's places.
fn at_place<'c>(site: &mut Site<'_, 'c>, places: &Places, task: Val<'c>) {
    let e = site.e;
    let mut rest = e.to_i32(task);
    for (size, axis) in places.iter().rev() {
        let count = e.i32(*size as i32);
        if let Some(axis) = axis {
            site.index.insert(*axis, e.to_i64(e.rem(rest, count)));
        }
        rest = e.div(rest, count);
    }
}

/// `piece`: which of how many pieces of the row; none: all of it.
fn all<'c>(site: &mut Site<'_, 'c>, code: &Nests, piece: Option<(Val<'c>, usize)>, shared: usize) {
    for nest in &code.nests {
        Loops { code, nest, first: None, piece, shared, crew: THREADS }.run(site);
        site.e.sync();
    }
}

/// The site's whole row by a warp, whose scratch the site knows.
pub fn row_of_warp(site: &mut Site<'_, '_>, code: &Nests) {
    for nest in &code.nests {
        Loops { code, nest, first: None, piece: None, shared: 0, crew: WARP }.run(site);
        site.e.sync_warp();
    }
}

/// The site's whole row, with what shared memory it needs from byte `shared` on.
pub fn row(site: &mut Site<'_, '_>, code: &Nests, shared: usize) {
    all(site, code, None, shared);
}

/// One nest, at the site's row and place of the grid. `first`: where the block of the grid's last axis begins.
pub fn one<'c>(site: &mut Site<'_, 'c>, code: &Nests, nest: &Nest, first: Option<Val<'c>>) {
    Loops { code, nest, first, piece: None, shared: 0, crew: THREADS }.run(site);
}

/// Whether nest `at` is a product whose sums the next one goes on with, and nobody else needs.
pub fn goes_on(code: &Nests, at: usize) -> bool {
    let Walk::Segments { blocked, .. } = code.walk else { return false };
    let product = |nest| Product::of(nest, &code.tensors, &code.sizes, blocked);
    let (Some(own), Some(next)) = (product(&code.nests[at]), code.nests.get(at + 1).and_then(product)) else { return false };
    let target = &own.stmt.target;
    let near = matches!(code.tensors[target.tensor.0].base, Base::Scratch(_)) || next.stmt.target == *target;
    // What the next one leaves near may lie where others still read factors of this one.
    let mut left = [&next.stmt.target].into_iter().chain(next.stmt.beside().map(|(view, _)| view));
    let far = left.all(|view| code.tensors[view.tensor.0].base == Base::Arena);
    near && far && own.is_begun_by(&next, &code.nests[..at], &code.nests[at + 2..])
}

/// Such a product, and the next one.
pub fn two<'c>(site: &mut Site<'_, 'c>, code: &Nests, at: usize, first: Option<Val<'c>>) {
    let loops = |nest| Loops { code, nest, first, piece: None, shared: 0, crew: THREADS };
    let (own, next) = (loops(&code.nests[at]), loops(&code.nests[at + 1]));
    match (own.product(), next.product()) {
        (Some(begun), Some(product)) => product.emit_onto(site, Some(&begun), |axis| next.begin(axis)),
        _ => site.e.fault("sums go on that are no products"),
    }
}

pub(super) struct Loops<'n, 'c> {
    pub(super) code: &'n Nests,
    pub(super) nest: &'n Nest,
    /// Where the block of the grid's last axis begins.
    first: Option<Val<'c>>,
    /// Which of how many pieces of the row is done.
    piece: Option<(Val<'c>, usize)>,
    /// Where the kernel's shared memory begins.
    pub(super) shared: usize,
    /// Threads that share the work: a block's, or a warp's.
    pub(super) crew: usize,
}

/// Elements of a thread that are loaded together, and elements side by side.
const AHEAD: usize = 4;
pub(super) const WIDE_AHEAD: usize = 2;
/// Loads of elements side by side that a thread has under way, where chunks are done side by side: nothing was copied ahead of them.
const WIDE_LOADS: usize = 8;

impl<'c> Loops<'_, 'c> {
    fn run(&self, site: &mut Site<'_, 'c>) {
        let e = site.e;
        if self.nest.stmts[0].system.is_some() {
            return self.systems(site);
        }
        if let Some(product) = self.product() {
            return product.emit_onto(site, None, |axis| self.begin(axis));
        }
        let handed_on = |own: &Reduction| own.epilogue.is_some() || !own.beside.is_empty();
        if self.nest.stmts.iter().filter_map(|stmt| stmt.reduce.as_ref()).any(handed_on) {
            return e.fault("a sum that is handed on is no product of matrices");
        }
        let Some(order) = self.nest.stmts[0].ordered else { return self.elements(site) };
        if self.nest.stmts.iter().all(|stmt| stmt.reduce.is_none()) {
            return chains::walk(self, site, order);
        }
        if let Some(system) = Substitution::of(self, order) {
            return system.emit(self, site);
        }
        let size = self.code.sizes[order.axis.0];
        for_each(e, e.i64(0), e.i64(size), e.i64(1), |at| {
            let at = if order.falling { e.sub(e.i64(size - 1), at) } else { at };
            site.index.insert(order.axis, at);
            self.elements(site);
            e.sync();
        });
    }

    /// What the matrix units do of a chunk.
    fn product(&self) -> Option<Units<'_>> {
        let Walk::Segments { part: Part::Chunks(_) | Part::Intra(_), blocked, .. } = self.code.walk else { return None };
        Product::of(self.nest, &self.code.tensors, &self.code.sizes, blocked).map(|product| Units {
            product,
            tensors: &self.code.tensors,
            staging: &self.code.staging,
        })
    }

    /// Whether it is part of a chunk beside which others are done.
    fn is_beside(&self) -> bool {
        matches!(self.code.walk, Walk::Segments { part: Part::Intra(_), .. })
    }

    /// Where the task's indices of an axis begin, unless at 0.
    fn begin(&self, axis: KAxis) -> Option<Val<'c>> {
        self.first.filter(|_| blocked(self.code, self.nest).is_some_and(|(cut, _)| cut == axis))
    }

    /// Each thread solves systems of its own.
    fn systems(&self, site: &mut Site<'_, 'c>) {
        let Some(system) = &self.nest.stmts[0].system else { return };
        let axes = parallel(self.code, self.nest);
        let count = axes.iter().map(|(_, size)| size).product::<usize>();
        let e = site.e;
        for_each(e, e.to_i64(e.thread()), e.i64(count), e.i64(THREADS), |number| {
            self.place(site, &axes, (number, count, true));
            solve::emit(site, &[], &self.code.sizes, (&self.nest.stmts[0], system, 1));
        });
    }

    fn elements(&self, site: &mut Site<'_, 'c>) {
        let axes = parallel(self.code, self.nest);
        let results = axes.iter().map(|(_, size)| size).product::<usize>();
        if let Some(pairs) =
            Pairs::of(self.code, self.nest, &axes).filter(|_| self.crew == THREADS && blocked(self.code, self.nest).is_none())
        {
            return pairs.emit(self, site);
        }
        match teams(self.code, self.nest, self.crew) {
            Some(teams) => match Wide::of_sums(self.code, self.nest, &axes).filter(|_| teams.size == 1) {
                Some(wide) => self.wide_sums(site, &axes, results, &wide),
                None => self.sums(site, &axes, results, teams),
            },
            None => self.singly(site, &axes, results),
        }
    }

    /// Each thread does elements of its own, a few at once.
    fn singly(&self, site: &mut Site<'_, 'c>, axes: &[(KAxis, usize)], results: usize) {
        let e = site.e;
        let wide = Wide::of(self.code, self.nest, axes);
        let side = if wide.is_some() { SIDE } else { 1 };
        let groups = results / side;
        let most = match &wide {
            Some(wide) if self.is_beside() => (WIDE_LOADS / wide.loads().max(1)).max(WIDE_AHEAD),
            Some(_) => WIDE_AHEAD,
            None => AHEAD,
        };
        let ahead = groups.div_ceil(self.crew).clamp(1, most);
        let (piece, pieces) = self.piece.unwrap_or((e.i64(0), 1));
        let step = ahead * self.crew;
        let thread = e.to_i64(member_of(e, self.crew));
        for_each(e, e.mul(piece, e.i64(step)), e.i64(groups), e.i64(step * pieces), |base| {
            let mut made = Vec::new();
            for part in 0..ahead {
                let number = e.add(base, e.add(thread, e.i64(part * self.crew)));
                let alive = self.place_side(site, axes, (number, groups, groups.is_multiple_of(step)), side);
                let stores = match &wide {
                    Some(wide) => {
                        let made = wide.statements(site).into_iter();
                        made.map(|(place, store, lanes)| Put { place, value: wide::side_by_side(e, store, &lanes) }).collect()
                    }
                    None => self.statements(site, &mut vec![]),
                };
                made.push((alive, stores));
            }
            let put = |put: Put<'c>| if wide.is_some() { e.store_aligned(put.place, put.value) } else { put.done(e) };
            made.into_iter().for_each(|(alive, stores)| guarded(e, alive, || stores.into_iter().for_each(put)));
        });
    }

    /// Sets the indices along `axes` to element `number` of `count`, or to one that exists; gives whether there is such an element,
    /// if that is a question. `whole`: the number is always below the count.
    pub(super) fn place(
        &self,
        site: &mut Site<'_, 'c>,
        axes: &[(KAxis, usize)],
        number: (Val<'c>, usize, bool),
    ) -> Option<Val<'c>> {
        self.place_side(site, axes, number, 1)
    }

    /// The same where so many elements of the last axis count as one, of which the first is meant.
    pub(super) fn place_side(
        &self,
        site: &mut Site<'_, 'c>,
        axes: &[(KAxis, usize)],
        (number, count, whole): (Val<'c>, usize, bool),
        side: usize,
    ) -> Option<Val<'c>> {
        let e = site.e;
        let mut alive = (!whole).then(|| e.cmp(Cmp::Lt, number, e.i64(count)));
        let mut rest = e.to_i32(if whole { number } else { e.min(number, e.i64(count.saturating_sub(1))) });
        for (at, (axis, size)) in axes.iter().enumerate().rev() {
            let side = if at + 1 == axes.len() { side } else { 1 };
            let steps = e.i32((*size / side) as i32);
            let own = if at == 0 { rest } else { e.rem(rest, steps) };
            rest = if at == 0 { rest } else { e.div(rest, steps) };
            let mut index = e.to_i64(if side == 1 { own } else { e.mul(own, e.i32(side as i32)) });
            if let (Some(first), true) = (self.first, blocked(self.code, self.nest).is_some_and(|(cut, _)| cut == *axis)) {
                index = e.add(first, index);
                let size_of_all = self.code.sizes[axis.0];
                if !size_of_all.is_multiple_of(*size) {
                    alive = both(e, alive, Some(e.cmp(Cmp::Lt, index, e.i64(size_of_all))));
                    index = e.min(index, e.i64(size_of_all - 1));
                }
            }
            site.index.insert(*axis, index);
        }
        if let Some(Below { axis, by, inclusive }) = self.nest.stmts[0].below
            && axes.iter().any(|(own, _)| *own == axis)
        {
            let how = if inclusive { Cmp::Le } else { Cmp::Lt };
            alive = both(e, alive, Some(e.cmp(how, site.index[&axis], site.index[&by])));
        }
        alive
    }

    /// The statements at the site's indices: what is to be stored, and in `sums` the values that are summed.
    pub(super) fn statements(&self, site: &mut Site<'_, 'c>, sums: &mut Vec<Val<'c>>) -> Vec<Put<'c>> {
        self.statements_with(site, vec![], sums)
    }

    /// The same where some loads are known.
    pub(super) fn statements_with(
        &self,
        site: &mut Site<'_, 'c>,
        known: Vec<(View, Val<'c>)>,
        sums: &mut Vec<Val<'c>>,
    ) -> Vec<Put<'c>> {
        site.fresh = known;
        let mut stores = Vec::new();
        for stmt in &self.nest.stmts {
            let made = value(site, &stmt.expr);
            if stmt.reduce.is_some() {
                sums.push(made);
                continue;
            }
            stores.push(Put { place: site.address(&stmt.target), value: wide::stored(site, &stmt.target, made) });
            site.fresh.retain(|(view, _)| view.tensor != stmt.target.tensor);
            site.fresh.push((stmt.target.clone(), made));
        }
        site.fresh.clear();
        stores
    }
}

/// A value and where it goes.
pub(super) struct Put<'c> {
    place: Val<'c>,
    pub(super) value: Val<'c>,
}

impl<'c> Put<'c> {
    pub(super) fn done(self, e: &Emitter<'c>) {
        let bits = if self.value.elem() == Elem::I1 { e.select(self.value, e.i32(1), e.i32(0)) } else { self.value };
        e.store(self.place, bits);
    }
}

/// Both conditions, where none is one that holds.
pub(super) fn both<'c>(e: &Emitter<'c>, a: Option<Val<'c>>, b: Option<Val<'c>>) -> Option<Val<'c>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(e.and(a, b)),
        (a, b) => a.or(b),
    }
}

/// Does `body` where `alive`, always if that is no question.
pub(super) fn guarded<'c>(e: &Emitter<'c>, alive: Option<Val<'c>>, body: impl FnOnce()) {
    match alive {
        None => body(),
        Some(alive) => e.if_then(alive, body),
    }
}
