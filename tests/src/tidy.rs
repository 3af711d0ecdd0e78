//! The house rules, as tests: who may name which library, how long a file may be, what no file may contain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A text file of the project: its path from the root, with `/`, and what it holds.
struct File {
    path: String,
    text: String,
}

/// Each library has one home.
const HOMES: &[(&str, &[&str])] = &[
    ("petgraph", &["compiler/src/graph/"]),
    ("melior", &["compiler/src/mlir/", "compiler/src/llvm/"]),
    ("mlir_sys", &["compiler/src/mlir/", "compiler/src/llvm/"]),
    ("inkwell", &["compiler/src/llvm/"]),
    ("pest", &["dsl/src/"]),
    ("pest_derive", &["dsl/src/"]),
    ("cudarc", &["runtime/src/cuda/"]),
    ("libloading", &["runtime/src/", "tests/src/kernels.rs"]),
    ("memmap2", &["runtime/src/"]),
    ("codespan_reporting", &["compiler/src/cli/"]),
    ("clap", &["compiler/src/cli/", "runtime/src/cli/", "runtime/src/main.rs"]),
    ("indicatif", &["compiler/src/cli/", "runtime/src/cli/"]),
];

/// Inside the compiler one knows only what stands before it.
const LAYERS: &[&str] = &["graph", "rewrite", "forms", "fuse", "plan", "mlir", "llvm", "pipeline"];

/// Names of architectures and mixers. The compiler knows none of them: they are texts of the library.
const ARCHITECTURES: &[&str] = &[
    "mamba",
    "llama",
    "qwen",
    "mistral",
    "mixtral",
    "gemma",
    "gpt2",
    "gpt_neox",
    "neox",
    "rwkv",
    "jamba",
    "zamba",
    "bamba",
    "granite",
    "nemotron",
    "olmo",
    "lfm2",
    "phimoe",
    "falcon",
    "hyena",
    "retnet",
    "deltanet",
    "delta_net",
    "delta rule",
    "delta_rule",
    "gated_delta",
    "hgrn",
    "griffin",
    "hawk",
    "titans",
    "xlstm",
    "mlstm",
    "slstm",
    "bert",
    "whisper",
    "bitnet",
    "deepseek",
    "longformer",
    "gateloop",
    "gla",
    "swiglu",
    "geglu",
    "minimax",
    "kimi",
    "hymba",
    "samba",
];

/// The one place of the compiler that runs another program, in a temporary folder.
const LINKER: &str = "compiler/src/llvm/link.rs";

/// What must not be left in a source.
const LEFTOVERS: &[&str] = &["todo!", "unimplemented!", "#[ignore]", "dbg!", "FIXME-", "XXX"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the project's root exists")
}

fn files(extensions: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    collect(&root(), &root(), extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, folder: &Path, extensions: &[&str], found: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("readable folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if !hidden && name != "target" {
                collect(root, &path, extensions, found);
            }
        } else if extensions.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let path = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            found.push(File { path, text });
        }
    }
}

/// Whether `text` has `word` with no letter, digit or underscore beside it.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

fn code_line(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

#[test]
fn each_library_has_one_home() {
    let mut complaints = Vec::new();
    for file in files(&["rs"]).iter().filter(|f| !f.path.starts_with("tests/")) {
        for (library, homes) in HOMES {
            let named =
                file.text.lines().filter(|l| code_line(l)).any(|l| {
                    has_word(l, library) && (l.contains(&format!("{library}::")) || l.contains(&format!("use {library}")))
                });
            if named && !homes.iter().any(|home| file.path.starts_with(home)) {
                complaints.push(format!("{} names `{library}`, whose home is {}", file.path, homes.join(" or ")));
            }
        }
    }
    none(complaints);
}

#[test]
fn the_compiler_looks_downward_only() {
    let rank = |name: &str| LAYERS.iter().position(|l| *l == name);
    let mut complaints = Vec::new();
    for file in files(&["rs"]) {
        let Some(inside) = file.path.strip_prefix("compiler/src/") else { continue };
        let own = inside.split(['/', '.']).next().unwrap_or_default();
        let Some(mine) = rank(own) else { continue };
        for layer in &LAYERS[mine + 1..] {
            if file.text.lines().any(|l| code_line(l) && has_word(l, &format!("crate::{layer}"))) {
                complaints.push(format!("{} names `{layer}`, which stands above `{own}`", file.path));
            }
        }
    }
    none(complaints);
}

#[test]
fn pure_crates_do_no_input_or_output() {
    let doors = ["std::fs", "std::env::", "println!", "eprintln!", "std::process", "std::net"];
    let pure = |path: &str| {
        path.starts_with("dsl/src/")
            || path.starts_with("stdlib/src/")
            || (path.starts_with("compiler/src/")
                && !path.starts_with("compiler/src/cli/")
                && path != "compiler/src/main.rs"
                && path != LINKER)
    };
    let mut complaints = Vec::new();
    for file in files(&["rs"]).iter().filter(|f| pure(&f.path) && !f.path.ends_with("/tests.rs")) {
        let before_tests = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        for (line, text) in before_tests.lines().enumerate().filter(|(_, l)| code_line(l)) {
            for door in doors.iter().filter(|d| text.contains(**d)) {
                complaints.push(format!(
                    "{}:{} uses {door}; files and the terminal belong to compiler/src/cli",
                    file.path,
                    line + 1
                ));
            }
        }
    }
    none(complaints);
}

#[test]
fn files_can_be_read_whole() {
    let mut complaints = Vec::new();
    for file in files(&["rs", "braid", "pest"]) {
        match file.text.lines().count() {
            0..=400 => {}
            lines @ 401..=600 => println!("{} has {lines} lines; 400 is the aim", file.path),
            lines => complaints.push(format!("{} has {lines} lines; 600 is the most", file.path)),
        }
    }
    none(complaints);
}

#[test]
fn the_compiler_names_no_architecture() {
    let mut complaints = Vec::new();
    for file in files(&["rs", "pest"]) {
        if !["compiler/", "dsl/", "runtime/"].iter().any(|c| file.path.starts_with(c)) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for name in ARCHITECTURES {
                let short = name.len() < 5;
                if (short && has_word(&line, name)) || (!short && line.contains(name)) {
                    complaints.push(format!("{}:{} names `{name}`", file.path, number + 1));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_over() {
    let mut complaints = Vec::new();
    for file in files(&["rs", "braid"]).iter().filter(|f| f.path != "tests/src/tidy.rs") {
        for (number, line) in file.text.lines().enumerate() {
            for leftover in LEFTOVERS.iter().filter(|l| line.contains(**l)) {
                complaints.push(format!("{}:{} has `{leftover}`", file.path, number + 1));
            }
        }
    }
    none(complaints);
}

#[test]
fn no_path_of_one_machine() {
    let machine = ["/work/", "/root/", "/home/", "../shared", "\"shared/"];
    let mut complaints = Vec::new();
    for file in files(&["rs", "braid", "toml", "yaml", "yml", "md", "pest", "sh", "snap", "c", "h", "json"]) {
        for (number, line) in file.text.lines().enumerate() {
            for path in machine.iter().filter(|p| line.contains(**p) && file.path != "tests/src/tidy.rs") {
                complaints.push(format!("{}:{} has the path `{path}`", file.path, number + 1));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_dependency_says_what_it_does() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let table =
        manifest.split("[workspace.dependencies]").nth(1).and_then(|t| t.split("\n[").next()).expect("a table of dependencies");
    let lines: Vec<&str> = table.lines().collect();
    let mut complaints = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, _)) = line.split_once(" = ").filter(|(n, _)| !n.starts_with('#') && !n.starts_with("braid-")) else {
            continue;
        };
        // Two crates of one project may share the line above them.
        let said = lines[..at].iter().rev().take_while(|l| !l.is_empty()).take(2).any(|l| l.starts_with('#'));
        if !said {
            complaints.push(format!("no comment says what `{name}` does for us"));
        }
    }
    for file in files(&["toml"]).iter().filter(|f| f.path.matches('/').count() == 1) {
        for line in file.text.lines().filter(|l| !l.starts_with('#') && l.contains("version = \"") && l.contains('{')) {
            complaints.push(format!("{}: `{line}`: versions stand in the root's table", file.path));
        }
    }
    none(complaints);
}

/// `block` and `model` items of a text, with the line before each.
fn items(text: &str) -> Vec<(String, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        for keyword in ["block ", "model "] {
            let Some(rest) = line.strip_prefix(keyword) else { continue };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let before = at.checked_sub(1).map_or("", |b| lines[b]);
            found.push((name, before.to_string(), at + 1));
        }
    }
    found
}

#[test]
fn every_library_block_is_documented_and_tested() {
    let tests: Vec<File> = files(&["rs", "braid", "yaml", "md"])
        .into_iter()
        .filter(|f| f.path.starts_with("tests/") || f.path.starts_with("examples/"))
        .collect();
    let library: Vec<File> = files(&["braid"]).into_iter().filter(|f| f.path.starts_with("stdlib/")).collect();
    let (mut complaints, mut names) = (Vec::new(), BTreeSet::new());
    for file in &library {
        for (name, before, line) in items(&file.text) {
            if !before.starts_with("///") {
                complaints.push(format!("{}:{line}: `{name}` has no doc comment", file.path));
            }
            if !tests.iter().any(|t| has_word(&t.text, &name)) {
                complaints.push(format!("{}:{line}: no test names `{name}`", file.path));
            }
            if !names.insert(name.clone()) {
                complaints.push(format!("{}:{line}: a second `{name}`", file.path));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_source_opens_with_a_sentence() {
    let complaints = files(&["rs"])
        .into_iter()
        .filter(|f| !f.text.trim_start().starts_with("//!") && !f.text.trim_start().starts_with("#!["))
        .map(|f| format!("{} has no `//!` line that says what it holds", f.path));
    none(complaints.collect());
}
