//! Sound sample by sample at several rates, against loops over the rows of each rate.

use crate::properties::compiled::{Compiled, agree, feed};

const SPEC: &str = "use models.sashimi\nmodel m = sashimi(depth: 2, layers: 1, d: 4, n: 3, pool: 2, vocab: 10)\n";
const POOL: usize = 2;

type Rows = Vec<Vec<f64>>;

struct Plain<'a>(&'a Compiled);

impl Plain<'_> {
    /// `w x + b` of each row.
    fn linear(&self, x: &Rows, w: &str, b: &str) -> Rows {
        let (w, b) = (self.0.numbers(w), self.0.numbers(b));
        let one = |x: &Vec<f64>| -> Vec<f64> {
            let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            b.iter().zip(w.chunks(x.len())).map(|(b, w)| b + dot(w)).collect()
        };
        x.iter().map(one).collect()
    }

    fn norm(&self, x: &Rows, path: &str) -> Rows {
        let (w, b) = (self.0.numbers(&format!("{path}.w")), self.0.numbers(&format!("{path}.b")));
        let one = |x: &Vec<f64>| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
            (0..x.len()).map(|c| (x[c] - mean) / deviation * w[c] + b[c]).collect()
        };
        x.iter().map(one).collect()
    }

    /// `slow_s4d`: a diagonal complex state space, then a gated map, over the rows of one rate.
    fn s4d(&self, x: &Rows, path: &str) -> Rows {
        let of = |name: &str| self.0.numbers(&format!("{path}.{name}"));
        let [a_log, a_im, cr, ci, log_dt, skip] = ["a_log", "a_im", "cr", "ci", "log_dt", "skip"].map(of);
        let (d, n) = (skip.len(), a_log.len() / skip.len());
        let mut states = vec![(0.0, 0.0); d * n];
        let mut row = |u: &Vec<f64>| {
            let one = |c: usize| {
                let mut sum = skip[c] * u[c];
                for at in c * n..c * n + n {
                    let (re, im, dt) = (-a_log[at].exp(), a_im[at], log_dt[c].exp());
                    let (ar, ai) = ((dt * re).exp() * (dt * im).cos(), (dt * re).exp() * (dt * im).sin());
                    let size = re * re + im * im;
                    let (br, bi) = (((ar - 1.0) * re + ai * im) / size, (ai * re - (ar - 1.0) * im) / size);
                    let (h, g) = states[at];
                    states[at] = (ar * h - ai * g + br * u[c], ar * g + ai * h + bi * u[c]);
                    sum += 2.0 * (cr[at] * states[at].0 - ci[at] * states[at].1);
                }
                sum
            };
            (0..d).map(one).collect::<Vec<f64>>()
        };
        let y: Rows = x.iter().map(&mut row).collect();
        let y: Rows = y.iter().map(|y| y.iter().map(|x| gelu(*x)).collect()).collect();
        let at = |name: &str| format!("{path}.mix.{name}");
        let (a, b) = (self.linear(&y, &at("w"), &at("b")), self.linear(&y, &at("wg"), &at("bg")));
        let gate = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a / (1.0 + (-b).exp())).collect();
        a.iter().zip(&b).map(|(a, b)| gate(a, b)).collect()
    }

    /// `slow_layers`.
    fn layers(&self, x: &Rows, path: &str) -> Rows {
        let at = |name: &str| format!("{path}.layers.0.{name}");
        let x = sum(x, &self.s4d(&self.norm(x, &at("norm1")), &at("mixer")));
        let inner = self.linear(&self.norm(&x, &at("norm2")), &at("ffn.wu"), &at("ffn.bu"));
        let inner: Rows = inner.iter().map(|row| row.iter().map(|x| gelu(*x)).collect()).collect();
        sum(&x, &self.linear(&inner, &at("ffn.wd"), &at("ffn.bd")))
    }

    /// Rows of one rate (`slower`); those of the next are half as many.
    fn rate(&self, x: &Rows, path: &str, depth: usize) -> Rows {
        let at = |name: &str| format!("{path}.{name}");
        let mut x = x.clone();
        if depth > 0 {
            // The weights of a down-pool are [more, d, pool].
            let side = |rows: &[Vec<f64>]| (0..x[0].len()).flat_map(|c| rows.iter().map(move |row| row[c])).collect::<Vec<f64>>();
            let pooled: Rows = x.chunks_exact(POOL).map(side).collect();
            let below = self.rate(&self.linear(&pooled, &at("down"), &at("bd")), &at("below"), depth - 1);
            let up = self.linear(&below, &at("up"), &at("bu"));
            let d = x[0].len();
            for (at, row) in x.iter_mut().enumerate().skip(POOL) {
                let said = &up[at / POOL - 1][at % POOL * d..];
                row.iter_mut().zip(said).for_each(|(x, said)| *x += said);
            }
        }
        sum(&x, &self.layers(&x, &at("mix")))
    }
}

fn sum(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// By the series of the error function.
fn gelu(x: f64) -> f64 {
    let z = x * 0.5f64.sqrt();
    let (mut term, mut erf) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        erf += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + erf * 2.0 / std::f64::consts::PI.sqrt())
}

#[test]
fn samples_mixed_at_several_rates() {
    let compiled = Compiled::new(SPEC);
    let tokens: Vec<i32> = (0..43).map(|at| (at * at + at / 5) % 10).collect();
    let embed = compiled.numbers("embed");
    let x: Rows = tokens.iter().map(|token| embed[*token as usize * 4..][..4].to_vec()).collect();
    let plain = Plain(&compiled);
    let y = plain.norm(&plain.rate(&x, "stack", 2), "norm");
    let wanted = plain.linear(&y, "head", "bh").concat();
    agree("whole", &compiled.whole(&tokens), &wanted, 2e-5).unwrap();
    let mut session = compiled.session(2, 1);
    for cut in [1, 3] {
        session.reset(0).unwrap();
        let parts: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("in parts", &parts, &wanted, 2e-5).unwrap();
    }
}
