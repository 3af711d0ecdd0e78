//! Memories of one number a channel, and matrix memories gated like them.

use super::Case;

#[test]
fn gated_linear_rnn() {
    let text = "
  g = sigmoid((sum[d] x * wg) + bg)
  i = silu((sum[d] x * wi) + bi)
  recur h: [n] over t {
    h = g * h + (1.0 - g) * i
    out_h = h
  }
  y = out_h * sigmoid((sum[d] x * wo) + bo)";
    let params = "wg=Wg[n,d] bg[n] wi=Wi[n,d] bi[n] wo=Wo[n,d] bo[n]";
    Case { golden: "gated_linear_rnn", columns: "x[d]", params, text, outputs: "y[n] out_h=h[n]", ..Case::default() }.check();
}

#[test]
fn hgrn() {
    let text = "
  f = lb + (1.0 - lb) * sigmoid(a)
  recur h: [c] over t {
    h = f * h + (1.0 - f) * silu(input)
    y = silu(b) * h
  }";
    let columns = "a[c] b[c] input=c[c]";
    Case { golden: "hgrn", columns, params: "lb[c]", text, outputs: "y[c]", states: "h[c]", ..Case::default() }.check();
}

#[test]
fn hgrn2() {
    let text = "
  recur S: [heads, k, v] over t {
    S = f * S + (1.0 - f) * i
    y = sum[k] o * S
  }";
    let columns = "f[heads,k] i[heads,v] o[heads,k]";
    Case { golden: "hgrn2", columns, text, outputs: "y[heads,v]", states: "S[heads,k,v]", ..Case::default() }.check();
}

#[test]
fn rg_lru() {
    let text = "
  r = sigmoid((sum[d] x * wr) + br)
  i = sigmoid((sum[d] x * wi) + bi)
  a = exp(-8.0 * r * softplus(lambda))
  recur h: [n] over t {
    h = a * h + sqrt(1.0 - a * a) * i * x[d as n]
    y = h
  }";
    let params = "wr=Wr[n,d] wi=Wi[n,d] br[n] bi[n] lambda=Lambda[n]";
    Case { golden: "rg_lru", columns: "x[d]", params, text, outputs: "y[n]", ..Case::default() }.check();
}

#[test]
fn gateloop() {
    // Real and imaginary part of one complex state.
    let text = "
  re = sigmoid(alpha) * cos(theta)
  im = sigmoid(alpha) * sin(theta)
  recur a: [c], b: [c] over t {
    next = re * a - im * b + k * v
    b = re * b + im * a
    a = next
    y = q * a
  }";
    let columns = "q[c] k[c] v[c] alpha[c] theta[c]";
    Case { golden: "gateloop", columns, text, outputs: "y[c]", ..Case::default() }.check();
}

#[test]
fn causal_conv1d() {
    let params = "w[c,j] bias[c]";
    let text = "y = silu(bias + convolve[j](x, w))";
    Case { golden: "causal_conv1d", columns: "x[c]", params, text, outputs: "y[c]", ..Case::default() }.check();
    // The same as a recurrence: a window that moves on by one place.
    let text = "
  dim l = j
  recur S: [c, j] over t {
    S = (sum[l] S[j as l] * select(index[l] == index[j] + 1, 1.0, 0.0)) + x * select(index[j] == j - 1, 1.0, 0.0)
    y = silu(bias + sum[j] w * S)
  }";
    let states = "S=state[c,j]";
    Case { golden: "causal_conv1d", columns: "x[c]", params, text, outputs: "y[c]", states, ..Case::default() }.check();
}
