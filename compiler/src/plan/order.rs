//! What a step needs of those before: what blocks of a GPU do side by side must not touch the same memory.

use super::alone::has_columns;
use super::{Order, Per, Plan, STEP_ROWS, Step, chosen_tiling, is_shared_by_blocks, tilings};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Code, Matmul, Rows};
use crate::fuse::{Kernel, Operand};
use std::ops::Range;

/// What a kernel touches.
pub(super) struct Touched {
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

    /// In a call of one row, where rows that products make for themselves are nowhere in memory.
    pub(super) fn alone(plan: &Plan, kernel: &Kernel) -> Touched {
        let row = match &kernel.code {
            Code::Matmul(product) if product.prologue.is_some() => {
                kernel.operands.get(product.tensors[product.left.tensor.0].operand)
            }
            _ => None,
        };
        let is_read = |at: &&usize| row != Some(&Operand::Buffer(**at));
        let reads = kernel.reads.iter().filter(is_read).copied().collect();
        Touched::of(plan, &Kernel { reads, ..kernel.clone() })
    }

    pub(super) fn clashes(&self, later: &Touched) -> bool {
        meet(&self.writes, &later.reads) || self.is_overwritten(later)
    }

    /// Of several together.
    fn all(each: impl Iterator<Item = Touched>) -> Touched {
        each.fold(Touched { reads: vec![], writes: vec![] }, |mut all, own| {
            all.reads.extend(own.reads);
            all.writes.extend(own.writes);
            all
        })
    }

    /// Whether the later one writes what this one reads or writes.
    pub(super) fn is_overwritten(&self, later: &Touched) -> bool {
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
    for (at, order) in alone_orders(plan) {
        plan.steps[at].alone = order;
    }
}

/// How a step needs what an earlier one makes.
enum Need {
    /// All of it.
    All,
    /// What the same task made, if the steps in between are dealt as well.
    Task,
    /// What the block itself made.
    Block,
}

/// The orders of the steps of a call of one row.
fn alone_orders(plan: &Plan) -> Vec<(usize, Order)> {
    let mut open: Vec<(usize, Touched)> = Vec::new();
    // How many of the last open steps are dealt alike.
    let (mut alike, mut orders) = (0, Vec::new());
    let steps = plan.steps.iter().enumerate().filter(|(_, step)| step.tasks.least <= 1);
    for (at, step) in steps {
        let own = Touched::all(step.kernels.iter().map(|at| Touched::alone(plan, &plan.fused.kernels[*at])));
        let first_alike = open.len() - alike;
        let needs = open.iter().enumerate().filter(|(_, (_, earlier))| earlier.clashes(&own)).map(
            |(place, (before, earlier))| match need(plan, &plan.steps[*before], step) {
                _ if earlier.is_overwritten(&own) => Need::All,
                Need::Task if place < first_alike => Need::All,
                need => need,
            },
        );
        let order = needs.fold(Order::Free, |order, need| match need {
            Need::All => Order::Wait,
            Need::Task if order == Order::Free => Order::Follow,
            Need::Task | Need::Block => order,
        });
        if order == Order::Wait {
            open.clear();
        }
        open.push((at, own));
        alike = if order == Order::Follow { alike + 1 } else { 1 };
        orders.push((at, order));
    }
    orders
}

/// What a step of a call of one row needs of an earlier one whose results it reads.
fn need(plan: &Plan, earlier: &Step, later: &Step) -> Need {
    let function = |step: &Step| &plan.functions[step.function];
    let (first, second) = (&plan.fused.kernels[earlier.kernel()], &plan.fused.kernels[later.kernel()]);
    let own = |step: &Step| function(step).alone.is_some() && step.tasks.per == Per::Block;
    let reads = !function(later).stores_keys;
    match (&function(earlier).code, &function(later).code) {
        // A part of the convolution's channels alone is a block's own.
        (Code::Nests(_) | Code::Top(_), _) if own(earlier) => Need::Block,
        (Code::Nests(_), _) if earlier.cut_for.is_some() && reads => {
            let user = later.cut_for.unwrap_or(later.kernel());
            if earlier.cut_for == Some(user) { Need::Task } else { Need::All }
        }
        (Code::Matmul(_), Code::Along(along))
            if own(later) && earlier.kernels.iter().any(|at| has_columns(&plan.fused.kernels[*at], second, along)) =>
        {
            Need::Block
        }
        (Code::Matmul(product), Code::Matmul(_))
            if earlier.kernels.len() == 1 && earlier.tasks == later.tasks && is_in_place(first, second) =>
        {
            if is_shared_by_blocks(product) { Need::Block } else { Need::Task }
        }
        _ => Need::All,
    }
}

fn orders(plan: &Plan, steps: &[Step]) -> Vec<Order> {
    // What the steps since the last wait touch.
    let mut open: Vec<Touched> = Vec::new();
    let mut orders = Vec::new();
    let mut last: Option<&Kernel> = None;
    for step in steps {
        if step.tasks.most <= STEP_ROWS {
            orders.push(Order::Free);
            continue;
        }
        let kernel = &plan.fused.kernels[step.kernel()];
        let own = Touched::of(plan, kernel);
        let clashing = open.iter().filter(|earlier| earlier.clashes(&own)).count();
        // Other blocks may still be at the step before: what follows it must leave its operands alone, wherever they lie.
        let reads_last = open.last().is_some_and(|earlier| earlier.clashes(&own) && !earlier.is_overwritten(&own));
        let order = match clashing {
            0 => Order::Free,
            1 if reads_last && last.is_some_and(|last| is_in_place(last, kernel)) => Order::Follow,
            _ => Order::Wait,
        };
        if order == Order::Wait {
            open.clear();
        }
        open.push(own);
        orders.push(order);
        last = Some(kernel);
    }
    orders
}

/// Whether two products have the same tasks in any call, the second of which reads the first one's results in its epilogue, each
/// where its own result stands.
fn is_in_place(earlier: &Kernel, later: &Kernel) -> bool {
    let (Code::Matmul(first), Code::Matmul(second)) = (&earlier.code, &later.code) else { return false };
    let shape = |product: &Matmul| (product.rows, product.sizes[0], product.sizes[1], product.sizes[3], product.chosen.is_some());
    let tiles = |product: &Matmul| (tilings(product), chosen_tiling(product));
    if shape(first) != shape(second) || tiles(first) != tiles(second) {
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
    // Of what makes its row, and of what the first one makes beside its results, it needs all.
    let own = second.prologue.as_ref().map_or(later.reads.len(), |prologue| prologue.reads);
    let is_made = |at: &usize| earlier.operands.get(first.tensors[first.out.tensor.0].operand) == Some(&Operand::Buffer(*at));
    let all = |(place, read): (usize, &usize)| earlier.writes.contains(read) && (place >= own || !is_made(read));
    let in_place = in_place && !later.reads.iter().enumerate().any(all);
    let ids =
        |kernel: &Kernel, product: &Matmul| product.chosen.as_ref().map(|(ids, count)| (source(kernel, ids, product), *count));
    in_place && !same_memory(&second.left) && ids(earlier, first) == ids(later, second)
}
