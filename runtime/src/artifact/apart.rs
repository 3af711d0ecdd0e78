//! Steps of calls of many rows that are launches of their own: products of the same rows side by side, or an attention. Products are two
//! launches: the first rounds rows that the second multiplies, unless the launch before has left them there.
//!
//! Entries are told the call and the words of the first of their steps, in device memory; the words of each further step stand a row of the
//! table of steps behind. Of products `NAME_rounds` `(const BraidCall *call, const int64_t *words, uint16_t *rows)` writes the call's rows
//! as bfloat16 numbers, one behind the other, and `NAME_apart` `(call, words, const CUtensorMap *maps, uint16_t *next)` multiplies them: the
//! first map is that of rows, those of weights follow. Of an attention there is `NAME_apart`
//! alone, whose maps are those of the caches of keys and of values, for each slot and group `[capacity][key]` and `[capacity][value]`. One that
//! hands its results on writes them to `next`, rounded, as rows, if that is not null.
//!
//! Where rows choose their weights, `NAME_sorts` `(call, words, int32_t *lists)`, one block ahead of both, sorts all choices by what was chosen;
//! the other two are told these lists behind all else. There is a rounded row for each choice, in that order, and so are those that are
//! handed on. [`Chosen::lists`] says what they are.
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
    /// Calls of fewer rows have it, too, if their sequences have at most so many rows each, on average: it does these one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few: Option<usize>,
    /// Rows of a tile.
    pub rows: usize,
    /// Tiles side by side.
    pub across: usize,
    /// Numbers of a line that are copied at once.
    pub numbers: usize,
    /// What is multiplied.
    pub what: Multiplied,
    /// How rows are rounded, of products: any number of blocks will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Grid>,
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
        /// How rows choose them, if they do. The map of rows has a line for each choice, those of weights lines for each that there is to
        /// choose.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chosen: Option<Chosen>,
    },
    /// Queries, keys and values.
    Attention {
        /// Groups of query heads that share keys.
        groups: usize,
        /// Numbers of a key.
        key: usize,
        /// Numbers of a value.
        value: usize,
        /// Positions of a stage: lines of a box.
        positions: usize,
        /// Slots of its caches, if these are rings of whole stages; else there is one for each position of capacity.
        ring: Option<usize>,
        /// Which of the step's words is the first of four: where keys lie in a slot, and how much further for each position of capacity; the
        /// same of values.
        word: usize,
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

/// How rows choose their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Choices of a row.
    pub count: usize,
    /// How many there are to choose from.
    pub elements: usize,
    /// How choices are sorted, by one block.
    pub sort: Grid,
}

/// Where the lists of sorted choices begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Of each tile what was chosen, which tile is the first of that, where its choices begin in the order, and where they end. Ahead of
    /// them stands how many tiles there are.
    pub tiles: usize,
    /// The choices in their order: `row · count + choice`.
    pub order: usize,
    /// The place of each choice in that order.
    pub places: usize,
    /// Where all of them end.
    pub end: usize,
}

impl Chosen {
    /// Bytes of what is known of a tile.
    pub const TILE: usize = 16;

    /// Most tiles down of so many choices.
    pub fn down(&self, choices: usize, rows: usize) -> usize {
        choices.div_ceil(rows.max(1)).saturating_add(self.elements)
    }

    /// The lists for calls of at most so many rows, in tiles of `tile` rows; numbers of 32 bits.
    pub fn lists(&self, rows: usize, tile: usize) -> Lists {
        let choices = rows.saturating_mul(self.count);
        let order = self.down(choices, tile).saturating_add(1).saturating_mul(Self::TILE);
        let places = order.saturating_add(choices.saturating_mul(4));
        Lists { tiles: Self::TILE, order, places, end: places.saturating_add(choices.saturating_mul(4)) }
    }
}

impl Apart {
    /// Whether a call of many rows has it, of so many sequences.
    pub fn is_for(&self, rows: usize, segments: usize) -> bool {
        rows >= self.from || self.does_one_by_one(rows, segments)
    }

    fn does_one_by_one(&self, rows: usize, segments: usize) -> bool {
        self.few.is_some_and(|few| rows <= few.saturating_mul(segments))
    }

    /// Most blocks that a call of so many rows of so many sequences has work for.
    pub fn blocks(&self, rows: usize, segments: usize) -> usize {
        if self.does_one_by_one(rows, segments) { usize::MAX } else { self.tiles(rows) }
    }

    /// Most tiles of a call of so many rows.
    pub fn tiles(&self, rows: usize) -> usize {
        let down = match self.chosen() {
            Some(chosen) => chosen.down(rows.saturating_mul(chosen.count), self.rows),
            None => rows.div_ceil(self.rows.max(1)),
        };
        down.saturating_mul(self.across)
    }

    /// How rows choose their weights, if they do.
    pub fn chosen(&self) -> Option<&Chosen> {
        if let Multiplied::Products { chosen, .. } = &self.what { chosen.as_ref() } else { None }
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
            Multiplied::Products { depth, columns, weights, chosen } => {
                let elements = chosen.map_or(1, |chosen| chosen.elements);
                let width = |own: &Lines| size(own.width) && own.width.checked_mul(elements).is_some_and(size);
                let widths = !weights.is_empty() && weights.iter().all(width);
                let chosen = chosen.is_none_or(|chosen| size(chosen.count) && size(chosen.elements));
                chosen && lines(*columns) && depth.is_multiple_of(8) && size(*depth) && widths
            }
            Multiplied::Attention { groups, key, value, positions, ring, .. } => {
                let kept = |numbers: &usize| numbers.is_multiple_of(8) && lines(*numbers);
                size(*groups)
                    && *groups < 1 << 20
                    && lines(*positions)
                    && kept(key)
                    && kept(value)
                    && ring.is_none_or(|ring| size(ring) && ring.is_multiple_of(*positions))
            }
        };
        let sound = sound && lines(self.rows) && (1..=64).contains(&self.numbers) && size(self.across) && self.place < 2;
        let sound = sound && self.hands.is_none_or(size) && self.few.is_none_or(lines);
        ensure(sound, || "a launch apart is out of range".into())?;
        let rounds = matches!(self.what, Multiplied::Products { .. });
        ensure(self.round.is_some() == rounds, || "a launch apart rounds what it should not, or not what it should".into())?;
        let sort = self.chosen().map(|chosen| chosen.sort);
        self.round.iter().chain([&self.multiply]).chain(&sort).try_for_each(Grid::check)
    }

    /// Whether it can begin at a step.
    pub(super) fn check_at(&self, device: &Device, step: usize) -> Result<(), String> {
        let steps = device.steps.get(step..step.saturating_add(self.steps())).unwrap_or(&[]);
        ensure(steps.len() == self.steps(), || "a launch apart is out of range".into())?;
        let is_offset = |word: Option<&i64>| word.is_some_and(|word| *word >= 0 && word % 16 == 0);
        match &self.what {
            Multiplied::Products { weights, .. } => {
                let found = steps.iter().zip(weights).all(|(step, own)| is_offset(step.words.get(own.word)));
                ensure(found, || "a launch apart has no weights".into())
            }
            Multiplied::Attention { word, .. } => {
                let places = word.checked_add(4).and_then(|end| steps[0].words.get(*word..end));
                // Bytes for each position are multiplied with a capacity, a multiple of 16.
                let sound = |words: &[i64]| words.iter().all(|word| *word >= 0) && words[0] % 16 == 0 && words[2] % 16 == 0;
                ensure(places.is_some_and(sound), || "a launch apart has no caches".into())
            }
        }
    }
}
