//! Quantised weights: columns in parts ([`braid_runtime::artifact::Part`]), and what a lane makes of the 16 bytes that it reads.

use crate::fuse::kernel::Store;
use crate::mlir::common::{Cmp, Elem, Emitter, Ty, Val};
use braid_runtime::artifact::{Dtype, GROUP, PART, PIECE, Part};

/// A byte in the lowest bits of 2^23 is that much more.
const SHIFTER: f64 = 8_388_608.0;

/// How quantised weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The kind of numbers.
    pub dtype: Dtype,
    /// Where they lie in a part.
    pub part: Part,
}

/// What makes numbers of a group's integers.
#[derive(Clone, Copy)]
pub struct Scale<'c> {
    /// The factor.
    pub scale: Val<'c>,
    /// What is added, if there is anything.
    pub offset: Option<Val<'c>>,
}

impl<'c> Scale<'c> {
    /// As values that a loop carries: as they are stored.
    pub fn values(self) -> impl Iterator<Item = Val<'c>> {
        [Some(self.scale), self.offset].into_iter().flatten()
    }

    /// From such values.
    pub fn from(values: &[Val<'c>]) -> Self {
        Scale { scale: values[0], offset: values.get(1).copied() }
    }

    /// In single precision.
    pub fn single(self, e: &Emitter<'c>) -> Self {
        Scale { scale: e.to_f32(self.scale), offset: self.offset.map(|offset| e.to_f32(offset)) }
    }
}

impl Parts {
    /// Of weights that are stored so.
    pub fn of(store: Store) -> Option<Parts> {
        let Store::Panels(dtype) = store else { return None };
        dtype.part().map(|part| Parts { dtype, part })
    }

    /// The kind of numbers, for names.
    pub fn name(self) -> String {
        format!("{:?}", self.dtype).to_lowercase()
    }

    /// Numbers of a word of 32 bits.
    pub fn word(self) -> usize {
        4 * GROUP / self.part.group_bytes
    }

    /// Bytes of a column of so many numbers, whole groups.
    pub fn column_bytes<'c>(self, e: &Emitter<'c>, depth: Val<'c>) -> Val<'c> {
        let int = |number: usize| e.int(depth.ty(), number as i64);
        let groups = e.shift_right(depth, i64::from(GROUP.ilog2()));
        let (whole, rest) = (e.div(groups, int(self.part.groups)), e.rem(groups, int(self.part.groups)));
        let last = e.add(int(self.part.head), e.mul(rest, int(self.part.group_bytes)));
        let some = e.cmp(Cmp::Gt, rest, int(0));
        e.add(e.mul(whole, int(PART)), e.select(some, last, int(0)))
    }

    /// What stands beside group `within` (`i64`) of the part that begins at `part`, as it is stored.
    pub fn scale<'c>(self, e: &Emitter<'c>, part: Val<'c>, within: Val<'c>) -> Scale<'c> {
        let place = e.element(part, within, 2);
        let load = |at: usize| e.load(e.offset_by(place, 2 * at), Ty::scalar(Elem::F16));
        Scale { scale: load(0), offset: self.part.offsets.then(|| load(self.part.groups)) }
    }

    /// The numbers of 32 bits, in their order.
    pub fn numbers<'c>(self, e: &Emitter<'c>, word: Val<'c>, scale: Scale<'c>) -> Vec<Val<'c>> {
        if self.dtype == Dtype::Fp8 {
            return e.e4m3_of(word).into_iter().map(|number| e.mul(number, scale.scale)).collect();
        }
        let (halves, beyond) = match self.dtype {
            // Sign bits turned, so that all are positive.
            Dtype::Int8 => (vec![e.xor(word, e.i32(i32::from_ne_bytes([0x80; 4])))], 128.0),
            Dtype::Int4 => (self.nibbles(e, word).to_vec(), 8.0),
            _ => (self.nibbles(e, word).to_vec(), 0.0),
        };
        let bytes = halves.into_iter().flat_map(|half| (0..4).map(move |at| (half, at)));
        let number = |(half, at)| {
            let integer = e.sub(e.byte_beyond_2_23(half, at), e.f32((SHIFTER + beyond) as f32));
            match scale.offset {
                Some(offset) => e.fma(integer, scale.scale, offset),
                None => e.mul(integer, scale.scale),
            }
        };
        bytes.map(number).collect()
    }

    /// Group of a piece in its part; `i32`.
    pub fn group<'c>(self, e: &Emitter<'c>, piece: Val<'c>) -> Val<'c> {
        e.shift_right(piece, i64::from((self.part.group_bytes / PIECE).ilog2()))
    }

    /// The integers of 32 bits as signed bytes, in their order.
    pub fn bytes<'c>(self, e: &Emitter<'c>, word: Val<'c>) -> Vec<Val<'c>> {
        if self.dtype == Dtype::Int8 { vec![word] } else { self.nibbles(e, word).to_vec() }
    }

    /// The lower and the higher halves of four bytes.
    fn nibbles<'c>(self, e: &Emitter<'c>, word: Val<'c>) -> [Val<'c>; 2] {
        let low = e.i32(i32::from_ne_bytes([0x0F; 4]));
        [word, e.shift_right(word, 4)].map(|word| e.and(word, low))
    }
}
