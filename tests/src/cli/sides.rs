//! Sequences side by side, as one types it.

use super::{Desk, has};

/// Token after token, each sequence at another position, and sequences that end earlier than others: what each is as a whole.
#[test]
fn sequences_side_by_side_are_what_each_is_alone() {
    let desk = Desk::new();
    for name in ["llama", "jamba"] {
        let golden = format!("{}/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
        let (spec, artifact) = (format!("{name}.braid"), format!("{name}.braidart"));
        desk.check(0, &["import", &golden, "-o", &spec]);
        desk.check(0, &["build", &spec, "-o", &artifact]);
        let logits = |code: i32, more: &[&str]| {
            desk.check(code, &[&["logits", &artifact, "--weights", &golden, "-o", "sides.safetensors"], more].concat())
        };
        // Of the last one everything comes so.
        logits(0, &["--ids", "1,2,3,4,5;6,7,8,9,10;11,12,13,14,15;3,1,4,1,5", "--steps", "2"]);
        desk.check(0, &["verify", &artifact, "--weights", &golden, "--golden", "sides.safetensors", "--tolerance", "1e-5"]);
        has(&logits(1, &["--ids", "1,2,3;4,5"]), &["rows of token ids are not equally long", "one shape for all of them"]);
        has(&logits(1, &["--ids", "1,2;x"]), &["1,2;x"]);
    }
}

/// What calls of several sequences have as a launch of its own is told.
#[test]
fn launches_tell_of_sequences_side_by_side() {
    let desk = Desk::new();
    std::fs::write(desk.path("sides.braid"), include_str!("../../gpu/sides.braid")).expect("a spec");
    desk.check(0, &["build", "sides.braid", "--target", "cuda:sm_90a", "--dtype", "bf16", "-o", "sides.braidart"]);
    let said = desk.check(0, &["info", "sides.braidart", "--launches"]);
    has(&said, &["attention_", "a launch of its own from 385 rows on, or where sequences have up to 8 each"]);
}
