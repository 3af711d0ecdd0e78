//! `cargo bench -p braid-tests --bench recurrences`: each class of recurrence over one long sequence, in chunks against token by token.
//!
//! Arguments: names of classes (all, if none is given); `--chunk N` for other chunks than the compiler's; `--threads N`; `--json` for
//! a line that other programs read.

use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use braid_tests::build::build_in_chunks;
use std::sync::Arc;
use std::time::Instant;

const LENGTH: usize = 4096;
const RUNS: usize = 5;

/// A class: its name, its states, and its step, over 16 heads of 128 x 128 unless it says otherwise.
const CLASSES: &[(&str, &str, &str)] = &[
    ("none", "S: [h, k, v]", "S = S + kk * vv\n o = sum[k] q * S"),
    ("normalised", "S: [h, k, v], z: [h, k]", "S = S + kk * vv\n z = z + kk\n o = (sum[k] q * S) / (1.0 + abs(sum[k] q * z))"),
    ("scalar", "S: [h, k, v]", "S = exp(a) * S + kk * vv\n o = sum[k] q * S"),
    ("vector", "S: [h, k, v]", "S = exp(g) * S + kk * vv\n o = sum[k] q * S"),
    ("delta", "S: [h, k, v]", "S = S + kk * (b * (vv - sum[k] kk * S))\n o = sum[k] q * S"),
    ("gated_delta", "S: [h, k, v]", "S = exp(a) * S\n S = S + kk * (b * (vv - sum[k] kk * S))\n o = sum[k] q * S"),
    ("vector_delta", "S: [h, k, v]", "S = exp(g) * S\n S = S + kk * (b * (vv - sum[k] kk * S))\n o = sum[k] q * S"),
    ("rank_one", "S: [h, k, v]", "S = exp(g) * S - kk * b * (sum[k] kk * S) + g * vv\n o = sum[k] q * S"),
    (
        "stabilised",
        "S: [h, k, v], z: [h, k], m: [h] = -inf",
        "n = max(a + m, i)\n S = exp(a + m - n) * S + exp(i - n) * kk * vv\n z = exp(a + m - n) * z + exp(i - n) * kk\n m = n\n o = (sum[k] \
         q * S) / max(abs(sum[k] q * z), exp(-m))",
    ),
    ("element_wise", "s: [w, n]", "s = exp(-dt * rate) * s + dt * bn * u\n o = sum[n] cn * s"),
    ("gated_rnn", "s: [w]", "s = dt * s + (1.0 - dt) * u\n o = s"),
];

fn spec(name: &str, states: &str, step: &str) -> String {
    let (result, axes, w) = match name {
        "element_wise" => ("sum[w] o * last", "w", 4096),
        "gated_rnn" => ("sum[w] o * last", "w", 2048),
        _ => ("sum[h, v] o * last", "h, v", 1),
    };
    // Inputs are rows of tables, so that little else than the recurrence is measured.
    format!(
        "model bench(vocab: dim = 32, h: dim = 16, k: dim = 128, v: dim = 128, w: dim = {w}, n: dim = 16)(tokens: [t]) -> [t, vocab] {{\n  param tq, \
         tk, tg: [vocab, h, k]   param tv: [vocab, h, v]   param ta, tb, ti: [vocab, h]   param tu, tdt: [vocab, w]   param tbn, tcn: [vocab, \
         n]   param rate: [w, n]   param last: [vocab, {axes}]\n  q = tq[vocab: tokens] * k ^ -0.5\n  kk = l2norm[k](tk[vocab: tokens], 1e-6)\n  \
         vv = tv[vocab: tokens]\n  g = -softplus(tg[vocab: tokens])\n  a = -softplus(ta[vocab: tokens])\n  b = sigmoid(tb[vocab: \
         tokens])\n  i = ti[vocab: tokens]\n  u = tu[vocab: tokens]\n  dt = sigmoid(tdt[vocab: tokens])\n  bn = tbn[vocab: tokens]\n  cn = \
         tcn[vocab: tokens]\n  recur {states} over t {{ {step} }}\n  generate autoregressive\n  return {result}\n}}\n"
    )
}

fn session(text: &str, chunks: Chunks, threads: usize) -> Session {
    let built = build_in_chunks(text, "", "cpu", Dtype::F32, chunks);
    let weights =
        Weights::open(&built.artifact.manifest, "random:1", threads, &braid_runtime::progress::Hidden).expect("weights");
    let settings = Settings { threads, capacity: 16, slots: 1 };
    Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
}

fn seconds(session: &mut Session, tokens: &[i32]) -> f64 {
    session.reset(0).expect("a slot");
    let start = now();
    session.prefill(0, tokens, Wanted::None, |_, _| ()).expect("a sequence");
    now() - start
}

fn now() -> f64 {
    if std::env::var("CPUTIME").is_ok() {
        let s = std::fs::read_to_string("/proc/self/schedstat").unwrap();
        return s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9;
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)?.parse().ok());
    let chunks = value("--chunk").map_or(Chunks::Auto, Chunks::Rows);
    let threads = value("--threads").unwrap_or(2);
    let length = value("--length").unwrap_or(LENGTH);
    let json = arguments.iter().any(|a| a == "--json");
    let wanted = |name: &str| {
        let named = arguments.iter().any(|a| CLASSES.iter().any(|(class, ..)| class == a));
        !named || arguments.iter().any(|a| a == name)
    };
    let tokens: Vec<i32> = (0..length).map(|at| (at * 7 % 32) as i32).collect();
    println!("| class | token by token | in chunks | times faster |\n| --- | --- | --- | --- |");
    for (name, states, step) in CLASSES.iter().filter(|(name, ..)| wanted(name)) {
        let text = spec(name, states, step);
        let mut sessions = [Chunks::Off, chunks].map(|chunks| session(&text, chunks, threads));
        let mut times = [vec![], vec![]];
        for _ in 0..RUNS {
            sessions.iter_mut().zip(&mut times).for_each(|(session, times)| times.push(seconds(session, &tokens)));
        }
        let [steps, at_once] = times.map(median);
        println!("| {name} | {:.1} ms | {:.1} ms | {:.1} |", steps * 1e3, at_once * 1e3, steps / at_once);
        if json {
            println!(
                "{{\"class\": \"{name}\", \"threads\": {threads}, \"length\": {length}, \"steps\": {steps}, \"chunks\": {at_once}}}"
            );
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
