//! Chunks of recurrences as code for a GPU, on the interpreter, of sizes at which what states and rows are kept in changes.

use super::goldens::{Code, calls_on_a_processor, check, off, tokens, told};
use crate::gpu::planned_in;
use crate::narrow::BLOCK;
use braid_compiler::forms::Chunks;
use braid_compiler::fuse::kernel::{self, Nests, Walk};
use braid_runtime::artifact::Dtype;

/// The body of a function of an artifact's code.
pub fn body<'p>(ptx: &'p str, name: &str) -> &'p str {
    let begin = ptx.find(&format!(".func {name}(")).unwrap_or_else(|| panic!("no {name}"));
    &ptx[begin..][..ptx[begin..].find("\n}").expect("its end")]
}

/// Two sequences, the one longer than the other, whose states go on in a second call; against a processor in single precision.
fn continues(spec: &str, (target, dtype, chunks): (&str, Dtype, Chunks), most: f64) -> String {
    let (long, short) = (tokens(83, 32), tokens(35, 32));
    let calls = [[&long[..50], &short[..18]], [&long[50..], &short[18..]]];
    let code = Code::of(spec, "", "random:1", (target, dtype), chunks);
    let mut model = code.model(2, 68);
    let made: Vec<f32> = calls.iter().flat_map(|feeds| told(model.call(feeds, true))).collect();
    let (off, peak) = off(&made, &calls_on_a_processor(spec, Dtype::F32, &[&calls[0], &calls[1]]));
    assert!(off <= most * peak, "{target} {dtype:?}: {off:e} of {peak:e} in {spec}");
    code.ptx
}

/// A state that is only added to is kept in registers from chunk to chunk, and each chunk's is left as factors are; keys that all heads share
/// are rounded once. In single precision nothing is rounded.
#[test]
fn states_in_registers() {
    let spec = "model m(vocab: dim = 32, h: dim = 2, k: dim = 128, v: dim = 16)(tokens: [t]) -> [t, vocab] {
  param ta: [vocab, h]   param tq, tk: [vocab, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = -softplus(ta[vocab: tokens])
  recur S: [h, k, v] over t {
    S = exp(a) * S + tk[vocab: tokens] * tv[vocab: tokens]
    o = sum[k] tq[vocab: tokens] * S
  }
  return sum[h, v] o * last
}";
    let ptx = continues(spec, ("cuda:sm_90a", Dtype::Bf16, Chunks::Rows(16)), 1e-2);
    let walk = body(&ptx, "chunks_0");
    assert!(
        walk.contains("ldmatrix.sync.aligned.m8n8.x4.trans") && walk.contains("mma.sync.aligned.m16n8k16"),
        "factors in bfloat16"
    );
    let stored = walk.matches("st.global.v4.b32").count();
    assert!(walk.contains("shfl.sync.bfly") && stored > 0, "states go to memory eight numbers at once, from registers");
    let ptx = continues(spec, ("cuda:sm_90a", Dtype::F32, Chunks::Rows(16)), 1e-5);
    assert!(!body(&ptx, "chunks_0").contains("mma.sync.aligned.m16n8k16"), "nothing is rounded");
    continues(spec, ("cuda:sm_80", Dtype::Bf16, Chunks::Rows(16)), 1e-2);
}

/// What reads states makes scores for itself where there is room, and is handed them where there is none.
#[test]
fn scores_where_they_are_used() {
    let spec = |k: usize, v: usize| {
        format!(
            "model m(vocab: dim = 32, h: dim = 2, k: dim = {k}, v: dim = {v})(tokens: [t]) -> [t, vocab] {{
  param ta, tb: [vocab, h]   param tq, tk: [vocab, h, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = -softplus(ta[vocab: tokens])
  w = l2norm[k](tk[vocab: tokens], 0.000001)
  recur S: [h, k, v] over t {{
    S = exp(a) * S
    S = S + w * (sigmoid(tb[vocab: tokens]) * (tv[vocab: tokens] - sum[k] w * S))
    o = sum[k] tq[vocab: tokens] * S
  }}
  return sum[h, v] o * last
}}"
        )
    };
    for (sizes, target, rows) in [((64, 32), "cuda:sm_90a", 32), ((32, 48), "cuda:sm_90a", 16), ((128, 64), "cuda:sm_80", 32)] {
        continues(&spec(sizes.0, sizes.1), (target, Dtype::Bf16, Chunks::Rows(rows)), 2e-2);
        continues(&spec(sizes.0, sizes.1), (target, Dtype::F32, Chunks::Rows(rows)), 1e-5);
    }
}

/// Keys that decay each in its own way, by powers of e: blocks of rows meet blocks of keys in products, and pairs of a row and a key of the same
/// block have a power each. Also where a gate forgets all, where what is read has decayed first, and where there are two keys.
#[test]
fn keys_that_decay_by_powers() {
    let spec = |(k, v): (usize, usize), gate: f64, update: &str| {
        format!(
            "model m(vocab: dim = 32, h: dim = 2, k: dim = {k}, v: dim = {v})(tokens: [t]) -> [t, vocab] {{
  param tb: [vocab, h]   param ta, tq, tk: [vocab, h, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = {gate:.1} * softplus(ta[vocab: tokens])
  w = l2norm[k](tk[vocab: tokens], 0.000001)
  u = tv[vocab: tokens]
  b = sigmoid(tb[vocab: tokens])
  g = sigmoid(ta[vocab: tokens])
  c = exp(-a)
  recur S: [h, k, v] over t {{
    {update}
    o = sum[k] tq[vocab: tokens] * S
  }}
  return sum[h, v] o * last
}}"
        )
    };
    let plain = "S = exp(-a) * S + w * u";
    let delta = "S = exp(-a) * S\n    S = S + w * (b * (u - sum[k] w * S))";
    let undecayed = "S = exp(-a) * S + w * (b * (u - sum[k] w * S))";
    let two = "S = exp(-a) * S - w * (b * (sum[k] w * S)) + tq[vocab: tokens] * u";
    for (sizes, gate, update, target, rows) in [
        ((32, 16), 0.5, plain, "cuda:sm_90a", 32),
        ((64, 16), 60.0, plain, "cuda:sm_80", 16),
        ((32, 16), 0.1, delta, "cuda:sm_90a", 32),
        ((160, 16), 4.0, delta, "cuda:sm_80", 16),
        ((16, 32), 1.0, undecayed, "cuda:sm_90a", 8),
        ((128, 16), 0.5, two, "cuda:sm_90a", 32),
        ((64, 32), 0.2, two, "cuda:sm_80", 16),
    ] {
        let ptx = continues(&spec(sizes, gate, update), (target, Dtype::Bf16, Chunks::Rows(rows)), 2e-2);
        assert!(body(&ptx, "intra_0").contains("ex2.approx"), "powers");
        continues(&spec(sizes, gate, update), (target, Dtype::F32, Chunks::Rows(rows)), 1e-5);
    }
    let ids = tokens(75, 32);
    // The same by other names: factors that other kernels make, and gates.
    let named = ["S = c * S + w * u", "S = g * S\n    S = S + w * (b * (u - sum[k] w * S))", "S = sigmoid(a) * S + w * u"];
    for update in [plain, delta].into_iter().chain(named) {
        let spec = spec((32, 16), 0.3, update);
        let code = Code::of(&spec, "", "random:1", ("cuda:sm_90a", Dtype::Bf16), Chunks::Auto);
        let made = told(code.model(1, 75).call(&[&ids], true));
        let (off, peak) = off(&made, &calls_on_a_processor(&spec, Dtype::F32, &[&[&ids]]));
        assert!(off <= 2e-2 * peak && code.ptx.contains(".func chunks_0("), "{off:e} of {peak:e}");
    }
}

/// What two views are of crosses between kernels twice: what all rows have of a decay that nothing else is read with, and what the last one has.
#[test]
fn a_value_crosses_by_two_views() {
    let spec = "model m(vocab: dim = 32, h: dim = 2, k: dim = 32, v: dim = 16)(tokens: [t]) -> [t, vocab] {
  param ta, tk: [vocab, h, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = softplus(ta[vocab: tokens])
  recur S: [h, k, v] over t {
    S = exp(-a) * S + tk[vocab: tokens] * tv[vocab: tokens]
    o = sum[k] S
  }
  return sum[h, v] o * last
}";
    continues(spec, ("cuda:sm_90a", Dtype::Bf16, Chunks::Rows(16)), 2e-2);
}

/// What only reads states goes in blocks of values where it has no room for all: lines of the states that a block has are copied for it.
#[test]
fn outputs_in_blocks_of_values() {
    let spec = "model m(vocab: dim = 32, h: dim = 1, k: dim = 128, v: dim = 128)(tokens: [t]) -> [t, vocab] {
  param ta: [vocab, h]   param tq, tk: [vocab, h, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = -softplus(ta[vocab: tokens])
  recur S: [h, k, v] over t {
    S = exp(a) * S + tk[vocab: tokens] * tv[vocab: tokens]
    o = sum[k] tq[vocab: tokens] * S
  }
  return sum[h, v] o * last
}";
    let plan = planned_in(spec, Dtype::Bf16);
    let behind = plan.functions.iter().find(|function| function.name == "intra_1").expect("what reads states");
    let cut = |code: &kernel::Code| matches!(code, kernel::Code::Nests(Nests { walk: Walk::Segments { blocked: Some((_, width)), .. }, .. }) if *width < 128);
    assert!(cut(&behind.code), "in blocks");
    let ids = tokens(140, 32);
    let code = Code::of(spec, "", "random:1", ("cuda:sm_90a", Dtype::Bf16), Chunks::Auto);
    let made = told(code.model(1, 140).call(&[&ids], true));
    let (off, peak) = off(&made, &calls_on_a_processor(spec, Dtype::F32, &[&[&ids]]));
    assert!(off <= 2e-2 * peak, "{off:e} of {peak:e}");
}

/// A matrix goes in blocks of columns, beside a vector that has none and divides what is read of it.
#[test]
fn states_that_lack_an_axis_walk_ahead() {
    let spec = "model m(vocab: dim = 32, h: dim = 2, k: dim = 16, v: dim = 64)(tokens: [t]) -> [t, vocab] {
  param ta: [vocab, h]   param tk: [vocab, h, k]   param tv: [vocab, h, v]   param last: [h, v, vocab]
  a = -softplus(ta[vocab: tokens])
  w = tk[vocab: tokens]
  recur S: [h, k, v], z: [h, k] over t {
    S = exp(a) * S + w * tv[vocab: tokens]
    z = exp(a) * z + w
    o = (sum[k] w * S) / max(abs(sum[k] w * z), 0.01)
  }
  return sum[h, v] o * last
}";
    let ids = tokens(70, 32);
    let calls: [&[&[i32]]; 2] = [&[&ids[..50]], &[&ids[50..]]];
    let right = calls_on_a_processor(spec, Dtype::F32, &calls);
    for (dtype, most) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
        let code = Code::of(spec, "", "random:1", ("cuda:sm_80", dtype), Chunks::Rows(16));
        let walks = ["chunks_0", "chunks_1"].into_iter().all(|name| code.ptx.contains(&format!(".func {name}(")));
        assert!(walks, "one walk");
        let mut model = code.model(1, 50);
        let made: Vec<f32> = calls.iter().flat_map(|feeds| told(model.call(feeds, true))).collect();
        let (off, peak) = off(&made, &right);
        assert!(off <= most * peak, "{dtype:?}: {off:e} of {peak:e}");
    }
}

/// What crosses between kernels in bfloat16: rows that are convolved, two channels a thread; what chunks, or the threads of a walk step by step,
/// bring near; a gate and a result that a norm reads by fours.
#[test]
fn values_that_cross_in_bfloat16() {
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        let ptx = continues(BLOCK, (target, Dtype::Bf16, Chunks::Rows(16)), 2e-2);
        assert!(body(&ptx, "convolution_0").contains("ld.global.v2.b16"), "two channels at once");
        let ptx = continues(BLOCK, (target, Dtype::Bf16, Chunks::Off), 2e-2);
        assert!(body(&ptx, "recurrence_0_many").contains("ld.shared.v4.b16"), "numbers of a walk");
        assert!(body(&ptx, "rows_1_many").contains("ld.global.v4.b16"), "a gate by fours");
    }
}

/// Chunks that a call of few rows has whole.
#[test]
fn short_chunks_in_calls_of_few_rows() {
    check("gated_deltanet", "cuda:sm_90a", Chunks::Rows(16), (16, 0));
    check("gated_deltanet", "cuda:sm_80", Chunks::Rows(8), (16, 0));
}
