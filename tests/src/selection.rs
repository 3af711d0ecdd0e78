//! Keys chosen by a score, against golden results of the papers' operators: in double precision, as native code, whole, token by token and cut
//! at odd places.

use crate::build::model;
use crate::properties::compiled::{Compiled, agree, feed, together};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use braid_compiler::forms::Chunks;
use braid_compiler::inspect::{inspect, json};
use braid_compiler::pipeline::{self, Options};
use braid_compiler::target::Target;
use braid_runtime::artifact::Dtype;
use braid_runtime::session::Settings;

const QKV: &str = "q[heads, c] kk=k[heads, c] vv=v[heads, e]";

/// The mean of each block's keys stands at the block's last position (MoBA).
#[test]
fn blocks_by_their_mean_keys() {
    let text = "dim slot = 2
  recur sum_k: [heads, c] over t {
    sum_k = select(position[t] % 8 == 0, 0.0, sum_k) + kk
    mean_k = sum_k / 8.0
  }
  blocks = choose[c as slot](q, mean_k, slot) { keep: earlier(8) && ends(8) }
  o = attend[c](q, kk, vv) { keep: causal() && (own(8) || chosen[slot](blocks, 8))   score: s * c ^ -0.5 }";
    Case { golden: "moba", columns: QKV, text, outputs: "o[heads, e]", ..Case::default() }.check();
}

/// Tokens by a small indexer with rectified heads, shared by all heads of the attention (DeepSeek V3.2).
#[test]
fn tokens_by_a_rectified_indexer() {
    let text = "dim slot = 9
  ids = choose[a as slot](qi, ki, slot) { score: sum[j] w[t: query] * max(s, 0.0) }
  o = attend[c](q, kk, vv) { keep: causal() && chosen[slot](ids, 1)   score: s * c ^ -0.5 }
  found = float(ids)";
    let columns = "q[heads, c] kk=k[heads, c] vv=v[heads, e] qi[j, a] ki[a] w[j]";
    Case { golden: "indexer_topk", columns, text, outputs: "o[heads, e]", ..Case::default() }.check();
    let tolerance = Some(0.0);
    Case { golden: "indexer_topk", columns, text, outputs: "found=index[slot]", tolerance, ..Case::default() }.check();
}

/// Blocks compressed by a matrix for each place in them, the best of them by the softmax's weights of all heads of a group, and a window (NSA).
#[test]
fn compressed_and_selected_blocks_and_a_window() {
    let text = "dim slot = 1
  place = position[t] % 8
  part_k = sum[c] (kk + pos_k[i: place]) * Wck[i: place]
  part_v = sum[e] (vv + pos_v[i: place]) * Wcv[i: place]
  recur k_sum: [groups, c_], v_sum: [groups, e_] over t {
    k_sum = select(position[t] % 8 == 0, 0.0, k_sum) + part_k
    v_sum = select(position[t] % 8 == 0, 0.0, v_sum) + part_v
    key_ = k_sum
    value = v_sum
  }
  kc = key_[c_ as c]
  o_cmp = attend[c](q, kc, value[e_ as e]) { keep: causal() && ends(8)   score: s * c ^ -0.5 }
  total = attend[c](q, kc) { keep: causal() && ends(8)   score: s * c ^ -0.5 }
  blocks = choose[c as slot](q, kc, slot) {
    keep: earlier(8) && ends(8) && key >= 8
    score: sum[per] exp(s * c ^ -0.5 - total[t: query])
  }
  o_sel = attend[c](q, kk, vv) { keep: causal() && (own(8) || first(8) || chosen[slot](blocks, 8))   score: s * c ^ -0.5 }
  o_win = attend[c](q, kk, vv) { keep: causal() && within(12)   score: s * c ^ -0.5 }
  o = gates[three: 0] * o_cmp + gates[three: 1] * o_sel + gates[three: 2] * o_win";
    Case {
        golden: "nsa",
        columns: "q[groups:2, per:2, c:16] kk=k[groups, c] vv=v[groups, e:16] gates[groups, per, three:3]",
        params: "Wck[c_:16, i:8, c] Wcv[e_:16, i, e] pos_k[i, c] pos_v[i, e]",
        text,
        outputs: "o_cmp[groups, per, e] o_sel[groups, per, e] o_win[groups, per, e] o[groups, per, e]",
        ..Case::default()
    }
    .check();
}

/// A matrix of rows that each pick one column, from one on.
fn pick(rows: usize, columns: usize, from: usize) -> Vec<f64> {
    (0..rows * columns).map(|at| f64::from(u8::from(at % columns == from + at / columns))).collect()
}

/// The library's block, its projections picking the golden's queries, keys and values out of one row.
#[test]
fn mixture_of_block_attention() {
    let part = |name: &str, at: usize| (format!("moba.{name}"), pick(48, 144, 48 * at));
    let out = ("moba.wo".to_owned(), (0..144).flat_map(|row| (0..48).map(move |at| f64::from(u8::from(row == at)))).collect());
    let weights = vec![part("wq", 0), part("wk", 1), part("wv", 2), out];
    let text =
        "moba = block_choice_attention(heads: 3, k: 16, span: 8, top: 3)\n  o = moba(x)[d: 0..48 as all][all as (heads, e)]";
    Case { golden: "moba", columns: "x=q|k|v[d:144]", text, outputs: "o[heads:3, e:16]", weights, ..Case::default() }.check();
}

#[test]
fn native_sparse_attention() {
    let golden = Golden::open("nsa");
    let gates =
        golden.all("in.gates").chunks(3).flat_map(|three| three.iter().map(|g| (g / (1.0 - g)).ln()).collect::<Vec<f64>>());
    let part = |name: &str, rows: usize, from: usize| (format!("nsa.{name}"), pick(rows, 140, from));
    // Gates stand head by head, and the block has its branches first.
    let by_branch = (0..12 * 140).map(|at| (at % 140, at / 140)).map(|(column, row)| (column, row % 4 * 3 + row / 4 + 128));
    let wg = by_branch.map(|(column, wanted)| f64::from(u8::from(column == wanted))).collect();
    let out = (0..140).flat_map(|row| (0..64).map(move |at| f64::from(u8::from(row == at)))).collect();
    let own = |name: &str, source: &str| (format!("nsa.{name}"), golden.all(source).to_vec());
    // A matrix for each place in a block: [out, place, in] as the golden has them, flattened.
    let weights = vec![
        ("logits".to_owned(), gates.collect()),
        part("wq", 64, 0),
        part("wk", 32, 64),
        part("wv", 32, 96),
        ("nsa.wg".to_owned(), wg),
        ("nsa.wo".to_owned(), out),
        own("ck", "in.Wck"),
        own("cv", "in.Wcv"),
        own("pk", "in.pos_k"),
        own("pv", "in.pos_v"),
    ];
    let text = "dim gate = 12
  dim d = 140
  param logits: [places, gate]
  nsa = native_sparse_attention(heads: 4, groups: 2, k: 16, span: 8, top: 3, window: 12)
  o = nsa(concat[row, gate as d](x, logits[places: tokens]))[d: 0..64 as all][all as (heads, e)]";
    Case { golden: "nsa", columns: "x=q|k|v[row:128]", text, outputs: "o[heads:4, e:16]", weights, ..Case::default() }.check();
}

/// Long texts in blocks of several sizes: what the evaluator gives, in one call, token by token and cut anywhere, and after going back.
#[test]
fn any_cut_gives_the_same() {
    let mixers = [
        "block_choice_attention(heads: 4, groups: 2, k: 4, span: 16, top: 3)",
        "block_choice_attention(heads: 2, k: 4, span: 32, top: 2)",
        "block_choice_attention(heads: 2, groups: 1, k: 4, span: 5, top: 4)",
        "native_sparse_attention(heads: 4, groups: 2, k: 4, span: 16, top: 4, window: 20)",
        "native_sparse_attention(heads: 2, groups: 2, k: 4, span: 6, top: 3, window: 9)",
        "latent_attention(heads: 2, latent: 6, nope: 4, k: 4, v: 4, rank: 5, few: 24, choice: indexer(heads: 3, k: 4, rope: rotary()))",
    ];
    for mixer in mixers {
        let compiled = Compiled::new(&format!(
            "model m(d: dim = 12, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  mixer = \
             {mixer}\n  generate autoregressive\n  return sum[d] (x + mixer(x)) * embed\n}}\n"
        ));
        let text: Vec<i32> = (0..170).map(|at| (at * at + at / 7) % 20).collect();
        let wanted = compiled.evaluated(&text);
        for cut in [vec![170], vec![1; 170], vec![3, 40, 1, 1, 29, 64, 2, 30]] {
            let mut session = compiled.session(1, 1);
            let (mut found, mut at) = (Vec::new(), 0);
            for rows in cut {
                found.extend(feed(&mut session, 0, &text[at..at + rows]));
                at += rows;
            }
            agree(mixer, &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        }
        // In the middle of a block, into a session with other room.
        let mut session = compiled.session(2, 1);
        feed(&mut session, 0, &text[..101]);
        let middle = session.snapshot(0).expect("a snapshot");
        feed(&mut session, 0, &text[101..]);
        let mut other = compiled.sized(Settings { threads: 1, capacity: 176, slots: 2 });
        for (session, slot) in [(&mut session, 0), (&mut other, 1)] {
            session.restore(slot, &middle).expect("the same model");
            let found = feed(session, slot, &text[101..]);
            agree(mixer, &found, &wanted[101 * 20..], 1e-5).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Queries of two groups that share blocks of keys: what scores them, which they are, how long, what is seen beside them.
fn sharing(score: &str, ids: &str, span: usize, beside: &str) -> Compiled {
    Compiled::new(&format!(
        "model m(
  d: dim = 12, groups: dim = 2, per: dim = 3, k: dim = 4, few: dim = 3, vocab: dim = 20,
)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param wq: [groups, per, k, d]   param wk, wv: [groups, k, d]
  x = embed[vocab: tokens] * (1.0 + 0.5 * sin(0.3 * position[t]))
  q = sum[d] x * wq
  kk = sum[d] x * wk
  blocks = choose[k as few](q, kk, few) {{ keep: earlier({span}) && key % {span} == {span} - 1   score: {score} }}
  ids = {ids}
  o = attend[k](q, kk, sum[d] x * wv) {{
    keep: causal() && ({beside} || chosen[few](ids, {span}))
    score: s * k ^ -0.5 + 0.01 * (query - key)
  }}
  generate autoregressive
  return sum[d] (x + (sum[groups, per, k] o * wq)) * embed
}}
"
    ))
}

/// More tasks of a group than fit a tile, dealt to one thread and to several, and one by one.
#[test]
fn more_queries_than_a_tile_share_blocks() {
    for (score, span, beside) in [("s", 16, "own(16)"), ("sum[per] s", 64, "own(64)")] {
        let compiled = sharing(score, "blocks", span, beside);
        let text: Vec<i32> = (0..340).map(|at| (at * at + at / 7) % 20).collect();
        let wanted = compiled.evaluated(&text);
        for (threads, cut) in [(1, 340), (3, 340), (2, 1)] {
            let mut session = compiled.sized(Settings { threads, capacity: 400, slots: 1 });
            let found: Vec<f32> = text.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
            agree(beside, &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{threads} threads: {error}"));
        }
    }
}

/// Many queries look at a block together: of several sequences in one call, each at its own, by ids of each head or of all, less than there
/// is room for, and moved by a block.
#[test]
fn queries_share_the_blocks_of_their_sequence() {
    let choices = [
        ("s", "blocks", 16, "own(16)"),
        ("sum[per] s", "blocks", 32, "within(5) || first(3)"),
        ("s", "blocks - 16", 16, "own(32)"),
    ];
    for (score, ids, span, beside) in choices {
        let compiled = sharing(score, ids, span, beside);
        let text = |from: usize| -> Vec<i32> { (from..from + 150).map(|at| ((at * at + at / 7) % 20) as i32).collect() };
        let texts = [text(0), text(5), text(31)];
        for cut in [75, 64, 9] {
            let mut session = compiled.session(2, 3);
            let mut found = vec![Vec::new(); 3];
            for begin in (0..150).step_by(cut) {
                let part = |text: &'_ Vec<i32>| text[begin..(begin + cut).min(150)].to_vec();
                let parts: Vec<Vec<i32>> = texts.iter().map(part).collect();
                let feeds: Vec<(usize, &[i32])> = parts.iter().enumerate().map(|(slot, part)| (slot, &part[..])).collect();
                together(&mut session, &feeds).into_iter().zip(&mut found).for_each(|(rows, all)| all.extend(rows));
            }
            for (found, text) in found.iter().zip(&texts) {
                agree(ids, found, &compiled.evaluated(text), 1e-5).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

/// Choices among a ring's keys and behind sinks, beside windows and first positions, by numbers that several heads share; totals with sinks.
#[test]
fn choices_in_windows_and_behind_sinks() {
    let compiled = Compiled::new(
        "model m(d: dim = 12, heads: dim = 2, k: dim = 4, few: dim = 3, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param wq, wk: [heads, k, d]   param logit: [heads]
  x = embed[vocab: tokens]
  turn = 0.7 * sin(0.37 * position[t] * (index[k] + 1.0))
  q = sum[d] x * wq
  kk = sum[d] x * wk + turn
  near = choose[k as few](q, kk, few) { keep: causal() && within(40) }
  sunk = choose[k as few](q, kk, few) { keep: causal() && (within(20) || first(5)) }
  one = choose[k as few](q, kk[heads: 0], few) { keep: causal()   score: max[heads] s }
  a = attend[k](q, kk, x) { keep: causal() && (within(3) || first(2) || chosen[few](near, 1)) }
  b = attend[k](q, kk, x) { keep: causal() && within(200) && chosen[few](sunk, 1)   sink: logit }
  c = attend[k](q, kk, x) { keep: causal() && (key % 7 == 0 || chosen[few](one, 1)) }
  total = attend[k](q, kk) { keep: causal() && within(30)   sink: logit }
  generate autoregressive
  return sum[d] (x + sum[heads] (a + b + total * c)) * embed
}
",
    );
    let text: Vec<i32> = (0..120).map(|at| (at * at + at / 7) % 20).collect();
    let wanted = compiled.evaluated(&text);
    for rows in [120, 7, 1] {
        let mut session = compiled.session(1, 1);
        let found: Vec<f32> = text.chunks(rows).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("choices", &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A text far longer than what is chosen of it costs about as much a token as a short one.
#[test]
fn what_is_not_chosen_costs_nothing() {
    let spec =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/suite/specs/chosen_blocks.braid")).expect("the spec");
    let flops = |spec: &str| -> Vec<u64> {
        let report = json(&inspect(&model(spec)));
        report["totals"]
            .as_array()
            .expect("totals")
            .iter()
            .map(|total| total["decode_flops"].as_u64().expect("a number"))
            .collect()
    };
    let (chosen, all) = (flops(&spec), flops(&spec.replace("(own(16) || chosen[few](blocks, 16))", "everything()")));
    // Only the mean keys, one of 16, grow with the text.
    assert!(chosen[4] * 20 < all[4], "{chosen:?} {all:?}");
}

/// Each limit is told by what is written.
#[test]
fn what_is_not_lowered_yet_is_said() {
    let spec =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/suite/specs/chosen_blocks.braid")).expect("the spec");
    let twice = spec.replace("chosen[few](blocks, 16))", "chosen[few](blocks, 16) || chosen[few](blocks, 8))");
    let alone = spec.replace("own(16) || chosen[few](blocks, 16)", "ends(16) && chosen[few](blocks, 16)");
    let prompt = "use models.transformer
model m = transformer(layers: 1, d: 32, heads: 2, groups: 1, k: 16, hidden: 32, vocab: 64) under vertical_slash()
";
    let prompt = prompt.to_owned();
    let cases = [
        (&spec, "cuda:sm_90a", "choosing keys by a score"),
        (&twice, "cpu:x86-64-v3", "attention to several choices"),
        (&alone, "cpu:x86-64-v3", "of which one of each block is stored"),
        (&prompt, "cuda:sm_80", "what the last queries of a prompt give"),
    ];
    for (spec, target, what) in cases {
        let target = Target::parse(target).expect("a target");
        let options = Options { target, dtype: Dtype::F32, chunks: Chunks::Auto, params: vec![], sources: vec![] };
        let until = pipeline::stage("fused").expect("a stage");
        let error = pipeline::run(model(spec), options, until, &|_| ()).err().expect("a limit").to_string();
        assert!(error.contains(what), "{error}");
    }
}
