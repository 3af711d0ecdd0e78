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

/// Rows that a step makes integers of: rows of a norm that the same step makes, in registers (of which some threads have none) or not, whose factor
/// others need, too; and rows that a product makes, longer than what threads have at once. The convolution looks at nothing but its row: for one that
/// looks back, rows are needed that nobody wants. What is of other numbers of its row, too, stays in single precision.
#[test]
fn rows_that_are_ready() {
    let spec = "model m(vocab: dim = 48, d: dim = WIDE, g: dim = DEEP, width: dim = 1)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d] as \"f32\"   param s: [d]   param c: [d, width]   param w1: [d, g]   param w2: [g, d]   param w3: [d, vocab] as \"f32\"
  x = embed[vocab: tokens]
  r = rsqrt(mean[d] x * x + 0.1)
  y = sum[d] (x * r * s) * w1
  z = r * (sum[g] (y * r) * w2)
  u = r * convolve[width](z, c)
  generate autoregressive
  return sum[d] u * w3
}";
    let calls: Calls = vec![(vec![0..1, 1..3], true), (vec![1..5, 5..7], false), (vec![0..8, 8..9], true)];
    for (wide, deep, target) in [("288", "2336", "cuda:sm_90a"), ("160", "256", "cuda:sm_90a"), ("288", "992", "cuda:sm_80")] {
        let spec = spec.replace("WIDE", wide).replace("DEEP", deep);
        for (dtype, name) in [(Dtype::Int8, "int8"), (Dtype::Int4, "int4"), (Dtype::Int4z, "int4z")] {
            let code = Code::of(&spec, "", "random:1", (target, dtype), Chunks::Auto);
            let has = |text: String| code.ptx.contains(&text);
            assert!(has(format!(".func stream_of_8_{name}_ready(")) && has(".func ready_rows_1(".into()), "{target}, {name}");
            beside_as_alone(&code, &calls, &format!("{wide} wide, {deep} deep, {target}, {name}"));
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
