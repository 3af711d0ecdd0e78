//! Quantised columns for GPUs.
//!
//! A column is cut into *parts* of [`PART`] bytes, each of which is read by a warp at once and knows all of its own numbers:
//! `scales (f16)[groups] · offsets (f16)[groups] (int4z) · padding to the head · integers`. Each group's integers are one or two pieces of
//! 16 bytes, what a lane reads: int8 and fp8 in their order; of int4 the byte `b` of the four bytes `w` has number `8 w + b` in its low half and
//! number `8 w + 4 + b` in its high half. The last part has the groups that are left, and ends with them.

use super::{Dtype, GROUP};

/// Bytes of a part of a column.
pub const PART: usize = 512;
/// Bytes that a lane reads at once.
pub const PIECE: usize = 16;

/// How the numbers of a part lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Groups of a whole part.
    pub groups: usize,
    /// Where integers begin, in bytes.
    pub head: usize,
    /// Bytes of a group's integers.
    pub group_bytes: usize,
    /// Whether groups have offsets, behind all scales.
    pub offsets: bool,
}

impl Part {
    /// Numbers of a piece.
    pub fn piece(self) -> usize {
        GROUP * PIECE / self.group_bytes
    }

    /// Pieces of a whole part.
    pub fn pieces(self) -> usize {
        self.groups * self.group_bytes / PIECE
    }

    /// Numbers of a whole part.
    pub fn numbers(self) -> usize {
        self.groups * GROUP
    }

    /// Bytes of a column of so many numbers.
    pub fn column_bytes(self, depth: usize) -> usize {
        let groups = depth.div_ceil(GROUP);
        let rest = groups % self.groups;
        groups / self.groups * PART + if rest > 0 { self.head + rest * self.group_bytes } else { 0 }
    }
}

impl Dtype {
    /// How quantised numbers lie in columns for GPUs; none for those that need no scales.
    pub fn part(self) -> Option<Part> {
        match self {
            Dtype::Int8 | Dtype::Fp8 => Some(Part { groups: 15, head: 32, group_bytes: GROUP, offsets: false }),
            Dtype::Int4 => Some(Part { groups: 28, head: 64, group_bytes: GROUP / 2, offsets: false }),
            Dtype::Int4z => Some(Part { groups: 25, head: 112, group_bytes: GROUP / 2, offsets: true }),
            _ => None,
        }
    }
}
