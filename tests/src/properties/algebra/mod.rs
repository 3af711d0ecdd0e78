//! Equal recurrences in other words: rewritten by random laws of algebra, a recurrence stays in its class, has a chunk form or has
//! none as before, and computes the same numbers.
//!
//! Left out, as beyond the normal form: numbers around a running maximum (`1 - (1 - max(m, i))`), laws of functions other than `exp`
//! (`sigmoid(-x) = 1 - sigmoid(x)`), sums of more than some dozens of products (they become one opaque term, so rewritten texts are
//! kept short), and numbers that cancel only after rounding (`0.1 + 0.2 - 0.3`, `exp(1.0) * exp(-1.0)`): all factors here are powers
//! of two.

mod expr;
mod laws;

use super::compiled::made_up;
use super::{holds, tokens};
use crate::build;
use crate::reference::Reference;
use braid_compiler::forms::{self, Chunks, recur};
use braid_compiler::graph::Graph;
use expr::Statement;
use proptest::prelude::*;

/// Recurrences of every class that the laws apply to: states, then statements.
const BASES: &[(&str, &str)] = &[
    ("S: [h, k, v]", "S = S + kk * vv; y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = 0.5 * S + kk * vv; y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(a + e) * S + kk * vv; y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(c) * S + (1.0 - g) * vv; y = sum[k] (q * S)"),
    ("S: [h, k, v]", "y = sum[k] (q * S); S = g * exp(c) * S + kk * vv"),
    ("S: [h, k, v]", "S = S + kk * (f * (vv - sum[k] (kk * S))); y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(a) * S; S = S + kk * (f * (vv - sum[k] (kk * S))); y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(c) * S; S = S + kk * (f * (vv - sum[k] (kk * S))); y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(a) * S + kk * (f * (vv - sum[k] (kk * S))); y = sum[k] (q * S)"),
    ("S: [h, k, v]", "S = exp(c) * S - f * g * kk * (sum[k] (kk * S)) + kk * vv; y = sum[k] (q * S)"),
    (
        "S: [h, k, v]",
        "S = f * S; S = S + kk * (f * (vv - sum[k] (kk * S))); S = S + q * (0.5 * (vv - sum[k] (q * S))); y = sum[k] (q * S)",
    ),
    ("S: [h, k, v], z: [h, k]", "S = f * S + kk * vv; z = f * z + kk; y = (sum[k] (q * S)) * exp(-abs(sum[k] (q * z)))"),
    ("S: [h, v]", "S = exp(e) * S + (1.0 - exp(e)) * vv; y = S * vv"),
    ("S: [h, v], P: [h, v]", "P = f * P - 0.5 * S; S = g1 * S + P + vv; y = S"),
    ("R: [h, v], I: [h, v]", "U = r1 * R - r2 * I + vv; I = r2 * R + r1 * I; R = U; y = R + I"),
    (
        "S: [h, k, v], m: [h]",
        "u = max(m + e, i); S = exp(m + e - u) * S + exp(i - u) * kk * vv; m = u; y = (sum[k] (q * S)) * exp(m)",
    ),
    ("S: [h, v]", "S = f * tanh(S) + vv; y = S"),
    ("S: [h, k, v]", "S = S + kk * vv * (sum[k] (q * S)) * f; y = sum[k] (q * S)"),
];

/// The model around a step.
fn text(states: &str, step: &[Statement]) -> String {
    let step: String = step.iter().map(|s| format!("    {s}\n")).collect();
    format!(
        "model test(vocab: dim = 11, d: dim = 12, h: dim = 2, k: dim = 3, v: dim = 4)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]   \
         param wq, wk, wg: [h, k, d]   param wv: [h, v, d]   param wf, wi: [h, d]   param g1, r1, r2: [h, v]   param out: [vocab, h, v]\n  x = \
         embed[vocab: tokens]\n  q = sum[d] x * wq\n  kk = l2norm[k](sum[d] x * wk, 0.01)\n  g = sigmoid(sum[d] x * wg)\n  vv = sum[d] x * wv\n  \
         i = sum[d] x * wi\n  f = sigmoid(sum[d] x * wf)\n  a = -softplus(i)\n  c = -softplus(sum[d] x * wg)\n  e = -softplus(sum[d] x * wf)\n  \
         recur {states} over t {{\n{step}  }}\n  generate autoregressive\n  return sum[h, v] y * out\n}}\n"
    )
}

/// What the analysis and the evaluator say of a recurrence.
struct Found {
    classes: Vec<String>,
    /// Whether each recurrence has a chunk form.
    derived: Vec<bool>,
    steps: Vec<f64>,
    chunks: Vec<f64>,
}

fn found(text: &str, rows: usize, ids: &[i64]) -> Found {
    let graph = Graph::build(&build::model(text));
    let run = |chunks| {
        let forms = forms::derive(&graph, chunks, forms::MAX_ROWS);
        let numbers = |path: &str| {
            let param = graph.params.iter().find(|param| param.path == path).expect("a parameter");
            let shape: Vec<usize> = param.axes.iter().filter_map(|axis| graph.size(*axis)).collect();
            made_up(path, &shape).into_iter().map(f64::from).collect()
        };
        let rows = Reference::in_chunks(&forms, numbers).run(ids).data;
        (rows, forms)
    };
    let (steps, _) = run(Chunks::Off);
    let (chunks, forms) = run(Chunks::Rows(rows));
    let nodes = forms.graph.order();
    let told: String = nodes.iter().map(|node| recur::explain(&forms.graph, *node, None)).collect();
    let classes = told.lines().filter_map(|line| line.trim().strip_prefix("class: ")).map(str::to_owned).collect();
    let derived = nodes.iter().filter_map(|node| forms.chunks.get(node)).map(Result::is_ok).collect();
    Found { classes, derived, steps, chunks }
}

fn far(a: &[f64], b: &[f64]) -> f64 {
    let largest = b.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    a.iter().zip(b).map(|(a, b)| if a.is_finite() { (a - b).abs() / largest } else { f64::INFINITY }).fold(0.0, f64::max)
}

#[test]
fn other_words_make_no_other_class() {
    holds(250, (0..BASES.len(), (1usize..40, any::<u64>()), 1usize..24, 2usize..9), |(base, (laws, seed), length, rows)| {
        let (states, step) = BASES[base];
        let step = expr::parse(step);
        let other = laws::rewritten(&step, laws, seed);
        let (one, two) = (text(states, &step), text(states, &other));
        let ids: Vec<i64> = tokens(length, 11, length).into_iter().map(i64::from).collect();
        let (one, found) = (found(&one, rows, &ids), found(&two, rows, &ids));
        prop_assert_eq!(&found.classes, &one.classes, "{}", two);
        prop_assert_eq!(&found.derived, &one.derived, "{}", two);
        for (what, numbers) in [("steps", &found.steps), ("chunks", &found.chunks), ("chunks as first written", &one.chunks)] {
            let far = far(numbers, &one.steps);
            prop_assert!(far < 1e-9, "{} are {:e} off\n{}", what, far, two);
        }
        Ok(())
    });
}
