//! Sums of products inside a chunk, on the matrix units: all warps of a block share the result; operands come from where they lie.
//!
//! Unless it may be rounded, a number of single precision goes in two parts, as the units take its first bits only: what they take, and
//! the rest. Products of two rests are below what single precision holds.

use super::WARPS;
use crate::fuse::expr::KAxis;
use crate::fuse::product::{FRAGMENT, Product, SEVERAL};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Elem, Emitter, Ty, Val};

/// Sums of a fragment that do not wait for one another: of what the units take, and of the rests.
const CHAINS: usize = 2;
/// Sums of few fragments that take turns.
const TURNS: usize = 4;
/// Instructions whose operands are loaded together.
const AHEAD: usize = 4;
/// Most numbers of a lane that a loop's turn has and keeps.
const KEPT: usize = 96;
/// Most numbers that a lane loads for a product without a loop.
const WITHOUT_LOOP: usize = 128;

/// Each product that is done beside others has a warp.
const _: () = assert!(SEVERAL <= WARPS);

/// How warps share a result: warps along rows and columns, and fragments of each.
struct Share {
    warps: [usize; 2],
    fragments: [usize; 2],
}

/// A product to be emitted.
pub struct Units<'n> {
    /// Which.
    pub product: Product<'n>,
    /// Whether factors may be rounded to what the units take.
    pub rounded: bool,
}

impl Units<'_> {
    /// The way to share the result that loads least.
    fn share(&self) -> Share {
        let [rows, columns] = [0, 1].map(|n| self.product.sizes[n] / FRAGMENT[n]);
        let ways =
            (0..=(WARPS / self.several()).ilog2()).flat_map(|bits| (0..=bits).map(move |own| [1 << own, 1 << (bits - own)]));
        let fits = |warps: &[usize; 2]| rows.is_multiple_of(warps[0]) && columns.is_multiple_of(warps[1]);
        // A fragment on the left is twice one on the right; products of a warp take as long as its loads.
        let cost = |[x, y]: &[usize; 2]| 2 * (rows / x) + columns / y + (rows / x) * (columns / y);
        let warps = ways.filter(fits).min_by_key(cost).unwrap_or([1, 1]);
        Share { warps, fragments: [rows / warps[0], columns / warps[1]] }
    }

    /// Products that are done side by side.
    fn several(&self) -> usize {
        self.product.several.map_or(1, |(_, count)| count)
    }

    /// Emits it for the site's row and place of the grid. `first`: where the task's indices of an axis begin.
    pub fn emit<'c>(&self, site: &mut Site<'_, 'c>, first: impl Fn(KAxis) -> Option<Val<'c>>) {
        let e = site.e;
        let share = self.share();
        let warp = e.shift_right(e.thread(), i64::from(WARP.ilog2()));
        let each = share.warps[0] * share.warps[1];
        let used = each * self.several();
        let mut all = || match self.product.several {
            None => self.of_warp(site, &share, warp, &first),
            Some((axis, _)) => {
                site.index.insert(axis, e.to_i64(e.div(warp, e.i32(each as i32))));
                self.of_warp(site, &share, e.rem(warp, e.i32(each as i32)), &first);
            }
        };
        if used == WARPS { all() } else { e.if_then(e.cmp(Cmp::Lt, warp, e.i32(used as i32)), all) }
    }

    fn of_warp<'c>(&self, site: &mut Site<'_, 'c>, share: &Share, warp: Val<'c>, first: &impl Fn(KAxis) -> Option<Val<'c>>) {
        let e = site.e;
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let (group, within) = (e.shift_right(lane, 2), e.and(lane, e.i32(3)));
        let along = [e.div(warp, e.i32(share.warps[1] as i32)), e.rem(warp, e.i32(share.warps[1] as i32))];
        let begin = [0, 1].map(|n| e.mul(along[n], e.i32((share.fragments[n] * FRAGMENT[n]) as i32)));
        let index = |axis: KAxis, own: Val<'c>| match first(axis) {
            Some(first) => e.add(first, e.to_i64(own)),
            None => e.to_i64(own),
        };
        let [rows, columns, depth] = self.product.axes;
        site.index.insert(depth, e.to_i64(within));
        site.index.insert(rows, index(rows, e.add(begin[0], group)));
        site.index.insert(columns, index(columns, e.add(begin[1], group)));
        let places = (site.address(self.product.left), site.address(self.product.right));
        let sums = self.sums(e, share, places);
        let pair = e.shift_left(within, 1);
        // A lane has two neighbours of each of two rows of a fragment.
        for (at, sums) in sums.chunks_exact(2).enumerate() {
            let (x, y, half) = (at / 2 / share.fragments[1], at / 2 % share.fragments[1], at % 2);
            let row = e.add(e.add(begin[0], group), e.i32((FRAGMENT[0] * x + 8 * half) as i32));
            let column = e.add(e.add(begin[1], pair), e.i32((FRAGMENT[1] * y) as i32));
            site.index.insert(rows, index(rows, row));
            self.leave(site, columns, index(columns, column), [sums[0], sums[1]]);
        }
    }

    /// Leaves the sums of two neighbours along an axis, the first of which has an index.
    fn leave<'c>(&self, site: &mut Site<'_, 'c>, axis: KAxis, first: Val<'c>, sums: [Val<'c>; 2]) {
        let (e, target) = (site.e, &self.product.stmt.target);
        let whole = |elements: usize| elements.is_multiple_of(2);
        let others = target.strides.iter().all(|(own, stride)| *own == axis || whole(*stride));
        let side_by_side = target.stride(axis) == 1 && others && whole(target.offset) && whole(site.row_elements(target));
        let places = [first, e.add(first, e.i64(1))];
        let made = [0, 1].map(|at| {
            site.index.insert(axis, places[at]);
            let made = self.made(site, sums[at]);
            if !side_by_side {
                store(site, target, made);
            }
            made
        });
        if side_by_side {
            site.index.insert(axis, first);
            let both = e.insert(e.insert(e.poison(Ty::f32(2)), 0, made[0]), 1, made[1]);
            e.store_aligned(site.address(target), both);
        }
    }

    /// What becomes of a sum.
    fn made<'c>(&self, site: &mut Site<'_, 'c>, sum: Val<'c>) -> Val<'c> {
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
    fn sums<'c>(&self, e: &Emitter<'c>, share: &Share, (left, right): (Val<'c>, Val<'c>)) -> Vec<Val<'c>> {
        let [x, y] = share.fragments;
        let steps = self.product.sizes[2] / FRAGMENT[2];
        let (sums, each) = (Sums::of(self.rounded, x * y), 4 * x + 2 * y);
        let in_loop = steps * each > WITHOUT_LOOP;
        let whole = (1..=AHEAD).rev().filter(|n| steps.is_multiple_of(*n));
        // In a loop, what comes next is kept beside what is at hand.
        let kept = whole.clone().find(|n| 2 * n * each + sums.count() <= KEPT).filter(|_| in_loop);
        let fits = whole.clone().find(|n| n * each + sums.count() <= KEPT + each);
        let ahead = kept.or(fits).unwrap_or(1);
        let strides = [(self.product.left, 0), (self.product.right, 1)]
            .map(|(view, n)| [view.stride(self.product.axes[n]), view.stride(self.product.axes[2])]);
        let loads = |place: (Val<'c>, Val<'c>)| -> Vec<Loaded<'c>> {
            (0..ahead).map(|step| Loaded::of(e, place, strides, share.fragments, step * FRAGMENT[2])).collect()
        };
        let place = |depth: Val<'c>| {
            let one = |base, own: [usize; 2]| e.offset(base, e.mul(depth, e.i64(4 * own[1])));
            (one(left, strides[0]), one(right, strides[1]))
        };
        let start = vec![e.f32(0.0); sums.count()];
        let add = |loaded: &[Loaded<'c>], numbers: &mut [Val<'c>]| {
            loaded.iter().enumerate().for_each(|(step, loaded)| sums.add(e, loaded, (step, y), numbers));
        };
        if in_loop {
            let (size, by) = (self.product.sizes[2], ahead * FRAGMENT[2]);
            let first = if kept.is_some() { loads((left, right)) } else { vec![] };
            let start: Vec<Val> = start.into_iter().chain(first.iter().flat_map(Loaded::numbers)).collect();
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
        let mut numbers = start;
        let mut next = loads((left, right));
        for turn in 1..=steps / ahead {
            let more = if turn * ahead < steps { loads(place(e.i64(turn * ahead * FRAGMENT[2]))) } else { vec![] };
            add(&std::mem::replace(&mut next, more), &mut numbers);
        }
        sums.joined(e, &numbers)
    }
}

/// Numbers of a warp's fragments that one instruction each multiplies: of rows and of columns.
struct Loaded<'c> {
    rows: Vec<[Val<'c>; 4]>,
    columns: Vec<[Val<'c>; 2]>,
}

impl<'c> Loaded<'c> {
    /// Begins to load them, from a depth on.
    fn of(e: &Emitter<'c>, (left, right): (Val<'c>, Val<'c>), strides: [[usize; 2]; 2], [x, y]: [usize; 2], deep: usize) -> Self {
        let load = |base, own: [usize; 2], along: usize, deep: usize| {
            e.load(e.offset_by(base, 4 * (along * own[0] + deep * own[1])), Ty::F32)
        };
        let of_row = |n: usize| [0, 1, 2, 3].map(|p| load(left, strides[0], 16 * n + 8 * (p % 2), deep + 4 * (p / 2)));
        let of_column = |n: usize| [0, 1].map(|p| load(right, strides[1], 8 * n, deep + 4 * p));
        Loaded { rows: (0..x).map(of_row).collect(), columns: (0..y).map(of_column).collect() }
    }

    fn numbers(&self) -> Vec<Val<'c>> {
        self.rows.iter().flatten().chain(self.columns.iter().flatten()).copied().collect()
    }

    /// From its numbers, with so many fragments of rows.
    fn again(numbers: &[Val<'c>], x: usize) -> Self {
        let (rows, columns) = numbers.split_at(4 * x);
        let rows = rows.chunks_exact(4).map(|own| [own[0], own[1], own[2], own[3]]).collect();
        Loaded { rows, columns: columns.chunks_exact(2).map(|own| [own[0], own[1]]).collect() }
    }
}

/// A warp's sums, of which several that do not wait for one another make one where there are few fragments.
struct Sums {
    rounded: bool,
    /// Fragments, sums of each that take turns, and what each is made of.
    fragments: usize,
    turns: usize,
    chains: usize,
}

impl Sums {
    fn of(rounded: bool, fragments: usize) -> Sums {
        let turns = if fragments < TURNS { TURNS / fragments.next_power_of_two() } else { 1 };
        Sums { rounded, fragments, turns, chains: if rounded { 1 } else { CHAINS } }
    }

    /// How many numbers of a lane they are.
    fn count(&self) -> usize {
        4 * self.fragments * self.turns * self.chains
    }

    /// Adds the products of step `step`; `columns`: fragments along columns.
    fn add<'c>(&self, e: &Emitter<'c>, loaded: &Loaded<'c>, (step, columns): (usize, usize), numbers: &mut [Val<'c>]) {
        let parts = |value: &Val<'c>| Halves::of(e, self.rounded, *value);
        let rows: Vec<[Halves; 4]> = loaded.rows.iter().map(|own| own.each_ref().map(parts)).collect();
        let others: Vec<[Halves; 2]> = loaded.columns.iter().map(|own| own.each_ref().map(parts)).collect();
        let own = self.count() / self.turns;
        let numbers = &mut numbers[step % self.turns * own..][..own];
        for (at, own) in numbers.chunks_exact_mut(4 * self.chains).enumerate() {
            multiply(e, &rows[at / columns], &others[at % columns], own);
        }
    }

    /// Four numbers of a lane for each fragment.
    fn joined<'c>(&self, e: &Emitter<'c>, numbers: &[Val<'c>]) -> Vec<Val<'c>> {
        let number = |fragment: usize, n: usize| {
            let parts = (0..self.turns * self.chains).map(|at| {
                let (turn, chain) = (at / self.chains, at % self.chains);
                numbers[4 * ((turn * self.fragments + fragment) * self.chains + chain) + n]
            });
            parts.reduce(|sum, part| e.add(sum, part)).unwrap_or_else(|| e.f32(0.0))
        };
        (0..self.fragments).flat_map(|fragment| [0, 1, 2, 3].map(|n| number(fragment, n))).collect()
    }
}

/// A number as the matrix units take it, and the rest, if it counts.
#[derive(Clone, Copy)]
struct Halves<'c> {
    high: Val<'c>,
    low: Option<Val<'c>>,
}

impl<'c> Halves<'c> {
    fn of(e: &Emitter<'c>, rounded: bool, value: Val<'c>) -> Halves<'c> {
        if rounded {
            return Halves { high: e.round_tf32(value), low: None };
        }
        // The units drop the last bits.
        let high = e.bitcast(e.and(e.bitcast(value, Elem::I32), e.i32(!0x1FFF)), Elem::F32);
        Halves { high, low: Some(e.sub(value, high)) }
    }
}

/// Adds a fragment's products: those of what the units take, and those of the rests.
fn multiply<'c>(e: &Emitter<'c>, left: &[Halves<'c>; 4], right: &[Halves<'c>; 2], sums: &mut [Val<'c>]) {
    let (first, second) = sums.split_at_mut(4);
    let add = |left, right, sums: &mut [Val<'c>]| {
        let made = e.multiply_singles(left, right, [sums[0], sums[1], sums[2], sums[3]]);
        sums.copy_from_slice(&made);
    };
    let rest = |part: Halves<'c>| part.low.unwrap_or(part.high);
    let has_rests = left[0].low.is_some();
    if has_rests {
        add(left.map(rest), right.map(|part| part.high), second);
    }
    add(left.map(|part| part.high), right.map(|part| part.high), first);
    if has_rests {
        add(left.map(|part| part.high), right.map(rest), second);
    }
}
