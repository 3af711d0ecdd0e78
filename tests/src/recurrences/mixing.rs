//! The mixing of a token with the one before in RWKV-6, and all around its recurrence, against plain loops.

use crate::build::model;
use crate::properties::compiled::made_up;
use crate::reference::Reference;
use braid_compiler::graph::Graph;

const D: usize = 6;
const HEADS: usize = 2;
const K: usize = 3;
const RANK: usize = 2;
const EPS: f64 = 0.01;

/// Numbers of a parameter of the block.
fn numbers(name: &str, shape: &[usize]) -> Vec<f64> {
    made_up(name, shape).into_iter().map(f64::from).collect()
}

/// `w x`, for a matrix of as many columns as `x` is long.
fn times(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn zip(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

/// The outputs of the block for rows `x`.
fn plain(x: &[Vec<f64>]) -> Vec<f64> {
    let n = HEADS * K;
    let p = |name: &str, size: usize| numbers(&format!("mixer.{name}"), &shape(name, size));
    let (mut state, mut before, mut out) = (vec![0.0; n * K], vec![0.0; D], vec![]);
    for x in x {
        let back = zip(&before, x, |b, x| b - x);
        before.clone_from(x);
        let guide = zip(x, &zip(&back, &p("mu0", D), |a, b| a * b), |a, b| a + b);
        let inputs: Vec<Vec<f64>> = (0..5)
            .map(|i| {
                let (down, up, mu) = (p("down", 5 * RANK * D), p("up", 5 * D * RANK), p("mu", 5 * D));
                let low: Vec<f64> = times(&down[i * RANK * D..][..RANK * D], &guide).into_iter().map(f64::tanh).collect();
                let far = zip(&times(&up[i * D * RANK..][..D * RANK], &low), &mu[i * D..][..D], |a, b| a + b);
                zip(x, &zip(&back, &far, |a, b| a * b), |a, b| a + b)
            })
            .collect();
        let low: Vec<f64> = times(&p("dw", RANK * D), &inputs[0]).into_iter().map(f64::tanh).collect();
        let decay = zip(&times(&p("uw", n * RANK), &low), &p("bw", n), |a, b| (-(a + b).exp()).exp());
        let [key, value, r] = [("wk", 1), ("wv", 2), ("wr", 3)].map(|(name, i)| times(&p(name, n * D), &inputs[i]));
        let gate: Vec<f64> = times(&p("wg", n * D), &inputs[4]).into_iter().map(|g| g / (1.0 + (-g).exp())).collect();
        let bonus = p("u", n);
        let mut y = vec![0.0; n];
        for (at, (h, k, v)) in (0..n * K).map(|at| (at, (at / (K * K), at / K, at % K))) {
            let new = key[k] * value[h * K + v];
            y[h * K + v] += r[k] * (state[at] + bonus[k] * new);
            state[at] = decay[k] * state[at] + new;
        }
        for head in y.chunks_mut(K) {
            let mean = head.iter().sum::<f64>() / K as f64;
            let spread = (head.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / K as f64 + EPS).sqrt();
            head.iter_mut().for_each(|y| *y = (*y - mean) / spread);
        }
        let normed = zip(&zip(&y, &p("norm_w", n), |a, b| a * b), &p("norm_b", n), |a, b| a + b);
        out.extend(times(&p("wo", D * n), &zip(&normed, &gate, |a, b| a * b)));
    }
    out
}

/// The declared shape of a parameter; its last axis scales the numbers that are made up.
fn shape(name: &str, size: usize) -> Vec<usize> {
    let last = match name {
        "mu0" | "mu" | "down" | "dw" | "wk" | "wv" | "wr" | "wg" => D,
        "up" | "uw" => RANK,
        _ => K,
    };
    vec![size / last, last]
}

#[test]
fn rwkv6_mixes_a_token_with_the_one_before() {
    let text = format!(
        "model m(d: dim = {D}, places: dim = 9)(tokens: [t]) -> [t, d] {{\n  param embed: [places, d]\n  mixer = rwkv6(heads: {HEADS}, k: {K}, \
         rank: {RANK}, decay_rank: {RANK}, eps: {EPS})\n  return mixer(embed[places: tokens])\n}}\n"
    );
    let graph = Graph::build(&model(&text));
    let params = |path: &str| {
        let param = graph.params.iter().find(|param| param.path == path).expect("a parameter");
        numbers(path, &param.axes.iter().filter_map(|axis| graph.size(*axis)).collect::<Vec<_>>())
    };
    let tokens = [3, 1, 4, 1, 5, 8, 2, 6];
    let found = Reference::new(&graph, params).run(&tokens).data;
    let rows: Vec<Vec<f64>> = tokens.iter().map(|at| params("embed")[*at as usize * D..][..D].to_vec()).collect();
    let far = found.iter().zip(plain(&rows)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 1e-12, "{far:e} off");
}
