//! Makes steps of recurrences, value by value.

use crate::forms::recur::explain;
use crate::graph::Graph;
use crate::graph::shape::{Env, infer};
use braid_dsl::model::*;

pub(super) const T: AxisId = AxisId(0);
pub(super) const H: AxisId = AxisId(1);
pub(super) const K: AxisId = AxisId(2);
pub(super) const V: AxisId = AxisId(3);
pub(super) const J: AxisId = AxisId(4);

pub(super) fn axes() -> Vec<Axis> {
    let axis = |name: &str, n| Axis { name: name.into(), size: Size::Fixed(n) };
    let seq = Axis { name: "t".into(), size: Size::Seq };
    vec![seq, axis("h", 2), axis("k", 4), axis("v", 5), axis("j", 4)]
}

/// Writes one recurrence.
pub(super) struct Maker {
    model: Model,
    operands: Vec<ValueId>,
    recur: Recur,
}

pub(super) type Id = ValueId;

impl Maker {
    pub(super) fn new(states: &[(&str, &[AxisId])]) -> Maker {
        let model = Model {
            name: "small".into(),
            doc: String::new(),
            axes: axes(),
            params: vec![],
            scopes: vec![Scope { parent: None, name: String::new(), block: "small".into() }],
            values: vec![],
            inputs: vec![],
            output: ValueId(0),
            outputs: vec![],
            joined: None,
            generate: Generate::None,
            ahead: 0,
            constants: vec![],
            names: vec![],
        };
        let states = states.iter().map(|(name, axes)| State { name: name.to_string(), axes: axes.to_vec(), init: 0.0 });
        let recur = Recur { seq: T, states: states.collect(), body: Body::default(), next: vec![], outputs: vec![] };
        Maker { model, operands: vec![], recur }
    }

    pub(super) fn value(&mut self, op: Op, args: &[Id], ty: Type) -> Id {
        let value = Value { op, args: args.to_vec(), ty, span: Default::default(), scope: ScopeId(0) };
        self.recur.body.values.push(value);
        ValueId(self.recur.body.values.len() as u32 - 1)
    }

    pub(super) fn capture(&mut self, op: Op, axes: &[AxisId], outer: Vec<AxisId>) -> Id {
        let ty = Type { elem: Elem::Float, axes: outer };
        self.model.values.push(Value { op, args: vec![], ty, span: Default::default(), scope: ScopeId(0) });
        self.operands.push(ValueId(self.model.values.len() as u32 - 1));
        self.value(Op::Capture(self.operands.len() - 1), &[], Type { elem: Elem::Float, axes: axes.to_vec() })
    }

    /// Something that comes with every step.
    pub(super) fn input(&mut self, axes: &[AxisId]) -> Id {
        let outer = [vec![T], axes.to_vec()].concat();
        self.model.inputs.push((format!("x{}", self.model.inputs.len()), Type { elem: Elem::Float, axes: outer.clone() }));
        self.capture(Op::Input(self.model.inputs.len() - 1), axes, outer)
    }

    /// Something that is always the same.
    pub(super) fn param(&mut self, axes: &[AxisId]) -> Id {
        let path = format!("p{}", self.model.params.len());
        self.model.params.push(Param { path, axes: axes.to_vec(), span: Default::default(), stored: None });
        self.capture(Op::Param(ParamId(self.model.params.len() as u32 - 1)), axes, axes.to_vec())
    }

    pub(super) fn op(&mut self, op: Op, args: &[Id]) -> Id {
        let (axes, list) = (axes(), self.recur.body.values.clone());
        let types: Vec<&Type> = args.iter().map(|arg| &list[arg.0 as usize].ty).collect();
        let states: Vec<Type> =
            self.recur.states.iter().map(|state| Type { elem: Elem::Float, axes: state.axes.clone() }).collect();
        let ty = infer(&Env { axes: &axes, states: &states, ..Env::default() }, &op, &types).expect("a type");
        self.value(op, args, ty)
    }

    pub(super) fn state(&mut self, n: usize) -> Id {
        self.op(Op::State(n), &[])
    }
    pub(super) fn number(&mut self, x: f64) -> Id {
        self.op(Op::Const(x), &[])
    }
    pub(super) fn mul(&mut self, a: Id, b: Id) -> Id {
        self.op(Op::Binary(Binary::Mul), &[a, b])
    }
    pub(super) fn add(&mut self, a: Id, b: Id) -> Id {
        self.op(Op::Binary(Binary::Add), &[a, b])
    }
    pub(super) fn sub(&mut self, a: Id, b: Id) -> Id {
        self.op(Op::Binary(Binary::Sub), &[a, b])
    }
    pub(super) fn max(&mut self, a: Id, b: Id) -> Id {
        self.op(Op::Binary(Binary::Max), &[a, b])
    }
    pub(super) fn un(&mut self, f: Unary, x: Id) -> Id {
        self.op(Op::Unary(f), &[x])
    }
    pub(super) fn exp(&mut self, x: Id) -> Id {
        self.un(Unary::Exp, x)
    }
    pub(super) fn sum(&mut self, axis: AxisId, x: Id) -> Id {
        self.op(Op::Reduce(Reduce::Sum, vec![axis]), &[x])
    }
    pub(super) fn dot(&mut self, axis: AxisId, a: Id, b: Id) -> Id {
        let product = self.mul(a, b);
        self.sum(axis, product)
    }

    /// The explanation of the recurrence with these updates and outputs.
    pub(super) fn explain(mut self, next: &[Id], outputs: &[Id]) -> String {
        let seq = |ty: &Type| Type { elem: Elem::Float, axes: [vec![T], ty.axes.clone()].concat() };
        let types: Vec<Type> = outputs.iter().map(|id| seq(&self.recur.body.values[id.0 as usize].ty)).collect();
        (self.recur.next, self.recur.outputs) = (next.to_vec(), outputs.to_vec());
        let span = Default::default();
        let none = Type { elem: Elem::Float, axes: vec![] };
        let recur = Value { op: Op::Recur(Box::new(self.recur)), args: self.operands, ty: none, span, scope: ScopeId(0) };
        self.model.values.push(recur);
        let node = ValueId(self.model.values.len() as u32 - 1);
        self.model.values.push(Value { op: Op::Result(0), args: vec![node], ty: types[0].clone(), span, scope: ScopeId(0) });
        self.model.output = ValueId(self.model.values.len() as u32 - 1);
        let graph = Graph::build(&self.model);
        let node = graph.order().into_iter().find(|id| matches!(graph.op(*id), Op::Recur(_))).expect("the recurrence");
        explain(&graph, node, None)
    }
}
