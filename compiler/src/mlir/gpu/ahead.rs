//! Weights on their way before they are needed. Each warp has a ring in shared memory, whose places it fills in the order in which
//! it will read them: its share of one product after the other, far beyond the step at hand. Nothing that blocks wait for stands in
//! the way, as weights do not change; so the memory is busy while blocks wait for each other, and while a step computes.
//!
//! A *unit* is what a warp copies at once, 16 bytes a lane. Columns are cut into units, the last of which is padded with zeros. A
//! block takes its share of a product's columns in rounds, in each of which the warps share the units evenly; a *cursor* says what a
//! warp copies next.

use super::THREADS;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Ty, Val};

/// Bytes of a unit.
pub const UNIT: usize = COPY * WARP;
/// Most columns of a round: a thread for each finishes them.
pub const ROUND: usize = THREADS;
/// Warps of a block.
pub const WARPS: usize = THREADS / WARP;
/// What the block knows of the call and its table of streams: whether it reads ahead, how many streams, their address in shared
/// memory; 4 bytes each.
const KNOWN: &str = "known_streams";
/// The cursors of a ring's warps, where steps leave them for each other.
const CURSORS: &str = "cursors";
const CURSOR_BYTES: usize = 64;
/// Bytes of a table's entry: offset in the weights in [`COPY`]s, columns, bytes of a column, nothing.
pub const STREAM_BYTES: usize = 16;

/// The rings of a block, in its dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Where they begin.
    pub at: usize,
    /// Units of a warp's ring.
    pub slots: usize,
}

impl Ring {
    /// Bytes of all warps' rings.
    pub fn bytes(self) -> usize {
        WARPS * self.slots * UNIT
    }
}

/// What a warp copies next; the same in all its lanes. 32-bit but `place`.
#[derive(Clone, Copy)]
pub struct Cursor<'c> {
    /// The next unit.
    place: Val<'c>,
    /// Which unit of its column that is.
    unit: Val<'c>,
    /// Units that are left of the warp's share of the round.
    left: Val<'c>,
    /// Units of a column.
    units: Val<'c>,
    /// Bytes of a column; none: there is nothing more to copy.
    bytes: Val<'c>,
    /// Where the round begins in the product's columns.
    first: Val<'c>,
    /// Where the block's columns end.
    end: Val<'c>,
    /// Which stream of the table.
    stream: Val<'c>,
}

impl<'c> Cursor<'c> {
    /// As values that a loop carries.
    pub fn values(self) -> Vec<Val<'c>> {
        vec![self.place, self.unit, self.left, self.units, self.bytes, self.first, self.end, self.stream]
    }

    /// From such values.
    pub fn from(values: &[Val<'c>]) -> Self {
        let v = |at: usize| values[at];
        Cursor { place: v(0), unit: v(1), left: v(2), units: v(3), bytes: v(4), first: v(5), end: v(6), stream: v(7) }
    }
}

/// A warp's share of a round's units.
#[derive(Clone, Copy)]
pub struct Share<'c> {
    /// Its first unit, of all.
    pub from: Val<'c>,
    /// Past its last one.
    pub to: Val<'c>,
}

impl<'c> Share<'c> {
    /// The share of warp `warp` (`i32`, as all) of `count` units.
    pub fn of(e: &Emitter<'c>, warp: Val<'c>, count: Val<'c>) -> Self {
        let cut = |warp: Val<'c>| e.shift_right(e.mul(warp, count), i64::from(WARPS.ilog2()));
        Share { from: cut(warp), to: cut(e.add(warp, e.i32(1))) }
    }
}

/// The columns `[first, end)` that the block takes of so many; 32-bit.
pub fn columns_of_block<'c>(e: &Emitter<'c>, columns: Val<'c>) -> (Val<'c>, Val<'c>) {
    let (block, blocks) = (e.to_i32(e.block_number()), e.to_i32(e.blocks()));
    let cut = |block: Val<'c>| e.div(e.mul(columns, block), blocks);
    (cut(block), cut(e.add(block, e.i32(1))))
}

/// Reads ahead into one ring.
#[derive(Clone, Copy)]
pub struct Ahead<'k, 'c> {
    e: &'k Emitter<'c>,
    ring: Ring,
    /// The warp and the lane, `i32`.
    pub warp: Val<'c>,
    /// See above.
    pub lane: Val<'c>,
    /// Where the lane's part of the warp's ring begins.
    own: Val<'c>,
}

impl<'k, 'c> Ahead<'k, 'c> {
    /// For the thread at hand.
    pub fn new(e: &'k Emitter<'c>, ring: Ring) -> Self {
        let thread = e.thread();
        let warp = e.shift_right(thread, i64::from(WARP.ilog2()));
        let lane = e.and(thread, e.i32(WARP as i32 - 1));
        let rings = e.offset_by(e.shared_memory(), ring.at);
        let own = e.element(rings, e.to_i64(warp), ring.slots * UNIT);
        Ahead { e, ring, warp, lane, own: e.element(own, e.to_i64(lane), COPY) }
    }

    /// Whether this launch reads ahead.
    pub fn is_on(e: &Emitter<'c>) -> Val<'c> {
        e.cmp(Cmp::Ne, known(e, 0), e.i32(0))
    }

    /// Before the first step: copies the table of streams to shared memory (at `table`), and begins to read ahead if the call is of
    /// one row whose outputs are wanted.
    pub fn begin(&self, call: Val<'c>, (streams, count): (Val<'c>, Val<'c>), table: Val<'c>) {
        let e = self.e;
        let one = |field| e.cmp(Cmp::Eq, e.call_field(call, field), e.i64(1));
        let some = e.cmp(Cmp::Gt, count, e.i64(0));
        let on = e.and(some, e.and(one(Field::Rows), one(Field::Wanted)));
        let known = e.shared_place(KNOWN, 16);
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(known, e.select(on, e.i32(1), e.i32(0)));
            e.store(e.offset_by(known, 4), e.to_i32(count));
        });
        e.sync();
        e.if_then(on, || {
            let thread = e.to_i64(e.thread());
            e.for_loop(thread, count, e.i64(THREADS), &[], |at, _| {
                let entry = e.load_constant_aligned(e.element(streams, at, STREAM_BYTES), Ty::vector(Elem::I32, 4));
                e.store_aligned(e.element(table, at, STREAM_BYTES), entry);
                vec![]
            });
            e.sync();
            let weights = e.device_memory(e.call_field(call, Field::Weights));
            let zero = e.i32(0);
            let start = Cursor {
                place: weights,
                unit: zero,
                left: zero,
                units: zero,
                bytes: zero,
                first: zero,
                end: zero,
                stream: e.i32(-1),
            };
            let source = Source { weights, table };
            let filled = self.fill(start, source);
            self.leave(filled, zero);
        });
        e.sync();
    }

    /// Begins the copies of all places of the ring but one.
    pub fn fill(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let filled = e.for_loop(e.i64(0), e.i64(self.ring.slots - 1), e.i64(1), &cursor.values(), |slot, state| {
            self.copy(Cursor::from(state), e.to_i32(slot), source).values()
        });
        Cursor::from(&filled)
    }

    /// Begins the copy of the next unit, to a place of the ring whose unit has been read.
    pub fn copy(&self, cursor: Cursor<'c>, slot: Val<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let empty = e.cmp(Cmp::Eq, cursor.left, e.i32(0));
        let cursor = Cursor::from(&e.if_else(empty, || self.advance(cursor, source).values(), || cursor.values()));
        let at = e.mul(self.lane, e.i32(COPY as i32));
        let within = e.add(e.mul(cursor.unit, e.i32(UNIT as i32)), at);
        // Columns are whole copies; what a unit has beyond its column is zero.
        let bytes = e.select(e.cmp(Cmp::Lt, within, cursor.bytes), e.i32(COPY as i32), e.i32(0));
        // Where nothing follows, nothing is written: nobody would wait for it before the place is used again.
        let some = e.cmp(Cmp::Gt, cursor.bytes, e.i32(0));
        e.if_then(some, || e.begin_copy(self.slot(slot), e.offset(cursor.place, e.to_i64(at)), bytes));
        e.close_copies();
        let unit = e.add(cursor.unit, e.i32(1));
        let ends = e.cmp(Cmp::Eq, unit, cursor.units);
        let rest = e.sub(cursor.bytes, e.mul(cursor.unit, e.i32(UNIT as i32)));
        let by = e.select(ends, rest, e.i32(UNIT as i32));
        Cursor {
            place: e.offset(cursor.place, e.to_i64(by)),
            unit: e.select(ends, e.i32(0), unit),
            left: e.sub(cursor.left, e.i32(1)),
            ..cursor
        }
    }

    /// The lane's part of a place of the ring.
    pub fn slot(&self, slot: Val<'c>) -> Val<'c> {
        self.e.element(self.own, self.e.to_i64(slot), UNIT)
    }

    /// The place of the ring `by` behind.
    pub fn later(&self, slot: Val<'c>, by: usize) -> Val<'c> {
        self.e.and(self.e.add(slot, self.e.i32(by as i32)), self.e.i32(self.ring.slots as i32 - 1))
    }

    /// Units of the ring.
    pub fn slots(&self) -> usize {
        self.ring.slots
    }

    /// Waits for the unit that is read next, when the copy of the last place of the ring has been begun.
    pub fn arrive(&self) {
        self.e.wait_copies(self.ring.slots - 1);
    }

    /// The next share with units, in this or a later round or stream.
    fn advance(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let empty = |state: &[Val<'c>]| e.cmp(Cmp::Eq, Cursor::from(state).left, e.i32(0));
        Cursor::from(&e.while_loop(&cursor.values(), empty, |state| self.next(Cursor::from(state), source).values()))
    }

    fn next(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let following = e.add(cursor.first, e.i32(ROUND as i32));
        let more = e.cmp(Cmp::Lt, following, cursor.end);
        let stream = e.select(more, cursor.stream, e.add(cursor.stream, e.i32(1)));
        let count = known(self.e, 1);
        let there = e.cmp(Cmp::Lt, stream, count);
        let at = e.max(e.min(stream, e.sub(count, e.i32(1))), e.i32(0));
        let entry = e.load_aligned(e.element(source.table, e.to_i64(at), STREAM_BYTES), Ty::vector(Elem::I32, 4));
        // Where nothing follows, or nothing was read ahead, the entry is not one: its numbers would make no address.
        let [offset, columns, bytes] = [0, 1, 2].map(|word| e.select(there, e.extract(entry, word), e.i32(0)));
        let (begin, end) = columns_of_block(e, columns);
        let first = e.select(more, following, begin);
        let base = e.element(source.weights, e.to_i64(offset), COPY);
        let columns = e.min(e.sub(end, first), e.i32(ROUND as i32));
        let next = self.share((base, first), columns, bytes);
        // What is not there has no end: nobody looks for what follows it.
        Cursor { left: e.select(there, next.left, e.i32(i32::MAX)), bytes, end, stream, ..next }
    }

    /// At the beginning of the warp's share of the columns `first` to `first + columns` of those that begin at `base`.
    fn share(&self, (base, first): (Val<'c>, Val<'c>), columns: Val<'c>, bytes: Val<'c>) -> Cursor<'c> {
        let e = self.e;
        let units = e.max(units(e, bytes), e.i32(1));
        let share = Share::of(e, self.warp, e.mul(columns, units));
        let column = e.div(share.from, units);
        let unit = e.sub(share.from, e.mul(column, units));
        let before = e.mul(e.to_i64(e.add(first, column)), e.to_i64(bytes));
        let place = e.offset(e.offset(base, before), e.to_i64(e.mul(unit, e.i32(UNIT as i32))));
        let zero = e.i32(0);
        Cursor { place, unit, left: e.sub(share.to, share.from), units, bytes, first, end: zero, stream: zero }
    }

    /// At the beginning of the warp's share of these columns, behind which nothing follows.
    pub fn alone(&self, weights: Val<'c>, columns: Val<'c>, bytes: Val<'c>) -> Cursor<'c> {
        let share = self.share((weights, self.e.i32(0)), columns, bytes);
        Cursor { stream: known(self.e, 1), ..share }
    }

    fn kept(&self) -> Val<'c> {
        let all = self.e.shared_place(&format!("{CURSORS}_{}", self.ring.at), WARPS * CURSOR_BYTES);
        self.e.element(all, self.e.to_i64(self.warp), CURSOR_BYTES)
    }

    /// Leaves the cursor, and the place of the ring that is read next, for the next step.
    pub fn leave(&self, cursor: Cursor<'c>, slot: Val<'c>) {
        let e = self.e;
        let place = self.kept();
        // All lanes have taken what stands there.
        e.sync_warp();
        e.if_then(e.cmp(Cmp::Eq, self.lane, e.i32(0)), || {
            let values = cursor.values();
            e.store(place, values[0]);
            values[1..].iter().chain([&slot]).enumerate().for_each(|(at, word)| e.store(e.offset_by(place, 8 + 4 * at), *word));
        });
    }

    /// What a step before left.
    pub fn take(&self) -> (Cursor<'c>, Val<'c>) {
        let e = self.e;
        let place = self.kept();
        let address = e.load(place, Ty::scalar(Elem::Global));
        let words = (0..8).map(|at| e.load(e.offset_by(place, 8 + 4 * at), Ty::I32));
        let values: Vec<Val> = std::iter::once(address).chain(words).collect();
        (Cursor::from(&values), values[8])
    }
}

/// Where streams come from.
#[derive(Clone, Copy)]
pub struct Source<'c> {
    /// The weights.
    pub weights: Val<'c>,
    /// The table of streams in shared memory.
    pub table: Val<'c>,
}

fn known<'c>(e: &Emitter<'c>, at: usize) -> Val<'c> {
    e.load(e.offset_by(e.shared_place(KNOWN, 16), 4 * at), Ty::I32)
}

/// Units of a column of so many bytes.
pub fn units<'c>(e: &Emitter<'c>, bytes: Val<'c>) -> Val<'c> {
    e.shift_right(e.add(bytes, e.i32(UNIT as i32 - 1)), i64::from(UNIT.ilog2()))
}
