//! Factors of a chunk's products as the matrix units take them: numbers of single precision, or pairs of bfloat16 numbers. Matrices in
//! bfloat16 in shared memory are loaded as such, along either axis; all else number by number, and rounded if it has to be.

use crate::fuse::expr::View;
use crate::fuse::kernel::{Base, Store, Tensor};
use crate::mlir::common::{Elem, Emitter, Ty, Val};

/// Numbers of a matrix that are loaded at once, along each of its axes.
const MATRIX: usize = 8;

/// Which factor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one whose rows are those of the result.
    Left,
    /// The one whose columns are.
    Right,
}

/// How a lane's numbers are loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Numbers, each as one of single precision.
    Numbers,
    /// Neighbours along the depth, rounded to a pair; at once if they lie side by side.
    Pairs { together: bool },
    /// Matrices, four at once; turned if numbers lie side by side along the other axis than the depth.
    Matrices { turned: bool },
}

/// A factor that a warp has fragments of.
#[derive(Clone, Copy)]
pub struct Factor {
    side: Side,
    how: How,
    store: Store,
    /// Elements from one row of a fragment to the next, or from one column, and along the depth.
    strides: [usize; 2],
    /// Whether a load brings two fragments.
    two: bool,
}

impl Factor {
    /// A factor of `view`; `strides`: see the field. `pairs`: the units take bfloat16 numbers. `shared`: temporaries are in shared memory.
    /// `fragments`: how many a warp has.
    pub fn of(
        side: Side,
        (view, tensor): (&View, &Tensor),
        strides: [usize; 2],
        (pairs, shared): (bool, bool),
        fragments: usize,
    ) -> Factor {
        let whole = |by: usize| {
            let others = view.strides.iter().all(|(_, stride)| *stride == 1 || stride.is_multiple_of(by));
            others && view.offset.is_multiple_of(by) && tensor.row.is_multiple_of(by)
        };
        let matrices = shared && matches!(tensor.base, Base::Scratch(_)) && tensor.store == Store::Bf16 && whole(MATRIX);
        let how = match strides {
            _ if !pairs => How::Numbers,
            [_, 1] if matrices => How::Matrices { turned: false },
            [1, _] if matrices => How::Matrices { turned: true },
            [_, deep] => How::Pairs { together: tensor.store == Store::F32 && deep == 1 && whole(2) },
        };
        Factor { side, how, store: tensor.store, strides, two: side == Side::Right && fragments.is_multiple_of(2) }
    }

    /// Where a lane's first numbers are: along rows or columns, and along the depth.
    pub fn places<'c>(&self, e: &Emitter<'c>, lane: Val<'c>) -> [Val<'c>; 2] {
        let (group, within) = (e.shift_right(lane, 2), e.and(lane, e.i32(3)));
        let How::Matrices { turned } = self.how else {
            let pairs = self.how != How::Numbers;
            return [group, if pairs { e.shift_left(within, 1) } else { within }];
        };
        // Matrices follow one another along rows first on the left, along the depth first on the right.
        let (row, inner, outer) = (e.and(lane, e.i32(7)), e.and(lane, e.i32(8)), e.shift_left(e.shift_right(lane, 4), 3));
        let [along, deep] = match self.side {
            Side::Left => [inner, outer],
            Side::Right if self.two => [outer, inner],
            Side::Right => [e.i32(0), inner],
        };
        if turned { [along, e.add(deep, row)] } else { [e.add(along, row), deep] }
    }

    /// The place so much further along the depth.
    pub fn deeper<'c>(&self, e: &Emitter<'c>, place: Val<'c>, depth: Val<'c>) -> Val<'c> {
        e.offset(place, e.mul(depth, e.i64(self.store.bytes() * self.strides[1])))
    }

    /// Begins to load so many fragments of the lane, from a depth on.
    pub fn load<'c>(&self, e: &Emitter<'c>, place: Val<'c>, fragments: usize, deep: usize) -> Vec<Val<'c>> {
        let at = |along: usize, deep: usize| {
            e.offset_by(place, self.store.bytes() * (along * self.strides[0] + deep * self.strides[1]))
        };
        let (rows, parts) = match self.side {
            Side::Left => (16, 4),
            Side::Right => (8, 2),
        };
        if let How::Matrices { turned } = self.how {
            let each = if self.two { 2 } else { 1 };
            let load = |fragment: usize| {
                let place = at(rows * fragment, deep);
                let made = if turned { e.load_turned_fragments(place) } else { e.load_fragments(place) };
                made.into_iter().take(each * parts)
            };
            return (0..fragments).step_by(each).flat_map(load).collect();
        }
        // Of each part its row, or column, and its depth.
        let number = |fragment: usize, part: usize| {
            let (along, half) = if self.side == Side::Left { (8 * (part % 2), part / 2) } else { (0, part) };
            let step = if self.how == How::Numbers { 4 } else { 8 };
            (rows * fragment + along, deep + step * half)
        };
        let all = (0..fragments).flat_map(|fragment| (0..parts).map(move |part| (fragment, part)));
        let one = |(fragment, part)| {
            let (along, deep) = number(fragment, part);
            match self.how {
                How::Pairs { together: true } => {
                    let both = e.load_aligned(at(along, deep), Ty::f32(2));
                    e.pack_bf16(e.extract(both, 0), e.extract(both, 1))
                }
                How::Pairs { .. } => e.pack_bf16(self.number(e, at(along, deep)), self.number(e, at(along, deep + 1))),
                _ => self.number(e, at(along, deep)),
            }
        };
        all.map(one).collect()
    }

    fn number<'c>(&self, e: &Emitter<'c>, place: Val<'c>) -> Val<'c> {
        if self.store == Store::Bf16 { e.load_bf16(place, 1) } else { e.load(place, Ty::scalar(Elem::F32)) }
    }
}
