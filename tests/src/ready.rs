//! Steps that make integers of rows for products of several rows.

use crate::joined::of_the_benchmarks;
use braid_compiler::fuse::Operand;
use braid_compiler::fuse::kernel::Code;
use braid_compiler::plan::{Alone, Order, Plan, STEP_ROWS, Step};
use braid_runtime::artifact::Dtype;

/// Whether a step makes rows ready.
fn makes_ready(plan: &Plan, step: &Step) -> bool {
    plan.functions[step.function].alone == Some(Alone::Ready)
}

/// How many rows of each layer are made ready is what the models say: those of the Llama-shaped one's norms, of what attention gives, and of what its
/// gate lets through, but for the last layer's, which only wanted rows have; Mamba-2's of its norm behind the state, as weights that are no integers
/// read the other one, too. Where all weights are no integers there is none.
#[test]
fn rows_of_integers_are_made_once() {
    for (name, dtype, count) in [
        ("llama", Dtype::Int8, 4 * 24 - 2),
        ("llama", Dtype::Int4z, 4 * 24 - 2),
        ("mamba2", Dtype::Int4, 48),
        ("llama", Dtype::Bf16, 0),
        ("llama", Dtype::Fp8, 0),
    ] {
        let plan = of_the_benchmarks(name, dtype);
        let found: Vec<usize> = (0..plan.steps.len()).filter(|at| makes_ready(&plan, &plan.steps[*at])).collect();
        assert_eq!(found.len(), count, "{name} {dtype:?}");
        found.iter().for_each(|at| comes_ahead(&plan, *at));
    }
}

/// A step that makes rows ready is in calls of several rows alone, ahead of the product that waits for it; whoever makes the same rows otherwise is in
/// calls of many.
fn comes_ahead(plan: &Plan, at: usize) {
    let (step, of_several) = (&plan.steps[at], |step: &&Step| step.tasks.least <= STEP_ROWS && step.tasks.most > 1);
    assert_eq!((step.tasks.least, step.tasks.most, step.order), (2, STEP_ROWS, Order::Wait));
    let kernel = &plan.fused.kernels[step.kernel()];
    let Code::Matmul(product) = &kernel.code else { panic!("no product") };
    assert!(product.ready);
    let next = plan.steps[at + 1..].iter().find(of_several).expect("a product");
    assert_eq!((next.kernel(), next.order), (step.kernel(), Order::Wait));
    if product.prologue.is_some() {
        let Operand::Buffer(row) = kernel.operands[product.tensors[product.left.tensor.0].operand] else { panic!("no buffer") };
        let makes = |other: &&Step| plan.fused.kernels[other.kernel()].writes.contains(&row);
        let least: Vec<usize> = plan.steps.iter().filter(makes).map(|other| other.tasks.least).collect();
        assert_eq!(least, [STEP_ROWS + 1], "who makes the row in calls of many");
    }
}
