//! What is known as a chunk begins, and states that are what others leave.

use super::derive::Derivation;
use braid_dsl::model::{Binary, Op, ValueId};

impl Derivation<'_> {
    /// Says what conditions on positions are in the rows of a mini-batch, and what states were as it began.
    pub(super) fn begin(&mut self) {
        let row = self.maker.op(Op::Index(self.axes.row), &[]);
        self.batches.counts.iter().for_each(|id| self.maker.preset(*id, row));
        for held in &self.batches.held {
            // At the first row, where the condition holds.
            let begun = self.recur.body.values[held.0 as usize].args[1];
            let begun = self.at_start(begun);
            self.maker.preset(*held, begun);
        }
    }

    /// A value at the first row of a chunk, where states are what they are before it.
    pub(super) fn at_start(&mut self, id: ValueId) -> ValueId {
        if let Some(known) = self.begun.get(&id) {
            return *known;
        }
        let made = self.made_at_start(id);
        self.begun.insert(id, made);
        made
    }

    fn made_at_start(&mut self, id: ValueId) -> ValueId {
        let value = self.recur.body.values[id.0 as usize].clone();
        if !self.stateful[id.0 as usize] {
            let all = self.maker.lift(id);
            return self.row_of(all, 0);
        }
        let args: Vec<ValueId> = value.args.iter().map(|arg| self.at_start(*arg)).collect();
        self.maker.applied(&value, &args)
    }

    /// One row of a value.
    pub(super) fn row_of(&mut self, x: ValueId, index: usize) -> ValueId {
        if !self.maker.carries(x, &[self.axes.row]) {
            return x;
        }
        self.maker.op(Op::Pick { axis: self.axes.row, index }, &[x])
    }

    /// A state as it enters the chunk.
    pub(super) fn old(&mut self, state: usize) -> ValueId {
        match self.batches.firsts.iter().find(|(_, of)| **of == state).map(|(id, _)| *id) {
            Some(first) => self.at_start(first),
            None => self.maker.op(Op::State(state), &[]),
        }
    }

    /// One at all rows but the first of a mini-batch.
    pub(super) fn but_first(&mut self) -> ValueId {
        let (row, first) = (self.maker.op(Op::Index(self.axes.row), &[]), self.maker.whole(0));
        let begins = self.maker.op(Op::Binary(Binary::Eq), &[row, first]);
        let [one, zero] = [1.0, 0.0].map(|number| self.maker.number(number));
        self.maker.op(Op::Select, &[begins, zero, one])
    }

    /// A state that is made anew of what is known and what others are after the update, as it leaves the chunk.
    pub(super) fn replaced(&mut self, state: usize) -> ValueId {
        let (next, last) = (self.recur.next[state], self.axes.rows - 1);
        let form = self.terms(true).form(next).unwrap_or_default();
        let mut total = None;
        for term in form.terms {
            let (by, left) = (self.maker.product(term.number, &term.outer), self.leaving(term.state));
            let by = self.row_of(by, last);
            let part = self.maker.mul(by, left);
            total = Some(self.maker.plus(total, part));
        }
        for (number, factors) in form.free {
            let part = self.maker.product(number, &factors);
            let part = self.row_of(part, last);
            total = Some(self.maker.plus(total, part));
        }
        total.unwrap_or_else(|| self.maker.number(0.0))
    }
}
