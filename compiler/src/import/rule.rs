//! Import rules as they stand in the library.

use serde::Deserialize;
use std::collections::HashMap;

/// One file of `import/`: which configurations it takes and how their keys become a model's arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Values of `model_type`; empty in files that only stand in others' `with`.
    #[serde(default)]
    pub model_type: Vec<String>,
    /// Values of `general.architecture` in GGUF files.
    #[serde(default)]
    pub architecture: Vec<String>,
    /// A condition on the configuration without which the rule does not take it.
    #[serde(default)]
    pub when: Option<String>,
    /// The module that a spec uses.
    #[serde(default)]
    pub model: String,
    /// The model in it.
    #[serde(default)]
    pub name: String,
    /// The weight map: a file of `weights/`.
    #[serde(default)]
    pub weights: String,
    /// Files whose parts come first; this file's own win.
    #[serde(default, rename = "with")]
    pub with: Vec<String>,
    /// Named expressions.
    #[serde(default, rename = "let")]
    pub lets: serde_yaml::Mapping,
    /// Arguments of the model, expressions.
    #[serde(default)]
    pub args: serde_yaml::Mapping,
    /// Conditions for what the model can say.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// Keys of a configuration that change no result. A rule that lists some refuses every key that it neither reads nor lists.
    #[serde(default)]
    pub harmless: Vec<String>,
}

/// A condition on a configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// An expression that must be true.
    pub that: String,
    /// What the model cannot say if it is not; `{expression}` inside is evaluated.
    #[serde(rename = "else")]
    pub otherwise: String,
}

/// Named expressions in order.
pub type Named = Vec<(String, String)>;

/// A rule with what it includes laid out.
#[derive(Clone, Debug)]
pub struct Flat {
    /// The rule's own file.
    pub rule: Rule,
    /// All named expressions.
    pub lets: Named,
    /// All arguments, in order of first mention.
    pub args: Named,
    /// All conditions.
    pub require: Vec<Requirement>,
    /// All keys that change no result.
    pub harmless: Vec<String>,
}

impl Flat {
    /// Whether an expression names the key.
    pub fn reads(&self, key: &str) -> bool {
        let named = self.lets.iter().chain(&self.args).map(|(_, text)| text);
        named.chain(self.require.iter().map(|requirement| &requirement.that)).any(|text| has_word(text, key))
    }
}

/// Whether `text` has `word` with no letter, digit or underscore beside it.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// The rules among the library's files, by their names.
pub fn read(files: &[(&str, &str)]) -> Result<HashMap<String, Rule>, String> {
    let rules = files.iter().filter_map(|(path, text)| Some((path.strip_prefix("import/")?.strip_suffix(".yaml")?, *text)));
    rules
        .map(|(name, text)| Ok((name.to_string(), serde_yaml::from_str(text).map_err(|e| format!("import/{name}.yaml: {e}"))?)))
        .collect()
}

/// Lays out a rule's includes.
pub fn flatten(rules: &HashMap<String, Rule>, rule: &Rule) -> Result<Flat, String> {
    let mut flat = Flat { rule: rule.clone(), lets: Named::new(), args: Named::new(), require: Vec::new(), harmless: Vec::new() };
    for name in &rule.with {
        let part = rules.get(name).ok_or_else(|| format!("`with` names `{name}`, which is not in import/"))?;
        extend(&mut flat, part)?;
    }
    extend(&mut flat, rule)?;
    Ok(flat)
}

fn extend(flat: &mut Flat, part: &Rule) -> Result<(), String> {
    set(&mut flat.lets, &part.lets)?;
    set(&mut flat.args, &part.args)?;
    flat.require.extend(part.require.iter().cloned());
    flat.harmless.extend(part.harmless.iter().cloned());
    Ok(())
}

fn set(named: &mut Named, new: &serde_yaml::Mapping) -> Result<(), String> {
    for (key, value) in new {
        let (Some(key), Some(text)) = (key.as_str(), text(value)) else { return Err(format!("{key:?} is not an expression")) };
        match named.iter_mut().find(|(name, _)| name == key) {
            Some(entry) => entry.1 = text,
            None => named.push((key.to_string(), text)),
        }
    }
    Ok(())
}

/// Expressions may stand without quotes where YAML reads a number or a truth value.
fn text(value: &serde_yaml::Value) -> Option<String> {
    match value {
        serde_yaml::Value::String(text) => Some(text.clone()),
        serde_yaml::Value::Bool(b) => Some(b.to_string()),
        serde_yaml::Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}
