//! Lanes: counting, masks, picking, reductions.

use melior::ir::Attribute;
use melior::ir::attribute::{DenseElementsAttribute, DenseI64ArrayAttribute};

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::ty::Ty;

impl<'c> Emitter<'c> {
    /// 0, 1, 2 … in `i32` lanes.
    pub fn iota(&self, lanes: usize) -> Val<'c> {
        if lanes == 1 {
            return self.i32(0);
        }
        let ty = Ty::i32(lanes);
        let numbers: Vec<i32> = (0..lanes as i32).collect();
        let value: Attribute<'c> = DenseElementsAttribute::i32_values(ty.to_mlir(self.cx()), &numbers).into();
        self.op("arith.constant", &[], &[("value", value)], ty)
    }

    /// True in the first `count` (any `i64`) of `lanes` lanes.
    pub fn mask(&self, lanes: usize, count: Val<'c>) -> Val<'c> {
        let count = self.max(self.min(count, self.i64(lanes)), self.i64(0));
        self.cmp(Cmp::Lt, self.iota(lanes), self.to_i32(count))
    }

    /// Lane `index` as a scalar.
    pub fn extract(&self, value: Val<'c>, index: usize) -> Val<'c> {
        if value.lanes() == 1 {
            return value;
        }
        let at = DenseI64ArrayAttribute::new(self.cx(), &[index as i64]).into();
        self.op("vector.extract", &[value], &[("static_position", at)], Ty::scalar(value.elem()))
    }

    /// `value` with lane `index` replaced.
    pub fn insert(&self, value: Val<'c>, index: usize, lane: Val<'c>) -> Val<'c> {
        if value.lanes() == 1 {
            return lane;
        }
        let at = DenseI64ArrayAttribute::new(self.cx(), &[index as i64]).into();
        self.op("vector.insert", &[lane, value], &[("static_position", at)], value.ty())
    }

    /// Lanes of `a` and then `b` by number.
    pub fn shuffle(&self, a: Val<'c>, b: Val<'c>, lanes: &[i64]) -> Val<'c> {
        let mask = DenseI64ArrayAttribute::new(self.cx(), lanes).into();
        let all = a.lanes() as i64;
        if a.lanes() == 1 || lanes.len() == 1 {
            let picked =
                lanes.iter().map(|&i| if i < all { self.extract(a, i as usize) } else { self.extract(b, (i - all) as usize) });
            let ty = Ty::vector(a.elem(), lanes.len());
            return picked.enumerate().fold(self.poison(ty), |v, (i, lane)| self.insert(v, i, lane));
        }
        self.op("vector.shuffle", &[a, b], &[("mask", mask)], Ty::vector(a.elem(), lanes.len()))
    }

    /// Lanes `start .. start + count`.
    pub fn slice(&self, a: Val<'c>, start: usize, count: usize) -> Val<'c> {
        let lanes: Vec<i64> = (start as i64..(start + count) as i64).collect();
        if count == a.lanes() { a } else { self.shuffle(a, a, &lanes) }
    }

    /// The lanes of `a`, and those of `b` behind them.
    pub fn beside(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let lanes: Vec<i64> = (0..(a.lanes() + b.lanes()) as i64).collect();
        self.shuffle(a, b, &lanes)
    }

    /// The lanes of all, one vector behind the other.
    pub fn joined(&self, parts: &[Val<'c>]) -> Val<'c> {
        parts[1..].iter().fold(parts[0], |whole, part| self.beside(whole, *part))
    }

    /// Folds all lanes by halves, always in the same order.
    fn fold_lanes(&self, mut v: Val<'c>, combine: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
        while v.lanes() > 1 {
            let half = v.lanes() / 2;
            let low = self.slice(v, 0, half);
            let high = self.slice(v, half, half);
            let both = combine(low, high);
            v = match v.lanes() % 2 {
                0 => both,
                _ => {
                    let last = self.extract(v, v.lanes() - 1);
                    self.insert(both, 0, combine(self.extract(both, 0), last))
                }
            };
        }
        v
    }

    /// The sum of each vector's lanes, side by side. As many vectors as a power of two that is at most their lanes.
    pub fn reduce_add_each(&self, vectors: &[Val<'c>]) -> Val<'c> {
        self.fold_each(vectors, |a, b| self.add(a, b))
    }

    /// The largest of each vector's lanes, side by side, in the same way.
    pub fn reduce_max_each(&self, vectors: &[Val<'c>]) -> Val<'c> {
        self.fold_each(vectors, |a, b| self.max(a, b))
    }

    fn fold_each(&self, vectors: &[Val<'c>], combine: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
        let lanes = vectors[0].lanes() as i64;
        let mut level: Vec<Val<'c>> = vectors.to_vec();
        let mut run = 1;
        while level.len() > 1 {
            // Halves of each run of lanes are combined while two vectors become one.
            let part = |offset: i64| -> Vec<i64> {
                let starts = (0..lanes).step_by(2 * run as usize);
                starts.flat_map(|at| [at + offset, lanes + at + offset]).flat_map(|at| at..at + run).collect()
            };
            let (low, high) = (part(0), part(run));
            let join = |pair: &[Val<'c>]| combine(self.shuffle(pair[0], pair[1], &low), self.shuffle(pair[0], pair[1], &high));
            level = level.chunks(2).map(join).collect();
            run *= 2;
        }
        let mut one = level[0];
        while one.lanes() > vectors.len() {
            let half = one.lanes() / 2;
            one = combine(self.slice(one, 0, half), self.slice(one, half, half));
        }
        one
    }

    /// Scalars as the lanes of a vector; the last one stands for those up to the next power of two.
    pub fn packed(&self, scalars: &[Val<'c>]) -> Val<'c> {
        let lanes = scalars.len().next_power_of_two();
        if lanes == 1 {
            return scalars[0];
        }
        let start = self.splat(scalars[scalars.len() - 1], lanes);
        scalars[..scalars.len() - 1].iter().enumerate().fold(start, |whole, (at, lane)| self.insert(whole, at, *lane))
    }

    /// The sum of all lanes.
    pub fn reduce_add(&self, v: Val<'c>) -> Val<'c> {
        self.fold_lanes(v, |a, b| self.add(a, b))
    }

    /// The largest lane.
    pub fn reduce_max(&self, v: Val<'c>) -> Val<'c> {
        self.fold_lanes(v, |a, b| self.max(a, b))
    }

    /// The smallest lane.
    pub fn reduce_min(&self, v: Val<'c>) -> Val<'c> {
        self.fold_lanes(v, |a, b| self.min(a, b))
    }

    /// Whether any lane of truth values is true.
    pub fn any(&self, v: Val<'c>) -> Val<'c> {
        match v.lanes() {
            1 => v,
            // One comparison of the mask's bits.
            n if n % 8 == 0 => self.op("vector.reduction", &[v], &[("kind", self.attribute("#vector.kind<or>"))], Ty::BOOL),
            _ => self.fold_lanes(v, |a, b| self.or(a, b)),
        }
    }
}
