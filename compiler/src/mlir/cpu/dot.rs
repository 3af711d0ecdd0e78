//! Tiles of products whose operands meet as pairs of 16-bit numbers: quantised weights with rows of 16-bit integers, or bfloat16
//! with rows rounded to it; or as quads of bytes: quantised weights with rows of 8-bit integers. Rows are *prepared* once for many panels.
//!
//! A prepared row of integers is, for each group of the depth, 32 integers of which the largest is ±32767, then the scales of all
//! groups, then what the weights' offset makes of each group. That loses less than single precision does over a long sum, and sums
//! of a group are exact, so that results do not depend on how many rows a tile has. Of bytes the largest is ±127: rows lose what weights of eight
//! bits do.

use crate::mlir::common::site::{Setting, for_each, stream};
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use braid_runtime::artifact::{Dtype, GROUP};

/// Steps of a group; each has four pairs, or two quads.
const STEPS: usize = 4;
/// Sums of one tile that are under way at once, at least.
const UNDER_WAY: usize = 8;
/// Sums of bytes that the 32 registers of processors with such products hold beside those over groups. A group is only eight instructions for each
/// sum, so that larger tiles, whose sums over groups wait in memory, lose more by that than they save in loads.
const SUMS_OF_BYTES: usize = 12;

/// A number of a prepared group: how many bytes it has, and the largest.
fn integer(dtype: Dtype) -> (Elem, f64) {
    if dtype.has_quads() { (Elem::I8, 127.0) } else { (Elem::I16, 32767.0) }
}

/// Bytes of a prepared group's integers.
fn group_bytes(dtype: Dtype) -> usize {
    integer(dtype).0.bytes() * GROUP
}

/// What is stored beyond each weight, if that is made good by where sums begin.
fn offset(dtype: Dtype) -> Option<i32> {
    match dtype {
        Dtype::Int4 | Dtype::Int4Quads => Some(8),
        Dtype::Int8Quads => Some(128),
        _ => None,
    }
}

/// The most rows of a tile of so many vectors, if the storage has a bound of its own.
pub fn most_rows(dtype: Dtype, vectors: usize) -> Option<usize> {
    dtype.has_quads().then_some((SUMS_OF_BYTES / vectors).max(1))
}

/// Bytes of a prepared row.
pub fn row_bytes(depth: usize, dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bf16Pairs => dtype.bytes(depth).next_multiple_of(64),
        _ => (depth.div_ceil(GROUP) * (group_bytes(dtype) + 8)).next_multiple_of(64),
    }
}

/// The name of the function that prepares a row: `(row, depth, prepared)`.
pub fn prepare_name(dtype: Dtype) -> String {
    format!("prepare_{dtype:?}").to_lowercase()
}

/// Emits the function that prepares a row.
pub fn prepare_function(e: &Emitter, dtype: Dtype, lanes: usize) {
    e.function(&prepare_name(dtype), Linkage::Private, &[Ty::PTR, Ty::I64, Ty::PTR], None, |values| {
        let [row, depth, prepared] = *values else { return None };
        if dtype == Dtype::Bf16Pairs {
            prepare_bf16(e, [row, depth, prepared], lanes);
        } else {
            let (together, groups) = (lanes / 2, groups(e, depth));
            let whole = e.mul(e.div(depth, e.i64(GROUP * together)), e.i64(together));
            let prepared = Prepared { e, dtype, lanes, row, depth, place: prepared, groups };
            for_each(e, e.i64(0), whole, e.i64(together), |group| prepared.some(group, together));
            for_each(e, whole, groups, e.i64(1), |group| prepared.some(group, 1));
        }
        None
    });
}

fn groups<'c>(e: &Emitter<'c>, depth: Val<'c>) -> Val<'c> {
    e.div(e.add(depth, e.i64(GROUP - 1)), e.i64(GROUP))
}

fn prepare_bf16<'c>(e: &Emitter<'c>, [row, depth, prepared]: [Val<'c>; 3], lanes: usize) {
    let padded = e.mul(e.div(e.add(depth, e.i64(1)), e.i64(2)), e.i64(2));
    for_each(e, e.i64(0), padded, e.i64(lanes), |at| {
        let here = e.mask(lanes, e.sub(depth, at));
        let x = e.load_masked(e.element(row, at, 4), here, Ty::f32(lanes));
        let there = e.mask(lanes, e.sub(padded, at));
        e.store_masked(e.element(prepared, at, 2), there, e.convert(x, Elem::Bf16));
    });
}

/// A row of integers in work.
struct Prepared<'k, 'c> {
    e: &'k Emitter<'c>,
    dtype: Dtype,
    lanes: usize,
    row: Val<'c>,
    depth: Val<'c>,
    place: Val<'c>,
    groups: Val<'c>,
}

impl<'c> Prepared<'_, 'c> {
    /// Prepares `count` groups from one on, whose scales are made side by side; the last of a row, which may be part of one, is done alone.
    fn some(&self, group: Val<'c>, count: usize) {
        let (e, lanes, dtype) = (self.e, self.lanes, self.dtype);
        let first = e.mul(group, e.i64(GROUP));
        let numbers: Vec<Val> =
            (0..count * GROUP).step_by(lanes).map(|at| self.load(e.add(first, e.i64(at)), count > 1)).collect();
        // Sizes are compared as integers, so that what is no number is the largest of all, and stays in the scale.
        let size = |x: &Val<'c>| e.and(e.bitcast(*x, Elem::I32), e.int(Ty::i32(lanes), i64::from(i32::MAX)));
        let of_group = |own: &[Val<'c>]| own[1..].iter().fold(size(&own[0]), |most, x| e.max(most, size(x)));
        let sizes: Vec<Val> = numbers.chunks(GROUP / lanes).map(of_group).collect();
        let largest = e.bitcast(e.reduce_max_each(&sizes), Elem::F32);
        let (elem, most) = integer(dtype);
        let scale = e.div(largest, e.like(largest, most));
        let some = e.cmp(Cmp::Gt, largest, e.like(largest, 0.0));
        let inverse = e.select(some, e.div(e.like(largest, most), largest), e.like(largest, 0.0));
        let place = e.element(self.place, group, group_bytes(dtype));
        let mut sums = vec![e.int(Ty::i32(lanes), 0); count];
        for (at, x) in numbers.iter().enumerate() {
            let own = at * lanes / GROUP;
            let integers = e.round_i32(e.mul(*x, e.extract(inverse, own)));
            e.store(e.offset_by(place, elem.bytes() * lanes * at), e.convert(integers, elem));
            sums[own] = e.add(sums[own], integers);
        }
        let scales = e.element(self.place, self.groups, group_bytes(dtype));
        e.store(e.element(scales, group, 4), scale);
        let beside = e.element(e.element(scales, self.groups, 4), group, 4);
        let sum = || e.reduce_add_each(&sums);
        match offset(dtype) {
            Some(offset) => e.store(beside, e.mul(sum(), e.i32(-offset))),
            None if dtype.plain() == Dtype::Int4z => e.store(beside, e.mul(e.to_f32(sum()), scale)),
            None => {}
        }
    }

    /// The row's numbers from one on; `whole`: all are there.
    fn load(&self, at: Val<'c>, whole: bool) -> Val<'c> {
        let (e, place) = (self.e, self.e.element(self.row, at, 4));
        match whole {
            true => e.load(place, Ty::f32(self.lanes)),
            false => e.load_masked(place, e.mask(self.lanes, e.sub(self.depth, at)), Ty::f32(self.lanes)),
        }
    }
}

/// Emits the function of one tile, `(pointers to prepared rows, panel, depth, tile)`.
pub fn tile_function(e: &Emitter, name: &str, rows: usize, dtype: Dtype, width: usize, setting: Setting) {
    e.function(name, Linkage::Private, &[Ty::PTR, Ty::PTR, Ty::I64, Ty::PTR], None, |values| {
        let [pointers, panel, depth, tile] = *values else { return None };
        let lefts: Vec<Val> = (0..rows).map(|i| e.load(e.offset_by(pointers, 8 * i), Ty::PTR)).collect();
        let groups = groups(e, depth);
        let own = Tile { e, dtype, width, setting, lefts, panel, depth, groups };
        match dtype {
            Dtype::Bf16Pairs => own.pairs(tile),
            _ => own.integers(tile),
        }
        None
    });
}

/// What makes a new sum of an old one.
type Change<'a, 'c> = &'a dyn Fn(Val<'c>) -> Val<'c>;

struct Tile<'k, 'c> {
    e: &'k Emitter<'c>,
    dtype: Dtype,
    width: usize,
    setting: Setting,
    lefts: Vec<Val<'c>>,
    panel: Val<'c>,
    depth: Val<'c>,
    groups: Val<'c>,
}

impl<'c> Tile<'_, 'c> {
    fn vectors(&self) -> usize {
        self.width / self.setting.lanes
    }

    /// Sums of a tile: rows times vectors.
    fn sums(&self) -> usize {
        self.lefts.len() * self.vectors()
    }

    /// Whether registers hold the sums of a group beside those over groups.
    fn in_registers(&self) -> bool {
        self.sums() <= if self.dtype.has_quads() { SUMS_OF_BYTES } else { UNDER_WAY }
    }

    /// How many partial sums stand for each sum.
    fn parts(&self) -> usize {
        let most = if self.dtype.has_quads() { STEPS / 2 } else { STEPS };
        (UNDER_WAY / self.sums()).clamp(1, most)
    }

    fn store(&self, tile: Val<'c>, sums: &[Val<'c>]) {
        for (at, sum) in sums.iter().enumerate() {
            self.e.store(self.e.offset_by(tile, 4 * self.setting.lanes * at), *sum);
        }
    }

    /// Adds parts up: sum `i` has parts `i`, `i + sums`, …
    fn joined(&self, parts: &[Val<'c>]) -> Vec<Val<'c>> {
        let (first, others) = parts.split_at(self.sums());
        let mut sums = first.to_vec();
        for (at, part) in others.iter().enumerate() {
            sums[at % self.sums()] = self.e.add(sums[at % self.sums()], *part);
        }
        sums
    }

    /// bfloat16: sums of single precision over the whole depth.
    fn pairs(&self, tile: Val<'c>) {
        let (e, lanes, parts) = (self.e, self.setting.lanes, self.parts());
        let pairs = e.div(e.add(self.depth, e.i64(1)), e.i64(2));
        let one = |pair: Val<'c>, sums: &mut [Val<'c>]| {
            let row = e.element(self.panel, pair, 4 * self.width);
            stream(e, row, 4 * self.width, self.setting.schedule.ahead);
            let weights: Vec<Val> =
                (0..self.vectors()).map(|v| e.load(e.offset_by(row, 4 * lanes * v), Ty::vector(Elem::Bf16, 2 * lanes))).collect();
            for (i, left) in self.lefts.iter().enumerate() {
                let left = e.load_word(e.element(*left, pair, 4), Elem::Bf16, lanes);
                for (v, weights) in weights.iter().enumerate() {
                    let sum = &mut sums[i * self.vectors() + v];
                    *sum = e.dot_bf16(*sum, *weights, left);
                }
            }
        };
        let zeros = vec![e.float(Ty::f32(lanes), 0.0); self.sums() * parts];
        let whole = e.mul(e.div(pairs, e.i64(parts)), e.i64(parts));
        let sums = e.for_loop(e.i64(0), whole, e.i64(parts), &zeros, |pair, sums| {
            let mut sums = sums.to_vec();
            for part in 0..parts {
                one(e.add(pair, e.i64(part)), &mut sums[part * self.sums()..][..self.sums()]);
            }
            sums
        });
        let sums = e.for_loop(whole, pairs, e.i64(1), &self.joined(&sums), |pair, sums| {
            let mut sums = sums.to_vec();
            one(pair, &mut sums);
            sums
        });
        self.store(tile, &sums);
    }

    /// Quantised: exact sums of each group, times both scales, added up in single precision.
    fn integers(&self, tile: Val<'c>) {
        let (e, lanes) = (self.e, self.setting.lanes);
        let zeros = vec![e.float(Ty::f32(lanes), 0.0); self.sums()];
        if self.in_registers() {
            let sums = e.for_loop(e.i64(0), self.groups, e.i64(1), &zeros, |group, sums| {
                let (found, mut totals) = (self.group(group), sums.to_vec());
                self.scaled(group, &found, &mut |at, add| totals[at] = add(totals[at]));
                totals
            });
            return self.store(tile, &sums);
        }
        // The sums of a group take the registers, so those over groups wait in memory.
        self.store(tile, &zeros);
        for_each(e, e.i64(0), self.groups, e.i64(1), |group| {
            let found = self.group(group);
            self.scaled(group, &found, &mut |at, add| {
                let place = e.offset_by(tile, 4 * lanes * at);
                e.store(place, add(e.load_anew(place, Ty::f32(lanes))));
            });
        });
    }

    /// Where a group of the panel begins.
    fn place(&self, group: Val<'c>) -> Val<'c> {
        self.e.element(self.panel, group, self.width * self.dtype.bytes(GROUP))
    }

    /// `Σ q · left` of a group, in integers.
    fn group(&self, group: Val<'c>) -> Vec<Val<'c>> {
        let (e, parts) = (self.e, self.parts());
        stream(e, self.place(group), self.width * self.dtype.bytes(GROUP), self.setting.schedule.ahead);
        let mut sums = vec![e.int(Ty::i32(self.setting.lanes), 0); self.sums() * parts];
        if offset(self.dtype).is_some() {
            for (at, sum) in sums.iter_mut().take(self.sums()).enumerate() {
                let offset = e.load(self.beside(at / self.vectors(), group, 1), Ty::I32);
                *sum = e.splat(offset, self.setting.lanes);
            }
        }
        if self.in_registers() {
            for step in 0..STEPS {
                sums = self.step(group, e.i64(step), &sums);
            }
        } else {
            sums = e.for_loop(e.i64(0), e.i64(STEPS), e.i64(1), &sums, |step, sums| self.step(group, step, sums));
        }
        self.joined(&sums)
    }

    /// A number that stands behind the integers of a prepared row: 0 its scale, 1 what the offset makes of it.
    fn beside(&self, row: usize, group: Val<'c>, which: usize) -> Val<'c> {
        let e = self.e;
        let numbers = e.element(self.lefts[row], self.groups, group_bytes(self.dtype) + 4 * which);
        e.element(numbers, group, 4)
    }

    /// Four pairs, or two quads, of all columns and rows.
    fn step(&self, group: Val<'c>, step: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, lanes, parts, own) = (self.e, self.setting.lanes, self.parts(), group_bytes(self.dtype));
        let mut sums = sums.to_vec();
        let heads = if self.dtype.plain() == Dtype::Int4z { 2 } else { 1 };
        let row = e.element(e.offset_by(self.place(group), 2 * self.width * heads), step, self.step_bytes());
        let elem = integer(self.dtype).0;
        let words: Vec<Val> = match self.dtype.plain() {
            Dtype::Int8 => vec![],
            _ => {
                let ty = Ty::vector(elem, 4 / elem.bytes() * lanes);
                (0..self.vectors()).map(|v| e.load(e.offset_by(row, 4 * lanes * v), ty)).collect()
            }
        };
        let left_at = e.add(e.mul(group, e.i64(own)), e.mul(step, e.i64(own / STEPS)));
        for word in 0..own / STEPS / 4 {
            let weights: Vec<Val> = (0..self.vectors()).map(|v| self.weights(row, &words, (word, v))).collect();
            for (i, left) in self.lefts.iter().enumerate() {
                let left = e.load_word(e.offset_by(e.offset(*left, left_at), 4 * word), elem, lanes);
                for (v, weights) in weights.iter().enumerate() {
                    let sum = &mut sums[word % parts * self.sums() + i * self.vectors() + v];
                    *sum = match self.dtype.has_quads() {
                        true => e.dot_quads(*sum, *weights, left),
                        false => e.dot_i16(*sum, *weights, left, self.setting.vnni),
                    };
                }
            }
        }
        sums
    }

    /// The weights of vector `v` that meet word `word` of a step's rows. `words`: what the step has of those that share bytes.
    fn weights(&self, row: Val<'c>, words: &[Val<'c>], (word, v): (usize, usize)) -> Val<'c> {
        let (e, lanes) = (self.e, self.setting.lanes);
        match (self.dtype.plain(), self.dtype.has_quads()) {
            (Dtype::Int8, true) => e.load(e.offset_by(row, 4 * (self.width * word + lanes * v)), Ty::vector(Elem::I8, 4 * lanes)),
            (Dtype::Int8, false) => {
                let place = e.offset_by(row, 2 * (self.width * word + lanes * v));
                e.convert(e.load(place, Ty::vector(Elem::I8, 2 * lanes)), Elem::I16)
            }
            _ => e.and(e.shift_right(words[v], 4 * word as i64), e.int(words[v].ty(), 15)),
        }
    }

    /// Bytes of a step's columns.
    fn step_bytes(&self) -> usize {
        if self.dtype.plain() == Dtype::Int8 { 8 * self.width } else { 4 * self.width }
    }

    /// Adds what was found of a group to the sums over groups: `change` has the number of a sum, and what makes the new one of the old.
    fn scaled(&self, group: Val<'c>, found: &[Val<'c>], change: &mut dyn FnMut(usize, Change<'_, 'c>)) {
        let (e, lanes) = (self.e, self.setting.lanes);
        let place = self.place(group);
        let head = |which: usize, v: usize| e.load_f16(e.offset_by(place, 2 * (self.width * which + lanes * v)), lanes);
        let scales: Vec<Val> = (0..self.vectors()).map(|v| head(0, v)).collect();
        let offsets: Vec<Val> = match self.dtype {
            Dtype::Int4z | Dtype::Int4zQuads => (0..self.vectors()).map(|v| head(1, v)).collect(),
            _ => vec![],
        };
        for row in 0..self.lefts.len() {
            let scale = e.splat(e.load(self.beside(row, group, 0), Ty::F32), lanes);
            for (v, of_weights) in scales.iter().enumerate() {
                let at = row * self.vectors() + v;
                change(at, &|total| {
                    let total = e.fma(e.to_f32(found[at]), e.mul(*of_weights, scale), total);
                    let Some(offset) = offsets.get(v) else { return total };
                    e.fma(*offset, e.splat(e.load(self.beside(row, group, 1), Ty::F32), lanes), total)
                });
            }
        }
    }
}
