//! The largest elements along an axis: a warp searches, each pass behind what the earlier ones took. Ties go to the lower index.

use super::{WARPS, small};
use crate::fuse::kernel::{COLUMN, INNER, Rows, Top};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Most elements of a lane that are kept while they are searched.
const KEPT: usize = 16;

/// Emits the kernel; a task is a row, whose searches are dealt to warps, or, where there is one search and rows are many, a row for each warp.
/// `alone`: each block does the one row.
pub fn emit(e: &Emitter, name: &str, code: &Top, (setting, alone): (Setting, bool)) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        let thread = e.to_i64(e.thread());
        let (warp, lane) = (e.div(thread, e.i64(WARP)), e.rem(thread, e.i64(WARP)));
        let wanted = code.rows == Rows::Wanted;
        let many = if code.outer == 1 && !alone { small::has_many(e, args, code.rows) } else { e.bool(false) };
        for_each(e, args.begin, args.end, e.blocks(), |task| {
            e.if_then(many, || {
                small::for_row(e, args, (code.rows, task), |row| {
                    site.set_row(row, wanted);
                    site.index.insert(INNER, e.i64(0));
                    search(&mut site, code, lane);
                });
            });
            e.if_then(e.not(many), || {
                site.set_row(if alone { e.i64(0) } else { task }, wanted);
                for_each(e, warp, e.i64(code.outer), e.i64(WARPS), |inner| {
                    site.index.insert(INNER, inner);
                    search(&mut site, code, lane);
                });
            });
        });
    });
}

/// A candidate: its value, its index, and whether there is one.
type Found<'c> = [Val<'c>; 3];

fn search<'c>(site: &mut Site<'_, 'c>, code: &Top, lane: Val<'c>) {
    let e = site.e;
    let start = [e.f32(f32::INFINITY), e.i32(-1)];
    let each = code.size.div_ceil(WARP);
    let kept = (each <= KEPT).then(|| (0..each).map(|at| kept(site, code, e.add(lane, e.i64(at * WARP)))).collect());
    let kept: Option<Vec<Found>> = kept;
    e.for_loop(e.i64(0), e.i64(code.count), e.i64(1), &start, |rank, last| {
        let nothing = [e.f32(f32::NEG_INFINITY), e.i32(0), e.i32(0)];
        let last = [last[0], last[1]];
        let mut best: Found = match &kept {
            Some(kept) => kept.iter().fold(nothing, |best, own| better(e, behind(e, *own, last), best)),
            None => {
                let own = e.for_loop(lane, e.i64(code.size), e.i64(WARP), &nothing, |at, best| {
                    let own = loaded(site, code, at);
                    better(e, behind(e, own, last), [best[0], best[1], best[2]]).to_vec()
                });
                [own[0], own[1], own[2]]
            }
        };
        for by in [16, 8, 4, 2, 1] {
            best = better(e, best.map(|part| e.exchange(part, by)), best);
        }
        site.index.insert(COLUMN, rank);
        e.if_then(e.cmp(Cmp::Eq, lane, e.i64(0)), || e.store(site.address(&code.out), best[1]));
        vec![best[0], best[1]]
    });
}

/// An element that is searched.
fn loaded<'c>(site: &mut Site<'_, 'c>, code: &Top, at: Val<'c>) -> Found<'c> {
    let e = site.e;
    site.index.insert(COLUMN, at);
    [e.load(site.address(&code.input), Ty::F32), e.to_i32(at), e.i32(1)]
}

/// The same, which need not be there.
fn kept<'c>(site: &mut Site<'_, 'c>, code: &Top, at: Val<'c>) -> Found<'c> {
    let e = site.e;
    if code.size.is_multiple_of(WARP) {
        return loaded(site, code, at);
    }
    let there = e.cmp(Cmp::Lt, at, e.i64(code.size));
    let [x, at, one] = loaded(site, code, e.min(at, e.i64(code.size - 1)));
    [x, at, e.select(there, one, e.i32(0))]
}

/// A candidate, if it comes behind what the last pass took.
fn behind<'c>(e: &Emitter<'c>, [x, at, there]: Found<'c>, last: [Val<'c>; 2]) -> Found<'c> {
    let behind = e.or(e.cmp(Cmp::Lt, x, last[0]), e.and(e.cmp(Cmp::Eq, x, last[0]), e.cmp(Cmp::Gt, at, last[1])));
    [x, at, e.select(behind, there, e.i32(0))]
}

/// The larger of two candidates; of equal ones the one with the lower index.
fn better<'c>(e: &Emitter<'c>, a: Found<'c>, b: Found<'c>) -> Found<'c> {
    let there = |found: Found<'c>| e.cmp(Cmp::Ne, found[2], e.i32(0));
    let larger = e.or(e.cmp(Cmp::Gt, a[0], b[0]), e.and(e.cmp(Cmp::Eq, a[0], b[0]), e.cmp(Cmp::Lt, a[1], b[1])));
    let wins = e.and(there(a), e.or(e.not(there(b)), larger));
    std::array::from_fn(|at| e.select(wins, a[at], b[at]))
}
