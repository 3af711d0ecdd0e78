//! The standard library: blocks, functions and models in the language itself, with the weight maps, sizes and import rules of the models,
//! and descriptions of targets.
//!
//! Folders but `models/`, `weights/`, `import/`, `presets/` and `targets/` are the prelude: their items are known in every file.

/// Embeds the named files.
macro_rules! embed {
    ($($path:literal,)*) => { &[$(($path, include_str!(concat!("../", $path))),)*] };
}

/// Every file of the library: its path inside the library and its text, in the order of paths.
const FILES: &[(&str, &str)] = embed![
    "ffn/mlp.braid",
    "ffn/moe.braid",
    "functions/activations.braid",
    "functions/complex.braid",
    "functions/images.braid",
    "functions/losses.braid",
    "functions/masks.braid",
    "functions/quantised.braid",
    "functions/sequence.braid",
    "functions/softmax.braid",
    "heads/cross_attention.braid",
    "heads/linear.braid",
    "heads/rotary.braid",
    "import/bamba.yaml",
    "import/bitnet.yaml",
    "import/bookkeeping.yaml",
    "import/decoder.yaml",
    "import/deepseek_v2.yaml",
    "import/deepseek_v3.yaml",
    "import/deepseek_v32.yaml",
    "import/delta_net.yaml",
    "import/diffllama.yaml",
    "import/gated_deltanet.yaml",
    "import/gemma2.yaml",
    "import/gemma3.yaml",
    "import/gguf.yaml",
    "import/gguf_decoder.yaml",
    "import/gguf_gemma2.yaml",
    "import/gguf_gemma3.yaml",
    "import/gguf_llama.yaml",
    "import/gguf_mamba.yaml",
    "import/gguf_moe.yaml",
    "import/gla.yaml",
    "import/gpt2.yaml",
    "import/gpt_neox.yaml",
    "import/granite_hybrid.yaml",
    "import/hgrn2.yaml",
    "import/jamba.yaml",
    "import/lfm2.yaml",
    "import/linear_attention.yaml",
    "import/llada.yaml",
    "import/llama.yaml",
    "import/longformer.yaml",
    "import/mamba.yaml",
    "import/mamba2.yaml",
    "import/masked_diffusion.yaml",
    "import/mistral.yaml",
    "import/mixtral.yaml",
    "import/modernbert.yaml",
    "import/nemotron_h.yaml",
    "import/olmo_hybrid.yaml",
    "import/phimoe.yaml",
    "import/qwen.yaml",
    "import/qwen2_moe.yaml",
    "import/qwen3_next.yaml",
    "import/recurrent.yaml",
    "import/retnet.yaml",
    "import/rotary.yaml",
    "import/rwkv4.yaml",
    "import/rwkv7.yaml",
    "import/state_space.yaml",
    "import/vit.yaml",
    "import/whisper.yaml",
    "import/xlstm.yaml",
    "import/zamba.yaml",
    "mixers/attention.braid",
    "mixers/decay.braid",
    "mixers/delta.braid",
    "mixers/delta_variants.braid",
    "mixers/differential.braid",
    "mixers/feature_maps.braid",
    "mixers/gated_rnn.braid",
    "mixers/heads.braid",
    "mixers/latent.braid",
    "mixers/linear_attention.braid",
    "mixers/linear_rnn.braid",
    "mixers/longformer.braid",
    "mixers/native_sparse.braid",
    "mixers/parallel.braid",
    "mixers/relative.braid",
    "mixers/rwkv.braid",
    "mixers/rwkv6.braid",
    "mixers/s4.braid",
    "mixers/scans.braid",
    "mixers/selection.braid",
    "mixers/slstm.braid",
    "mixers/state_space.braid",
    "mixers/test_time.braid",
    "mixers/xlstm.braid",
    "models/bamba.braid",
    "models/deepseek.braid",
    "models/diffllama.braid",
    "models/diffusion.braid",
    "models/dit.braid",
    "models/gemma.braid",
    "models/gpt2.braid",
    "models/gpt_neox.braid",
    "models/granite_hybrid.braid",
    "models/hgrn2.braid",
    "models/jamba.braid",
    "models/lfm2.braid",
    "models/longformer.braid",
    "models/mamba.braid",
    "models/mamba2.braid",
    "models/modernbert.braid",
    "models/moe_transformer.braid",
    "models/nemotron_h.braid",
    "models/olmo_hybrid.braid",
    "models/phimoe.braid",
    "models/pyramid.braid",
    "models/qwen3_next.braid",
    "models/recurrent.braid",
    "models/rwkv.braid",
    "models/sashimi.braid",
    "models/transformer.braid",
    "models/unet.braid",
    "models/vision_diffusion.braid",
    "models/vit.braid",
    "models/whisper.braid",
    "models/xlstm.braid",
    "models/zamba.braid",
    "norms/norms.braid",
    "policies/eviction.braid",
    "policies/linear.braid",
    "policies/patterns.braid",
    "policies/quantised.braid",
    "presets/mamba.yaml",
    "presets/mamba2.yaml",
    "presets/rwkv.yaml",
    "presets/transformer.yaml",
    "presets/vit.yaml",
    "presets/whisper.yaml",
    "targets/aarch64.yaml",
    "targets/x86-64-v3.yaml",
    "targets/x86-64-v4.yaml",
    "targets/x86-64.yaml",
    "weights/bamba.yaml",
    "weights/deepseek.yaml",
    "weights/delta_net.yaml",
    "weights/diffllama.yaml",
    "weights/gated_deltanet.yaml",
    "weights/gemma.yaml",
    "weights/gguf_decoder.yaml",
    "weights/gguf_gemma.yaml",
    "weights/gguf_llama.yaml",
    "weights/gguf_mamba.yaml",
    "weights/gguf_moe.yaml",
    "weights/gpt2.yaml",
    "weights/gpt_neox.yaml",
    "weights/granite_hybrid.yaml",
    "weights/hgrn2.yaml",
    "weights/jamba.yaml",
    "weights/lfm2.yaml",
    "weights/linear_attention.yaml",
    "weights/llada.yaml",
    "weights/longformer.yaml",
    "weights/mamba.yaml",
    "weights/mamba2.yaml",
    "weights/mixtral.yaml",
    "weights/modernbert.yaml",
    "weights/nemotron_h.yaml",
    "weights/olmo_hybrid.yaml",
    "weights/phimoe.yaml",
    "weights/qwen2_moe.yaml",
    "weights/qwen3_next.yaml",
    "weights/rwkv4.yaml",
    "weights/rwkv7.yaml",
    "weights/transformer.yaml",
    "weights/vit.yaml",
    "weights/whisper.yaml",
    "weights/xlstm.yaml",
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// A file that is forgotten in the list would be missing only where the library is installed.
    #[test]
    fn every_file_of_the_folders_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let entries = |path: &Path| {
            let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
            entries.collect::<Vec<_>>()
        };
        let folders = entries(root).into_iter().filter(|path| path.is_dir() && !path.ends_with("src"));
        let files = folders.flat_map(|folder| entries(&folder));
        let name = |path: &Path| path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
        let mut found: Vec<String> = files.map(|path| name(&path)).collect();
        found.sort();
        assert_eq!(found, super::files().iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>());
    }
}
