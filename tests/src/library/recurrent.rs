//! Recurrent mixers: against reference outputs of their operators, and options against the same mixer written without them.

use super::*;

/// A block around one that also takes a lower bound, which has none here.
const UNBOUNDED: &str =
    "block unbounded(d: dim, heads: dim = 1, k: dim = 16, v: dim = 20, conv: bool = false, width: dim = 4)(x: [t, d]) -> [t, d] {
  inner = hgrn2(heads: heads, k: k, v: v, bounded: false, conv: conv, width: width)
  return inner(x, 0.0 * index[heads] * index[k])
}
";

/// Numbers between -1 and 1 that follow no pattern.
fn noise(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|at| ((at + 31 * seed) as f64 * 12.9898).sin() * 43_758.545).map(|x| 2.0 * (x - x.floor()) - 1.0).collect()
}

fn table(rows: usize, d: usize) -> Vec<Vec<f64>> {
    noise(rows * d, 7).chunks(d).map(<[f64]>::to_vec).collect()
}

/// A matrix of `n` rows that all pick the last of `d` columns.
fn last(n: usize, d: usize) -> Vec<f64> {
    (0..n * d).map(|at| if at % d == d - 1 { 1.0 } else { 0.0 }).collect()
}

/// Each block of `block` numbers `times` times.
fn repeated(data: &[f64], block: usize, times: usize) -> Vec<f64> {
    data.chunks(block).flat_map(|chunk| std::iter::repeat_n(chunk, times).flatten().copied().collect::<Vec<_>>()).collect()
}

/// Kernels of `n` convolutions that pass the current row.
fn passing(n: usize, width: usize) -> Vec<f64> {
    (0..n * width).map(|at| if at % width == width - 1 { 1.0 } else { 0.0 }).collect()
}

#[test]
fn rwkv4_weighs_by_exponentials_that_do_not_overflow() {
    let g = Golden::open("rwkv4_wkv");
    let table = beside(&[g.rows("in.k"), g.rows("in.v"), constant(50, 50.0)]);
    let d = table[0].len();
    let params = [
        ("mix_k", vec![1.0; d]),
        ("mix_v", vec![1.0; d]),
        ("mix_r", vec![1.0; d]),
        ("wk", pick(40, d, 0)),
        ("wv", pick(40, d, 40)),
        ("wr", last(40, d)),
        ("decay", g.all("in.decay")),
        ("bonus", g.all("in.u")),
        ("wo", place(d, 40)),
    ];
    close("rwkv4", &apply("rwkv4(n: 40)", &table, &params), &g.rows("out.y"), 1e-4);
}

#[test]
fn mlstm_keeps_its_exponentials_relative_to_their_maximum() {
    let g = Golden::open("mlstm");
    let table = beside(&[g.rows("in.q"), g.rows("in.k"), g.rows("in.v"), g.rows("in.i"), g.rows("in.f"), constant(50, 50.0)]);
    let d = table[0].len();
    let params = [
        ("wq", pick(48, d, 0)),
        ("wk", pick(48, d, 48)),
        ("wv", pick(72, d, 96)),
        ("wi", pick(3, d, 168)),
        ("wf", pick(3, d, 171)),
        ("wg", last(72, d)),
        ("bi", vec![0.0; 3]),
        ("bf", vec![0.0; 3]),
        ("norm", vec![1.0; 72]),
        ("wo", place(d, 72)),
    ];
    let centred = |run: &[f64]| {
        let mean = run.iter().sum::<f64>() / 24.0;
        run.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let h: Vec<Vec<f64>> = g.rows("out.h").iter().map(|row| row.chunks(24).flat_map(centred).collect()).collect();
    let found = apply("mlstm(heads: 3, k: 16, v: 24, cap: 0.0, norm_eps: 1e-3)", &table, &params);
    close("mlstm", &found, &normalised(&h, 24, 1e-3), 1e-4);
}

#[test]
fn hgrn2_is_a_gated_linear_attention_whose_keys_its_gates_leave_free() {
    let g = Golden::open("hgrn2");
    let head = |name: &str, width: usize, f: fn(f64) -> f64| -> Vec<Vec<f64>> {
        g.rows(name).iter().map(|row| row[..width].iter().copied().map(f).collect()).collect()
    };
    let logit = |f: f64| (f / (1.0 - f)).ln();
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gates = [
        head("in.o", 16, |x| x),
        head("in.o", 16, silu),
        head("in.f", 16, |f| 1.0 - f),
        head("in.i", 20, |i| i),
        head("in.f", 16, logit),
    ];
    let table = beside(&[&gates[..], &[constant(50, OPEN)]].concat());
    let d = table[0].len();
    let (norm, wo) = (("norm", vec![1.0; 20]), ("wo", place(d, 20)));
    let own = [("wq", pick(16, d, 0)), ("wf", pick(16, d, 68)), ("wi", pick(20, d, 48)), norm.clone(), wo.clone()];
    let other = [
        ("wq", pick(16, d, 16)),
        ("wk", pick(16, d, 32)),
        ("wv", pick(20, d, 48)),
        ("wg", last(20, d)),
        ("down", pick(16, d, 68)),
        ("up", pick(16, 16, 0)),
        ("bg", vec![0.0; 16]),
        norm,
        wo,
    ];
    let wanted = apply("gated_linear_attention(heads: 1, k: 16, v: 20, rank: 16, tau: 1.0)", &table, &other);
    close("hgrn2", &apply_with(UNBOUNDED, "unbounded()", &table, &own), &wanted, 1e-9);
}

#[test]
fn heads_that_share_keys_and_values() {
    let (d, k, v) = (10, 4, 3);
    let rows = table(9, d);
    let shared = [("wk", noise(2 * k * d, 1)), ("wv", noise(2 * v * d, 2)), ("up", noise(2 * k * 5, 3)), ("bg", noise(2 * k, 4))];
    let each = [("wk", k * d), ("wv", v * d), ("up", k * 5), ("bg", k)].map(|(name, block)| {
        let one = shared.iter().find(|(n, _)| *n == name).map(|(_, data)| data.clone()).unwrap_or_default();
        (name, repeated(&one, block, 2))
    });
    let common = [
        ("wq", noise(4 * k * d, 5)),
        ("wg", noise(4 * v * d, 6)),
        ("down", noise(5 * d, 7)),
        ("norm", noise(v, 8)),
        ("wo", noise(4 * v * d, 9)),
    ];
    for (name, rest) in [("gated_linear_attention", ", rank: 5"), ("retention", "")] {
        let call = |groups: usize| format!("{name}(heads: 4, groups: {groups}, k: {k}, v: {v}{rest})");
        let found = apply(&call(2), &rows, &[&common[..], &shared].concat());
        close(name, &found, &apply(&call(4), &rows, &[&common[..], &each].concat()), 1e-9);
    }
}

#[test]
fn convolutions_that_pass_the_current_row_change_nothing() {
    let (d, k, v) = (8, 4, 3);
    let rows = table(7, d);
    let params = [
        ("wq", noise(2 * k * d, 1)),
        ("wk", noise(2 * k * d, 2)),
        ("wv", noise(2 * v * d, 3)),
        ("wz", noise(2 * v * d, 4)),
        ("wa", noise(2 * d, 5)),
        ("wb", noise(2 * d, 6)),
        ("a_log", noise(2, 7)),
        ("dt_bias", noise(2, 8)),
        ("wf", noise(2 * k * d, 9)),
        ("wi", noise(2 * v * d, 10)),
        ("norm", noise(2 * v, 11)),
        ("wo", noise(2 * v * d, 12)),
    ];
    let kernels = [("q", k), ("k", k), ("v", v), ("f", k), ("i", v)];
    let kernels = kernels.map(|(name, n)| (["cq", "ck", "cv", "cf", "ci"]["qkvfi".find(name).unwrap_or(0)], passing(2 * n, 3)));
    for (plain, conv) in [
        ("delta_rule(heads: 2, k: 4, v: 3, conv: false)", "delta_rule(heads: 2, k: 4, v: 3, width: 3)"),
        ("gated_delta(heads: 2, k: 4, v: 3, conv: false)", "gated_delta(heads: 2, k: 4, v: 3, width: 3)"),
        ("unbounded(heads: 2, k: 4, v: 3)", "unbounded(heads: 2, k: 4, v: 3, conv: true, width: 3)"),
    ] {
        let norm = ("norm", noise(if plain.starts_with('u') { 2 * v } else { v }, 11));
        let all = [&[norm], &params[..], &kernels].concat();
        close(plain, &apply_with(UNBOUNDED, conv, &rows, &all), &apply_with(UNBOUNDED, plain, &rows, &all), 1e-12);
    }
}

#[test]
fn a_delta_rule_with_keys_that_sum_to_one_averages() {
    // One channel: its key and query are 1 whatever their size, so the memory moves by half of the way to each value.
    let rows: Vec<Vec<f64>> = noise(12, 3).into_iter().map(|v| vec![-2.0, v, OPEN]).collect();
    let call = "delta_rule(heads: 1, k: 1, v: 1, conv: false, map: \"none\", unit: \"sum\", beta: false, strength: 0.5, gate: true, eps: 100.0)";
    let one = |at: usize| (0..3).map(|n| if n == at { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
    let params = [("wq", one(0)), ("wk", one(0)), ("wv", one(1)), ("wg", one(2)), ("norm", vec![1.0]), ("wo", one(0))];
    let mut memory = 0.0;
    let wanted: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            let value = row[1] / (1.0 + (-row[1]).exp());
            memory += 0.5 * (value - memory);
            vec![memory / (memory * memory + 100.0_f64).sqrt()]
        })
        .collect();
    close("delta_rule", &apply(call, &rows, &params), &wanted, 1e-9);
}

#[test]
fn retention_activates_after_its_convolutions() {
    // With kernels that pass the current row only the activations are left: of queries and keys, as a map gives them, and of values.
    let silu = |x: &f64| x / (1.0 + (-x).exp());
    let rows: Vec<Vec<f64>> =
        table(7, 8).into_iter().map(|row| [&row[..], &row.iter().map(silu).collect::<Vec<_>>()].concat()).collect();
    let common = [("wq", noise(8 * 16, 1)), ("wk", noise(8 * 16, 2)), ("norm", noise(3, 4)), ("wo", noise(6 * 16, 5))];
    let with = [("wv", pick(6, 16, 0)), ("cq", passing(8, 2)), ("ck", passing(8, 2)), ("cv", passing(6, 2))];
    let found =
        apply("retention(heads: 2, k: 4, v: 3, gate: false, conv: true, width: 2)", &rows, &[&common[..], &with].concat());
    let plain = [("wv", pick(6, 16, 8))];
    let wanted = apply("retention(heads: 2, k: 4, v: 3, gate: false, map: \"silu\")", &rows, &[&common[..], &plain].concat());
    close("retention", &found, &wanted, 1e-9);
}
