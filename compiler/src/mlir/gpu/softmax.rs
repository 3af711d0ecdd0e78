//! A running softmax over fragments of scores on the matrix units: a lane has two rows, and of each some positions at a time.
//!
//! Weights are powers of two relative to a *base*, which is the largest exponent so far or a little below: it follows only if exponents rise
//! above it by [`RISE`], so that sums are seldom brought to another one. What comes out is the same, as sums and totals have the same base.
//! Milakov and Gimelshein, Online normalizer calculation for softmax (2018); Dao et al. on rescaling less often, FlashAttention-4 (2025).

use super::attention::Work;
use super::team::across_lanes;
use crate::fuse::kernel::Attention;
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::{Cmp, Emitter, Val};
use braid_dsl::model::{Binary, Body, Op, Reduce, Unary, ValueId};
use std::f32::consts::{LN_2, LOG2_E};

/// So many powers of two a weight may be above one: rounded to bfloat16 it is as exact, and sums of single precision are far from their end.
const RISE: f32 = 8.0;
/// Maxima and totals that are made side by side: one after the other each would wait for the last.
const SIDE_BY_SIDE: usize = 4;
/// What is carried ahead of the sums: for two rows the base, then the lane's part of the total.
pub(super) const CARRIED: usize = 4;

/// A lane's two rows, and the positions of their queries (`i32`).
#[derive(Clone, Copy)]
pub(super) struct Rows<'c> {
    pub(super) rows: [Val<'c>; 2],
    pub(super) queries: [Val<'c>; 2],
}

/// What has become of a step.
pub(super) struct Step<'c> {
    /// The new bases and totals.
    pub(super) carried: Vec<Val<'c>>,
    /// What each row's sums until now are multiplied with.
    pub(super) scales: [Val<'c>; 2],
    /// Whether one of them is not one.
    pub(super) rises: Val<'c>,
}

/// Bases and totals before the first position.
pub(super) fn nothing<'c>(e: &Emitter<'c>) -> Vec<Val<'c>> {
    [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0].map(|x| e.f32(x)).to_vec()
}

/// Where the numbers of a row are in a lane's fragments of `count` positions: two of each eight.
pub(super) fn of_row(row: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| 4 * (at / 2) + 2 * row + at % 2)
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
    let (factor, count) = (e.f32(factor * LOG2_E), scores.len() / 2);
    let mut next = carried.to_vec();
    let mut scales = [e.f32(1.0); 2];
    let mut risen = [e.bool(false); 2];
    for row in 0..2 {
        let own: Vec<usize> = of_row(row, count).collect();
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
        (next[row], next[2 + row]) = (base, e.fma(carried[2 + row], scales[row], total));
    }
    Step { carried: next, scales, rises: e.or(risen[0], risen[1]) }
}

/// Brings sums, fragments of a lane, to the new bases.
pub(super) fn rescale<'c>(e: &Emitter<'c>, sums: &[Val<'c>], scales: [Val<'c>; 2]) -> Vec<Val<'c>> {
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
    pub(super) fn score(&mut self, scores: &mut [Val<'c>], positions: &[Val<'c>], rows: Rows<'c>) {
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
        rows: Rows<'c>,
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
        Rows { rows, queries }: Rows<'c>,
        made: impl Fn(&mut Self, Val<'c>, Pair<'c>) -> Val<'c>,
    ) {
        for row in 0..2 {
            self.site.set_row(rows[row], false);
            for (at, key) in of_row(row, positions.len()).zip(positions) {
                let pair = Pair { query: queries[row], key: *key, channels: None, score: None };
                scores[at] = made(self, scores[at], pair);
            }
        }
    }
}
