//! `output name = …`: what a model gives beside its result.

use super::frame::Frame;
use super::{Done, Elab, SEQ, T};
use crate::ast::{Expr, Ident};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Binary, Elem, Op, ScopeId, Type, ValueId};
use crate::span::Span;

/// A row of everything, if there is more than the result, and what stands behind the result.
type Joined = (Option<ValueId>, Vec<(String, Type)>);

impl<'p> Elab<'p> {
    /// The statement.
    pub(super) fn declare_output(&mut self, frame: &mut Frame<'p>, name: &'p Ident, value: &'p Expr) -> Done<()> {
        self.row_wise(name.span, "output")?;
        let t = self.tensor_of(frame, value, Some(Elem::Float))?;
        let ty = self.seen(t);
        if !ty.axes.contains(&SEQ) {
            let error = Diagnostic::new(Code::AxisMismatch, value.span, "an output has a row for each position of `t`");
            let hint = "what a whole sequence adds up to is a state so far: `recur … over t`";
            return Err(self.error(error.label(format!("its axes are {}", self.axes_text(&ty.axes))).hint(hint)));
        }
        let t = self.as_float(t, value.span, frame.scope)?;
        let path = frame.below(&name.name);
        let taken = |path: &String| self.outputs.iter().any(|(known, _)| known == path);
        let places = std::iter::once(path.clone()).chain((2..).map(|n| format!("{path}_{n}")));
        let path = places.into_iter().find(|path| !taken(path)).unwrap_or(path);
        self.outputs.push((path, t));
        Ok(())
    }

    /// The result's rows with those of all outputs behind them, and what these are; the axes of each are merged, the first slowest.
    pub(super) fn joined(&mut self, result: T, span: Span) -> Done<Joined> {
        if self.outputs.is_empty() {
            return Ok((None, vec![]));
        }
        let outputs = std::mem::take(&mut self.outputs);
        if !self.ty(result).axes.contains(&SEQ) {
            return self.fail(Code::AxisMismatch, span, "a model with outputs returns a row for each position of `t`");
        }
        let (mut rows, mut axes) = (Vec::new(), Vec::new());
        for t in std::iter::once(result).chain(outputs.iter().map(|(_, t)| *t)) {
            let (row, axis) = self.row_of(t, span)?;
            rows.push(row);
            axes.push(axis);
        }
        let to = self.axis("row", axes.iter().map(|axis| self.size(*axis)).sum());
        let ty = Type { elem: Elem::Float, axes: vec![SEQ, to] };
        let joined = self.apply(Op::Concat(axes, to), &rows, ty, span, ScopeId(0))?;
        Ok((Some(joined.id), outputs.into_iter().map(|(path, t)| (path, self.ty(t))).collect()))
    }

    /// A tensor with one axis beside the sequence.
    fn row_of(&mut self, t: T, span: Span) -> Done<(T, AxisId)> {
        let t = self.as_float(t, span, ScopeId(0))?;
        let own: Vec<AxisId> = self.ty(t).axes.into_iter().filter(|axis| *axis != SEQ).collect();
        if let [axis] = own[..] {
            return Ok((t, axis));
        }
        let part = self.axis("part", own.iter().map(|axis| self.size(*axis)).product());
        if own.is_empty() {
            let zero = self.push(Op::Index(part), vec![], Type { elem: Elem::Int, axes: vec![part] }, span, ScopeId(0));
            return Ok((self.binary(Binary::Add, t, zero, span, ScopeId(0))?, part));
        }
        let ty = Type { elem: Elem::Float, axes: vec![SEQ, part] };
        Ok((self.apply(Op::Merge(own, part), &[t], ty, span, ScopeId(0))?, part))
    }
}
