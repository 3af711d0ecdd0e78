//! Small states that others are made of become a recurrence of their own, so that the others see them as inputs.
//!
//! A running maximum that keeps exponentials from overflowing is such a state: with its values known for every row, what is left is
//! linear with decays of at most 1.

use super::{Class, Transition, classify};
use crate::graph::{Graph, Node, NodeId, body};
use braid_dsl::model::{Elem, Op, Recur, State, Type, Value, ValueId};
use std::collections::BTreeSet;

/// A state is small beside another of at least so many times its elements.
const SMALL: usize = 4;

/// Splits every recurrence of a graph where that helps.
pub fn split(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let nodes: Vec<NodeId> = graph.order().into_iter().filter(|node| matches!(graph.op(*node), Op::Recur(_))).collect();
    let mut changed = false;
    for node in nodes {
        let Some(class) = classify(&graph, node) else { continue };
        let Op::Recur(recur) = graph.op(node).clone() else { continue };
        let first = leading(&graph, &recur, &class);
        if !first.is_empty() {
            part(&mut graph, node, &recur, &first);
            changed = true;
        }
    }
    if changed { graph.compact() } else { graph }
}

/// Small states that larger ones are made of, with all that they are made of.
fn leading(graph: &Graph, recur: &Recur, class: &Class) -> BTreeSet<usize> {
    let elements = |n: &usize| recur.states[*n].axes.iter().filter_map(|a| graph.size(*a)).product::<usize>();
    let largest = (0..recur.states.len()).map(|n| elements(&n)).max().unwrap_or(0);
    let is_small = |n: &usize| elements(n) * SMALL <= largest;
    let mut found = BTreeSet::new();
    // What a mini-batch began with is what other states became in the one before.
    if class.groups.iter().any(|group| matches!(group.transition, Transition::Held(_))) {
        return found;
    }
    for group in class.groups.iter().rev() {
        let feeds = class.groups.iter().any(|other| other.fed_by.iter().any(|n| group.states.contains(n)));
        let needed = group.states.iter().any(|n| found.contains(n));
        if (feeds || needed) && group.states.iter().all(is_small) && group.fed_by.iter().all(is_small) {
            found.extend(group.states.iter().copied());
            found.extend(group.fed_by.iter().copied());
        }
    }
    found
}

/// Makes `node` two recurrences: `first`, whose states before and after every step are outputs, and the rest, which captures them.
fn part(graph: &mut Graph, node: NodeId, recur: &Recur, first: &BTreeSet<usize>) {
    let Node { span, scope, ty, .. } = graph.node(node).clone();
    let args = graph.args(node);
    let users = graph.users(node);
    let ahead: Vec<usize> = first.iter().copied().collect();
    let (leader, leader_args) = leader(graph, recur, &args, &ahead);
    let leader = graph.add(Node { op: Op::Recur(Box::new(leader)), ty: ty.clone(), span, scope }, &leader_args);
    let mut results = Vec::new();
    for (at, n) in ahead.iter().enumerate() {
        let axes = [vec![recur.seq], recur.states[*n].axes.clone()].concat();
        for output in [2 * at, 2 * at + 1] {
            let ty = Type { elem: Elem::Float, axes: axes.clone() };
            results.push(graph.add(Node { op: Op::Result(output), ty, span, scope }, &[leader]));
        }
    }
    let (rest, rest_args) = follower(graph, recur, &args, &ahead, &results);
    let rest = graph.add(Node { op: Op::Recur(Box::new(rest)), ty, span, scope }, &rest_args);
    users.into_iter().for_each(|user| graph.set_args(user, &[rest]));
}

fn leader(graph: &Graph, recur: &Recur, args: &[NodeId], ahead: &[usize]) -> (Recur, Vec<NodeId>) {
    let mut made = recur.clone();
    for value in &mut made.body.values {
        // States of the rest are not in what the leading states are made of; their values are pruned.
        if let Op::State(n) = value.op {
            value.op = Op::State(ahead.iter().position(|a| *a == n).unwrap_or(usize::MAX));
        }
    }
    made.states = picked(&recur.states, ahead);
    made.next = ahead.iter().map(|n| recur.next[*n]).collect();
    made.outputs = vec![];
    for (at, n) in ahead.iter().enumerate() {
        let ty = Type { elem: Elem::Float, axes: recur.states[*n].axes.clone() };
        made.body.values.insert(at, Value { op: Op::State(at), args: vec![], ty, ..recur.body.values[0].clone() });
    }
    let moved = |id: &mut ValueId| id.0 += ahead.len() as u32;
    made.body.values.iter_mut().skip(ahead.len()).for_each(|value| value.args.iter_mut().for_each(moved));
    made.next.iter_mut().for_each(moved);
    for at in 0..ahead.len() {
        made.outputs.extend([ValueId(at as u32), made.next[at]]);
    }
    trimmed(graph, made, args)
}

/// The rest: leading states and their next values are captures.
fn follower(graph: &Graph, recur: &Recur, args: &[NodeId], ahead: &[usize], results: &[NodeId]) -> (Recur, Vec<NodeId>) {
    let mut made = recur.clone();
    let behind: Vec<usize> = (0..recur.states.len()).filter(|n| !ahead.contains(n)).collect();
    let capture = |at: usize, after: usize| Op::Capture(args.len() + 2 * at + after);
    for value in &mut made.body.values {
        if let Op::State(n) = value.op {
            value.op = match ahead.iter().position(|a| *a == n) {
                Some(at) => capture(at, 0),
                None => Op::State(behind.iter().position(|b| *b == n).unwrap_or(usize::MAX)),
            };
        }
    }
    for (at, n) in ahead.iter().enumerate() {
        let value = &mut made.body.values[recur.next[*n].0 as usize];
        (value.op, value.args) = (capture(at, 1), vec![]);
    }
    made.states = picked(&recur.states, &behind);
    made.next = behind.iter().map(|n| recur.next[*n]).collect();
    trimmed(graph, made, &[args, results].concat())
}

fn picked(states: &[State], which: &[usize]) -> Vec<State> {
    which.iter().map(|n| states[*n].clone()).collect()
}

/// The recurrence with a clean body and only the captures that it uses.
fn trimmed(graph: &Graph, mut recur: Recur, args: &[NodeId]) -> (Recur, Vec<NodeId>) {
    let mut results: Vec<&mut ValueId> = recur.next.iter_mut().chain(recur.outputs.iter_mut()).collect();
    recur.body = body::cleaned(&recur.body, &graph.axes, &mut results);
    let used = body::captures(&mut recur.body);
    (recur, used.into_iter().map(|n| args[n]).collect())
}
