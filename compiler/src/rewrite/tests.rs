//! One line a rule: what is written, and what the rewritten graph computes.

use super::*;
use braid_dsl::source::Sources;

struct Text(String);

impl Sources for Text {
    fn read(&self, path: &str) -> Option<String> {
        (path == "test.braid").then(|| self.0.clone())
    }
}

fn graph(lines: &str) -> Graph {
    let text = format!(
        "model test(d: dim = 4, f: dim = 6, vocab: dim = 3)(tokens: [t]) -> [t, d] {{
  param table: [vocab, d]   param w: [d, f]   param n: [d]   param c: [f]
  x = table[vocab: tokens]
  {lines}
}}"
    );
    let (model, map) = braid_dsl::check(&Text(text), "test.braid", &[]);
    let shown = |errors: Vec<braid_dsl::diagnostic::Diagnostic>| errors.iter().map(|e| e.render(&map)).collect::<String>();
    Graph::build(&model.unwrap_or_else(|errors| panic!("{}", shown(errors))))
}

/// The graph as one expression.
fn expression(graph: &Graph, id: NodeId) -> String {
    let args: Vec<String> = graph.args(id).into_iter().map(|arg| expression(graph, arg)).collect();
    match graph.op(id) {
        Op::Gather(_) => "x".into(),
        op => crate::graph::op_text(op, &graph.axes, &graph.params, &args).replace("param ", ""),
    }
}

/// What `return` of an expression becomes.
#[track_caller]
fn check(written: &str, expected: &str) {
    let graph = apply(&graph(&format!("return {written}")));
    assert_eq!(expression(&graph, graph.output()), expected, "{written}");
    let again = apply(&graph);
    assert_eq!(again.to_string(), graph.to_string(), "{written}: not at rest");
}

#[test]
fn arithmetic() {
    check("x * 1", "x");
    check("1.0 * x", "x");
    check("x + 0", "x");
    check("x - 0.0", "x");
    check("x / 1", "x");
    check("x ^ 1", "x");
    check("-(-x)", "x");
    check("exp(log(x))", "x");
    check("log(exp(x))", "x");
    check("x * -1", "neg(x)");
    check("0 - x", "neg(x)");
    check("x + -n", "sub(x, n)");
    check("-x + n", "sub(n, x)");
    check("x - -n", "add(x, n)");
    check("x / 4", "mul(x, 0.25)");
    check("x ^ 2", "mul(x, x)");
    check("x ^ 0.5", "sqrt(x)");
    check("x ^ -0.5", "rsqrt(x)");
    check("1 / sqrt(x)", "rsqrt(x)");
    check("x * 2 * 3", "mul(x, 6)");
    check("select(x < n, x, x)", "x");
}

#[test]
fn what_is_no_identity_stays() {
    check("x + 1", "add(x, 1)");
    check("1 / x", "div(1, x)");
    check("x ^ 3", "pow(x, 3)");
    check("x / 1e-45", "div(x, 0.000000000000000000000000000000000000000000001)");
}

#[test]
fn constants() {
    check("x + exp(0 * 2)", "add(x, 1)");
    check("select(1 < 2, x, x + n)", "x");
}

#[test]
fn views() {
    check("x[d as f0][f0 as d]", "x");
}

#[test]
fn products() {
    // The outer product w x is not made.
    check("sum[f] w * x * c", "mul(contract[f](w, c), x)");
}

#[test]
fn equal_values_are_computed_once() {
    let graph = apply(&graph("return x * n + n * x"));
    let args = graph.args(graph.output());
    assert_eq!(args[0], args[1]);
}
