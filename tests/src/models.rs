//! Every model of the library against the reference outputs of its published implementation: both ages of a configuration import to
//! one text, and the f64 evaluator of the graph gives the golden logits from the golden weights, in one pass and step by step.

use crate::build;
use crate::reference::Reference;
use crate::reference::checkpoint::Checkpoint;
use crate::reference::tensor::Tensor;
use braid_compiler::graph::Graph;
use braid_compiler::import::bind::WeightMap;
use braid_compiler::import::{Imported, import};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Imports `config.json`, and checks that `config.older.json`, where there is one, gives the same.
fn imported(folder: &Path, name: &str) -> Imported {
    let one = |file: &str| {
        let config = read(&folder.join(file));
        import(&config, name, braid_stdlib::files()).unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
    };
    let newer = one("config.json");
    if folder.join("config.older.json").exists() {
        assert_eq!(newer.spec, one("config.older.json").spec, "{name}: the two configurations import to different texts");
    }
    newer
}

/// The graph of an imported model and the numbers of its parameters.
fn loaded(imported: &Imported, weights: &Path, blocks: &[&str]) -> (Graph, HashMap<String, Vec<f64>>) {
    let model = build::model(&imported.spec);
    for block in blocks {
        let used = imported.spec.contains(&format!(" {block}(")) || model.scopes.iter().any(|scope| scope.block == *block);
        assert!(used, "{} has no `{block}`", model.name);
    }
    let map = WeightMap::parse(&imported.weights).expect("a weight map of the library");
    let bound = map.bind(&model.axes, &model.params, &model.constants).unwrap_or_else(|errors| {
        panic!("{}", errors.iter().map(|error| format!("\n  {error}")).collect::<String>());
    });
    let checkpoint = Checkpoint::open(weights);
    let numbers = |param| checkpoint.param(param).unwrap_or_else(|error| panic!("{error}"));
    (Graph::build(&model), bound.iter().map(|param| (param.path.clone(), numbers(param))).collect())
}

/// The first sequence of a tensor of a batch.
fn first(golden: &Checkpoint, name: &str) -> Vec<f64> {
    let (shape, data) = golden.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    data[..data.len() / shape[0]].to_vec()
}

fn tokens(data: &[f64]) -> Vec<i64> {
    data.iter().map(|token| *token as i64).collect()
}

fn close(name: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{name}: {worst:.2e} (allowed {tolerance:.1e})");
    assert!(worst <= tolerance, "{name}: {worst:.3e} is beyond {tolerance:.1e}");
}

fn tolerance(folder: &Path) -> f64 {
    let meta: serde_json::Value = serde_json::from_str(&read(&folder.join("meta.json"))).expect("meta.json");
    meta["suggested_tolerance"]["atol"].as_f64().expect("a tolerance")
}

/// `blocks`: what of the library the model must be made of.
fn check(name: &str, blocks: &[&str]) {
    let folder = root().join("tests/goldens").join(name);
    let (graph, params) = loaded(&imported(&folder, name), &folder.join("model.safetensors"), blocks);
    let golden = Checkpoint::open(&folder.join("golden.safetensors"));
    let tolerance = tolerance(&folder);
    let mut reference = Reference::new(&graph, |path| params[path].clone());
    let found = reference.run(&tokens(&first(&golden, "input_ids")));
    close(name, &found.data, &first(&golden, "logits"), tolerance);

    if golden.tensor("generated_ids").is_none() {
        return;
    }
    reference.reset();
    let (prompt, generated) = (tokens(&first(&golden, "prompt_ids")), tokens(&first(&golden, "generated_ids")));
    let logits = first(&golden, "generated_logits");
    let vocab = logits.len() / generated.len();
    let mut last = reference.run(&prompt).data;
    for (step, token) in generated.iter().enumerate() {
        let row = &last[last.len() - vocab..];
        close(&format!("{name}, step {step}"), row, &logits[step * vocab..][..vocab], tolerance);
        last = reference.run(&[*token]).data;
    }
}

/// The spec beside the weights of a demo model is what their configuration imports to.
fn check_imported(name: &str) -> Imported {
    let example = root().join("examples").join(name);
    let stem = name.replace('-', "_");
    let imported = imported(&example.join("weights"), &stem);
    assert_eq!(read(&example.join(format!("{stem}.braid"))), imported.spec, "write it anew by `braid import`");
    assert_eq!(read(&example.join(format!("{stem}.weights.yaml"))), imported.weights, "write it anew by `braid import`");
    imported
}

/// The demo models give the golden logits.
fn check_example(name: &str, blocks: &[&str]) {
    let example = root().join("examples").join(name);
    let imported = check_imported(name);
    let (graph, params) = loaded(&imported, &example.join("weights/model.safetensors"), blocks);
    let golden = Checkpoint::open(&root().join("tests/goldens").join(name).join("golden.safetensors"));
    let (_, ids) = golden.tensor("prompt0.input_ids").expect("a prompt");
    let (_, logits) = golden.tensor("prompt0.logits").expect("logits");
    let mut reference = Reference::new(&graph, |path| params[path].clone());
    let found = reference.run(&tokens(ids));
    close(name, &found.data, logits, 1e-4);
}

macro_rules! goldens {
    ($($name:ident: $($block:ident)*;)*) => { $(#[test] fn $name() { check(stringify!($name), &[$(stringify!($block)),*]) })* };
}

goldens! {
    llama: transformer attention swiglu rmsnorm rotary;
    llama3_scaled_rope: transformer;
    qwen3: transformer;
    mistral_sliding: transformer;
    gemma2: gemma;
    gemma3: gemma;
    gpt2: gpt2 layernorm mlp;
    gpt_neox: gpt_neox layernorm mlp;
    mixtral: moe_transformer moe;
    qwen2_moe: moe_transformer shared_moe moe;
    phimoe: phimoe sparsemixer;
    mamba: mamba_lm mamba;
    falcon_mamba: mamba_lm mamba;
    mamba2: mamba2_lm mamba2;
    bamba: bamba mamba2 attention;
    granitemoehybrid: granite_hybrid mamba2 attention shared_moe;
    jamba: jamba mamba attention moe;
    zamba: zamba mamba_heads global_memory link;
    zamba2: zamba2 mamba2 shared_look adapter;
    falcon_h1: falcon_h1 mamba2 attention;
    kimi_linear: kimi_linear kda latent_attention shared_moe;
    nemotron_h: nemotron_h mamba2 attention mlp shared_moe;
    lfm2: lfm2 short_conv attention;
    olmo_hybrid: olmo_hybrid gated_delta attention;
    gla: recurrent gated_linear_attention;
    gla_hybrid: recurrent gated_linear_attention attention;
    retnet: recurrent retention;
    delta_net: recurrent delta_rule;
    gated_deltanet: recurrent gated_delta;
    hgrn2: hgrn2_lm hgrn2;
    rwkv7: rwkv7_lm rwkv7 rwkv7_channel;
    xlstm: xlstm mlstm;
    rwkv4: rwkv4_lm rwkv4 rwkv4_channel;
    llada: diffusion_transformer;
    modernbert: modernbert layernorm;
    bitnet: transformer;
    diffllama: diffllama differential_attention;
    deepseek_v2: deepseek latent_attention moe;
    deepseek_v3: deepseek latent_attention shared_moe;
    deepseek_v32: deepseek latent_attention indexer shared_moe;
}

/// A golden model that is given more than token ids, by the evaluator: its inputs in order, each as rows of its axes.
fn check_given(name: &str, blocks: &[&str], inputs: &[Vec<f64>], rows: &[usize]) -> Vec<f64> {
    let folder = root().join("tests/goldens").join(name);
    let (graph, params) = loaded(&imported(&folder, name), &folder.join("model.safetensors"), blocks);
    let tensors = graph.inputs.iter().zip(inputs.iter().zip(rows)).map(|((_, ty), (data, rows))| {
        let shape = ty.axes.iter().map(|axis| graph.size(*axis).unwrap_or(*rows)).collect();
        Tensor { axes: ty.axes.clone(), shape, data: data.clone() }
    });
    Reference::new(&graph, |path| params[path].clone()).run_inputs(&tensors.collect::<Vec<_>>()).data
}

#[test]
fn vit() {
    let folder = root().join("tests/goldens/vit");
    let golden = Checkpoint::open(&folder.join("golden.safetensors"));
    let pixels = first(&golden, "pixel_values");
    // 25 patches of 3 x 6 x 6, and an empty row for the class.
    let place = |at: usize| {
        let (patch, channel, y, x) = (at / 108, at / 36 % 3, at / 6 % 6, at % 6);
        (channel * 30 + patch / 5 * 6 + y) * 30 + patch % 5 * 6 + x
    };
    let patches = (0..26 * 108).map(|at| if at < 25 * 108 { pixels[place(at)] } else { 0.0 }).collect();
    let found = check_given("vit", &["vit", "attention", "mlp"], &[patches], &[26]);
    close("vit", &found[25 * 11..], &first(&golden, "logits"), tolerance(&folder));
}

#[test]
fn whisper() {
    let folder = root().join("tests/goldens/whisper");
    let golden = Checkpoint::open(&folder.join("golden.safetensors"));
    let features = first(&golden, "input_features");
    // 25 rows of two frames of 20 bands.
    let sound = (0..50 * 20).map(|at| features[at % 20 * 50 + at / 20]).collect();
    let blocks = ["whisper", "sound_encoder", "frames", "cross_attention"];
    let found = check_given("whisper", &blocks, &[sound, first(&golden, "decoder_input_ids")], &[25, 19]);
    close("whisper", &found, &first(&golden, "logits"), tolerance(&folder));
}

/// Imports a golden's configuration with one line of it changed.
fn changed(name: &str, key: &str, value: &str) -> Result<Imported, String> {
    let folder = root().join("tests/goldens").join(name);
    let mut config: serde_json::Value = serde_json::from_str(&read(&folder.join("config.json"))).expect("JSON");
    config[key] = serde_json::from_str(value).expect("a value");
    import(&config.to_string(), name, braid_stdlib::files()).map_err(|error| error.to_string())
}

#[test]
fn switches_that_a_model_lacks_are_refused_by_name() {
    let cases = [
        ("gla gla_hybrid retnet delta_net gated_deltanet hgrn2 rwkv7 xlstm rwkv4", "another_switch", "true"),
        ("gla retnet delta_net gated_deltanet hgrn2", "attnres_block_size", "2"),
        ("gla retnet delta_net gated_deltanet hgrn2 rwkv7", "hidden_act", "\"powlu\""),
        ("gla retnet hgrn2", "elementwise_affine", "false"),
        ("gla retnet", "feature_map", "\"dpfp\""),
        ("gla rwkv7", "attn", "[{\"layers\": [1], \"num_heads\": 4}]"),
        ("rwkv7", "attn", "{\"layers\": [1], \"num_heads\": 4}"),
        ("gla", "use_gv", "true"),
        ("gla", "use_gk", "false"),
        ("delta_net", "qk_activation", "\"tanh\""),
        ("delta_net", "qk_norm", "\"rms\""),
        ("delta_net", "use_output_norm", "false"),
        ("gated_deltanet", "output_gate_activation", "\"relu\""),
        ("hgrn2", "expand_ratio", "24"),
        ("rwkv7", "value_dim", "[64, 64, 128]"),
        ("xlstm", "use_bias", "true"),
        ("xlstm", "add_out_norm", "false"),
        ("xlstm", "weight_mode", "\"fused\""),
        ("xlstm", "qk_dim_factor", "0.3"),
    ];
    for (names, key, value) in cases {
        for name in names.split(' ') {
            let error = changed(name, key, value).expect_err(&format!("{name} with {key}: {value}"));
            assert!(error.contains(key), "{name} with {key}: {value}: {error}");
        }
    }
}

#[test]
fn switches_of_recurrent_layers_become_arguments() {
    let cases = [
        ("gla", "num_kv_heads", "2", "groups: 2"),
        ("gla", "feature_map", "\"gelu\"", "map: \"gelu_tanh\""),
        ("gla", "use_short_conv", "true", "conv: true, width: 4"),
        ("gla", "clamp_min", "-0.5", "least: -0.5"),
        ("gla", "use_output_gate", "false", "gate: false"),
        ("gla", "intermediate_size", "null", "hidden: 256"),
        ("gla", "tie_word_embeddings", "true", "tied: true"),
        ("gla_hybrid", "attn", "{\"layers\": [0, 2], \"num_heads\": 4, \"qkv_bias\": true}", "attn_layers: [0, 2]"),
        ("gla_hybrid", "attn", "{\"layers\": [0], \"num_heads\": 4, \"qkv_bias\": true}", "bias: true, out_bias: false"),
        ("retnet", "num_kv_heads", "2", "groups: 2"),
        ("retnet", "use_short_conv", "true", "conv: true, width: 4"),
        ("retnet", "attn", "{\"layers\": [0], \"num_heads\": 4}", "attn_layers: [0]"),
        ("delta_net", "qk_activation", "\"elu\"", "map: \"elu1\""),
        ("delta_net", "qk_norm", "\"sum\"", "unit: \"sum\""),
        ("delta_net", "use_short_conv", "false", "conv: false"),
        ("delta_net", "use_beta", "false", "beta: false"),
        ("delta_net", "use_gate", "true", "gate: true"),
        ("delta_net", "allow_neg_eigval", "true", "strength: 2.0"),
        ("gated_deltanet", "num_v_heads", "6", "heads: 6, groups: 3"),
        ("gated_deltanet", "use_gate", "false", "gate: \"none\""),
        ("gated_deltanet", "output_gate_activation", "\"sigmoid\"", "gate: \"sigmoid\""),
        ("gated_deltanet", "use_short_conv", "false", "conv: false"),
        ("hgrn2", "use_lower_bound", "false", "bounded: false"),
        ("hgrn2", "use_short_conv", "true", "conv: true"),
        ("hgrn2", "attn", "{\"layers\": [1], \"num_heads\": 4}", "attn_layers: [1]"),
        ("rwkv7", "norm_first", "false", "norm_first: false"),
        ("rwkv7", "norm_bias", "false", "norm_bias: false"),
        ("rwkv4", "attention_hidden_size", "null", "n: 60"),
        ("rwkv4", "intermediate_size", "null", "hidden: 240"),
        ("xlstm", "output_logit_soft_cap", "0.0", "logit_cap: 0.0"),
    ];
    for (name, key, value, argument) in cases {
        let imported = changed(name, key, value).unwrap_or_else(|error| panic!("{name} with {key}: {value}: {error}"));
        assert!(imported.spec.contains(argument), "{name} with {key}: {value}: {}", imported.spec);
        let model = build::model(&imported.spec);
        let map = WeightMap::parse(&imported.weights).expect("a weight map of the library");
        assert!(map.bind(&model.axes, &model.params, &model.constants).is_ok(), "{name} with {key}: {value}");
    }
}

#[test]
fn the_page_on_import_names_every_family() {
    let page = read(&root().join("docs/import.md"));
    for (path, text) in braid_stdlib::files().iter().filter(|(path, _)| path.starts_with("import/")) {
        let Some(types) = text.lines().find_map(|line| line.strip_prefix("model_type: [")) else { continue };
        for name in types.trim_end_matches(']').split(", ") {
            assert!(page.contains(&format!("`{name}`")), "docs/import.md does not name `{name}` of {path}");
        }
    }
}

#[test]
fn tiny_hybrid() {
    check_example("tiny-hybrid", &["granite_hybrid", "mamba2"]);
}

#[test]
fn tiny_diffusion() {
    check_imported("tiny-diffusion");
}

#[test]
fn tiny_deltanet() {
    check_example("tiny-deltanet", &["qwen3_next", "gated_delta"]);
}
