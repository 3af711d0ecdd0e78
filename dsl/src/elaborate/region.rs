//! Operations with structure: concatenation, search, convolution, shift, attention, routing.

use super::causal::sees_all_before;
use super::frame::{Frame, Origin, V};
use super::tensor::{Level, Side};
use super::{Done, Elab, SEQ, T};
use crate::ast::{Arg, Expr, ExprKind, Ident, IndexItem};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Attend, AxisId, Binary, Body, Constant, Elem, Gives, Op, Type, Value, ValueId};
use crate::span::Span;
use std::collections::BTreeMap;

/// What the clauses of an attention use from outside.
#[derive(Default)]
struct Seen {
    captures: Vec<T>,
    sides: BTreeMap<usize, Side>,
}

impl<'p> Elab<'p> {
    /// `concat[…]`, `top[…]`, `nth_largest[…]`, `convolve[…]`.
    pub(super) fn structural(
        &mut self,
        frame: &mut Frame<'p>,
        name: &str,
        items: &'p [IndexItem],
        args: &'p [Arg],
        span: Span,
    ) -> Done<V<'p>> {
        match (name, items, args) {
            ("concat", [.., IndexItem::Rename(last, into)], _) => {
                self.concat(frame, &items[..items.len() - 1], last, into, args, span)
            }
            ("concat", ..) => {
                self.fail(Code::Syntax, span, "write `concat[a, b as c](x, y)`: the operands' axes and the result's")
            }
            ("top", [IndexItem::Rename(axis, into)], [x, n]) => self.top(frame, axis, into, x, n, span),
            ("top", ..) => self.fail(Code::Syntax, span, "write `top[axis as slot](x, n)`"),
            ("nth_largest", [IndexItem::Plain(axis)], [x, n]) => self.largest(frame, axis, x, n, span),
            ("nth_largest", ..) => self.fail(Code::Syntax, span, "write `nth_largest[t](x, n)` or `nth_largest[prompt](x, n)`"),
            ("convolve", [IndexItem::Plain(axis)], [x, w]) => self.convolve(frame, axis, x, w, span),
            _ => self.fail(Code::Syntax, span, "write `convolve[width](x, weights)`"),
        }
    }

    fn concat(
        &mut self,
        frame: &mut Frame<'p>,
        firsts: &'p [IndexItem],
        last: &'p Ident,
        into: &'p Ident,
        args: &'p [Arg],
        span: Span,
    ) -> Done<V<'p>> {
        let mut axes = self.plain_axes(frame, firsts, span)?;
        axes.push(self.axis_of(frame, last)?);
        if axes.len() != args.len() {
            return self.fail(Code::Arity, span, format!("{} axes for {} operands", axes.len(), args.len()));
        }
        let total = axes.iter().map(|a| self.size(*a)).sum();
        let mut tensors = Vec::new();
        let mut rest: Vec<AxisId> = Vec::new();
        for (arg, axis) in args.iter().zip(&axes) {
            tensors.push(self.tensor_of(frame, &arg.value, None)?);
            let ty = self.seen(tensors[tensors.len() - 1]);
            self.need_axes(&ty, &[*axis], arg.value.span)?;
            let own: Vec<AxisId> = ty.axes.iter().copied().filter(|a| a != axis).collect();
            rest = self.union(&rest, &own, span)?;
        }
        let is_float = tensors.iter().any(|t| self.seen(*t).elem == Elem::Float);
        if is_float {
            tensors = tensors.into_iter().map(|t| self.as_float(t, span, frame.scope)).collect::<Done<_>>()?;
        }
        let elem = self.seen(tensors[0]).elem;
        let to = self.target(frame, into, total)?;
        rest.push(to);
        self.apply(Op::Concat(axes, to), &tensors, Type { elem, axes: rest }, span, frame.scope).map(V::Tensor)
    }

    fn top(
        &mut self,
        frame: &mut Frame<'p>,
        axis: &'p Ident,
        into: &'p Ident,
        x: &'p Arg,
        n: &'p Arg,
        span: Span,
    ) -> Done<V<'p>> {
        let x = self.tensor_of(frame, &x.value, Some(Elem::Float))?;
        let axis = self.axis_of(frame, axis)?;
        let count = self.count(frame, &n.value)?;
        let ty = self.seen(x);
        self.need_axes(&ty, &[axis], span)?;
        if count == 0 || count > self.size(axis) {
            let message = format!("{count} of {} cannot be chosen", self.size(axis));
            return self.fail(Code::AxisMismatch, n.value.span, message);
        }
        let into = self.target(frame, into, count)?;
        let mut axes: Vec<AxisId> = ty.axes.iter().copied().filter(|a| *a != axis).collect();
        axes.push(into);
        self.apply(Op::Top { axis, into }, &[x], Type { elem: Elem::Int, axes }, span, frame.scope).map(V::Tensor)
    }

    /// `nth_largest[t](x, n)`.
    fn largest(&mut self, frame: &mut Frame<'p>, axis: &'p Expr, x: &'p Arg, n: &'p Arg, span: Span) -> Done<V<'p>> {
        self.row_wise(span, "nth_largest")?;
        let (seq, held) = self.sequence_named(frame, axis)?;
        let x = self.tensor_of(frame, &x.value, Some(Elem::Float))?;
        let x = self.as_float(x, span, frame.scope)?;
        let ty = self.seen(x);
        if !self.is_seq(seq) || !ty.axes.contains(&seq) {
            return self.fail(
                Code::AxisMismatch,
                span,
                "`nth_largest` looks along the sequence of its operand: `nth_largest[t](x, n)`",
            );
        }
        let count = self.count(frame, &n.value)?;
        if count == 0 || count > i32::MAX as usize {
            return self.fail(Code::AxisMismatch, n.value.span, "the first one is the largest: `nth_largest[t](x, 1)`");
        }
        self.apply(Op::Largest { seq, count, held }, &[x], ty, span, frame.scope).map(V::Tensor)
    }

    fn convolve(&mut self, frame: &mut Frame<'p>, axis: &'p Expr, x: &'p Arg, w: &'p Arg, span: Span) -> Done<V<'p>> {
        let width = match &axis.kind {
            ExprKind::Name(name) => self.axis_of(frame, &Ident { name: name.clone(), span: axis.span })?,
            _ => return self.fail(Code::UnknownAxis, axis.span, "the name of an axis is needed here"),
        };
        self.row_wise(span, "convolve")?;
        let x = self.tensor_of(frame, &x.value, Some(Elem::Float))?;
        let w = self.tensor_of(frame, &w.value, Some(Elem::Float))?;
        let x = self.as_float(x, span, frame.scope)?;
        let (tx, tw) = (self.seen(x), self.seen(w));
        self.need_axes(&tw, &[width], span)?;
        self.need_seq(&tx, span)?;
        let rest: Vec<AxisId> = tw.axes.iter().copied().filter(|a| *a != width).collect();
        let axes = self.union(&tx.axes, &rest, span)?;
        self.apply(Op::Conv(width), &[x, w], Type { elem: Elem::Float, axes }, span, frame.scope).map(V::Tensor)
    }

    /// `shift(x, n)`.
    pub(super) fn shift(&mut self, frame: &mut Frame<'p>, x: &V<'p>, by: &V<'p>, span: Span) -> Done<V<'p>> {
        self.row_wise(span, "shift")?;
        let x = self.tensor(x, Some(Elem::Float), span, frame.scope)?;
        let x = self.as_float(x, span, frame.scope)?;
        let Some(by) = Self::known(by) else {
            return self.fail(Code::NotConstant, span, "the distance of a shift is a compile-time number");
        };
        let by = self.as_count(&by, span)?;
        let ty = self.seen(x);
        self.need_seq(&ty, span)?;
        if by == 0 {
            return Ok(V::Tensor(x));
        }
        self.apply(Op::Shift(by), &[x], ty, span, frame.scope).map(V::Tensor)
    }

    /// `select(c, a, b)`.
    pub(super) fn select(&mut self, frame: &mut Frame<'p>, c: &V<'p>, a: &V<'p>, b: &V<'p>, span: Span) -> Done<V<'p>> {
        if let Some(Constant::Bool(c)) = Self::known(c) {
            return Ok(if c { a.clone() } else { b.clone() });
        }
        let c = self.tensor(c, None, span, frame.scope)?;
        let mut a = self.tensor(a, None, span, frame.scope)?;
        let mut b = self.tensor(b, None, span, frame.scope)?;
        if self.seen(c).elem != Elem::Bool {
            return self.fail(Code::Type, span, "`select` chooses by a truth value");
        }
        if self.seen(a).elem != self.seen(b).elem {
            a = self.as_float(a, span, frame.scope)?;
            b = self.as_float(b, span, frame.scope)?;
        }
        let (tc, ta, tb) = (self.seen(c), self.seen(a), self.seen(b));
        let axes = self.union(&tc.axes, &ta.axes, span)?;
        let axes = self.union(&axes, &tb.axes, span)?;
        self.apply(Op::Select, &[c, a, b], Type { elem: ta.elem, axes }, span, frame.scope).map(V::Tensor)
    }

    pub(super) fn need_seq(&mut self, ty: &Type, span: Span) -> Done<()> {
        if self.seq_of(&ty.axes).is_some() {
            return Ok(());
        }
        let label = format!("its axes are {}", self.axes_text(&ty.axes));
        let error = Diagnostic::new(Code::AxisMismatch, span, "the operand has no sequence axis `t`");
        Err(self.error(error.label(label)))
    }

    pub(super) fn row_wise(&mut self, span: Span, what: &str) -> Done<()> {
        if self.levels.len() == 1 {
            return Ok(());
        }
        let error = Diagnostic::new(Code::Misplaced, span, format!("`{what}` cannot stand inside a recurrence or attention"));
        Err(self.error(error.hint("do it before, and use its result inside")))
    }

    /// `attend[k](q, k, v) { … }` and `choose[k as slot](q, k, n) { … }`.
    pub(super) fn attend(&mut self, frame: &mut Frame<'p>, attend: &'p crate::ast::Attend, span: Span) -> Done<V<'p>> {
        self.row_wise(span, "attend")?;
        let (gives, operands) = self.gives(frame, attend, span)?;
        let contract = self.spread_axes(frame, &attend.axes)?;
        let mut tensors = Vec::new();
        for arg in &attend.args[..operands] {
            let t = self.tensor_of(frame, &arg.value, Some(Elem::Float))?;
            let ty = self.seen(t);
            self.need_seq(&ty, arg.value.span)?;
            tensors.push(t);
        }
        let types: Vec<Type> = tensors.iter().map(|t| self.seen(*t)).collect();
        for ty in &types[..2] {
            self.need_axes(ty, &contract, span)?;
        }
        let [seq, keys, held] = [0, 1, operands - 1].map(|n: usize| self.seq_of(&types[n].axes).unwrap_or(SEQ));
        if keys != held || seq != keys && seq != SEQ {
            let error =
                Diagnostic::new(Code::AxisMismatch, span, "attention has queries along one sequence, keys and values along one");
            return Err(
                self.error(error.hint("positions of `t` see those of `t`, or those of the source `s`; the source sees itself"))
            );
        }
        let without = |axes: &[AxisId]| -> Vec<AxisId> {
            axes.iter().copied().filter(|a| !self.is_seq(*a) && !contract.contains(a)).collect()
        };
        let (of_queries, of_keys) = (without(&types[0].axes), without(&types[1].axes));
        let score_axes = self.union(&of_queries, &of_keys, span)?;
        let clause = |name: &str| attend.clauses.iter().find(|(n, _)| n.name == name).map(|(_, e)| e);
        let is_known = |name: &str| match name {
            "keep" | "score" | "weight" | "sink" | "policy" => true,
            _ => name == "by" && attend.tally,
        };
        if let Some((name, _)) = attend.clauses.iter().find(|(n, _)| !is_known(&n.name)) {
            let error = Diagnostic::new(Code::UnknownArgument, name.span, format!("attention has no clause `{}`", name.name));
            return Err(self.error(error.hint("the clauses are `keep`, `score` or `weight`, `sink` and `policy`")));
        }
        let plain = clause("weight").is_some();
        if let (Some(weight), true) = (clause("weight"), clause("score").or(clause("sink")).is_some()) {
            return self.fail(Code::Misplaced, weight.span, "with `weight` there is no softmax: neither a `score` nor a `sink`");
        }
        let unused = if gives == Gives::Values { None } else { clause("weight") };
        let no_sink = attend.tally || attend.slot.is_some();
        if let Some(unused) = unused.or(clause("sink").filter(|_| no_sink)) {
            return self.fail(
                Code::Misplaced,
                unused.span,
                "this weighs values, and there are none: the clauses are `keep` and `score`",
            );
        }
        let scored = clause("weight").or(clause("score"));
        let everything = seq != keys && clause("keep").is_none();
        let (keep, keep_result, seen) = self.keep_body(frame, clause("keep"), everything, span)?;
        let past = gives == Gives::Values && (seq, keys) == (SEQ, SEQ) && sees_all_before(&keep, keep_result);
        if let Some(policy) = self.policy_of(frame, attend, past, span)? {
            return self.govern(frame, policy, attend, (&tensors, &contract), span);
        }
        let (score, score_result, seen) = self.clause_body(frame, scored, Some(&score_axes), seen, span)?;
        self.check_choices((&keep, keep_result), &score)?;
        if keys != SEQ
            && (matches!(gives, Gives::Best(_) | Gives::Tally { .. })
                || keep.values.iter().any(|value| matches!(value.op, Op::Chosen { .. })))
        {
            return self.fail(Code::Misplaced, span, "keys of a source are not chosen by a score: let `keep` say which are seen");
        }
        let Seen { mut captures, sides } = seen;
        let sink = match clause("sink") {
            None => None,
            Some(expr) => {
                let t = self.tensor_of(frame, expr, Some(Elem::Float))?;
                if self.has_seq(t) {
                    return self.fail(Code::AxisMismatch, expr.span, "a sink has no sequence axis");
                }
                let known = captures.iter().position(|c| *c == t);
                Some(known.unwrap_or_else(|| {
                    captures.push(t);
                    captures.len() - 1
                }))
            }
        };
        for (n, capture) in captures.iter().enumerate() {
            if self.has_seq(*capture) && !sides.contains_key(&n) {
                let error = Diagnostic::new(Code::Misplaced, span, "`keep` and `score` use something that changes along `t`");
                return Err(self.error(error.hint("say of which position: `x[t: query]` or `x[t: key]`")));
            }
        }
        let side = |n: usize| if sides.get(&n) == Some(&Side::Key) { keys } else { seq };
        let foreign = |n: usize, axes: &[AxisId]| self.seq_of(axes).is_some_and(|own| own != side(n));
        if (0..captures.len()).any(|n| foreign(n, &self.ty(captures[n]).axes)) {
            let error = Diagnostic::new(Code::AxisMismatch, span, "`keep` and `score` ask a position for what it does not hold");
            return Err(self.error(error.hint("`query` is a position of the queries' sequence, `key` one of the keys'")));
        }
        let of_side = |side: Side| sides.iter().filter(|(_, own)| **own == side).map(|(n, _)| *n).collect();
        let (keyed, apart) = (of_side(Side::Key), of_side(Side::Apart));
        let values: Vec<AxisId> = types[operands - 1].axes.iter().copied().filter(|a| !self.is_seq(*a)).collect();
        let of = |body: &Body, id: ValueId| body.values[id.0 as usize].ty.axes.clone();
        let bodies = (&of(&keep, keep_result)[..], &of(&score, score_result)[..]);
        let ty = self.given_type((gives, seq), (&score_axes, &values), bodies, span)?;
        let attend = Attend { gives, seq, keys, contract, keep, keep_result, score, score_result, sink, plain, keyed, apart };
        tensors.extend(captures);
        self.apply(Op::Attend(Box::new(attend)), &tensors, ty, span, frame.scope).map(V::Tensor)
    }

    /// The body of `keep`; without the clause a query sees everything, or what is not later.
    fn keep_body(
        &mut self,
        frame: &mut Frame<'p>,
        expr: Option<&'p Expr>,
        everything: bool,
        span: Span,
    ) -> Done<(Body, ValueId, Seen)> {
        if !everything {
            return self.clause_body(frame, expr, None, Seen::default(), span);
        }
        let ty = Type { elem: Elem::Bool, axes: vec![] };
        let value = Value { op: Op::Const(1.0), args: vec![], ty, span, scope: frame.scope };
        Ok((Body { values: vec![value] }, ValueId(0), Seen::default()))
    }

    /// The body of `keep` (no score axes) or `score`; continues a list of captures.
    fn clause_body(
        &mut self,
        frame: &mut Frame<'p>,
        expr: Option<&'p Expr>,
        score: Option<&[AxisId]>,
        seen: Seen,
        span: Span,
    ) -> Done<(Body, ValueId, Seen)> {
        self.levels.push(Level::new(seen.captures).with_sides(seen.sides));
        let int = Type { elem: Elem::Int, axes: vec![] };
        let query = self.push(Op::QueryPosition, vec![], int.clone(), span, frame.scope);
        let key = self.push(Op::KeyPosition, vec![], int, span, frame.scope);
        self.levels[1].positions = Some((query, key));
        let before = frame.vars.remove("s");
        if let Some(axes) = score {
            let ty = Type { elem: Elem::Float, axes: axes.to_vec() };
            let s = self.push(Op::Score, vec![], ty, span, frame.scope);
            frame.bind("s", V::Tensor(s), Origin::Parameter);
        }
        let result = self.clause_value(frame, expr, score.is_some(), (query, key), span);
        frame.vars.remove("s");
        frame.vars.extend(before.map(|b| ("s".to_owned(), b)));
        let level = self.levels.pop();
        match (result, level) {
            (Ok(id), Some(level)) => {
                let Level { values, captures, sides, .. } = level;
                Ok((Body { values }, id, Seen { captures, sides }))
            }
            _ => Err(super::Stop),
        }
    }

    fn clause_value(
        &mut self,
        frame: &mut Frame<'p>,
        expr: Option<&'p Expr>,
        is_score: bool,
        (query, key): (T, T),
        span: Span,
    ) -> Done<ValueId> {
        let wanted = if is_score { Elem::Float } else { Elem::Bool };
        let t = match (expr, is_score) {
            (Some(expr), _) => self.tensor_of(frame, expr, Some(wanted))?,
            (None, true) => match frame.get("s") {
                Some(V::Tensor(t)) => *t,
                _ => return self.fail(Code::Misplaced, span, "attention without a score"),
            },
            (None, false) => self.binary(Binary::Le, key, query, span, frame.scope)?,
        };
        if self.seen(t).elem != wanted {
            let place = expr.map_or(span, |e| e.span);
            let what = if is_score { "`score` is a number" } else { "`keep` is a truth value" };
            return self.fail(Code::Type, place, what);
        }
        Ok(self.here(t))
    }

    /// `route[experts](ids) { … }`.
    pub(super) fn route(&mut self, frame: &mut Frame<'p>, route: &'p crate::ast::Route, span: Span) -> Done<V<'p>> {
        let [axis] = route.axes.as_slice() else {
            return self.fail(Code::Arity, span, "a route runs over one axis");
        };
        let axis = self.axis_of(frame, axis)?;
        let ids = self.tensor_of(frame, &route.ids, None)?;
        if self.seen(ids).elem != Elem::Int {
            return self.fail(Code::Type, route.ids.span, "a route takes whole numbers: which experts");
        }
        self.routes.push((axis, ids));
        let result = self.value(frame, &route.body);
        self.routes.pop();
        result
    }
}
