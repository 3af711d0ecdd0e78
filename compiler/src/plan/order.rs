//! What a step needs of those before: what blocks of a GPU do side by side must not touch the same memory.

use super::{Order, Plan, Step, tilings};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Code, Matmul, Rows};
use crate::fuse::{Kernel, Operand};
use std::ops::Range;

/// What a kernel touches.
struct Touched {
    reads: Vec<Place>,
    writes: Vec<Place>,
}

/// Some memory.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    /// Bytes for each row of the arena.
    Arena(Range<usize>),
    /// Bytes of what is computed once.
    Prepared(Range<usize>),
    /// The caller's result.
    Output,
    /// A state.
    State(usize),
    /// What kernels use while they run.
    Workspace,
}

impl Place {
    fn overlaps(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Arena(a), Place::Arena(b)) | (Place::Prepared(a), Place::Prepared(b)) => a.start < b.end && b.start < a.end,
            _ => self == other,
        }
    }
}

impl Touched {
    fn of(plan: &Plan, kernel: &Kernel) -> Touched {
        let place = |at: &usize| {
            let (buffer, start) = (&plan.fused.buffers[*at], plan.memory.buffers[*at]);
            let bytes = start..start + buffer.elements * buffer.store.bytes();
            match () {
                () if buffer.output => Place::Output,
                () if buffer.rows == Rows::Once => Place::Prepared(bytes),
                () => Place::Arena(bytes),
            }
        };
        // A state is both read and written by whoever has it.
        let states = kernel.operands.iter().filter_map(|operand| match operand {
            Operand::State(at) | Operand::StatePerPosition(at) => Some(Place::State(*at)),
            Operand::Workspace => Some(Place::Workspace),
            _ => None,
        });
        let states: Vec<Place> = states.collect();
        Touched {
            reads: kernel.reads.iter().map(place).chain(states.iter().cloned()).collect(),
            writes: kernel.writes.iter().map(place).chain(states).collect(),
        }
    }

    fn clashes(&self, later: &Touched) -> bool {
        meet(&self.writes, &later.reads) || self.is_overwritten(later)
    }

    /// Whether the later one writes what this one reads or writes.
    fn is_overwritten(&self, later: &Touched) -> bool {
        meet(&self.writes, &later.writes) || meet(&self.reads, &later.writes)
    }
}

fn meet(a: &[Place], b: &[Place]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.overlaps(b)))
}

/// Marks what each step needs of those before.
pub fn mark(plan: &mut Plan) {
    for prepare in [true, false] {
        let orders = orders(plan, if prepare { &plan.prepare } else { &plan.steps });
        let steps = if prepare { &mut plan.prepare } else { &mut plan.steps };
        steps.iter_mut().zip(orders).for_each(|(step, order)| step.order = order);
    }
}

fn orders(plan: &Plan, steps: &[Step]) -> Vec<Order> {
    // What the steps since the last wait touch.
    let mut open: Vec<Touched> = Vec::new();
    let mut orders = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let kernel = &plan.fused.kernels[step.kernel];
        let own = Touched::of(plan, kernel);
        let clashing = open.iter().filter(|earlier| earlier.clashes(&own)).count();
        // Other blocks may still be at the step before: what follows it must leave its operands alone, wherever they lie.
        let reads_last = open.last().is_some_and(|earlier| earlier.clashes(&own) && !earlier.is_overwritten(&own));
        let order = match clashing {
            0 => Order::Free,
            1 if reads_last && follows(&plan.fused.kernels[steps[at - 1].kernel], kernel) => Order::Follow,
            _ => Order::Wait,
        };
        if order == Order::Wait {
            open.clear();
        }
        open.push(own);
        orders.push(order);
    }
    orders
}

/// Whether each task of `later` needs of `earlier` only what the task of the same number wrote: two products with the same tasks,
/// the second of which reads the first one's results in its epilogue, each where its own result stands.
fn follows(earlier: &Kernel, later: &Kernel) -> bool {
    let (Code::Matmul(first), Code::Matmul(second)) = (&earlier.code, &later.code) else { return false };
    let shape = |product: &Matmul| (product.rows, product.sizes[0], product.sizes[1], product.sizes[3], product.chosen.is_some());
    if shape(first) != shape(second) || first.chosen.is_some() || tilings(first) != tilings(second) {
        return false;
    }
    let source = |kernel: &Kernel, view: &View, product: &Matmul| {
        let tensor = product.tensors[view.tensor.0];
        let operand = tensor.base.has_operand().then(|| kernel.operands[tensor.operand]);
        (operand, tensor.base, tensor.row, tensor.store, tensor.through_wanted, view.offset, view.strides.clone())
    };
    let made = source(earlier, &first.out, first);
    let same_memory = |view: &View| source(later, view, second).0 == made.0 && second.tensors[view.tensor.0].base == made.1;
    let in_place =
        second.epilogue.views().into_iter().filter(|view| same_memory(view)).all(|view| source(later, view, second) == made);
    in_place && !same_memory(&second.left)
}
