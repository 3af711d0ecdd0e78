//! Caches and states of all slots, and how far each has come.

use super::no_slot;
use crate::artifact::{Manifest, State};
use crate::buffer::Buffer;
use crate::error::{Error, Result};

/// Capacities are multiples of this.
const STEP: usize = 16;

/// A slot's states at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    bytes: Vec<u8>,
    position: usize,
}

impl Snapshot {
    /// Bytes as [`Snapshot::bytes`] returned them for a sequence at `position`, perhaps with other numbers.
    pub fn new(manifest: &Manifest, position: usize, bytes: Vec<u8>) -> Result<Self> {
        let grown = bytes.len().checked_sub(manifest.state_fixed_bytes);
        if grown.is_none_or(|grown| manifest.state_position_bytes == 0 && grown > 0) {
            let what = format!("{} bytes are not the states of a sequence", bytes.len());
            return Err(Error::input(what, "they depend on model and capacity"));
        }
        Ok(Self { bytes, position })
    }

    /// Positions that the sequence had seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The states as the artifact lays them out.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) struct States {
    memory: Buffer<u8>,
    positions: Vec<usize>,
    slot_bytes: usize,
    capacity: usize,
    limit: usize,
}

impl States {
    pub(super) fn new(manifest: &Manifest, slots: usize, capacity: usize) -> Result<Self> {
        if slots == 0 || slots > 1 << 16 || capacity > i32::MAX as usize - STEP {
            return Err(Error::input(format!("a session of {slots} sequences of {capacity} positions"), "1 to 65536 sequences"));
        }
        let capacity = capacity.max(1).next_multiple_of(STEP);
        let grows = manifest.state_position_bytes > 0;
        let slot_bytes = manifest.state_position_bytes.saturating_mul(capacity).saturating_add(manifest.state_fixed_bytes);
        let what = format!("the states of {slots} sequences of {capacity} positions");
        let mut states = Self {
            memory: Buffer::new(slot_bytes.saturating_mul(slots), what)?,
            positions: vec![0; slots],
            slot_bytes,
            capacity,
            limit: if grows { capacity } else { i32::MAX as usize - STEP },
        };
        for slot in 0..slots {
            // Fresh memory is zero already; touching it would only make the system commit it.
            states.fill(manifest.states.iter().filter(|state| state.init_bits != 0), slot);
        }
        Ok(states)
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

    pub(super) fn pointer_mut(&mut self) -> *mut u8 {
        self.memory.pointer_mut()
    }

    pub(super) fn position(&self, slot: usize) -> Result<usize> {
        self.positions.get(slot).copied().ok_or_else(|| no_slot(slot, self.slots()))
    }

    pub(super) fn advance(&mut self, slot: usize, rows: usize) {
        self.positions[slot] += rows;
    }

    pub(super) fn reset(&mut self, manifest: &Manifest, slot: usize) -> Result<()> {
        if self.position(slot)? > 0 {
            self.fill(manifest.states.iter(), slot);
            self.positions[slot] = 0;
        }
        Ok(())
    }

    pub(super) fn snapshot(&self, slot: usize) -> Result<Snapshot> {
        let position = self.position(slot)?;
        let bytes = self.memory.slice()[slot * self.slot_bytes..][..self.slot_bytes].to_vec();
        Ok(Snapshot { bytes, position })
    }

    pub(super) fn restore(&mut self, slot: usize, snapshot: &Snapshot) -> Result<()> {
        self.position(slot)?;
        if snapshot.bytes.len() != self.slot_bytes {
            return Err(Error::input("a snapshot of another model or capacity", "restore into a session made alike"));
        }
        if snapshot.position > self.limit {
            return Err(Error::Context { wanted: snapshot.position, capacity: self.limit });
        }
        self.memory.slice_mut()[slot * self.slot_bytes..][..self.slot_bytes].copy_from_slice(&snapshot.bytes);
        self.positions[slot] = snapshot.position;
        Ok(())
    }

    /// Gives states their first elements. `Manifest::check` promises that they stay inside the slot.
    fn fill<'a>(&mut self, states: impl Iterator<Item = &'a State>, slot: usize) {
        let capacity = self.capacity;
        let bytes = &mut self.memory.slice_mut()[slot * self.slot_bytes..][..self.slot_bytes];
        for state in states {
            let start = state.fixed_offset + state.position_offset * capacity;
            let length = state.fixed_bytes + state.position_bytes * capacity;
            let element = &state.init_bits.to_le_bytes()[..state.element_bytes];
            bytes[start..start + length].chunks_exact_mut(element.len()).for_each(|cell| cell.copy_from_slice(element));
        }
    }
}
