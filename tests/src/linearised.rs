//! Attention made linear over the weights of an unchanged model, against the golden results of its paper's form and against loops.

use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;

#[test]
fn a_window_and_learned_features_in_the_stead_of_a_softmax() {
    let golden = Golden::open("lolcats");
    let weight = |name: &str, source: &str| (format!("linearised.{name}"), golden.all(source).to_vec());
    let weights = vec![weight("wq", "in.Wq"), weight("wk", "in.Wk"), weight("gate", "in.gate")];
    let text = "o = attend[c](q, kk, vv) { score: s * c ^ -0.5   policy: linearised(window: 8, features: 8) }";
    let columns = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";
    Case { golden: "lolcats", columns, text, outputs: "o[heads, e]", weights, ..Case::default() }.check();
}

/// Queries of four heads, keys and values of two, from a table of rows.
fn spec(window: usize, map: &str, learned: bool) -> String {
    let features = if learned { 3 } else { 4 };
    format!(
        "model m(d: dim = 12, groups: dim = 2, per: dim = 2, k: dim = 4, v: dim = 5, vocab: dim = 20)(tokens: [t]) -> [t, groups, per, v] {{
  param embed: [vocab, d]   param wq: [groups, per, k, d]   param wk: [groups, k, d]   param wv: [groups, v, d]
  x = embed[vocab: tokens]
  generate autoregressive
  return attend[k](sum[d] x * wq, sum[d] x * wk, sum[d] x * wv) {{
    score: s * k ^ -0.5 - 0.1 * (query - key)
    policy: linearised(window: {window}, features: {features}, map: \"{map}\", learned: {learned})
  }}
}}
"
    )
}

/// The features of a vector, by rows of `w`, or by itself.
fn features(map: &str, w: Option<&[f64]>, x: &[f64]) -> Vec<f64> {
    let u: Vec<f64> = match w {
        Some(w) => w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect(),
        None => x.to_vec(),
    };
    let shares = |sign: f64| {
        let total: f64 = u.iter().map(|x| (sign * x).exp()).sum();
        u.iter().map(|x| (sign * x).exp() / total).collect::<Vec<f64>>()
    };
    match map {
        "softmax" => [shares(1.0), shares(-1.0)].concat(),
        "relu" => u.iter().map(|x| x.max(0.0)).collect(),
        _ => u.iter().map(|x| if *x > 0.0 { x + 1.0 } else { x.exp() }).collect(),
    }
}

/// What it gives for each position and head, and how far that is from the softmax.
fn by_loops(compiled: &Compiled, tokens: &[i32], (window, map, learned): (usize, &str, bool)) -> (Vec<f64>, Vec<f64>) {
    let through = |name: &str, token: i32| -> Vec<f64> {
        let x = &compiled.numbers("embed")[token as usize * 12..][..12];
        compiled.numbers(name).chunks(12).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let all = |name: &str| tokens.iter().map(|token| through(name, *token)).collect::<Vec<_>>();
    let (q, k, v) = (all("wq"), all("wk"), all("wv"));
    let own = |name: &str| learned.then(|| compiled.numbers(&format!("linearised.{name}")));
    let (wq, wk, gate) = (own("wq"), own("wk"), own("gate"));
    let (mut out, mut distances) = (vec![], vec![]);
    for (t, row) in q.iter().enumerate() {
        let mut distance = 0.0;
        for (group, head) in (0..2).flat_map(|group| (0..2).map(move |head| (group, 2 * group + head))) {
            let query = &row[head * 4..][..4];
            let key = |s: usize| &k[s][group * 4..][..4];
            let score = |s: usize| query.iter().zip(key(s)).map(|(a, b)| a * b).sum::<f64>() / 2.0 - 0.1 * (t - s) as f64;
            let fq = features(map, wq.as_ref().map(|w| &w[head * 12..][..12]), query);
            let linear = |s: usize| {
                let fk = features(map, wk.as_ref().map(|w| &w[group * 12..][..12]), key(s));
                fq.iter().zip(&fk).map(|(a, b)| a * b).sum::<f64>()
            };
            let gamma = gate.as_ref().map_or(0.5, |gate| 1.0 / (1.0 + (-gate[head]).exp()));
            let weight = |s: usize| if t - s < window { gamma * score(s).exp() } else { linear(s) };
            let mean = |weight: &dyn Fn(usize) -> f64| {
                let total: f64 = (0..=t).map(weight).sum();
                (0..5)
                    .map(|i| (0..=t).map(|s| weight(s) * v[s][group * 5 + i]).sum::<f64>() / (total + 1e-12))
                    .collect::<Vec<f64>>()
            };
            let (own, whole) = (mean(&weight), mean(&|s| score(s).exp()));
            distance += own.iter().zip(&whole).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / 20.0;
            out.extend(own);
        }
        distances.push(distance);
    }
    (out, distances)
}

#[test]
fn features_of_every_kind_and_how_far_they_are() {
    let tokens: Vec<i32> = (0..33).map(|at| (at * at + at / 4) % 20).collect();
    for (window, map, learned) in
        [(5, "softmax", true), (0, "softmax", false), (0, "elu1", true), (3, "relu", true), (64, "softmax", false)]
    {
        let what = format!("{map} behind {window}");
        let compiled = Compiled::with_outputs(&spec(window, map, learned), made_up);
        let (wanted, distances) = by_loops(&compiled, &tokens, (window, map, learned));
        let mut session = compiled.session(2, 1);
        for cut in [33, 1, 6] {
            session.reset(0).unwrap();
            let all: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
            let of = |from: usize, to: usize| all.chunks(21).flat_map(|row| &row[from..to]).copied().collect::<Vec<f32>>();
            agree(&what, &of(0, 20), &wanted, 2e-5).unwrap();
            agree(&format!("{what}, how far"), &of(20, 21), &distances, 1e-4).unwrap();
        }
        assert!(window < 64 || distances.iter().all(|x| *x < 1e-12), "a window of everything is the softmax");
    }
}
