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

fn main() {
    patterns();
    diffusion();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// One attention of 8 heads on 2 heads of keys, of 64 each, and nothing but projections around it.
fn pattern(keep: &str) -> Session {
    let spec = format!(
        "model m(d: dim = 16, groups: dim = 2, per: dim = 4, k: dim = 64, vocab: dim = 64)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  \
         param wq: [groups, per, k, d]   param wk, wv: [groups, k, d]   param wo: [d, groups, per, k]\n  x = embed[vocab: tokens]\n  o = \
         attend[k](sum[d] x * wq, sum[d] x * wk, sum[d] x * wv) {{ keep: {keep}   score: s * k ^ -0.5 }}\n  generate autoregressive\n  return sum[d] \
         (x + (sum[groups, per, k] o * wo)) * embed\n}}\n"
    );
    let built = build(&spec, "", "cpu", Dtype::F32);
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
    let mut sessions: Vec<Session> = kinds.iter().map(|(_, keep)| pattern(keep)).collect();
    let tokens: Vec<i32> = (0..LENGTH as i32).map(|at| at * 7 % 64).collect();
    let mut times = vec![vec![]; kinds.len()];
    for _ in 0..RUNS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            session.reset(0).expect("a slot");
            let start = Instant::now();
            session.prefill(0, &tokens, Wanted::Last, |_, _| ()).expect("room");
            times.push(start.elapsed().as_secs_f64());
        }
    }
    println!("| keys that a query sees, of {LENGTH} positions | time | times less than all |\n| --- | --- | --- |");
    let all = median(times[0].clone());
    for ((name, _), times) in kinds.iter().zip(times) {
        let time = median(times);
        println!("| {name} | {:.2} s | {:.1} |", time, all / time);
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
