//! The C example, built by the C compiler and run.

use super::fake::Fake;
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Settings, Wanted, Weights};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds an example against a header.
pub fn built(compiler: &str, example: &str, folder: &Path, header: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c").join(example);
    let program = folder.join(example.trim_end_matches(".c"));
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]).arg(format!("-DBRAID_MODEL_H=\"{header}\""));
    let built = command.arg("-I").arg(folder).arg(source).arg("-o").arg(&program).arg("-ldl").status();
    assert!(built.unwrap_or_else(|error| panic!("{compiler} is needed ({error}): .ci/setup installs it")).success());
    program
}

/// Builds an example against a header and runs it; what it prints.
pub fn run(example: &str, folder: &Path, header: &str, words: &[&OsStr]) -> String {
    let program = built("cc", example, folder, header);
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn words(artifact: &Path, weights: &Path, count: usize, ids: &[i32]) -> Vec<OsString> {
    let numbers = [count.to_string()].into_iter().chain(ids.iter().map(i32::to_string)).map(OsString::from);
    [artifact.into(), weights.into()].into_iter().chain(numbers).collect()
}

/// What examples/c/generate.c says.
pub fn generate(folder: &Path, header: &str, artifact: &Path, weights: &Path, count: usize, ids: &[i32]) -> Vec<i32> {
    let words = words(artifact, weights, count, ids);
    let text = run("generate.c", folder, header, &words.iter().map(OsString::as_os_str).collect::<Vec<_>>());
    text.split(',').map(|id| id.parse().unwrap()).collect()
}

/// What examples/c/resume.c says, and the bytes that it saves.
pub fn resume(folder: &Path, header: &str, artifact: &Path, weights: &Path, count: usize, ids: &[i32]) -> (String, Vec<u8>) {
    let words = words(artifact, weights, count, ids);
    let mut words: Vec<_> = words.iter().map(OsString::as_os_str).collect();
    let text = run("resume.c", folder, header, &words);
    words.insert(0, OsStr::new("--bytes"));
    let digits = run("resume.c", folder, header, &words);
    let bytes = (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    (text, bytes)
}

/// What examples/c/listen.c says of a model whose source is those numbers.
pub fn listen(folder: &Path, artifact: &Path, weights: &Path, count: usize, source: &[f32], ids: &[i32]) -> Vec<i32> {
    let file = folder.join("source.f32");
    std::fs::write(&file, source.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let mut words = words(artifact, weights, count, ids);
    words.insert(3, file.into());
    let text = run("listen.c", folder, "model.h", &words.iter().map(OsString::as_os_str).collect::<Vec<_>>());
    text.split(',').map(|id| id.parse().unwrap()).collect()
}

#[test]
fn the_c_example_generates_what_the_reference_says() {
    let fake = Fake::new();
    let artifact = Artifact::open(&fake.artifact()).unwrap();
    let weights = fake.path("weights.bin");
    Weights::open(&artifact.manifest, fake.folder.path().to_str().unwrap(), 1, &Hidden).unwrap().write(&weights).unwrap();
    let prompt = [3, 1, 4, 1, 5, 9, 2];
    let found = generate(fake.folder.path(), "fake.h", &fake.artifact(), &weights, 12, &prompt);
    assert_eq!(found, fake.greedy(&prompt, 12));
}

#[test]
fn the_c_example_goes_back_and_on_as_before() {
    let fake = Fake::new();
    let artifact = Artifact::open(&fake.artifact()).unwrap();
    let weights = fake.path("weights.bin");
    Weights::open(&artifact.manifest, fake.folder.path().to_str().unwrap(), 1, &Hidden).unwrap().write(&weights).unwrap();
    let prompt = [3, 1, 4, 1, 5, 9, 2];
    let (text, bytes) = resume(fake.folder.path(), "fake.h", &fake.artifact(), &weights, 12, &prompt);
    assert_eq!(text, "192 bytes saved; restored; 12 rows of logits three times the same");
    let mut session = fake.session(Settings { threads: 1, capacity: 64, slots: 1 });
    session.prefill(0, &prompt, Wanted::None, |_, _| ()).unwrap();
    assert_eq!(bytes, session.snapshot(0).unwrap().bytes(), "C and Rust save the same bytes");
}
