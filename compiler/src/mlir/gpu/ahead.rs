//! Weights on their way before they are needed. Each warp has a ring in shared memory, whose places it fills in the order in which
//! it will read them: its share of one product after the other, far beyond the step at hand. Nothing that blocks wait for stands in
//! the way, as weights do not change; so the memory is busy while blocks wait for each other, and while a step computes.
//!
//! A *unit* is what a warp copies at once: a part of some neighbouring columns, a *group*; the last part and the last group of a share may be
//! smaller. A block takes its share of a product's columns in rounds, in each of which the warps share the units evenly; a *cursor* says what a
//! warp copies next.

use super::ring::{COLUMNS, Places, Ring, Unit};
use super::{THREADS, WARPS};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Ty, Val};

/// Most columns of a round: a thread for each finishes them.
pub const ROUND: usize = THREADS;
/// What the block knows of the call and its table of streams: whether it reads ahead, how many streams, what divides by the number of
/// blocks; 4 bytes each.
const KNOWN: &str = "known_streams";
/// The cursors of a ring's warps, where steps leave them for each other.
const CURSORS: &str = "cursors";
const CURSOR_BYTES: usize = 64;
/// Where a cursor's turn lies.
const TURN_AT: usize = 40;
/// Bytes of a table's entry: offset in the weights in [`COPY`]s, columns, bytes of a column, in shared memory what divides by a column's units.
pub const STREAM_BYTES: usize = 16;
/// Units of a warp that may be under way while blocks wait for each other: their messages go the same way.
const WAITING: usize = 1;

/// What a warp copies next; the same in all its lanes. 32-bit but `place`.
#[derive(Clone, Copy)]
pub struct Cursor<'c> {
    /// The next unit, in the first column of its group.
    place: Val<'c>,
    /// Which unit of its group that is.
    unit: Val<'c>,
    /// Units that are left of the warp's share of the round.
    left: Val<'c>,
    /// Columns of the round from the group on.
    columns: Val<'c>,
    /// Bytes of a column; none: there is nothing more to copy.
    bytes: Val<'c>,
    /// Where the round begins in the product's columns.
    first: Val<'c>,
    /// Where the block's columns end.
    end: Val<'c>,
    /// Which stream of the table.
    stream: Val<'c>,
    /// The turn of the next unit.
    begun: Val<'c>,
}

impl<'c> Cursor<'c> {
    /// As values that a loop carries.
    pub fn values(self) -> Vec<Val<'c>> {
        vec![self.place, self.unit, self.left, self.columns, self.bytes, self.first, self.end, self.stream, self.begun]
    }

    /// From such values.
    pub fn from(values: &[Val<'c>]) -> Self {
        let v = |at: usize| values[at];
        let [place, unit, left, columns, bytes, first, end, stream, begun] = std::array::from_fn(v);
        Cursor { place, unit, left, columns, bytes, first, end, stream, begun }
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
    let (block, by) = (e.to_i32(e.block_number()), known(e, 2));
    let cut = |block: Val<'c>| divided(e, e.mul(columns, block), by);
    (cut(block), cut(e.add(block, e.i32(1))))
}

/// Digits of what divides.
const DIGITS: i64 = 30;

/// What divides by a number (`i32`), by [`divided`].
fn divisor<'c>(e: &Emitter<'c>, by: Val<'c>) -> Val<'c> {
    let by = e.to_i64(by);
    e.to_i32(e.div(e.add(e.i64((1i64 << DIGITS) - 1), by), by))
}

/// A quotient without a division, as these take long and each warp needs several for a product: exact for multiples, and for all numbers
/// whose product with what they are divided by is below 2^30; it grows with the number in any case.
pub fn divided<'c>(e: &Emitter<'c>, number: Val<'c>, divisor: Val<'c>) -> Val<'c> {
    e.to_i32(e.shift_right(e.mul(e.to_i64(number), e.to_i64(divisor)), DIGITS))
}

/// The same for a number that is known.
pub fn divisor_of(by: usize) -> i32 {
    (1usize << DIGITS).div_ceil(by.max(1)) as i32
}

/// Reads ahead into one ring.
#[derive(Clone, Copy)]
pub struct Ahead<'k, 'c> {
    e: &'k Emitter<'c>,
    /// The warp's ring.
    pub places: Places<'k, 'c>,
}

impl<'k, 'c> Ahead<'k, 'c> {
    /// For the thread at hand.
    pub fn new(e: &'k Emitter<'c>, ring: Ring) -> Self {
        Ahead { e, places: Places::new(e, ring) }
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
        self.prepare();
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(known, e.select(on, e.i32(1), e.i32(0)));
            e.store(e.offset_by(known, 4), e.to_i32(count));
            e.store(e.offset_by(known, 8), divisor(e, e.to_i32(e.blocks())));
        });
        e.sync();
        e.if_then(on, || {
            let thread = e.to_i64(e.thread());
            e.for_loop(thread, count, e.i64(THREADS), &[], |at, _| {
                let entry = e.load_constant_aligned(e.element(streams, at, STREAM_BYTES), Ty::vector(Elem::I32, 4));
                let entry = e.insert(entry, 3, self.divisor(e.extract(entry, 2)));
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
                columns: zero,
                bytes: zero,
                first: zero,
                end: zero,
                stream: e.i32(-1),
                begun: zero,
            };
            let source = Source { weights, table };
            self.leave(self.fill(start, source), zero);
        });
        e.sync();
    }

    /// Makes the ring ready, once a launch; all threads of the block, which must meet before any uses it.
    pub fn prepare(&self) {
        let e = self.e;
        self.places.ring.prepare(e);
        e.if_then(e.cmp(Cmp::Eq, self.places.lane, e.i32(0)), || e.store(e.offset_by(self.kept(), TURN_AT), e.i32(0)));
    }

    /// Begins the copies of as many units as have places, but one.
    pub fn fill(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let count = e.i32(self.places.ring.slots as i32 - 1);
        let filled =
            e.for_loop(e.i32(0), count, e.i32(1), &cursor.values(), |_, state| self.copy(Cursor::from(state), source).values());
        Cursor::from(&filled)
    }

    /// Begins the copy of the next unit to where a unit has been read.
    fn copy(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let empty = e.cmp(Cmp::Eq, cursor.left, e.i32(0));
        let cursor = Cursor::from(&e.if_else(empty, || self.advance(cursor, source).values(), || cursor.values()));
        let (most, part) = (e.i32(COLUMNS as i32), e.i32(self.places.ring.part as i32));
        let skipped = e.mul(cursor.unit, part);
        let rest = e.sub(cursor.bytes, skipped);
        let bytes = e.min(rest, part);
        let columns = e.max(e.min(cursor.columns, most), e.i32(0));
        // Where nothing follows, there is no column.
        self.places.copy(cursor.begun, Unit { from: cursor.place, stride: cursor.bytes, bytes, columns });
        let ends = e.cmp(Cmp::Le, rest, part);
        let following = e.sub(e.mul(cursor.bytes, most), skipped);
        let by = e.select(ends, following, part);
        Cursor {
            place: e.offset(cursor.place, e.to_i64(by)),
            unit: e.select(ends, e.i32(0), e.add(cursor.unit, e.i32(1))),
            left: e.sub(cursor.left, e.i32(1)),
            columns: e.sub(cursor.columns, e.select(ends, most, e.i32(0))),
            begun: e.add(cursor.begun, e.i32(1)),
            ..cursor
        }
    }

    /// Begins the copy of one more unit, unless as many are under way or have come as there may be, and waits for the unit that is read
    /// next, whose turn is `turn`.
    pub fn turn(&self, cursor: Cursor<'c>, turn: Val<'c>, source: Source<'c>) -> Cursor<'c> {
        let e = self.e;
        let cursor = if self.places.ring.fills_up() {
            Cursor::from(&e.if_else(
                self.has_place(cursor.begun, turn),
                || self.copy(cursor, source).values(),
                || cursor.values(),
            ))
        } else {
            self.copy(cursor, source)
        };
        self.places.arrive(turn);
        cursor
    }

    /// While the block waits for others: begins the copy of the next unit, if there is a place for it, and if what is under way has
    /// come but for what may be while others wait.
    pub fn meanwhile(&self, source: Source<'c>) {
        let e = self.e;
        let (cursor, turn) = self.take();
        let few = e.cmp(Cmp::Lt, e.sub(cursor.begun, turn), e.i32(WAITING as i32));
        let come = || vec![self.places.has_come(e.sub(cursor.begun, e.i32(WAITING as i32)))];
        let come = e.if_else(few, || vec![e.bool(true)], come)[0];
        e.if_then(e.and(self.has_place(cursor.begun, turn), come), || self.leave(self.copy(cursor, source), turn));
    }

    /// Whether there is a place for the next unit; the same in all lanes.
    pub fn has_room(&self) -> Val<'c> {
        let (cursor, turn) = self.take();
        self.has_place(cursor.begun, turn)
    }

    fn has_place(&self, begun: Val<'c>, turn: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.cmp(Cmp::Lt, e.sub(begun, turn), e.i32(self.places.ring.slots as i32))
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
        let [offset, columns, bytes, divisor] = [0, 1, 2, 3].map(|word| e.select(there, e.extract(entry, word), e.i32(0)));
        let (begin, end) = columns_of_block(e, columns);
        let first = e.select(more, following, begin);
        let base = e.element(source.weights, e.to_i64(offset), COPY);
        let columns = e.min(e.sub(end, first), e.i32(ROUND as i32));
        let next = self.share((base, first), columns, (bytes, divisor));
        // What is not there has no end, and no columns: nobody looks for what follows it.
        let left = e.select(there, next.left, e.i32(i32::MAX));
        let columns = e.select(there, next.columns, e.i32(0));
        Cursor { left, columns, bytes, end, stream, begun: cursor.begun, ..next }
    }

    /// At the beginning of the warp's share of the columns `first` to `first + columns` of those that begin at `base`.
    fn share(&self, (base, first): (Val<'c>, Val<'c>), columns: Val<'c>, (bytes, divisor): (Val<'c>, Val<'c>)) -> Cursor<'c> {
        let e = self.e;
        let part = self.places.ring.part;
        let units = e.max(units(e, bytes, part), e.i32(1));
        let share = Share::of(e, self.places.warp, e.mul(groups(e, columns), units));
        let group = divided(e, share.from, divisor);
        let unit = e.sub(share.from, e.mul(group, units));
        let column = e.mul(group, e.i32(COLUMNS as i32));
        let before = e.mul(e.to_i64(e.add(first, column)), e.to_i64(bytes));
        let place = e.offset(e.offset(base, before), e.to_i64(e.mul(unit, e.i32(part as i32))));
        let (columns, zero) = (e.sub(columns, column), e.i32(0));
        Cursor { place, unit, left: e.sub(share.to, share.from), columns, bytes, first, end: zero, stream: zero, begun: zero }
    }

    /// At the beginning of the warp's share of these columns, behind which nothing follows; the next unit's turn is `turn`.
    pub fn alone(&self, weights: Val<'c>, (columns, bytes): (Val<'c>, Val<'c>), turn: Val<'c>) -> Cursor<'c> {
        let share = self.share((weights, self.e.i32(0)), columns, (bytes, self.divisor(bytes)));
        Cursor { stream: known(self.e, 1), begun: turn, ..share }
    }

    /// What divides by the units of a column of so many bytes.
    fn divisor(&self, bytes: Val<'c>) -> Val<'c> {
        let e = self.e;
        divisor(e, e.max(units(e, bytes, self.places.ring.part), e.i32(1)))
    }

    fn kept(&self) -> Val<'c> {
        let all = self.e.shared_place(&format!("{CURSORS}_{}", self.places.ring.at), WARPS * CURSOR_BYTES);
        self.e.element(all, self.e.to_i64(self.places.warp), CURSOR_BYTES)
    }

    /// Leaves the cursor, and the turn of the unit that is read next, for the next step.
    pub fn leave(&self, cursor: Cursor<'c>, turn: Val<'c>) {
        let e = self.e;
        let place = self.kept();
        // All lanes have taken what stands there.
        e.sync_warp();
        e.if_then(e.cmp(Cmp::Eq, self.places.lane, e.i32(0)), || {
            let values = cursor.values();
            e.store(place, values[0]);
            values[1..].iter().enumerate().for_each(|(at, word)| e.store(e.offset_by(place, 8 + 4 * at), *word));
            e.store(e.offset_by(place, TURN_AT), turn);
        });
    }

    /// What a step before left.
    pub fn take(&self) -> (Cursor<'c>, Val<'c>) {
        let e = self.e;
        let place = self.kept();
        // Lane 0 has written it.
        e.sync_warp();
        let address = e.load(place, Ty::scalar(Elem::Global));
        let words = (0..8).map(|at| e.load(e.offset_by(place, 8 + 4 * at), Ty::I32));
        let values: Vec<Val> = std::iter::once(address).chain(words).collect();
        (Cursor::from(&values), self.next_turn())
    }

    /// The turn of the next unit.
    pub fn next_turn(&self) -> Val<'c> {
        self.e.load(self.e.offset_by(self.kept(), TURN_AT), Ty::I32)
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

/// Units of a group of columns of so many bytes, in parts of `part`.
pub fn units<'c>(e: &Emitter<'c>, bytes: Val<'c>, part: usize) -> Val<'c> {
    e.shift_right(e.add(bytes, e.i32(part as i32 - 1)), i64::from(part.ilog2()))
}

/// Groups of so many columns.
pub fn groups<'c>(e: &Emitter<'c>, columns: Val<'c>) -> Val<'c> {
    e.shift_right(e.add(columns, e.i32(COLUMNS as i32 - 1)), i64::from(COLUMNS.ilog2()))
}

/// A cursor fits its place.
const _: () = assert!(8 + 4 * 8 <= TURN_AT && TURN_AT + 4 <= CURSOR_BYTES);
/// Groups do not cross rounds.
const _: () = assert!(ROUND.is_multiple_of(COLUMNS));
