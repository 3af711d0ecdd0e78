//! Mixtures of experts against golden results of each way to route.

use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;

/// What an expert of the golden files does: the block's parameters are those of the case.
const HEAD: &str = "block gated(d: dim, inner: dim)(x: [t, d]) -> [t, d] {
  param wg, wu: [inner, d]   param wd: [d, inner]
  return sum[inner] silu(sum[d] x * wg) * (sum[d] x * wu) * wd
}
";

fn weights(golden: &str, path: &str, experts: usize) -> Vec<(String, Vec<f64>)> {
    let golden = Golden::single(golden, 40);
    let first = |source: &str| golden.all(source)[..experts * 20 * 24].to_vec();
    [("wg", "in.Wgate"), ("wu", "in.Wup"), ("wd", "in.Wdown")]
        .map(|(name, source)| (format!("{path}.{name}"), first(source)))
        .to_vec()
}

/// `y` by a block of the library, whose router has the golden's weights.
fn mixed(golden: &str, block: &str, whole: bool) {
    let router = Golden::single(golden, 40);
    let mut all = weights(golden, "mix.expert", 6);
    all.extend([("mix.wr", "in.Wr"), ("mix.br", "in.br")].map(|(name, source)| (name.to_owned(), router.all(source).to_vec())));
    let text = format!("mix = {block}\n  y = mix(x)");
    Case {
        golden,
        columns: "x[d]",
        head: HEAD,
        text: &text,
        outputs: "y[d]",
        weights: all,
        whole,
        times: 40,
        single: true,
        ..Case::default()
    }
    .check();
}

#[test]
fn tokens_choose_experts() {
    let text = "dim slot = 2
  ids = top[experts as slot](p, slot)
  w = p[experts: ids]
  found = route[experts](ids) { expert(x) }
  y = sum[slot] w * found
  shared = sum[slot] w / (sum[slot] w) * found";
    let text = format!("expert = gated(inner: 20)\n  p = softmax[experts](sum[d] x * Wr + br)\n  {text}");
    Case {
        golden: "moe_token_choice",
        columns: "x[d]",
        params: "Wr[experts, d] br[experts]",
        head: HEAD,
        text: &text,
        outputs: "y[d] shared=y_normalised[d] p=P[experts]",
        weights: weights("moe_token_choice", "expert", 6),
        times: 40,
        single: true,
        ..Case::default()
    }
    .check();
}

/// The token's place in the queue of its expert is counted along the sequence.
#[test]
fn full_experts_drop_tokens() {
    mixed("moe_capacity", "capacity_moe(experts: 6, room: 5, bias: true, expert: gated(inner: 20))", false);
}

/// An expert takes a token if fewer than thirteen have a larger probability there: later ones too, so not in a model that looks back only.
#[test]
fn experts_choose_tokens() {
    mixed("moe_expert_choice", "choosing_experts(experts: 6, room: 13, bias: true, expert: gated(inner: 20))", true);
}

/// As many experts as it takes to reach a probability.
#[test]
fn as_many_experts_as_needed() {
    mixed("moe_top_p", "adaptive_moe(experts: 6, mass: 0.6, bias: true, expert: gated(inner: 20))", false);
}

/// Groups of experts by their best two, a bias on the choice only, an expert that every token visits.
#[test]
fn groups_by_sigmoids_with_a_bias() {
    let golden = Golden::single("moe_sigmoid_groups", 40);
    let mut all = weights("moe_sigmoid_groups", "mix.routed.expert", 6);
    let last = |source: &str| golden.all(source)[6 * 20 * 24..].to_vec();
    all.extend(
        [("wg", "in.Wgate"), ("wu", "in.Wup"), ("wd", "in.Wdown")].map(|(name, s)| (format!("mix.shared.{name}"), last(s))),
    );
    all.push(("mix.routed.wr".into(), golden.all("in.Wr").to_vec()));
    all.push(("mix.routed.br".into(), golden.all("in.bias").to_vec()));
    let text = "mix = shared_moe(
    routed: moe(experts: 6, active: 2, expert: gated(inner: 20), router: \"sigmoid\", correction: true, groups: 3, kept: 2, best: 2, scale: 1.8),
    shared: gated(inner: 20),
  )
  y = mix(x)";
    let golden = "moe_sigmoid_groups";
    Case { golden, columns: "x[d]", head: HEAD, text, outputs: "y[d]", weights: all, times: 40, single: true, ..Case::default() }
        .check();
}

/// Each position chooses among the experts of its own kind, by a router of that kind (`modality_moe`); by loops.
#[test]
fn experts_of_each_modality() {
    use crate::properties::compiled::{Compiled, agree, feed, made_up};
    use braid_runtime::session::{Inputs, Values};
    let compiled = Compiled::with(
        "model m(d: dim = 8, vocab: dim = 20)(tokens: [t], kind: int [t]) -> [t, d] {
  param embed: [vocab, d]
  mix = modality_moe(kinds: 3, each: 4, active: 2, expert: swiglu(hidden: 6))
  generate autoregressive
  return mix(embed[vocab: tokens], kind)
}
",
        Default::default(),
        made_up,
    );
    let tokens: Vec<i32> = (0..40).map(|at| (at * at + at / 3) % 20).collect();
    let kinds: Vec<i32> = (0..40).map(|at| (at / 3) % 3).collect();
    let of = |name: &str| compiled.numbers(name);
    let (embed, router) = (of("embed"), of("mix.wr"));
    let [wg, wu, wd] = ["wg", "wu", "wd"].map(|name| of(&format!("mix.expert.{name}")));
    let dot = |w: &[f64], row: usize, x: &[f64]| x.iter().zip(&w[row * x.len()..]).map(|(x, w)| w * x).sum::<f64>();
    let mut wanted = Vec::new();
    for (token, kind) in tokens.iter().zip(&kinds) {
        let (x, kind) = (&embed[*token as usize * 8..][..8], *kind as usize);
        let odds: Vec<f64> = (0..4).map(|member| dot(&router, kind * 4 + member, x).exp()).collect();
        let mut best: Vec<usize> = (0..4).collect();
        best.sort_by(|a, b| odds[*b].total_cmp(&odds[*a]));
        let total: f64 = best[..2].iter().map(|member| odds[*member]).sum();
        let mut y = vec![0.0; 8];
        for member in &best[..2] {
            let expert = kind * 4 + member;
            let g: Vec<f64> = (0..6).map(|h| dot(&wg, expert * 6 + h, x)).collect();
            let inner: Vec<f64> = (0..6).map(|h| g[h] / (1.0 + (-g[h]).exp()) * dot(&wu, expert * 6 + h, x)).collect();
            (0..8).for_each(|d| y[d] += odds[*member] / total * dot(&wd, expert * 8 + d, &inner));
        }
        wanted.extend(y);
    }
    let mut session = compiled.session(2, 1);
    let mut inputs = Inputs::default();
    inputs.set(session.manifest(), "kind", Values::Ints(&kinds)).unwrap();
    session.give(0, inputs).unwrap();
    for cut in [40, 1, 7] {
        session.reset(0).unwrap();
        let found: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("experts of a modality", &found, &wanted, 1e-5).unwrap();
    }
}
