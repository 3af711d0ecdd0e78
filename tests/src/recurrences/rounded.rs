//! Chunks on processors that multiply pairs of bfloat16 numbers: what meets in them is rounded where weights are, and nowhere else.

use crate::cross;
use crate::properties::compiled::{Compiled, feed, made_up, together};
use crate::quantised::{relative, stored_as};
use braid_compiler::forms::Chunks;
use braid_compiler::target::Target;
use braid_runtime::artifact::{Dtype, missing_feature};

/// Keys that all heads share or each has, values that vectors divide or not, and a step: by a number, by key, a delta rule, a rank one, two states.
const CASES: [(&str, usize, &str); 6] = [
    ("k", 64, "S = exp(a) * S + kk * vv\n o = sum[k] q * S"),
    ("h, k", 32, "S = exp(g) * S + kk * vv\n o = sum[k] q * S"),
    ("h, k", 48, "S = exp(a) * S\n S = S + kk * (b * (vv - sum[k] kk * S))\n o = sum[k] q * S"),
    ("h, k", 96, "S = exp(g) * S\n S = S + kk * (b * (vv - sum[k] kk * S))\n o = sum[k] q * S"),
    ("h, k", 64, "S = exp(g) * S - kk * b * (sum[k] kk * S) + g * vv\n o = sum[k] q * S"),
    ("h, k", 35, "S = exp(a) * S + kk * vv\n o = sum[k] q * S"),
];

fn spec((keys, v, step): (&str, usize, &str)) -> String {
    format!(
        "model m(d: dim = 48, h: dim = 3, k: dim = 32, v: dim = {v}, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param wq, wk: [{keys}, d]   param wg: [h, k, d]   param wv: [h, v, d]   param wa, wb: [h, d]   param wo: [d, h, v]
  x = embed[vocab: tokens]
  q = sum[d] x * wq
  kk = l2norm[k](sum[d] x * wk, 1e-6)
  vv = sum[d] x * wv
  g = -softplus(sum[d] x * wg)
  a = -softplus(sum[d] x * wa)
  b = sigmoid(sum[d] x * wb)
  recur S: [h, k, v] over t {{ {step} }}
  return sum[d] (x + sum[h, v] o * wo) * embed
}}
"
    )
}

fn ids(count: usize) -> Vec<i32> {
    (0..count).map(|at| ((at * 7 + at * at) % 150) as i32).collect()
}

/// Chunks of rounded numbers lie near steps and the equations; those of single precision are steps but for the last bits.
#[test]
fn chunks_of_pairs_are_steps_but_for_rounding() {
    let name = "cpu:x86-64-v4+bf16";
    if missing_feature(&Target::parse(name).expect("a target").features).is_some() {
        return;
    }
    for (case, dtype, rows) in CASES
        .into_iter()
        .flat_map(|case| [(Dtype::Bf16, 16), (Dtype::Int8, 32), (Dtype::F32, 16)].map(|(dtype, rows)| (case, dtype, rows)))
    {
        let numbers = |path: &str, shape: &[usize]| stored_as(dtype, made_up(path, shape), shape);
        let of = |chunks| Compiled::stored(&spec(case), chunks, (name, dtype), numbers);
        let (steps, chunks) = (of(Chunks::Off), of(Chunks::Rows(rows)));
        let ids = ids(75);
        let (one, many) = (steps.whole(&ids), chunks.whole(&ids));
        let wanted: Vec<f64> = one.iter().map(|x| f64::from(*x)).collect();
        let (apart, off) = (relative(&many, &wanted), relative(&many, &chunks.evaluated(&ids)));
        println!("{case:?} {dtype:?} {rows}: {apart:.1e} from steps, {off:.1e} from the equations");
        let by_pairs = dtype != Dtype::F32 && case.1.is_multiple_of(32);
        match by_pairs {
            true => assert!((1e-5..5e-3).contains(&apart), "{case:?}, {dtype:?}: {apart:e} from steps"),
            // Products of weights round what differs in its last bits.
            false => assert!(apart < 1e-3, "{case:?}, {dtype:?}: {apart:e} from steps"),
        }
        assert!(off < if dtype == Dtype::F32 { 1e-5 } else { 2e-2 }, "{case:?}, {dtype:?}: {off:e} from the equations");
        // Rows left over, a second call, another sequence and a second thread.
        let mut session = chunks.session(2, 2);
        let begun = feed(&mut session, 0, &ids[..37]);
        let both = together(&mut session, &[(0, &ids[37..]), (1, &ids)]);
        let many: Vec<f64> = many.iter().map(|x| f64::from(*x)).collect();
        for (what, found) in [("where the text is cut", [begun, both[0].clone()].concat()), ("beside another", both[1].clone())] {
            let apart = relative(&found, &many);
            assert!(apart < 5e-3, "{case:?}, {dtype:?}: {apart:e} {what}");
        }
    }
}

#[test]
fn chunks_of_pairs_on_arm() {
    cross::check("mamba2", "cpu:aarch64+bf16", Dtype::Bf16, Chunks::Rows(16));
    cross::check("gated_deltanet", "cpu:aarch64+bf16", Dtype::Bf16, Chunks::Rows(16));
}
