//! The largest elements along an axis: so many passes, each past what the earlier ones took. Ties go to the lower index.

use crate::fuse::kernel::{COLUMN, INNER, Rows, Top};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Emits the kernel; a task is a row.
pub fn emit(e: &Emitter, name: &str, code: &Top, setting: Setting) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        for_each(e, args.begin, args.end, e.i64(1), |row| {
            site.set_row(row, code.rows == Rows::Wanted);
            for_each(e, e.i64(0), e.i64(code.outer), e.i64(1), |inner| {
                site.index.insert(INNER, inner);
                search(&mut site, code);
            });
        });
    });
}

/// Elements are taken in the order of falling value, then rising index: each pass looks only behind the last one taken.
fn search(site: &mut Site, code: &Top) {
    let e = site.e;
    let start = [e.f32(f32::INFINITY), e.i64(-1)];
    e.for_loop(e.i64(0), e.i64(code.count), e.i64(1), &start, |rank, last| {
        let (limit, taken) = (last[0], last[1]);
        // Until something is found the answer is the first element: an id in range even where nothing compares (NaN).
        let start = [e.f32(f32::NEG_INFINITY), e.i64(0), e.i64(0)];
        let best = e.for_loop(e.i64(0), e.i64(code.size), e.i64(1), &start, |at, best| {
            site.index.insert(COLUMN, at);
            let x = e.load(site.address(&code.input), Ty::F32);
            let behind = after(site, (limit, taken), (x, at));
            let none = e.cmp(Cmp::Eq, best[2], e.i64(0));
            let better = e.and(behind, e.or(none, e.cmp(Cmp::Gt, x, best[0])));
            vec![e.select(better, x, best[0]), e.select(better, at, best[1]), e.select(better, e.i64(1), best[2])]
        });
        site.index.insert(COLUMN, rank);
        e.store(site.address(&code.out), e.to_i32(best[1]));
        vec![best[0], best[1]]
    });
}

/// Whether `b` comes after `a` in the order of falling value, then rising index.
fn after<'c>(site: &Site<'_, 'c>, a: (Val<'c>, Val<'c>), b: (Val<'c>, Val<'c>)) -> Val<'c> {
    let e = site.e;
    let lower = e.cmp(Cmp::Lt, b.0, a.0);
    let same = e.and(e.cmp(Cmp::Eq, b.0, a.0), e.cmp(Cmp::Gt, b.1, a.1));
    e.or(lower, same)
}
