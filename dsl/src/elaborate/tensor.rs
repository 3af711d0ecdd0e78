//! Tensor operations: types, conversions, broadcasting, and the nested programs of recurrences and attention.

use std::collections::{BTreeMap, HashMap};

use super::recurrence::Steps;
use super::{Done, Elab, MOST_VALUES, Stop, T};
use crate::diagnostic::{Code, Diagnostic};
use crate::elaborate::frame::V;
use crate::model::{AxisId, Binary, Constant, Elem, Held, Op, Reduce, ScopeId, Type, Unary, Value, ValueId};
use crate::span::Span;

/// Of which position something is that an attention asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The query's.
    Query,
    /// The key's.
    Key,
    /// The one that is as far from the first as the key is from the query.
    Apart,
}

/// One program: the model's, a step of a recurrence, or a predicate or score of attention.
pub struct Level {
    /// Its values.
    pub values: Vec<Value>,
    /// Outer values that it uses, in the order of their numbers.
    pub captures: Vec<T>,
    /// Of which position captures are, in attention.
    pub sides: BTreeMap<usize, Side>,
    known: HashMap<T, ValueId>,
    /// Where query and key positions are, in attention.
    pub positions: Option<(T, T)>,
    /// The recurrence whose step it is.
    pub steps: Option<Steps>,
}

impl Level {
    /// The model's own.
    pub fn model() -> Self {
        Level::new(vec![])
    }

    /// A body that continues a list of captures.
    pub fn new(captures: Vec<T>) -> Self {
        Level { values: vec![], captures, sides: BTreeMap::new(), known: HashMap::new(), positions: None, steps: None }
    }
}

impl Level {
    /// With the positions that the captures so far are of.
    pub fn with_sides(self, sides: BTreeMap<usize, Side>) -> Self {
        Level { sides, ..self }
    }
}

impl<'p> Elab<'p> {
    pub(super) fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Appends to the innermost program; arguments are ids there.
    pub(super) fn push(&mut self, op: Op, args: Vec<ValueId>, ty: Type, span: Span, scope: ScopeId) -> T {
        let level = self.depth();
        self.push_at(level, op, args, ty, span, scope)
    }

    pub(super) fn push_at(&mut self, level: usize, op: Op, args: Vec<ValueId>, ty: Type, span: Span, scope: ScopeId) -> T {
        let values = &mut self.levels[level].values;
        values.push(Value { op, args, ty, span, scope });
        T { level, id: ValueId(values.len() as u32 - 1) }
    }

    /// How many values the innermost program has.
    pub(super) fn values_so_far(&self) -> usize {
        self.levels[self.depth()].values.len()
    }

    /// A value of this block that a statement made, after the first `known` ones, comes from the whole of it, its name included; also if a
    /// function made it, whose text knows no such name.
    pub(super) fn comes_from(&mut self, t: T, known: usize, scope: ScopeId, statement: Span) {
        if t.level != self.depth() || (t.id.0 as usize) < known {
            return;
        }
        let value = &mut self.levels[t.level].values[t.id.0 as usize];
        if value.scope == scope && !matches!(value.op, Op::Param(_) | Op::Capture(_)) {
            value.span = statement;
        }
    }

    pub(super) fn at(&self, t: T) -> &Value {
        &self.levels[t.level].values[t.id.0 as usize]
    }

    pub(super) fn ty(&self, t: T) -> Type {
        self.at(t).ty.clone()
    }

    /// The id of a tensor in the innermost program; an outer one is captured.
    pub(super) fn here(&mut self, t: T) -> ValueId {
        self.here_at(self.depth(), t)
    }

    fn here_at(&mut self, level: usize, t: T) -> ValueId {
        if t.level == level {
            return t.id;
        }
        if let Some(known) = self.levels[level].known.get(&t) {
            return *known;
        }
        let outer = T { level: level - 1, id: self.here_at(level - 1, t) };
        let outer = if self.levels[level].positions.is_some() { self.stored(outer) } else { outer };
        let Value { op, ty, span, scope, .. } = self.at(outer).clone();
        let made = match op {
            // Constants and indices are leaves everywhere.
            Op::Const(_) | Op::Index(_) => self.push_at(level, op, vec![], ty, span, scope),
            _ => {
                let n = self.captured(level, outer, None);
                let axes = ty.axes.iter().copied().filter(|a| !self.is_seq(*a)).collect();
                self.push_at(level, Op::Capture(n), vec![], Type { axes, ..ty }, span, scope)
            }
        };
        self.levels[level].known.insert(t, made.id);
        made.id
    }

    /// An index as a tensor in memory: heads of attention are told apart by what they read.
    fn stored(&mut self, t: T) -> T {
        let Value { op, ty, span, scope, .. } = self.at(t).clone();
        match op {
            Op::Index(_) => {
                let zero = self.push_at(t.level, Op::Const(0.0), vec![], Type { elem: Elem::Int, axes: vec![] }, span, scope);
                self.push_at(t.level, Op::Binary(Binary::Max), vec![t.id, zero.id], ty, span, scope)
            }
            _ => t,
        }
    }

    /// The number of a capture of a program; `side`: as which position has it.
    fn captured(&mut self, level: usize, t: T, side: Option<Side>) -> usize {
        let Level { captures, sides, .. } = &mut self.levels[level];
        let known = (0..captures.len()).find(|n| captures[*n] == t && sides.get(n).copied() == side);
        known.unwrap_or_else(|| {
            captures.push(t);
            side.map(|side| sides.insert(captures.len() - 1, side));
            captures.len() - 1
        })
    }

    /// Of which position `x[t: at]` is in a clause of attention, or `x[prompt: at]`.
    fn side_of(&self, at: T, held: Held) -> Option<Side> {
        let (query, key) = self.levels[self.depth()].positions?;
        let value = &self.levels[at.level].values[at.id.0 as usize];
        let distance = value.op == Op::Binary(Binary::Sub) && value.args == [query.id, key.id];
        match held {
            Held::Sequence if at == query => Some(Side::Query),
            Held::Sequence if at == key => Some(Side::Key),
            Held::Prompt if at.level == query.level && distance => Some(Side::Apart),
            _ => None,
        }
    }

    /// `x[t: query]`, `x[t: key]` and `x[prompt: query - key]` in a clause of attention.
    pub(super) fn at_position(&mut self, t: T, (at, axis, held): (T, AxisId, Held), span: Span, scope: ScopeId) -> Done<T> {
        let Some(side) = self.side_of(at, held) else {
            let error = Diagnostic::new(Code::Misplaced, span, "a place along the sequence that is neither `query` nor `key`");
            return Err(self.error(
                error.hint("in `keep`, `score` and `weight` write `x[t: query]`, `x[t: key]` or `x[prompt: query - key]`"),
            ));
        };
        let ty = self.ty(t);
        if t.level > 0 || !ty.axes.contains(&axis) {
            let error =
                Diagnostic::new(Code::Misplaced, span, "only what was computed before, along `t`, has a value at a position");
            return Err(self.error(error.hint("give it a name before the attention, and write that name here")));
        }
        if self.levels[self.depth()].steps.is_some() {
            // In the recurrence of a policy, the step is the query's.
            if side == Side::Query {
                return Ok(t);
            }
            let error =
                Diagnostic::new(Code::Misplaced, span, "a policy that keeps keys itself does not have what this asks of a key");
            return Err(self.error(error.hint("choose a policy without a recurrence, such as `a_shape`")));
        }
        let n = self.captured(self.depth(), t, Some(side));
        let axes = ty.axes.iter().copied().filter(|a| *a != axis).collect();
        Ok(self.push(Op::Capture(n), vec![], Type { axes, ..ty }, span, scope))
    }

    /// Applies an op to tensors of any outer program.
    pub(super) fn apply(&mut self, op: Op, args: &[T], ty: Type, span: Span, scope: ScopeId) -> Done<T> {
        if self.levels[0].values.len() > MOST_VALUES {
            return self.fail(Code::TooLarge, span, format!("the model has more than {MOST_VALUES} operations"));
        }
        let args = args.iter().map(|t| self.here(*t)).collect();
        Ok(self.push(op, args, ty, span, scope))
    }

    /// A tensor's type as the innermost program sees it.
    pub(super) fn seen(&mut self, t: T) -> Type {
        let id = self.here(t);
        self.ty(T { level: self.depth(), id })
    }

    /// A value as a tensor; numbers become constants of type `elem` where that is wanted.
    pub(super) fn tensor(&mut self, value: &V<'p>, elem: Option<Elem>, span: Span, scope: ScopeId) -> Done<T> {
        let (number, own) = match value {
            V::Tensor(t) => return Ok(*t),
            V::Const(Constant::Int(n)) => (*n as f64, Elem::Int),
            V::Const(Constant::Float(x)) => (*x, Elem::Float),
            V::Const(Constant::Bool(b)) => (f64::from(*b), Elem::Bool),
            V::Dim(n, _) => (*n as f64, Elem::Int),
            V::Const(other) => {
                let what = crate::constant::type_name(other);
                return self.fail(Code::Type, span, format!("a {what} stands where a tensor is needed"));
            }
            V::Block(b) => {
                let name = b.block.name.name.clone();
                let error = Diagnostic::new(Code::Type, span, format!("block `{name}` stands where a tensor is needed"));
                return Err(self.error(error.hint("call it: write its inputs in parentheses")));
            }
            V::Dims(_) => return self.fail(Code::Type, span, "axes stand where a tensor is needed"),
            V::Tuple(_) => return self.fail(Code::Arity, span, "several results stand where one tensor is needed"),
            V::Poison => return Err(Stop),
        };
        let elem = match (own, elem) {
            (Elem::Int, Some(Elem::Float)) => Elem::Float,
            _ => own,
        };
        Ok(self.push(Op::Const(number), vec![], Type { elem, axes: vec![] }, span, scope))
    }

    /// An Int or Bool as Float.
    pub(super) fn as_float(&mut self, t: T, span: Span, scope: ScopeId) -> Done<T> {
        let ty = self.seen(t);
        if ty.elem == Elem::Float {
            return Ok(t);
        }
        if let (Op::Const(n), Elem::Int) = (&self.at(t).op, ty.elem) {
            let op = Op::Const(*n);
            return Ok(self.push(op, vec![], Type { elem: Elem::Float, axes: vec![] }, span, scope));
        }
        self.apply(Op::ToFloat, &[t], Type { elem: Elem::Float, ..ty }, span, scope)
    }

    /// The axes of both; equal names need equal sizes.
    pub(super) fn union(&mut self, a: &[AxisId], b: &[AxisId], span: Span) -> Done<Vec<AxisId>> {
        let mut all = a.to_vec();
        for axis in b {
            if all.contains(axis) {
                continue;
            }
            if let Some(other) = all.iter().find(|o| self.axis_name(**o) == self.axis_name(*axis)) {
                let (name, one, two) = (self.axis_name(*axis).to_owned(), self.size(*other), self.size(*axis));
                let error = Diagnostic::new(
                    Code::AxisMismatch,
                    span,
                    format!("axis `{name}` has size {one} on one side and {two} on the other"),
                );
                let label = format!("{} with {}", self.axes_text(a), self.axes_text(b));
                return Err(self.error(error.label(label).hint("rename one of them: `x[a as b]`")));
            }
            if self.is_seq(*axis) && self.seq_of(&all).is_some() {
                let error =
                    Diagnostic::new(Code::AxisMismatch, span, "one side runs along `t` and the other along the source `s`");
                let label = format!("{} with {}", self.axes_text(a), self.axes_text(b));
                return Err(
                    self.error(error.label(label).hint("let positions of `t` attend to those of `s`: `attend[k](q, k, v)`"))
                );
            }
            all.push(*axis);
        }
        Ok(all)
    }

    /// `f(a, b)` on tensors.
    pub(super) fn binary(&mut self, op: Binary, a: T, b: T, span: Span, scope: ScopeId) -> Done<T> {
        use Binary::*;
        let (mut a, mut b) = (a, b);
        let (ta, tb) = (self.seen(a), self.seen(b));
        let logic = matches!(op, And | Or);
        if logic != (ta.elem == Elem::Bool && tb.elem == Elem::Bool)
            && (logic || (ta.elem == Elem::Bool) != (tb.elem == Elem::Bool) || !matches!(op, Eq | Ne))
        {
            let is = |e: Elem| format!("{e:?}").to_lowercase();
            let message = format!("`{}` does not work on {} and {}", crate::constant::word(op), is(ta.elem), is(tb.elem));
            return self.fail(Code::Type, span, message);
        }
        if !logic && (ta.elem == Elem::Float || tb.elem == Elem::Float || matches!(op, Div | Pow)) && ta.elem != Elem::Bool {
            a = self.as_float(a, span, scope)?;
            b = self.as_float(b, span, scope)?;
        }
        let elem = match op {
            Lt | Le | Gt | Ge | Eq | Ne | And | Or => Elem::Bool,
            _ => self.seen(a).elem,
        };
        let axes = self.union(&ta.axes, &tb.axes, span)?;
        self.apply(Op::Binary(op), &[a, b], Type { elem, axes }, span, scope)
    }

    /// `f(x)` on a tensor.
    pub(super) fn unary(&mut self, op: Unary, x: T, span: Span, scope: ScopeId) -> Done<T> {
        let ty = self.seen(x);
        let fits = match op {
            Unary::Not => ty.elem == Elem::Bool,
            _ => ty.elem != Elem::Bool,
        };
        if !fits {
            let message = format!("`{op:?}` does not work on {:?}", ty.elem).to_lowercase();
            return self.fail(Code::Type, span, message);
        }
        let keeps = matches!(op, Unary::Neg | Unary::Abs | Unary::Not);
        let x = if keeps { x } else { self.as_float(x, span, scope)? };
        let elem = if keeps { ty.elem } else { Elem::Float };
        self.apply(Op::Unary(op), &[x], Type { elem, axes: ty.axes }, span, scope)
    }

    /// A reduction; every axis must be there.
    pub(super) fn reduce(&mut self, how: Reduce, axes: Vec<AxisId>, x: T, span: Span, scope: ScopeId) -> Done<T> {
        let mut x = x;
        let ty = self.seen(x);
        self.need_axes(&ty, &axes, span)?;
        if ty.elem == Elem::Bool || how == Reduce::Sum {
            x = self.as_float(x, span, scope)?;
        }
        let elem = self.seen(x).elem;
        let left = ty.axes.iter().copied().filter(|a| !axes.contains(a)).collect();
        self.apply(Op::Reduce(how, axes), &[x], Type { elem, axes: left }, span, scope)
    }

    /// An error unless a type has all axes.
    pub(super) fn need_axes(&mut self, ty: &Type, axes: &[AxisId], span: Span) -> Result<(), Stop> {
        if self.seq_of(axes).is_some() {
            let error = Diagnostic::new(Code::AxisMismatch, span, "an operation along the sequence axis `t` in a row-wise place");
            return Err(self.error(error.hint("relate positions with `recur`, `attend`, `convolve` or `shift`")));
        }
        match axes.iter().find(|a| !ty.axes.contains(a)) {
            None => Ok(()),
            Some(axis) => {
                let name = self.axis_name(*axis).to_owned();
                let error = Diagnostic::new(
                    Code::AxisMismatch,
                    span,
                    format!("the operand has no axis `{name}` of size {}", self.size(*axis)),
                );
                let label = format!("its axes are {}", self.axes_text(&ty.axes));
                Err(self.error(error.label(label)))
            }
        }
    }
}
