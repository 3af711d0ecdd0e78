//! What is left of a state, or has come from another one, after a span of rows.
//!
//! States that are added to one another without a circle are one linear system with a triangular matrix of decays. An entry of a
//! product of such matrices is a sum over the rows at which one state was added to the other: products of the decays of one before that
//! row and of the other behind it, so a product of two small triangular matrices.

use super::derive::{Derivation, Part};
use braid_dsl::model::{AxisId, Rows, ValueId};

/// What a state is made of besides what entered: a key, what is written under it, and in which states.
pub(super) struct Entry {
    /// Factors along the axes that reads sum over.
    pub(super) key: Vec<ValueId>,
    /// What is written.
    pub(super) parts: Vec<Part>,
    /// Into which states, under which of their keys.
    pub(super) into: Vec<(usize, usize)>,
}

impl Entry {
    /// Whether it is written into this state alone.
    pub(super) fn is_own(&self, state: usize) -> bool {
        self.into.iter().all(|(into, _)| *into == state)
    }
}

impl Derivation<'_> {
    /// All that a state is made of; what is written alike into several states that it is made of is one entry.
    pub(super) fn entries(&self, state: usize) -> Vec<Entry> {
        let mut found: Vec<Entry> = vec![];
        for from in self.sources(state) {
            for (at, (key, parts)) in self.memories[from].keys.iter().enumerate() {
                match found.iter_mut().find(|entry| entry.key == *key && entry.parts == *parts) {
                    Some(entry) => entry.into.push((from, at)),
                    None => found.push(Entry { key: key.clone(), parts: parts.clone(), into: vec![(from, at)] }),
                }
            }
        }
        found
    }

    /// The value under an entry's key, once it is settled.
    pub(super) fn written(&self, entry: &Entry) -> ValueId {
        let (state, key) = entry.into[0];
        self.memories[state].written[key]
    }

    /// The largest number of keys of a state, and of named reads that need one another.
    pub fn parts(&self) -> usize {
        let keys = (0..self.memories.len()).map(|state| self.entries(state).len());
        keys.chain(self.systems().iter().map(Vec::len)).max().unwrap_or(0)
    }

    /// Named reads in an order in which they can be solved for, those together that need one another.
    pub(super) fn systems(&self) -> Vec<Vec<usize>> {
        let needs = |read: usize| {
            let entries = self.entries(self.named[read].state);
            entries.into_iter().flat_map(|entry| entry.parts).filter_map(|part| part.read).collect::<Vec<_>>()
        };
        let needs: Vec<Vec<usize>> = (0..self.named.len()).map(needs).collect();
        let closed = |read: usize| {
            let (mut found, mut at) = (vec![read], 0);
            while let Some(own) = found.get(at) {
                let more: Vec<usize> = needs[*own].iter().copied().filter(|other| !found.contains(other)).collect();
                more.into_iter().for_each(|other| {
                    if !found.contains(&other) {
                        found.push(other)
                    }
                });
                at += 1;
            }
            found.sort_unstable();
            found
        };
        // A set that is closed and has no smaller one in it is a circle.
        let mut closed: Vec<Vec<usize>> = (0..self.named.len()).map(closed).collect();
        closed.sort_by_key(|set| (set.len(), set[0]));
        let mut systems: Vec<Vec<usize>> = vec![];
        for set in closed {
            let open: Vec<usize> = set.into_iter().filter(|read| !systems.iter().flatten().any(|known| known == read)).collect();
            if !open.is_empty() {
                systems.push(open);
            }
        }
        systems
    }

    /// For every row and column, how much of what was written under an entry's key at the column is in `state` at the row.
    pub(super) fn spans(&mut self, state: usize, entry: &Entry, strict: bool) -> ValueId {
        let mut total = None;
        for (from, _) in &entry.into {
            let span = self.span(state, *from, strict);
            total = Some(self.maker.plus(total, span));
        }
        total.unwrap_or_else(|| self.maker.number(0.0))
    }

    /// How much of what `from` held behind row `column` is in `state` behind row `row`, or, if `strict`, ahead of it.
    fn span(&mut self, state: usize, from: usize, strict: bool) -> ValueId {
        let (row, column, third) = (self.axes.row, self.axes.column, self.axes.third);
        let mut total = None;
        if state == from {
            return self.own(state, column, strict);
        }
        for (by, factor) in self.on_the_way(state, from) {
            let added = self.added(state, factor, strict);
            let before = self.span(by, from, true);
            let before = self.maker.rename(before, row, third);
            let part = self.maker.contract(added, before, &[third]);
            total = Some(self.maker.plus(total, part));
        }
        total.unwrap_or_else(|| self.maker.number(0.0))
    }

    /// How much of what `from` held as the chunk began is in `state` behind each row, or ahead of it; none: all.
    pub(super) fn since(&mut self, state: usize, from: usize, after: bool) -> Option<ValueId> {
        if state == from {
            return self.decay(state, if after { Rows::Upto } else { Rows::Before });
        }
        let (row, third) = (self.axes.row, self.axes.third);
        let mut total = None;
        for (by, factor) in self.on_the_way(state, from) {
            let added = self.added(state, factor, !after);
            let part = match self.since(by, from, false) {
                Some(before) => {
                    let before = self.maker.rename(before, row, third);
                    self.maker.contract(added, before, &[third])
                }
                None => self.maker.sum(added, &[third]),
            };
            total = Some(self.maker.plus(total, part));
        }
        total
    }

    /// The states that enter a chunk as part of a state.
    pub(super) fn entered_by(&self, state: usize) -> Vec<usize> {
        let mut all = self.sources(state);
        all.retain(|from| !self.memories[*from].restarts && (*from == state || !self.on_the_way(state, *from).is_empty()));
        all
    }

    /// States that are added to `state` and made of `from`, with their factors.
    fn on_the_way(&self, state: usize, from: usize) -> Vec<(usize, ValueId)> {
        let coupled = self.memories[state].coupled.iter().map(|(by, factor)| (*by, *factor));
        coupled.filter(|(by, _)| self.sources(*by).contains(&from)).collect()
    }

    /// How much of what is added to a state at row `third` is left at row `row`.
    fn added(&mut self, state: usize, factor: ValueId, strict: bool) -> ValueId {
        let left = self.own(state, self.axes.third, strict);
        let factor = self.maker.rename(factor, self.axes.row, self.axes.third);
        self.maker.mul(left, factor)
    }

    /// A state's own decay from one row to another; zero where the first is ahead.
    fn own(&mut self, state: usize, column: AxisId, strict: bool) -> ValueId {
        match self.decay(state, if strict { Rows::Inside(column) } else { Rows::Between(column) }) {
            Some(decay) => decay,
            None => {
                let one = self.maker.number(1.0);
                self.behind(one, column, !strict)
            }
        }
    }
}
