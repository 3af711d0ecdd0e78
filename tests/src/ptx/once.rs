//! Single steps for many sequences, on the interpreter: all of a recurrence's states come to registers at once, and convolutions do not go in pieces.

use super::goldens::{Code, calls_on_a_processor, off, tokens, told};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;

/// One sum of a step that results are made of; one that the state needs, and a second of the new state; a state that is read before it changes, whose
/// decays are of the key's numbers; two states that are updated side by side.
const STEPS: [&str; 4] = [
    "S = exp(-softplus(a)) * S + kk * vv\n o = sum[k] q * S",
    "S = exp(-softplus(a)) * S\n S = S + kk * (sigmoid(b) * (vv - sum[k] kk * S))\n o = sum[k] q * S",
    "o = sum[k] q * S + vv * b\n S = sigmoid(q) * S + kk * vv",
    "S = sigmoid(a) * S + kk * vv\n Z = sigmoid(b) * Z + q * vv\n o = (sum[k] q * S) + max[k] kk * Z",
];

fn spec(body: &str) -> String {
    let states = if body.contains('Z') { "S: [h, k, v], Z: [h, k, v]" } else { "S: [h, k, v]" };
    format!(
        "model m(vocab: dim = 32, h: dim = 2, k: dim = 16, v: dim = 64, width: dim = 3)(tokens: [t]) -> [t, vocab] {{
  param tq, tk: [vocab, h, k]   param tv, last: [vocab, h, v]   param ta, tb: [vocab, h]   param c: [width, h, v]
  q = tq[vocab: tokens]   kk = tk[vocab: tokens] * k ^ -0.5   vv = convolve[width](tv[vocab: tokens], c)   a = ta[vocab: tokens]   b = tb[vocab: tokens]
  recur {states} over t {{ {body} }}
  generate autoregressive
  return sum[h, v] o * last
}}"
    )
}

/// Calls in which every sequence has a row, of more sequences than a step has and of fewer; one in which two have several, of which one is a chunk
/// and more; and again.
#[test]
fn steps_of_many_sequences() {
    let ids: Vec<Vec<i32>> = (0..21).map(|at| tokens(40 + at, 32)[at..].to_vec()).collect();
    let counts = |call: usize, at: usize| match (call, at) {
        (2, 3) => 21,
        (2, 5) => 4,
        _ => 1,
    };
    let sequences = [21, 3, 21, 18, 21];
    let mut seen = [0; 21];
    let mut feeds: Vec<Vec<&[i32]>> = vec![];
    for (call, count) in sequences.into_iter().enumerate() {
        let feed = (0..count).map(|at| {
            let from = seen[at];
            seen[at] += counts(call, at);
            &ids[at][from..seen[at]]
        });
        feeds.push(feed.collect());
    }
    let calls: Vec<&[&[i32]]> = feeds.iter().map(Vec::as_slice).collect();
    for (body, target) in STEPS.iter().flat_map(|body| [(body, "cuda:sm_90a"), (body, "cuda:sm_80")]) {
        let spec = spec(body);
        for chunks in [Chunks::Off, Chunks::Rows(16)] {
            let code = Code::of(&spec, "", "random:1", (target, Dtype::F32), chunks);
            let mut model = code.model(21, 64);
            let made: Vec<f32> = calls.iter().flat_map(|feeds| told(model.call(feeds, true))).collect();
            let (off, peak) = off(&made, &calls_on_a_processor(&spec, Dtype::F32, &calls));
            assert!(off <= 1e-5 * peak, "{target}, {chunks:?}: {off:e} of {peak:e} in {body}");
        }
    }
}
