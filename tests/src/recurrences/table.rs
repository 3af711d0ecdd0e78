//! The table of mixers in docs/library.md: every mixer of the library has a row, it takes the arguments that are named there, and its
//! recurrence is of the class that is told.

use crate::snapshots;
use braid_compiler::forms::recur;
use std::path::Path;

/// Sizes of the axes that arguments name.
const DIMS: &str = "d: dim = 12, heads: dim = 2, k: dim = 4, v: dim = 3, n: dim = 5, inner: dim = 8, p: dim = 6, rank: dim = 2, near: dim = 1, \
                    far: dim = 1, hidden: dim = 7, rank_w: dim = 2, rank_a: dim = 2, rank_v: dim = 2, rank_g: dim = 2, vocab: dim = 9, latent: dim = 6, nope: dim = 3, groups: dim = 2, buckets: dim = 8, high: dim = 3, wide: dim = 4, shared: dim = 2, routed: dim = 3, seed: int = 7";

/// A block's head.
struct Head {
    name: String,
    /// Names and axes of the inputs besides `x`.
    more: Vec<(String, String)>,
    results: usize,
}

/// The heads of the blocks of a text.
fn heads(text: &str) -> Vec<Head> {
    let one = |part: &str| {
        let name = part.split('(').next().unwrap_or_default().to_owned();
        let (inputs, results) = part.split(")(x: ").nth(1).and_then(|rest| rest.split_once(") -> ")).unwrap_or_default();
        let results = results.split(['{', 'w']).next().unwrap_or_default().matches('[').count();
        // The first one is `x`; axes hold commas too.
        let input = |input: &str| input.split_once(": ").map(|(name, axes)| (name.into(), axes.trim_matches(['[', ']']).into()));
        Head { name, more: inputs.split("], ").skip(1).filter_map(input).collect(), results }
    };
    // What gives positions is a part of a mixer.
    text.split("\nblock ").skip(1).filter(|part| !part.contains(") -> int [")).map(one).collect()
}

/// Cells of the rows of a table that begin with a code name.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// The classes of the recurrences of a block called with those arguments, each once.
fn classes(block: &Head, arguments: &str) -> String {
    let argument = |name: &str| match name {
        "left" | "right" => format!("{name}: identity()"),
        name => format!("{name}: {name}"),
    };
    let call = arguments.split(", ").filter(|name| !name.is_empty()).map(argument).collect::<Vec<_>>().join(", ");
    let (mut given, mut names) = (String::new(), String::new());
    for (name, axes) in &block.more {
        // What varies along the sequence takes that from `x`.
        let (axes, more) = axes.strip_prefix("t, ").map_or((axes.as_str(), ""), |axes| (axes, " + sum[d] x"));
        given += &match axes.starts_with("int ") {
            true => format!("  {name} = tokens\n"),
            false => format!("  param {name}_: [{axes}]\n  {name} = {name}_{more}\n"),
        };
        names += &format!(", {name}");
    }
    let results = if block.results == 1 { "y" } else { "(y, other)" };
    let spec = format!(
        "model m({DIMS})(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n{given}  mixer = \
         {}({call})\n  {results} = mixer(x{names})\n  return sum[d] y * embed\n}}\n",
        block.name
    );
    let work = snapshots::run(&spec, "forms");
    let graph = &work.forms().unwrap_or_else(|error| panic!("{error}")).graph;
    let text: String = graph.order().into_iter().map(|node| recur::explain(graph, node, None)).collect();
    let mut found: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("class: ")).collect();
    found.dedup();
    found.join("; ")
}

#[test]
fn the_table_of_mixers_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/library.md");
    let rows = rows(&std::fs::read_to_string(path).expect("the table"));
    let files = braid_stdlib::files().iter().filter(|(path, _)| path.starts_with("mixers/"));
    let mut complaints = vec![];
    for block in files.flat_map(|(_, text)| heads(text)) {
        let (name, code) = (&block.name, format!("`{}`", block.name));
        let Some(row) = rows.iter().find(|row| row[0] == code) else {
            complaints.push(format!("docs/library.md has no row for `{name}`"));
            continue;
        };
        let found = classes(&block, row[2].trim_matches('`'));
        if row[3] != found {
            complaints.push(format!("`{name}` is of class `{found}`, not `{}`", row[3]));
        }
    }
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}
