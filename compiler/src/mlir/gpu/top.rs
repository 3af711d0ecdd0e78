//! The largest elements along an axis: a warp searches, each pass behind what the earlier ones took. Ties go to the lower index.

use super::WARPS;
use crate::fuse::kernel::{COLUMN, INNER, Rows, Top};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Emits the kernel; a task is a row, whose searches are dealt to warps. `alone`: each block does the one row.
pub fn emit(e: &Emitter, name: &str, code: &Top, (setting, alone): (Setting, bool)) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        let thread = e.to_i64(e.thread());
        let (warp, lane) = (e.div(thread, e.i64(WARP)), e.rem(thread, e.i64(WARP)));
        for_each(e, args.begin, args.end, e.blocks(), |task| {
            let row = if alone { e.i64(0) } else { task };
            site.set_row(row, code.rows == Rows::Wanted);
            for_each(e, warp, e.i64(code.outer), e.i64(WARPS), |inner| {
                site.index.insert(INNER, inner);
                search(&mut site, code, lane);
            });
        });
    });
}

/// A candidate: its value, its index, and whether there is one.
type Found<'c> = [Val<'c>; 3];

fn search<'c>(site: &mut Site<'_, 'c>, code: &Top, lane: Val<'c>) {
    let e = site.e;
    let start = [e.f32(f32::INFINITY), e.i32(-1)];
    e.for_loop(e.i64(0), e.i64(code.count), e.i64(1), &start, |rank, last| {
        let nothing = [e.f32(f32::NEG_INFINITY), e.i32(0), e.i32(0)];
        let own = e.for_loop(lane, e.i64(code.size), e.i64(WARP), &nothing, |at, best| {
            site.index.insert(COLUMN, at);
            let x = e.load(site.address(&code.input), Ty::F32);
            let at = e.to_i32(at);
            let behind = e.or(e.cmp(Cmp::Lt, x, last[0]), e.and(e.cmp(Cmp::Eq, x, last[0]), e.cmp(Cmp::Gt, at, last[1])));
            let candidate = [x, at, e.select(behind, e.i32(1), e.i32(0))];
            better(e, candidate, [best[0], best[1], best[2]]).to_vec()
        });
        let mut best: Found = [own[0], own[1], own[2]];
        for by in [16, 8, 4, 2, 1] {
            best = better(e, best.map(|part| e.exchange(part, by)), best);
        }
        site.index.insert(COLUMN, rank);
        e.if_then(e.cmp(Cmp::Eq, lane, e.i64(0)), || e.store(site.address(&code.out), best[1]));
        vec![best[0], best[1]]
    });
}

/// The larger of two candidates; of equal ones the one with the lower index.
fn better<'c>(e: &Emitter<'c>, a: Found<'c>, b: Found<'c>) -> Found<'c> {
    let there = |found: Found<'c>| e.cmp(Cmp::Ne, found[2], e.i32(0));
    let larger = e.or(e.cmp(Cmp::Gt, a[0], b[0]), e.and(e.cmp(Cmp::Eq, a[0], b[0]), e.cmp(Cmp::Lt, a[1], b[1])));
    let wins = e.and(there(a), e.or(e.not(there(b)), larger));
    std::array::from_fn(|at| e.select(wins, a[at], b[at]))
}
