//! Linear systems inside a step: which states make their matrices.

use braid_dsl::model::{Op, Recur};
use std::collections::BTreeSet;

/// The states that stand in the matrix of a system that a step solves, in order.
pub fn in_matrices(recur: &Recur) -> Vec<usize> {
    let mut states: Vec<BTreeSet<usize>> = vec![];
    let mut found = BTreeSet::new();
    for value in &recur.body.values {
        let mut own: BTreeSet<usize> = value.args.iter().flat_map(|arg| states[arg.0 as usize].iter().copied()).collect();
        match value.op {
            Op::State(n) => drop(own.insert(n)),
            Op::Solve { .. } => found.extend(states[value.args[0].0 as usize].iter().copied()),
            _ => {}
        }
        states.push(own);
    }
    found.into_iter().collect()
}
