//! Dot products of one row with many columns of weights: what decoding one sequence is made of.
//!
//! The row lies in shared memory (row.rs). The warps of a block share the columns' units evenly (ahead.rs): a warp's share may
//! begin and end inside of a group of columns, whose sums are then added up from parts, in the order of the warps.

use super::WARPS;
use super::ahead::{self, Ahead, Source};
use super::cursor::{Cursor, Share, divided, groups, units};
use super::dot::Dot;
use super::halves;
use super::parts::Parts;
use super::ring::{COLUMNS, Order, PART, Ring};
use super::team::{across_lanes, deal};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use braid_dsl::model::Reduce;

/// Partial sums of a lane for each column, so that multiplications do not wait for each other.
const CHAINS: usize = 2;
/// Most columns of a round.
pub const ROUND: usize = Order::Groups.round();
/// Bytes of a round's sums: of its columns, then of the first groups of warps that begin inside of one.
pub const SUMS_BYTES: usize = 4 * (ROUND + COLUMNS * WARPS);

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
    /// What divides by a column's units; `i32`.
    pub divisor: Val<'c>,
    /// Whether the weights were asked for ahead.
    pub ahead: Val<'c>,
    /// All weights.
    pub all: Val<'c>,
    /// The table of streams.
    pub table: Val<'c>,
    /// Where the columns' sums go, in shared memory: [`SUMS_BYTES`].
    pub sums: Val<'c>,
    /// The row in shared memory, as row.rs leaves it.
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
        let parameters = [Ty::I32, Ty::I32, Ty::I32, Ty::BOOL, global, shared, shared, shared];
        e.function(&self.name(), Linkage::Private, &parameters, None, |values| {
            let [columns, depth, divisor, ahead, all, table, sums, row] = *values else { return None };
            self.body(e, Round { columns, depth, divisor, ahead, all, table, sums, row });
            None
        });
    }

    /// Asks for the first weights of a round whose weights were not asked for ahead; all threads of the block.
    pub fn begin<'c>(&self, e: &Emitter<'c>, weights: Val<'c>, round: Round<'c>) {
        let bytes = self.dot.column_bytes(e, round.depth);
        let source = Source { weights: round.all, table: round.table };
        ahead::begin_alone(e, self.alone, weights, (round.columns, bytes), source);
    }

    /// Calls it; all threads of the block.
    pub fn call<'c>(&self, e: &Emitter<'c>, round: Round<'c>) {
        let Round { columns, depth, divisor, ahead, all, table, sums, row } = round;
        e.call(&self.name(), &[columns, depth, divisor, ahead, all, table, sums, row], None);
    }

    fn body<'c>(&self, e: &Emitter<'c>, round: Round<'c>) {
        let source = Source { weights: round.all, table: round.table };
        let bytes = self.dot.column_bytes(e, round.depth);
        let walk = Walk { stream: self, e, round, source, bytes };
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
    /// Bytes of a column.
    bytes: Val<'c>,
}

impl<'c> Walk<'_, 'c> {
    /// All units of the warp's share, one after the other.
    fn run(&self, ring: Ring) {
        let e = self.e;
        let ahead = Ahead::new(e, ring);
        let (cursor, turn) = ahead.take();
        let units = e.max(units(e, self.bytes, ring.part), e.i32(1));
        let share = Share::of(e, ahead.places.warp, e.mul(groups(e, self.round.columns, ring.order), units));
        let group = divided(e, share.from, self.round.divisor);
        let unit = e.sub(share.from, e.mul(group, units));
        // A warp that begins inside of a group leaves that one's part apart.
        let apart = e.add(e.i32((ROUND / COLUMNS) as i32), ahead.places.warp);
        let target = e.select(e.cmp(Cmp::Eq, unit, e.i32(0)), group, apart);
        let count = if halves::are_used(self.stream.dot) { halves::SUMS } else { COLUMNS * CHAINS };
        let numbers = vec![e.f32(0.0); count];
        let start: Vec<Val> = [group, target, turn].into_iter().chain(numbers).chain(cursor.values()).collect();
        let end = e.for_loop(share.from, share.to, e.i32(1), &start, |at, state| {
            let ([group, target, turn], state) = ([state[0], state[1], state[2]], &state[3..]);
            let unit = e.sub(at, e.mul(group, units));
            let (sums, cursor) = state.split_at(count);
            let cursor = ahead.turn(Cursor::from(cursor), turn, self.source);
            let made = self.multiply(ahead, turn, unit, sums);
            let next = e.add(unit, e.i32(1));
            let whole = e.cmp(Cmp::Eq, next, units);
            let last = e.cmp(Cmp::Eq, at, e.sub(share.to, e.i32(1)));
            e.if_then(e.or(whole, last), || self.leave(ahead, target, &made));
            let following = e.add(group, e.i32(1));
            let made = made.into_iter().map(|sum| e.select(whole, e.f32(0.0), sum));
            let place = [e.select(whole, following, group), e.select(whole, following, target), e.add(turn, e.i32(1))];
            place.into_iter().chain(made).chain(cursor.values()).collect()
        });
        ahead.leave(Cursor::from(&end[3 + count..]), end[2]);
    }

    /// Writes the sums of a group, or of the warp's part of it.
    fn leave(&self, ahead: Ahead<'_, 'c>, target: Val<'c>, made: &[Val<'c>]) {
        let (e, lane) = (self.e, ahead.places.lane);
        let target = e.mul(target, e.i32(COLUMNS as i32));
        if halves::are_used(self.stream.dot) {
            return halves::leave(e, lane, e.element(self.round.sums, e.to_i64(target), 4), made);
        }
        let joined = |sum: &[Val<'c>]| sum[1..].iter().fold(sum[0], |sum, part| e.add(sum, *part));
        let sums: Vec<Val> = made.chunks_exact(CHAINS).map(joined).collect();
        let (sum, by) = deal(e, lane, &sums);
        let sum = across_lanes(e, Reduce::Sum, sum, by);
        let first = e.cmp(Cmp::Eq, e.and(lane, e.i32(by as i32 - 1)), e.i32(0));
        e.if_then(first, || {
            let column = e.shift_right(lane, i64::from(by.ilog2()));
            let place = e.add(target, column);
            e.store(e.element(self.round.sums, e.to_i64(place), 4), sum);
        });
    }

    /// Adds the products of a unit to the lane's sums, `[columns][chains]`, or those of the matrix units.
    fn multiply(&self, ahead: Ahead<'_, 'c>, turn: Val<'c>, unit: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, dot) = (self.e, self.stream.dot);
        if let Some(parts) = Parts::of(dot.weights) {
            return self.multiply_parts(parts, ahead, (turn, unit), sums);
        }
        if halves::are_used(dot) {
            let part = ahead.places.ring.part;
            let rest = e.sub(self.bytes, e.mul(unit, e.i32(part as i32)));
            let row = e.element(self.round.row, e.to_i64(unit), halves::row_bytes(part));
            return halves::multiply(e, &ahead.places, turn, (row, rest), sums);
        }
        let number = e.add(e.mul(unit, e.i32(WARP as i32)), ahead.places.lane);
        let add = || {
            let four = Ty::f32(4);
            let x = e.load_aligned(e.element(self.round.row, e.to_i64(number), COPY), four);
            let mut sums = sums.to_vec();
            for (column, sums) in sums.chunks_exact_mut(CHAINS).enumerate() {
                let weights = e.load_aligned(ahead.places.part(turn, column), four);
                for n in 0..4 {
                    let sum = &mut sums[n % CHAINS];
                    *sum = e.fma(e.extract(x, n), e.extract(weights, n), *sum);
                }
            }
            sums
        };
        // What lies behind a column is what was there before.
        let there = e.cmp(Cmp::Lt, e.mul(number, e.i32(COPY as i32)), self.bytes);
        e.if_else(there, add, || sums.to_vec())
    }

    /// The same of quantised weights, whose row is one of integers.
    fn multiply_parts(
        &self,
        parts: Parts,
        ahead: Ahead<'_, 'c>,
        (turn, unit): (Val<'c>, Val<'c>),
        sums: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let (e, lane, most) = (self.e, ahead.places.lane, parts.part.pieces() as i32);
        let add = || {
            let piece = parts.piece(e, self.round.row, self.round.depth, (unit, lane));
            let group = e.to_i64(parts.group(e, lane));
            let before = e.to_i64(e.mul(lane, e.i32(-(COPY as i32))));
            let mut sums = sums.to_vec();
            for (column, sums) in sums.chunks_exact_mut(CHAINS).enumerate() {
                let own = ahead.places.part(turn, column);
                let words = e.load_aligned(e.offset_by(own, parts.part.head), Ty::i32(COPY / 4));
                let scale = parts.scale(e, e.offset(own, before), group);
                sums[0] = parts.multiply(e, &piece, (words, scale), sums[0]);
            }
            sums
        };
        let pieces = e.div(self.round.depth, e.i32(parts.part.piece() as i32));
        let left = e.sub(pieces, e.mul(unit, e.i32(most)));
        e.if_else(e.cmp(Cmp::Lt, lane, e.min(left, e.i32(most))), add, || sums.to_vec())
    }
}

/// A part of a column is what a warp reads at once.
const _: () = assert!(PART == braid_runtime::artifact::PART && COPY == braid_runtime::artifact::PIECE);

/// The sum of column `column` (`i32`) of a round of sums at some place and so many columns: its group's, and the parts of warps that began inside of that.
pub fn sum_of<'c>(e: &Emitter<'c>, ring: Ring, round: (Val<'c>, Val<'c>), column: Val<'c>, column_bytes: usize) -> Val<'c> {
    let (sums, columns) = round;
    let units = e.i32(column_bytes.div_ceil(ring.part) as i32);
    let (group, within) = (e.shift_right(column, i64::from(COLUMNS.ilog2())), e.and(column, e.i32(COLUMNS as i32 - 1)));
    let (begin, count) = (e.mul(group, units), e.mul(groups(e, columns, ring.order), units));
    let end = e.add(begin, units);
    let own = e.load(e.element(sums, e.to_i64(column), 4), Ty::F32);
    if column_bytes <= ring.part {
        return own;
    }
    (1..WARPS).fold(own, |sum, warp| {
        let share = Share::of(e, e.i32(warp as i32), count);
        let some = e.cmp(Cmp::Lt, share.from, share.to);
        let inside = e.and(e.cmp(Cmp::Gt, share.from, begin), e.cmp(Cmp::Lt, share.from, end));
        let place = e.add(e.i32((ROUND + warp * COLUMNS) as i32), within);
        let part = e.load(e.element(sums, e.to_i64(place), 4), Ty::F32);
        e.add(sum, e.select(e.and(some, inside), part, e.f32(0.0)))
    })
}

/// Columns of a unit are shared out among the lanes.
const _: () = assert!(COLUMNS.is_power_of_two() && COLUMNS <= WARP);
