//! The examples, and what the tutorial shows.

use super::{Desk, has};
use std::path::Path;

#[test]
fn the_examples_speak() {
    let desk = Desk::new();
    for (name, words) in [("tiny-hybrid", "neighbouring town"), ("tiny-deltanet", "who was ill")] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        let line = ["run", &folder.to_string_lossy(), "--prompt", "Once upon a time there was a", "-n", "12"];
        has(&desk.check(0, &line), &["Once upon a time there was a", words, "tokens/s"]);
    }
}

/// Passes are lines where the output is no terminal; masks in a prompt are filled where they are.
#[test]
fn the_diffusion_example_fills_masks() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-diffusion");
    let run = |prompt: &str, more: &[&str]| {
        desk.check(0, &[&["run", &folder.to_string_lossy(), "--prompt", prompt, "--steps", "4"], more].concat())
    };
    let text = run("The old king said to his daughter,", &["-n", "8", "--span", "8", "--ignore-eos"]);
    has(&text, &["   1  The old king said to his daughter,", "▒", "   4  The old king", "8 tokens in 4 passes"]);
    let text = run("Once upon a<|mask|> there was<|mask|> king", &["-n", "0", "--json"]);
    has(&text, &["Once upon a time there was a king", "\"passes\": 2"]);
    let line = ["run", &folder.to_string_lossy(), "--prompt", "a", "--save-state", "x"];
    has(&desk.check(1, &line), &["keeps no state between runs"]);
    has(&desk.check(1, &["run", "small.braid", "--weights", "random:1"]), &["there is no text to continue"]);
}

/// What docs/new-mixer.md shows, with a smaller model.
#[test]
fn a_new_mixer_runs_in_both_forms() {
    let desk = Desk::new();
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/new-mixer/new_mixer.braid");
    let text = std::fs::read_to_string(&spec).expect("the example").replace("128", "16").replace("hidden: 1408", "hidden: 48");
    std::fs::write(desk.path("new.braid"), &text).expect("a spec");
    let told = desk.check(0, &["explain", "new.braid", "--chunk", "16"]);
    let class = "class: diagonal decay over [k] plus rank 1 over [k] (reads of the decayed state)";
    has(&told, &[class, "S' = keep S - write key (sum[k] keep probe S) + value write key", "layers.{0–2, 4–6}.mixer:"]);
    has(&told, &["whole sequence: in chunks of 16 rows", "P1[i, heads, v] = R1 + R2 + sum[j < i] A1 x3[j] P1[j]"]);
    let ids = (0..45).map(|n| (n * 17 % 64).to_string()).collect::<Vec<_>>().join(",");
    let model = ["--set", "layers=4", "--set", "d=32", "--set", "vocab=64", "--weights", "random:1"];
    let run = |line: &[&str]| desk.check(0, &[line, &model[..]].concat());
    run(&["logits", "new.braid", "--ids", &ids, "--chunk", "off", "-o", "steps.safetensors"]);
    for chunk in ["auto", "16", "8", "off"] {
        let line = ["verify", "new.braid", "--golden", "steps.safetensors", "--tolerance", "1e-4", "--chunk", chunk];
        has(&run(&line), &["row 0, whole sequence", "45"]);
    }
    let surprise = "error = value - sum[k] probe * S\n    S = S + sigmoid(gain * mean[v] error ^ 2 + bias) * key * error";
    let other = text.replace("S = S + write * key * (value - sum[k] probe * S)", surprise);
    std::fs::write(desk.path("other.braid"), other).expect("a spec");
    let told = desk.check(0, &["explain", "other.braid"]);
    has(&told, &["class: not linear: a product of two reads of `S` stands in the way"]);
    has(&told, &["whole sequence: step by step", "the update of `S` is not linear in the states"]);
}
