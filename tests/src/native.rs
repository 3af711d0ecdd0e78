//! Every golden model as native code: whole-sequence logits and every cached greedy step within the golden's tolerance.

use crate::build::{Built, imported, model_under, of_model};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;
use braid_runtime::session::{Session, Settings};
use braid_runtime::verify::{Golden, Report, verify};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// Builds a golden model for the CPU at hand, and compares it with its golden file.
fn compared(
    folder: &Path,
    weights: &Path,
    (target, dtype): (&str, Dtype),
    threads: usize,
    chunks: Chunks,
    policy: Option<&str>,
) -> Report {
    let (spec, map) = imported(&weights.join("config.json"));
    let Built { artifact, .. } = of_model(model_under(&spec, policy), &map, target, dtype, chunks);
    let golden = Golden::open(&folder.join("golden.safetensors"), &artifact.manifest).expect("a golden file");
    let (slots, capacity) = golden.size();
    let packed = braid_runtime::weights::Weights::open(
        &artifact.manifest,
        weights.to_str().expect("a path in UTF-8"),
        threads,
        &braid_runtime::progress::Hidden,
    );
    let settings = Settings { threads, capacity, slots };
    let mut session = Session::new(Arc::new(artifact), Arc::new(packed.expect("weights that fit")), settings).expect("a session");
    verify(&mut session, &golden).expect("a comparison")
}

fn check(name: &str) {
    check_under(name, None);
}

/// With a policy for its caches. These models are too small for chunks to pay, so chunks are asked for.
pub fn check_under(name: &str, policy: Option<&str>) {
    let folder = folder(name);
    let meta: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).expect("meta.json")).expect("JSON");
    let atol = meta["suggested_tolerance"]["atol"].as_f64().expect("a tolerance");
    let report = compared(&folder, &folder, ("cpu", Dtype::F32), 2, Chunks::Rows(8), policy);
    println!("{name}: {:.2e} of {atol:.2e}", report.max_abs());
    assert!(report.max_abs() <= atol, "{name}: logits are {:e} off, {atol:e} is allowed", report.max_abs());
    assert_eq!(report.gap(), 0.0, "{name}: a greedy token differs");
}

macro_rules! goldens {
    ($($name:ident)*) => { $(#[test] fn $name() { check(stringify!($name)) })* };
}

goldens! {
    llama llama3_scaled_rope qwen3 mistral_sliding gemma2 gemma3 gpt2 gpt_neox mixtral qwen2_moe phimoe mamba falcon_mamba mamba2 bamba
    granitemoehybrid jamba zamba zamba2 falcon_h1 kimi_linear nemotron_h lfm2 olmo_hybrid gla gla_hybrid retnet delta_net gated_deltanet hgrn2
    rwkv7 xlstm rwkv4 llada modernbert bitnet diffllama deepseek_v2 deepseek_v3 deepseek_v32
    vit whisper longformer
}

/// The trained models of the examples: prompts' logits, and 64 greedy tokens with caches. `tolerance` is that of the logits.
fn speaks(name: &str, (target, dtype): (&str, Dtype), tolerance: f64, same_tokens: bool) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).join("weights");
    let report = compared(&folder(name), &examples, (target, dtype), 2, Chunks::Auto, None);
    println!("{name} {dtype:?} {target}: {:.2e} of {tolerance:.2e}", report.max_abs());
    assert!(report.max_abs() <= tolerance, "{name}: logits are {:e} off, {tolerance:e} is allowed", report.max_abs());
    assert!(!same_tokens || report.gap() == 0.0, "{name}: a greedy token differs");
}

#[test]
fn tiny_hybrid_in_f32() {
    speaks("tiny-hybrid", ("cpu", Dtype::F32), 2e-4, true);
}

#[test]
fn tiny_deltanet_in_f32() {
    speaks("tiny-deltanet", ("cpu", Dtype::F32), 2e-4, true);
}

/// The checkpoints hold bfloat16 numbers, so their storage as bf16 loses nothing: only sums differ, if rows are not rounded.
#[test]
fn tiny_hybrid_in_bf16() {
    speaks("tiny-hybrid", ("cpu-bf16", Dtype::Bf16), 2e-4, true);
}

#[test]
fn tiny_deltanet_in_bf16() {
    speaks("tiny-deltanet", ("cpu-bf16", Dtype::Bf16), 2e-4, true);
}

/// Where a processor multiplies bfloat16 numbers, rows are rounded as well: what that moves logits of up to 20 by.
#[test]
fn rounded_rows_move_logits_little() {
    for name in ["tiny-hybrid", "tiny-deltanet"] {
        speaks(name, ("cpu", Dtype::Bf16), 6e-2, false);
    }
}
