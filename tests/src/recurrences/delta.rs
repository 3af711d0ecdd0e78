//! Matrix memories that write the error of their own prediction.

use super::Case;

const QKV: &str = "query=q[heads,k] key=k[heads,k] value=v[heads,v]";

/// Queries and keys of unit length, the queries scaled.
const UNIT: &str = "
  q = l2norm[k](query, 1e-6) * k ^ -0.5
  kk = l2norm[k](key, 1e-6)";

#[test]
fn deltanet() {
    let text = format!(
        "{UNIT}
  recur S: [heads, k, v] over t {{
    S = S + beta * kk * (value - sum[k] kk * S)
    o = sum[k] q * S
  }}"
    );
    let columns = format!("{QKV} beta[heads]");
    let (outputs, states) = ("o[heads,v]", "S[heads,k,v]");
    Case { golden: "deltanet", columns: &columns, text: &text, outputs, states, ..Case::default() }.check();
}

#[test]
fn gated_deltanet() {
    let text = format!(
        "{UNIT}
  recur S: [heads, k, v] over t {{
    S = exp(g) * S
    S = S + kk * beta * (value - sum[k] kk * S)
    o = sum[k] q * S
  }}"
    );
    let columns = format!("{QKV} beta[heads] g[heads]");
    let (outputs, states) = ("o[heads,v]", "S[heads,k,v]");
    Case { golden: "gated_deltanet", columns: &columns, text: &text, outputs, states, ..Case::default() }.check();
}

#[test]
fn gated_deltanet_with_shared_keys() {
    let text = format!(
        "{UNIT}
  q0 = q[heads: 0]
  k0 = kk[heads: 0]
  recur S: [heads, k, v] over t {{
    S = exp(g) * S
    S = S + k0 * beta * (value - sum[k] k0 * S)
    o = sum[k] q0 * S
  }}"
    );
    let columns = format!("{QKV} beta[heads] g[heads]");
    Case { golden: "gated_deltanet", columns: &columns, text: &text, outputs: "o=o_grouped[heads,v]", ..Case::default() }.check();
}

#[test]
fn gated_delta_product() {
    let text = "
  kk = l2norm[k](key, 1e-6)
  recur S: [heads, k, v] over t {
    S = exp(g) * S
    repeat j in 0..n {
      S = S + beta[n: j] * kk[n: j] * (value[n: j] - sum[k] kk[n: j] * S)
    }
    o = sum[k] query * k ^ -0.5 * S
  }";
    let columns = "query=q[heads,k] key=k[n:2,heads,k] value=v[n,heads,v:16] beta[n,heads] g[heads]";
    Case { golden: "gated_delta_product", columns, text, outputs: "o[heads,v]", states: "S[heads,k,v]", ..Case::default() }
        .check();
}

#[test]
fn kda() {
    let text = format!(
        "{UNIT}
  recur S: [heads, k, v] over t {{
    S = exp(g) * S
    S = S + beta * kk * (value - sum[k] kk * S)
    o = sum[k] q * S
  }}"
    );
    let columns = format!("{QKV} beta[heads] g[heads,k]");
    let (outputs, states) = ("o[heads,v]", "S[heads,k,v]");
    Case { golden: "kda", columns: &columns, text: &text, outputs, states, ..Case::default() }.check();
}
