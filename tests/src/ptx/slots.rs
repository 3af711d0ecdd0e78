//! Several rows with quantised weights on the matrix units, on the interpreter.

use super::goldens::{Code, told};
use super::halves::{Calls, beside_as_alone};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;

/// Products of several rounds of columns, of depths that are whole groups, but no whole parts of any kind.
const DEEP: &str = "model m(vocab: dim = 48, d: dim = 288, g: dim = 992)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d] as \"f32\"   param w1: [d, g]   param w2: [g, d]   param w3: [d, vocab]
  x = sum[g] (sum[d] embed[vocab: tokens] * w1) * w2
  return sum[d] sigmoid(x) * w3
}";

/// Rows of calls of several make what they make alone, of each kind of weights; with weights that are asked for ahead, and without.
#[test]
fn several_rows_of_slots() {
    let calls: Calls = vec![(vec![0..1, 1..3], true), (vec![1..5, 5..7], false), (vec![0..8, 8..9], true)];
    for (dtype, name) in [(Dtype::Int8, "int8"), (Dtype::Int4, "int4"), (Dtype::Int4z, "int4z"), (Dtype::Fp8, "fp8")] {
        for target in ["cuda:sm_90a", "cuda:sm_80"] {
            let code = Code::of(DEEP, "", "random:1", (target, dtype), Chunks::Auto);
            let own = format!(".func stream_of_8_{name}(");
            assert!(code.ptx.contains(&own) && !code.ptx.contains(".func dot_8_"), "{target}, {name}");
            beside_as_alone(&code, &calls, &format!("{target}, {name}"));
        }
    }
}

/// What is infinite, or no number, stays so, and what is large finite.
#[test]
fn slots_keep_what_is_infinite() {
    let spec = "model m(vocab: dim = 32, d: dim = 64)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [d, vocab]
  return sum[d] (GIVEN + 0.0 * embed[vocab: tokens]) * w
}";
    for (given, right) in [
        ("1.0e37", f32::is_finite as fn(f32) -> bool),
        ("exp(100.0)", |x: f32| !x.is_finite()),
        ("exp(100.0) * (0.0 * embed[vocab: tokens])", f32::is_nan),
    ] {
        for dtype in [Dtype::Int8, Dtype::Int4, Dtype::Int4z, Dtype::Fp8] {
            let code = Code::of(&spec.replace("GIVEN", given), "", "random:1", ("cuda:sm_90a", dtype), Chunks::Auto);
            let made = told(code.model(1, 3).call(&[&[1, 2, 3]], true));
            assert!(made.iter().copied().all(right), "{given}, {dtype:?}: {made:?}");
            let alone = told(code.model(1, 1).call(&[&[1]], true));
            let near = |(a, b): (&f32, &f32)| !a.is_finite() || (a - b).abs() <= 1e-3 * 1e37;
            assert!(alone.iter().zip(&made).all(near), "{given}, {dtype:?}: {made:?}, {alone:?}");
        }
    }
}
