//! docs/systems.md: every row names a text and a test, and both are there.

use std::path::Path;

/// `[`name`](../file)` as name and file.
fn link(cell: &str) -> Option<(&str, &str)> {
    let (name, file) = cell.trim().strip_prefix("[`")?.split_once("`](../")?;
    Some((name, file.strip_suffix(')')?))
}

#[test]
fn every_row_has_a_text_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let page = read("docs/systems.md");
    let rows: Vec<Vec<&str>> =
        page.lines().filter(|line| line.contains("](../")).map(|line| line.trim_matches('|').split(" | ").collect()).collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in rows {
        let [_, text, test] = row[..] else { panic!("{row:?} is no row of three") };
        for (cell, is_test) in [(text, false), (test, true)] {
            let (name, file) = link(cell).unwrap_or_else(|| panic!("{row:?} names no file"));
            let content = read(file);
            // Tests of golden models are names in a list.
            let listed = content.split_whitespace().any(|word| word == name);
            let there = if is_test { content.contains(&format!("fn {name}()")) || listed } else { content.contains(name) };
            assert!(there, "{file} has no `{name}`");
            assert!(!is_test || file.starts_with("tests/src/"), "{file} is no test");
        }
    }
}
