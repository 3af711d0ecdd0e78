//! The metadata of a GGUF file as a configuration. Keys that begin with the architecture's name are seen without it; `tensors` lists
//! the file's tensors, as some switches are only told by what is there.

use super::value::Value;
use super::{ImportError, Imported, Source};
use serde_json::{Map, Value as Json};

/// Imports the metadata and the names of the tensors of a GGUF file as a model of that `name`, with the library's `files`.
///
/// # Errors
/// No rule for the architecture, or a rule that cannot say what the file asks for.
pub fn import_gguf(
    metadata: &Map<String, Json>,
    tensors: &[&str],
    name: &str,
    files: &[(&str, &str)],
) -> Result<Imported, ImportError> {
    let key = "general.architecture";
    let kind = metadata.get(key).and_then(Json::as_str).unwrap_or_default();
    let prefix = format!("{kind}.");
    let mut config = Json::Object(Map::new());
    for (key, value) in metadata {
        insert(&mut config, key.strip_prefix(&prefix).unwrap_or(key), value);
    }
    insert(&mut config, "tensors", &tensors.into());
    let own = metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)));
    let held = own.map(|(key, value)| (key.rsplit('.').next().unwrap_or(key), value)).collect();
    let config = Value::from_json("metadata", &config);
    let general = config.member("general");
    Source { key, kind: general.member("architecture"), types: |rule| &rule.architecture, config, held }.import(name, files)
}

/// Puts a value where its dotted key says; a key inside of what is no object is left out.
fn insert(config: &mut Json, key: &str, value: &Json) {
    let mut place = config;
    for part in key.split('.') {
        let Json::Object(members) = place else { return };
        place = members.entry(part).or_insert_with(|| Json::Object(Map::new()));
    }
    *place = value.clone();
}
