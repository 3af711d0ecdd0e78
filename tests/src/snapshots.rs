//! What each stage makes of small specs, as text that was read once and is held since: the spec, then the stage's output.
//! `make bless` accepts what comes out now.

use braid_compiler::forms::{Chunks, recur};
use braid_compiler::pipeline::{self, Options, Work};
use braid_compiler::target::Target;
use braid_runtime::artifact::Dtype;
use std::path::{Path, PathBuf};

/// Stages that are held for every spec.
const WHOLE: &[&str] = &["graph", "forms", "fused", "plan"];

/// Stages whose text is long: one kernel of one spec is held.
const ONE_KERNEL: &[&str] = &["mlir", "llvm", "asm"];
const SPEC: &str = "gated_rows";
const KERNEL: &str = "rows_0";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Names and texts of a folder's specs, sorted.
pub fn specs(name: &str) -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder(name)).expect("a folder of specs").flatten().map(|entry| entry.path());
    let mut specs: Vec<(String, String)> = files
        .filter(|path| path.extension().is_some_and(|e| e == "braid"))
        .map(|path| {
            (path.file_stem().expect("a name").to_string_lossy().into_owned(), std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    specs.sort();
    assert!(!specs.is_empty(), "no specs in {name}");
    specs
}

/// Runs a spec up to a stage, for a machine that does not depend on the one at hand.
pub fn run(spec: &str, until: &str) -> Work {
    run_in(spec, until, Chunks::Auto)
}

/// As [`run`], with recurrences walked as `chunks` says.
fn run_in(spec: &str, until: &str, chunks: Chunks) -> Work {
    let options = Options {
        target: Target::parse("cpu:x86-64-v3").expect("a target"),
        dtype: Dtype::F32,
        chunks,
        params: vec![],
        sources: vec![],
    };
    let until = pipeline::stage(until).expect("a stage");
    pipeline::run(crate::build::model(spec), options, until, &|_| ()).unwrap_or_else(|error| panic!("{spec}\n{error}"))
}

/// Holds one stage's text of one spec.
fn hold(name: &str, spec: &str, work: &Work, stage: &str, kernel: Option<&str>) {
    let text = work.print(pipeline::stage(stage).expect("a stage"), kernel).unwrap_or_else(|error| panic!("{name}: {error}"));
    hold_text(name, spec, stage, &text);
}

/// Holds a text about a spec.
fn hold_text(name: &str, spec: &str, stage: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder("snapshots").join(stage));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, format!("{spec}\n---- {stage}\n\n{text}")));
}

#[test]
fn stages_are_as_they_were_read() {
    for (name, spec) in specs("suite/specs") {
        let work = run(&spec, "plan");
        WHOLE.iter().for_each(|stage| hold(&name, &spec, &work, stage, None));
    }
}

#[test]
fn one_kernel_is_as_it_was_read() {
    let spec = std::fs::read_to_string(folder("suite/kernel").join(SPEC).with_extension("braid")).expect("a spec");
    let work = run(&spec, "llvm");
    ONE_KERNEL.iter().for_each(|stage| hold(SPEC, &spec, &work, stage, Some(KERNEL)));
}

/// What `braid explain` tells of the recurrences of mixers: classes, equations, chunk forms, costs, and what stands in the way. The size of the
/// chunks is given, so that what they cost does not decide whether they are shown.
#[test]
fn recurrences_are_explained_as_it_was_read() {
    for (name, spec) in specs("suite/explain") {
        let work = run_in(&spec, "forms", Chunks::Rows(16));
        let forms = work.forms().unwrap_or_else(|error| panic!("{name}: {error}"));
        let nodes = forms.graph.order();
        let told: Vec<String> =
            nodes.into_iter().map(|node| recur::explain(&forms.graph, node, forms.chunks.get(&node))).collect();
        hold_text(&name, &spec, "explain", &told.concat());
    }
}
