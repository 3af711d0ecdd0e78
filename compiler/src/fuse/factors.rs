//! Products with factors that change seldom first, so that what they make is made once.

use super::expr::Expr;
use braid_dsl::model::{Binary, Elem, Unary};

/// How often a factor changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Never.
    Never,
    /// From row to row, but not within one thread's share of it.
    Rows,
    /// From element to element.
    Elements,
}

/// The same value, with the factors of each product in the order in which they change.
pub fn arranged(expr: &Expr, change: &dyn Fn(&Expr) -> Change) -> Expr {
    let go = |part: &Expr| Box::new(arranged(part, change));
    if is_product(expr) {
        let (mut factors, mut minus) = (vec![], false);
        collect(expr, &mut factors, &mut minus);
        let sign = minus.then(|| Expr::number(-1.0));
        let mut own: Vec<Expr> = sign.into_iter().chain(factors.into_iter().map(|factor| arranged(factor, change))).collect();
        own.sort_by_key(change);
        let product = |factors: Vec<Expr>| factors.into_iter().reduce(times);
        let groups = [Change::Never, Change::Rows].map(|kind| product(own.extract_if(.., |own| change(own) == kind).collect()));
        let seldom = groups.into_iter().flatten().reduce(times);
        return product(seldom.into_iter().chain(own).collect()).unwrap_or_else(|| Expr::number(1.0));
    }
    match expr {
        Expr::Unary(op, of) => Expr::Unary(*op, go(of)),
        Expr::ToFloat(of) => Expr::ToFloat(go(of)),
        Expr::Binary(op, elem, a, b) => Expr::Binary(*op, *elem, go(a), go(b)),
        Expr::Select(elem, parts) => Expr::Select(*elem, Box::new([0, 1, 2].map(|part| arranged(&parts[part], change)))),
        _ => expr.clone(),
    }
}

/// `a · b`.
pub fn times(a: Expr, b: Expr) -> Expr {
    Expr::Binary(Binary::Mul, Elem::Float, Box::new(a), Box::new(b))
}

fn is_product(expr: &Expr) -> bool {
    match expr {
        Expr::Binary(Binary::Mul, Elem::Float, ..) => true,
        Expr::Unary(Unary::Neg, of) => is_product(of),
        _ => false,
    }
}

fn collect<'a>(expr: &'a Expr, factors: &mut Vec<&'a Expr>, minus: &mut bool) {
    match expr {
        Expr::Binary(Binary::Mul, Elem::Float, a, b) => [a, b].into_iter().for_each(|part| collect(part, factors, minus)),
        Expr::Unary(Unary::Neg, of) if of.elem() == Elem::Float => {
            *minus = !*minus;
            collect(of, factors, minus);
        }
        _ => factors.push(expr),
    }
}
