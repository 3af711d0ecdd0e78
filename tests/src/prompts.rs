//! Rows of a prompt that a processor does side by side in attention.

use crate::properties::compiled::{Compiled, agree, feed, made_up, together};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;

/// One attention over groups of heads, with a bias of each head and a sink, of odd sizes.
fn grouped(per: usize) -> String {
    format!(
        "model m(d: dim = 24, groups: dim = 2, per: dim = {per}, k: dim = 17, v: dim = 35, vocab: dim = 50)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param wq: [groups, per, k, d]   param wk: [groups, k, d]   param wv: [groups, v, d]
  param wo: [d, groups, per, v]   param sink: [groups, per]
  x = embed[vocab: tokens]
  q = sum[d] x * wq
  kk = sum[d] x * wk
  vv = sum[d] x * wv
  slope = 2.0 ^ (-1.0 - index[per])
  o = attend[k](q, kk, vv) {{ score: s * k ^ -0.5 - slope * (query - key)   sink: sink }}
  return sum[d] (x + sum[groups, per, v] o * wo) * embed
}}
"
    )
}

/// Rows of a prompt that look at their keys side by side: as many as registers hold, fewer at the end, and two sequences in a call.
#[test]
fn rows_of_a_prompt_look_together() {
    let ids = |count: usize, from: usize| (0..count).map(|at| ((from + at * 7 + at * at) % 50) as i32).collect::<Vec<_>>();
    for (per, target) in [1, 2, 3, 5, 8].into_iter().flat_map(|per| ["cpu", "cpu:x86-64-v3"].map(|target| (per, target))) {
        let compiled = Compiled::stored(&grouped(per), Chunks::Auto, (target, Dtype::F32), made_up);
        for count in [15, 16, 17, 80] {
            let (start, rest) = (ids(count, 0), ids(count + 3, 5));
            let mut one = compiled.session(1, 2);
            let mut two = compiled.session(2, 2);
            let whole = feed(&mut one, 0, &start);
            agree(&format!("{per} heads, {count} rows, {target}"), &whole, &compiled.evaluated(&start), 1e-4).expect("equal");
            assert_eq!(whole, feed(&mut two, 0, &start), "{per} heads, {count} rows: threads change bits");
            // Behind what the cache has already, beside another sequence.
            let all = [start, rest.clone()].concat();
            let wanted = compiled.evaluated(&all);
            let behind = together(&mut one, &[(0, &rest[..]), (1, &all[..])]);
            agree("a second call", &behind[0], &wanted[wanted.len() - behind[0].len()..], 1e-4).expect("equal");
            agree("another sequence", &behind[1], &wanted, 1e-4).expect("equal");
        }
    }
}
