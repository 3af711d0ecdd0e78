//! What a model is given beside token ids, and what it gives beside its result.

use serde::{Deserialize, Serialize};

/// An input with a row of numbers for each position. The caller writes it into the arena before each call: element `e` of row `r` is
/// number `r · elements + e`, of 4 bytes, behind byte `arena_row_offset · rows_capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// Its name in the model.
    pub name: String,
    /// Whether its numbers are f32; else they are i32.
    pub float: bool,
    /// Names and sizes of a row's axes, the first slowest.
    pub axes: Vec<(String, usize)>,
    /// Its place, in bytes for each row of `rows_capacity`.
    pub arena_row_offset: usize,
    /// Whether its rows are those of the source, for `braid_encode`; else they come with the tokens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encoded: bool,
    /// Its numbers are below this: the rows of the smallest table that they are looked up in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<usize>,
    /// How others store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A further output with a row of numbers for each position.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// The path of the instance that declares it, and its name.
    pub name: String,
    /// Names and sizes of a row's axes, the first slowest.
    pub axes: Vec<(String, usize)>,
}

impl Output {
    /// Numbers of a row.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }
}

/// Where an input's numbers are in a tensor that is not made of rows, as images are not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The tensor's name.
    pub tensor: String,
    /// The factors of each of its dimensions, slowest first: axes of the input, and others whose sizes follow from the tensor's.
    pub dims: Vec<Vec<String>>,
    /// Those of the others that count the rows, slowest first.
    pub rows: Vec<String>,
    /// Positions behind the rows: what a model puts beside what it is given, as a class token.
    pub behind: usize,
}

impl Source {
    /// Whether each axis of the input and each of the rows is a factor of one dimension, and nothing else is.
    pub(super) fn names(&self, input: &Input) -> bool {
        let all: Vec<&String> = self.dims.iter().flatten().collect();
        let mut needed = input.axes.iter().map(|(name, _)| name).chain(&self.rows);
        let count = input.axes.len() + self.rows.len();
        count == all.len() && needed.all(|name| all.iter().filter(|other| **other == name).count() == 1)
    }
}

impl Input {
    /// Numbers of a row.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }

    /// For each number of each row its place in a tensor of that shape, as [`Input::source`] says.
    ///
    /// # Errors
    /// What of the shape does not fit.
    pub fn places(&self, source: &Source, shape: &[usize]) -> Result<Vec<usize>, String> {
        let mut sizes: Vec<(&str, usize)> = self.axes.iter().map(|(name, size)| (&name[..], *size)).collect();
        for (names, whole) in source.dims.iter().zip(shape) {
            let size = |name: &&str| sizes.iter().find(|(known, _)| known == name).map(|(_, size)| *size);
            let (known, open): (Vec<&str>, Vec<&str>) = names.iter().map(|name| &name[..]).partition(|name| size(name).is_some());
            let product: usize = known.iter().filter_map(size).product();
            match open[..] {
                [] if product == *whole => {}
                [name] if product > 0 && whole.is_multiple_of(product) => sizes.push((name, whole / product)),
                _ => return Err(format!("a dimension of {whole} is not ({})", names.join(" "))),
            }
        }
        let size = |name: &str| sizes.iter().find(|(known, _)| *known == name).map_or(1, |(_, size)| *size);
        let (mut stride, mut strides) = (1, Vec::new());
        for name in source.dims.iter().rev().flat_map(|names| names.iter().rev()) {
            strides.push((&name[..], stride));
            stride *= size(name);
        }
        let step = |name: &str| strides.iter().find(|(known, _)| *known == name).map_or(0, |(_, stride)| *stride);
        let names = source.rows.iter().chain(self.axes.iter().map(|(name, _)| name));
        let all = names.fold(vec![0], |places: Vec<usize>, name| {
            places.iter().flat_map(|at| (0..size(name)).map(move |index| at + index * step(name))).collect()
        });
        Ok(all)
    }

    /// `patches [t, patch=48]`.
    pub fn shape(&self) -> String {
        let axes: Vec<String> = self.axes.iter().map(|(name, size)| format!(", {name}={size}")).collect();
        format!("{} [{}{}]", self.name, if self.encoded { "s" } else { "t" }, axes.concat())
    }
}
