//! Convolutions and shifts along a sequence: a thread has a channel; the rows under the window stay in its registers. In calls of many
//! rows, pieces of a sequence are done side by side.

use super::{STEP_ROWS, THREADS};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{Along, COLUMN};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, SegmentFields, Ty, Val};
use crate::plan::{ALONG_PIECES, MOST_TAPS_IN_PIECES, along_in_pieces};

/// Rows of a piece.
const PIECE_ROWS: usize = 32;
/// Rows of a piece that are loaded together.
const LOADED: usize = 8;
/// A piece reaches into the one before it, not further.
const _: () = assert!(PIECE_ROWS >= MOST_TAPS_IN_PIECES);

/// Emits the kernel; a task is a sequence and a block of channels.
pub fn emit(e: &Emitter, name: &str, code: &Along, setting: Setting) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        if !along_in_pieces(code) {
            return all(&mut site, code, (args, false));
        }
        let many = e.cmp(Cmp::Gt, e.call_field(args.call, Field::Rows), e.i64(STEP_ROWS));
        e.if_then(many, || all(&mut site, code, (args, true)));
        e.if_then(e.not(many), || all(&mut site, code, (args, false)));
    });
}

fn all<'c>(site: &mut Site<'_, 'c>, code: &Along, (args, pieces): (KernelArgs<'c>, bool)) {
    let e = site.e;
    for_each(e, args.begin, args.end, e.blocks(), |task| task_of(site, code, (args, pieces), task));
}

fn task_of<'c>(site: &mut Site<'_, 'c>, code: &Along, (args, pieces): (KernelArgs<'c>, bool), task: Val<'c>) {
    let e = site.e;
    let (piece, task) = match pieces {
        true => (Some(e.rem(task, e.i64(ALONG_PIECES))), e.div(task, e.i64(ALONG_PIECES))),
        false => (None, task),
    };
    let blocks = e.i64(code.channels.div_ceil(THREADS));
    let segment = e.segment(args.call, e.div(task, blocks));
    let channel = e.add(e.mul(e.rem(task, blocks), e.i64(THREADS)), e.to_i64(e.thread()));
    site.set_slot(segment.slot);
    site.index.insert(COLUMN, channel);
    e.if_then(e.cmp(Cmp::Lt, channel, e.i64(code.channels)), || {
        let place = |site: &Site<'_, 'c>, tap: usize, tensor: TensorId| {
            site.address(&View { tensor, offset: tap * code.channels, strides: vec![(COLUMN, 1)] })
        };
        let before = code.taps - 1;
        let taps = |weights| (0..code.taps).map(|tap| e.load_constant(place(site, tap, weights), Ty::F32)).collect::<Vec<Val>>();
        let weights: Option<Vec<Val>> = code.weights.map(taps);
        if let Some(piece) = piece {
            return in_pieces(site, code, (segment, piece), weights.as_deref());
        }
        let window: Vec<Val> = (0..before).map(|tap| e.load(place(site, tap, code.state), Ty::F32)).collect();
        let end = e.add(segment.row, segment.rows);
        let window =
            e.for_loop(segment.row, end, e.i64(1), &window, |row, window| one_row(site, code, row, window, weights.as_deref()));
        for (tap, value) in window.into_iter().enumerate() {
            e.store(place(site, tap, code.state), value);
        }
    });
}

/// Every so many-th piece of a sequence. The first piece alone reads the state, and leaves the new one: the sequence's last rows.
fn in_pieces<'c>(
    site: &mut Site<'_, 'c>,
    code: &Along,
    (segment, piece): (SegmentFields<'c>, Val<'c>),
    weights: Option<&[Val<'c>]>,
) {
    let e = site.e;
    let before = code.taps - 1;
    let place = |site: &Site<'_, 'c>, tap: usize| {
        site.address(&View { tensor: code.state, offset: tap * code.channels, strides: vec![(COLUMN, 1)] })
    };
    let addresses = |site: &mut Site<'_, 'c>, row: Val<'c>| {
        let ahead = (0..before).map(|tap| {
            site.set_row(e.sub(row, e.i64(before - tap)), false);
            site.address(&code.input)
        });
        ahead.collect::<Vec<Val>>()
    };
    let end = e.add(segment.row, segment.rows);
    let start = e.add(segment.row, e.mul(piece, e.i64(PIECE_ROWS)));
    for_each(e, start, end, e.i64(PIECE_ROWS * ALONG_PIECES), |row| {
        let is_first = e.cmp(Cmp::Eq, row, segment.row);
        // One address for both: the state's rows, or those ahead in the call.
        let own: Vec<Val> = (0..before).map(|tap| place(site, tap)).collect();
        let known: Vec<Val> = addresses(site, row).into_iter().zip(own).map(|(at, own)| e.select(is_first, own, at)).collect();
        let window: Vec<Val> = known.into_iter().map(|at| e.load(at, Ty::F32)).collect();
        let to = e.min(end, e.add(row, e.i64(PIECE_ROWS)));
        let whole = e.cmp(Cmp::Eq, e.sub(to, row), e.i64(PIECE_ROWS));
        let shared = std::cell::RefCell::new(&mut *site);
        let together = || rows_together(&mut shared.borrow_mut(), code, row, &window, weights);
        let singly = || {
            e.for_loop(row, to, e.i64(1), &window, |row, window| one_row(&mut shared.borrow_mut(), code, row, window, weights))
        };
        let window = e.if_else(whole, together, singly);
        let site: &mut Site<'_, 'c> = shared.into_inner();
        e.if_then(is_first, || {
            let alone = e.cmp(Cmp::Eq, to, end);
            let last: Vec<Val> = addresses(site, end);
            let last = || last.into_iter().map(|at| e.load(at, Ty::F32)).collect::<Vec<Val>>();
            let new = e.if_else(alone, || window.clone(), last);
            for (tap, value) in new.into_iter().enumerate() {
                e.store(place(site, tap), value);
            }
        });
    });
}

/// All rows of a piece, some loaded at once.
fn rows_together<'c>(
    site: &mut Site<'_, 'c>,
    code: &Along,
    first: Val<'c>,
    window: &[Val<'c>],
    weights: Option<&[Val<'c>]>,
) -> Vec<Val<'c>> {
    let e = site.e;
    let end = e.add(first, e.i64(PIECE_ROWS));
    e.for_loop(first, end, e.i64(LOADED), window, |first, window| {
        let rows: Vec<Val> = (0..LOADED).map(|at| e.add(first, e.i64(at))).collect();
        let load = |row: &Val<'c>| {
            site.set_row(*row, false);
            e.load(site.address(&code.input), Ty::F32)
        };
        let loaded: Vec<Val> = rows.iter().map(load).collect();
        let mut window = window.to_vec();
        for (row, now) in rows.into_iter().zip(loaded) {
            site.set_row(row, false);
            window = made(site, code, now, &window, weights);
        }
        window
    })
}

/// One row: the sum under the window, the epilogue, and the window moved on.
fn one_row<'c>(
    site: &mut Site<'_, 'c>,
    code: &Along,
    row: Val<'c>,
    window: &[Val<'c>],
    weights: Option<&[Val<'c>]>,
) -> Vec<Val<'c>> {
    let e = site.e;
    site.set_row(row, false);
    let now = e.load(site.address(&code.input), Ty::F32);
    made(site, code, now, window, weights)
}

/// The result of the site's row, whose own element is `now`, and the window behind it.
fn made<'c>(
    site: &mut Site<'_, 'c>,
    code: &Along,
    now: Val<'c>,
    window: &[Val<'c>],
    weights: Option<&[Val<'c>]>,
) -> Vec<Val<'c>> {
    let e = site.e;
    let rows: Vec<Val> = window.iter().copied().chain([now]).collect();
    let made = match weights {
        None => rows[0],
        Some(weights) => {
            let first = e.mul(rows[0], weights[0]);
            rows[1..].iter().zip(&weights[1..]).fold(first, |sum, (row, weight)| e.fma(*row, *weight, sum))
        }
    };
    // The epilogue reads the sum as the tile's element.
    site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, made));
    let made = value(site, &code.epilogue);
    site.fresh.clear();
    store(site, &code.out, made);
    rows[1..].to_vec()
}
