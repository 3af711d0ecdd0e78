//! Counts of a small model made by hand: four layers, every second one attention, each followed by a dense part.

use super::*;
use braid_dsl::model::*;
use braid_dsl::span::Span;

struct Builder {
    model: Model,
    scope: ScopeId,
}

const SIZES: [(&str, Size); 8] = [
    ("t", Size::Seq),
    ("d", Size::Fixed(64)),
    ("heads", Size::Fixed(4)),
    ("k", Size::Fixed(16)),
    ("v", Size::Fixed(16)),
    ("f", Size::Fixed(128)),
    ("vocab", Size::Fixed(300)),
    ("window", Size::Fixed(4)),
];
const T: AxisId = AxisId(0);
const D: AxisId = AxisId(1);
const HEADS: AxisId = AxisId(2);
const K: AxisId = AxisId(3);
const V: AxisId = AxisId(4);
const F: AxisId = AxisId(5);
const VOCAB: AxisId = AxisId(6);

impl Builder {
    fn new() -> Builder {
        let axes = SIZES.map(|(name, size)| Axis { name: name.into(), size }).to_vec();
        let scopes = vec![Scope { parent: None, name: String::new(), block: "small".into() }];
        let tokens = Type { elem: Elem::Int, axes: vec![T] };
        let model = Model {
            name: "small".into(),
            doc: String::new(),
            axes,
            params: vec![],
            scopes,
            values: vec![],
            inputs: vec![("tokens".into(), tokens)],
            output: ValueId(0),
            outputs: vec![],
            joined: None,
            generate: Generate::Autoregressive,
            ahead: 0,
            constants: vec![],
            names: vec![],
        };
        Builder { model, scope: ScopeId(0) }
    }

    fn value(&mut self, op: Op, args: &[ValueId], axes: &[AxisId]) -> ValueId {
        let ty = Type { elem: Elem::Float, axes: axes.to_vec() };
        self.model.values.push(Value { op, args: args.to_vec(), ty, span: Span::default(), scope: self.scope });
        ValueId(self.model.values.len() as u32 - 1)
    }

    fn param(&mut self, path: &str, axes: &[AxisId]) -> ValueId {
        self.model.params.push(Param { path: path.into(), axes: axes.to_vec(), span: Span::default(), stored: None });
        self.value(Op::Param(ParamId(self.model.params.len() as u32 - 1)), &[], axes)
    }

    /// `sum[over] x * w`.
    fn product(&mut self, x: ValueId, w: ValueId, over: &[AxisId], out: &[AxisId]) -> ValueId {
        let all: Vec<AxisId> = out.iter().chain(over).copied().collect();
        let product = self.value(Op::Binary(Binary::Mul), &[x, w], &all);
        self.value(Op::Reduce(Reduce::Sum, over.to_vec()), &[product], out)
    }

    fn within<T>(&mut self, name: &str, block: &str, fill: impl FnOnce(&mut Builder) -> T) -> T {
        let outer = self.scope;
        self.model.scopes.push(Scope { parent: Some(outer), name: name.into(), block: block.into() });
        self.scope = ScopeId(self.model.scopes.len() as u32 - 1);
        let made = fill(self);
        self.scope = outer;
        made
    }

    fn norm(&mut self, path: &str, name: &str, x: ValueId) -> ValueId {
        self.within(name, "norm", |b| {
            let w = b.param(&format!("{path}{name}.weight"), &[D]);
            let square = b.value(Op::Binary(Binary::Mul), &[x, x], &[T, D]);
            let sum = b.value(Op::Reduce(Reduce::Sum, vec![D]), &[square], &[T]);
            let scaled = b.value(Op::Binary(Binary::Mul), &[x, sum], &[T, D]);
            b.value(Op::Binary(Binary::Mul), &[scaled, w], &[T, D])
        })
    }

    fn mixer(&mut self, path: &str, x: ValueId, attends: bool) -> ValueId {
        self.within("mixer", if attends { "looks" } else { "remembers" }, |b| {
            let [q, k, v] = [("q", K), ("k", K), ("v", V)].map(|(name, axis)| {
                let w = b.param(&format!("{path}mixer.w{name}"), &[D, HEADS, axis]);
                b.product(x, w, &[D], &[T, HEADS, axis])
            });
            let o = if attends { b.attend(q, k, v) } else { b.recur(q, k, v) };
            let w = b.param(&format!("{path}mixer.wo"), &[HEADS, V, D]);
            b.product(o, w, &[HEADS, V], &[T, D])
        })
    }

    /// Every key up to the query, no more than 32 back.
    fn attend(&mut self, q: ValueId, k: ValueId, v: ValueId) -> ValueId {
        let mut keep = Builder::new();
        let query = keep.value(Op::QueryPosition, &[], &[]);
        let key = keep.value(Op::KeyPosition, &[], &[]);
        let causal = keep.value(Op::Binary(Binary::Le), &[key, query], &[]);
        let back = keep.value(Op::Binary(Binary::Sub), &[query, key], &[]);
        let most = keep.value(Op::Const(32.0), &[], &[]);
        let near = keep.value(Op::Binary(Binary::Lt), &[back, most], &[]);
        let keep_result = keep.value(Op::Binary(Binary::And), &[causal, near], &[]);
        let mut score = Builder::new();
        let score_result = score.value(Op::Score, &[], &[HEADS]);
        let op = Op::Attend(Box::new(Attend {
            gives: Gives::Values,
            seq: T,
            keys: T,
            contract: vec![K],
            keep: Body { values: keep.model.values },
            keep_result,
            score: Body { values: score.model.values },
            score_result,
            sink: None,
            plain: false,
            keyed: vec![],
            apart: vec![],
        }));
        self.value(op, &[q, k, v], &[T, HEADS, V])
    }

    /// `S = S + k * v; o = sum[k] q * S`.
    fn recur(&mut self, q: ValueId, k: ValueId, v: ValueId) -> ValueId {
        let mut body = Builder::new();
        let [q0, k0, v0] = [(0, K), (1, K), (2, V)].map(|(n, axis)| body.value(Op::Capture(n), &[], &[HEADS, axis]));
        let state = body.value(Op::State(0), &[], &[HEADS, K, V]);
        let outer = body.value(Op::Binary(Binary::Mul), &[k0, v0], &[HEADS, K, V]);
        let next = body.value(Op::Binary(Binary::Add), &[state, outer], &[HEADS, K, V]);
        let read = body.product(q0, next, &[K], &[HEADS, V]);
        let op = Op::Recur(Box::new(Recur {
            seq: T,
            states: vec![State { name: "S".into(), axes: vec![HEADS, K, V], init: 0.0 }],
            body: Body { values: body.model.values },
            next: vec![next],
            outputs: vec![read],
        }));
        let recur = self.value(op, &[q, k, v], &[T, HEADS, V]);
        self.value(Op::Result(0), &[recur], &[T, HEADS, V])
    }

    fn dense(&mut self, path: &str, x: ValueId) -> ValueId {
        self.within("dense", "dense", |b| {
            let up = b.param(&format!("{path}dense.up"), &[D, F]);
            let down = b.param(&format!("{path}dense.down"), &[F, D]);
            let h = b.product(x, up, &[D], &[T, F]);
            let h = b.value(Op::Unary(Unary::Sigmoid), &[h], &[T, F]);
            b.product(h, down, &[F], &[T, D])
        })
    }

    fn layer(&mut self, at: usize, x: ValueId) -> ValueId {
        let path = format!("layers.{at}.");
        self.within(&format!("layers.{at}"), "", |b| {
            let n = b.norm(&path, "norm", x);
            let m = b.mixer(&path, n, at % 2 == 1);
            let x = b.value(Op::Binary(Binary::Add), &[x, m], &[T, D]);
            let n = b.norm(&path, "norm_2", x);
            let m = b.dense(&path, n);
            b.value(Op::Binary(Binary::Add), &[x, m], &[T, D])
        })
    }
}

/// Embedding, four layers, head.
fn small() -> Model {
    let mut b = Builder::new();
    let tokens = b.value(Op::Input(0), &[], &[T]);
    let mut x = b.within("embedding", "embedding", |b| {
        let table = b.param("embedding.weight", &[VOCAB, D]);
        b.value(Op::Gather(VOCAB), &[table, tokens], &[T, D])
    });
    for at in 0..4 {
        x = b.layer(at, x);
    }
    let x = b.norm("", "norm", x);
    b.model.output = b.within("head", "linear", |b| {
        let w = b.param("head.weight", &[D, VOCAB]);
        b.product(x, w, &[D], &[T, VOCAB])
    });
    b.model
}

#[test]
fn parameters_and_operations_are_those_of_the_equations() {
    let report = inspect(&small());
    let layer = 4 * 64 * 64 + 2 * 64 * 128 + 2 * 64;
    assert_eq!(report.root.part.params, 300 * 64 * 2 + 4 * layer + 64);
    assert_eq!(report.root.part.active, report.root.part.params - 299 * 64);
    let mixer = &report.root.children[1].children[1].part;
    assert_eq!((mixer.path.as_str(), mixer.kind), ("layers.0.mixer", Kind::Recurrence));
    // Four products with a matrix; an outer product, an addition and a contraction of the state.
    assert_eq!(mixer.cost.fixed, 2 * 4 * 64 * 64 + 4 * 4 * 16 * 16);
    let attention = &report.root.children[2].children[1].part;
    assert_eq!(attention.cost.keys[0].reach, Reach::Bounded(32));
    assert_eq!(attention.memory.iter().map(|m| m.bytes(1 << 20)).sum::<u64>(), 2 * 64 * 32 * 4);
}

#[test]
fn the_table_groups_equal_layers() {
    let text = table(&inspect(&small()));
    assert!(text.contains("layers 0, 2  ×2") && text.contains("layers 1, 3  ×2"), "{text}");
    assert!(text.contains("N·d²") && text.contains("32·d"), "{text}");
}

#[test]
fn the_picture_is_well_formed() {
    let model = small();
    let picture = draw::draw(&model, &inspect(&model));
    let count = |what: &str| picture.matches(what).count();
    assert_eq!(count("<text"), count("</text>"));
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    // Two layers drawn, twice each.
    assert!(picture.contains("× 2") && count("class=\"join\"") == 4, "{picture}");
}
