//! A plan as text: memory, then calls in order.

use super::{Per, Plan, Step};
use crate::fuse::operand_name;
use std::fmt::Write;

/// Deterministic text of a plan.
pub fn print(plan: &Plan) -> String {
    let memory = &plan.memory;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "arena {} bytes a row, weights {} bytes, prepared {} bytes, states {} bytes + {} a position",
        memory.arena_row_bytes,
        memory.weights_bytes,
        memory.prepared_bytes,
        memory.state_fixed_bytes,
        memory.state_position_bytes
    );
    for state in &memory.states {
        let grows = if state.position_offset == 0 { String::new() } else { format!(" + {} a position", state.position_offset) };
        let _ = writeln!(out, "state {} {} at {}{grows}", state.kind, state.name, state.fixed_offset);
    }
    for (title, steps) in [("prepare", &plan.prepare), ("encode", &plan.encode), ("run", &plan.steps)] {
        if steps.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{title}:");
        for step in steps {
            let _ = writeln!(out, "  {}", line(plan, step));
        }
    }
    out
}

fn line(plan: &Plan, step: &Step) -> String {
    let kernel = &plan.fused.kernels[step.kernel()];
    let words: Vec<String> = kernel
        .operands
        .iter()
        .zip(&step.words)
        .map(|(operand, word)| format!("{} @{word}", operand_name(&plan.fused, *operand)))
        .collect();
    let tasks = &step.tasks;
    let count = match tasks.per {
        Per::Once => format!("{}", tasks.factor),
        per => {
            let what = format!("{per:?}").to_lowercase();
            match (tasks.times, tasks.by) {
                (1, 1) => format!("{} x {what}", tasks.factor),
                (1, by) => format!("{} x ceil({what} / {by})", tasks.factor),
                (times, by) => format!("{} x ceil({what} * {times} / {by})", tasks.factor),
            }
        }
    };
    format!("{} [{count}] ({})", plan.functions[step.function].name, words.join(", "))
}
