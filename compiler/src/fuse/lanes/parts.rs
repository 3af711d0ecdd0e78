//! What of the statements of a step is the same in all rows, and what needs no state: both are known as a step begins.

use super::{Finder, Power};
use crate::fuse::expr::{Expr, KAxis, TensorId, View};
use crate::fuse::factors::{Change, arranged, times};
use braid_dsl::model::{Elem, Unary};
use std::collections::BTreeSet;

/// Takes apart what statements of a step make.
pub(super) struct Parts<'f, 'a> {
    pub(super) finder: &'f Finder<'a>,
    /// Tensors that steps write.
    pub(super) written: BTreeSet<TensorId>,
    pub(super) inner: Option<(KAxis, usize)>,
    pub(super) fixed: Vec<(View, Expr)>,
    pub(super) powers: Vec<Power>,
}

impl Parts<'_, '_> {
    /// An expression with views in the place of what is the same in all rows, and of exponentials that no state is needed for.
    pub(super) fn without(&mut self, expr: &Expr) -> Expr {
        let (written, inner, finder) = (self.written.clone(), self.inner, self.finder);
        let change = |part: &Expr| {
            let waits = part.views().iter().any(|view| written.contains(&view.tensor) || finder.is_state(view));
            let varies = inner.is_some_and(|(axis, _)| part.axes().contains(&axis));
            match () {
                _ if matches!(part, Expr::Const(..)) || finder.is_fixed(part) => Change::Never,
                _ if waits || varies => Change::Elements,
                _ => Change::Rows,
            }
        };
        let expr = arranged(expr, &change);
        self.taken(&expr)
    }

    fn taken(&mut self, expr: &Expr) -> Expr {
        if self.finder.is_fixed(expr) {
            let known = self.fixed.iter().find(|(_, own)| own == expr).map(|(view, _)| view.clone());
            let view = known.unwrap_or_else(|| {
                let view = self.stand_in();
                self.fixed.push((view.clone(), expr.clone()));
                view
            });
            return Expr::Load(view, expr.elem());
        }
        match expr {
            Expr::Unary(Unary::Exp, of) if self.is_free(of) => {
                let exponent = self.without(&times(Expr::number(std::f64::consts::LOG2_E), (**of).clone()));
                let view = match self.powers.iter().find(|power| power.exponent == exponent) {
                    Some(power) => power.view.clone(),
                    None => {
                        let (view, axis) = (self.stand_in(), self.inner.map(|(axis, _)| axis));
                        let inner = axis.is_some_and(|axis| of.axes().contains(&axis));
                        self.powers.push(Power { view: view.clone(), exponent, inner });
                        view
                    }
                };
                Expr::Load(view, Elem::Float)
            }
            Expr::Unary(op, of) => Expr::Unary(*op, Box::new(self.taken(of))),
            Expr::ToFloat(of) => Expr::ToFloat(Box::new(self.taken(of))),
            Expr::Binary(op, elem, a, b) => Expr::Binary(*op, *elem, Box::new(self.taken(a)), Box::new(self.taken(b))),
            Expr::Select(elem, parts) => Expr::Select(*elem, Box::new([0, 1, 2].map(|part| self.taken(&parts[part])))),
            _ => expr.clone(),
        }
    }

    /// Whether nothing is read that a step writes.
    fn is_free(&self, expr: &Expr) -> bool {
        !expr.views().iter().any(|view| self.written.contains(&view.tensor) || self.finder.is_state(view))
    }

    /// A view of no tensor of the kernel.
    fn stand_in(&self) -> View {
        let number = self.finder.code.tensors.len() + self.fixed.len() + self.powers.len();
        View { tensor: TensorId(number), offset: 0, strides: vec![] }
    }
}
