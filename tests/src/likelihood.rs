//! What rounded and quantised numbers cost a trained model: the likelihood of a text that it has never seen, against that with its weights in
//! bf16 (as its checkpoint has them) and all else in single precision.
//!
//! `texts/alice.txt`: the first three chapters of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865), in the public domain.

use crate::build::{self, Built, imported};
use braid_runtime::artifact::Dtype;
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::tokenizer::Tokenizer;
use braid_runtime::weights::Weights;
use std::path::Path;
use std::sync::Arc;

/// Tokens that a sequence has before the next one starts anew.
const LENGTH: usize = 256;

/// The natural logarithm of a token's probability, under a row of logits.
fn log_probability(logits: &[f32], token: i32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

/// The mean over all tokens but the first of each sequence.
fn likelihood(folder: &Path, ids: &[i32], target: &str, dtype: Dtype) -> f64 {
    let (spec, map) = imported(&folder.join("config.json"));
    let Built { artifact, .. } = build::build(&spec, &map, target, dtype);
    let weights = Weights::open(&artifact.manifest, folder.to_str().expect("a path in UTF-8"), 2, &Hidden).expect("weights");
    let settings = Settings { threads: 2, capacity: LENGTH, slots: 1 };
    let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings).expect("a session");
    let (mut sum, mut count) = (0.0, 0);
    for part in ids.chunks(LENGTH) {
        session.reset(0).expect("a slot");
        let mut next = part[1..].iter();
        let vocab = session.manifest().vocab;
        let each = |_: usize, logits: &[f32]| {
            for (row, token) in logits.chunks(vocab).zip(next.by_ref()) {
                sum += log_probability(row, *token);
                count += 1;
            }
        };
        session.prefill(0, part, Wanted::All, each).expect("a prompt");
    }
    sum / f64::from(count)
}

#[test]
fn quantised_weights_cost_little_likelihood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("../examples/tiny-hybrid/weights");
    let text = std::fs::read_to_string(root.join("texts/alice.txt")).expect("a text");
    let ids = Tokenizer::open(&folder.join("tokenizer.json")).and_then(|t| t.encode(&text, true)).expect("tokens");
    assert!(ids.len() > 5000, "{} tokens are too few", ids.len());
    let reference = likelihood(&folder, &ids, "cpu-bf16", Dtype::Bf16);
    println!("bf16: {reference:.5} nats a token, {} tokens", ids.len());
    // With bf16 on the machine at hand rows may be rounded as well.
    for (dtype, allowed) in
        [(Dtype::Bf16, 0.0005), (Dtype::Int8, 0.001), (Dtype::Fp8, 0.01), (Dtype::Int4, 0.02), (Dtype::Int4z, 0.02)]
    {
        let found = likelihood(&folder, &ids, "cpu", dtype);
        let lost = (reference - found) / reference.abs();
        println!("{dtype:?}: {found:.5}, {:.3} % lost", 100.0 * lost);
        assert!(lost <= allowed, "{dtype:?} loses {:.3} % of the likelihood", 100.0 * lost);
    }
}
