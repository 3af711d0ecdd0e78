//! A row in single precision, which weights of eight bits (e4m3) meet as it is: there are no integers to make of it that lose as little.

use super::parts::{Parts, Scale};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};
use braid_runtime::artifact::{Dtype, PIECE};

/// Numbers that are loaded at once: those of a word of weights.
const FOUR: usize = 4;
/// Words of a piece.
const WORDS: usize = PIECE / FOUR;

/// Whether weights meet the row so.
pub fn are_used(parts: Parts) -> bool {
    parts.dtype == Dtype::Fp8
}

/// What a lane multiplies with its piece of a part of each column. Lanes begin with another of their four words, two by two, so that what
/// they load together lies in banks of its own.
pub struct Singles<'c> {
    fours: Vec<Val<'c>>,
    /// Whether the lane begins one word later, and two.
    later: [Val<'c>; 2],
}

impl<'c> Singles<'c> {
    /// What lane `lane` has of part `part` of a row; `i32`.
    pub fn of(e: &Emitter<'c>, parts: Parts, row: Val<'c>, (part, lane): (Val<'c>, Val<'c>)) -> Self {
        let own = e.element(e.element(row, e.to_i64(part), 4 * parts.part.numbers()), e.to_i64(lane), 4 * parts.part.piece());
        let begin = e.shift_right(lane, 1);
        let four = |at: usize| {
            let place = e.and(e.add(begin, e.i32(at as i32)), e.i32(WORDS as i32 - 1));
            e.load_aligned(e.element(own, e.to_i64(place), 4 * FOUR), Ty::f32(FOUR))
        };
        let later = [1, 2].map(|by| e.cmp(Cmp::Ne, e.and(begin, e.i32(by)), e.i32(0)));
        Singles { fours: (0..WORDS).map(four).collect(), later }
    }

    /// The sum with a lane's products: `words` are its piece of a part, 4 `i32`.
    pub fn multiply(&self, e: &Emitter<'c>, words: Val<'c>, scale: Scale<'c>, sum: Val<'c>) -> Val<'c> {
        let words: Vec<Val> = (0..WORDS).map(|at| e.extract(words, at)).collect();
        let turned = |words: Vec<Val<'c>>, by: usize| -> Vec<Val<'c>> {
            (0..WORDS).map(|at| e.select(self.later[by / 2], words[(at + by) % WORDS], words[at])).collect()
        };
        let words = turned(turned(words, 1), 2);
        // Two sums, so that products do not wait for each other.
        let mut sums = [e.f32(0.0); 2];
        for (four, word) in self.fours.iter().zip(words) {
            for (at, number) in e.e4m3_of(word).into_iter().enumerate() {
                sums[at % 2] = e.fma(e.extract(*four, at), number, sums[at % 2]);
            }
        }
        e.fma(e.add(sums[0], sums[1]), scale.single(e).scale, sum)
    }
}

/// Words are turned by one, then by two.
const _: () = assert!(WORDS == 4);
