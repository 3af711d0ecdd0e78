//! Dot products of several rows with many columns of 16-bit or quantised weights, on the matrix units: each weight is read once for all rows.
//!
//! With weights of 16 bits (slots.rs has the others), as one row does (halves.rs), each row goes as two halves, what the units take of its numbers
//! and what is left: eight rows and their rests are the sixteen rows that the units multiply, eight columns of weights their columns. Rows are too
//! many for shared memory, so a warp has a part of their depth in registers and walks along all columns of the round with it: units come in that
//! order ([`Order::Parts`]). Each warp has sums of all columns, which are added up in the order of the warps (rounds.rs).

use super::ahead::{Ahead, Source};
use super::cursor::{Cursor, Share, groups, units};
use super::dot::Dot;
use super::halves;
use super::matmul::is_read_ahead;
use super::parts::Parts;
use super::ring::{Order, PART, Ring};
use super::slots::{Columns, Met, Slots};
use super::{BLOCKS, STEP_ROWS, WARPS};
use crate::fuse::kernel::Matmul;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use braid_runtime::artifact::GROUP;

/// Rows that the units take at once, with their rests; and columns.
pub(super) const EIGHT: usize = 8;
/// Columns of a round.
pub(super) const ROUND: usize = Order::Parts.round();
/// Bytes of the sums of eight rows and eight columns: two of each lane.
const PAIR: usize = 8;
const TILE: usize = 4 * EIGHT * EIGHT;
/// Bytes of weights that the lanes of a column load at once: two instructions' numbers.
const LOAD: usize = 4 * COPY;

/// How several rows are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several {
    /// Where units come to.
    pub ring: Ring,
    /// Most rows at once.
    pub rows: usize,
    /// Bytes of the scales that a warp has at hand.
    pub scales: usize,
    /// Whether they are asked for ahead.
    pub ahead: bool,
}

/// Whether several rows of a product go so.
pub fn are_used(code: &Matmul) -> bool {
    let dot = Dot::of(code, 1);
    let stored = halves::are_used(dot) || parts(code).is_some() && code.sizes[2].is_multiple_of(GROUP);
    stored && dot.aligned && code.chosen.is_none()
}

pub(super) fn parts(code: &Matmul) -> Option<Parts> {
    Parts::of(code.tensors[code.weights.0].store)
}

/// Most bytes of a unit of a column of a product's weights: registers have what it meets of all rows.
pub fn unit_of(code: &Matmul) -> usize {
    parts(code).map_or(PART / 2, Slots::unit_of)
}

/// Bytes of the scales of a round's columns, in units of so many bytes.
pub fn scales_of_warp(code: &Matmul, unit: usize) -> usize {
    parts(code).map_or(0, |parts| Slots { parts, unit }.bytes(ROUND))
}

impl Several {
    /// The ring's shapes (most bytes of a unit of a column, units) and most rows, best first, where the copy engine fills it and elsewhere.
    pub fn ways(engine: bool) -> &'static [(usize, usize, usize)] {
        match engine {
            true => &[(256, 4, STEP_ROWS), (256, 2, STEP_ROWS), (256, 2, EIGHT)],
            false => &[(128, 2, EIGHT)],
        }
    }

    /// Bytes of all warps' sums of so many rows, of the rows' addresses and that of the weights, and of so many of scales for each warp.
    pub const fn shared_bytes(rows: usize, scales: usize) -> usize {
        scales_at(rows) + scales * WARPS
    }

    /// Whether weights of a product may be asked for ahead.
    pub fn is_ahead(self, code: &Matmul) -> bool {
        self.ahead && is_read_ahead(code)
    }

    pub(super) fn addresses<'c>(self, e: &Emitter<'c>) -> Val<'c> {
        e.offset_by(e.shared_memory(), sums_of_warp(self.rows) * WARPS)
    }

    /// The function for at most so many rows of a product.
    pub(super) fn kind(self, code: &Matmul, rows: usize) -> Kind {
        Kind { several: self, rows, slots: parts(code).map(|parts| Slots { parts, unit: self.ring.part }), ready: code.ready }
    }

    /// Defines the functions of a product, unless they are there. `table`: where the table of streams lies in shared memory.
    pub fn emit(self, e: &Emitter, code: &Matmul, table: usize) {
        let rows = [EIGHT, STEP_ROWS].into_iter().filter(|rows| *rows <= self.rows);
        rows.for_each(|rows| self.kind(code, rows).emit(e, table));
    }
}

/// Bytes of a warp's sums, `[groups][eights of rows][lanes][2]`.
pub(super) const fn sums_of_warp(rows: usize) -> usize {
    ROUND / EIGHT * rows.div_ceil(EIGHT) * TILE
}

/// Where scales lie, behind the sums, addresses of rows and that of the weights, and how many columns these are.
const fn scales_at(rows: usize) -> usize {
    (sums_of_warp(rows) * WARPS + 8 * (rows + 2)).next_multiple_of(COPY)
}

/// One function of an artifact: for at most so many rows.
pub(super) struct Kind {
    several: Several,
    rows: usize,
    /// Of quantised weights.
    slots: Option<Slots>,
    /// Whether a step before has made integers of rows.
    ready: bool,
}

impl Kind {
    pub(super) fn name(&self) -> String {
        let stored = self.slots.map_or(String::new(), |slots| format!("_{}", slots.parts.name()));
        format!("stream_of_{}{stored}{}", self.rows, if self.ready { "_ready" } else { "" })
    }

    /// Defines it: `(columns of the round, bytes of a column, all weights)`.
    fn emit(&self, e: &Emitter, table: usize) {
        let name = self.name();
        if !e.first_time(&name) {
            return;
        }
        let parameters = [Ty::I32, Ty::I32, Ty::scalar(Elem::Global)];
        e.function(&name, Linkage::Private, &parameters, None, |values| {
            let [columns, bytes, weights] = *values else { return None };
            let table = e.offset_by(e.shared_memory(), table);
            let ahead = Ahead::new(e, self.several.ring);
            let sums = e.element(e.shared_memory(), e.to_i64(ahead.places.warp), sums_of_warp(self.several.rows));
            Walk { kind: self, e, ahead, columns, bytes, sums, source: Source { weights, table } }.run();
            None
        });
    }
}

/// A warp's share of a round.
struct Walk<'k, 'c> {
    kind: &'k Kind,
    e: &'k Emitter<'c>,
    ahead: Ahead<'k, 'c>,
    columns: Val<'c>,
    /// Of a column.
    bytes: Val<'c>,
    /// The warp's.
    sums: Val<'c>,
    source: Source<'c>,
}

impl<'c> Walk<'_, 'c> {
    fn eights(&self) -> usize {
        self.kind.rows / EIGHT
    }

    /// The lane's place among those of its row or column, which take numbers side by side.
    fn within(&self) -> Val<'c> {
        self.e.and(self.ahead.places.lane, self.e.i32(3))
    }

    /// The lane's row, and column.
    fn own(&self) -> Val<'c> {
        self.e.shift_right(self.ahead.places.lane, 2)
    }

    /// Part after part, and all groups of each.
    fn run(&self) {
        let (e, ahead) = (self.e, self.ahead);
        let (cursor, turn) = ahead.take();
        let parts = e.max(units(e, self.bytes, ahead.places.ring.part), e.i32(1));
        let count = groups(e, self.columns, Order::Parts);
        let share = Share::of(e, ahead.places.warp, e.mul(count, parts));
        let (group, part) = share.group_and_part(e, count);
        self.clear(count);
        // Few numbers go along, as registers are for what is multiplied: what is left of a column says which part it is.
        let size = e.i32(ahead.places.ring.part as i32);
        let rest = e.sub(self.bytes, e.mul(part, size));
        let start: Vec<Val> = [rest, group, e.sub(share.to, share.from), turn].into_iter().chain(cursor.values()).collect();
        let some = |state: &[Val<'c>]| e.cmp(Cmp::Gt, state[2], e.i32(0));
        let end = e.while_loop(&start, some, |state| {
            let [rest, group, left, turn] = [state[0], state[1], state[2], state[3]];
            let to = e.min(count, e.add(group, left));
            let left = e.sub(left, e.sub(to, group));
            let met = self.met((e.sub(self.bytes, rest), rest));
            let start: Vec<Val> = std::iter::once(turn).chain(state[4..].iter().copied()).collect();
            let made = e.for_loop(group, to, e.i32(1), &start, |group, state| {
                let turn = state[0];
                let cursor = ahead.turn(Cursor::from(&state[1..]), turn, self.source);
                let sums = match &met {
                    Rows::Halves(met) => self.multiply(turn, rest, met),
                    Rows::Slots(slots, met) => self.multiply_slots(*slots, (turn, group), met),
                };
                self.add(group, &sums);
                std::iter::once(e.add(turn, e.i32(1))).chain(cursor.values()).collect()
            });
            let place = [e.sub(rest, size), e.i32(0), left];
            place.into_iter().chain(made).collect()
        });
        // Where that is would stay in a register all the time.
        Ahead::anew(e, ahead.places.ring).leave(Cursor::from(&end[4..]), end[3]);
    }

    /// Where the lane's pair of sums of a group is, of some eight rows.
    fn pair(&self, group: Val<'c>, eight: usize) -> Val<'c> {
        let e = self.e;
        let own = e.element(self.sums, e.to_i64(group), TILE * self.eights());
        e.element(e.offset_by(own, TILE * eight), e.to_i64(self.ahead.places.lane), PAIR)
    }

    /// Sums begin with nothing.
    fn clear(&self, count: Val<'c>) {
        let e = self.e;
        e.for_loop(e.i32(0), count, e.i32(1), &[], |group, _| {
            (0..self.eights()).for_each(|eight| e.store_aligned(self.pair(group, eight), e.float(Ty::f32(2), 0.0)));
            vec![]
        });
    }

    /// Where the lane's row of some eight begins, of which it is number `own`.
    fn row(&self, own: Val<'c>, eight: usize) -> Val<'c> {
        let e = self.e;
        let place = e.element(self.kind.several.addresses(e), e.to_i64(own), 8);
        e.load(e.offset_by(place, 8 * EIGHT * eight), Ty::scalar(Elem::Global))
    }

    /// What a part of the weights meets of the rows. `place`: bytes of a column before the part, and from there on.
    fn met(&self, place: (Val<'c>, Val<'c>)) -> Rows<'c> {
        let e = self.e;
        // Looked up anew: between parts, registers are for what is multiplied.
        let rows = |own| -> Vec<Val> { (0..self.eights()).map(|eight| self.row(own, eight)).collect() };
        let Some(slots) = self.kind.slots else { return Rows::Halves(self.met_halves(&rows(self.own()), place)) };
        let (spot, lane) = (slots.spot(e, place), self.lane_anew());
        let told = e.offset_by(self.kind.several.addresses(e), 8 * self.kind.several.rows);
        let (first, count) = (e.load(told, Ty::scalar(Elem::Global)), e.load(e.offset_by(told, 8), Ty::I32));
        slots.bring(e, (self.scales(), lane), Columns { first, count, bytes: self.bytes }, spot);
        let (rows, within) = (rows(e.shift_right(lane, 2)), e.and(lane, e.i32(3)));
        let met = if self.kind.ready { Slots::met_ready } else { Slots::met };
        Rows::Slots(slots, met(slots, e, (&rows, within), spot))
    }

    /// The lane, read anew: what is made of it would stay in registers.
    fn lane_anew(&self) -> Val<'c> {
        self.e.and(self.e.thread_anew(), self.e.i32(WARP as i32 - 1))
    }

    /// The warp's scales.
    fn scales(&self) -> Val<'c> {
        let (e, several) = (self.e, self.kind.several);
        let warp = e.shift_right(e.thread_anew(), i64::from(WARP.ilog2()));
        e.element(e.offset_by(e.shared_memory(), scales_at(several.rows)), e.to_i64(warp), several.scales)
    }

    /// The same as the units take it: for each instruction and eight rows the numbers and what is left.
    fn met_halves(&self, rows: &[Val<'c>], (before, rest): (Val<'c>, Val<'c>)) -> Vec<Val<'c>> {
        let e = self.e;
        let part = self.ahead.places.ring.part;
        let own = e.mul(self.within(), e.i32(COPY as i32));
        let rows: Vec<Val> = rows.iter().map(|row| e.element(*row, e.to_i64(self.within()), 2 * COPY)).collect();
        let load = |whole: bool| -> Vec<Val<'c>> {
            let loads = (0..part).step_by(LOAD).flat_map(|at| rows.iter().map(move |row| (at, *row)));
            let loaded = loads.map(|(at, row)| {
                let from = e.offset(row, e.to_i64(e.shift_left(e.add(before, e.i32(at as i32)), 1)));
                let fours = || [0, COPY].map(|by| e.load_aligned(e.offset_by(from, by), Ty::f32(4)));
                if whole {
                    return fours();
                }
                let there = e.cmp(Cmp::Lt, e.add(own, e.i32(at as i32)), rest);
                let made = e.if_else(there, || fours().to_vec(), || vec![e.float(Ty::f32(4), 0.0); 2]);
                [made[0], made[1]]
            });
            // All loads first: they are under way together.
            let loaded: Vec<[Val; 2]> = loaded.collect();
            loaded.into_iter().flat_map(|fours| halves::halved(e, fours)).collect()
        };
        e.if_else(e.cmp(Cmp::Ge, rest, e.i32(part as i32)), || load(true), || load(false))
    }

    /// The products of the unit whose turn it is: the lane's two sums of each eight rows.
    fn multiply(&self, turn: Val<'c>, rest: Val<'c>, met: &[Val<'c>]) -> Vec<[Val<'c>; 2]> {
        let e = self.e;
        let (part, eights) = (self.ahead.places.ring.part, self.eights());
        let own = e.mul(self.within(), e.i32(COPY as i32));
        let weights = e.offset(self.ahead.places.column(turn, self.own()), e.to_i64(own));
        let add = |whole: bool| {
            let mut sums: Vec<[Val; 4]> = (0..eights).map(|_| [e.f32(0.0); 4]).collect();
            for at in (0..part).step_by(LOAD) {
                let loaded = e.load_aligned(e.offset_by(weights, at), Ty::i32(4));
                // What lies behind a column is what was there before.
                let there = || e.cmp(Cmp::Lt, e.add(own, e.i32(at as i32)), rest);
                let w = if whole { loaded } else { e.select(there(), loaded, e.int(Ty::i32(4), 0)) };
                for (eight, sums) in sums.iter_mut().enumerate() {
                    let first = 2 * (at / LOAD * eights + eight);
                    let (high, low) = (met[first], met[first + 1]);
                    for half in [0, 2] {
                        let left = [(high, half), (low, half), (high, half + 1), (low, half + 1)];
                        let right = [half, half + 1].map(|n| e.extract(w, n));
                        *sums = e.multiply_fragments(left.map(|(words, n)| e.extract(words, n)), right, *sums);
                    }
                }
            }
            sums.into_iter().flatten().collect()
        };
        let made = e.if_else(e.cmp(Cmp::Ge, rest, e.i32(part as i32)), || add(true), || add(false));
        made.chunks_exact(4).map(|sums| [0, 1].map(|n| e.add(sums[n], sums[n + 2]))).collect()
    }

    /// The same of quantised weights.
    fn multiply_slots(&self, slots: Slots, (turn, group): (Val<'c>, Val<'c>), met: &Met<'c>) -> Vec<[Val<'c>; 2]> {
        let e = self.e;
        let mut sums = vec![[e.f32(0.0); 2]; self.eights()];
        let lane = self.lane_anew();
        let weights = self.ahead.places.column(turn, e.shift_right(lane, 2));
        slots.multiply(e, (weights, lane), (self.scales(), group), met, &mut sums);
        sums
    }

    /// Adds to the sums of a group.
    fn add(&self, group: Val<'c>, sums: &[[Val<'c>; 2]]) {
        let e = self.e;
        for (eight, sums) in sums.iter().enumerate() {
            let place = self.pair(group, eight);
            let before = e.load_aligned(place, Ty::f32(2));
            let both = [0, 1].map(|n| e.add(e.extract(before, n), sums[n]));
            e.store_aligned(place, e.insert(e.insert(e.poison(Ty::f32(2)), 0, both[0]), 1, both[1]));
        }
    }
}

/// What weights of a part meet of all rows.
enum Rows<'c> {
    /// For each instruction and eight rows the numbers and what is left.
    Halves(Vec<Val<'c>>),
    /// What they are in slots.
    Slots(Slots, Met<'c>),
}

/// Loads are whole instructions' numbers; two blocks have their sums.
const _: () = assert!((PART / 8).is_multiple_of(LOAD) && BLOCKS * Several::shared_bytes(STEP_ROWS, 0) <= 80 << 10);
