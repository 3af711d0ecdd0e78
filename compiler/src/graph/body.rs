//! The small programs inside recurrences and attentions, cleaned by the graph's rules.

use super::shape;
use braid_dsl::model::{Axis, Binary, Body, Op, Reduce, Value, ValueId};
use std::collections::BTreeSet;

/// The body without repetition and dead values, sums of products as contractions; `results` follow their values.
pub fn cleaned(body: &Body, axes: &[Axis], results: &mut [&mut ValueId]) -> Body {
    let mut made: Vec<Value> = Vec::new();
    let mut names: Vec<ValueId> = Vec::new();
    for value in &body.values {
        let args: Vec<ValueId> = value.args.iter().map(|a| names[a.0 as usize]).collect();
        let value = contracted(Value { args, ..value.clone() }, &made, axes);
        let same = |v: &Value| v.op == value.op && v.args == value.args && v.ty == value.ty;
        let at = made.iter().position(same).unwrap_or_else(|| {
            made.push(value);
            made.len() - 1
        });
        names.push(ValueId(at as u32));
    }
    results.iter_mut().for_each(|r| **r = names[r.0 as usize]);
    pruned(made, results)
}

/// The captures that a body uses, by rising number; they are numbered anew without gaps.
pub fn captures(body: &mut Body) -> Vec<usize> {
    let number = |value: &Value| if let Op::Capture(n) = value.op { Some(n) } else { None };
    let used: BTreeSet<usize> = body.values.iter().filter_map(number).collect();
    let used: Vec<usize> = used.into_iter().collect();
    for value in &mut body.values {
        if let Op::Capture(n) = &mut value.op {
            *n = used.iter().position(|old| old == n).unwrap_or(*n);
        }
    }
    used
}

fn contracted(value: Value, made: &[Value], axes: &[Axis]) -> Value {
    let Op::Reduce(Reduce::Sum, over) = &value.op else { return value };
    let product = &made[value.args[0].0 as usize];
    let both = |axis| product.args.iter().all(|a| made[a.0 as usize].ty.axes.contains(axis));
    if product.op == Op::Binary(Binary::Mul) && over.iter().all(both) && over.iter().all(|a| !shape::is_seq(axes, *a)) {
        return Value { op: Op::Contract(over.clone()), args: product.args.clone(), ..value };
    }
    value
}

fn pruned(values: Vec<Value>, results: &mut [&mut ValueId]) -> Body {
    let mut needed = vec![false; values.len()];
    results.iter().for_each(|r| needed[r.0 as usize] = true);
    // Arguments stand before their users: one pass from the end marks all.
    for at in (0..values.len()).rev() {
        if needed[at] {
            values[at].args.iter().for_each(|a| needed[a.0 as usize] = true);
        }
    }
    let mut names = vec![ValueId(0); values.len()];
    let mut kept = Vec::new();
    for (at, mut value) in values.into_iter().enumerate() {
        if needed[at] {
            value.args.iter_mut().for_each(|a| *a = names[a.0 as usize]);
            names[at] = ValueId(kept.len() as u32);
            kept.push(value);
        }
    }
    results.iter_mut().for_each(|r| **r = names[r.0 as usize]);
    Body { values: kept }
}
