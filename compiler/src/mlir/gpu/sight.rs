//! What queries see of some positions that come together, and the weights of their scores.

use super::attention::Work;
use super::softmax::{self, Row, Step};
use crate::forms::{Form, Whole, whole};
use crate::fuse::kernel::Attention;
use crate::mlir::common::{Cmp, Emitter, SegmentFields, Val};

/// What a warp sees of a sequence.
pub(super) struct Sight<'c> {
    /// The lane's rows.
    rows: Vec<Row<'c>>,
    /// Positions of the first and the last query.
    queries: [Val<'c>; 2],
    /// Positions that there are.
    last: Val<'c>,
    /// Where all of some positions are seen, if that can be told.
    whole: Option<Whole>,
    /// What makes scores of dot products, if that is all.
    factor: Option<f32>,
}

impl<'c> Sight<'c> {
    /// Of the lane's rows in a sequence, and of the positions of the first and the last query of those that look together.
    pub(super) fn of(
        e: &Emitter<'c>,
        code: &Attention,
        segment: SegmentFields<'c>,
        (rows, queries): (Vec<Row<'c>>, [Val<'c>; 2]),
    ) -> Self {
        let last = e.to_i32(e.add(segment.position, segment.rows));
        Sight { rows, queries, last, whole: whole(&code.attend), factor: softmax::factor(code) }
    }

    /// Makes weights of a lane's fragments of scores, in their place; `first`: the first position (`i32`).
    pub(super) fn weigh(
        &self,
        work: &mut Work<'_, 'c>,
        (first, lane): (Val<'c>, Val<'c>),
        scores: &mut Vec<Val<'c>>,
        carried: &[Val<'c>],
    ) -> Step<'c> {
        let e = work.e;
        // A lane has two of every eight positions.
        let count = 4 * scores.len() / self.rows.len();
        if self.factor.is_none() {
            work.score(scores, &positions(e, (first, lane), count), &self.rows);
        }
        let there = |key: Val<'c>| e.cmp(Cmp::Lt, key, self.last);
        let end = e.add(first, e.i32(count as i32 - 1));
        let mut hidden = |mut scores: Vec<Val<'c>>| {
            work.hide(&mut scores, &positions(e, (first, lane), count), &self.rows, there);
            scores
        };
        *scores = match &self.whole {
            Some(whole) => {
                let all = e.and(there(end), holds(e, whole, (self.queries, [first, end])));
                e.if_else(all, || scores.clone(), || hidden(scores.clone()))
            }
            None => hidden(scores.clone()),
        };
        softmax::weigh(e, scores, self.factor.unwrap_or(1.0), carried)
    }
}

/// The positions of a lane's scores of so many from the first on.
fn positions<'c>(e: &Emitter<'c>, (first, lane): (Val<'c>, Val<'c>), count: usize) -> Vec<Val<'c>> {
    let own = e.add(first, e.shift_left(e.and(lane, e.i32(3)), 1));
    (0..count / 4).map(|at| e.add(own, e.i32((8 * (at / 2) + at % 2) as i32))).collect()
}

/// Whether a predicate holds for all queries and keys from the first positions to the last.
fn holds<'c>(e: &Emitter<'c>, whole: &Whole, (queries, keys): ([Val<'c>; 2], [Val<'c>; 2])) -> Val<'c> {
    let both = |parts: &[Whole; 2]| [0, 1].map(|at| holds(e, &parts[at], (queries, keys)));
    match whole {
        Whole::Always => e.bool(true),
        Whole::Below(Form { query, key, constant }) => {
            let most = |factor: i64, ends: [Val<'c>; 2]| e.mul(ends[usize::from(factor > 0)], e.i32(factor as i32));
            let most = e.add(most(*query, queries), most(*key, keys));
            e.cmp(Cmp::Lt, e.add(most, e.i32(*constant as i32)), e.i32(0))
        }
        Whole::Both(parts) => {
            let [a, b] = both(parts);
            e.and(a, b)
        }
        Whole::Either(parts) => {
            let [a, b] = both(parts);
            e.or(a, b)
        }
    }
}
