//! One artifact for several levels of a processor, as one types it.

use super::{Desk, has};
use braid_compiler::target::Target;
use braid_runtime::artifact::missing_feature;

/// A golden model of each kind of layer, for all levels of a family at once: each level that this machine has gives the golden's logits.
#[test]
fn every_level_of_an_artifact_gives_golden_results() {
    let desk = Desk::new();
    for name in ["llama", "mamba2"] {
        let golden = format!("{}/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
        let (spec, artifact) = (format!("{name}.braid"), format!("{name}.braidart"));
        desk.check(0, &["import", &golden, "-o", &spec]);
        let targets = ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:x86-64-v4+vnni", "cpu:x86-64-v4+vnni+bf16+bytes"];
        let said = desk.check(0, &["build", &spec, "--target", "cpu:x86-64", "-o", &artifact]);
        has(&said, &[&targets.join(", ")]);
        assert!(!desk.path(name).with_extension("h").exists(), "a header of which level?");
        let here = |target: &&&str| missing_feature(&Target::parse(target).expect("a target").features).is_none();
        let Some(best) = targets.iter().rfind(here) else { continue };
        has(&desk.check(0, &["info", &artifact]), &[&format!("this machine takes {best}")]);
        let golden_file = format!("{golden}/golden.safetensors");
        let verify = |code: i32, more: &[&str]| {
            desk.check(code, &[&["verify", &artifact, "--weights", &golden, "--golden", &golden_file], more].concat())
        };
        verify(0, &[]);
        targets.iter().filter(here).for_each(|target| drop(verify(0, &["--level", target])));
        let unknown = verify(1, &["--level", "cpu:x86-64-v5"]);
        has(&unknown, &["no level for cpu:x86-64-v5; there are cpu:x86-64-v3, ", "the fastest is taken"]);
    }
}

/// Integers need instructions that multiply them: the error names the target that has them, and that one builds.
#[test]
fn a_level_that_multiplies_no_integers() {
    let desk = Desk::new();
    let build = |code: i32, target: &str| {
        desk.check(code, &["build", "small.braid", "--target", target, "--dtype", "int8", "-o", "small.braidart"])
    };
    has(&build(3, "cpu:aarch64"), &["quantised weights for `cpu:aarch64`", "`cpu:aarch64+i8mm`"]);
    assert_eq!(desk.files(), ["small.braid"], "a failed build left something");
    has(&build(0, "cpu:aarch64+i8mm"), &["cpu:aarch64+i8mm"]);
}

#[test]
fn levels_that_do_not_go_together() {
    let desk = Desk::new();
    let build = |target: &str| desk.check(1, &["build", "small.braid", "--target", target, "-o", "small.braidart"]);
    has(&build("cpu:x86-64-v3,cpu:aarch64"), &["are no levels of one processor"]);
    has(&build("cpu:x86-64-v3,cuda:sm_80"), &["are no levels of one processor"]);
    has(&build("cpu:x86-64-v3,cpu:x86-64-v2"), &["there is no target `cpu:x86-64-v2`"]);
    has(&build("cpu-quantum"), &["there is no target `cpu-quantum`", "`cpu-bf16`"]);
    let emit = ["emit", "small.braid", "--stage", "asm", "--target", "cpu:x86-64"];
    has(&desk.check(1, &emit), &["stands for several levels", "`build` takes several"]);
    assert_eq!(desk.files(), ["small.braid"]);
}
