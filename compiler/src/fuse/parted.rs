//! The kernels of a recurrence's chunks on a GPU: what needs no state, for all chunks side by side; the walk that updates states, chunk after
//! chunk; and what only reads them, side by side again.

use super::build::{Draft, Fuser};
use super::expr::{KAxis, TensorId, View};
use super::kernel::{Base, Code, Nests, Part, Stmt, Walk};
use super::nest::Axes;
use super::recurrence::{NARROWEST_OF_CHUNKS, narrowed};
use super::{Kernel, intra, loops, product, staging};
use crate::graph::NodeId;
use braid_runtime::artifact::Dtype;
use std::collections::BTreeSet;

/// What the kernels of a GPU's chunks have in common.
pub(super) struct Parted {
    pub(super) axes: Axes,
    pub(super) grid: Vec<KAxis>,
    /// The grid without the axis that is cut into blocks.
    pub(super) single: Vec<KAxis>,
    pub(super) blocked: Option<(KAxis, usize)>,
    /// An axis that some states have and others lack.
    pub(super) cut: Option<KAxis>,
    /// Axes that count the rows of a chunk.
    pub(super) rows: Vec<KAxis>,
    /// How many there are.
    pub(super) chunk: usize,
}

/// What needs no state, for all chunks side by side; what updates states, chunk after chunk; and what only reads them, side by side again.
pub(super) fn parted(fuser: &mut Fuser, mut draft: Draft, members: &[NodeId], stmts: Vec<Stmt>, work: Parted) -> Vec<Kernel> {
    let Parted { axes, grid, single, blocked, cut, rows, chunk } = &work;
    let crossing = intra::Crossing { node: members[0], rows, grid: single, axes };
    let split = intra::split(fuser, &mut draft, stmts, &crossing);
    let (walk, outputs) = match intra::split_outputs(fuser, &mut draft, &split.inter, &crossing, *chunk) {
        Some(again) => (again.intra, again.inter),
        None => (split.inter, vec![]),
    };
    let cut = cut.filter(|_| blocked.is_none());
    let again = cut.and_then(|cut| by_states(fuser, &mut draft, &walk, cut, &crossing));
    let chunks = Chunked { fuser, draft: &draft, members, work: &work };
    let mut made: Vec<Kernel> = vec![];
    if !split.intra.is_empty() {
        made.push(chunks.kernel(split.intra, single, None, Part::Intra(*chunk)));
    }
    match again {
        Some((first, second, cut)) => {
            made.push(chunks.kernel(first, grid, None, Part::Chunks(*chunk)));
            made.push(chunks.kernel(second, &[&grid[..], &[cut.0]].concat(), Some(cut), Part::Chunks(*chunk)));
        }
        None => made.push(chunks.kernel(walk, grid, *blocked, Part::Chunks(*chunk))),
    }
    if !outputs.is_empty() {
        made.push(chunks.outputs(outputs, blocked.map(|(axis, _)| axis).or(cut)));
    }
    made
}

/// What the kernels of a GPU's chunks are made with.
struct Chunked<'a, 'f> {
    fuser: &'a Fuser<'f>,
    draft: &'a Draft,
    members: &'a [NodeId],
    work: &'a Parted,
}

impl Chunked<'_, '_> {
    /// A kernel of some statements, which copies what it has room for.
    fn kernel(&self, stmts: Vec<Stmt>, grid: &[KAxis], blocked: Option<(KAxis, usize)>, part: Part) -> Kernel {
        let placed = self.copied(&stmts, grid, blocked, part).placed();
        self.made(&stmts, placed, Walk::Segments { grid: grid.to_vec(), blocked, part })
    }

    /// What only reads states: blocks along an axis are as wide as leaves room for all that they read.
    fn outputs(&self, stmts: Vec<Stmt>, axis: Option<KAxis>) -> Kernel {
        let (single, part) = (&self.work.single, Part::Intra(self.work.chunk));
        let grid = [&single[..], axis.as_slice()].concat();
        let halves = axis.into_iter().flat_map(|axis| {
            let size = self.work.axes.sizes[axis.0];
            (1..)
                .map(move |log| (axis, size >> log))
                .take_while(move |(_, width)| *width >= NARROWEST_OF_CHUNKS && size.is_multiple_of(*width))
        });
        let mut widths = [None].into_iter().chain(halves.map(Some)).peekable();
        while let Some(blocked) = widths.next() {
            let grid = if blocked.is_some() { &grid } else { single };
            let copied = self.copied(&stmts, grid, blocked, part);
            let placed = match widths.peek() {
                Some(_) => copied.whole(),
                None => Some(copied.placed()),
            };
            if let Some(placed) = placed {
                return self.made(&stmts, placed, Walk::Segments { grid: grid.clone(), blocked, part });
            }
        }
        self.kernel(stmts, single, None, part)
    }

    fn copied<'a>(
        &'a self,
        stmts: &[Stmt],
        grid: &'a [KAxis],
        blocked: Option<(KAxis, usize)>,
        part: Part,
    ) -> staging::Chunks<'a> {
        let (options, work) = (&self.fuser.options, self.work);
        let setting = loops::Setting { sizes: &work.axes.sizes, grid, blocked, lanes: options.lanes, sums: options.sums };
        let tensors = self.draft.of(stmts).tensors;
        let nests = product::fuse_epilogues(loops::nests(stmts.to_vec(), &setting), &tensors, &work.axes.sizes, blocked);
        let (walks, rounded) = (matches!(part, Part::Chunks(_)), options.dtype != Dtype::F32);
        let (single, rows, most) = (&work.single[..], &work.rows[..], options.chunk_bytes);
        staging::Chunks { nests, tensors, setting, single, rows, walks, rounded, most }
    }

    fn made(&self, stmts: &[Stmt], placed: staging::Placed, walk: Walk) -> Kernel {
        let staging::Placed { nests, tensors, staging, scratch } = placed;
        let code = Nests { walk, sizes: self.work.axes.sizes.clone(), tensors, nests, scratch, staging };
        self.draft.of(stmts).finish(Code::Nests(code), self.members.to_vec())
    }
}

/// Walks of states that lack an axis and of those that have it, if all that the second does goes along the axis: it is cut into blocks
/// then. What the first hands on crosses in buffers.
fn by_states(fuser: &mut Fuser, draft: &mut Draft, stmts: &[Stmt], cut: KAxis, crossing: &intra::Crossing) -> Option<ByStates> {
    let has = |view: &&View| draft.tensors[view.tensor.0].base == Base::State && view.stride(cut) > 0;
    let later: BTreeSet<TensorId> = stmts.iter().flat_map(Stmt::views).filter(has).map(|view| view.tensor).collect();
    let along = |stmt: &Stmt| {
        stmt.target.stride(cut) > 0 && stmt.system.is_none() && stmt.reduce.as_ref().is_none_or(|own| !own.over.contains(&cut))
    };
    let split = intra::split_states(fuser, draft, stmts, crossing, later, &along)?;
    let sizes = &crossing.axes.sizes;
    let width = loops::vector_lanes(sizes[cut.0], fuser.options.lanes);
    let grid = [crossing.grid, &[cut]].concat();
    let cut = narrowed(&grid, (cut, width), (sizes, NARROWEST_OF_CHUNKS));
    Some((split.intra, split.inter, cut))
}

/// Two walks, and the axis that the second is cut along with the width of a block.
type ByStates = (Vec<Stmt>, Vec<Stmt>, (KAxis, usize));
