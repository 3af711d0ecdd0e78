//! Which states need which, and in what order they can be looked at.

use braid_dsl::model::{Body, Op, Recur, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Which values of a step a state is in, but for those that are known otherwise, and what is made of them.
pub(super) fn stateful(body: &Body, known: &[ValueId]) -> Vec<bool> {
    let mut found: Vec<bool> = vec![];
    for (at, value) in body.values.iter().enumerate() {
        let reads = matches!(value.op, Op::State(_)) || value.args.iter().any(|arg| found[arg.0 as usize]);
        found.push(reads && !known.contains(&ValueId(at as u32)));
    }
    found
}

/// For each state the states that its update needs: directly, or through their next values.
pub(super) fn needs(recur: &Recur) -> Vec<BTreeSet<usize>> {
    let carried: HashMap<ValueId, usize> = next_values(recur);
    let of = |state: usize| {
        let mut found = BTreeSet::new();
        let mut stack = vec![recur.next[state]];
        let mut seen = BTreeSet::new();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            match carried.get(&id) {
                Some(other) if *other != state => drop(found.insert(*other)),
                _ => {
                    let value = &recur.body.values[id.0 as usize];
                    if let Op::State(n) = value.op {
                        found.insert(n);
                    }
                    stack.extend(&value.args);
                }
            }
        }
        found
    };
    (0..recur.states.len()).map(of).collect()
}

/// Values that stand for a state after its update. A next value that does not see any state is plain input.
pub(super) fn next_values(recur: &Recur) -> HashMap<ValueId, usize> {
    let stateful = stateful(&recur.body, &[]);
    let is_plain = |id: &ValueId| matches!(recur.body.values[id.0 as usize].op, Op::State(_)) || !stateful[id.0 as usize];
    recur.next.iter().enumerate().filter(|(_, id)| !is_plain(id)).map(|(n, id)| (*id, n)).collect()
}

/// Strongly connected groups, each after those that it needs.
pub(super) fn ordered_groups(recur: &Recur, held: &BTreeMap<usize, usize>) -> Vec<Vec<usize>> {
    let mut reach = needs(recur);
    // Within a mini-batch they need nothing.
    held.keys().for_each(|n| reach[*n].clear());
    // States are few: closing by repetition is plain enough.
    for _ in 0..reach.len() {
        for n in 0..reach.len() {
            let more: BTreeSet<usize> = reach[n].iter().flat_map(|other| reach[*other].iter().copied()).collect();
            reach[n].extend(more);
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![];
    for n in 0..reach.len() {
        let mutual = |group: &&mut Vec<usize>| reach[n].contains(&group[0]) && reach[group[0]].contains(&n);
        match groups.iter_mut().find(mutual) {
            Some(group) => group.push(n),
            None => groups.push(vec![n]),
        }
    }
    // A group reaches strictly more than those below it.
    groups.sort_by_key(|group| (reach[group[0]].iter().filter(|n| !group.contains(n)).count(), group[0]));
    groups
}
