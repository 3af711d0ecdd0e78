//! Calls: of built-in operations, of functions, of blocks.

use super::frame::{BlockValue, Frame, Origin, V};
use super::{DEPTH, Done, Elab, T};
use crate::ast::{Arg, CType, Expr, ExprKind, Fn, IndexItem, Item};
use crate::constant;
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{AxisId, Binary, Constant, Elem, ScopeId};
use crate::span::Span;

/// What an instance gave.
pub struct Instance<'p> {
    /// Its results.
    pub values: Vec<V<'p>>,
    /// Its compile-time parameters.
    pub constants: Vec<(String, Constant)>,
}

/// Evaluated arguments.
struct Given<'p> {
    positional: Vec<(V<'p>, Span)>,
    named: Vec<(&'p crate::ast::Ident, V<'p>)>,
}

impl<'p> Elab<'p> {
    /// `callee(args)`.
    pub(super) fn call(&mut self, frame: &mut Frame<'p>, callee: &'p Expr, args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let (base, items): (&Expr, &[IndexItem]) = match &callee.kind {
            ExprKind::Index(base, items) => (base, items),
            _ => (callee, &[]),
        };
        let ExprKind::Name(name) = &base.kind else {
            return match self.value(frame, callee)? {
                V::Block(block) => self.call_block(frame, *block, None, args, span),
                _ => self.fail(Code::Type, callee.span, "only a block or function can be called"),
            };
        };
        if let Some(V::Block(block)) = frame.get(name) {
            let mut block = block.clone();
            if !items.is_empty() {
                block.axes = self.plain_axes(frame, items, base.span)?;
            }
            return self.call_block(frame, *block, Some(name), args, span);
        }
        if let Some(V::Poison) = frame.get(name) {
            return Err(super::Stop);
        }
        if frame.get(name).is_some() {
            return self.fail(Code::Type, base.span, format!("`{name}` is not a block or function"));
        }
        let program = self.program;
        match program.lookup(frame.module, name) {
            Some((module, Item::Fn(function))) => self.call_fn(frame, module, function, items, args, span),
            Some((module, Item::Block(block))) if !block.is_model => {
                let axes = self.plain_axes(frame, items, base.span)?;
                let value = BlockValue { module, block, cargs: vec![], axes, fixed: None };
                self.call_block(frame, value, Some(name), args, span)
            }
            Some((_, item)) => {
                self.fail(Code::Type, base.span, format!("`{}` cannot be called", item.name().map_or("", |n| &n.name)))
            }
            None => self.builtin(frame, name, items, args, base.span, span),
        }
    }

    fn given(&mut self, frame: &mut Frame<'p>, args: &'p [Arg]) -> Done<Given<'p>> {
        let mut given = Given { positional: vec![], named: vec![] };
        let values: Vec<Done<V>> = args.iter().map(|arg| self.value(frame, &arg.value)).collect();
        for (arg, value) in args.iter().zip(values) {
            let value = value?;
            match &arg.name {
                Some(name) => given.named.push((name, value)),
                None => given.positional.push((value, arg.value.span)),
            }
        }
        Ok(given)
    }

    /// The sequence that a function walks: that of its operands, or of the place where it is called.
    fn along_of(&mut self, frame: &Frame<'p>, given: &Given<'p>) -> AxisId {
        let values = given.positional.iter().map(|(value, _)| value).chain(given.named.iter().map(|(_, value)| value));
        let tensors: Vec<T> = values.filter_map(|value| if let V::Tensor(t) = value { Some(*t) } else { None }).collect();
        let found = tensors.into_iter().find_map(|t| {
            let axes = self.seen(t).axes;
            self.seq_of(&axes)
        });
        found.unwrap_or(frame.seq)
    }

    fn deeper<R>(&mut self, what: String, span: Span, run: impl FnOnce(&mut Self) -> Done<R>) -> Done<R> {
        if self.trail.len() >= DEPTH {
            return self.fail(Code::Recursion, span, "blocks and functions call each other without end");
        }
        self.trail.push(what);
        let result = run(self);
        self.trail.pop();
        result
    }

    fn call_fn(
        &mut self,
        frame: &mut Frame<'p>,
        module: usize,
        function: &'p Fn,
        items: &'p [IndexItem],
        args: &'p [Arg],
        span: Span,
    ) -> Done<V<'p>> {
        let axes = self.plain_axes(frame, items, span)?;
        let given = self.given(frame, args)?;
        let name = &function.name.name;
        let count = given.positional.len() + given.named.len();
        if axes.len() != function.axes.len() || count != function.params.len() {
            let message = format!(
                "`{name}` takes {} in brackets and {} in parentheses, not {} and {count}",
                function.axes.len(),
                function.params.len(),
                axes.len()
            );
            return self.fail(Code::Arity, span, message);
        }
        let mut inner = Frame::new(module, frame.scope, frame.path.clone());
        inner.rest.clone_from(&frame.rest);
        inner.seq = self.along_of(frame, &given);
        inner.foreign.clone_from(&frame.foreign);
        inner.routes.clone_from(&frame.routes);
        for (param, axis) in function.axes.iter().zip(axes) {
            inner.bind(&param.name, V::Dim(self.size(axis), axis), Origin::Parameter);
        }
        let mut rest: Vec<&str> = function.params.iter().map(|p| p.name.as_str()).collect();
        for (key, value) in given.named {
            let Some(at) = rest.iter().position(|p| *p == key.name) else {
                return self.fail(Code::UnknownArgument, key.span, format!("`{name}` has no parameter `{}` left", key.name));
            };
            inner.bind(rest.remove(at), value, Origin::Parameter);
        }
        for (param, (value, _)) in rest.into_iter().zip(given.positional) {
            inner.bind(param, value, Origin::Parameter);
        }
        self.deeper(format!("in `{name}`"), span, |this| this.value(&mut inner, &function.body))
    }

    /// A block with arguments: an application if any of them is a tensor, a block value otherwise.
    fn call_block(
        &mut self,
        frame: &mut Frame<'p>,
        mut value: BlockValue<'p>,
        name: Option<&str>,
        args: &'p [Arg],
        span: Span,
    ) -> Done<V<'p>> {
        let given = self.given(frame, args)?;
        let is_tensor = |v: &V| matches!(v, V::Tensor(_) | V::Tuple(_));
        let applies = given.positional.iter().any(|(v, _)| is_tensor(v)) || given.named.iter().any(|(_, v)| is_tensor(v));
        let block = value.block;
        let mut tensors: Vec<Option<V>> = block.inputs.iter().map(|_| None).collect();
        for (key, v) in given.named {
            if let Some(at) = block.inputs.iter().position(|i| i.name.name == key.name) {
                tensors[at] = Some(v);
            } else if block.params.iter().any(|p| p.name.name == key.name) {
                value.cargs.push((key.name.clone(), v));
            } else {
                let known = block.params.iter().map(|p| p.name.name.as_str());
                let hint = did_you_mean(&key.name, known);
                let message = format!("`{}` has no parameter `{}`", block.name.name, key.name);
                let error = Diagnostic::new(Code::UnknownArgument, key.span, message);
                return Err(self.error(error.at(block.name.span, "declared here").maybe_hint(hint)));
            }
        }
        if !applies {
            if given.positional.len() > block.params.len() {
                let message = format!("`{}` has {} parameters", block.name.name, block.params.len());
                return self.fail(Code::Arity, span, message);
            }
            for (param, (v, _)) in block.params.iter().zip(given.positional) {
                value.cargs.push((param.name.name.clone(), v));
            }
            return Ok(V::Block(Box::new(value)));
        }
        let mut open = tensors.iter_mut().filter(|t| t.is_none());
        let count = given.positional.len();
        for (v, _) in given.positional {
            match open.next() {
                Some(place) => *place = Some(v),
                None => {
                    let message = format!("`{}` takes {} inputs, not {count}", block.name.name, block.inputs.len());
                    let error = Diagnostic::new(Code::Arity, span, message);
                    return Err(self.error(error.at(block.name.span, "declared here")));
                }
            }
        }
        let found: Option<Vec<V>> = tensors.into_iter().collect();
        let Some(tensors) = found else {
            let message = format!("`{}` takes {} inputs, not {count}", block.name.name, block.inputs.len());
            let error = Diagnostic::new(Code::Arity, span, message);
            return Err(self.error(error.at(block.name.span, "declared here")));
        };
        self.apply_block(frame, value, name, tensors, span)
    }

    /// Names the instance and runs it.
    pub(super) fn apply_block(
        &mut self,
        frame: &mut Frame<'p>,
        value: BlockValue<'p>,
        name: Option<&str>,
        tensors: Vec<V<'p>>,
        span: Span,
    ) -> Done<V<'p>> {
        let name = name.unwrap_or(&value.block.name.name).to_owned();
        let (value, stands) = self.stood_in(value);
        let own = frame.below(&name);
        let path = match &value.fixed {
            Some(path) => path.clone(),
            None => {
                let times = self.instances.entry(own.clone()).or_insert(0);
                *times += 1;
                let times = *times;
                let is_local = frame.vars.get(&name).is_some_and(|(_, origin)| *origin == Origin::Local);
                let has_params =
                    || self.params.iter().any(|p| p.path.strip_prefix(&own).is_some_and(|rest| rest.starts_with('.')));
                if times > 1 && is_local && has_params() {
                    let error = Diagnostic::new(
                        Code::CalledTwice,
                        span,
                        format!("`{name}` is called twice: its weights would be shared"),
                    );
                    return Err(self.error(error.hint(format!("if that is meant, say `share {name} = …`"))));
                }
                if times > 1 { format!("{own}_{times}") } else { own }
            }
        };
        let last = path.rsplit('.').next().unwrap_or(&path).to_owned();
        let scope = self.open_scope(frame.scope, &last, &value.block.name.name);
        if value.fixed.is_some() {
            // Every call of a shared instance names its parts alike.
            let prefix = format!("{path}.");
            self.instances.retain(|key, _| !key.starts_with(&prefix));
        }
        let shown = if path.len() > 60 { last.clone() } else { path.clone() };
        let what = format!("in `{}`, called as `{shown}`", value.block.name.name);
        let inside = self.standing;
        self.standing |= stands;
        let result = self.deeper(what, span, |this| this.instantiate(frame, &value, tensors, scope, path, span));
        self.standing = inside;
        let result = result?;
        Ok(match result.values.len() {
            1 => result.values.into_iter().next().unwrap_or(V::Tuple(vec![])),
            _ => V::Tuple(result.values),
        })
    }

    /// Runs a block with inputs.
    pub(super) fn instantiate(
        &mut self,
        outer: &mut Frame<'p>,
        value: &BlockValue<'p>,
        tensors: Vec<V<'p>>,
        scope: ScopeId,
        path: String,
        span: Span,
    ) -> Done<Instance<'p>> {
        let block = value.block;
        let mut frame = Frame::new(value.module, scope, path);
        frame.routes = if outer.routes.is_empty() { self.routes.clone() } else { outer.routes.clone() };
        for route in &self.routes {
            if !frame.routes.contains(route) {
                frame.routes.push(*route);
            }
        }
        let mut given: Vec<Option<V<'p>>> = block
            .params
            .iter()
            .map(|p| value.cargs.iter().rev().find(|(n, _)| *n == p.name.name).map(|(_, v)| v.clone()))
            .collect();
        let dims: Vec<usize> = (0..block.params.len()).filter(|n| block.params[*n].ty == CType::Dim).collect();
        if value.axes.len() > dims.len() {
            let message = format!("`{}` has {} dims, not {}", block.name.name, dims.len(), value.axes.len());
            return self.fail(Code::Arity, span, message);
        }
        for (n, axis) in dims.iter().zip(&value.axes) {
            given[*n] = Some(V::Dim(self.size(*axis), *axis));
        }
        let mut inputs = Vec::new();
        for (input, v) in block.inputs.iter().zip(&tensors) {
            inputs.push(self.tensor(v, Some(Elem::Float), span, outer.scope)?);
            let t = inputs[inputs.len() - 1];
            self.match_input(&mut frame, block, input, t, &mut given, span)?;
        }
        let back = self.part_dims(&mut frame, block, &mut given);
        let mut constants = Vec::new();
        for (param, v) in block.params.iter().zip(given) {
            let v = match (v, &param.default) {
                (Some(v), _) => v,
                (None, Some(default)) => self.value(&mut frame, default)?,
                (None, None) => {
                    let message = format!("`{}` needs `{}`", block.name.name, param.name.name);
                    let error = Diagnostic::new(Code::MissingArgument, span, message);
                    let hint = format!("give it: `{}({}: …)`", block.name.name, param.name.name);
                    return Err(self.error(error.at(param.span, "declared here without a default").hint(hint)));
                }
            };
            let v = self.checked(&frame, param, v, span)?;
            constants.extend(Self::known(&v).map(|c| (param.name.name.clone(), c)));
            frame.bind(&param.name.name, v, Origin::Parameter);
        }
        for condition in &block.wheres {
            if !self.condition(&mut frame, condition)? {
                let facts: Vec<String> = constants.iter().map(|(n, c)| format!("{n} = {}", constant::render(c))).collect();
                let error = Diagnostic::new(Code::Constraint, condition.span, format!("`{}` demands this", block.name.name));
                return Err(
                    self.error(error.label("does not hold").note(format!("with {}", facts.join(", "))).at(span, "called here"))
                );
            }
        }
        for (input, t) in block.inputs.iter().zip(inputs) {
            self.check_input(&frame, input, t, span)?;
            frame.bind(&input.name.name, V::Tensor(t), Origin::Parameter);
        }
        self.run(&mut frame, &block.body)?;
        let Some(values) = frame.returned.take() else {
            return self.fail(Code::Arity, block.name.span, format!("`{}` returns nothing", block.name.name));
        };
        let values = self.check_outputs(&frame, block, values)?;
        let values = self.hand_back(&frame, values, &back, span);
        Ok(Instance { values, constants })
    }

    /// A built-in operation.
    fn builtin(
        &mut self,
        frame: &mut Frame<'p>,
        name: &str,
        items: &'p [IndexItem],
        args: &'p [Arg],
        name_span: Span,
        span: Span,
    ) -> Done<V<'p>> {
        if let Some(arg) = args.iter().find(|a| a.name.is_some())
            && super::expr::BUILTINS.contains(&name)
            && name != "random"
        {
            return self.fail(Code::UnknownArgument, arg.value.span, format!("`{name}` takes no named arguments"));
        }
        match name {
            "concat" | "top" | "convolve" | "nth_largest" => return self.structural(frame, name, items, args, span),
            "solve" => return self.solve(frame, items, args, span),
            "chosen" => return self.chosen(frame, items, args, span),
            "random" => return self.random(frame, items, args, span),
            "scored" if items.is_empty() => return self.scored(frame, args, span),
            "placed" if items.is_empty() => return self.placed(frame, args, span),
            "start" if items.is_empty() => return self.start(frame, args, span),
            "grad" if items.is_empty() => return self.grad(frame, args, span),
            _ if !items.is_empty() && super::expr::BUILTINS.contains(&name) => {
                return self.fail(Code::Arity, span, format!("`{name}` takes no axes in brackets"));
            }
            _ => {}
        }
        let is_known = super::expr::BUILTINS.contains(&name) && constant::named(name).is_none();
        if !is_known || matches!(name, "index" | "position" | "length") {
            return self.unknown(frame.module, name, name_span);
        }
        let mut values: Vec<V> = args.iter().map(|a| self.value(frame, &a.value)).collect::<Done<_>>()?;
        let known: Option<Vec<Constant>> = values.iter().map(Self::known).collect();
        if let Some(result) = known.as_ref().and_then(|k| constant::function(name, k)) {
            return match result {
                Ok(value) => Ok(V::Const(value)),
                Err(why) => self.fail(Code::Arithmetic, span, why),
            };
        }
        if let (Some(op), [_]) = (constant::unary_named(name), values.as_slice()) {
            return self.unary_value(frame, op, values.remove(0), span);
        }
        match (name, values.as_slice()) {
            ("min" | "max", [a, b]) => {
                let op = if name == "min" { Binary::Min } else { Binary::Max };
                self.binary_value(frame, op, a.clone(), b.clone(), span)
            }
            ("select", [c, a, b]) => {
                let (c, a, b) = (c.clone(), a.clone(), b.clone());
                self.select(frame, &c, &a, &b, span)
            }
            ("float", [x]) => {
                let t = self.tensor(&x.clone(), Some(Elem::Float), span, frame.scope)?;
                self.as_float(t, span, frame.scope).map(V::Tensor)
            }
            ("shift", [x, by]) => {
                let (x, by) = (x.clone(), by.clone());
                self.shift(frame, &x, &by, span)
            }
            _ => self.fail(Code::Arity, span, format!("`{name}` does not take {} arguments of this kind", values.len())),
        }
    }
}
