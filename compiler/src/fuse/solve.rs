//! Linear systems inside nests: both sides are laid down in scratch and solved there.

use super::expr::{Expr, KAxis, ViewStep};
use super::kernel::{Stmt, System};
use super::nest::{Builder, Item};
use braid_dsl::model::Elem;

impl Builder<'_> {
    /// The solution of `matrix x = right`; the matrix has both axes, the right side the first.
    pub(super) fn solve(&mut self, (rows, columns): (KAxis, KAxis), [matrix, right]: [(&Item, &Expr); 2]) -> Expr {
        let batch: Vec<KAxis> = matrix.0.axes.iter().copied().filter(|a| *a != rows && *a != columns).collect();
        let sides: Vec<KAxis> = right.0.axes.iter().copied().filter(|a| *a != rows && !batch.contains(a)).collect();
        let whole = Item { axes: [&batch[..], &sides, &[rows]].concat(), ..right.0.clone() };
        let laid = self.store_in_order(matrix.0, matrix.1, &[rows, columns]);
        let solved = self.store_in_order(&whole, right.1, &[&[rows], &sides[..]].concat());
        let Expr::Load(target, _) = solved.clone() else { return solved };
        let system = System {
            size: self.axes.sizes[rows.0],
            sides: sides.iter().map(|a| self.axes.sizes[a.0]).product(),
            inside: [&sides[..], &[rows, columns]].concat(),
        };
        let mut space = batch;
        space.sort();
        self.stmts.push(Stmt { target, expr: laid, reduce: None, ordered: None, below: None, system: Some(system), space });
        let step = ViewStep::Slice { axis: rows, start: 0, to: columns };
        solved.transformed(&step, &self.axes.sizes).unwrap_or_else(|| Expr::Const(f64::NAN.to_bits(), Elem::Float))
    }
}
