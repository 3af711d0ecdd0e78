//! The values that import rules compute with.

use serde_json::Value as Json;
use std::fmt::Write;

/// A value of a rule's expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The configuration lacks the key (or holds null there): an error unless `??` gives another.
    Missing(String),
    /// `none`: the argument is left out, the model's default holds.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// An object of the configuration.
    Object(Vec<(String, Value)>),
    /// A block with arguments, as the spec will name it.
    Block(String, Vec<(String, Value)>),
}

impl Value {
    /// Reads a configuration's value; `{"__float__": "Infinity"}` is how some writers spell an infinite number.
    pub fn from_json(path: &str, json: &Json) -> Value {
        match json {
            Json::Null => Value::Missing(path.to_string()),
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int),
            Json::String(s) => Value::Text(s.clone()),
            Json::Array(items) => Value::List(items.iter().map(|item| Value::from_json(path, item)).collect()),
            Json::Object(map) => match map.get("__float__").and_then(Json::as_str) {
                Some(text) => Value::Float(float_name(text)),
                None => {
                    Value::Object(map.iter().map(|(k, v)| (k.clone(), Value::from_json(&format!("{path}.{k}"), v))).collect())
                }
            },
        }
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The member of that name; missing if there is none.
    pub fn member(&self, name: &str) -> Value {
        match self {
            Value::Object(members) => {
                members.iter().find(|(key, _)| key == name).map_or_else(|| Value::Missing(name.to_string()), |(_, v)| v.clone())
            }
            Value::Missing(path) => Value::Missing(path.clone()),
            _ => Value::Missing(name.to_string()),
        }
    }

    /// The value as a spec spells it.
    pub fn text(&self) -> String {
        match self {
            Value::Missing(_) | Value::None => String::new(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => float_text(*x),
            Value::Text(s) => format!("{s:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(Value::text).collect::<Vec<_>>().join(", ")),
            Value::Object(members) | Value::Block(_, members) => {
                let name = if let Value::Block(name, _) = self { name.as_str() } else { "" };
                format!("{name}({})", arguments(members).join(", "))
            }
        }
    }
}

/// `name: value` for each argument that is not left out.
pub fn arguments(members: &[(String, Value)]) -> Vec<String> {
    members.iter().filter(|(_, v)| *v != Value::None).map(|(name, v)| format!("{name}: {}", v.text())).collect()
}

/// A number that reads back as the same `f64`, always with a point or an exponent.
fn float_text(x: f64) -> String {
    if x.is_infinite() {
        return if x > 0.0 { "inf".to_string() } else { "-inf".to_string() };
    }
    let mut text = String::new();
    let plain = x == 0.0 || (1e-4..1e9).contains(&x.abs());
    let written = if plain { write!(text, "{x:?}") } else { write!(text, "{x:e}") };
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    text
}

fn float_name(text: &str) -> f64 {
    match text {
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}
