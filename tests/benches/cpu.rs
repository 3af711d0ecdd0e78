//! `cargo bench -p braid-tests --bench cpu -- [THREADS]`: compile time against depth, decoding against the memory bandwidth, prefill against the peak
//! of fused multiply-adds. Every figure is a ratio to something measured in the same run, alternating with it.

use braid_runtime::artifact::{Dtype, Layout};
use braid_runtime::session::{Feed, Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use braid_tests::build::{Built, build};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

mod pairs;
mod peak;

/// Threads of both sides: the first argument, or 2.
fn threads() -> usize {
    std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2)
}

const RUNS: usize = 7;

fn main() {
    println!("| what | figure | against | ratio |\n| --- | --- | --- | --- |");
    compile_time();
    for (name, spec) in [("llama-shaped 124M", transformer()), ("hybrid 149M (Mamba-2 and attention)", hybrid(24, 768))] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8, Dtype::Int4, Dtype::Int4z] {
            decode(name, &spec, dtype);
        }
        batch(name, &spec);
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            prefill(name, &spec, dtype);
        }
    }
}

fn transformer() -> String {
    "use models.transformer\nmodel bench = transformer(layers: 12, d: 768, vocab: 32000, heads: 12, groups: 4, k: 64, hidden: 2048)\n".into()
}

fn hybrid(layers: usize, d: usize) -> String {
    let every: Vec<String> = (0..layers).filter(|i| i % 8 == 7).map(|i| i.to_string()).collect();
    format!(
        "use models.bamba\nmodel bench = bamba(layers: {layers}, attention_at: [{}], d: {d}, vocab: 32000, heads: {}, groups: {}, k: 64, hidden: {}, ssm_heads: {}, ssm_p: 64, ssm_n: 64)\n",
        every.join(", "),
        d / 64,
        d / 192,
        d,
        2 * d / 64,
    )
}

/// A hybrid of 48 layers against the same with 4 (which has one attention layer too).
fn compile_time() {
    let spec = |layers: usize| hybrid(layers, 768).replace("attention_at: []", "attention_at: [3]");
    let time = |layers: usize| {
        let start = Instant::now();
        black_box(build(&spec(layers), "", "cpu", Dtype::Bf16));
        start.elapsed().as_secs_f64()
    };
    let pairs: Vec<(f64, f64)> = (0..3).map(|_| (time(4), time(48))).collect();
    let shallow = median(pairs.iter().map(|p| p.0).collect());
    let deep = median(pairs.iter().map(|p| p.1).collect());
    println!("| build, 48 layers | {deep:.2} s | 4 layers: {shallow:.2} s | {:.2} |", deep / shallow);
}

fn session(built: Built, slots: usize) -> (Session, usize, usize) {
    let manifest = built.artifact.manifest.clone();
    let weights = Weights::open(&manifest, "random:1", threads(), &braid_runtime::progress::Hidden).expect("random weights");
    // Weights of matrix products are read whole in a step; of a table of tokens, one row.
    let panels = manifest.packed.iter().filter(|p| matches!(p.layout, Layout::Panels { .. }));
    let (bytes, elements) = panels.fold((0, 0), |(b, n), p| (b + p.bytes, n + manifest.params[p.param].count()));
    let settings = Settings { threads: threads(), capacity: 1024, slots };
    (Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session"), bytes, elements)
}

/// A name as `--dtype` takes it.
fn called(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

/// Tokens a second of eight sequences in one call, against those of one.
fn batch(name: &str, spec: &str) {
    let (mut session, _, _) = session(build(spec, "", "cpu", Dtype::Bf16), 8);
    let mut time = |slots: usize| {
        let feeds: Vec<(usize, i32)> = (0..slots).map(|slot| (slot, 5)).collect();
        let start = Instant::now();
        for _ in 0..16 {
            black_box(session.step(&feeds).expect("a step"));
        }
        start.elapsed().as_secs_f64() / 16.0
    };
    let pairs: Vec<(f64, f64)> = (0..RUNS).map(|_| (time(1), time(8))).collect();
    let one = 1.0 / median(pairs.iter().map(|pair| pair.0).collect());
    let eight = 8.0 / median(pairs.iter().map(|pair| pair.1).collect());
    println!("| decode bf16, batch 8, {name} | {eight:.1} tokens/s | batch 1: {one:.1} tokens/s | {:.2} |", eight / one);
}

fn decode(name: &str, spec: &str, dtype: Dtype) {
    let (mut session, bytes, _) = session(build(spec, "", "cpu", dtype), 1);
    let array = vec![1u64; 32 << 20];
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    session.prefill(0, &[1, 2, 3, 4], Wanted::Last, |_, _| ()).expect("a prompt");
    for _ in 0..RUNS {
        let start = Instant::now();
        for _ in 0..16 {
            black_box(session.step(&[(0, 5)]).expect("a step"));
        }
        ours.push(start.elapsed().as_secs_f64() / 16.0);
        ceiling.push(read_seconds(&array));
    }
    let bandwidth = (array.len() * 8) as f64 / fastest(&ceiling);
    let rate = bytes as f64 / median(ours.clone());
    println!(
        "| decode {}, {name} | {:.1} tokens/s, {:.1} GB/s | read bandwidth {:.1} GB/s | {:.2} |",
        called(dtype),
        1.0 / median(ours),
        rate / 1e9,
        bandwidth / 1e9,
        rate / bandwidth
    );
}

fn prefill(name: &str, spec: &str, dtype: Dtype) {
    let (mut session, _, elements) = session(build(spec, "", "cpu", dtype), 1);
    let tokens: Vec<i32> = (0..256).map(|i| i % 1000).collect();
    let mut instruction = "FMA";
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        session.reset(0).expect("a slot");
        let start = Instant::now();
        black_box(session.forward(&[Feed::new(0, &tokens, Wanted::All)]).expect("a prompt"));
        ours.push(start.elapsed().as_secs_f64());
        let (name, own) = match dtype {
            Dtype::Bf16 => ("BF16-dot", pairs::flops(threads())),
            Dtype::Int8 | Dtype::Int4 | Dtype::Int4z => ("VNNI", pairs::of_bytes(threads())),
            _ => ("FMA", None),
        };
        instruction = if own.is_some() { name } else { "FMA" };
        ceiling.push(own.unwrap_or_else(|| peak::flops(threads())));
    }
    let peak = ceiling.iter().copied().fold(0.0, f64::max);
    let seconds = median(ours);
    // Matrix products only; attention and recurrences come on top.
    let rate = 2.0 * elements as f64 * tokens.len() as f64 / seconds;
    println!(
        "| prefill {} of 256, {name} | {:.0} tokens/s, {:.0} GFLOP/s in matrix products | {} peak {:.0} GFLOP/s | {:.2} |",
        called(dtype),
        tokens.len() as f64 / seconds,
        rate / 1e9,
        instruction,
        peak / 1e9,
        rate / peak
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fastest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Seconds in which all threads together read an array once.
fn read_seconds(array: &[u64]) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in array.chunks(array.len() / threads()) {
            scope.spawn(move || {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has the feature that the function is compiled for.
                    unsafe { read_512(part) }
                } else {
                    read(part)
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}

#[inline(always)]
fn read(part: &[u64]) {
    let mut sums = [0u64; 64];
    for block in part.chunks_exact(64) {
        sums.iter_mut().zip(block).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f")]
fn read_512(part: &[u64]) {
    read(part);
}
