//! What a sequence carries from call to call: where it lies in a slot, and how far it can be taken back.

use super::Manifest;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Capacities are multiples of this, and so are the positions that a saved slot has room for.
pub const POSITIONS: usize = 16;

/// One piece of memory that a sequence carries from call to call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// `layers.3.mixer.S`, `layers.1.mixer.keys` …
    pub name: String,
    /// `recurrence`, `convolution`, `shift`, `keys`, `values`, `positions`.
    pub kind: String,
    /// Names and sizes of the axes of a row, for people; the last is fastest.
    pub axes: Vec<(String, usize)>,
    /// Bytes of an element: 4, or 2 of keys and values in bfloat16, as GPUs keep them.
    pub element_bytes: usize,
    /// First byte inside a sequence's states is `fixed_offset + position_offset · capacity`.
    pub fixed_offset: usize,
    /// See `fixed_offset`.
    pub position_offset: usize,
    /// Size in bytes is `fixed_bytes + position_bytes · capacity`.
    pub fixed_bytes: usize,
    /// See `fixed_bytes`.
    pub position_bytes: usize,
    /// What every element starts with: bits of an element (`f32` or `i32`), repeated over the whole state.
    pub init_bits: u32,
    /// Rows: 1 of a recurrence's state, the earlier rows of a convolution or shift, the slots of a ring; 0: the capacity.
    pub rows: usize,
    /// Equal pieces, one behind the other, each with all rows (the heads of a cache).
    pub parts: usize,
    /// Rows that lie interleaved: element `e` of row `r` of a part with `n` elements a row is number `(r / block · n + e) · block + r % block`
    /// of the part.
    pub block: usize,
    /// How it is taken back to an earlier position.
    pub truncate: Truncate,
}

/// How a state is taken back to what it was `n` positions ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    /// Row `p` is position `p`: later rows get the first value again.
    Rows,
    /// Position `p` is row `p` if that is below `first`, and row `first + (p - first) mod (rows - first)` otherwise; later positions get the
    /// first value again. Possible if `n <= back`, or while the ring has not gone round.
    Ring {
        /// Positions that stay for ever.
        first: usize,
        /// Most positions to go back once the ring has gone round.
        back: usize,
    },
    /// What was is gone: go on from an earlier snapshot.
    Replay,
    /// Made of the source, which stays; row `p` is its position `p`.
    Keep,
}

impl Truncate {
    /// Whether a sequence at `position` can be taken back to `to`. A ring has `rows` rows.
    pub fn allows(self, rows: usize, position: usize, to: usize) -> bool {
        match self {
            _ if to >= position || to == 0 => to <= position,
            Self::Rows | Self::Keep => true,
            Self::Ring { back, .. } => position - to <= back || position <= rows,
            Self::Replay => false,
        }
    }
}

impl State {
    /// Its bytes in a slot of that capacity.
    pub fn place(&self, capacity: usize) -> Range<usize> {
        let start = self.fixed_offset + self.position_offset * capacity;
        start..start + self.fixed_bytes + self.position_bytes * capacity
    }

    /// Whether it grows with the capacity.
    pub fn grows(&self) -> bool {
        self.position_bytes > 0
    }

    /// Elements of a row of one part.
    pub fn row(&self) -> usize {
        match self.truncate {
            Truncate::Rows | Truncate::Keep if self.grows() => self.position_bytes / (self.element_bytes * self.parts),
            Truncate::Replay | Truncate::Rows | Truncate::Keep => self.axes.iter().map(|(_, size)| size).product(),
            Truncate::Ring { .. } => self.fixed_bytes / (self.element_bytes * self.parts * self.rows),
        }
    }

    /// The row in which a position lies.
    pub fn row_of(&self, position: usize) -> usize {
        match self.truncate {
            Truncate::Ring { first, .. } if position >= first => first + (position - first) % (self.rows - first),
            _ => position,
        }
    }

    /// Number of an element inside the state, all parts having `rows` rows.
    pub fn element(&self, rows: usize, part: usize, row: usize, element: usize) -> usize {
        let n = self.row();
        part * rows * n + (row / self.block * n + element) * self.block + row % self.block
    }

    /// An element's first value.
    pub fn first_value(&self) -> Vec<u8> {
        self.init_bits.to_le_bytes()[..self.element_bytes.min(4)].to_vec()
    }
}

impl Manifest {
    /// Bytes of one sequence's states, or `None` if that is no size.
    pub fn slot_bytes(&self, capacity: usize) -> Option<usize> {
        self.state_position_bytes.checked_mul(capacity)?.checked_add(self.state_fixed_bytes)
    }

    /// Whether a sequence at `position` can be taken back to `to` without a snapshot; otherwise the first state that stands in the way.
    pub fn truncates(&self, position: usize, to: usize) -> Result<(), &State> {
        let stands = |state: &&State| !state.truncate.allows(state.rows, position, to);
        self.states.iter().find(stands).map_or(Ok(()), Err)
    }
}
