//! The way back: what was fed to a slot, and snapshots taken on the way.
//!
//! Most states forget. To go back with them is to restore the last snapshot before and to feed again what came between, in the same
//! calls: the same calls give the same bits.

use super::states::Snapshot;

/// How often to take snapshots, and how many to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Positions between two snapshots, at least; at least 1.
    pub every: usize,
    /// Most snapshots. When there are more, every second one goes, and `every` doubles.
    pub most: usize,
}

/// What one slot has seen since some position.
#[derive(Clone)]
pub(super) struct History {
    keep: Keep,
    /// Where it begins; `None`: a sequence that has seen nothing.
    start: Option<Snapshot>,
    /// What was fed since.
    tokens: Vec<i32>,
    /// The position after each call.
    ends: Vec<usize>,
    /// By rising position.
    snapshots: Vec<Snapshot>,
}

impl History {
    pub(super) fn new(keep: Keep, start: Option<Snapshot>) -> Self {
        Self { keep, start, tokens: vec![], ends: vec![], snapshots: vec![] }
    }

    /// Begins anew.
    pub(super) fn restart(&mut self, start: Option<Snapshot>) {
        *self = Self::new(self.keep, start);
    }

    pub(super) fn keep(&self) -> Keep {
        self.keep
    }

    /// Its first position.
    pub(super) fn begin(&self) -> usize {
        self.start.as_ref().map_or(0, Snapshot::position)
    }

    /// Notes a call; whether a snapshot is due.
    pub(super) fn fed(&mut self, tokens: &[i32]) -> bool {
        self.tokens.extend_from_slice(tokens);
        let end = self.begin() + self.tokens.len();
        self.ends.push(end);
        let last = self.snapshots.last().map_or(self.begin(), Snapshot::position);
        self.keep.most > 0 && end - last >= self.keep.every
    }

    pub(super) fn push(&mut self, snapshot: Snapshot) {
        self.snapshots.push(snapshot);
        if self.snapshots.len() > self.keep.most {
            let mut at = 0;
            self.snapshots.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.keep.every = self.keep.every.saturating_mul(2);
        }
    }

    /// The last snapshot that is not after `position`; `None`: start with nothing.
    pub(super) fn before(&self, position: usize) -> Option<&Snapshot> {
        self.snapshots.iter().rev().find(|snapshot| snapshot.position() <= position).or(self.start.as_ref())
    }

    /// The calls from one position, where a call ended, to another, the last of them cut short if need be.
    pub(super) fn calls(&self, from: usize, to: usize) -> Vec<&[i32]> {
        let (mut at, mut calls) = (from, Vec::new());
        for end in self.ends.iter().filter(|end| **end > from) {
            let end = (*end).min(to);
            if at < end {
                calls.push(&self.tokens[at - self.begin()..end - self.begin()]);
            }
            at = end;
        }
        calls
    }

    /// Forgets what came after a position.
    pub(super) fn cut(&mut self, position: usize) {
        self.tokens.truncate(position.saturating_sub(self.begin()));
        self.snapshots.retain(|snapshot| snapshot.position() <= position);
        let inside = self.ends.iter().take_while(|end| **end < position).count();
        self.ends.truncate(inside);
        if position > self.begin() {
            self.ends.push(position);
        }
    }
}
