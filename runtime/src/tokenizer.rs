//! Text to token ids and back, as a checkpoint's `tokenizer.json` or a GGUF file's metadata say.

mod gguf;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use std::path::Path;

/// A checkpoint's tokenizer.
pub struct Tokenizer(tokenizers::Tokenizer);

/// Tokens of context that the decoder sees before new ones, as some tokenizers treat a text's first token differently.
const CONTEXT: usize = 8;

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a GGUF file's metadata.
    pub fn open(path: &Path) -> Result<Self> {
        if crate::checkpoint::gguf::is_file(path) {
            return Self::of(&Checkpoint::open(path)?);
        }
        let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes);
        Ok(Self(tokenizer.map_err(|error| Error::content(path, format!("not a tokenizer: {error}")))?))
    }

    /// What the metadata of a GGUF file describe.
    ///
    /// # Errors
    /// A checkpoint without such metadata, or of a kind that is not known.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let hint = "name a tokenizer.json with `--tokenizer FILE`, or give `--ids 1,2,3`";
        let broken = |what: String| Error::Content { path: checkpoint.path().into(), what, hint };
        let made = gguf::tokenizer(checkpoint.metadata()).map_err(broken)?;
        let tokenizer = serde_json::from_value(made);
        Ok(Self(tokenizer.map_err(|error| broken(format!("its tokenizer is broken: {error}")))?))
    }

    /// A text's token ids; at its beginning, with the special tokens that the tokenizer adds there.
    pub fn encode(&self, text: &str, beginning: bool) -> Result<Vec<i32>> {
        let encoding = self.0.encode(text, beginning).map_err(|error| Error::input(format!("cannot tokenize: {error}"), ""))?;
        Ok(encoding.get_ids().iter().map(|id| *id as i32).collect())
    }

    /// The text of some ids, without special tokens.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        self.0.decode(&ids, true).map_err(|error| Error::input(format!("cannot decode tokens: {error}"), ""))
    }

    /// Decodes what follows a prompt, token by token.
    pub fn stream(&self, prompt: &[i32]) -> Stream<'_> {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Stream { tokenizer: self, start: 0, read: ids.len(), ids }
    }
}

/// Decodes a growing text; never hands out part of a character.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<i32>,
    /// What is before was handed out and is not looked at any more.
    start: usize,
    /// What is before was handed out.
    read: usize,
}

impl Stream<'_> {
    /// The text that is complete now that this token came; often one word, sometimes nothing.
    pub fn push(&mut self, id: i32) -> Result<String> {
        self.ids.push(id);
        let text = self.pending()?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        if !text.is_empty() {
            self.start = self.read;
        }
        self.read = self.ids.len();
        Ok(text)
    }

    /// What was held back: an incomplete character at the end of the text.
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.start..self.read])?;
        let all = self.tokenizer.decode(&self.ids[self.start..])?;
        // Common case: the text goes on. Otherwise what came changed what was before, and only the new end can be shown.
        let same = before.char_indices().zip(all.chars()).find(|((_, a), b)| a != b).map_or(before.len(), |((at, _), _)| at);
        Ok(all.get(same..).unwrap_or_default().to_string())
    }
}
