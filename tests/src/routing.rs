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

/// What an expert each gives to a token, and what is left of the token itself.
type Weights<'a> = dyn Fn(&[f64]) -> (Vec<f64>, f64) + 'a;

/// Experts that are open by a threshold of their own, and experts beside some that give nothing or the token itself; by loops.
#[test]
fn open_experts_and_experts_that_compute_nothing() {
    use crate::properties::compiled::{Compiled, agree, feed};
    let spec = |mix: &str| {
        format!(
            "model m(d: dim = 8, vocab: dim = 20)(tokens: [t]) -> [t, d] {{\n  param embed: [vocab, d]\n  mix = {mix}\n  generate autoregressive\n  \
             return mix(embed[vocab: tokens])\n}}\n"
        )
    };
    let tokens: Vec<i32> = (0..20).collect();
    let dot = |w: &[f64], row: usize, x: &[f64]| x.iter().zip(&w[row * x.len()..]).map(|(x, w)| w * x).sum::<f64>();
    let expert = |compiled: &Compiled, e: usize, x: &[f64]| -> Vec<f64> {
        let [wg, wu, wd] = ["wg", "wu", "wd"].map(|name| compiled.numbers(&format!("mix.expert.{name}")));
        let g: Vec<f64> = (0..6).map(|h| dot(&wg, e * 6 + h, x)).collect();
        let inner: Vec<f64> = (0..6).map(|h| g[h] / (1.0 + (-g[h]).exp()) * dot(&wu, e * 6 + h, x)).collect();
        (0..8).map(|d| dot(&wd, e * 8 + d, &inner)).collect()
    };
    let check = |compiled: &Compiled, weights: &Weights<'_>| -> Vec<usize> {
        let embed = compiled.numbers("embed");
        let (mut wanted, mut counts) = (Vec::new(), Vec::new());
        for token in &tokens {
            let x = &embed[*token as usize * 8..][..8];
            let (w, own) = weights(x);
            counts.push(w.iter().filter(|w| **w > 0.0).count());
            let of_experts: Vec<Vec<f64>> = (0..w.len()).map(|e| expert(compiled, e, x)).collect();
            wanted.extend((0..8).map(|d| own * x[d] + w.iter().zip(&of_experts).map(|(w, y)| w * y[d]).sum::<f64>()));
        }
        for cut in [20, 1] {
            let mut session = compiled.session(1, 1);
            let found: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
            agree("experts", &found, &wanted, 1e-5).unwrap();
        }
        counts.sort_unstable();
        counts.dedup();
        counts
    };
    let compiled = Compiled::new(&spec("threshold_moe(experts: 4, expert: swiglu(hidden: 6))"));
    let (router, g) = (compiled.numbers("mix.wr"), compiled.numbers("mix.g"));
    let counts = check(&compiled, &|x| {
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let near: Vec<f64> = (0..4).map(|e| dot(&router, e, x) / norm(x) / norm(&router[e * 8..][..8])).collect();
        let mut open: Vec<bool> = (0..4).map(|e| near[e] > g[e]).collect();
        if !open.contains(&true) {
            let best = (0..4).max_by(|a, b| near[*a].total_cmp(&near[*b])).unwrap();
            open[best] = true;
        }
        let many = open.iter().filter(|open| **open).count() as f64;
        (open.iter().map(|open| f64::from(u8::from(*open)) / many).collect(), 0.0)
    });
    assert!(counts.len() > 1, "{counts:?}");
    let compiled = Compiled::new(&spec("zero_expert_moe(experts: 4, active: 3, zeros: 2, copies: 1, expert: swiglu(hidden: 6))"));
    let router = compiled.numbers("mix.wr");
    let counts = check(&compiled, &|x| {
        let odds: Vec<f64> = (0..7).map(|e| dot(&router, e, x).exp()).collect();
        let total: f64 = odds.iter().sum();
        let mut best: Vec<usize> = (0..7).collect();
        best.sort_by(|a, b| odds[*b].total_cmp(&odds[*a]));
        let chosen = |e: usize| if best[..3].contains(&e) { odds[e] / total } else { 0.0 };
        ((0..4).map(chosen).collect(), chosen(6))
    });
    assert!(counts.len() > 1, "{counts:?}");
}

/// Experts that are told to choose among the tokens of a prompt: behind it they take what is as probable as the last that they took.
#[test]
fn experts_choose_tokens_of_a_prompt() {
    use crate::properties::compiled::{Compiled, agree, feed};
    let compiled = Compiled::new(
        "model m(d: dim = 8, vocab: dim = 40)(tokens: [t]) -> [t, d] {
  param embed: [vocab, d]
  mix = choosing_experts(experts: 3, room: 5, expert: swiglu(hidden: 6), of_prompt: true)
  generate autoregressive
  return mix(embed[vocab: tokens])
}
",
    );
    let of = |name: &str| compiled.numbers(name);
    let (embed, router) = (of("embed"), of("mix.wr"));
    let [wg, wu, wd] = ["wg", "wu", "wd"].map(|name| of(&format!("mix.expert.{name}")));
    let dot = |w: &[f64], row: usize, x: &[f64]| x.iter().zip(&w[row * x.len()..]).map(|(x, w)| w * x).sum::<f64>();
    let (prompt, all): (usize, Vec<i32>) = (23, (0..40).map(|at| at * 7 % 40).collect());
    let row = |token: i32| &embed[token as usize * 8..][..8];
    let odds = |token: i32| -> Vec<f64> {
        let scores: Vec<f64> = (0..3).map(|e| dot(&router, e, row(token)).exp()).collect();
        scores.iter().map(|score| score / scores.iter().sum::<f64>()).collect()
    };
    let bound = |e: usize| {
        let mut given: Vec<f64> = all[..prompt].iter().map(|token| odds(*token)[e]).collect();
        given.sort_by(|a, b| b.total_cmp(a));
        given[4]
    };
    let mut wanted = Vec::new();
    for token in &all {
        let (x, p) = (row(*token), odds(*token));
        let mut y = vec![0.0; 8];
        for e in (0..3).filter(|e| p[*e] >= bound(*e)) {
            let g: Vec<f64> = (0..6).map(|h| dot(&wg, e * 6 + h, x)).collect();
            let inner: Vec<f64> = (0..6).map(|h| g[h] / (1.0 + (-g[h]).exp()) * dot(&wu, e * 6 + h, x)).collect();
            (0..8).for_each(|d| y[d] += p[e] * dot(&wd, e * 8 + d, &inner));
        }
        wanted.extend(y);
    }
    for cut in [1, 17] {
        let mut session = compiled.session(2, 1);
        let mut found = feed(&mut session, 0, &all[..prompt]);
        all[prompt..].chunks(cut).for_each(|part| found.extend(feed(&mut session, 0, part)));
        agree("experts of a prompt", &found, &wanted, 1e-5).unwrap();
    }
}
