//! Walks along a sequence: which place of the grid a task has, and which rows it walks.

use super::site::Site;
use super::{Emitter, SegmentFields, Val};
use crate::fuse::expr::KAxis;
use crate::fuse::kernel::{Base, Nests, Part, Stmt};

/// Sets the site's indices to a task's place of the grid, at the beginning of its block where an axis is cut into `blocked` ones;
/// gives the number of the task's sequence.
pub fn place_in_grid<'c>(
    site: &mut Site<'_, 'c>,
    grid: &[KAxis],
    blocked: Option<(KAxis, usize)>,
    (sizes, task): (&[usize], Val<'c>),
) -> Val<'c> {
    let e = site.e;
    let mut rest = task;
    for axis in grid.iter().rev() {
        let width = blocked.filter(|(cut, _)| cut == axis).map_or(1, |(_, width)| width);
        let count = e.i64(sizes[axis.0].div_ceil(width));
        let place = e.rem(rest, count);
        rest = e.div(rest, count);
        site.index.insert(*axis, e.mul(place, e.i64(width)));
    }
    rest
}

/// Temporaries of chunks have room for the task's block of an axis, which begins at index `first`. `scratch`: the address of a byte of scratch.
pub fn own_block<'c>(site: &mut Site<'_, 'c>, code: &Nests, (axis, first): (KAxis, Val<'c>), scratch: &dyn Fn(usize) -> Val<'c>) {
    let e = site.e;
    for (at, tensor) in code.tensors.iter().enumerate() {
        let Base::Scratch(place) = tensor.base else { continue };
        let nests = code.nests.iter().chain(&code.staging.before);
        let views = nests.flat_map(|nest| &nest.stmts).flat_map(Stmt::views);
        let stride = views.filter(|view| view.tensor.0 == at).map(|view| view.stride(axis)).max().unwrap_or(0);
        if stride > 0 {
            let before = e.mul(first, e.i64(stride * tensor.store.bytes()));
            site.set_base(at, e.offset(scratch(place), e.sub(e.i64(0), before)));
        }
    }
}

/// First row, past the last, and rows at a time.
pub fn rows<'c>(e: &Emitter<'c>, part: Part, own: SegmentFields<'c>) -> (Val<'c>, Val<'c>, usize) {
    let end = e.add(own.row, own.rows);
    let whole = |rows: usize| e.add(own.row, e.mul(e.div(own.rows, e.i64(rows)), e.i64(rows)));
    match part {
        Part::All => (own.row, end, 1),
        Part::Chunks(rows) | Part::Intra(rows) => (own.row, whole(rows), rows),
        Part::Rest(rows) => (whole(rows), end, 1),
        Part::Ahead(rows) => (own.row, batches(e, rows, own).0, 1),
        Part::Batches(rows) => {
            let (first, end) = batches(e, rows, own);
            (first, end, rows)
        }
        Part::Behind(rows) => (batches(e, rows, own).1, end, 1),
    }
}

/// The first row of whole mini-batches, and past the last.
fn batches<'c>(e: &Emitter<'c>, rows: usize, own: SegmentFields<'c>) -> (Val<'c>, Val<'c>) {
    let size = e.i64(rows);
    let ahead = e.rem(e.sub(size, e.rem(own.position, size)), size);
    let ahead = e.min(ahead, own.rows);
    let whole = e.mul(e.div(e.sub(own.rows, ahead), size), size);
    let first = e.add(own.row, ahead);
    (first, e.add(first, whole))
}
