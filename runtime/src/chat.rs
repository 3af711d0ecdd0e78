//! Conversations as text: a checkpoint's chat template, a Jinja text over a list of messages, says how.

use crate::checkpoint::{Checkpoint, gguf};
use crate::error::{Error, Result};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

/// A checkpoint's chat template.
pub struct Template {
    path: PathBuf,
    text: String,
    begin: String,
    end: String,
}

impl Template {
    /// The template of a checkpoint: of a GGUF file its metadata's, else `chat_template.jinja` or `tokenizer_config.json` in the folder.
    ///
    /// # Errors
    /// None there, or files that cannot be read.
    pub fn find(weights: &Path) -> Result<Self> {
        if gguf::is_file(weights) {
            return Self::of(&Checkpoint::open(weights)?);
        }
        let folder = if weights.is_dir() { weights } else { weights.parent().unwrap_or(Path::new("")) };
        let (jinja, config) = (folder.join("chat_template.jinja"), folder.join("tokenizer_config.json"));
        let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::file("read", path));
        let config = match config.is_file() {
            true => serde_json::from_str(&read(&config)?).map_err(|error| Error::content(&config, error))?,
            false => Value::Null,
        };
        let text = match jinja.is_file() {
            true => Some(read(&jinja)?),
            false => named(&config["chat_template"]),
        };
        let token = |key: &str| config[key]["content"].as_str().or(config[key].as_str()).unwrap_or_default().to_string();
        let text = text.ok_or_else(|| none(weights))?;
        Ok(Self { path: weights.into(), text, begin: token("bos_token"), end: token("eos_token") })
    }

    /// The template in a GGUF file's metadata.
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let said = checkpoint.metadata();
        let token = |key: &str| {
            let id = usize::try_from(said.get(&format!("tokenizer.ggml.{key}"))?.as_u64()?).ok()?;
            said.get("tokenizer.ggml.tokens")?.get(id)?.as_str()
        };
        let text = said.get("tokenizer.chat_template").and_then(named).ok_or_else(|| none(checkpoint.path()))?;
        let token = |key| token(key).unwrap_or_default().to_string();
        Ok(Self { path: checkpoint.path().into(), text, begin: token("bos_token_id"), end: token("eos_token_id") })
    }

    /// The text of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// A template that is broken, or that refuses the messages.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let mut jinja = Environment::new();
        jinja.set_trim_blocks(true);
        jinja.set_lstrip_blocks(true);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", |what: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        let values = context! {
            messages, bos_token => self.begin, eos_token => self.end, add_generation_prompt => true, tools => (), documents => (),
        };
        let rendered = jinja.render_str(&self.text, values);
        rendered.map_err(|error| Error::content(&self.path, format!("its chat template: {error}")))
    }
}

/// The only template, or the one named `default`.
fn named(value: &Value) -> Option<String> {
    let default = |list: &Vec<Value>| list.iter().find(|entry| entry["name"] == "default").map(|entry| entry["template"].clone());
    let found = value.as_array().and_then(default);
    found.as_ref().unwrap_or(value).as_str().map(str::to_string)
}

fn none(path: &Path) -> Error {
    let hint = "write the turns into `--prompt` as the model knows them, or put a chat_template.jinja beside the weights";
    Error::Content { path: path.into(), what: "no chat template comes with it".into(), hint }
}
