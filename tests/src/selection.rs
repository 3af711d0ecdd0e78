//! Keys chosen by a score, against golden results of the papers' operators: in double precision, as native code, whole, token by token and cut
//! at odd places.

use crate::recurrences::case::Case;

const QKV: &str = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";

/// The mean of each block's keys stands at the block's last position (MoBA).
#[test]
fn blocks_by_their_mean_keys() {
    let text = "dim slot = 2
  recur sum_k: [heads, c] over t {
    sum_k = select(position[t] % 8 == 0, 0.0, sum_k) + kk
    mean_k = sum_k / 8.0
  }
  blocks = choose[c as slot](q, mean_k, slot) { keep: earlier(8) && ends(8) }
  o = attend[c](q, kk, vv) { keep: causal() && (own(8) || chosen[slot](blocks, 8))   score: s * c ^ -0.5 }";
    Case { golden: "moba", columns: QKV, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// Tokens by a small indexer with rectified heads, shared by all heads of the attention (DeepSeek V3.2).
#[test]
fn tokens_by_a_rectified_indexer() {
    let text = "dim slot = 9
  ids = choose[a as slot](qi, ki, slot) { score: sum[j] w[t: query] * max(s, 0.0) }
  o = attend[c](q, kk, vv) { keep: causal() && chosen[slot](ids, 1)   score: s * c ^ -0.5 }
  found = float(ids)";
    let columns = "q[heads, c] kk=k[heads, c] vv=v[heads, e] qi[j, a] ki[a] w[j]";
    Case { golden: "indexer_topk", columns, text, outputs: "o[heads, e]", ..Case::default() }.check();
    let tolerance = Some(0.0);
    Case { golden: "indexer_topk", columns, text, outputs: "found=index[slot]", tolerance, ..Case::default() }.check();
}

/// Blocks compressed by a matrix for each place in them, the best of them by the softmax's weights of all heads of a group, and a window (NSA).
#[test]
fn compressed_and_selected_blocks_and_a_window() {
    let text = "dim slot = 1
  place = position[t] % 8
  part_k = sum[c] (kk + pos_k[i: place]) * Wck[i: place]
  part_v = sum[e] (vv + pos_v[i: place]) * Wcv[i: place]
  recur k_sum: [groups, c_], v_sum: [groups, e_] over t {
    k_sum = select(position[t] % 8 == 0, 0.0, k_sum) + part_k
    v_sum = select(position[t] % 8 == 0, 0.0, v_sum) + part_v
    key_ = k_sum
    value = v_sum
  }
  kc = key_[c_ as c]
  o_cmp = attend[c](q, kc, value[e_ as e]) { keep: causal() && ends(8)   score: s * c ^ -0.5 }
  total = attend[c](q, kc) { keep: causal() && ends(8)   score: s * c ^ -0.5 }
  blocks = choose[c as slot](q, kc, slot) {
    keep: earlier(8) && ends(8) && key >= 8
    score: sum[per] exp(s * c ^ -0.5 - total[t: query])
  }
  o_sel = attend[c](q, kk, vv) { keep: causal() && (own(8) || first(8) || chosen[slot](blocks, 8))   score: s * c ^ -0.5 }
  o_win = attend[c](q, kk, vv) { keep: causal() && within(12)   score: s * c ^ -0.5 }
  o = gates[three: 0] * o_cmp + gates[three: 1] * o_sel + gates[three: 2] * o_win";
    Case {
        golden: "nsa",
        columns: "q[groups:2, per:2, c:16] kk=k[groups, c] vv=v[groups, e:16] gates[groups, per, three:3]",
        params: "Wck[c_:16, i:8, c] Wcv[e_:16, i, e] pos_k[i, c] pos_v[i, e]",
        text,
        outputs: "o_cmp[groups, per, e] o_sel[groups, per, e] o_win[groups, per, e] o[groups, per, e]",
        ..Case::default()
    }
    .check();
}
