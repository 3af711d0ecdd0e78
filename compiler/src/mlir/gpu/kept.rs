//! Keys and values as a GPU keeps them: those of a position one behind the other, `[groups][slots][numbers]`, in bfloat16 where the
//! model's weights are rounded, and in single precision elsewhere.

use super::THREADS;
use crate::fuse::kernel::{Attention, Store};
use crate::mlir::common::cache::Caches;
use crate::mlir::common::{Elem, Emitter, Ty, Val};

/// Bytes that a thread loads or stores at once, if so many lie side by side.
const AT_ONCE: usize = 16;
/// Loads of a thread that are under way at once.
const AHEAD: usize = 8;

/// The keys of a group, or its values.
#[derive(Clone, Copy)]
pub(super) struct Kept<'k, 'c> {
    e: &'k Emitter<'c>,
    /// The first row.
    base: Val<'c>,
    /// Numbers of a row.
    pub(super) numbers: usize,
    /// How they are stored.
    store: Store,
}

impl<'k, 'c> Kept<'k, 'c> {
    /// The keys of a group.
    pub(super) fn keys(e: &'k Emitter<'c>, code: &Attention, caches: &Caches<'c>, group: Val<'c>) -> Kept<'k, 'c> {
        Kept::of(e, (code, code.key), (caches.keys, caches.slots), group)
    }

    /// The values of a group.
    pub(super) fn values(e: &'k Emitter<'c>, code: &Attention, caches: &Caches<'c>, group: Val<'c>) -> Kept<'k, 'c> {
        Kept::of(e, (code, code.value), (caches.values, caches.slots), group)
    }

    fn of(
        e: &'k Emitter<'c>,
        (code, numbers): (&Attention, usize),
        (all, slots): (Val<'c>, Val<'c>),
        group: Val<'c>,
    ) -> Kept<'k, 'c> {
        let store = code.kept.unwrap_or(Store::F32);
        Kept { e, base: e.element(all, e.mul(group, slots), numbers * store.bytes()), numbers, store }
    }

    /// Bytes of a number.
    pub(super) fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Numbers that a thread takes at once.
    pub(super) fn wide(&self) -> usize {
        wide(self.numbers, self.bytes())
    }

    /// Where the row of a slot begins.
    pub(super) fn row(&self, slot: Val<'c>) -> Val<'c> {
        self.e.element(self.base, slot, self.numbers * self.bytes())
    }

    /// Where a number of a row is.
    pub(super) fn place(&self, row: Val<'c>, number: Val<'c>) -> Val<'c> {
        self.e.element(row, number, self.bytes())
    }

    /// Bfloat16 numbers as they are stored, to be stored again.
    pub(super) fn load_stored(&self, place: Val<'c>, count: usize) -> Val<'c> {
        match count {
            1 => self.e.load(place, Ty::scalar(Elem::I16)),
            _ => self.load(place, count),
        }
    }

    /// Some numbers that lie side by side from a multiple of as many on, as they are stored: [`Kept::numbers`] makes numbers of them.
    pub(super) fn load(&self, place: Val<'c>, count: usize) -> Val<'c> {
        let e = self.e;
        match (self.store, count) {
            (Store::Bf16, 1) => e.load_bf16(place, 1),
            (Store::Bf16, _) => e.load_aligned(place, Ty::i32(count / 2)),
            _ => e.load_aligned(place, Ty::f32(count)),
        }
    }

    /// Copies so many rows, from a slot on, as they are stored into shared memory, in rows of so many bytes, by all threads of the block; past
    /// the slot `last` that one again. All loads of some come before the stores.
    pub(super) fn copy(&self, rows: usize, (first, last): (Val<'c>, Val<'c>), (to, row): (Val<'c>, usize)) {
        let (e, wide) = (self.e, self.wide());
        let units = self.numbers / wide;
        // Some units may be done twice.
        let unit = |turn: usize| {
            let unit = e.add(e.thread(), e.i32((turn * THREADS) as i32));
            let unit = if (turn + 1) * THREADS <= rows * units { unit } else { e.min(unit, e.i32((rows * units) as i32 - 1)) };
            (e.div(unit, e.i32(units as i32)), e.mul(e.rem(unit, e.i32(units as i32)), e.i32(wide as i32)))
        };
        let turns: Vec<(Val, Val)> = (0..(rows * units).div_ceil(THREADS)).map(unit).collect();
        for turns in turns.chunks(AHEAD) {
            let load = |(at, number): &(Val<'c>, Val<'c>)| {
                let slot = e.min(e.add(first, e.to_i64(*at)), last);
                self.load_stored(self.place(self.row(slot), e.to_i64(*number)), wide)
            };
            let loaded: Vec<Val> = turns.iter().map(load).collect();
            for ((at, number), loaded) in turns.iter().zip(loaded) {
                let place = e.add(e.mul(*at, e.i32(row as i32)), e.shift_left(*number, 1));
                e.store_aligned(e.offset(to, e.to_i64(place)), loaded);
            }
        }
    }

    /// A number as it is stored.
    pub(super) fn stored(&self, number: Val<'c>) -> Val<'c> {
        if self.store == Store::Bf16 { self.e.convert(number, Elem::Bf16) } else { number }
    }

    /// Stores numbers side by side, from a multiple of as many on.
    pub(super) fn store(&self, place: Val<'c>, numbers: &[Val<'c>]) {
        let (e, rounds) = (self.e, self.store == Store::Bf16);
        match numbers {
            [number] => e.store(place, self.stored(*number)),
            _ if rounds => {
                let pairs: Vec<Val> = numbers.chunks_exact(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect();
                e.store_aligned(place, side_by_side(e, &pairs));
            }
            _ => e.store_aligned(place, side_by_side(e, numbers)),
        }
    }
}

/// So many of some numbers, of so many bytes each, that a thread takes at once.
pub(super) fn wide(numbers: usize, bytes: usize) -> usize {
    [8, 4, 2].into_iter().find(|wide| wide * bytes <= AT_ONCE && numbers.is_multiple_of(*wide)).unwrap_or(1)
}

/// Numbers as a vector; one stays a number.
pub(super) fn side_by_side<'c>(e: &Emitter<'c>, numbers: &[Val<'c>]) -> Val<'c> {
    let ty = Ty::vector(numbers[0].elem(), numbers.len());
    match numbers {
        [number] => *number,
        _ => numbers.iter().enumerate().fold(e.poison(ty), |whole, (at, number)| e.insert(whole, at, *number)),
    }
}
