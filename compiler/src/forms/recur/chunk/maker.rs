//! Writes a chunk's body: values typed by the rules of the graph, equal ones once.

use crate::graph::shape::{Env, infer};
use braid_dsl::model::{Axis, AxisId, Binary, Body, Elem, Op, Recur, Reduce, Type, Unary, Value, ValueId};
use std::collections::HashMap;

/// A body in work.
pub struct Maker<'a> {
    /// All axes, those of the chunk too.
    pub axes: &'a [Axis],
    /// The recurrence whose steps are lifted.
    recur: &'a Recur,
    /// Types of the captures as a chunk sees them: with a row axis where they have a sequence.
    captures: Vec<Type>,
    states: Vec<Type>,
    values: Vec<Value>,
    known: HashMap<String, ValueId>,
    lifted: HashMap<ValueId, ValueId>,
}

impl<'a> Maker<'a> {
    /// An empty body.
    pub fn new(axes: &'a [Axis], recur: &'a Recur, captures: Vec<Type>) -> Maker<'a> {
        let states = recur.states.iter().map(|s| Type { elem: Elem::Float, axes: s.axes.clone() }).collect();
        Maker { axes, recur, captures, states, values: vec![], known: HashMap::new(), lifted: HashMap::new() }
    }

    /// The body.
    pub fn finish(self) -> Body {
        Body { values: self.values }
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// An operand that the step does not have.
    pub fn capture(&mut self, n: usize, ty: Type) -> ValueId {
        self.push(Op::Capture(n), &[], ty)
    }

    /// The axes of a value.
    pub fn axes_of(&self, id: ValueId) -> &[AxisId] {
        &self.values[id.0 as usize].ty.axes
    }

    /// Whether a value varies along one of some axes.
    pub fn carries(&self, id: ValueId, axes: &[AxisId]) -> bool {
        self.axes_of(id).iter().any(|axis| axes.contains(axis))
    }

    /// The op of a value, its operands and, if it is one, its number.
    pub fn number_of(&self, id: ValueId) -> Option<f64> {
        match self.values[id.0 as usize].op {
            Op::Const(number) => Some(number),
            _ => None,
        }
    }

    /// An op applied to values of the body. Its type follows; the derivation makes no op that has none.
    pub fn op(&mut self, op: Op, args: &[ValueId]) -> ValueId {
        let types: Vec<Type> = args.iter().map(|arg| self.values[arg.0 as usize].ty.clone()).collect();
        let types: Vec<&Type> = types.iter().collect();
        let env = Env { axes: self.axes, captures: &self.captures, states: &self.states, ..Env::default() };
        let ty = infer(&env, &op, &types);
        debug_assert!(ty.is_ok(), "{op:?}: {ty:?}");
        let ty = ty.unwrap_or(Type { elem: Elem::Float, axes: vec![] });
        self.push(op, args, ty)
    }

    fn push(&mut self, op: Op, args: &[ValueId], ty: Type) -> ValueId {
        let key = format!("{op:?} {args:?} {:?}", ty.elem);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let value = Value { op, args: args.to_vec(), ty, span: Default::default(), scope: braid_dsl::model::ScopeId(0) };
        self.values.push(value);
        let id = ValueId(self.values.len() as u32 - 1);
        self.known.insert(key, id);
        id
    }

    /// A value of the step that no state is in, for all rows of the chunk.
    pub fn lift(&mut self, id: ValueId) -> ValueId {
        if let Some(known) = self.lifted.get(&id) {
            return *known;
        }
        let value = self.recur.body.values[id.0 as usize].clone();
        let args: Vec<ValueId> = value.args.iter().map(|arg| self.lift(*arg)).collect();
        let made = self.applied(&value, &args);
        self.lifted.insert(id, made);
        made
    }

    /// Says what a value of the step is for all rows of the chunk.
    pub fn preset(&mut self, id: ValueId, made: ValueId) {
        self.lifted.insert(id, made);
    }

    /// A whole number.
    pub fn whole(&mut self, number: usize) -> ValueId {
        self.push(Op::Const(number as f64), &[], Type { elem: Elem::Int, axes: vec![] })
    }

    /// The op of a step's value on lifted operands.
    pub fn applied(&mut self, value: &Value, args: &[ValueId]) -> ValueId {
        match value.op {
            Op::Const(_) => self.push(value.op.clone(), args, Type { elem: value.ty.elem, axes: vec![] }),
            _ => self.op(value.op.clone(), args),
        }
    }

    /// A number.
    pub fn number(&mut self, number: f64) -> ValueId {
        self.push(Op::Const(number), &[], Type { elem: Elem::Float, axes: vec![] })
    }

    /// `a b`; 1 is dropped.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        match (self.number_of(a), self.number_of(b)) {
            (Some(1.0), _) => b,
            (_, Some(1.0)) => a,
            (Some(-1.0), _) => self.op(Op::Unary(Unary::Neg), &[b]),
            (_, Some(-1.0)) => self.op(Op::Unary(Unary::Neg), &[a]),
            _ => self.op(Op::Binary(Binary::Mul), &[a, b]),
        }
    }

    /// `a + b`; where one of them is missing, the other.
    pub fn plus(&mut self, a: Option<ValueId>, b: ValueId) -> ValueId {
        match a {
            Some(a) => self.op(Op::Binary(Binary::Add), &[a, b]),
            None => b,
        }
    }

    /// The product of factors and a number.
    pub fn product(&mut self, number: f64, factors: &[ValueId]) -> ValueId {
        let one = self.number(1.0);
        let all = factors.iter().fold(one, |all, factor| self.mul(all, *factor));
        let number = self.number(number);
        self.mul(all, number)
    }

    /// `sum[over] a b`, over the axes that one of them carries.
    pub fn contract(&mut self, a: ValueId, b: ValueId, over: &[AxisId]) -> ValueId {
        let both: Vec<AxisId> = over.iter().copied().filter(|x| self.carries(a, &[*x]) && self.carries(b, &[*x])).collect();
        if both.len() == over.len() && !over.is_empty() {
            return self.op(Op::Contract(over.to_vec()), &[a, b]);
        }
        let product = self.mul(a, b);
        self.sum(product, over)
    }

    /// `sum[over] x`; an axis that `x` lacks multiplies.
    pub fn sum(&mut self, x: ValueId, over: &[AxisId]) -> ValueId {
        let (own, missing): (Vec<AxisId>, Vec<AxisId>) = over.iter().partition(|axis| self.carries(x, &[**axis]));
        let times: f64 = missing.iter().filter_map(|a| crate::graph::shape::size(self.axes, *a)).map(|n| n as f64).product();
        let total = if own.is_empty() { x } else { self.op(Op::Reduce(Reduce::Sum, own), &[x]) };
        let times = self.number(times);
        self.mul(total, times)
    }

    /// `x` with another name for an axis, if it has it.
    pub fn rename(&mut self, x: ValueId, from: AxisId, to: AxisId) -> ValueId {
        if self.carries(x, &[from]) { self.op(Op::Rename(from, to), &[x]) } else { x }
    }
}
