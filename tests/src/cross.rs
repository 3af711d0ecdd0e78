//! Code for another processor than this machine's: golden models compiled for ARM, and run by the C example under an emulator.

use crate::build::{imported, write};
use crate::properties::compiled::{made_up, write_checkpoint};
use crate::runtime::c_interface::built;
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{Dtype, Manifest, header};
use braid_runtime::progress::Hidden;
use braid_runtime::verify::Golden;
use braid_runtime::{Artifact, Weights};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// The emulator, and where it finds the other processor's C library.
const EMULATOR: [&str; 3] = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"];

/// Greedy tokens of the golden file, by code for ARM.
pub fn check(name: &str, target: &str, dtype: Dtype, chunks: Chunks) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name);
    let (spec, map) = imported(&golden.join("config.json"));
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = write(&folder.path().join("model.braidart"), &spec, &map, target, dtype, chunks);
    let golden_file = Golden::open(&golden.join("golden.safetensors"), &manifest).expect("a golden file");
    let decoding = &golden_file.decoding[0];
    let found = generated(folder.path(), &manifest, &golden, (&decoding.prompt, decoding.generated.len()));
    assert_eq!(found, decoding.generated, "{name}");
}

/// What the C example generates under the emulator with the artifact of a folder.
fn generated(folder: &Path, manifest: &Manifest, checkpoint: &Path, (prompt, count): (&[i32], usize)) -> Vec<i32> {
    let (artifact, weights) = (folder.join("model.braidart"), folder.join("weights.bin"));
    if cfg!(target_arch = "x86_64") {
        let error = Artifact::open(&artifact).err().expect("foreign code was loaded").to_string();
        assert!(error.contains("aarch64"), "{error}");
    }
    Weights::open(manifest, checkpoint.to_str().expect("a path"), 2, &Hidden)
        .and_then(|packed| packed.write(&weights))
        .expect("weights");
    std::fs::write(folder.join("model.h"), header(manifest)).expect("a header");
    let program = built(COMPILER, "generate.c", folder, "model.h");
    let mut command = Command::new(EMULATOR[0]);
    command.args(&EMULATOR[1..]).arg(program).arg(&artifact).arg(&weights).arg(count.to_string());
    let output = command.args(prompt.iter().map(i32::to_string)).output();
    let output = output.unwrap_or_else(|error| panic!("qemu-user is needed ({error}): .ci/setup installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().split(',').map(|id| id.parse().expect("an id")).collect()
}

#[test]
fn attention_on_arm() {
    check("llama", "cpu:aarch64", Dtype::F32, Chunks::Auto);
}

#[test]
fn recurrences_in_chunks_on_arm() {
    check("mamba2", "cpu:aarch64", Dtype::F32, Chunks::Rows(8));
    check("gated_deltanet", "cpu:aarch64", Dtype::F32, Chunks::Rows(8));
}

#[test]
fn experts_on_arm() {
    check("mixtral", "cpu:aarch64", Dtype::F32, Chunks::Auto);
}

/// Rows of bfloat16 and of eight bits, with weights that make one token after the other: each is told from others by far more than rounding takes.
#[test]
fn products_of_few_bits_on_arm() {
    const SPEC: &str = "model m(d: dim = 96, k: dim = 200, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param up: [k, d]   param head: [vocab, k]
  generate autoregressive
  return sum[k] (sum[d] embed[vocab: tokens] * up) * head
}
";
    let (d, k, vocab) = (96, 200, 150);
    let [embed, up] = [("embed", [vocab, d]), ("up", [k, d])].map(|(path, shape)| made_up(path, &shape));
    let next = |token: usize| (token * 7 + 3) % vocab;
    let mut head = vec![0.0; vocab * k];
    for token in 0..vocab {
        for (at, x) in head[next(token) * k..][..k].iter_mut().enumerate() {
            *x = (0..d).map(|i| embed[token * d + i] * up[at * d + i]).sum();
        }
    }
    let mut wanted = vec![5];
    (0..20).for_each(|at| wanted.push(next(wanted[at] as usize) as i32));
    for dtype in [Dtype::Bf16, Dtype::Int8, Dtype::Int4, Dtype::Int4z] {
        let folder = tempfile::tempdir().expect("a folder");
        let map = "params:\n  embed: { tensor: embed }\n  up: { tensor: up }\n  head: { tensor: head }\n";
        let manifest = write(&folder.path().join("model.braidart"), SPEC, map, "cpu:aarch64+bf16+i8mm", dtype, Chunks::Auto);
        let numbers = [("embed", &embed), ("up", &up), ("head", &head)].map(|(path, x)| (path.to_string(), x.clone()));
        let checkpoint = folder.path().join("model.safetensors");
        write_checkpoint(&checkpoint, &manifest, &BTreeMap::from(numbers));
        let stored = manifest.packed.iter().filter(|packed| packed.dtype.has_quads() || packed.dtype == Dtype::Bf16Pairs);
        assert_eq!(stored.count(), 2, "{dtype:?}: products of few bits");
        let found = generated(folder.path(), &manifest, &checkpoint, (&wanted[..3], wanted.len() - 3));
        assert_eq!(found, wanted[3..], "{dtype:?}");
    }
}
