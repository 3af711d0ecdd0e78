//! Matrix memories that add what they are told, with and without a decay.

use super::Case;

const QKV: &str = "query=q[heads,k] key=k[heads,k] value=v[heads,v]";

#[test]
fn linear_attention_elu() {
    let text = "
  recur S: [heads, k, v], z: [heads, k] over t {
    S = S + elu1(key) * value
    z = z + elu1(key)
    o = (sum[k] elu1(query) * S) / (sum[k] elu1(query) * z)
  }";
    let states = "S[heads,k,v] z[heads,k]";
    Case { golden: "linear_attention_elu", columns: QKV, text, outputs: "o[heads,v]", states, ..Case::default() }.check();
}

#[test]
fn retention() {
    let text = "
  recur S: [heads, k, v] over t {
    S = (1.0 - 2.0 ^ (-5.0 - index[heads])) * S + key * value
    o = sum[k] query * k ^ -0.5 * S
  }
  normed = rms[v](o, 1e-6)";
    let outputs = "o[heads,v] normed=o_groupnorm[heads,v]";
    Case { golden: "retention", columns: QKV, text, outputs, states: "S[heads,k,v]", ..Case::default() }.check();
    let (outputs, states) = ("o=o_from_S0[heads,v]", "S=S_from_S0[heads,k,v]");
    Case { golden: "retention", columns: QKV, text, outputs, states, starts: "S=S0[heads,k,v]", ..Case::default() }.check();
}

#[test]
fn gla() {
    let text = "
  recur S: [heads, k, v] over t {
    S = exp(g) * S + key * value
    o = sum[k] query * k ^ -0.5 * S
  }";
    let columns = format!("{QKV} g[heads,k]");
    let (outputs, states, starts) = ("o[heads,v]", "S[heads,k,v]", "S=S0[heads,k,v]");
    Case { golden: "gla", columns: &columns, text, outputs, states, starts, ..Case::default() }.check();
}
