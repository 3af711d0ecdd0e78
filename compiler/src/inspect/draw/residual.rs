//! Which parts of a layer hang between a row and the sum that it joins again: the branches of a residual stream.

use braid_dsl::model::{Binary, Model, Op, ScopeId};
use std::collections::{BTreeMap, BTreeSet};

/// What happens to the stream, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream goes through a part.
    Through(ScopeId),
    /// Parts read the stream and their result is added to it.
    Branch(Vec<ScopeId>),
}

/// The events of the parts directly inside a scope.
pub fn events(model: &Model, scope: ScopeId, parts: &[ScopeId]) -> Vec<Event> {
    let owner = owners(model, scope, parts);
    let mut events: Vec<(usize, Event)> = Vec::new();
    let mut placed = BTreeSet::new();
    // For each sum its operand that carries the stream.
    let mut stream: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, value) in model.values.iter().enumerate().filter(|(_, v)| v.scope == scope && v.op == Op::Binary(Binary::Add)) {
        let [a, b] = [0, 1].map(|n| value.args[n].0 as usize);
        let found = [(a, b), (b, a)].into_iter().find_map(|(kept, other)| {
            if model.values[kept].ty.axes.len() != value.ty.axes.len() {
                return None;
            }
            branch(model, &owner, &stream, kept, other).map(|parts| (kept, parts))
        });
        let Some((kept, parts)) = found else { continue };
        stream.insert(at, kept);
        let fresh: Vec<ScopeId> = parts.into_iter().filter(|p| placed.insert(*p)).collect();
        if !fresh.is_empty() {
            events.push((at, Event::Branch(fresh)));
        }
    }
    for part in parts.iter().filter(|p| !placed.contains(*p)) {
        let first = owner.iter().position(|o| *o == Some(*part)).unwrap_or(usize::MAX);
        events.push((first, Event::Through(*part)));
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// For each value the part of the scope that it lies in.
fn owners(model: &Model, scope: ScopeId, parts: &[ScopeId]) -> Vec<Option<ScopeId>> {
    let mut of_scope: BTreeMap<ScopeId, Option<ScopeId>> = BTreeMap::new();
    for at in 0..model.scopes.len() as u32 {
        let mut here = Some(ScopeId(at));
        let mut part = None;
        while let Some(id) = here.filter(|id| *id != scope) {
            part = parts.contains(&id).then_some(id).or(part);
            here = model.scopes[id.0 as usize].parent;
        }
        of_scope.insert(ScopeId(at), here.and(part));
    }
    model.values.iter().map(|v| of_scope[&v.scope]).collect()
}

/// The parts between the stream at `kept` (or at an earlier point of it) and `other`, in order of computation; `None` if `other`
/// does not come from it.
fn branch(
    model: &Model,
    owner: &[Option<ScopeId>],
    stream: &BTreeMap<usize, usize>,
    kept: usize,
    other: usize,
) -> Option<Vec<ScopeId>> {
    let mut points = BTreeSet::from([kept]);
    let mut at = kept;
    while let Some(earlier) = stream.get(&at) {
        points.insert(*earlier);
        at = *earlier;
    }
    let (mut seen, mut todo, mut reached) = (BTreeSet::new(), vec![other], false);
    while let Some(at) = todo.pop() {
        if points.contains(&at) {
            reached = true;
        } else if seen.insert(at) && at > *points.first().unwrap_or(&0) {
            todo.extend(model.values[at].args.iter().map(|a| a.0 as usize));
        }
    }
    let mut parts: Vec<ScopeId> = Vec::new();
    for part in seen.iter().filter_map(|at| owner[*at]) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    (reached && !parts.is_empty()).then_some(parts)
}
