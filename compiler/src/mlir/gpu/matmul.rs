//! Matrix products. Weights are packed with a panel width of one, so that the contracted axis lies side by side for each column.
//!
//! One row: stream.rs. Few rows: a warp has a few columns, or a part of them; its lanes walk the contracted axis in loads of 16
//! bytes, and every weight is read once for all rows at hand (dot.rs). The functions that do this are shared by all products of an artifact; what is a
//! product's own is where its rows lie, and its epilogue.

use super::THREADS;
use super::dot::{self, Dot, Share};
use super::stream::Stream;
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{BATCH, COLUMN, DEPTH, Matmul, Rows};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::plan::{COLUMNS_AT_ONCE, columns_of_a_task};

/// Shared memory of a product: sums, then the addresses of a tile's rows, or a row; bytes.
pub fn shared_bytes(code: &Matmul) -> usize {
    let depth = code.sizes[2];
    ROWS_AT + (8 * dot::MOST_ROWS).max(Stream::of(Dot::of(code, 1), depth).row_bytes(depth))
}

/// Where rows begin in shared memory, behind the sums.
const ROWS_AT: usize = dot::SUMS_BYTES;

/// Emits the kernel of a product; a task is a batch element and some columns, and a row that chose its batch element.
pub fn emit(e: &Emitter, name: &str, code: &Matmul, setting: Setting) {
    Stream::of(Dot::of(code, 1), code.sizes[2]).emit(e);
    if code.chosen.is_none() {
        dot::ROWS.iter().for_each(|rows| Dot::of(code, *rows).emit(e));
    }
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args };
        for_each(e, args.begin, args.end, e.blocks(), |task| product.task(task));
    });
}

struct Product<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Matmul,
    site: Site<'k, 'c>,
    args: KernelArgs<'c>,
}

impl<'c> Product<'_, 'c> {
    /// All rows of the call (inner rows counted).
    fn count(&self) -> Val<'c> {
        let e = self.e;
        let rows = match self.code.rows {
            Rows::Once => e.i64(1),
            Rows::All => e.call_field(self.args.call, Field::Rows),
            Rows::Wanted => e.call_field(self.args.call, Field::Wanted),
        };
        e.mul(rows, e.i64(self.code.sizes[0]))
    }

    fn task(&mut self, task: Val<'c>) {
        let e = self.e;
        let width = columns_of_a_task(self.code);
        let blocks = e.i64(self.code.sizes[3].div_ceil(width));
        let single = self.code.chosen.is_none() && self.code.sizes[1] == 1;
        let first = e.mul(if single { task } else { e.rem(task, blocks) }, e.i64(width));
        let other = if single { e.i64(0) } else { e.div(task, blocks) };
        if let Some((ids, _)) = &self.code.chosen {
            // `other` is a row.
            self.site.set_product_row(self.code, other);
            self.site.index.insert(BATCH, e.i64(0));
            let id = e.to_i64(e.load(self.site.address(ids), Ty::I32));
            return self.stream(id, first, other);
        }
        self.site.index.insert(BATCH, other);
        let count = self.count();
        let alone = e.cmp(Cmp::Eq, count, e.i64(1));
        e.if_then(alone, || self.stream(other, first, e.i64(0)));
        e.if_then(e.not(alone), || self.rows(other, first, count, width));
    }

    /// Several rows times the task's columns, as many rows at once as are left.
    fn rows(&mut self, other: Val<'c>, first: Val<'c>, count: Val<'c>, width: usize) {
        let e = self.e;
        let end = e.min(e.add(first, e.i64(width)), e.i64(self.code.sizes[3]));
        let mut done = e.i64(0);
        for (at, rows) in dot::ROWS.into_iter().enumerate() {
            let all = |this: &mut Self, row: Val<'c>| {
                for_each(e, first, end, e.i64(COLUMNS_AT_ONCE), |column| this.tile(other, column, row, rows));
            };
            if at == 0 {
                done = e.mul(e.div(count, e.i64(rows)), e.i64(rows));
                for_each(e, e.i64(0), done, e.i64(rows), |row| all(self, row));
                continue;
            }
            let fits = e.cmp(Cmp::Ge, e.sub(count, done), e.i64(rows));
            e.if_then(fits, || all(self, done));
            done = e.add(done, e.select(fits, e.i64(rows), e.i64(0)));
        }
        e.if_then(e.cmp(Cmp::Gt, count, done), || self.stream(other, first, done));
    }

    /// One row times the task's columns from `first` on.
    fn stream(&mut self, element: Val<'c>, first: Val<'c>, row: Val<'c>) {
        let e = self.e;
        let [_, _, depth, columns] = self.code.sizes;
        let stream = Stream::of(Dot::of(self.code, 1), depth);
        let memory = e.shared_memory();
        self.site.index.insert(DEPTH, e.i64(0));
        self.site.set_product_row(self.code, row);
        let left = self.site.address(&self.code.left);
        let here = e.min(e.sub(e.i64(columns), first), e.i64(columns_of_a_task(self.code)));
        let arguments = [left, self.weights(element, first), here, e.i64(depth), memory, e.offset_by(memory, ROWS_AT)];
        e.sync();
        e.call(&stream.name(), &arguments, None);
        e.sync();
        let thread = e.to_i64(e.thread());
        e.if_then(e.cmp(Cmp::Lt, thread, here), || {
            let sum = e.load(e.element(memory, thread, 4), Ty::F32);
            self.site.set_product_row(self.code, row);
            self.end(e.add(first, thread), sum);
        });
    }

    /// Where the weights of a column begin.
    fn weights(&self, element: Val<'c>, column: Val<'c>) -> Val<'c> {
        let e = self.e;
        let [_, _, depth, columns] = self.code.sizes;
        let bytes = depth * self.code.tensors[self.code.weights.0].store.bytes();
        let base = self.site.address(&View { tensor: self.code.weights, offset: 0, strides: vec![] });
        e.element(base, e.add(e.mul(element, e.i64(columns)), column), bytes)
    }

    /// `rows` rows from `row` on times the columns from `first` on that are done at once.
    fn tile(&mut self, element: Val<'c>, first: Val<'c>, row: Val<'c>, rows: usize) {
        let e = self.e;
        let [_, _, depth, columns] = self.code.sizes;
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
        let arguments = [memory, self.weights(element, first), e.sub(e.i64(columns), first), e.i64(depth), sums];
        e.call(&dot.name(), &arguments, None);
        e.sync();
        self.finish(first, row, (thread, sums), rows);
    }

    /// A thread for each result: adds up the parts of its sum, and does the epilogue.
    fn finish(&mut self, first: Val<'c>, row: Val<'c>, (thread, sums): (Val<'c>, Val<'c>), rows: usize) {
        let e = self.e;
        let share = Share::of(rows);
        let (i, at) = (e.div(thread, e.i64(COLUMNS_AT_ONCE)), e.rem(thread, e.i64(COLUMNS_AT_ONCE)));
        let column = e.add(first, at);
        let there = e.and(e.cmp(Cmp::Lt, i, e.i64(rows)), e.cmp(Cmp::Lt, column, e.i64(self.code.sizes[3])));
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

    /// The epilogue of one result of the site's row.
    fn end(&mut self, column: Val<'c>, sum: Val<'c>) {
        self.site.index.insert(COLUMN, column);
        self.site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, sum));
        let made = value(&self.site, &self.code.epilogue);
        self.site.fresh.clear();
        store(&self.site, &self.code.out, made);
    }
}

/// Threads that finish a tile: one for each result.
const _: () = assert!(dot::MOST_ROWS * COLUMNS_AT_ONCE <= THREADS);
