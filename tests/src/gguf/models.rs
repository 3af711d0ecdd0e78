//! Golden models, written as GGUF files in the way of the usual converter, imported, compiled, and compared with their golden results.

use super::Writer;
use crate::build;
use crate::reference::checkpoint::Checkpoint;
use braid_compiler::import::import_gguf;
use braid_runtime::artifact::Dtype;
use braid_runtime::progress::Hidden;
use braid_runtime::{Weights, checkpoint, verify};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of Hugging Face checkpoints and of GGUF files; `{i}` is the layer.
const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("lm_head.weight", "output.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
    ("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
    ("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
    ("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
    ("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
    ("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias"),
    ("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias"),
    ("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias"),
    ("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias"),
    ("model.layers.{i}.mlp.gate_proj.bias", "blk.{i}.ffn_gate.bias"),
    ("model.layers.{i}.mlp.up_proj.bias", "blk.{i}.ffn_up.bias"),
    ("model.layers.{i}.mlp.down_proj.bias", "blk.{i}.ffn_down.bias"),
    ("model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight"),
    ("model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight"),
    ("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
    ("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
    ("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
    ("model.layers.{i}.pre_feedforward_layernorm.weight", "blk.{i}.ffn_norm.weight"),
    ("model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight"),
    ("model.layers.{i}.block_sparse_moe.gate.weight", "blk.{i}.ffn_gate_inp.weight"),
    ("backbone.embeddings.weight", "token_embd.weight"),
    ("backbone.norm_f.weight", "output_norm.weight"),
    ("backbone.layers.{i}.norm.weight", "blk.{i}.attn_norm.weight"),
    ("backbone.layers.{i}.mixer.in_proj.weight", "blk.{i}.ssm_in.weight"),
    ("backbone.layers.{i}.mixer.conv1d.weight", "blk.{i}.ssm_conv1d.weight"),
    ("backbone.layers.{i}.mixer.conv1d.bias", "blk.{i}.ssm_conv1d.bias"),
    ("backbone.layers.{i}.mixer.x_proj.weight", "blk.{i}.ssm_x.weight"),
    ("backbone.layers.{i}.mixer.dt_proj.weight", "blk.{i}.ssm_dt.weight"),
    ("backbone.layers.{i}.mixer.dt_proj.bias", "blk.{i}.ssm_dt.bias"),
    ("backbone.layers.{i}.mixer.A_log", "blk.{i}.ssm_a"),
    ("backbone.layers.{i}.mixer.D", "blk.{i}.ssm_d"),
    ("backbone.layers.{i}.mixer.out_proj.weight", "blk.{i}.ssm_out.weight"),
];

/// Keys of a configuration and of the metadata.
const KEYS: &[(&str, &str)] = &[
    ("num_hidden_layers", "block_count"),
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("head_dim", "attention.value_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
    ("vocab_size", "vocab_size"),
    ("sliding_window", "attention.sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("conv_kernel", "ssm.conv_kernel"),
    ("state_size", "ssm.state_size"),
    ("time_step_rank", "ssm.time_step_rank"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(name).join("config.json")).unwrap()).unwrap()
}

/// A golden model as a file of that architecture.
fn converted(name: &str, architecture: &str) -> Writer {
    let config = config(name);
    let mut writer = Writer::new(architecture);
    for (key, own) in KEYS {
        let own = format!("{architecture}.{own}");
        match &config[key] {
            Value::Number(number) if number.is_f64() => writer.float(&own, number.as_f64().unwrap() as f32),
            Value::Number(number) => writer.int(&own, number.as_u64().unwrap() as u32),
            _ => {}
        }
    }
    let ropes = &config["rope_parameters"];
    if let Some(theta) = ropes["rope_theta"].as_f64().or(ropes["full_attention"]["rope_theta"].as_f64()) {
        writer.float(&format!("{architecture}.rope.freq_base"), theta as f32);
    }
    if architecture == "mamba" {
        writer.int("mamba.ssm.inner_size", config["intermediate_size"].as_u64().unwrap() as u32);
        writer.truth("mamba.ssm.dt_b_c_rms", config["model_type"] == "falcon_mamba");
    }
    if ropes["rope_type"] == "llama3" {
        let slowed = slowed(&config);
        writer.numbers("rope_freqs.weight", &[slowed.len()], &slowed);
    }
    tensors(&mut writer, name, architecture, &config);
    writer
}

/// What the converter computes of a configuration: frequencies of long waves are divided by a factor, those of short ones are kept.
fn slowed(config: &Value) -> Vec<f64> {
    let (ropes, k) = (&config["rope_parameters"], config["head_dim"].as_f64().unwrap());
    let of = |key: &str| ropes[key].as_f64().unwrap();
    let (factor, low, high, context) =
        (of("factor"), of("low_freq_factor"), of("high_freq_factor"), of("original_max_position_embeddings"));
    let one = |pair: usize| {
        let wave = 2.0 * std::f64::consts::PI * of("rope_theta").powf(2.0 * pair as f64 / k);
        let kept = ((context / wave - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - kept) / factor + kept)
    };
    (0..k as usize / 2).map(one).collect()
}

fn tensors(writer: &mut Writer, name: &str, architecture: &str, config: &Value) {
    let path = folder(name).join("model.safetensors");
    let checkpoint = Checkpoint::open(&path);
    let listed = checkpoint::Checkpoint::open(&path).unwrap();
    let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
    let mut written = 0;
    for layer in 0..layers {
        let fill = |pattern: &str| pattern.replace("{i}", &layer.to_string());
        for (theirs, own) in NAMES.iter().filter(|(theirs, _)| layer == 0 || theirs.contains("{i}")) {
            let Some((shape, numbers)) = checkpoint.tensor(&fill(theirs)) else { continue };
            let (shape, numbers) = changed(architecture, theirs, shape, numbers, config);
            writer.numbers(&fill(own), &shape, &numbers);
            written += 1;
        }
        let norm = if architecture.starts_with("gemma") { "post_attention_norm" } else { "ffn_norm" };
        if let Some((shape, numbers)) = checkpoint.tensor(&fill("model.layers.{i}.post_attention_layernorm.weight")) {
            let (shape, numbers) = changed(architecture, "layernorm.weight", shape, numbers, config);
            writer.numbers(&fill(&format!("blk.{{i}}.{norm}.weight")), &shape, &numbers);
            written += 1;
        }
        written += experts(writer, &checkpoint, layer);
    }
    assert_eq!(written, listed.names().count(), "every tensor of {name} is written");
}

/// One tensor for all experts of a layer.
fn experts(writer: &mut Writer, checkpoint: &Checkpoint, layer: usize) -> usize {
    let mut written = 0;
    for (theirs, own) in [("w1", "gate"), ("w3", "up"), ("w2", "down")] {
        let of = |e: usize| checkpoint.tensor(&format!("model.layers.{layer}.block_sparse_moe.experts.{e}.{theirs}.weight"));
        let found: Vec<_> = (0..).map_while(of).collect();
        let Some((shape, _)) = found.first() else { continue };
        let numbers: Vec<f64> = found.iter().flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        writer.numbers(&format!("blk.{layer}.ffn_{own}_exps.weight"), &[found.len(), shape[0], shape[1]], &numbers);
        written += found.len();
    }
    written
}

/// What the converter does to a tensor.
fn changed(architecture: &str, name: &str, shape: &[usize], numbers: &[f64], config: &Value) -> (Vec<usize>, Vec<f64>) {
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    match architecture {
        "llama" if name.contains("q_proj") => (shape.into(), interleaved(shape, numbers, heads("num_attention_heads"))),
        "llama" if name.contains("k_proj") => (shape.into(), interleaved(shape, numbers, heads("num_key_value_heads"))),
        "gemma2" | "gemma3" if name.contains("norm") => (shape.into(), numbers.iter().map(|number| number + 1.0).collect()),
        "mamba" if name.contains("conv1d.weight") => (vec![shape[0], shape[2]], numbers.into()),
        "mamba" if name.contains("A_log") => (shape.into(), numbers.iter().map(|number| -number.exp()).collect()),
        _ => (shape.into(), numbers.into()),
    }
}

/// Rows `i` and `i + n / 2` of each head become neighbours.
fn interleaved(shape: &[usize], numbers: &[f64], heads: usize) -> Vec<f64> {
    let (rows, width) = (shape[0] / heads, shape.get(1).copied().unwrap_or(1));
    let row = |row: usize| &numbers[row * width..][..width];
    (0..shape[0]).flat_map(|at| row(at / rows * rows + at % rows / 2 + at % 2 * (rows / 2)).to_vec()).collect()
}

/// The spec that the file imports to, changed by `edit`; its results against the golden ones.
fn check(name: &str, architecture: &str, edit: impl Fn(String) -> String) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let writer = converted(name, architecture);
    std::fs::write(&path, writer.bytes()).unwrap();
    let file = checkpoint::Checkpoint::open(&path).unwrap();
    let made = import_gguf(file.metadata(), &file.names().collect::<Vec<_>>(), "tested", braid_stdlib::files());
    let made = made.unwrap_or_else(|error| panic!("{name}: {error}"));
    let built = build::build(&edit(made.spec), &made.weights, "cpu", Dtype::F32);
    let weights =
        Weights::open(&built.artifact.manifest, path.to_str().unwrap(), 2, &Hidden).unwrap_or_else(|error| panic!("{error}"));
    let golden = folder(name).join("golden.safetensors");
    let report = verify::compare(Arc::new(built.artifact), Arc::new(weights), &golden, 2).unwrap();
    let meta: Value = serde_json::from_slice(&std::fs::read(folder(name).join("meta.json")).unwrap()).unwrap();
    let tolerance = meta["suggested_tolerance"]["atol"].as_f64().unwrap();
    assert!(report.max_abs() <= tolerance, "{name}: {:.3e} is beyond {tolerance:.1e}", report.max_abs());
}

#[test]
fn rotary_rows_in_pairs() {
    check("llama", "llama", |spec| spec);
    check("mistral_sliding", "llama", |spec| spec);
}

/// Newer files hold by how much each pair of channels is slowed.
#[test]
fn rotary_frequencies_in_a_tensor() {
    check("llama3_scaled_rope", "llama", |spec| {
        assert!(spec.contains("scaling: \"given\""), "{spec}");
        spec
    });
}

#[test]
fn norms_of_queries_and_keys() {
    check("qwen3", "qwen3", |spec| spec);
}

/// Files do not hold by what queries are scaled, nor which layers have windows: it follows from the architecture. The golden models have
/// made up both.
#[test]
fn norms_that_hold_one_more() {
    let replaced = |spec: String, from: &str, to: &str| {
        assert!(spec.contains(from), "{spec}");
        spec.replace(from, to)
    };
    check("gemma2", "gemma2", |spec| replaced(spec, "query_scale: 16.0", "query_scale: 20.0"));
    check("gemma3", "gemma3", |spec| {
        let (before, after) = spec.split_once("kinds: [").unwrap();
        let (kinds, after) = after.split_once(']').unwrap();
        assert_eq!(kinds.matches("sliding_attention").count(), 4);
        let kinds = ["sliding", "sliding", "full", "sliding"].map(|kind| format!("\"{kind}_attention\"")).join(", ");
        replaced(format!("{before}kinds: [{kinds}]{after}"), "query_scale: 20.0", "query_scale: 18.0")
    });
}

#[test]
fn experts_in_one_tensor() {
    check("mixtral", "llama", |spec| spec);
}

#[test]
fn decays_without_logarithm() {
    check("mamba", "mamba", |spec| spec);
    check("falcon_mamba", "mamba", |spec| spec);
}

#[test]
fn what_a_rule_does_not_know_is_refused() {
    let imported = |change: &dyn Fn(&mut Writer)| {
        let mut writer = converted("llama", "llama");
        change(&mut writer);
        let (metadata, tensors) = checkpoint::gguf::parse(&writer.bytes()).unwrap();
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        import_gguf(&metadata, &names, "tested", braid_stdlib::files()).map(|made| made.spec).map_err(|error| error.to_string())
    };
    assert!(imported(&|_| ()).unwrap().starts_with("//! Imported from a checkpoint of type llama.\n\nuse models.transformer"));
    assert!(imported(&|file| file.float("llama.logit_scale", 2.0)).unwrap_err().contains("the key `logit_scale`"));
    assert!(
        imported(&|file| file.text("llama.rope.scaling.type", "longrope")).unwrap_err().contains("rotary scaling `longrope`")
    );
    let both = imported(&|file| {
        file.numbers("rope_freqs.weight", &[7], &[1.0; 7]);
        file.text("llama.rope.scaling.type", "linear");
    });
    assert!(both.unwrap_err().contains("beside frequencies that are a tensor"));
    assert!(
        imported(&|file| file.pairs[0].2 = super::text("unheard"))
            .unwrap_err()
            .contains("no import rule takes general.architecture `unheard`")
    );
    assert!(imported(&|file| drop(file.pairs.remove(0))).unwrap_err().contains("no `general.architecture`"));
    assert!(
        imported(&|file| file.pairs.retain(|(key, ..)| key != "llama.block_count")).unwrap_err().contains("no `block_count`")
    );
}
