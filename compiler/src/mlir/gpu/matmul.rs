//! Matrix products. Weights are packed with a panel width of one, so that the contracted axis lies side by side for each column.
//!
//! One row: stream.rs. Few rows: on the matrix units (several.rs), or, where these do not take the weights as they are, without them (few.rs).
//! Every weight is read once for all rows at hand. Many rows of rounded or quantised weights: tiles.rs. The functions that do this are shared by all products of an artifact; what is a
//! product's own is where its rows lie, and its epilogue.

use super::Streams;
use super::ahead::{Ahead, columns_of_block};
use super::cursor::divisor_of;
use super::dot::{self, Dot};
use super::joined::Joined;
use super::one_row::OneRow;
use super::rounds;
use super::row;
use super::stream::{self, ROUND, Round, Stream};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{BATCH, COLUMN, INNER, Matmul, Rows};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::plan::{chosen_tiling, column_bytes, columns_of_a_task, is_shared_by_blocks, tilings};

/// Shared memory of a product: sums, then the addresses of a tile's rows, or a row; bytes.
pub fn shared_bytes(code: &Matmul) -> usize {
    (ROWS_AT + 8 * dot::MOST_ROWS).max(row::end(code, ROWS_AT))
}

/// Where rows begin in shared memory, behind the sums.
pub(super) const ROWS_AT: usize =
    if dot::SUMS_BYTES > stream::SUMS_BYTES { dot::SUMS_BYTES } else { stream::SUMS_BYTES }.next_multiple_of(64);

/// Whether a single row's product is one stream of whole copies.
pub fn has_stream(code: &Matmul) -> bool {
    Dot::of(code, 1).vector > 1
}

/// Whether the weights of a step of decoding can be asked for before the step.
pub fn is_read_ahead(code: &Matmul) -> bool {
    has_stream(code) && is_shared_by_blocks(code) && code.sizes[0] == 1 && matches!(code.rows, Rows::All | Rows::Wanted)
}

/// Whether a block may go on with the row that the product before multiplied, in a call of one row: all choices multiply the same one.
pub fn keeps_row(code: &Matmul) -> bool {
    let has_inner = code.left.strides.iter().any(|(axis, _)| *axis == INNER);
    is_read_ahead(code) || code.chosen.is_some() && has_stream(code) && code.rows == Rows::All && !has_inner
}

/// Whether a single row's product asks for weights when it is there, beside those that are asked for ahead.
pub fn is_read_alone(code: &Matmul) -> bool {
    has_stream(code) && !is_read_ahead(code)
}

/// Whether calls of many rows may be done in tiles, so that they have code of their own.
pub fn is_split(code: &Matmul) -> bool {
    !tilings(code).is_empty() || chosen_tiling(code).is_some()
}

/// Whether all calls of many rows are done in tiles.
pub fn is_tiled(code: &Matmul) -> bool {
    code.rows == Rows::All && !tilings(code).is_empty()
}

/// Emits the code for calls of many rows of a product that is split: of these few may be wanted, or choose. `parts`: of a tile's contracted axis.
pub fn emit_many(e: &Emitter, (many, name): (&str, &str), code: &Matmul, setting: Setting, (streams, parts): (Streams, usize)) {
    e.kernel(many, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args, stream: None, streams, joined: &[], parts };
        let done = product.tiles(product.count());
        if !is_tiled(code) {
            e.if_then(e.not(done), || pass(e, name, args));
        }
    });
}

/// Emits the kernel of a product for calls of few rows. Blocks share its columns; where there are batch elements,
/// or rows that choose one, a task is one of those and some columns.
pub fn emit(e: &Emitter, name: &str, code: &Matmul, setting: Setting, streams: Streams) {
    let dot = Dot::of(code, 1);
    let stream = has_stream(code).then(|| Stream::of(dot, streams.rings));
    stream.iter().for_each(|stream| stream.emit(e));
    let several = streams.of_several(code);
    if let Some(several) = several {
        several.emit(e, code, streams.table);
        rounds::emit_end(e, name, code, setting, (streams, several));
    }
    let needed = |rows: &&usize| if **rows == 1 { stream.is_none() } else { code.chosen.is_none() && several.is_none() };
    dot::ROWS.iter().filter(needed).for_each(|rows| Dot::of(code, *rows).emit(e));
    let one = OneRow { name: name.into() };
    if stream.is_some() {
        one.emit(e, code, setting, streams);
    }
    let product = |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        Product { e, code, site, args, stream: stream.map(|stream| (stream, &one)), streams, joined: &[], parts: 1 }
    };
    if stream.is_none() || !is_shared_by_blocks(code) {
        return e.kernel(name, |args| product(args).tasks());
    }
    e.kernel(&one.whole(), |args| product(args).share_of_one());
    e.kernel(&one.several(), |args| product(args).tasks());
    e.kernel(name, |args| {
        let alone = is_alone(e, code, args.call, streams);
        e.if_then(alone, || pass(e, &one.whole(), args));
        e.if_then(e.not(alone), || pass(e, &one.several(), args));
    });
}

/// Calls a kernel with another one's arguments.
pub(super) fn pass<'c>(e: &Emitter<'c>, kernel: &str, args: KernelArgs<'c>) {
    let KernelArgs { call, operands, begin, end, thread } = args;
    e.call(kernel, &[call, operands, begin, end, thread], None);
}

/// All rows of the call (inner rows counted).
fn count<'c>(e: &Emitter<'c>, code: &Matmul, call: Val<'c>) -> Val<'c> {
    let rows = match code.rows {
        Rows::Once => e.i64(1),
        Rows::Source | Rows::All => e.call_field(call, Field::Rows),
        Rows::Wanted => e.call_field(call, Field::Wanted),
    };
    e.mul(rows, e.i64(code.sizes[0]))
}

/// Whether there is one row, whose weights were not asked for as several rows read them.
fn is_alone<'c>(e: &Emitter<'c>, code: &Matmul, call: Val<'c>, streams: Streams) -> Val<'c> {
    let one = e.cmp(Cmp::Eq, count(e, code, call), e.i64(1));
    match streams.of_several(code) {
        Some(several) if several.is_ahead(code) => e.and(one, e.not(Ahead::is_on_for_several(e))),
        _ => one,
    }
}

/// A task of a product whose weights rows choose.
pub(super) struct Chosen<'c> {
    /// Which of the weights.
    pub(super) element: Val<'c>,
    /// The first column.
    pub(super) first: Val<'c>,
    /// Past the last column.
    pub(super) end: Val<'c>,
    /// The row, inner rows counted.
    row: Val<'c>,
}

/// What a task is of, at the row that the site then stands at.
pub(super) fn chosen_by_task<'c>(site: &mut Site<'_, 'c>, code: &Matmul, task: Val<'c>) -> Chosen<'c> {
    let e = site.e;
    let (row, (first, end)) = part_of_task(e, code, task);
    site.set_product_row(code, row);
    site.index.insert(BATCH, e.i64(0));
    let id = |(ids, count): &(View, usize)| e.max(e.min(e.load(site.address(ids), Ty::I32), e.i32(*count as i32 - 1)), e.i32(0));
    let element = code.chosen.as_ref().map_or_else(|| e.i32(0), id);
    Chosen { element: e.to_i64(element), first, end, row }
}

/// A task's batch element or row, and its columns `[first, end)`.
fn part_of_task<'c>(e: &Emitter<'c>, code: &Matmul, task: Val<'c>) -> (Val<'c>, (Val<'c>, Val<'c>)) {
    let (columns, width) = (code.sizes[3], columns_of_a_task(code));
    let blocks = e.i64(columns.div_ceil(width));
    let first = e.mul(e.rem(task, blocks), e.i64(width));
    (e.div(task, blocks), (first, e.min(e.add(first, e.i64(width)), e.i64(columns))))
}

/// Where the weights of a column begin.
pub(super) fn weights_of<'c>(site: &Site<'_, 'c>, code: &Matmul, element: Val<'c>, column: Val<'c>) -> Val<'c> {
    let e = site.e;
    let base = site.address(&View { tensor: code.weights, offset: 0, strides: vec![] });
    e.element(base, e.add(e.mul(element, e.i64(code.sizes[3])), column), column_bytes(code))
}

pub(super) struct Product<'k, 'c> {
    pub(super) e: &'k Emitter<'c>,
    pub(super) code: &'k Matmul,
    pub(super) site: Site<'k, 'c>,
    pub(super) args: KernelArgs<'c>,
    pub(super) stream: Option<(Stream, &'k OneRow)>,
    pub(super) streams: Streams,
    /// Of products that are one in a call of one row: all of them.
    pub(super) joined: &'k [Joined],
    /// Most parts of a tile's contracted axis.
    pub(super) parts: usize,
}

impl<'k, 'c> Product<'k, 'c> {
    /// At the call, the words, the row and the batch element that a function is told.
    pub(super) fn of_row(
        e: &'k Emitter<'c>,
        code: &'k Matmul,
        setting: Setting,
        streams: Streams,
        values: &[Val<'c>],
    ) -> Option<Self> {
        let [call, operands, row, batch, ..] = *values else { return None };
        let nothing = e.i64(0);
        let args = KernelArgs { call, operands, begin: nothing, end: nothing, thread: nothing };
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args, stream: None, streams, joined: &[], parts: 1 };
        product.site.set_product_row(code, row);
        product.site.index.insert(BATCH, batch);
        Some(product)
    }
}

impl<'c> Product<'_, 'c> {
    /// All rows of the call (inner rows counted).
    pub(super) fn count(&self) -> Val<'c> {
        count(self.e, self.code, self.args.call)
    }

    /// The block's tasks.
    fn tasks(&mut self) {
        let (e, args) = (self.e, self.args);
        match is_shared_by_blocks(self.code) {
            true => self.share(),
            false => for_each(e, args.begin, args.end, e.blocks(), |task| self.task(task)),
        }
    }

    /// The block's share of the columns.
    fn columns_of_share(&self) -> (Val<'c>, Val<'c>) {
        let e = self.e;
        let (first, end) = columns_of_block(e, e.i32(self.code.sizes[3] as i32));
        (e.to_i64(first), e.to_i64(end))
    }

    /// The block's share of the columns, for the one row that there is.
    fn share_of_one(&mut self) {
        self.site.index.insert(BATCH, self.e.i64(0));
        let columns = self.columns_of_share();
        self.one(self.e.i64(0), columns, self.e.i64(0));
    }

    /// The block's share of the columns, for all rows.
    fn share(&mut self) {
        self.site.index.insert(BATCH, self.e.i64(0));
        let columns = self.columns_of_share();
        self.all(self.e.i64(0), columns);
    }

    fn task(&mut self, task: Val<'c>) {
        if self.code.chosen.is_some() {
            let Chosen { element, first, end, row } = chosen_by_task(&mut self.site, self.code, task);
            return self.one(element, (first, end), row);
        }
        let (other, columns) = part_of_task(self.e, self.code, task);
        self.site.index.insert(BATCH, other);
        self.all(other, columns);
    }

    /// All rows times some columns: as many rows at once as are left, the last of an odd number alone.
    fn all(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>)) {
        let e = self.e;
        let count = self.count();
        if let Some(several) = self.streams.of_several(self.code) {
            let alone = is_alone(e, self.code, self.args.call, self.streams);
            e.if_then(e.not(alone), || self.several(several, element, columns, count));
            return e.if_then(alone, || self.one(element, columns, e.i64(0)));
        }
        let pairs = e.and(count, e.i64(-2));
        e.if_then(e.cmp(Cmp::Gt, pairs, e.i64(0)), || self.rows(element, columns, pairs));
        e.if_then(e.cmp(Cmp::Gt, count, pairs), || self.one(element, columns, pairs));
    }

    /// One row times some columns.
    pub(super) fn one(&mut self, element: Val<'c>, columns: (Val<'c>, Val<'c>), row: Val<'c>) {
        match self.stream {
            Some(stream) => self.stream(stream, element, columns, row),
            None => self.columns(element, columns, row, 1),
        }
    }

    /// Whether the weights were asked for ahead; it is loaded anew behind each call.
    fn is_ahead(&self) -> Val<'c> {
        if is_read_ahead(self.code) { Ahead::is_on(self.e) } else { self.e.bool(false) }
    }

    pub(super) fn round(&self, columns: Val<'c>) -> Round<'c> {
        let (e, memory) = (self.e, self.e.shared_memory());
        Round {
            columns,
            depth: e.i32(self.code.sizes[2] as i32),
            divisor: e.i32(divisor_of(column_bytes(self.code).div_ceil(self.streams.rings.0.part))),
            ahead: self.is_ahead(),
            all: e.device_memory(e.call_field(self.args.call, Field::Weights)),
            table: e.offset_by(memory, self.streams.table),
            sums: memory,
            row: e.offset_by(memory, ROWS_AT),
        }
    }

    /// One row times some columns, in rounds.
    fn stream(&mut self, (stream, one): (Stream, &OneRow), element: Val<'c>, (start, end): (Val<'c>, Val<'c>), row: Val<'c>) {
        let e = self.e;
        let KernelArgs { call, operands, .. } = self.args;
        let batch = self.site.index[&BATCH];
        for_each(e, start, end, e.i64(ROUND), |first| {
            let columns = e.to_i32(e.min(e.sub(end, first), e.i64(ROUND)));
            let ahead = self.is_ahead();
            // Threads may still be at the sums of a round or task before this one.
            let again = if is_shared_by_blocks(self.code) { e.cmp(Cmp::Gt, first, start) } else { e.bool(true) };
            e.if_then(e.or(again, e.not(ahead)), || {
                self.streams.rings.1.release(e);
                e.sync();
            });
            e.if_then(e.not(ahead), || {
                e.call(&one.begin(), &[call, operands, row, element, first, columns], None);
            });
            let told = [call, operands, row, batch];
            e.call(&one.before(), &told, None);
            stream.call(e, self.round(columns));
            e.sync();
            match self.joined {
                [] => one.finish(e, told, (first, columns)),
                all => all.iter().for_each(|own| own.finish(e, told, (first, columns))),
            }
        });
    }

    /// Where the weights of a column begin.
    pub(super) fn weights(&self, element: Val<'c>, column: Val<'c>) -> Val<'c> {
        weights_of(&self.site, self.code, element, column)
    }

    /// The epilogue of one result of the site's row, which it gives.
    pub(super) fn end(&mut self, column: Val<'c>, sum: Val<'c>) -> Val<'c> {
        self.site.index.insert(COLUMN, column);
        self.site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, sum));
        let made = value(&self.site, &self.code.epilogue);
        self.site.fresh.clear();
        store(&self.site, &self.code.out, made);
        made
    }
}
