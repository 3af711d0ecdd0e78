//! The program `braid` as one types it: what it prints, what it writes, and its exit code.

mod convert;
mod examples;
mod inputs;
mod levels;
mod policies;
mod processes;
mod schedules;
mod sides;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A model of one layer that is compiled in no time.
const SMALL: &str = "\
/// One layer that remembers.
model small(d: dim = 8, vocab: dim = 12)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]
  param decay: [d]
  x = embed[vocab: tokens]
  recur h: [d] over t {
    h = sigmoid(decay) * h + x
    y = h
  }
  generate autoregressive
  return sum[d] y * embed
}
";

/// The program, built if it is not fresh.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let own = std::env::current_exe().expect("a path of this test");
        let profile = own.ancestors().nth(2).expect("target/PROFILE/deps/NAME");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the programs do not build");
        profile.join("braid")
    })
}

/// A folder with `small.braid`, where commands run and keep what they build.
struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("small.braid"), SMALL).expect("a spec");
        Desk(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(line).current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command.output().expect("the program starts")
    }

    /// What it prints; fails unless it ends with the code.
    #[track_caller]
    fn check(&self, code: i32, line: &[&str]) -> String {
        let output = self.run(line);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "braid {}\n{text}", line.join(" "));
        assert!(!text.contains("panicked"), "braid {}\n{text}", line.join(" "));
        text
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

#[test]
fn every_command_explains_itself_with_examples() {
    let desk = Desk::new();
    has(&desk.check(0, &["--help"]), &["Examples:", "Exit codes: 0 done, 1"]);
    for command in [
        "check",
        "fmt",
        "inspect",
        "explain",
        "emit",
        "build",
        "import",
        "convert",
        "linearise",
        "run",
        "logits",
        "verify",
        "profile",
    ] {
        has(&desk.check(0, &[command, "--help"]), &["Usage: braid ", "Examples:\n  braid "]);
    }
}

/// Files of the cache with an extension.
fn kept(desk: &Desk, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(desk.path("cache/braid")).expect("a cache").flatten().map(|e| e.path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The second run builds nothing and packs nothing; another precision is another file.
#[test]
fn what_was_packed_is_mapped_the_next_time() {
    let desk = Desk::new();
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-hybrid");
    let run =
        |more: &[&str]| desk.check(0, &[&["run", spec, "--prompt", "Once", "-n", "3", "--temperature", "0"], more].concat());
    let first = run(&[]);
    let files = [kept(&desk, "braidart"), kept(&desk, "weights")].concat();
    assert_eq!(files.len(), 2, "{files:?}");
    let changed = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).expect("a time");
    let times: Vec<_> = files.iter().map(changed).collect();
    let text = |printed: &str| printed.lines().next().unwrap_or_default().to_owned();
    assert_eq!(text(&run(&[])), text(&first));
    assert_eq!(files.iter().map(changed).collect::<Vec<_>>(), times, "something was made again");
    // A file that was cut short is made anew.
    std::fs::write(&files[1], b"BRAIDPCK").expect("a file");
    assert_eq!(text(&run(&[])), text(&first));
    assert!(files[1].metadata().expect("a file").len() > 1 << 20);
}

#[test]
fn wrong_usage_is_two() {
    let desk = Desk::new();
    desk.check(2, &[]);
    has(&desk.check(2, &["chek", "small.braid"]), &["check"]);
    desk.check(2, &["build", "small.braid"]);
    desk.check(2, &["emit", "small.braid"]);
    desk.check(2, &["build", "small.braid", "--dtype", "int3", "-o", "x"]);
}

#[test]
fn check_says_what_is_there_and_everything_that_is_wrong() {
    let desk = Desk::new();
    has(&desk.check(0, &["check", "small.braid"]), &["small: 2 parameters", "no errors"]);
    desk.check(0, &["check", "."]);
    desk.check(0, &["check", "models.transformer"]);
    std::fs::write(desk.path("small.braid"), SMALL.replace("sigmoid", "sigmoit")).expect("a spec");
    has(
        &desk.check(1, &["check", "small.braid"]),
        &["error[E002]", "small.braid:7:", "sigmoit", "hint: did you mean `sigmoid`?"],
    );
}

#[test]
fn unknown_things_give_hints() {
    let desk = Desk::new();
    has(&desk.check(1, &["check", "transformr"]), &["there is no spec", "did you mean `transformer`?"]);
    has(&desk.check(1, &["emit", "small.braid", "--stage", "grap"]), &["did you mean `graph`?", "plan"]);
    has(&desk.check(1, &["emit", "small.braid", "--stage", "asm", "--kernel", "x"]), &["no kernel `x`", "kernels here: "]);
    has(&desk.check(1, &["check", "small.braid", "--set", "layers"]), &["as in `--set layers=12`"]);
    desk.check(1, &["check", "small.braid", "--set", "layers=3"]);
    has(&desk.check(1, &["build", "small.braid", "--target", "cpu:z80", "-o", "x"]), &["no target `cpu:z80`", "cpu:x86-64-v3"]);
    has(&desk.check(1, &["run", "small.braid", "--ids", "1"]), &["no weights beside", "--weights"]);
    has(&desk.check(1, &["import", "small.braid", "-o", "x.braid"]), &["JSON"]);
    has(&desk.check(1, &["emit", "small.braid", "--stage", "ptx"]), &["is no GPU", "--target cuda:sm_90a"]);
    let ptx = ["emit", "small.braid", "--target", "cuda:sm_80", "--stage"];
    has(&desk.check(1, &[&ptx[..], &["asm"]].concat()), &["is a GPU", "stage `ptx`"]);
    has(&desk.check(0, &[&ptx[..], &["ptx"]].concat()), &[".target sm_80", ".entry braid_step"]);
}

#[test]
fn settings_take_the_place_of_arguments() {
    let desk = Desk::new();
    let report = desk.check(0, &["inspect", "small.braid", "--set", "d=16", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["parameters"], 12 * 16 + 16);
}

#[test]
fn inspect_counts_and_draws() {
    let desk = Desk::new();
    has(&desk.check(0, &["inspect", "small.braid"]), &["small: 104 parameters", "state + cache", "32 B", "context"]);
    desk.check(0, &["inspect", "small.braid", "--draw", "small.svg"]);
    let picture = std::fs::read_to_string(desk.path("small.svg")).expect("a picture");
    has(&picture, &["<svg", "prefers-color-scheme: dark", ">small<", "</svg>"]);
}

#[test]
fn every_stage_prints_the_same_twice() {
    let desk = Desk::new();
    for stage in ["ast", "graph", "forms", "fused", "plan", "mlir", "llvm", "asm", "artifact"] {
        let text = desk.check(0, &["emit", "small.braid", "--stage", stage]);
        assert!(text.len() > 100, "{stage}: {text}");
        assert_eq!(text, desk.check(0, &["emit", "small.braid", "--stage", stage]), "{stage}");
    }
}

#[test]
fn one_kernel_of_a_stage() {
    let desk = Desk::new();
    for stage in ["plan", "mlir", "llvm", "asm"] {
        let whole = desk.check(0, &["emit", "small.braid", "--stage", stage]);
        let kernel = desk.check(0, &["emit", "small.braid", "--stage", stage, "--kernel", "recurrence_0"]);
        assert!(kernel.contains("recurrence_0") && kernel.len() < whole.len(), "{stage}: {kernel}");
    }
    has(&desk.check(0, &["emit", "small.braid", "--stage", "fused", "--kernel", "0"]), &["kernel 0"]);
}

#[test]
fn explain_tells_the_class_and_the_kernels() {
    let desk = Desk::new();
    has(&desk.check(0, &["explain", "small.braid"]), &["recurrences", "class: ", "state of a recurrence", "kernels, in order"]);
}

#[test]
fn build_writes_an_artifact_and_its_header_and_nothing_else() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    assert_eq!(desk.files(), ["small.braid", "small.braidart", "small.h"]);
    let artifact = std::fs::read(desk.path("small.braidart")).expect("an artifact");
    assert!(artifact.starts_with(b"\x7fELF") && artifact.ends_with(b"BRAIDART"));
    has(&desk.check(0, &["info", "small.braidart"]), &["small"]);
    let text = desk.check(0, &["run", "small.braidart", "--weights", "random:1", "--ids", "1,2", "-n", "4", "--json"]);
    has(&text, &["["]);
}

#[test]
fn a_failed_build_leaves_nothing() {
    let desk = Desk::new();
    std::fs::write(desk.path("small.braid"), SMALL.replace("embed[vocab", "nothing[vocab")).expect("a spec");
    desk.check(1, &["build", "small.braid", "-o", "small.braidart"]);
    has(&desk.check(1, &["build", "small.braid", "-o", "no/such/folder/x"]), &["there is no folder"]);
    assert_eq!(desk.files(), ["small.braid"]);
}

#[test]
fn a_cut_artifact_is_refused() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let whole = std::fs::read(desk.path("small.braidart")).expect("an artifact");
    std::fs::write(desk.path("cut.braidart"), &whole[..whole.len() / 2]).expect("a file");
    has(&desk.check(1, &["run", "cut.braidart", "--weights", "random:1", "--ids", "1"]), &["no artifact", "cut short"]);
}

#[test]
fn run_builds_once() {
    let desk = Desk::new();
    let line = ["run", "small.braid", "--weights", "random:1", "--ids", "1,2,3", "-n", "5", "--json"];
    desk.check(0, &line);
    let built = || std::fs::read_dir(desk.path("cache/braid")).expect("a cache").flatten().map(|e| e.path()).collect::<Vec<_>>();
    let first = built();
    assert_eq!(first.iter().filter(|p| p.extension().is_some_and(|x| x == "braidart")).count(), 1, "{first:?}");
    desk.check(0, &line);
    assert_eq!(built().len(), first.len());
    desk.check(0, &["run", "small.braid", "--set", "d=16", "--weights", "random:1", "--ids", "1", "-n", "1"]);
    assert!(built().len() > first.len(), "another model is another artifact");
}

#[test]
fn import_writes_a_spec_that_checks() {
    let desk = Desk::new();
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-hybrid/weights");
    let checkpoint = checkpoint.to_string_lossy();
    desk.check(0, &["import", &checkpoint, "-o", "it.braid"]);
    assert_eq!(desk.files(), ["it.braid", "it.weights.yaml", "small.braid"]);
    desk.check(0, &["check", "it.braid"]);
    has(&desk.check(1, &["import", &checkpoint, "-o", "it.braid"]), &["is there already", "--force"]);
    std::fs::write(desk.path("config.json"), r#"{"model_type": "unheard_of"}"#).expect("a configuration");
    has(&desk.check(1, &["import", ".", "-o", "other.braid"]), &["no import rule takes model_type `unheard_of`"]);
    assert_eq!(desk.files(), ["config.json", "it.braid", "it.weights.yaml", "small.braid"]);
}

#[test]
fn profile_measures_every_kernel_beside_the_ceilings() {
    let desk = Desk::new();
    let line =
        ["profile", "small.braid", "--weights", "random:1", "--prompt", "8", "--steps", "3", "--runs", "2", "--threads", "1"];
    let text = desk.check(0, &[&line[..], &["--html", "profile.html"]].concat());
    has(&text, &["ceilings measured", "GB/s read", "prefill, 8 tokens at once", "decode, one token after about", "of ceiling"]);
    let page = std::fs::read_to_string(desk.path("profile.html")).expect("a page");
    has(&page, &["<!doctype html>", "roofline", "timeline", "</html>"]);
    assert!(!page.contains("http"), "the page needs nothing else");
    let json: serde_json::Value = serde_json::from_str(&desk.check(0, &[&line[..], &["--json"]].concat())).expect("JSON");
    let phases = json["phases"].as_array().expect("phases");
    for phase in phases {
        let kernels = phase["kernels"].as_array().expect("kernels");
        assert!(!kernels.is_empty() && kernels.iter().all(|kernel| kernel["seconds"].as_f64().is_some_and(|s| s >= 0.0)));
        assert!(kernels.iter().any(|kernel| kernel["bytes"].as_f64() > Some(0.0)), "{phase}");
    }
    assert!(json["ceilings"]["bandwidth"].as_f64() > Some(0.0) && json["ceilings"]["flops"].as_f64() > Some(0.0));
}

/// The scripts for machines with a GPU, with artifacts for the processor: both run by the same commands.
#[test]
fn the_gpu_scripts_build_compare_and_count() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu");
    let script = |name: &str, more: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(folder.join(name)).arg(desk.path("gpu")).args(more);
        command.env("BRAID", program()).env("BRAID_RUN", program().with_file_name("braid-run")).env("TARGET", "cpu");
        let output = command.output().expect("a shell");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, out) = script("prepare.sh", &["mamba", "smollm2"]);
    assert!(code == Some(0) && out.contains("built   mamba bf16") && out.contains("2 artifacts in "), "{out}");
    assert!(out.contains("without smollm2: its weights are not part of the project"), "{out}");
    let (code, out) = script("run.sh", &[]);
    assert!(
        code == Some(0) && out.contains("ok      mamba f32  largest difference ") && out.contains("2 passed, 0 failed"),
        "{out}"
    );
    // Another model's artifact.
    std::fs::create_dir(desk.path("gpu/llama")).expect("a folder");
    std::fs::copy(desk.path("gpu/mamba/f32.braidart"), desk.path("gpu/llama/f32.braidart")).expect("a copy");
    let (code, out) = script("run.sh", &[]);
    assert!(code == Some(1) && out.contains("FAILED  llama f32 (1): error: ") && out.contains("2 passed, 1 failed"), "{out}");
}

/// Every size of a published model has about as many parameters as its name says.
#[test]
fn presets_are_sizes_of_models() {
    let desk = Desk::new();
    for (path, text) in braid_stdlib::files().iter().filter(|(path, _)| path.starts_with("presets/")) {
        let model = format!("models.{}", path.trim_start_matches("presets/").trim_end_matches(".yaml"));
        for name in text.lines().filter_map(|line| Some(line.split_once(": {")?.0)) {
            let json = desk.check(0, &["inspect", &model, "--preset", name, "--json"]);
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let found = json["parameters"].as_f64().expect("parameters");
            let size = name.rsplit('-').next().expect("a size");
            let unit = if size.ends_with('m') { 1e6 } else { 1e9 };
            let wanted = size[..size.len() - 1].parse::<f64>().expect(name) * unit;
            assert!((found / wanted - 1.0).abs() < 0.26, "{name}: {found:e} parameters");
        }
    }
    let line = ["inspect", "models.transformer", "--preset", "llama-1b", "--set", "layers=2", "--json"];
    let two: serde_json::Value = serde_json::from_str(&desk.check(0, &line)).expect("JSON");
    assert!(two["parameters"].as_f64().expect("parameters") < 5e8, "`--set` comes after the preset");
    has(&desk.check(1, &["inspect", "models.transformer", "--preset", "giant"]), &["no preset `giant`", "llama-1b"]);
    has(&desk.check(1, &["inspect", "small.braid", "--preset", "giant"]), &["a model of the library"]);
}
