//! Rows that products make for themselves. In a call of one row a step that makes the row which products then multiply (a norm, a
//! gate) is work for one block, and all the others wait for it twice. Where only products read such a row, each of their blocks
//! makes it in its own memory, and the step is left out.

use super::tasks::nest_cost;
use crate::fuse::kernel::{Base, Code, DEPTH, Matmul, Nests, Prologue, Rows, Store, Walk};
use crate::fuse::{Fused, Kernel, Operand};
use braid_runtime::artifact::ALIGN;

/// Most work for a number of the row, in additions: every block does it again.
const COST: usize = 64;
/// Most scratch of what makes a row, in bytes.
const SCRATCH: usize = 8 << 10;

/// Most numbers that the maker of a row makes beside it, for others.
const BESIDE: usize = 64;

/// Gives products the makers of their rows.
pub fn add(fused: &mut Fused) {
    for maker in 0..fused.kernels.len() {
        let Some((buffer, nests)) = maker_of(fused, maker) else { continue };
        let reads = |kernel: &Kernel| kernel.reads.contains(&buffer);
        let readers: Vec<usize> = (maker + 1..fused.kernels.len()).filter(|at| reads(&fused.kernels[*at])).collect();
        let depth = fused.buffers[buffer].elements;
        let rows = fused.kernels[maker].rows;
        let Some(first) = readers.first() else { continue };
        if !readers.iter().all(|at| fits(&fused.kernels[*at], buffer, rows, depth)) || !comes_first(fused, maker, *first) {
            continue;
        }
        let made = fused.kernels[maker].clone();
        readers.iter().for_each(|at| attach(&mut fused.kernels[*at], &made, (&nests, at == first), buffer));
        fused.kernels[maker].least = 2;
    }
}

/// Whether the first product that makes a row comes before all who read what is made beside the row.
fn comes_first(fused: &Fused, maker: usize, product: usize) -> bool {
    let writes = &fused.kernels[maker].writes;
    fused.kernels[maker + 1..product].iter().all(|kernel| kernel.reads.iter().all(|read| !writes.contains(read)))
}

/// The buffer whose rows a kernel makes, if it makes each of them alone and with little work, and little beside them.
fn maker_of(fused: &Fused, at: usize) -> Option<(usize, Nests)> {
    let kernel = &fused.kernels[at];
    let Code::Nests(nests) = &kernel.code else { return None };
    let buffer = kernel.writes.iter().max_by_key(|write| fused.buffers[**write].elements)?;
    let by_rows = matches!(nests.walk, Walk::Rows(Rows::All | Rows::Wanted));
    let made = &fused.buffers[*buffer];
    let cost: usize = nests.nests.iter().map(|nest| nest_cost(nest, &nests.sizes)).sum();
    let plain = nests.nests.iter().flat_map(|nest| &nest.stmts).all(|stmt| stmt.system.is_none() && stmt.ordered.is_none());
    let small = cost <= COST * made.elements && nests.scratch <= SCRATCH;
    // A state may have changed by the time that the row is multiplied; buffers are written once.
    let steady = kernel.operands.iter().all(|operand| matches!(operand, Operand::Buffer(_) | Operand::Packed(_)));
    let beside = kernel.writes.iter().filter(|write| *write != buffer).map(|write| &fused.buffers[*write]);
    let few = beside.clone().map(|made| made.elements).sum::<usize>() <= BESIDE && beside.clone().count() <= 1;
    let plainly = beside.chain([made]).all(|made| !made.output && made.store == Store::F32);
    let rows = kernel.rows == Rows::All || kernel.writes.len() == 1;
    (by_rows && plain && small && steady && few && plainly && rows).then(|| (*buffer, nests.clone()))
}

/// Whether a kernel is a product that multiplies the buffer's whole row, and does nothing else with it.
fn fits(kernel: &Kernel, buffer: usize, rows: Rows, depth: usize) -> bool {
    let Code::Matmul(product) = &kernel.code else { return false };
    let weights = product.tensors[product.weights.0].store;
    let whole_copies = matches!(weights, Store::Panels(_)) || (depth * weights.bytes()).is_multiple_of(16);
    let one = product.sizes[1] == 1 && (product.sizes[0] == 1 || product.chosen.is_some());
    let fresh = product.prologue.is_none() && product.rows == rows;
    whole_copies && one && fresh && is_its_row(kernel, product, buffer, depth)
}

/// Whether a buffer of so many numbers a row is what a product multiplies, and nothing else of it.
pub(super) fn is_its_row(kernel: &Kernel, product: &Matmul, buffer: usize, numbers: usize) -> bool {
    let left = &product.left;
    let straight = left.offset == 0 && left.strides.iter().all(|(axis, stride)| *axis == DEPTH && *stride == 1);
    let reads = |tensor: usize| is_buffer(kernel, product, tensor, buffer);
    let only_left = (0..product.tensors.len()).all(|tensor| reads(tensor) == (tensor == left.tensor.0));
    let others = [Some(&product.out), product.chosen.as_ref().map(|(ids, _)| ids)];
    let apart = others.into_iter().flatten().chain(product.epilogue.views()).all(|view| view.tensor != left.tensor);
    straight && only_left && apart && product.sizes[2] == numbers
}

fn is_buffer(kernel: &Kernel, product: &Matmul, tensor: usize, buffer: usize) -> bool {
    let tensor = product.tensors[tensor];
    tensor.base == Base::Arena && kernel.operands[tensor.operand] == Operand::Buffer(buffer)
}

/// Gives a product what makes its row: its words, its reads, and its work with the row as a tile. What is made beside the row the `first`
/// product makes for all others.
fn attach(kernel: &mut Kernel, maker: &Kernel, (nests, first): (&Nests, bool), buffer: usize) {
    let mut nests = nests.clone();
    let beside = |operand: Operand| maker.writes.iter().any(|write| *write != buffer && operand == Operand::Buffer(*write));
    let scratch = nests.scratch.next_multiple_of(ALIGN);
    for tensor in nests.tensors.iter_mut().filter(|tensor| tensor.base.has_operand()) {
        let operand = maker.operands[tensor.operand];
        tensor.operand += kernel.operands.len();
        if operand == Operand::Buffer(buffer) {
            (tensor.base, tensor.row, tensor.operand) = (Base::Tile, 0, 0);
        } else if beside(operand) && !first {
            (tensor.base, tensor.row, tensor.operand) = (Base::Scratch(scratch), 0, 0);
            nests.scratch = scratch + BESIDE * tensor.store.bytes();
        }
    }
    if let Code::Matmul(product) = &mut kernel.code {
        let (operands, reads) = (kernel.operands.len(), kernel.reads.len());
        product.prologue = Some(Box::new(Prologue { nests, operands, reads }));
    }
    kernel.operands.extend(&maker.operands);
    kernel.reads.extend(maker.reads.iter().filter(|read| **read != buffer));
    if first {
        kernel.writes.extend(maker.writes.iter().filter(|write| **write != buffer));
    }
}
