//! Caches and states of all slots, how far each has come, and copies of them.

use super::engine::Engine;
use super::no_slot;
use crate::artifact::{Manifest, POSITIONS, State, Truncate, fnv1a};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// A slot's states at one moment. Caches that grow are kept as far as they are in use, so it fits any session of the model that has
/// room for its positions. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    bytes: Arc<[u8]>,
    position: usize,
    /// Positions of the source.
    source: usize,
    key: u64,
}

impl Snapshot {
    /// Bytes as [`Snapshot::bytes`] returned them for a sequence at `position`.
    pub fn new(manifest: &Manifest, position: usize, bytes: Vec<u8>) -> Result<Self> {
        if Some(bytes.len()) != manifest.slot_bytes(used(position)) {
            let what = format!("{} bytes are not the states of a sequence at position {position}", bytes.len());
            return Err(Error::input(what, "they depend on model and position"));
        }
        if manifest.encodes() {
            return Err(Error::Limit { what: "a snapshot from bytes, of a model with a source,".into() });
        }
        Ok(Self { bytes: bytes.into(), position, source: 0, key: key(manifest) })
    }

    /// Positions that the sequence had seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The states as a slot whose capacity is the position, rounded up to a multiple of 16 ([`POSITIONS`]).
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Positions that a snapshot has room for.
pub(super) fn used(position: usize) -> usize {
    position.next_multiple_of(POSITIONS)
}

/// Tells the states of two models apart: whatever changes the meaning of a slot's bytes changes it.
pub(super) fn key(manifest: &Manifest) -> u64 {
    fnv1a(&serde_json::to_vec(&(&manifest.states, manifest.vocab)).unwrap_or_default())
}

/// Where the states of all slots are in the engine's memory, and how far each slot has come.
pub(super) struct States {
    positions: Vec<usize>,
    sources: Vec<usize>,
    key: u64,
    slot_bytes: usize,
    capacity: usize,
    limit: usize,
}

impl States {
    pub(super) fn new(manifest: &Manifest, slots: usize, capacity: usize) -> Result<Self> {
        if slots == 0 || slots > 1 << 16 || capacity > i32::MAX as usize - POSITIONS {
            return Err(Error::input(format!("a session of {slots} sequences of {capacity} positions"), "1 to 65536 sequences"));
        }
        let capacity = used(capacity.max(1));
        let slot_bytes = manifest.slot_bytes(capacity).unwrap_or(usize::MAX);
        Ok(Self {
            positions: vec![0; slots],
            sources: vec![0; slots],
            key: key(manifest),
            slot_bytes,
            capacity,
            limit: if manifest.state_position_bytes > 0 { capacity } else { i32::MAX as usize - POSITIONS },
        })
    }

    /// Gives all states of fresh memory their first values.
    pub(super) fn fill(&self, manifest: &Manifest, engine: &mut dyn Engine) -> Result<()> {
        // It is zero already; touching it would only make the system commit it.
        let states = manifest.states.iter().filter(|state| state.init_bits != 0);
        let mut places = states.flat_map(|state| (0..self.slots()).map(move |slot| (state, slot)));
        places.try_for_each(|(state, slot)| engine.fill(self.place(state, slot), &state.first_value()))
    }

    pub(super) fn slots(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Positions that a slot can hold: the capacity if any cache grows.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn position(&self, slot: usize) -> Result<usize> {
        self.positions.get(slot).copied().ok_or_else(|| no_slot(slot, self.slots()))
    }

    /// Positions of the source that a slot holds.
    pub(super) fn source(&self, slot: usize) -> usize {
        self.sources.get(slot).copied().unwrap_or(0)
    }

    /// Says that a slot holds a source.
    pub(super) fn encoded(&mut self, slot: usize, rows: usize) {
        self.sources[slot] = rows;
    }

    /// Rows of a slot's caches that are in use.
    fn in_use(&self, slot: usize) -> Result<usize> {
        Ok(self.position(slot)?.max(self.source(slot)))
    }

    pub(super) fn advance(&mut self, slot: usize, rows: usize) {
        self.positions[slot] += rows;
    }

    /// Says how far a slot has come.
    pub(super) fn seek(&mut self, slot: usize, position: usize) {
        self.positions[slot] = position;
    }

    /// A state's bytes among those of all slots.
    fn place(&self, state: &State, slot: usize) -> Range<usize> {
        shifted(state.place(self.capacity), slot * self.slot_bytes)
    }

    pub(super) fn reset(&mut self, manifest: &Manifest, engine: &mut dyn Engine, slot: usize) -> Result<()> {
        let rows = self.in_use(slot)?;
        if rows > 0 {
            self.clear_rows(manifest.states.iter().filter(|state| state.grows()), engine, slot, 0..rows)?;
            for state in manifest.states.iter().filter(|state| !state.grows()) {
                engine.fill(self.place(state, slot), &state.first_value())?;
            }
            (self.positions[slot], self.sources[slot]) = (0, 0);
        }
        Ok(())
    }

    pub(super) fn snapshot(&self, manifest: &Manifest, engine: &dyn Engine, slot: usize) -> Result<Snapshot> {
        let (position, source) = (self.position(slot)?, self.source(slot));
        let room = used(self.in_use(slot)?);
        let mut bytes = vec![0; manifest.slot_bytes(room).unwrap_or(0)];
        for (from, to) in pieces(manifest, self.capacity, room, room) {
            engine.read(slot * self.slot_bytes + from.start, &mut bytes[to])?;
        }
        Ok(Snapshot { bytes: bytes.into(), position, source, key: self.key })
    }

    pub(super) fn restore(
        &mut self,
        manifest: &Manifest,
        engine: &mut dyn Engine,
        slot: usize,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let before = self.in_use(slot)?;
        if snapshot.key != self.key {
            return Err(Error::input("a snapshot of another model", "restore into a session of the same artifact"));
        }
        let rows = snapshot.position.max(snapshot.source);
        if rows > self.limit {
            return Err(Error::Context { wanted: rows, capacity: self.limit });
        }
        let room = used(rows);
        for (from, to) in pieces(manifest, room, self.capacity, room) {
            engine.write(slot * self.slot_bytes + to.start, &snapshot.bytes[from])?;
        }
        self.clear_rows(manifest.states.iter().filter(|state| state.grows()), engine, slot, room..before)?;
        (self.positions[slot], self.sources[slot]) = (snapshot.position, snapshot.source);
        Ok(())
    }

    /// Takes a slot back, if its states allow it.
    pub(super) fn truncate(&mut self, manifest: &Manifest, engine: &mut dyn Engine, slot: usize, to: usize) -> Result<()> {
        let position = self.position(slot)?;
        if to > position {
            return Err(beyond(slot, to, position));
        }
        if to == 0 {
            return self.reset(manifest, engine, slot);
        }
        if let Err(state) = manifest.truncates(position, to) {
            let what =
                format!("slot {slot} cannot be cut from {position} to {to} positions: `{}` keeps no earlier state", state.name);
            return Err(Error::input(what, "restore a snapshot, or keep a history and roll back"));
        }
        let cut = manifest.states.iter().filter(|state| !matches!(state.truncate, Truncate::Replay | Truncate::Keep));
        self.clear_rows(cut, engine, slot, to..position)?;
        self.positions[slot] = to;
        Ok(())
    }

    /// Takes a slot back for a call that will store all positions from `to` to before `end`: what it stores anew needs no clearing.
    pub(super) fn rewind(
        &mut self,
        manifest: &Manifest,
        engine: &mut dyn Engine,
        slot: usize,
        to: usize,
        end: usize,
    ) -> Result<()> {
        let position = self.position(slot)?;
        let in_place = to <= position
            && position <= end
            && manifest.states.iter().all(|state| matches!(state.truncate, Truncate::Rows | Truncate::Keep));
        if !in_place {
            return self.truncate(manifest, engine, slot, to);
        }
        self.positions[slot] = to;
        Ok(())
    }

    /// Gives the rows of some positions their first values, in states that have rows for positions. A state that grows has them already
    /// behind these positions.
    fn clear_rows<'a>(
        &self,
        states: impl Iterator<Item = &'a State>,
        engine: &mut dyn Engine,
        slot: usize,
        positions: Range<usize>,
    ) -> Result<()> {
        let states = states.filter(|_| !positions.is_empty());
        for (state, part) in states.flat_map(|state| (0..state.parts).map(move |part| (state, part))) {
            if !state.grows() {
                self.clear_each(state, part, engine, slot, (0..state.rows, positions.clone()))?;
                continue;
            }
            // Rows of a block are interleaved, so a block that is kept in part is cleared cell by cell, and all behind it as a whole.
            let whole = positions.start.next_multiple_of(state.block).min(positions.end);
            if positions.start < whole {
                let block = positions.start / state.block * state.block;
                self.clear_each(state, part, engine, slot, (block..block + state.block, positions.start..whole))?;
            }
            let rows = whole..positions.end.next_multiple_of(state.block).max(whole);
            engine.fill(self.rows(state, part, slot, rows), &state.first_value())?;
        }
        Ok(())
    }

    /// Gives those of `rows` their first values in which some positions are.
    fn clear_each(
        &self,
        state: &State,
        part: usize,
        engine: &mut dyn Engine,
        slot: usize,
        (rows, positions): (Range<usize>, Range<usize>),
    ) -> Result<()> {
        let (all, first) = (self.rows_of(state), state.first_value());
        let start = state.element(all, part, rows.start, 0);
        engine.change(self.rows(state, part, slot, rows), &mut |bytes| {
            // A ring has gone round after so many.
            for position in positions.start.max(positions.end.saturating_sub(all))..positions.end {
                let row = state.row_of(position);
                for element in 0..state.row() {
                    let at = (state.element(all, part, row, element) - start) * state.element_bytes;
                    bytes[at..at + first.len()].copy_from_slice(&first);
                }
            }
        })
    }

    fn rows_of(&self, state: &State) -> usize {
        if state.grows() { self.capacity } else { state.rows }
    }

    /// The bytes of some rows of a part, in whole blocks, among those of all slots.
    fn rows(&self, state: &State, part: usize, slot: usize, rows: Range<usize>) -> Range<usize> {
        let first = part * self.rows_of(state);
        let row = state.row() * state.element_bytes;
        shifted((first + rows.start) * row..(first + rows.end) * row, self.place(state, slot).start)
    }
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// The error of a position that is still to come.
pub(super) fn beyond(slot: usize, to: usize, position: usize) -> Error {
    Error::input(format!("slot {slot} is at position {position}, and {to} is beyond"), "one can only go back")
}

/// Gives a whole state its first value.
pub(super) fn fill(state: &State, bytes: &mut [u8]) {
    let first = state.first_value();
    bytes.chunks_exact_mut(first.len()).for_each(|cell| cell.copy_from_slice(&first));
}

/// Where all that does not grow, and the first `rows` rows (a multiple of [`POSITIONS`]) of what does, are in slots of two capacities.
/// `Manifest::check` promises that what does not grow comes first.
fn pieces(manifest: &Manifest, has: usize, gets: usize, rows: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
    let fixed = 0..manifest.state_fixed_bytes;
    let growing = manifest.states.iter().filter(|state| state.grows()).flat_map(move |state| {
        let row = state.position_bytes / state.parts;
        let piece = move |capacity: usize, part: usize| {
            let start = state.place(capacity).start + part * capacity * row;
            start..start + rows * row
        };
        (0..state.parts).map(move |part| (piece(has, part), piece(gets, part)))
    });
    std::iter::once((fixed.clone(), fixed)).chain(growing)
}
