//! The standard library: blocks, functions and models in the language itself, with the weight maps and import rules of the models.
//!
//! Folders but `models/`, `weights/`, `import/` and `targets/` are the prelude: their items are known in every file.

/// Embeds the named files.
macro_rules! embed {
    ($($path:literal,)*) => { &[$(($path, include_str!(concat!("../", $path))),)*] };
}

/// Every file of the library: its path inside the library and its text, in the order of paths.
const FILES: &[(&str, &str)] = embed![
    "ffn/mlp.braid",
    "ffn/moe.braid",
    "functions/activations.braid",
    "functions/masks.braid",
    "functions/softmax.braid",
    "heads/linear.braid",
    "heads/rotary.braid",
    "mixers/attention.braid",
    "mixers/delta.braid",
    "mixers/linear_attention.braid",
    "mixers/linear_rnn.braid",
    "mixers/parallel.braid",
    "mixers/state_space.braid",
    "models/bamba.braid",
    "models/gemma.braid",
    "models/gpt2.braid",
    "models/gpt_neox.braid",
    "models/granite_hybrid.braid",
    "models/jamba.braid",
    "models/lfm2.braid",
    "models/mamba.braid",
    "models/mamba2.braid",
    "models/moe_transformer.braid",
    "models/nemotron_h.braid",
    "models/olmo_hybrid.braid",
    "models/phimoe.braid",
    "models/qwen3_next.braid",
    "models/transformer.braid",
    "models/zamba.braid",
    "norms/norms.braid",
    "weights/bamba.yaml",
    "weights/gemma.yaml",
    "weights/gpt2.yaml",
    "weights/gpt_neox.yaml",
    "weights/granite_hybrid.yaml",
    "weights/jamba.yaml",
    "weights/lfm2.yaml",
    "weights/mamba.yaml",
    "weights/mamba2.yaml",
    "weights/mixtral.yaml",
    "weights/nemotron_h.yaml",
    "weights/olmo_hybrid.yaml",
    "weights/phimoe.yaml",
    "weights/qwen2_moe.yaml",
    "weights/qwen3_next.yaml",
    "weights/transformer.yaml",
    "weights/zamba.yaml",
];

/// Every file of the library: its path inside the library (`mixers/attention.braid`, `weights/gpt2.yaml` …) and its text.
pub fn files() -> &'static [(&'static str, &'static str)] {
    FILES
}

/// The text of one file.
pub fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}
