//! Code for GPUs, as far as a machine without one can look at it: what the text and the manifest say, and, asked for, what
//! NVIDIA's assembler makes of it. `tests/gpu/run.sh` runs it on one.

use crate::build::{imported, write};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{self, Dtype, Manifest};
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// The PTX and the manifest of a golden model.
fn compiled(name: &str, target: &str, dtype: Dtype) -> (String, Manifest) {
    let (spec, map) = imported(&folder(name).join("config.json"));
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    write(&path, &spec, &map, target, dtype, Chunks::Auto);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, manifest) = artifact::decode(&bytes).expect("a sound artifact");
    (String::from_utf8(code.to_vec()).expect("text"), manifest)
}

/// Every access names its memory, and none spills to a thread's own by a run-time index.
#[test]
fn accesses_name_their_memory() {
    for (name, target, dtype) in [
        ("llama", "cuda:sm_90a", Dtype::Bf16),
        ("jamba", "cuda:sm_80", Dtype::F32),
        ("gated_deltanet", "cuda:sm_90a", Dtype::F32),
    ] {
        let (ptx, manifest) = compiled(name, target, dtype);
        let arch = &manifest.device.as_ref().expect("a GPU's manifest").arch;
        assert!(ptx.contains(&format!(".target {arch}")), "{name}");
        for entry in ["braid_prepare", "braid_prefill", "braid_step"] {
            assert!(ptx.contains(&format!(".entry {entry}(")), "{name}: {entry}");
        }
        let plain: Vec<&str> =
            ptx.lines().map(str::trim).filter(|line| line.starts_with("ld.b") || line.starts_with("st.b")).collect();
        assert!(plain.is_empty(), "{name}: {plain:?}");
        assert!(!ptx.contains("__local_depot"), "{name}");
    }
}

/// A deeper model has a longer table, not more code.
#[test]
fn depth_is_data() {
    let (shallow, few) = of_depth(2);
    let (deep, many) = of_depth(6);
    assert_eq!(shallow, deep);
    let steps = |manifest: &Manifest| manifest.device.as_ref().map_or(0, |device| device.steps.len());
    assert!(steps(&many) > 2 * steps(&few));
}

/// The library's transformer with so many layers.
fn of_depth(layers: usize) -> (String, Manifest) {
    let text = braid_stdlib::files().iter().find(|(name, _)| *name == "models/transformer.braid").expect("a model").1;
    let spec = text.replace("layers: int = 4", &format!("layers: int = {layers}"));
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    write(&path, &spec, "", "cuda:sm_90a", Dtype::F32, Chunks::Auto);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, manifest) = artifact::decode(&bytes).expect("a sound artifact");
    (String::from_utf8(code.to_vec()).expect("text"), manifest)
}

/// Steps that touch the same memory wait: what one writes and a later one reads or writes has a wait, or an order, in between.
#[test]
fn later_steps_wait() {
    let (_, manifest) = compiled("llama", "cuda:sm_90a", Dtype::F32);
    let device = manifest.device.expect("a GPU's manifest");
    let waits = device.steps.iter().filter(|step| step.wait).count();
    let follows = device.steps.iter().filter(|step| step.follows).count();
    // Of three layers: norm (but the first), queries with keys and values, rotation, cache, attention, projection, norm, gate (and up,
    // which follows it), down; then the last norm and the head.
    assert_eq!((device.steps.len(), waits, follows), (38, 3 * 9 - 1 + 2, 3));
}

/// With `BRAID_PTXAS` the path of NVIDIA's assembler: every golden model assembles for both architectures.
#[test]
#[ignore = "needs ptxas, for example of the Python package nvidia-cuda-nvcc: BRAID_PTXAS=…/ptxas cargo test -p braid-tests --lib gpu:: -- --ignored"]
fn every_model_assembles() {
    let ptxas = std::env::var("BRAID_PTXAS").expect("BRAID_PTXAS names the assembler");
    let mut names: Vec<String> = std::fs::read_dir(folder(""))
        .expect("goldens")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder(name).join("config.json").exists())
        .collect();
    names.sort();
    for name in names {
        for target in ["cuda:sm_90a", "cuda:sm_80"] {
            let (ptx, manifest) = compiled(&name, target, Dtype::F32);
            let room = tempfile::tempdir().expect("a folder");
            let file = room.path().join("model.ptx");
            std::fs::write(&file, ptx).expect("a file");
            let arch = format!("-arch={}", manifest.device.expect("a GPU's manifest").arch);
            let done = std::process::Command::new(&ptxas)
                .args([&arch, "-v", "-o", "/dev/null"])
                .arg(&file)
                .output()
                .expect("ptxas runs");
            let log = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{name} {target}: {log}");
            let used = log.lines().find(|line| line.contains("Used")).unwrap_or_default();
            println!("{name} {target}: {used}");
        }
    }
}
