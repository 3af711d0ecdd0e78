//! Weighted sums of values, from the first block of keys to the result.

use super::walk::Keys;
use super::{Head, Work, padded};
use crate::forms::BLOCK;
use crate::fuse::attention::MOST_BLOCKS;
use crate::mlir::common::pair::capture;
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Ty, Val};
use braid_dsl::model::Gives;

impl<'c> Work<'_, 'c> {
    pub(super) fn store_weights(&self, head: usize, weights: &[Val<'c>]) {
        weights.iter().enumerate().for_each(|(block, weights)| self.e.store(self.weights_of(head, block), *weights));
    }

    fn weights_of(&self, head: usize, block: usize) -> Val<'c> {
        let before = head * MOST_BLOCKS + block;
        let at = (self.code.heads_of_a_task() * padded(self.code.value) + before * BLOCK) * 4;
        scratch(self.e, self.args, self.setting, at)
    }

    /// `sums = sums · scale + weights · values`, a vector of value elements at a time. Blocks have sums of their own until the end, if few heads
    /// leave room for them.
    pub(super) fn add_values(&self, keys: &[Keys<'c>], heads: &[Head<'c>], scales: &[Val<'c>]) {
        let e = self.e;
        keys.iter().enumerate().for_each(|(block, keys)| self.list(*keys, block));
        let apart = if heads.len() * keys.len() > 8 { 1 } else { keys.len() };
        self.over_value(|lanes, at, mask| {
            let before = |h: usize| e.mul(e.load(e.element(heads[h].sums, at, 4), Ty::f32(lanes)), scales[h]);
            let mut start: Vec<Val> = (0..scales.len()).map(before).collect();
            start.resize(scales.len() * apart, e.float(Ty::f32(lanes), 0.0));
            let sums = e.for_loop(e.i64(0), e.i64(BLOCK), e.i64(1), &start, |lane, sums| {
                let mut next = sums.to_vec();
                for (block, keys) in keys.iter().enumerate() {
                    let place = e.element(self.value_of(*keys, block, lane), at, 4);
                    let part = match mask {
                        Some(mask) => e.load_masked(place, mask, Ty::f32(lanes)),
                        None => e.load(place, Ty::f32(lanes)),
                    };
                    let weigh = |h: usize| e.splat(e.load(e.element(self.weights_of(h, block), lane, 4), Ty::F32), lanes);
                    let sums = &mut next[block % apart * scales.len()..][..scales.len()];
                    sums.iter_mut().enumerate().for_each(|(h, sum)| *sum = e.fma(weigh(h), part, *sum));
                }
                next
            });
            for h in 0..scales.len() {
                let own = sums.iter().copied().skip(h).step_by(scales.len());
                let sum = own.reduce(|a, b| e.add(a, b)).unwrap_or(sums[h]);
                e.store(e.element(heads[h].sums, at, 4), sum);
            }
        });
    }

    /// Calls `body(lanes, first element, mask)` over the elements of a value.
    fn over_value(&self, body: impl Fn(usize, Val<'c>, Option<Val<'c>>)) {
        let e = self.e;
        let lanes = (2 * self.setting.lanes).min(64);
        let (whole, left) = (self.code.value / lanes * lanes, self.code.value % lanes);
        if whole > 0 {
            for_each(e, e.i64(0), e.i64(whole), e.i64(lanes), |at| body(lanes, at, None));
        }
        if left > 0 {
            body(lanes, e.i64(whole), Some(e.mask(lanes, e.i64(left))));
        }
    }

    /// Divides by the sum of weights, which a sink joins, and stores the head's result.
    pub(super) fn finish(&mut self, head: Head<'c>, most: Val<'c>, sum: Val<'c>) {
        let e = self.e;
        self.at(&head);
        let (scale, sum, anchor) = match self.code.attend.sink {
            None if self.code.attend.plain => (e.f32(1.0), e.f32(1.0), most),
            None => (e.f32(1.0), sum, most),
            Some(number) => {
                let sink = capture(&self.site, self.code, number);
                let anchor = e.max(most, sink);
                let scale = e.exp(e.sub(most, anchor));
                (scale, e.add(e.mul(sum, scale), e.exp(e.sub(sink, anchor))), anchor)
            }
        };
        let none = e.cmp(Cmp::Eq, sum, e.f32(0.0));
        if self.code.attend.gives == Gives::Total {
            let total = e.select(none, e.f32(f32::NEG_INFINITY), e.add(anchor, e.log(sum)));
            return e.store(self.site.address(&self.code.views.out), total);
        }
        let factor = e.select(none, e.f32(0.0), e.div(scale, sum));
        let out = self.site.address(&self.code.views.out);
        self.over_value(|lanes, from, mask| {
            let made = e.mul(e.load(e.element(head.sums, from, 4), Ty::f32(lanes)), factor);
            let place = e.element(out, from, 4);
            match mask {
                Some(mask) => e.store_masked(place, mask, made),
                None => e.store(place, made),
            }
        });
    }
}
