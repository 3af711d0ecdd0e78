//! What flows from a value back to one of its operands, op by op.

use super::Tape;
use super::flow::Flow;
use crate::diagnostic::{Code, Diagnostic};
use crate::elaborate::{Done, T};
use crate::model::{AxisId, Binary, Elem, Op, Reduce, Type, Unary, Value};

impl Tape<'_, '_> {
    /// What flows back to the `n`-th operand of `own`.
    pub fn back(&mut self, value: &Value, own: T, n: usize, flow: Flow) -> Done<Flow> {
        let arg = |n: usize| T { level: own.level, id: value.args[n] };
        let to = self.elab.seen(arg(n)).axes;
        match &value.op {
            Op::Unary(f) => self.unary_back(*f, arg(0), own, flow, value),
            Op::Binary(f) => {
                let flow = self.binary_back(*f, [arg(0), arg(1)], own, n, flow, value)?;
                self.summed(flow, &value.ty.axes, &to)
            }
            Op::Select => {
                let chosen = self.chosen(arg(0), flow, n == 1)?;
                self.summed(chosen, &value.ty.axes, &to)
            }
            Op::Reduce(Reduce::Sum, _) => Ok(flow),
            Op::Reduce(_, over) => self.largest_back(arg(0), own, over, flow),
            Op::Rename(from, into) => self.moved(flow, *into, |axis| Op::Rename(axis, *from), &[*from]),
            Op::Pick { axis, index } => {
                let here = self.is_index(*axis, *index)?;
                self.chosen(here, flow, true)
            }
            Op::Slice { axis, start, to } => self.slice_back(*axis, *start, *to, flow),
            Op::Split(axis, parts) => self.split_back(*axis, parts, flow),
            Op::Merge(parts, axis) => self.moved(flow, *axis, |axis| Op::Split(axis, parts.clone()), parts),
            Op::Concat(parts, axis) => self.concat_back(value, n, (parts, *axis), &to, flow),
            Op::Gather(axis) => self.gather_back(*axis, arg(0), arg(1), value, flow),
            Op::Solve { rows, columns } => self.solve_back(value, own, n, (*rows, *columns), flow),
            other => self.refused(other, value),
        }
    }

    /// `x = A^-1 b`: to `b` flows `y = A^-T x'`, to `A` flows `-y x^T`.
    fn solve_back(&mut self, value: &Value, own: T, n: usize, (rows, columns): (AxisId, AxisId), flow: Flow) -> Done<Flow> {
        let [matrix, right] = [0, 1].map(|n: usize| T { level: own.level, id: value.args[n] });
        let here = self.tensor(&Flow { by: 1.0, factors: flow.factors })?;
        let here = self.spread(here, &[columns])?;
        let (of_a, of_b) = (self.elab.seen(matrix).axes, self.elab.seen(here).axes);
        let ty = self.elab.solved(&of_a, &of_b, (columns, rows), self.span)?;
        let turned = Op::Solve { rows: columns, columns: rows };
        let back = self.elab.apply(turned, &[matrix, here], ty, self.span, self.scope)?;
        let mut from = self.elab.seen(back).axes;
        if n == 1 {
            let to = self.elab.seen(right).axes;
            return self.summed(self.times(Flow::number(flow.by), back), &from, &to);
        }
        from.push(columns);
        let flow = self.times(Flow::number(-flow.by), back);
        self.summed(self.times(flow, own), &from, &of_a)
    }

    /// An op that has no derivative, or none that is known.
    fn refused<R>(&mut self, op: &Op, value: &Value) -> Done<R> {
        let what = match op {
            Op::Unary(f) => format!("{f:?}").to_lowercase(),
            Op::Binary(f) => crate::constant::word(*f).to_owned(),
            Op::ToFloat => "float".into(),
            Op::Shift(_) => "shift".into(),
            Op::Fetch(..) => "x[t: …]".into(),
            Op::Largest { .. } => "nth_largest".into(),
            Op::Conv(_) => "convolve".into(),
            Op::Recur(_) | Op::Result(_) => "recur".into(),
            Op::Attend(_) => "attend".into(),
            _ => "an operation".into(),
        };
        let error = Diagnostic::new(Code::Misplaced, self.span, format!("`{what}` stands in the way of this gradient"));
        Err(self.elab.error(error.label("cannot be differentiated").at(value.span, "the loss passes through this")))
    }

    fn unary_back(&mut self, f: Unary, x: T, own: T, flow: Flow, value: &Value) -> Done<Flow> {
        let slope = match f {
            Unary::Neg => return Ok(flow.scaled(-1.0)),
            Unary::Exp => own,
            Unary::Log => self.inverse(x)?,
            Unary::Sqrt => return self.inverse(own).map(|one| self.times(flow.scaled(0.5), one)),
            Unary::Rsqrt => {
                // y = x^-1/2, y' = -y³ / 2.
                let square = self.binary(Binary::Mul, own, own)?;
                let flow = self.times(flow.scaled(-0.5), square);
                return Ok(self.times(flow, own));
            }
            Unary::Sigmoid => {
                let rest = self.one_less(own)?;
                let flow = self.times(flow, own);
                return Ok(self.times(flow, rest));
            }
            Unary::Tanh => {
                let square = self.binary(Binary::Mul, own, own)?;
                self.one_less(square)?
            }
            Unary::Softplus => self.unary(Unary::Sigmoid, x)?,
            Unary::Erf => {
                let square = self.binary(Binary::Mul, x, x)?;
                let minus = self.unary(Unary::Neg, square)?;
                let bell = self.unary(Unary::Exp, minus)?;
                return Ok(self.times(flow.scaled(std::f64::consts::FRAC_2_SQRT_PI), bell));
            }
            Unary::Sin => self.unary(Unary::Cos, x)?,
            Unary::Cos => return self.unary(Unary::Sin, x).map(|sin| self.times(flow.scaled(-1.0), sin)),
            Unary::Abs => {
                // 0 at 0.
                let (zero, one, less) = (self.number(0.0), self.number(1.0), self.number(-1.0));
                let (above, below) = (self.binary(Binary::Gt, x, zero)?, self.binary(Binary::Lt, x, zero)?);
                let rest = self.select(below, less, zero)?;
                self.select(above, one, rest)?
            }
            // Straight through (Bengio et al. 2013, arXiv:1308.3432): that of its operand.
            Unary::Round => return Ok(flow),
            Unary::Floor | Unary::Not => return self.refused(&value.op, value),
        };
        Ok(self.times(flow, slope))
    }

    fn binary_back(&mut self, f: Binary, [a, b]: [T; 2], own: T, n: usize, flow: Flow, value: &Value) -> Done<Flow> {
        match (f, n) {
            (Binary::Add, _) | (Binary::Sub, 0) => Ok(flow),
            (Binary::Sub, _) => Ok(flow.scaled(-1.0)),
            (Binary::Mul, _) => Ok(self.times(flow, if n == 0 { b } else { a })),
            (Binary::Div, 0) => match self.constant(b) {
                Some(number) => Ok(flow.scaled(1.0 / number)),
                None => self.inverse(b).map(|one| self.times(flow, one)),
            },
            (Binary::Div, _) => {
                let one = self.inverse(b)?;
                let flow = self.times(flow.scaled(-1.0), own);
                Ok(self.times(flow, one))
            }
            (Binary::Pow, 0) => self.base_back(a, b, flow),
            (Binary::Pow, _) => match self.constant(a) {
                Some(base) => Ok(self.times(flow.scaled(base.ln()), own)),
                None => {
                    let log = self.unary(Unary::Log, a)?;
                    let flow = self.times(flow, own);
                    Ok(self.times(flow, log))
                }
            },
            (Binary::Max | Binary::Min, _) => {
                let first = self.binary(if f == Binary::Max { Binary::Ge } else { Binary::Le }, a, b)?;
                self.chosen(first, flow, n == 0)
            }
            _ => self.refused(&value.op, value),
        }
    }

    /// To the base of a power: `p a^(p - 1)`.
    fn base_back(&mut self, a: T, p: T, flow: Flow) -> Done<Flow> {
        if let Some(power) = self.constant(p) {
            return Ok(match power {
                0.0 => Flow::number(0.0),
                1.0 => flow,
                2.0 => self.times(flow.scaled(2.0), a),
                _ => {
                    let less = self.number(power - 1.0);
                    let rest = self.binary(Binary::Pow, a, less)?;
                    self.times(flow.scaled(power), rest)
                }
            });
        }
        let one = self.number(1.0);
        let less = self.binary(Binary::Sub, p, one)?;
        let rest = self.binary(Binary::Pow, a, less)?;
        let flow = self.times(flow, p);
        Ok(self.times(flow, rest))
    }

    fn inverse(&mut self, x: T) -> Done<T> {
        let one = self.number(1.0);
        self.binary(Binary::Div, one, x)
    }

    fn one_less(&mut self, x: T) -> Done<T> {
        let one = self.number(1.0);
        self.binary(Binary::Sub, one, x)
    }

    fn select(&mut self, condition: T, a: T, b: T) -> Done<T> {
        let [tc, ta, tb] = [condition, a, b].map(|t| self.elab.seen(t).axes);
        let axes = self.elab.union(&tc, &ta, self.span)?;
        let axes = self.elab.union(&axes, &tb, self.span)?;
        self.elab.apply(Op::Select, &[condition, a, b], Type { elem: Elem::Float, axes }, self.span, self.scope)
    }

    /// The flow where a condition is `holds`, 0 elsewhere.
    fn chosen(&mut self, condition: T, flow: Flow, holds: bool) -> Done<Flow> {
        let (here, zero) = (self.tensor(&Flow { by: 1.0, factors: flow.factors })?, self.number(0.0));
        let (a, b) = if holds { (here, zero) } else { (zero, here) };
        self.select(condition, a, b).map(|t| Flow { by: flow.by, factors: vec![t] })
    }

    /// Whether an axis is at `index`.
    fn is_index(&mut self, axis: AxisId, index: usize) -> Done<T> {
        let ty = Type { elem: Elem::Int, axes: vec![] };
        let number = self.elab.push(Op::Const(index as f64), vec![], ty, self.span, self.scope);
        let at = self.index(axis);
        self.binary(Binary::Eq, at, number)
    }

    /// A maximum passes on to its places, in equal parts.
    fn largest_back(&mut self, x: T, own: T, over: &[AxisId], flow: Flow) -> Done<Flow> {
        let (one, zero) = (self.number(1.0), self.number(0.0));
        let is_it = self.binary(Binary::Eq, x, own)?;
        let mark = self.select(is_it, one, zero)?;
        let count = self.elab.reduce(Reduce::Sum, over.to_vec(), mark, self.span, self.scope)?;
        let share = self.inverse(count)?;
        let flow = self.times(flow, share);
        Ok(self.times(flow, mark))
    }

    /// Every factor that has `axis` with the view that undoes one.
    fn moved(&mut self, flow: Flow, axis: AxisId, undo: impl Fn(AxisId) -> Op, into: &[AxisId]) -> Done<Flow> {
        let mut moved = Flow::number(flow.by);
        for factor in flow.factors {
            let t =
                if self.elab.seen(factor).axes.contains(&axis) { self.view(factor, undo(axis), &[axis], into)? } else { factor };
            moved = self.times(moved, t);
        }
        Ok(moved)
    }

    /// A view of one tensor: `from` become `into`.
    fn view(&mut self, t: T, op: Op, from: &[AxisId], into: &[AxisId]) -> Done<T> {
        let ty = self.elab.seen(t);
        let axes = ty.axes.iter().copied().filter(|axis| !from.contains(axis)).chain(into.iter().copied()).collect();
        self.elab.apply(op, &[t], Type { axes, ..ty }, self.span, self.scope)
    }

    /// Zeros around the part that was cut out.
    fn slice_back(&mut self, axis: AxisId, start: usize, part: AxisId, flow: Flow) -> Done<Flow> {
        let (size, kept) = (self.elab.size(axis), self.elab.size(part));
        let here = self.tensor(&Flow { by: 1.0, factors: flow.factors })?;
        let here = self.spread(here, &[part])?;
        let name = self.elab.axis_name(axis).to_owned();
        let (mut axes, mut parts) = (vec![part], vec![here]);
        if start > 0 {
            let before = self.elab.axis(&format!("{name}'before"), start);
            parts.insert(0, self.zeros(before)?);
            axes.insert(0, before);
        }
        if start + kept < size {
            let after = self.elab.axis(&format!("{name}'after"), size - start - kept);
            parts.push(self.zeros(after)?);
            axes.push(after);
        }
        let ty = self.elab.seen(here);
        let rest = ty.axes.iter().copied().filter(|a| *a != part).chain([axis]).collect();
        let whole = self.elab.apply(Op::Concat(axes, axis), &parts, Type { axes: rest, ..ty }, self.span, self.scope)?;
        Ok(self.times(Flow::number(flow.by), whole))
    }

    fn split_back(&mut self, axis: AxisId, parts: &[AxisId], flow: Flow) -> Done<Flow> {
        let mut whole = Flow::number(flow.by);
        for factor in flow.factors {
            let has = self.elab.seen(factor).axes.iter().any(|axis| parts.contains(axis));
            let factor = if has {
                let full = self.spread(factor, parts)?;
                self.view(full, Op::Merge(parts.to_vec(), axis), parts, &[axis])?
            } else {
                factor
            };
            whole = self.times(whole, factor);
        }
        Ok(whole)
    }

    fn concat_back(
        &mut self,
        value: &Value,
        n: usize,
        (parts, axis): (&[AxisId], AxisId),
        to: &[AxisId],
        flow: Flow,
    ) -> Done<Flow> {
        let rest: Vec<AxisId> = to.iter().copied().filter(|a| *a != parts[n]).chain([axis]).collect();
        let flow = self.summed(flow, &value.ty.axes, &rest)?;
        let start: usize = parts[..n].iter().map(|part| self.elab.size(*part)).sum();
        let cut = |axis| Op::Slice { axis, start, to: parts[n] };
        self.moved(flow, axis, cut, &[parts[n]])
    }

    /// To the table: to each row the sum of what flows back to its copies.
    fn gather_back(&mut self, axis: AxisId, table: T, ids: T, value: &Value, flow: Flow) -> Done<Flow> {
        let mut flow = flow;
        let (mut ids, mut from) = (ids, value.ty.axes.clone());
        if from.contains(&axis) {
            // The ids count along the axis that they look up: under another name both can stand side by side.
            let name = format!("{}'ids", self.elab.axis_name(axis));
            let other = self.elab.axis(&name, self.elab.size(axis));
            flow = self.moved(flow, axis, |axis| Op::Rename(axis, other), &[other])?;
            ids = self.view(ids, Op::Rename(axis, other), &[axis], &[other])?;
            from.iter_mut().filter(|a| **a == axis).for_each(|a| *a = other);
        }
        let to = self.elab.seen(table).axes;
        let at = self.index(axis);
        let is_it = self.binary(Binary::Eq, ids, at)?;
        let chosen = self.chosen(is_it, flow, true)?;
        self.summed(chosen, &from, &to)
    }
}
