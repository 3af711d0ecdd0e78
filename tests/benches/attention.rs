//! `cargo bench -p braid-tests --bench attention -- [PART]`: patterns of attention against full attention, over a long text, and filling masks against
//! one token at a time, with the same network. The fastest of some turns counts, as others use the machine too; what is compared alternates. Of the
//! tables and kinds those whose name holds PART are measured.

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
const RUNS: usize = 5;
const LENGTH: usize = 16 * 1024;
/// Tokens behind a long text.
const STEPS: i32 = 32;

/// What is measured: its name, how many keys a query at some place meets, and the model.
type Kind = (&'static str, fn(usize) -> usize, Box<dyn Fn() -> Session>);

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for (what, kinds) in [("keys that a query sees", patterns()), ("keys that were chosen", choices())] {
        let wanted = |(name, ..): &Kind| what.contains(&part) || name.contains(&part);
        let (all, others) = kinds.split_first().expect("all keys");
        let others: Vec<&Kind> = others.iter().filter(|kind| wanted(kind)).collect();
        if !others.is_empty() {
            compare(what, std::iter::once(all).chain(others));
        }
    }
    if "filled".contains(&part) {
        diffusion();
    }
}

fn fastest(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(f64::INFINITY, f64::min)
}

/// An attention of 8 heads on 2 heads of keys, of 64 each, and nothing but projections around it.
fn pattern(keep: &str) -> Session {
    attention("", &format!("attend[k](q, kk, vv) {{ keep: {keep}   score: s * k ^ -0.5 }}"))
}

/// All keys before, under a policy.
fn pattern_under(policy: &str) -> Session {
    attention("", &format!("attend[k](q, kk, vv) {{ score: s * k ^ -0.5   policy: {policy} }}"))
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

fn patterns() -> Vec<Kind> {
    let seen = |name, keys: fn(usize) -> usize, keep: &'static str| -> Kind { (name, keys, Box::new(move || pattern(keep))) };
    let under = |policy: &'static str| move || pattern_under(policy);
    let lines = "vertical_slash(vertical: 256, slash: 512)";
    vec![
        seen("all before", |at| at, "causal()"),
        seen("window of 1024", |at| at.min(1024), "causal() && within(1024)"),
        seen("window of 1024 and 4 sinks", |at| at.min(1028), "causal() && (within(1024) || first(4))"),
        seen("blocks of 1024, not looking back", |at| at % 1024, "causal() && query - query % 1024 == key - key % 1024"),
        seen("window of 512 and every 32nd", |at| at.min(512 + at / 32), "causal() && (within(512) || key % 32 == 31)"),
        ("256 keys and 512 distances of each head (vertical-slash)", |at| at * 3 / 64, Box::new(under(lines))),
    ]
}

/// Keys chosen by a score.
fn choices() -> Vec<Kind> {
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
    let blocks = |top: usize| -> Box<dyn Fn() -> Session> {
        Box::new(move || mixer(&format!("block_choice_attention(heads: 8, groups: 2, k: 64, span: 64, top: {top})")))
    };
    let compressed = |top: usize, window: usize| -> Box<dyn Fn() -> Session> {
        let mixed = format!("native_sparse_attention(heads: 8, groups: 2, k: 64, span: 64, top: {top}, window: {window})");
        Box::new(move || mixer(&mixed))
    };
    vec![
        ("all before", |at| at, Box::new(|| pattern("causal()"))),
        ("16 blocks of 64 by their mean keys, each head its own (MoBA)", |at| at / 64 + at.min(1024), blocks(16)),
        ("the same, one choice for 4 heads", |at| at / 64 + at.min(1024), Box::new(|| attention(shared, of_blocks))),
        ("8 blocks of 64, each head its own", |at| at / 64 + at.min(512), blocks(8)),
        ("4 blocks of 64, each head its own", |at| at / 64 + at.min(256), blocks(4)),
        (
            "compressed blocks of 64, 16 chosen for 4 heads each, a window of 512 (NSA)",
            |at| 3 * at / 64 + at.min(1024) + at.min(512),
            compressed(16, 512),
        ),
        ("NSA, 8 chosen, a window of 256", |at| 3 * at / 64 + at.min(512) + at.min(256), compressed(8, 256)),
        ("NSA, 4 chosen, a window of 128", |at| 3 * at / 64 + at.min(256) + at.min(128), compressed(4, 128)),
        (
            "1024 tokens by an indexer of 4 heads of 32, one choice for all heads (DeepSeek V3.2)",
            |at| at / 4 + at.min(1024),
            Box::new(|| attention(tokens, chosen)),
        ),
    ]
}

/// The time of a long text, and of one token behind it.
fn compare<'a>(what: &str, kinds: impl Iterator<Item = &'a Kind>) {
    let tokens: Vec<i32> = (0..LENGTH as i32 - STEPS).map(|at| (at * 7 + at / 64 * 5) % 64).collect();
    let mut kinds: Vec<_> = kinds.map(|(name, keys, open)| (name, keys, open(), [f64::INFINITY; 2])).collect();
    for _ in 0..RUNS {
        for (.., session, times) in &mut kinds {
            session.reset(0).expect("a slot");
            let start = Instant::now();
            session.prefill(0, &tokens, Wanted::Last, |_, _| ()).expect("room");
            let whole = start.elapsed().as_secs_f64();
            let step = |at| {
                let start = Instant::now();
                session.step(&[(0, at)]).expect("room");
                start.elapsed().as_secs_f64()
            };
            *times = [times[0].min(whole), times[1].min(fastest((0..STEPS).map(step)))];
        }
    }
    println!("\n| {what}, of {LENGTH} positions | keys fewer | time | times less than all | a token behind them | times less |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let met = |keys: &fn(usize) -> usize| (0..LENGTH).map(keys).sum::<usize>() as f64;
    let (all, [all_whole, all_step]) = (met(kinds[0].1), kinds[0].3);
    for (name, keys, _, [whole, step]) in &kinds {
        let fewer = all / met(keys);
        println!(
            "| {name} | {fewer:.1} | {whole:.2} s | {:.1} | {:.0} µs | {:.1} |",
            all_whole / whole,
            1e6 * step,
            all_step / step
        );
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
        let time = fastest((0..RUNS).map(|_| time()));
        println!("| filled, {steps} passes over 32 | {} | {:.0} |", 2 * steps, 64.0 / time);
    }
    let request = Request { prompt, follows: vec![], whole: false, max_tokens: 64, stop: vec![], sampling: Sampling::default() };
    let mut time = || {
        stepwise.reset(0).expect("a slot");
        let outcome = generate(&mut stepwise, &request, |_| (), |_| Ok(())).expect("room");
        (outcome.prefill + outcome.decode).as_secs_f64()
    };
    let time = fastest((0..RUNS).map(|_| time()));
    println!("| the same network looking back only, one after the other | 64 | {:.0} |", 64.0 / time);
}
