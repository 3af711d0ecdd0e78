//! Runs the statements of a block.

use super::frame::{Frame, Origin, V};
use super::{Done, Elab, T};
use crate::ast::{Body, Ident, Repeat, Stmt, StmtKind};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Scope, ScopeId};
use crate::span::Span;

impl<'p> Elab<'p> {
    /// Runs statements until one returns. After an error the names of its statement are poisoned and the next one runs, so that
    /// independent errors are reported together.
    pub(super) fn run(&mut self, frame: &mut Frame<'p>, body: &'p Body) -> Done<()> {
        let mut done = Ok(());
        for stmt in &body.stmts {
            if frame.returned.is_some() {
                return self.fail(Code::Misplaced, stmt.span, "nothing is done after `return`");
            }
            if self.statement(frame, stmt).is_err() {
                done = Err(super::Stop);
                for name in bound_names(stmt) {
                    frame.bind(name, V::Poison, Origin::Local);
                }
            }
        }
        done
    }

    fn statement(&mut self, frame: &mut Frame<'p>, stmt: &'p Stmt) -> Done<()> {
        match &stmt.kind {
            StmtKind::Param(names, axes, storage) => {
                for name in names {
                    if frame.params.contains_key(&name.name) {
                        let message = format!("parameter `{}` is declared twice", name.name);
                        self.error(Diagnostic::new(Code::Duplicate, name.span, message));
                        continue;
                    }
                    frame.params.insert(name.name.clone(), (axes, name.span));
                }
                storage.as_ref().map_or(Ok(()), |storage| self.params_are_stored(frame, names, storage))
            }
            StmtKind::Dim(name, expr) => {
                let size = self.count(frame, expr)?;
                if size == 0 {
                    return self.fail(Code::Type, expr.span, format!("dim `{}` would have size 0", name.name));
                }
                let axis = self.fresh_axis(frame, &name.name, size);
                frame.bind(&name.name, V::Dim(size, axis), Origin::Local);
                Ok(())
            }
            StmtKind::Share(name, expr) => match self.value(frame, expr)? {
                V::Block(mut block) => {
                    block.fixed = Some(frame.below(&name.name));
                    frame.bind(&name.name, V::Block(block), Origin::Local);
                    Ok(())
                }
                _ => self.fail(Code::Type, expr.span, "only a block can be shared"),
            },
            StmtKind::Assign(names, expr) => {
                let known = self.values_so_far();
                let value = self.value(frame, expr)?;
                if let ([_], V::Tensor(t)) = (names.as_slice(), &value) {
                    self.comes_from(*t, known, frame.scope, stmt.span);
                }
                self.assign(frame, names, value, stmt.span)
            }
            StmtKind::Repeat(repeat) => self.repeat(frame, repeat),
            StmtKind::If(arms, other) => {
                for (condition, body) in arms {
                    if self.condition(frame, condition)? {
                        return self.run(frame, body);
                    }
                }
                other.as_ref().map_or(Ok(()), |body| self.run(frame, body))
            }
            StmtKind::Recur(recur) => self.recurrence(frame, recur, stmt.span),
            StmtKind::Generate(how, args) => self.generates(frame, how, args),
            StmtKind::Store(store) => self.are_stored(frame, store),
            StmtKind::Output(name, value) => self.declare_output(frame, name, value),
            StmtKind::Return(values) => {
                let values = values.iter().map(|v| self.value(frame, v)).collect::<Done<Vec<_>>>()?;
                frame.returned = Some(values);
                Ok(())
            }
        }
    }

    fn assign(&mut self, frame: &mut Frame<'p>, names: &'p [Ident], value: V<'p>, span: Span) -> Done<()> {
        let values = match (names, value) {
            ([_], value) => vec![value],
            (names, V::Tuple(values)) if values.len() == names.len() => values,
            (names, V::Tuple(values)) => {
                let message = format!("{} results for {} names", values.len(), names.len());
                return self.fail(Code::Arity, span, message);
            }
            (names, _) => return self.fail(Code::Arity, span, format!("one result for {} names", names.len())),
        };
        for (name, value) in names.iter().zip(values) {
            if name.name == "t" || crate::constant::named(&name.name).is_some() {
                return self.fail(Code::Duplicate, name.span, format!("`{}` has a meaning already", name.name));
            }
            if let Some(assigned) = &mut frame.assigned
                && !assigned.contains(&name.name)
            {
                assigned.push(name.name.clone());
            }
            if let V::Tensor(T { level: 0, id }) = value {
                self.names.push((id, name.name.clone()));
            }
            frame.bind(&name.name, value, Origin::Local);
        }
        Ok(())
    }

    fn repeat(&mut self, frame: &mut Frame<'p>, repeat: &'p Repeat) -> Done<()> {
        let (from, to) = (self.count(frame, &repeat.from)?, self.count(frame, &repeat.to)?);
        if to.saturating_sub(from) > 10_000 {
            return self.fail(Code::TooLarge, repeat.to.span, "a repeat of more than 10000 turns");
        }
        let label = repeat.label.as_ref().map_or("layers", |l| l.name.as_str()).to_owned();
        let (scope, path) = (frame.scope, frame.path.clone());
        let place = repeat.var.span.start as usize;
        if *self.repeats.entry(frame.below(&label)).or_insert(place) != place {
            let error =
                Diagnostic::new(Code::Duplicate, repeat.var.span, format!("two repeats of one block are called `{label}`"));
            return Err(self.error(error.hint("name this one: `repeat i in 0..n as name { … }`")));
        }
        for i in from..to {
            self.count_step(repeat.var.span)?;
            let name = format!("{label}.{i}");
            let inner = frame.below(&name);
            frame.scope = self.open_scope(scope, &name, "repeat");
            frame.path = inner;
            frame.bind(&repeat.var.name, V::Const(crate::model::Constant::Int(i as i64)), Origin::Local);
            self.run(frame, &repeat.body)?;
            frame.scope = scope;
            frame.path.clone_from(&path);
        }
        Ok(())
    }

    /// A new instance in the tree.
    pub(super) fn open_scope(&mut self, parent: ScopeId, name: &str, block: &str) -> ScopeId {
        self.scopes.push(Scope { parent: Some(parent), name: name.into(), block: block.into() });
        ScopeId(self.scopes.len() as u32 - 1)
    }

    /// Whether the sequence axis is meant.
    pub(super) fn over_seq(&mut self, frame: &Frame<'p>, axis: &Ident) -> Done<()> {
        match self.axis_of(frame, axis)? {
            seq if self.is_seq(seq) => Ok(()),
            _ => self.fail(Code::UnknownAxis, axis.span, "a recurrence runs over the sequence axis `t`"),
        }
    }
}

/// The names that a statement would have given a meaning.
fn bound_names(stmt: &Stmt) -> Vec<&str> {
    match &stmt.kind {
        StmtKind::Dim(name, _) | StmtKind::Share(name, _) => vec![&name.name],
        StmtKind::Assign(names, _) => names.iter().map(|n| n.name.as_str()).collect(),
        StmtKind::Recur(recur) => recur.body.stmts.iter().flat_map(bound_names).collect(),
        StmtKind::Repeat(repeat) => repeat.body.stmts.iter().flat_map(bound_names).collect(),
        StmtKind::If(arms, other) => {
            let bodies = arms.iter().map(|(_, body)| body).chain(other);
            bodies.flat_map(|body| &body.stmts).flat_map(bound_names).collect()
        }
        StmtKind::Param(..) | StmtKind::Store(_) | StmtKind::Generate(..) | StmtKind::Output(..) | StmtKind::Return(_) => vec![],
    }
}
