//! The values that import rules compute with.

use braid_dsl::constant;
use braid_dsl::model::Constant;
use serde_json::Value as Json;

/// A value of a rule's expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The configuration lacks the key (or holds null there): an error unless `??` gives another.
    Missing(String),
    /// `none`: the argument is left out, the model's default holds.
    None,
    /// A number, truth value, text or list.
    Of(Constant),
    /// An object of the configuration.
    Object(Vec<(String, Value)>),
    /// A block with arguments, as the spec will name it.
    Block(String, Vec<(String, Value)>),
}

impl Value {
    /// Reads a configuration's value. A list with nulls or objects inside counts as missing: no rule can say it.
    pub fn from_json(path: &str, json: &Json) -> Value {
        match json {
            Json::Object(map) if !map.contains_key("__float__") => {
                Value::Object(map.iter().map(|(k, v)| (k.clone(), Value::from_json(&format!("{path}.{k}"), v))).collect())
            }
            _ => simple(json).map_or_else(|| Value::Missing(path.to_string()), Value::Of),
        }
    }

    /// The member of that name; missing if there is none.
    pub fn member(&self, name: &str) -> Value {
        let found = match self {
            Value::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone()),
            _ => None,
        };
        found.unwrap_or_else(|| Value::Missing(name.to_string()))
    }

    /// The value as a spec spells it.
    pub fn text(&self) -> String {
        match self {
            Value::Missing(_) | Value::None => String::new(),
            Value::Of(constant) => constant::render(constant),
            Value::Object(members) => format!("({})", arguments(members).join(", ")),
            Value::Block(name, members) => format!("{name}({})", arguments(members).join(", ")),
        }
    }
}

/// `name: value` for each argument that is not left out.
pub fn arguments(members: &[(String, Value)]) -> Vec<String> {
    members.iter().filter(|(_, v)| *v != Value::None).map(|(name, v)| format!("{name}: {}", v.text())).collect()
}

/// What the language can say; `{"__float__": "Infinity"}` is how some writers spell an infinite number.
fn simple(json: &Json) -> Option<Constant> {
    Some(match json {
        Json::Bool(b) => Constant::Bool(*b),
        Json::Number(n) => n.as_i64().map_or_else(|| Constant::Float(n.as_f64().unwrap_or(f64::NAN)), Constant::Int),
        Json::String(s) => Constant::Text(s.clone()),
        Json::Array(items) => Constant::List(items.iter().map(simple).collect::<Option<_>>()?),
        Json::Object(map) => match map.get("__float__")?.as_str()? {
            "Infinity" => Constant::Float(f64::INFINITY),
            "-Infinity" => Constant::Float(f64::NEG_INFINITY),
            _ => return None,
        },
        Json::Null => return None,
    })
}
