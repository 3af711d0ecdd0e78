//! A ring of places in shared memory for each warp of a block, to which units of weights come in the order in which they are read.
//!
//! Where the GPU has a copy engine (sm_90a), one lane asks it for a whole unit, and a barrier in shared memory counts the bytes that have
//! come: nothing else that the multiprocessor loads, and no fence, waits behind what is under way. Elsewhere each lane copies its own parts.

use super::{THREADS, WARPS};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Emitter, Val};

/// Columns of a unit, where one row is multiplied: they share its loads.
pub const COLUMNS: usize = Order::Groups.columns();
/// Least bytes of a unit of each column, a copy for each lane.
pub const PART: usize = COPY * WARP;
/// A column lies so many bytes beside the banks of the one before, so that lanes read some of both at once.
const ASIDE: usize = 64;
/// Bytes of a barrier.
const BARRIER: usize = 8;

/// In which order a warp reads the units of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All parts of a group of columns, then the next group: for one row.
    Groups,
    /// A part of all groups, then the next part, so that what the part meets of several rows stays at hand.
    Parts,
}

impl Order {
    /// Columns of a unit.
    pub const fn columns(self) -> usize {
        match self {
            Order::Groups => 2,
            Order::Parts => 8,
        }
    }

    /// Most columns of a round.
    pub const fn round(self) -> usize {
        match self {
            // A thread for each finishes them.
            Order::Groups => THREADS,
            // All warps have sums of all of them.
            Order::Parts => 64,
        }
    }
}

/// The rings of a block, in its dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Where they begin.
    pub at: usize,
    /// Units of a warp's ring, a power of two: most of them that are under way or have come, the one that is read among them.
    pub slots: usize,
    /// Bytes of a unit of each column, a power of two: the more, the less there is to do for each.
    pub part: usize,
    /// What comes after a unit.
    pub order: Order,
    /// Whether the copy engine fills them.
    pub engine: bool,
}

impl Ring {
    /// Where they end.
    pub fn end(self) -> usize {
        self.at + self.bytes()
    }

    /// Bytes of all warps' rings.
    pub fn bytes(self) -> usize {
        WARPS * self.slots * self.unit_bytes()
    }

    /// Columns of a unit.
    pub fn columns(self) -> usize {
        self.order.columns()
    }

    /// Most columns of a round.
    pub fn round(self) -> usize {
        self.order.round()
    }

    /// What is the ring's own, for names.
    pub fn name(self) -> String {
        match self.order {
            Order::Groups => self.at.to_string(),
            Order::Parts => "of_several".into(),
        }
    }

    /// Bytes of a unit's place.
    fn unit_bytes(self) -> usize {
        self.columns() * (self.part + ASIDE)
    }

    /// Where the warps' barriers lie: not in dynamic memory, which other kernels use as they like.
    fn barriers<'c>(self, e: &Emitter<'c>) -> Val<'c> {
        e.shared_place(&format!("arrivals_{}", self.name()), WARPS * self.slots * BARRIER)
    }

    /// Makes the barriers ready, once a launch; all threads of the block, which must meet before any uses a ring.
    pub fn prepare(self, e: &Emitter) {
        if self.engine {
            let thread = e.thread();
            e.if_then(e.cmp(Cmp::Lt, thread, e.i32((WARPS * self.slots) as i32)), || {
                e.prepare_arrival(e.element(self.barriers(e), e.to_i64(thread), BARRIER));
            });
            e.show_arrivals();
        }
    }

    /// Whether the ring is filled up while the block waits for others.
    pub fn fills_up(self) -> bool {
        self.engine
    }

    /// All threads of the block have used the memory otherwise; before they meet and a copy begins.
    pub fn release(self, e: &Emitter) {
        if self.engine {
            e.show_shared();
        }
    }
}

/// A part of some columns; the same in all lanes, `i32` but `from`.
#[derive(Clone, Copy)]
pub struct Unit<'c> {
    /// Where the first column's part begins.
    pub from: Val<'c>,
    /// Bytes from a column to the next.
    pub stride: Val<'c>,
    /// Bytes of each column's part, whole copies, at most the ring's part.
    pub bytes: Val<'c>,
    /// How many columns, at most a unit's.
    pub columns: Val<'c>,
}

/// The ring of the thread's warp. A unit's *turn* counts the warp's units since the launch began (`i32`, the same in all lanes).
#[derive(Clone, Copy)]
pub struct Places<'k, 'c> {
    /// The emitter.
    pub e: &'k Emitter<'c>,
    /// The block's rings.
    pub ring: Ring,
    /// The warp and the lane, `i32`.
    pub warp: Val<'c>,
    /// See above.
    pub lane: Val<'c>,
    /// Where the warp's ring begins.
    own: Val<'c>,
}

impl<'k, 'c> Places<'k, 'c> {
    /// For the thread at hand.
    pub fn new(e: &'k Emitter<'c>, ring: Ring) -> Self {
        Places::of(e, ring, e.thread())
    }

    /// The same, told its number.
    pub fn of(e: &'k Emitter<'c>, ring: Ring, thread: Val<'c>) -> Self {
        let warp = e.shift_right(thread, i64::from(WARP.ilog2()));
        let lane = e.and(thread, e.i32(WARP as i32 - 1));
        let rings = e.offset_by(e.shared_memory(), ring.at);
        Places { e, ring, warp, lane, own: e.element(rings, e.to_i64(warp), ring.slots * ring.unit_bytes()) }
    }

    fn slot(&self, turn: Val<'c>) -> Val<'c> {
        self.e.to_i64(self.e.and(turn, self.e.i32(self.ring.slots as i32 - 1)))
    }

    fn barrier(&self, turn: Val<'c>) -> Val<'c> {
        let e = self.e;
        let own = e.element(self.ring.barriers(e), e.to_i64(self.warp), self.ring.slots * BARRIER);
        e.element(own, self.slot(turn), BARRIER)
    }

    /// Where column `column` (`i32`) of the unit begins whose turn it is.
    pub fn column(&self, turn: Val<'c>, column: Val<'c>) -> Val<'c> {
        let e = self.e;
        let unit = e.element(self.own, self.slot(turn), self.ring.unit_bytes());
        e.offset(unit, e.to_i64(e.mul(column, e.i32((self.ring.part + ASIDE) as i32))))
    }

    /// What the lane has of column `column` of the unit whose turn it is.
    pub fn part(&self, turn: Val<'c>, column: usize) -> Val<'c> {
        let e = self.e;
        e.element(self.column(turn, e.i32(column as i32)), e.to_i64(self.lane), COPY)
    }

    /// Begins the copy of a unit to a place whose unit all lanes have read. What it does not bring stays as it was; if that is all,
    /// nobody may wait for it.
    pub fn copy(&self, turn: Val<'c>, unit: Unit<'c>) {
        if self.ring.engine { self.ask(turn, unit) } else { self.fetch(turn, unit) }
    }

    /// Every lane copies its own.
    fn fetch(&self, turn: Val<'c>, Unit { from, stride, bytes, columns }: Unit<'c>) {
        let e = self.e;
        e.sync_warp();
        let part = self.ring.part;
        for at in (0..self.ring.columns() * part).step_by(PART) {
            // Lanes have copies of one column, or of several.
            let own = e.add(e.mul(self.lane, e.i32(COPY as i32)), e.i32((at % part) as i32));
            let column = e.add(e.i32((at / part) as i32), e.shift_right(own, i64::from(part.ilog2())));
            let within = e.and(own, e.i32(part as i32 - 1));
            let there = e.and(e.cmp(Cmp::Lt, within, bytes), e.cmp(Cmp::Lt, column, columns));
            let from = e.offset(from, e.to_i64(e.add(within, e.mul(stride, column))));
            let to = e.offset(self.column(turn, column), e.to_i64(within));
            e.if_then(there, || e.begin_copy(to, from, e.i32(COPY as i32)));
        }
        e.close_copies();
    }

    /// A lane for each column asks the engine.
    fn ask(&self, turn: Val<'c>, Unit { from, stride, bytes, columns }: Unit<'c>) {
        let e = self.e;
        e.sync_warp();
        e.if_then(e.cmp(Cmp::Lt, self.lane, columns), || {
            let barrier = self.barrier(turn);
            let first = e.cmp(Cmp::Eq, self.lane, e.i32(0));
            e.if_then(first, || e.expect_arrival(barrier, e.mul(bytes, columns)));
            let from = e.offset(from, e.to_i64(e.mul(self.lane, stride)));
            e.begin_bulk_copy(self.column(turn, self.lane), from, bytes, barrier);
        });
    }

    /// Whether a unit that the engine was asked for has come.
    pub fn has_come(&self, turn: Val<'c>) -> Val<'c> {
        let e = self.e;
        let round = e.shift_right(turn, i64::from(self.ring.slots.ilog2()));
        e.has_arrived(self.barrier(turn), e.and(round, e.i32(1)))
    }

    /// Waits for a unit, when as many copies as the ring has places have been begun from it on (those of no bytes counted).
    pub fn arrive(&self, turn: Val<'c>) {
        let e = self.e;
        if !self.ring.engine {
            e.wait_copies(self.ring.slots - 1);
            // Of quantised weights lanes read what others have copied.
            return e.sync_warp();
        }
        let round = e.shift_right(turn, i64::from(self.ring.slots.ilog2()));
        e.await_arrival(self.barrier(turn), e.and(round, e.i32(1)));
    }
}

/// Lanes ask for a column each, and groups do not cross rounds.
const _: () = assert!(Order::Parts.columns() <= WARP && Order::Parts.round().is_multiple_of(Order::Parts.columns()));
const _: () = assert!(Order::Groups.round().is_multiple_of(COLUMNS));
/// Barriers are made ready by a thread each.
const _: () = assert!(THREADS >= WARPS * 16);
