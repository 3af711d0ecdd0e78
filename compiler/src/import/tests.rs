//! The engine on a small library of its own.

use super::*;

const FILES: &[(&str, &str)] = &[
    ("models/toy.braid", "model toy(layers: int)(tokens: [t]) -> [t] {\n"),
    ("weights/toy.yaml", "params: {}\n"),
    ("import/sizes.yaml", "let: { base: \"theta ?? 10.0\" }\nargs: { layers: n_layers, d: width, gone: \"1\" }\n"),
    (
        "import/toy.yaml",
        r#"
model_type: [toy]
model: models.toy
name: toy
weights: toy
with: [sizes]
let: { limit: "limits[1] ?? inf" }
args:
  gone: none
  k: "head ?? width / heads"
  kinds: '[match c { "a" | "A" => "attend", _ => "other" } for c in kinds ?? chars(pattern) if c != "x"]'
  turn: 'turn(base: base, limit: if limit == inf { none } else { limit })'
  limit: limit
require:
  - { that: '(act ?? "silu") == "silu"', else: "activation {act}" }
"#,
    ),
];

fn toy(config: &str) -> Result<String, ImportError> {
    import(config, "Toy-1", FILES).map(|imported| imported.spec)
}

#[test]
fn both_ages_of_a_configuration_give_one_text() {
    let newer =
        r#"{"model_type":"toy","n_layers":2,"width":64,"heads":4,"kinds":["a","b"],"limits":[0.0,{"__float__":"Infinity"}]}"#;
    let older = r#"{"model_type":"toy","n_layers":2,"width":64,"head":16,"pattern":"Axb","limits":[0.0, Infinity], "note": "\"Infinity"}"#;
    let text = "//! Imported from a checkpoint of type toy.\n\nuse models.toy\n\nmodel toy_1 = toy(layers: 2, d: 64, k: 16, \
                kinds: [\"attend\", \"other\"], turn: turn(base: 10.0), limit: inf)\n";
    assert_eq!(toy(newer).as_deref(), Ok(text));
    assert_eq!(toy(older).as_deref(), Ok(text));
}

#[test]
fn a_name_that_the_library_has_is_not_taken() {
    let config = r#"{"model_type":"toy","n_layers":2,"width":64,"head":16,"kinds":[]}"#;
    let spec = import(config, "toy", FILES).map(|imported| imported.spec);
    assert!(spec.is_ok_and(|spec| spec.contains("model toy_model = toy(")));
}

#[test]
fn failures_say_what_is_wrong() {
    let cases = [
        ("{", "not JSON"),
        ("{}", "no `model_type`"),
        (r#"{"model_type":"other"}"#, "known are: toy"),
        (r#"{"model_type":"toy","width":1}"#, "argument `layers`: the configuration has no `n_layers`"),
        (r#"{"model_type":"toy","act":"tanh"}"#, "activation tanh"),
        (r#"{"model_type":"toy","n_layers":2,"width":64,"heads":"many","kinds":[]}"#, "/ does not work on int and string"),
    ];
    for (config, message) in cases {
        let error = toy(config).expect_err(config).to_string();
        assert!(error.contains(message), "{config}: {error}");
    }
}

#[test]
fn a_rule_that_lists_harmless_keys_refuses_the_others() {
    let strict =
        FILES.iter().map(|(path, text)| (*path, text.replace("let: { limit", "harmless: [model_type, author]\nlet: { limit")));
    let strict: Vec<(&str, String)> = strict.collect();
    let files: Vec<(&str, &str)> = strict.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let rest = r#""model_type":"toy","n_layers":2,"width":64,"head":16,"kinds":[],"author":"x","later":null"#;
    assert!(import(&format!("{{{rest}}}"), "toy", &files).is_ok());
    let error = import(&format!("{{{rest},\"twist\":true}}"), "toy", &files).expect_err("a key that changes results").to_string();
    assert!(error.contains("the key `twist`"), "{error}");
    let error =
        import(&format!("{{{rest},\"limits\":[{{\"of\":1}}]}}"), "toy", &files).expect_err("a list of objects").to_string();
    assert!(error.contains("`limits` holds a list of objects"), "{error}");
}
