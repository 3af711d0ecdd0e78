//! A bounded fuzz of the parser, the formatter, the checker, weight maps and import: seeds are the library, the broken specs and
//! the golden configurations, changed by a fixed generator. Whatever the text, there is a result and no panic; what formats,
//! formats again to the same.

use braid_dsl::source::Sources;

/// A small generator of pseudo-random numbers (xorshift), so that every run sees the same texts.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Pieces of the language that changes put in.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "=",
    "..",
    "-",
    "!",
    "^",
    "*",
    "/",
    "%",
    "|",
    "&",
    "<",
    "sum[d] ",
    "max[t] ",
    " as ",
    "if ",
    "else ",
    "match ",
    "repeat i in 0..3 ",
    "recur S: [d] over t ",
    "attend[k]",
    "route[experts](ids) ",
    "share ",
    "param ",
    "dim ",
    "return ",
    "generate autoregressive",
    "block ",
    "model ",
    "fn ",
    "use models.transformer",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "1e308",
    "inf",
    "\"a\"",
    "x",
    "t",
    "d",
    "query",
    "key",
    "s",
    "shift(x, 1)",
    "index[d]",
    "position[t]",
    "[t, d]",
    "x[d: 0]",
    "// c\n",
    "\"",
    "\\",
    "é",
    "\u{0}",
];

/// One text with a few changes.
fn changed(seed: &str, random: &mut Random) -> String {
    let mut chars: Vec<char> = seed.chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(chars.len() + 1);
        let end = (at + random.below(12)).min(chars.len());
        match random.below(5) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let copy: Vec<char> = chars[at..end].to_vec();
                let to = random.below(chars.len() + 1);
                chars.splice(to..to, copy);
            }
            2 => drop(chars.splice(at..end, PIECES[random.below(PIECES.len())].chars())),
            3 => drop(chars.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
            _ => chars.truncate(chars.len().saturating_sub(random.below(chars.len() / 8 + 1))),
        }
    }
    chars.into_iter().collect()
}

/// The library with one text of our own.
struct With<'t>(&'t str);

impl Sources for With<'_> {
    fn read(&self, path: &str) -> Option<String> {
        if path == "fuzz.braid" { Some(self.0.to_owned()) } else { braid_stdlib::file(path).map(str::to_owned) }
    }

    fn prelude(&self) -> Vec<String> {
        super::errors::prelude()
    }
}

fn examine(text: &str) {
    if let Ok(once) = braid_dsl::format(text) {
        assert_eq!(braid_dsl::format(&once).as_ref(), Ok(&once), "formatting twice:\n{text}");
    }
    let (checked, sources) = braid_dsl::check(&With(text), "fuzz.braid", &[]);
    if let Err(errors) = checked {
        assert!(!errors.is_empty(), "an error without an error:\n{text}");
        errors.iter().for_each(|e| assert!(!e.render(&sources).is_empty()));
    }
}

#[test]
fn changed_texts_give_a_result() {
    let mut seeds: Vec<String> = super::errors::suite().into_iter().map(|(_, text)| text).collect();
    let models = braid_stdlib::files().iter().filter(|(path, _)| path.ends_with(".braid"));
    seeds.extend(models.map(|(_, text)| (*text).to_owned()));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for n in 0..1500 {
        examine(&changed(&seeds[n % seeds.len()], &mut random));
    }
}

#[test]
fn chains_and_towers_are_bounded() {
    let model = |body: &str| {
        format!(
            "model m(d: dim = 4)(tokens: [t]) -> [t, d] {{\n  param w: [d, d]\n  dim e = d\n{body}\n  return sum[d] w[d as e]\n}}\n"
        )
    };
    let long = |piece: &str, n: usize| piece.repeat(n);
    examine(&model(&format!("  x = {}1", long("1 + ", 5000))));
    examine(&model(&format!("  x = {}1", long("-", 5000))));
    examine(&model(&format!("  x = {}1", long("sum[d] ", 5000))));
    examine(&model(&format!("  x = {}1{}", long("(", 5000), long(")", 5000))));
    examine(&model(&format!("  x = {}1", long("2 ^ ", 5000))));
    examine(&model(&format!("  x = w{}", long("[d as e]", 5000))));
    examine(&model(&format!("  {} {{ }}", long("if true { } else ", 3000))));
    examine(&model(&long("  repeat i in 0..1000 {", 6)));
    examine(&model(&format!("{}{}", long("  repeat i in 0..1000 {\n", 6), long("}\n", 6))));
    let doubling: String = (1..40).map(|n| format!("fn f{n}(x) = f{}(x) + f{}(x)\n", n - 1, n - 1)).collect();
    examine(&format!("fn f0(x) = x\n{doubling}{}", model("  x = f39(w)")));
    let tower: String = (1..60).map(|n| format!("fn g{n}(x) = {}g{}(x){}\n", long("(", 50), n - 1, long(")", 50))).collect();
    examine(&format!("fn g0(x) = x\n{tower}{}", model("  x = g59(w)")));
    examine(&format!("fn h(x) = h(x)\n{}", model("  x = h(1)")));
}

/// Pieces of weight maps and configurations that changes put in.
const DATA: &[&str] = &[
    "@",
    "/",
    "[k]@0/k",
    "_@1/0",
    "{i}",
    "{e}",
    "9223372036854775807",
    "-1",
    "1e999",
    "null",
    "[]",
    ": ",
    "- ",
    "\"",
    "*",
    "()",
];

/// `seed` with a few pieces put in or lines dropped.
fn changed_data(seed: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = seed.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(4) {
        let at = random.below(lines.len());
        let Some(line) = lines.get_mut(at) else { break };
        let places: Vec<usize> = line.char_indices().map(|(place, _)| place).collect();
        let place = places.get(random.below(places.len())).copied().unwrap_or(0);
        match random.below(4) {
            0 => drop(lines.remove(at)),
            1 => line.truncate(place),
            _ => line.insert_str(place, DATA[random.below(DATA.len())]),
        }
    }
    lines.join("\n")
}

#[test]
fn changed_weight_maps_give_a_result() {
    let model = crate::build::model("use models.granite_hybrid\nmodel m = granite_hybrid(experts: 4)\n");
    let maps: Vec<&str> =
        braid_stdlib::files().iter().filter(|(path, _)| path.starts_with("weights/")).map(|(_, map)| *map).collect();
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for n in 0..1500 {
        let text = changed_data(maps[n % maps.len()], &mut random);
        if let Ok(map) = braid_compiler::import::bind::WeightMap::parse(&text)
            && let Err(errors) = map.bind(&model.axes, &model.params, &model.constants)
        {
            assert!(!errors.is_empty(), "an error without an error:\n{text}");
        }
    }
}

#[test]
fn changed_configurations_give_a_result() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let read = |name: &str| std::fs::read_to_string(folder.join(name).join("config.json")).expect("a configuration");
    let seeds: Vec<String> = ["llama", "jamba", "zamba", "nemotron_h", "gemma3", "olmo_hybrid"].into_iter().map(read).collect();
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for n in 0..600 {
        let text = changed_data(&seeds[n % seeds.len()], &mut random);
        if let Ok(made) = braid_compiler::import::import(&text, "fuzzed", braid_stdlib::files()) {
            // What imports is a spec that can be read; whether its sizes make sense is the checker's to say.
            assert!(braid_dsl::parse(&made.spec).is_ok(), "{text}\n{}", made.spec);
        }
    }
}
