//! Steps of calls of many rows that are two launches of their own: the first rounds what the second multiplies.
//!
//! Both entries are told the call and the step's words, in device memory, and two addresses more. Of a product `NAME_rounds`
//! `(const BraidCall *call, const int64_t *words, uint16_t *rows)` writes the call's rows as bfloat16 numbers, one behind the other, and
//! `NAME_apart` `(call, words, const CUtensorMap *rows, const CUtensorMap *weights)` multiplies them. Of an attention `NAME_rounds`
//! `(call, words, uint16_t *keys, uint16_t *values)` writes what the call's sequences have in their caches, for each slot and group
//! `[capacity][key]` and `[value][capacity]`, and `NAME_apart` `(call, words, map of keys, map of values)` attends to it. Maps are of bfloat16
//! numbers in swizzled lines of 128 bytes.

use super::check::ensure;
use super::device::{Device, Grid};
use serde::{Deserialize, Serialize};

/// A function whose steps are launches of their own in calls of at least [`Apart::from`] rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// Index into [`Device::functions`].
    pub function: usize,
    /// Least rows of a call.
    pub from: usize,
    /// Rows of a tile.
    pub rows: usize,
    /// Numbers of a line that are copied at once.
    pub numbers: usize,
    /// What is multiplied.
    pub what: Multiplied,
    /// How is rounded: any number of blocks will do.
    pub round: Grid,
    /// How is multiplied; as many blocks as there are tiles will do.
    pub multiply: Grid,
}

/// What such a function multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Multiplied {
    /// Rows and weights. The map of rows has as many lines as a call may have rows, in boxes of [`Apart::rows`] lines.
    Product {
        /// Numbers of a line.
        depth: usize,
        /// Lines of the weights.
        width: usize,
        /// Lines of a box of them, which are the columns of a tile.
        columns: usize,
        /// Which of a step's words is the offset of the weights.
        weights: usize,
    },
    /// Queries, keys and values.
    Attention {
        /// Query heads, and the groups of them that share keys.
        heads: usize,
        /// See above.
        groups: usize,
        /// Numbers of a key.
        key: usize,
        /// Numbers of a value: lines of a box.
        value: usize,
        /// Positions of a stage: lines of a box of keys.
        positions: usize,
    },
}

impl Apart {
    /// Tiles of a call of so many rows.
    pub fn tiles(&self, rows: usize) -> usize {
        let across = match self.what {
            Multiplied::Product { width, columns, .. } => width.div_ceil(columns.max(1)),
            Multiplied::Attention { heads, .. } => heads,
        };
        rows.div_ceil(self.rows.max(1)).saturating_mul(across)
    }

    pub(super) fn check(&self, device: &Device) -> Result<(), String> {
        let lines = |count: usize| (1..=256).contains(&count);
        let size = |count: usize| (1..1 << 30).contains(&count);
        let sound = match self.what {
            Multiplied::Product { depth, width, columns, .. } => {
                lines(columns) && depth.is_multiple_of(8) && size(depth) && size(width)
            }
            Multiplied::Attention { heads, groups, key, value, positions } => {
                let small = size(heads) && (1..=heads).contains(&groups) && heads < 1 << 20 && lines(positions);
                small && key.is_multiple_of(8) && lines(key) && lines(value)
            }
        };
        let sound = sound && lines(self.rows) && (1..=64).contains(&self.numbers) && self.function < device.functions.len();
        ensure(sound, || "a launch apart is out of range".into())?;
        if let Multiplied::Product { weights, .. } = self.what {
            let steps = || device.steps.iter().filter(|step| step.function == self.function);
            let words = steps().all(|step| step.words.get(weights).is_some_and(|word| *word >= 0 && word % 16 == 0));
            ensure(words, || "a launch apart has no weights".into())?;
        }
        [self.round, self.multiply].iter().try_for_each(Grid::check)
    }
}
