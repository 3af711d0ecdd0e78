//! Broken specs: each line that is wrong says so in a comment, `// error: part of the message`, on it or right above.

use std::path::{Path, PathBuf};

use braid_dsl::source::{SourceMap, Sources};

/// The folder of the broken specs, and the standard library.
struct Suite;

impl Sources for Suite {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(folder().join(path)).ok().or_else(|| braid_stdlib::file(path).map(str::to_owned))
    }

    fn prelude(&self) -> Vec<String> {
        prelude()
    }
}

/// The library's modules whose names are always in scope.
pub fn prelude() -> Vec<String> {
    let known = braid_stdlib::files().iter().map(|(path, _)| (*path).to_owned());
    known.filter(|path| path.ends_with(".braid") && !path.starts_with("models/")).collect()
}

/// Every broken spec: its name and its text.
pub fn suite() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder()).expect("the suite").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("readable");
        found.push((file.file_name().to_string_lossy().into_owned(), text));
    }
    found.sort();
    found
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/errors")
}

/// The annotated lines, from 1, with what the message there says.
fn expected(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if let Some((before, message)) = line.split_once("// error: ") {
            let own_line = before.trim().is_empty();
            found.push((if own_line { n + 2 } else { n + 1 }, message.trim().to_owned()));
        }
    }
    found
}

#[test]
fn broken_specs_are_reported_where_they_are_broken() {
    let mut complaints = Vec::new();
    let files = suite();
    assert!(files.len() > 20, "the suite is there");
    for (name, text) in files {
        let (checked, sources) = braid_dsl::check(&Suite, &name, &[]);
        let Err(errors) = checked else {
            complaints.push(format!("{name}: no error"));
            continue;
        };
        complaints.extend(compare(&name, &expected(&text), &errors, &sources));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What differs between the annotations and the errors.
fn compare(
    name: &str,
    expected: &[(usize, String)],
    errors: &[braid_dsl::diagnostic::Diagnostic],
    sources: &SourceMap,
) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut open: Vec<&(usize, String)> = expected.iter().collect();
    for error in errors {
        let (line, _) = sources.position(error.span);
        let here = sources.file(error.span).is_some_and(|f| f.path == name);
        let fits = |(at, part): &&(usize, String)| *at == line && here && error.message.contains(part.as_str());
        match open.iter().position(fits) {
            Some(n) => {
                open.remove(n);
            }
            None => complaints.push(format!("{name}: not annotated:\n{}", error.render(sources))),
        }
    }
    complaints.extend(open.iter().map(|(line, part)| format!("{name}:{line}: no error says `{part}`")));
    complaints
}
