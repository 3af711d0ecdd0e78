//! The kernels of a recurrence's chunks on a GPU: what needs no state, for all chunks side by side; the walk that updates states, chunk after
//! chunk; and what only reads them, side by side again.

use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, Code, Nest, Nests, Part, Stmt, Store, Walk};
use super::nest::Axes;
use super::recurrence::Narrowed;
use super::{Kernel, Operand, intra, loops, product, staging};
use crate::error::Error;
use crate::graph::NodeId;
use braid_dsl::model::Elem;
use braid_runtime::artifact::Dtype;
use std::collections::{BTreeMap, BTreeSet};

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
pub(super) fn parted(
    fuser: &mut Fuser,
    draft: Draft,
    members: &[NodeId],
    stmts: Vec<Stmt>,
    work: Parted,
) -> Result<Vec<Kernel>, Error> {
    let before = fuser.fused.buffers.len();
    let mut early = draft.clone();
    let parts = Parts::outputs_first(fuser, &mut early, (members[0], stmts.clone()), &work);
    if let Some(made) = parts.and_then(|parts| kernels(fuser, early, members, parts, (&work, true))) {
        return Ok(made);
    }
    // What outputs alone need has no room where they are made: it is made ahead.
    fuser.fused.buffers.truncate(before);
    let mut late = draft;
    let parts = Parts::outputs_last(fuser, &mut late, (members[0], stmts), &work);
    kernels(fuser, late, members, parts, (&work, false)).ok_or_else(|| Error::bug("fused", "outputs have no kernel"))
}

/// The statements of a chunk, parted.
struct Parts {
    /// What needs no state.
    intra: Vec<Stmt>,
    /// What updates states.
    walk: Vec<Stmt>,
    /// The same of states that have an axis which others lack, where they walk apart, and how that is cut.
    second: Option<(Vec<Stmt>, (KAxis, usize))>,
    /// What only reads states.
    outputs: Vec<Stmt>,
}

impl Parts {
    /// What no state is made of is done behind the walk.
    fn outputs_first(fuser: &mut Fuser, draft: &mut Draft, (node, stmts): (NodeId, Vec<Stmt>), work: &Parted) -> Option<Parts> {
        let crossing = work.crossing(node, fuser.options.dtype);
        let outputs = intra::split_outputs(fuser, draft, &stmts, &crossing, work.chunk)?;
        let split = intra::split(fuser, draft, outputs.intra, &crossing);
        Some(Parts::of(fuser, draft, (split.intra, split.inter, outputs.inter), (&crossing, work)))
    }

    /// What needs no state is done ahead of the walk.
    fn outputs_last(fuser: &mut Fuser, draft: &mut Draft, (node, stmts): (NodeId, Vec<Stmt>), work: &Parted) -> Parts {
        let crossing = work.crossing(node, fuser.options.dtype);
        let split = intra::split(fuser, draft, stmts, &crossing);
        let (walk, outputs) = match intra::split_outputs(fuser, draft, &split.inter, &crossing, work.chunk) {
            Some(again) => (again.intra, again.inter),
            None => (split.inter, vec![]),
        };
        Parts::of(fuser, draft, (split.intra, walk, outputs), (&crossing, work))
    }

    /// Lets the later parts read another view of each row of a tensor; gives which instead of which.
    fn replaced(&mut self, own: TensorId, rows: &[KAxis], place: &mut dyn FnMut(&View) -> View) -> Vec<(View, View)> {
        let mut places: Vec<(View, View)> = vec![];
        let second = self.second.iter_mut().flat_map(|(stmts, _)| stmts);
        for stmt in self.walk.iter_mut().chain(second).chain(&mut self.outputs) {
            stmt.reads_mut(&mut |view| {
                if view.tensor != own {
                    return;
                }
                let (general, axis) = view.by_row(rows);
                let known = places.iter().find(|(from, _)| *from == general).map(|(_, to)| to.clone());
                let to = known.unwrap_or_else(|| {
                    let to = place(&general);
                    places.push((general, to.clone()));
                    to
                });
                *view = axis.map_or(to.clone(), |axis| to.renamed(rows[0], axis));
            });
        }
        places
    }

    fn of(
        fuser: &mut Fuser,
        draft: &mut Draft,
        (intra, walk, outputs): (Vec<Stmt>, Vec<Stmt>, Vec<Stmt>),
        (crossing, work): (&intra::Crossing, &Parted),
    ) -> Parts {
        match work.later().and_then(|cut| by_states(fuser, draft, &walk, cut, crossing)) {
            Some((walk, second, cut)) => Parts { intra, walk, second: Some((second, cut)), outputs },
            None => Parts { intra, walk, second: None, outputs },
        }
    }
}

impl Parted {
    fn crossing(&self, node: NodeId, dtype: Dtype) -> intra::Crossing<'_> {
        let cut = self.blocked.map(|(axis, _)| axis).or(self.later()).filter(|_| dtype != Dtype::F32);
        intra::Crossing { node, rows: &self.rows, grid: &self.single, axes: &self.axes, cut }
    }

    /// The axis along which states may walk apart.
    fn later(&self) -> Option<KAxis> {
        self.cut.filter(|_| self.blocked.is_none())
    }
}

/// The kernels of the parts; none if what outputs need has no room where they are made, and `whole` asks for it.
fn kernels(
    fuser: &mut Fuser,
    mut draft: Draft,
    members: &[NodeId],
    mut parts: Parts,
    (work, whole): (&Parted, bool),
) -> Option<Vec<Kernel>> {
    let Parted { grid, single, blocked, chunk, .. } = work;
    let rounded =
        if fuser.options.dtype == Dtype::F32 { vec![] } else { rounded(fuser, &mut draft, (members[0], &mut parts), work) };
    let second = parts.second.map(|(stmts, cut)| (stmts, [&grid[..], &[cut.0]].concat(), cut));
    let chunks = Chunked { fuser, draft: &draft, members, work };
    let outputs = match parts.outputs.is_empty() {
        true => None,
        false => Some(chunks.outputs(parts.outputs, blocked.map(|(axis, _)| axis).or(work.later()), whole)?),
    };
    let mut made: Vec<Kernel> = vec![];
    for (grid, stmts) in rounded.into_iter().chain([(single.clone(), parts.intra)]).filter(|(_, stmts)| !stmts.is_empty()) {
        made.push(chunks.kernel(stmts, &grid, None, Part::Intra(*chunk)));
    }
    made.push(chunks.kernel(parts.walk, grid, *blocked, Part::Chunks(*chunk)));
    made.extend(second.map(|(stmts, grid, cut)| chunks.kernel(stmts, &grid, Some(cut), Part::Chunks(*chunk))));
    made.extend(outputs);
    Some(made)
}

/// Statements of a kernel of their own, and its grid.
type Apart = (Vec<KAxis>, Vec<Stmt>);

/// Stores in bfloat16 what crosses between kernels and is read by products alone, as a factor, and lets them read a rounded copy of what was
/// there before. Gives what makes copies that not all places of the grid have.
fn rounded(fuser: &mut Fuser, draft: &mut Draft, (node, parts): (NodeId, &mut Parts), work: &Parted) -> Vec<Apart> {
    let crossing = work.crossing(node, fuser.options.dtype);
    let mut apart: BTreeMap<Vec<KAxis>, Vec<Stmt>> = BTreeMap::new();
    for (own, buffer) in factors(fuser, draft, parts, work) {
        let Some(buffer) = (fuser.fused.buffers[buffer].node == node).then_some(buffer) else {
            for (view, place) in parts.replaced(own, &work.rows, &mut |view| crossing.rounded(fuser, draft, view)) {
                let grid: Vec<KAxis> = work.single.iter().copied().filter(|axis| view.stride(*axis) > 0).collect();
                let stmt = Stmt::plain(place, Expr::Load(view, Elem::Float));
                if grid == work.single { parts.intra.push(stmt) } else { apart.entry(grid).or_default().push(stmt) }
            }
            continue;
        };
        draft.tensors[own.0].store = Store::Bf16;
        fuser.fused.buffers[buffer].store = Store::Bf16;
    }
    apart.into_iter().collect()
}

/// Tensors of rows in buffers that no later part of a chunk reads but as factors of products, and the buffers; of those that cross, which no
/// early one reads.
fn factors(fuser: &Fuser, draft: &Draft, parts: &Parts, work: &Parted) -> Vec<(TensorId, usize)> {
    let (sizes, grid) = (&work.axes.sizes, &work.grid);
    let of = |stmts: &[Stmt], grid: &[KAxis], cut| (nests(fuser, draft, stmts, (grid, cut), sizes), cut);
    let mut made = vec![of(&parts.walk, grid, work.blocked), of(&parts.outputs, &work.single, None)];
    made.extend(parts.second.iter().map(|(stmts, cut)| of(stmts, &[&grid[..], &[cut.0]].concat(), Some(*cut))));
    let read = |own: TensorId, stmts: &mut dyn Iterator<Item = &Stmt>| stmts.flat_map(Stmt::reads).any(|view| view.tensor == own);
    let is_factor = |own: TensorId| {
        let mut late = made.iter().filter(|(nests, _)| read(own, &mut nests.iter().flat_map(|nest| &nest.stmts))).peekable();
        late.peek().is_some() && late.all(|(nests, cut)| product::is_factor(own, nests, &draft.tensors, sizes, *cut))
    };
    let mut found = vec![];
    for (at, tensor) in draft.tensors.iter().enumerate().filter(|(_, tensor)| tensor.base == Base::Arena) {
        let (own, Operand::Buffer(buffer)) = (TensorId(at), draft.operands[tensor.operand]) else { continue };
        let crosses = parts.walk.iter().chain(&parts.intra).any(|stmt| stmt.target.tensor == own);
        let plain = tensor.store == Store::F32 && tensor.row > 0 && !tensor.through_wanted;
        if plain && !(crosses && read(own, &mut parts.intra.iter())) && is_factor(own) {
            found.push((own, buffer));
        }
    }
    found
}

/// The loops of statements, with what becomes of products at once.
fn nests(
    fuser: &Fuser,
    draft: &Draft,
    stmts: &[Stmt],
    (grid, blocked): (&[KAxis], Option<(KAxis, usize)>),
    sizes: &[usize],
) -> Vec<Nest> {
    let options = &fuser.options;
    let setting = loops::Setting { sizes, grid, blocked, lanes: options.lanes, sums: options.sums };
    product::fuse_epilogues(loops::nests(stmts.to_vec(), &setting), &draft.of(stmts).tensors, sizes, blocked)
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

    /// What only reads states: blocks along an axis are as wide as leaves room for all that they read. None: there is no room in any, and
    /// there has to be (`whole`).
    fn outputs(&self, stmts: Vec<Stmt>, axis: Option<KAxis>, whole: bool) -> Option<Kernel> {
        let (single, part) = (&self.work.single, Part::Intra(self.work.chunk));
        let grid = [&single[..], axis.as_slice()].concat();
        let halves = axis.into_iter().flat_map(|axis| {
            let size = self.work.axes.sizes[axis.0];
            (1..)
                .map(move |log| (axis, size >> log))
                .take_while(move |(_, width)| *width >= product::FRAGMENT[0] && size.is_multiple_of(*width))
        });
        // Blocks side by side each make what has no part in the axis (scores): two of them at most, if that could be handed on, and one
        // where every pair of rows has a power of its own.
        let powers = stmts.iter().any(|stmt| stmt.below.is_some());
        let most = if !whole { usize::MAX } else { 2 - usize::from(powers) };
        let mut widths = [None].into_iter().chain(halves.map(Some)).take(most).peekable();
        while let Some(blocked) = widths.next() {
            let grid = if blocked.is_some() { &grid } else { single };
            let copied = self.copied(&stmts, grid, blocked, part);
            let placed = match widths.peek() {
                Some(_) => copied.whole(),
                None if whole => copied.whole(),
                None => Some(copied.placed()),
            };
            if let Some(placed) = placed {
                return Some(self.made(&stmts, placed, Walk::Segments { grid: grid.clone(), blocked, part }));
            }
        }
        None
    }

    fn copied<'a>(
        &'a self,
        stmts: &[Stmt],
        grid: &'a [KAxis],
        blocked: Option<(KAxis, usize)>,
        part: Part,
    ) -> staging::Chunks<'a> {
        let (options, work) = (&self.fuser.options, self.work);
        let sizes = &work.axes.sizes[..];
        let setting = loops::Setting { sizes, grid, blocked, lanes: options.lanes, sums: options.sums };
        let tensors = self.draft.of(stmts).tensors;
        let nests = nests(self.fuser, self.draft, stmts, (grid, blocked), sizes);
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
    let cut = Narrowed::CHUNKS.block(&grid, (cut, width), sizes);
    Some((split.intra, split.inter, cut))
}

/// Two walks, and the axis that the second is cut along with the width of a block.
type ByStates = (Vec<Stmt>, Vec<Stmt>, (KAxis, usize));
