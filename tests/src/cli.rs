//! The program `braid` as one types it: what it prints, what it writes, and its exit code.

mod convert;
mod levels;
mod policies;
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

/// The ids that a command line prints.
fn ids(desk: &Desk, line: &str) -> Vec<serde_json::Value> {
    let words: Vec<&str> = line.split(' ').collect();
    let text = desk.check(0, &words);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    json["ids"].as_array().expect("ids").clone()
}

#[test]
fn a_state_goes_on_in_another_process() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let run = "run small.braidart --weights random:1 --temperature 0 --json";
    let whole = ids(&desk, &format!("{run} --ids 1,2,3 -n 12"));
    let first = ids(&desk, &format!("{run} --ids 1,2,3 -n 5 --save-state five.state --threads 1"));
    let rest = ids(&desk, &format!("{run} -n 7 --load-state five.state --save-state all.state --threads 2"));
    assert_eq!([first, rest].concat(), whole);
    // A prompt that is kept, and a continuation of it in two ways.
    assert!(ids(&desk, &format!("{run} --ids 1,2,3 -n 0 --save-state prompt.state")).is_empty());
    assert_eq!(ids(&desk, &format!("{run} -n 12 --load-state prompt.state")), whole);
    let other = ids(&desk, &format!("{run} --ids 7 -n 4 --load-state prompt.state"));
    assert_eq!(other, ids(&desk, &format!("{run} --ids 1,2,3,7 -n 4")));
    assert_eq!(desk.files(), ["all.state", "five.state", "prompt.state", "small.braid", "small.braidart", "small.h"]);
    has(
        &desk.check(0, &["info", "small.braidart", "--states"]),
        &["goes back     from a snapshot: 1 recurrence", "h [d 8]  recurrence"],
    );
}

#[test]
fn a_text_goes_on_in_another_process() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-hybrid");
    let folder = folder.to_string_lossy();
    let run = |rest: &[&str]| desk.check(0, &[&["run", &folder, "--temperature", "0"], rest].concat());
    let text = |output: &str| output.lines().next().unwrap_or_default().to_owned();
    let whole = text(&run(&["--prompt", "Once upon a time", "-n", "24"]));
    let first = text(&run(&["--prompt", "Once upon a time", "-n", "10", "--save-state", "a.state"]));
    let rest = text(&run(&["--load-state", "a.state", "-n", "14", "--context", "100"]));
    assert_eq!(first + &rest, whole);
    has(&run(&["--load-state", "a.state", "-n", "3", "--prompt", " The king"]), &[" The king "]);
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let run = |line: &str| desk.check(1, &["run"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    desk.check(0, &["run", "small.braidart", "-w", "random:1", "--ids", "1", "-n", "2", "--save-state", "a.state"]);
    has(&run("small.braidart -w random:2 --load-state a.state"), &["a.state: saved with other weights", "--weights"]);
    has(&run("small.braid --set d=9 -w random:1 --load-state a.state"), &["whose states are not those of `small`"]);
    has(&run("small.braidart -w random:1 --load-state small.braid"), &["not a safetensors file"]);
    has(&run("small.braidart -w random:1 --load-state none"), &["cannot read none"]);
    has(&run("small.braidart -w random:1 --ids 1 --save-state no/such/folder"), &["cannot write no/such/folder"]);
    let state = std::fs::read(desk.path("a.state")).expect("a state");
    std::fs::write(desk.path("cut.state"), &state[..state.len() - 9]).expect("a file");
    has(&run("small.braidart -w random:1 --load-state cut.state"), &["cut.state: truncated"]);
    has(&run("small.braidart -w random:1"), &["there is no text to continue"]);
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
