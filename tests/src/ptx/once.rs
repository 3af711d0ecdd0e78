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

fn spec(body: &str, [h, k, v]: [usize; 3]) -> String {
    let states = if body.contains('Z') { "S: [h, k, v], Z: [h, k, v]" } else { "S: [h, k, v]" };
    format!(
        "model m(vocab: dim = 32, h: dim = {h}, k: dim = {k}, v: dim = {v}, width: dim = 3)(tokens: [t]) -> [t, vocab] {{
  param tq, tk: [vocab, h, k]   param tv, last: [vocab, h, v]   param ta, tb: [vocab, h]   param c: [width, h, v]   param tg: [vocab, h, k, v]
  q = tq[vocab: tokens]   kk = tk[vocab: tokens] * k ^ -0.5   vv = convolve[width](tv[vocab: tokens], c)   a = ta[vocab: tokens]   b = tb[vocab: tokens]
  g = sigmoid(tg[vocab: tokens])
  recur {states} over t {{ {body} }}
  generate autoregressive
  return sum[h, v] o * last
}}"
    )
}

/// The calls, each with so many tokens of the first sequences, on the interpreter and on a processor.
fn check(spec: &str, (target, dtype, chunks): (&str, Dtype, Chunks), counts: &[Vec<usize>], most: f64) {
    let slots = counts[0].len();
    let ids: Vec<Vec<i32>> = (0..slots).map(|at| tokens(60 + at, 32)[at..].to_vec()).collect();
    let mut seen = vec![0; slots];
    let mut feeds: Vec<Vec<&[i32]>> = vec![];
    for count in counts {
        let feed = count.iter().enumerate().map(|(at, count)| {
            seen[at] += count;
            &ids[at][seen[at] - count..seen[at]]
        });
        feeds.push(feed.collect());
    }
    let calls: Vec<&[&[i32]]> = feeds.iter().map(Vec::as_slice).collect();
    let code = Code::of(spec, "", "random:1", (target, dtype), chunks);
    let mut model = code.model(slots, 64);
    let made: Vec<f32> = calls.iter().flat_map(|feeds| told(model.call(feeds, true))).collect();
    let (off, peak) = off(&made, &calls_on_a_processor(spec, dtype, &calls));
    assert!(off <= most * peak, "{target}, {chunks:?}: {off:e} of {peak:e} in {spec}");
}

/// So many sequences with a row each.
fn single(count: usize) -> Vec<usize> {
    vec![1; count]
}

/// Calls in which every sequence has a row, of more sequences than a step has and of fewer; one in which two have several, of which one is a chunk
/// and more; and again.
#[test]
fn steps_of_many_sequences() {
    let mut several = single(21);
    (several[3], several[5]) = (21, 4);
    let calls = [single(21), single(3), several, single(18), single(21)];
    for (body, target) in STEPS.iter().flat_map(|body| [(body, "cuda:sm_90a"), (body, "cuda:sm_80")]) {
        for chunks in [Chunks::Off, Chunks::Rows(16)] {
            check(&spec(body, [2, 16, 64]), (target, Dtype::F32, chunks), &calls, 1e-5);
        }
    }
}

/// Enough heads for tasks of 64 channels, and rows whose numbers are of two bytes.
#[test]
fn wide_steps() {
    let calls = [single(18), single(2), single(18)];
    check(&spec(STEPS[1], [16, 16, 64]), ("cuda:sm_90a", Dtype::F32, Chunks::Rows(16)), &calls, 1e-5);
    check(&spec(STEPS[0], [16, 16, 64]), ("cuda:sm_90a", Dtype::Bf16, Chunks::Rows(16)), &calls, 1e-2);
}

/// A gate of each element, which a row brings and a step ahead makes: code of many rows is that of one, whose blocks make what they need themselves.
#[test]
fn steps_whose_rows_are_large() {
    let spec = spec("S = g * S + kk * vv\n o = sum[k] q * S", [2, 64, 128]);
    for chunks in [Chunks::Off, Chunks::Rows(16)] {
        check(&spec, ("cuda:sm_90a", Dtype::F32, chunks), &[single(2), single(1), single(1), single(2)], 1e-5);
    }
}

/// The largest of some integers, below zero as well, which are no numbers as bits.
#[test]
fn integers_of_a_step() {
    let spec = spec("S = sigmoid(a) * S + kk * vv\n o = vv * float(max[k] select(S > 0.0, index[k] - 20, -30))", [2, 16, 64]);
    check(&spec, ("cuda:sm_90a", Dtype::F32, Chunks::Rows(16)), &[single(3), single(3)], 1e-5);
}

/// Results of each element of a state, of which a thread has one, in a walk of many rows; in single steps behind it.
#[test]
fn results_of_each_element() {
    let spec = spec("S = sigmoid(a) * S + kk * vv\n o = q * S + (sum[k] kk * S)", [2, 16, 64])
        .replace("sum[h, v] o * last", "sum[h, k, v] o * last");
    check(&spec, ("cuda:sm_90a", Dtype::F32, Chunks::Off), &[vec![20, 2], single(2)], 1e-5);
}
