//! `cargo bench -p braid-tests --bench recurrences -- --help`: each class of recurrence over one long sequence: one call a token, token by
//! token in one call, and in chunks; beside a peer, if its figures are given. With `--plot`, how time grows with length.

#[path = "../peak.rs"]
mod peak;
mod plot;

use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use braid_tests::build::build_in_chunks;
use clap::Parser;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Measures each class of recurrence.
#[derive(Parser)]
struct Args {
    /// Which classes; all, if none is named
    classes: Vec<String>,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of the sequence
    #[arg(long, default_value_t = 4096)]
    length: usize,
    /// Length of keys and of values
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Rows of a chunk, instead of the compiler's choice
    #[arg(long)]
    chunk: Option<usize>,
    /// Weights in bfloat16, and what meets in chunks rounded to it where a processor multiplies such pairs
    #[arg(long)]
    bf16: bool,
    /// Runs of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What `peer.py --json` wrote on this machine
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// Instead: draw the time of whole sequences of up to 131072 tokens
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

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
        "momentum",
        "S: [h, k, v], P: [h, k, v]",
        "P = sigmoid(i) * P - b * kk * ((sum[k] kk * S) - vv)\n S = exp(a) * S + P\n o = sum[k] q * S",
    ),
    (
        "mini_batch",
        "S: [h, k, v], G: [h, k, v]",
        "S = start(S)\n G = select(position[t] % 16 == 0, 0.0, G) + grad(sum[v] tanh((sum[k] kk * S) - vv) ^ 2, S)\n S = S - b * G\n o = sum[k] q * S",
    ),
    (
        "stabilised",
        "S: [h, k, v], z: [h, k], m: [h] = -inf",
        "n = max(a + m, i)\n S = exp(a + m - n) * S + exp(i - n) * kk * vv\n z = exp(a + m - n) * z + exp(i - n) * kk\n m = n\n o = (sum[k] \
         q * S) / max(abs(sum[k] q * z), exp(-m))",
    ),
    ("element_wise", "s: [w, n]", "s = exp(-dt * rate) * s + dt * bn * u\n o = sum[n] cn * s"),
    ("gated_rnn", "s: [w]", "s = dt * s + (1.0 - dt) * u\n o = s"),
    (
        "complex",
        "s: [w, n], z: [w, n]",
        "next = ar * s - ai * z + re * u\n z = ai * s + ar * z + im * u\n s = next\n o = sum[n] (rc * s - ic * z)",
    ),
    ("low_rank", "s: [w, n]", "s = ar * s + ai * (sum[n] im * s) + re * u\n o = sum[n] rc * s"),
    ("dense", "s: [w, n]", "s = (sum[m] mix * s[n as m]) + re * u\n o = sum[n] rc * s"),
];

fn spec(name: &str, states: &str, step: &str, size: usize) -> String {
    let (result, axes, w) = match name {
        "element_wise" => ("sum[w] o * last", "w", 4096),
        "gated_rnn" => ("sum[w] o * last", "w", 2048),
        "complex" | "low_rank" | "dense" => ("sum[w] o * last", "w", 1024),
        _ => ("sum[h, v] o * last", "h, v", 1),
    };
    let n = if name == "complex" || name == "low_rank" { 32 } else { 16 };
    let every = if step.contains("start(") { " every 16" } else { "" };
    // Inputs are rows of tables, so that little else than the recurrence is measured.
    format!(
        "model bench(vocab: dim = 32, h: dim = 16, k: dim = {size}, v: dim = {size}, w: dim = {w}, n: dim = {n})(tokens: [t]) -> [t, vocab] {{\n  param tq, \
         tk, tg: [vocab, h, k]   param tv: [vocab, h, v]   param ta, tb, ti: [vocab, h]   param tu, tdt: [vocab, w]   param tbn, tcn: [vocab, \
         n]   param rate: [w, n]   param last: [vocab, {axes}]\n  dim m = n\n  param pa, pb, re, im, rc, ic: [w, n]   param mix: [w, n, m]\n  ar = \
         sigmoid(pa + 2.0) * cos(pb)\n  ai = sigmoid(pa + 2.0) * sin(pb)\n  q = tq[vocab: tokens] * k ^ -0.5\n  kk = l2norm[k](tk[vocab: tokens], 1e-6)\n  \
         vv = tv[vocab: tokens]\n  g = -softplus(tg[vocab: tokens])\n  a = -softplus(ta[vocab: tokens])\n  b = sigmoid(tb[vocab: \
         tokens])\n  i = ti[vocab: tokens]\n  u = tu[vocab: tokens]\n  dt = sigmoid(tdt[vocab: tokens])\n  bn = tbn[vocab: tokens]\n  cn = \
         tcn[vocab: tokens]\n  recur {states} over t{every} {{ {step} }}\n  generate autoregressive\n  return {result}\n}}\n"
    )
}

fn session(text: &str, chunks: Chunks, threads: usize, bf16: bool) -> Session {
    let built = build_in_chunks(text, "", "cpu", if bf16 { Dtype::Bf16 } else { Dtype::F32 }, chunks);
    let weights =
        Weights::open(&built.artifact.manifest, "random:1", threads, &braid_runtime::progress::Hidden).expect("weights");
    let settings = Settings { threads, capacity: 16, slots: 1 };
    Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
}

/// One call of the session for as many tokens as it takes at once.
fn whole(session: &mut Session, tokens: &[i32]) -> f64 {
    session.reset(0).expect("a slot");
    let start = Instant::now();
    session.prefill(0, tokens, Wanted::None, |_, _| ()).expect("a sequence");
    start.elapsed().as_secs_f64()
}

/// One call a token, as in decoding, but without results.
fn single(session: &mut Session, tokens: &[i32]) -> f64 {
    session.reset(0).expect("a slot");
    let start = Instant::now();
    for token in tokens {
        session.prefill(0, std::slice::from_ref(token), Wanted::None, |_, _| ()).expect("a token");
    }
    start.elapsed().as_secs_f64()
}

fn ids(length: usize) -> Vec<i32> {
    (0..length).map(|at| (at * 7 % 32) as i32).collect()
}

fn main() {
    let args = Args::parse();
    let chunks = args.chunk.map_or(Chunks::Auto, Chunks::Rows);
    let named = |name: &str| args.classes.is_empty() || args.classes.iter().any(|class| class == name);
    let classes: Vec<_> = CLASSES.iter().filter(|(name, ..)| named(name)).collect();
    if let Some(file) = &args.plot {
        let curves: Vec<plot::Curve> = classes.iter().map(|(name, states, step)| growth(name, states, step, &args)).collect();
        std::fs::write(file, plot::svg(&curves)).expect("the plot is written");
        return;
    }
    let peer = args.peer.as_ref().map(|file| Peer::read(file, args.threads));
    println!(
        "| class | one call a token | token by token | in chunks | times faster than token by token | share of the FMA peak | peer | times \
         faster |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, states, step) in classes {
        println!("{}", row(name, states, step, &args, chunks, peer.as_ref()));
    }
}

/// One class, all its forms and the ceiling in turns.
fn row(name: &str, states: &str, step: &str, args: &Args, chunks: Chunks, peer: Option<&Peer>) -> String {
    let (text, tokens) = (spec(name, states, step, args.size), ids(args.length));
    let mut steps = session(&text, Chunks::Off, args.threads, args.bf16);
    let mut at_once = session(&text, chunks, args.threads, args.bf16);
    let (mut times, mut peak) = ([vec![], vec![], vec![]], 0.0f64);
    for _ in 0..args.runs {
        times[0].push(single(&mut steps, &tokens));
        times[1].push(whole(&mut steps, &tokens));
        times[2].push(whole(&mut at_once, &tokens));
        peak = peak.max(peak::flops(args.threads));
    }
    let [calls, steps, at_once] = times.map(median);
    let share = match products(name) {
        0 => String::new(),
        passes => format!("{:.2}", (passes * 2 * 16 * args.size * args.size * args.length) as f64 / at_once / peak),
    };
    let (other, faster) = match peer.and_then(|peer| peer.seconds(name)) {
        Some(seconds) => (format!("{:.1} ms", seconds * 1e3), format!("{:.1}", seconds / at_once)),
        None => Default::default(),
    };
    let [a, b, c] = [calls, steps, at_once].map(|seconds| format!("{:.1} ms", seconds * 1e3));
    format!("| {name} | {a} | {b} | {c} | {:.1} | {share} | {other} | {faster} |", steps / at_once)
}

/// How many products of the size of the state a row needs in any form; 0: the class has no matrix products.
fn products(name: &str) -> usize {
    match name {
        "element_wise" | "gated_rnn" | "complex" | "low_rank" | "dense" => 0,
        "rank_one" => 4,
        name if name.contains("delta") => 3,
        _ => 2,
    }
}

/// What another program measured.
struct Peer(serde_json::Value, usize);

impl Peer {
    fn read(file: &std::path::Path, threads: usize) -> Peer {
        let text = std::fs::read_to_string(file).expect("the peer's figures");
        Peer(serde_json::from_str(&text).expect("JSON"), threads)
    }

    fn seconds(&self, class: &str) -> Option<f64> {
        let rows = self.0["results"].as_array()?;
        let own = |row: &&serde_json::Value| row["row"] == class && row["threads"] == self.1;
        Some(rows.iter().find(own)?["ms"].as_f64()? / 1e3)
    }
}

/// Seconds for whole sequences of rising length, and the memory that each needs beside the weights.
fn growth(name: &str, states: &str, step: &str, args: &Args) -> plot::Curve {
    let mut session = session(&spec(name, states, step, args.size), Chunks::Auto, args.threads, args.bf16);
    let lengths = (10..=17).map(|power| 1usize << power);
    let mut point = |length: usize| {
        let times = (0..args.runs).map(|_| whole(&mut session, &ids(length))).collect();
        let seconds = median(times);
        println!(
            "{name}: {length} tokens in {:.1} ms, {:.2} us a token, {} bytes of states",
            seconds * 1e3,
            seconds / length as f64 * 1e6,
            session.manifest().slot_bytes(16).unwrap_or(0)
        );
        (length as f64, seconds)
    };
    plot::Curve { name: name.to_string(), points: lengths.map(&mut point).collect() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
