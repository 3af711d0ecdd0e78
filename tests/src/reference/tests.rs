//! The oracle's own tests, on graphs made by hand.

use super::*;
use braid_compiler::graph::{Node, Verified};
use braid_dsl::model::*;

const T: AxisId = AxisId(0);
const D: AxisId = AxisId(1);
const W: AxisId = AxisId(2);

/// A model of one input `x: float [t, d]` under construction.
struct Maker(Model);

impl Maker {
    fn new() -> Maker {
        let axis = |name: &str, size| Axis { name: name.into(), size };
        let input = Type { elem: Elem::Float, axes: vec![T, D] };
        let model = Model {
            name: "small".into(),
            doc: String::new(),
            axes: vec![axis("t", Size::Seq), axis("d", Size::Fixed(3)), axis("w", Size::Fixed(4))],
            params: vec![],
            scopes: vec![Scope { parent: None, name: String::new(), block: "small".into() }],
            values: vec![],
            inputs: vec![("x".into(), input)],
            output: ValueId(0),
            outputs: vec![],
            joined: None,
            generate: Generate::None,
            ahead: 0,
            constants: vec![],
            names: vec![],
        };
        Maker(model)
    }

    fn add(&mut self, op: Op, args: &[ValueId], axes: &[AxisId]) -> ValueId {
        self.0.values.push(value(op, args, Elem::Float, axes));
        self.0.output = ValueId(self.0.values.len() as u32 - 1);
        self.0.output
    }

    fn param(&mut self, path: &str, axes: &[AxisId]) -> ValueId {
        self.0.params.push(Param { path: path.into(), axes: axes.to_vec(), span: Default::default(), stored: None });
        self.add(Op::Param(ParamId(self.0.params.len() as u32 - 1)), &[], axes)
    }
}

fn value(op: Op, args: &[ValueId], elem: Elem, axes: &[AxisId]) -> Value {
    Value { op, args: args.to_vec(), ty: Type { elem, axes: axes.to_vec() }, span: Default::default(), scope: ScopeId(0) }
}

fn body(values: Vec<Value>) -> Body {
    Body { values }
}

fn x() -> Tensor {
    let data = (0..21).map(|i| ((i * 7 % 11) as f64 - 5.0) / 4.0).collect();
    Tensor { axes: vec![T, D], shape: vec![7, 3], data }
}

/// Whole sequence, and cut after `cut` rows and then step by step.
fn both_ways(model: &Model, params: impl Fn(&str) -> Vec<f64>, cut: usize) -> Tensor {
    let graph = Graph::build(model);
    Verified::check(graph.clone()).expect("a well-formed graph");
    let mut reference = Reference::new(&graph, params);
    let whole = reference.run_inputs(&[x()]);
    reference.reset();
    let mut parts = reference.run_inputs(&[x().sliced(T, 0, cut)]);
    for row in cut..7 {
        parts = parts.joined(&reference.run_inputs(&[x().sliced(T, row, 1)]), T);
    }
    let far = whole.data.iter().zip(&parts.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 1e-14, "prefill then step differs by {far}");
    whole
}

#[test]
fn convolution_and_shift_carry_their_rows() {
    let mut m = Maker::new();
    let w = m.param("w", &[W, D]);
    let input = m.add(Op::Input(0), &[], &[T, D]);
    let conv = m.add(Op::Conv(W), &[input, w], &[T, D]);
    m.add(Op::Shift(2), &[conv], &[T, D]);
    let out = both_ways(&m.0, |_| vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 3);
    // Row 4 of the result is row 2 of the convolution: 2 x_2 + x_1.
    let x = x().data;
    assert_eq!(out.data[12], 2.0 * x[6] + x[3]);
    assert_eq!(&out.data[..6], &[0.0; 6]);
}

#[test]
fn a_recurrence_that_decays() {
    let mut m = Maker::new();
    let input = m.add(Op::Input(0), &[], &[T, D]);
    let v = |i| ValueId(i);
    let values = vec![
        value(Op::State(0), &[], Elem::Float, &[D]),
        value(Op::Const(0.5), &[], Elem::Float, &[]),
        value(Op::Binary(Binary::Mul), &[v(1), v(0)], Elem::Float, &[D]),
        value(Op::Capture(0), &[], Elem::Float, &[D]),
        value(Op::Binary(Binary::Add), &[v(2), v(3)], Elem::Float, &[D]),
    ];
    let state = State { name: "S".into(), axes: vec![D], init: 0.0 };
    let recur = Recur { seq: T, states: vec![state], body: body(values), next: vec![v(4)], outputs: vec![v(4)] };
    let node = m.add(Op::Recur(Box::new(recur)), &[input], &[]);
    m.add(Op::Result(0), &[node], &[T, D]);
    let out = both_ways(&m.0, |_| vec![], 2);
    let x = x().data;
    assert_eq!(out.data[6], x[0] / 4.0 + x[3] / 2.0 + x[6]);
}

#[test]
fn attention_over_a_window_with_a_sink() {
    let mut m = Maker::new();
    let input = m.add(Op::Input(0), &[], &[T, D]);
    let sink = m.param("sink", &[]);
    let v = |i| ValueId(i);
    let position = |op| value(op, &[], Elem::Int, &[]);
    let keep = vec![
        position(Op::QueryPosition),
        position(Op::KeyPosition),
        value(Op::Binary(Binary::Le), &[v(1), v(0)], Elem::Bool, &[]),
        value(Op::Binary(Binary::Sub), &[v(0), v(1)], Elem::Int, &[]),
        value(Op::Const(2.0), &[], Elem::Int, &[]),
        value(Op::Binary(Binary::Lt), &[v(3), v(4)], Elem::Bool, &[]),
        value(Op::Binary(Binary::And), &[v(2), v(5)], Elem::Bool, &[]),
    ];
    let attend = Attend {
        gives: Gives::Values,
        seq: T,
        keys: T,
        contract: vec![D],
        keep: body(keep),
        keep_result: v(6),
        score: body(vec![value(Op::Score, &[], Elem::Float, &[])]),
        score_result: v(0),
        sink: Some(0),
        plain: false,
        keyed: vec![],
        apart: vec![],
    };
    m.add(Op::Attend(Box::new(attend)), &[input, input, input, sink], &[T, D]);
    let out = both_ways(&m.0, |_| vec![0.25], 3);
    let row = |n: usize| x().data[3 * n..3 * n + 3].to_vec();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let weights = [dot(&row(6), &row(5)).exp(), dot(&row(6), &row(6)).exp()];
    let expected = (weights[0] * row(5)[1] + weights[1] * row(6)[1]) / (weights[0] + weights[1] + 0.25f64.exp());
    assert!((out.data[19] - expected).abs() < 1e-14);
}

#[test]
fn parts_of_an_axis_go_and_come_back() {
    let mut graph = Graph::build(&{
        let mut m = Maker::new();
        m.add(Op::Input(0), &[], &[T, D]);
        m.0.axes.push(Axis { name: "one".into(), size: Size::Fixed(1) });
        m.0.axes.push(Axis { name: "two".into(), size: Size::Fixed(2) });
        m.0
    });
    let (one, two, input) = (AxisId(3), AxisId(4), graph.output());
    let mut cut = |axis, start| {
        let ty = Type { elem: Elem::Float, axes: vec![T, axis] };
        let node = Node { op: Op::Slice { axis: D, start, to: axis }, ty, ..graph.node(input).clone() };
        graph.add(node, &[input])
    };
    let (first, rest) = (cut(one, 0), cut(two, 1));
    let node = Node { op: Op::Concat(vec![one, two], D), ..graph.node(input).clone() };
    let whole = graph.add(node, &[first, rest]);
    graph.set_output(whole);
    assert_eq!(Reference::new(&graph, |_| vec![]).run_inputs(&[x()]), x());
}
