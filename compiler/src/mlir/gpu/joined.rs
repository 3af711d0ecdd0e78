//! Products of the same rows, whose weights lie one behind the other, as one product in calls of few rows: the rows, the stream of weights and the
//! block's share of columns are those of all; what is behind the stream is each product's own, and with it a convolution of its columns.

use super::ahead::columns_of_block;
use super::along;
use super::dot::Dot;
use super::matmul::{Product, pass};
use super::one_row::{OneRow, emit_behind};
use super::stream::Stream;
use super::{Streams, rounds, row};
use crate::fuse::kernel::{Along, BATCH, Code, Matmul};
use crate::mlir::common::site::{Setting, Site};
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Val};
use crate::plan::{Alone, Function, Joint, Plan};

/// One of them.
pub struct Joined {
    /// What is behind the stream.
    pub(super) behind: String,
    /// How many words stand before its own, and before those of its convolution, if it has one.
    pub(super) words: usize,
    tail: Option<usize>,
    /// How many columns stand before its own.
    before: usize,
    /// Its columns.
    columns: usize,
}

/// The functions of some members with their products.
fn products<'p>(plan: &'p Plan, members: &'p [Joint]) -> Vec<(&'p Joint, &'p Function, &'p Matmul)> {
    let own = |member: &'p Joint| match &plan.functions[member.function] {
        function @ Function { code: Code::Matmul(code), .. } => Some((member, function, code)),
        _ => None,
    };
    members.iter().filter_map(own).collect()
}

/// The convolution of a member's columns.
fn tail_of<'p>(plan: &'p Plan, member: &Joint) -> Option<&'p Along> {
    match &plan.functions[member.tail?.0].code {
        Code::Along(along) => Some(along),
        _ => None,
    }
}

/// The convolutions of some members, and where the words of each begin.
fn tails<'p>(plan: &'p Plan, members: &'p [Joint]) -> Vec<(usize, &'p Along)> {
    let mut words = 0;
    let own = |member: &'p Joint| {
        let at = words + member.words;
        words = at + member.tail.map_or(0, |(_, words)| words);
        Some((at, tail_of(plan, member)?))
    };
    members.iter().filter_map(own).collect()
}

/// Whether blocks can ask for what a step's convolutions need.
pub fn has_tails(function: &Function) -> bool {
    matches!(&function.alone, Some(Alone::Joined(members)) if members.iter().any(|member| member.tail.is_some()))
}

/// Asks for what the block's convolutions need.
pub fn ask<'c>(e: &Emitter<'c>, (plan, members): (&Plan, &[Joint]), setting: Setting, args: KernelArgs<'c>) {
    for (at, along) in tails(plan, members) {
        let args = KernelArgs { operands: e.offset_by(args.operands, 8 * at), ..args };
        along::ask(e, along, setting, args);
    }
}

/// Emits the kernel of some functions.
pub fn emit(e: &Emitter, name: &str, (plan, members): (&Plan, &[Joint]), setting: Setting, streams: Streams) {
    let products = products(plan, members);
    let Some((_, first, first_code)) = products.first() else { return };
    let (stream, one) = (Stream::of(Dot::of(first_code, 1), streams.rings), OneRow { name: first.name.clone() });
    let joined = Joined::all(&products, |at, function, tail| match tail {
        true => format!("{name}_tail_{at}"),
        false => OneRow { name: function.name.clone() }.behind(),
    });
    for (own, (member, _, code)) in joined.iter().zip(&products) {
        if let Some(tail) = tail_of(plan, member) {
            emit_behind(e, &own.behind, (code, Some(tail)), setting, streams);
        }
    }
    let columns: usize = joined.iter().map(|own| own.columns).sum();
    e.kernel(name, |args| {
        let (code, site) = (*first_code, Site::new(e, args, &first_code.tensors, setting));
        let mut product = Product { e, code, site, args, stream: Some((stream, &one)), streams, joined: &joined, parts: 1 };
        product.site.index.insert(BATCH, e.i64(0));
        let (first, end) = columns_of_block(e, e.i32(columns as i32));
        product.one(e.i64(0), (e.to_i64(first), e.to_i64(end)), e.i64(0));
    });
}

/// Emits the kernel of some functions for calls of several rows.
pub fn emit_rows(e: &Emitter, name: &str, (plan, members): (&Plan, &[Joint]), setting: Setting, streams: Streams) {
    let products = products(plan, members);
    let Some((_, first, code)) = products.first() else { return };
    let (stream, one) = (Stream::of(Dot::of(code, 1), streams.rings), OneRow { name: first.name.clone() });
    let joined = Joined::all(&products, |_, function, _| rounds::end_name(&function.name));
    let columns: usize = joined.iter().map(|own| own.columns).sum();
    e.kernel(name, |args| match streams.of_several(code) {
        Some(several) => {
            let site = Site::new(e, args, &code.tensors, setting);
            let mut product = Product { e, code, site, args, stream: Some((stream, &one)), streams, joined: &joined, parts: 1 };
            product.site.index.insert(BATCH, e.i64(0));
            let (first, end) = columns_of_block(e, e.i32(columns as i32));
            let count = product.count();
            product.several(several, e.i64(0), (e.to_i64(first), e.to_i64(end)), count);
        }
        // Where the matrix units do not take them, one product after the other.
        None => {
            for (own, (_, function, _)) in joined.iter().zip(&products) {
                let operands = e.offset_by(args.operands, 8 * own.words);
                pass(e, &OneRow { name: function.name.clone() }.several(), KernelArgs { operands, ..args });
                e.sync();
                row::forget(e);
            }
        }
    });
}

impl Joined {
    /// All of them. `behind`: the name of what is behind the stream of a member, its function, and whether it has a convolution.
    fn all(products: &[(&Joint, &Function, &Matmul)], behind: impl Fn(usize, &Function, bool) -> String) -> Vec<Self> {
        let (mut words, mut before) = (0, 0);
        let each = products.iter().enumerate().map(|(at, (member, function, code))| {
            let tail = member.tail.map(|_| words + member.words);
            let behind = behind(at, function, tail.is_some());
            let own = Joined { behind, words, tail, before, columns: code.sizes[3] };
            words += member.words + member.tail.map_or(0, |(_, words)| words);
            before += own.columns;
            own
        });
        each.collect()
    }

    /// Does what is behind the stream for those columns of a round that are its own.
    /// `told`: the call, the words of the first product, the row and the batch element.
    pub fn finish<'c>(&self, e: &Emitter<'c>, told: [Val<'c>; 4], (first, columns): (Val<'c>, Val<'c>)) {
        let [call, operands, row, batch] = told;
        self.of_round(e, (first, e.to_i64(columns)), |(first, own, at)| {
            let words = |at: usize| e.offset_by(operands, 8 * at);
            let told = [call, words(self.words), row, batch, first, own, at, columns];
            let told: Vec<Val> = told.into_iter().chain(self.tail.map(words)).collect();
            e.call(&self.behind, &told, None);
        });
    }

    /// Does `what` if some of a round's columns are its own: with the first of them, how many, and where they begin in the round.
    pub(super) fn of_round<'c>(
        &self,
        e: &Emitter<'c>,
        (first, columns): (Val<'c>, Val<'c>),
        what: impl FnOnce((Val<'c>, Val<'c>, Val<'c>)),
    ) {
        let own = e.i64(self.before as i64);
        let begin = e.max(first, own);
        let end = e.min(e.add(first, columns), e.i64((self.before + self.columns) as i64));
        e.if_then(e.cmp(Cmp::Lt, begin, end), || {
            what((e.sub(begin, own), e.to_i32(e.sub(end, begin)), e.to_i32(e.sub(begin, first))));
        });
    }
}
