//! Recurrences: states, what one step does to them, and where mini-batches begin.

use super::frame::{Frame, Origin, V};
use super::tensor::Level;
use super::{Done, Elab, T};
use crate::ast::{Arg, ExprKind, RecurState};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{AxisId, Binary, Body, Constant, Elem, Op, Recur, State, Type, ValueId};
use crate::span::Span;

/// What the body of a recurrence knows of it.
pub struct Steps {
    /// Positions of a mini-batch, if the recurrence has them.
    every: Option<usize>,
    /// The states of the text, each with its value as the step begins.
    states: Vec<(State, T)>,
    /// States that the compiler adds: for each the state of the text whose value at the start of the mini-batch it holds, itself, and
    /// that value at this step.
    starts: Vec<(usize, State, T)>,
}

/// What a state starts with.
enum Start {
    Number(f64),
    Tensor(T),
}

impl<'p> Elab<'p> {
    /// `recur … over t { … }`.
    pub(super) fn recurrence(&mut self, frame: &mut Frame<'p>, recur: &'p crate::ast::Recur, span: Span) -> Done<()> {
        self.row_wise(span, "recur")?;
        self.over_seq(frame, &recur.axis)?;
        let every = match &recur.every {
            None => None,
            Some(expr) => match self.count(frame, expr)? {
                0 => return self.fail(Code::Type, expr.span, "a mini-batch has at least one position"),
                n => Some(n),
            },
        };
        let mut states = Vec::new();
        for state in &recur.states {
            let axes = self.axes_of(frame, &state.axes, true)?;
            let start = self.state_start(frame, state, &axes)?;
            let init = if let Start::Number(init) = start { init } else { 0.0 };
            states.push((State { name: state.name.name.clone(), axes, init }, start));
        }
        let before: Vec<_> = recur.states.iter().map(|s| (s.name.name.clone(), frame.vars.remove(&s.name.name))).collect();
        self.levels.push(Level::new(vec![]));
        let mut begun = Vec::new();
        for (n, (state, start)) in states.into_iter().enumerate() {
            let t = self.begin_state(frame, n, &state, start, recur.states[n].span)?;
            frame.bind(&state.name, V::Tensor(t), Origin::Local);
            begun.push((state, t));
        }
        self.levels[1].steps = Some(Steps { every, states: begun, starts: vec![] });
        let outer = frame.assigned.replace(Vec::new());
        let ran = self.run(frame, &recur.body).and_then(|()| self.recurred(frame, recur, span));
        let assigned = std::mem::replace(&mut frame.assigned, outer).unwrap_or_default();
        self.levels.truncate(1);
        let results = ran?;
        for (name, value) in before {
            match value {
                Some(value) => drop(frame.vars.insert(name, value)),
                None => drop(frame.vars.remove(&name)),
            }
        }
        for (name, t) in assigned.iter().zip(&results) {
            if let Some(t) = t {
                frame.bind(name, V::Tensor(*t), Origin::Local);
            }
        }
        Ok(())
    }

    /// What the text says that a state starts with: a number, or a tensor that does not change along the sequence.
    fn state_start(&mut self, frame: &mut Frame<'p>, state: &'p RecurState, axes: &[AxisId]) -> Done<Start> {
        let Some(expr) = &state.init else { return Ok(Start::Number(0.0)) };
        let value = self.value(frame, expr)?;
        if let Some(known) = Self::known(&value) {
            return match crate::constant::number(&known) {
                Some(number) => Ok(Start::Number(number)),
                None => self.fail(Code::Type, expr.span, "a state starts with a number or a tensor"),
            };
        }
        let t = self.tensor(&value, Some(Elem::Float), expr.span, frame.scope)?;
        let t = self.as_float(t, expr.span, frame.scope)?;
        let ty = self.seen(t);
        if let Some(extra) = ty.axes.iter().find(|a| !axes.contains(a)) {
            let message = format!("what `{}` starts with has an axis `{}`", state.name.name, self.axis_name(*extra));
            let label = format!("the state is {}, its start {}", self.axes_text(axes), self.axes_text(&ty.axes));
            return Err(self.error(Diagnostic::new(Code::AxisMismatch, expr.span, message).label(label)));
        }
        Ok(Start::Tensor(t))
    }

    /// A state's value as a step begins. One that starts with a tensor is that tensor at the first position.
    fn begin_state(&mut self, frame: &Frame<'p>, n: usize, state: &State, start: Start, span: Span) -> Done<T> {
        let ty = Type { elem: Elem::Float, axes: state.axes.clone() };
        let own = self.push(Op::State(n), vec![], ty.clone(), span, frame.scope);
        let Start::Tensor(start) = start else { return Ok(own) };
        let is_first = self.at_multiple(frame, None, span)?;
        self.apply(Op::Select, &[is_first, start, own], ty, span, frame.scope)
    }

    /// Whether the position is a multiple of `every`; without it, whether it is the first.
    fn at_multiple(&mut self, frame: &Frame<'p>, every: Option<usize>, span: Span) -> Done<T> {
        let int = |axes| Type { elem: Elem::Int, axes };
        let mut at = self.push_at(0, Op::Position(frame.seq), vec![], int(vec![frame.seq]), span, frame.scope);
        if let Some(every) = every {
            let every = self.push(Op::Const(every as f64), vec![], int(vec![]), span, frame.scope);
            at = self.binary(Binary::Rem, at, every, span, frame.scope)?;
        }
        let zero = self.push(Op::Const(0.0), vec![], int(vec![]), span, frame.scope);
        self.binary(Binary::Eq, at, zero, span, frame.scope)
    }

    /// `start(S)`: the state `S` as the mini-batch began, from a state of its own that is renewed where one begins.
    pub(super) fn start(&mut self, frame: &mut Frame<'p>, args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let [arg] = args else { return self.fail(Code::Arity, span, "write `start(S)`: a state as the mini-batch began") };
        let steps = self.levels.last().and_then(|level| level.steps.as_ref()).filter(|_| frame.assigned.is_some());
        let Some(Steps { every: Some(every), states, starts }) = steps else {
            let error = Diagnostic::new(Code::Misplaced, span, "`start` stands only in a recurrence with mini-batches");
            return Err(self.error(error.hint("say how long they are: `recur … over t every 8 { … }`")));
        };
        let known = || states.iter().map(|(state, _)| state.name.as_str());
        let n = match &arg.value.kind {
            ExprKind::Name(name) => known().position(|known| known == name),
            _ => None,
        };
        let Some(n) = n else {
            let hint = if let ExprKind::Name(name) = &arg.value.kind { did_you_mean(name, known()) } else { None };
            let error = Diagnostic::new(Code::Type, arg.value.span, "`start` takes a state of this recurrence");
            return Err(self.error(error.maybe_hint(hint)));
        };
        if let Some((.., t)) = starts.iter().find(|(of, ..)| *of == n) {
            return Ok(V::Tensor(*t));
        }
        let (every, (state, now), at) = (*every, states[n].clone(), states.len() + starts.len());
        let mut name = format!("{}_start", state.name);
        while known().chain(starts.iter().map(|(_, state, _)| state.name.as_str())).any(|known| known == name) {
            name.push('_');
        }
        let ty = Type { elem: Elem::Float, axes: state.axes.clone() };
        let held = self.push(Op::State(at), vec![], ty.clone(), span, frame.scope);
        let begins = self.at_multiple(frame, Some(every), span)?;
        let t = self.apply(Op::Select, &[begins, now, held], ty, span, frame.scope)?;
        if let Some(steps) = &mut self.levels[1].steps {
            steps.starts.push((n, State { name, ..state }, t));
        }
        Ok(V::Tensor(t))
    }

    /// Closes the body: the recurrence and its results, one for each assigned name that is a tensor and not a state.
    fn recurred(&mut self, frame: &mut Frame<'p>, recur: &'p crate::ast::Recur, span: Span) -> Done<Vec<Option<T>>> {
        let steps = self.levels[1].steps.take();
        let Some(Steps { states, starts, .. }) = steps else { return Err(super::Stop) };
        let mut next = Vec::new();
        for ((state, _), declared) in states.iter().zip(&recur.states) {
            let value = frame.get(&state.name).cloned();
            let value = value.unwrap_or(V::Const(Constant::Float(state.init)));
            let t = self.tensor(&value, Some(Elem::Float), declared.span, frame.scope)?;
            let t = self.as_float(t, declared.span, frame.scope)?;
            next.push(self.spread(frame, t, &state.axes, declared)?);
        }
        next.extend(starts.iter().map(|(.., t)| t.id));
        let names = frame.assigned.clone().unwrap_or_default();
        let mut outputs = Vec::new();
        let mut kinds: Vec<Option<(usize, Type)>> = Vec::new();
        for name in &names {
            let is_state = states.iter().any(|(s, _)| s.name == *name);
            match frame.get(name).cloned() {
                Some(V::Tensor(t)) if !is_state => {
                    let id = self.here(t);
                    let ty = self.ty(T { level: 1, id });
                    kinds.push(Some((outputs.len(), ty)));
                    outputs.push(id);
                }
                _ => kinds.push(None),
            }
        }
        let Some(level) = self.levels.pop() else { return self.fail(Code::Misplaced, span, "a recurrence without a body") };
        let states = states.into_iter().map(|(state, _)| state).chain(starts.into_iter().map(|(_, state, _)| state)).collect();
        let args: Vec<ValueId> = level.captures.iter().map(|t| t.id).collect();
        let seq = self.axis_of(frame, &recur.axis)?;
        let op = Op::Recur(Box::new(Recur { seq, states, body: Body { values: level.values }, next, outputs }));
        let node = self.push(op, args, Type { elem: Elem::Float, axes: vec![] }, span, frame.scope);
        let mut results = Vec::new();
        for kind in kinds {
            results.push(kind.map(|(n, ty)| {
                let axes = std::iter::once(seq).chain(ty.axes).collect();
                self.push(Op::Result(n), vec![node.id], Type { elem: ty.elem, axes }, span, frame.scope)
            }));
        }
        Ok(results)
    }

    /// A state's next value with exactly the state's axes.
    fn spread(&mut self, frame: &Frame<'p>, t: T, axes: &[AxisId], state: &'p RecurState) -> Done<ValueId> {
        let ty = self.seen(t);
        if let Some(extra) = ty.axes.iter().find(|a| !axes.contains(a)) {
            let message = format!("the update of `{}` brings in axis `{}`", state.name.name, self.axis_name(*extra));
            let error = Diagnostic::new(Code::AxisMismatch, state.span, message);
            let label = format!("the state is {}, its update {}", self.axes_text(axes), self.axes_text(&ty.axes));
            return Err(self.error(error.label(label)));
        }
        let mut t = t;
        for axis in axes.iter().filter(|a| !ty.axes.contains(a)) {
            // Zero along the missing axis makes the value vary along it.
            let index = self.push(Op::Index(*axis), vec![], Type { elem: Elem::Int, axes: vec![*axis] }, state.span, frame.scope);
            let index = self.as_float(index, state.span, frame.scope)?;
            let zero = self.push(Op::Const(0.0), vec![], Type { elem: Elem::Float, axes: vec![] }, state.span, frame.scope);
            let zeros = self.binary(Binary::Mul, index, zero, state.span, frame.scope)?;
            t = self.binary(Binary::Add, t, zeros, state.span, frame.scope)?;
        }
        Ok(self.here(t))
    }
}
