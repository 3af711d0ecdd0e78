//! Tables that a seed decides, and attention to blocks that they name, beside plain loops over the paper's definition.

use crate::properties::compiled::{Compiled, agree, feed};

/// The number at place `n` of a table, as docs/language.md has it.
fn number(seed: i64, n: u64) -> f64 {
    let (p, q) = (46_337u64, 46_327u64);
    let mut state = seed as u64;
    let mut key = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (mut a, mut b) = (n % p, n % q);
    for _ in 0..3 {
        a = (a + ((b + key() % q) % q).pow(3) % q) % p;
        b = (b + ((a + key() % p) % p).pow(3) % p) % q;
    }
    (a * 256 + b % 256) as f64 / (p * 256) as f64
}

#[test]
fn tables_are_the_same_everywhere() {
    let spec = |seed: i64| {
        format!(
            "model m(rows: dim = 300, b: dim = 170, c: dim = 3, out: dim = 510)(tokens: [t]) -> [t, out] {{\n  param scale: [b]\n  \
             return (random[c, rows, b]({seed})[rows: tokens] * scale)[(c, b) as out]\n}}\n"
        )
    };
    let ids: Vec<i32> = (0..300).collect();
    for seed in [7, -3, 1 << 40] {
        let compiled = Compiled::with(&spec(seed), braid_compiler::forms::Chunks::Auto, |_, shape| vec![1.0; shape[0]]);
        let mut session = compiled.sized(braid_runtime::session::Settings { threads: 1, capacity: 304, slots: 1 });
        let found = feed(&mut session, 0, &ids);
        let place = |row: u64, c: u64, b: u64| (c * 300 + row) * 170 + b;
        let wanted = (0..300u64).flat_map(|row| (0..510u64).map(move |at| number(seed, place(row, at / 170, at % 170))));
        let wanted: Vec<f64> = wanted.collect();
        agree("native", &found, &wanted, 1e-7).unwrap_or_else(|error| panic!("{error}"));
        let evaluated: Vec<f32> = compiled.evaluated(&ids).into_iter().map(|x| x as f32).collect();
        agree("evaluated", &evaluated, &wanted, 1e-7).unwrap_or_else(|error| panic!("{error}"));
        let (mean, square) = wanted.iter().fold((0.0, 0.0), |(a, b), x| (a + x / 153e3, b + x * x / 153e3));
        assert!((mean - 0.5).abs() < 0.005 && (square - 1.0 / 3.0).abs() < 0.005, "{mean} {square}");
        let mut sorted = wanted.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).filter(|pair| pair[0] == pair[1]).count() < 3000, "numbers that stand there twice");
    }
}

/// The blocks of largest number for a head and a row of a table, among some.
fn named(seed: i64, (head, row, blocks): (usize, usize, usize), few: usize, may: impl Fn(usize) -> bool) -> Vec<usize> {
    let chance = |block: usize| number(seed, ((head * blocks + row) * blocks + block) as u64);
    let mut among: Vec<usize> = (0..blocks).filter(|block| may(*block)).collect();
    among.sort_by(|a, b| chance(*b).total_cmp(&chance(*a)).then(a.cmp(b)));
    among.truncate(few);
    among
}

/// Softmax attention of rows to those rows that a mask lets them see, and the projections around it, in plain loops.
fn plain(compiled: &Compiled, ids: &[i32], sees: impl Fn(usize, usize, usize) -> bool) -> Vec<f64> {
    const D: usize = 16;
    const HEADS: usize = 3;
    const K: usize = 5;
    let all = |name: &str| compiled.numbers(name);
    let (embed, wo) = (all("embed"), all("mixer.wo"));
    let row = |at: usize| &embed[ids[at] as usize * D..][..D];
    let project = |w: &[f64], at: usize, head: usize| -> Vec<f64> {
        (0..K).map(|k| (0..D).map(|d| row(at)[d] * w[(head * K + k) * D + d]).sum()).collect()
    };
    let mut out = vec![0.0; ids.len() * D];
    for head in 0..HEADS {
        let of = |name: &str| -> Vec<Vec<f64>> { (0..ids.len()).map(|at| project(&all(name), at, head)).collect() };
        let (q, k, v) = (of("mixer.wq"), of("mixer.wk"), of("mixer.wv"));
        for (i, query) in q.iter().enumerate() {
            let seen: Vec<usize> = (0..ids.len()).filter(|j| sees(head, i, *j)).collect();
            let weight = |j: &usize| (query.iter().zip(&k[*j]).map(|(a, b)| a * b).sum::<f64>() / (K as f64).sqrt()).exp();
            let total: f64 = seen.iter().map(weight).sum();
            for (d, x) in out[i * D..][..D].iter_mut().enumerate() {
                let one =
                    |n: usize| seen.iter().map(|j| weight(j) / total * v[*j][n]).sum::<f64>() * wo[(d * HEADS + head) * K + n];
                *x += (0..K).map(one).sum::<f64>();
            }
        }
    }
    out
}

fn spec(span: usize, more: &str, generate: &str) -> String {
    format!(
        "model m(d: dim = 16, vocab: dim = 40)(tokens: [t]) -> [t, d] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  \
         mixer = random_block_attention(heads: 3, k: 5, seed: 11, span: {span}, few: 2, blocks: 12{more})\n  {generate}\n  return mixer(x)\n}}\n"
    )
}

fn text(count: usize) -> Vec<i32> {
    (0..count).map(|at| ((at * at + at / 3) % 40) as i32).collect()
}

/// A window of three blocks, the first block and the last, and two of a table that its seed decides (BigBird).
#[test]
fn seeded_blocks_to_both_sides() {
    for (span, count) in [(4, 45), (4, 48), (16, 150), (4, 10)] {
        let compiled = Compiled::new(&spec(span, "", ""));
        let ids = text(count);
        let last = (count - 1) / span;
        let sees = |head: usize, i: usize, j: usize| {
            let (row, block) = (i / span, j / span);
            let edge = row == 0 || row == last || block == 0 || block == last;
            let may = |block: usize| block > 0 && block < last && block.abs_diff(row) > 1;
            edge || row.abs_diff(block) <= 1 || named(11, (head, row, 12), 2, may).contains(&block)
        };
        let wanted = plain(&compiled, &ids, sees);
        agree("evaluated", &compiled.evaluated(&ids).iter().map(|x| *x as f32).collect::<Vec<_>>(), &wanted, 1e-5)
            .unwrap_or_else(|error| panic!("{error}"));
        agree("whole", &compiled.whole(&ids), &wanted, 1e-5).unwrap_or_else(|error| panic!("{span}, {count}: {error}"));
    }
}

/// The same looking back only, whole, in parts and step by step.
#[test]
fn seeded_blocks_of_a_model_that_generates() {
    for (span, count) in [(4, 47), (16, 170)] {
        let compiled = Compiled::new(&spec(span, ", looks_back: true", "generate autoregressive"));
        let ids = text(count);
        let sees = |head: usize, i: usize, j: usize| {
            let (row, block) = (i / span, j / span);
            let may = |block: usize| block > 0 && block + 1 < row;
            j <= i && (block + 1 >= row || block == 0 || named(11, (head, row, 12), 2, may).contains(&block))
        };
        let wanted = plain(&compiled, &ids, sees);
        agree("whole", &compiled.whole(&ids), &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        for cut in [1, 7, 64] {
            let mut session = compiled.session(2, 1);
            let found: Vec<f32> = ids.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
            agree("in parts", &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{cut}: {error}"));
        }
    }
}
