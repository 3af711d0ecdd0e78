//! The library's blocks against reference outputs of their operators, each through a small model around it. A model's tokens count the
//! rows of a table that holds the operator's inputs; projections are matrices that pick one input each.

use crate::build::model;
use crate::reference::Reference;
use crate::reference::checkpoint::Checkpoint;
use braid_compiler::graph::Graph;
use std::path::Path;

mod recurrent;

/// Inputs and outputs of one operator.
struct Golden(Checkpoint);

impl Golden {
    fn open(name: &str) -> Golden {
        Golden(Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/ops/{name}.safetensors"))))
    }

    /// All numbers of a tensor.
    fn all(&self, name: &str) -> Vec<f64> {
        self.0.tensor(name).unwrap_or_else(|| panic!("no {name}")).1.to_vec()
    }

    /// The first sequence of a batch, as a table of rows.
    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let (shape, data) = self.0.tensor(name).unwrap_or_else(|| panic!("no {name}"));
        let (times, width) = (shape[1], shape[2..].iter().product());
        data[..times * width].chunks(width).map(<[f64]>::to_vec).collect()
    }
}

/// Tables side by side.
fn beside(tables: &[Vec<Vec<f64>>]) -> Vec<Vec<f64>> {
    (0..tables[0].len()).map(|row| tables.iter().flat_map(|table| table[row].clone()).collect()).collect()
}

fn constant(rows: usize, value: f64) -> Vec<Vec<f64>> {
    vec![vec![value]; rows]
}

/// The outputs for all tokens, row-major in the given order of axes.
fn evaluate(text: &str, order: &[&str], params: impl Fn(&str) -> Vec<f64>, tokens: &[i64]) -> Vec<f64> {
    let graph = Graph::build(&model(text));
    let output = Reference::new(&graph, params).run(tokens);
    let find =
        |name: &&str| output.axes.iter().copied().find(|axis| graph.axis(*axis).name == *name).expect("an axis of the output");
    output.ordered(&order.iter().map(find).collect::<Vec<_>>()).data
}

/// A matrix [n, d] whose row i picks column `from + i`.
fn pick(n: usize, d: usize, from: usize) -> Vec<f64> {
    (0..n * d).map(|at| if at % d == from + at / d { 1.0 } else { 0.0 }).collect()
}

/// A matrix [d, n] that puts entry i into row i, the rest zero.
fn place(d: usize, n: usize) -> Vec<f64> {
    (0..d * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect()
}

/// A model that applies `call` to the rows of a table, and its outputs for all rows.
fn apply(call: &str, table: &[Vec<f64>], params: &[(&str, Vec<f64>)]) -> Vec<Vec<f64>> {
    apply_with("", call, table, params)
}

/// The same with `blocks` declared before the model. Parameters of an instance `inner` go by their own names.
fn apply_with(blocks: &str, call: &str, table: &[Vec<f64>], params: &[(&str, Vec<f64>)]) -> Vec<Vec<f64>> {
    let (places, d) = (table.len(), table[0].len());
    let text = format!(
        "{blocks}model test(places: dim = {places}, d: dim = {d})(tokens: [t]) -> [t, d] {{\n  param table: [places, d]\n  mixer = {call}\n  return \
         mixer(table[places: tokens])\n}}\n"
    );
    let tokens: Vec<i64> = (0..places as i64).collect();
    let numbers = |path: &str| {
        let own = path.strip_prefix("mixer.").map(|own| own.strip_prefix("inner.").unwrap_or(own));
        let given = params.iter().find(|(name, _)| own == Some(name));
        given.map(|(_, data)| data.clone()).unwrap_or_else(|| {
            assert_eq!(path, "table", "a parameter without numbers");
            table.concat()
        })
    };
    let output = evaluate(&text, &["t", "d"], numbers, &tokens);
    output.chunks(d).map(<[f64]>::to_vec).collect()
}

/// Compares the first columns of each row.
fn close(name: &str, found: &[Vec<f64>], wanted: &[Vec<f64>], tolerance: f64) {
    let worst = found.iter().zip(wanted).flat_map(|(a, b)| a.iter().zip(b).map(|(x, y)| (x - y).abs())).fold(0.0, f64::max);
    assert_eq!(found.len(), wanted.len(), "{name}");
    assert!(worst <= tolerance, "{name}: {worst:.3e} is beyond {tolerance:.1e}");
}

/// `o / rms(o)` over each run of `width` numbers.
fn normalised(table: &[Vec<f64>], width: usize, eps: f64) -> Vec<Vec<f64>> {
    let norm = |run: &[f64]| {
        let scale = (run.iter().map(|x| x * x).sum::<f64>() / width as f64 + eps).sqrt().recip();
        run.iter().map(|x| x * scale).collect::<Vec<_>>()
    };
    table.iter().map(|row| row.chunks(width).flat_map(norm).collect()).collect()
}

/// `silu` of this is one: a gate that is open.
const OPEN: f64 = 1.278_464_542_761_074;

#[test]
fn linear_attention_divides_by_its_normaliser() {
    let g = Golden::open("linear_attention_elu");
    let table = beside(&[g.rows("in.q"), g.rows("in.k"), g.rows("in.v")]);
    let d = table[0].len();
    let params = [("wq", pick(48, d, 0)), ("wk", pick(48, d, 48)), ("wv", pick(36, d, 96)), ("wo", place(d, 36))];
    let found = apply("linear_attention(heads: 3, k: 16, v: 12, eps: 0.0)", &table, &params);
    close("linear_attention", &found, &g.rows("out.o"), 1e-5);
}

#[test]
fn retention_decays_by_head() {
    let g = Golden::open("retention");
    let table = beside(&[g.rows("in.q"), g.rows("in.k"), g.rows("in.v"), constant(50, OPEN)]);
    let d = table[0].len();
    let gate: Vec<f64> = (0..72 * d).map(|at| if at % d == d - 1 { 1.0 } else { 0.0 }).collect();
    let params = [
        ("wq", pick(48, d, 0)),
        ("wk", pick(48, d, 48)),
        ("wv", pick(72, d, 96)),
        ("wg", gate),
        ("norm", vec![1.0; 24]),
        ("wo", place(d, 72)),
    ];
    let found = apply("retention(heads: 3, k: 16, v: 24, rope: identity(), eps: 1e-6)", &table, &params);
    close("retention", &found, &g.rows("out.o_groupnorm"), 1e-5);
}

#[test]
fn gated_linear_attention_decays_by_channel() {
    // A matrix memory whose keys are what its gates leave free.
    let g = Golden::open("hgrn2");
    let map = |name: &str, f: fn(f64) -> f64| g.rows(name).into_iter().map(|row| row.into_iter().map(f).collect()).collect();
    let gates = [map("in.o", |x| 4.0 * x), map("in.f", |f| 1.0 - f), g.rows("in.i"), map("in.f", |f| (f / (1.0 - f)).ln())];
    let table = beside(&[&gates[..], &[constant(50, OPEN)]].concat());
    let d = table[0].len();
    let gate: Vec<f64> = (0..60 * d).map(|at| if at % d == d - 1 { 1.0 } else { 0.0 }).collect();
    let params = [
        ("wq", pick(48, d, 0)),
        ("wk", pick(48, d, 48)),
        ("wv", pick(60, d, 96)),
        ("wg", gate),
        ("down", pick(48, d, 156)),
        ("up", pick(48, 48, 0)),
        ("bg", vec![0.0; 48]),
        ("norm", vec![1.0; 20]),
        ("wo", place(d, 60)),
    ];
    let found = apply("gated_linear_attention(heads: 3, k: 16, v: 20, rank: 48, tau: 1.0, eps: 1e-6)", &table, &params);
    close("gated_linear_attention", &found, &normalised(&g.rows("out.y"), 20, 1e-6), 1e-5);
}

#[test]
fn a_delta_rule_is_a_gated_one_that_does_not_decay() {
    let g = Golden::open("deltanet");
    let table = beside(&[g.rows("in.q"), g.rows("in.k"), g.rows("in.v"), g.rows("in.beta"), constant(50, OPEN)]);
    let d = table[0].len();
    let kernel = |n: usize| (0..4 * n).map(|at| ((at * 7 % 11) as f64 - 5.0) / 8.0).collect::<Vec<_>>();
    let gate: Vec<f64> = (0..60 * d).map(|at| if at % d == d - 1 { 1.0 } else { 0.0 }).collect();
    let shared = [
        ("wq", pick(48, d, 0)),
        ("wk", pick(48, d, 48)),
        ("wv", pick(60, d, 96)),
        ("wb", pick(3, d, 156)),
        ("cq", kernel(48)),
        ("ck", kernel(48)),
        ("cv", kernel(60)),
        ("norm", vec![1.0; 20]),
        ("wo", place(d, 60)),
    ];
    let still = [("wz", gate), ("wa", vec![0.0; 3 * d]), ("a_log", vec![-100.0; 3]), ("dt_bias", vec![0.0; 3])];
    let plain = apply("delta_rule(heads: 3, k: 16, v: 20, eps: 1e-6)", &table, &shared);
    let gated = apply("gated_delta(heads: 3, k: 16, v: 20, eps: 1e-6)", &table, &[&shared[..], &still].concat());
    close("delta_rule", &plain, &gated, 1e-9);
}

#[test]
fn gated_linear_rnn_mixes_old_and_new() {
    let g = Golden::open("gated_linear_rnn");
    let data = |name: &str| g.all(name);
    let params = [
        ("wf", data("in.Wg")),
        ("bf", data("in.bg")),
        ("wi", data("in.Wi")),
        ("bi", data("in.bi")),
        ("wg", data("in.Wo")),
        ("bg", data("in.bo")),
        ("wo", place(40, 40)),
    ];
    let found = apply("gated_linear_rnn(n: 40)", &g.rows("in.x"), &params);
    close("gated_linear_rnn", &found, &g.rows("out.y"), 1e-5);
}

#[test]
fn attention_with_a_window_and_a_learned_sink() {
    let g = Golden::open("learned_sinks");
    let table = beside(&[g.rows("in.q"), g.rows("in.k"), g.rows("in.v")]);
    let d = table[0].len();
    let params = [
        ("wq", pick(48, d, 0)),
        ("wk", pick(48, d, 48)),
        ("wv", pick(48, d, 96)),
        ("wo", place(d, 48)),
        ("sink", g.all("in.sink")),
    ];
    let found = apply("attention(heads: 3, k: 16, window: 9, sink_logit: true)", &table, &params);
    close("attention", &found, &g.rows("out.o"), 1e-5);
}

#[test]
fn attention_sinks_stay_visible() {
    // Two keys: the first position scores ln 3 with everything, all others 0. Values count positions.
    let table: Vec<Vec<f64>> = (0..12).map(|t| vec![1.0, if t == 0 { 3f64.ln() } else { 0.0 }, f64::from(t)]).collect();
    let params = [("wq", pick(1, 3, 0)), ("wk", pick(1, 3, 1)), ("wv", pick(1, 3, 2)), ("wo", vec![1.0, 0.0, 0.0])];
    let found = apply("attention(heads: 1, k: 1, window: 2, sinks: 1)", &table, &params);
    let wanted = |t: usize| if t < 2 { t as f64 / 4.0 } else { (2 * t - 1) as f64 / 5.0 };
    close("attention", &found, &(0..12).map(|t| vec![wanted(t)]).collect::<Vec<_>>(), 1e-12);
}

#[test]
fn rotary_variants() {
    let g = Golden::open("rope_variants");
    let cases = [
        ("half", ""),
        ("interleaved", "interleaved: true"),
        ("partial", "part: 0.5"),
        ("linear", "scaling: \"linear\", factor: 4.0"),
        ("ntk", "scaling: \"ntk\", factor: 4.0"),
        ("llama3", "scaling: \"llama3\", factor: 8.0, context: 32"),
        ("yarn", "scaling: \"yarn\", factor: 4.0, low: 1.0, high: 32.0, context: 32, amplitude: 0.1 * log(4.0) + 1.0"),
    ];
    for (name, args) in cases {
        let text = format!(
            "model test(places: dim = 50, heads: dim = 2, k: dim = 16)(tokens: [t]) -> [t, heads, k] {{\n  param table: [places, heads, k]\n  \
             rope = rotary({args})\n  return rope(table[places: tokens])\n}}\n"
        );
        let found = evaluate(&text, &["t", "heads", "k"], |_| g.all("in.x"), &(0..50).collect::<Vec<_>>());
        close(name, &[found], &[g.all(&format!("out.x_{name}"))], 1e-5);
    }
}

#[test]
fn mixtures_choose_by_probability() {
    let g = Golden::open("moe_token_choice");
    // The router's bias rides on a column of ones.
    let x: Vec<Vec<f64>> = g.all("in.x").chunks(24).map(|row| [row, &[1.0]].concat()).collect();
    let widen = |data: &[f64]| data.chunks(24).flat_map(|row| [row, &[0.0]].concat()).collect::<Vec<_>>();
    let router = g.all("in.Wr").chunks(24).zip(&g.all("in.br")).flat_map(|(row, b)| [row, &[*b]].concat()).collect();
    let down = g.all("in.Wdown").chunks(24 * 20).flat_map(|one| [one, &[0.0; 20]].concat()).collect();
    let params =
        [("wr", router), ("expert.wg", widen(&g.all("in.Wgate"))), ("expert.wu", widen(&g.all("in.Wup"))), ("expert.wd", down)];
    for (renormalise, out) in [(false, "out.y"), (true, "out.y_normalised")] {
        let call = format!("moe(experts: 6, active: 2, expert: swiglu(hidden: 20), renormalise: {renormalise})");
        let wanted: Vec<Vec<f64>> = g.all(out).chunks(24).map(<[f64]>::to_vec).collect();
        close(out, &apply(&call, &x, &params), &wanted, 1e-5);
    }
}

#[test]
fn heads_of_a_model() {
    let text = "model test(vocab: dim = 3, places: dim = 4, d: dim = 2, out: dim = 3)(tokens: [t]) -> [t, out] {\n  words = embedding(vocab: vocab, d: \
                d)\n  places = positions(places: places)\n  to = linear(out: out, bias: true)\n  back = linear(out: d)\n  logits = unembedding(vocab: \
                vocab, bias: true)\n  return logits(back(to(places(words(tokens)))))[vocab as out]\n}\n";
    let numbers = |path: &str| match path {
        "words.w" => vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "places.w" => vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        "to.w" => vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        "to.b" => vec![0.0, 0.0, 1.0],
        "back.w" => vec![0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "logits.w" => vec![1.0, 0.0, 0.0, 1.0, -1.0, 1.0],
        "logits.b" => vec![0.0, 10.0, 0.0],
        other => panic!("{other} is not a parameter"),
    };
    // Rows (5, 6) + (0.1, 0.2) and (1, 2) + (0.3, 0.4): back gives (y, x + y + 1).
    let found = evaluate(text, &["t", "out"], numbers, &[2, 0]);
    close("heads", &[found], &[vec![6.2, 22.3, 6.1, 2.4, 14.7, 2.3]], 1e-9);
}

#[test]
fn norms_by_group() {
    let text = "model test(places: dim = 2, groups: dim = 2, d: dim = 2)(tokens: [t]) -> [t, groups, d] {\n  param table: [places, groups, d]\n  a = \
                groupnorm(eps: 1e-12)\n  b = layernorm(eps: 1e-12)\n  c = rmsnorm(eps: 1e-12, offset: 1.0)\n  return c(b(a(table[places: tokens])))\n}\n";
    let numbers = |path: &str| match path {
        "table" => vec![1.0, 3.0, -4.0, 6.0, 0.0, 2.0, 8.0, 2.0],
        "a.w" => vec![1.0, 2.0, 1.0, -1.0],
        "a.b" => vec![0.0, 1.0, 0.0, 0.0],
        "b.w" | "b.b" => vec![1.0, 0.0],
        "c.w" => vec![1.0, 0.0],
        other => panic!("{other} is not a parameter"),
    };
    // Group 0: (-1, 1) -> (-1, 3) -> (-1, 1) * w + b = (0, 0) -> 0. Group 1: (-1, -1) -> 0 -> (1, 0) -> (2 sqrt 2, 0).
    let found = evaluate(text, &["t", "groups", "d"], numbers, &[0]);
    close("norms", &[found], &[vec![0.0, 0.0, 8f64.sqrt(), 0.0]], 1e-5);
}

#[test]
fn mixers_side_by_side() {
    let table: Vec<Vec<f64>> = (0..9).map(|t| vec![(f64::from(t) * 0.7).sin(), (f64::from(t) * 1.3).cos()]).collect();
    let call = "parallel_mixers(left: short_conv(width: 2), right: mlp(hidden: 2, act: \"none\"), eps: 1e-9)";
    let one = || vec![1.0, 0.0, 0.0, 1.0];
    let params = [
        ("wl", vec![2.0, 2.0]),
        ("wr", vec![0.0, 4.0]),
        ("left.wb", one()),
        ("left.wc", one()),
        ("left.wu", one()),
        ("left.conv", vec![0.0, 1.0, 0.0, 1.0]),
        ("left.wo", one()),
        ("right.wu", one()),
        ("right.wd", one()),
    ];
    let rms = |a: f64, b: f64| ((a * a + b * b) / 2.0 + 1e-9).sqrt();
    let wanted = |row: &Vec<f64>| {
        let (x, y) = (row[0], row[1]);
        let cubes = rms(x.powi(3), y.powi(3));
        vec![x.powi(3) / cubes, y.powi(3) / cubes + 2.0 * y / rms(x, y)]
    };
    close("parallel_mixers", &apply(call, &table, &params), &table.iter().map(wanted).collect::<Vec<_>>(), 1e-9);
}

#[test]
fn heads_split_between_attention_and_a_memory() {
    // One channel a head. Values count positions; attention sees two of them, the memory forgets half at each step.
    let table: Vec<Vec<f64>> = (0..6).map(|t| vec![1.0, f64::from(t)]).collect();
    let params = [
        ("wq", vec![1.0, 0.0, 1.0, 0.0]),
        ("wk", vec![1.0, 0.0, 1.0, 0.0]),
        ("wv", vec![0.0, 1.0, 0.0, 1.0]),
        ("wf", vec![0.0, 0.0]),
        ("bf", vec![0.0]),
        ("norm", vec![1.0, 1.0]),
        ("wo", vec![1.0, 0.0, 0.0, 1.0]),
    ];
    let found = apply("split_heads(near: 1, far: 1, k: 1, window: 2, rope: identity(), eps: 100.0)", &table, &params);
    let mut memory = 0.0;
    let wanted: Vec<Vec<f64>> = (0..6)
        .map(|t| {
            memory = memory / 2.0 + f64::from(t);
            let seen = if t == 0 { 0.0 } else { f64::from(t) - 0.5 };
            [seen, memory].map(|x: f64| x / (x * x + 100.0).sqrt()).to_vec()
        })
        .collect();
    close("split_heads", &found, &wanted, 1e-9);
}
