//! Losses as outputs beside the logits, against loops written from the papers' equations.

use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::recurrences::golden::Golden;
use braid_runtime::session::{Inputs, Session, Values};

const EXPERTS: usize = 6;

/// Two mixtures, by a softmax and by sigmoids, whose routers' losses are outputs of the library's block.
const ROUTED: &str = "model routed(d: dim = 8, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]
  x = embed[vocab: tokens]
  soft = moe(experts: 6, active: 2, expert: swiglu(hidden: 8))
  x = x + soft(x)
  each = moe(experts: 6, active: 3, expert: swiglu(hidden: 8), router: \"sigmoid\")
  output before = x
  x = x + each(x)
  generate autoregressive
  return sum[d] x * embed
}
";

/// The numbers of an output at each position.
fn output(session: &Session, all: &[f32], name: &str) -> Vec<f32> {
    let manifest = session.manifest();
    let at = manifest.outputs.iter().position(|output| output.name == name).unwrap_or_else(|| panic!("no output `{name}`"));
    let from = manifest.result() + manifest.outputs[..at].iter().map(|output| output.elements()).sum::<usize>();
    all.chunks(manifest.vocab).flat_map(|row| &row[from..from + manifest.outputs[at].elements()]).copied().collect()
}

/// What `balance_loss` and `router_z_loss` (by `mean_so_far`) give: `experts Σ_e f_e P_e` and the mean square of `log Σ exp`, of all positions up to each.
fn router_losses(logits: &[Vec<f64>], active: usize, soft: bool) -> [Vec<f64>; 2] {
    let (mut share, mut chance, mut squares) = ([0.0; EXPERTS], [0.0; EXPERTS], 0.0);
    let mut losses = [vec![], vec![]];
    for (at, row) in logits.iter().enumerate() {
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        let odds: Vec<f64> = row.iter().map(|x| if soft { x.exp() } else { 1.0 / (1.0 + (-x).exp()) }).collect();
        let sum: f64 = odds.iter().sum();
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order[..active].iter().for_each(|expert| share[*expert] += 1.0);
        (0..EXPERTS).for_each(|expert| chance[expert] += odds[expert] / sum);
        squares += total.ln().powi(2);
        let count = (at + 1) as f64;
        losses[0].push(EXPERTS as f64 * (0..EXPERTS).map(|e| share[e] / count * (chance[e] / count)).sum::<f64>());
        losses[1].push(squares / count);
    }
    losses
}

#[test]
fn losses_of_a_router() {
    let compiled = Compiled::with_outputs(ROUTED, made_up);
    let tokens: Vec<i32> = (0..41).map(|at| (at * at + at / 3) % 20).collect();
    let embed = compiled.numbers("embed");
    let mut session = compiled.session(2, 1);
    let whole = feed(&mut session, 0, &tokens);
    session.reset(0).expect("a slot");
    let parts: Vec<f32> = tokens.chunks(7).flat_map(|part| feed(&mut session, 0, part)).collect();
    let before: Vec<f64> = output(&session, &whole, "before").into_iter().map(f64::from).collect();
    let plain: Vec<f64> = tokens.iter().flat_map(|token| embed[*token as usize * 8..][..8].to_vec()).collect();
    for (path, x, active) in [("soft", plain, 2), ("each", before, 3)] {
        let router = compiled.numbers(&format!("{path}.wr"));
        let dot = |x: &[f64], e: usize| x.iter().zip(&router[e * 8..]).map(|(x, w)| x * w).sum();
        let logits: Vec<Vec<f64>> = x.chunks(8).map(|x| (0..EXPERTS).map(|e| dot(x, e)).collect()).collect();
        let wanted = router_losses(&logits, active, path == "soft");
        for (name, wanted) in ["balance", "z"].iter().zip(wanted) {
            let name = format!("{path}.{name}");
            agree(&name, &output(&session, &whole, &name), &wanted, 1e-5).unwrap();
            agree(&format!("{name} in parts"), &output(&session, &parts, &name), &wanted, 1e-5).unwrap();
        }
    }
    let logits = feed(&mut Compiled::new(ROUTED).session(1, 1), 0, &tokens);
    let beside: Vec<f64> = whole.chunks(session.manifest().vocab).flat_map(|row| &row[..20]).map(|x| f64::from(*x)).collect();
    agree("logits beside outputs", &logits, &beside, 1e-6).unwrap();
}

/// A small network that sees everything, with the cross entropy of masked tokens by 1/t, and the divergence from another head.
const NOISED: &str =
    "model noised(d: dim = 8, k: dim = 4, vocab: dim = 11)(tokens: [t], clean: int [t], level: float [t]) -> [t, vocab] {
  param embed, head, teacher: [vocab, d]   param wq, wk: [k, d]
  x = embed[vocab: tokens]
  x = x + attend[k](sum[d] x * wq, sum[d] x * wk, x) { keep: everything() }
  logits = sum[d] x * head
  loss = masked_diffusion_loss(mask: 10)
  output loss = loss(logits, tokens, clean, level)
  output distance = divergence[vocab](sum[d] x * teacher, logits, 2.0)
  output taught = sum[d] x * teacher
  return logits
}
";

#[test]
fn masked_tokens_weighed_by_their_level() {
    let compiled = Compiled::with_outputs(NOISED, made_up);
    let mut session = compiled.session(2, 1);
    let clean: Vec<i32> = (0..30).map(|at| (at * at + 1) % 10).collect();
    let tokens: Vec<i32> = clean.iter().enumerate().map(|(at, id)| if at % 3 == 1 { 10 } else { *id }).collect();
    let levels: Vec<f32> = made_up("levels", &[30]).iter().map(|x| 0.3 + 0.2 * x.abs()).collect();
    let mut inputs = Inputs::default();
    inputs.set(session.manifest(), "clean", Values::Ints(&clean)).unwrap();
    inputs.set(session.manifest(), "level", Values::Floats(&levels)).unwrap();
    session.give(0, inputs.clone()).unwrap();
    let all = feed(&mut session, 0, &tokens);
    let row = |at: usize| all[at * session.manifest().vocab..][..11].iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let taught = output(&session, &all, "taught");
    let chances = |logits: &[f64]| {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / total).collect::<Vec<f64>>()
    };
    let (mut sum, mut losses, mut distances) = (0.0, vec![], vec![]);
    for at in 0..30 {
        if tokens[at] == 10 {
            sum -= chances(&row(at))[clean[at] as usize].ln() / f64::from(levels[at]);
        }
        losses.push(sum / (at + 1) as f64);
        let softer = |logits: Vec<f64>| chances(&logits.iter().map(|x| x / 2.0).collect::<Vec<f64>>());
        let (p, q) = (softer(taught[at * 11..][..11].iter().map(|x| f64::from(*x)).collect()), softer(row(at)));
        distances.push(4.0 * p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>());
    }
    agree("the loss", &output(&session, &all, "loss"), &losses, 1e-5).unwrap();
    agree("the divergence", &output(&session, &all, "distance"), &distances, 1e-5).unwrap();
    inputs.set(session.manifest(), "clean", Values::Ints(&[3, 11])).unwrap();
    let error = session.give(0, inputs).unwrap_err().to_string();
    assert!(error.contains("input `clean` has a 11") && error.contains("table of 11 rows"), "{error}");
}

/// The golden's logits stand in a table; its rows are counted by an input.
#[test]
fn golden_losses() {
    let routed = "model routed(places: dim = 40, d: dim = 24, experts: dim = 6)(tokens: [t]) -> [t, experts] {
  param x: [places, d]   param Wr: [experts, d]   param br: [experts]
  dim slot = 2
  r = sum[d] x[places: tokens] * Wr + br
  p = softmax[experts](r)
  output balance = balance_loss()(p, top[experts as slot](p, slot))
  output z = router_z_loss()(r)
  return p
}
";
    let singles = |numbers: &[f64]| numbers.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let golden = Golden::single("moe_token_choice", 40);
    let compiled = Compiled::with_outputs(routed, |path, _| singles(golden.all(&format!("in.{path}"))));
    let mut session = compiled.session(1, 1);
    let all = feed(&mut session, 0, &(0..40).collect::<Vec<i32>>());
    let last = |name: &str| output(&session, &all, name)[39..].to_vec();
    // The golden's share is one of all choices, two a token.
    let wanted = [2.0 * golden.all("out.aux_switch")[0], golden.all("out.z_loss")[0]];
    agree("losses of a router", &[last("balance"), last("z")].concat(), &wanted, 1e-5).unwrap();

    let noised = "model noised(places: dim = 120, vocab: dim = 97)(rows: [t], noised: int [t], clean: int [t], level: float [t]) -> [t, vocab] {
  param logits: [places, vocab]
  x = logits[places: rows]
  loss = masked_diffusion_loss(mask: 96)
  output loss = loss(x, noised, clean, level)
  return x
}
";
    let golden = Golden::single("masked_diffusion_loss", 120);
    let compiled = Compiled::with_outputs(noised, |_, _| singles(golden.all("in.logits")));
    let mut session = compiled.session(1, 1);
    for (first, wanted) in [(0, "out.loss"), (9, "out.loss_prompt")] {
        let mut sum = 0.0;
        for sequence in 0..4 {
            let ids = |name: &str| {
                golden.all(name)[sequence * 30 + first..(sequence + 1) * 30].iter().map(|x| *x as i32).collect::<Vec<i32>>()
            };
            let level = vec![golden.all("in.t")[sequence] as f32; 30 - first];
            let mut inputs = Inputs::default();
            let (noised, clean) = (ids("out.xt"), ids("in.x0"));
            inputs.set(session.manifest(), "noised", Values::Ints(&noised)).unwrap();
            inputs.set(session.manifest(), "clean", Values::Ints(&clean)).unwrap();
            inputs.set(session.manifest(), "level", Values::Floats(&level)).unwrap();
            session.reset(0).unwrap();
            session.give(0, inputs).unwrap();
            let rows: Vec<i32> = (sequence * 30 + first..(sequence + 1) * 30).map(|row| row as i32).collect();
            let all = feed(&mut session, 0, &rows);
            sum += output(&session, &all, "loss")[29 - first] / 4.0;
        }
        agree(wanted, &[sum], golden.all(wanted), 1e-5).unwrap();
    }
}
