//! Evaluates expressions: known values at once, tensors by appending operations.

use super::frame::{Frame, Origin, V};
use super::{Done, Elab, T};
use crate::ast::{BinOp, Expr, ExprKind, Reducer, UnOp};
use crate::constant;
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Binary, Constant, Elem, Op, Reduce, Type, Unary};
use crate::span::Span;

/// Names of functions that are not written in the language.
pub const BUILTINS: &[&str] = &[
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "sigmoid",
    "tanh",
    "softplus",
    "erf",
    "sin",
    "cos",
    "abs",
    "floor",
    "round",
    "min",
    "max",
    "select",
    "float",
    "grad",
    "scored",
    "placed",
    "solve",
    "chosen",
    "random",
    "start",
    "shift",
    "convolve",
    "concat",
    "top",
    "nth_largest",
    "index",
    "position",
    "length",
    "len",
    "ceil",
    "round_up",
    "int",
    "contains",
    "range",
    "chars",
    "inf",
    "pi",
    "true",
    "false",
];

impl<'p> Elab<'p> {
    /// The value of an expression.
    pub(super) fn value(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<V<'p>> {
        self.count_step(expr.span)?;
        match &expr.kind {
            ExprKind::Int(n) => Ok(V::Const(Constant::Int(*n))),
            ExprKind::Float(x, _) => Ok(V::Const(Constant::Float(*x))),
            ExprKind::Text(s) => Ok(V::Const(Constant::Text(s.clone()))),
            ExprKind::Name(name) => self.name(frame, name, expr.span),
            ExprKind::Field(..) => self.fail(Code::Syntax, expr.span, "a model has no fields to read"),
            ExprKind::List(items) => {
                let items = items.iter().map(|i| self.constant(frame, i)).collect::<Done<Vec<_>>>()?;
                Ok(V::Const(Constant::List(items)))
            }
            ExprKind::Comprehension(c) => self.comprehension(frame, c),
            ExprKind::Paren(inner) => self.value(frame, inner),
            ExprKind::Unary(op, x) => self.unary_expr(frame, *op, x, expr.span),
            ExprKind::Binary(op, a, b) => self.binary_expr(frame, *op, a, b, expr.span),
            ExprKind::Reduce(how, axes, x) => self.reduce_expr(frame, *how, axes, x, expr.span),
            ExprKind::Call(callee, args) => self.call(frame, callee, args, expr.span),
            ExprKind::Index(base, items) => self.index(frame, base, items, expr.span),
            ExprKind::If(arms, other) => {
                for (condition, value) in arms {
                    if self.condition(frame, condition)? {
                        return self.value(frame, value);
                    }
                }
                self.value(frame, other)
            }
            ExprKind::Match(of, arms) => {
                let of_value = self.constant(frame, of)?;
                for arm in arms {
                    for pattern in &arm.patterns {
                        if constant::equal(&self.constant(frame, pattern)?, &of_value) {
                            return self.value(frame, &arm.value);
                        }
                    }
                    if arm.patterns.is_empty() {
                        return self.value(frame, &arm.value);
                    }
                }
                let error = Diagnostic::new(Code::NoArm, of.span, format!("no arm takes {}", constant::render(&of_value)));
                Err(self.error(error.hint("add an arm for it, or `_ => …`")))
            }
            ExprKind::Attend(attend) => self.attend(frame, attend, expr.span),
            ExprKind::Route(route) => self.route(frame, route, expr.span),
        }
    }

    /// A value that must be known now.
    pub(super) fn constant(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<Constant> {
        match self.value(frame, expr)? {
            V::Const(value) => Ok(value),
            V::Dim(n, _) => Ok(Constant::Int(n as i64)),
            V::Tensor(_) => {
                let error = Diagnostic::new(Code::NotConstant, expr.span, "a tensor stands where a compile-time value is needed");
                Err(self.error(error.hint("for a choice at run time write `select(condition, a, b)`")))
            }
            _ => self.fail(Code::NotConstant, expr.span, "a block stands where a compile-time value is needed"),
        }
    }

    /// A compile-time truth value.
    pub(super) fn condition(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<bool> {
        match self.constant(frame, expr)? {
            Constant::Bool(value) => Ok(value),
            other => {
                let what = constant::type_name(&other);
                self.fail(Code::Type, expr.span, format!("a {what} stands where a bool is needed"))
            }
        }
    }

    /// A compile-time whole number that is not negative.
    pub(super) fn count(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<usize> {
        let value = self.constant(frame, expr)?;
        self.as_count(&value, expr.span)
    }

    /// A constant as a size or index.
    pub(super) fn as_count(&mut self, value: &Constant, span: Span) -> Done<usize> {
        match value {
            Constant::Int(n) if (0..=1 << 40).contains(n) => Ok(*n as usize),
            Constant::Float(x) if x.fract() == 0.0 && (0.0..1e12).contains(x) => Ok(*x as usize),
            other => {
                let error = Diagnostic::new(
                    Code::Type,
                    span,
                    format!("{} is not a whole number that counts something", constant::render(other)),
                );
                Err(self.error(error.label("a size or index is needed")))
            }
        }
    }

    /// A tensor, from an expression.
    pub(super) fn tensor_of(&mut self, frame: &mut Frame<'p>, expr: &'p Expr, elem: Option<Elem>) -> Done<T> {
        let value = self.value(frame, expr)?;
        self.tensor(&value, elem, expr.span, frame.scope)
    }

    fn name(&mut self, frame: &mut Frame<'p>, name: &str, span: Span) -> Done<V<'p>> {
        if let Some(value) = frame.get(name) {
            return if matches!(value, V::Poison) { Err(super::Stop) } else { Ok(value.clone()) };
        }
        if frame.params.contains_key(name) {
            return self.param(frame, name, span).map(V::Tensor);
        }
        if let Some((query, key)) = self.levels.last().and_then(|l| l.positions) {
            match name {
                "query" => return Ok(V::Tensor(query)),
                "key" => return Ok(V::Tensor(key)),
                _ => {}
            }
        }
        if let Some(value) = constant::named(name) {
            return Ok(V::Const(value));
        }
        if let Some((module, block)) = self.block_item(frame.module, name) {
            let value = super::frame::BlockValue { module, block, cargs: vec![], axes: vec![], fixed: None };
            return Ok(V::Block(Box::new(value)));
        }
        let locals: Vec<String> = frame.vars.keys().chain(frame.params.keys()).cloned().collect();
        self.unknown_among(frame.module, &locals, name, span)
    }

    fn comprehension(&mut self, frame: &mut Frame<'p>, c: &'p crate::ast::Comprehension) -> Done<V<'p>> {
        let Constant::List(items) = self.constant(frame, &c.list)? else {
            return self.fail(Code::Type, c.list.span, "only a list can be walked");
        };
        let before = frame.vars.remove(&c.var.name);
        let mut made = Vec::new();
        for item in items {
            frame.bind(&c.var.name, V::Const(item), Origin::Parameter);
            let takes = match &c.cond {
                Some(cond) => self.condition(frame, cond)?,
                None => true,
            };
            if takes {
                made.push(self.constant(frame, &c.value)?);
            }
        }
        frame.vars.remove(&c.var.name);
        frame.vars.extend(before.map(|b| (c.var.name.clone(), b)));
        Ok(V::Const(Constant::List(made)))
    }

    /// A number or text as a constant; dims count.
    pub(super) fn known(value: &V<'p>) -> Option<Constant> {
        match value {
            V::Const(c) => Some(c.clone()),
            V::Dim(n, _) => Some(Constant::Int(*n as i64)),
            _ => None,
        }
    }

    fn computed(&mut self, result: constant::Computed, span: Span) -> Done<V<'p>> {
        match result {
            Ok(value) => Ok(V::Const(value)),
            Err(why) => self.fail(Code::Arithmetic, span, why),
        }
    }

    fn unary_expr(&mut self, frame: &mut Frame<'p>, op: UnOp, x: &'p Expr, span: Span) -> Done<V<'p>> {
        let value = self.value(frame, x)?;
        let op = match op {
            UnOp::Neg => Unary::Neg,
            UnOp::Not => Unary::Not,
        };
        self.unary_value(frame, op, value, span)
    }

    /// `f(x)` on a value of any kind.
    pub(super) fn unary_value(&mut self, frame: &Frame<'p>, op: Unary, value: V<'p>, span: Span) -> Done<V<'p>> {
        if let Some(known) = Self::known(&value) {
            if op == Unary::Erf {
                let t = self.tensor(&value, Some(Elem::Float), span, frame.scope)?;
                return self.unary(op, t, span, frame.scope).map(V::Tensor);
            }
            return self.computed(constant::unary(op, &known), span);
        }
        let t = self.tensor(&value, None, span, frame.scope)?;
        self.unary(op, t, span, frame.scope).map(V::Tensor)
    }

    fn binary_expr(&mut self, frame: &mut Frame<'p>, op: BinOp, a: &'p Expr, b: &'p Expr, span: Span) -> Done<V<'p>> {
        let BinOp::Op(op) = op else {
            return self.fail(Code::Misplaced, span, "`??` stands only in import rules");
        };
        let Ok(left) = self.value(frame, a) else {
            // What is wrong on the other side is reported too.
            self.value(frame, b)?;
            return Err(super::Stop);
        };
        // Of compile-time truth values the second is looked at only if it matters.
        match (op, Self::known(&left)) {
            (Binary::And, Some(Constant::Bool(false))) => return Ok(V::Const(Constant::Bool(false))),
            (Binary::Or, Some(Constant::Bool(true))) => return Ok(V::Const(Constant::Bool(true))),
            _ => {}
        }
        let right = self.value(frame, b)?;
        self.binary_value(frame, op, left, right, span)
    }

    /// `f(a, b)` on values of any kind.
    pub(super) fn binary_value(&mut self, frame: &Frame<'p>, op: Binary, a: V<'p>, b: V<'p>, span: Span) -> Done<V<'p>> {
        if let (Some(a), Some(b)) = (Self::known(&a), Self::known(&b)) {
            return self.computed(constant::binary(op, &a, &b), span);
        }
        // A neutral truth value beside a tensor's.
        let keeps = |c: Option<Constant>| {
            matches!((op, c), (Binary::And, Some(Constant::Bool(true))) | (Binary::Or, Some(Constant::Bool(false))))
        };
        if keeps(Self::known(&a)) {
            return Ok(b);
        }
        if keeps(Self::known(&b)) {
            return Ok(a);
        }
        let a = self.tensor(&a, None, span, frame.scope)?;
        let b = self.tensor(&b, None, span, frame.scope)?;
        self.binary(op, a, b, span, frame.scope).map(V::Tensor)
    }

    fn reduce_expr(
        &mut self,
        frame: &mut Frame<'p>,
        how: Reducer,
        axes: &'p [crate::ast::Ident],
        x: &'p Expr,
        span: Span,
    ) -> Done<V<'p>> {
        let x = self.tensor_of(frame, x, Some(Elem::Float))?;
        let ty = self.seen(x);
        let mut over = Vec::new();
        for axis in axes {
            match frame.get(&axis.name) {
                Some(V::Dims(several)) => over.extend(several),
                _ => over.push(self.axis_in(frame, axis, &ty)?),
            }
        }
        if over.is_empty() {
            return Ok(V::Tensor(x));
        }
        let axes = over;
        let op = match how {
            Reducer::Sum | Reducer::Mean => Reduce::Sum,
            Reducer::Max => Reduce::Max,
            Reducer::Min => Reduce::Min,
        };
        let count: usize = axes.iter().map(|a| self.size(*a).max(1)).product();
        let total = self.reduce(op, axes, x, span, frame.scope)?;
        if how != Reducer::Mean {
            return Ok(V::Tensor(total));
        }
        let one = self.push(Op::Const(1.0 / count as f64), vec![], Type { elem: Elem::Float, axes: vec![] }, span, frame.scope);
        self.binary(Binary::Mul, total, one, span, frame.scope).map(V::Tensor)
    }

    /// A parameter of the frame's instance, made at its first use.
    fn param(&mut self, frame: &mut Frame<'p>, name: &str, span: Span) -> Done<T> {
        let (list, declared) = frame.params[name];
        let path = frame.below(name);
        let mut axes = self.axes_of(frame, list, true)?;
        let routes = frame.routes.clone();
        let mut all: Vec<_> = routes.iter().map(|(axis, _)| *axis).collect();
        all.append(&mut axes);
        let id = match self.param_ids.get(&path) {
            Some((id, value)) => {
                if self.params[id.0 as usize].axes != all {
                    return self.fail(
                        Code::AxisMismatch,
                        span,
                        format!("shared parameter `{path}` is used with other sizes here"),
                    );
                }
                *value
            }
            None => {
                let id = crate::model::ParamId(self.params.len() as u32);
                self.params.push(crate::model::Param { path: path.clone(), axes: all.clone(), span: declared, stored: None });
                let ty = Type { elem: Elem::Float, axes: all.clone() };
                let value = self.push_at(0, Op::Param(id), vec![], ty, declared, frame.scope).id;
                self.param_ids.insert(path, (id, value));
                value
            }
        };
        let mut made = T { level: 0, id };
        for (axis, ids) in routes {
            let table = self.seen(made);
            let chosen = self.seen(ids);
            let mut axes = chosen.axes.clone();
            axes.extend(table.axes.iter().copied().filter(|a| *a != axis && !chosen.axes.contains(a)));
            let ids = self.inside(made, axis, ids, span, frame.scope)?;
            made = self.apply(Op::Gather(axis), &[made, ids], Type { elem: Elem::Float, axes }, span, frame.scope)?;
        }
        Ok(made)
    }

    /// Whether a tensor has the sequence axis.
    pub(super) fn has_seq(&mut self, t: T) -> bool {
        let axes = self.seen(t).axes;
        self.seq_of(&axes).is_some()
    }
}
