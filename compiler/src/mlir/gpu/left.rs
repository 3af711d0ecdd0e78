//! Sums of weighted values that several have left, to be joined: the warps of a block in shared memory, the parts of positions in the device's.

use super::attention::{Sum, join};
use super::kept::side_by_side;
use crate::fuse::kernel::Attention;
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// How many are loaded together: one after the other each would wait for the last.
const TOGETHER: usize = 16;

/// What some have left, one behind the other ([`Attention::part_bytes`]).
#[derive(Clone, Copy)]
pub(super) struct Left<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    /// Where that of the first begins.
    pub(super) at: Val<'c>,
    pub(super) code: &'k Attention,
    /// Of how many heads.
    pub(super) heads: usize,
}

impl<'c> Left<'_, 'c> {
    /// Where number `number` has its totals, and the sum of a head and a column.
    fn places(&self, number: Val<'c>, (head, column): (Val<'c>, Val<'c>)) -> [Val<'c>; 2] {
        let e = self.e;
        let own = e.element(self.at, number, self.code.part_bytes(self.heads));
        let totals = e.element(e.offset_by(own, self.code.sums_bytes(self.heads)), head, 8);
        [totals, e.element(e.element(own, head, self.code.value * 4), column, 4)]
    }

    /// Leaves sums that have a maximum and a total in common, of columns side by side from a multiple of as many on.
    pub(super) fn put(&self, number: Val<'c>, (head, column): (Val<'c>, Val<'c>), sums: &[Sum<'c>]) {
        let e = self.e;
        let [totals, place] = self.places(number, (head, column));
        e.store_aligned(place, side_by_side(e, &sums.iter().map(|own| own.sum).collect::<Vec<_>>()));
        let first = e.cmp(Cmp::Eq, column, e.i64(0));
        e.if_then(first, || e.store_aligned(totals, side_by_side(e, &[sums[0].most, sums[0].total])));
    }

    /// The sums of all of so many, at least one, of as many columns side by side.
    pub(super) fn all(&self, count: Val<'c>, place: (Val<'c>, Val<'c>), columns: usize) -> Vec<Sum<'c>> {
        let e = self.e;
        let start: Vec<Val> = std::iter::once(e.f32(f32::NEG_INFINITY)).chain(vec![e.f32(0.0); 1 + columns]).collect();
        let end = e.for_loop(e.i64(0), count, e.i64(TOGETHER), &start, |first, state| {
            let load = |by: usize| {
                let number = e.add(first, e.i64(by));
                let there = e.cmp(Cmp::Lt, number, count);
                // Past the last one that is loaded again, and weighs nothing.
                let [totals, sums] = self.places(e.min(number, e.sub(count, e.i64(1))), place);
                let (totals, sums) = (e.load_aligned(totals, Ty::f32(2)), e.load_aligned(sums, Ty::f32(columns)));
                (there, totals, sums)
            };
            let loaded: Vec<_> = (0..TOGETHER).map(load).collect();
            let before = Self::sums(state);
            let made = loaded.into_iter().fold(before, |all, (there, totals, sums)| {
                let most = e.select(there, e.extract(totals, 0), e.f32(f32::NEG_INFINITY));
                let total = e.extract(totals, 1);
                let sum = |at: usize| if columns == 1 { sums } else { e.extract(sums, at) };
                all.into_iter().enumerate().map(|(at, own)| join(e, own, Sum { most, total, sum: sum(at) })).collect()
            });
            [made[0].most, made[0].total].into_iter().chain(made.iter().map(|own| own.sum)).collect()
        });
        Self::sums(&end)
    }

    /// Sums as loops carry them: the maximum and the total once.
    fn sums(state: &[Val<'c>]) -> Vec<Sum<'c>> {
        state[2..].iter().map(|sum| Sum { most: state[0], total: state[1], sum: *sum }).collect()
    }
}
