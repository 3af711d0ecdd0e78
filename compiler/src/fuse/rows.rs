//! Statements along the rows of a chunk: products over spans of rows, substitution, and sums that are added onto others.

use super::expr::{Expr, KAxis, View, ViewStep};
use super::kernel::{Reduction, Stmt};
use super::nest::{Builder, Item, What};
use braid_dsl::model::{AxisId, Binary, Elem, Op, Reduce, Rows};

/// A sum that waits for its addition: the item, the axes, and what is summed.
pub struct Pending {
    item: usize,
    over: Vec<KAxis>,
    expr: Expr,
}

/// Products over rows in memory: a row ahead of the first holds what the first continues.
pub struct Running {
    of: usize,
    column: Option<KAxis>,
    /// Each row without its own factor.
    before: View,
    /// Each row with it.
    upto: View,
}

impl Builder<'_> {
    /// Ops of chunks, and sums that are added onto something; none: another op.
    pub(super) fn along_rows(&mut self, at: usize, op: &Op, args: &[usize], items: &[Item], exprs: &[Expr]) -> Option<Expr> {
        match op {
            Op::Products { row, over } => Some(self.products(&items[at], *row, *over, args[0], &exprs[args[0]])),
            Op::Substitute { row, column, rank } => {
                let operands = [&exprs[args[0]], &exprs[args[1]]];
                Some(self.substitute(&items[at], (*row, *column), *rank, operands))
            }
            // Only chunks compute nothing twice: elsewhere sums are stored as they come.
            Op::Contract(over) if self.repeatable == 0 && self.is_addend(at, items) => {
                let over = over.iter().map(|a| self.axes.find(*a)).collect();
                let [a, b] = [args[0], args[1]].map(|arg| Box::new(exprs[arg].clone()));
                self.pending.push(Pending { item: at, over, expr: Expr::Binary(Binary::Mul, Elem::Float, a, b) });
                Some(Expr::number(0.0))
            }
            Op::Binary(Binary::Add) => self.added(at, args, items, exprs),
            _ => None,
        }
    }

    /// The one item that uses `at`.
    fn only_user(at: usize, items: &[Item]) -> Option<usize> {
        let uses = |item: &Item| match &item.what {
            What::Apply(_, args) => args.iter().filter(|arg| **arg == at).count(),
            What::Given(_) => 0,
        };
        let mut users = items.iter().enumerate().filter(|(_, item)| uses(item) > 0);
        let (first, item) = users.next()?;
        (users.next().is_none() && uses(item) == 1).then_some(first)
    }

    /// Whether an item's only use is to be added to something of its own axes.
    fn is_addend(&self, at: usize, items: &[Item]) -> bool {
        let Some(user) = Self::only_user(at, items) else { return false };
        let sorted = |axes: &[KAxis]| {
            let mut axes = axes.to_vec();
            axes.sort();
            axes
        };
        let is_sum = matches!(&items[user].what, What::Apply(Op::Binary(Binary::Add), _));
        is_sum && items[at].stores.is_empty() && sorted(&items[user].axes) == sorted(&items[at].axes)
    }

    /// An addition of sums that wait.
    fn added(&mut self, at: usize, args: &[usize], items: &[Item], exprs: &[Expr]) -> Option<Expr> {
        let mut waiting = |arg: usize| {
            let found = self.pending.iter().position(|p| p.item == arg);
            found.map(|found| self.pending.remove(found))
        };
        let (first, second) = (waiting(args[0]), waiting(args[1]));
        let item = &items[at];
        let (start, sums) = match (first, second) {
            (None, None) => return None,
            (Some(a), Some(b)) => (None, vec![a, b]),
            (Some(a), None) => (Some(exprs[args[1]].clone()), vec![a]),
            (None, Some(b)) => (Some(exprs[args[0]].clone()), vec![b]),
        };
        let target = match item.stores.is_empty().then(|| self.landing(at, items)).flatten() {
            Some(place) => place,
            None => self.target(item),
        };
        let mut start = start;
        for sum in sums {
            let reduction = Reduction { how: Reduce::Sum, over: sum.over, start: start.take(), below: None };
            self.push(target.clone(), sum.expr, Some(reduction));
            start = Some(Expr::Load(target.clone(), Elem::Float));
        }
        self.copies(item, &target);
        Some(Expr::Load(target, item.elem))
    }

    /// Where an addition that is only added to again will end up.
    fn landing(&self, at: usize, items: &[Item]) -> Option<View> {
        let user = Self::only_user(at, items)?;
        let What::Apply(Op::Binary(Binary::Add), args) = &items[user].what else { return None };
        let other = args.iter().copied().find(|arg| *arg != at)?;
        let joins = matches!(&items[other].what, What::Apply(Op::Contract(_), _)) && self.is_addend(other, items);
        if !joins || !self.is_addend(at, items) {
            return None;
        }
        items[user].stores.first().cloned().or_else(|| self.landing(user, items))
    }

    fn products(&mut self, item: &Item, row: AxisId, over: Rows, of: usize, factor: &Expr) -> Expr {
        let row = self.axes.find(row);
        let column = match over {
            Rows::Upto | Rows::Before => None,
            Rows::Between(column) | Rows::Inside(column) => Some(self.axes.find(column)),
        };
        let known = self.running.iter().position(|known| known.of == of && known.column == column);
        let at = known.unwrap_or_else(|| {
            let made = self.run_along(item, row, column, of, factor);
            self.running.push(made);
            self.running.len() - 1
        });
        let view = match over {
            Rows::Upto | Rows::Between(_) => &self.running[at].upto,
            Rows::Before | Rows::Inside(_) => &self.running[at].before,
        };
        Expr::Load(view.clone(), Elem::Float)
    }

    /// `P[row + 1] = P[row] factor[row]`; with a column, 1 where it meets the row and 0 where it is ahead.
    fn run_along(&mut self, item: &Item, row: KAxis, column: Option<KAxis>, of: usize, factor: &Expr) -> Running {
        let tensor = self.temporary(Elem::Float);
        let (before, elements) = self.axes.dense(tensor, &item.axes, self.grid);
        let step = before.stride(row);
        self.claim(elements + step);
        let upto = View { offset: step, ..before.clone() };
        let first = View { strides: before.strides.iter().copied().filter(|(axis, _)| *axis != row).collect(), ..before.clone() };
        let number = |x: f64| Box::new(Expr::number(x));
        self.push(first, *number(if column.is_some() { 0.0 } else { 1.0 }), None);
        let next =
            Expr::Binary(Binary::Mul, Elem::Float, Box::new(Expr::Load(before.clone(), Elem::Float)), Box::new(factor.clone()));
        let next = match column {
            None => next,
            Some(column) => {
                let compared = |op| Expr::Binary(op, Elem::Int, Box::new(Expr::Index(column)), Box::new(Expr::Index(row)));
                let own = Expr::Select(Elem::Float, Box::new([compared(Binary::Eq), *number(1.0), *number(0.0)]));
                Expr::Select(Elem::Float, Box::new([compared(Binary::Lt), next, own]))
            }
        };
        self.push(upto.clone(), next, None);
        self.in_order(row);
        Running { of, column, before, upto }
    }

    /// The last statement's rows need those before.
    fn in_order(&mut self, row: KAxis) {
        if let Some(Stmt { ordered, .. }) = self.stmts.last_mut() {
            *ordered = Some(row);
        }
    }

    /// `P[row] = B[row] + sum[column < row] M[row, column] P[column]`.
    fn substitute(
        &mut self,
        item: &Item,
        (row, column): (AxisId, AxisId),
        rank: Option<(AxisId, AxisId)>,
        [matrix, known]: [&Expr; 2],
    ) -> Expr {
        let (row, column) = (self.axes.find(row), self.axes.find(column));
        let rank = rank.map(|(own, summed)| (self.axes.find(own), self.axes.find(summed)));
        let target = self.target(item);
        let moved = |view: View, from: KAxis, to: KAxis| {
            let step = ViewStep::Slice { axis: from, start: 0, to };
            view.transformed(&step, &self.axes.sizes).expect("a renamed view is a view")
        };
        let mut earlier = moved(target.clone(), row, column);
        if let Some((own, summed)) = rank {
            earlier = moved(earlier, own, summed);
        }
        let expr = Expr::Binary(
            Binary::Mul,
            Elem::Float,
            Box::new(matrix.clone()),
            Box::new(Expr::Load(earlier, Elem::Float)),
        );
        let over = [column].into_iter().chain(rank.map(|(_, summed)| summed)).collect();
        let reduction = Reduction { how: Reduce::Sum, over, start: Some(known.clone()), below: Some((column, row)) };
        self.push(target.clone(), expr, Some(reduction));
        self.in_order(row);
        self.copies(item, &target);
        Expr::Load(target, Elem::Float)
    }
}
