//! Rows that weights of few bits multiply as integers. Where all blocks of a step of several rows would make integers of the same rows, a step ahead
//! of it makes them once, in the place of the numbers: an integer takes half of what its number does.

use super::prologue::is_its_row;
use super::{Alone, Order, Per, Plan, STEP_ROWS, Step, Tasks, is_shared_by_blocks, tilings};
use crate::fuse::kernel::{Code, Matmul, Rows, Store};
use crate::fuse::{Fused, Operand};
use braid_runtime::artifact::{Dtype, GROUP};

/// Most numbers of a row: threads hold all of them before the first integer takes the place of some.
pub const MOST: usize = 16 << 10;

/// Marks the products of rows that are made ready so.
pub(super) fn mark(fused: &mut Fused) {
    for buffer in 0..fused.buffers.len() {
        let readers = readers(fused, buffer);
        let all = !readers.is_empty() && readers.iter().all(|at| fits(fused, *at, buffer));
        if !all || !maker(fused, buffer).is_some_and(|maker| comes_before(fused, maker, readers[0])) {
            continue;
        }
        for at in readers {
            if let Code::Matmul(product) = &mut fused.kernels[at].code {
                product.ready = true;
            }
        }
    }
}

fn readers(fused: &Fused, buffer: usize) -> Vec<usize> {
    (0..fused.kernels.len()).filter(|at| fused.kernels[*at].reads.contains(&buffer)).collect()
}

/// The only kernel that writes a buffer.
fn maker(fused: &Fused, buffer: usize) -> Option<usize> {
    let mut makers = (0..fused.kernels.len()).filter(|at| fused.kernels[*at].writes.contains(&buffer));
    makers.next().filter(|at| makers.next().is_none() && fused.kernels[*at].rows == Rows::All)
}

/// Whether the first reader waits for a maker anyway, or makes the rows itself where there is one row: then the step is in the maker's place.
fn comes_before(fused: &Fused, maker: usize, reader: usize) -> bool {
    maker + 1 == reader || matches!(&fused.kernels[reader].code, Code::Matmul(Matmul { prologue: Some(_), .. }))
}

/// Whether a kernel is a product of the buffer's whole rows and nothing else of it, whose weights are integers and which is done in tiles where there
/// are many rows.
fn fits(fused: &Fused, at: usize, buffer: usize) -> bool {
    let (kernel, made) = (&fused.kernels[at], &fused.buffers[buffer]);
    let Code::Matmul(product) = &kernel.code else { return false };
    let integers = match product.tensors[product.weights.0].store {
        Store::Panels(dtype) => dtype.part().is_some() && dtype != Dtype::Fp8,
        _ => false,
    };
    let depth = product.sizes[2];
    let whole = depth.is_multiple_of(GROUP) && (4 * GROUP..=MOST).contains(&depth) && product.is_aligned(GROUP);
    let shared =
        product.rows == Rows::All && product.sizes[0] == 1 && is_shared_by_blocks(product) && !tilings(product).is_empty();
    let plain = made.store == Store::F32 && !made.output && made.rows == Rows::All && !fused.is_input(made);
    integers && whole && shared && plain && is_its_row(kernel, product, buffer, made.elements)
}

/// Gives calls of several rows the steps that make rows ready: in the place of who makes the rows, where products can, or else ahead of the first of
/// them.
pub(super) fn add(plan: &mut Plan) {
    let mut made = vec![];
    for first in 0..plan.fused.kernels.len() {
        let Some(row) = ready_row(plan, first).filter(|row| !made.contains(row)) else { continue };
        made.push(row);
        let kernel = plan.fused.kernels[first].clone();
        let Code::Matmul(product) = &kernel.code else { continue };
        let maker = maker(&plan.fused, row).filter(|_| product.prologue.is_some());
        let has = |step: &Step| step.kernels.contains(&maker.unwrap_or(first)) && step.tasks.most > 1;
        let Some(place) = plan.steps.iter().position(has) else { continue };
        let order = match maker {
            Some(_) => {
                plan.steps[place].tasks.least = STEP_ROWS + 1;
                plan.steps[place].order
            }
            None => Order::Wait,
        };
        let function = plan.function(&kernel.code, false, Some(Alone::Ready));
        let (tiles, cost) = ([None; 2], product.sizes[2]);
        let tasks = Tasks { per: Per::Row, times: 1, by: 1, factor: 1, cost, least: 2, most: STEP_ROWS, tiles };
        let step = Step::new(function, plan.words(first), tasks, first);
        plan.steps.insert(place, Step { order, ..step });
    }
}

/// The buffer whose rows a kernel's product finds ready in calls of several rows.
pub(super) fn ready_row(plan: &Plan, kernel: usize) -> Option<usize> {
    let kernel = &plan.fused.kernels[kernel];
    match &kernel.code {
        Code::Matmul(product) if product.ready => match kernel.operands[product.tensors[product.left.tensor.0].operand] {
            Operand::Buffer(row) => Some(row),
            _ => None,
        },
        _ => None,
    }
}
