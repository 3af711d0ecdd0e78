//! What stands in brackets after a value: views, picks, gathers, list elements.

use super::frame::{BlockValue, Frame, Origin, V};
use super::{Done, Elab, T};
use crate::ast::{Expr, ExprKind, Ident, IndexItem};
use crate::constant;
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Elem, Held, Op, Type};
use crate::span::Span;

impl<'p> Elab<'p> {
    /// `base[items]` where it is not called.
    pub(super) fn index(&mut self, frame: &mut Frame<'p>, base: &'p Expr, items: &'p [IndexItem], span: Span) -> Done<V<'p>> {
        if let ExprKind::Name(name) = &base.kind
            && frame.get(name).is_none()
        {
            match (name.as_str(), items) {
                ("index", [IndexItem::Plain(axis)]) => return self.index_of(frame, axis, span),
                ("position", [IndexItem::Plain(axis)]) => {
                    let axis = self.axis_named(frame, axis)?;
                    return self.along(frame, Op::Position(axis), axis, span);
                }
                ("length", [IndexItem::Plain(axis)]) => {
                    let (axis, held) = self.sequence_named(frame, axis)?;
                    return self.along(frame, Op::Length(axis, held), axis, span);
                }
                ("random", _) => return self.random(frame, items, &[], span),
                _ => {}
            }
        }
        match self.value(frame, base)? {
            V::Const(list) => match items {
                [IndexItem::Plain(at)] => {
                    let at = self.constant(frame, at)?;
                    match constant::element(&list, &at) {
                        Ok(value) => Ok(V::Const(value)),
                        Err(why) => self.fail(Code::Arithmetic, span, why),
                    }
                }
                _ => self.fail(Code::Type, span, "a list takes one index"),
            },
            V::Block(block) => {
                let axes = self.plain_axes(frame, items, span)?;
                Ok(V::Block(Box::new(BlockValue { axes, ..*block })))
            }
            V::Tensor(mut t) => {
                for item in items {
                    t = self.item(frame, t, item, span)?;
                }
                Ok(V::Tensor(t))
            }
            V::Poison => Err(super::Stop),
            V::Dim(..) | V::Dims(_) | V::Tuple(_) => {
                self.fail(Code::Type, span, "only a tensor, a list or a block takes brackets")
            }
        }
    }

    /// The axes of a list of plain names.
    pub(super) fn plain_axes(&mut self, frame: &mut Frame<'p>, items: &'p [IndexItem], span: Span) -> Done<Vec<AxisId>> {
        let mut axes = Vec::new();
        for item in items {
            match item {
                IndexItem::Plain(expr) => axes.push(self.axis_named(frame, expr)?),
                _ => return self.fail(Code::Syntax, span, "only names of axes stand in these brackets"),
            }
        }
        Ok(axes)
    }

    fn axis_named(&mut self, frame: &Frame<'p>, expr: &'p Expr) -> Done<AxisId> {
        match &expr.kind {
            ExprKind::Name(name) => self.axis_of(frame, &Ident { name: name.clone(), span: expr.span }),
            _ => self.fail(Code::UnknownAxis, expr.span, "the name of an axis is needed here"),
        }
    }

    fn index_of(&mut self, frame: &Frame<'p>, axis: &'p Expr, span: Span) -> Done<V<'p>> {
        let axis = self.axis_named(frame, axis)?;
        if self.is_seq(axis) {
            return self.fail(Code::Misplaced, span, "the sequence has no fixed index: write `position[t]`");
        }
        let ty = Type { elem: Elem::Int, axes: vec![axis] };
        // Attention reads it as it reads any other tensor; elsewhere it is a leaf.
        let level = if self.levels[self.depth()].positions.is_some() { 0 } else { self.depth() };
        Ok(V::Tensor(self.push_at(level, Op::Index(axis), vec![], ty, span, frame.scope)))
    }

    /// An axis, or `prompt`: what the first call holds of the sequence.
    pub(super) fn sequence_named(&mut self, frame: &Frame<'p>, expr: &'p Expr) -> Done<(AxisId, Held)> {
        match &expr.kind {
            ExprKind::Name(name) => self.sequence_of(frame, &Ident { name: name.clone(), span: expr.span }),
            _ => Ok((self.axis_named(frame, expr)?, Held::Sequence)),
        }
    }

    fn sequence_of(&mut self, frame: &Frame<'p>, name: &Ident) -> Done<(AxisId, Held)> {
        match name.name == "prompt" && frame.get("prompt").is_none() {
            true => Ok((frame.seq, Held::Prompt)),
            false => Ok((self.axis_of(frame, name)?, Held::Sequence)),
        }
    }

    /// A leaf that counts along the sequence.
    fn along(&mut self, frame: &Frame<'p>, op: Op, axis: AxisId, span: Span) -> Done<V<'p>> {
        if !self.is_seq(axis) {
            return self.fail(Code::Misplaced, span, "only the sequence axis has positions: write `index[…]`");
        }
        let ty = Type { elem: Elem::Int, axes: vec![axis] };
        Ok(V::Tensor(self.push_at(0, op, vec![], ty, span, frame.scope)))
    }

    fn item(&mut self, frame: &mut Frame<'p>, t: T, item: &'p IndexItem, span: Span) -> Done<T> {
        match item {
            IndexItem::Rename(from, to) => {
                let from = self.axis_of(frame, from)?;
                let size = self.size(from);
                let to = self.target(frame, to, size)?;
                if from == to {
                    return Ok(t);
                }
                self.view(frame, t, Op::Rename(from, to), &[from], &[to], span)
            }
            IndexItem::Split(from, into) => {
                let from = self.axis_of(frame, from)?;
                let mut axes = Vec::new();
                for (n, name) in into.iter().enumerate() {
                    let others: usize =
                        into.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, o)| self.dim_size(frame, o)).product();
                    let guess = self.size(from) / others.max(1);
                    axes.push(self.target_of(frame, name, guess, false)?);
                }
                let product: usize = axes.iter().map(|a| self.size(*a)).product();
                if product != self.size(from) {
                    let message = format!("an axis of {} cannot be split into {}", self.size(from), self.axes_text(&axes));
                    return self.fail(Code::AxisMismatch, span, message);
                }
                self.view(frame, t, Op::Split(from, axes.clone()), &[from], &axes, span)
            }
            IndexItem::Merge(from, into) => {
                let axes = from.iter().map(|a| self.axis_of(frame, a)).collect::<Done<Vec<_>>>()?;
                let product = axes.iter().map(|a| self.size(*a)).product();
                let to = self.target(frame, into, product)?;
                self.view(frame, t, Op::Merge(axes.clone(), to), &axes, &[to], span)
            }
            IndexItem::Slice(axis, from, to, name) => {
                let axis = self.axis_of(frame, axis)?;
                let (start, end) = (self.count(frame, from)?, self.count(frame, to)?);
                if start >= end || end > self.size(axis) {
                    let message = format!("{start}..{end} lies outside of an axis of {}", self.size(axis));
                    return self.fail(Code::AxisMismatch, span, message);
                }
                let to = match name {
                    Some(name) => self.target(frame, name, end - start)?,
                    None if end - start == self.size(axis) => return Ok(t),
                    None => return self.fail(Code::Syntax, span, "a part of an axis needs a name: `x[a: 0..4 as b]`"),
                };
                self.view(frame, t, Op::Slice { axis, start, to }, &[axis], &[to], span)
            }
            IndexItem::At(axis, at) => {
                let (axis, held) = self.sequence_of(frame, axis)?;
                let value = self.value(frame, at)?;
                match &value {
                    V::Tensor(at) if self.is_seq(axis) && self.depth() > 0 => {
                        return self.at_position(t, (*at, axis, held), span, frame.scope);
                    }
                    _ if self.is_seq(axis) => return self.fetch(frame, t, (axis, held), &value, (at.span, span)),
                    _ => {}
                }
                match Self::known(&value) {
                    Some(known) => {
                        let index = self.as_count(&known, at.span)?;
                        if index >= self.size(axis) {
                            let message = format!("index {index} lies outside of an axis of {}", self.size(axis));
                            return self.fail(Code::AxisMismatch, at.span, message);
                        }
                        self.view(frame, t, Op::Pick { axis, index }, &[axis], &[], span)
                    }
                    None => {
                        let ids = self.tensor(&value, None, at.span, frame.scope)?;
                        self.gather(frame, t, axis, ids, span)
                    }
                }
            }
            IndexItem::Plain(expr) => {
                self.fail(Code::Syntax, expr.span, "say what to do with the axis: `x[a as b]`, `x[a: 0..4 as b]`, `x[a: 3]`")
            }
        }
    }

    /// `x[t: n]` and `x[prompt: n]` outside of recurrences and attention.
    fn fetch(
        &mut self,
        frame: &Frame<'p>,
        x: T,
        (axis, held): (AxisId, Held),
        at: &V<'p>,
        (place, span): (Span, Span),
    ) -> Done<T> {
        self.row_wise(span, "x[t: …]")?;
        let at = self.tensor(at, Some(Elem::Int), place, frame.scope)?;
        let (ty, counted) = (self.seen(x), self.seen(at));
        if !ty.axes.contains(&axis) {
            let error =
                Diagnostic::new(Code::AxisMismatch, span, format!("the operand has no sequence axis `{}`", self.axis_name(axis)));
            return Err(self.error(error.label(format!("its axes are {}", self.axes_text(&ty.axes)))));
        }
        if counted.elem != Elem::Int || counted.axes != [axis] {
            let label = format!("is {:?} {}", counted.elem, self.axes_text(&counted.axes)).to_lowercase();
            let error = Diagnostic::new(Code::Type, place, "a whole number for each position chooses rows: an int [t]");
            return Err(self.error(error.label(label).hint("as `position[t] + 1`, or `length[t] - 1 - position[t]`")));
        }
        self.apply(Op::Fetch(axis, held), &[x, at], ty, span, frame.scope)
    }

    fn gather(&mut self, frame: &Frame<'p>, table: T, axis: AxisId, ids: T, span: Span) -> Done<T> {
        let (table_ty, ids_ty) = (self.seen(table), self.seen(ids));
        self.need_axes(&table_ty, &[axis], span)?;
        if ids_ty.elem != Elem::Int {
            return self.fail(Code::Type, span, "only whole numbers choose along an axis");
        }
        let rest: Vec<AxisId> = table_ty.axes.iter().copied().filter(|a| *a != axis).collect();
        let axes = self.union(&ids_ty.axes, &rest, span)?;
        let ids = self.inside(table, axis, ids, span, frame.scope)?;
        self.apply(Op::Gather(axis), &[table, ids], Type { elem: table_ty.elem, axes }, span, frame.scope)
    }

    fn dim_size(&self, frame: &Frame<'p>, name: &Ident) -> usize {
        match frame.get(&name.name) {
            Some(V::Dim(n, _)) => *n,
            _ => 1,
        }
    }

    /// The axis that a view makes: a declared dim of that size, or a new one.
    pub(super) fn target(&mut self, frame: &mut Frame<'p>, name: &Ident, size: usize) -> Done<AxisId> {
        self.target_of(frame, name, size, true)
    }

    fn target_of(&mut self, frame: &mut Frame<'p>, name: &Ident, size: usize, exact: bool) -> Done<AxisId> {
        match frame.get(&name.name) {
            Some(V::Dim(n, axis)) if !exact || *n == size => Ok(*axis),
            Some(V::Dim(n, _)) => {
                let message = format!("dim `{}` has size {n}, but {size} is needed", name.name);
                self.fail(Code::AxisMismatch, name.span, message)
            }
            Some(V::Const(c)) => {
                let n = self.as_count(&c.clone(), name.span)?;
                if exact && n != size {
                    let message = format!("`{}` is {n}, but {size} is needed", name.name);
                    return self.fail(Code::AxisMismatch, name.span, message);
                }
                Ok(self.fresh_axis(frame, &name.name, n))
            }
            Some(V::Poison) => Err(super::Stop),
            Some(_) => self.fail(Code::UnknownAxis, name.span, format!("`{}` is not an axis", name.name)),
            None => {
                let axis = self.fresh_axis(frame, &name.name, size);
                frame.bind(&name.name, V::Dim(size, axis), Origin::Local);
                Ok(axis)
            }
        }
    }

    fn view(&mut self, frame: &Frame<'p>, t: T, op: Op, from: &[AxisId], to: &[AxisId], span: Span) -> Done<T> {
        let ty = self.seen(t);
        self.need_axes(&ty, from, span)?;
        let place = ty.axes.iter().position(|a| from.contains(a)).unwrap_or(0);
        let mut axes: Vec<AxisId> = ty.axes[..place].to_vec();
        axes.extend(to);
        axes.extend(ty.axes[place..].iter().copied().filter(|a| !from.contains(a)));
        let twice = (0..axes.len()).find(|i| axes[..*i].iter().any(|a| self.axis_name(*a) == self.axis_name(axes[*i])));
        if let Some(i) = twice {
            let name = self.axis_name(axes[i]).to_owned();
            return self.fail(Code::AxisMismatch, span, format!("the tensor would have two axes `{name}`"));
        }
        self.apply(op, &[t], Type { elem: ty.elem, axes }, span, frame.scope)
    }
}
