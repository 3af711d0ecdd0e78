//! `cargo bench -p braid-tests --bench experts -- [THREADS]`: 64 experts of which a token visits two, against the dense block with as many
//! parameters as those two have. Both alternate; medians of turns, of each of which the fastest token counts: others use the machine too. Weights of fewer bits
//! have more layers, so that the dense model is larger than a processor's last cache, too: it would be read from there, and experts never are.

use braid_runtime::artifact::Dtype;
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use braid_tests::build::build;
use std::sync::Arc;
use std::time::Instant;

const RUNS: usize = 7;
const PROMPT: i32 = 512;
const STEPS: i32 = 64;

fn main() {
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2);
    println!(
        "| weights | a token: 64 experts, 2 of them | dense | times as long | a prompt of {PROMPT}: experts | dense | times as long |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (dtype, layers) in [(Dtype::F32, 4), (Dtype::Bf16, 8), (Dtype::Int8, 15)] {
        let experts = model("moe(experts: 64, active: 2, expert: swiglu(hidden: 768))", (dtype, layers), threads);
        let dense = model("swiglu(hidden: 1536)", (dtype, layers), threads);
        let mut both = [experts, dense];
        let mut times = [[vec![], vec![]], [vec![], vec![]]];
        for _ in 0..RUNS {
            for (session, times) in both.iter_mut().zip(&mut times) {
                let [step, prompt] = time(session);
                times[0].push(step);
                times[1].push(prompt);
            }
        }
        let [experts, dense] = times.map(|kinds| kinds.map(median));
        let dtype = format!("{dtype:?}").to_lowercase();
        let pair =
            |n: usize, unit: f64| format!("{:.2} | {:.2} | {:.2}", experts[n] * unit, dense[n] * unit, experts[n] / dense[n]);
        println!("| {dtype} | {} | {} |", pair(0, 1e3), pair(1, 1e3));
    }
}

/// Layers of a small attention and a feed-forward block, 768 wide.
fn model(ffn: &str, (dtype, layers): (Dtype, usize), threads: usize) -> Session {
    let spec = format!(
        "model m(d: dim = 768, vocab: dim = 2048)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  \
         repeat i in 0..{layers} {{\n    mixer = attention(heads: 12, groups: 4, k: 64, window: 256)\n    ffn = {ffn}\n    x = x + mixer(rmsnorm(x))\n    \
         x = x + ffn(rmsnorm(x))\n  }}\n  generate autoregressive\n  return sum[d] x * embed\n}}\n"
    );
    let built = build(&spec, "", "cpu", dtype);
    let weights = Weights::open(&built.artifact.manifest, "random:1", threads, &Hidden).expect("random weights");
    let settings = Settings { threads, capacity: 1024, slots: 1 };
    Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
}

/// Seconds of a token behind a prompt, the fastest of [`STEPS`], and of the prompt.
fn time(session: &mut Session) -> [f64; 2] {
    session.reset(0).expect("a slot");
    let tokens: Vec<i32> = (0..PROMPT).map(|at| (at * 37 + at / 64 * 5) % 2048).collect();
    let start = Instant::now();
    session.prefill(0, &tokens, Wanted::Last, |_, _| ()).expect("room");
    let prompt = start.elapsed().as_secs_f64();
    let step = |at: i32| {
        let start = Instant::now();
        session.step(&[(0, at * 31 % 2048)]).expect("room");
        start.elapsed().as_secs_f64()
    };
    [(0..STEPS).map(step).fold(f64::INFINITY, f64::min), prompt]
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
