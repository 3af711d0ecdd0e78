//! Linear systems as native code against the evaluator: pivots that have to be looked for, several right sides, batches, any size.

use super::graph;
use crate::properties::compiled::{Compiled, agree, feed};
use braid_compiler::forms::recur;
use braid_dsl::model::Op;

/// A model that solves a system of `n` unknowns for each of two heads; `A` and `b` are expressions of `m` [t, heads, k, j] and
/// `r` [t, heads, k, s].
fn spec(n: usize, sides: usize, result: &str) -> String {
    format!(
        "model test(places: dim = 5, heads: dim = 2, k: dim = {n}, j: dim = {n}, s: dim = {sides}, out: dim = 5)(tokens: [t]) -> [t, out] {{\n  \
         param ms: [places, heads, k, j]   param rs: [places, heads, k, s]   param w: [k, j]   param one: [out]\n  m = ms[places: tokens]\n  r = \
         rs[places: tokens]\n  hole = float(index[k] != index[j])\n{result}  return y * one\n}}\n"
    )
}

#[test]
fn systems_of_any_size() {
    let results = [
        // A zero diagonal: no elimination without pivots. All right sides at once.
        "  x = solve[k, j](m * hole, r)\n  y = sum[heads, j, s] x * x\n",
        // A matrix of parameters, one right side a head.
        "  x = solve[k, j](w + 2.0 * (1.0 - hole), r[s: 0])\n  y = sum[heads, j] x * index[j]\n",
        // One matrix for all heads, and one right side for many matrices.
        "  x = solve[k, j](m[heads: 0] + 3.0 * (1.0 - hole), r)\n  z = solve[k, j](m + 3.0 * (1.0 - hole), r[heads: 1][s: 0])\n  y = (sum[heads, \
         j, s] x) + sum[heads, j] z * z\n",
        // In a step, from a state.
        "  recur S: [heads, k, j] over t {\n    S = 0.5 * S + m\n    x = solve[k, j](S + 3.0 * (1.0 - hole), r)\n    q = sum[j, s] x * x\n  \
         }\n  y = sum[heads] q\n",
        // The state is what is solved for.
        "  recur S: [heads, j, s] over t {\n    S = solve[k, j](m + 3.0 * (1.0 - hole), r + S[j as k])\n    q = sum[j, s] S * S\n  }\n  y = \
         sum[heads] q\n",
    ];
    let tokens = [0, 1, 2, 3, 4];
    for (n, sides) in [(1, 1), (2, 3), (3, 1), (8, 8), (13, 5), (17, 20)] {
        for result in results.iter().filter(|result| n > 1 || !result.contains("* hole")) {
            let compiled = Compiled::new(&spec(n, sides, result));
            let found = feed(&mut compiled.session(2, 1), 0, &tokens);
            agree(&format!("{n}, {sides}:\n{result}"), &found, &compiled.evaluated(&tokens), 2e-4)
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn an_explanation_names_the_states_that_a_solve_reads() {
    let result = "  recur S: [heads, k, j], r0: [heads] over t {\n    S = S + m\n    r0 = r0 + 1.0\n    x = solve[k, j](S, r * r0)\n  }\n  y = sum[heads, j, s] x\n";
    let graph = graph(&spec(3, 2, result));
    let node = graph.order().into_iter().find(|id| matches!(graph.op(*id), Op::Recur(_))).expect("a recurrence");
    let text = recur::explain(&graph, node, None);
    assert!(text.contains("`S` read through a linear solve"), "{text}");
    assert_eq!(super::classes(&graph), ["no decay, a convolution of the input", "no decay"]);
}

#[test]
fn a_system_without_a_solution_is_not_finite() {
    let compiled = Compiled::new(&spec(3, 1, "  x = solve[k, j](m * 0.0, r)\n  y = sum[heads, j, s] x\n"));
    let found = feed(&mut compiled.session(1, 1), 0, &[0, 1]);
    assert!(found.iter().all(|x| !x.is_finite()), "{found:?}");
}
