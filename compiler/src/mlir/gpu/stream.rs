//! Dot products of one row with many columns of weights: what decoding one sequence is made of.
//!
//! The row lies in shared memory (row.rs). The warps of a block share the columns' units evenly (ahead.rs): a warp's share may
//! begin and end inside of a column, whose sum is then added up from parts, in the order of the warps.

use super::ahead::{Ahead, Cursor, ROUND, Ring, Share, Source, UNIT, WARPS, units};
use super::dot::{Dot, single};
use super::team::across_lanes;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use braid_dsl::model::Reduce;

/// Partial sums of a lane, so that multiplications do not wait for each other.
const CHAINS: usize = 4;
/// Bytes of a round's sums: of its columns, then of the first columns of warps that begin inside of one.
pub const SUMS_BYTES: usize = 4 * (ROUND + WARPS);

/// One function of an artifact.
#[derive(Clone, Copy)]
pub struct Stream {
    dot: Dot,
    /// Where units come to, if the launch reads ahead.
    ahead: Ring,
    /// Where they come to otherwise.
    alone: Ring,
}

/// What a call of the function is about.
#[derive(Clone, Copy)]
pub struct Round<'c> {
    /// How many columns, at most [`ROUND`]; `i32`.
    pub columns: Val<'c>,
    /// Numbers of a column; `i32`.
    pub depth: Val<'c>,
    /// Whether the weights were asked for ahead.
    pub ahead: Val<'c>,
    /// All weights.
    pub all: Val<'c>,
    /// The table of streams.
    pub table: Val<'c>,
    /// Where the columns' sums go, in shared memory: [`SUMS_BYTES`].
    pub sums: Val<'c>,
    /// The row in shared memory, padded with zeros to whole units.
    pub row: Val<'c>,
}

impl Stream {
    /// The function for a product's way of storing weights.
    pub fn of(dot: Dot, (ahead, alone): (Ring, Ring)) -> Stream {
        Stream { dot, ahead, alone }
    }

    /// Its name.
    fn name(&self) -> String {
        self.dot.name().replace("dot_1", "stream")
    }

    /// Defines it, unless it is there.
    pub fn emit(&self, e: &Emitter) {
        if !e.first_time(&self.name()) {
            return;
        }
        let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
        let parameters = [Ty::I32, Ty::I32, Ty::BOOL, global, shared, shared, shared];
        e.function(&self.name(), Linkage::Private, &parameters, None, |values| {
            let [columns, depth, ahead, all, table, sums, row] = *values else { return None };
            self.body(e, Round { columns, depth, ahead, all, table, sums, row });
            None
        });
    }

    /// Asks for the first weights of a round whose weights were not asked for ahead; all threads of the block.
    pub fn begin<'c>(&self, e: &Emitter<'c>, weights: Val<'c>, round: Round<'c>) {
        let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
        let name = "begin_stream";
        if e.first_time(name) {
            e.function(name, Linkage::Private, &[global, Ty::I32, Ty::I32, global, shared], None, |values| {
                let [weights, columns, bytes, all, table] = *values else { return None };
                let own = Ahead::new(e, self.alone);
                let cursor = own.fill(own.alone(weights, columns, bytes), Source { weights: all, table });
                own.leave(cursor, e.i32(0));
                None
            });
        }
        let bytes = e.mul(round.depth, e.i32(self.dot.weights.bytes() as i32));
        e.call(name, &[weights, round.columns, bytes, round.all, round.table], None);
    }

    /// Calls it; all threads of the block.
    pub fn call<'c>(&self, e: &Emitter<'c>, round: Round<'c>) {
        let Round { columns, depth, ahead, all, table, sums, row } = round;
        e.call(&self.name(), &[columns, depth, ahead, all, table, sums, row], None);
    }

    fn body<'c>(&self, e: &Emitter<'c>, round: Round<'c>) {
        let source = Source { weights: round.all, table: round.table };
        let bytes = e.mul(round.depth, e.i32(self.dot.weights.bytes() as i32));
        let walk = Walk { stream: self, e, round, source, units: units(e, bytes) };
        if self.ahead == self.alone {
            return walk.run(self.ahead);
        }
        // What is chosen in the call cannot be asked for ahead, and has places of its own.
        let own = |ring: Ring| {
            walk.run(ring);
            vec![]
        };
        e.if_else(round.ahead, || own(self.ahead), || own(self.alone));
    }
}

struct Walk<'k, 'c> {
    stream: &'k Stream,
    e: &'k Emitter<'c>,
    round: Round<'c>,
    source: Source<'c>,
    /// Units of a column.
    units: Val<'c>,
}

impl<'c> Walk<'_, 'c> {
    /// All units of the warp's share, one after the other.
    fn run(&self, ring: Ring) {
        let e = self.e;
        let ahead = Ahead::new(e, ring);
        let (cursor, slot) = ahead.take();
        let units = e.max(self.units, e.i32(1));
        let share = Share::of(e, ahead.warp, e.mul(self.round.columns, units));
        let column = e.div(share.from, units);
        let unit = e.sub(share.from, e.mul(column, units));
        // A warp that begins inside of a column leaves that one's part apart.
        let apart = e.add(e.i32(ROUND as i32), ahead.warp);
        let target = e.select(e.cmp(Cmp::Eq, unit, e.i32(0)), column, apart);
        let numbers = vec![e.f32(0.0); CHAINS];
        let start: Vec<Val> = [column, unit, target, slot].into_iter().chain(numbers).chain(cursor.values()).collect();
        let (from, to) = (e.to_i64(share.from), e.to_i64(share.to));
        let end = e.for_loop(from, to, e.i64(1), &start, |at, state| {
            let [column, unit, target, slot] = [state[0], state[1], state[2], state[3]];
            let free = ahead.later(slot, ahead.slots() - 1);
            let cursor = ahead.copy(Cursor::from(&state[4 + CHAINS..]), free, self.source);
            ahead.arrive();
            let made = self.multiply(ahead, slot, unit, &state[4..4 + CHAINS]);
            let next = e.add(unit, e.i32(1));
            let whole = e.cmp(Cmp::Eq, next, units);
            let last = e.cmp(Cmp::Eq, at, e.sub(to, e.i64(1)));
            e.if_then(e.or(whole, last), || self.leave(ahead, target, &made));
            let following = e.add(column, e.i32(1));
            let made = made.into_iter().map(|sum| e.select(whole, e.f32(0.0), sum));
            let place = [
                e.select(whole, following, column),
                e.select(whole, e.i32(0), next),
                e.select(whole, following, target),
                ahead.later(slot, 1),
            ];
            place.into_iter().chain(made).chain(cursor.values()).collect()
        });
        ahead.leave(Cursor::from(&end[4 + CHAINS..]), end[3]);
    }

    /// Writes the sum of a column, or of the warp's part of it.
    fn leave(&self, ahead: Ahead<'_, 'c>, target: Val<'c>, made: &[Val<'c>]) {
        let e = self.e;
        let all = made[1..].iter().fold(made[0], |sum, part| e.add(sum, *part));
        let all = across_lanes(e, Reduce::Sum, all, WARP);
        e.if_then(e.cmp(Cmp::Eq, ahead.lane, e.i32(0)), || e.store(e.element(self.round.sums, e.to_i64(target), 4), all));
    }

    /// The lane's numbers of the row in a unit.
    fn numbers(&self, group: Val<'c>) -> Vec<Val<'c>> {
        let (e, fours) = (self.e, self.stream.dot.vector / 4);
        let own = e.element(self.round.row, group, 16 * fours);
        if fours == 1 {
            let four = e.load_aligned(own, Ty::f32(4));
            return (0..4).map(|at| e.extract(four, at)).collect();
        }
        // Every other four lanes read their halves the other way round, so that lanes that read at once read all banks.
        let turned = e.cmp(Cmp::Ne, e.and(group, e.i64(4)), e.i64(0));
        let half = |turned: Val<'c>| e.load_aligned(e.offset(own, e.select(turned, e.i64(16), e.i64(0))), Ty::f32(4));
        let (a, b) = (half(turned), half(e.not(turned)));
        let of = |turned: Val<'c>, at: usize| e.select(turned, e.extract(b, at), e.extract(a, at));
        (0..4).map(|at| of(turned, at)).chain((0..4).map(|at| of(e.not(turned), at))).collect()
    }

    /// Adds the products of a unit to the lane's sums.
    fn multiply(&self, ahead: Ahead<'_, 'c>, slot: Val<'c>, unit: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, dot) = (self.e, self.stream.dot);
        let group = e.to_i64(e.add(e.mul(unit, e.i32(WARP as i32)), ahead.lane));
        let weights = e.load_aligned(ahead.slot(slot), dot.loaded());
        let x = self.numbers(group);
        let mut sums = sums.to_vec();
        for (n, (x, w)) in x.iter().zip(single(e, weights)).enumerate() {
            let sum = &mut sums[n % CHAINS];
            *sum = e.fma(*x, w, *sum);
        }
        sums
    }
}

/// The sum of column `column` (`i32`) of a round: its own, and the parts of warps that began inside of it.
pub fn sum_of<'c>(e: &Emitter<'c>, sums: Val<'c>, column: Val<'c>, columns: Val<'c>, column_bytes: usize) -> Val<'c> {
    let units = column_bytes.div_ceil(UNIT) as i32;
    let (begin, count) = (e.mul(column, e.i32(units)), e.mul(columns, e.i32(units)));
    let end = e.add(begin, e.i32(units));
    let own = e.load(e.element(sums, e.to_i64(column), 4), Ty::F32);
    (1..WARPS).fold(own, |sum, warp| {
        let share = Share::of(e, e.i32(warp as i32), count);
        let some = e.cmp(Cmp::Lt, share.from, share.to);
        let within = e.and(e.cmp(Cmp::Gt, share.from, begin), e.cmp(Cmp::Lt, share.from, end));
        let part = e.load(e.offset_by(sums, 4 * (ROUND + warp)), Ty::F32);
        e.add(sum, e.select(e.and(some, within), part, e.f32(0.0)))
    })
}

/// A unit is one copy of each lane.
const _: () = assert!(UNIT == WARP * COPY);
