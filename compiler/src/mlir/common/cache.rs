//! The caches of an attention: where they are, where a position lies in them, which of them a query has to look at.

use super::{Cmp, Emitter, Field, KernelArgs, Val};
use crate::forms::Reach;
use crate::fuse::kernel::Attention;

/// The caches of a sequence.
#[derive(Clone, Copy)]
pub struct Caches<'c> {
    /// `[groups][slots / 16][key][16]`.
    pub keys: Val<'c>,
    /// `[groups][slots][value]`.
    pub values: Val<'c>,
    /// `[slots]`: the position that lies in each, -1 if none does.
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
            Reach::Full => capacity,
            Reach::Window { rows, .. } | Reach::SinksAndWindow { rows, .. } => e.i64(rows),
        };
        Caches { keys: place(0), values: place(1), positions: place(2), slots }
    }

    /// The first and the last place that a query may see. `last`: the last position in the cache.
    pub fn seen(&self, e: &Emitter<'c>, code: &Attention, query: Val<'c>, last: Val<'c>) -> (Val<'c>, Val<'c>) {
        let first = match code.range.before {
            Some(before) => e.max(e.sub(query, e.i64(before - 1)), e.i64(0)),
            None => e.i64(0),
        };
        let seen = match (code.reach, code.range.after) {
            (Reach::Full, Some(after)) => e.min(last, e.add(query, e.i64(after - 1))),
            (Reach::Full, None) => last,
            _ => e.min(last, e.sub(self.slots, e.i64(1))),
        };
        (first, seen)
    }
}

/// Where a position lies.
pub fn slot_of<'c>(e: &Emitter<'c>, code: &Attention, position: Val<'c>) -> Val<'c> {
    match code.reach {
        Reach::Full => position,
        Reach::Window { rows, .. } => e.rem(position, e.i64(rows)),
        Reach::SinksAndWindow { first, rows, .. } => {
            let first_one = e.i64(first);
            let past = e.sub(position, first_one);
            let ring = e.add(first_one, e.rem(e.max(past, e.i64(0)), e.i64(rows - first)));
            e.select(e.cmp(Cmp::Lt, position, first_one), position, ring)
        }
    }
}
