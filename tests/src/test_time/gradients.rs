//! `grad` against differences of the loss, and what an update that is written with it is classified as.

use super::{classes, distance, graph, numbers, outputs};
use std::fmt::Write;

/// Expressions of `x` [t, heads, k]; `w` [heads, k], `u` [k, j], `ids` [heads] are given. Each op of bodies at least once.
const EXPRESSIONS: &[&str] = &[
    "-x",
    "exp(x)",
    "log(x * x + 1.0)",
    "sqrt(x * x + 0.5)",
    "rsqrt(x * x + 0.5)",
    "sigmoid(x)",
    "tanh(x)",
    "softplus(x)",
    "erf(x)",
    "sin(x)",
    "cos(x)",
    "abs(x)",
    "floor(w) * x",
    "x + w",
    "w - x",
    "x * w * x",
    "x / (x * x + 1.0)",
    "x / 4.0",
    "3.0 / (x * x + 2.0)",
    "x ^ 1",
    "x ^ 2",
    "x ^ 3.0",
    "x ^ 0",
    "(x * x + 1.0) ^ 1.5",
    "2.0 ^ x",
    "(x * x + 1.0) ^ x",
    "(w * w + 1.0) ^ x",
    "(x * x + 1.0) ^ w",
    "max(x, w)",
    "min(x * 2.0, x * x)",
    "max(0.1, x)",
    "select(x > 0.2, x * x, w * x)",
    "select(w > 0.0, 1.0, x)",
    "sum[k] x * w",
    "sum[heads, k] x * x",
    "sum[k] x * u",
    "mean[k] x",
    "x - mean[k] x",
    "max[k] x",
    "min[heads] x",
    "max[heads, k] x * w",
    "x[k as j] * x",
    "sum[k] x[k as j] * x",
    "x[k: 1..3 as part] * 2.0",
    "sum[part] x[k: 0..2 as part] * x[k: 2..4 as part]",
    "x[k: 1]",
    "x[k: 0] * x",
    "x[k as (a, b)] * x[k: 2]",
    "x[k as (b, a)][(a, b) as k] * w",
    "x[(heads, k) as flat]",
    "concat[k, k as both](x, x * x)",
    "concat[k, j as both](x, u)",
    "concat[a, b as k](-x[k: 2..4 as a], x[k: 0..2 as b])",
    "x[k: ids]",
    "x[k: ids] * x",
    "x[k: top[k as best](x, 2)]",
    "x[k: index[k] % 2]",
    "u[k: ids] * (sum[k] x)",
    "solve[k, m](x * x[k as m] + eye, x[k: 0] * w)",
    "solve[k, m](u[j as m] + 4.0 * eye, x)",
    "solve[k, m]((sum[heads] x * x[k as m]) + eye, w * x)",
    "softmax[k](x)",
    "rmsnorm[k](x)",
    "l2norm[k](x, 0.01)",
];

fn spec(result: &str, expression: &str) -> String {
    format!(
        "model test(places: dim = 3, heads: dim = 2, k: dim = 4, j: dim = 4)(tokens: [t]) {{\n  dim a = 2\n  dim b = 2\n  dim m = 4\n  eye = float(index[k] == index[m])\n  \
         param table: [places, heads, k]   param w: [heads, k]   param u: [k, j]\n  x = table[places: tokens]\n  ids = top[k as one](w, 1)[one: 0]\n  \
         y = {expression}\n  loss = 0.5 * y * y + 3.0 * y\n  return {result}\n}}\n"
    )
}

fn params(path: &str, table: &[f64]) -> Vec<f64> {
    match path {
        "table" => table.to_vec(),
        "w" => numbers(8, 3),
        "u" => numbers(16, 4),
        norm => vec![if norm.ends_with('w') { 1.5 } else { 0.0 }; 4],
    }
}

#[test]
fn gradients_are_what_differences_say() {
    let table = numbers(24, 1);
    let mut complaints = String::new();
    for expression in EXPRESSIONS {
        let found = graph(&spec("grad(loss, x)", expression));
        let loss = graph(&spec("loss", expression));
        let found = outputs(&found, 3, |path| params(path, &table));
        let total = |table: &[f64]| outputs(&loss, 3, |path| params(path, table)).iter().sum::<f64>();
        let moved = |at: usize, by: f64| {
            let mut table = table.clone();
            table[at] += by;
            total(&table)
        };
        let wanted: Vec<f64> = (0..24).map(|at| (moved(at, 1e-5) - moved(at, -1e-5)) / 2e-5).collect();
        let distance = distance(&found, &wanted);
        if distance.is_nan() || distance > 1e-7 {
            writeln!(complaints, "{expression}: {distance:e}").expect("a text grows");
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// A memory with a given update.
fn memory(update: &str) -> String {
    format!(
        "fn l2(M, a, b) = 0.5 * sum[v] (sum[k] a * M - b) ^ 2\n\nmodel test(places: dim = 7, heads: dim = 2, k: dim = 4, v: dim = 3)(tokens: [t]) -> [t, heads, v] {{\n  \
         param kt: [places, heads, k]   param vt: [places, heads, v]   param bt: [places, heads]\n  kk = kt[places: tokens]\n  vv = vt[places: tokens]\n  \
         b = bt[places: tokens]\n  recur S: [heads, k, v] over t {{\n    {update}\n    o = sum[k] kk * S\n  }}\n  return o\n}}\n"
    )
}

fn remembered(update: &str) -> (Vec<String>, Vec<f64>) {
    let graph = graph(&memory(update));
    let params = |path: &str| match path {
        "kt" => numbers(56, 5),
        "vt" => numbers(42, 6),
        _ => numbers(14, 7),
    };
    (classes(&graph), outputs(&graph, 7, params))
}

#[test]
fn the_gradient_of_a_square_error_is_the_delta_rule() {
    let (class, wanted) = remembered("S = S + kk * (b * (vv - sum[k] kk * S))");
    assert_eq!(class, ["no decay plus rank 1 over [k]"]);
    for update in [
        "S = S - b * grad(0.5 * sum[v] (sum[k] kk * S - vv) ^ 2, S)",
        "S = S - grad(b * (0.5 * sum[v] (vv - sum[k] S * kk) ^ 2), S)",
        "e = vv - sum[k] kk * S\n    S = S - b / 2.0 * grad(sum[v] e * e, S)",
        "S = S - b * grad(l2(S, kk, vv), S)",
        "old = S\n    S = S - b * grad(l2(old, kk, vv), old)",
    ] {
        let (of_gradient, found) = remembered(update);
        assert_eq!(of_gradient, class, "{update}");
        assert!(distance(&found, &wanted) < 1e-13, "{update}: {:e}", distance(&found, &wanted));
    }
}

#[test]
fn the_gradient_is_taken_by_what_the_name_means_there() {
    // By the decayed state; and by the state as the step began.
    let (class, wanted) = remembered("S = b * S\n    S = S + kk * (vv - sum[k] kk * S)");
    let (of_gradient, found) = remembered("S = b * S\n    S = S - grad(l2(S, kk, vv), S)");
    assert_eq!(class, ["scalar decay plus rank 1 over [k] (reads of the decayed state)"]);
    assert_eq!((of_gradient, distance(&found, &wanted) < 1e-13), (class, true));
    let (class, _) = remembered("S = b * S - grad(l2(S, kk, vv), S)");
    assert_eq!(class, ["scalar decay plus rank 1 over [k] (reads of the undecayed state)"]);
}

#[test]
fn a_loss_without_an_axis_of_the_state_has_a_gradient_along_it() {
    let (_, found) = remembered("S = S - grad(sum[k] 2.0 * S, S) * (sum[k] grad(sum[k] S, S))");
    // Every element falls by 2 · 4 at each step, and is read with the key.
    let keys = numbers(56, 5);
    let read = |at: usize| -> f64 { keys[at * 4..at * 4 + 4].iter().sum() };
    let wanted: Vec<f64> = (0..14).flat_map(|at| vec![-8.0 * (at / 2 + 1) as f64 * read(at); 3]).collect();
    assert!(distance(&found, &wanted) < 1e-12);
}
