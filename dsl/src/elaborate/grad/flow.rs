//! What flows back to a value: a number times a product of tensors. Axes that it lacks are axes along which it is constant.

use super::Tape;
use crate::diagnostic::{Code, Diagnostic};
use crate::elaborate::{Done, SEQ, T};
use crate::model::{AxisId, Binary, Op, Reduce, Unary, ValueId};

/// The derivative of the loss by one value.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The number in front.
    pub by: f64,
    /// The factors; products are made as late as can be, so that sums find small ones.
    pub factors: Vec<T>,
}

impl Flow {
    /// The same everywhere.
    pub fn number(by: f64) -> Flow {
        Flow { by, factors: vec![] }
    }

    /// Times a number.
    pub fn scaled(mut self, by: f64) -> Flow {
        self.by *= by;
        self
    }
}

impl Tape<'_, '_> {
    /// The number of a constant.
    pub fn constant(&self, t: T) -> Option<f64> {
        match self.elab.levels[t.level].values[t.id.0 as usize].op {
            Op::Const(number) => Some(number),
            _ => None,
        }
    }

    /// Times a tensor; numbers and signs go to the front.
    pub fn times(&self, mut flow: Flow, t: T) -> Flow {
        let value = &self.elab.levels[t.level].values[t.id.0 as usize];
        let part = |n: usize| T { level: t.level, id: value.args.get(n).copied().unwrap_or(ValueId(0)) };
        match value.op {
            Op::Const(number) => return flow.scaled(number),
            Op::Unary(Unary::Neg) => return self.times(flow.scaled(-1.0), part(0)),
            Op::Binary(Binary::Mul) => {
                for (one, other) in [(part(0), part(1)), (part(1), part(0))] {
                    if let Some(number) = self.constant(one) {
                        return self.times(flow.scaled(number), other);
                    }
                }
            }
            _ => {}
        }
        flow.factors.push(t);
        flow.factors.sort_by_key(|t| t.id);
        flow
    }

    /// As a tensor: small factors meet first, the number the smallest.
    pub fn tensor(&mut self, flow: &Flow) -> Done<T> {
        if flow.by == 0.0 || flow.factors.is_empty() {
            return Ok(self.number(flow.by));
        }
        let mut factors = flow.factors.clone();
        factors.sort_by_key(|t| self.elements(*t));
        let first = match flow.by {
            1.0 => factors[0],
            -1.0 => self.elab.unary(Unary::Neg, factors[0], self.span, self.scope)?,
            by => {
                let number = self.number(by);
                self.binary(Binary::Mul, factors[0], number)?
            }
        };
        factors.into_iter().skip(1).try_fold(first, |product, next| self.binary(Binary::Mul, product, next))
    }

    fn elements(&mut self, t: T) -> usize {
        let axes = self.elab.seen(t).axes;
        axes.into_iter().map(|axis| self.elab.size(axis).max(1)).product()
    }

    /// `f(a, b)`.
    pub fn binary(&mut self, f: Binary, a: T, b: T) -> Done<T> {
        self.elab.binary(f, a, b, self.span, self.scope)
    }

    /// `f(x)`.
    pub fn unary(&mut self, f: Unary, x: T) -> Done<T> {
        self.elab.unary(f, x, self.span, self.scope)
    }

    /// With its factors as one: several will use it.
    pub fn joined(&mut self, flow: Flow) -> Done<Flow> {
        if flow.factors.len() < 2 {
            return Ok(flow);
        }
        let product = self.tensor(&Flow { by: 1.0, factors: flow.factors })?;
        Ok(Flow { by: flow.by, factors: vec![product] })
    }

    /// The sum of two; factors that both have stay in front of it.
    pub fn plus(&mut self, mut a: Flow, mut b: Flow) -> Done<Flow> {
        if a.by == 0.0 || b.by == 0.0 {
            return Ok(if a.by == 0.0 { b } else { a });
        }
        if a.factors == b.factors {
            return Ok(Flow { by: a.by + b.by, ..a });
        }
        let mut common = vec![];
        a.factors.retain(|t| match b.factors.iter().position(|other| other == t) {
            Some(at) => {
                common.push(b.factors.remove(at));
                false
            }
            None => true,
        });
        // The sign is that of the first, so that a difference stays one.
        let (sign, minus) = (a.by.signum(), a.by.signum() != b.by.signum());
        let scale = if a.by.abs() == b.by.abs() { a.by.abs() } else { 1.0 };
        let x = self.tensor(&Flow { by: a.by.abs() / scale, ..a })?;
        let y = self.tensor(&Flow { by: b.by.abs() / scale, ..b })?;
        let sum = self.binary(if minus { Binary::Sub } else { Binary::Add }, x, y)?;
        Ok(common.into_iter().fold(self.times(Flow::number(sign * scale), sum), |flow, t| self.times(flow, t)))
    }

    /// Summed over the axes of `from` that `to` lacks: what flows back to something that was broadcast.
    pub fn summed(&mut self, flow: Flow, from: &[AxisId], to: &[AxisId]) -> Done<Flow> {
        let over: Vec<AxisId> = from.iter().copied().filter(|axis| !to.contains(axis)).collect();
        if over.contains(&SEQ) {
            let message = "the loss runs along `t`, and the tensor that it is differentiated by does not";
            let error = Diagnostic::new(Code::AxisMismatch, self.span, message);
            return Err(self.elab.error(error.hint("a gradient is not summed over the sequence: use `recur`")));
        }
        let mut carried: Vec<AxisId> = vec![];
        let (mut with, mut without) = (vec![], vec![]);
        for factor in flow.factors {
            let axes: Vec<AxisId> = self.elab.seen(factor).axes.into_iter().filter(|axis| over.contains(axis)).collect();
            if axes.is_empty() {
                without.push(factor)
            } else {
                with.push(factor)
            }
            carried.extend(axes);
        }
        carried = over.iter().copied().filter(|axis| carried.contains(axis)).collect();
        let missing: f64 = over.iter().filter(|axis| !carried.contains(axis)).map(|axis| self.elab.size(*axis) as f64).product();
        let rest = Flow { by: flow.by * missing, factors: without };
        if carried.is_empty() {
            return Ok(rest);
        }
        let product = self.tensor(&Flow { by: 1.0, factors: with })?;
        let sum = self.elab.reduce(Reduce::Sum, carried, product, self.span, self.scope)?;
        Ok(self.times(rest, sum))
    }
}
