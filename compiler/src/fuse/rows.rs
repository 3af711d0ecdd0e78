//! Statements along the rows of a chunk: products over spans of rows, substitution, and sums that are added onto others.

use super::expr::{Expr, KAxis, View, ViewStep};
use super::halves::Scored;
use super::kernel::{Below, Order, Reduction, Stmt};
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
    pub(super) of: usize,
    pub(super) span: Span,
    /// Each row without its own factor (of falling products: with it).
    pub(super) before: View,
    /// Each row with it (of falling products: without it).
    pub(super) upto: View,
}

fn times(a: Expr, b: Expr) -> Expr {
    Expr::Binary(Binary::Mul, Elem::Float, Box::new(a), Box::new(b))
}

pub(super) fn choice(condition: Expr, yes: Expr, no: Expr) -> Expr {
    Expr::Select(Elem::Float, Box::new([condition, yes, no]))
}

pub(super) fn compared(op: Binary, a: KAxis, b: KAxis) -> Expr {
    Expr::Binary(op, Elem::Int, Box::new(Expr::Index(a)), Box::new(Expr::Index(b)))
}

/// In which way products run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From the first row.
    Rising,
    /// From the last row.
    Falling,
    /// From each row of a column.
    From(KAxis),
    /// From the first row, sums of exponents.
    Sums,
}

impl Builder<'_> {
    /// Ops of chunks, and sums that are added onto something; none: another op.
    pub(super) fn along_rows(&mut self, at: usize, op: &Op, args: &[usize], items: &[Item], exprs: &[Expr]) -> Option<Expr> {
        match op {
            Op::Products { row, over } => Some(match self.exponent(&items[at], items) {
                Some(exponent) => self.power_of_sum(&items[at], (*row, *over), args[0], &exprs[exponent]),
                None => self.products(&items[at], *row, *over, args[0], &exprs[args[0]]),
            }),
            Op::Substitute { row, column, rank } => {
                let operands = [0, 1].map(|n: usize| (&items[args[n]], &exprs[args[n]]));
                Some(self.substitute(&items[at], (*row, *column), *rank, operands))
            }
            Op::Scores { row, column, over, strict } => {
                let [x, y, factor] = [0, 1, 2].map(|n: usize| &exprs[args[n]]);
                let (row, column) = (self.axes.find(*row), self.axes.find(*column));
                let over = over.iter().map(|a| self.axes.find(*a)).collect();
                let scored = Scored { x, y, factor, over, strict: *strict };
                let item = &items[at];
                Some(match (self.halves.clone(), self.exponent(item, items)) {
                    (Some(halves), Some(of)) => {
                        let mut axes = items[args[2]].axes.clone();
                        axes.extend((!axes.contains(&row)).then_some(row));
                        let sums = self.sums_of(&axes, row, args[2], &exprs[of]);
                        self.scores_of_powers(&halves, item, (row, column), &scored, &sums)
                    }
                    (Some(halves), None) => self.scores_by_halves(&halves, item, (row, column), &scored),
                    _ => self.scores(item, (row, column), &scored, &items[args[1]].axes),
                })
            }
            // Only chunks compute nothing twice: elsewhere sums are stored as they come.
            Op::Contract(over) if self.repeatable == 0 && self.is_addend(at, items) => {
                let over = over.iter().map(|a| self.axes.find(*a)).collect();
                let expr = times(exprs[args[0]].clone(), exprs[args[1]].clone());
                self.pending.push(Pending { item: at, over, expr });
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
            let reduction = Reduction { start: start.take(), ..Reduction::plain(Reduce::Sum, sum.over) };
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
        let span = match over {
            Rows::Upto | Rows::Before => Span::Rising,
            Rows::After => Span::Falling,
            Rows::Between(column) | Rows::Inside(column) => Span::From(self.axes.find(column)),
        };
        let known = self.running.iter().position(|known| known.of == of && known.span == span);
        let at = known.unwrap_or_else(|| {
            let made = self.run_along(item, row, span, of, factor);
            self.running.push(made);
            self.running.len() - 1
        });
        let view = match over {
            Rows::Upto | Rows::Between(_) | Rows::After => &self.running[at].upto,
            Rows::Before | Rows::Inside(_) => &self.running[at].before,
        };
        Expr::Load(view.clone(), Elem::Float)
    }

    /// `P[row + 1] = P[row] factor[row]` (falling: `P[row] = P[row + 1] factor[row]`); with a column, 1 where it meets the row and 0
    /// where it is ahead.
    fn run_along(&mut self, item: &Item, row: KAxis, span: Span, of: usize, factor: &Expr) -> Running {
        let edge = if matches!(span, Span::From(_)) { 0.0 } else { 1.0 };
        let next = |from: &View| {
            let next = times(Expr::Load(from.clone(), Elem::Float), factor.clone());
            match span {
                Span::From(column) => {
                    let own = choice(compared(Binary::Eq, column, row), Expr::number(1.0), Expr::number(0.0));
                    choice(compared(Binary::Lt, column, row), next, own)
                }
                _ => next,
            }
        };
        self.along(&item.axes, row, (of, span), (edge, &next))
    }

    /// What runs along rows: each is made of the one before (falling: behind) it, the first (last) of `edge`.
    pub(super) fn along(
        &mut self,
        axes: &[KAxis],
        row: KAxis,
        (of, span): (usize, Span),
        (edge, next): (f64, &dyn Fn(&View) -> Expr),
    ) -> Running {
        let tensor = self.temporary(Elem::Float);
        let (before, elements) = self.axes.dense(tensor, axes, self.grid);
        let step = before.stride(row);
        self.claim(elements + step);
        let upto = View { offset: step, ..before.clone() };
        let strides = before.strides.iter().copied().filter(|(axis, _)| *axis != row).collect();
        let offset = if span == Span::Falling { step * self.axes.sizes[row.0] } else { 0 };
        self.push(View { tensor, offset, strides }, Expr::number(edge), None);
        let (from, to) = if span == Span::Falling { (&upto, &before) } else { (&before, &upto) };
        self.push(to.clone(), next(from), None);
        self.in_order(row, span == Span::Falling, None);
        Running { of, span, before, upto }
    }

    /// The last statement's rows need those before; an axis may be bounded by them.
    pub(super) fn in_order(&mut self, axis: KAxis, falling: bool, bounded: Option<(KAxis, bool)>) {
        if let Some(Stmt { ordered, below, .. }) = self.stmts.last_mut() {
            *ordered = Some(Order { axis, falling, lockstep: false });
            *below = bounded.map(|(bounded, inclusive)| Below { axis: bounded, by: axis, inclusive });
        }
    }

    /// Row after row: the keys behind the row decay by its factor, and what it reads is multiplied with each of them.
    fn scores(&mut self, item: &Item, (row, column): (KAxis, KAxis), scored: &Scored, key_axes: &[KAxis]) -> Expr {
        let Scored { x, y, factor, over, strict } = scored;
        let target = self.target(item);
        self.push(target.clone(), Expr::number(0.0), None);
        // The keys, over columns, in a place of their own.
        let mut axes: Vec<KAxis> = key_axes.iter().chain(&factor.axes()).copied().filter(|a| *a != row).chain([column]).collect();
        axes.sort();
        axes.dedup();
        let tensor = self.temporary(Elem::Float);
        let (keys, elements) = self.axes.dense(tensor, &axes, self.grid);
        self.claim(elements);
        let step = ViewStep::Slice { axis: row, start: 0, to: column };
        let moved = y.transformed(&step, &self.axes.sizes).expect("a renamed value is a value");
        self.push(keys.clone(), moved, None);
        let key = Expr::Load(keys.clone(), Elem::Float);
        let seen = times((*x).clone(), key.clone());
        let sum = Some(Reduction::plain(Reduce::Sum, over.clone()));
        let own = choice(compared(Binary::Lt, column, row), (*factor).clone(), Expr::number(1.0));
        let mut pair = [(target.clone(), seen, sum), (keys, times(key, if *strict { (*factor).clone() } else { own }), None)];
        if !*strict {
            // The row sees keys that have decayed by its own factor too.
            pair.reverse();
        }
        for (place, (target, expr, reduce)) in pair.into_iter().enumerate() {
            self.push(target, expr, reduce);
            self.in_order(row, false, Some((column, !strict)));
            if let Some(order) = self.stmts.last_mut().and_then(|stmt| stmt.ordered.as_mut()) {
                order.lockstep = place > 0;
            }
        }
        self.copies(item, &target);
        Expr::Load(target, Elem::Float)
    }

    /// `P[row] = B[row] + sum[column < row] M[row, column] P[column]`.
    fn substitute(
        &mut self,
        item: &Item,
        (row, column): (AxisId, AxisId),
        rank: Option<(AxisId, AxisId)>,
        [matrix, known]: [(&Item, &Expr); 2],
    ) -> Expr {
        let (row, column) = (self.axes.find(row), self.axes.find(column));
        if let (Some(halves), None) = (self.halves.clone(), rank) {
            return self.substitute_by_halves(&halves, item, (row, column), [matrix, known]);
        }
        let (matrix, known) = (matrix.1, known.1);
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
        let expr = times(matrix.clone(), Expr::Load(earlier, Elem::Float));
        let over = [column].into_iter().chain(rank.map(|(_, summed)| summed)).collect();
        let reduction = Reduction { start: Some(known.clone()), ..Reduction::plain(Reduce::Sum, over) };
        self.push(target.clone(), expr, Some(reduction));
        self.in_order(row, false, Some((column, false)));
        self.copies(item, &target);
        Expr::Load(target, Elem::Float)
    }
}
