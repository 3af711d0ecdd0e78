//! The key and the value of a call's one row, which every task that looks at the head stores for itself: other blocks store the same, and
//! nobody waits for them. What a sequence had before lies far; it can be asked for while blocks wait.

use super::THREADS;
use super::ask::ask_for;
use super::attention::{CHUNK, Work};
use super::kept::Kept;
use crate::fuse::kernel::{Attention, BATCH, COLUMN};
use crate::mlir::common::cache::{Caches, slot_of};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};

/// A number on its way to a cache.
pub(super) struct Own<'c> {
    there: Val<'c>,
    place: Val<'c>,
    number: Val<'c>,
}

impl<'c> Own<'c> {
    pub(super) fn store(self, e: &Emitter<'c>) {
        e.if_then(self.there, || e.store(self.place, self.number));
    }
}

/// Most bytes of a task's keys, and of its values, that are asked for before it begins.
const ASKED: usize = 32 << 10;

impl<'c> Work<'_, 'c> {
    /// Loads what the thread has of the group's key and value, if tasks store them.
    pub(super) fn own_key(&mut self, caches: Caches<'c>, group: Val<'c>, position: Val<'c>) -> Vec<Own<'c>> {
        let e = self.e;
        if !self.stores {
            return vec![];
        }
        let alone = e.cmp(Cmp::Eq, e.call_field(self.args.call, Field::Rows), e.i64(1));
        let slot = slot_of(e, self.code, position);
        let first = e.cmp(Cmp::Eq, e.thread(), e.i32(0));
        e.if_then(e.and(alone, first), || e.store(e.element(caches.positions, slot, 4), e.to_i32(position)));
        self.site.index.insert(BATCH, e.i64(0));
        let Attention { key, value, .. } = *self.code;
        let [keys, values] = [Kept::keys(e, self.code, &caches, group), Kept::values(e, self.code, &caches, group)];
        let (key_row, value_row) = (keys.row(slot), values.row(slot));
        let own = |turn: usize| {
            let at = e.add(e.thread(), e.i32((turn * THREADS) as i32));
            let is_key = e.cmp(Cmp::Lt, at, e.i32(key as i32));
            let inside = e.cmp(Cmp::Lt, at, e.i32((key + value) as i32));
            let column = e.select(inside, e.select(is_key, at, e.sub(at, e.i32(key as i32))), e.i32(0));
            let column = e.to_i64(column);
            self.site.index.insert(COLUMN, column);
            let views = &self.code.views;
            let [own_key, own_value] = [&views.keys, &views.values].map(|view| self.site.address(view));
            let place = e.select(is_key, keys.place(key_row, column), values.place(value_row, column));
            let number = keys.stored(e.load(e.select(is_key, own_key, own_value), Ty::F32));
            Own { there: e.and(alone, inside), place, number }
        };
        (0..(key + value).div_ceil(THREADS)).map(own).collect()
    }

    /// Asks for the keys and values of chunks `from` to `to` of a group, as far as they are few.
    pub(super) fn ask(&self, caches: Caches<'c>, group: Val<'c>, (from, to): (Val<'c>, Val<'c>)) {
        let e = self.e;
        let Attention { key, value, .. } = *self.code;
        let place = Caches::block_at(e, self.code, e.mul(from, e.i64(CHUNK)));
        let first = e.add(e.mul(group, caches.slots), place);
        let count = e.min(e.mul(e.sub(to, from), e.i64(CHUNK)), e.sub(caches.slots, place));
        let bytes = self.code.kept_bytes();
        for (base, size) in [(caches.keys, key * bytes), (caches.values, value * bytes)] {
            let base = e.element(base, first, size);
            let bytes = e.min(e.mul(count, e.i64(size)), e.i64(ASKED));
            ask_for(e, base, bytes, size.is_multiple_of(COPY));
        }
    }
}
