//! Several rows with quantised weights on the matrix units (several.rs): of integers as integers, of numbers of eight bits (e4m3) as halves.
//!
//! A unit of a column is *slots* of a group each; those in which the column's scales stand have none of a row. Scales come to shared memory when
//! a part begins, as they may lie in another unit. A row's group is integers of 16 bits, as one row alone has them (integers.rs), in two bytes
//! each: eight rows' upper and lower bytes are the units' sixteen rows, and their sums, which are exact, those of whole integers.

use super::halves;
use super::parts::Parts;
use super::ready;
use super::singles;
use super::team::across_lanes;
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Ty, Val};
use braid_dsl::model::Reduce;
use braid_runtime::artifact::{Dtype, GROUP, PART};

/// The largest integer of a group: with another byte below, its upper one is one, too.
const LARGEST: f64 = 127.0 * 256.0 + 127.0;
/// Numbers of a group that a lane has.
const EIGHT: usize = 8;
/// Lanes that share a row, or a column.
pub const LANES: usize = GROUP / EIGHT;
/// Columns of a unit.
const COLUMNS: usize = 8;
/// Bytes of a slot's scales.
const SCALES: usize = 2 * COLUMNS;
/// Scales of a lane that are under way at once.
const AHEAD: usize = 4;
/// Most slots of a unit: registers have what they meet of sixteen rows, and all of those rows' numbers while they come.
const SLOTS: usize = LANES;
/// Integers of four bits stand in the upper halves of bytes.
const UPPER: i32 = i32::from_ne_bytes([0xF0; 4]);
const SIGNS: i32 = i32::from_ne_bytes([0x80; 4]);

/// Units of quantised columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How numbers are stored.
    pub parts: Parts,
    /// Bytes of a unit of a column.
    pub unit: usize,
}

/// What weights of a unit meet of some rows.
pub struct Met<'c>(Vec<Row<'c>>);

/// The same of one row.
struct Row<'c> {
    /// Of each slot. Integers: upper and lower bytes of four numbers, and of the next four. Numbers: pairs of first halves, then of what is left.
    words: Vec<Vec<Val<'c>>>,
    scale: Option<Val<'c>>,
}

impl<'c> Row<'c> {
    /// Nothing (0, `i64`), which is known when the row's words are: it comes from a lane that these name. The assembler puts loads ahead of
    /// all that they do not wait for, and registers have not all rows' numbers at once.
    fn nothing(&self, e: &Emitter<'c>) -> Val<'c> {
        let all = self.words.iter().flatten().copied().reduce(|a, b| e.xor(a, b)).unwrap_or_else(|| e.i32(0));
        e.to_i64(e.of_lane(e.i32(0), e.and(all, e.i32(WARP as i32 - 1))))
    }
}

/// A unit's place in its columns; all `i32`.
#[derive(Clone, Copy)]
pub struct Spot<'c> {
    /// Bytes of a column from it on.
    rest: Val<'c>,
    /// Which part of a column it is of.
    part: Val<'c>,
    /// Which group of that its first slot would be; those before the first one are none.
    first: Val<'c>,
}

impl<'c> Spot<'c> {
    /// Whether a slot has a group.
    fn has(self, e: &Emitter<'c>, slots: Slots, slot: Val<'c>) -> Val<'c> {
        let before_the_end = e.cmp(Cmp::Lt, e.mul(slot, e.i32(slots.parts.part.group_bytes as i32)), self.rest);
        e.and(before_the_end, e.cmp(Cmp::Ge, e.add(self.first, slot), e.i32(0)))
    }
}

/// Columns of a round.
#[derive(Clone, Copy)]
pub struct Columns<'c> {
    /// Where the first one begins.
    pub first: Val<'c>,
    /// How many; `i32`, as the next.
    pub count: Val<'c>,
    /// Bytes of each.
    pub bytes: Val<'c>,
}

impl Slots {
    /// Most bytes of a unit of a column.
    pub fn unit_of(parts: Parts) -> usize {
        SLOTS * parts.part.group_bytes
    }

    fn count(self) -> usize {
        self.unit / self.parts.part.group_bytes
    }

    /// Bytes of the scales of so many columns, and of as many offsets, if there are any.
    pub fn bytes(self, columns: usize) -> usize {
        columns / COLUMNS * self.count() * SCALES * if self.parts.part.offsets { 2 } else { 1 }
    }

    /// Where a unit is that so many bytes of a column are before.
    pub fn spot<'c>(self, e: &Emitter<'c>, (before, rest): (Val<'c>, Val<'c>)) -> Spot<'c> {
        let part = self.parts.part;
        let within = e.sub(e.and(before, e.i32(PART as i32 - 1)), e.i32(part.head as i32));
        let first = e.shift_right(within, i64::from(part.group_bytes.ilog2()));
        Spot { rest, part: e.shift_right(before, i64::from(PART.ilog2())), first }
    }

    /// Brings the scales of a unit to `to`, where all lanes see them; what is none is nothing.
    pub fn bring<'c>(self, e: &Emitter<'c>, (to, lane): (Val<'c>, Val<'c>), columns: Columns<'c>, spot: Spot<'c>) {
        let (count, part) = (self.count(), self.parts.part);
        let (all, nothing) = (e.mul(columns.count, e.i32(count as i32)), e.float(Ty::scalar(Elem::F16), 0.0));
        // Lanes are done with those of the unit before.
        e.sync_warp();
        e.for_loop(e.i32(0), all, e.i32((AHEAD * WARP) as i32), &[], |base, _| {
            let one = |at: usize| {
                let number = e.add(base, e.add(lane, e.i32((at * WARP) as i32)));
                let (column, slot) = (e.shift_right(number, i64::from(count.ilog2())), e.and(number, e.i32(count as i32 - 1)));
                let there = e.and(e.cmp(Cmp::Lt, number, all), spot.has(e, self, slot));
                let within = e.add(e.shift_left(spot.part, i64::from(PART.ilog2())), e.shift_left(e.add(spot.first, slot), 1));
                let place = e.select(there, e.add(e.mul(column, columns.bytes), within), e.i32(0));
                let from = e.offset(columns.first, e.to_i64(place));
                let load = |by: usize| e.select(there, e.load(e.offset_by(from, by), Ty::scalar(Elem::F16)), nothing);
                let offset = part.offsets.then(|| load(2 * part.groups));
                (number, column, slot, [Some(load(0)), offset])
            };
            // All loads first: they are under way together.
            let made: Vec<_> = (0..AHEAD).map(one).collect();
            for (number, column, slot, loaded) in made {
                e.if_then(e.cmp(Cmp::Lt, number, all), || {
                    let own = self.scales(e, to, (e.shift_right(column, i64::from(COLUMNS.ilog2())), slot));
                    let own = e.element(own, e.to_i64(e.and(column, e.i32(COLUMNS as i32 - 1))), 2);
                    loaded.iter().flatten().enumerate().for_each(|(at, scale)| e.store(e.offset_by(own, at * SCALES), *scale));
                });
            }
            vec![]
        });
        e.sync_warp();
    }

    /// Where the scales of a slot of eight columns are, of all that are at `all`.
    fn scales<'c>(self, e: &Emitter<'c>, all: Val<'c>, (eight, slot): (Val<'c>, Val<'c>)) -> Val<'c> {
        let number = e.add(e.mul(eight, e.i32(self.count() as i32)), slot);
        e.element(all, e.to_i64(number), self.bytes(COLUMNS) / self.count())
    }

    /// What a unit meets of some rows; `within`: the lane's number among those of its rows, which begin at `rows`.
    pub fn met<'c>(self, e: &Emitter<'c>, (rows, within): (&[Val<'c>], Val<'c>), spot: Spot<'c>) -> Met<'c> {
        let before = e.mul(spot.part, e.i32(self.parts.part.groups as i32));
        let place = |slot: usize| {
            let slot = e.i32(slot as i32);
            let group = e.add(before, e.add(spot.first, slot));
            // Where there is none the first is read again, and its products meet scales that are nothing.
            let number = e.select(spot.has(e, self, slot), e.mul(group, e.i32(GROUP as i32)), e.i32(0));
            e.to_i64(e.add(number, e.mul(within, e.i32(EIGHT as i32))))
        };
        let places: Vec<Val> = (0..self.count()).map(place).collect();
        let mut made: Vec<Row> = vec![];
        for row in rows {
            let row = made.last().map_or(*row, |before| e.offset(*row, before.nothing(e)));
            let fours =
                |place: &Val<'c>| [0, 16].map(|by| e.load_aligned(e.offset_by(e.element(row, *place, 4), by), Ty::f32(4)));
            // All loads first: they are under way together.
            let loaded: Vec<[Val; 2]> = places.iter().map(fours).collect();
            let mut own = Row { words: vec![], scale: None };
            for (slot, fours) in loaded.into_iter().enumerate() {
                let (words, scale) = self.met_of(e, fours);
                own.words.push(words);
                let mine = e.cmp(Cmp::Eq, within, e.i32(slot as i32));
                own.scale = scale.map(|scale| own.scale.map_or(scale, |others| e.select(mine, scale, others)));
            }
            made.push(own);
        }
        Met(made)
    }

    /// What weights meet of a lane's numbers; of integers also their scale.
    fn met_of<'c>(self, e: &Emitter<'c>, fours: [Val<'c>; 2]) -> (Vec<Val<'c>>, Option<Val<'c>>) {
        if singles::are_used(self.parts) {
            let words = halves::halved(e, fours).into_iter().flat_map(|words| (0..4).map(move |at| e.extract(words, at)));
            return (words.collect(), None);
        }
        let (words, scale) = integers(e, self.parts, fours);
        (words, Some(scale))
    }

    /// What a unit meets of some rows of which a step before has made integers.
    pub fn met_ready<'c>(self, e: &Emitter<'c>, (rows, within): (&[Val<'c>], Val<'c>), spot: Spot<'c>) -> Met<'c> {
        let before = e.mul(spot.part, e.i32(self.parts.part.groups as i32));
        // Where there is no group the first is read again, and its products meet scales that are nothing.
        let group = |slot: Val<'c>| e.select(spot.has(e, self, slot), e.add(before, e.add(spot.first, slot)), e.i32(0));
        let all: Vec<Val> = (0..self.count()).map(|slot| group(e.i32(slot as i32))).collect();
        let own = group(within);
        let load = |row: &Val<'c>| {
            let word = |group: &Val<'c>| {
                let [place, _] = ready::places(e, *row, *group);
                let words = e.load_aligned(e.element(place, e.to_i64(within), COPY), Ty::i32(4));
                (0..4).map(|at| e.extract(words, at)).collect()
            };
            let [_, scale] = ready::places(e, *row, own);
            Row { words: all.iter().map(word).collect(), scale: Some(e.load(scale, Ty::F32)) }
        };
        Met(rows.iter().map(load).collect())
    }

    /// Adds what a unit of eight columns makes with some rows to the lane's two sums of each. `weights`: where the lane's column of the unit begins;
    /// `scales`: all scales of the unit's part, and which eight columns these are.
    pub fn multiply<'c>(
        self,
        e: &Emitter<'c>,
        (weights, lane): (Val<'c>, Val<'c>),
        (scales, eight): (Val<'c>, Val<'c>),
        met: &Met<'c>,
        sums: &mut [[Val<'c>; 2]],
    ) {
        let (bytes, offsets) = (self.parts.part.group_bytes, self.parts.part.offsets);
        let (first, within) = (e.and(lane, e.i32(-(LANES as i32))), e.and(lane, e.i32(LANES as i32 - 1)));
        for slot in 0..self.count() {
            let own = e.element(e.offset_by(weights, slot * bytes), e.to_i64(within), bytes / LANES);
            let weights = self.words(e, own);
            let scales = e.element(self.scales(e, scales, (eight, e.i32(slot as i32))), e.to_i64(within), 4);
            let pair = |by: usize| {
                let both = e.load_aligned(e.offset_by(scales, by), Ty::vector(Elem::F16, 2));
                [0, 1].map(|at| e.to_f32(e.extract(both, at)))
            };
            let (scale, offset) = (pair(0), offsets.then(|| pair(SCALES)));
            for (row, sums) in met.0.iter().zip(sums.iter_mut()) {
                let words = &row.words[slot];
                let Some(scale_of_row) = row.scale else {
                    let made = products_of_halves(e, words, &weights);
                    *sums = [0, 1].map(|column| e.fma(made[column], scale[column], sums[column]));
                    continue;
                };
                let scale_of_row = e.of_lane(scale_of_row, e.add(first, e.i32(slot as i32)));
                let made = products_of_integers(e, words, &weights);
                *sums = [0, 1].map(|column| e.fma(made[column], e.mul(scale_of_row, scale[column]), sums[column]));
                let Some(offset) = offset else { continue };
                // Weights are eight less than they are here, and sixteen times as large.
                let all = products_of_integers(e, words, &[e.i32(i32::from_ne_bytes([1; 4])); 2]);
                let of_one = |column: usize| e.fma(scale[column], e.f32(128.0), e.mul(offset[column], e.f32(16.0)));
                *sums = [0, 1].map(|column| e.fma(all[column], e.mul(scale_of_row, of_one(column)), sums[column]));
            }
        }
    }

    /// A lane's eight weights of a slot, as the units take them.
    fn words<'c>(self, e: &Emitter<'c>, place: Val<'c>) -> Vec<Val<'c>> {
        let two = || e.load_aligned(place, Ty::i32(2));
        match self.parts.dtype {
            Dtype::Int4 | Dtype::Int4z => {
                let word = e.load(place, Ty::I32);
                let signed = |word| e.xor(e.and(word, e.i32(UPPER)), e.i32(SIGNS));
                vec![signed(e.shift_left(word, 4)), signed(word)]
            }
            Dtype::Fp8 => {
                let words = two();
                let pairs = |at: usize| {
                    let four = e.e4m3_of(e.extract(words, at));
                    [e.pack_bf16(four[0], four[1]), e.pack_bf16(four[2], four[3])]
                };
                [0, 1].into_iter().flat_map(pairs).collect()
            }
            _ => {
                let words = two();
                [0, 1].map(|at| e.extract(words, at)).to_vec()
            }
        }
    }
}

/// Integers of a lane's eight numbers of a group: upper and lower bytes of four, then of the next four; and what makes numbers of them. Lanes that have
/// a group stand side by side.
pub fn integers<'c>(e: &Emitter<'c>, parts: Parts, fours: [Val<'c>; 2]) -> (Vec<Val<'c>>, Val<'c>) {
    // Sizes are compared as integers, so that what is no number is the largest of all, and stays in the scale.
    let size = |four: Val<'c>| e.reduce_max(e.and(e.bitcast(four, Elem::I32), e.int(Ty::i32(4), i64::from(i32::MAX))));
    let largest = across_lanes(e, Reduce::Max, e.max(size(fours[0]), size(fours[1])), LANES);
    let largest = e.bitcast(largest, Elem::F32);
    // In two steps, so that the reciprocal of a large number is not too small.
    let inverse = e.mul(e.reciprocal(e.mul(largest, e.f32(1.0 / 16.0))), e.f32((LARGEST / 16.0) as f32));
    let words = fours.into_iter().flat_map(|four| {
        let integers = e.round_low(four, inverse);
        let upper = e.add(integers, e.int(Ty::i32(4), 128));
        [(upper, 1), (integers, 0)].map(|(all, byte)| e.bytes_of([0, 1, 2, 3].map(|at| e.extract(all, at)), byte))
    });
    let by = if parts.part.group_bytes < GROUP { 16.0 * LARGEST } else { LARGEST };
    (words.collect(), e.mul(largest, e.f32((1.0 / by) as f32)))
}

/// The sums of a lane's row of integers and its two columns.
fn products_of_integers<'c>(e: &Emitter<'c>, words: &[Val<'c>], weights: &[Val<'c>]) -> [Val<'c>; 2] {
    let sums = e.multiply_bytes(std::array::from_fn(|at| words[at]), [weights[0], weights[1]], [e.i32(0); 4]);
    [0, 1].map(|at| e.to_f32(e.add(e.shift_left(sums[at], 8), sums[at + 2])))
}

/// The same of halves.
fn products_of_halves<'c>(e: &Emitter<'c>, words: &[Val<'c>], weights: &[Val<'c>]) -> [Val<'c>; 2] {
    let (high, low) = words.split_at(EIGHT / 2);
    let sums = [0, 2].into_iter().fold([e.f32(0.0); 4], |sums, at| {
        e.multiply_fragments([high[at], low[at], high[at + 1], low[at + 1]], [weights[at], weights[at + 1]], sums)
    });
    [0, 1].map(|at| e.add(sums[at], sums[at + 2]))
}

/// A lane has whole words of its group, of integers of four bits, too.
const _: () = assert!(GROUP / 2 / LANES == 4);
