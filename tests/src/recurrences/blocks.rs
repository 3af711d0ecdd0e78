//! The library's blocks against the same golden results. A block's input holds an operator's inputs side by side, and its projections
//! are matrices that pick one of them each.

use super::Case;

/// `silu` of this is one: a gate that is open.
const OPEN: f64 = 1.278_464_542_761_074;

/// What a block is given: for each projection its parameter, the value that it picks (an expression with its axes), and its width.
type Pieces<'a> = &'a [(&'a str, &'a str, usize)];

/// A matrix [n, d] whose row i picks column `from + i`.
fn pick(n: usize, d: usize, from: usize) -> Vec<f64> {
    (0..n * d).map(|at| if at % d == from + at / d { 1.0 } else { 0.0 }).collect()
}

/// A matrix [n, d] all of whose rows pick one column.
fn same(n: usize, d: usize, column: usize) -> Vec<f64> {
    (0..n * d).map(|at| if at % d == column { 1.0 } else { 0.0 }).collect()
}

/// A matrix [d, n] that puts entry i into row i, the rest zero.
fn place(d: usize, n: usize) -> Vec<f64> {
    (0..d * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect()
}

/// Taps of a convolution that is none, over `n` channels.
fn still(n: usize) -> Vec<f64> {
    [0.0, 0.0, 0.0, 1.0].repeat(n)
}

/// A call of a block between its projections.
struct Around {
    text: String,
    weights: Vec<(String, Vec<f64>)>,
    d: usize,
}

impl Around {
    /// `call` is a block with its arguments; `before` computes the pieces; the first `width` entries of the result are called `y` and
    /// have the axes `axes`. The last entry of the input is [`OPEN`].
    fn new(before: &str, call: &str, pieces: Pieces, (axes, width): (&str, usize)) -> Around {
        let d = pieces.iter().map(|piece| piece.2).sum::<usize>() + 1;
        let mut made = Around { text: before.to_owned(), weights: vec![], d };
        let (mut parts, mut operands, mut from) = (String::new(), String::new(), 0);
        for (n, (param, value, size)) in pieces.iter().enumerate() {
            made.text += &format!("\n  dim piece{n} = {size}");
            parts += &format!("piece{n}, ");
            let (value, own) = value.rsplit_once('[').expect("axes");
            operands += &format!("{value}[{} as piece{n}], ", merged(own.trim_end_matches(']')));
            made.weights.push((format!("mixer.{param}"), pick(*size, d, from)));
            from += size;
        }
        let result = if axes.contains(',') { format!("flat[row as ({axes})]") } else { format!("flat[row as {axes}]") };
        made.text += &format!(
            "\n  dim one = 1\n  dim d = {d}\n  dim row = {width}\n  all = concat[{parts}one as d]({operands}{OPEN} + 0.0 * index[one])\n  mixer = \
             {call}\n  flat = mixer(all)[d: 0..row as row]\n  y = {result}"
        );
        made.with("wo", place(d, width))
    }

    /// A parameter of the block.
    fn with(mut self, param: &str, data: Vec<f64>) -> Around {
        self.weights.push((format!("mixer.{param}"), data));
        self
    }

    /// A gate of that many entries that multiplies by one.
    fn open(self, param: &str, n: usize) -> Around {
        let column = self.d - 1;
        let data = same(n, self.d, column);
        self.with(param, data)
    }

    /// Statements after the call.
    fn then(mut self, text: &str) -> Around {
        self.text += &format!("\n  {text}");
        self
    }

    /// Judges `y`, or what the statements after the call compute.
    fn check(self, case: Case) {
        Case { text: &self.text, weights: self.weights, ..case }.check();
    }
}

fn merged(axes: &str) -> String {
    if axes.contains(',') { format!("({axes})") } else { axes.to_owned() }
}

const QKV: &str = "query=q[heads,k] key=k[heads,k] value=v[heads,v]";
const PICKED: [(&str, &str, usize); 3] =
    [("wq", "query[heads, k]", 48), ("wk", "key[heads, k]", 48), ("wv", "value[heads, v]", 48)];

/// What a block's normalised output is compared with, and by how much they may differ.
const NORMED: &str = "far = y - rms[v](wanted, 1e-6)";
fn normed() -> Case<'static> {
    Case { outputs: "far=0[heads,v]", tolerance: Some(2e-5), ..Case::default() }
}

#[test]
fn performer() {
    let random =
        Case { golden: "linear_attention_random_features", ..Case::default() }.ready().golden.all("in.features").to_vec();
    let around = Around::new("", "performer(heads: heads, k: k, v: v, m: 24, eps: 0.0)", &PICKED, ("heads, v", 48));
    let case = Case { golden: "linear_attention_random_features", columns: QKV, outputs: "y=o[heads,v]", ..Case::default() };
    around.with("random", random).check(case);
}

#[test]
fn based() {
    let around = Around::new("", "based(heads: heads, k: k, v: v, eps: 0.0)", &PICKED, ("heads, v", 48));
    around.check(Case { golden: "linear_attention_taylor", columns: QKV, outputs: "y=o[heads,v]", ..Case::default() });
}

#[test]
fn simple_gla() {
    // The decays, keys and values of a state space, which has no scale.
    let before = "
  dt = softplus(dt_raw + dt_bias)
  each = 1.0 + 0.0 * index[per]
  key = (b * each)[(groups, per) as heads]
  query = (4.0 * c * each)[(groups, per) as heads]
  value = (dt * x)[(groups, per) as heads]
  f = -log(exp(exp(a_log) * dt) - 1.0)[(groups, per) as heads]
  wanted = o[(groups, per) as heads]";
    let columns = "x[groups:2,per:3,v:10] dt_raw[groups,per] b=Bm[groups,k:14] c=Cm[groups,k] o=out.o_quadratic[groups,per,v]";
    let pieces: Pieces =
        &[("wq", "query[heads, k]", 84), ("wk", "key[heads, k]", 84), ("wv", "value[heads, v]", 60), ("wf", "f[heads]", 6)];
    let before = format!("  dim heads = 6{}", before.replace("4.0 * c", "k ^ 0.5 * c"));
    let around = Around::new(&before, "simple_gla(heads: heads, k: k, v: v, tau: 1.0, eps: 1e-6)", pieces, ("heads, v", 60));
    let around = around
        .open("wg", 60)
        .with("bf", vec![0.0; 6])
        .with("norm", vec![1.0; 10])
        .then(NORMED)
        .then("far = far[heads as (groups, per)]");
    let params = "a_log=A_log[groups,per] dt_bias[groups,per]";
    around.check(Case {
        golden: "mamba2_ssd",
        columns,
        params,
        outputs: "far=0[groups,per,v]",
        tolerance: Some(2e-4),
        ..Case::default()
    });
}

#[test]
fn lightning_attention() {
    let call = "lightning_attention(heads: heads, k: k, v: v, layer: 1, layers: 4, act: \"none\", eps: 1e-6)";
    let around = Around::new("", call, &PICKED, ("heads, v", 48)).with("wg", vec![0.0; 48 * 145]).with("norm", vec![2.0; 48]);
    let around = around.then("far = y - wanted * rsqrt(mean[heads, v] wanted * wanted + 1e-6)");
    around.check(Case { golden: "lightning_attention", columns: &format!("{QKV} wanted=out.o[heads,v]"), ..normed() });
}

#[test]
fn kda() {
    // The decay and the strength as the block's nonlinearities make them.
    let before = "  raw = log(exp(-g) - 1.0)\n  b = log(beta / (1.0 - beta))";
    let more = [("down", "raw[heads, k]", 48), ("wb", "b[heads]", 3)];
    let call = "kda(heads: heads, k: k, v: v, rank: 48, act: \"none\", eps: 1e-6)";
    let around = Around::new(before, call, &[&PICKED[..], &more].concat(), ("heads, v", 48));
    let d = around.d;
    let around = around.with("cq", still(48)).with("ck", still(48)).with("cv", still(48)).with("up", pick(48, 48, 0));
    let around = around.with("gate_down", vec![0.0; 48 * d]).with("gate_up", vec![0.0; 48 * 48]).with("gate_b", vec![0.0; 48]);
    let around = around.with("a_log", vec![0.0; 3]).with("dt_bias", vec![0.0; 48]).with("norm", vec![2.0; 16]).then(NORMED);
    let columns = format!("{QKV} g[heads,k] beta[heads] wanted=out.o[heads,v]");
    around.check(Case { golden: "kda", columns: &columns, ..normed() });
}

#[test]
fn delta_product() {
    let before = "  raw = log(exp(-g) - 1.0)\n  b = log(beta / (2.0 - beta))\n  wanted = o * rsqrt(sum[k] query * query)";
    let pieces: Pieces = &[
        ("wq", "query[heads, k]", 48),
        ("wk", "key[n, heads, k]", 96),
        ("wv", "value[n, heads, v]", 96),
        ("wa", "raw[heads]", 3),
        ("wb", "b[n, heads]", 6),
    ];
    let call = "delta_product(heads: heads, k: k, v: v, n: n, act: \"none\", eps: 1e-6)";
    let around = Around::new(before, call, pieces, ("heads, v", 48)).open("wz", 48);
    let around = around.with("cq", still(48)).with("ck", still(96)).with("cv", still(96)).with("norm", vec![1.0; 16]);
    let around = around.with("a_log", vec![0.0; 3]).with("dt_bias", vec![0.0; 3]).then(NORMED);
    let columns = "query=q[heads,k] key=k[n:2,heads,k] value=v[n,heads,v:16] beta[n,heads] g[heads] o=out.o[heads,v]";
    around.check(Case { golden: "gated_delta_product", columns, ..normed() });
}

#[test]
fn comba_without_a_decay_is_the_delta_rule() {
    let before = "  b = log(beta / (1.0 - beta))";
    let more = [("wb", "b[heads]", 3)];
    let pieces = [PICKED[0], PICKED[1], ("wv", "value[heads, v]", 60), more[0]];
    let around = Around::new(before, "comba(heads: heads, k: k, v: v, act: \"none\", eps: 1e-6)", &pieces, ("heads, v", 60))
        .open("wz", 60);
    let d = around.d;
    let around = around.with("cq", still(48)).with("ck", still(48)).with("cv", still(60)).with("norm", vec![1.0; 20]);
    let around = around.with("wa", vec![0.0; 3 * d]).with("a_log", vec![-100.0; 3]).with("dt_bias", vec![0.0; 3]);
    let around = around.with("close", vec![100.0; 3]).with("correct", vec![0.0; 3]).then(NORMED);
    let columns = format!("{QKV} beta[heads] wanted=out.o[heads,v]");
    around.check(Case { golden: "deltanet", columns: &columns, ..normed() });
}

#[test]
fn hgrn() {
    let pieces: Pieces = &[("wf", "a[n]", 48), ("wg", "b[n]", 48), ("wi", "input[n]", 48)];
    let around = Around::new("", "hgrn(n: n)", pieces, ("n", 48));
    let text = around.text.replace("mixer(all)", "mixer(all, lb)");
    let case = Case {
        golden: "hgrn",
        columns: "a[n] b[n] input=c[n]",
        params: "lb[n]",
        outputs: "y[n]",
        states: "h[n]",
        ..Case::default()
    };
    Around { text, ..around }.check(case);
}

#[test]
fn rg_lru() {
    let golden = Case { golden: "rg_lru", ..Case::default() }.ready().golden;
    let around = Around::new("", "rg_lru(n: n)", &[("wu", "x[n]", 40)], ("n", 40)).with("wg", vec![0.0; 40 * 41]);
    // GELU of one.
    let around = around.with("bg", vec![1.0; 40]).then("y = y / 0.841344746068543").with("bo", vec![0.0; 41]);
    let around = around.with("conv", still(40)).with("conv_b", vec![0.0; 40]).with("bu", vec![0.0; 40]);
    let names = [("wr", "in.Wr"), ("wi", "in.Wi"), ("br", "in.br"), ("bi", "in.bi"), ("lambda", "in.Lambda")];
    let around = names.iter().fold(around, |around, (param, name)| around.with(param, golden.all(name).to_vec()));
    around.check(Case { golden: "rg_lru", columns: "x[n]", outputs: "y[n]", ..Case::default() });
}

#[test]
fn gateloop() {
    let pieces: Pieces =
        &[("wq", "q[n]", 48), ("wk", "k[n]", 48), ("wv", "v[n]", 48), ("wa", "alpha[n]", 48), ("wp", "theta[n]", 48)];
    let around = Around::new("", "gateloop(n: n)", pieces, ("n", 48)).open("wg", 48);
    around.check(Case { golden: "gateloop", columns: "q[n] k[n] v[n] alpha[n] theta[n]", outputs: "y[n]", ..Case::default() });
}

#[test]
fn rebased() {
    // A softmax of the score's logarithm is the score over its sum.
    let around = Around::new("", "rebased(heads: heads, k: k, v: v, eps: 1e-9)", &PICKED, ("heads, v", 48));
    let scale = |shift: usize| (0..16).map(|at| 1.0 + 0.125 * ((at * 5 + shift) % 7) as f64).collect::<Vec<_>>();
    let around = around.with("nq.w", scale(0)).with("nq.b", scale(2)).with("nk.w", scale(3)).with("nk.b", scale(1)).then(
        "cq = query - mean[k] query
  ck = key - mean[k] key
  q = cq * rsqrt(mean[k] cq * cq + 1e-9) * (1.0 + 0.125 * (index[k] * 5 % 7)) + 1.0 + 0.125 * ((index[k] * 5 + 2) % 7)
  kk = ck * rsqrt(mean[k] ck * ck + 1e-9) * (1.0 + 0.125 * ((index[k] * 5 + 3) % 7)) + 1.0 + 0.125 * ((index[k] * 5 + 1) % 7)
  far = y - attend[k](q, kk, value) { score: 2.0 * log(abs(s)) }",
    );
    around.check(Case { golden: "linear_attention_taylor", columns: QKV, ..normed() });
}

#[test]
fn comba_with_a_fixed_decay_is_a_gated_delta_rule() {
    // If `p` is the decayed key, reading before the decay is reading after it.
    let before = "  b = log(beta / (1.0 - beta))\n  q = (l2norm[k](query, 1e-6) - 0.25 * l2norm[k](key, 1e-6)) * k ^ -0.5
  kk = l2norm[k](key, 1e-6)
  recur S: [heads, k, v] over t {
    S = S / (1.0 + 2.0 ^ 0.5)
    S = S + kk * beta * (value - sum[k] kk * S)
    wanted = sum[k] q * S
  }";
    let pieces = [PICKED[0], PICKED[1], ("wv", "value[heads, v]", 60), ("wb", "b[heads]", 3)];
    let around = Around::new(before, "comba(heads: heads, k: k, v: v, act: \"none\", eps: 1e-6)", &pieces, ("heads, v", 60))
        .open("wz", 60);
    let d = around.d;
    let decay = (1.0 + 2f64.sqrt()).recip();
    let around = around.with("cq", still(48)).with("ck", still(48)).with("cv", still(60)).with("norm", vec![1.0; 20]);
    // exp(-exp(a_log) softplus(dt_bias)) with a_log 0 is sigmoid(-dt_bias).
    let logit = (decay / (1.0 - decay)).ln();
    let around = around.with("wa", vec![0.0; 3 * d]).with("a_log", vec![0.0; 3]).with("dt_bias", vec![-logit; 3]);
    let around = around.with("close", vec![logit; 3]).with("correct", vec![0.25; 3]).then(NORMED);
    around.check(Case { golden: "deltanet", columns: &format!("{QKV} beta[heads]"), ..normed() });
}

#[test]
fn rwkv6() {
    let before = "  raw = 0.5 * log((1.0 + w / 16.0) / (1.0 - w / 16.0))
  e = wanted - mean[v] wanted
  o = e * rsqrt(mean[v] e * e + 1e-6)";
    let pieces: Pieces =
        &[("wr", "r[heads, k]", 48), ("wk", "key[heads, k]", 48), ("wv", "value[heads, v]", 48), ("dw", "raw[heads, k]", 48)];
    let call = "rwkv6(heads: heads, k: k, rank: 1, decay_rank: 48, eps: 1e-6)";
    let around = Around::new(before, call, pieces, ("heads, v", 48)).open("wg", 48).then("far = y - o");
    let (d, zeros) = (around.d, |n: usize| vec![0.0; n]);
    let around = around.with("mu0", zeros(d)).with("mu", zeros(5 * d)).with("down", zeros(5 * d)).with("up", zeros(5 * d));
    let around = around.with("uw", pick(48, 48, 0).into_iter().map(|x| 16.0 * x).collect()).with("bw", zeros(48));
    let bonus = Case { golden: "rwkv6_wkv", ..Case::default() }.ready().golden.all("in.u").to_vec();
    let around = around.with("u", bonus).with("norm_w", vec![1.0; 48]).with("norm_b", zeros(48));
    let columns = "r[heads,k] key=k[heads,k] value=v[heads,v] w=w_raw[heads,k] wanted=out.y[heads,v]";
    around.check(Case { golden: "rwkv6_wkv", columns, states: "S[heads,k,v]", tolerance: Some(1e-4), ..normed() });
}

#[test]
fn slstm() {
    let before = "  e = wanted - mean[k] wanted\n  o = e * rsqrt(mean[k] e * e + 1e-6)";
    let pieces: Pieces =
        &[("wz", "in_z[heads, k]", 48), ("wi", "in_i[heads, k]", 48), ("wf", "in_f[heads, k]", 48), ("wg", "in_o[heads, k]", 48)];
    let call = "slstm(heads: heads, k: k, conv: false, eps: 1e-6)";
    let mut around = Around::new(before, call, pieces, ("heads, k", 48)).with("norm", vec![1.0; 48]).then("far = y - o");
    let golden = Case { golden: "slstm", ..Case::default() }.ready().golden;
    for (param, gate) in [("z", "z"), ("i", "i"), ("f", "f"), ("g", "o")] {
        around = around.with(&format!("r{param}"), golden.all(&format!("in.R_{gate}")).to_vec());
        around = around.with(&format!("b{param}"), golden.all(&format!("in.b_{gate}")).to_vec());
    }
    let columns = "in_z=z[heads,k] in_i=i[heads,k] in_f=f[heads,k] in_o=o[heads,k] wanted=out.h[heads,k]";
    let states = "c[heads,k] n[heads,k] m[heads,k]";
    around.check(Case { golden: "slstm", columns, states, outputs: "far=0[heads,k]", ..normed() });
}

/// A state space of the channels of `in.u`, with the parameters that are named, before a `gated_map` of diagonal matrices.
fn channels(block: &str, golden: &str, out: &str, params: &[(&str, &str)], more: Vec<(&str, Vec<f64>)>) {
    let numbers = Case { golden, ..Case::default() }.ready().golden;
    let d = numbers.shape("in.u")[2];
    let named = params.iter().map(|(param, name)| (*param, numbers.all(name).to_vec()));
    let eye = pick(d, d, 0);
    let gate = vec![3f64.ln(); d];
    let map = [("mix.w", eye), ("mix.wg", vec![0.0; d * d]), ("mix.b", vec![0.25; d]), ("mix.bg", gate)];
    let weights = named.chain(more).chain(map).map(|(param, data)| (format!("mixer.{param}"), data)).collect();
    let (text, columns) =
        (format!("mixer = {block}\n  far = mixer(u) - 0.75 * (gelu(wanted) + 0.25)"), format!("u[d] wanted={out}[d]"));
    let tolerance = Some(numbers.tolerance(out));
    Case { golden, columns: &columns, text: &text, weights, outputs: "far=0[d]", tolerance, ..Case::default() }.check();
}

#[test]
fn s4d() {
    let names = [("skip", "in.D"), ("a_log", "in.A_log_re"), ("a_im", "in.A_im"), ("cr", "in.C_re"), ("ci", "in.C_im")];
    channels("s4d(n: 8)", "s4d", "out.y", &[&names[..], &[("log_dt", "in.log_dt")]].concat(), vec![]);
}

#[test]
fn s4() {
    let names = [
        ("lr", "in.Lambda_re"),
        ("li", "in.Lambda_im"),
        ("log_dt", "in.log_dt"),
        ("pr", "in.P_re"),
        ("pj", "in.P_im"),
        ("br", "in.B_re"),
        ("bi", "in.B_im"),
        ("cr", "in.C_re"),
        ("ci", "in.C_im"),
    ];
    channels("s4(n: 8)", "s4_dplr", "out.y", &names, vec![("skip", vec![0.0; 4])]);
}

#[test]
fn hippo() {
    let steps = Case { golden: "s4_hippo", ..Case::default() }.ready().golden.all("in.step").to_vec();
    let logs = steps.iter().map(|step| step.ln()).collect();
    channels("hippo(n: 12)", "s4_hippo", "out.y_zoh", &[("c", "in.C"), ("skip", "in.D")], vec![("log_dt", logs)]);
}
