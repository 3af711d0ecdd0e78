//! Roles of a state's axes.

use braid_dsl::model::{AxisId, Op, Recur, Value};
use std::collections::BTreeSet;

/// Axes that some op of the step reduces over, or a linear system couples.
pub fn contracted_axes(recur: &Recur) -> BTreeSet<AxisId> {
    let axes_of = |value: &Value, n: usize| &recur.body.values[value.args[n].0 as usize].ty.axes;
    let over = recur.body.values.iter().filter_map(|value| match &value.op {
        Op::Reduce(_, axes) | Op::Contract(axes) => Some(axes.clone()),
        // The right sides of one matrix are solved together.
        Op::Solve { rows, columns } => {
            let sides = axes_of(value, 1).iter().filter(|axis| !axes_of(value, 0).contains(axis));
            Some(sides.copied().chain([*rows, *columns]).collect())
        }
        _ => None,
    });
    over.flatten().collect()
}

/// The axis of a state's values, one task holds all of it: of those that no read contracts the one that the fewest captures vary along,
/// first of captures that are contracted themselves. What is equal for all its indices is loaded once, and sums over rows are
/// matrix products. An axis of one index comes last.
pub fn value_axis(recur: &Recur, state: &[AxisId], size: impl Fn(AxisId) -> usize) -> Option<AxisId> {
    let contracted = contracted_axes(recur);
    let varying = |axis: &AxisId| {
        let along = |v: &&Value| matches!(v.op, Op::Capture(_)) && v.ty.axes.contains(axis);
        let all = || recur.body.values.iter().filter(along);
        (all().filter(|v| v.ty.axes.iter().any(|other| contracted.contains(other))).count(), all().count())
    };
    let free = state.iter().copied().filter(|axis| !contracted.contains(axis));
    free.min_by_key(|axis| (size(*axis) == 1, varying(axis), std::cmp::Reverse(*axis)))
}
