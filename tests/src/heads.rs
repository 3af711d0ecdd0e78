//! Attention whose heads differ: opened by a router, with a span each, with spans that tokens ask for. Against a golden operator and plain loops.

use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use braid_compiler::forms::Chunks;

const D: usize = 24;
const HEADS: usize = 6;
const K: usize = 8;

/// Two heads that are always open and two of four others (MoH).
#[test]
fn two_heads_of_four() {
    let golden = Golden::open("mixture_of_heads");
    let names = [("wq", "W_q"), ("wk", "W_k"), ("wv", "W_v"), ("wo", "W_o"), ("wr", "Wr"), ("ws", "Ws"), ("wm", "Wm")];
    let weights = names.map(|(name, from)| (format!("mix.{name}"), golden.all(&format!("in.{from}")).to_vec())).to_vec();
    let text = "mix = head_mixture(shared: 2, routed: 4, active: 2, k: 8)\n  y = mix(x)";
    Case { golden: "mixture_of_heads", columns: "x[d]", text, outputs: "y[d]", weights, ..Case::default() }.check();
}

/// One of these mixers over rows of a table, with an output behind its result.
struct Mixed {
    compiled: Compiled,
    tokens: Vec<i32>,
    /// One row for each position.
    x: Vec<Vec<f64>>,
}

impl Mixed {
    fn new(mixer: &str, outputs: bool) -> Mixed {
        let spec = format!(
            "model m(d: dim = {D}, vocab: dim = 40)(tokens: [t]) -> [t, d] {{
  param embed: [vocab, d]
  mix = {mixer}
  generate autoregressive
  return mix(embed[vocab: tokens])
}}
"
        );
        let long = |path: &str, shape: &[usize]| -> Vec<f32> {
            let by = if path == "embed" { 6.0 } else { 1.0 };
            made_up(path, shape).iter().map(|x| by * x).collect()
        };
        let compiled = if outputs { Compiled::with_outputs(&spec, long) } else { Compiled::with(&spec, Chunks::Auto, long) };
        let tokens: Vec<i32> = (0..61).map(|at| (at * at + at / 3) % 40).collect();
        let embed = compiled.numbers("embed");
        let x = tokens.iter().map(|token| embed[*token as usize * D..][..D].to_vec()).collect();
        Mixed { compiled, tokens, x }
    }

    /// `w x` for each row of a matrix.
    fn through(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.compiled.numbers(&format!("mix.{name}"));
        w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    /// Causal attention by heads: `more` is what a score gains, `gate` what the result of a head is multiplied by.
    fn attention(&self, more: impl Fn(usize, usize, usize) -> f64, gate: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let all = |name: &str| self.x.iter().map(|x| self.through(name, x)).collect::<Vec<_>>();
        let (q, k, v) = (all("wq"), all("wk"), all("wv"));
        let mut out = vec![];
        for (t, query) in q.iter().enumerate() {
            let head = |h: usize| {
                let part = |x: &[f64], i: usize| x[h * K + i];
                let dot = |s: usize| (0..K).map(|i| part(query, i) * part(&k[s], i)).sum::<f64>() / (K as f64).sqrt();
                let weights: Vec<f64> = (0..=t).map(|s| (dot(s) + more(h, t, s)).exp()).collect();
                let total: f64 = weights.iter().sum();
                let of = |i: usize| weights.iter().zip(&v).map(|(w, v)| w / total * part(v, i)).sum::<f64>();
                (0..K).map(|i| gate(t, h) * of(i)).collect::<Vec<f64>>()
            };
            let heads: Vec<f64> = (0..HEADS).flat_map(head).collect();
            out.extend(self.through("wo", &heads));
        }
        out
    }

    /// The evaluator, the whole sequence, and parts of it give what is wanted, and behind it the output.
    fn gives(&self, wanted: &[f64], output: &[Vec<f64>]) {
        let rows = wanted.chunks(D).enumerate().map(|(t, row)| [row, output.get(t).map_or(&[][..], |o| o)].concat());
        let both: Vec<f64> = rows.flatten().collect();
        let evaluated: Vec<f32> = self.compiled.evaluated(&self.tokens).iter().map(|x| *x as f32).collect();
        agree("evaluated", &evaluated, &both, 1e-5).unwrap();
        agree("whole", &feed(&mut self.compiled.session(2, 1), 0, &self.tokens), &both, 1e-4).unwrap();
        let mut session = self.compiled.session(1, 1);
        let parts = [&self.tokens[..7], &self.tokens[7..8], &self.tokens[8..9], &self.tokens[9..]];
        let found: Vec<f32> = parts.iter().flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("in parts", &found, &both, 1e-4).unwrap();
    }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / total).collect()
}

/// As many routed heads as it takes to reach a probability.
#[test]
fn as_many_heads_as_needed() {
    let mixed = Mixed::new("head_mixture(shared: 2, routed: 4, mass: 0.7, k: 8)", true);
    let gates = |x: &Vec<f64>| {
        let [both, shared, p] = ["wm", "ws", "wr"].map(|name| softmax(&mixed.through(name, x)));
        let mut order: Vec<usize> = (0..4).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
        let mut gates: Vec<f64> = shared.iter().map(|s| both[0] * s).chain([0.0; 4]).collect();
        let mut before = 0.0;
        for head in order {
            if before < 0.7 {
                gates[2 + head] = both[1] * p[head];
            }
            before += p[head];
        }
        gates
    };
    let gates: Vec<Vec<f64>> = mixed.x.iter().map(gates).collect();
    let open: Vec<usize> = gates.iter().map(|row| row.iter().filter(|g| **g > 0.0).count()).collect();
    assert!((3..=5).all(|count| open.contains(&count)), "one to three are open: {open:?}");
    mixed.gives(&mixed.attention(|_, _, _| 0.0, |t, h| gates[t][h]), &gates);
}

/// Spans by head, two of which grow with the text, two heads without.
#[test]
fn a_span_for_each_head() {
    let mixer = "span_mixture(heads: 6, k: 8, spans: [2, 9, 4, 1], rates: [0.0, 0.25, 0.5], sinks: 3, rope: identity())";
    let mixed = Mixed::new(mixer, false);
    let spans = [(2.0, 0.0), (9.0, 0.25), (4.0, 0.5), (1.0, 0.0)];
    let seen = |h: usize, t: usize, s: usize| {
        let near = spans.get(h).is_none_or(|(span, rate)| ((t - s) as f64) < span + rate * (t + 1) as f64);
        if near || s < 3 { 0.0 } else { f64::NEG_INFINITY }
    };
    mixed.gives(&mixed.attention(seen, |_, _| 1.0), &[]);
}

/// Spans by head and token, with a ramp at their end.
#[test]
fn spans_that_tokens_ask_for() {
    let mixed = Mixed::new("adaptive_span_attention(heads: 6, k: 8, most: 20, ramp: 5, rope: identity())", true);
    let bias = mixed.compiled.numbers("mix.bs");
    let asked = |x: &Vec<f64>| -> Vec<f64> {
        mixed.through("ws", x).iter().zip(&bias).map(|(x, b)| 20.0 / (1.0 + (-(x + b)).exp())).collect()
    };
    let spans: Vec<Vec<f64>> = mixed.x.iter().map(asked).collect();
    let weight = |h: usize, t: usize, s: usize| ((5.0 + spans[t][h] - (t - s) as f64) / 5.0).clamp(0.0, 1.0).ln();
    mixed.gives(&mixed.attention(weight, |_, _| 1.0), &spans);
}
