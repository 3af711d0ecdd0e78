//! Systems whose matrix is triangular, row after row: each thread walks a column of the unknowns, all of which it keeps in registers.

use super::THREADS;
use super::nest::{Loops, parallel};
use super::wide::{beside, lies_in_order};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Order, Reduction};
use crate::mlir::common::Val;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Site, for_each};
use braid_dsl::model::{Binary, Elem, Reduce};

/// Most unknowns of a thread.
const MOST: usize = 16;
/// Coefficients that are loaded at once, where they lie so.
const AT_ONCE: usize = 4;

/// Such a system.
pub struct Substitution<'n> {
    /// What a row has of the unknowns before it.
    matrix: &'n View,
    /// The unknowns, which hold what they begin with.
    unknown: &'n View,
    /// What a row begins with.
    known: &'n Expr,
    /// Rows, and those before them.
    axes: [KAxis; 2],
    /// How many there are.
    rows: usize,
}

impl<'n> Substitution<'n> {
    /// What a nest in order is, if it is one.
    pub fn of(own: &Loops<'n, '_>, order: Order) -> Option<Substitution<'n>> {
        let [stmt] = &own.nest.stmts[..] else { return None };
        let Some(Reduction { how: Reduce::Sum, over, start: Some(known), epilogue: None, .. }) = &stmt.reduce else {
            return None;
        };
        let below = stmt.below.filter(|below| below.by == order.axis && !below.inclusive && over[..] == [below.axis])?;
        let Expr::Binary(Binary::Mul, Elem::Float, a, b) = &stmt.expr else { return None };
        let (Expr::Load(matrix, _), Expr::Load(earlier, _)) = (&**a, &**b) else { return None };
        let rows = own.code.sizes[order.axis.0];
        let fits = !order.falling && rows <= MOST && *earlier == stmt.target.renamed(order.axis, below.axis);
        let axes = [order.axis, below.axis];
        (fits && matrix.tensor != stmt.target.tensor).then_some(Substitution { matrix, unknown: &stmt.target, known, axes, rows })
    }

    /// Emits it.
    pub fn emit<'c>(&self, own: &Loops<'_, 'c>, site: &mut Site<'_, 'c>) {
        let e = site.e;
        let columns = parallel(own.code, own.nest);
        let count = columns.iter().map(|(_, size)| size).product::<usize>();
        for_each(e, e.to_i64(e.thread()), e.i64(count), e.i64(THREADS), |number| {
            own.place(site, &columns, (number, count, true));
            let mut made: Vec<Val> = vec![];
            for row in 0..self.rows {
                site.index.insert(self.axes[0], e.i64(row));
                let known = value(site, self.known);
                let coefficients = self.coefficients(site, row);
                made.push(coefficients.into_iter().zip(&made).fold(known, |sum, (by, x)| e.fma(by, *x, sum)));
            }
            for (row, number) in made.into_iter().enumerate() {
                site.index.insert(self.axes[0], e.i64(row));
                store(site, self.unknown, number);
            }
        });
    }

    /// What the row at hand has of those before.
    fn coefficients<'c>(&self, site: &mut Site<'_, 'c>, count: usize) -> Vec<Val<'c>> {
        let e = site.e;
        let fours =
            self.rows.is_multiple_of(AT_ONCE) && lies_in_order(site.tensor(self.matrix), self.matrix, (self.axes[1], AT_ONCE));
        let side = if fours { AT_ONCE } else { 1 };
        let load = |at: usize| {
            site.index.insert(self.axes[1], e.i64(at));
            beside(e, site.store_of(self.matrix), site.address(self.matrix), side)
        };
        (0..count).step_by(side).flat_map(load).take(count).collect()
    }
}
