//! Operations of one value for one token. A multiplication and an addition are two; views, gathers and constants are none.

use super::reach::{Reach, Reaches};
use crate::forms::Choice;
use braid_dsl::model::{Attend, AxisId, Body, Gives, Model, Op, Size, Type, Unary, Value};

/// Operations for one token, as a function of the context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// Whatever the context.
    pub fixed: u64,
    /// The largest product of axes of one operation: what the complexity class is made from.
    pub largest: u64,
    /// For every visible key.
    pub keys: Vec<KeyCost>,
}

/// Operations for each key that a query sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyCost {
    /// How many keys those are.
    pub reach: Reach,
    /// Operations for one.
    pub flops: u64,
    /// The largest product of axes for one key.
    pub largest: u64,
}

impl Cost {
    /// Operations of the last of `n` positions.
    pub fn at(&self, n: u64) -> u64 {
        self.fixed + self.keys.iter().map(|k| k.flops * k.reach.at(n)).sum::<u64>()
    }

    /// Operations of all of `n` positions.
    pub fn total(&self, n: u64) -> u64 {
        self.fixed * n + self.keys.iter().map(|k| k.flops * k.reach.total(n)).sum::<u64>()
    }

    /// Adds another cost; equal reaches join.
    pub fn add(&mut self, other: &Cost) {
        self.fixed += other.fixed;
        self.largest = self.largest.max(other.largest);
        for more in &other.keys {
            match self.keys.iter_mut().find(|k| k.reach == more.reach) {
                Some(known) => {
                    known.flops += more.flops;
                    known.largest = known.largest.max(more.largest);
                }
                None => self.keys.push(*more),
            }
        }
    }
}

/// Elements of one position: the product of the fixed axes.
pub fn elements(model: &Model, axes: &[AxisId]) -> u64 {
    let size = |axis: &AxisId| match model.axes[axis.0 as usize].size {
        Size::Fixed(n) => n as u64,
        Size::Seq => 1,
    };
    axes.iter().map(size).product()
}

/// Whether there is one value for every position.
pub fn has_sequence(model: &Model, ty: &Type) -> bool {
    ty.axes.iter().any(|a| model.axes[a.0 as usize].size == Size::Seq)
}

/// What the value costs. `values` is the list that its operands index.
pub fn cost(model: &Model, values: &[Value], value: &Value, reaches: &mut Reaches) -> Cost {
    match &value.op {
        Op::Recur(recur) => body_cost(model, &recur.body),
        Op::Attend(attend) => attend_cost(model, values, value, attend, with_chosen(model, attend, reaches.of(attend))),
        // What has no sequence axis is computed once, when the weights are loaded.
        _ if !has_sequence(model, &value.ty) => Cost::default(),
        _ => fixed(model, values, value),
    }
}

fn fixed(model: &Model, values: &[Value], value: &Value) -> Cost {
    let out = elements(model, &value.ty.axes);
    let operand = || value.args.first().map_or(1, |a| elements(model, &values[a.0 as usize].ty.axes));
    let (flops, largest) = match &value.op {
        Op::Unary(Unary::Not) => (0, 1),
        Op::Unary(_) | Op::Binary(_) | Op::Select => (out, out),
        // Bit by bit, by counting.
        Op::Largest { .. } => (64 * operand(), 1),
        Op::Reduce(..) | Op::Top { .. } => (operand(), operand()),
        // Elimination, and two products with triangles for each right side.
        Op::Solve { rows, .. } => {
            let n = elements(model, &[*rows]);
            (operand() * n * 2 / 3 + 2 * out * n, operand() * n)
        }
        Op::Contract(over) => {
            let whole = out * elements(model, over);
            (2 * whole, whole)
        }
        Op::Conv(width) => (2 * out * elements(model, &[*width]), out),
        _ => (0, 1),
    };
    Cost { fixed: flops, largest, keys: Vec::new() }
}

fn body_cost(model: &Model, body: &Body) -> Cost {
    let mut sum = Cost::default();
    for value in &body.values {
        sum.add(&fixed(model, &body.values, value));
    }
    sum
}

/// Beside the keys that a query sees whatever was chosen, the blocks that were.
fn with_chosen(model: &Model, attend: &Attend, reach: Reach) -> Reach {
    match (Choice::of(attend), reach) {
        (Ok(Some(choice)), Reach::Bounded(most)) => Reach::Bounded(most + elements(model, &[choice.slot]) * choice.block as u64),
        _ => reach,
    }
}

/// Scores, their expression, the softmax (maximum, subtraction, exponential, sum) and the weighted values, for each visible key.
fn attend_cost(model: &Model, values: &[Value], value: &Value, attend: &Attend, reach: Reach) -> Cost {
    let axes = |n: usize| value.args.get(n).map(|a| values[a.0 as usize].ty.axes.clone()).unwrap_or_default();
    let (q, k) = (axes(0), axes(1));
    let compared = union(&q, &k);
    let heads: Vec<AxisId> = compared.iter().copied().filter(|a| !attend.contract.contains(a)).collect();
    let [products, scores] = [&compared, &heads].map(|axes| elements(model, axes));
    let sums = if attend.gives == Gives::Values { elements(model, &union(&heads, &axes(2))) } else { 0 };
    let flops = 2 * products + 2 * sums + 4 * scores + body_cost(model, &attend.score).fixed;
    Cost { fixed: 0, largest: 1, keys: vec![KeyCost { reach, flops, largest: products.max(sums) }] }
}

fn union(a: &[AxisId], b: &[AxisId]) -> Vec<AxisId> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|axis| !a.contains(axis)));
    all
}
