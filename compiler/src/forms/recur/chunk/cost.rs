//! What a row costs in a step and in a chunk.
//!
//! Two figures: operations as they are counted everywhere, and a weighed sum that decides between the forms. Its weights are those that
//! were measured on processors with vector units: the products with the state run at their peak in a chunk; everything else there is
//! small loops over few rows. A step goes through the state once for each read that its update waits for, and once for the rest.

use super::super::{contracted_axes, value_axis};
use super::{Chunk, size};
use braid_dsl::model::{Axis, AxisId, Binary, Body, Op, Recur, Value, ValueId};
use std::collections::BTreeSet;

/// A product under a sum in a chunk that does not touch the state.
const SMALL_PRODUCT: usize = 3;
/// An element that a chunk computes and stores beside its products.
const SMALL_ELEMENT: usize = 8;
/// A product under a sum over the state, in a step.
const READ: usize = 2;
/// The same where the update has to wait for it.
const AWAITED_READ: usize = 3;

/// Operations of a body; a multiplication and an addition are two.
pub fn flops(axes: &[Axis], body: &Body) -> usize {
    let of = |value: &Value| match &value.op {
        Op::Contract(_) | Op::Substitute { .. } => 2 * size(axes, &walked(body, value)),
        Op::Scores { .. } => 3 * size(axes, &walked(body, value)),
        Op::Reduce(..) => size(axes, &walked(body, value)),
        Op::Unary(_) | Op::Binary(_) | Op::Products { .. } => size(axes, &value.ty.axes),
        _ => 0,
    };
    body.values.iter().map(of).sum()
}

/// All axes that computing a value goes through.
fn walked(body: &Body, value: &Value) -> Vec<AxisId> {
    let args = value.args.iter().flat_map(|arg| body.values[arg.0 as usize].ty.axes.iter().copied());
    let all: BTreeSet<AxisId> = args.chain(value.ty.axes.iter().copied()).collect();
    all.into_iter().collect()
}

/// Axes that tasks are spread over: what does not vary along them is done again by each.
fn batch(axes: &[Axis], recur: &Recur) -> Vec<AxisId> {
    let contracted = contracted_axes(recur);
    let shared = |axis: &AxisId| recur.states.iter().all(|state| state.axes.contains(axis));
    let Some(largest) = recur.states.iter().max_by_key(|state| state.axes.len()) else { return vec![] };
    let values = value_axis(recur, &largest.axes, |axis| size(axes, &[axis]));
    let free = largest.axes.iter().copied().filter(|axis| !contracted.contains(axis));
    free.filter(|axis| Some(*axis) != values && shared(axis)).collect()
}

/// Weighed cost of a row of one task, step by step.
pub fn of_steps(axes: &[Axis], recur: &Recur) -> usize {
    let (body, batch) = (&recur.body, batch(axes, recur));
    let own = |list: &[AxisId]| size(axes, &list.iter().copied().filter(|axis| !batch.contains(axis)).collect::<Vec<_>>());
    let awaited = needed(body, &recur.next);
    let of = |(at, value): (usize, &Value)| match &value.op {
        Op::Contract(_) | Op::Reduce(..) => {
            let weight = if awaited[at] { AWAITED_READ } else { READ };
            weight * own(&walked(body, value))
        }
        // An addition of a product is one operation with it.
        Op::Binary(Binary::Add | Binary::Sub) if value.args.iter().any(|arg| is_product(body, *arg)) => 0,
        Op::Unary(_) | Op::Binary(_) | Op::Select => own(&value.ty.axes),
        _ => 0,
    };
    body.values.iter().enumerate().map(of).sum()
}

fn is_product(body: &Body, id: ValueId) -> bool {
    body.values[id.0 as usize].op == Op::Binary(Binary::Mul)
}

/// Which values the results are made of.
pub fn needed(body: &Body, results: &[ValueId]) -> Vec<bool> {
    let mut needed = vec![false; body.values.len()];
    results.iter().for_each(|id| needed[id.0 as usize] = true);
    for at in (0..body.values.len()).rev() {
        if needed[at] {
            body.values[at].args.iter().for_each(|arg| needed[arg.0 as usize] = true);
        }
    }
    needed
}

/// Weighed cost of a row of one task, in chunks.
pub fn of_chunk(axes: &[Axis], recur: &Recur, chunk: &Chunk) -> usize {
    let (body, batch) = (&chunk.body, batch(axes, recur));
    let own = |list: &[AxisId]| size(axes, &list.iter().copied().filter(|axis| !batch.contains(axis)).collect::<Vec<_>>());
    let is_state =
        |list: &[AxisId]| recur.states.iter().any(|s| s.axes.len() > 1 && s.axes.iter().all(|axis| list.contains(axis)));
    if let Some(pieces) = &chunk.pieces {
        // All is products of the state's width; every number of a table is fetched once.
        let products = |value: &Value| match &value.op {
            Op::Contract(_) | Op::Reduce(..) => own(&walked(body, value)),
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Concat(..) => own(&value.ty.axes),
            _ => 0,
        };
        return (body.values.iter().map(products).sum::<usize>() + pieces.table / size(axes, &batch)) / chunk.rows;
    }
    let of = |value: &Value| match &value.op {
        Op::Contract(_) | Op::Reduce(..) | Op::Substitute { .. } | Op::Scores { .. } => {
            let touches = is_state(&value.ty.axes) || value.args.iter().any(|arg| is_state(&body.values[arg.0 as usize].ty.axes));
            let weight = if touches { 1 } else { SMALL_PRODUCT };
            weight * own(&walked(body, value))
        }
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Products { .. } | Op::Concat(..) => {
            let weight = if is_state(&value.ty.axes) { 1 } else { SMALL_ELEMENT };
            weight * own(&value.ty.axes)
        }
        _ => 0,
    };
    body.values.iter().map(of).sum::<usize>() / chunk.rows
}
