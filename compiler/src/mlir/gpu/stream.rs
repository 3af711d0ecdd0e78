//! Dot products of one row with many columns of weights: what decoding one sequence is made of.
//!
//! The row is copied to shared memory once. Each warp takes every eighth column; its loads for the next part of a column, or the
//! next column, are under way while it multiplies the present part.

use super::THREADS;
use super::dot::{Dot, single};
use super::team::across_lanes;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use crate::plan::COLUMNS_AT_ONCE;
use braid_dsl::model::Reduce;

/// Partial sums of a lane, so that multiplications do not wait for each other.
const CHAINS: usize = 4;

/// One function of an artifact.
#[derive(Clone, Copy)]
pub struct Stream {
    dot: Dot,
    /// Loads of a lane that make a part of a column.
    steps: usize,
}

impl Stream {
    /// The function for columns of so many numbers.
    pub fn of(dot: Dot, depth: usize) -> Stream {
        let loads = depth.div_ceil(WARP * dot.vector);
        let waste = |steps: &usize| (loads.next_multiple_of(*steps), usize::MAX - steps);
        let steps = if loads <= 8 { loads } else { (5..=8).min_by_key(waste).unwrap_or(8) };
        Stream { dot, steps }
    }

    /// Numbers of a part.
    fn part(&self) -> usize {
        self.steps * WARP * self.dot.vector
    }

    /// Shared bytes of a row of `depth` numbers: whole parts.
    pub fn row_bytes(&self, depth: usize) -> usize {
        4 * depth.next_multiple_of(self.part())
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.dot.name().replace("dot_1", &format!("stream_{}", self.steps))
    }

    /// Defines it, `(row, weights, columns, depth, sums, copy)`: the row, the first of so many columns, how many numbers they have;
    /// in shared memory where the columns' sums go, and room for [`Stream::row_bytes`].
    pub fn emit(&self, e: &Emitter) {
        if !e.first_time(&self.name()) {
            return;
        }
        let (shared, global) = (Ty::scalar(Elem::Shared), Ty::scalar(Elem::Global));
        let parameters = [global, global, Ty::I64, Ty::I64, shared, shared];
        e.function(&self.name(), Linkage::Private, &parameters, None, |values| {
            let [row, weights, columns, depth, sums, copy] = *values else { return None };
            self.walk(e, (row, weights), (columns, depth), sums, copy);
            None
        });
    }

    /// Copies the row, padded with zeros to whole parts. A lane's numbers come in fours: the first fours of all lanes lie side by
    /// side, then the second ones, so that a warp reads without conflicts.
    fn copy<'c>(&self, e: &Emitter<'c>, row: Val<'c>, depth: Val<'c>, copy: Val<'c>) {
        let vector = self.dot.vector;
        let part = e.i64(self.part());
        let padded = e.mul(e.div(e.sub(e.add(depth, part), e.i64(1)), part), part);
        let groups = e.div(padded, e.i64(vector));
        for_each(e, e.to_i64(e.thread()), groups, e.i64(THREADS), |group| {
            let first = e.mul(group, e.i64(vector));
            let there = e.cmp(Cmp::Lt, first, depth);
            let place = e.element(row, e.select(there, first, e.i64(0)), 4);
            if vector == 1 {
                let x = e.select(there, e.load(place, Ty::F32), e.f32(0.0));
                return e.store(e.element(copy, group, 4), x);
            }
            for four in 0..vector / 4 {
                let own = self.four(e, e.offset_by(place, 16 * four));
                let own = e.select(there, own, e.float(Ty::f32(4), 0.0));
                let plane = e.mul(groups, e.i64(four));
                e.store_aligned(e.element(copy, e.add(plane, group), 16), own);
            }
        });
    }

    fn four<'c>(&self, e: &Emitter<'c>, place: Val<'c>) -> Val<'c> {
        if self.dot.aligned {
            return e.load_aligned(place, Ty::f32(4));
        }
        let lanes = (0..4).map(|at| e.load(e.offset_by(place, 4 * at), Ty::F32));
        lanes.enumerate().fold(e.poison(Ty::f32(4)), |four, (at, x)| e.insert(four, at, x))
    }

    /// All parts of the warp's columns, one after the other.
    fn walk<'c>(
        &self,
        e: &Emitter<'c>,
        (row, weights): (Val<'c>, Val<'c>),
        (columns, depth): (Val<'c>, Val<'c>),
        sums: Val<'c>,
        copy: Val<'c>,
    ) {
        let thread = e.thread();
        let warp = e.to_i64(e.shift_right(thread, i64::from(WARP.ilog2())));
        let lane = e.to_i64(e.and(thread, e.i32(WARP as i32 - 1)));
        let part = e.i64(self.part());
        let parts = e.div(e.sub(e.add(depth, part), e.i64(1)), part);
        let step = e.i64(COLUMNS_AT_ONCE);
        // Columns of the warp: warp, warp + 8, …
        let own = e.div(e.sub(e.add(columns, e.sub(step, warp)), e.i64(1)), step);
        let turns = e.mul(own, parts);
        let column_bytes = e.mul(depth, e.i64(self.dot.weights.bytes()));
        let fetch = |column: Val<'c>, at: Val<'c>| -> Vec<Val<'c>> {
            let column = e.offset(weights, e.mul(e.min(column, e.sub(columns, e.i64(1))), column_bytes));
            let first = e.add(e.mul(at, part), e.mul(lane, e.i64(self.dot.vector)));
            let place = |load: usize| {
                let k = e.add(first, e.i64(load * WARP * self.dot.vector));
                // Past the end anything will do: the row is zero there.
                e.select(e.cmp(Cmp::Lt, k, depth), k, e.i64(0))
            };
            (0..self.steps).map(|load| self.dot.fetch(e, column, place(load))).collect()
        };
        let zero = e.i64(0);
        let numbers = vec![e.f32(0.0); CHAINS];
        // The first loads of weights are under way while the row is copied.
        let start: Vec<Val> = [warp, zero].into_iter().chain(numbers).chain(fetch(warp, zero)).collect();
        self.copy(e, row, depth, copy);
        e.sync();
        e.for_loop(zero, turns, e.i64(1), &start, |_, state| {
            let (column, at) = (state[0], state[1]);
            let last = e.cmp(Cmp::Eq, at, e.sub(parts, e.i64(1)));
            let next_at = e.select(last, zero, e.add(at, e.i64(1)));
            let next_column = e.add(column, e.select(last, step, zero));
            let next = fetch(next_column, next_at);
            let made = self.multiply(e, &state[2 + CHAINS..], &state[2..2 + CHAINS], (at, lane, parts), copy);
            e.if_then(last, || {
                let all = made[1..].iter().fold(made[0], |sum, part| e.add(sum, *part));
                let all = across_lanes(e, Reduce::Sum, all, WARP);
                e.if_then(e.cmp(Cmp::Eq, lane, zero), || e.store(e.element(sums, column, 4), all));
            });
            let made = made.into_iter().map(|sum| e.select(last, e.f32(0.0), sum));
            [next_column, next_at].into_iter().chain(made).chain(next).collect()
        });
    }

    /// Adds the products of a loaded part to the lane's sums.
    fn multiply<'c>(
        &self,
        e: &Emitter<'c>,
        loaded: &[Val<'c>],
        sums: &[Val<'c>],
        (at, lane, parts): (Val<'c>, Val<'c>, Val<'c>),
        copy: Val<'c>,
    ) -> Vec<Val<'c>> {
        let vector = self.dot.vector;
        let groups = e.mul(parts, e.i64(self.steps * WARP));
        let first = e.add(e.mul(at, e.i64(self.steps * WARP)), lane);
        let mut sums = sums.to_vec();
        for (load, own) in loaded.iter().enumerate() {
            let group = e.add(first, e.i64(load * WARP));
            let x: Vec<Val> = match vector {
                1 => vec![e.load(e.element(copy, group, 4), Ty::F32)],
                _ => (0..vector / 4)
                    .flat_map(|four| {
                        let place = e.element(copy, e.add(e.mul(groups, e.i64(four)), group), 16);
                        let own = e.load_aligned(place, Ty::f32(4));
                        (0..4).map(move |at| e.extract(own, at))
                    })
                    .collect(),
            };
            for (n, (x, w)) in x.iter().zip(single(e, *own)).enumerate() {
                let sum = &mut sums[(n + load) % CHAINS];
                *sum = e.fma(*x, w, *sum);
            }
        }
        sums
    }
}
