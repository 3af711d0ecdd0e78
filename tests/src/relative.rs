//! Biases by relative position that are looked up in attention, against loops written from the paper.

use crate::properties::compiled::{Compiled, agree, feed};

fn spec(causal: bool) -> String {
    let generate = if causal { "  generate autoregressive\n" } else { "" };
    format!(
        "model m(d: dim = 12, heads: dim = 3, k: dim = 4, buckets: dim = 8, vocab: dim = 16)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param table: [buckets, heads]
  x = embed[vocab: tokens]
  first = relative_attention(k: k, far: 20, causal: {causal})
  x = x + first(x, table)
  second = relative_attention(k: k, far: 20, causal: {causal}, scale: 0.5)
  x = x + second(x, table)
{generate}  return sum[d] x * embed
}}
"
    )
}

/// As the paper's code has it: the exact half, then logarithms.
fn bucket(query: usize, key: usize, causal: bool) -> usize {
    let (far, distance) = (20.0f64, query as i64 - key as i64);
    let (count, start) = match causal {
        true => (8, 0),
        false => (4, if distance < 0 { 4 } else { 0 }),
    };
    let (n, exact) = (if causal { distance.max(0) } else { distance.abs() } as usize, count / 2);
    if n < exact {
        return start + n;
    }
    let more = (n as f64 / exact as f64).ln() / (far / exact as f64).ln() * (count - exact) as f64;
    start + (exact + (more + 1e-9).floor() as usize).min(count - 1)
}

fn layer(compiled: &Compiled, x: &[f64], (path, scale): (&str, f64), causal: bool) -> Vec<f64> {
    let of = |name: &str| compiled.numbers(&format!("{path}.{name}"));
    let (wo, table, rows) = (of("wo"), compiled.numbers("table"), x.len() / 12);
    let through = |w: Vec<f64>| -> Vec<f64> {
        (0..rows * 12).map(|at| (0..12).map(|d| x[at / 12 * 12 + d] * w[at % 12 * 12 + d]).sum()).collect()
    };
    let (q, k, v) = (through(of("wq")), through(of("wk")), through(of("wv")));
    let mut out = x.to_vec();
    for (t, head) in (0..rows).flat_map(|t| (0..3).map(move |head| (t, head))) {
        let seen = if causal { t + 1 } else { rows };
        let score = |s: usize| {
            let dot: f64 = (0..4).map(|i| q[t * 12 + head * 4 + i] * k[s * 12 + head * 4 + i]).sum();
            (scale * dot + table[bucket(t, s, causal) * 3 + head]).exp()
        };
        let weights: Vec<f64> = (0..seen).map(score).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..4 {
            let o: f64 = (0..seen).map(|s| weights[s] / total * v[s * 12 + head * 4 + i]).sum();
            (0..12).for_each(|d| out[t * 12 + d] += o * wo[d * 12 + head * 4 + i]);
        }
    }
    out
}

#[test]
fn biases_by_buckets_of_distances() {
    for causal in [true, false] {
        let compiled = Compiled::new(&spec(causal));
        let tokens: Vec<i32> = (0..45).map(|at| (at * at + at / 4) % 16).collect();
        let embed = compiled.numbers("embed");
        let mut x: Vec<f64> = tokens.iter().flat_map(|token| embed[*token as usize * 12..][..12].to_vec()).collect();
        for part in [("first", 1.0), ("second", 0.5)] {
            x = layer(&compiled, &x, part, causal);
        }
        let logits = |x: &[f64]| embed.chunks(12).map(|e| e.iter().zip(x).map(|(a, b)| a * b).sum()).collect::<Vec<f64>>();
        let wanted: Vec<f64> = x.chunks(12).flat_map(logits).collect();
        agree("whole", &compiled.whole(&tokens), &wanted, 1e-5).unwrap();
        let evaluated: Vec<f32> = compiled.evaluated(&tokens).iter().map(|x| *x as f32).collect();
        agree("evaluated", &evaluated, &wanted, 1e-6).unwrap();
        if causal {
            let mut session = compiled.session(2, 1);
            let parts: Vec<f32> = tokens.chunks(7).flat_map(|part| feed(&mut session, 0, part)).collect();
            agree("in parts", &parts, &wanted, 1e-5).unwrap();
        }
    }
}
