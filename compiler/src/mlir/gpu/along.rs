//! Convolutions and shifts along a sequence: a thread has a channel; the rows under the window stay in its registers.

use super::THREADS;
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{Along, COLUMN};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Ty, Val};

/// Emits the kernel; a task is a sequence and a block of channels.
pub fn emit(e: &Emitter, name: &str, code: &Along, setting: Setting) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        for_each(e, args.begin, args.end, e.blocks(), |task| task_of(&mut site, code, args, task));
    });
}

fn task_of<'c>(site: &mut Site<'_, 'c>, code: &Along, args: KernelArgs<'c>, task: Val<'c>) {
    let e = site.e;
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
        let window: Vec<Val> = (0..before).map(|tap| e.load(place(site, tap, code.state), Ty::F32)).collect();
        let taps = |weights| (0..code.taps).map(|tap| e.load_constant(place(site, tap, weights), Ty::F32)).collect::<Vec<Val>>();
        let weights: Option<Vec<Val>> = code.weights.map(taps);
        let end = e.add(segment.row, segment.rows);
        let window =
            e.for_loop(segment.row, end, e.i64(1), &window, |row, window| one_row(site, code, row, window, weights.as_deref()));
        for (tap, value) in window.into_iter().enumerate() {
            e.store(place(site, tap, code.state), value);
        }
    });
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
