//! Keys and values of many rows into the caches: a task has as many rows as a block of the cache of keys has positions, so that what
//! neighbouring threads write lies side by side.

use super::THREADS;
use super::attention::Work;
use crate::forms::BLOCK;
use crate::fuse::expr::View;
use crate::fuse::kernel::{BATCH, COLUMN, INNER};
use crate::mlir::common::cache::{Caches, slot_of};
use crate::mlir::common::{Cmp, Field, Ty, Val};

/// Loads of a thread that are under way at once.
const AHEAD: usize = 8;
/// Elements of a row that are stored at once.
const SIDE_BY_SIDE: usize = THREADS / BLOCK;

impl<'c> Work<'_, 'c> {
    /// A task is some rows and a group; a thread has one of the rows.
    pub fn store_rows(&mut self, task: Val<'c>) {
        let e = self.e;
        let groups = e.i64(self.code.groups);
        let (tile, group) = (e.div(task, groups), e.rem(task, groups));
        let thread = e.to_i64(e.thread());
        let (first, row) = (e.div(thread, e.i64(BLOCK)), e.rem(thread, e.i64(BLOCK)));
        let row = e.add(e.mul(tile, e.i64(BLOCK)), row);
        let there = e.cmp(Cmp::Lt, row, e.call_field(self.args.call, Field::Rows));
        e.if_then(there, || self.store_one(row, group, first));
    }

    /// Every so many elements of a row's key and value, from `first` on.
    fn store_one(&mut self, row: Val<'c>, group: Val<'c>, first: Val<'c>) {
        let e = self.e;
        let (key, value) = (self.code.key, self.code.value);
        self.site.set_row(row, false);
        self.site.index.insert(BATCH, e.i64(0));
        self.site.index.insert(INNER, group);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let slot = slot_of(e, self.code, position);
        let alone = e.and(e.cmp(Cmp::Eq, first, e.i64(0)), e.cmp(Cmp::Eq, group, e.i64(0)));
        e.if_then(alone, || e.store(e.element(caches.positions, slot, 4), e.to_i32(position)));
        let (block, lane) = (e.div(slot, e.i64(BLOCK)), e.rem(slot, e.i64(BLOCK)));
        let block = e.add(e.mul(group, e.div(caches.slots, e.i64(BLOCK))), block);
        let keys = e.element(e.element(caches.keys, block, key * BLOCK * 4), lane, 4);
        let from = self.code.views.keys.clone();
        self.copy_elements((&from, keys), (first, key), BLOCK * 4);
        let values = e.element(caches.values, e.add(e.mul(group, caches.slots), slot), value * 4);
        let from = self.code.views.values.clone();
        self.copy_elements((&from, values), (first, value), 4);
    }

    /// Copies the thread's elements of `count`, which lie `bytes` apart; some may be copied twice.
    fn copy_elements(&mut self, (from, to): (&View, Val<'c>), (first, count): (Val<'c>, usize), bytes: usize) {
        let e = self.e;
        let element = |turn: usize| {
            let own = e.add(first, e.i64(turn * SIDE_BY_SIDE));
            if (turn + 1) * SIDE_BY_SIDE <= count { own } else { e.min(own, e.i64(count - 1)) }
        };
        let own: Vec<Val> = (0..count.div_ceil(SIDE_BY_SIDE)).map(element).collect();
        for own in own.chunks(AHEAD) {
            let mut load = |at: &Val<'c>| {
                self.site.index.insert(COLUMN, *at);
                e.load(self.site.address(from), Ty::F32)
            };
            let loaded: Vec<Val> = own.iter().map(&mut load).collect();
            own.iter().zip(loaded).for_each(|(at, x)| e.store(e.element(to, *at, bytes), x));
        }
    }
}
