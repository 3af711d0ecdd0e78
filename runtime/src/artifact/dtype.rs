//! How numbers are stored, and how many bytes that takes.
//!
//! Quantised numbers stand in *groups* of [`GROUP`] along the contracted axis of a matrix. A group of a panel is
//! `scales (f16)[width] · offsets (f16)[width] (int4z) · integers`: int8 as `[16][width][2]`, two neighbours of a column side by
//! side; fp8 as bytes `[32][width]`, and its scale is 256 times as large; int4 as `[4][width][2]` words of 16 bits, whose nibble `p` (from the lowest) of word `(r, column, j)` is number
//! `8 r + 2 p + j`. In *quads*, for instructions that multiply four bytes at once, int8 is `[8][width][4]`, each 128 more than it is, and int4 `[4][width]`
//! words of 32 bits, of whose byte `j` of word `(r, column)` the lower half is number `8 r + j` and the upper one `8 r + 4 + j`. Scales and integers follow the rules of GGUF's Q8_0, Q4_0 and Q4_1, so that numbers that were stored as those
//! are stored again without loss. For GPUs they stand in columns of their own ([`super::Part`]).

use super::Layout;
use serde::{Deserialize, Serialize};

/// Numbers of a column that share a scale.
pub const GROUP: usize = 32;

/// How the numbers of a packed tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// bfloat16 in panels `[⌈K/2⌉][width][2]`: two neighbours of a column side by side, as instructions for pairs want them.
    Bf16Pairs,
    /// `scale · q`, q from -127 to 127, in groups.
    Int8,
    /// `scale · q`, q of eight bits, four of which are an exponent and three a fraction (e4m3; Micikevicius et al. 2022, arXiv:2209.05433), in groups.
    Fp8,
    /// `scale · (q - 8)`, q from 0 to 15, in groups.
    Int4,
    /// `scale · q + offset`, q from 0 to 15, in groups.
    Int4z,
    /// [`Dtype::Int8`] in quads.
    Int8Quads,
    /// [`Dtype::Int4`] in quads.
    Int4Quads,
    /// [`Dtype::Int4z`] in quads.
    Int4zQuads,
}

impl Dtype {
    /// Whether numbers share scales.
    pub fn quantised(self) -> bool {
        matches!(self.plain(), Dtype::Int8 | Dtype::Fp8 | Dtype::Int4 | Dtype::Int4z)
    }

    /// The same numbers in the order that is named after them.
    pub fn plain(self) -> Self {
        match self {
            Dtype::Bf16Pairs => Dtype::Bf16,
            Dtype::Int8Quads => Dtype::Int8,
            Dtype::Int4Quads => Dtype::Int4,
            Dtype::Int4zQuads => Dtype::Int4z,
            _ => self,
        }
    }

    /// The same numbers in quads, if they are integers.
    pub fn in_quads(self) -> Self {
        match self {
            Dtype::Int8 => Dtype::Int8Quads,
            Dtype::Int4 => Dtype::Int4Quads,
            Dtype::Int4z => Dtype::Int4zQuads,
            _ => self,
        }
    }

    /// Whether they lie in quads.
    pub fn has_quads(self) -> bool {
        matches!(self, Dtype::Int8Quads | Dtype::Int4Quads | Dtype::Int4zQuads)
    }

    /// Whether only panels can be stored so.
    pub fn panels_only(self) -> bool {
        self.quantised() || self == Dtype::Bf16Pairs
    }

    /// Bytes of `count` numbers of one column, scales and padding included; of a `count` of 1 what a number takes alone.
    pub fn bytes(self, count: usize) -> usize {
        match self {
            Dtype::F32 => 4 * count,
            Dtype::Bf16 => 2 * count,
            Dtype::Bf16Pairs => 4 * count.div_ceil(2),
            Dtype::Int8 | Dtype::Int8Quads | Dtype::Fp8 => (2 + GROUP) * count.div_ceil(GROUP),
            Dtype::Int4 | Dtype::Int4Quads => (2 + GROUP / 2) * count.div_ceil(GROUP),
            Dtype::Int4z | Dtype::Int4zQuads => (4 + GROUP / 2) * count.div_ceil(GROUP),
        }
    }
}

impl Layout {
    /// Bytes that a parameter of this shape takes, padding included; `None` if that is not a size or cannot be stored so.
    pub fn bytes(&self, shape: &[usize], dtype: Dtype) -> Option<usize> {
        let size = |axes: &[usize]| axes.iter().try_fold(1usize, |product, axis| product.checked_mul(*shape.get(*axis)?));
        match self {
            Self::Dense(_) if dtype.panels_only() => None,
            Self::Dense(order) => size(order)?.checked_mul(dtype.bytes(1)),
            Self::Panels { batch, k, n, width } => {
                let columns = size(n)?.checked_next_multiple_of(*width)?.checked_mul(size(batch)?)?;
                let depth = size(k).filter(|depth| *depth <= usize::MAX / 64)?;
                columns.checked_mul(dtype.bytes(depth))
            }
            Self::Columns { batch, k, n } => {
                let depth = size(k).filter(|depth| *depth <= usize::MAX / 64)?;
                size(n)?.checked_mul(size(batch)?)?.checked_mul(dtype.part()?.column_bytes(depth))
            }
        }
    }
}
