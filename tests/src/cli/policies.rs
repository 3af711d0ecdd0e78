//! `--policy`, as one types it.

use super::{Desk, has};

/// A policy takes the place of every cache of all keys; what cannot be is said.
#[test]
fn a_policy_for_an_unchanged_model() {
    let desk = Desk::new();
    let model = ["models.transformer", "--set", "layers=1", "--set", "hidden=32"];
    let line = |before: &[&str], after: &[&str]| -> Vec<String> {
        [before, &model[..1], after, &model[1..]].concat().into_iter().map(str::to_owned).collect()
    };
    let run = |code: i32, before: &[&str], after: &[&str]| {
        let line = line(before, after);
        desk.check(code, &line.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ids = (0..30).map(|n| (n * 17 % 64).to_string()).collect::<Vec<_>>().join(",");
    let weights = ["--weights", "random:1"];
    run(0, &["logits"], &[&weights[..], &["--ids", &ids, "-o", "all.safetensors"]].concat());
    let verify = |code: i32, policy: &str| {
        run(
            code,
            &["verify"],
            &[&weights[..], &["--golden", "all.safetensors", "--tolerance", "1e-4", "--policy", policy]].concat(),
        )
    };
    for policy in [
        "heavy_hitters(budget: 30)",
        "streaming(window: 26)",
        "voting(budget: 64, every: 30, window: 3)",
        "a_shape",
        "vertical_slash",
    ] {
        has(&verify(0, policy), &["row 0, whole sequence"]);
    }
    for policy in
        ["heavy_hitters(budget: 12)", "a_shape(window: 8)", "vertical_slash(vertical: 3, slash: 4, sinks: 1, window: 1)"]
    {
        verify(1, policy);
    }
    has(&run(0, &["inspect"], &["--policy", "heavy_hitters(budget: 12)"]), &["state + cache of a sequence  3.19 KiB   3.19 KiB"]);

    has(
        &run(1, &["check"], &["--policy", "heavy_hiters"]),
        &["there is no policy `heavy_hiters`", "did you mean `heavy_hitters`?"],
    );
    has(
        &run(1, &["check"], &["--policy", "quantum"]),
        &[
            "there is no policy `quantum`",
            "known are a_shape, block_sparse, heavy_hitters, linearised, prompt_voting, quantised_attention, streaming, vertical_slash, voting",
        ],
    );
    has(
        &run(1, &["check"], &["--policy", "a_shape(size: 3)"]),
        &["this is no argument of the policy", "those of `a_shape` are sinks, window"],
    );
    has(&run(1, &["check"], &["--policy", "a_shape(window: "]), &["--policy:1"]);
    let error = run(1, &["check"], &["--policy", "heavy_hitters(budget: 8, recent: 8)"]);
    has(&error, &["`heavy_hitters` demands this", "recent < budget"]);
    let error = desk.check(1, &["check", "small.braid", "--policy", "streaming"]);
    has(&error, &["the model has no cache for the policy `streaming`", "(`keep: causal()`)"]);
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let late = ["run", "small.braidart", "--ids", "1", "--weights", "random:1", "--policy", "streaming"];
    has(&desk.check(1, &late), &["`--policy` comes too late"]);
}

/// A spec is written whose attention is linear, with a map for what it learns.
#[test]
fn a_linear_model_over_the_same_weights() {
    let desk = Desk::new();
    desk.check(0, &["linearise", "models.transformer", "--set", "layers=2", "--set", "act=gelu", "-o", "linear.braid"]);
    let text = std::fs::read_to_string(desk.path("linear.braid")).expect("a spec");
    has(&text, &["model transformer_linear = transformer(layers: 2, act: \"gelu\") under linearised()"]);
    desk.check(0, &["fmt", "--check", "linear.braid"]);
    has(&desk.check(1, &["linearise", "models.transformer", "-o", "linear.braid"]), &["is there already", "--force"]);
    has(&desk.check(1, &["linearise", "models.mamba", "-o", "none.braid"]), &["no cache for the policy `linearised`"]);
    assert!(!desk.path("none.braid").exists(), "what is no model is not left behind");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-hybrid/tiny_hybrid");
    for extension in ["braid", "weights.yaml"] {
        std::fs::copy(format!("{example}.{extension}"), desk.path(&format!("hybrid.{extension}"))).expect("the example");
    }
    has(&desk.check(0, &["linearise", "hybrid.braid", "-o", "learned.braid"]), &["6 new parameters"]);
    let map = std::fs::read_to_string(desk.path("learned.weights.yaml")).expect("a map");
    has(&map, &["\"layers.3.attn.linearised.wq\": { tensor: \"layers.3.attn.linearised.wq\" }"]);
    desk.check(0, &["check", "learned.braid"]);
    let policy = "linearised(window: 8, learned: false)";
    has(&desk.check(0, &["linearise", "hybrid.braid", "--policy", policy, "-o", "fixed.braid"]), &["0 new parameters"]);
    let weights = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-hybrid/weights");
    let told = desk.check(0, &["run", "fixed.braid", "--weights", weights, "--prompt", "Once upon a time", "-n", "4"]);
    has(&told, &["Once upon a time"]);
}
