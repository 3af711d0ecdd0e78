//! Where the temporaries of a chunk lie, and those of tables that are made once: one behind the other only where they are needed at the same
//! time. In a GPU's shared memory rows are apart, so that threads of a warp meet in few banks.

use super::expr::{KAxis, TensorId, View};
use super::kernel::{Base, Nest, Stmt, Store, Tensor};
use braid_runtime::artifact::ALIGN;

/// Elements that memory gives at once.
const BANKS: usize = 32;
/// Elements between rows that would otherwise lie under one another: a warp reads eight rows of four elements side by side, or four rows
/// of eight.
const GAPS: [usize; 2] = [4, 8];

/// A temporary that is needed from one nest to another.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Which.
    pub tensor: usize,
    /// The first nest.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many of it there are, one behind the other.
    pub places: usize,
}

/// Bytes of a temporary as views see it; `size`: how many indices of an axis there is room for.
pub fn bytes_of(nests: &[Nest], tensor: usize, bytes: usize, size: &dyn Fn(KAxis) -> usize) -> usize {
    let end = |view: &View| view.offset + view.strides.iter().map(|(axis, stride)| (size(*axis) - 1) * stride).sum::<usize>() + 1;
    let elements = views_of(nests, tensor).iter().map(end).max().unwrap_or(0);
    (elements * bytes).next_multiple_of(ALIGN)
}

/// Places all temporaries of `nests`, which run in order; gives the bytes that they need. `cut`: the axis of which a task walks a block
/// of so many indices, which is what temporaries have room for. `lives`: temporaries that are needed from one nest to another, whoever
/// touches them there. `banks`: rows are moved apart.
pub fn place(
    nests: &mut [Nest],
    tensors: &mut [Tensor],
    sizes: &[usize],
    cut: Option<(KAxis, usize)>,
    (lives, banks): (&[Life], bool),
) -> usize {
    let size = |axis: KAxis| cut.filter(|(own, _)| *own == axis).map_or(sizes[axis.0], |(_, width)| width);
    let scratch: Vec<usize> = (0..tensors.len()).filter(|at| matches!(tensors[*at].base, Base::Scratch(_))).collect();
    let mut placed: Vec<(std::ops::RangeInclusive<usize>, std::ops::Range<usize>)> = vec![];
    for at in scratch {
        // One index has no room to take, and its stride could be another axis's.
        if let Some((axis, width)) = cut.filter(|(axis, _)| sizes[axis.0] > 1) {
            narrow(nests, at, axis, (sizes[axis.0], width));
        }
        if banks {
            spread(nests, at, tensors[at].store, &size);
        }
        let touching = |nest: &Nest| nest.stmts.iter().any(|stmt| stmt.touches(TensorId(at)));
        let Some(first) = nests.iter().position(touching) else { continue };
        let last = nests.iter().rposition(touching).unwrap_or(first);
        let given = lives.iter().find(|life| life.tensor == at);
        let (first, last) = given.map_or((first, last), |life| (life.first, life.last));
        let bytes = bytes_of(nests, at, tensors[at].store.bytes(), &size) * given.map_or(1, |life| life.places);
        let mut taken: Vec<&std::ops::Range<usize>> =
            placed.iter().filter(|(life, _)| *life.start() <= last && first <= *life.end()).map(|(_, bytes)| bytes).collect();
        taken.sort_by_key(|range| range.start);
        let place = taken.iter().fold(0, |place, range| if place + bytes <= range.start { place } else { place.max(range.end) });
        tensors[at].base = Base::Scratch(place);
        placed.push((first..=last, place..place + bytes));
    }
    placed.iter().map(|(_, bytes)| bytes.end).max().unwrap_or(0)
}

/// Views of a temporary.
fn views_of(nests: &[Nest], tensor: usize) -> Vec<View> {
    nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::views).filter(|view| view.tensor.0 == tensor).cloned().collect()
}

/// Changes every view of a temporary: how many elements an offset or stride is now.
fn restride(nests: &mut [Nest], tensor: usize, moved: impl Fn(usize) -> usize) {
    for stmt in nests.iter_mut().flat_map(|nest| &mut nest.stmts) {
        stmt.views_mut(&mut |view| {
            if view.tensor.0 == tensor {
                view.offset = moved(view.offset);
                view.strides.iter_mut().for_each(|(_, stride)| *stride = moved(*stride));
            }
        });
    }
}

/// Takes the room of other blocks from a temporary whose fastest axis is cut into blocks.
fn narrow(nests: &mut [Nest], tensor: usize, axis: KAxis, (whole, width): (usize, usize)) {
    let fits = |view: &View| {
        let others = view.strides.iter().filter(|(own, _)| *own != axis).all(|(_, stride)| stride.is_multiple_of(whole));
        view.stride(axis) == 1 && others && view.offset.is_multiple_of(whole)
    };
    let all = views_of(nests, tensor);
    if all.iter().all(fits) {
        restride(nests, tensor, |elements| if elements == 1 { 1 } else { elements / whole * width });
    }
}

/// Whether a sum runs along what lies side by side in a temporary.
fn is_summed_along(stmt: &Stmt, tensor: usize) -> bool {
    let Some(reduction) = &stmt.reduce else { return false };
    let views = stmt.expr.views().into_iter().filter(|view| view.tensor.0 == tensor);
    views.flat_map(|view| &view.strides).any(|(axis, stride)| *stride == 1 && reduction.over.contains(axis))
}

/// Moves the rows of a temporary apart, if they are a multiple of all banks long, or of half of them. Rows in bfloat16 begin at whole
/// pieces of what the matrix units load.
fn spread(nests: &mut [Nest], tensor: usize, store: Store, size: &dyn Fn(KAxis) -> usize) {
    let all = views_of(nests, tensor);
    let mut strides: Vec<usize> = all.iter().flat_map(|view| view.strides.iter().map(|(_, stride)| *stride)).collect();
    strides.sort_unstable();
    // What every view counts in whole rows, without a step from one into the next.
    let whole = |row: usize, view: &View| {
        let (beyond, within): (Vec<_>, Vec<_>) = view.strides.iter().partition(|(_, stride)| *stride >= row);
        let last = view.offset % row + within.iter().map(|(axis, stride)| (size(*axis) - 1) * stride).sum::<usize>();
        beyond.iter().all(|(_, stride)| stride.is_multiple_of(row)) && last < row
    };
    let Some(row) = strides.into_iter().rev().find(|row| all.iter().all(|view| whole(*row, view))) else { return };
    if !row.is_multiple_of(BANKS / 2) {
        return;
    }
    let summed_along = || nests.iter().flat_map(|nest| &nest.stmts).any(|stmt| is_summed_along(stmt, tensor));
    let gap = if store != Store::Bf16 && summed_along() { GAPS[0] } else { GAPS[1] };
    restride(nests, tensor, |elements| elements / row * (row + gap) + elements % row);
}
