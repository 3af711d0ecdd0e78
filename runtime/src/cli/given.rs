//! `--input NAME=FILE`: what a model is given beside token ids.

use crate::artifact::Manifest;
use crate::error::{Error, Result};
use crate::session::Inputs;
use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The option.
#[derive(Args, Clone, Debug, Default)]
pub struct InputOptions {
    /// Numbers for an input of the model beside token ids: a safetensors file with a tensor of that name, or with one tensor, [T, …] or
    /// [B, T, …]; may be repeated.
    #[arg(long = "input", value_name = "NAME=FILE")]
    pub inputs: Vec<Given>,
}

/// A name and a file.
#[derive(Clone, Debug)]
pub struct Given {
    name: String,
    file: PathBuf,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok(Self { name: name.into(), file: file.into() }),
            _ => Err("write NAME=FILE: `--input patches=image.safetensors`".into()),
        }
    }
}

impl InputOptions {
    /// The inputs of each sequence; none if nothing is given.
    ///
    /// # Errors
    /// Files and names as [`Inputs::read`]; an input that is given twice or not at all.
    pub fn read(&self, manifest: &Manifest) -> Result<Vec<Inputs>> {
        for (at, given) in self.inputs.iter().enumerate() {
            if self.inputs[..at].iter().any(|before| before.name == given.name) {
                return Err(Error::input(format!("input `{}` is given twice", given.name), "give each `--input` once"));
            }
        }
        let batch = Inputs::read(manifest, self.inputs.iter().map(|given| (&given.name[..], Path::new(&given.file))))?;
        let missing = manifest.inputs.iter().find(|input| self.inputs.iter().all(|given| given.name != input.name));
        match missing {
            Some(input) => Err(Error::input(
                format!("the model's input `{}` is not given", input.shape()),
                "give it: `--input NAME=FILE.safetensors`",
            )),
            None => Ok(batch),
        }
    }
}
