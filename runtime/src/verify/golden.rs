//! Golden files: inputs and the results that they must have.
//!
//! Two formats. Rows: `input_ids` [B, T], and what else the model is given under the names of its inputs, with `logits` [B, T, V], or [B, V]
//! of the last positions, and `prompt_ids` [B, P] with `generated_ids` [B, S] and `generated_logits` [B, S, V]. Prompts: `promptN.input_ids` [T] with `promptN.logits` [T, V] and `promptN.greedy_tokens` [S].

use crate::artifact::Manifest;
use crate::checkpoint::{Checkpoint, Kind};
use crate::error::{Error, Result};
use crate::session::Inputs;
use std::path::Path;

/// Logits that one sequence must have at every position.
pub struct Whole {
    /// `row 0`, `prompt1`.
    pub name: String,
    /// The sequence; zeros in a model without token ids.
    pub ids: Vec<i32>,
    /// What else it is given.
    pub inputs: Inputs,
    /// `[T][V]`, or `[V]` of the last position.
    pub logits: Vec<f32>,
}

/// What greedy decoding must yield after a prompt.
pub struct Decoding {
    /// `row 0`, `prompt1`.
    pub name: String,
    /// The prompt.
    pub prompt: Vec<i32>,
    /// The tokens.
    pub generated: Vec<i32>,
    /// `[S][V]`: the logits that chose each of them, if the file holds them.
    pub logits: Option<Vec<f32>>,
}

/// Everything in a golden file.
pub struct Golden {
    /// Whole sequences.
    pub whole: Vec<Whole>,
    /// Greedy decodings.
    pub decoding: Vec<Decoding>,
}

impl Golden {
    /// Reads a golden file of a model.
    pub fn open(path: &Path, manifest: &Manifest) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let reader = Reader { file: &file, manifest, vocab: manifest.vocab };
        let mut golden = Self { whole: Vec::new(), decoding: Vec::new() };
        reader.rows(&mut golden)?;
        for number in 0.. {
            let name = format!("prompt{number}");
            if file.get(&format!("{name}.input_ids")).is_none() {
                break;
            }
            reader.prompt(&name, &mut golden)?;
        }
        if golden.whole.is_empty() && golden.decoding.is_empty() {
            let hint = "it needs `input_ids` and `logits`, `prompt_ids` and `generated_ids`, or `prompt0.input_ids` and so on";
            return Err(Error::Content { path: path.into(), what: "not a golden file".into(), hint });
        }
        Ok(golden)
    }
}

/// What the ids of whole sequences are called, where there is a source the second.
const IDS: &str = "input_ids|decoder_input_ids";

struct Reader<'a> {
    file: &'a Checkpoint,
    manifest: &'a Manifest,
    vocab: usize,
}

impl Reader<'_> {
    fn rows(&self, golden: &mut Golden) -> Result<()> {
        self.whole(golden)?;
        if self.file.get("prompt_ids").is_some() && self.file.get("generated_ids").is_some() {
            let (prompts, generated) = (ids(self.file, "prompt_ids")?, ids(self.file, "generated_ids")?);
            if prompts.len() != generated.len() {
                return Err(Error::content(self.file.path(), "`prompt_ids` and `generated_ids` differ in rows"));
            }
            let total = generated.iter().map(Vec::len).sum();
            let logits = self.file.get("generated_logits").map(|_| self.logits("generated_logits", total)).transpose()?;
            let mut at = 0;
            for (row, (prompt, generated)) in prompts.into_iter().zip(generated).enumerate() {
                let next = at + generated.len() * self.vocab;
                let logits = logits.as_ref().map(|logits| logits[at..next].to_vec());
                golden.decoding.push(Decoding { name: format!("row {row}"), prompt, generated, logits });
                at = next;
            }
        }
        Ok(())
    }

    /// Sequences with their logits.
    fn whole(&self, golden: &mut Golden) -> Result<()> {
        let Some(logits) = self.file.get("logits") else { return Ok(()) };
        let batch = Inputs::of(self.manifest, self.file)?;
        let ids = match (self.file.get(IDS), self.manifest.tokens) {
            (Some(_), _) => ids(self.file, IDS)?,
            (None, 0) => batch.iter().map(|inputs| vec![0; inputs.rows(self.manifest)]).collect(),
            _ => return Ok(()),
        };
        if !batch.is_empty() && batch.len() != ids.len() {
            return Err(Error::content(self.file.path(), format!("{} rows of ids for {} of inputs", ids.len(), batch.len())));
        }
        let rows = |ids: &Vec<i32>| {
            if logits.shape.len() == 2 && ids.len() > 1 && logits.shape[0] == batch.len() { 1 } else { ids.len() }
        };
        let numbers = self.logits("logits", ids.iter().map(rows).sum())?;
        let mut rest = &numbers[..];
        for (row, ids) in ids.into_iter().enumerate() {
            let (mine, others) = rest.split_at(rows(&ids) * self.vocab);
            let inputs = batch.get(row).cloned().unwrap_or_default();
            golden.whole.push(Whole { name: format!("row {row}"), ids, inputs, logits: mine.to_vec() });
            rest = others;
        }
        Ok(())
    }

    fn prompt(&self, name: &str, golden: &mut Golden) -> Result<()> {
        let prompt = ids(self.file, &format!("{name}.input_ids"))?.concat();
        if self.file.get(&format!("{name}.logits")).is_some() {
            let logits = self.logits(&format!("{name}.logits"), prompt.len())?;
            golden.whole.push(Whole { name: name.into(), ids: prompt.clone(), inputs: Inputs::default(), logits });
        }
        if self.file.get(&format!("{name}.greedy_tokens")).is_some() {
            let generated = ids(self.file, &format!("{name}.greedy_tokens"))?.concat();
            golden.decoding.push(Decoding { name: name.into(), prompt, generated, logits: None });
        }
        Ok(())
    }

    /// A float tensor with `rows` rows of logits.
    fn logits(&self, name: &str, rows: usize) -> Result<Vec<f32>> {
        let tensor = self.file.require(name)?;
        if tensor.shape.last() != Some(&self.vocab) || Some(tensor.bytes.len()) != tensor.kind.bytes(&[rows, self.vocab]) {
            let what = format!("`{name}` has shape {:?}; the model yields {rows} rows of {}", tensor.shape, self.vocab);
            return Err(Error::content(self.file.path(), what));
        }
        match tensor.kind {
            Kind::F32 => Ok(tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            other => Err(Error::content(self.file.path(), format!("`{name}` is stored as {other}, not as F32"))),
        }
    }
}

/// The rows of an integer tensor `[B, T]` or `[T]`.
pub fn ids(file: &Checkpoint, name: &str) -> Result<Vec<Vec<i32>>> {
    let tensor = file.require(name)?;
    let wrong = |what: &str| Error::content(file.path(), format!("`{name}` {what}"));
    let length = match tensor.shape {
        [length] | [_, length] => *length,
        _ => return Err(wrong("must have one or two dimensions")),
    };
    let ids: Option<Vec<i32>> = match tensor.kind {
        Kind::I64 => tensor.bytes.as_chunks().0.iter().map(|bytes| i32::try_from(i64::from_le_bytes(*bytes)).ok()).collect(),
        Kind::I32 => Some(tensor.bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()),
        other => return Err(wrong(&format!("is stored as {other}; token ids are I64 or I32"))),
    };
    let ids = ids.ok_or_else(|| wrong("holds a number that is no token id"))?;
    if length == 0 || ids.is_empty() {
        return Err(wrong("is empty"));
    }
    Ok(ids.chunks(length).map(<[i32]>::to_vec).collect())
}
