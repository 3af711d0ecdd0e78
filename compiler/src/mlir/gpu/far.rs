//! Numbers of a row that registers have no room for: they lie in shared memory, each where the thread that has it looks for it, and nobody else.

use super::THREADS;
use super::held::{EIGHT, Held};
use super::held_rows::far_at;
use super::wide::side_by_side;
use crate::fuse::expr::View;
use crate::fuse::kernel::{Stmt, Store};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::{Emitter, Ty, Val};

/// Groups of a thread that are in registers, and most groups of all.
const NEAR: usize = 8;
const MOST: usize = 16;
/// Most copies of a group: one number in single precision for each place of the row is alive at a time. As many registers hold one of those near.
const MOST_COPIES: usize = 4 * EIGHT / COPY;

/// Where what is known of a group lies: the number of its first copy of [`COPY`] bytes, and how it is stored.
#[derive(Clone, Debug)]
pub struct Slots {
    places: Vec<(View, usize, Store)>,
    /// Copies of a group.
    copies: usize,
    /// Groups of a thread that lie so.
    groups: usize,
    /// Where all begins in shared memory.
    at: usize,
}

impl Slots {
    /// The places for what a row is made of, if that is another in each row, and there are no more groups than registers and shared memory hold.
    pub fn of(held: &Held) -> Option<Slots> {
        let whole = |view: &&View| held.is_of_row(view) && view.stride(held.fastest()) == 1;
        if held.groups() > MOST || !held.reads.iter().all(whole) {
            return None;
        }
        let groups = held.groups().saturating_sub(NEAR);
        let mut slots = Slots { places: vec![], copies: 0, groups, at: far_at(held.code) };
        for view in &held.reads {
            slots.take(view, held.code.tensors[view.tensor.0].store);
        }
        let stmts: Vec<&Stmt> = held.code.nests.iter().flat_map(|nest| &nest.stmts).collect();
        for (at, stmt) in stmts.iter().enumerate() {
            let read_later = |view: &View| stmts[at + 1..].iter().any(|stmt| stmt.expr.views().contains(&view));
            if stmt.reduce.is_none() && stmt.target.stride(held.fastest()) == 1 && read_later(&stmt.target) {
                slots.take_free(&stmt.target, read_later);
            }
        }
        (slots.copies <= MOST_COPIES).then_some(slots)
    }

    /// A place for what is made, if there is one whose numbers nobody reads behind that.
    fn take_free(&mut self, view: &View, read_later: impl Fn(&View) -> bool) {
        let others = |first: usize| self.places.iter().filter(move |(_, own, _)| *own == first);
        let mut wide = self.places.iter().filter(|(.., store)| *store == Store::F32).map(|(_, first, _)| *first);
        match wide.find(|first| others(*first).all(|(own, ..)| !read_later(own))) {
            Some(first) => self.places.push((view.clone(), first, Store::F32)),
            None => self.take(view, Store::F32),
        }
    }

    fn take(&mut self, view: &View, store: Store) {
        self.places.push((view.clone(), self.copies, store));
        self.copies += EIGHT * store.bytes() / COPY;
    }

    /// Bytes of a block.
    pub fn bytes(&self) -> usize {
        self.groups * self.copies * THREADS * COPY
    }

    /// The thread's first copy of its group of that number, unless that is in registers.
    pub fn place<'c>(&self, e: &Emitter<'c>, group: usize) -> Option<Val<'c>> {
        let number = group.checked_sub(NEAR)?;
        let first = e.offset_by(e.shared_memory(), self.at + number * self.copies * THREADS * COPY);
        Some(e.element(first, e.to_i64(e.thread()), COPY))
    }

    /// Begins to copy numbers of so many bytes, which stand at `from`, to a group whose first copy is `own`.
    pub fn ask<'c>(&self, e: &Emitter<'c>, own: Val<'c>, (view, bytes): (&View, usize), from: Val<'c>) {
        let Some((_, first, _)) = self.places.iter().find(|(known, ..)| known == view) else {
            return e.fault("what is read of a row has no place in shared memory");
        };
        for at in 0..bytes / COPY {
            e.begin_copy(self.copy(e, own, first + at), e.offset_by(from, COPY * at), e.i32(COPY as i32));
        }
    }

    /// What a statement reads of the numbers of a group.
    pub fn lanes<'c>(&self, e: &Emitter<'c>, own: Val<'c>, stmt: &Stmt) -> Vec<(View, Vec<Val<'c>>)> {
        let views = stmt.expr.views();
        let read = self.places.iter().filter(|(view, ..)| views.contains(&view));
        let lanes = |(view, first, store): &(View, usize, Store)| {
            let load = |at: usize, ty: Ty| e.load_aligned(self.copy(e, own, first + at), ty);
            let copies = |ty: Ty| (0..EIGHT * store.bytes() / COPY).flat_map(|at| e.singles(load(at, ty))).collect();
            let lanes = match store {
                Store::Bf16 => copies(Ty::i32(4)),
                _ => copies(Ty::f32(4)),
            };
            (view.clone(), lanes)
        };
        read.map(lanes).collect()
    }

    /// Keeps what was made of a group, if that is read.
    pub fn keep<'c>(&self, e: &Emitter<'c>, own: Val<'c>, view: &View, made: &[Val<'c>]) {
        let Some((_, first, store)) = self.places.iter().find(|(known, ..)| known == view) else { return };
        for (at, four) in made.chunks(4).enumerate() {
            e.store_aligned(self.copy(e, own, first + at), side_by_side(e, *store, four));
        }
    }

    /// A copy of the thread's, which those of other threads of a warp lie beside.
    fn copy<'c>(&self, e: &Emitter<'c>, own: Val<'c>, number: usize) -> Val<'c> {
        e.offset_by(own, number * THREADS * COPY)
    }
}
