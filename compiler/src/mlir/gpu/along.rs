//! Convolutions and shifts along a sequence: a thread has a channel; the rows under the window stay in its registers. Where a sequence may have
//! many rows, pieces of it are done side by side, and a thread has two channels if they lie in pairs.

use super::ahead::columns_of_block;
use super::ask::asking;
use super::clerk::longest;
use super::{STEP_ROWS, THREADS};
use crate::fuse::expr::{Expr, TensorId, View};
use crate::fuse::kernel::{Along, Base, COLUMN, Store};
use crate::mlir::common;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, KernelArgs, SegmentFields, Ty, Val};
use crate::plan::{ALONG_PIECES, MOST_TAPS_IN_PIECES, along_in_pieces, channels_in_pieces, operands_of_convolution};
use braid_dsl::model::Elem;

/// Rows of a piece.
const PIECE_ROWS: usize = 32;
/// Rows of a piece that are loaded together.
const LOADED: usize = 16;
/// A piece reaches into the one before it, not further.
const _: () = assert!(PIECE_ROWS >= MOST_TAPS_IN_PIECES);

/// Emits the kernel; a task is a sequence and a block of channels. `alone`: blocks share the channels of the one sequence as the columns of
/// products, which the words behind the operands name.
pub fn emit(e: &Emitter, name: &str, code: &Along, (setting, alone): (Setting, bool)) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        if alone {
            return share(&mut site, code, args);
        }
        if !along_in_pieces(code) {
            return all(&mut site, code, (args, false));
        }
        let many = e.cmp(Cmp::Gt, longest(e, args.call), e.i64(STEP_ROWS));
        e.if_then(many, || all(&mut site, code, (args, true)));
        e.if_then(e.not(many), || all(&mut site, code, (args, false)));
    });
}

fn all<'c>(site: &mut Site<'_, 'c>, code: &Along, (args, pieces): (KernelArgs<'c>, bool)) {
    let e = site.e;
    for_each(e, args.begin, args.end, e.blocks(), |task| task_of(site, code, (args, pieces), task));
}

/// The block's share of the channels, `[first, end)`; `i32`.
fn share_of_block<'c>(e: &Emitter<'c>, code: &Along, args: KernelArgs<'c>) -> (Val<'c>, Val<'c>) {
    let [before, all] =
        [0, 1].map(|word| e.to_i32(e.load(e.offset_by(args.operands, 8 * (operands_of_convolution(code) + word)), Ty::I64)));
    let (first, end) = columns_of_block(e, all);
    let own = |column: Val<'c>| e.min(e.max(e.sub(column, before), e.i32(0)), e.i32(code.channels as i32));
    (own(first), own(end))
}

/// Asks for the weights and the state of the block's share.
pub fn ask<'c>(e: &Emitter<'c>, code: &Along, setting: Setting, args: KernelArgs<'c>) {
    let mut site = Site::new(e, args, &code.tensors, setting);
    let slot = e.segment(args.call, e.i64(0)).slot;
    site.set_slot(slot);
    let (first, end) = share_of_block(e, code, args);
    let own = e.add(first, asking(e));
    e.if_then(e.cmp(Cmp::Lt, own, end), || {
        site.index.insert(COLUMN, e.to_i64(own));
        kept(&site, code).into_iter().for_each(|place| e.prefetch_far(place));
    });
}

/// What an epilogue reads of weights.
fn beside(code: &Along) -> Vec<&View> {
    code.epilogue.views().into_iter().filter(|view| code.tensors[view.tensor.0].base == Base::Weights).collect()
}

/// Where what there is of the site's channel from the beginning lies: its weights, the state, and what the epilogue reads of weights.
fn kept<'c>(site: &Site<'_, 'c>, code: &Along) -> Vec<Val<'c>> {
    let taps = |tensor: TensorId, count: usize| (0..count).map(move |tap| tap_of(site, code, tensor, tap));
    let weights = code.weights.into_iter().flat_map(|weights| taps(weights, code.taps));
    let beside = beside(code).into_iter().map(|view| site.address(view));
    weights.chain(taps(code.state, code.taps - 1)).chain(beside).collect()
}

/// A channel of a call of one row, ahead of what the row has there.
pub struct Next<'k, 'c> {
    site: Site<'k, 'c>,
    channel: Channel<'k, 'c>,
    state: Vec<Val<'c>>,
    window: Vec<Val<'c>>,
}

impl<'k, 'c> Next<'k, 'c> {
    /// Loads what there is of the channel from the beginning; `args`: the call, and the convolution's words.
    pub fn of(e: &'k Emitter<'c>, code: &'k Along, setting: Setting, args: KernelArgs<'c>, channel: Val<'c>) -> Self {
        let mut site = Site::new(e, args, &code.tensors, setting);
        let slot = e.segment(args.call, e.i64(0)).slot;
        site.set_slot(slot);
        site.set_row(e.i64(0), false);
        site.index.insert(COLUMN, channel);
        let channel = Channel::of(&site, code);
        let state = channel.state(&site);
        let window = loaded(e, &state, 1);
        Next { site, channel, state, window }
    }

    /// Goes on to the row's own element, rounded if rows are stored so.
    pub fn go_on(mut self, now: Val<'c>) {
        let e = self.site.e;
        let rounds = self.site.store_of(&self.channel.code.input) == Store::Bf16;
        let now = if rounds { e.to_f32(e.convert(now, common::Elem::Bf16)) } else { now };
        let window = self.channel.made(&mut self.site, now, &self.window);
        self.state.into_iter().zip(window).for_each(|(place, value)| e.store(place, value));
    }
}

/// What the block does of the one sequence.
fn share<'c>(site: &mut Site<'_, 'c>, code: &Along, args: KernelArgs<'c>) {
    let e = site.e;
    let (first, end) = share_of_block(e, code, args);
    let segment = e.segment(args.call, e.i64(0));
    site.set_slot(segment.slot);
    for_each(e, e.to_i64(e.add(first, e.thread())), e.to_i64(end), e.i64(THREADS), |channel| {
        site.index.insert(COLUMN, channel);
        Channel::of(site, code).whole(site, segment);
    });
}

fn task_of<'c>(site: &mut Site<'_, 'c>, code: &Along, (args, pieces): (KernelArgs<'c>, bool), task: Val<'c>) {
    let e = site.e;
    let (piece, task) = match pieces {
        true => (Some(e.rem(task, e.i64(ALONG_PIECES))), e.div(task, e.i64(ALONG_PIECES))),
        false => (None, task),
    };
    let each = if piece.is_some() { channels_in_pieces(code) } else { 1 };
    let blocks = e.i64(code.channels.div_ceil(each * THREADS));
    let segment = e.segment(args.call, e.div(task, blocks));
    let channel = e.add(e.mul(e.rem(task, blocks), e.i64(each * THREADS)), e.to_i64(e.mul(e.thread(), e.i32(each as i32))));
    site.set_slot(segment.slot);
    site.index.insert(COLUMN, channel);
    (site.vector, site.lanes, site.whole) = ((each > 1).then_some(COLUMN), each, each > 1);
    e.if_then(e.cmp(Cmp::Lt, channel, e.i64(code.channels)), || {
        let channel = Channel::of(site, code);
        match piece {
            Some(piece) => channel.pieces(site, segment, piece),
            None => channel.whole(site, segment),
        }
    });
}

/// The address of a tap of the thread's channel, of weights or of the state.
fn tap_of<'c>(site: &Site<'_, 'c>, code: &Along, tensor: TensorId, tap: usize) -> Val<'c> {
    site.address(&View { tensor, offset: tap * code.channels, strides: vec![(COLUMN, 1)] })
}

/// The thread's channel, or channels: numbers are vectors of as many.
struct Channel<'n, 'c> {
    code: &'n Along,
    weights: Option<Vec<Val<'c>>>,
    /// What the epilogue reads of weights.
    beside: Vec<(View, Val<'c>)>,
}

impl<'n, 'c> Channel<'n, 'c> {
    /// The site's.
    fn of(site: &Site<'_, 'c>, code: &'n Along) -> Self {
        let weight = |weights, tap| site.e.load_constant_aligned(tap_of(site, code, weights, tap), Ty::f32(site.lanes));
        let weights = code.weights.map(|weights| (0..code.taps).map(|tap| weight(weights, tap)).collect());
        let load = |view: &View| (view.clone(), value(site, &Expr::Load(view.clone(), Elem::Float)));
        Channel { code, weights, beside: beside(code).into_iter().map(load).collect() }
    }

    /// Rows under the window besides the row at hand.
    fn before(&self) -> usize {
        self.code.taps - 1
    }

    /// Addresses of the state's rows.
    fn state(&self, site: &Site<'_, 'c>) -> Vec<Val<'c>> {
        (0..self.before()).map(|tap| tap_of(site, self.code, self.code.state, tap)).collect()
    }

    /// What a row of the call has.
    fn input(&self, site: &mut Site<'_, 'c>, row: Val<'c>) -> Val<'c> {
        site.set_row(row, false);
        value(site, &Expr::Load(self.code.input.clone(), Elem::Float))
    }

    /// What the rows before a row have.
    fn ahead_of(&self, site: &mut Site<'_, 'c>, row: Val<'c>) -> Vec<Val<'c>> {
        let e = site.e;
        (0..self.before()).map(|tap| self.input(site, e.sub(row, e.i64(self.before() - tap)))).collect()
    }

    /// A whole sequence.
    fn whole(&self, site: &mut Site<'_, 'c>, segment: SegmentFields<'c>) {
        let e = site.e;
        let state = self.state(site);
        let window = loaded(e, &state, site.lanes);
        let end = e.add(segment.row, segment.rows);
        let window = self.rows(site, (segment.row, end, 1), &window);
        state.into_iter().zip(window).for_each(|(place, value)| e.store(place, value));
    }

    /// Every so many-th piece of a sequence. The first piece alone reads the state, and leaves the new one: the sequence's last rows.
    fn pieces(&self, site: &mut Site<'_, 'c>, segment: SegmentFields<'c>, piece: Val<'c>) {
        let (e, lanes) = (site.e, site.lanes);
        let state = self.state(site);
        let end = e.add(segment.row, segment.rows);
        let start = e.add(segment.row, e.mul(piece, e.i64(PIECE_ROWS)));
        for_each(e, start, end, e.i64(PIECE_ROWS * ALONG_PIECES), |row| {
            let is_first = e.cmp(Cmp::Eq, row, segment.row);
            let window = e.if_else(is_first, || loaded(e, &state, lanes), || self.ahead_of(site, row));
            let to = e.min(end, e.add(row, e.i64(PIECE_ROWS)));
            // A loop in turns of several rows, then one of single rows: one of them has none.
            let whole = e.cmp(Cmp::Eq, e.sub(to, row), e.i64(PIECE_ROWS));
            let together = e.select(whole, to, row);
            let window = self.rows(site, (row, together, LOADED), &window);
            let window = self.rows(site, (together, to, 1), &window);
            e.if_then(is_first, || {
                let new = e.if_else(e.cmp(Cmp::Eq, to, end), || window.clone(), || self.ahead_of(site, end));
                state.iter().zip(new).for_each(|(place, value)| e.store_aligned(*place, value));
            });
        });
    }

    /// Rows from one on to another, so many loaded at once; gives the window behind them.
    fn rows(&self, site: &mut Site<'_, 'c>, (from, to, at_once): (Val<'c>, Val<'c>, usize), window: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = site.e;
        e.for_loop(from, to, e.i64(at_once), window, |first, window| {
            let rows: Vec<Val> = (0..at_once).map(|at| e.add(first, e.i64(at))).collect();
            let now: Vec<Val> = rows.iter().map(|row| self.input(site, *row)).collect();
            rows.into_iter().zip(now).fold(window.to_vec(), |window, (row, now)| {
                site.set_row(row, false);
                self.made(site, now, &window)
            })
        })
    }

    /// One row: the sum under the window, the epilogue, and the window moved on; the row's own element is `now`.
    fn made(&self, site: &mut Site<'_, 'c>, now: Val<'c>, window: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = site.e;
        let rows: Vec<Val> = window.iter().copied().chain([now]).collect();
        let made = match &self.weights {
            None => rows[0],
            Some(weights) => {
                let first = e.mul(rows[0], weights[0]);
                rows[1..].iter().zip(&weights[1..]).fold(first, |sum, (row, weight)| e.fma(*row, *weight, sum))
            }
        };
        // The epilogue reads the sum as the tile's element.
        site.fresh.clone_from(&self.beside);
        site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, made));
        let made = value(site, &self.code.epilogue);
        site.fresh.clear();
        store(site, &self.code.out, made);
        rows[1..].to_vec()
    }
}

fn loaded<'c>(e: &Emitter<'c>, places: &[Val<'c>], lanes: usize) -> Vec<Val<'c>> {
    places.iter().map(|place| e.load_aligned(*place, Ty::f32(lanes))).collect()
}

/// A piece is turns of whole loads.
const _: () = assert!(PIECE_ROWS.is_multiple_of(LOADED));
