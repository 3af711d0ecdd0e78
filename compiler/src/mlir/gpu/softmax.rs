//! A running softmax over fragments of scores on the matrix units: a lane has two rows, or one, and of each some positions at a time.
//!
//! Weights are powers of two relative to a *base*, which is the largest exponent so far or a little below: it follows only if exponents rise
//! above it by [`RISE`], so that sums are seldom brought to another one. What comes out is the same, as sums and totals have the same base.
//! Milakov and Gimelshein, Online normalizer calculation for softmax (2018); Dao et al. on rescaling less often, FlashAttention-4 (2025).

use super::attention::Work;
use super::team::across_lanes;
use crate::fuse::kernel::{Attention, BATCH};
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::{Cmp, Emitter, Val};
use braid_dsl::model::{Binary, Body, Op, Reduce, Unary, ValueId};
use std::f32::consts::{LN_2, LOG2_E};

/// So many powers of two a weight may be above one: rounded to bfloat16 it is as exact, and sums of single precision are far from their end.
const RISE: f32 = 8.0;
/// Maxima and totals that are made side by side: one after the other each would wait for the last.
const SIDE_BY_SIDE: usize = 4;
/// What is carried of two rows ahead of the sums: for each the base, then for each the lane's part of the total.
pub(super) const CARRIED: usize = 2 * 2;

/// A lane's row.
#[derive(Clone, Copy)]
pub(super) struct Row<'c> {
    pub(super) row: Val<'c>,
    /// The position of its query (`i32`).
    pub(super) query: Val<'c>,
    /// Which head of its group it is, if that is not the site's.
    pub(super) head: Option<Val<'c>>,
}

/// What has become of a step.
pub(super) struct Step<'c> {
    /// The new bases and totals.
    pub(super) carried: Vec<Val<'c>>,
    /// What each row's sums until now are multiplied with.
    pub(super) scales: Vec<Val<'c>>,
    /// Whether one of them is not one.
    pub(super) rises: Val<'c>,
}

/// Bases and totals of so many rows before the first position.
pub(super) fn nothing<'c>(e: &Emitter<'c>, rows: usize) -> Vec<Val<'c>> {
    [f32::NEG_INFINITY, 0.0].into_iter().flat_map(|x| vec![e.f32(x); rows]).collect()
}

/// Where the numbers of a row are, of so many, in a lane's fragments of `count` positions: two of each eight.
fn of_row(row: usize, rows: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| 2 * (rows * (at / 2) + row) + at % 2)
}

/// What the score of an attention multiplies a dot product with, if it does nothing else and more is more.
pub(super) fn factor(code: &Attention) -> Option<f32> {
    let attend = &code.attend;
    factor_of(&attend.score, attend.score_result).filter(|factor| *factor > 0.0 && factor.is_finite()).map(|factor| factor as f32)
}

fn factor_of(body: &Body, id: ValueId) -> Option<f64> {
    let value = &body.values[id.0 as usize];
    let constant = |at: usize| match body.values[value.args[at].0 as usize].op {
        Op::Const(number) => Some(number),
        _ => None,
    };
    let arg = |at: usize| factor_of(body, value.args[at]);
    match value.op {
        Op::Score => Some(1.0),
        Op::Unary(Unary::Neg) => Some(-arg(0)?),
        Op::Binary(Binary::Mul) => constant(1).and_then(|by| Some(arg(0)? * by)).or_else(|| Some(constant(0)? * arg(1)?)),
        Op::Binary(Binary::Div) => Some(arg(0)? / constant(1)?),
        _ => None,
    }
}

/// The logarithm of what weights and totals are relative to, as scores are.
pub(super) fn most<'c>(e: &Emitter<'c>, base: Val<'c>) -> Val<'c> {
    e.mul(base, e.f32(LN_2))
}

/// Makes weights of exponents times `factor`, of natural ones, in fragments of a lane, and goes on from what was carried.
pub(super) fn weigh<'c>(e: &Emitter<'c>, scores: &mut [Val<'c>], factor: f32, carried: &[Val<'c>]) -> Step<'c> {
    let rows = carried.len() / 2;
    let (factor, count) = (e.f32(factor * LOG2_E), scores.len() / rows);
    let mut next = carried.to_vec();
    let mut scales = vec![e.f32(1.0); rows];
    let mut risen = vec![e.bool(false); rows];
    for row in 0..rows {
        let own: Vec<usize> = of_row(row, rows, count).collect();
        let most = side_by_side(&own.iter().map(|at| scores[*at]).collect::<Vec<_>>(), |a, b| e.larger(a, b));
        let most = e.mul(across_lanes_larger(e, most), factor);
        // Before anything is seen the base is minus infinity, and stays so while nothing is.
        let before = carried[row];
        risen[row] = e.cmp(Cmp::Gt, most, e.add(before, e.f32(RISE)));
        let base = e.select(risen[row], most, before);
        let anchor = e.select(e.cmp(Cmp::Eq, base, e.f32(f32::NEG_INFINITY)), e.f32(0.0), base);
        scales[row] = e.select(risen[row], e.power_of_two_of(e.sub(before, anchor)), e.f32(1.0));
        let anchor = e.neg(anchor);
        own.iter().for_each(|at| scores[*at] = e.power_of_two_of(e.fma(scores[*at], factor, anchor)));
        let total = side_by_side(&own.iter().map(|at| scores[*at]).collect::<Vec<_>>(), |a, b| e.add(a, b));
        (next[row], next[rows + row]) = (base, e.fma(carried[rows + row], scales[row], total));
    }
    let rises = risen.into_iter().reduce(|a, b| e.or(a, b)).unwrap_or_else(|| e.bool(false));
    Step { carried: next, scales, rises }
}

/// Brings sums, fragments of a lane's two rows, to the new bases.
pub(super) fn rescale<'c>(e: &Emitter<'c>, sums: &[Val<'c>], scales: &[Val<'c>]) -> Vec<Val<'c>> {
    sums.iter().enumerate().map(|(at, sum)| e.mul(*sum, scales[at / 2 % 2])).collect()
}

fn across_lanes_larger<'c>(e: &Emitter<'c>, most: Val<'c>) -> Val<'c> {
    [2, 1].into_iter().fold(most, |most, by| e.larger(most, e.exchange(most, by)))
}

fn side_by_side<'c>(numbers: &[Val<'c>], join: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
    let (first, rest) = numbers.split_at(SIDE_BY_SIDE.min(numbers.len()));
    let mut parts = first.to_vec();
    rest.iter().enumerate().for_each(|(at, number)| parts[at % SIDE_BY_SIDE] = join(parts[at % SIDE_BY_SIDE], *number));
    parts.into_iter().reduce(&join).unwrap_or(numbers[0])
}

/// The lane's part of a row's total, added up.
pub(super) fn total<'c>(e: &Emitter<'c>, part: Val<'c>) -> Val<'c> {
    across_lanes(e, Reduce::Sum, part, 4)
}

impl<'c> Work<'_, 'c> {
    /// What dot products of a lane's fragments are as scores, with the positions of the lane's keys; in their place.
    pub(super) fn score(&mut self, scores: &mut [Val<'c>], positions: &[Val<'c>], rows: &[Row<'c>]) {
        let attend = &self.code.attend;
        self.each_pair(scores, positions, rows, |this, dot, pair| {
            body(&mut this.site, this.code, &attend.score, attend.score_result, Pair { score: Some(Scores::Here(dot)), ..pair })
        });
    }

    /// Minus infinity where a query does not see a key, or where there is none: where `there` does not hold of its position.
    pub(super) fn hide(
        &mut self,
        scores: &mut [Val<'c>],
        positions: &[Val<'c>],
        rows: &[Row<'c>],
        there: impl Fn(Val<'c>) -> Val<'c>,
    ) {
        let (e, attend) = (self.e, &self.code.attend);
        self.each_pair(scores, positions, rows, |this, score, pair| {
            let keep = body(&mut this.site, this.code, &attend.keep, attend.keep_result, pair);
            e.select(e.and(keep, there(pair.key)), score, e.f32(f32::NEG_INFINITY))
        });
    }

    fn each_pair(
        &mut self,
        scores: &mut [Val<'c>],
        positions: &[Val<'c>],
        rows: &[Row<'c>],
        made: impl Fn(&mut Self, Val<'c>, Pair<'c>) -> Val<'c>,
    ) {
        for (number, Row { row, query, head }) in rows.iter().enumerate() {
            self.site.set_row(*row, false);
            if let Some(head) = head {
                self.site.index.insert(BATCH, *head);
            }
            for (at, key) in of_row(number, rows.len(), positions.len()).zip(positions) {
                let pair = Pair { query: *query, key: *key, channels: None, score: None };
                scores[at] = made(self, scores[at], pair);
            }
        }
    }
}
