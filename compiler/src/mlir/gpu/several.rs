//! Dot products of several rows with many columns of 16-bit weights, on the matrix units: each weight is read once for all rows.
//!
//! As one row does (halves.rs), each row goes as two halves, what the units take of its numbers and what is left: eight rows and their rests
//! are the sixteen rows that the units multiply, eight columns of weights their columns. Rows are too many for shared memory, so a warp has a
//! part of their depth in registers and walks along all columns of the round with it: units come in that order ([`Order::Parts`]). Each warp has
//! sums of all columns, which are added up in the order of the warps.

use super::ahead::{self, Ahead, Source};
use super::cursor::{Cursor, Share, groups, units};
use super::dot::Dot;
use super::halves;
use super::matmul::{Product, is_read_ahead};
use super::ring::{Order, PART, Ring};
use super::{BLOCKS, STEP_ROWS, THREADS, WARPS};
use crate::fuse::kernel::{DEPTH, Matmul};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Linkage, Ty, Val};
use crate::plan::column_bytes;

/// Rows that the units take at once, with their rests; and columns.
const EIGHT: usize = 8;
/// Columns of a round.
const ROUND: usize = Order::Parts.round();
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
    /// Whether they are asked for ahead.
    pub ahead: bool,
}

/// Whether several rows of a product go so.
pub fn are_used(code: &Matmul) -> bool {
    let dot = Dot::of(code, 1);
    halves::are_used(dot) && dot.aligned && code.chosen.is_none()
}

impl Several {
    /// The ring's shapes and most rows, best first, where the copy engine fills it and elsewhere.
    pub fn ways(engine: bool) -> &'static [(usize, usize, usize)] {
        match engine {
            true => &[(256, 4, STEP_ROWS), (256, 2, STEP_ROWS), (256, 2, EIGHT)],
            false => &[(128, 2, EIGHT)],
        }
    }

    /// Bytes of all warps' sums of so many rows, and of the rows' addresses.
    pub const fn shared_bytes(rows: usize) -> usize {
        sums_of_warp(rows) * WARPS + 8 * rows
    }

    /// Whether weights of a product may be asked for ahead.
    pub fn is_ahead(self, code: &Matmul) -> bool {
        self.ahead && is_read_ahead(code)
    }

    fn addresses<'c>(self, e: &Emitter<'c>) -> Val<'c> {
        e.offset_by(e.shared_memory(), sums_of_warp(self.rows) * WARPS)
    }

    /// Numbers of rows that there are functions for.
    fn kinds(self) -> impl Iterator<Item = Kind> {
        [EIGHT, STEP_ROWS].into_iter().filter(move |rows| *rows <= self.rows).map(move |rows| Kind { several: self, rows })
    }

    /// Defines the functions, unless they are there. `table`: where the table of streams lies in shared memory.
    pub fn emit(self, e: &Emitter, table: usize) {
        self.kinds().for_each(|kind| kind.emit(e, table));
    }
}

/// Bytes of a warp's sums, `[groups][eights of rows][lanes][2]`.
const fn sums_of_warp(rows: usize) -> usize {
    ROUND / EIGHT * rows.div_ceil(EIGHT) * TILE
}

/// One function of an artifact: for at most so many rows.
struct Kind {
    several: Several,
    rows: usize,
}

impl Kind {
    fn name(&self) -> String {
        format!("stream_of_{}", self.rows)
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
                self.multiply((turn, group), rest, &met);
                std::iter::once(e.add(turn, e.i32(1))).chain(cursor.values()).collect()
            });
            let place = [e.sub(rest, size), e.i32(0), left];
            place.into_iter().chain(made).collect()
        });
        ahead.leave(Cursor::from(&end[4..]), end[3]);
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

    /// Where the lane's numbers of its row of some eight begin.
    fn row(&self, eight: usize) -> Val<'c> {
        let e = self.e;
        let place = e.element(self.kind.several.addresses(e), e.to_i64(self.own()), 8);
        let row = e.load(e.offset_by(place, 8 * EIGHT * eight), Ty::scalar(Elem::Global));
        e.element(row, e.to_i64(self.within()), 2 * COPY)
    }

    /// What a part of the weights meets of the rows, as the units take it: for each instruction and eight rows the numbers and what is left.
    /// `before`: bytes of a column before the part; `rest`: from there on.
    fn met(&self, (before, rest): (Val<'c>, Val<'c>)) -> Vec<Val<'c>> {
        let e = self.e;
        let part = self.ahead.places.ring.part;
        let own = e.mul(self.within(), e.i32(COPY as i32));
        // Looked up anew: between parts, registers are for what is multiplied.
        let rows: Vec<Val> = (0..self.eights()).map(|eight| self.row(eight)).collect();
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

    /// Adds the products of the unit whose turn it is to the sums of its group.
    fn multiply(&self, (turn, group): (Val<'c>, Val<'c>), rest: Val<'c>, met: &[Val<'c>]) {
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
        for (eight, sums) in made.chunks_exact(4).enumerate() {
            let place = self.pair(group, eight);
            let before = e.load_aligned(place, Ty::f32(2));
            let both = [0, 1].map(|n| e.add(e.extract(before, n), e.add(sums[n], sums[n + 2])));
            e.store_aligned(place, e.insert(e.insert(e.poison(Ty::f32(2)), 0, both[0]), 1, both[1]));
        }
    }
}

impl<'c> Product<'_, 'c> {
    /// All rows times some columns of a batch element.
    pub(super) fn several(&mut self, several: Several, element: Val<'c>, (start, end): (Val<'c>, Val<'c>), count: Val<'c>) {
        let e = self.e;
        for_each(e, e.i64(0), count, e.i64(several.rows), |row| {
            let rows = e.min(e.sub(count, row), e.i64(several.rows));
            for_each(e, start, end, e.i64(ROUND), |first| {
                let columns = e.min(e.sub(end, first), e.i64(ROUND));
                self.round_of_several(several, element, (first, columns), (row, rows));
            });
        });
    }

    fn round_of_several(
        &mut self,
        several: Several,
        element: Val<'c>,
        (first, columns): (Val<'c>, Val<'c>),
        (row, rows): (Val<'c>, Val<'c>),
    ) {
        let (e, code) = (self.e, self.code);
        let weights = e.device_memory(e.call_field(self.args.call, Field::Weights));
        let source = Source { weights, table: e.offset_by(e.shared_memory(), self.streams.table) };
        let (count, bytes) = (e.to_i32(columns), e.i32(column_bytes(code) as i32));
        several.ring.release(e);
        // Threads may still be at the sums of a round before this one.
        e.sync();
        let ahead = if several.is_ahead(code) { Ahead::is_on_for_several(e) } else { e.bool(false) };
        e.if_then(e.not(ahead), || ahead::begin_alone(e, several.ring, self.weights(element, first), (count, bytes), source));
        let thread = e.to_i64(e.thread());
        e.if_then(e.cmp(Cmp::Lt, thread, e.i64(several.rows)), || {
            // Past the last row that is read again.
            self.site.set_product_row(code, e.add(row, e.min(thread, e.sub(rows, e.i64(1)))));
            self.site.index.insert(DEPTH, e.i64(0));
            e.store(e.element(several.addresses(e), thread, 8), self.site.address(&code.left));
        });
        e.sync();
        let arguments = [count, bytes, source.weights];
        let call = |kind: Kind| {
            e.call(&kind.name(), &arguments, None);
        };
        let kind = |rows: usize| Kind { several, rows };
        if several.rows > EIGHT {
            let few = e.cmp(Cmp::Le, rows, e.i64(EIGHT));
            e.if_then(few, || call(kind(EIGHT)));
            e.if_then(e.not(few), || call(kind(several.rows)));
        } else {
            call(kind(EIGHT));
        }
        e.sync();
        for_each(e, e.to_i64(e.thread()), e.mul(rows, e.i64(ROUND)), e.i64(THREADS), |result| {
            let (own, column) = (e.shift_right(result, i64::from(ROUND.ilog2())), e.and(result, e.i64(ROUND as i64 - 1)));
            e.if_then(e.cmp(Cmp::Lt, column, columns), || {
                let sum = sum_of(e, several, rows, (e.to_i32(own), e.to_i32(column)));
                self.site.set_product_row(code, e.add(row, own));
                self.end(e.add(first, column), sum);
            });
        });
    }
}

/// The sum of a row and a column (`i32`): those of all warps.
fn sum_of<'c>(e: &Emitter<'c>, several: Several, rows: Val<'c>, (row, column): (Val<'c>, Val<'c>)) -> Val<'c> {
    let bits = i64::from(EIGHT.ilog2());
    let within = |number: Val<'c>| e.and(number, e.i32(EIGHT as i32 - 1));
    let eights = e.select(e.cmp(Cmp::Le, rows, e.i64(EIGHT)), e.i32(1), e.i32(several.rows.div_ceil(EIGHT) as i32));
    let tile = e.add(e.mul(e.shift_right(column, bits), eights), e.shift_right(row, bits));
    let number = e.add(e.mul(within(row), e.i32(EIGHT as i32)), within(column));
    let place = e.add(e.mul(tile, e.i32((EIGHT * EIGHT) as i32)), number);
    let own = e.element(e.shared_memory(), e.to_i64(place), 4);
    let part = |warp: usize| e.load(e.offset_by(own, warp * sums_of_warp(several.rows)), Ty::F32);
    (1..WARPS).fold(part(0), |sum, warp| e.add(sum, part(warp)))
}

/// Loads are whole instructions' numbers; two blocks have their sums.
const _: () = assert!(PART.is_multiple_of(LOAD) && BLOCKS * Several::shared_bytes(STEP_ROWS) <= 80 << 10);
