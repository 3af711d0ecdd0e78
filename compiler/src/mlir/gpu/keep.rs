//! Keys and values of many rows into the caches: a task has some rows of a group, of which threads side by side take what lies side by side.

use super::THREADS;
use super::attention::Work;
use super::kept::{Kept, wide};
use super::wide::numbers;
use crate::forms::BLOCK;
use crate::fuse::kernel::{BATCH, INNER};
use crate::mlir::common::cache::{Caches, slot_of};
use crate::mlir::common::{Cmp, Field, Val};

/// Numbers of a thread, of 4 bytes, that are under way at once.
const AHEAD: usize = 32;

/// Numbers on their way to a cache.
struct Unit<'k, 'c> {
    kept: Kept<'k, 'c>,
    place: Val<'c>,
    numbers: Vec<Val<'c>>,
}

impl<'k, 'c> Work<'k, 'c> {
    /// A task is some rows and a group.
    pub fn store_rows(&mut self, task: Val<'c>) {
        let e = self.e;
        let groups = e.i64(self.code.groups);
        let (tile, group) = (e.div(task, groups), e.rem(task, groups));
        self.site.index.insert(BATCH, e.i64(0));
        self.site.index.insert(INNER, group);
        let first = e.mul(tile, e.i64(BLOCK));
        self.mark_rows(group, first);
        let turns = |keys: bool| (0..(BLOCK * self.units(keys).0).div_ceil(THREADS)).map(move |turn| (keys, turn));
        let turns: Vec<(bool, usize)> = turns(true).chain(turns(false)).collect();
        let most = self.units(true).1.max(self.units(false).1);
        for some in turns.chunks(AHEAD / most) {
            // All loads before the stores.
            let units: Vec<Unit> = some.iter().map(|(keys, turn)| self.unit(*keys, *turn, (group, first))).collect();
            units.into_iter().for_each(|unit| unit.kept.store(unit.place, &unit.numbers));
        }
    }

    /// Units of a row of keys, or of values, and numbers of each.
    fn units(&self, keys: bool) -> (usize, usize) {
        let count = if keys { self.code.key } else { self.code.value };
        let each = wide(count, self.code.kept_bytes());
        (count / each, each)
    }

    /// What the thread has of a task's keys, or values; past the last that one.
    fn unit(&mut self, keys: bool, turn: usize, (group, first): (Val<'c>, Val<'c>)) -> Unit<'k, 'c> {
        let (e, code) = (self.e, self.code);
        let (units, each) = self.units(keys);
        let at = e.min(e.add(e.thread(), e.i32((turn * THREADS) as i32)), e.i32((BLOCK * units) as i32 - 1));
        let (within, unit) = (e.div(at, e.i32(units as i32)), e.rem(at, e.i32(units as i32)));
        let last = e.sub(e.call_field(self.args.call, Field::Rows), e.i64(1));
        let row = e.min(e.add(first, e.to_i64(within)), last);
        let column = e.mul(e.to_i64(unit), e.i64(each));
        self.site.set_row(row, false);
        let numbers = numbers(&mut self.site, if keys { &code.views.keys } else { &code.views.values }, column, each);
        let (caches, slot, _) = self.slot_of_row(row);
        let kept = if keys { Kept::keys(e, code, &caches, group) } else { Kept::values(e, code, &caches, group) };
        Unit { kept, place: kept.place(kept.row(slot), column), numbers }
    }

    /// Where a row of the call goes, and its position.
    fn slot_of_row(&self, row: Val<'c>) -> (Caches<'c>, Val<'c>, Val<'c>) {
        let e = self.e;
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        (Caches::of(e, self.args, self.code, segment.slot), slot_of(e, self.code, position), position)
    }

    /// Tells which positions lie where, with the first group.
    fn mark_rows(&self, group: Val<'c>, first: Val<'c>) {
        let e = self.e;
        let row = e.add(first, e.to_i64(e.thread()));
        let own = e.and(e.cmp(Cmp::Eq, group, e.i64(0)), e.cmp(Cmp::Lt, e.thread(), e.i32(BLOCK as i32)));
        e.if_then(e.and(own, e.cmp(Cmp::Lt, row, e.call_field(self.args.call, Field::Rows))), || {
            let (caches, slot, position) = self.slot_of_row(row);
            e.store(e.element(caches.positions, slot, 4), e.to_i32(position));
        });
    }
}
