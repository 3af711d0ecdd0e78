//! One row times weights of 16 bits on the matrix units. Each number of the row is two of bfloat16: its first bits, and the rest; so
//! products are as good as weights of 16 bits are, 2^-16 of each. The units multiply rows with columns: rows are parts of the columns of
//! weights here, and columns the two halves of what each part meets of the row.
//!
//! The units add up along the contracted axis in any order, so each lane takes numbers that lie side by side: sixteen bytes of a
//! column, and of the row, for two instructions.

use super::THREADS;
use super::dot::Dot;
use super::ring::{COLUMNS, PART, Places};
use crate::fuse::kernel::Store;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};

/// Sums that do not wait for one another, each four of a lane.
const CHAINS: usize = 2;
/// All sums of a lane.
pub const SUMS: usize = 4 * CHAINS;
/// Groups of four lanes, each of which has a row of the units, of those that are used, and a column.
const GROUPS: usize = 8;
/// Parts of a unit's column.
const PARTS: usize = GROUPS / COLUMNS;
/// Numbers that are halved together, and their bytes.
const EIGHT: usize = 8;
const EIGHT_BYTES: usize = 4 * EIGHT;
/// Bytes that the lanes of a column load at once.
const LOAD: usize = 4 * COPY;

/// Whether a row is multiplied so.
pub fn are_used(dot: Dot) -> bool {
    dot.rows == 1 && dot.weights == Store::Bf16 && dot.vector > 1
}

/// Some numbers as their first halves, in single precision, and what is left.
fn parted<'c>(e: &Emitter<'c>, numbers: Val<'c>) -> [Val<'c>; 2] {
    let like = |bits: i64| match numbers.lanes() {
        1 => e.i32(bits as i32),
        lanes => e.int(Ty::i32(lanes), bits),
    };
    // Dropped bits are a rest of the same sign: no number becomes infinite.
    let first = e.bitcast(e.and(e.bitcast(numbers, Elem::I32), like(-65536)), Elem::F32);
    // What is infinite has no rest.
    let rest = e.select(e.cmp(Cmp::Eq, first, numbers), e.like(numbers, 0.0), e.sub(numbers, first));
    [first, rest]
}

/// Two first halves in a word.
fn joined<'c>(e: &Emitter<'c>, [low, high]: [Val<'c>; 2]) -> Val<'c> {
    let [low, high] = [low, high].map(|half| e.bitcast(half, Elem::I32));
    e.or(e.and(e.shift_right(low, 16), e.i32(0xFFFF)), high)
}

/// Eight numbers, in two fours: four words of first halves, and four of what is left.
pub fn halved<'c>(e: &Emitter<'c>, fours: [Val<'c>; 2]) -> [Val<'c>; 2] {
    let made = fours.map(|four| {
        let [first, rest] = parted(e, four);
        let high = |at: usize| joined(e, [at, at + 1].map(|at| e.extract(first, at)));
        let low = |at: usize| e.pack_bf16(e.extract(rest, at), e.extract(rest, at + 1));
        [[high(0), high(2)], [low(0), low(2)]]
    });
    [0, 1].map(|half| {
        let words = made.iter().flat_map(|four| four[half]);
        words.enumerate().fold(e.poison(Ty::i32(4)), |all, (at, word)| e.insert(all, at, word))
    })
}

/// The same of a pair: a word of first halves, and one of what is left.
pub fn halved_pair<'c>(e: &Emitter<'c>, pair: [Val<'c>; 2]) -> [Val<'c>; 2] {
    let [a, b] = pair.map(|number| parted(e, number));
    [joined(e, [a[0], b[0]]), e.pack_bf16(a[1], b[1])]
}

/// The two fours from `place` on.
fn load<'c>(e: &Emitter<'c>, place: Val<'c>) -> [Val<'c>; 2] {
    [0, COPY].map(|at| e.load_aligned(e.offset_by(place, at), Ty::f32(4)))
}

/// Puts them to `place`, halved.
pub fn store<'c>(e: &Emitter<'c>, place: Val<'c>, fours: [Val<'c>; 2]) {
    let halves = halved(e, fours);
    halves.into_iter().enumerate().for_each(|(at, words)| e.store_aligned(e.offset_by(place, COPY * at), words));
}

/// Halves a row of single precision in shared memory, in its place; all threads of the block, which have met before and must meet
/// afterwards.
pub fn prepare<'c>(e: &Emitter<'c>, row: Val<'c>, depth: usize) {
    let name = "prepare_halves";
    if e.first_time(name) {
        e.function(name, Linkage::Private, &[Ty::scalar(Elem::Shared), Ty::I64], None, |values| {
            let [row, count] = *values else { return None };
            for_each(e, e.to_i64(e.thread()), count, e.i64(THREADS), |eight| {
                let place = e.element(row, eight, EIGHT_BYTES);
                store(e, place, load(e, place));
            });
            None
        });
    }
    e.call(name, &[row, e.i64(depth / EIGHT)], None);
}

/// Bytes of what so many bytes of a column meet of the row: four a number.
pub fn row_bytes(part: usize) -> usize {
    2 * part
}

/// Adds the products of a unit to the lane's sums. `row`: what the unit meets of the row; `rest`: bytes of a column from the unit's
/// part on (`i32`), behind which stands what was there before.
pub fn multiply<'c>(
    e: &Emitter<'c>,
    places: &Places<'_, 'c>,
    turn: Val<'c>,
    (row, rest): (Val<'c>, Val<'c>),
    sums: &[Val<'c>],
) -> Vec<Val<'c>> {
    let bytes = places.ring.part / PARTS;
    let (group, within) = (e.shift_right(places.lane, 2), e.and(places.lane, e.i32(3)));
    // Rows of the units are columns, part by part; columns of the units are halves, part by part.
    let (column, half) = (e.and(group, e.i32(COLUMNS as i32 - 1)), e.and(group, e.i32(1)));
    let [row_part, column_part] =
        [COLUMNS, 2].map(|by| e.and(e.shift_right(group, i64::from(by.ilog2())), e.i32(PARTS as i32 - 1)));
    let first = |part| e.add(e.mul(part, e.i32(bytes as i32)), e.mul(within, e.i32(COPY as i32)));
    let (own, met) = (first(row_part), first(column_part));
    let weights = places.column(turn, column);
    let beside = e.mul(half, e.i32(COPY as i32));
    let add = |whole: bool| {
        let mut sums = sums.to_vec();
        let load = |base: Val<'c>, place: Val<'c>, there: Val<'c>| {
            if whole {
                return e.load_aligned(e.offset(base, e.to_i64(place)), Ty::i32(4));
            }
            let place = e.select(there, place, e.i32(0));
            let loaded = e.load_aligned(e.offset(base, e.to_i64(place)), Ty::i32(4));
            e.select(there, loaded, e.int(Ty::i32(4), 0))
        };
        for at in (0..bytes).step_by(LOAD) {
            let [own, met] = [own, met].map(|place| e.add(place, e.i32(at as i32)));
            let there = |place| e.cmp(Cmp::Lt, place, rest);
            let w = load(weights, own, there(own));
            let x = load(row, e.add(e.shift_left(met, 1), beside), there(met));
            for (half, sums) in sums.chunks_exact_mut(4).enumerate() {
                let none = e.i32(0);
                let left = [e.extract(w, 2 * half), none, e.extract(w, 2 * half + 1), none];
                let right = [0, 1].map(|n| e.extract(x, 2 * half + n));
                sums.copy_from_slice(&e.multiply_fragments(left, right, [sums[0], sums[1], sums[2], sums[3]]));
            }
        }
        sums
    };
    e.if_else(e.cmp(Cmp::Ge, rest, e.i32(places.ring.part as i32)), || add(true), || add(false))
}

/// Writes the sums of a group of columns to `place`.
pub fn leave<'c>(e: &Emitter<'c>, lane: Val<'c>, place: Val<'c>, sums: &[Val<'c>]) {
    let (group, within) = (e.shift_right(lane, 2), e.and(lane, e.i32(3)));
    // Both halves, of all chains; what a part met stands in the lanes of its own number.
    let both = sums.chunks_exact(4).map(|own| e.add(own[0], own[1])).reduce(|a, b| e.add(a, b));
    let mine = e.cmp(Cmp::Eq, within, e.shift_right(group, i64::from(COLUMNS.ilog2())));
    let mut sum = e.select(mine, both.unwrap_or_else(|| e.f32(0.0)), e.f32(0.0));
    // Over the lanes of a row, then over the rows of a column.
    let rows = std::iter::successors(Some(COLUMNS), |by| Some(2 * by)).take_while(|by| *by < GROUPS);
    for by in [1, 2].into_iter().chain(rows.map(|by| 4 * by)) {
        sum = e.add(sum, e.exchange(sum, by));
    }
    let first = e.and(e.cmp(Cmp::Eq, within, e.i32(0)), e.cmp(Cmp::Lt, group, e.i32(COLUMNS as i32)));
    e.if_then(first, || e.store(e.element(place, e.to_i64(group), 4), sum));
}

/// A load is two instructions' numbers, and there are as many parts as pairs of columns.
const _: () = assert!(CHAINS == 2 && PARTS == 4 && PART.is_multiple_of(PARTS * LOAD));
