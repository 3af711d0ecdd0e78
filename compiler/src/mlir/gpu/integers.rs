//! A row of 16-bit integers, which quantised weights multiply as integers: of each group of the row the largest is ±32767, as on a
//! processor. That loses less than single precision does over a long sum, takes half of the reads, and sums of a piece are exact.
//!
//! A part of the row lies as lanes read it: eight numbers of each lane side by side, then the next eight of each. Behind the integers
//! stand the scales of all groups, then what the weights' offset makes of each group. Weights that are no integers meet the row as it is (singles.rs).

use super::THREADS;
use super::parts::{Parts, Scale};
use super::singles::{self, Singles};
use super::team::across_lanes;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Elem, Emitter, Linkage, Ty, Val};
use braid_dsl::model::Reduce;
use braid_runtime::artifact::{Dtype, GROUP, PIECE};

/// The largest integer of a group.
const LARGEST: f64 = 32767.0;
/// Numbers that a thread makes at once.
const EACH: usize = 4;
/// Numbers of 16 bytes.
const EIGHT: usize = 8;

/// What a lane multiplies with its piece of a part of each column.
pub enum Piece<'c> {
    /// Of a row of integers.
    Integers(Integers<'c>),
    /// Of a row in single precision.
    Singles(Singles<'c>),
}

/// Integers of a row.
pub struct Integers<'c> {
    /// Pairs of integers.
    words: Vec<Val<'c>>,
    /// What they are multiplied with.
    scale: Val<'c>,
    /// What the weights' offset makes of their group, if they have one.
    beside: Option<Val<'c>>,
}

impl Parts {
    /// Bytes of a part of a row.
    fn row_part(self) -> usize {
        2 * WARP * self.part.piece()
    }

    /// Where scales begin in a prepared row: behind the integers, and behind the numbers that they are made of.
    fn scales_at(self, depth: usize) -> usize {
        (4 * depth).max(depth.div_ceil(self.part.numbers()) * self.row_part())
    }

    /// Bytes of a row before and after it is prepared.
    pub fn row_bytes(self, depth: usize) -> usize {
        if singles::are_used(self) {
            return 4 * depth;
        }
        self.scales_at(depth) + 8 * depth.div_ceil(GROUP)
    }

    /// Where a group's scale stands; its companion stands behind those of all `groups`. All `i32`.
    fn beside<'c>(self, e: &Emitter<'c>, row: Val<'c>, depth: Val<'c>, group: Val<'c>) -> [Val<'c>; 2] {
        let most = e.i32(self.part.numbers() as i32);
        let count = e.div_up(depth, most);
        let integers = e.mul(count, e.i32(self.row_part() as i32));
        let scales = e.offset(row, e.to_i64(e.max(e.shift_left(depth, 2), integers)));
        let place = e.element(scales, e.to_i64(group), 4);
        let groups = e.shift_right(depth, i64::from(GROUP.ilog2()));
        [place, e.element(place, e.to_i64(groups), 4)]
    }

    /// Makes integers of a row of single precision in shared memory, in its place; all threads of the block, which have met before and
    /// must meet afterwards. What meets weights that are no integers stays as it is.
    pub fn prepare<'c>(self, e: &Emitter<'c>, row: Val<'c>, depth: usize) {
        if singles::are_used(self) {
            return;
        }
        let name = format!("prepare_{}", self.name());
        if e.first_time(&name) {
            e.function(&name, Linkage::Private, &[Ty::scalar(Elem::Shared), Ty::I32], None, |values| {
                let [row, depth] = *values else { return None };
                // What is written in a turn lies before what is read in the next one.
                e.for_loop(e.i32(0), depth, e.i32((EACH * THREADS) as i32), &[], |first, _| {
                    self.prepare_some(e, row, depth, first);
                    vec![]
                });
                None
            });
        }
        e.call(&name, &[row, e.i32(depth as i32)], None);
    }

    /// Four numbers of each thread, from `first` on.
    fn prepare_some<'c>(self, e: &Emitter<'c>, row: Val<'c>, depth: Val<'c>, first: Val<'c>) {
        let number = e.add(first, e.shift_left(e.thread(), i64::from(EACH.ilog2())));
        let there = e.cmp(Cmp::Lt, number, depth);
        let four = Ty::f32(EACH);
        let load = || vec![e.load_aligned(e.element(row, e.to_i64(number), 4), four)];
        let numbers = e.if_else(there, load, || vec![e.float(four, 0.0)])[0];
        e.sync();
        // Sizes are compared as integers, so that what is no number is the largest of all, and stays in the scale.
        let sizes = e.and(e.bitcast(numbers, Elem::I32), e.int(Ty::i32(EACH), i64::from(i32::MAX)));
        let largest = across_lanes(e, Reduce::Max, e.reduce_max(sizes), GROUP / EACH);
        let largest = e.bitcast(largest, Elem::F32);
        let some = e.cmp(Cmp::Gt, largest, e.f32(0.0));
        let inverse = e.select(some, e.div(e.f32(LARGEST as f32), largest), e.f32(0.0));
        let integers = e.round_i32(e.mul(numbers, inverse));
        let sum = across_lanes(e, Reduce::Sum, e.reduce_add(integers), GROUP / EACH);
        e.if_then(there, || {
            e.store_aligned(self.place(e, row, number), packed(e, integers));
            let one = e.cmp(Cmp::Eq, e.and(number, e.i32(GROUP as i32 - 1)), e.i32(0));
            e.if_then(one, || {
                let scale = e.div(largest, e.f32(LARGEST as f32));
                let [own, behind] = self.beside(e, row, depth, e.shift_right(number, i64::from(GROUP.ilog2())));
                e.store(own, scale);
                match self.dtype {
                    Dtype::Int4 => e.store(behind, e.mul(sum, e.i32(-8))),
                    Dtype::Int4z => e.store(behind, e.mul(e.to_f32(sum), scale)),
                    _ => {}
                }
            });
        });
    }

    /// Where a number's integer lies.
    fn place<'c>(self, e: &Emitter<'c>, row: Val<'c>, number: Val<'c>) -> Val<'c> {
        let int = |number: usize| e.i32(number as i32);
        let (part, within) = (e.div(number, int(self.part.numbers())), e.rem(number, int(self.part.numbers())));
        let (lane, of_lane) = (e.div(within, int(self.part.piece())), e.rem(within, int(self.part.piece())));
        let (eight, at) = (e.div(of_lane, int(EIGHT)), e.rem(of_lane, int(EIGHT)));
        let before = e.add(e.mul(part, int(self.row_part())), e.mul(eight, int(WARP * PIECE)));
        e.offset(row, e.to_i64(e.add(before, e.add(e.mul(lane, int(PIECE)), e.shift_left(at, 1)))))
    }

    /// What lane `lane` has of part `part` of a prepared row.
    pub fn piece<'c>(self, e: &Emitter<'c>, row: Val<'c>, depth: Val<'c>, (part, lane): (Val<'c>, Val<'c>)) -> Piece<'c> {
        if singles::are_used(self) {
            return Piece::Singles(Singles::of(e, self, row, (part, lane)));
        }
        let own = e.element(e.element(row, e.to_i64(part), self.row_part()), e.to_i64(lane), PIECE);
        let eights = (0..self.part.piece() / EIGHT).map(|at| e.load_aligned(e.offset_by(own, at * WARP * PIECE), Ty::i32(4)));
        let words = eights.flat_map(|eight| (0..4).map(move |at| e.extract(eight, at))).collect();
        let group = e.add(e.mul(part, e.i32(self.part.groups as i32)), self.group(e, lane));
        let [scale, behind] = self.beside(e, row, depth, group);
        let beside = match self.dtype {
            Dtype::Int4 => Some(e.load(behind, Ty::I32)),
            Dtype::Int4z => Some(e.load(behind, Ty::F32)),
            _ => None,
        };
        Piece::Integers(Integers { words, scale: e.load(scale, Ty::F32), beside })
    }

    /// The sum with a lane's products: `words` are the lane's piece of a part, 4 `i32`.
    pub fn multiply<'c>(self, e: &Emitter<'c>, piece: &Piece<'c>, (words, scale): (Val<'c>, Scale<'c>), sum: Val<'c>) -> Val<'c> {
        let piece = match piece {
            Piece::Integers(piece) => piece,
            Piece::Singles(own) => return own.multiply(e, words, scale, sum),
        };
        let start = piece.beside.filter(|_| self.dtype == Dtype::Int4).unwrap_or_else(|| e.i32(0));
        let bytes = (0..4).flat_map(|word| self.bytes(e, e.extract(words, word)));
        let whole = bytes.zip(piece.words.chunks_exact(2)).fold(start, |sum, (bytes, x)| e.dot_bytes(sum, [x[0], x[1]], bytes));
        let scale = scale.single(e);
        let sum = e.fma(e.to_f32(whole), e.mul(scale.scale, piece.scale), sum);
        match (scale.offset, piece.beside) {
            (Some(offset), Some(all)) => e.fma(offset, all, sum),
            _ => sum,
        }
    }
}

/// Four integers as 16 bits each.
fn packed<'c>(e: &Emitter<'c>, integers: Val<'c>) -> Val<'c> {
    let low = |at: usize| e.and(e.extract(integers, at), e.i32(0xFFFF));
    let pair = |at: usize| e.or(low(at), e.shift_left(e.extract(integers, at + 1), 16));
    e.insert(e.insert(e.poison(Ty::i32(2)), 0, pair(0)), 1, pair(2))
}

/// A turn's numbers are whole groups.
const _: () = assert!((EACH * THREADS).is_multiple_of(GROUP));
