//! Few rows of a product without the matrix units: a warp has a few columns, or a part of them, and its lanes walk the contracted axis in loads of
//! 16 bytes (dot.rs); a thread for each result finishes them.

use super::THREADS;
use super::dot::{self, Dot, Share};
use super::matmul::{Product, ROWS_AT};
use crate::fuse::kernel::DEPTH;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Ty, Val};
use crate::plan::COLUMNS_AT_ONCE;

impl<'c> Product<'_, 'c> {
    /// An even number of rows times some columns.
    pub(super) fn rows(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>), count: Val<'c>) {
        let e = self.e;
        let most = e.i64(dot::MOST_ROWS);
        let mut done = e.and(count, e.i64(-(dot::MOST_ROWS as i64)));
        for_each(e, e.i64(0), done, most, |row| self.columns(element, columns, row, dot::MOST_ROWS));
        for rows in dot::ROWS.into_iter().filter(|rows| (2..dot::MOST_ROWS).contains(rows)) {
            let fits = e.cmp(Cmp::Ge, e.sub(count, done), e.i64(rows));
            e.if_then(fits, || self.columns(element, columns, done, rows));
            done = e.add(done, e.select(fits, e.i64(rows), e.i64(0)));
        }
    }

    /// So many rows times some columns.
    pub(super) fn columns(&mut self, element: Val<'c>, (first, end): (Val<'c>, Val<'c>), row: Val<'c>, rows: usize) {
        for_each(self.e, first, end, self.e.i64(COLUMNS_AT_ONCE), |column| self.tile(element, (column, end), row, rows));
    }

    /// `rows` rows from `row` on times the columns from `first` on that are done at once.
    fn tile(&mut self, element: Val<'c>, (first, end): (Val<'c>, Val<'c>), row: Val<'c>, rows: usize) {
        let e = self.e;
        let depth = self.code.sizes[2];
        let dot = Dot::of(self.code, rows);
        let thread = e.to_i64(e.thread());
        let (sums, memory) = (e.shared_memory(), e.offset_by(e.shared_memory(), ROWS_AT));
        self.site.index.insert(DEPTH, e.i64(0));
        e.sync();
        e.if_then(e.cmp(Cmp::Lt, thread, e.i64(rows)), || {
            self.site.set_product_row(self.code, e.add(row, thread));
            e.store(e.element(memory, thread, 8), self.site.address(&self.code.left));
        });
        e.sync();
        let arguments = [memory, self.weights(element, first), e.sub(end, first), e.i64(depth), sums];
        e.call(&dot.name(), &arguments, None);
        e.sync();
        self.finish((first, end), row, (thread, sums), rows);
    }

    /// A thread for each result: adds up the parts of its sum, and does the epilogue.
    fn finish(&mut self, (first, end): (Val<'c>, Val<'c>), row: Val<'c>, (thread, sums): (Val<'c>, Val<'c>), rows: usize) {
        let e = self.e;
        let share = Share::of(rows);
        let (i, at) = (e.div(thread, e.i64(COLUMNS_AT_ONCE)), e.rem(thread, e.i64(COLUMNS_AT_ONCE)));
        let column = e.add(first, at);
        let there = e.and(e.cmp(Cmp::Lt, i, e.i64(rows)), e.cmp(Cmp::Lt, column, end));
        e.if_then(there, || {
            let (group, within) = (e.div(at, e.i64(share.columns)), e.rem(at, e.i64(share.columns)));
            let part = |split: usize| {
                let warp = e.add(e.mul(group, e.i64(share.splits)), e.i64(split));
                let row = e.add(e.mul(warp, e.i64(rows)), i);
                e.load(e.element(sums, e.add(e.mul(row, e.i64(share.columns)), within), 4), Ty::F32)
            };
            let sum = (1..share.splits).fold(part(0), |sum, split| e.add(sum, part(split)));
            self.site.set_product_row(self.code, e.add(row, i));
            self.end(column, sum);
        });
    }
}

/// Rows are halved, not divided.
const _: () = assert!(dot::MOST_ROWS.is_power_of_two());
/// Threads that finish a tile: one for each result.
const _: () = assert!(dot::MOST_ROWS * COLUMNS_AT_ONCE <= THREADS);
