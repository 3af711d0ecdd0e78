//! Statements that walk the same axes share loops; each nest of loops gets the axis that its vectors run along.

use super::expr::{Expr, KAxis, View};
use super::kernel::{Nest, Stmt};

/// Groups statements into nests, in order. `grid` axes are fixed for a task and get no loop; `blocked` is the grid axis that a
/// task walks in one vector of so many lanes. `lanes`: elements of one hardware vector.
pub fn nests(stmts: Vec<Stmt>, sizes: &[usize], grid: &[KAxis], blocked: Option<(KAxis, usize)>, lanes: usize) -> Vec<Nest> {
    let mut groups: Vec<Vec<Stmt>> = Vec::new();
    for stmt in stmts {
        match groups.last_mut() {
            Some(group) if joins(group, &stmt) => group.push(stmt),
            _ => groups.push(vec![stmt]),
        }
    }
    groups.into_iter().map(|group| nest(group, sizes, grid, blocked, lanes)).collect()
}

fn reduced(stmt: &Stmt) -> &[KAxis] {
    stmt.reduce.as_ref().map_or(&[], |(_, axes)| axes)
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
    group[0].space == stmt.space && same_reduction && group.iter().all(|earlier| keeps_order(earlier, stmt))
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

fn nest(stmts: Vec<Stmt>, sizes: &[usize], grid: &[KAxis], blocked: Option<(KAxis, usize)>, lanes: usize) -> Nest {
    let mut reduced_axes: Vec<KAxis> = stmts.iter().flat_map(|s| reduced(s).iter().copied()).collect();
    reduced_axes.sort();
    reduced_axes.dedup();
    let in_block = blocked.is_some_and(|(axis, _)| stmts[0].space.contains(&axis));
    let looped: Vec<KAxis> = stmts[0].space.iter().copied().filter(|a| !grid.contains(a)).collect();
    if stmts[0].system.is_some() {
        return Nest { parallel: looped, reduced: vec![], vector: None, lanes, stmts };
    }
    let vector = match blocked {
        Some((axis, _)) if in_block => Some(axis),
        _ => best_vector(&stmts, &looped, &reduced_axes, sizes),
    };
    let width = match (blocked, vector) {
        (Some((_, width)), _) if in_block => width,
        (_, Some(axis)) => vector_lanes(sizes[axis.0], lanes),
        _ => 1,
    };
    let order = |axes: Vec<KAxis>| {
        let mut axes = axes;
        // Slow strides outside; the vector axis last.
        axes.sort_by_key(|a| (Some(*a) == vector, std::cmp::Reverse(weight(&stmts, *a)), *a));
        axes
    };
    let is_reduced = |a: &KAxis| reduced_axes.contains(a);
    let parallel = order(looped.iter().copied().filter(|a| !is_reduced(a)).collect());
    let reduced = order(looped.iter().copied().filter(is_reduced).collect());
    Nest { parallel, reduced, vector, lanes: width, stmts }
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
