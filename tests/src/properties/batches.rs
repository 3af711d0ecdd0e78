//! Random memories whose updates are taken where a mini-batch began: a mini-batch is a chunk, wherever calls are cut.

use super::recurrences::{around, equal_as_code, equal_in_chunks};
use super::{cuts, holds};
use braid_compiler::forms::{Chunks, MAX_ROWS, derive};
use braid_compiler::graph::Graph;
use braid_runtime::artifact::Dtype;
use proptest::prelude::*;

/// States, and a step; `N` is the length of a mini-batch.
const STEPS: &[(&str, &str)] = &[
    // All gradients of a mini-batch at one memory, summed up: of a square error, through a function, with a bias.
    (
        "S: [h, k, v], G: [h, k, v]",
        "S = start(S)\n    G = select(position[t] % N == 0, 0.0, G) + grad(0.5 * sum[v] (sum[k] kk * S - vv) ^ 2, S)\n    S = S - 0.3 * f * G",
    ),
    (
        "S: [h, k, v], G: [h, k, v]",
        "S = start(S)\n    G = select(position[t] % N == 0, 0.0, G) + grad(sum[v] tanh(sum[k] kk * S - vv) ^ 2, S)\n    S = S - 0.3 * G",
    ),
    (
        "S: [h, k, v] = w0, c: [h, v], G: [h, k, v], g: [h, v]",
        "S = start(S)\n    c = start(c)\n    loss = 0.5 * sum[v] (tanh(sum[k] kk * S + c) - vv) ^ 2\n    G = select(position[t] % N == 0, 0.0, G) + \
         grad(loss, S)\n    g = select(position[t] % N == 0, 0.0, g) + grad(loss, c)\n    S = S - 0.3 * f * G\n    c = c - 0.3 * g",
    ),
    // Momentum and forgetting, with gradients at the memory of the beginning.
    ("S: [h, k, v] = w0, P: [h, k, v]", "P = f * P - 0.3 * (kk * ((sum[k] kk * start(S)) - vv))\n    S = far * S + P"),
    ("S: [h, k, v]", "S = f * S + kk * tanh(vv - sum[k] kk * start(S))"),
    // A memory that begins anew, and one that does so with a tensor.
    ("S: [h, k, v]", "S = select(position[t] % N == 0, 0.0, f * S) + kk * vv"),
    ("S: [h, k, v] = w0", "S = f * S + kk * (f * (vv - sum[k] kk * S))"),
    ("S: [h, k, v]", "S = select(position[t] % N == 0, 0.0, S) + kk * vv"),
    // What was gathered is taken where the next mini-batch begins, and then begins anew: by a state of its size, by one that reads it, and by
    // itself.
    (
        "S: [h, k, v], G: [h, k, v]",
        "S = select(position[t] % N == 0, S - 0.3 * G, S)\n    G = select(position[t] % N == 0, 0.0, G) + kk * (f * vv)",
    ),
    (
        "S: [h, k, v], G: [h, k, v]",
        "S = select(position[t] % N == 0, S - 0.3 * G, S)\n    G = select(position[t] % N == 0, 0.0, G) + kk * ((sum[k] kk * S) - vv)",
    ),
    (
        "S: [h, k, v], G: [h, k, v]",
        "S = f * S + kk * (sum[k] q * G)\n    G = select(position[t] % N == 0, 0.0, G) + kk * (f * vv)",
    ),
    ("S: [h, k, v]", "S = select(position[t] % N == 0, 0.0, S) + kk * (f * (vv - sum[k] kk * S))"),
];

const READS: &[&str] =
    &["y = sum[k] q * S", "u = sum[k] q * S\n    y = u * rsqrt(mean[v] u ^ 2 + 0.1)", "y = tanh(sum[k] q * (f * S)) + vv"];

/// A step, a read, whether it comes before the step, and the length of a mini-batch.
#[derive(Clone, Debug)]
struct Batched {
    step: usize,
    read: &'static str,
    before: bool,
    every: usize,
    sizes: (usize, usize, usize),
}

fn batched() -> impl Strategy<Value = Batched> {
    let sizes = (1usize..3, 2usize..6, 1usize..6);
    let parts = (0..STEPS.len(), prop::sample::select(READS), any::<bool>(), 2usize..9, sizes);
    parts.prop_map(|(step, read, before, every, sizes)| Batched { step, read, before, every, sizes })
}

impl Batched {
    fn text(&self) -> String {
        let (states, step) = STEPS[self.step];
        let step = step.replace('N', &self.every.to_string());
        let every = if step.contains("start(") { format!(" every {}", self.every) } else { String::new() };
        let lines = if self.before { [self.read, &step] } else { [&step, self.read] };
        let body = format!("    {}\n    {}\n    n = 1.0\n", lines[0], lines[1]);
        let text = around(&format!("recur {states} over t{every}"), &body, self.sizes);
        text.replace("param out:", "param w0: [h, k, v]   param out:")
    }
}

#[test]
fn mini_batches_are_their_steps() {
    holds(48, (batched(), 1usize..40), |(batched, length)| equal_in_chunks(&batched.text(), length));
}

#[test]
fn mini_batches_run_as_they_are_derived() {
    let targets = prop::sample::select(vec!["cpu", "cpu:x86-64-v3"]);
    holds(20, (batched(), 1usize..50, cuts(), targets), |(batched, length, cuts, target)| {
        equal_as_code(&batched.text(), (length, &cuts), 5, (target, Dtype::F32))
    });
}

/// The rows of a recurrence's chunk where 16 are asked for, and whether it is a mini-batch; none: it goes by steps.
fn chunk_of(text: &str) -> Option<(usize, bool)> {
    let forms = derive(&Graph::build(&crate::build::model(text)), Chunks::Rows(16), MAX_ROWS);
    let mut found = forms.chunks.values().map(|chunk| chunk.as_ref().ok().map(|chunk| (chunk.rows, chunk.aligned)));
    found.next().expect("a recurrence")
}

/// A chunk of a mini-batch has its length, whatever is asked for.
#[test]
fn a_mini_batch_is_one_chunk() {
    let text = Batched { step: 1, read: READS[0], before: false, every: 6, sizes: (1, 2, 3) }.text();
    assert_eq!(chunk_of(&text), Some((6, true)));
}

/// Only states have mini-batches: what else happens at every n-th position does not change the chunks, nor do other periods those of a state
/// that is held.
#[test]
fn only_states_make_mini_batches() {
    let of = |head: &str, body: &str| around(head, &format!("    {body}\n    y = sum[k] q * S\n    n = 1.0\n"), (1, 2, 3));
    let gated = of("recur S: [h, k, v] over t", "S = select(position[t] % 4 == 0, 1.0, 0.5) * S + kk * vv");
    let read = of("recur S: [h, k, v] over t", "S = f * S + kk * vv\n    far = select(position[t] % 4 == 0, sum[k] kk * S, vv)");
    let head = "recur S: [h, k, v], G: [h, k, v] over t every 6";
    let gradient = "S = start(S)\n    G = select(position[t] % 6 == 0, 0.0, G) + grad(sum[v] tanh(sum[k] kk * S - vv) ^ 2, S)";
    let periods = "a = select(position[t] % 4 == 0, 1.0, 0.5)\n    b = select(position[t] % 5 == 0, 1.0, 0.5)";
    let held = of(head, &format!("{gradient}\n    {periods}\n    S = S - a * b * G"));
    for (text, wanted) in [(&gated, (16, false)), (&read, (16, false)), (&held, (6, true))] {
        assert_eq!(chunk_of(text), Some(wanted), "{text}");
        equal_in_chunks(text, 25).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

/// Mini-batches of one row and of more than a chunk may have go by steps.
#[test]
fn mini_batches_too_short_and_too_long_go_by_steps() {
    for (every, length) in [(1, 9), (129, 140)] {
        let text = Batched { step: 1, read: READS[0], before: false, every, sizes: (1, 2, 3) }.text();
        assert_eq!(chunk_of(&text), None, "every {every}");
        let checked = equal_as_code(&text, (length, &[3]), 16, ("cpu", Dtype::F32));
        checked.unwrap_or_else(|error| panic!("every {every}: {error}"));
    }
}

/// What a mini-batch begins with is found once for each value that it is made of, however often that is used.
#[test]
fn a_start_of_many_sums_is_derived_soon() {
    let sums: String = (0..40).map(|n| format!("    u{} = 0.5 * u{n} + 0.4 * u{n}\n", n + 1)).collect();
    let body = format!(
        "    u0 = 2.0 * S\n{sums}    B = select(position[t] % 6 == 0, tanh(u40), B)\n    S = f * S + kk * (vv - sum[k] kk * B)\n    y = sum[k] q * \
         S\n    n = 1.0\n"
    );
    let text = around("recur S: [h, k, v], B: [h, k, v] over t", &body, (1, 2, 3));
    assert_eq!(chunk_of(&text), Some((6, true)));
    equal_in_chunks(&text, 20).unwrap_or_else(|error| panic!("{error}"));
}
