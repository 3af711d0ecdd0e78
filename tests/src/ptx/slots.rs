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
/// looks back, rows are needed that nobody wants. What is of other numbers of its row, too, stays in single precision. Where another product needs so
/// much shared memory that the matrix units have no room, rows stay as they are.
#[test]
fn rows_that_are_ready() {
    let looked_up = ["", "embed[vocab: tokens]"];
    let multiplied = ["param long: [vocab, n] as \"f32\"   param w0: [n, d] as \"f32\"", "sum[n] long[vocab: tokens] * w0"];
    let calls: Calls = vec![(vec![0..1, 1..3], true), (vec![1..5, 5..7], false), (vec![0..8, 8..9], true)];
    for (wide, deep, target, [params, x]) in [
        ("288", "2336", "cuda:sm_90a", looked_up),
        ("160", "256", "cuda:sm_90a", looked_up),
        ("288", "992", "cuda:sm_80", looked_up),
        ("288", "992", "cuda:sm_80", multiplied),
    ] {
        let spec = format!(
            "model m(vocab: dim = 48, d: dim = {wide}, g: dim = {deep}, n: dim = 6400, width: dim = 1)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d] as \"f32\"   param s: [d]   param c: [d, width]   param w1: [d, g]   param w2: [g, d]   param w3: [d, vocab] as \"f32\"
  {params}
  x = {x}
  r = rsqrt(mean[d] x * x + 0.1)
  y = sum[d] (x * r * s) * w1
  z = r * (sum[g] (y * r) * w2)
  u = r * convolve[width](z, c)
  generate autoregressive
  return sum[d] u * w3
}}"
        );
        let spec = if params.is_empty() { spec } else { spec.replace("param embed: [vocab, d] as \"f32\"", "") };
        // Smaller weights leave room.
        let kinds = [(Dtype::Int8, "int8"), (Dtype::Int4, "int4"), (Dtype::Int4z, "int4z")];
        for (dtype, name) in kinds.into_iter().take(if params.is_empty() { 3 } else { 1 }) {
            let code = Code::of(&spec, "", "random:1", (target, dtype), Chunks::Auto);
            let has = |text: &str| code.ptx.contains(text);
            assert!(has(".func ready_rows_0(") && has(".func ready_rows_1("), "{x}, {target}, {name}");
            assert_eq!(has(&format!(".func stream_of_8_{name}_ready(")), params.is_empty(), "{x}, {target}, {name}");
            beside_as_alone(&code, &calls, &format!("{wide} wide, {deep} deep, {x}, {target}, {name}"));
        }
    }
}

/// Products of the same rows that are one step, with columns of two of them in one group of the matrix units, and epilogues of their own; also where the
/// units have no room, so that one product comes after the other.
#[test]
fn several_rows_of_joined_products() {
    let spec = "model m(vocab: dim = 48, d: dim = 288, n: dim = LONG, a: dim = 44, b: dim = 20, c: dim = 100, width: dim = 1)
  (tokens: [t]) -> [t, vocab] {
  param long: [vocab, n] as \"f32\"   param w0: [n, d] as \"f32\"   param wa: [a, d]   param wb: [b, d]   param wc: [c, d]
  param ka: [a, width]   param kb: [b, width]   param kc: [c, width]
  param va: [vocab, a] as \"f32\"   param vb: [vocab, b] as \"f32\"   param vc: [vocab, c] as \"f32\"
  x = sum[n] long[vocab: tokens] * w0
  r = rsqrt(mean[d] x * x + 0.1)
  xa = r * convolve[width](r * (sum[d] x * wa), ka)
  xb = r * convolve[width](r * sigmoid(sum[d] x * wb), kb)
  xc = r * convolve[width](r * (2.0 + sum[d] x * wc), kc)
  generate autoregressive
  return (sum[a] xa * va) + (sum[b] xb * vb) + (sum[c] xc * vc)
}";
    let calls: Calls = vec![(vec![0..1, 1..3], true), (vec![1..5, 5..7], false), (vec![0..8, 8..9], true)];
    for (long, target, units) in [("64", "cuda:sm_90a", true), ("64", "cuda:sm_80", true), ("6400", "cuda:sm_80", false)] {
        for dtype in [Dtype::Bf16, Dtype::Int8] {
            let code = Code::of(&spec.replace("LONG", long), "", "random:1", (target, dtype), Chunks::Auto);
            let has = |text: &str| code.ptx.contains(text);
            assert!(has(".func joined_rows_0(") && has(".func stream_of_8") == units, "{long}, {target}, {dtype:?}");
            beside_as_alone(&code, &calls, &format!("{long} long, {target}, {dtype:?}"));
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
