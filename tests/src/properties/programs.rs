//! Random programs: residual stacks of small random blocks that between them use every operation of the language.

use proptest::prelude::*;

/// An embedding, blocks, and a head.
#[derive(Clone)]
pub struct Program {
    width: usize,
    blocks: Vec<String>,
}

/// One to three blocks of any form.
pub fn program() -> impl Strategy<Value = Program> {
    (prop_oneof![Just(12usize), Just(18), Just(30)], prop::collection::vec(form(), 1..4))
        .prop_map(|(width, blocks)| Program { width, blocks })
}

/// Failures show the text.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl Program {
    /// The spec.
    pub fn text(&self) -> String {
        let blocks =
            self.blocks.iter().enumerate().map(|(n, body)| format!("block b{n}(d: dim)(x: [t, d]) -> [t, d] {{\n{body}\n}}\n"));
        let calls = (0..self.blocks.len()).map(|n| format!("  x = x + b{n}(rms[d](x, 1e-2))\n"));
        format!(
            "{}model test(vocab: dim = 11, d: dim = {})(tokens: [t]) -> [t, vocab] {{\n  param embed, head: [vocab, d]\n  x = embed[vocab: \
             tokens]\n{}  generate autoregressive\n  return sum[d] x * head\n}}\n",
            blocks.collect::<String>(),
            self.width,
            calls.collect::<String>(),
        )
    }
}

/// The body of a block of any form.
fn form() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => pointwise().prop_map(|e| format!("  param p, q: [d]\n  y = shift(x, 1)\n  return {e}")),
        3 => (0usize..8, 2usize..6).prop_map(|(kind, n)| reduced(kind, n)),
        3 => (0usize..6, prop_oneof![Just(2usize), Just(3)]).prop_map(|(kind, h)| rearranged(kind, h)),
        3 => (0usize..6, 2usize..6, 2usize..6).prop_map(|(kind, h, k)| contracted(kind, h, k)),
        2 => (1usize..6, any::<bool>()).prop_map(|(n, conv)| moved(n, conv)),
        6 => (0usize..10, 1usize..4, 2usize..6, 2usize..6).prop_map(|(kind, h, k, v)| recurrent(kind, h, k, v)),
        3 => (0usize..5, 0usize..4, any::<bool>(), 1usize..3, 1usize..4).prop_map(attending),
        2 => (2usize..6, 1usize..3, any::<bool>()).prop_map(|(experts, active, twice)| routed(experts, active, twice)),
    ]
}

/// Expressions over `x`, `y` (both `[t, d]`), `p` and `q` (both `[d]`) whose values stay moderate.
fn pointwise() -> impl Strategy<Value = String> {
    let leaves =
        prop::sample::select(vec!["x", "x", "y", "p", "q", "0.5", "-1.25", "index[d]", "float(position[t]) / 9.0", "pi"]);
    leaves
        .prop_map(str::to_owned)
        .prop_recursive(4, 16, 3, |inner| {
            let unary = vec![
                "tanh(@)",
                "sigmoid(@)",
                "softplus(@)",
                "erf(@)",
                "sin(@)",
                "cos(@)",
                "abs(@)",
                "exp(min(@, 1.0))",
                "log(abs(@) + 1.0)",
                "sqrt(abs(@) + 0.1)",
                "rsqrt(abs(@) + 0.5)",
                "(-@)",
                "silu(@)",
                "gelu(@)",
                "elu1(@)",
                "tanh(@) ^ 2.0",
                "(@ * @)",
            ];
            let binary = vec![
                "(@ + #)",
                "(@ - #)",
                "tanh(@) * #",
                "max(@, #)",
                "min(@, #)",
                "@ / (1.0 + abs(#))",
                "select(index[d] < 3, @, #)",
                "select(position[t] % 2 == 0 | index[d] == 1, @, #)",
                "select(!(@ > #), #, @)",
                "(0.5 + sigmoid(@)) ^ tanh(#)",
            ];
            prop_oneof![
                (prop::sample::select(unary), inner.clone()).prop_map(|(form, a)| form.replace('@', &a)),
                (prop::sample::select(binary), inner.clone(), inner)
                    .prop_map(|(form, a, b)| form.replace('@', "\u{1}").replace('#', &b).replace('\u{1}', &a)),
            ]
        })
        .prop_map(|e| format!("tanh({e} + 0.1 * x)"))
}

/// Reductions over one or two axes, of values with up to two axes.
fn reduced(kind: usize, n: usize) -> String {
    let body = match kind {
        0 => "max[n] y - min[n] y + mean[n] y * y",
        1 => "x * sigmoid(sum[n, d] y)",
        2 => "x * tanh(max[d, n] y - min[n, d] y)",
        3 => "sum[n] softmax[n](y) * y",
        4 => "sum[n] rms[d](y, 1e-3) * w",
        5 => "sum[n] (y - mean[n, d] y) * rsqrt(mean[d] y * y + 0.01)",
        6 => "x * log(1.0 + sum[d] exp(x - max[d] x)) + mean[n] tanh(y)",
        _ => "softmax[d](mean[n] y) * (sum[d] x) + max[n] (sum[d] y) * p",
    };
    format!("  dim n = {n}\n  param w: [n, d]   param p: [d]\n  y = x * w\n  return {body}")
}

/// Splits, merges, renames, slices and concatenations.
fn rearranged(kind: usize, h: usize) -> String {
    let body = match kind {
        0 => "y = x[d as (h, k)]\n  return (softmax[k](y) * y)[(h, k) as d]",
        1 => "y = x[d as (h, k)]\n  return (y * rsqrt(mean[h] y * y + 0.01))[(k, h) as d]",
        2 => "return concat[r, h as d](tanh(x[d: h..d as r]), 0.5 * x[d: 0..h as h])",
        3 => "return x * sigmoid(x[d: 2]) + x[d: h]",
        4 => "return concat[h, h, rest as d](x[d: h..2 * h as h], -x[d: 0..h as h], x[d: 2 * h..d as rest])",
        _ => "y = x[d as (k, h)]\n  a = y[h: 0]\n  b = y[h: 1]\n  return (select(index[h] == 0, a - b, a * b) + y)[(k, h) as d]",
    };
    format!("  dim h = {h}\n  dim k = d / h\n  dim r = d - h\n  dim rest = d - 2 * h\n  {body}")
}

/// Products with parameters, over one or several axes, with batch axes and results that are used twice.
fn contracted(kind: usize, h: usize, k: usize) -> String {
    let body = match kind {
        0 => "param w: [h, d]   param u: [d, h]   param b: [h]\n  return sum[h] gelu(sum[d] x * w + b) * u",
        1 => "param w, u: [h, k, d]\n  y = sum[d] x * w\n  return sum[h, k] tanh(y) * u",
        2 => {
            "param w: [h, k, d]   param u: [h, k, m]   param o: [d, h, m]\n  y = sum[d] x * w\n  z = sum[k] silu(y) * u\n  return sum[h, m] z * o"
        }
        3 => "param w, u: [h, d]   param o: [d, h]\n  return sum[h] silu(sum[d] x * w) * (sum[d] x * u) * o",
        4 => "param w: [h, d]   param u: [d, k, h]\n  y = sum[d] x * w\n  return sum[h] (sum[k] u * sigmoid(y)) * y",
        _ => {
            "param w, u: [h, k, d]\n  y = sum[d] x * w\n  z = sum[d] x * u\n  s = sum[k] y * z\n  return (sum[h, k] softmax[h](s) * y * w) + x"
        }
    };
    format!("  dim h = {h}\n  dim k = {k}\n  dim m = 3\n  {body}")
}

/// Earlier rows.
fn moved(n: usize, conv: bool) -> String {
    if conv {
        format!(
            "  dim width = {n}\n  param w, v: [d, width]\n  return silu(convolve[width](x, w)) + tanh(convolve[width](x * x, v))"
        )
    } else {
        format!("  return x - shift(tanh(shift(x, {n})), 1)")
    }
}

/// Recurrences of every class.
fn recurrent(kind: usize, h: usize, k: usize, v: usize) -> String {
    let parts = format!(
        "  dim h = {h}\n  dim k = {k}\n  dim v = {v}\n  param wq, wk, wg: [h, k, d]   param wv: [h, v, d]   param wf, wi: [h, d]   param o: \
         [d, h, v]\n  q = sum[d] x * wq\n  kk = l2norm[k](sum[d] x * wk, 0.01)\n  g = sigmoid(sum[d] x * wg)\n  vv = sum[d] x * wv\n  f = \
         sigmoid(sum[d] x * wf)\n  i = sum[d] x * wi\n"
    );
    let matrix = |update: &str| format!("  recur S: [h, k, v] over t {{\n{update}    y = sum[k] q * S\n  }}\n");
    let body = match kind {
        0 => matrix("    S = f * S + kk * vv\n"),
        1 => matrix("    S = g * S + kk * vv\n"),
        2 => "  recur s: [h, v] over t {\n    y = tanh(s)\n    s = f * s + (1.0 - f) * vv\n  }\n".into(),
        3 => matrix("    S = S + kk * (f * (vv - sum[k] kk * S))\n"),
        4 => matrix("    S = f * S\n    S = S + kk * (sigmoid(i) * (vv - sum[k] kk * S))\n"),
        5 => {
            "  recur S: [h, k, v], z: [h, k] over t {\n    S = f * S + g * vv\n    z = f * z + g\n    y = (sum[k] g * S) / (sum[k] g * z + \
             0.1)\n  }\n"
            .into()
        }
        6 => "  dim m = v\n  param w: [h, v, m]\n  recur s: [h, v] over t {\n    s = tanh(vv + sum[m] s[v as m] * w)\n    y = s\n  }\n".into(),
        7 => {
            "  recur S: [h, k, v], z: [h, k], m: [h] = -inf over t {\n    n = max(log(f) + m, i)\n    S = exp(log(f) + m - n) * S + exp(i - n) \
             * kk * vv\n    z = exp(log(f) + m - n) * z + exp(i - n) * kk\n    m = n\n    y = (sum[k] q * S) / max(abs(sum[k] q * z), \
             exp(-m))\n  }\n"
            .into()
        }
        8 => "  recur a: [h, v], b: [h, v] over t {\n    a = f * a + vv\n    b = 0.5 * b + a\n    y = tanh(b - a)\n  }\n".into(),
        _ => "  recur s: [h, v] = 1.0 over t {\n    s = select(i > 0.0, max(s, vv), 0.9 * s)\n    y = s\n  }\n".into(),
    };
    format!("{parts}{body}  return sum[h, v] y * o")
}

/// Attention with any mask and score.
fn attending((keep, score, sink, groups, per): (usize, usize, bool, usize, usize)) -> String {
    let keep = [
        "causal()",
        "causal() & within(3)",
        "causal() & (within(2) | first(1))",
        "causal() & strided(2)",
        "key <= query & query - key < 7",
    ][keep];
    let score =
        ["s * k ^ -0.5", "softcap(s * 0.7, 2.0)", "s - slope * abs(float(query - key))", "tanh(s) + slope * sin(float(key))"]
            [score];
    let sink = if sink { "   sink: sink" } else { "" };
    format!(
        "  dim groups = {groups}\n  dim per = {per}\n  dim k = 3\n  dim v = 4\n  param wq: [groups, per, k, d]   param wk: [groups, k, d]   \
         param wv: [groups, v, d]   param o: [d, groups, per, v]   param slope, sink: [groups, per]\n  q = sum[d] x * wq\n  kk = sum[d] x * \
         wk\n  vv = sum[d] x * wv\n  a = attend[k](q, kk, vv) {{ keep: {keep}   score: {score}{sink} }}\n  return sum[groups, per, v] a * o"
    )
}

/// Experts that tokens go to.
fn routed(experts: usize, active: usize, own: bool) -> String {
    let expert = if own { "mlp(hidden: 5, act: \"silu\", bias: true)" } else { "swiglu(hidden: 4)" };
    format!(
        "  dim experts = {experts}\n  dim slot = {active}\n  param router: [experts, d]\n  expert = {expert}\n  p = softmax[experts](sum[d] x * \
         router)\n  ids = top[experts as slot](p, slot)\n  w = p[experts: ids]\n  return sum[slot] w * route[experts](ids) {{ expert(x) }}"
    )
}
