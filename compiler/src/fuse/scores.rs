//! What rows of a chunk see of the keys before them where these decay by powers of e: exponents are differences of running sums, so that
//! blocks of rows meet blocks of keys at an anchor between the two, in products of matrices.
//!
//! From the anchor on reads decay, up to it keys do: no power is above one, whatever the gates are. Blocks on the diagonal go in tiles, which
//! meet in the same way, but for those on the diagonal again, which have no anchor between their rows and keys: there each pair has a power of
//! its own.

use super::exponents::{Sums, power, two};
use super::expr::{Expr, KAxis, View, ViewStep};
use super::factors::times;
use super::halves::{Half, Halves, Level, Scored, load};
use super::kernel::{Below, Reduction, Stmt};
use super::nest::{Builder, Item};
use super::product::{FRAGMENT, TILE};
use braid_dsl::model::{Binary, Reduce};

/// Rows of a block on the diagonal: the fewest that matrix units multiply.
pub(super) const BLOCK: usize = FRAGMENT[0];

impl Builder<'_> {
    /// `sum[over] x[row] y[column] e^(L[row] - L[column])` up to the row, or up to the row ahead and what decays up to there.
    pub(super) fn scores_of_powers(
        &mut self,
        halves: &Halves,
        item: &Item,
        (row, column): (KAxis, KAxis),
        scored: &Scored,
        sums: &Sums,
    ) -> Expr {
        let target = self.target(item);
        self.push(target.clone(), Expr::number(0.0), None);
        let seen = load(if scored.strict { &sums.before } else { &sums.upto });
        for level in halves.levels.iter().filter(|level| level.half >= BLOCK) {
            let last = ViewStep::Pick { axis: level.row.unwrap_or(row), index: level.half - 1 };
            let anchor = self.part(halves, level, row, (&load(&sums.upto), Half::First), level.row);
            let anchor = anchor.transformed(&last, &self.axes.sizes).expect("a half has a last row");
            let mut meeting = |of: &Expr, exponent: &Expr, half: Half| {
                let [of, exponent] = [of, exponent].map(|expr| self.part(halves, level, row, (expr, half), level.row));
                let decays = match half {
                    Half::Second => two(Binary::Sub, exponent, anchor.clone()),
                    Half::First => two(Binary::Sub, anchor.clone(), exponent),
                };
                self.laid(times(of, power(decays)))
            };
            let reads = meeting(scored.x, &seen, Half::Second);
            let keys = meeting(scored.y, &load(&sums.upto), Half::First);
            let keys = level.row.zip(level.column).map_or(keys.clone(), |(own, column)| keys.renamed(own, column));
            let place = level.between(&target, (row, column), (level.row, level.column));
            self.dots(place, times(load(&reads), load(&keys)), &scored.over);
        }
        self.diagonal(halves, &target, (row, column), (scored, &seen, &load(&sums.upto)));
        self.copies(item, &target);
        load(&target)
    }

    /// Where a value is laid down, over its axes.
    fn laid(&mut self, expr: Expr) -> View {
        let tensor = self.temporary(expr.elem());
        let (view, elements) = self.axes.dense(tensor, &expr.axes(), self.grid);
        self.claim(elements);
        self.push(view.clone(), expr, None);
        view
    }

    /// One half of every block of a value's rows, counted by `by`.
    fn part(&self, halves: &Halves, level: &Level, row: KAxis, (expr, half): (&Expr, Half), by: Option<KAxis>) -> Expr {
        self.half_of(halves, (expr, row), (level.block, by), half)
    }

    /// Blocks of rows and the keys of the same rows.
    fn diagonal(
        &mut self,
        halves: &Halves,
        target: &View,
        (row, column): (KAxis, KAxis),
        (scored, seen, left): (&Scored, &Expr, &Expr),
    ) {
        let rows = self.axes.sizes[row.0];
        let counts = |size: usize| halves.levels.iter().find(|level| 2 * level.half == size).and_then(|level| level.block);
        let counted = |expr: &Expr, by: &[KAxis]| {
            let step = ViewStep::Split { axis: row, into: by.to_vec() };
            expr.transformed(&step, &self.axes.sizes).expect("rows can be counted by tiles")
        };
        let pairs = |by: &[KAxis], other: &[KAxis]| {
            let decays = power(two(Binary::Sub, counted(seen, by), counted(left, other)));
            times(times(counted(scored.x, by), counted(scored.y, other)), decays)
        };
        if rows < BLOCK {
            let (expr, below) = (pairs(&[row], &[column]), Below { axis: column, by: row, inclusive: !scored.strict });
            return self.below(target.clone(), expr, (scored, below));
        }
        let [tile, other, i, j] = halves.tiles;
        let of = |list: [Option<KAxis>; 3]| -> Vec<KAxis> { list.into_iter().flatten().collect() };
        let (by, from) = (of([counts(BLOCK), Some(tile), Some(i)]), of([counts(BLOCK), Some(other), Some(j)]));
        let last = ViewStep::Pick { axis: j, index: TILE - 1 };
        let anchor = counted(left, &from).transformed(&last, &self.axes.sizes).expect("a tile has a last row");
        let reads = times(counted(scored.x, &by), power(two(Binary::Sub, counted(seen, &by), anchor.clone())));
        let keys = times(counted(scored.y, &from), power(two(Binary::Sub, anchor, counted(left, &from))));
        let place = target.counted(row, &by, &self.axes.sizes).counted(column, &from, &self.axes.sizes);
        self.below(place, times(reads, keys), (scored, Below { axis: other, by: tile, inclusive: false }));
        let (by, from) = (of([counts(TILE), Some(i), None]), of([counts(TILE), Some(j), None]));
        let place = target.counted(row, &by, &self.axes.sizes).counted(column, &from, &self.axes.sizes);
        self.below(place, pairs(&by, &from), (scored, Below { axis: j, by: i, inclusive: !scored.strict }));
    }

    /// A sum for each pair of which one lies below the other.
    fn below(&mut self, place: View, expr: Expr, (scored, below): (&Scored, Below)) {
        let (over, expr) = self.summed(&expr, &scored.over);
        let reduce = (!over.is_empty()).then(|| Reduction::plain(Reduce::Sum, over));
        self.stmts.push(Stmt { reduce, below: Some(below), ..Stmt::plain(place, expr) });
    }
}

impl View {
    /// The same elements with one axis counted by several, which other axes of the view may be among.
    fn counted(&self, axis: KAxis, by: &[KAxis], sizes: &[usize]) -> View {
        let mut stride = self.stride(axis);
        let mut strides: Vec<(KAxis, usize)> = self.strides.iter().copied().filter(|(own, _)| *own != axis).collect();
        for part in by.iter().rev() {
            match strides.iter_mut().find(|(own, _)| own == part) {
                Some((_, own)) => *own += stride,
                None => strides.push((*part, stride)),
            }
            stride *= sizes[part.0];
        }
        strides.sort();
        View { strides, ..self.clone() }
    }
}
