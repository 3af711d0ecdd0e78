//! `braid tune` and `--schedule`, as one types them.

use super::{Desk, SMALL, has};
use braid_compiler::target::Target;

/// A file with these numbers for the machine at hand.
fn schedule(desk: &Desk, dtype: &str, numbers: &str) {
    let target = Target::parse("cpu").expect("a target").name;
    let text = format!("- target: {target}\n  dtype: {dtype}\n  machine: some other\n  schedule: {{ {numbers} }}\n");
    std::fs::write(desk.path("schedules.yaml"), text).expect("a file");
}

/// However products are cut, results are those of the golden file; those of quantised weights those of the target's own cut.
#[test]
fn every_schedule_gives_golden_results() {
    let desk = Desk::new();
    let golden = format!("{}/goldens/llama", env!("CARGO_MANIFEST_DIR"));
    let golden_file = format!("{golden}/golden.safetensors");
    desk.check(0, &["import", &golden, "-o", "llama.braid"]);
    let weights = ["--weights", &golden];
    let ids = (0..40).map(|n| (n * 17 % 64).to_string()).collect::<Vec<_>>().join(",");
    let own = [&["logits", "llama.braid"], &weights[..], &["--dtype", "int8", "--ids", &ids, "-o", "own.safetensors"]].concat();
    desk.check(0, &own);
    // Numbers that fit the fewest registers that a processor has.
    let cuts = [
        "tile_rows: 1, panel_vectors: 1, task_rows: 1, ahead: 0",
        "tile_rows: 13, panel_vectors: 1, task_rows: 29, ahead: 64",
        "tile_rows: 2, panel_vectors: 4, task_rows: 512, ahead: 1024",
    ];
    for numbers in cuts {
        for (dtype, golden, tolerance) in [("f32", golden_file.as_str(), "4.49e-5"), ("int8", "own.safetensors", "1e-4")] {
            schedule(&desk, dtype, numbers);
            let line = ["--dtype", dtype, "--schedule", "schedules.yaml", "--golden", golden, "--tolerance", tolerance];
            desk.check(0, &[&["verify", "llama.braid"], &weights[..], &line].concat());
        }
    }
}

#[test]
fn what_was_tuned_is_kept_and_taken() {
    let desk = Desk::new();
    std::fs::write(desk.path("small.braid"), SMALL.replace("d: dim = 8", "d: dim = 40")).expect("a spec");
    let build = |code: i32, more: &[&str]| desk.check(code, &[&["build", "small.braid", "-o", "small.braidart"], more].concat());
    build(0, &[]);
    let own = std::fs::read(desk.path("small.braidart")).expect("an artifact");
    has(
        &desk.check(0, &["tune", "small.braid", "--threads", "1"]),
        &["of the best", "kept in ", "cache/braid/schedules.yaml: tile_rows "],
    );
    build(0, &[]);
    build(0, &["--schedule", "default"]);
    assert!(std::fs::read(desk.path("small.braidart")).expect("an artifact") == own, "`default` is not the target's own");
    build(0, &["--schedule", "cache/braid/schedules.yaml"]);
    schedule(&desk, "f32", "tile_rows: 2, panel_vectors: 4, task_rows: 512, ahead: 1024");
    build(0, &["--schedule", "schedules.yaml"]);
    assert!(std::fs::read(desk.path("small.braidart")).expect("an artifact") != own, "a schedule changes nothing");
    has(&build(1, &["--schedule", "none.yaml"]), &["there is no file none.yaml", "braid tune"]);
    schedule(&desk, "f32", "tile_rows: 31, panel_vectors: 4, task_rows: 512, ahead: 1024");
    has(&build(1, &["--schedule", "schedules.yaml"]), &["a tile of 31 rows and 4 vectors does not fit"]);
    schedule(&desk, "f32", "tile_rows: 2, panel_vectors: 3, task_rows: 512, ahead: 1024");
    has(&build(1, &["--schedule", "schedules.yaml"]), &["`panel_vectors: 3` is none of 1, 2 and 4"]);
    std::fs::write(desk.path("schedules.yaml"), "tile_rows: 2").expect("a file");
    has(&build(1, &["--schedule", "schedules.yaml"]), &["schedules.yaml: ", "`braid tune` writes such files"]);
    has(&desk.check(1, &["tune", "small.braid", "--target", "cpu:aarch64"]), &["cannot be measured here"]);
}
