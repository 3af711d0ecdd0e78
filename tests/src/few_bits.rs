//! Values rounded to few bits inside of a model, against golden results of each scheme and against loops.

use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;

const QKV: &str = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";

#[test]
fn queries_and_keys_of_eight_bits() {
    let text = "o = attend[c](q, kk, vv) { score: s * c ^ -0.5   policy: quantised_attention(smooth: true) }
  exact = attend[c](q, kk, vv) { score: s * c ^ -0.5 }";
    let outputs = "o[heads, e] exact=o_exact[heads, e]";
    Case { golden: "attention_int8", columns: QKV, text, outputs, whole: true, ..Case::default() }.check();
}

/// Keys by channel over ten positions, values by position over eight channels, each between its smallest and largest.
#[test]
fn a_cache_of_four_bits() {
    let text = "begins = position[t] % 10 == 0
  recur low: [heads, c], high: [heads, c] over t {
    low = min(select(begins, inf, low), kk)
    high = max(select(begins, -inf, high), kk)
    lowest = low
    highest = high
  }
  last = position[t] - position[t] % 10 + 9
  zero = lowest[t: last]
  keys = between_levels(kk, zero, (highest[t: last] - zero) / 15.0)
  dim within = 8
  dim many = 2
  values = fake_quantised_between[within](vv[e as (many, within)], 4)[(many, within) as e]
  o = attend[c](q, keys, values) { score: s * c ^ -0.5 }";
    Case { golden: "kv_cache_int4", columns: QKV, text, outputs: "o[heads, e]", whole: true, ..Case::default() }.check();
}

/// By row of weights and position of inputs, by row alone, and by groups of eight.
#[test]
fn products_of_eight_bits() {
    let golden = Golden::sized("int8_linear", 10);
    let weights = ["both", "rows", "groups"].map(|name| (format!("{name}.w"), golden.all("in.W").to_vec())).to_vec();
    let text = "both = quantised_product(out: n)
  rows = quantised_product(out: n, input_bits: 0)
  groups = quantised_product(out: n, input_bits: 0, group: 8)
  y = both(x)
  z = rows(x)
  g = groups(x)";
    let outputs = "y=y_w8a8[n:28] z=y_w8a16[n] g=y_g[n]";
    Case { golden: "int8_linear", columns: "x[d]", text, outputs, weights, times: 10, ..Case::default() }.check();
}

#[test]
fn products_of_three_weights() {
    let golden = Golden::sized("bitlinear", 10);
    let weights = vec![("product.w".to_owned(), golden.all("in.W").to_vec())];
    let text = "product = ternary_product(out: n)\n  y = product(x)";
    Case { golden: "bitlinear", columns: "x[d]", text, outputs: "y[n:28]", weights, times: 10, ..Case::default() }.check();
}

/// One scale for eight positions, of keys without their mean, and what that costs.
#[test]
fn scales_of_blocks_and_the_error_that_they_cost() {
    let spec = |policy: &str| {
        format!(
            "model m(d: dim = 16, heads: dim = 2, k: dim = 8, vocab: dim = 24)(tokens: [t]) -> [t, heads, k] {{
  param embed: [vocab, d]   param wq, wk, wv: [heads, k, d]   param offset: [heads, k]
  x = embed[vocab: tokens]
  return attend[k](sum[d] x * wq, sum[d] x * wk + 9.0 * offset, sum[d] x * wv) {{ score: s * k ^ -0.5   policy: {policy} }}
}}
"
        )
    };
    let tokens: Vec<i32> = (0..37).map(|at| (at * at + at / 3) % 24).collect();
    let mut errors = Vec::new();
    for (smooth, block) in [(true, 8), (false, 8), (true, 1)] {
        let policy = format!("quantised_attention(span: {block}, smooth: {smooth})");
        let compiled = Compiled::with_outputs(&spec(&policy), made_up);
        let all = feed(&mut compiled.session(2, 1), 0, &tokens);
        let of = |from: usize, to: usize| all.chunks(17).flat_map(|row| &row[from..to]).copied().collect::<Vec<f32>>();
        let (wanted, distances) = by_loops(&compiled, &tokens, smooth, block);
        agree(&policy, &of(0, 16), &wanted, 1e-4).unwrap();
        agree("its error", &of(16, 17), &distances, 2e-3).unwrap();
        errors.push(distances.iter().sum::<f64>() / 37.0);
    }
    println!("mean square errors: smooth blocks {:.2e}, blocks {:.2e}, smooth positions {:.2e}", errors[0], errors[1], errors[2]);
    assert!(errors[0] < 0.2 * errors[1], "smooth keys cost less: {errors:?}");
}

fn by_loops(compiled: &Compiled, tokens: &[i32], smooth: bool, block: usize) -> (Vec<f64>, Vec<f64>) {
    let through = |name: &str, token: i32| -> Vec<f64> {
        let x = &compiled.numbers("embed")[token as usize * 16..][..16];
        compiled.numbers(name).chunks(16).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let all = |name: &str| tokens.iter().map(|token| through(name, *token)).collect::<Vec<Vec<f64>>>();
    let (q, mut k, v) = (all("wq"), all("wk"), all("wv"));
    let offset = compiled.numbers("offset");
    k.iter_mut().for_each(|row| row.iter_mut().zip(&offset).for_each(|(x, offset)| *x += 9.0 * offset));
    let mean = |i: usize| k.iter().map(|row| row[i]).sum::<f64>() / k.len() as f64;
    let means: Vec<f64> = (0..16).map(|i| if smooth { mean(i) } else { 0.0 }).collect();
    let less: Vec<Vec<f64>> = k.iter().map(|row| row.iter().zip(&means).map(|(x, mean)| x - mean).collect()).collect();
    let rounded = |x: &[Vec<f64>], t: usize, head: usize| -> Vec<f64> {
        let rows = &x[t / block * block..(t / block * block + block).min(x.len())];
        let most = rows.iter().flat_map(|row| &row[head * 8..][..8]).fold(0.0, |most: f64, x| most.max(x.abs()));
        x[t][head * 8..][..8].iter().map(|x| (x / (most / 127.0)).round_ties_even() * (most / 127.0)).collect()
    };
    let (mut out, mut distances) = (vec![], vec![]);
    for t in 0..tokens.len() {
        let mut distance = 0.0;
        for head in 0..2 {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / 8f64.sqrt();
            let query = rounded(&q, t, head);
            let weighed = |score: &dyn Fn(usize) -> f64| {
                let most = (0..=t).map(score).fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = (0..=t).map(|s| (score(s) - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                (0..8).map(|i| weights.iter().zip(&v).map(|(w, v)| w / total * v[head * 8 + i]).sum()).collect::<Vec<f64>>()
            };
            let few = weighed(&|s| dot(&query, &rounded(&less, s, head)));
            let whole = weighed(&|s| dot(&q[t][head * 8..][..8], &k[s][head * 8..][..8]));
            distance += few.iter().zip(&whole).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / 16.0;
            out.extend(few);
        }
        distances.push(distance);
    }
    (out, distances)
}

/// A memory that learns through its own rounding: the gradient is that of what is rounded.
#[test]
fn gradients_pass_straight_through() {
    let compiled = Compiled::new(
        "model m(d: dim = 6, vocab: dim = 12)(tokens: [t]) -> [t, d] {
  param embed: [vocab, d]
  x = embed[vocab: tokens]
  recur W: [d] over t {
    W = W - 0.3 * grad((sum[d] x * snapped(W, 0.25, 2.0) - 1.0) ^ 2, W)
    y = W
  }
  generate autoregressive
  return y
}
",
    );
    let tokens: Vec<i32> = (0..29).map(|at| (at * at + 1) % 12).collect();
    let (embed, mut w, mut wanted) = (compiled.numbers("embed"), [0.0f64; 6], vec![]);
    for token in &tokens {
        let x = &embed[*token as usize * 6..][..6];
        let steps = w.map(|w| (w / 0.25).round_ties_even());
        let error = x.iter().zip(&steps).map(|(x, step)| x * 0.25 * step.clamp(-2.0, 2.0)).sum::<f64>() - 1.0;
        for ((w, x), step) in w.iter_mut().zip(x).zip(steps) {
            // Beyond the largest step there is no gradient; at it there is.
            *w -= if step.abs() <= 2.0 { 0.3 * 2.0 * error * x } else { 0.0 };
        }
        wanted.extend(w);
    }
    assert!(wanted.iter().any(|w| w.abs() > 0.4), "some come to the bounds");
    agree("whole", &compiled.whole(&tokens), &wanted, 1e-4).unwrap();
}
