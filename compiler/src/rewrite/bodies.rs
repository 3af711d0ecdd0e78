//! The same rules inside the bodies of recurrences and attentions.

use super::{New, Values, rules, type_of};
use crate::graph::{Graph, body, shape};
use braid_dsl::model::{Axis, Body, Op, Type, Value, ValueId};

/// A body while it is rewritten.
struct Draft<'a> {
    axes: &'a [Axis],
    values: Vec<Value>,
    /// How often each is read in the body as it was.
    users: Vec<usize>,
}

/// Rewrites all bodies once; whether any changed.
pub fn apply(graph: &mut Graph) -> bool {
    let axes = graph.axes.clone();
    let mut changed = false;
    for id in graph.order() {
        let mut op = graph.op(id).clone();
        let found = match &mut op {
            Op::Recur(recur) => {
                let mut results: Vec<&mut ValueId> = recur.next.iter_mut().chain(recur.outputs.iter_mut()).collect();
                rewritten(&axes, &mut recur.body, &mut results)
            }
            Op::Attend(attend) => {
                let keep = rewritten(&axes, &mut attend.keep, &mut [&mut attend.keep_result]);
                rewritten(&axes, &mut attend.score, &mut [&mut attend.score_result]) || keep
            }
            _ => continue,
        };
        if found {
            graph.node_mut(id).op = op;
            changed = true;
        }
    }
    changed
}

fn rewritten(axes: &[Axis], old: &mut Body, results: &mut [&mut ValueId]) -> bool {
    let mut draft = Draft { axes, values: vec![], users: vec![] };
    let mut names: Vec<ValueId> = vec![];
    let mut reads = vec![0; old.values.len()];
    old.values.iter().flat_map(|value| &value.args).for_each(|arg| reads[arg.0 as usize] += 1);
    results.iter().for_each(|result| reads[result.0 as usize] += 2);
    let mut changed = false;
    for (value, reads) in old.values.iter().zip(reads) {
        let args = value.args.iter().map(|arg| names[arg.0 as usize]).collect();
        let id = draft.push(Value { args, ..value.clone() }, reads);
        let new = rules().find_map(|rule| (rule.apply)(&draft, id));
        let fits = |new: &New| type_of(&draft, new).is_some_and(|ty| shape::same(&ty, &value.ty));
        let name = match new.filter(fits) {
            Some(new) => {
                changed = true;
                draft.build(value, new)
            }
            None => id,
        };
        names.push(ValueId(name as u32));
    }
    if changed {
        results.iter_mut().for_each(|result| **result = names[result.0 as usize]);
        *old = body::cleaned(&Body { values: draft.values }, axes, results);
    }
    changed
}

impl Draft<'_> {
    fn push(&mut self, value: Value, users: usize) -> usize {
        self.values.push(value);
        self.users.push(users);
        self.values.len() - 1
    }

    fn build(&mut self, at: &Value, new: New) -> usize {
        let ty = type_of(self, &new).unwrap_or_else(|| at.ty.clone());
        let (op, args) = match new {
            New::Old(id) => {
                // It has more readers now than were counted.
                self.users[id] += 1;
                return id;
            }
            New::Number(number, _) => (Op::Const(number), vec![]),
            New::Make(op, args) => (op, args.into_iter().map(|arg| ValueId(self.build(at, arg) as u32)).collect()),
        };
        self.push(Value { op, args, ty, ..at.clone() }, 1)
    }
}

impl Values for Draft<'_> {
    fn axes(&self) -> &[Axis] {
        self.axes
    }
    fn op(&self, id: usize) -> &Op {
        &self.values[id].op
    }
    fn args(&self, id: usize) -> Vec<usize> {
        self.values[id].args.iter().map(|arg| arg.0 as usize).collect()
    }
    fn ty(&self, id: usize) -> &Type {
        &self.values[id].ty
    }
    fn has_one_user(&self, id: usize) -> bool {
        self.users[id] == 1
    }
}
