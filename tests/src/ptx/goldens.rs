//! Models as code for a GPU, on the interpreter: golden ones, whole sequences and each step behind a prompt; and some whose sizes are
//! chosen so that code runs that golden models are too small for, beside the same on a processor.

use super::model::Played;
use crate::build::{Built, build_in_chunks, imported, write};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{self, Dtype, Manifest};
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::verify::Golden;
use braid_runtime::weights::Weights;
use std::path::Path;
use std::sync::Arc;

/// Most positions of a sequence.
const CAPACITY: usize = 128;

/// Code for a GPU, and its weights.
pub struct Code {
    pub ptx: String,
    pub manifest: Manifest,
    pub weights: Weights,
}

impl Code {
    pub fn of(spec: &str, map: &str, weights: &str, (target, dtype): (&str, Dtype), chunks: Chunks) -> Code {
        let room = tempfile::tempdir().expect("a folder");
        let path = room.path().join("model.braidart");
        let manifest = write(&path, spec, map, target, dtype, chunks);
        let bytes = std::fs::read(&path).expect("an artifact");
        let (code, _) = artifact::decode(&bytes).expect("a sound artifact");
        let weights = Weights::open(&manifest, weights, 2, &Hidden).expect("weights that fit");
        Code { ptx: String::from_utf8(code.to_vec()).expect("text"), manifest, weights }
    }

    /// With fresh memory for so many sequences, and calls of so many rows.
    pub fn model(&self, slots: usize, rows: usize) -> Played {
        let sizes = [slots, CAPACITY, rows];
        Played::new(&self.ptx, self.manifest.clone(), &self.weights, sizes).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The largest difference, and the largest number that there is to be.
pub fn off(made: &[f32], wanted: &[f32]) -> (f64, f64) {
    assert_eq!(made.len(), wanted.len());
    made.iter().zip(wanted).fold((0.0, 0.0), |(off, peak): (f64, f64), (a, b)| {
        assert!(a.is_finite(), "a logit is {a}");
        (off.max(f64::from((a - b).abs())), peak.max(f64::from(b.abs())))
    })
}

pub fn told(made: Result<Vec<f32>, String>) -> Vec<f32> {
    made.unwrap_or_else(|error| panic!("{error}"))
}

/// The largest difference from a golden model's logits, and the largest of these: whole sequences of at most `rows` tokens, then `steps`
/// steps of decoding.
fn compared(name: &str, target: (&str, Dtype), chunks: Chunks, (rows, steps): (usize, usize)) -> (f64, f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    let (spec, map) = imported(&folder.join("config.json"));
    let code = Code::of(&spec, &map, folder.to_str().expect("UTF-8"), target, chunks);
    let golden = Golden::open(&folder.join("golden.safetensors"), &code.manifest).expect("a golden file");
    let vocab = code.manifest.vocab;
    let mut most = (0f64, 0f64);
    let mut compare = |made: &[f32], wanted: &[f32]| {
        let (off, peak) = off(made, wanted);
        most = (most.0.max(off), most.1.max(peak));
    };
    if let Some(whole) = golden.whole.first() {
        let count = whole.ids.len().min(rows);
        compare(&told(code.model(1, count).call(&[&whole.ids[..count]], true)), &whole.logits[..count * vocab]);
    }
    if let Some(decoding) = golden.decoding.first()
        && let Some(logits) = &decoding.logits
    {
        let mut model = code.model(1, decoding.prompt.len());
        let mut made = told(model.call(&[&decoding.prompt], false));
        for (step, token) in decoding.generated.iter().take(steps).enumerate() {
            compare(&made, &logits[step * vocab..(step + 1) * vocab]);
            made = told(model.call(&[&[*token]], false));
        }
    }
    most
}

pub fn check(name: &str, target: &str, chunks: Chunks, most: (usize, usize)) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name).join("meta.json"));
    let meta: serde_json::Value = serde_json::from_str(&text.expect("meta.json")).expect("JSON");
    let atol = meta["suggested_tolerance"]["atol"].as_f64().expect("a tolerance");
    let (off, _) = compared(name, (target, Dtype::F32), chunks, most);
    println!("{name} for {target}: {off:.2e} of {atol:.2e}");
    assert!(off <= atol, "{name} for {target}: logits are {off:e} off, {atol:e} is allowed");
}

#[test]
fn attention_and_its_caches() {
    check("llama", "cuda:sm_90a", Chunks::Auto, (24, 3));
    check("gemma2", "cuda:sm_80", Chunks::Auto, (5, 2));
}

#[test]
fn recurrences_in_chunks_and_step_by_step() {
    check("gated_deltanet", "cuda:sm_90a", Chunks::Rows(16), (36, 2));
    check("xlstm", "cuda:sm_80", Chunks::Rows(16), (20, 2));
    check("rwkv7", "cuda:sm_90a", Chunks::Off, (18, 2));
}

/// Steps whose states threads keep: decays of each element, of each row of a matrix, sums that steps themselves read, a running maximum.
const WALKS: [&str; 4] = [
    "  param tb, tq: [vocab, n]   param tx, td: [vocab, c]   param rate: [c, n]   param last: [c, vocab]
  b = tb[vocab: tokens]
  delta = softplus(td[vocab: tokens])
  recur S: [c, n] over t {
    S = exp(-delta * exp(rate)) * S + delta * b * tx[vocab: tokens]
    o = sum[n] tq[vocab: tokens] * S
  }
  return sum[c] o * last",
    "  param tf, tx: [vocab, c]   param last: [c, vocab]
  f = sigmoid(tf[vocab: tokens])
  recur h: [c] over t {
    h = f * h + (1 - f) * tx[vocab: tokens]
    o = h
  }
  return sum[c] o * last",
    "  param ta, tk: [vocab, h, n]   param tv: [vocab, h, c]   param tb: [vocab, h]   param last: [h, c, vocab]
  a = -softplus(ta[vocab: tokens])
  k = tk[vocab: tokens]
  recur S: [h, n, c] over t {
    S = exp(a) * S
    S = S + k * (tb[vocab: tokens] * (tv[vocab: tokens] - sum[n] k * S))
    o = sum[n] k * S
  }
  return sum[h, c] o * last",
    "  param ta, ti, tx: [vocab, c]   param last: [c, vocab]
  a = -softplus(ta[vocab: tokens])
  i = ti[vocab: tokens]
  recur s: [c], m: [c] = -inf over t {
    n = max(a + m, i)
    s = exp(a + m - n) * s + exp(i - n) * tx[vocab: tokens]
    m = n
    o = s
  }
  return sum[c] o * last",
];

/// Sequences of more and of fewer rows than such a walk is for, in one call, and what continues them.
#[test]
fn walks_of_several_sequences() {
    let (long, middle, short) = (tokens(107, 32), tokens(39, 32), tokens(9, 32));
    let calls = [[&long[..75], &middle[..20], &short[..5]], [&long[75..], &middle[20..], &short[5..]]];
    for (body, target) in WALKS.iter().flat_map(|body| [(body, "cuda:sm_90a"), (body, "cuda:sm_80")]) {
        let spec =
            format!("model m(vocab: dim = 32, h: dim = 2, c: dim = 20, n: dim = 12)(tokens: [t]) -> [t, vocab] {{\n{body}\n}}");
        let code = Code::of(&spec, "", "random:1", (target, Dtype::F32), Chunks::Off);
        assert!(code.ptx.contains("cp.async.wait_group"), "{body}");
        let mut model = code.model(3, 104);
        let made: Vec<f32> = calls.iter().flat_map(|feeds| told(model.call(feeds, true))).collect();
        let (off, peak) = off(&made, &calls_on_a_processor(&spec, Dtype::F32, &[&calls[0], &calls[1]]));
        assert!(off <= 1e-5 * peak, "{target}: {off:e} of {peak:e} in{body}");
    }
}

#[test]
fn convolutions_and_state_spaces() {
    check("mamba2", "cuda:sm_80", Chunks::Rows(16), (20, 2));
    check("jamba", "cuda:sm_90a", Chunks::Auto, (6, 2));
}

#[test]
fn experts() {
    check("mixtral", "cuda:sm_90a", Chunks::Auto, (6, 2));
}

/// Products on the matrix units, rows rounded to bfloat16.
#[test]
fn rounded_numbers() {
    let (off, peak) = compared("gated_deltanet", ("cuda:sm_80", Dtype::Bf16), Chunks::Rows(16), (20, 2));
    assert!(off <= 2e-2 * peak, "{off:e} of {peak:e}");
}

/// A ring that a GPU counts as if it were unrolled, far past its end: row by row, in tiles, and one row behind them, as on a processor.
#[test]
fn rings_past_their_end() {
    let spec = "model m(vocab: dim = 32, h: dim = 2, k: dim = 8)(tokens: [t]) -> [t, vocab] {
  param tq, tk, tv: [vocab, h, k]   param last: [h, k, vocab]
  o = attend[k](tq[vocab: tokens], tk[vocab: tokens], tv[vocab: tokens]) { keep: key <= query && query - key < 40   score: 3 * s }
  generate autoregressive
  return sum[h, k] o * last
}";
    let ids = tokens(4371, 32);
    let ends = [0, 4096, 4354, 4370, 4371];
    let calls: Vec<&[i32]> = ends.windows(2).map(|end| &ids[end[0]..end[1]]).collect();
    let right: Vec<f32> = {
        let Built { artifact, folder: _room } = build_in_chunks(spec, "", "cpu", Dtype::F32, Chunks::Off);
        let weights = Weights::open(&artifact.manifest, "random:1", 2, &Hidden).expect("weights");
        let settings = Settings { threads: 2, capacity: ids.len(), slots: 1 };
        let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings).expect("a session");
        let mut all = vec![];
        session.prefill(0, &ids, Wanted::All, |_, logits| all.extend_from_slice(logits)).expect("a call");
        all
    };
    for (dtype, most) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
        let code = Code::of(spec, "", "random:1", ("cuda:sm_80", dtype), Chunks::Auto);
        assert_eq!(code.manifest.max_rows, 4096);
        let sizes = [1, ids.len().next_multiple_of(16), 4096];
        let mut model =
            Played::new(&code.ptx, code.manifest.clone(), &code.weights, sizes).unwrap_or_else(|error| panic!("{error}"));
        let made: Vec<f32> = calls.iter().flat_map(|call| told(model.call(&[call], true))).collect();
        let (off, peak) = off(&made, &right);
        assert!(off <= most * peak, "{dtype:?}: {off:e} of {peak:e}");
    }
}

/// Keys and values in bfloat16: stored by one row and by many, read by the matrix units in a prompt and number by number behind it.
#[test]
fn rounded_caches() {
    let (off, peak) = compared("qwen3", ("cuda:sm_80", Dtype::Bf16), Chunks::Auto, (24, 2));
    assert!(off <= 2e-2 * peak, "{off:e} of {peak:e}");
}

/// Quantised weights lose what they lose on a processor.
#[test]
fn quantised_numbers() {
    for (dtype, most) in [(Dtype::Int8, 2e-2), (Dtype::Fp8, 6e-2), (Dtype::Int4, 1.2e-1), (Dtype::Int4z, 1.2e-1)] {
        for target in ["cuda:sm_90a", "cuda:sm_80"] {
            let (off, peak) = compared("gated_deltanet", (target, dtype), Chunks::Rows(16), (20, 2));
            println!("{dtype:?} for {target}: {off:.2e} of {peak:.2e}");
            assert!(off <= most * peak, "{dtype:?} for {target}: {off:e} of {peak:e}");
        }
    }
}

/// Weights of which the text says how they are stored, a narrow matrix among them, in calls of one row, of few and of many.
#[test]
fn numbers_that_are_stored_in_many_ways() {
    let spec = "model m(vocab: dim = 48, d: dim = 256, g: dim = 512)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w1: [g, d] as \"int4\"   param w2: [d, g] as \"f32\"   param w3: [vocab, d] as \"int8\"
  x = sum[g] (sum[d] embed[vocab: tokens] * w1) * w2
  return sum[d] x * w3
}";
    let ids = tokens(20, 48);
    let right = on_a_processor(spec, Dtype::F32, &[&ids]);
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        let code = Code::of(spec, "", "random:1", (target, Dtype::Bf16), Chunks::Auto);
        for count in [1, 3, 20] {
            let made = told(code.model(1, count).call(&[&ids[..count]], true));
            let (off, peak) = off(&made, &right[..made.len()]);
            assert!(off <= 2e-2 * peak, "{target}, {count} rows: {off:e} of {peak:e}");
        }
    }
}

/// Logits of all tokens of some sequences, each of a call of its own, on a processor.
fn on_a_processor(spec: &str, dtype: Dtype, feeds: &[&[i32]]) -> Vec<f32> {
    calls_on_a_processor(spec, dtype, &[feeds])
}

/// The same of calls that continue the sequences.
pub fn calls_on_a_processor(spec: &str, dtype: Dtype, calls: &[&[&[i32]]]) -> Vec<f32> {
    let Built { artifact, folder: _room } = build_in_chunks(spec, "", "cpu", dtype, Chunks::Off);
    let weights = Weights::open(&artifact.manifest, "random:1", 2, &Hidden).expect("weights");
    let settings = Settings { threads: 2, capacity: CAPACITY, slots: calls[0].len() };
    let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings).expect("a session");
    let mut all = vec![];
    for (slot, tokens) in calls.iter().flat_map(|feeds| feeds.iter().enumerate()) {
        session.prefill(slot, tokens, Wanted::All, |_, logits| all.extend_from_slice(logits)).expect("a call");
    }
    all
}

pub fn tokens(count: usize, of: i32) -> Vec<i32> {
    (0..count as i32).map(|at| (at * 7 + 3) % of).collect()
}

/// Products of several units and rounds, and experts of such, beside each other; of one row, of an odd number, and of two sequences.
const WIDE: &str = "model m(vocab: dim = 48, d: dim = 256, g: dim = 900)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w1: [d, g]   param w2: [g, d]   param w3: [d, vocab]
  x = sum[g] (sum[d] embed[vocab: tokens] * w1) * w2
  return sum[d] moe(d: d, experts: 3, active: 2, expert: swiglu(d: d, hidden: 512))(x) * w3
}";

fn products_of_many_units(spec: &str, target: &str, dtype: Dtype, most: f64) {
    let code = Code::of(spec, "", "random:1", (target, dtype), Chunks::Auto);
    for feeds in [vec![tokens(1, 48)], vec![tokens(1, 48), tokens(2, 40)]] {
        let feeds: Vec<&[i32]> = feeds.iter().map(Vec::as_slice).collect();
        let made = told(code.model(feeds.len(), 3).call(&feeds, true));
        let (off, peak) = off(&made, &on_a_processor(spec, dtype, &feeds));
        assert!(off <= most * peak, "{dtype:?} for {target}, {} sequences: {off:e} of {peak:e}", feeds.len());
    }
}

#[test]
fn products_of_many_units_by_the_copy_engine() {
    products_of_many_units(WIDE, "cuda:sm_90a", Dtype::F32, 1e-5);
    products_of_many_units(WIDE, "cuda:sm_90a", Dtype::Int8, 2e-2);
    // Of whole groups, which a GPU quantises as a processor does: the same numbers.
    products_of_many_units(&WIDE.replace("900", "896"), "cuda:sm_90a", Dtype::Fp8, 1e-5);
}

#[test]
fn products_of_many_units_by_threads() {
    products_of_many_units(WIDE, "cuda:sm_80", Dtype::F32, 1e-5);
}

/// Rows that choose their weights, in tiles: the last layer has those alone that are wanted.
#[test]
fn experts_in_tiles() {
    let spec = "model m(vocab: dim = 48, d: dim = 64)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [d, vocab]
  return sum[d] moe(d: d, experts: 32, active: 2, expert: swiglu(d: d, hidden: 128))(embed[vocab: tokens]) * w
}";
    let ids = tokens(40, 48);
    let right = on_a_processor(spec, Dtype::F32, &[&ids]);
    for dtype in [Dtype::Bf16, Dtype::Int8] {
        let code = Code::of(spec, "", "random:1", ("cuda:sm_80", dtype), Chunks::Auto);
        for all in [true, false] {
            let made = told(code.model(1, 40).call(&[&ids], all));
            let (off, peak) = off(&made, &right[right.len() - made.len()..]);
            assert!(off <= 5e-2 * peak, "{dtype:?}, all: {all}: {off:e} of {peak:e}");
        }
    }
}

/// Large tiles: there must be one for most blocks of a GPU.
#[test]
fn large_tiles() {
    let spec = "model m(vocab: dim = 48, d: dim = 72, f: dim = 24500)(tokens: [t]) -> [t, f] {
  param embed: [vocab, d]   param w: [d, f]
  return sum[d] embed[vocab: tokens] * w
}";
    let ids = tokens(19, 48);
    let code = Code::of(spec, "", "random:1", ("cuda:sm_80", Dtype::Bf16), Chunks::Auto);
    assert!(code.ptx.contains("tile_128x128"));
    let made = told(code.model(1, 19).call(&[&ids], true));
    let (off, peak) = off(&made, &on_a_processor(spec, Dtype::F32, &[&ids]));
    assert!(off <= 2e-2 * peak, "{off:e} of {peak:e}");
}

/// What is no number in a chunk does not get lost in it.
#[test]
fn what_is_no_number_stays_so() {
    let spec = "model m(vocab: dim = 32, h: dim = 2, k: dim = 16, v: dim = 16)(tokens: [t]) -> [t, vocab] {
  param tk: [vocab, h, k]   param tv, last: [vocab, h, v]
  kk = tk[vocab: tokens]
  vv = sqrt(-1.0 - tv[vocab: tokens] ^ 2)
  recur S: [h, k, v] over t {
    S = 0.5 * S + kk * vv
    o = sum[k] kk * S
  }
  return sum[h, v] o * last
}";
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let code = Code::of(spec, "", "random:1", ("cuda:sm_80", dtype), Chunks::Rows(16));
        let made = told(code.model(1, 36).call(&[&tokens(36, 32)], true));
        assert!(made.iter().all(|logit| logit.is_nan()), "{dtype:?}");
    }
}
