//! Golden models as code for a GPU, on the interpreter: whole sequences and each step behind a prompt.

use super::model::Played;
use crate::build::{imported, write};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{self, Dtype};
use braid_runtime::progress::Hidden;
use braid_runtime::verify::Golden;
use braid_runtime::weights::Weights;
use std::path::Path;

/// The largest difference from a golden model's logits, and the largest of these: whole sequences of at most `rows` tokens, then `steps` steps of
/// decoding.
fn compared(name: &str, (target, dtype): (&str, Dtype), chunks: Chunks, (rows, steps): (usize, usize)) -> (f64, f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    let (spec, map) = imported(&folder.join("config.json"));
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    let manifest = write(&path, &spec, &map, target, dtype, chunks);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, _) = artifact::decode(&bytes).expect("a sound artifact");
    let ptx = std::str::from_utf8(code).expect("text");
    let golden = Golden::open(&folder.join("golden.safetensors"), &manifest).expect("a golden file");
    let weights = Weights::open(&manifest, folder.to_str().expect("UTF-8"), 2, &Hidden).expect("weights that fit");
    let vocab = manifest.vocab;
    let fresh =
        |rows: usize| Played::new(ptx, manifest.clone(), &weights, 128, rows).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (mut off, mut peak) = (0f64, 0f64);
    let mut compare = |made: &[f32], wanted: &[f32]| {
        assert_eq!(made.len(), wanted.len(), "{name}");
        for (a, b) in made.iter().zip(wanted) {
            assert!(a.is_finite(), "{name}: a logit is {a}");
            off = off.max(f64::from((a - b).abs()));
            peak = peak.max(f64::from(b.abs()));
        }
    };
    let told = |made: Result<Vec<f32>, String>| made.unwrap_or_else(|error| panic!("{name} for {target}: {error}"));
    if let Some(whole) = golden.whole.first() {
        let count = whole.ids.len().min(rows);
        let mut model = fresh(count);
        let made = told(model.call(&whole.ids[..count], true));
        compare(&made, &whole.logits[..count * vocab]);
    }
    if let Some(decoding) = golden.decoding.first()
        && let Some(logits) = &decoding.logits
    {
        let mut model = fresh(decoding.prompt.len());
        let mut made = told(model.call(&decoding.prompt, false));
        for (step, token) in decoding.generated.iter().take(steps).enumerate() {
            compare(&made, &logits[step * vocab..(step + 1) * vocab]);
            made = told(model.call(&[*token], false));
        }
    }
    (off, peak)
}

fn check(name: &str, target: &str, chunks: Chunks, most: (usize, usize)) {
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

/// Quantised weights lose what they lose on a processor.
#[test]
fn quantised_numbers() {
    for (dtype, most) in [(Dtype::Int8, 2e-2), (Dtype::Int4, 1.2e-1), (Dtype::Int4z, 1.2e-1)] {
        for target in ["cuda:sm_90a", "cuda:sm_80"] {
            let (off, peak) = compared("gated_deltanet", (target, dtype), Chunks::Rows(16), (20, 2));
            println!("{dtype:?} for {target}: {off:.2e} of {peak:.2e}");
            assert!(off <= most * peak, "{dtype:?} for {target}: {off:e} of {peak:e}");
        }
    }
}
