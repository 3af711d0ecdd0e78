//! `braid convert`, as one types it.

use super::{Desk, has};
use std::path::Path;

/// The largest difference of logits that it tells.
fn far(told: &str) -> f64 {
    let (_, rest) = told.split_once("by at most ").unwrap_or_else(|| panic!("no comparison in {told}"));
    rest.split(';').next().expect("a number").parse().expect("a number")
}

/// A desk with the spec of a golden model, and its checkpoint.
fn imported(name: &str) -> (Desk, String) {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name).display().to_string();
    let desk = Desk::new();
    desk.check(0, &["import", &checkpoint, "-o", "dense.braid"]);
    (desk, checkpoint)
}

/// Few bits, packed: what it costs is told, and the two files are all that a run needs.
#[test]
fn a_model_in_few_bits() {
    let desk = Desk::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-hybrid");
    let weights = format!("{example}/weights");
    let lost = |dtype: &str, folder: &str| -> f64 {
        let told = desk.check(0, &["quantize", example, "--weights", &weights, "--dtype", dtype, "-o", folder]);
        has(&told, &["bits each", "most probable tokens are the same", "nats of divergence a token"]);
        let (_, rest) = told.split_once("differ by ").expect("a comparison");
        rest.split(' ').next().expect("a number").parse().expect("a number")
    };
    let (fine, coarse) = (lost("fp8", "fine"), lost("int4", "coarse"));
    assert!(fine > 0.0 && fine < coarse && coarse < 25.0, "{fine} and {coarse} %");
    let run =
        ["run", "fine/tiny_hybrid.braidart", "--weights", "fine/tiny_hybrid.packed", "--prompt", "Once upon a time", "-n", "4"];
    has(&desk.check(0, &run), &["Once upon a time"]);
    let again = ["quantize", example, "--weights", &weights, "--dtype", "int8", "-o", "fine"];
    has(&desk.check(1, &again), &["fine is there already"]);
    let nothing = ["quantize", example, "--weights", &weights, "-o", "none"];
    has(&desk.check(1, &nothing), &["`--dtype f32` rounds nothing"]);
}

/// Copies are what they were; so are parts, all of them; so are copies merged again.
#[test]
fn a_dense_model_as_a_mixture_and_back() {
    let (desk, weights) = imported("llama");
    let from = |model: &str, weights: &str, more: &[&str], output: &str| {
        desk.check(0, &[&["convert", model, "--weights", weights][..], more, &["-o", output]].concat())
    };
    let told = from("dense.braid", &weights, &["--policy", "moe(experts: 4, active: 2, expert: swiglu)"], "copies");
    has(&told, &["wrote copies: 33 parameters; 9 copied to experts, 3 new"]);
    assert!(far(&told) < 1e-4, "{told}");
    has(&desk.check(0, &["run", "copies", "--ids", "1,2,3", "-n", "4"]), &["3 steps"]);
    has(&desk.check(0, &["inspect", "copies"]), &["moe"]);
    let told = from("dense.braid", &weights, &["--policy", "split_experts(experts: 4, active: 4)", "--seed", "5"], "parts");
    has(&told, &["9 dealt out to experts, 3 new"]);
    assert!(far(&told) < 1e-4, "{told}");
    let told = from("dense.braid", &weights, &["--policy", "split_experts(experts: 4, active: 1)", "--seed", "5"], "quarter");
    assert!(far(&told) > 1e-2, "{told}");
    let told = from("copies", "copies/weights", &["--to", "dense.braid", "--mix", "0.1,0.2,0.3,0.4"], "merged");
    has(&told, &["9 averaged over experts"]);
    assert!(far(&told) < 1e-4, "{told}");
    // Two checkpoints as experts of one mixture, and as their mean.
    let both = ["convert", "dense.braid", "--weights", &weights, "--weights", &weights];
    desk.check(0, &[&both[..], &["--policy", "moe(experts: 2, active: 1, expert: swiglu)", "-o", "two"]].concat());
    desk.check(0, &[&both[..], &["--mix", "0.7,0.3", "-o", "mean"]].concat());
    let golden = format!("{weights}/golden.safetensors");
    for model in ["copies", "parts", "merged", "two", "mean"] {
        desk.check(0, &["verify", model, "--weights", &format!("{model}/weights"), "--golden", &golden, "--tolerance", "1e-4"]);
    }
}

/// Neurons in an order that a file gives.
#[test]
fn neurons_as_a_file_deals_them_out() {
    let (desk, weights) = imported("llama");
    let convert = |code: i32, order: Vec<i64>| {
        let bytes: Vec<u8> = order.iter().flat_map(|n| n.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![order.len()], &bytes).expect("a tensor");
        safetensors::serialize_to_file([("neurons", view)], None, &desk.path("order.safetensors")).expect("a file");
        let policy = ["--policy", "split_experts(experts: 4, active: 4)", "--neurons", "order.safetensors"];
        desk.check(code, &[&["convert", "dense.braid", "--weights", &weights, "-o", &format!("out{code}")], &policy[..]].concat())
    };
    assert!(far(&convert(0, (0..100).rev().collect())) < 1e-4);
    has(&convert(1, [&[1][..], &(1..100).collect::<Vec<i64>>()].concat()), &["does not have each of 0 to 99 once"]);
    assert!(!desk.path("out1").exists(), "what is not whole was left behind");
}

/// Biases behind the sum over neurons count once.
#[test]
fn a_dense_model_with_biases_in_parts() {
    let (desk, weights) = imported("gpt2");
    let policy = "split_experts(experts: 2, active: 2, expert: mlp)";
    let told = desk.check(0, &["convert", "dense.braid", "--weights", &weights, "--policy", policy, "-o", "parts"]);
    has(&told, &["dealt out to experts", "copied to experts"]);
    assert!(far(&told) < 1e-4, "{told}");
}

#[test]
fn what_cannot_be_converted_is_said() {
    let (desk, weights) = imported("llama");
    let fails = |more: &[&str], parts: &[&str]| {
        has(&desk.check(1, &[&["convert", "dense.braid", "--weights", &weights, "-o", "out"], more].concat()), parts);
        assert!(!desk.path("out").exists(), "{more:?} left something behind");
    };
    fails(&[], &["nothing would change", "`--policy`"]);
    fails(&["--policy", "split_experts(experts: 3)"], &["`split_experts` demands this", "hidden % experts == 0"]);
    fails(&["--policy", "moe(experts: 4, active: 2, expert: mlp)"], &["the model has no `mlp` that `moe` could stand in for"]);
    fails(&["--policy", "moe(experts: 4, active: 2)"], &["stands in for a block, and none is named", "expert: mlp"]);
    fails(&["--policy", "split_experts", "--to", "small.braid"], &["`--to` and `--policy`"]);
    fails(&["--weights", &weights, "--mix", "1,2,3"], &["`--mix` has 3 parts for a mean of 2"]);
    fails(&["--set", "layers=2", "--to", "models.transformer"], &["in one model and"]);
    std::fs::create_dir(desk.path("there")).expect("a folder");
    let there = ["convert", "dense.braid", "--weights", &weights, "--policy", "split_experts", "-o", "there"];
    has(&desk.check(1, &there), &["there is there already", "name a new folder"]);
}
