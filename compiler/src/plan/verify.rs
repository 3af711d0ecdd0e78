//! Rules of a sound plan:
//! - buffers that are alive together do not overlap
//! - every buffer is written before it is read; inputs by the caller
//! - every call has the words that its kernel names
//! - rows that products of several rows find ready are made so, and waited for

use super::ready::ready_row;
use super::{Alone, Order, Plan, STEP_ROWS, Step};
use crate::fuse::kernel::{Code, Rows};

type Rule = fn(&Plan) -> Result<(), String>;

const RULES: &[Rule] = &[no_overlap, written_first, words_complete, made_ready];

/// Checks all rules.
///
/// # Errors
/// What is broken: always our bug.
pub fn verify(plan: &Plan) -> Result<(), String> {
    RULES.iter().try_for_each(|rule| rule(plan))
}

fn no_overlap(plan: &Plan) -> Result<(), String> {
    let (buffers, memory) = (&plan.fused.buffers, &plan.memory);
    let places: Vec<_> = (0..buffers.len())
        .filter(|at| buffers[*at].rows != Rows::Once && !buffers[*at].output)
        .map(|at| (memory.buffers[at], buffers[at].elements * buffers[at].store.bytes(), memory.lifetimes[at], buffers[at].node))
        .collect();
    for (i, a) in places.iter().enumerate() {
        for b in &places[i + 1..] {
            let together = a.2.0 <= b.2.1 && b.2.0 <= a.2.1;
            if together && a.0 < b.0 + b.1 && b.0 < a.0 + a.1 {
                return Err(format!("buffers of {} and {} overlap", a.3, b.3));
            }
        }
    }
    Ok(())
}

fn written_first(plan: &Plan) -> Result<(), String> {
    let mut written: Vec<bool> = plan.fused.buffers.iter().map(|buffer| plan.fused.is_input(buffer)).collect();
    for kernel in &plan.fused.kernels {
        for read in &kernel.reads {
            if !written[*read] && !kernel.writes.contains(read) {
                return Err(format!("{} is read before it is written", plan.fused.buffers[*read].node));
            }
        }
        kernel.writes.iter().for_each(|w| written[*w] = true);
    }
    Ok(())
}

fn words_complete(plan: &Plan) -> Result<(), String> {
    let all = plan.prepare.iter().chain(&plan.encode).chain(&plan.steps);
    for step in all {
        let operands: usize = step.kernels.iter().map(|at| plan.fused.kernels[*at].operands.len()).sum();
        let function = &plan.functions[step.function];
        // A convolution is told which columns are a block's.
        let told = |at: &&usize| function.alone.is_some() && matches!(plan.fused.kernels[**at].code, Code::Along(_));
        let columns = 2 * step.kernels.iter().filter(told).count();
        if step.words.len() != operands + columns {
            return Err(format!("{} has not all its operands", plan.functions[step.function].name));
        }
    }
    Ok(())
}

fn made_ready(plan: &Plan) -> Result<(), String> {
    let of_several = |step: &&Step| step.tasks.least <= STEP_ROWS && step.tasks.most > 1;
    // The rows that are ready, and whether blocks have met since.
    let mut made: Vec<(usize, bool)> = vec![];
    for step in plan.steps.iter().filter(of_several) {
        if step.order == Order::Wait {
            made.iter_mut().for_each(|(_, met)| *met = true);
        }
        let rows = step.kernels.iter().filter_map(|kernel| ready_row(plan, *kernel));
        let function = &plan.functions[step.function];
        if function.alone == Some(Alone::Ready) {
            // Another step has made what it does not make itself.
            let makes = matches!(&function.code, Code::Matmul(product) if product.prologue.is_some());
            if !makes && step.order != Order::Wait {
                return Err(format!("{} does not wait for the rows", function.name));
            }
            made.extend(rows.map(|row| (row, false)));
        } else if let Some(row) = rows.into_iter().find(|row| !made.contains(&(*row, true))) {
            return Err(format!("rows of {} are multiplied before they are ready", plan.fused.buffers[row].node));
        }
    }
    Ok(())
}
