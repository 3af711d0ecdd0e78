//! Which weights a GPU fetches while its blocks wait: those of the products that come next. They depend on nothing, and while blocks
//! wait for each other, or have little to do, the memory would be idle.

use super::{Order, Plan};
use crate::fuse::Operand;
use crate::fuse::kernel::Code;

/// Bytes that are fetched in one wait: about what the memory brings meanwhile.
const A_WAIT: usize = 6 << 20;
/// Bytes that may have been fetched and are not yet used: they must stay in the cache.
const OPEN: usize = 20 << 20;

/// Weights of a step, as a range of the blob.
struct Weights {
    step: usize,
    first: usize,
    bytes: usize,
}

/// Marks what is fetched in each wait of a call.
pub fn mark(plan: &mut Plan) {
    let weights = weights(plan);
    let mut next = 0;
    // Of `weights[next]` so many bytes have been fetched.
    let mut done = 0;
    let mut fetched: Vec<(usize, usize)> = Vec::new();
    for at in 0..plan.steps.len() {
        fetched.retain(|(step, _)| *step >= at);
        if plan.steps[at].order != Order::Wait {
            continue;
        }
        while weights.get(next).is_some_and(|own| own.step < at) {
            (next, done) = (next + 1, 0);
        }
        let Some(own) = weights.get(next) else { break };
        let open: usize = fetched.iter().map(|(_, bytes)| bytes).sum();
        let bytes = (own.bytes - done).min(A_WAIT).min(OPEN.saturating_sub(open));
        if bytes == 0 {
            continue;
        }
        plan.steps[at].ahead = [own.first + done, bytes];
        fetched.push((own.step, bytes));
        done += bytes;
        if done == own.bytes {
            (next, done) = (next + 1, 0);
        }
    }
}

/// The weights of all products of a call, in order; of those that are chosen at run time nothing is known.
fn weights(plan: &Plan) -> Vec<Weights> {
    let of = |(step, kernel): (usize, usize)| {
        let kernel = &plan.fused.kernels[kernel];
        let Code::Matmul(product) = &kernel.code else { return None };
        let Operand::Packed(at) = kernel.operands[product.tensors[product.weights.0].operand] else { return None };
        let packed = &plan.memory.packed[at];
        product.chosen.is_none().then_some(Weights { step, first: packed.offset, bytes: packed.bytes })
    };
    plan.steps.iter().enumerate().filter_map(|(at, step)| of((at, step.kernel))).collect()
}
