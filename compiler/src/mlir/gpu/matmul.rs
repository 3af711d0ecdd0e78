//! Matrix products. Weights are packed with a panel width of one, so that the contracted axis lies side by side for each column.
//!
//! One row: stream.rs. Few rows: a warp has a few columns, or a part of them; its lanes walk the contracted axis in loads of 16
//! bytes, and every weight is read once for all rows at hand (dot.rs). Many rows of rounded or quantised weights: tiles.rs. The functions that
//! do this are shared by all products of an artifact; what is a product's own is where its rows lie, and its epilogue.

use super::ahead::{Ahead, ROUND, columns_of_block};
use super::dot::{self, Dot, Share};
use super::parts::column_bytes;
use super::row;
use super::stream::{self, Round, Stream, sum_of};
use super::{Streams, THREADS};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{BATCH, COLUMN, DEPTH, Matmul, Rows};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::plan::{COLUMNS_AT_ONCE, columns_of_a_task, is_shared_by_blocks, tilings};

/// Shared memory of a product: sums, then the addresses of a tile's rows, or a row; bytes.
pub fn shared_bytes(code: &Matmul) -> usize {
    (ROWS_AT + 8 * dot::MOST_ROWS).max(row::end(code, ROWS_AT))
}

/// Where rows begin in shared memory, behind the sums.
const ROWS_AT: usize =
    if dot::SUMS_BYTES > stream::SUMS_BYTES { dot::SUMS_BYTES } else { stream::SUMS_BYTES }.next_multiple_of(64);

/// Whether a single row's product is one stream of whole copies.
fn has_stream(code: &Matmul) -> bool {
    Dot::of(code, 1).vector > 1
}

/// Whether the weights of a step of decoding can be asked for before the step.
pub fn is_read_ahead(code: &Matmul) -> bool {
    has_stream(code) && is_shared_by_blocks(code) && code.sizes[0] == 1 && matches!(code.rows, Rows::All | Rows::Wanted)
}

/// Whether a single row's product asks for weights when it is there, beside those that are asked for ahead.
pub fn is_read_alone(code: &Matmul) -> bool {
    has_stream(code) && !is_read_ahead(code)
}

/// Whether all calls of many rows are done in tiles, so that those of few rows have code of their own.
pub fn is_split(code: &Matmul) -> bool {
    code.rows == Rows::All && !tilings(code).is_empty()
}

/// Emits the code for calls of many rows of a product that is split.
pub fn emit_many(e: &Emitter, name: &str, code: &Matmul, setting: Setting, streams: Streams) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args, stream: None, streams };
        product.tiles(product.count());
    });
}

/// Emits the kernel of a product; if it is split, that for calls of few rows. Blocks share its columns; where there are batch elements,
/// or rows that choose one, a task is one of those and some columns.
pub fn emit(e: &Emitter, name: &str, code: &Matmul, setting: Setting, streams: Streams) {
    let dot = Dot::of(code, 1);
    let stream = has_stream(code).then(|| Stream::of(dot, streams.rings));
    stream.iter().for_each(|stream| stream.emit(e));
    let needed = |rows: &&usize| if **rows == 1 { stream.is_none() } else { code.chosen.is_none() };
    dot::ROWS.iter().filter(needed).for_each(|rows| Dot::of(code, *rows).emit(e));
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args, stream, streams };
        let done = if is_split(code) { e.bool(false) } else { product.tiles(product.count()) };
        e.if_then(e.not(done), || match is_shared_by_blocks(code) {
            true => product.share(),
            false => for_each(e, args.begin, args.end, e.blocks(), |task| product.task(task)),
        });
    });
}

pub(super) struct Product<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) code: &'k Matmul,
    pub(super) site: Site<'k, 'c>,
    pub(super) args: KernelArgs<'c>,
    stream: Option<Stream>,
    streams: Streams,
}

impl<'c> Product<'_, 'c> {
    /// All rows of the call (inner rows counted).
    fn count(&self) -> Val<'c> {
        let e = self.e;
        let rows = match self.code.rows {
            Rows::Once => e.i64(1),
            Rows::Source | Rows::All => e.call_field(self.args.call, Field::Rows),
            Rows::Wanted => e.call_field(self.args.call, Field::Wanted),
        };
        e.mul(rows, e.i64(self.code.sizes[0]))
    }

    /// The block's share of the columns, for all rows.
    fn share(&mut self) {
        let e = self.e;
        let columns = e.i64(self.code.sizes[3]);
        let (first, end) = columns_of_block(e, e.to_i32(columns));
        self.site.index.insert(BATCH, e.i64(0));
        self.all(e.i64(0), (e.to_i64(first), e.to_i64(end)));
    }

    fn task(&mut self, task: Val<'c>) {
        let e = self.e;
        let [_, _, _, columns] = self.code.sizes;
        let width = columns_of_a_task(self.code);
        let blocks = e.i64(columns.div_ceil(width));
        let first = e.mul(e.rem(task, blocks), e.i64(width));
        let end = e.min(e.add(first, e.i64(width)), e.i64(columns));
        let other = e.div(task, blocks);
        if let Some((ids, _)) = &self.code.chosen {
            // `other` is a row.
            self.site.set_product_row(self.code, other);
            self.site.index.insert(BATCH, e.i64(0));
            let id = e.to_i64(e.load(self.site.address(ids), Ty::I32));
            return self.one(id, (first, end), other);
        }
        self.site.index.insert(BATCH, other);
        self.all(other, (first, end));
    }

    /// All rows times some columns: as many rows at once as are left, the last of an odd number alone.
    fn all(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>)) {
        let e = self.e;
        let count = self.count();
        let pairs = e.and(count, e.i64(-2));
        e.if_then(e.cmp(Cmp::Gt, pairs, e.i64(0)), || self.rows(element, columns, pairs));
        e.if_then(e.cmp(Cmp::Gt, count, pairs), || self.one(element, columns, pairs));
    }

    /// One row times some columns.
    fn one(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>), row: Val<'c>) {
        match self.stream {
            Some(stream) => self.stream(stream, element, columns, row),
            None => self.columns(element, columns, row, 1),
        }
    }

    /// An even number of rows times some columns.
    fn rows(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>), count: Val<'c>) {
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
    fn columns(&mut self, element: Val<'c>, (first, end): (Val<'c>, Val<'c>), row: Val<'c>, rows: usize) {
        for_each(self.e, first, end, self.e.i64(COLUMNS_AT_ONCE), |column| self.tile(element, (column, end), row, rows));
    }

    /// One row times some columns, in rounds.
    fn stream(&mut self, stream: Stream, element: Val<'c>, (start, end): (Val<'c>, Val<'c>), row: Val<'c>) {
        let e = self.e;
        let depth = self.code.sizes[2];
        let memory = e.shared_memory();
        let all = e.device_memory(e.call_field(self.args.call, Field::Weights));
        let ahead = match is_read_ahead(self.code) {
            true => Ahead::is_on(e),
            false => e.bool(false),
        };
        self.site.index.insert(DEPTH, e.i64(0));
        self.site.set_product_row(self.code, row);
        let left = self.site.address(&self.code.left);
        for_each(e, start, end, e.i64(ROUND), |first| {
            let columns = e.to_i32(e.min(e.sub(end, first), e.i64(ROUND)));
            let round = Round {
                columns,
                depth: e.i32(depth as i32),
                ahead,
                all,
                table: e.offset_by(memory, self.streams.table),
                sums: memory,
                row: e.offset_by(memory, ROWS_AT),
            };
            // Threads may still be at the sums of a round or task before this one.
            let again = if is_shared_by_blocks(self.code) { e.cmp(Cmp::Gt, first, start) } else { e.bool(true) };
            e.if_then(e.or(again, e.not(ahead)), || {
                self.streams.rings.1.release(e);
                e.sync();
            });
            e.if_then(e.not(ahead), || stream.begin(e, self.weights(element, first), round));
            row::fetch(e, self.code, left, ROWS_AT, self.args);
            stream.call(e, round);
            row::keep(e, self.code, left);
            e.sync();
            let thread = e.thread();
            e.if_then(e.cmp(Cmp::Lt, thread, columns), || {
                let sum = sum_of(e, memory, thread, columns, column_bytes(self.code));
                self.site.set_product_row(self.code, row);
                self.end(e.add(first, e.to_i64(thread)), sum);
            });
        });
    }

    /// Where the weights of a column begin.
    pub(super) fn weights(&self, element: Val<'c>, column: Val<'c>) -> Val<'c> {
        let e = self.e;
        let (columns, bytes) = (self.code.sizes[3], column_bytes(self.code));
        let base = self.site.address(&View { tensor: self.code.weights, offset: 0, strides: vec![] });
        e.element(base, e.add(e.mul(element, e.i64(columns)), column), bytes)
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

    /// The epilogue of one result of the site's row.
    fn end(&mut self, column: Val<'c>, sum: Val<'c>) {
        self.site.index.insert(COLUMN, column);
        self.site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, sum));
        let made = value(&self.site, &self.code.epilogue);
        self.site.fresh.clear();
        store(&self.site, &self.code.out, made);
    }
}

/// Rows are halved, not divided.
const _: () = assert!(dot::MOST_ROWS.is_power_of_two());
/// Threads that finish a tile: one for each result.
const _: () = assert!(dot::MOST_ROWS * COLUMNS_AT_ONCE <= THREADS);
