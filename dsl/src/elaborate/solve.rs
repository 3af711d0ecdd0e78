//! `solve[k, j](A, b)`: the solution of a system of linear equations.

use super::frame::{Frame, V};
use super::{Done, Elab};
use crate::ast::{Arg, IndexItem};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Elem, Op, Type};
use crate::span::Span;

impl<'p> Elab<'p> {
    /// `solve[k, j](A, b)`: `x` along `j` with `sum[j] A[k, j] x[j] = b[k]`.
    pub(super) fn solve(&mut self, frame: &mut Frame<'p>, items: &'p [IndexItem], args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let ([_, _], [matrix, right]) = (items, args) else {
            return self.fail(Code::Arity, span, "write `solve[k, j](A, b)`: the axis of the equations and that of the unknowns");
        };
        let axes = self.plain_axes(frame, items, span)?;
        let (rows, columns) = (axes[0], axes[1]);
        let a = self.tensor_of(frame, &matrix.value, Some(Elem::Float))?;
        let b = self.tensor_of(frame, &right.value, Some(Elem::Float))?;
        let (a, b) = (self.as_float(a, span, frame.scope)?, self.as_float(b, span, frame.scope)?);
        let (of_a, of_b) = (self.seen(a), self.seen(b));
        self.need_axes(&of_a, &[rows, columns], matrix.value.span)?;
        self.need_axes(&of_b, &[rows], right.value.span)?;
        if rows == columns || self.size(rows) != self.size(columns) {
            let (n, m) = (self.size(rows), self.size(columns));
            let error = Diagnostic::new(Code::AxisMismatch, span, "a system has as many equations as unknowns, along two axes");
            return Err(self.error(error.label(format!("{n} equations along {}, {m} unknowns", self.axes_text(&axes)))));
        }
        if of_b.axes.contains(&columns) {
            let name = self.axis_name(columns).to_owned();
            let error =
                Diagnostic::new(Code::AxisMismatch, right.value.span, format!("the right side has the unknowns' axis `{name}`"));
            return Err(self.error(error.hint("rename one of them: `x[a as b]`")));
        }
        let ty = self.solved(&of_a.axes, &of_b.axes, (rows, columns), span)?;
        self.apply(Op::Solve { rows, columns }, &[a, b], ty, span, frame.scope).map(V::Tensor)
    }

    /// The type of a solution.
    pub(super) fn solved(&mut self, a: &[AxisId], b: &[AxisId], (rows, columns): (AxisId, AxisId), span: Span) -> Done<Type> {
        let less = |axes: &[AxisId]| axes.iter().copied().filter(|axis| *axis != rows && *axis != columns).collect::<Vec<_>>();
        let mut axes = self.union(&less(a), &less(b), span)?;
        axes.push(columns);
        Ok(Type { elem: Elem::Float, axes })
    }
}
