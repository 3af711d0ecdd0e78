//! `random[a, b](seed)`: a table of random numbers that a seed decides. It is arithmetic on whole numbers, so that whoever computes it has the
//! same numbers, to the bit.
//!
//! The place of an element in the table stands as its remainders by two primes, which no other place has. They are mixed in turns, each by
//! a cube of the other and a key that comes from the seed; what is mixed so can be unmixed, so that places stay apart.

use super::frame::{Frame, V};
use super::{Done, Elab, T};
use crate::ast::{Arg, IndexItem};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Binary, Constant, Elem, Op, ScopeId, Type};
use crate::span::Span;

/// The largest primes whose squares fit into 31 bits.
const PRIMES: [u64; 2] = [46_337, 46_327];
/// How often each half is mixed.
const ROUNDS: usize = 3;
/// A number is of so many bits beside those of the first half: all of them fit into single precision.
const FINE: u64 = 256;

/// Whole numbers of the table, while it is made.
struct Maker<'e, 'p> {
    elab: &'e mut Elab<'p>,
    span: Span,
    scope: ScopeId,
}

impl<'p> Elab<'p> {
    /// The call.
    pub(super) fn random(&mut self, frame: &mut Frame<'p>, items: &'p [IndexItem], args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let axes = self.plain_axes(frame, items, span)?;
        let takes = |arg: &Arg| arg.name.as_ref().is_none_or(|name| name.name == "seed");
        let seed = match args {
            [seed] if takes(seed) => seed,
            [] => {
                let error = Diagnostic::new(Code::MissingArgument, span, "a random table needs a seed");
                let hint = "write `random[a, b](7)`: the same seed gives the same numbers in every run and on every machine";
                return Err(self.error(error.label("is another one in every run").hint(hint)));
            }
            _ => return self.fail(Code::Arity, span, "a random table takes a seed: `random[a, b](7)`"),
        };
        let seed = match self.constant(frame, &seed.value)? {
            Constant::Int(seed) => seed as u64,
            _ => return self.fail(Code::Type, seed.value.span, "a seed is a whole number"),
        };
        if axes.is_empty() || axes.iter().any(|axis| self.is_seq(*axis)) {
            let error = Diagnostic::new(Code::AxisMismatch, span, "a random table has fixed axes");
            return Err(self.error(error.hint("look its rows up by position: `random[rows, b](7)[rows: position[t]]`")));
        }
        let most = PRIMES[0] * PRIMES[1];
        let count = axes.iter().try_fold(1u64, |all, axis| all.checked_mul(self.size(*axis) as u64)).filter(|all| *all < most);
        if count.is_none() {
            return self.fail(Code::TooLarge, span, "a random table of more than two billion numbers");
        }
        Maker { elab: self, span, scope: frame.scope }.table(&axes, seed).map(V::Tensor)
    }
}

impl Maker<'_, '_> {
    fn table(&mut self, axes: &[AxisId], seed: u64) -> Done<T> {
        let mut halves = [self.place(axes, PRIMES[0])?, self.place(axes, PRIMES[1])?];
        let mut state = seed;
        for round in 0..2 * ROUNDS {
            let (own, other) = (round % 2, 1 - round % 2);
            let mixed = self.cube(halves[other], next(&mut state), PRIMES[other])?;
            let sum = self.binary(Binary::Add, halves[own], mixed)?;
            halves[own] = self.rest(sum, PRIMES[own])?;
        }
        let high = self.times(halves[0], FINE)?;
        let low = self.rest(halves[1], FINE)?;
        let all = self.binary(Binary::Add, high, low)?;
        let all = self.elab.as_float(all, self.span, self.scope)?;
        let per = self.number(1.0 / (PRIMES[0] * FINE) as f64, Elem::Float);
        self.binary(Binary::Mul, all, per)
    }

    /// The remainder of an element's place in the table, the last axis fastest.
    fn place(&mut self, axes: &[AxisId], prime: u64) -> Done<T> {
        let mut place = self.number(0.0, Elem::Int);
        for axis in axes {
            let size = self.elab.size(*axis) as u64 % prime;
            let ty = Type { elem: Elem::Int, axes: vec![*axis] };
            let index = self.elab.push_at(0, Op::Index(*axis), vec![], ty, self.span, self.scope);
            let index = self.rest(index, prime)?;
            let before = self.times(place, size)?;
            let before = self.rest(before, prime)?;
            let sum = self.binary(Binary::Add, before, index)?;
            place = self.rest(sum, prime)?;
        }
        Ok(place)
    }

    /// `(x + key)³` by a prime.
    fn cube(&mut self, x: T, key: u64, prime: u64) -> Done<T> {
        let key = self.number((key % prime) as f64, Elem::Int);
        let moved = self.binary(Binary::Add, x, key)?;
        let moved = self.rest(moved, prime)?;
        let square = self.binary(Binary::Mul, moved, moved)?;
        let square = self.rest(square, prime)?;
        let cube = self.binary(Binary::Mul, square, moved)?;
        self.rest(cube, prime)
    }

    fn times(&mut self, x: T, by: u64) -> Done<T> {
        let by = self.number(by as f64, Elem::Int);
        self.binary(Binary::Mul, x, by)
    }

    fn rest(&mut self, x: T, by: u64) -> Done<T> {
        let by = self.number(by as f64, Elem::Int);
        self.binary(Binary::Rem, x, by)
    }

    /// Whatever is made here changes at no position, and stands outside of recurrences and attention.
    fn number(&mut self, value: f64, elem: Elem) -> T {
        self.elab.push_at(0, Op::Const(value), vec![], Type { elem, axes: vec![] }, self.span, self.scope)
    }

    fn binary(&mut self, op: Binary, a: T, b: T) -> Done<T> {
        let (of_a, of_b) = (self.elab.ty(a), self.elab.ty(b));
        let axes = self.elab.union(&of_a.axes, &of_b.axes, self.span)?;
        let ty = Type { elem: of_a.elem, axes };
        Ok(self.elab.push_at(0, Op::Binary(op), vec![a.id, b.id], ty, self.span, self.scope))
    }
}

/// The next key (SplitMix64; Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
