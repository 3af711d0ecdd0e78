//! Rows of products that are two halves each on the matrix units, on the interpreter: alone, and some together.

use super::goldens::{Code, off, tokens, told};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;
use std::ops::Range;

/// Products of depths that are whole copies of 16-bit numbers, but not whole units.
const DEEP: &str = "model m(vocab: dim = 48, d: dim = 264, g: dim = 1400)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w1: [d, g]   param w2: [g, d]   param w3: [d, vocab]
  x = sum[g] (sum[d] embed[vocab: tokens] * w1) * w2
  return sum[d] moe(d: d, experts: 3, active: 2, expert: swiglu(d: d, hidden: 1160))(x) * w3
}";

/// A row alone, whose numbers are two halves each on the matrix units, makes what it makes beside another, in single precision.
#[test]
fn products_of_halves() {
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        let code = Code::of(DEEP, "", "random:1", (target, Dtype::Bf16), Chunks::Auto);
        let alone = told(code.model(1, 1).call(&[&[5]], true));
        let beside = told(code.model(2, 2).call(&[&[5], &[7]], true));
        let (off, peak) = off(&alone, &beside[..alone.len()]);
        assert!(off <= 5e-5 * peak, "{target}: {off:e} of {peak:e}");
    }
}

/// The rows of each sequence of calls, and whether all are wanted.
pub type Calls = Vec<(Vec<Range<usize>>, bool)>;

/// Rows of calls of several make what they make alone, of a model with 48 outputs and as many tokens.
pub fn beside_as_alone(code: &Code, calls: &Calls, what: &str) {
    let ids = tokens(10, 48);
    let rows = calls.iter().flat_map(|(feeds, _)| feeds).map(|feed| feed.end).max().unwrap_or(0);
    let mut alone = code.model(1, 1);
    let alone: Vec<f32> = ids[..rows].iter().flat_map(|id| told(alone.call(&[&[*id]], true))).collect();
    let mut beside = code.model(2, rows);
    for (feeds, all) in calls {
        let tokens: Vec<&[i32]> = feeds.iter().map(|feed| &ids[feed.clone()]).collect();
        let made = told(beside.call(&tokens, *all));
        let rows = feeds.iter().flat_map(|feed| if *all { feed.clone() } else { feed.end - 1..feed.end });
        let right: Vec<f32> = rows.flat_map(|row| alone[48 * row..48 * (row + 1)].to_vec()).collect();
        let (off, peak) = off(&made, &right);
        println!("{what}, {feeds:?}: {off:.2e} of {peak:.2e}");
        assert!(off <= 5e-5 * peak, "{what}, {feeds:?}: {off:e} of {peak:e}");
    }
}

/// Rows of calls of several make what they make alone, however many they are and whichever of them are wanted; so do those of several
/// calls, between which weights are read ahead.
#[test]
fn several_rows_of_halves() {
    // Several rounds of columns, and depths that are no whole parts.
    let small = DEEP.replace("1400", "520").replace("1160", "264");
    let dense = small.replace("moe(d: d, experts: 3, active: 2, expert: swiglu(d: d, hidden: 264))(x)", "sigmoid(x)");
    assert_ne!(small, dense);
    let calls: Calls = vec![(vec![0..1, 1..3], true), (vec![1..5, 5..7], false), (vec![0..8, 8..9], true)];
    for (spec, target) in [(&small, "cuda:sm_90a"), (&dense, "cuda:sm_90a"), (&dense, "cuda:sm_80")] {
        let code = Code::of(spec, "", "random:1", (target, Dtype::Bf16), Chunks::Auto);
        assert!(code.ptx.contains(".func stream_of_8(") && !code.ptx.contains(".func dot_8_bf16"), "{target}");
        beside_as_alone(&code, &calls, target);
    }
}

/// Nor does what is infinite, or no number, in a row of two halves; what is large stays finite.
#[test]
fn halves_keep_what_is_infinite() {
    let spec = "model m(vocab: dim = 32, d: dim = 64)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [d, vocab]
  return sum[d] (GIVEN + 0.0 * embed[vocab: tokens]) * (w * w)
}";
    for (given, right) in [
        ("3.4e38", f32::is_finite as fn(f32) -> bool),
        ("exp(100.0)", f32::is_infinite),
        ("exp(100.0) * (0.0 * embed[vocab: tokens])", f32::is_nan),
    ] {
        let spec = spec.replace("GIVEN", given);
        let code = Code::of(&spec, "", "random:1", ("cuda:sm_90a", Dtype::Bf16), Chunks::Auto);
        let made = told(code.model(1, 1).call(&[&tokens(1, 32)], true));
        assert!(made.iter().copied().all(right), "{given}: {made:?}");
    }
}
