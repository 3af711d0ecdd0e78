//! The runtime's ways to run a compiled model: other registers, other numbers of threads, and the C interface.

use crate::build::{Built, build, imported};
use braid_runtime::artifact::{self, Dtype};
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Inputs, Values};
use braid_runtime::verify::{Golden, compare};
use braid_runtime::{Artifact, Session, Settings, Wanted, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn built(folder: &Path, target: &str, dtype: Dtype) -> Built {
    let (spec, map) = imported(&folder.join("config.json"));
    build(&spec, &map, target, dtype)
}

fn weights(artifact: &Artifact, folder: &Path) -> Arc<Weights> {
    Arc::new(Weights::open(&artifact.manifest, folder.to_str().unwrap(), 2, &Hidden).unwrap())
}

/// The checkpoint holds bfloat16 numbers, so that their storage loses nothing.
#[test]
fn other_targets_and_threads() {
    let folder = folder("granitemoehybrid");
    for (target, threads) in [("cpu:x86-64-v3", 1), ("cpu:x86-64-v3", 3), ("cpu", 1)] {
        let artifact = Arc::new(built(&folder, target, Dtype::Bf16).artifact);
        let weights = weights(&artifact, &folder);
        let report = compare(artifact, weights, &folder.join("golden.safetensors"), threads).unwrap();
        assert!(report.max_abs() < 1e-4 && report.gap() == 0.0, "{target}: off by {:.2e}", report.max_abs());
    }
}

#[test]
fn the_c_example_runs_a_compiled_model() {
    let folder = folder("bamba");
    let Built { artifact, folder: scratch } = built(&folder, "cpu", Dtype::F32);
    let (header, packed) = (scratch.path().join("model.h"), scratch.path().join("weights.bin"));
    std::fs::write(header, artifact::header(&artifact.manifest)).unwrap();
    weights(&artifact, &folder).write(&packed).unwrap();
    let golden = Golden::open(&folder.join("golden.safetensors"), &artifact.manifest).unwrap();
    for decoding in &golden.decoding {
        let count = decoding.generated.len();
        let found = super::c_interface::generate(scratch.path(), "model.h", artifact.path(), &packed, count, &decoding.prompt);
        assert_eq!(found, decoding.generated, "{}", decoding.name);
    }
}

/// A decoder whose source comes through `braid_encode`: C says what the runtime does.
#[test]
fn the_c_example_listens() {
    let folder = folder("whisper");
    let Built { artifact, folder: scratch } = built(&folder, "cpu", Dtype::F32);
    let (header, packed) = (scratch.path().join("model.h"), scratch.path().join("weights.bin"));
    std::fs::write(header, artifact::header(&artifact.manifest)).unwrap();
    let weights = weights(&artifact, &folder);
    weights.write(&packed).unwrap();
    let sound: Vec<f32> = (0..22 * 40).map(|at| ((at * 7919 % 1000) as f32 / 500.0 - 1.0).powi(3)).collect();
    let listen = |sound: &[f32]| super::c_interface::listen(scratch.path(), artifact.path(), &packed, 12, sound, &[1, 7, 30]);
    let (found, other) = (listen(&sound), listen(&sound[..40 * 5]));
    assert_ne!(found, other, "another source, another text");
    let mut inputs = Inputs::default();
    inputs.set(&artifact.manifest, "sound", Values::Floats(&sound)).unwrap();
    let mut session = Session::new(Arc::new(artifact), weights, Settings { threads: 1, capacity: 40, slots: 1 }).unwrap();
    session.give(0, inputs).unwrap();
    let mut next = 0;
    session.prefill(0, &[1, 7, 30], Wanted::Last, |_, logits| next = braid_runtime::sample::greedy(logits).unwrap()).unwrap();
    let mut wanted = vec![next];
    for _ in 1..12 {
        next = braid_runtime::sample::greedy(session.step(&[(0, next)]).unwrap()).unwrap();
        wanted.push(next);
    }
    assert_eq!(found, wanted);
}

/// Of a hybrid, whose states forget; of caches alone; and of caches in rings, whose window has passed.
#[test]
fn the_c_example_resumes_compiled_models() {
    for (name, length, how) in [("bamba", 40, "restored"), ("llama", 40, "cut"), ("mistral_sliding", 400, "cut")] {
        let folder = folder(name);
        let Built { artifact, folder: scratch } = built(&folder, "cpu", Dtype::F32);
        let (header, packed) = (scratch.path().join("model.h"), scratch.path().join("weights.bin"));
        std::fs::write(header, artifact::header(&artifact.manifest)).unwrap();
        let weights = weights(&artifact, &folder);
        weights.write(&packed).unwrap();
        let ids: Vec<i32> = (0..length).map(|at| (at * at + 3 * at) % artifact.manifest.vocab as i32).collect();
        let (text, bytes) = super::c_interface::resume(scratch.path(), "model.h", artifact.path(), &packed, 20, &ids);
        let wanted = format!("{} bytes saved; {how}; 20 rows of logits three times the same", bytes.len());
        assert_eq!(text, wanted, "{name}");
        let mut session = Session::new(Arc::new(artifact), weights, Settings { threads: 1, capacity: 600, slots: 1 }).unwrap();
        session.prefill(0, &ids, Wanted::None, |_, _| ()).unwrap();
        assert!(bytes == session.snapshot(0).unwrap().bytes(), "{name}: C and Rust save different bytes");
    }
}

/// Ids are bounded by the table that they are looked up in, whether results are narrower or wider than it.
#[test]
fn token_ids_are_those_of_the_table() {
    use crate::properties::compiled::Compiled;
    use braid_runtime::error::Error;
    use braid_runtime::session::{Feed, Wanted};
    for (places, out) in [(8, 3), (3, 8)] {
        let compiled = Compiled::new(&format!(
            "model m(places: dim = {places}, d: dim = 4, out: dim = {out})(tokens: [t]) -> [t, out] {{\n  param embed: [places, d]   param w: \
             [out, d]\n  return sum[d] embed[places: tokens] * w\n}}\n"
        ));
        let mut session = compiled.session(1, 1);
        let logits = session.forward(&[Feed::new(0, &[places - 1], Wanted::All)]).expect("the last row of the table");
        assert_eq!(logits.len(), out);
        let beyond = session.forward(&[Feed::new(0, &[0, places], Wanted::All)]);
        assert!(matches!(beyond, Err(Error::Token { place: 1, tokens, .. }) if tokens == places as usize));
    }
}

/// A token reads one row of the table of ids, and of the experts those that it chooses.
#[test]
fn weights_of_one_token() {
    for (name, experts) in [("llama", None), ("mixtral", Some((5, 2)))] {
        let manifest = &built(&folder(name), "cpu", Dtype::F32).artifact.manifest;
        let wanted = manifest.packed.iter().map(|packed| {
            let param = &manifest.params[packed.param];
            match (param.path.as_str(), experts) {
                ("embed", _) => packed.bytes / param.shape[0],
                (_, Some((all, chosen))) if param.shape[0] == all && param.shape.len() == 3 => packed.bytes / all * chosen,
                _ => packed.bytes,
            }
        });
        assert_eq!(manifest.token_weights_bytes, wanted.sum::<usize>(), "{name}");
        assert!(manifest.token_weights_bytes < manifest.weights_bytes);
    }
}
