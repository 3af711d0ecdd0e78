//! What a product of one row does before its stream of weights and behind it, in functions of their own: what a function needs behind a call
//! comes back from the device's memory, so those that call keep nothing.

use super::Streams;
use super::along::Next;
use super::dot::Dot;
use super::matmul::{Product, ROWS_AT};
use super::row;
use super::stream::{Stream, sum_of};
use crate::fuse::kernel::{Along, DEPTH, Matmul};
use crate::mlir::common::site::Setting;
use crate::mlir::common::{Cmp, Elem, Emitter, KernelArgs, Linkage, Ty, Val};
use crate::plan::column_bytes;

/// What a function is told: the call, words, the row, the batch element, the first column, columns, where they begin in the round, the round's
/// columns. Behind them stand the words of a convolution, if there is one.
pub(super) const TOLD: [Elem; 8] = [Elem::Shared, Elem::Shared, Elem::I64, Elem::I64, Elem::I64, Elem::I32, Elem::I32, Elem::I32];

/// The functions of a product of one row.
pub(super) struct OneRow {
    /// The product's name.
    pub(super) name: String,
}

impl OneRow {
    /// The function that brings the row.
    pub(super) fn before(&self) -> String {
        format!("{}_row", self.name)
    }

    /// The function that asks for what is not asked for ahead.
    pub(super) fn begin(&self) -> String {
        format!("{}_begin", self.name)
    }

    /// The function for a call of one row, whose columns blocks share.
    pub(super) fn whole(&self) -> String {
        format!("{}_one", self.name)
    }

    /// The function for calls of several rows.
    pub(super) fn several(&self) -> String {
        format!("{}_few", self.name)
    }

    /// What is behind the stream.
    pub(super) fn behind(&self) -> String {
        format!("{}_end", self.name)
    }

    /// Defines `before(call, words, row, batch element)`, `begin(call, words, row, element of the weights, first column, columns)` and what is
    /// behind the stream.
    pub(super) fn emit(&self, e: &Emitter, code: &Matmul, setting: Setting, streams: Streams) {
        let shared = Ty::scalar(Elem::Shared);
        let parameters = [shared, shared, Ty::I64, Ty::I64, Ty::I64, Ty::I32];
        e.function(&self.begin(), Linkage::Private, &parameters, None, |values| {
            let product = Product::of_row(e, code, setting, streams, values)?;
            let [element, first, columns] = [*values.get(3)?, *values.get(4)?, *values.get(5)?];
            let weights = product.weights(element, first);
            Stream::of(Dot::of(code, 1), streams.rings).begin(e, weights, product.round(columns));
            None
        });
        e.function(&self.before(), Linkage::Private, &[shared, shared, Ty::I64, Ty::I64], None, |values| {
            let mut product = Product::of_row(e, code, setting, streams, values)?;
            product.site.index.insert(DEPTH, e.i64(0));
            let left = product.site.address(&code.left);
            row::fetch(e, code, left, ROWS_AT, product.args);
            row::keep(e, code, left);
            None
        });
        emit_behind(e, &self.behind(), (code, None), setting, streams);
    }

    /// Does what is behind the stream of some columns.
    pub(super) fn finish<'c>(&self, e: &Emitter<'c>, told: [Val<'c>; 4], (first, columns): (Val<'c>, Val<'c>)) {
        let [call, operands, row, batch] = told;
        e.call(&self.behind(), &[call, operands, row, batch, first, columns, e.i32(0), columns], None);
    }
}

/// Defines what is behind the stream: the epilogue of the sums of some columns, and a convolution of its results, if it is told one and its words.
pub(super) fn emit_behind(e: &Emitter, name: &str, (code, tail): (&Matmul, Option<&Along>), setting: Setting, streams: Streams) {
    let parameters: Vec<Ty> = TOLD.into_iter().chain(tail.map(|_| Elem::Shared)).map(Ty::scalar).collect();
    e.function(name, Linkage::Private, &parameters, None, |values| {
        let mut product = Product::of_row(e, code, setting, streams, values)?;
        let [first, columns, at, all] = [*values.get(4)?, *values.get(5)?, *values.get(6)?, *values.get(7)?];
        let (args, thread, tail) = (product.args, e.thread(), tail.zip(values.get(TOLD.len()).copied()));
        e.if_then(e.cmp(Cmp::Lt, thread, columns), || {
            let column = e.add(first, e.to_i64(thread));
            // What it loads is under way while sums are added up.
            let next = tail.map(|(tail, operands)| Next::of(e, tail, setting, KernelArgs { operands, ..args }, column));
            let sum = sum_of(e, streams.rings.0, (e.shared_memory(), all), e.add(at, thread), column_bytes(code));
            let made = product.end(column, sum);
            if let Some(next) = next {
                next.go_on(made);
            }
        });
        None
    });
}
