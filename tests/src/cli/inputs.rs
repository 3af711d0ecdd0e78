//! What models take beside token ids, and give beside logits.

use super::{Desk, has};
use std::path::Path;

/// A safetensors file of f32 tensors.
fn tensors(path: &Path, list: &[(&str, &[usize])]) {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let numbers: Vec<Vec<f32>> =
        list.iter().map(|(_, shape)| (0..count(shape)).map(|n| (n % 7) as f32 / 7.0).collect()).collect();
    let named = list.iter().zip(&numbers).map(|((name, shape), numbers)| (*name, *shape, &numbers[..]));
    let mut file = std::fs::File::create(path).expect("a file");
    braid_runtime::checkpoint::write(&mut file, &named.collect::<Vec<_>>()).expect("written");
}

#[test]
fn outputs_beside_logits() {
    let desk = Desk::new();
    std::fs::write(
        desk.path("routed.braid"),
        "use models.moe_transformer\nmodel routed = moe_transformer(layers: 2, d: 32, vocab: 50)\n",
    )
    .expect("a spec");
    let given = ["--weights", "random:1", "--ids", "1,2,3,4"];
    let line = |command: &'static str, more: &[&'static str]| [&[command, "routed.braid"], &given[..], more].concat();
    desk.check(0, &line("logits", &["-o", "plain.safetensors"]));
    desk.check(0, &line("logits", &["--outputs", "-o", "all.safetensors"]));
    let open = |name: &str| braid_runtime::checkpoint::Checkpoint::open(&desk.path(name)).expect("a file");
    let (plain, all) = (open("plain.safetensors"), open("all.safetensors"));
    assert_eq!(plain.names().collect::<Vec<_>>(), ["input_ids", "logits"]);
    let names =
        ["input_ids", "layers.0.routed.balance", "layers.0.routed.z", "layers.1.routed.balance", "layers.1.routed.z", "logits"];
    assert_eq!(all.names().collect::<Vec<_>>(), names);
    assert_eq!(all.get("layers.0.routed.z").expect("a loss").shape, [1, 4]);
    assert_eq!(all.get("logits").expect("logits").shape, [1, 4, 50]);
    desk.check(0, &["build", "routed.braid", "--outputs", "-o", "routed.braidart"]);
    has(&desk.check(0, &["info", "routed.braidart"]), &["50 logits, 1 of layers.0.routed.balance"]);
    let run = ["run", "routed.braidart", "--weights", "random:1", "--ids", "1"];
    has(&desk.check(1, &run), &["gives other outputs behind its logits", "build it without `--outputs`"]);
    has(&desk.check(1, &["build", "small.braid", "--outputs", "-o", "no.braidart"]), &["no block of model `small` declares any"]);
}

#[test]
fn inputs_beside_token_ids() {
    let desk = Desk::new();
    std::fs::write(
        desk.path("heard.braid"),
        "model heard(d: dim = 6, vocab: dim = 9)(tokens: [t], sound: [t, d]) -> [t, vocab] {\n  param embed: [vocab, d]\n  generate \
         autoregressive\n  return sum[d] (embed[vocab: tokens] + sound) * embed\n}\n",
    )
    .expect("a spec");
    std::fs::write(
        desk.path("seen.braid"),
        "model seen(d: dim = 6, classes: dim = 3)(patches: [t, d]) -> [t, classes] {\n  param w: [classes, d]\n  return sum[d] patches * \
         w\n}\n",
    )
    .expect("a spec");
    tensors(&desk.path("sound.safetensors"), &[("sound", &[1, 4, 6])]);
    tensors(&desk.path("two.safetensors"), &[("sound", &[2, 3, 6]), ("patches", &[2, 3, 6])]);
    tensors(&desk.path("narrow.safetensors"), &[("sound", &[4, 5])]);
    let heard = ["heard.braid", "--weights", "random:1"];
    let with = |command: &'static str, more: &[&'static str]| [&[command], &heard[..], more].concat();
    let sound = ["--input", "sound=sound.safetensors"];
    desk.check(0, &with("run", &[&["--ids", "1,2", "-n", "5"], &sound[..]].concat()));
    desk.check(0, &with("logits", &[&["--ids", "1,2,3,4,5", "-o", "out.safetensors"], &sound[..]].concat()));
    let seen = ["logits", "seen.braid", "--weights", "random:1", "--input", "patches=two.safetensors", "-o", "seen.safetensors"];
    desk.check(0, &seen);
    let out = braid_runtime::checkpoint::Checkpoint::open(&desk.path("seen.safetensors")).expect("logits");
    assert_eq!(out.names().collect::<Vec<_>>(), ["logits"]);
    assert_eq!(out.get("logits").expect("logits").shape, [2, 3, 3]);
    let wrong = |line: &[&str], parts: &[&str]| has(&desk.check(1, line), parts);
    wrong(&with("run", &["--ids", "1,2"]), &["input `sound [t, d=6]` is not given", "--input NAME=FILE"]);
    wrong(&with("run", &["--ids", "1,2", "--input", "sounds=sound.safetensors"]), &["reads no input `sounds`", "sound [t, d=6]"]);
    wrong(&with("run", &["--ids", "1,2", "--input", "sound=narrow.safetensors"]), &["shape [4, 5]", "sound [t, d=6]"]);
    wrong(&with("run", &["--ids", "1,2", "--input", "sound=two.safetensors"]), &["inputs of 2 sequences"]);
    wrong(&with("logits", &[&["--ids", "1,2", "-o", "o.safetensors"], &sound[..]].concat()), &["4 positions beside 2 token ids"]);
    wrong(&[&seen[..], &["--ids", "1"]].concat(), &["takes no token ids"]);
    wrong(
        &["run", "small.braid", "--weights", "random:1", "--ids", "1", "--input", "x=sound.safetensors"],
        &["none beside token ids"],
    );
    has(&desk.check(2, &with("run", &["--ids", "1", "--input", "sound"])), &["NAME=FILE"]);
    desk.check(0, &["build", "seen.braid", "-o", "seen.braidart"]);
    has(&desk.check(0, &["info", "seen.braidart"]), &["takes         patches [t, d=6]"]);
}

/// The example with a picture in its text: another picture, another text.
#[test]
fn a_picture_in_a_text() {
    let desk = Desk::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/captions");
    let example = example.to_str().expect("a path in UTF-8");
    tensors(&desk.path("other.safetensors"), &[("picture", &[16, 3, 4, 4])]);
    let run = |picture: &str| {
        let picture = format!("picture={picture}");
        let line = ["run", example, "--weights", "random:1", "--ids", "1,3,3,3,3,2", "-n", "12", "--json", "--input", &picture];
        let json: serde_json::Value = serde_json::from_slice(&desk.run(&line).stdout).expect("JSON");
        json["ids"].clone()
    };
    let own = run(&format!("{example}/picture.safetensors"));
    assert_eq!(own.as_array().map(Vec::len), Some(12));
    assert_ne!(own, run("other.safetensors"));
    has(
        &desk.check(1, &["run", example, "--weights", "random:1", "--ids", "1"]),
        &["input `picture [s, channels=3", "is not given"],
    );
    has(&desk.check(0, &["explain", example]), &["every row of the source"]);
    let saves = ["run", example, "--weights", "random:1", "--ids", "1", "--save-state", "x.state"];
    has(&desk.check(3, &saves), &["a state file of a model with a source is not supported yet"]);
    has(&desk.check(3, &["build", example, "--target", "cuda:sm_90a", "-o", "x.braidart"]), &["on a GPU"]);
}
