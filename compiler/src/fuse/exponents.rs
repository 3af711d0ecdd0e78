//! Products over spans of rows as powers of sums: where factors are powers of e themselves, a span's product is 2 to the difference of two
//! running sums. Every element is made by itself, and no matrix of products is kept.
//!
//! A sum has the rounding of its largest term: what lies behind a gate that forgets all would lose its bits to it. Exponents are therefore
//! cut off where factors vanish in single precision, and only a model whose factors of products may be rounded goes this way.

use super::expr::{Expr, KAxis, View, ViewStep};
use super::nest::{Builder, Item, What};
use super::rows::{Running, Span, choice, compared};
use braid_dsl::model::{AxisId, Binary, Elem, Op, Rows, Unary};

/// 2 to this power (6e-39) is less than the smallest normal number of single precision (1.2e-38).
const VANISHES: f64 = -127.0;

pub(super) fn two(op: Binary, a: Expr, b: Expr) -> Expr {
    Expr::Binary(op, Elem::Float, Box::new(a), Box::new(b))
}

/// 2 to a sum's power: sums are of exponents in binary, which is what hardware takes.
pub(super) fn power(exponent: Expr) -> Expr {
    two(Binary::Pow, Expr::number(2.0), exponent)
}

impl Builder<'_> {
    /// The item whose powers of e an op over rows multiplies, if it goes this way: a product of a head, or of whatever else is one index in a
    /// task, or of factors all of whose products go from the first row on, or to the last; scores under such factors.
    pub(super) fn exponent(&self, user: &Item, items: &[Item]) -> Option<usize> {
        let What::Apply(op, args) = &user.what else { return None };
        let (factor, goes) = match op {
            Op::Products { row, over } => {
                let column = match over {
                    Rows::Between(column) | Rows::Inside(column) => Some(self.axes.find(*column)),
                    _ => None,
                };
                let row = self.axes.find(*row);
                let alone = |axis: &KAxis| *axis == row || Some(*axis) == column || self.grid.contains(axis);
                (args[0], user.axes.iter().all(alone) || column.is_none() && rises(args[0], items))
            }
            Op::Scores { .. } => (args[2], self.halves.is_some()),
            _ => return None,
        };
        match &items[factor].what {
            What::Apply(Op::Unary(Unary::Exp), of) if self.exponents && goes => Some(of[0]),
            _ => None,
        }
    }

    /// Whether an op over rows reads an item as its exponent.
    pub(super) fn is_exponent(&self, at: usize, items: &[Item]) -> bool {
        items.iter().any(|item| self.exponent(item, items) == Some(at))
    }

    /// Whether all that use an item read its exponent instead.
    pub(super) fn is_power_alone(&self, at: usize, items: &[Item]) -> bool {
        let uses = |item: &&Item| matches!(&item.what, What::Apply(_, args) if args.contains(&at));
        let mut users = items.iter().filter(uses).peekable();
        items[at].stores.is_empty() && users.peek().is_some() && users.all(|user| self.exponent(user, items).is_some())
    }

    /// The product over a span of rows.
    pub(super) fn power_of_sum(&mut self, item: &Item, (row, over): (AxisId, Rows), of: usize, exponent: &Expr) -> Expr {
        let row = self.axes.find(row);
        let column = |axis: &KAxis| matches!(over, Rows::Between(own) | Rows::Inside(own) if self.axes.find(own) == *axis);
        let axes: Vec<KAxis> = item.axes.iter().copied().filter(|axis| !column(axis)).collect();
        let Sums { before, upto } = &self.sums_of(&axes, row, of, exponent);
        let load = |view: &View| Expr::Load(view.clone(), Elem::Float);
        let since = |view: &View, column: KAxis| power(two(Binary::Sub, load(view), load(&upto.renamed(row, column))));
        let nothing = || Expr::number(0.0);
        match over {
            Rows::Upto => power(load(upto)),
            Rows::Before => power(load(before)),
            Rows::After => {
                let last = ViewStep::Pick { axis: row, index: self.axes.sizes[row.0] - 1 };
                let all = upto.transformed(&last, &self.axes.sizes).expect("a row is there");
                power(two(Binary::Sub, load(&all), load(upto)))
            }
            Rows::Between(column) => {
                let column = self.axes.find(column);
                choice(compared(Binary::Lt, row, column), nothing(), since(upto, column))
            }
            Rows::Inside(column) => {
                let column = self.axes.find(column);
                choice(compared(Binary::Lt, column, row), since(before, column), nothing())
            }
        }
    }

    /// The running sums over rows of the exponent of item `of`, made once.
    pub(super) fn sums_of(&mut self, axes: &[KAxis], row: KAxis, of: usize, exponent: &Expr) -> Sums {
        let known = self.running.iter().position(|known| known.of == of && known.span == Span::Sums);
        let at = known.unwrap_or_else(|| {
            let made = self.sums_along(axes, row, of, exponent);
            self.running.push(made);
            self.running.len() - 1
        });
        let Running { before, upto, .. } = &self.running[at];
        Sums { before: before.clone(), upto: upto.clone() }
    }

    /// `L[row + 1] = L[row] + log2 e · exponent[row]`.
    fn sums_along(&mut self, axes: &[KAxis], row: KAxis, of: usize, exponent: &Expr) -> Running {
        let binary = two(Binary::Mul, exponent.clone(), Expr::number(std::f64::consts::LOG2_E));
        let cut = two(Binary::Max, binary, Expr::number(VANISHES));
        let next = |from: &View| two(Binary::Add, Expr::Load(from.clone(), Elem::Float), cut.clone());
        self.along(axes, row, (of, Span::Sums), (0.0, &next))
    }
}

/// Running sums of an exponent over rows.
pub(super) struct Sums {
    /// Each row without its own.
    pub(super) before: View,
    /// Each row with it.
    pub(super) upto: View,
}

/// Whether all products of a factor go from the first row on, or to the last.
fn rises(at: usize, items: &[Item]) -> bool {
    items.iter().all(|item| match &item.what {
        What::Apply(Op::Products { over: Rows::Between(_) | Rows::Inside(_), .. }, args) => args[0] != at,
        _ => true,
    })
}
