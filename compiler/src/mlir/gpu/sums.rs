//! The sums of a warp that its products are added to, and what it has loaded of their factors.
//!
//! Where a factor is in bfloat16, so is the other one. Else, unless it may be rounded, a number of single precision goes in two parts, as the
//! units take its first bits only: what they take, and the rest. Products of two rests are below what single precision holds.

use super::factor::Factor;
use crate::mlir::common::{Elem, Emitter, Val};

/// Sums of a fragment that do not wait for one another: of what the units take, and of the rests.
const CHAINS: usize = 2;
/// Sums of few fragments that take turns.
const TURNS: usize = 4;
/// Depth of one instruction, where factors are in bfloat16.
pub const PAIRS_DEPTH: usize = 16;

/// How the units take numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// In single precision, and the rest of them.
    Exactly,
    /// In single precision, rounded to what they take.
    Rounded,
    /// In bfloat16.
    Pairs,
}

/// Numbers of a warp's fragments that one instruction each multiplies: of rows and of columns.
pub struct Loaded<'c> {
    rows: Vec<[Val<'c>; 4]>,
    columns: Vec<[Val<'c>; 2]>,
}

impl<'c> Loaded<'c> {
    /// Begins to load them, from a depth on.
    pub fn of(e: &Emitter<'c>, (factors, places): (&[Factor; 2], [Val<'c>; 2]), [x, y]: [usize; 2], deep: usize) -> Self {
        let mut numbers = factors[0].load(e, places[0], x, deep);
        numbers.extend(factors[1].load(e, places[1], y, deep));
        Loaded::again(&numbers, x)
    }

    /// All of them, of rows first.
    pub fn numbers(&self) -> Vec<Val<'c>> {
        self.rows.iter().flatten().chain(self.columns.iter().flatten()).copied().collect()
    }

    /// From its numbers, with so many fragments of rows.
    pub fn again(numbers: &[Val<'c>], x: usize) -> Self {
        let (rows, columns) = numbers.split_at(4 * x);
        let rows = rows.chunks_exact(4).map(|own| [own[0], own[1], own[2], own[3]]).collect();
        Loaded { rows, columns: columns.chunks_exact(2).map(|own| [own[0], own[1]]).collect() }
    }
}

/// A warp's sums, of which several that do not wait for one another make one where there are few fragments.
pub struct Sums {
    taken: Taken,
    /// Fragments, sums of each that take turns, and what each is made of.
    fragments: usize,
    turns: usize,
    chains: usize,
}

impl Sums {
    /// Those of so many fragments.
    pub fn of(taken: Taken, fragments: usize) -> Sums {
        let turns = if fragments < TURNS { TURNS / fragments.next_power_of_two() } else { 1 };
        Sums { taken, fragments, turns, chains: if taken == Taken::Exactly { CHAINS } else { 1 } }
    }

    /// How many numbers of a lane they are.
    pub fn count(&self) -> usize {
        4 * self.fragments * self.turns * self.chains
    }

    /// Adds the products of step `step`; `columns`: fragments along columns.
    pub fn add<'c>(&self, e: &Emitter<'c>, loaded: &Loaded<'c>, (step, columns): (usize, usize), numbers: &mut [Val<'c>]) {
        let own = self.count() / self.turns;
        let numbers = &mut numbers[step % self.turns * own..][..own];
        if self.taken == Taken::Pairs {
            for (at, sums) in numbers.chunks_exact_mut(4).enumerate() {
                let (left, right) = (loaded.rows[at / columns], loaded.columns[at % columns]);
                sums.copy_from_slice(&e.multiply_fragments(left, right, [sums[0], sums[1], sums[2], sums[3]]));
            }
            return;
        }
        let parts = |value: &Val<'c>| Halves::of(e, self.taken == Taken::Rounded, *value);
        let rows: Vec<[Halves; 4]> = loaded.rows.iter().map(|own| own.each_ref().map(parts)).collect();
        let others: Vec<[Halves; 2]> = loaded.columns.iter().map(|own| own.each_ref().map(parts)).collect();
        for (at, own) in numbers.chunks_exact_mut(4 * self.chains).enumerate() {
            multiply(e, &rows[at / columns], &others[at % columns], own);
        }
    }

    /// Four numbers of a lane for each fragment.
    pub fn joined<'c>(&self, e: &Emitter<'c>, numbers: &[Val<'c>]) -> Vec<Val<'c>> {
        let number = |fragment: usize, n: usize| {
            let parts = (0..self.turns * self.chains).map(|at| {
                let (turn, chain) = (at / self.chains, at % self.chains);
                numbers[4 * ((turn * self.fragments + fragment) * self.chains + chain) + n]
            });
            parts.reduce(|sum, part| e.add(sum, part)).unwrap_or_else(|| e.f32(0.0))
        };
        (0..self.fragments).flat_map(|fragment| [0, 1, 2, 3].map(|n| number(fragment, n))).collect()
    }
}

/// A number as the matrix units take it, and the rest, if it counts.
#[derive(Clone, Copy)]
struct Halves<'c> {
    high: Val<'c>,
    low: Option<Val<'c>>,
}

impl<'c> Halves<'c> {
    fn of(e: &Emitter<'c>, rounded: bool, value: Val<'c>) -> Halves<'c> {
        if rounded {
            return Halves { high: e.round_tf32(value), low: None };
        }
        // The units drop the last bits.
        let high = e.bitcast(e.and(e.bitcast(value, Elem::I32), e.i32(!0x1FFF)), Elem::F32);
        Halves { high, low: Some(e.sub(value, high)) }
    }
}

/// Adds a fragment's products: those of what the units take, and those of the rests.
fn multiply<'c>(e: &Emitter<'c>, left: &[Halves<'c>; 4], right: &[Halves<'c>; 2], sums: &mut [Val<'c>]) {
    let (first, second) = sums.split_at_mut(4);
    let add = |left, right, sums: &mut [Val<'c>]| {
        let made = e.multiply_singles(left, right, [sums[0], sums[1], sums[2], sums[3]]);
        sums.copy_from_slice(&made);
    };
    let rest = |part: Halves<'c>| part.low.unwrap_or(part.high);
    let has_rests = left[0].low.is_some();
    if has_rests {
        add(left.map(rest), right.map(|part| part.high), second);
    }
    add(left.map(|part| part.high), right.map(|part| part.high), first);
    if has_rests {
        add(left.map(|part| part.high), right.map(rest), second);
    }
}
