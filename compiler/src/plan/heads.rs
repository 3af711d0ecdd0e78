//! What a call of one row does without waiting. A step that makes rows for attention or for a recurrence (a rotation, norms, gates) is cut as
//! that one's tasks are, where each of these needs only what it can make itself: the block that does a task makes its part of the rows
//! just before, and nobody waits for anybody. Where several tasks need the same part each of them makes it.

use super::tasks::nest_cost;
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{BATCH, Base, COLUMN, Code, INNER, Nest, Nests, Part, Rows, Stmt, Tensor, Walk};
use crate::fuse::{Fused, Kernel, Operand};
use std::ops::RangeInclusive;

/// Most work of a task that makes its part, in additions.
const COST: usize = 1 << 16;

/// A kernel of rows that is cut as the tasks of a later kernel are.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The kernel.
    pub maker: usize,
    /// The later one.
    pub user: usize,
    /// The work, whose loops do not walk the axes that [`Cut::places`] name.
    pub nests: Nests,
    /// See [`Places`].
    pub places: Places,
}

impl Cut {
    /// What the kernel reads and makes stays until the one that it is cut for.
    pub fn lasting<'f>(&self, fused: &'f Fused) -> impl Iterator<Item = (usize, usize)> + use<'f> {
        let (kernel, user) = (&fused.kernels[self.maker], self.user);
        kernel.reads.iter().chain(&kernel.writes).map(move |buffer| (*buffer, user))
    }
}

/// How a task's number tells where it is: along each of some axes so many places, the slowest first; none: a place that is not this kernel's.
pub type Places = Vec<(usize, Option<KAxis>)>;

/// Who needs a part of rows: views of a kernel, and its axes at each place of the tasks.
struct User {
    kernel: usize,
    /// Its views of buffers, and over which indices each runs besides the places.
    views: Vec<Seen>,
    /// At each place the axis, if the kernel has one there.
    axes: Vec<Option<KAxis>>,
}

/// A view of a buffer by a task.
struct Seen {
    buffer: usize,
    view: View,
    /// Elements from the first to the last one that a task sees, its places all 0; none: any.
    range: Option<RangeInclusive<usize>>,
}

/// The kernels that are cut, each before the one that uses it.
pub fn cuts(fused: &Fused) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    for (at, kernel) in fused.kernels.iter().enumerate() {
        let Some((sizes, user)) = user(at, kernel) else { continue };
        let mut users = vec![user];
        for maker in (0..at).rev() {
            let writes = &fused.kernels[maker].writes;
            let needed = users.iter().flat_map(|user| &user.views).any(|seen| writes.contains(&seen.buffer));
            let taken = cuts.iter().any(|cut| cut.maker == maker);
            if !needed || taken || !is_steady(fused, maker) {
                continue;
            }
            if let Some((cut, own)) = cut(&fused.kernels[maker], (maker, at), &sizes, &users)
                && is_beside(fused, maker, &users)
            {
                cuts.push(cut);
                users.push(own);
            }
        }
    }
    // Makers of makers come first.
    cuts.sort_by_key(|cut| (cut.user, cut.maker));
    cuts
}

/// A kernel whose tasks are places, and how many there are along each.
fn user(at: usize, kernel: &Kernel) -> Option<(Vec<usize>, User)> {
    match &kernel.code {
        Code::Attention(code) if code.tally.is_none() && kernel.rows == Rows::All => {
            let heads = code.heads_of_a_block();
            let sizes = vec![code.splits, code.groups, code.per / heads];
            let group = (code.per - 1) * code.views.query.stride(BATCH);
            let views = &code.views;
            let own = |view: &View, rest: usize| {
                let first = view.offset;
                Some(first..=first + rest)
            };
            let seen =
                |view: &View, range| Some(Seen { buffer: buffer(kernel, &code.tensors, view)?, view: view.clone(), range });
            let reach = |view: &View, size: usize| (size.max(1) - 1) * view.stride(COLUMN);
            let mut all = vec![
                seen(&views.query, own(&views.query, group + reach(&views.query, code.key))),
                seen(&views.keys, own(&views.keys, reach(&views.keys, code.key))),
                seen(&views.values, own(&views.values, reach(&views.values, code.value))),
            ];
            all.extend(views.captures.iter().map(|view| seen(view, None)));
            let axes = vec![None, Some(INNER), None];
            Some((sizes, User { kernel: at, views: all.into_iter().flatten().collect(), axes }))
        }
        Code::Nests(nests) => {
            let Walk::Segments { grid, blocked, part } = &nests.walk else { return None };
            let single = matches!(part, Part::All | Part::Rest(_));
            if !single || kernel.rows != Rows::All {
                return None;
            }
            let cut = |axis: &KAxis| blocked.is_some_and(|(cut, _)| cut == *axis);
            let count = |axis: &KAxis| {
                let width = blocked.filter(|(own, _)| own == axis).map_or(1, |(_, width)| width);
                nests.sizes[axis.0].div_ceil(width)
            };
            let sizes: Vec<usize> = grid.iter().map(count).collect();
            let axes: Vec<Option<KAxis>> = grid.iter().map(|axis| (!cut(axis)).then_some(*axis)).collect();
            let views = seen(kernel, nests, &nests.nests, &axes);
            Some((sizes, User { kernel: at, views, axes }))
        }
        _ => None,
    }
}

/// The buffer that a view is of, if it is of one.
fn buffer(kernel: &Kernel, tensors: &[Tensor], view: &View) -> Option<usize> {
    let tensor = tensors[view.tensor.0];
    match (tensor.base, kernel.operands.get(tensor.operand)) {
        (Base::Arena, Some(Operand::Buffer(at))) => Some(*at),
        _ => None,
    }
}

/// What nests read of buffers, at some axes.
fn seen(kernel: &Kernel, code: &Nests, nests: &[Nest], axes: &[Option<KAxis>]) -> Vec<Seen> {
    let mut all = Vec::new();
    for stmt in nests.iter().flat_map(|nest| &nest.stmts) {
        for (view, whole) in reads(stmt) {
            if let Some(buffer) = buffer(kernel, &code.tensors, view) {
                let range = whole.then(|| range(code, view, axes));
                all.push(Seen { buffer, view: view.clone(), range });
            }
        }
    }
    all
}

/// What a statement reads, and whether a view's own axes say which elements.
fn reads(stmt: &Stmt) -> Vec<(&View, bool)> {
    let mut looked_up: Vec<&View> = Vec::new();
    stmt.expr.walk(&mut |e| {
        if let Expr::Gather { view, .. } | Expr::Row { view, .. } = e {
            looked_up.push(view);
        }
    });
    stmt.reads().map(|view| (view, !looked_up.contains(&view))).collect()
}

/// Elements of a view whose indices along `axes` are 0.
fn range(code: &Nests, view: &View, axes: &[Option<KAxis>]) -> RangeInclusive<usize> {
    let free = view.strides.iter().filter(|(axis, _)| !axes.contains(&Some(*axis)));
    let reach: usize = free.map(|(axis, stride)| (code.sizes[axis.0] - 1) * stride).sum();
    view.offset..=view.offset + reach
}

/// Whether a kernel makes rows of nothing but buffers and weights, so that it may do so late, and several times.
fn is_steady(fused: &Fused, at: usize) -> bool {
    let kernel = &fused.kernels[at];
    let Code::Nests(nests) = &kernel.code else { return false };
    let steady = kernel.operands.iter().all(|operand| matches!(operand, Operand::Buffer(_) | Operand::Packed(_)));
    let kept = kernel.writes.iter().all(|write| !fused.buffers[*write].output && !kernel.reads.contains(write));
    let stmts = || nests.nests.iter().flat_map(|nest| &nest.stmts);
    let plain = stmts().all(|stmt| stmt.system.is_none() && stmt.ordered.is_none() && stmt.below.is_none());
    kernel.least <= 1 && kernel.rows == Rows::All && nests.walk == Walk::Rows(Rows::All) && steady && kept && plain
}

/// Whether nobody between the maker and those who use it needs its rows: they are made later.
fn is_beside(fused: &Fused, maker: usize, users: &[User]) -> bool {
    let last = users[0].kernel;
    let writes = &fused.kernels[maker].writes;
    let uses = |at: &usize| users.iter().any(|user| user.kernel == *at);
    let others = (maker + 1..last).filter(|at| !uses(at) && is_of_one_row(&fused.kernels[*at]));
    others.into_iter().all(|at| fused.kernels[at].reads.iter().all(|read| !writes.contains(read)))
}

/// Whether a call of one row has work for a kernel, by what it does.
pub(super) fn is_of_one_row(kernel: &Kernel) -> bool {
    match &kernel.code {
        Code::Nests(Nests {
            walk: Walk::Segments { part: Part::Chunks(rows) | Part::Intra(rows) | Part::Batches(rows), .. },
            ..
        }) => *rows <= 1,
        _ => kernel.least <= 1,
    }
}

/// Cuts a maker as its users' tasks are, if each of them then makes all that it needs; and the maker as a user of others.
fn cut(kernel: &Kernel, (maker, user): (usize, usize), sizes: &[usize], users: &[User]) -> Option<(Cut, User)> {
    let Code::Nests(code) = &kernel.code else { return None };
    let stmts = || code.nests.iter().flat_map(|nest| &nest.stmts);
    let written: Vec<(usize, &View)> =
        stmts().filter_map(|stmt| Some((buffer(kernel, &code.tensors, &stmt.target)?, &stmt.target))).collect();
    // The maker's axis at a place is that along which it writes what a user reads along its own.
    let axis_at = |place: usize| {
        users.iter().find_map(|user| {
            let own = user.axes[place]?;
            user.views.iter().find_map(|seen| {
                let stride = seen.view.stride(own);
                let (_, view) = written.iter().find(|(buffer, _)| *buffer == seen.buffer)?;
                let fits = |axis: &KAxis| stride > 0 && view.stride(*axis) == stride && code.sizes[axis.0] == sizes[place];
                view.strides.iter().map(|(axis, _)| *axis).find(fits)
            })
        })
    };
    let mut axes: Vec<Option<KAxis>> =
        (0..sizes.len()).map(|place| (sizes[place] > 1).then(|| axis_at(place)).flatten()).collect();
    for place in 1..axes.len() {
        if axes[place].is_some() && axes[..place].contains(&axes[place]) {
            axes[place] = None;
        }
    }
    let cut_along = |axis: &KAxis| axes.contains(&Some(*axis));
    if axes.iter().all(Option::is_none) || code.nests.iter().any(|nest| nest.reduced.iter().any(cut_along)) {
        return None;
    }
    let mut nests = code.clone();
    let own = |nest: &Nest| nest.parallel.iter().copied().filter(cut_along).collect::<Vec<KAxis>>();
    let within = code.nests.iter().enumerate().all(|(at, nest)| makes_all(code, at, &own(nest), &axes, &own));
    let beside = users.iter().all(|user| makes_what_is_seen(kernel, code, user, &axes, &own));
    nests.nests.iter_mut().for_each(|nest| {
        nest.parallel.retain(|axis| !cut_along(axis));
        nest.tile = nest.tile.filter(|(axis, _)| !cut_along(axis));
    });
    let all = |nest: &Nest| own(nest).iter().map(|axis| code.sizes[axis.0]).product::<usize>();
    let cost: usize = code.nests.iter().map(|nest| nest_cost(nest, &code.sizes) / all(nest)).sum();
    if !within || !beside || cost > COST {
        return None;
    }
    let places = sizes.iter().copied().zip(axes.iter().copied()).collect();
    let views = seen(kernel, code, &code.nests, &axes);
    Some((Cut { maker, user, nests, places }, User { kernel: maker, views, axes }))
}

/// Whether what a nest makes at the places `own` is all that later nests of the kernel read of it at the same places.
fn makes_all(code: &Nests, at: usize, own: &[KAxis], axes: &[Option<KAxis>], of: &dyn Fn(&Nest) -> Vec<KAxis>) -> bool {
    let place = |view: &View| {
        let tensor = code.tensors[view.tensor.0];
        (tensor.base, if tensor.base.has_operand() { tensor.operand } else { 0 })
    };
    code.nests[at].stmts.iter().all(|made| {
        let later = code.nests[at..].iter().flat_map(|nest| nest.stmts.iter().map(move |stmt| (nest, stmt)));
        later.flat_map(|(nest, stmt)| reads(stmt).into_iter().map(move |read| (nest, read))).all(|(nest, (view, whole))| {
            if place(view) != place(&made.target) || own.is_empty() {
                return true;
            }
            let fixed = of(nest);
            let fixed: Vec<Option<KAxis>> = axes.iter().map(|axis| axis.filter(|axis| fixed.contains(axis))).collect();
            whole && is_own(code, &made.target, axes, own, (view, &range(code, view, &fixed)), Some)
        })
    })
}

/// Whether what a user reads of the maker's rows is what its own task makes of them.
fn makes_what_is_seen(
    kernel: &Kernel,
    code: &Nests,
    user: &User,
    axes: &[Option<KAxis>],
    of: &dyn Fn(&Nest) -> Vec<KAxis>,
) -> bool {
    let users_axis = |axis: KAxis| axes.iter().position(|own| *own == Some(axis)).and_then(|place| user.axes[place]);
    code.nests.iter().all(|nest| {
        let own = of(nest);
        nest.stmts.iter().all(|made| {
            let Some(buffer) = buffer(kernel, &code.tensors, &made.target) else { return true };
            user.views.iter().filter(|seen| seen.buffer == buffer && !own.is_empty()).all(|seen| match &seen.range {
                Some(range) => is_own(code, &made.target, axes, &own, (&seen.view, range), users_axis),
                None => false,
            })
        })
    })
}

/// Whether a view at some places touches nothing that its target's statement makes at other places along the axes `own`: strides along
/// them are the same for both, and no element of the one lies as far from those of the other as another place does.
fn is_own(
    code: &Nests,
    target: &View,
    axes: &[Option<KAxis>],
    own: &[KAxis],
    (view, seen): (&View, &RangeInclusive<usize>),
    readers: impl Fn(KAxis) -> Option<KAxis>,
) -> bool {
    let mut steps: Vec<(usize, usize)> = own.iter().map(|axis| (target.stride(*axis), code.sizes[axis.0])).collect();
    steps.sort();
    let same = own.iter().all(|axis| readers(*axis).is_some_and(|other| view.stride(other) == target.stride(*axis)));
    let nested = steps.windows(2).all(|pair| pair[1].0 >= pair[0].0 * pair[0].1);
    let least = steps.first().map_or(0, |(stride, _)| *stride);
    let made = range(code, target, axes);
    let near = seen.end().saturating_sub(*made.start()) < least && made.end().saturating_sub(*seen.start()) < least;
    same && nested && least > 0 && near
}
