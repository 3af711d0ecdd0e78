//! What the last queries of a prompt give to its keys, added up by keys or by distances. Keys are those of the call, where they were made: nothing is
//! stored, and in later calls nothing is given.

use super::walk::Keys;
use super::{Head, Work, pair};
use crate::forms::BLOCK;
use crate::fuse::attention::Tally;
use crate::fuse::kernel::{BATCH, COLUMN, INNER};
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, SegmentFields, Ty, Val};

impl<'c> Work<'_, 'c> {
    /// A task is a sequence and a head.
    pub(super) fn tally(&mut self, task: Val<'c>, tally: Tally) {
        let e = self.e;
        let heads = e.i64(self.code.groups * self.code.per);
        let own = e.segment(self.args.call, e.div(task, heads));
        let (head, per) = (e.rem(task, heads), e.i64(self.code.per));
        self.site.index.insert(INNER, e.div(head, per));
        self.site.index.insert(BATCH, e.rem(head, per));
        self.site.index.insert(COLUMN, e.i64(0));
        for_each(e, own.row, e.add(own.row, own.rows), e.i64(1), |row| {
            e.store(self.site.address_in_row(&self.code.views.out, row), e.f32(0.0));
        });
        let begins = e.cmp(Cmp::Eq, own.position, e.i64(0));
        e.if_then(begins, || {
            let first = e.max(e.sub(own.rows, e.i64(tally.queries)), e.i64(0));
            for_each(e, first, own.rows, e.i64(1), |query| self.tally_query(own, query, tally));
        });
    }

    /// Adds what one query gives.
    fn tally_query(&mut self, own: SegmentFields<'c>, query: Val<'c>, tally: Tally) {
        let e = self.e;
        let row = e.add(own.row, query);
        self.site.set_row(row, false);
        let number = self.site.index.get(&BATCH).copied().unwrap_or(e.i64(0));
        let address = self.site.address(&self.code.views.query);
        let step = self.code.views.query.stride(COLUMN) * 4;
        let heads = [Head { query: address, step, number, position: e.to_i32(query), sums: e.null(), row: Some(row) }];
        let sight = self.sight();
        let block = e.i64(BLOCK);
        let start = [e.f32(f32::NEG_INFINITY), e.f32(0.0)];
        let ends = e.for_loop(e.i64(0), own.rows, block, &start, |first, state| {
            let keys = self.of_call(own, first);
            self.visit(&heads, &[keys], &sight, state)
        });
        let none = e.cmp(Cmp::Eq, ends[1], e.f32(0.0));
        let most = e.select(none, e.f32(0.0), ends[0]);
        let factor = e.select(none, e.f32(0.0), e.div(e.f32(1.0), ends[1]));
        for_each(e, e.i64(0), own.rows, block, |first| {
            let keys = self.of_call(own, first);
            let visible = self.visible(&heads, &keys, &sight)[0];
            e.if_then(e.any(visible), || {
                let weights = self.weights_of_query(&heads[0], &keys, most);
                let given = e.select(visible, e.mul(weights, e.splat(factor, BLOCK)), e.float(Ty::f32(BLOCK), 0.0));
                self.give(own, (query, first), given, tally);
            });
        });
    }

    /// The exponentials of scores less the largest.
    fn weights_of_query(&mut self, head: &Head<'c>, keys: &Keys<'c>, most: Val<'c>) -> Val<'c> {
        let e = self.e;
        let dots = self.dots(&[*keys], &[*head])[0][0];
        self.at(head);
        let pair = Pair { score: Some(Scores::Here(dots)), ..pair(head, keys) };
        let score = body(&mut self.site, self.code, &self.code.attend.score, self.code.attend.score_result, pair);
        e.exp(e.sub(e.splat(score, BLOCK), e.splat(most, BLOCK)))
    }

    /// Adds sixteen numbers to the rows of their keys or distances.
    fn give(&mut self, own: SegmentFields<'c>, (query, first): (Val<'c>, Val<'c>), given: Val<'c>, tally: Tally) {
        let e = self.e;
        for lane in 0..BLOCK {
            let key = e.add(first, e.i64(lane));
            let to = if tally.apart { e.sub(query, key) } else { key };
            // What is not seen, or not there, is zero, and may be added anywhere.
            let inside = e.and(e.cmp(Cmp::Ge, to, e.i64(0)), e.cmp(Cmp::Lt, to, own.rows));
            let to = e.add(own.row, e.select(inside, to, e.i64(0)));
            let place = self.site.address_in_row(&self.code.views.out, to);
            let more = e.select(inside, e.extract(given, lane), e.f32(0.0));
            e.store(place, e.add(e.load(place, Ty::F32), more));
        }
    }
}
