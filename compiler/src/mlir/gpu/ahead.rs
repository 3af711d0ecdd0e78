//! Weights on their way before they are needed. Each warp has a ring in shared memory, whose places it fills in the order in which
//! it will read them: its share of one product after the other, far beyond the step at hand. Nothing that blocks wait for stands in
//! the way, as weights do not change; so the memory is busy while blocks wait for each other, and while a step computes.
//!
//! A block takes its share of a product's columns in rounds, in each of which the warps share the units evenly (cursor.rs). Calls of one row and
//! calls of several each have their own ring, as they read units in another order.

use super::cursor::{Cursor, divided, divisor, units};
use super::ring::{Order, Places, Ring, Unit};
use super::{THREADS, WARPS};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Linkage, Ty, Val};

/// What the block knows of the call and its table of streams: whether it reads ahead, and for how many rows ([`ONE`], [`SEVERAL`]), how many
/// streams, what divides by the number of blocks; 4 bytes each.
const KNOWN: &str = "known_streams";
/// It reads ahead for one row.
const ONE: i32 = 1;
/// It reads ahead for several.
const SEVERAL: i32 = 2;
/// The cursors of a ring's warps, where steps leave them for each other.
const CURSORS: &str = "cursors";
const CURSOR_BYTES: usize = 64;
/// Where a cursor's turn lies.
const TURN_AT: usize = 40;
/// Bytes of a table's entry: offset in the weights in [`COPY`]s, columns, bytes of a column, in shared memory what divides by a column's units.
pub const STREAM_BYTES: usize = 16;
/// Units of a warp that may be under way while blocks wait for each other: their messages go the same way.
const WAITING: usize = 1;

/// The columns `[first, end)` that the block takes of so many; 32-bit.
pub fn columns_of_block<'c>(e: &Emitter<'c>, columns: Val<'c>) -> (Val<'c>, Val<'c>) {
    let (block, by) = (e.to_i32(e.block_number()), known(e, 2));
    let cut = |block: Val<'c>| divided(e, e.mul(columns, block), by);
    (cut(block), cut(e.add(block, e.i32(1))))
}

/// Asks for the first weights of columns that were not asked for ahead, of so many bytes each, into a ring; all threads of the block.
pub fn begin_alone<'c>(e: &Emitter<'c>, ring: Ring, from: Val<'c>, (columns, bytes): (Val<'c>, Val<'c>), source: Source<'c>) {
    let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
    let name = match ring.order {
        Order::Groups => "begin_stream",
        Order::Parts => "begin_stream_of_several",
    };
    if e.first_time(name) {
        e.function(name, Linkage::Private, &[global, Ty::I32, Ty::I32, global, shared], None, |values| {
            let [from, columns, bytes, weights, table] = *values else { return None };
            let own = Ahead::new(e, ring);
            let turn = own.next_turn();
            own.leave(own.fill(own.alone(from, (columns, bytes), turn), Source { weights, table }), turn);
            None
        });
    }
    e.call(name, &[from, columns, bytes, source.weights, source.table], None);
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

    /// The same, of a thread whose number is read anew.
    pub fn anew(e: &'k Emitter<'c>, ring: Ring) -> Self {
        Ahead { e, places: Places::of(e, ring, e.thread_anew()) }
    }

    /// Whether this launch reads ahead what one row needs.
    pub fn is_on(e: &Emitter<'c>) -> Val<'c> {
        e.cmp(Cmp::Eq, known(e, 0), e.i32(ONE))
    }

    /// Whether it reads ahead what several rows need.
    pub fn is_on_for_several(e: &Emitter<'c>) -> Val<'c> {
        e.cmp(Cmp::Eq, known(e, 0), e.i32(SEVERAL))
    }

    /// Before the first step: copies the table of streams to shared memory (at `table`), and begins to read ahead if the call is of
    /// one row whose outputs are wanted, or of several of which some are; what that needs goes to the ring `several`, if there is one. More rows
    /// than are multiplied at once (`several` says how many are) read weights more than once.
    pub fn begin(&self, several: Option<(Ring, usize)>, call: Val<'c>, (streams, count): (Val<'c>, Val<'c>), table: Val<'c>) {
        let e = self.e;
        let (rows, wanted) = (e.call_field(call, Field::Rows), e.call_field(call, Field::Wanted));
        let some = e.cmp(Cmp::Gt, count, e.i64(0));
        let is_one = |number: Val<'c>| e.cmp(Cmp::Eq, number, e.i64(1));
        let one = e.and(some, e.and(is_one(rows), is_one(wanted)));
        let most = several.map_or(1, |(_, rows)| rows);
        let few = e.and(e.cmp(Cmp::Gt, rows, e.i64(1)), e.cmp(Cmp::Le, rows, e.i64(most)));
        let few = e.and(some, e.and(few, e.cmp(Cmp::Gt, wanted, e.i64(0))));
        let known = e.shared_place(KNOWN, 16);
        self.prepare();
        e.if_then(e.cmp(Cmp::Eq, e.thread(), e.i32(0)), || {
            e.store(known, e.select(one, e.i32(ONE), e.select(few, e.i32(SEVERAL), e.i32(0))));
            e.store(e.offset_by(known, 4), e.to_i32(count));
            e.store(e.offset_by(known, 8), divisor(e, e.to_i32(e.blocks())));
        });
        e.sync();
        let start = |own: Ahead<'_, 'c>| {
            own.copy_table((streams, count), table);
            let weights = e.device_memory(e.call_field(call, Field::Weights));
            own.start(Source { weights, table });
        };
        e.if_then(one, || start(*self));
        if let Some((ring, _)) = several {
            e.if_then(few, || start(Ahead::new(e, ring)));
        }
        e.sync();
    }

    /// Copies the table of streams; with each, what divides by its units.
    fn copy_table(&self, (streams, count): (Val<'c>, Val<'c>), table: Val<'c>) {
        let e = self.e;
        let thread = e.to_i64(e.thread());
        e.for_loop(thread, count, e.i64(THREADS), &[], |at, _| {
            let entry = e.load_constant_aligned(e.element(streams, at, STREAM_BYTES), Ty::vector(Elem::I32, 4));
            let entry = e.insert(entry, 3, self.divisor(e.extract(entry, 2)));
            e.store_aligned(e.element(table, at, STREAM_BYTES), entry);
            vec![]
        });
        e.sync();
    }

    /// Begins to copy what the first stream says.
    fn start(&self, source: Source<'c>) {
        let zero = self.e.i32(0);
        self.leave(self.fill(Cursor::ahead_of_all(self.e, source.weights), source), zero);
    }

    /// Makes the ring ready, once a launch; all threads of the block, which must meet before any uses it.
    pub fn prepare(&self) {
        let e = self.e;
        self.places.ring.prepare(e);
        e.if_then(e.cmp(Cmp::Eq, self.places.lane, e.i32(0)), || e.store(e.offset_by(self.kept(), TURN_AT), e.i32(0)));
    }

    /// Begins the copies of as many units as have places, but one.
    fn fill(&self, cursor: Cursor<'c>, source: Source<'c>) -> Cursor<'c> {
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
        let ring = self.places.ring;
        let (most, part) = (e.i32(ring.columns() as i32), e.i32(ring.part as i32));
        let bytes = e.min(e.sub(cursor.bytes, e.mul(cursor.unit, part)), part);
        let columns = e.max(e.min(cursor.columns, most), e.i32(0));
        // Where nothing follows, there is no column.
        self.places.copy(cursor.begun, Unit { from: cursor.place, stride: cursor.bytes, bytes, columns });
        cursor.past(e, ring)
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
        let round = e.i32(self.places.ring.round() as i32);
        let following = e.sub(cursor.rest, round);
        let more = e.cmp(Cmp::Gt, following, e.i32(0));
        let stream = e.select(more, cursor.stream, e.add(cursor.stream, e.i32(1)));
        let count = known(self.e, 1);
        let there = e.cmp(Cmp::Lt, stream, count);
        let at = e.max(e.min(stream, e.sub(count, e.i32(1))), e.i32(0));
        let entry = e.load_aligned(e.element(source.table, e.to_i64(at), STREAM_BYTES), Ty::vector(Elem::I32, 4));
        // Where nothing follows, or nothing was read ahead, the entry is not one: its numbers would make no address.
        let [offset, columns, bytes, divisor] = [0, 1, 2, 3].map(|word| e.select(there, e.extract(entry, word), e.i32(0)));
        let (begin, end) = columns_of_block(e, columns);
        let rest = e.select(more, following, e.sub(end, begin));
        let first = e.sub(end, rest);
        let base = e.element(source.weights, e.to_i64(offset), COPY);
        let columns = e.min(rest, round);
        let next = Cursor::of_share(&self.places, (base, first), columns, (bytes, divisor));
        // What is not there has no end, and no columns: nobody looks for what follows it.
        let left = e.select(there, next.left, e.i32(i32::MAX));
        let columns = e.select(there, next.columns, e.i32(0));
        Cursor { left, columns, bytes, rest, stream, begun: cursor.begun, ..next }
    }

    /// At the beginning of the warp's share of these columns, behind which nothing follows; the next unit's turn is `turn`.
    fn alone(&self, weights: Val<'c>, (columns, bytes): (Val<'c>, Val<'c>), turn: Val<'c>) -> Cursor<'c> {
        let share = Cursor::of_share(&self.places, (weights, self.e.i32(0)), columns, (bytes, self.divisor(bytes)));
        Cursor { stream: known(self.e, 1), begun: turn, rest: columns, ..share }
    }

    /// What divides by the units of a column of so many bytes.
    fn divisor(&self, bytes: Val<'c>) -> Val<'c> {
        let e = self.e;
        divisor(e, e.max(units(e, bytes, self.places.ring.part), e.i32(1)))
    }

    fn kept(&self) -> Val<'c> {
        let all = self.e.shared_place(&format!("{CURSORS}_{}", self.places.ring.name()), WARPS * CURSOR_BYTES);
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
        let words = (0..7).map(|at| e.load(e.offset_by(place, 8 + 4 * at), Ty::I32));
        let values: Vec<Val> = std::iter::once(address).chain(words).collect();
        (Cursor::from(&values), self.next_turn())
    }

    /// The turn of the next unit.
    fn next_turn(&self) -> Val<'c> {
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

/// A cursor fits its place.
const _: () = assert!(8 + 4 * 7 <= TURN_AT && TURN_AT + 4 <= CURSOR_BYTES);
