//! Exponential gates with a running maximum.

use super::Case;

#[test]
fn mlstm() {
    let text = "
  recur C: [heads, k, v], n: [heads, k], m: [heads] over t {
    next = max(m - softplus(-f), i)
    keep = exp(m - softplus(-f) - next)
    write = exp(i - next) * k ^ -0.5
    C = keep * C + write * key * value
    n = keep * n + write * key
    m = next
    h = (sum[k] query * C) / (max(abs(sum[k] query * n), exp(-m)) + 1e-6)
  }";
    let columns = "query=q[heads,k] key=k[heads,k] value=v[heads,v] i[heads] f[heads]";
    let states = "C[heads,k,v] n[heads,k] m[heads]";
    Case { golden: "mlstm", columns, text, outputs: "h[heads,v]", states, ..Case::default() }.check();
}

#[test]
fn slstm() {
    let text = "
  recur h: [heads, d], c: [heads, d], n: [heads, d], m: [heads, d] over t {
    before = h[d as l]
    z = tanh(in_z + (sum[l] before * R_z) + b_z)
    i = in_i + (sum[l] before * R_i) + b_i
    f = -softplus(-(in_f + (sum[l] before * R_f) + b_f))
    o = sigmoid(in_o + (sum[l] before * R_o) + b_o)
    next = max(f + m, i)
    c = exp(f + m - next) * c + exp(i - next) * z
    n = exp(f + m - next) * n + exp(i - next)
    m = next
    h = o * c / n
    y = h
  }";
    let columns = "in_z=z[heads,d] in_i=i[heads,d] in_f=f[heads,d] in_o=o[heads,d]";
    let params =
        "R_z[heads,d,l] R_i[heads,d,l] R_f[heads,d,l] R_o[heads,d,l] b_z[heads,d] b_i[heads,d] b_f[heads,d] b_o[heads,d]";
    let states = "c[heads,d] n[heads,d] m[heads,d]";
    Case { golden: "slstm", columns, params, text, outputs: "y=h[heads,d]", states, ..Case::default() }.check();
}
