//! A real model in a GGUF file: SmolLM2-135M-Instruct. `examples/smollm2/fetch.sh` brings it; it is too large to be part of the project.

use crate::build;
use crate::reference::checkpoint::Checkpoint as Numbers;
use braid_compiler::import::import_gguf;
use braid_runtime::artifact::Dtype;
use braid_runtime::chat::{Message, Template};
use braid_runtime::checkpoint::Checkpoint;
use braid_runtime::progress::Hidden;
use braid_runtime::sample::greedy;
use braid_runtime::tokenizer::Tokenizer;
use braid_runtime::{Session, Settings, Wanted, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Twenty times what a plain computation in f32 is off by.
const TOLERANCE: f64 = 1e-3;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/smollm2")
}

fn file() -> PathBuf {
    let named = std::env::var_os("BRAID_SMOLLM2").expect("BRAID_SMOLLM2 names the file that examples/smollm2/fetch.sh brings");
    PathBuf::from(named).canonicalize().expect("BRAID_SMOLLM2 names a file, from the root")
}

fn ids(golden: &Numbers, name: &str) -> Vec<i32> {
    golden.tensor(name).expect(name).1.iter().map(|id| *id as i32).collect()
}

/// The largest difference.
fn apart(found: impl Iterator<Item = f64>, wanted: &[f64]) -> f64 {
    found.zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max)
}

fn session(path: &Path) -> Session {
    let file = Checkpoint::open(path).expect("a GGUF file");
    let made = import_gguf(file.metadata(), &file.names().collect::<Vec<_>>(), "smollm2", braid_stdlib::files());
    let made = made.unwrap_or_else(|error| panic!("{error}"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/smollm2");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).expect(name);
    assert_eq!(
        (&read("smollm2.braid"), &read("smollm2.weights.yaml")),
        (&made.spec, &made.weights),
        "write it anew by `braid import`"
    );
    let built = build::build(&made.spec, &made.weights, "cpu", Dtype::F32);
    let weights = Weights::open(&built.artifact.manifest, &path.to_string_lossy(), 2, &Hidden).expect("weights");
    let settings = Settings { threads: 2, capacity: 64, slots: 1 };
    Session::new(Arc::new(built.artifact), Arc::new(weights), settings).expect("a session")
}

#[test]
#[ignore = "needs a file of 93 MB: sh examples/smollm2/fetch.sh, then BRAID_SMOLLM2=FILE cargo test -p braid-tests --lib gguf::real -- --ignored"]
fn a_real_model_gives_its_golden_logits_and_tokens() {
    let path = file();
    let mut session = session(&path);
    let vocab = session.manifest().vocab;
    let golden = Numbers::open(&golden().join("golden.safetensors"));
    for text in 0..4 {
        let of = |name: &str| golden.tensor(&format!("{text}.{name}")).expect(name).1;
        let (prompt, all) = (ids(&golden, &format!("{text}.prompt_ids")), ids(&golden, &format!("{text}.all_ids")));
        let mut rows = Vec::new();
        session.reset(0).expect("a slot");
        session.prefill(0, &all, Wanted::All, |_, logits| rows.extend_from_slice(logits)).expect("logits");
        let row = |at: usize| rows[at * vocab..][..vocab].iter().map(|logit| f64::from(*logit));
        let mut worst = apart(row(prompt.len() - 1), of("last_prompt_logits"));
        for at in 0..all.len() {
            let best = of("top10_ids")[at * 10..][..10].iter().map(|id| f64::from(rows[at * vocab + *id as usize]));
            worst = worst.max(apart(best, &of("top10_logits")[at * 10..][..10]));
            let most = row(at).fold(f64::MIN, f64::max);
            let sum = most + row(at).map(|logit| (logit - most).exp()).sum::<f64>().ln();
            worst = worst.max(apart(std::iter::once(sum), &of("logsumexp")[at..=at]));
        }
        println!("text {text}: {worst:.2e}");
        assert!(worst <= TOLERANCE, "text {text}: {worst:.3e}");
        session.reset(0).expect("a slot");
        let mut token = 0;
        session.prefill(0, &prompt, Wanted::Last, |_, logits| token = greedy(logits).unwrap_or(token)).expect("logits");
        for wanted in &all[prompt.len()..] {
            assert_eq!(token, *wanted, "text {text}");
            token = greedy(session.step(&[(0, token)]).expect("logits")).expect("a token");
        }
    }
}

#[test]
#[ignore = "needs a file of 93 MB: sh examples/smollm2/fetch.sh, then BRAID_SMOLLM2=FILE cargo test -p braid-tests --lib gguf::real -- --ignored"]
fn its_tokenizer_and_chat_template_are_those_of_the_checkpoint() {
    let path = file();
    let golden_ids = Numbers::open(&golden().join("golden.safetensors"));
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden().join("meta.json")).expect("meta.json")).expect("JSON");
    let tokenizer = Tokenizer::open(&path).expect("a tokenizer");
    for text in 0..4 {
        let found = tokenizer.encode(meta["texts"][text].as_str().expect("a text"), true).expect("ids");
        assert_eq!(found, ids(&golden_ids, &format!("{text}.prompt_ids")), "text {text}");
    }
    let said = Message { role: "user", content: "Hi".into() };
    let system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
    let wanted = format!("{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(Template::find(&path).expect("a template").render(&[said]).expect("a text"), wanted);
}
