//! Sums of products inside a chunk, on the matrix units: all warps of a block share the result; operands come from where they lie.

use super::WARPS;
use super::factor::{Factor, Side};
use super::sums::{Loaded, PAIRS_DEPTH, Sums, Taken};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, Staging, Store, Tensor};
use crate::fuse::product::{FRAGMENT, Product, SEVERAL};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Instructions whose operands are loaded together.
const AHEAD: usize = 4;
/// Most numbers of a lane that a loop's turn has and keeps.
const KEPT: usize = 96;
/// Most numbers that a lane loads for a product without a loop.
const WITHOUT_LOOP: usize = 128;

/// Numbers in bfloat16 that are stored at once.
const EIGHT: usize = 8;

/// Each product that is done beside others has a warp.
const _: () = assert!(SEVERAL <= WARPS);

/// How warps share a result: warps along rows and columns, and fragments of each.
pub struct Share {
    warps: [usize; 2],
    fragments: [usize; 2],
}

impl Share {
    /// Warps of one product.
    pub fn count(&self) -> usize {
        self.warps[0] * self.warps[1]
    }

    /// Numbers of a lane.
    pub fn numbers(&self) -> usize {
        4 * self.fragments[0] * self.fragments[1]
    }
}

/// What a warp has of a result: from which row and column on, and how many fragments of each.
pub struct Spot<'c> {
    begin: [Val<'c>; 2],
    fragments: [usize; 2],
    lane: Val<'c>,
}

impl<'c> Spot<'c> {
    /// Sets the site's indices to those of one of the lane's numbers.
    fn stand(&self, site: &mut Site<'_, 'c>, [rows, columns, _]: [KAxis; 3], at: usize) {
        let e = site.e;
        let (fragment, half, own) = (at / 4, at / 2 % 2, at % 2);
        let (x, y) = (fragment / self.fragments[1], fragment % self.fragments[1]);
        let (group, pair) = (e.shift_right(self.lane, 2), e.shift_left(e.and(self.lane, e.i32(3)), 1));
        site.index.insert(rows, e.add(e.add(self.begin[0], e.to_i64(group)), e.i64(FRAGMENT[0] * x + 8 * half)));
        site.index.insert(columns, e.add(e.add(self.begin[1], e.to_i64(pair)), e.i64(FRAGMENT[1] * y + own)));
    }
}

/// A product to be emitted.
pub struct Units<'n> {
    /// Which.
    pub product: Product<'n>,
    /// The kernel's tensors.
    pub tensors: &'n [Tensor],
    /// Where they are, and whether factors may be rounded to what the units take.
    pub staging: &'n Staging,
}

impl Units<'_> {
    /// The way to share the result that loads least.
    pub fn share(&self) -> Share {
        let [rows, columns] = [0, 1].map(|n| self.product.sizes[n] / FRAGMENT[n]);
        let ways =
            (0..=(WARPS / self.several()).ilog2()).flat_map(|bits| (0..=bits).map(move |own| [1 << own, 1 << (bits - own)]));
        let fits = |warps: &[usize; 2]| rows.is_multiple_of(warps[0]) && columns.is_multiple_of(warps[1]);
        // A fragment on the left is twice one on the right; products of a warp take as long as its loads.
        let cost = |[x, y]: &[usize; 2]| 2 * (rows / x) + columns / y + (rows / x) * (columns / y);
        let warps = ways.filter(fits).min_by_key(cost).unwrap_or([1, 1]);
        Share { warps, fragments: [rows / warps[0], columns / warps[1]] }
    }

    fn taken(&self) -> Taken {
        let is_narrow = |view: &View| self.tensors[view.tensor.0].store == Store::Bf16;
        let narrow = is_narrow(self.product.left) || is_narrow(self.product.right);
        match self.staging.rounded {
            true if narrow && self.product.sizes[2].is_multiple_of(PAIRS_DEPTH) => Taken::Pairs,
            true => Taken::Rounded,
            false => Taken::Exactly,
        }
    }

    /// Both factors; `fragments`: a warp's.
    fn factors(&self, fragments: [usize; 2]) -> [Factor; 2] {
        let own = |side: Side, view: &View, n: usize| {
            let strides = [view.stride(self.product.axes[n]), view.stride(self.product.axes[2])];
            let how = (self.taken() == Taken::Pairs, self.staging.shared);
            Factor::of(side, (view, &self.tensors[view.tensor.0]), strides, how, fragments[n])
        };
        [own(Side::Left, self.product.left, 0), own(Side::Right, self.product.right, 1)]
    }

    /// Products that are done side by side.
    fn several(&self) -> usize {
        self.product.several.map_or(1, |(_, count)| count)
    }

    /// Warps that have something to do.
    pub fn warps(&self) -> usize {
        self.share().count() * self.several()
    }

    /// Emits it for the site's row and place of the grid. `begun`: a product whose sums it starts with, which nobody else needs; `first`: where
    /// the task's indices of an axis begin.
    pub fn emit_onto<'c>(&self, site: &mut Site<'_, 'c>, begun: Option<&Units>, first: impl Fn(KAxis) -> Option<Val<'c>>) {
        let e = site.e;
        let share = self.share();
        let warp = e.shift_right(e.thread(), i64::from(WARP.ilog2()));
        let each = share.count();
        let used = self.warps();
        let mut all = || match self.product.several {
            None => self.of_warp(site, begun, (&share, warp), &first),
            Some((axis, _)) => {
                site.index.insert(axis, e.to_i64(e.div(warp, e.i32(each as i32))));
                self.of_warp(site, begun, (&share, e.rem(warp, e.i32(each as i32))), &first);
            }
        };
        if used == WARPS { all() } else { e.if_then(e.cmp(Cmp::Lt, warp, e.i32(used as i32)), all) }
    }

    fn of_warp<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        begun: Option<&Units>,
        (share, warp): (&Share, Val<'c>),
        first: &impl Fn(KAxis) -> Option<Val<'c>>,
    ) {
        let spot = self.spot(site.e, share, warp, first);
        let before = begun.map(|begun| {
            let sums = begun.sums_at(site, &spot);
            (&begun.product.stmt.target, begun.each(site, &spot, &mut |site, at| begun.made(site, sums[at])))
        });
        let sums = self.sums_at(site, &spot);
        // All that is read ahead of all that is stored, which could be in its way.
        let made: Vec<Val> = self.each(site, &spot, &mut |site, at| {
            site.fresh.extend(before.iter().map(|(view, numbers)| ((*view).clone(), numbers[at])));
            let made = self.made(site, sums[at]);
            site.fresh.clear();
            made
        });
        self.store(site, &spot, &self.product.stmt.target, &made);
        for (view, expr) in self.product.stmt.beside() {
            let also: Vec<Val> = self.each(site, &spot, &mut |site, at| self.also(site, expr, made[at]));
            self.store(site, &spot, view, &also);
        }
    }

    /// What else is stored of an element.
    pub fn also<'c>(&self, site: &mut Site<'_, 'c>, expr: &Expr, made: Val<'c>) -> Val<'c> {
        site.fresh.push((self.product.stmt.target.clone(), made));
        let also = value(site, expr);
        site.fresh.clear();
        also
    }

    /// Where the warp's share is.
    pub fn spot<'c>(&self, e: &Emitter<'c>, share: &Share, warp: Val<'c>, first: &impl Fn(KAxis) -> Option<Val<'c>>) -> Spot<'c> {
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let along = [e.div(warp, e.i32(share.warps[1] as i32)), e.rem(warp, e.i32(share.warps[1] as i32))];
        let own = |n: usize| {
            let begin = e.to_i64(e.mul(along[n], e.i32((share.fragments[n] * FRAGMENT[n]) as i32)));
            first(self.product.axes[n]).map_or(begin, |first| e.add(first, begin))
        };
        Spot { begin: [own(0), own(1)], fragments: share.fragments, lane }
    }

    /// The warp's sums.
    pub fn sums_at<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>) -> Vec<Val<'c>> {
        let e = site.e;
        let factors = self.factors(spot.fragments);
        let places = [0, 1].map(|n| {
            let [along, deep] = factors[n].places(e, spot.lane);
            site.index.insert(self.product.axes[n], e.add(spot.begin[n], e.to_i64(along)));
            site.index.insert(self.product.axes[2], e.to_i64(deep));
            site.address([self.product.left, self.product.right][n])
        });
        self.sums(e, spot.fragments, (factors, places))
    }

    /// Does `what` at the indices of each of the lane's numbers; it is told which. A lane has two neighbours of each of two rows of a fragment.
    pub fn each<'c, T>(
        &self,
        site: &mut Site<'_, 'c>,
        spot: &Spot<'c>,
        what: &mut dyn FnMut(&mut Site<'_, 'c>, usize) -> T,
    ) -> Vec<T> {
        let mut one = |at| {
            spot.stand(site, self.product.axes, at);
            what(site, at)
        };
        (0..4 * spot.fragments[0] * spot.fragments[1]).map(&mut one).collect()
    }

    /// Stores the lane's numbers.
    pub fn store<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>, target: &View, numbers: &[Val<'c>]) {
        let e = site.e;
        let side_by_side = self.lies_by(site, target, 2);
        let far = site.tensor(target).base == Base::Arena && site.store_of(target) == Store::Bf16;
        if far && self.lies_by(site, target, EIGHT) && spot.fragments[1].is_multiple_of(2) {
            return self.store_eights(site, spot, target, numbers);
        }
        for (at, pair) in numbers.chunks_exact(2).enumerate() {
            for (own, number) in pair.iter().enumerate().filter(|(own, _)| *own == 0 || !side_by_side) {
                spot.stand(site, self.product.axes, 2 * at + own);
                match (side_by_side, site.store_of(target)) {
                    (false, _) => store(site, target, *number),
                    (true, Store::Bf16) => e.store_aligned(site.address(target), e.pack_bf16(pair[0], pair[1])),
                    (true, _) => {
                        let both = e.insert(e.insert(e.poison(Ty::f32(2)), 0, pair[0]), 1, pair[1]);
                        e.store_aligned(site.address(target), both);
                    }
                }
            }
        }
    }

    /// Whether neighbours along a row lie side by side in a view, from multiples of so many on.
    pub fn lies_by(&self, site: &Site<'_, '_>, view: &View, by: usize) -> bool {
        let axis = self.product.axes[1];
        let others = view.strides.iter().all(|(own, stride)| *own == axis || stride.is_multiple_of(by));
        view.stride(axis) == 1 && others && view.offset.is_multiple_of(by) && site.row_elements(view).is_multiple_of(by)
    }

    /// The same where the four lanes of a row each store eight neighbours of one of two rows: pairs change places between them.
    fn store_eights<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>, target: &View, numbers: &[Val<'c>]) {
        let e = site.e;
        let own = e.and(spot.lane, e.i32(3));
        let is_odd = |bit: i32| e.cmp(Cmp::Ne, e.and(own, e.i32(bit)), e.i32(0));
        for (at, both) in numbers.chunks_exact(8).enumerate() {
            // Of two fragments side by side: each of both in the first row, then in the second.
            let pair =
                |half: usize, fragment: usize| e.pack_bf16(both[4 * fragment + 2 * half], both[4 * fragment + 2 * half + 1]);
            let mut words = [pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1)];
            for (by, swapped) in [(1, [[0, 1], [2, 3]]), (2, [[0, 2], [1, 3]])] {
                let odd = is_odd(by);
                for [low, high] in swapped {
                    let come = e.exchange(e.select(odd, words[low], words[high]), by as usize);
                    words[low] = e.select(odd, come, words[low]);
                    words[high] = e.select(odd, words[high], come);
                }
            }
            let (x, y) = (2 * at / spot.fragments[1], 2 * at % spot.fragments[1]);
            let group = e.add(e.shift_right(spot.lane, 2), e.shift_left(e.and(own, e.i32(2)), 2));
            let column = e.shift_left(e.and(own, e.i32(1)), 3);
            let [rows, columns, _] = self.product.axes;
            site.index.insert(rows, e.add(spot.begin[0], e.add(e.to_i64(group), e.i64(FRAGMENT[0] * x))));
            site.index.insert(columns, e.add(spot.begin[1], e.add(e.to_i64(column), e.i64(FRAGMENT[1] * y))));
            let all = words.into_iter().enumerate().fold(e.poison(Ty::i32(4)), |all, (at, word)| e.insert(all, at, word));
            e.store_aligned(site.address(target), all);
        }
    }

    /// What becomes of a sum.
    pub fn made<'c>(&self, site: &mut Site<'_, 'c>, sum: Val<'c>) -> Val<'c> {
        let reduction = self.product.stmt.reduce.as_ref();
        let start = reduction.and_then(|reduction| reduction.start.as_ref());
        let mut made = start.map_or(sum, |start| site.e.add(value(site, start), sum));
        if let Some((total, expr)) = reduction.and_then(|reduction| reduction.epilogue.as_deref()) {
            site.fresh.push((total.clone(), made));
            made = value(site, expr);
            site.fresh.clear();
        }
        made
    }

    /// The warp's sums, four of a lane in each fragment.
    fn sums<'c>(&self, e: &Emitter<'c>, [x, y]: [usize; 2], (factors, start): ([Factor; 2], [Val<'c>; 2])) -> Vec<Val<'c>> {
        let taken = self.taken();
        let deep = if taken == Taken::Pairs { PAIRS_DEPTH } else { FRAGMENT[2] };
        let steps = self.product.sizes[2] / deep;
        let (sums, each) = (Sums::of(taken, x * y), 4 * x + 2 * y);
        let in_loop = steps * each > WITHOUT_LOOP;
        let whole = (1..=AHEAD).rev().filter(|n| steps.is_multiple_of(*n));
        // In a loop, what comes next is kept beside what is at hand.
        let kept = whole.clone().find(|n| 2 * n * each + sums.count() <= KEPT).filter(|_| in_loop);
        let fits = whole.clone().find(|n| n * each + sums.count() <= KEPT + each);
        let ahead = kept.or(fits).unwrap_or(1);
        let loads = |places: [Val<'c>; 2]| -> Vec<Loaded<'c>> {
            (0..ahead).map(|step| Loaded::of(e, (&factors, places), [x, y], step * deep)).collect()
        };
        let place = |depth: Val<'c>| [0, 1].map(|n| factors[n].deeper(e, start[n], depth));
        let zeros = vec![e.f32(0.0); sums.count()];
        let add = |loaded: &[Loaded<'c>], numbers: &mut [Val<'c>]| {
            loaded.iter().enumerate().for_each(|(step, loaded)| sums.add(e, loaded, (step, y), numbers));
        };
        if in_loop {
            let (size, by) = (self.product.sizes[2], ahead * deep);
            let first = if kept.is_some() { loads(start) } else { vec![] };
            let start: Vec<Val> = zeros.into_iter().chain(first.iter().flat_map(Loaded::numbers)).collect();
            let numbers = e.for_loop(e.i64(0), e.i64(size), e.i64(by), &start, |depth, state| {
                let (numbers, own) = state.split_at(sums.count());
                let mut numbers = numbers.to_vec();
                if kept.is_none() {
                    add(&loads(place(depth)), &mut numbers);
                    return numbers;
                }
                // Behind the end the last ones are loaded again.
                let next = loads(place(e.min(e.add(depth, e.i64(by)), e.i64(size - by))));
                let own: Vec<Loaded> = own.chunks_exact(each).map(|own| Loaded::again(own, x)).collect();
                add(&own, &mut numbers);
                numbers.into_iter().chain(next.iter().flat_map(Loaded::numbers)).collect()
            });
            return sums.joined(e, &numbers[..sums.count()]);
        }
        // What is multiplied next is loaded meanwhile.
        let mut numbers = zeros;
        let mut next = loads(start);
        for turn in 1..=steps / ahead {
            let more = if turn * ahead < steps { loads(place(e.i64(turn * ahead * deep))) } else { vec![] };
            add(&std::mem::replace(&mut next, more), &mut numbers);
        }
        sums.joined(e, &numbers)
    }
}
