//! Steps of calls of many rows that are launches of their own: products of the same rows side by side, or an attention. Two launches each:
//! the first rounds what the second multiplies, unless the launch before has left it there.
//!
//! Entries are told the call and the words of the first of their steps, in device memory; the words of each further step stand a row of the
//! table of steps behind. Of products `NAME_rounds` `(const BraidCall *call, const int64_t *words, uint16_t *rows)` writes the call's rows
//! as bfloat16 numbers, one behind the other, and `NAME_apart` `(call, words, const CUtensorMap *maps, uint16_t *next)` multiplies them: the
//! first map is that of rows, those of weights follow. Of an attention `NAME_rounds` `(call, words, uint16_t *keys, uint16_t *values)`
//! writes what the call's sequences have in their caches, for each slot and group `[capacity][key]` and `[value][capacity]`, and
//! `NAME_apart` attends to it: its maps are those of keys and of values. One that hands its results on writes them to `next`, rounded, as rows,
//! if that is not null.
//! Maps are of bfloat16 numbers in swizzled lines of 128 bytes.

use super::check::ensure;
use super::device::{Device, Grid};
use serde::{Deserialize, Serialize};

/// Launches of their own in calls of at least [`Apart::from`] rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// What its entries' names begin with.
    pub name: String,
    /// Least rows of a call.
    pub from: usize,
    /// Rows of a tile.
    pub rows: usize,
    /// Tiles side by side.
    pub across: usize,
    /// Numbers of a line that are copied at once.
    pub numbers: usize,
    /// What is multiplied.
    pub what: Multiplied,
    /// How is rounded: any number of blocks will do.
    pub round: Grid,
    /// How is multiplied; as many blocks as there are tiles will do.
    pub multiply: Grid,
    /// Which of two places its rows have; what it hands on goes to the other one, an attention's to this one.
    pub place: usize,
    /// Numbers of a row that it hands on, in calls that have the launch which follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hands: Option<usize>,
    /// Whether the launch before hands it its rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed: bool,
}

/// What such a launch multiplies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Multiplied {
    /// Rows and weights. The map of rows has as many lines as a call may have rows, in boxes of [`Apart::rows`] lines.
    Products {
        /// Numbers of a line.
        depth: usize,
        /// Lines of a box of weights.
        columns: usize,
        /// For each step its weights.
        weights: Vec<Lines>,
    },
    /// Queries, keys and values.
    Attention {
        /// Groups of query heads that share keys.
        groups: usize,
        /// Numbers of a key.
        key: usize,
        /// Numbers of a value: lines of a box.
        value: usize,
        /// Positions of a stage: lines of a box of keys.
        positions: usize,
    },
}

/// The weights of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// How many lines, which are the columns of the result.
    pub width: usize,
    /// Which of the step's words is the offset of the weights.
    pub word: usize,
}

impl Apart {
    /// Tiles of a call of so many rows.
    pub fn tiles(&self, rows: usize) -> usize {
        rows.div_ceil(self.rows.max(1)).saturating_mul(self.across)
    }

    /// How many steps it does.
    pub fn steps(&self) -> usize {
        match &self.what {
            Multiplied::Products { weights, .. } => weights.len(),
            Multiplied::Attention { .. } => 1,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let lines = |count: usize| (1..=256).contains(&count);
        let size = |count: usize| (1..1 << 30).contains(&count);
        let sound = match &self.what {
            Multiplied::Products { depth, columns, weights } => {
                let widths = !weights.is_empty() && weights.iter().all(|own| size(own.width));
                lines(*columns) && depth.is_multiple_of(8) && size(*depth) && widths
            }
            Multiplied::Attention { groups, key, value, positions } => {
                size(*groups) && *groups < 1 << 20 && lines(*positions) && key.is_multiple_of(8) && lines(*key) && lines(*value)
            }
        };
        let sound = sound && lines(self.rows) && (1..=64).contains(&self.numbers) && size(self.across) && self.place < 2;
        let sound = sound && self.hands.is_none_or(size);
        ensure(sound, || "a launch apart is out of range".into())?;
        [self.round, self.multiply].iter().try_for_each(Grid::check)
    }

    /// Whether it can begin at a step.
    pub(super) fn check_at(&self, device: &Device, step: usize) -> Result<(), String> {
        let steps = device.steps.get(step..step.saturating_add(self.steps())).unwrap_or(&[]);
        ensure(steps.len() == self.steps(), || "a launch apart is out of range".into())?;
        let Multiplied::Products { weights, .. } = &self.what else { return Ok(()) };
        let is_offset = |word: Option<&i64>| word.is_some_and(|word| *word >= 0 && word % 16 == 0);
        let found = steps.iter().zip(weights).all(|(step, own)| is_offset(step.words.get(own.word)));
        ensure(found, || "a launch apart has no weights".into())
    }
}
