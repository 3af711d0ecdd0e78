//! Code for another processor than this machine's: golden models compiled for ARM, and run by the C example under an emulator.

use crate::build::{imported, write};
use crate::reference::checkpoint::Checkpoint;
use crate::runtime::c_interface::built;
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{Dtype, header};
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Weights};
use std::path::Path;
use std::process::Command;

const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// The emulator, and where it finds the other processor's C library.
const EMULATOR: [&str; 3] = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"];

/// The first row of a golden's ids.
fn ids(golden: &Checkpoint, name: &str) -> Vec<i64> {
    let (shape, ids) = golden.tensor(name).expect(name);
    ids[..ids.len() / shape[0]].iter().map(|id| *id as i64).collect()
}

/// Greedy tokens of the golden file, by code for ARM.
fn check(name: &str, dtype: Dtype, chunks: Chunks) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    let (spec, map) = imported(&golden.join("config.json"));
    let folder = tempfile::tempdir().expect("a folder");
    let (artifact, weights) = (folder.path().join("model.braidart"), folder.path().join("weights.bin"));
    let manifest = write(&artifact, &spec, &map, "cpu:aarch64", dtype, chunks);
    if cfg!(target_arch = "x86_64") {
        let error = Artifact::open(&artifact).err().expect("foreign code was loaded").to_string();
        assert!(error.contains("aarch64"), "{error}");
    }
    Weights::open(&manifest, golden.to_str().expect("a path"), 2, &Hidden)
        .and_then(|packed| packed.write(&weights))
        .expect("weights");
    std::fs::write(folder.path().join("model.h"), header(&manifest)).expect("a header");
    let program = built(COMPILER, "generate.c", folder.path(), "model.h");
    let file = Checkpoint::open(&golden.join("golden.safetensors"));
    let (prompt, wanted) = (ids(&file, "prompt_ids"), ids(&file, "generated_ids"));
    let mut command = Command::new(EMULATOR[0]);
    command.args(&EMULATOR[1..]).arg(program).arg(&artifact).arg(&weights).arg(wanted.len().to_string());
    let output = command.args(prompt.iter().map(i64::to_string)).output();
    let output = output.unwrap_or_else(|error| panic!("qemu-user is needed ({error}): .ci/setup installs it"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let wanted: Vec<String> = wanted.iter().map(i64::to_string).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted.join(","), "{name}");
}

#[test]
fn attention_on_arm() {
    check("llama", Dtype::F32, Chunks::Auto);
}

#[test]
fn recurrences_in_chunks_on_arm() {
    check("mamba2", Dtype::F32, Chunks::Rows(8));
    check("gated_deltanet", Dtype::F32, Chunks::Rows(8));
}

#[test]
fn experts_on_arm() {
    check("mixtral", Dtype::F32, Chunks::Auto);
}
