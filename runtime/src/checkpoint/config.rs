//! What a checkpoint says about generation.

use super::Checkpoint;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// From `generation_config.json`, and `config.json` for what is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub stop: Vec<i32>,
    /// The wanted temperature: 0 if the file says not to sample.
    pub temperature: Option<f32>,
    /// The wanted `top_k`.
    pub top_k: Option<usize>,
    /// The wanted `top_p`.
    pub top_p: Option<f32>,
    /// The wanted repetition penalty.
    pub repetition: Option<f32>,
    /// The wanted number of tokens.
    pub max_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads a checkpoint directory; what is missing stays unknown.
    pub fn read(folder: &Path) -> Result<Self> {
        let generation = json(&folder.join("generation_config.json"))?;
        let mut stop = tokens(&generation["eos_token_id"]);
        if stop.is_empty() {
            stop = tokens(&json(&folder.join("config.json"))?["eos_token_id"]);
        }
        let sample = generation["do_sample"].as_bool();
        let number = |name: &str| generation[name].as_f64().filter(|_| sample == Some(true)).map(|number| number as f32);
        Ok(Self {
            stop,
            temperature: if sample == Some(true) { number("temperature").or(Some(1.0)) } else { None },
            top_k: number("top_k").map(|k| k as usize),
            top_p: number("top_p"),
            repetition: generation["repetition_penalty"].as_f64().map(|number| number as f32),
            max_tokens: generation["max_new_tokens"].as_u64().map(|count| count as usize),
        })
    }
}

impl GenerationConfig {
    /// From a GGUF file's metadata: the tokens that end a text or a turn.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let id = |key: &&str| i32::try_from(checkpoint.metadata().get(&format!("tokenizer.ggml.{key}_token_id"))?.as_i64()?).ok();
        Self { stop: ["eos", "eot"].iter().filter_map(id).collect(), ..Self::default() }
    }
}

/// A file's contents, or nothing if there is no such file.
fn json(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let text = std::fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::content(path, error))
}

/// One id or a list of ids.
fn tokens(value: &Value) -> Vec<i32> {
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    ids.iter().filter_map(|id| i32::try_from(id.as_i64()?).ok()).collect()
}
