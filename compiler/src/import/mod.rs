//! `braid import`: the configuration of a checkpoint becomes a spec and a weight map. What the keys of a configuration mean is data of
//! the library (`import/*.yaml`); nothing here knows a model.

pub mod bind;
mod eval;
mod gguf;
mod given;
mod layout;
mod rule;
mod value;

pub use gguf::import_gguf;

use braid_dsl::model::Constant;
use eval::{Scope, known, truth};
use rule::{Flat, Rule};
use std::collections::HashMap;
use value::{Value, arguments};

/// What an import writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The spec's text.
    pub spec: String,
    /// The weight map's text.
    pub weights: String,
}

/// Why a configuration was not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is not JSON.
    #[error("the configuration is not JSON: {0}")]
    Json(String),
    /// It has no `model_type`.
    #[error("the configuration has no `{key}`")]
    Untyped {
        /// Where it should be.
        key: &'static str,
    },
    /// No rule takes its `model_type`.
    #[error("no import rule takes {key} `{kind}`\n{}", unknown_help(kind, known))]
    Unknown {
        /// `model_type`, `general.architecture`.
        key: &'static str,
        /// The configuration's.
        kind: String,
        /// All that have rules.
        known: Vec<String>,
    },
    /// A key is missing or has a value that the rule does not take.
    #[error("importing `{kind}`, argument `{argument}`: {what}")]
    Argument {
        /// The configuration's `model_type`.
        kind: String,
        /// The model's parameter.
        argument: String,
        /// What is wrong.
        what: String,
    },
    /// The model cannot say what the configuration asks for.
    #[error("importing `{kind}`: not in the library's model yet: {what}")]
    Unsupported {
        /// The configuration's `model_type`.
        kind: String,
        /// What is asked for.
        what: String,
    },
    /// A rule of the library is wrong: a fault of ours.
    #[error("a rule of the library is wrong: {0}")]
    Rule(String),
}

/// Imports the text of a `config.json` as a model of that `name`, with the library's `files`.
pub fn import(config: &str, name: &str, files: &[(&str, &str)]) -> Result<Imported, ImportError> {
    let json = read_config(config)?;
    let config = Value::from_json("configuration", &json);
    let held = json.as_object().map(|keys| keys.iter().map(|(key, value)| (key.as_str(), value)).collect()).unwrap_or_default();
    let source = Source { key: "model_type", kind: config.member("model_type"), types: |rule| &rule.model_type, config, held };
    source.import(name, files)
}

/// A configuration, whatever file it comes from.
struct Source<'a> {
    /// The name of what `kind` is.
    key: &'static str,
    /// Which rule it asks for.
    kind: Value,
    /// The kinds that a rule takes.
    types: fn(&Rule) -> &Vec<String>,
    /// What the rules' expressions see.
    config: Value,
    /// Keys that a rule must know.
    held: Vec<(&'a str, &'a serde_json::Value)>,
}

impl Source<'_> {
    fn import(self, name: &str, files: &[(&str, &str)]) -> Result<Imported, ImportError> {
        let Value::Of(Constant::Text(kind)) = &self.kind else { return Err(ImportError::Untyped { key: self.key }) };
        let rules = rule::read(files).map_err(ImportError::Rule)?;
        let flat = self.rule(&rules, kind)?;
        let path = format!("weights/{}.yaml", flat.rule.weights);
        let weights =
            files.iter().find(|(file, _)| *file == path).ok_or_else(|| ImportError::Rule(format!("{path} is not there")))?;
        if let Some(what) = foreign_key(&flat, &self.held) {
            return Err(ImportError::Unsupported { kind: kind.clone(), what });
        }
        let args = evaluate(&flat, &self.config, kind)?;
        Ok(Imported { spec: spec(&flat.rule, kind, &free_name(name, files), &args), weights: weights.1.to_string() })
    }

    /// The rule that takes the configuration, with its includes.
    fn rule(&self, rules: &HashMap<String, Rule>, kind: &String) -> Result<Flat, ImportError> {
        for rule in rules.values().filter(|rule| (self.types)(rule).contains(kind)) {
            let flat = rule::flatten(rules, rule).map_err(ImportError::Rule)?;
            let scope = Scope::new(&self.config, &flat.lets);
            let when = rule.when.as_ref().map_or(Ok(true), |when| scope.eval(when).and_then(truth));
            if when.map_err(ImportError::Rule)? {
                return Ok(flat);
            }
        }
        let mut known: Vec<String> = rules.values().flat_map(|rule| (self.types)(rule).iter().cloned()).collect();
        known.sort();
        known.dedup();
        Err(ImportError::Unknown { key: self.key, kind: kind.clone(), known })
    }
}

/// Older writers put a bare `Infinity` where JSON has no number.
fn read_config(text: &str) -> Result<serde_json::Value, ImportError> {
    serde_json::from_str(&quote_infinities(text)).map_err(|error| ImportError::Json(error.to_string()))
}

/// What is wrong with the first key that holds something the rule cannot read, or that it does not know though it lists those it does.
fn foreign_key(flat: &Flat, held: &[(&str, &serde_json::Value)]) -> Option<String> {
    for (key, value) in held.iter().filter(|(_, value)| !value.is_null()) {
        let reads = flat.reads(key);
        if reads && matches!(Value::from_json(key, value), Value::Missing(_)) {
            return Some(format!("`{key}` holds a list of objects or nulls"));
        }
        if !reads && !flat.harmless.is_empty() && !flat.harmless.iter().any(|known| known == key) {
            return Some(format!("the key `{key}`; take it out of the configuration if it changes no result"));
        }
    }
    None
}

/// Replaces `Infinity` outside of strings by the object that newer writers use.
fn quote_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (n, part) in split_strings(text).into_iter().enumerate() {
        let inside = n % 2 == 1;
        out.push_str(&if inside { part.to_string() } else { part.replace("Infinity", "{\"__float__\":\"Infinity\"}") });
    }
    out
}

/// Alternates text outside of and inside quotes; the quotes belong to the inner parts.
fn split_strings(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut inside, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        if c == '"' && !escaped {
            let end = if inside { at + 1 } else { at };
            parts.push(&text[from..end]);
            (from, inside) = (end, !inside);
        }
        escaped = inside && c == '\\' && !escaped;
    }
    parts.push(&text[from..]);
    parts
}

fn evaluate(flat: &Flat, config: &Value, kind: &str) -> Result<Vec<(String, Value)>, ImportError> {
    let scope = Scope::new(config, &flat.lets);
    for requirement in &flat.require {
        if !scope.eval(&requirement.that).and_then(truth).map_err(ImportError::Rule)? {
            return Err(ImportError::Unsupported { kind: kind.to_string(), what: fill(&scope, &requirement.otherwise) });
        }
    }
    let one = |(argument, text): &(String, String)| {
        let value = scope.eval(text).and_then(known);
        value.map(|value| (argument.clone(), value)).map_err(|what| ImportError::Argument {
            kind: kind.to_string(),
            argument: argument.clone(),
            what,
        })
    };
    flat.args.iter().map(one).collect()
}

/// Evaluates each `{expression}` of a sentence.
fn fill(scope: &Scope, sentence: &str) -> String {
    let mut out = String::new();
    let mut rest = sentence;
    while let Some((before, after)) = rest.split_once('{') {
        let (inner, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(scope.eval(inner).map(|value| value.text()).unwrap_or_default().trim_matches('"'));
        rest = after;
    }
    out + rest
}

/// The text of the spec, in canonical form.
fn spec(rule: &Rule, kind: &str, name: &str, args: &[(String, Value)]) -> String {
    let list = arguments(args).join(", ");
    let text =
        format!("//! Imported from a checkpoint of type {kind}.\n\nuse {}\n\nmodel {name} = {}({list})\n", rule.model, rule.name);
    braid_dsl::format(&text).unwrap_or(text)
}

/// A name that the language takes and that no item of the library has.
fn free_name(name: &str, files: &[(&str, &str)]) -> String {
    let name = identifier(name);
    let heads = ["model", "block", "fn"].map(|keyword| format!("{keyword} {name}"));
    let declares = |line: &str| {
        let mut rest = heads.iter().filter_map(|head| line.strip_prefix(head.as_str()));
        rest.any(|rest| rest.starts_with(['(', '[', ' ']))
    };
    if files.iter().any(|(_, text)| text.lines().any(declares)) { format!("{name}_model") } else { name }
}

/// A name that the language takes.
fn identifier(name: &str) -> String {
    let mut out: String = name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.insert_str(0, "model_");
    }
    out
}

fn unknown_help(kind: &str, known: &[String]) -> String {
    let name = identifier(kind);
    format!(
        "known are: {}\nTo use the checkpoint, write its model as equations in {name}.braid, beginning from\n\n  model {name}(layers: int = 4, d: dim = 64, vocab: \
         dim = 256)(tokens: [t]) -> [t, vocab] {{\n    param embed: [vocab, d]\n    x = embed[vocab: tokens]\n    repeat i in 0..layers {{ … }}\n    generate \
         autoregressive\n    return sum[d] x * embed\n  }}\n\nand say in {name}.weights.yaml where its parameters lie:\n\n  params:\n    embed: {{ tensor: \
         \"model.embed_tokens.weight\" }}\n",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests;
