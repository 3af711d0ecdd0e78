//! What sequences are given beside token ids: rows of numbers by position.

use crate::artifact::{Input, Manifest, Source};
use crate::checkpoint::{Checkpoint, Kind, Tensor};
use crate::error::{Error, Result};
use std::path::Path;

/// The numbers of one sequence for each of a model's inputs, from position 0 on. Positions behind them read zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// For each input of the manifest `[rows][elements]`: the bits of f32, or i32.
    words: Vec<Vec<i32>>,
}

/// Numbers for an input.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// For a `float` input.
    Floats(&'a [f32]),
    /// For an `int` input.
    Ints(&'a [i32]),
}

impl Inputs {
    /// Gives the model's input of that name its rows: `[rows][elements]`, the axes of a row in declared order.
    ///
    /// # Errors
    /// The model reads no such input; numbers of the other type; no whole rows.
    pub fn set(&mut self, manifest: &Manifest, name: &str, values: Values) -> Result<()> {
        let (at, input) = find(manifest, name)?;
        let words: Vec<i32> = match (input.float, values) {
            (true, Values::Floats(numbers)) => numbers.iter().map(|number| number.to_bits().cast_signed()).collect(),
            (false, Values::Ints(numbers)) => numbers.to_vec(),
            (float, _) => {
                let (wanted, got) = if float { ("float", "int") } else { ("int", "float") };
                return Err(Error::input(format!("input `{name}` is {wanted} and is given {got} numbers"), ""));
            }
        };
        if !words.len().is_multiple_of(input.elements()) {
            let what = format!("input `{name}` has rows of {} numbers and is given {}", input.elements(), words.len());
            return Err(Error::input(what, "give a row for each position"));
        }
        self.words.resize(manifest.inputs.len(), Vec::new());
        self.words[at] = words;
        Ok(())
    }

    /// A source of zeros, of so many rows; nothing where the model has none.
    pub fn blank(manifest: &Manifest, rows: usize) -> Self {
        let words = |input: &Input| if input.encoded { vec![0; rows * input.elements()] } else { vec![] };
        Self { words: manifest.inputs.iter().map(words).collect() }
    }

    /// Positions that the longest input has numbers for, and those that the model puts behind them; sources are not counted.
    pub fn rows(&self, manifest: &Manifest) -> usize {
        let behind = |input: &Input| input.source.as_ref().map_or(0, |source| source.behind);
        self.longest(manifest, |input| !input.encoded, behind)
    }

    /// Positions of the source.
    pub fn source_rows(&self, manifest: &Manifest) -> usize {
        self.longest(manifest, |input| input.encoded, |_| 0)
    }

    fn longest(&self, manifest: &Manifest, which: impl Fn(&Input) -> bool, more: impl Fn(&Input) -> usize) -> usize {
        let all = self.words.iter().zip(&manifest.inputs).filter(|(_, input)| which(input));
        all.map(|(words, input)| words.len() / input.elements() + more(input)).max().unwrap_or(0)
    }

    /// That numbers which are looked up in a table are places of it.
    ///
    /// # Errors
    /// One that is not.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<()> {
        for (words, input) in self.words.iter().zip(&manifest.inputs) {
            let beyond =
                |word: &&i32| input.below.is_some_and(|below| usize::try_from(**word).map_or(true, |word| word >= below));
            if let (Some(word), Some(below)) = (words.iter().find(beyond), input.below) {
                let what =
                    format!("input `{}` has a {word}, and its numbers are looked up in a table of {below} rows", input.name);
                return Err(Error::input(what, "give numbers from 0 on that are smaller than that"));
            }
        }
        Ok(())
    }

    /// Copies the numbers of input `at` for the positions from `position` on, `elements` each; zeros where there are none.
    pub(super) fn copy(&self, at: usize, elements: usize, position: usize, out: &mut [i32]) {
        let known = self.words.get(at).and_then(|words| words.get(position * elements..)).unwrap_or_default();
        let count = known.len().min(out.len());
        out[..count].copy_from_slice(&known[..count]);
        out[count..].fill(0);
    }

    /// The inputs of each sequence of a batch, from a file with a tensor `[B, T, axes…]`, or `[T, axes…]` of one sequence, under the name
    /// of each input, or the tensor that [`Input::source`] names.
    ///
    /// # Errors
    /// A tensor that is not there; shapes and types that are not those of the model; batches of several sizes.
    pub fn of(manifest: &Manifest, file: &Checkpoint) -> Result<Vec<Self>> {
        let mut batch = Vec::new();
        for input in &manifest.inputs {
            join(&mut batch, manifest, (input, &input.name), file)?;
        }
        Ok(batch)
    }

    /// The same, from a file for each of some inputs. A file with one tensor may call it as it likes.
    ///
    /// # Errors
    /// As [`Inputs::of`]; files that cannot be read; inputs that the model does not read.
    pub fn read<'a>(manifest: &Manifest, files: impl Iterator<Item = (&'a str, &'a Path)>) -> Result<Vec<Self>> {
        let mut batch = Vec::new();
        for (name, path) in files {
            let (_, input) = find(manifest, name)?;
            let file = Checkpoint::open(path)?;
            let only = file.names().next().filter(|_| file.names().count() == 1);
            let only = only.filter(|only| input.source.as_ref().is_none_or(|source| source.tensor != *only));
            join(&mut batch, manifest, (input, only.unwrap_or(name)), &file)?;
        }
        Ok(batch)
    }
}

/// Adds an input's tensor to the sequences of a batch, which is empty before the first.
fn join(batch: &mut Vec<Inputs>, manifest: &Manifest, (input, name): (&Input, &str), file: &Checkpoint) -> Result<()> {
    let other = input.source.as_ref().filter(|source| file.get(name).is_none() && file.get(&source.tensor).is_some());
    let sequences = match other {
        Some(source) => arranged(file, input, source, &file.require(&source.tensor)?)?,
        None => sequences(file, input, &file.require(name)?)?,
    };
    if batch.is_empty() {
        batch.resize_with(sequences.len(), Inputs::default);
    }
    if sequences.len() != batch.len() {
        let what = format!("`{}` has {} sequences, and what is given beside it {}", input.name, sequences.len(), batch.len());
        return Err(Error::content(file.path(), what));
    }
    batch.iter_mut().zip(&sequences).try_for_each(|(inputs, words)| match words {
        Words::Floats(numbers) => inputs.set(manifest, &input.name, Values::Floats(numbers)),
        Words::Ints(numbers) => inputs.set(manifest, &input.name, Values::Ints(numbers)),
    })
}

fn find<'a>(manifest: &'a Manifest, name: &str) -> Result<(usize, &'a Input)> {
    let found = manifest.inputs.iter().enumerate().find(|(_, input)| input.name == name);
    found.ok_or_else(|| {
        let known: Vec<String> = manifest.inputs.iter().map(|input| format!("`{}`", input.shape())).collect();
        let known = if known.is_empty() { "none beside token ids".into() } else { known.join(", ") };
        Error::input(format!("the model reads no input `{name}`; its inputs are {known}"), "`info ARTIFACT` lists them")
    })
}

/// The numbers of one sequence.
enum Words {
    Floats(Vec<f32>),
    Ints(Vec<i32>),
}

/// A tensor's sequences.
fn sequences(file: &Checkpoint, input: &Input, tensor: &Tensor) -> Result<Vec<Words>> {
    let sizes: Vec<usize> = input.axes.iter().map(|(_, size)| *size).collect();
    let outer = tensor.shape.strip_suffix(&sizes[..]).filter(|outer| matches!(outer.len(), 1 | 2));
    let outer = outer.filter(|outer| !outer.contains(&0)).ok_or_else(|| {
        let what = format!("input `{}` has shape {:?}, but the model takes {}", input.name, tensor.shape, input.shape());
        let hint = "one row for each position, and in front of that, if you like, one for each sequence of a batch";
        Error::Content { path: file.path().into(), what, hint }
    })?;
    let numbers = outer[outer.len() - 1] * input.elements();
    numbers_of(file, input, tensor, numbers)
}

/// The sequences of a tensor that is not made of rows.
fn arranged(file: &Checkpoint, input: &Input, source: &Source, tensor: &Tensor) -> Result<Vec<Words>> {
    let wrong = |what: String| Error::content(file.path(), format!("`{}` {:?}: {what}", source.tensor, tensor.shape));
    let shape = match tensor.shape.len().checked_sub(source.dims.len()) {
        Some(outer @ (0 | 1)) if !tensor.shape.contains(&0) => &tensor.shape[outer..],
        _ => return Err(wrong(format!("it has not {} dimensions, and one in front for a batch", source.dims.len()))),
    };
    let places = input.places(source, shape).map_err(wrong)?;
    let plain = numbers_of(file, input, tensor, shape.iter().product())?;
    let sequence = |words: Words| match words {
        Words::Floats(numbers) => Words::Floats(places.iter().map(|at| numbers[*at]).collect()),
        Words::Ints(numbers) => Words::Ints(places.iter().map(|at| numbers[*at]).collect()),
    };
    Ok(plain.into_iter().map(sequence).collect())
}

/// All numbers of a tensor, so many for each sequence.
fn numbers_of(file: &Checkpoint, input: &Input, tensor: &Tensor, numbers: usize) -> Result<Vec<Words>> {
    let wrong = |what: String| Error::content(file.path(), format!("input `{}` {what}", input.name));
    if input.float {
        let mut all = vec![0.0; tensor.shape.iter().product::<usize>()];
        tensor.read(0, &mut all).map_err(|what| wrong(format!("is {what}; the model takes numbers of type float")))?;
        return Ok(all.chunks(numbers).map(|part| Words::Floats(part.to_vec())).collect());
    }
    let all: Option<Vec<i32>> = match tensor.kind {
        Kind::I64 => tensor.bytes.as_chunks().0.iter().map(|bytes| i32::try_from(i64::from_le_bytes(*bytes)).ok()).collect(),
        Kind::I32 => Some(tensor.bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()),
        other => return Err(wrong(format!("is stored as {other}; the model takes whole numbers, I64 or I32"))),
    };
    let all = all.ok_or_else(|| wrong("holds a number beyond 32 bits".into()))?;
    Ok(all.chunks(numbers).map(|part| Words::Ints(part.to_vec())).collect())
}
