//! State spaces: selective ones, and those whose coefficients are the same at every token.

use super::Case;

#[test]
fn mamba1_selective_scan() {
    let text = "
  dt = softplus(dt_raw + dt_bias)
  recur S: [c, n] over t {
    S = exp(-exp(a_log) * dt) * S + dt * b * u
    y = ((sum[n] o * S) + skip * u) * silu(z)
  }";
    let columns = "u[c] dt_raw[c] z[c] b=Bm[n] o=Cm[n]";
    let params = "a_log=A_log[c,n] skip=D[c] dt_bias[c]";
    let (outputs, states, starts) = ("y[c]", "S[c,n]", "S=S0[c,n]");
    Case { golden: "mamba1_selective_scan", columns, params, text, outputs, states, starts, ..Case::default() }.check();
}

#[test]
fn mamba2_ssd() {
    let text = "
  dt = softplus(dt_raw + dt_bias)
  recur S: [groups, per, p, n] over t {
    S = exp(-exp(a_log) * dt) * S + dt * x * b
    o = sum[n] c * S
  }
  y = o + skip * x";
    let columns = "x[groups:2,per:3,p:10] dt_raw[groups,per] b=Bm[groups,n:14] c=Cm[groups,n]";
    let params = "a_log=A_log[groups,per] skip=D[groups,per] dt_bias[groups,per]";
    let (golden, outputs) = ("mamba2_ssd", "y[groups,per,p] o=o_quadratic[groups,per,p]");
    Case { golden, columns, params, text, outputs, states: "S[groups,per,p,n]", ..Case::default() }.check();
    let (outputs, states, starts) = ("y=y_from_S0[groups,per,p]", "S=S_from_S0[groups,per,p,n]", "S=S0[groups,per,p,n]");
    Case { golden, columns, params, text, outputs, states, starts, ..Case::default() }.check();
}

#[test]
fn s4d() {
    // Real and imaginary parts; B is one, so what enters is (exp(dt A) - 1) / A.
    let text = "
  dt = exp(log_dt)
  re = -exp(a_log)
  ar = exp(dt * re) * cos(dt * im)
  ai = exp(dt * re) * sin(dt * im)
  size = re * re + im * im
  br = ((ar - 1.0) * re + ai * im) / size
  bi = (ai * re - (ar - 1.0) * im) / size
  recur x: [c, n], w: [c, n] over t {
    next = ar * x - ai * w + br * u
    w = ar * w + ai * x + bi * u
    x = next
    y = 2.0 * (sum[n] (cr * x - ci * w)) + skip * u
  }";
    let params = "skip=D[c] a_log=A_log_re[c,n] im=A_im[c,n] cr=C_re[c,n] ci=C_im[c,n] log_dt[c]";
    Case { golden: "s4d", columns: "u[c]", params, text, outputs: "y[c]", ..Case::default() }.check();
}

#[test]
fn s4_dplr() {
    // (I - dt/2 A)^-1 is again a diagonal `m` less a product of two vectors, and the transition is twice it less one.
    let text = "
  h = 0.5 * exp(log_dt)
  size = (1.0 - h * lr) ^ 2.0 + (h * li) ^ 2.0
  mr = (1.0 - h * lr) / size
  mi = h * li / size
  qr = mr * pr - mi * pi_
  qi = mr * pi_ + mi * pr
  sr = mr * pr + mi * pi_
  si = mi * pr - mr * pi_
  gr = 1.0 / h + sum[n] (pr * qr + pi_ * qi)
  gi = sum[n] (pr * qi - pi_ * qr)
  g = gr * gr + gi * gi
  er = (qr * gr + qi * gi) / g
  ei = (qi * gr - qr * gi) / g
  vr = sum[n] (sr * br - si * bi)
  vi = sum[n] (sr * bi + si * br)
  ur = 2.0 * h * (mr * br - mi * bi - er * vr + ei * vi)
  ui = 2.0 * h * (mr * bi + mi * br - er * vi - ei * vr)
  recur x: [c, n], w: [c, n] over t {
    a = 2.0 * sum[n] (sr * x - si * w)
    b = 2.0 * sum[n] (sr * w + si * x)
    next = (2.0 * mr - 1.0) * x - 2.0 * mi * w - er * a + ei * b + ur * u
    w = (2.0 * mr - 1.0) * w + 2.0 * mi * x - er * b - ei * a + ui * u
    x = next
    y = 2.0 * sum[n] (cr * x - ci * w)
  }";
    let params = "lr=Lambda_re[c,n] li=Lambda_im[c,n] log_dt[c] pr=P_re[c,n] pi_=P_im[c,n] br=B_re[c,n] bi=B_im[c,n] cr=C_re[c,n] ci=C_im[c,n]";
    Case { golden: "s4_dplr", columns: "u[c]", params, text, outputs: "y[c]", ..Case::default() }.check();
}

/// `A` and `B` of HiPPO-LegS.
const LEGS: &str = "
  dim m = n
  dim l = n
  one = select(index[n] == index[m], 1.0, 0.0)
  low = select(index[n] > index[m], -sqrt(2.0 * index[n] + 1.0) * sqrt(2.0 * index[m] + 1.0), 0.0)
  diagonal = -(index[n] + 1.0)
  b = sqrt(2.0 * index[n] + 1.0)";

const STEP: &str = "
  recur x: [c, n] over t {
    x = (sum[m] ad * x[n as m]) + bd * u
    y = (sum[n] readout * x) + skip * u
  }";

#[test]
fn hippo_with_a_held_input() {
    // exp(X) - 1 and (exp(X) - 1) / X of the 256th part of X = step A by their series, then doubled eight times.
    let text = format!(
        "{LEGS}
  part = step * (low + diagonal * one) / 256.0
  ratio = one
  repeat i in 0..8 as term {{
    ratio = one + (sum[l] part[m as l] * ratio[n as l]) / (9.0 - i)
  }}
  grown = sum[l] part[m as l] * ratio[n as l]
  repeat i in 0..8 as doubling {{
    ratio = ratio + 0.5 * sum[l] grown[m as l] * ratio[n as l]
    grown = 2.0 * grown + sum[l] grown[m as l] * grown[n as l]
  }}
  ad = one + grown
  bd = step * sum[m] ratio * b[n as m]
  {STEP}"
    );
    let (columns, params, outputs) = ("u[c]", "readout=C[c,n] skip=D[c] step[c]", "y=y_zoh[c]");
    Case { golden: "s4_hippo", columns, params, text: &text, outputs, ..Case::default() }.check();
}

#[test]
fn hippo_by_the_trapezoid_rule() {
    // I - step/2 A = r (I - N) with a strictly lower N: its inverse is (I + N) (I + N^2) (I + N^4) (I + N^8) / r.
    let text = format!(
        "{LEGS}
  r = 1.0 - 0.5 * step * diagonal
  power = 0.5 * step * low / r
  inverse = one + power
  repeat i in 0..3 as doubling {{
    power = sum[l] power[m as l] * power[n as l]
    inverse = inverse + sum[l] inverse[m as l] * power[n as l]
  }}
  inverse = inverse / r[n as m]
  ad = 2.0 * inverse - one
  bd = step * sum[m] inverse * b[n as m]
  {STEP}"
    );
    let (columns, params, outputs) = ("u[c]", "readout=C[c,n] skip=D[c] step[c]", "y=y_bilinear[c]");
    Case { golden: "s4_hippo", columns, params, text: &text, outputs, ..Case::default() }.check();
}
