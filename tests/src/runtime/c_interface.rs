//! The C example, built by the C compiler and run.

use super::fake::Fake;
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Weights};
use std::path::Path;
use std::process::Command;

/// Builds examples/c/generate.c against a header and runs it.
pub fn generate(folder: &Path, header: &str, artifact: &Path, weights: &Path, count: usize, ids: &[i32]) -> Vec<i32> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c/generate.c");
    let program = folder.join("generate");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]).arg(format!("-DBRAID_MODEL_H=\"{header}\""));
    let built = compiler.arg("-I").arg(folder).arg(source).arg("-o").arg(&program).arg("-ldl").status();
    assert!(built.expect("a C compiler is needed").success());
    let mut command = Command::new(program);
    command.arg(artifact).arg(weights).arg(count.to_string()).args(ids.iter().map(i32::to_string));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().split(',').map(|id| id.parse().unwrap()).collect()
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
