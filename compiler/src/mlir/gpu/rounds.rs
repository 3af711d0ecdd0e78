//! Several rows of a product on the matrix units, a round of columns after the other: who has which row, the functions that multiply (several.rs), and
//! the ends of sums.

use super::ahead::{self, Ahead, Source};
use super::matmul::Product;
use super::several::{EIGHT, Kind, ROUND, Several, parts, sums_of_warp};
use super::{THREADS, WARPS};
use crate::fuse::kernel::DEPTH;
use crate::mlir::common::site::for_each;
use crate::mlir::common::{Cmp, Emitter, Field, Ty, Val};
use crate::plan::column_bytes;

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
        for_each(e, e.to_i64(e.thread()), e.mul(rows, e.i64(ROUND)), e.i64(THREADS), |result| {
            let (own, column) = (e.shift_right(result, i64::from(ROUND.ilog2())), e.and(result, e.i64(ROUND as i64 - 1)));
            e.if_then(e.cmp(Cmp::Lt, column, columns), || {
                let sum = sum_of(e, several, rows, (e.to_i32(own), e.to_i32(column)));
                self.site.set_product_row(code, e.add(row, own));
                self.end(e.add(first, column), sum);
            });
        });
    }
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
