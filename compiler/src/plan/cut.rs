//! Products of which a call of some rows has fewer tiles than a GPU has blocks: their contracted axis is cut, so that each block does a part of a
//! tile.
//!
//! A block keeps what it has made of its part where others find it, until the last part of the tile is there. So all blocks have to meet behind
//! such a step before the next one is cut, and it has to begin where they have met, or else the first of them would be late for it.

use super::tasks::{BLOCKS, STEP_ROWS, is_shared_by_blocks};
use super::tiling::tilings;
use super::{Order, Plan};
use crate::fuse::kernel::{Code, Matmul, Store};

/// Marks functions of products whose tiles may be cut, and lets their steps have tasks for all parts.
pub(super) fn mark(plan: &mut Plan) {
    for function in 0..plan.functions.len() {
        let Code::Matmul(product) = &plan.functions[function].code else { continue };
        let parts = parts(product);
        let own: Vec<usize> = (0..plan.steps.len()).filter(|at| plan.steps[*at].function == function).collect();
        let elsewhere = plan.prepare.iter().chain(&plan.encode).any(|step| step.function == function);
        let others = plan.functions[function].alone.is_some() || elsewhere;
        if parts < 2 || others || own.is_empty() || !own.iter().all(|at| is_between_meetings(plan, *at)) {
            continue;
        }
        plan.functions[function].parts = parts;
        for at in own {
            if let Some(small) = &mut plan.steps[at].tasks.tiles[0] {
                small.factor *= parts;
            }
        }
    }
}

/// Most parts of a small tile: as many as give every block one in a call of one tile down.
fn parts(product: &Matmul) -> usize {
    let rounded = product.tensors[product.weights.0].store == Store::Bf16;
    match tilings(product).first() {
        Some((small, _)) if rounded && is_shared_by_blocks(product) => BLOCKS / product.sizes[3].div_ceil(small.columns).max(1),
        _ => 1,
    }
}

/// Whether all blocks meet ahead of a step and behind it, in calls of many rows.
fn is_between_meetings(plan: &Plan, at: usize) -> bool {
    let waits = |at: usize| plan.steps[at].order == Order::Wait;
    let next = (at + 1..plan.steps.len()).find(|at| plan.steps[*at].tasks.most > STEP_ROWS);
    waits(at) && next.is_none_or(waits)
}
