//! Products of the same row one after the other, whose weights lie one behind the other: in a call of one row they are one product, whose
//! columns blocks share. What a block does once for a product (its part of the columns, the row, the walk's next step) it does once for all
//! of them.

use super::order::Touched;
use super::tasks::is_shared_by_blocks;
use super::{Alone, Plan, Step, column_bytes};
use crate::fuse::kernel::{Code, Matmul, Rows};
use std::ops::Range;

/// Most words of such a step.
const WORDS: usize = 64;

/// Gives calls of one row a step for each run of such products, ahead of them.
pub(super) fn add(plan: &mut Plan) {
    let mut at = 0;
    while at < plan.steps.len() {
        let run = at..at + together(plan, at);
        at = run.end.max(at + 1);
        if run.len() > 1 {
            let joint = join(plan, run.clone());
            plan.steps[run.clone()].iter_mut().for_each(|step| step.tasks.least = 2);
            plan.steps.insert(run.start, joint);
            at += 1;
        }
    }
}

fn join(plan: &mut Plan, run: Range<usize>) -> Step {
    let steps = plan.steps[run].to_vec();
    let functions = steps.iter().map(|step| (step.function, step.words.len())).collect();
    let first = steps[0].clone();
    let code = plan.functions[first.function].code.clone();
    let function = plan.function(&code, false, Some(Alone::Joined(functions)));
    let words = steps.iter().flat_map(|step| step.words.iter().copied()).collect();
    let kernels = steps.iter().map(|step| step.kernel()).collect();
    let mut tasks = first.tasks;
    (tasks.least, tasks.most, tasks.tiles) = (0, 1, [None; 2]);
    Step { function, words, tasks, kernels, ..first }
}

/// A step's product, if it is one whose weights are asked for before the step.
fn product<'p>(plan: &'p Plan, step: &Step) -> Option<&'p Matmul> {
    let Code::Matmul(code) = &plan.functions[step.function].code else { return None };
    let wide = 16 / code.tensors[code.weights.0].store.bytes().max(1);
    let streams = is_shared_by_blocks(code) && code.sizes[0] == 1 && code.is_aligned(wide);
    (streams && code.rows == Rows::All && step.tasks.least <= 1).then_some(code)
}

/// How many steps from `first` on are such a run.
fn together(plan: &Plan, first: usize) -> usize {
    let Some(code) = plan.steps.get(first).and_then(|step| product(plan, step)) else { return 0 };
    let touched: Vec<Touched> = plan.steps[first..]
        .iter()
        .take_while(|step| product(plan, step).is_some() && has_rows_of(plan, step, &plan.steps[first]))
        .map(|step| Touched::alone(plan, &plan.fused.kernels[step.kernel()]))
        .collect();
    // Who needs another one's results has the same columns as that one.
    let clash = |a: usize, b: usize| touched[a].clashes(&touched[b]) || touched[b].clashes(&touched[a]);
    let is_apart = |at: usize| (0..touched.len()).all(|other| other == at || !clash(at, other));
    let (mut count, mut words) = (0, 0);
    let mut behind = weights(code, &plan.steps[first]);
    for (at, step) in plan.steps[first..first + touched.len()].iter().enumerate() {
        let Some(code) = product(plan, step) else { break };
        words += step.words.len();
        if !is_apart(at) || weights(code, step) != behind || words > WORDS {
            break;
        }
        behind += (code.sizes[3] * column_bytes(code)) as i64;
        count += 1;
    }
    count
}

/// Where a step's weights begin.
fn weights(code: &Matmul, step: &Step) -> i64 {
    step.words[code.tensors[code.weights.0].operand]
}

/// Whether both steps are products of the same rows, with weights stored in the same way.
pub(super) fn has_rows_of(plan: &Plan, step: &Step, before: &Step) -> bool {
    let rows = |step: &Step| match &plan.functions[step.function].code {
        Code::Matmul(product) => {
            let tensor = product.tensors[product.left.tensor.0];
            let view = (product.left.offset, product.left.strides.clone(), product.sizes[2], product.rows);
            let store = product.tensors[product.weights.0].store;
            Some((tensor.base, tensor.row, step.words[tensor.operand], view, store))
        }
        _ => None,
    };
    rows(step).is_some_and(|own| rows(before) == Some(own))
}
