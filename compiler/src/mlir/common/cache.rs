//! The caches of an attention: where they are, where a position lies in them, which of them a query has to look at.

use super::{Cmp, Emitter, Field, KernelArgs, Val};
use crate::forms::{BLOCK, Reach};
use crate::fuse::kernel::Attention;

/// The caches of a sequence.
#[derive(Clone, Copy)]
pub struct Caches<'c> {
    /// `[groups][slots / 16][key][16]`; `[groups][slots][key]` on a GPU and where keys are looked up one by one, and of that a share of a key
    /// where it stands for several positions.
    pub keys: Val<'c>,
    /// `[groups][slots][value]`.
    pub values: Val<'c>,
    /// `[slots]`: the position that lies in each, -1 if none does; nothing where a row belongs to several positions.
    pub positions: Val<'c>,
    /// How many positions they hold.
    pub slots: Val<'c>,
}

impl<'c> Caches<'c> {
    /// Those of the sequence in `slot`.
    pub fn of(e: &Emitter<'c>, args: KernelArgs<'c>, code: &Attention, slot: Val<'c>) -> Caches<'c> {
        let capacity = e.call_field(args.call, Field::Capacity);
        let states = e.device_memory(e.call_field(args.call, Field::States));
        let own = e.offset(states, e.mul(slot, e.call_field(args.call, Field::SlotBytes)));
        let place = |n: usize| {
            let fixed = e.operand(args.operands, code.caches + 2 * n);
            let grows = e.operand(args.operands, code.caches + 2 * n + 1);
            e.offset(own, e.add(fixed, e.mul(grows, capacity)))
        };
        let slots = match code.reach {
            Reach::Full | Reach::Every { .. } => capacity,
            Reach::Window { rows, .. } | Reach::SinksAndWindow { rows, .. } => e.i64(rows),
        };
        let keys = place(0);
        let values = if code.value > 0 { place(1) } else { keys };
        let positions = if code.reach.every() == 1 { place(1 + usize::from(code.value > 0)) } else { e.null() };
        Caches { keys, values, positions, slots }
    }

    /// The first and the last place that a query may see; of a ring that is counted as if it were unrolled, positions. `last`: the last
    /// position in the cache.
    pub fn seen(&self, e: &Emitter<'c>, code: &Attention, query: Val<'c>, last: Val<'c>) -> (Val<'c>, Val<'c>) {
        if let Some((_, window)) = code.unrolled() {
            return (e.max(e.sub(query, e.i64(window - 1)), e.i64(0)), e.min(query, last));
        }
        let first = match code.range.before {
            Some(before) => e.max(e.sub(query, e.i64(before - 1)), e.i64(0)),
            None => e.i64(0),
        };
        let seen = match (code.reach, code.range.after) {
            (Reach::Full | Reach::Every { .. }, Some(after)) => e.min(last, e.add(query, e.i64(after - 1))),
            (Reach::Full | Reach::Every { .. }, None) => last,
            _ => e.min(last, e.sub(self.slots, e.i64(1))),
        };
        (first, seen)
    }

    /// Where the block of places begins of which `first` is the first one: in a ring that is counted as if it were unrolled, which has whole
    /// blocks.
    pub fn block_at(e: &Emitter<'c>, code: &Attention, first: Val<'c>) -> Val<'c> {
        code.unrolled().map_or(first, |(rows, _)| e.rem(first, like(e, first, rows)))
    }
}

/// Rows of a cache of which each is for one position.
#[derive(Clone, Copy)]
pub struct Rows<'c> {
    /// Where element 0 of the row of slot 0 is.
    pub base: Val<'c>,
    /// Elements of a row lie so many bytes apart.
    pub stride: usize,
    /// Elements of a slot.
    elements: usize,
    /// Slots whose elements lie interleaved.
    block: usize,
}

impl<'c> Rows<'c> {
    /// Rows of so many elements, one behind the other.
    pub fn side_by_side(base: Val<'c>, elements: usize) -> Rows<'c> {
        Rows { base, stride: 4, elements, block: 1 }
    }

    /// A group's keys.
    pub fn keys(e: &Emitter<'c>, code: &Attention, caches: &Caches<'c>, group: Val<'c>) -> Rows<'c> {
        let block = if code.by_row() { 1 } else { BLOCK };
        Rows::of(e, (caches.keys, code.channels().div_ceil(code.reach.every())), block, caches, group)
    }

    /// A group's values.
    pub fn values(e: &Emitter<'c>, code: &Attention, caches: &Caches<'c>, group: Val<'c>) -> Rows<'c> {
        Rows::of(e, (caches.values, code.value.div_ceil(code.reach.every())), 1, caches, group)
    }

    fn of(e: &Emitter<'c>, (all, elements): (Val<'c>, usize), block: usize, caches: &Caches<'c>, group: Val<'c>) -> Rows<'c> {
        let base = e.element(all, e.mul(e.mul(group, caches.slots), e.i64(elements)), 4);
        Rows { base, stride: 4 * block, elements, block }
    }

    /// How many bytes past the base the row of a slot begins; slots are 64-bit, one or one a lane.
    pub fn offset(&self, e: &Emitter<'c>, slot: Val<'c>) -> Val<'c> {
        let whole = |slot| e.mul(slot, like(e, slot, self.elements * 4));
        if self.block == 1 {
            return whole(slot);
        }
        let lane = e.rem(slot, like(e, slot, self.block));
        e.add(whole(e.sub(slot, lane)), e.mul(lane, like(e, lane, 4)))
    }

    /// Where an element of the row at that offset is.
    pub fn element(&self, e: &Emitter<'c>, offset: Val<'c>, element: Val<'c>) -> Val<'c> {
        e.offset(e.offset(self.base, offset), e.mul(element, e.i64(self.stride)))
    }
}

fn like<'c>(e: &Emitter<'c>, x: Val<'c>, number: usize) -> Val<'c> {
    e.like(x, number as f64)
}

/// Where a position lies.
pub fn slot_of<'c>(e: &Emitter<'c>, code: &Attention, position: Val<'c>) -> Val<'c> {
    match code.reach {
        Reach::Full => position,
        // A row lies from the first of its positions on.
        Reach::Every { every } => e.sub(position, e.rem(position, like(e, position, every))),
        Reach::Window { rows, .. } => e.rem(position, e.i64(rows)),
        Reach::SinksAndWindow { first, rows, .. } => {
            let first_one = e.i64(first);
            let past = e.sub(position, first_one);
            let ring = e.add(first_one, e.rem(e.max(past, e.i64(0)), e.i64(rows - first)));
            e.select(e.cmp(Cmp::Lt, position, first_one), position, ring)
        }
    }
}
