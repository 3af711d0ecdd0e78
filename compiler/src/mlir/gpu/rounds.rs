//! Several rows of a product on the matrix units, a round of columns after the other: who has which row, the functions that multiply (several.rs), and
//! the ends of sums.

use super::ahead::{self, Ahead, Source};
use super::joined::Joined;
use super::matmul::Product;
use super::several::{EIGHT, Kind, ROUND, Several, parts, sums_of_warp};
use super::{Streams, THREADS, WARPS};
use crate::fuse::kernel::{BATCH, DEPTH, Matmul};
use crate::mlir::common::site::{Setting, for_each};
use crate::mlir::common::{Cmp, Elem, Emitter, Field, Linkage, Ty, Val};
use crate::plan::column_bytes;

/// What a function that ends sums is told: the call, words, the first row, rows, the batch element, the first column, columns, where they begin in
/// the round.
const TOLD: [Elem; 8] = [Elem::Shared, Elem::Shared, Elem::I64, Elem::I64, Elem::I64, Elem::I64, Elem::I32, Elem::I32];

impl<'c> Product<'_, 'c> {
    /// All rows times some columns of a batch element.
    pub(super) fn several(&mut self, several: Several, element: Val<'c>, (start, end): (Val<'c>, Val<'c>), count: Val<'c>) {
        let e = self.e;
        for_each(e, e.i64(0), count, e.i64(several.rows), |row| {
            let rows = e.min(e.sub(count, row), e.i64(several.rows));
            for_each(e, start, end, e.i64(ROUND), |first| {
                let columns = e.min(e.sub(end, first), e.i64(ROUND));
                self.round_of_several(several, element, (first, columns), (row, rows));
            });
        });
    }

    fn round_of_several(
        &mut self,
        several: Several,
        element: Val<'c>,
        (first, columns): (Val<'c>, Val<'c>),
        (row, rows): (Val<'c>, Val<'c>),
    ) {
        let (e, code) = (self.e, self.code);
        let weights = e.device_memory(e.call_field(self.args.call, Field::Weights));
        let source = Source { weights, table: e.offset_by(e.shared_memory(), self.streams.table) };
        let (count, bytes) = (e.to_i32(columns), e.i32(column_bytes(code) as i32));
        several.ring.release(e);
        // Threads may still be at the sums of a round before this one.
        e.sync();
        let ahead = if several.is_ahead(code) { Ahead::is_on_for_several(e) } else { e.bool(false) };
        let own = self.weights(element, first);
        e.if_then(e.not(ahead), || ahead::begin_alone(e, several.ring, own, (count, bytes), source));
        let thread = e.to_i64(e.thread());
        if parts(code).is_some() {
            let place = e.offset_by(several.addresses(e), 8 * several.rows);
            e.if_then(e.cmp(Cmp::Eq, thread, e.i64(0)), || {
                e.store(place, own);
                e.store(e.offset_by(place, 8), count);
            });
        }
        e.if_then(e.cmp(Cmp::Lt, thread, e.i64(several.rows)), || {
            // Past the last row that is read again.
            self.site.set_product_row(code, e.add(row, e.min(thread, e.sub(rows, e.i64(1)))));
            self.site.index.insert(DEPTH, e.i64(0));
            e.store(e.element(several.addresses(e), thread, 8), self.site.address(&code.left));
        });
        e.sync();
        let arguments = [count, bytes, source.weights];
        let call = |kind: Kind| {
            e.call(&kind.name(), &arguments, None);
        };
        let kind = |rows: usize| several.kind(code, rows);
        if several.rows > EIGHT {
            let few = e.cmp(Cmp::Le, rows, e.i64(EIGHT));
            e.if_then(few, || call(kind(EIGHT)));
            e.if_then(e.not(few), || call(kind(several.rows)));
        } else {
            call(kind(EIGHT));
        }
        e.sync();
        let told = [self.args.call, self.args.operands, row, rows, self.site.index[&BATCH]];
        match (self.joined, self.stream) {
            ([], Some((_, one))) => call_end(e, &end_name(&one.name), told, (first, e.to_i32(columns), e.i32(0))),
            ([], None) => e.fault("several rows of a product that is no stream"),
            (all, _) => all.iter().for_each(|own| own.finish_rows(e, told, (first, columns))),
        }
    }
}

impl Joined {
    /// Ends the sums of several rows of those columns of a round that are its own; `told`: as for a product alone.
    fn finish_rows<'c>(&self, e: &Emitter<'c>, told: [Val<'c>; 5], (first, columns): (Val<'c>, Val<'c>)) {
        let [call, operands, others @ ..] = told;
        let ([row, rows, batch], operands) = (others, e.offset_by(operands, 8 * self.words));
        self.of_round(e, (first, columns), |own| call_end(e, &self.behind, [call, operands, row, rows, batch], own));
    }
}

/// The name of what ends the sums of several rows of a product.
pub(super) fn end_name(product: &str) -> String {
    format!("{product}_ends")
}

/// Calls it, for some columns: the first one, how many, and where they begin in the round.
fn call_end<'c>(e: &Emitter<'c>, name: &str, told: [Val<'c>; 5], (first, columns, at): (Val<'c>, Val<'c>, Val<'c>)) {
    let arguments: Vec<Val> = told.into_iter().chain([first, columns, at]).collect();
    e.call(name, &arguments, None);
}

/// Defines what ends the sums of several rows of a product; all threads of a block.
pub(super) fn emit_end(e: &Emitter, name: &str, code: &Matmul, setting: Setting, (streams, several): (Streams, Several)) {
    e.function(&end_name(name), Linkage::Private, &TOLD.map(Ty::scalar), None, |values| {
        let [call, operands, row, rows, batch, first, columns, at] = *values else { return None };
        let mut product = Product::of_row(e, code, setting, streams, &[call, operands, row, batch])?;
        let columns = e.to_i64(columns);
        for_each(e, e.to_i64(e.thread()), e.mul(rows, e.i64(ROUND)), e.i64(THREADS), |result| {
            let (own, column) = (e.shift_right(result, i64::from(ROUND.ilog2())), e.and(result, e.i64(ROUND as i64 - 1)));
            e.if_then(e.cmp(Cmp::Lt, column, columns), || {
                let sum = sum_of(e, several, rows, (e.to_i32(own), e.add(at, e.to_i32(column))));
                product.site.set_product_row(code, e.add(row, own));
                product.end(e.add(first, column), sum);
            });
        });
        None
    });
}

/// The sum of a row and a column (`i32`): those of all warps.
fn sum_of<'c>(e: &Emitter<'c>, several: Several, rows: Val<'c>, (row, column): (Val<'c>, Val<'c>)) -> Val<'c> {
    let bits = i64::from(EIGHT.ilog2());
    let within = |number: Val<'c>| e.and(number, e.i32(EIGHT as i32 - 1));
    let eights = e.select(e.cmp(Cmp::Le, rows, e.i64(EIGHT)), e.i32(1), e.i32(several.rows.div_ceil(EIGHT) as i32));
    let tile = e.add(e.mul(e.shift_right(column, bits), eights), e.shift_right(row, bits));
    let number = e.add(e.mul(within(row), e.i32(EIGHT as i32)), within(column));
    let place = e.add(e.mul(tile, e.i32((EIGHT * EIGHT) as i32)), number);
    let own = e.element(e.shared_memory(), e.to_i64(place), 4);
    let part = |warp: usize| e.load(e.offset_by(own, warp * sums_of_warp(several.rows)), Ty::F32);
    (1..WARPS).fold(part(0), |sum, warp| e.add(sum, part(warp)))
}
