//! The recurrences of three generations of RWKV.

use super::Case;

#[test]
fn rwkv4_wkv() {
    // Sums of exponentials, kept relative to the largest exponent so far.
    let text = "
  w = -exp(decay)
  recur a: [c], b: [c], m: [c] = -inf over t {
    most = max(m, u + key)
    y = (exp(m - most) * a + exp(u + key - most) * value) / (exp(m - most) * b + exp(u + key - most))
    next = max(m + w, key)
    a = exp(m + w - next) * a + exp(key - next) * value
    b = exp(m + w - next) * b + exp(key - next)
    m = next
  }";
    let params = "decay[c] u[c]";
    Case { golden: "rwkv4_wkv", columns: "key=k[c] value=v[c]", params, text, outputs: "y[c]", ..Case::default() }.check();
}

#[test]
fn rwkv6_wkv() {
    let text = "
  recur S: [heads, k, v] over t {
    y = sum[k] r * (S + u * key * value)
    S = exp(-exp(w)) * S + key * value
  }";
    let columns = "r[heads,k] key=k[heads,k] value=v[heads,v] w=w_raw[heads,k]";
    let (outputs, states) = ("y[heads,v]", "S[heads,k,v]");
    Case { golden: "rwkv6_wkv", columns, params: "u[heads,k]", text, outputs, states, ..Case::default() }.check();
}

#[test]
fn rwkv7_wkv() {
    let text = "
  unit = kappa / max((sum[k] kappa * kappa) ^ 0.5, 1e-12)
  d = exp(-exp(-0.5) * sigmoid(w))
  recur S: [heads, v, k] over t {
    S = d * S - (sum[k] unit * S) * unit * sigmoid(eta) + value * key
    y = sum[k] r * S
  }";
    let columns = "r[heads,k] key=k[heads,k] value=v[heads,v] w[heads,k] kappa[heads,k] eta=eta_raw[heads,k]";
    let (outputs, states) = ("y[heads,v]", "S[heads,v,k]");
    Case { golden: "rwkv7_wkv", columns, text, outputs, states, ..Case::default() }.check();
}
