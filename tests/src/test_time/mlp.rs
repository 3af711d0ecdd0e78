//! The memory of two layers against a plain loop whose gradients are differences of its loss.

use super::{distance, numbers};
use crate::properties::compiled::{Compiled, agree, feed};
use braid_compiler::forms::Chunks;
use std::collections::BTreeMap;

const ROWS: usize = 10;
const SIZE: usize = 3;
const HIDDEN: usize = 5;
const BATCH: usize = 4;

/// The layers' weights one after the other.
type Weights = Vec<f64>;

fn normed(x: &[f64], scale: &[f64], shift: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().zip(scale.iter().zip(shift)).map(|(x, (w, b))| (x - mean) / (variance + 1e-6).sqrt() * w + b).collect()
}

/// `gelu(x A + a) B + b`.
fn layers(x: &[f64], w: &Weights) -> Vec<f64> {
    let (first, rest) = w.split_at(SIZE * HIDDEN);
    let (bias, rest) = rest.split_at(HIDDEN);
    let (second, last) = rest.split_at(HIDDEN * SIZE);
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let inner = |n: usize| gelu((0..SIZE).map(|k| x[k] * first[k * HIDDEN + n]).sum::<f64>() + bias[n]);
    let inner: Vec<f64> = (0..HIDDEN).map(inner).collect();
    (0..SIZE).map(|v| (0..HIDDEN).map(|n| inner[n] * second[n * SIZE + v]).sum::<f64>() + last[v]).collect()
}

/// All outputs. `table` has rows of query, key, value and the rate's argument.
fn plainly(table: &[f64], start: &Weights, scale: &[f64], shift: &[f64]) -> Vec<f64> {
    let (mut begun, mut now, mut out) = (start.clone(), start.clone(), vec![]);
    let mut slope = vec![0.0; start.len()];
    for (at, row) in table.chunks(3 * SIZE + 1).enumerate() {
        let (query, key, value) = (&row[..SIZE], &row[SIZE..2 * SIZE], &row[2 * SIZE..3 * SIZE]);
        if at % BATCH == 0 {
            begun.clone_from(&now);
            slope.fill(0.0);
        }
        let loss = |w: &Weights| -> f64 {
            let guess = normed(&layers(key, w), scale, shift);
            (0..SIZE).map(|v| 0.5 * (guess[v] - (value[v] - key[v])).powi(2)).sum()
        };
        for n in 0..start.len() {
            let moved = |by: f64| {
                let mut w = begun.clone();
                w[n] += by;
                loss(&w)
            };
            slope[n] += (moved(1e-5) - moved(-1e-5)) / 2e-5;
        }
        let rate = 1.0 / (1.0 + (-row[3 * SIZE]).exp());
        now = begun.iter().zip(&slope).map(|(w, g)| w - rate * g).collect();
        let query: Vec<f64> = query.iter().map(|q| q / (SIZE as f64).sqrt()).collect();
        out.extend(normed(&layers(&query, &now), scale, shift).iter().zip(&query).map(|(u, q)| u + q));
    }
    out
}

#[test]
fn ttt_mlp_learns_two_layers() {
    let d = 3 * SIZE + 1;
    let text = format!(
        "model test(places: dim = {ROWS}, d: dim = {d})(tokens: [t]) -> [t, d] {{\n  param table: [places, d]\n  mixer = ttt_mlp(heads: 1, k: \
         {SIZE}, n: {HIDDEN}, batch: {BATCH})\n  return mixer(table[places: tokens])\n}}\n"
    );
    let (table, start) = (numbers(ROWS * d, 11), numbers(2 * SIZE * HIDDEN + HIDDEN + SIZE, 12));
    let (scale, shift) = (vec![1.0, 0.8, 1.2], vec![0.1, -0.2, 0.0]);
    let pick = |n: usize, from: usize| (0..n * d).map(|at| if at % d == from + at / d { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
    let mut params = BTreeMap::from([
        ("table", table.clone()),
        ("mixer.wq", pick(SIZE, 0)),
        ("mixer.wk", pick(SIZE, SIZE)),
        ("mixer.wv", pick(SIZE, 2 * SIZE)),
        ("mixer.wr", pick(1, 3 * SIZE)),
        ("mixer.wo", (0..d * SIZE).map(|at| if at / SIZE == at % SIZE { 1.0 } else { 0.0 }).collect()),
        ("mixer.scale", scale.clone()),
        ("mixer.shift", shift.clone()),
    ]);
    let mut left = start.as_slice();
    let layers = [("mixer.a0", SIZE * HIDDEN), ("mixer.a1", HIDDEN), ("mixer.b0", HIDDEN * SIZE), ("mixer.b1", SIZE)];
    for (name, count) in layers {
        let (own, rest) = left.split_at(count);
        params.insert(name, own.to_vec());
        left = rest;
    }
    let single: BTreeMap<String, Vec<f32>> =
        params.iter().map(|(name, data)| ((*name).to_owned(), data.iter().map(|x| *x as f32).collect())).collect();
    let compiled = Compiled::with(&text, Chunks::Auto, |path, _| single[path].clone());
    let tokens: Vec<i32> = (0..ROWS as i32).collect();
    let evaluated = compiled.evaluated(&tokens);
    let found: Vec<f64> = evaluated.chunks(d).flat_map(|row| row[..SIZE].to_vec()).collect();
    let wanted = plainly(&table, &start, &scale, &shift);
    assert!(distance(&found, &wanted) < 1e-5, "{:e}", distance(&found, &wanted));
    for cuts in [vec![ROWS], vec![1; ROWS], vec![3, 6, 1]] {
        let (mut session, mut at, mut native) = (compiled.session(2, 1), 0, vec![]);
        for cut in cuts {
            native.extend(feed(&mut session, 0, &tokens[at..at + cut]));
            at += cut;
        }
        agree("native", &native, &evaluated, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}
