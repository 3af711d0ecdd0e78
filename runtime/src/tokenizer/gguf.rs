//! The tokenizer that a GGUF file's metadata describe, in the form of a `tokenizer.json`. Two kinds are known: merges of bytes that
//! stand for characters, and merges of pieces of text by their scores. Names and expressions are data: `kinds.json`.

use crate::checkpoint::gguf::Metadata;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// `kinds.json`.
#[derive(Deserialize)]
struct Kinds {
    kinds: HashMap<String, Kind>,
    splits: Vec<Split>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bytes,
    Pieces,
}

#[derive(Deserialize)]
struct Split {
    names: Vec<String>,
    cut: Vec<String>,
    #[serde(default)]
    whole: Vec<String>,
    #[serde(default)]
    begin: Vec<String>,
}

const KINDS: &str = include_str!("kinds.json");
const SPACE: &str = "▁";

/// What a token is, as the file counts them.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER: u64 = 4;

/// The tokenizer as a `tokenizer.json`, or what the metadata lack.
pub(super) fn tokenizer(metadata: &Metadata) -> Result<Value, String> {
    let kinds: Kinds = serde_json::from_str(KINDS).map_err(|error| error.to_string())?;
    let said = Said(metadata);
    let model = said.text("model").ok_or("it describes no tokenizer")?;
    let kind = *kinds.kinds.get(model).ok_or_else(|| format!("its tokenizer is of the kind `{model}`, which is not known"))?;
    let tokens = said.texts("tokens")?;
    let types = said.numbers("token_type");
    let vocab: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let added: Vec<Value> = tokens.iter().enumerate().filter_map(|(id, token)| added(id, token, *types.get(id)?)).collect();
    let (mut made, begins) = match kind {
        Kind::Bytes => bytes(&said, &kinds, &vocab)?,
        Kind::Pieces => (pieces(&said, &vocab)?, true),
    };
    made["added_tokens"] = added.into();
    let frame = |key: &str, by_default: bool, id: &str| {
        let wanted = said.flag(key).unwrap_or(by_default);
        said.number(id).filter(|_| wanted).and_then(|id| Some((*tokens.get(id)?, id)))
    };
    made["post_processor"] =
        around(frame("add_bos_token", begins, "bos_token_id"), frame("add_eos_token", false, "eos_token_id"));
    Ok(made)
}

/// Entries of the metadata under `tokenizer.ggml`.
struct Said<'a>(&'a Metadata);

impl<'a> Said<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(&format!("tokenizer.ggml.{key}"))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn number(&self, key: &str) -> Option<usize> {
        usize::try_from(self.get(key)?.as_u64()?).ok()
    }

    fn texts(&self, key: &str) -> Result<Vec<&'a str>, String> {
        let list = self.get(key).and_then(Value::as_array);
        let texts = list.and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| format!("`tokenizer.ggml.{key}` is not a list of texts"))
    }

    fn numbers(&self, key: &str) -> Vec<u64> {
        let list = self.get(key).and_then(Value::as_array);
        list.map(|list| list.iter().map(|number| number.as_u64().unwrap_or(0)).collect()).unwrap_or_default()
    }
}

/// A token that is found in a text as it stands.
fn added(id: usize, token: &str, kind: u64) -> Option<Value> {
    let special = matches!(kind, UNKNOWN | CONTROL);
    let entry = json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special,
    });
    (special || kind == USER).then_some(entry)
}

/// Every byte is a character, and merges are listed. Also whether a text begins with a token of its own.
fn bytes(said: &Said, kinds: &Kinds, vocab: &HashMap<&str, usize>) -> Result<(Value, bool), String> {
    let pre = said.text("pre").unwrap_or("default");
    let has = |names: &[String]| names.iter().any(|name| name == pre);
    let split = kinds.splits.iter().find(|split| has(&split.names));
    let split = split.ok_or_else(|| format!("its tokenizer cuts texts as `{pre}` does, which is not known"))?;
    let cut =
        split.cut.iter().map(|cut| json!({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false}));
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let cut: Vec<Value> = cut.chain([bytes.clone()]).collect();
    let merges = said.texts("merges")?.into_iter().map(|merge| {
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        at.map(|at| json!([merge[..at], merge[at + 1..]])).ok_or_else(|| format!("`{merge}` is not a merge"))
    });
    let merges = merges.collect::<Result<Vec<Value>, String>>()?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": has(&split.whole), "vocab": vocab, "merges": merges,
    });
    let made = json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut}, "decoder": bytes,
        "model": model,
    });
    Ok((made, has(&split.begin)))
}

/// Spaces are characters, bytes stand in for unknown characters, and what has the highest score is merged first.
fn pieces(said: &Said, vocab: &HashMap<&str, usize>) -> Result<Value, String> {
    let scores = said.get("scores").and_then(Value::as_array).ok_or("`tokenizer.ggml.scores` is not a list of numbers")?;
    let score = |id: usize| scores.get(id).and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY);
    let mut merges: Vec<(&str, &str, usize)> = Vec::new();
    for (token, id) in vocab {
        let parts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        merges.extend(parts.filter(|(a, b)| vocab.contains_key(a) && vocab.contains_key(b)).map(|(a, b)| (a, b, *id)));
    }
    merges.sort_by(|a, b| score(b.2).total_cmp(&score(a.2)).then_with(|| (a.2, vocab[a.0]).cmp(&(b.2, vocab[b.0]))));
    let merges: Vec<Value> = merges.into_iter().map(|(a, b, _)| json!([a, b])).collect();
    let unknown =
        said.number("unknown_token_id").and_then(|id| vocab.iter().find(|(_, own)| **own == id).map(|(token, _)| *token));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prefix = said.flag("add_space_prefix").unwrap_or(true);
    let begin = prefix.then(|| json!({"type": "Prepend", "prepend": SPACE}));
    let normal: Vec<Value> = begin.into_iter().chain([replace]).collect();
    let strip = prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    let back = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let decode: Vec<Value> = [back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})].into_iter().chain(strip).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges,
    });
    Ok(json!({
        "version": "1.0", "normalizer": {"type": "Sequence", "normalizers": normal}, "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decode}, "model": model,
    }))
}

/// Tokens that stand before and after a text.
fn around(before: Option<(&str, usize)>, after: Option<(&str, usize)>) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let special = |token: &Option<(&str, usize)>| token.map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": 0}}));
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = special(&before).into_iter().chain([text]).chain(special(&after)).collect();
    let known = [before, after]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let known: serde_json::Map<String, Value> = known.collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known})
}
