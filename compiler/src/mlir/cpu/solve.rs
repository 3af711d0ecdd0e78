//! Systems of linear equations: Gaussian elimination with row pivots, in place. Rows are walked in vectors.

use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{Stmt, System};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Solves the systems of a statement, one for each index of `axes`, with vectors of so many lanes.
pub fn emit(site: &mut Site, axes: &[KAxis], sizes: &[usize], of: (&Stmt, &System, usize)) {
    let Some((axis, inner)) = axes.split_first() else { return Work::new(site, of).run() };
    let e = site.e;
    for_each(e, e.i64(0), e.i64(sizes[axis.0]), e.i64(1), |at| {
        site.index.insert(*axis, at);
        emit(site, inner, sizes, of);
    });
}

/// One system: `n` rows of `n` coefficients, each with `m` right sides.
struct Work<'k, 'c> {
    e: &'k Emitter<'c>,
    matrix: Val<'c>,
    right: Val<'c>,
    n: usize,
    m: usize,
    lanes: usize,
}

impl<'k, 'c> Work<'k, 'c> {
    fn new(site: &Site<'k, 'c>, (stmt, system, lanes): (&Stmt, &System, usize)) -> Self {
        let first = |view: &View| {
            let mut view = view.clone();
            view.strides.retain(|(axis, _)| !system.inside.contains(axis));
            site.address(&view)
        };
        let matrix = stmt.expr.views().first().map_or_else(|| site.e.null(), |view| first(view));
        Work { e: site.e, matrix, right: first(&stmt.target), n: system.size, m: system.sides, lanes }
    }

    /// Where row `at` of a table of rows of `width` numbers begins.
    fn row(&self, table: Val<'c>, at: Val<'c>, width: usize) -> Val<'c> {
        self.e.offset(table, self.e.mul(at, self.e.i64(width * 4)))
    }

    fn coefficient(&self, row: Val<'c>, column: Val<'c>) -> Val<'c> {
        self.e.offset(self.row(self.matrix, row, self.n), self.e.mul(column, self.e.i64(4)))
    }

    fn number(&self, place: Val<'c>) -> Val<'c> {
        self.e.load(place, Ty::F32)
    }

    fn run(&self) {
        let e = self.e;
        let (zero, one, n) = (e.i64(0), e.i64(1), e.i64(self.n));
        for_each(e, zero, n, one, |p| {
            self.pivot(p);
            let inverse = e.div(e.f32(1.0), self.number(self.coefficient(p, p)));
            for_each(e, e.add(p, one), n, one, |r| {
                let factor = e.neg(e.mul(self.number(self.coefficient(r, p)), inverse));
                // What stands before the pivot is done with.
                let before = e.mul(e.div(p, e.i64(self.lanes)), e.i64(self.lanes));
                self.add((self.matrix, self.n, before), r, p, factor);
                self.add((self.right, self.m, zero), r, p, factor);
            });
        });
        for_each(e, zero, n, one, |i| {
            let r = e.sub(e.i64(self.n - 1), i);
            for_each(e, e.add(r, one), n, one, |c| {
                let factor = e.neg(self.number(self.coefficient(r, c)));
                self.add((self.right, self.m, zero), r, c, factor);
            });
            let inverse = e.div(e.f32(1.0), self.number(self.coefficient(r, r)));
            self.in_vectors(self.m, zero, |at, lanes, mask| {
                let place = e.offset(self.row(self.right, r, self.m), e.mul(at, e.i64(4)));
                self.put(place, mask, e.mul(self.get(place, lanes, mask), e.splat(inverse, lanes)));
            });
        });
    }

    /// Brings the row with the largest coefficient in column `p` up to row `p`.
    fn pivot(&self, p: Val<'c>) {
        let e = self.e;
        let size = |row| e.abs(self.number(self.coefficient(row, p)));
        let best = e.for_loop(e.add(p, e.i64(1)), e.i64(self.n), e.i64(1), &[size(p), p], |row, best| {
            let own = size(row);
            let more = e.cmp(Cmp::Gt, own, best[0]);
            vec![e.select(more, own, best[0]), e.select(more, row, best[1])]
        });
        e.if_then(e.cmp(Cmp::Ne, best[1], p), || {
            for (table, width) in [(self.matrix, self.n), (self.right, self.m)] {
                self.in_vectors(width, e.i64(0), |at, lanes, mask| {
                    let place = |row| e.offset(self.row(table, row, width), e.mul(at, e.i64(4)));
                    let (a, b) = (place(p), place(best[1]));
                    let (x, y) = (self.get(a, lanes, mask), self.get(b, lanes, mask));
                    self.put(a, mask, y);
                    self.put(b, mask, x);
                });
            }
        });
    }

    /// Row `to` plus `factor` times row `from`, from column `first` on.
    fn add(&self, (table, width, first): (Val<'c>, usize, Val<'c>), to: Val<'c>, from: Val<'c>, factor: Val<'c>) {
        let e = self.e;
        self.in_vectors(width, first, |at, lanes, mask| {
            let place = |row| e.offset(self.row(table, row, width), e.mul(at, e.i64(4)));
            let (to, from) = (place(to), place(from));
            let sum = e.fma(e.splat(factor, lanes), self.get(from, lanes, mask), self.get(to, lanes, mask));
            self.put(to, mask, sum);
        });
    }

    /// Walks the numbers from `first` to `width` in vectors; the last may be a part of one.
    fn in_vectors(&self, width: usize, first: Val<'c>, body: impl Fn(Val<'c>, usize, Option<Val<'c>>)) {
        let e = self.e;
        if width == 1 {
            return body(e.i64(0), 1, None);
        }
        let (whole, left) = (width / self.lanes * self.lanes, width % self.lanes);
        if whole > 0 {
            for_each(e, first, e.i64(whole), e.i64(self.lanes), |at| body(at, self.lanes, None));
        }
        if left > 0 {
            body(e.i64(whole), self.lanes, Some(e.mask(self.lanes, e.i64(left))));
        }
    }

    fn get(&self, place: Val<'c>, lanes: usize, mask: Option<Val<'c>>) -> Val<'c> {
        match mask {
            Some(mask) => self.e.load_masked(place, mask, Ty::f32(lanes)),
            None => self.e.load(place, Ty::f32(lanes)),
        }
    }

    fn put(&self, place: Val<'c>, mask: Option<Val<'c>>, value: Val<'c>) {
        match mask {
            Some(mask) => self.e.store_masked(place, mask, value),
            None => self.e.store(place, value),
        }
    }
}
