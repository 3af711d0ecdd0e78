//! `cargo bench -p braid-tests --bench attention`: patterns of attention against full attention, over a long text, and filling masks against
//! one token at a time, with the same network. Medians; what is compared alternates.

use braid_runtime::artifact::{Dtype, Unmask};
use braid_runtime::generate::{Request, generate};
use braid_runtime::progress::Hidden;
use braid_runtime::sample::Sampling;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::unmask::{Fill, fill};
use braid_runtime::weights::Weights;
use braid_tests::build::{build, imported};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const THREADS: usize = 2;
const RUNS: usize = 3;
const LENGTH: usize = 16 * 1024;
/// Tokens behind a long text.
const STEPS: i32 = 32;

fn main() {
    patterns();
    choices();
    diffusion();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// An attention of 8 heads on 2 heads of keys, of 64 each, and nothing but projections around it.
fn pattern(keep: &str) -> Session {
    attention("", &format!("attend[k](q, kk, vv) {{ keep: {keep}   score: s * k ^ -0.5 }}"))
}

/// The same, of which `o` is an expression after some statements over queries, keys and values.
fn attention(before: &str, o: &str) -> Session {
    opened(&format!(
        "model m(d: dim = 16, groups: dim = 2, per: dim = 4, k: dim = 64, vocab: dim = 64)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  \
         param wq: [groups, per, k, d]   param wk, wv: [groups, k, d]   param wo: [d, groups, per, k]\n  x = embed[vocab: tokens]\n  q = sum[d] x * \
         wq\n  kk = sum[d] x * wk\n  vv = sum[d] x * wv\n  {before}\n  o = {o}\n  generate autoregressive\n  return sum[d] (x + (sum[groups, per, k] o \
         * wo)) * embed\n}}\n"
    ))
}

/// A mixer of the library.
fn mixer(call: &str) -> Session {
    opened(&format!(
        "model m(d: dim = 16, vocab: dim = 64)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  mixer = {call}\n  \
         generate autoregressive\n  return sum[d] (x + mixer(x)) * embed\n}}\n"
    ))
}

fn opened(spec: &str) -> Session {
    let built = build(spec, "", "cpu", Dtype::F32);
    let weights = Weights::open(&built.artifact.manifest, "random:1", THREADS, &Hidden).expect("random weights");
    let settings = Settings { threads: THREADS, capacity: LENGTH, slots: 1 };
    Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
}

fn patterns() {
    let kinds = [
        ("all before", "causal()"),
        ("window of 1024", "causal() && within(1024)"),
        ("window of 1024 and 4 sinks", "causal() && (within(1024) || first(4))"),
        ("blocks of 1024, not looking back", "causal() && query - query % 1024 == key - key % 1024"),
        ("window of 512 and every 32nd", "causal() && (within(512) || key % 32 == 31)"),
    ];
    let patterns = kinds.iter().map(|(name, keep)| (*name, pattern(keep)));
    compare("keys that a query sees", patterns.collect());
}

/// Keys chosen by a score.
fn choices() {
    let tokens = "dim few = 1024\n  dim j = 4\n  dim c = 32\n  param iq: [j, c, d]   param ik: [c, d]   param iw: [j, d]\n  w = sum[d] x * iw
  ids = choose[c as few](sum[d] x * iq, sum[d] x * ik, few) { score: sum[j] w[t: query] * max(s, 0.0) }";
    let chosen = "attend[k](q, kk, vv) { keep: causal() && chosen[few](ids, 1)   score: s * k ^ -0.5 }";
    let shared = "dim few = 15
  recur sum_k: [groups, k] over t {
    sum_k = select(position[t] % 64 == 0, 0.0, sum_k) + kk
    middle = sum_k / 64.0
  }
  ids = choose[k as few](q, middle, few) { keep: earlier(64) && ends(64)   score: sum[per] s }";
    let of_blocks = "attend[k](q, kk, vv) { keep: causal() && (own(64) || chosen[few](ids, 64))   score: s * k ^ -0.5 }";
    let blocks = |top: usize| mixer(&format!("block_choice_attention(heads: 8, groups: 2, k: 64, span: 64, top: {top})"));
    let compressed = |top: usize, window: usize| {
        mixer(&format!("native_sparse_attention(heads: 8, groups: 2, k: 64, span: 64, top: {top}, window: {window})"))
    };
    let choices = vec![
        ("all before", pattern("causal()")),
        ("16 blocks of 64 by their mean keys, each head its own (MoBA)", blocks(16)),
        ("the same, one choice for 4 heads", attention(shared, of_blocks)),
        ("4 blocks of 64, each head its own", blocks(4)),
        ("compressed blocks of 64, 16 chosen for 4 heads each, a window of 512 (NSA)", compressed(16, 512)),
        ("the same, 4 chosen, a window of 128", compressed(4, 128)),
        ("1024 tokens by an indexer of 4 heads of 32, one choice for all heads (DeepSeek V3.2)", attention(tokens, chosen)),
    ];
    compare("keys that were chosen", choices);
}

/// The time of a long text, and of one token behind it.
fn compare(what: &str, mut kinds: Vec<(&str, Session)>) {
    let tokens: Vec<i32> = (0..LENGTH as i32 - STEPS).map(|at| (at * 7 + at / 64 * 5) % 64).collect();
    let mut times = vec![(vec![], vec![]); kinds.len()];
    for _ in 0..RUNS {
        for ((_, session), (whole, step)) in kinds.iter_mut().zip(&mut times) {
            session.reset(0).expect("a slot");
            let start = Instant::now();
            session.prefill(0, &tokens, Wanted::Last, |_, _| ()).expect("room");
            whole.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            (0..STEPS).for_each(|at| drop(session.step(&[(0, at)]).expect("room").to_vec()));
            step.push(start.elapsed().as_secs_f64() / f64::from(STEPS));
        }
    }
    println!("\n| {what}, of {LENGTH} positions | time | times less than all | a token behind them | times less |");
    println!("| --- | --- | --- | --- | --- |");
    let medians: Vec<(f64, f64)> = times.into_iter().map(|(whole, step)| (median(whole), median(step))).collect();
    for ((name, _), (whole, step)) in kinds.iter().zip(&medians) {
        let (all, one) = medians[0];
        println!("| {name} | {whole:.2} s | {:.1} | {:.0} µs | {:.1} |", all / whole, 1e6 * step, one / step);
    }
}

/// 64 tokens behind a prompt, with the trained example: some at a time, and one after the other with caches.
fn diffusion() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-diffusion/weights");
    let (spec, map) = imported(&checkpoint.join("config.json"));
    let causal = spec.replace("models.diffusion", "models.transformer").replace("diffusion_transformer(", "transformer(");
    let causal = causal.replace("mask: 1, never: [1, 2], ", "");
    let open = |spec: &str| {
        let built = build(spec, &map, "cpu", Dtype::Bf16);
        let weights =
            Weights::open(&built.artifact.manifest, checkpoint.to_str().expect("UTF-8"), THREADS, &Hidden).expect("weights");
        let settings = Settings { threads: THREADS, capacity: 128, slots: 1 };
        Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
    };
    let (mut whole, mut stepwise) = (open(&spec), open(&causal));
    let how = whole.manifest().unmask.clone().expect("a model that fills masks");
    let prompt: Vec<i32> = (3..20).collect();
    println!("\n| 64 tokens behind 17 | passes | tokens/s |\n| --- | --- | --- |");
    for steps in [32, 16, 8, 4, 2, 1] {
        let text = [&prompt[..], &[how.mask; 64]].concat();
        let how = Unmask { steps, ..how.clone() };
        let task = Fill { text, how, sampling: Sampling::default(), stop: vec![] };
        let mut time = || fill(&mut whole, &task, |_| Ok(())).expect("room").elapsed.as_secs_f64();
        let time = median((0..RUNS).map(|_| time()).collect());
        println!("| filled, {steps} passes over 32 | {} | {:.0} |", 2 * steps, 64.0 / time);
    }
    let request = Request { prompt, follows: vec![], whole: false, max_tokens: 64, stop: vec![], sampling: Sampling::default() };
    let mut time = || {
        stepwise.reset(0).expect("a slot");
        let outcome = generate(&mut stepwise, &request, |_| (), |_| Ok(())).expect("room");
        (outcome.prefill + outcome.decode).as_secs_f64()
    };
    let time = median((0..RUNS).map(|_| time()).collect());
    println!("| the same network looking back only, one after the other | 64 | {:.0} |", 64.0 / time);
}
