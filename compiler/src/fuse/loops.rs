//! Statements that walk the same axes share loops; each nest of loops gets the axis that its vectors run along.

use super::expr::{Expr, KAxis, View};
use super::kernel::{Nest, Stmt};

/// What the loops of a kernel depend on beside its statements.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Sizes of the kernel's axes.
    pub sizes: &'a [usize],
    /// Axes that are fixed for a task and get no loop.
    pub grid: &'a [KAxis],
    /// The grid axis that a task walks in one vector of so many lanes.
    pub blocked: Option<(KAxis, usize)>,
    /// Elements of one hardware vector.
    pub lanes: usize,
    /// Vectors of sums that fit the registers; 0: sums are not tiled.
    pub sums: usize,
}

impl<'a> Setting<'a> {
    /// For statements that are done row by row.
    pub fn rows(sizes: &'a [usize], lanes: usize) -> Setting<'a> {
        Setting { sizes, grid: &[], blocked: None, lanes, sums: 0 }
    }
}

/// Groups statements into nests, in order.
pub fn nests(stmts: Vec<Stmt>, setting: &Setting) -> Vec<Nest> {
    let mut groups: Vec<Vec<Stmt>> = Vec::new();
    for stmt in stmts {
        // Tiles are of one sum each.
        let alone = |stmt: &Stmt| setting.sums > 0 && stmt.reduce.is_some() && stmt.ordered.is_none();
        let lockstep = stmt.ordered.is_some_and(|order| order.lockstep);
        match groups.last_mut() {
            Some(group) if lockstep => group.push(stmt),
            Some(group) if !alone(&stmt) && !group.iter().any(alone) && joins(group, &stmt) => group.push(stmt),
            _ => groups.push(vec![stmt]),
        }
    }
    groups.into_iter().map(|group| nest(group, setting)).collect()
}

fn reduced(stmt: &Stmt) -> &[KAxis] {
    stmt.reduce.as_ref().map_or(&[], |reduction| &reduction.over)
}

/// Whether `stmt` can be done in the innermost loop of `group`, after its statements, element by element.
fn joins(group: &[Stmt], stmt: &Stmt) -> bool {
    if group[0].system.is_some() || stmt.system.is_some() {
        return false;
    }
    let same_reduction = group.iter().all(|s| {
        let (a, b) = (reduced(s), reduced(stmt));
        a.is_empty() || b.is_empty() || a == b
    });
    let same_walk = group[0].space == stmt.space && group[0].ordered == stmt.ordered && group[0].below == stmt.below;
    same_walk && same_reduction && group.iter().all(|earlier| keeps_order(earlier, stmt))
}

/// Element-wise interleaving of two statements changes nothing: what they share, they share at the same element, and no total
/// is read before it is complete.
fn keeps_order(earlier: &Stmt, later: &Stmt) -> bool {
    let clash = |written: &View, read: &View| written.tensor == read.tensor && written != read;
    let reads_total = earlier.reduce.is_some() && later.expr.views().iter().any(|v| v.tensor == earlier.target.tensor);
    let gathered = [(earlier, later), (later, earlier)].iter().any(|(a, b)| gathers_from(&a.expr, &b.target));
    let elsewhere = later.expr.views().iter().any(|v| clash(&earlier.target, v))
        || earlier.expr.views().iter().any(|v| clash(&later.target, v));
    // A total overwriting what is still read element by element.
    let overwrites = later.reduce.is_some() && earlier.expr.views().iter().any(|v| v.tensor == later.target.tensor);
    !(reads_total || gathered || elsewhere || overwrites || earlier.target == later.target)
}

fn gathers_from(expr: &Expr, target: &View) -> bool {
    let mut found = false;
    expr.walk(&mut |e| found |= matches!(e, Expr::Gather { view, .. } if view.tensor == target.tensor));
    found
}

fn nest(stmts: Vec<Stmt>, setting: &Setting) -> Nest {
    let Setting { sizes, grid, blocked, lanes, .. } = *setting;
    let mut reduced_axes: Vec<KAxis> = stmts.iter().flat_map(|s| reduced(s).iter().copied()).collect();
    reduced_axes.sort();
    reduced_axes.dedup();
    let in_block = blocked.is_some_and(|(axis, _)| stmts[0].space.contains(&axis));
    let mut looped: Vec<KAxis> = stmts.iter().flat_map(|s| s.space.iter().copied()).filter(|a| !grid.contains(a)).collect();
    looped.sort();
    looped.dedup();
    if stmts[0].system.is_some() {
        return Nest { parallel: looped, reduced: vec![], vector: None, lanes, tile: None, stmts };
    }
    let ordered = stmts[0].ordered.map(|order| order.axis);
    let below = stmts[0].below.map(|below| below.axis);
    let vector = match blocked {
        Some((axis, _)) if in_block => Some(axis),
        _ => {
            let free: Vec<KAxis> = looped.iter().copied().filter(|a| ordered != Some(*a) && below != Some(*a)).collect();
            best_vector(&stmts, &free, &reduced_axes, sizes)
        }
    };
    let is_reduced = |a: &KAxis| reduced_axes.contains(a);
    let parallel: Vec<KAxis> = looped.iter().copied().filter(|a| !is_reduced(a)).collect();
    let (width, tile) = match (blocked, vector) {
        (Some((_, width)), _) if in_block => (width, tile(&stmts, setting, &parallel, vector, width)),
        (_, Some(axis)) if setting.sums > 0 && stmts[0].reduce.is_some() && ordered.is_none() => {
            let width = if is_reduced(&axis) || sizes[axis.0] <= lanes { lanes } else { 2 * lanes };
            (width, tile(&stmts, setting, &parallel, vector, width))
        }
        (_, Some(axis)) => (vector_lanes(sizes[axis.0], lanes), None),
        _ => (1, None),
    };
    let order = |mut axes: Vec<KAxis>| {
        // What is walked in order first, slow strides outside, the vector axis and the tile's last.
        let place = |a: &KAxis| match () {
            _ if ordered == Some(*a) => 0,
            _ if tile.is_some_and(|(axis, _)| axis == *a) => 3,
            _ if vector == Some(*a) => 2,
            _ => 1,
        };
        axes.sort_by_key(|a| (place(a), std::cmp::Reverse(weight(&stmts, *a)), *a));
        axes
    };
    let reduced = order(looped.iter().copied().filter(is_reduced).collect());
    Nest { parallel: order(parallel), reduced, vector, lanes: width, tile, stmts }
}

/// The axis along which a sum's elements are done together: rows that share the vectors of the other operand, or, where the vectors
/// are summed across, neighbours that are stored together.
fn tile(stmts: &[Stmt], setting: &Setting, parallel: &[KAxis], vector: Option<KAxis>, width: usize) -> Option<(KAxis, usize)> {
    let [stmt] = stmts else { return None };
    if setting.sums == 0 || stmt.reduce.is_none() || stmt.ordered.is_some() {
        return None;
    }
    let free = parallel.iter().copied().filter(|a| Some(*a) != vector && !setting.grid.contains(a));
    let size = |axis: &KAxis| setting.sizes[axis.0];
    if let Some(vector) = vector.filter(|axis| parallel.contains(axis) || setting.grid.contains(axis)) {
        // The more vectors its rows share the better.
        let along = |view: &&View| view.stride(vector) > 0;
        let vectors = |view: &View, row: &KAxis| match view.stride(*row) {
            0 => view.strides.iter().filter(|(a, _)| *a != vector).map(|(a, _)| size(a)).product(),
            _ => 0,
        };
        let shared = |row: &KAxis| stmt.expr.views().into_iter().filter(along).map(|view| vectors(view, row)).max();
        let axis = free.max_by_key(|a| (shared(a), size(a), *a))?;
        let most = setting.sums * setting.lanes / width;
        return (size(&axis) > 1 && most > 1).then(|| (axis, most.min(size(&axis))));
    }
    let axis = free.into_iter().find(|a| stmt.target.stride(*a) == 1)?;
    let most = size(&axis).min(width).max(1);
    // A tree of pairs adds them up.
    let most = 1 << most.ilog2();
    (most > 1).then_some((axis, most))
}

/// Largest stride along an axis, to order loops by.
fn weight(stmts: &[Stmt], axis: KAxis) -> usize {
    let views = stmts.iter().flat_map(|s| s.expr.views().into_iter().chain([&s.target]));
    views.map(|v| v.stride(axis)).max().unwrap_or(0)
}

/// The axis with the most unit strides and fewest wide ones; none if every axis has length 1.
fn best_vector(stmts: &[Stmt], looped: &[KAxis], reduced: &[KAxis], sizes: &[usize]) -> Option<KAxis> {
    let score = |axis: KAxis| {
        let mut score = 0i64;
        for stmt in stmts {
            for view in stmt.expr.views().into_iter().chain([&stmt.target]) {
                score += match view.stride(axis) {
                    0 => 0,
                    1 => 4,
                    _ => -8,
                };
            }
            stmt.expr.walk(&mut |e| {
                if let Expr::Gather { view, index, .. } = e {
                    score -= if index.axes().contains(&axis) { 8 } else { 0 } + if view.stride(axis) == 1 { 0 } else { 1 };
                }
            });
        }
        // Totals along the vector cost a horizontal sum; prefer to add vectors.
        (score - if reduced.contains(&axis) { 1 } else { 0 }, sizes[axis.0])
    };
    looped.iter().copied().filter(|a| sizes[a.0] > 1).max_by_key(|a| score(*a))
}

/// Elements of a vector along an axis of `size`: up to four hardware vectors at once, with little waste in the last.
pub fn vector_lanes(size: usize, lanes: usize) -> usize {
    [4, 2, 1]
        .into_iter()
        .map(|count| count * lanes)
        .min_by_key(|width| size.div_ceil(*width) * (width / lanes + 1))
        .unwrap_or(lanes)
}
