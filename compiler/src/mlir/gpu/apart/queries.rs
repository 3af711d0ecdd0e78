//! A group's queries of a part: scores of some positions are asked for before the weights of those before are multiplied by their values,
//! so that the matrix units have work while the group weighs.

use super::attend::{Launch, Part, Turns};
use super::{AT_ONCE, GROUP, LINE, ROWS, positions};
use crate::fuse::kernel::{BATCH, COLUMN};
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Emitter, Field, Val};
use crate::mlir::gpu::attention::{Sum, Work};
use crate::mlir::gpu::kept::side_by_side;
use crate::mlir::gpu::sight::Sight;
use crate::mlir::gpu::softmax::{self, CARRIED, Step};
use crate::mlir::gpu::wide::{lies_in_fours, numbers};
use crate::plan::NUMBERS;

/// Loads of a thread that are under way at once.
const AHEAD: usize = 8;
/// Numbers of a piece of 16 bytes.
const PIECE: usize = 8;
/// Pieces of a line.
const PIECES: usize = NUMBERS / PIECE;

/// A group's rows of a part.
pub(super) struct Rows<'k, 'c> {
    pub(super) launch: Launch<'k, 'c>,
    pub(super) part: Part<'c>,
    pub(super) group: Val<'c>,
    pub(super) warp: Val<'c>,
    pub(super) lane: Val<'c>,
    /// Where its queries lie.
    pub(super) own: Val<'c>,
    pub(super) turns: Turns<'k, 'c>,
}

impl<'c> Rows<'_, 'c> {
    /// The number among the part's rows of the group's row `at` (`i32`).
    fn within(&self, at: Val<'c>) -> Val<'c> {
        let e = self.launch.e;
        e.to_i64(e.add(e.mul(self.group, e.i32(ROWS as i32)), at))
    }

    /// The call's row; past the last of the part that one.
    fn row(&self, at: Val<'c>) -> Val<'c> {
        let e = self.launch.e;
        e.add(self.part.first, e.min(self.within(at), e.sub(self.part.rows, e.i64(1))))
    }

    /// The lane's two rows of the group's.
    fn lane_rows(&self) -> [Val<'c>; 2] {
        let e = self.launch.e;
        let first = e.add(e.shift_left(self.warp, 4), e.shift_right(self.lane, 2));
        [first, e.add(first, e.i32(8))]
    }

    fn meet(&self) {
        let e = self.launch.e;
        e.show_shared();
        e.sync_some(e.add(self.group, e.i32(1)), GROUP * WARP);
    }

    fn sight(&self) -> Sight<'c> {
        let Launch { e, code, args, .. } = self.launch;
        let position = |row: Val<'c>| e.to_i32(e.table_entry(args.call, Field::Positions, row));
        let rows = self.lane_rows().map(|at| self.row(at));
        let own = [0, ROWS as i32 - 1].map(|at| position(self.row(e.i32(at))));
        let rows = rows.map(|row| softmax::Row { row, query: position(row), head: None });
        Sight::of(e, code, self.part.segment, (rows.to_vec(), own))
    }

    /// All stages; gives the next turn.
    pub(super) fn run(&self, work: &mut Work<'_, 'c>, turn: Val<'c>) -> Val<'c> {
        let Launch { e, code, .. } = self.launch;
        self.fetch(work);
        let sight = self.sight();
        let [one, two] = [1, 2].map(|n| e.i32(n));
        let scores = self.begin_scores(turn);
        let mut scores = e.await_products_of(0, &scores);
        self.leave(turn);
        let Step { carried, .. } = self.weigh(work, &sight, self.part.stages.0, &mut scores, &softmax::nothing(e, 2));
        let start: Vec<Val> =
            std::iter::once(turn).chain(carried).chain(packed(e, &scores)).chain(vec![e.f32(0.0); code.value / 2]).collect();
        let behind = e.add(self.part.stages.0, e.i64(1));
        let end = e.for_loop(behind, self.part.stages.1, e.i64(1), &start, |stage, state| {
            let (turn, carried, weights, sums) = self.split(state);
            let next = e.add(turn, two);
            self.turns.take();
            let scores = self.begin_scores(next);
            let sums = self.begin_sums(e.add(turn, one), weights, sums);
            self.turns.pass();
            let mut scores = e.await_products_of(1, &scores);
            self.leave(next);
            let step = self.weigh(work, &sight, stage, &mut scores, carried);
            let sums = e.await_products_of(0, &self.risen(&step, sums));
            self.leave(e.add(turn, one));
            // Only now: while products are under way, what others will read must not change.
            std::iter::once(next).chain(step.carried).chain(packed(e, &scores)).chain(sums).collect()
        });
        let (turn, carried, weights, sums) = self.split(&end);
        let sums = self.begin_sums(e.add(turn, one), weights, sums);
        let sums = e.await_products_of(0, &sums);
        self.leave(e.add(turn, one));
        self.finish(work, carried, &sums);
        e.add(turn, two)
    }

    /// Positions of a stage.
    fn stage(&self) -> usize {
        positions(self.launch.code)
    }

    /// What is carried from stage to stage: the turn of its keys, what a softmax carries, pairs of weights, and sums.
    fn split<'s>(&self, state: &'s [Val<'c>]) -> (Val<'c>, &'s [Val<'c>], &'s [Val<'c>], &'s [Val<'c>]) {
        let (carried, rest) = state[1..].split_at(CARRIED);
        let (weights, sums) = rest.split_at(self.stage() / 4);
        (state[0], carried, weights, sums)
    }

    /// The group has read what came at a turn.
    fn leave(&self, turn: Val<'c>) {
        let e = self.launch.e;
        e.if_then(e.cmp(Cmp::Eq, self.lane, e.i32(0)), || self.launch.pipeline.leave(turn));
    }

    /// Makes weights of scores, in their place.
    fn weigh(
        &self,
        work: &mut Work<'_, 'c>,
        sight: &Sight<'c>,
        stage: Val<'c>,
        scores: &mut Vec<Val<'c>>,
        carried: &[Val<'c>],
    ) -> Step<'c> {
        let e = self.launch.e;
        let first = e.to_i32(e.mul(stage, e.i64(self.stage())));
        sight.weigh(work, (first, self.lane), scores, carried)
    }

    /// Brings sums that are under way to the new bases, if those of one of the warp's rows rose.
    fn risen(&self, step: &Step<'c>, sums: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let e = self.launch.e;
        // What asks for the totals cannot be done before the weights: the assembler would wait for the products first, and weigh alone.
        let [a, b] = [2, 3].map(|at| e.cmp(Cmp::Ge, step.carried[at], e.f32(0.0)));
        let rises = e.in_any_lane(e.and(step.rises, e.and(a, b)));
        let scaled = || softmax::rescale(e, &e.await_products_of(0, &sums), &step.scales);
        e.if_else(rises, scaled, || sums.clone())
    }

    /// The group's queries into its memory, `[halves][rows][numbers]`.
    fn fetch(&self, work: &mut Work<'_, 'c>) {
        let Launch { e, code, .. } = self.launch;
        let pieces = code.key / PIECE;
        let threads = GROUP * WARP;
        let thread = e.and(e.thread(), e.i32(threads as i32 - 1));
        // All are done with what was there.
        self.meet();
        let places: Vec<Val> = (0..ROWS * pieces).step_by(threads).map(|first| e.add(thread, e.i32(first as i32))).collect();
        for places in places.chunks(AHEAD) {
            let loaded: Vec<Vec<Val>> = places.iter().map(|at| self.query(work, *at, pieces)).collect();
            for (at, own) in places.iter().copied().zip(loaded) {
                let (row, piece) = (e.div(at, e.i32(pieces as i32)), e.rem(at, e.i32(pieces as i32)));
                let half = e.div(piece, e.i32(PIECES as i32));
                let line = e.add(e.mul(half, e.i32(ROWS as i32)), row);
                let place = e.shift_left(e.xor(e.rem(piece, e.i32(PIECES as i32)), e.and(row, e.i32(7))), 4);
                let place = e.add(e.mul(line, e.i32(LINE as i32)), place);
                e.store_aligned(e.offset(self.own, e.to_i64(place)), side_by_side(e, &packed(e, &own)));
            }
        }
        self.meet();
    }

    /// Eight numbers of a row's query.
    fn query(&self, work: &mut Work<'_, 'c>, at: Val<'c>, pieces: usize) -> Vec<Val<'c>> {
        let Launch { e, code, .. } = self.launch;
        work.site.set_row(self.row(e.div(at, e.i32(pieces as i32))), false);
        let column = e.mul(e.to_i64(e.rem(at, e.i32(pieces as i32))), e.i64(PIECE));
        numbers(&mut work.site, &code.views.query, column, PIECE)
    }

    /// Begins the products of the queries with the keys that come at a turn.
    fn begin_scores(&self, turn: Val<'c>) -> Vec<Val<'c>> {
        let Launch { e, code, pipeline, .. } = self.launch;
        pipeline.arrive(turn);
        let (left, right) = (e.matrix_at(self.own), e.matrix_at(pipeline.place(turn)));
        // Numbers of a query, or of a key, lie in parts of as many as a line has.
        let behind = |matrix: Val<'c>, lines: usize, at: usize| {
            let (part, within) = (at * AT_ONCE / NUMBERS, at * AT_ONCE % NUMBERS);
            e.matrix_behind(matrix, e.i64(part * lines * LINE + 2 * within))
        };
        let pair = |at: usize| (behind(left, ROWS, at), behind(right, self.stage(), at));
        e.begin_products(&(0..code.key / AT_ONCE).map(pair).collect::<Vec<_>>(), &vec![e.f32(0.0); self.stage() / 2])
    }

    /// Begins to add the values that come at a turn, weighed, to sums.
    fn begin_sums(&self, turn: Val<'c>, weights: &[Val<'c>], sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let Launch { e, pipeline, .. } = self.launch;
        pipeline.arrive(turn);
        // Lines are positions: the numbers of a value come in parts, one behind the other.
        let values = e.turned_matrix_at(pipeline.place(turn), self.stage() * LINE);
        let behind = |at: usize| e.matrix_behind(values, e.i64(at * AT_ONCE * LINE));
        let values: Vec<Val> = (0..self.stage() / AT_ONCE).map(behind).collect();
        e.begin_products_of(weights, &values, sums)
    }

    /// Divides the sums by their totals, and stores them.
    fn finish(&self, work: &mut Work<'_, 'c>, carried: &[Val<'c>], sums: &[Val<'c>]) {
        let Launch { e, code, .. } = self.launch;
        let (heads, value) = (code.groups * code.per, code.value);
        let head = work.site.index[&BATCH];
        let column = e.to_i64(e.shift_left(e.and(self.lane, e.i32(3)), 1));
        let out = &code.views.out;
        let whole = out.stride(COLUMN) == 1 && lies_in_fours(work.site.tensor(out), out);
        for (half, row) in self.lane_rows().into_iter().enumerate() {
            let (most, total) = (softmax::most(e, carried[half]), softmax::total(e, carried[2 + half]));
            e.if_then(e.cmp(Cmp::Lt, self.within(row), self.part.rows), || {
                work.site.set_row(self.row(row), false);
                let part = work.result(head, e.i64(0), e.i64(0), Sum { most, total, sum: e.f32(1.0) });
                let pair = |four: &[Val<'c>]| [0, 1].map(|at| e.mul(four[2 * half + at], part));
                let made: Vec<[Val; 2]> = sums.chunks_exact(4).map(pair).collect();
                let next = self.launch.next.map(|next| next.row(e, self.row(row), heads * value));
                let mut stored = || {
                    for (at, pair) in made.iter().enumerate() {
                        let mut place = |within: usize| {
                            work.site.index.insert(COLUMN, e.add(column, e.i64(8 * at + within)));
                            work.site.address(&code.views.out)
                        };
                        match whole {
                            true => e.store_aligned(place(0), side_by_side(e, pair)),
                            false => (0..2).for_each(|within| e.store(place(within), pair[within])),
                        }
                    }
                };
                let Some(next) = next else { return stored() };
                e.if_then(e.not(next.taken), stored);
                e.if_then(next.taken, || {
                    let own = e.element(e.element(next.rows, self.part.head, 2 * value), column, 2);
                    for (at, pair) in made.iter().enumerate() {
                        e.store(e.offset_by(own, 16 * at), e.pack_bf16(pair[0], pair[1]));
                    }
                });
            });
        }
    }
}

/// Weights as the matrix units take them.
pub(super) fn packed<'c>(e: &Emitter<'c>, weights: &[Val<'c>]) -> Vec<Val<'c>> {
    weights.chunks_exact(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect()
}
