//! The tables of one call: which rows belong to which sequence, at which position.

use super::{Inputs, engine::Size, no_slot, states::States};
use crate::artifact::{Call, Input, Manifest, Segment};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::load::Phase;
use std::ptr::{null, null_mut};

/// Which rows of a feed are to yield logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: only the states matter.
    None,
    /// The last: what comes next.
    Last,
    /// All of them.
    All,
    /// Those from one to before another.
    Span(usize, usize),
}

/// Tokens that follow what a slot has seen.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// Whose.
    pub slot: usize,
    /// At least one; in a model without token ids zeros, which count the rows.
    pub tokens: &'a [i32],
    /// Which logits to return.
    pub wanted: Wanted,
}

impl<'a> Feed<'a> {
    /// All fields.
    pub fn new(slot: usize, tokens: &'a [i32], wanted: Wanted) -> Self {
        Self { slot, tokens, wanted }
    }
}

/// The rows of an input.
pub(crate) struct Table {
    /// `[rows][elements]`.
    numbers: Buffer<i32>,
    elements: usize,
    /// Whether they are rows of the source.
    encoded: bool,
    /// Where they go, in bytes for each row of the arena.
    place: usize,
}

/// The tables, allocated once, and how much of them is in use.
pub(crate) struct Batch {
    pub(crate) tokens: Buffer<i32>,
    pub(crate) positions: Buffer<i32>,
    pub(crate) row_segments: Buffer<i32>,
    pub(crate) table: Buffer<Segment>,
    pub(crate) wanted_rows: Buffer<i32>,
    pub(crate) inputs: Vec<Table>,
    /// The rows are those of a source.
    encodes: bool,
    rows: usize,
    segments: usize,
    wanted: usize,
    capacity: usize,
}

impl Batch {
    pub(super) fn new(manifest: &Manifest, rows: usize, slots: usize) -> Result<Self> {
        let table = || Buffer::new(rows, "row tables");
        Ok(Self {
            tokens: table()?,
            positions: table()?,
            row_segments: table()?,
            table: Buffer::new(slots, "the segment table")?,
            wanted_rows: table()?,
            inputs: manifest.inputs.iter().map(|input| rows_of(input, rows)).collect::<Result<_>>()?,
            encodes: false,
            rows: 0,
            segments: 0,
            wanted: 0,
            capacity: rows,
        })
    }

    /// The numbers of this call's inputs, each with its place in the arena: bytes for each row.
    pub(crate) fn given(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let now = self.inputs.iter().filter(|table| table.encoded == self.encodes);
        now.map(|table| (table.place, table.numbers.bytes(self.rows * table.elements)))
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// The call of an entry without its addresses.
    pub(crate) fn call(&self, phase: Phase, size: &Size) -> Call {
        let count = |number: usize| if phase == Phase::Prepare { 0 } else { number as i64 };
        Call {
            rows: count(self.rows),
            rows_capacity: self.capacity as i64,
            segments: count(self.segments),
            wanted: count(self.wanted),
            capacity: size.capacity as i64,
            slot_bytes: size.slot_bytes as i64,
            tokens: null(),
            positions: null(),
            row_segments: null(),
            segment_table: null(),
            wanted_rows: null(),
            weights: null(),
            prepared: null_mut(),
            arena: null_mut(),
            states: null_mut(),
            scratch: null_mut(),
            output: null_mut(),
            parallel: None,
            pool: null_mut(),
        }
    }

    /// Fills the tables after checking that every feed may run; changes nothing of the states.
    pub(super) fn fill(&mut self, feeds: &[Feed], states: &States, inputs: &[Inputs], manifest: &Manifest) -> Result<()> {
        (self.rows, self.segments, self.wanted, self.encodes) = (0, 0, 0, false);
        let total: usize = feeds.iter().map(|feed| feed.tokens.len()).sum();
        if feeds.is_empty() || total > self.capacity {
            let what = format!("a call of {} sequences and {total} rows; at most {} rows fit", feeds.len(), self.capacity);
            return Err(Error::input(what, "feed at least one token, and long prompts in parts"));
        }
        for (index, feed) in feeds.iter().enumerate() {
            self.check(feed, states, manifest)?;
            if feed.tokens.len() > manifest.max_rows || feeds[..index].iter().any(|other| other.slot == feed.slot) {
                let what = format!("slot {} twice in one call, or with more than {} rows", feed.slot, manifest.max_rows);
                return Err(Error::input(what, "feed long prompts in parts, one after the other"));
            }
            self.push(feed, (states.position(feed.slot)?, manifest.ahead), states.source(feed.slot), &inputs[feed.slot]);
        }
        Ok(())
    }

    /// Fills the tables with the source of a sequence, of so many rows.
    pub(super) fn fill_source(&mut self, slot: usize, rows: usize, inputs: &Inputs) -> Result<()> {
        (self.rows, self.segments, self.wanted, self.encodes) = (0, 0, 0, true);
        if rows > self.capacity {
            return Err(Error::Context { wanted: rows, capacity: self.capacity });
        }
        let tokens = vec![0; rows];
        self.push(&Feed::new(slot, &tokens, Wanted::None), (0, 0), rows, inputs);
        Ok(())
    }

    /// Whether a feed (of any length) may follow what its slot has seen.
    pub(super) fn check(&self, feed: &Feed, states: &States, manifest: &Manifest) -> Result<()> {
        let position = states.position(feed.slot)?;
        let wanted = position + feed.tokens.len();
        if feed.slot >= states.slots() {
            return Err(no_slot(feed.slot, states.slots()));
        }
        if feed.tokens.is_empty() {
            return Err(Error::input("an empty sequence: there is nothing to predict from", "give at least one token"));
        }
        check_places(wanted, manifest.places)?;
        if wanted > states.limit() {
            return Err(Error::Context { wanted, capacity: states.limit() });
        }
        check_cut(position, feed.tokens.len(), manifest)?;
        let beyond = |id: &i32| manifest.tokens > 0 && (*id < 0 || *id as usize >= manifest.tokens);
        match feed.tokens.iter().position(beyond) {
            Some(place) => Err(Error::Token { id: feed.tokens[place].into(), place, tokens: manifest.tokens }),
            None => Ok(()),
        }
    }

    /// Appends a checked feed. All numbers fit `i32`: rows are at most `capacity`, positions at most [`States::limit`].
    /// `ahead`: positions that have no inputs.
    fn push(&mut self, feed: &Feed, (position, ahead): (usize, usize), source: usize, inputs: &Inputs) {
        let (first, count) = (self.rows, feed.tokens.len());
        let rows = first..first + count;
        self.tokens.slice_mut()[rows.clone()].copy_from_slice(feed.tokens);
        for (at, table) in self.inputs.iter_mut().enumerate().filter(|(_, table)| table.encoded == self.encodes) {
            let words = rows.start * table.elements..rows.end * table.elements;
            let out = &mut table.numbers.slice_mut()[words];
            let (blank, own) = out.split_at_mut(ahead.saturating_sub(position).min(count) * table.elements);
            blank.fill(0);
            inputs.copy(at, table.elements, position.saturating_sub(ahead), own);
        }
        self.row_segments.slice_mut()[rows.clone()].fill(self.segments as i32);
        for (offset, cell) in self.positions.slice_mut()[rows.clone()].iter_mut().enumerate() {
            *cell = (position + offset) as i32;
        }
        self.table.slice_mut()[self.segments] = Segment {
            slot: feed.slot as i32,
            row: first as i32,
            rows: count as i32,
            position: position as i32,
            source: source as i32,
        };
        let wanted = match feed.wanted {
            Wanted::None => rows.end..rows.end,
            Wanted::Last => rows.end - 1..rows.end,
            Wanted::All => rows.clone(),
            Wanted::Span(from, to) => rows.start + from.min(count)..rows.start + to.min(count),
        };
        for row in wanted {
            self.wanted_rows.slice_mut()[self.wanted] = row as i32;
            self.wanted += 1;
        }
        self.rows = rows.end;
        self.segments += 1;
    }
}

fn rows_of(input: &Input, rows: usize) -> Result<Table> {
    let elements = input.elements();
    let numbers = Buffer::new(rows.saturating_mul(elements), format!("{rows} rows of input `{}`", input.name))?;
    Ok(Table { numbers, elements, encoded: input.encoded, place: input.arena_row_offset })
}

/// Whether rows from `position` on may come in a call of their own.
fn check_cut(position: usize, rows: usize, manifest: &Manifest) -> Result<()> {
    match manifest.first_rows {
        None if position > 0 || rows > manifest.max_rows => Err(Error::input(
            format!("{rows} tokens behind {position} others, of a model whose positions all see each other"),
            "feed the whole sequence in one call",
        )),
        Some(first) if position < first && (position > 0 || rows < first) => Err(Error::input(
            format!("{rows} tokens behind {position} others, of a model whose first {first} positions see each other"),
            "feed so many in the first call",
        )),
        _ if !position.is_multiple_of(manifest.block_rows) => Err(Error::input(
            format!(
                "tokens behind {position} others, of a model whose blocks of {} positions see each other",
                manifest.block_rows
            ),
            "begin each call where a block begins",
        )),
        _ => Ok(()),
    }
}

/// That positions are all in the table that they are looked up in.
pub(super) fn check_places(wanted: usize, places: Option<usize>) -> Result<()> {
    match places.filter(|places| wanted > *places) {
        None => Ok(()),
        Some(places) => Err(Error::input(
            format!("{wanted} positions, of a model that looks its positions up in a table of {places}"),
            "give it fewer: it was not trained for more",
        )),
    }
}
