//! Every example of docs/language.md is compiled; it, the library and the examples are in canonical form.

use braid_dsl::source::Sources;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/language.md");

/// One example.
struct Example {
    /// The line that it begins on.
    line: usize,
    /// The whole file.
    text: String,
}

/// The library with one text of our own.
struct With<'t>(&'t str);

impl Sources for With<'_> {
    fn read(&self, path: &str) -> Option<String> {
        if path == "example.braid" { Some(self.0.to_owned()) } else { braid_stdlib::file(path).map(str::to_owned) }
    }

    fn prelude(&self) -> Vec<String> {
        super::errors::prelude()
    }
}

/// The examples; statements alone are put into the page's first example, before its `return`.
fn examples() -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut lines = PAGE.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```braid") else { continue };
        let body: Vec<&str> = lines.by_ref().map(|(_, l)| l).take_while(|l| *l != "```").collect();
        let text = match kind.trim() {
            "body" => {
                let indented: String = body.iter().map(|l| format!("  {l}\n")).collect();
                found[0].text.replace("  return x\n", &format!("{indented}  return x\n"))
            }
            _ => body.join("\n") + "\n",
        };
        found.push(Example { line: n + 1, text });
    }
    found
}

#[test]
fn every_example_of_the_reference_compiles() {
    let mut complaints = Vec::new();
    let examples = examples();
    assert!(examples.len() > 15, "the page has examples");
    for example in examples {
        let (checked, sources) = braid_dsl::check(&With(&example.text), "example.braid", &[]);
        for error in checked.err().unwrap_or_default() {
            complaints.push(format!("docs/language.md:{}: {}", example.line, error.render(&sources)));
        }
        if braid_dsl::format(&example.text).as_deref() != Ok(example.text.as_str()) {
            complaints.push(format!("docs/language.md:{}: not canonical", example.line));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_library_and_the_examples_are_canonical() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let examples = std::fs::read_dir(folder).expect("the examples").flatten().filter(|entry| entry.path().is_dir());
    let specs = examples.flat_map(|entry| std::fs::read_dir(entry.path()).expect("a folder").flatten()).map(|entry| entry.path());
    let specs = specs.filter(|path| path.extension().is_some_and(|e| e == "braid"));
    let specs = specs.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("a spec")));
    let library = braid_stdlib::files().iter().map(|(path, text)| (format!("stdlib/{path}"), (*text).to_owned()));
    let all: Vec<_> = library.filter(|(path, _)| path.ends_with(".braid")).chain(specs).collect();
    assert!(all.len() > 40);
    let complaints: Vec<_> =
        all.iter().filter(|(_, text)| braid_dsl::format(text).as_deref() != Ok(text)).map(|(path, _)| path).collect();
    assert!(complaints.is_empty(), "`braid fmt` rewrites {complaints:?}");
}

/// The page about a new mixer and the README show the text of the example, not another.
#[test]
fn the_new_mixer_is_shown_as_it_is() {
    let example = include_str!("../../examples/new-mixer/new_mixer.braid");
    let items: Vec<&str> = example.split("\n\n").collect();
    let [_, mixer, model] = items[..] else { panic!("a comment, a block and a model") };
    assert!(mixer.lines().filter(|line| !line.starts_with("///")).count() < 20, "the mixer is short");
    let page = include_str!("../../docs/new-mixer.md");
    for part in [mixer, model] {
        assert!(page.contains(&format!("```braid\n{}\n```", part.trim_end())), "docs/new-mixer.md lacks\n{part}");
    }
    assert!(include_str!("../../README.md").contains(mixer), "README.md lacks\n{mixer}");
}
