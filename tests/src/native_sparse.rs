//! Native sparse attention with compressed blocks that overlap, against loops written from its paper's equations 7 to 12.

use crate::properties::compiled::{Compiled, agree, feed};

const D: usize = 12;
const K: usize = 4;
/// Blocks that are chosen, compressed blocks, and how far one begins behind another.
const SPAN: usize = 16;
const LENGTH: usize = 8;
const STRIDE: usize = 4;
const FEW: usize = 2;
const WINDOW: usize = 20;

const SPEC: &str = "model m(d: dim = 12, vocab: dim = 20)(tokens: [t]) -> [t, d] {
  param embed: [vocab, d]
  mixer = overlapping_sparse_attention(heads: 4, groups: 2, k: 4, span: 16, length: 8, stride: 4, top: 5, window: 20)
  generate autoregressive
  return mixer(embed[vocab: tokens])
}
";

type Rows = Vec<Vec<f64>>;

struct Plain<'a> {
    compiled: &'a Compiled,
    x: Rows,
}

impl Plain<'_> {
    fn of(&self, name: &str) -> Vec<f64> {
        self.compiled.numbers(&format!("mixer.{name}"))
    }

    /// Rows of a projection, `width` numbers from row `from` of its matrix on.
    fn through(&self, name: &str, from: usize, width: usize) -> Rows {
        let w = self.of(name);
        let one = |x: &Vec<f64>, row: usize| x.iter().zip(&w[row * D..]).map(|(x, w)| w * x).sum();
        self.x.iter().map(|x| (from..from + width).map(|row| one(x, row)).collect()).collect()
    }

    /// Blocks of some keys or values of a group, compressed.
    fn compressed(&self, rows: &Rows, matrix: &str, places: &str) -> Rows {
        let (w, p) = (self.of(matrix), self.of(places));
        let block = |begin: usize| {
            let one = |c: usize| {
                let at = |place: usize, k: usize| w[(c * LENGTH + place) * K + k] * (rows[begin + place][k] + p[place * K + k]);
                (0..LENGTH).flat_map(|place| (0..K).map(move |k| (place, k))).map(|(place, k)| at(place, k)).sum()
            };
            (0..K).map(one).collect()
        };
        (0..).map(|i| i * STRIDE).take_while(|begin| begin + LENGTH <= rows.len()).map(block).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (K as f64).sqrt()
}

/// The softmax over some keys; nothing where there are none.
fn shares(query: &[f64], keys: &[&Vec<f64>]) -> Vec<f64> {
    let weights: Vec<f64> = keys.iter().map(|key| dot(query, key).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn weighed(shares: &[f64], values: &[&Vec<f64>]) -> Vec<f64> {
    (0..K).map(|i| shares.iter().zip(values).map(|(share, value)| share * value[i]).sum()).collect()
}

/// Which blocks a query of block `own` looks at: by equation 9 of what compressed blocks get from both heads.
fn blocks(own: usize, from: &[Vec<f64>]) -> Vec<usize> {
    let (strides, parts) = (SPAN / STRIDE, LENGTH / STRIDE);
    let score = |block: usize| {
        let pairs = (0..strides).flat_map(|m| (0..parts).map(move |n| (m, n)));
        let met = pairs.map(|(m, n)| block * strides + m - n).collect::<Vec<_>>();
        from.iter().map(|shares| met.iter().map(|i| shares.get(*i).copied().unwrap_or(0.0)).sum::<f64>()).sum::<f64>()
    };
    let mut others: Vec<usize> = (1..own.saturating_sub(1)).collect();
    others.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    others.truncate(FEW);
    others.extend([0, own.saturating_sub(1), own]);
    others
}

fn by_loops(compiled: &Compiled, tokens: &[i32]) -> Vec<f64> {
    let embed = compiled.numbers("embed");
    let plain = Plain { compiled, x: tokens.iter().map(|token| embed[*token as usize * D..][..D].to_vec()).collect() };
    let wo = plain.of("wo");
    let gates: Vec<Rows> = (0..3).map(|branch| plain.through("wg", branch * 4, 4)).collect();
    let mut out = vec![0.0; tokens.len() * D];
    for group in 0..2 {
        let of = |name: &str, branch: usize| plain.through(name, (branch * 2 + group) * K, K);
        let short = plain.compressed(&of("wk", 0), "ck", "pk");
        let short_values = plain.compressed(&of("wv", 0), "cv", "pv");
        let (fine, fine_values, near, near_values) = (of("wk", 1), of("wv", 1), of("wk", 2), of("wv", 2));
        let queries = [0, 1].map(|head| plain.through("wq", (group * 2 + head) * K, K));
        for t in 0..tokens.len() {
            let there = (0..short.len()).filter(|i| i * STRIDE + LENGTH <= t + 1).count();
            let coarse: Vec<&Vec<f64>> = short[..there].iter().collect();
            let from: Vec<Vec<f64>> = queries.iter().map(|query| shares(&query[t], &coarse)).collect();
            let seen = blocks(t / SPAN, &from);
            let chosen: Vec<usize> = (0..=t).filter(|s| seen.contains(&(s / SPAN))).collect();
            let last: Vec<usize> = (0..=t).filter(|s| t - s < WINDOW).collect();
            for (head, query) in queries.iter().enumerate() {
                let branch = |at: &[usize], keys: &Rows, values: &Rows| {
                    let pick = |rows: &Rows| at.iter().map(|s| rows[*s].clone()).collect::<Rows>();
                    let (keys, values) = (pick(keys), pick(values));
                    let given = shares(&query[t], &keys.iter().collect::<Vec<_>>());
                    weighed(&given, &values.iter().collect::<Vec<_>>())
                };
                let parts = [
                    weighed(&from[head], &short_values[..there].iter().collect::<Vec<_>>()),
                    branch(&chosen, &fine, &fine_values),
                    branch(&last, &near, &near_values),
                ];
                for (number, part) in parts.iter().enumerate() {
                    let gate = 1.0 / (1.0 + (-gates[number][t][group * 2 + head]).exp());
                    for (d, k) in (0..D).flat_map(|d| (0..K).map(move |k| (d, k))) {
                        out[t * D + d] += gate * part[k] * wo[((d * 2 + group) * 2 + head) * K + k];
                    }
                }
            }
        }
    }
    out
}

#[test]
fn overlapping_blocks_with_keys_of_each_branch() {
    let compiled = Compiled::new(SPEC);
    let tokens: Vec<i32> = (0..170).map(|at| (at * at + at / 7) % 20).collect();
    let wanted = by_loops(&compiled, &tokens);
    let evaluated: Vec<f32> = compiled.evaluated(&tokens).iter().map(|x| *x as f32).collect();
    agree("evaluated", &evaluated, &wanted, 1e-5).unwrap();
    agree("whole", &compiled.whole(&tokens), &wanted, 1e-5).unwrap();
    for cut in [1, 23] {
        let mut session = compiled.session(2, 1);
        let found: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("in parts", &found, &wanted, 1e-5).unwrap();
    }
}
