//! Products of the same row, whose weights lie one behind the other, as one product in a call of one row: the row, the stream of weights and the
//! block's share of columns are those of all; what is behind the stream is each product's own.

use super::Streams;
use super::ahead::columns_of_block;
use super::dot::Dot;
use super::matmul::{OneRow, Product};
use super::stream::Stream;
use crate::fuse::kernel::{BATCH, Code, Matmul};
use crate::mlir::common::site::{Setting, Site};
use crate::mlir::common::{Cmp, Emitter, Val};
use crate::plan::{Function, Plan};

/// One of them.
pub struct Joined {
    /// Its own name.
    name: String,
    /// How many words stand before its own.
    words: usize,
    /// How many columns stand before its own.
    before: usize,
    /// Its columns.
    columns: usize,
}

/// Emits the kernel of some functions, of which each has so many words.
pub fn emit(e: &Emitter, name: &str, (plan, functions): (&Plan, &[(usize, usize)]), setting: Setting, streams: Streams) {
    let products: Vec<(&Function, &Matmul, usize)> = functions
        .iter()
        .filter_map(|(at, words)| match &plan.functions[*at] {
            function @ Function { code: Code::Matmul(code), .. } => Some((function, code, *words)),
            _ => None,
        })
        .collect();
    let Some((first, code, _)) = products.first() else { return };
    let (stream, one) = (Stream::of(Dot::of(code, 1), streams.rings), OneRow { name: first.name.clone() });
    let joined = Joined::all(&products);
    let columns: usize = joined.iter().map(|own| own.columns).sum();
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut product = Product { e, code, site, args, stream: Some((stream, &one)), streams, joined: &joined };
        product.site.index.insert(BATCH, e.i64(0));
        let (first, end) = columns_of_block(e, e.i32(columns as i32));
        product.one(e.i64(0), (e.to_i64(first), e.to_i64(end)), e.i64(0));
    });
}

impl Joined {
    fn all(products: &[(&Function, &Matmul, usize)]) -> Vec<Self> {
        let (mut words, mut before) = (0, 0);
        let each = products.iter().map(|(function, code, count)| {
            let own = Joined { name: function.name.clone(), words, before, columns: code.sizes[3] };
            (words, before) = (words + count, before + own.columns);
            own
        });
        each.collect()
    }

    /// Does what is behind the stream for those columns of a round that are its own. `told`: the call, the words of the first product, the row and
    /// the batch element.
    pub fn finish<'c>(&self, e: &Emitter<'c>, told: [Val<'c>; 4], (first, columns): (Val<'c>, Val<'c>)) {
        let [call, operands, row, batch] = told;
        let own = e.i64(self.before as i64);
        let begin = e.max(first, own);
        let end = e.min(e.add(first, e.to_i64(columns)), e.i64((self.before + self.columns) as i64));
        e.if_then(e.cmp(Cmp::Lt, begin, end), || {
            let words = e.offset_by(operands, 8 * self.words);
            let at = e.to_i32(e.sub(begin, first));
            let name = OneRow { name: self.name.clone() }.behind();
            e.call(&name, &[call, words, row, batch, e.sub(begin, own), e.to_i32(e.sub(end, begin)), at, columns], None);
        });
    }
}
