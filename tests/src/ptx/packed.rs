//! Steps of attention whose heads are rows of the matrix units, on the interpreter: beside what a processor makes of the same numbers.

use super::goldens::{Code, off, tokens, told};
use super::model::Played;
use crate::build::{Built, build_in_chunks};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use std::sync::Arc;

/// Keys and values are looked up in tables that are large enough to be of bfloat16 numbers, so that caches hold them as they are.
fn spec([groups, per, key, value]: [usize; 4], keep: &str, score: &str) -> String {
    format!(
        "model m(vocab: dim = 512, out: dim = 32, g: dim = {groups}, per: dim = {per}, k: dim = {key}, v: dim = {value})(tokens: [t]) -> [t, out] {{
  param tq: [vocab, g, per, k]   param tk: [vocab, g, k]   param tv: [vocab, g, v]   param slope: [g, per]
  param last: [g, per, v, out] as \"f32\"
  o = attend[k](tq[vocab: tokens], tk[vocab: tokens], tv[vocab: tokens]) {{ keep: {keep}   score: {score} }}
  generate autoregressive
  return sum[g, per, v] o * last
}}"
    )
}

/// Logits of all tokens of a sequence on a processor.
fn on_a_processor(spec: &str, dtype: Dtype, ids: &[i32]) -> Vec<f32> {
    let Built { artifact, folder: _room } = build_in_chunks(spec, "", "cpu", dtype, Chunks::Off);
    let weights = Weights::open(&artifact.manifest, "random:1", 2, &Hidden).expect("weights");
    let settings = Settings { threads: 2, capacity: ids.len(), slots: 1 };
    let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings).expect("a session");
    let mut all = vec![];
    session.prefill(0, ids, Wanted::All, |_, logits| all.extend_from_slice(logits)).expect("a call");
    all
}

/// One row and several, behind positions that are cut into parts and behind few, are what a processor makes of them.
fn check(sizes: [usize; 4], target: &str, keep: &str, score: &str, length: usize) {
    check_spec(&spec(sizes, keep, score), (target, Dtype::Bf16), length);
}

fn check_spec(spec: &str, (target, dtype): (&str, Dtype), length: usize) {
    let ids = tokens(length, 512);
    let right = on_a_processor(spec, dtype, &ids);
    let code = Code::of(spec, "", "random:1", (target, dtype), Chunks::Auto);
    let room = [1, length.next_multiple_of(16), length - 7];
    let mut model = Played::new(&code.ptx, code.manifest.clone(), &code.weights, room).unwrap_or_else(|error| panic!("{error}"));
    let most = |model: &mut Played, from: usize, to: usize| {
        let made = told(model.call(&[&ids[from..to]], true));
        let (off, peak) = off(&made, &right[32 * from..32 * to]);
        println!("{target}, rows {from} to {to}: {off:.1e} of {peak:.1e}");
        off / peak
    };
    let mut few = vec![most(&mut model, 0, 1), most(&mut model, 1, 4)];
    // Tiles round what they multiply.
    assert!(most(&mut model, 4, length - 4) <= 2e-2, "{target}: {spec}");
    few.extend([most(&mut model, length - 4, length - 3), most(&mut model, length - 3, length)]);
    assert!(few.iter().all(|off| *off <= 2e-5), "{target}: {few:?}: {spec}");
}

const CAUSAL: &str = "key <= query";
const PLAIN: &str = "0.3 * s";

#[test]
fn heads_that_share_keys() {
    check([2, 4, 64, 64], "cuda:sm_90a", CAUSAL, PLAIN, 570);
    check([1, 8, 32, 128], "cuda:sm_80", CAUSAL, PLAIN, 50);
}

/// Heads that no eight divides, keys and values that take several loads, a score of the head's own, and a mask that hides the last positions of a chunk.
#[test]
fn heads_of_many_kinds() {
    check([1, 6, 128, 128], "cuda:sm_90a", CAUSAL, "0.2 * s - sigmoid(slope) * 0.05 * float(query - key)", 90);
    check([2, 1, 256, 256], "cuda:sm_80", CAUSAL, "20.0 * tanh(s / 20.0)", 60);
    check([1, 3, 64, 64], "cuda:sm_90a", "key <= query && query - key < 37", PLAIN, 300);
    // Scores that rise, of some heads faster than of others: sums are brought to other maxima again and again.
    check([1, 6, 32, 64], "cuda:sm_90a", CAUSAL, "0.1 * s + 0.05 * (1.0 + sigmoid(1000.0 * slope)) * float(key)", 300);
}

/// Parts of values of an odd length: maxima and totals behind their sums are pairs. Positions lie behind values of an odd number of bytes by two.
#[test]
fn parts_of_odd_values() {
    check_spec(&spec([1, 3, 16, 33], CAUSAL, PLAIN), ("cuda:sm_80", Dtype::F32), 300);
    check([1, 3, 16, 33], "cuda:sm_90a", CAUSAL, PLAIN, 300);
}

/// Parts of one attention lie where no other one counts, whatever their shapes: the second has more tasks than the first.
#[test]
fn attentions_of_two_shapes() {
    let spec = "model m(vocab: dim = 512, out: dim = 32, g: dim = 20, k: dim = 32, v: dim = 64)(tokens: [t]) -> [t, out] {
  param tq, tk: [vocab, k]   param tv: [vocab, v]   param uq, uk: [vocab, g, k]   param uv: [vocab, g, v]
  param first: [v, out] as \"f32\"   param second: [g, v, out] as \"f32\"
  a = attend[k](tq[vocab: tokens], tk[vocab: tokens], tv[vocab: tokens]) { keep: key <= query   score: s }
  b = attend[k](uq[vocab: tokens], uk[vocab: tokens], uv[vocab: tokens]) { keep: key <= query   score: s }
  generate autoregressive
  return (sum[v] a * first) + sum[g, v] b * second
}";
    check_spec(spec, ("cuda:sm_90a", Dtype::Bf16), 300);
}
