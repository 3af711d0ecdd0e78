//! `grad(loss, S)`: the gradient of an expression by a tensor, made by the chain rule from the loss backwards.
//!
//! It is the gradient of the sum of all numbers of the loss. Where each number of the loss depends on one index of an axis that
//! `S` has too (a head), that is the gradient of each number by its own part of `S`. What comes out are ordinary equations: nothing
//! later knows that they were derived.

mod flow;
mod rules;

use super::frame::{Frame, V};
use super::{Done, Elab, T};
use crate::ast::{Arg, Expr, ExprKind};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Binary, Elem, Op, ScopeId, Type, Value, ValueId};
use crate::span::Span;
use flow::Flow;

/// One differentiation.
struct Tape<'a, 'p> {
    elab: &'a mut Elab<'p>,
    span: Span,
    scope: ScopeId,
}

impl<'p> Elab<'p> {
    /// `grad(loss, S)`.
    pub(super) fn grad(&mut self, frame: &mut Frame<'p>, args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let [loss, by] = args else {
            return self.fail(Code::Arity, span, "write `grad(loss, S)`: what is differentiated, and by which tensor");
        };
        let Some(name) = named(&by.value) else {
            let error = Diagnostic::new(Code::Type, by.value.span, "a gradient is taken by a named tensor");
            return Err(self.error(error.hint("give the expression a name, and use the name in the loss")));
        };
        let V::Tensor(of) = self.value(frame, &by.value)? else {
            return self.fail(
                Code::Type,
                by.value.span,
                format!("`{name}` is not a tensor: nothing can be differentiated by it"),
            );
        };
        if self.seen(of).elem != Elem::Float {
            return self.fail(Code::Type, by.value.span, format!("`{name}` does not hold real numbers"));
        }
        let of_loss = self.tensor_of(frame, &loss.value, Some(Elem::Float))?;
        let of_loss = self.as_float(of_loss, loss.value.span, frame.scope)?;
        let scope = frame.scope;
        let mut tape = Tape { elab: self, span, scope };
        tape.gradient(of_loss, of, name).map(V::Tensor)
    }
}

/// The name of a tensor that a gradient can be taken by: a variable, or the start of a state.
fn named(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        ExprKind::Name(name) => Some(name),
        ExprKind::Paren(inner) => named(inner),
        ExprKind::Call(callee, args) => match (&callee.kind, args.as_slice()) {
            (ExprKind::Name(start), [arg]) if start == "start" => named(&arg.value),
            _ => None,
        },
        _ => None,
    }
}

impl Tape<'_, '_> {
    /// The gradient of `loss` with exactly the axes of `of`.
    fn gradient(&mut self, loss: T, of: T, name: &str) -> Done<T> {
        let level = self.elab.depth();
        let (first, last) = (self.elab.here(of), self.elab.here(loss));
        self.nothing_outside(of, last, name)?;
        let live = self.live(level, first, last);
        if !live.last().copied().unwrap_or(false) {
            let error = Diagnostic::new(Code::Misplaced, self.span, format!("the loss does not depend on `{name}`"));
            return Err(self.elab.error(error.hint("a gradient is taken by the tensor that the name means where `grad` stands")));
        }
        let mut flows: Vec<Option<Flow>> = vec![None; live.len()];
        flows[live.len() - 1] = Some(Flow::number(1.0));
        for at in (1..live.len()).rev() {
            let Some(flow) = flows[at].take() else { continue };
            let id = ValueId(first.0 + at as u32);
            let value = self.elab.levels[level].values[id.0 as usize].clone();
            let is_live = |arg: &ValueId| arg.0 >= first.0 && live[(arg.0 - first.0) as usize];
            let ways: Vec<usize> = (0..value.args.len()).filter(|n| is_live(&value.args[*n])).collect();
            let ways: Vec<usize> = ways.into_iter().filter(|n| self.carries(&value, *n)).collect();
            let flow = if ways.len() > 1 { self.joined(flow)? } else { flow };
            for n in ways {
                let back = self.back(&value, T { level, id }, n, flow.clone())?;
                let place = (value.args[n].0 - first.0) as usize;
                flows[place] = Some(match flows[place].take() {
                    Some(other) => self.plus(other, back)?,
                    None => back,
                });
            }
        }
        let total = flows[0].take().unwrap_or_else(|| Flow::number(0.0));
        let total = self.tensor(&total)?;
        let ty = self.elab.seen(of);
        self.spread(total, &ty.axes)
    }

    /// Which values from `first` to `last` depend on `first`. Where only a truth value or a whole number depends, nothing flows.
    fn live(&self, level: usize, first: ValueId, last: ValueId) -> Vec<bool> {
        let values = &self.elab.levels[level].values;
        let mut live = vec![false; (last.0 + 1).saturating_sub(first.0) as usize];
        for at in 0..live.len() {
            let value = &values[first.0 as usize + at];
            let depends = |arg: &ValueId| arg.0 >= first.0 && live[(arg.0 - first.0) as usize];
            live[at] = at == 0 || value.args.iter().any(depends);
        }
        live
    }

    /// Whether changes of an operand can change a value by degrees: conditions and indices choose only.
    fn carries(&mut self, value: &Value, n: usize) -> bool {
        let elem = self.elab.levels[self.elab.depth()].values[value.args[n].0 as usize].ty.elem;
        elem == Elem::Float || matches!(value.op, Op::ToFloat)
    }

    /// Values that are made outside of the body from an outer tensor are not looked into: an error if the loss needs one.
    fn nothing_outside(&mut self, of: T, loss: ValueId, name: &str) -> Done<()> {
        let level = self.elab.depth();
        if of.level == level {
            return Ok(());
        }
        let outer = &self.elab.levels[of.level].values;
        let mut made_of = vec![false; outer.len()];
        made_of[of.id.0 as usize] = true;
        for at in of.id.0 as usize + 1..outer.len() {
            made_of[at] = outer[at].args.iter().any(|arg| made_of[arg.0 as usize]);
        }
        let inner = &self.elab.levels[level];
        let mut needed = vec![false; loss.0 as usize + 1];
        needed[loss.0 as usize] = true;
        let mut found = None;
        for at in (0..needed.len()).rev() {
            if !needed[at] {
                continue;
            }
            let value = &inner.values[at];
            value.args.iter().for_each(|arg| needed[arg.0 as usize] = true);
            if let Op::Capture(n) = value.op {
                let capture = inner.captures[n];
                if capture != of && capture.level == of.level && made_of[capture.id.0 as usize] {
                    found = Some(outer[capture.id.0 as usize].span);
                }
            }
        }
        let Some(place) = found else { return Ok(()) };
        let message = format!("the loss depends on `{name}` through a value that is made outside of this body");
        let error = Diagnostic::new(Code::Misplaced, self.span, message).at(place, "made here");
        Err(self.elab.error(error.hint("make it inside, or differentiate outside")))
    }

    /// A value along exactly `axes`, in their order or another.
    fn spread(&mut self, t: T, axes: &[AxisId]) -> Done<T> {
        let mut t = t;
        for axis in axes {
            if self.elab.seen(t).axes.contains(axis) {
                continue;
            }
            let zeros = self.zeros(*axis)?;
            t = self.elab.binary(Binary::Add, t, zeros, self.span, self.scope)?;
        }
        Ok(t)
    }

    /// Zeros along an axis.
    fn zeros(&mut self, axis: AxisId) -> Done<T> {
        let index = self.index(axis);
        let index = self.elab.as_float(index, self.span, self.scope)?;
        let zero = self.number(0.0);
        self.elab.binary(Binary::Mul, index, zero, self.span, self.scope)
    }

    fn index(&mut self, axis: AxisId) -> T {
        let ty = Type { elem: Elem::Int, axes: vec![axis] };
        let op = if self.elab.is_seq(axis) { Op::Position(axis) } else { Op::Index(axis) };
        self.elab.push(op, vec![], ty, self.span, self.scope)
    }

    fn number(&mut self, value: f64) -> T {
        self.elab.push(Op::Const(value), vec![], Type { elem: Elem::Float, axes: vec![] }, self.span, self.scope)
    }
}
