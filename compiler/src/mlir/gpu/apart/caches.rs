//! The caches of an attention as the copy engine brings them to the matrix units: bfloat16 numbers, keys `[groups][positions][key]` and
//! values turned, `[groups][value][positions]`, of every slot as many positions as the session has.

use super::{ROUNDING_THREADS, args};
use crate::forms::BLOCK;
use crate::fuse::kernel::Attention;
use crate::mlir::common::cache::Caches;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Field, SegmentFields, Ty, Val};

/// Numbers of a piece, which a thread stores at once.
const PIECE: usize = 8;
/// Positions that a block does at once, as many as a stage of attention has.
pub const POSITIONS: usize = 128;

/// Rounds what the call's sequences have in their caches: `keys` and `values` are where it goes. Behind the last position of a sequence
/// there are zeros as far as [`POSITIONS`] go.
pub fn round<'c>(e: &Emitter<'c>, code: &Attention, [call, words, keys, values]: [Val<'c>; 4]) {
    let args = args(e, call, words);
    let (keys, values) = (e.device_memory(keys), e.device_memory(values));
    for_each(e, e.i64(0), e.call_field(args.call, Field::Segments), e.i64(1), |segment| {
        let segment = e.segment(args.call, segment);
        let work = Work { e, code, caches: Caches::of(e, args, code, segment.slot), count: count(e, segment) };
        let tiles = e.div(e.add(work.count, e.i64(POSITIONS - 1)), e.i64(POSITIONS));
        for_each(e, e.block_number(), e.mul(tiles, e.i64(code.groups)), e.blocks(), |task| {
            let (group, first) = (e.div(task, tiles), e.mul(e.rem(task, tiles), e.i64(POSITIONS)));
            let line = group_of(e, code, segment.slot, group);
            work.keys((group, first), e.element(keys, e.mul(line, work.caches.slots), 2 * code.key));
            work.values((group, first), e.element(values, e.mul(line, work.caches.slots), 2 * code.value));
        });
    });
}

/// Positions of a sequence, those of the call counted.
pub(super) fn count<'c>(e: &Emitter<'c>, segment: SegmentFields<'c>) -> Val<'c> {
    e.add(segment.position, segment.rows)
}

/// The number of a slot's group among all.
pub(super) fn group_of<'c>(e: &Emitter<'c>, code: &Attention, slot: Val<'c>, group: Val<'c>) -> Val<'c> {
    e.add(e.mul(slot, e.i64(code.groups)), group)
}

struct Work<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Attention,
    caches: Caches<'c>,
    /// Positions that there are.
    count: Val<'c>,
}

impl<'c> Work<'_, 'c> {
    /// The keys of a group from position `first` on; in the cache sixteen positions of an element lie side by side.
    fn keys(&self, (group, first): (Val<'c>, Val<'c>), to: Val<'c>) {
        let (e, key) = (self.e, self.code.key);
        let blocks = e.div(self.caches.slots, e.i64(BLOCK));
        for_each(e, e.to_i64(e.thread()), e.i64(POSITIONS * key / PIECE), e.i64(ROUNDING_THREADS), |at| {
            let (lane, rest) = (e.rem(at, e.i64(BLOCK)), e.div(at, e.i64(BLOCK)));
            let (piece, block) = (e.rem(rest, e.i64(key / PIECE)), e.div(rest, e.i64(key / PIECE)));
            let position = e.add(first, e.add(e.mul(block, e.i64(BLOCK)), lane));
            let there = e.cmp(Cmp::Lt, position, self.caches.slots);
            e.if_then(there, || {
                let block = e.add(e.mul(group, blocks), e.div(position, e.i64(BLOCK)));
                let from = e.element(self.caches.keys, e.add(e.mul(block, e.i64(key)), e.mul(piece, e.i64(PIECE))), 4 * BLOCK);
                let numbers = self.numbers(e.element(from, lane, 4), 4 * BLOCK, |_| position);
                e.store_aligned(e.element(e.element(to, position, 2 * key), piece, 2 * PIECE), numbers);
            });
        });
    }

    /// The values of a group from position `first` on.
    fn values(&self, (group, first): (Val<'c>, Val<'c>), to: Val<'c>) {
        let (e, value) = (self.e, self.code.value);
        for_each(e, e.to_i64(e.thread()), e.i64(POSITIONS / PIECE * value), e.i64(ROUNDING_THREADS), |at| {
            let (element, piece) = (e.rem(at, e.i64(value)), e.div(at, e.i64(value)));
            let position = e.add(first, e.mul(piece, e.i64(PIECE)));
            let there = e.cmp(Cmp::Lt, position, self.caches.slots);
            e.if_then(there, || {
                let row = e.add(e.mul(group, self.caches.slots), position);
                let from = e.element(e.element(self.caches.values, row, 4 * value), element, 4);
                let numbers = self.numbers(from, 4 * value, |at| e.add(position, e.i64(at)));
                let line = e.element(to, e.mul(element, self.caches.slots), 2);
                e.store_aligned(e.element(line, position, 2), numbers);
            });
        });
    }

    /// Eight numbers that lie so many bytes apart, rounded; zero where there is no position.
    fn numbers(&self, from: Val<'c>, bytes: usize, position: impl Fn(usize) -> Val<'c>) -> Val<'c> {
        let e = self.e;
        let number = |at: usize| {
            let there = e.cmp(Cmp::Lt, position(at), self.count);
            e.select(there, e.load(e.offset_by(from, at * bytes), Ty::F32), e.f32(0.0))
        };
        let numbers: Vec<Val> = (0..PIECE).map(number).collect();
        let pairs = numbers.chunks_exact(2).map(|pair| e.pack_bf16(pair[0], pair[1]));
        pairs.enumerate().fold(e.poison(Ty::i32(PIECE / 2)), |whole, (at, pair)| e.insert(whole, at, pair))
    }
}
