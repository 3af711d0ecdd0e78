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

#[test]
fn linear_attention_random_features() {
    let text = "
  scale = k ^ -0.25
  fq = m ^ -0.5 * exp((sum[k] scale * query * features) - 0.5 * sum[k] scale * scale * query * query)
  fk = m ^ -0.5 * exp((sum[k] scale * key * features) - 0.5 * sum[k] scale * scale * key * key)
  recur S: [heads, m, v], z: [heads, m] over t {
    S = S + fk * value
    z = z + fk
    o = (sum[m] fq * S) / (sum[m] fq * z)
  }";
    let params = "features[m,k]";
    let golden = "linear_attention_random_features";
    Case { golden, columns: QKV, params, text, outputs: "o[heads,v]", ..Case::default() }.check();
}

#[test]
fn linear_attention_taylor() {
    // A memory for each power of the score.
    let text = "
  dim l = k
  q = query * k ^ -0.25
  kk = key * k ^ -0.25
  recur V: [heads, v], S: [heads, k, v], T: [heads, k, l, v], n: [], z: [heads, k], y: [heads, k, l] over t {
    V = V + value
    S = S + kk * value
    T = T + 0.5 * kk * kk[k as l] * value
    n = n + 1.0
    z = z + kk
    y = y + 0.5 * kk * kk[k as l]
    above = V + (sum[k] q * S) + sum[k, l] q * q[k as l] * T
    below = n + (sum[k] q * z) + sum[k, l] q * q[k as l] * y
    o = above / below
  }";
    Case { golden: "linear_attention_taylor", columns: QKV, text, outputs: "o[heads,v]", ..Case::default() }.check();
}

#[test]
fn lightning_attention() {
    let text = "
  slope = 2.0 ^ (-8.0 * (index[heads] + 1) / heads) * (1.0 - 1.0 / 3.0 + 1e-5)
  recur S: [heads, k, v] over t {
    S = exp(-slope) * S + key * value
    o = sum[k] query * S
  }";
    Case { golden: "lightning_attention", columns: QKV, text, outputs: "o[heads,v]", states: "S[heads,k,v]", ..Case::default() }
        .check();
}
