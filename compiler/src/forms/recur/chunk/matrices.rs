//! A chunk's matrices: what enters, scores of rows against the keys of rows before, named reads, outputs, and what leaves.

use super::derive::{Derivation, Named, Part};
use super::spans::Entry;
use braid_dsl::model::{AxisId, Binary, Body, Op, Rows, ValueId};

impl Derivation<'_> {
    /// The decay over a span of rows; none: 1.
    pub(super) fn decay(&mut self, state: usize, over: Rows) -> Option<ValueId> {
        let decay = self.memories[state].decay?;
        Some(self.maker.op(Op::Products { row: self.axes.row, over }, &[decay]))
    }

    /// What reading by `x` makes of the states that enter the chunk, row by row.
    fn entering(&mut self, state: usize, x: ValueId, after: bool) -> Option<ValueId> {
        let mut total = None;
        for from in self.entered_by(state) {
            let decay = self.since(state, from, after);
            let part = self.entered(from, x, decay);
            total = Some(self.maker.plus(total, part));
        }
        total
    }

    /// `sum x · S`, with what is left of it at each row.
    fn entered(&mut self, state: usize, x: ValueId, decay: Option<ValueId>) -> ValueId {
        let old = self.old(state);
        let over = self.memories[state].contracted.clone();
        match decay {
            Some(decay) if self.maker.carries(decay, &over) => {
                let x = self.maker.mul(x, decay);
                self.maker.contract(x, old, &over)
            }
            // Less is multiplied behind the sum than ahead of it.
            Some(decay) => {
                let sum = self.maker.contract(x, old, &over);
                self.maker.mul(decay, sum)
            }
            None => self.maker.contract(x, old, &over),
        }
    }

    /// How much of what row `column` wrote under a key the read of row `row` by `x` sees.
    fn scores(&mut self, state: usize, x: ValueId, entry: &Entry, after: bool) -> ValueId {
        let (row, column) = (self.axes.row, self.axes.column);
        let y = self.maker.product(1.0, &entry.key);
        let over = self.memories[state].contracted.clone();
        let own = self.memories[state].decay.filter(|decay| self.maker.carries(*decay, &over));
        if let (Some(decay), true) = (own, entry.is_own(state)) {
            let (x, y) = (self.rowed(x), self.rowed(y));
            return self.maker.op(Op::Scores { row, column, over, strict: !after }, &[x, y, decay]);
        }
        let y = self.maker.rename(y, row, column);
        if !entry.is_own(state) {
            let spans = self.spans(state, entry, !after);
            if self.maker.carries(spans, &over) {
                let x = self.maker.mul(x, spans);
                return self.maker.contract(x, y, &over);
            }
            let dots = self.maker.contract(x, y, &over);
            return self.maker.mul(dots, spans);
        }
        let dots = self.maker.contract(x, y, &over);
        match self.decay(state, if after { Rows::Between(column) } else { Rows::Inside(column) }) {
            None => self.masked(dots, after),
            Some(decay) => self.maker.mul(dots, decay),
        }
    }

    /// Zero where the column is ahead of the row.
    fn masked(&mut self, x: ValueId, after: bool) -> ValueId {
        self.behind(x, self.axes.column, after)
    }

    /// Zero where another count of rows is ahead of the row.
    pub(super) fn behind(&mut self, x: ValueId, column: AxisId, after: bool) -> ValueId {
        let (row, column) = (self.maker.op(Op::Index(self.axes.row), &[]), self.maker.op(Op::Index(column), &[]));
        let behind = self.maker.op(Op::Binary(if after { Binary::Le } else { Binary::Lt }), &[column, row]);
        let zero = self.maker.number(0.0);
        self.maker.op(Op::Select, &[behind, x, zero])
    }

    /// `sum[column] scores value`.
    fn seen(&mut self, scores: ValueId, value: ValueId) -> ValueId {
        let value = self.maker.rename(value, self.axes.row, self.axes.column);
        self.maker.contract(scores, value, &[self.axes.column])
    }

    /// What stands under a key beside a named read, or, without one, alone.
    fn coefficient(&mut self, parts: &[Part], read: Option<usize>) -> Option<ValueId> {
        parts.iter().filter(|part| part.read == read).fold(None, |sum, part| {
            let product = self.maker.product(part.number, &part.factors);
            Some(self.maker.plus(sum, product))
        })
    }

    /// Solves for all named reads and settles what is written under each key.
    pub fn settle(&mut self) {
        let mut reads: Vec<Option<ValueId>> = vec![None; self.named.len()];
        for group in self.systems() {
            let found = self.named_reads(&group, &reads);
            group.into_iter().zip(found).for_each(|(read, value)| reads[read] = Some(value));
        }
        for state in 0..self.memories.len() {
            for (_, parts) in self.memories[state].keys.clone() {
                let value = self.value(&parts, &reads).unwrap_or_else(|| self.maker.number(0.0));
                self.memories[state].written.push(value);
            }
        }
    }

    /// What is written under a key, as far as its reads are known.
    fn value(&mut self, parts: &[Part], reads: &[Option<ValueId>]) -> Option<ValueId> {
        let mut value = self.coefficient(parts, None);
        for (at, read) in reads.iter().enumerate() {
            if let (Some(read), Some(by)) = (read, self.coefficient(parts, Some(at))) {
                let part = self.maker.mul(by, *read);
                value = Some(self.maker.plus(value, part));
            }
        }
        value
    }

    /// `P = entering + scores · known + M P`, row after row, for reads that need one another.
    fn named_reads(&mut self, group: &[usize], reads: &[Option<ValueId>]) -> Vec<ValueId> {
        let (mut known, mut system) = (vec![], vec![]);
        for at in group {
            let Named { state, inner } = self.named[*at].clone();
            let entries = self.entries(state);
            let own = |entry: &Entry| entry.parts.iter().any(|part| part.read == Some(*at));
            let inverts = self.axes.inverts && group.len() == 1 && entries.iter().any(own);
            let x = self.maker.product(1.0, &inner);
            let mut right = if inverts { None } else { self.entering(state, x, false) };
            let mut line: Vec<Option<ValueId>> = vec![None; group.len()];
            for entry in &entries {
                let scores = self.scores(state, x, entry, false);
                if let Some(plain) = self.value(&entry.parts, reads) {
                    let part = self.seen(scores, plain);
                    right = Some(self.maker.plus(right, part));
                }
                for (other, sum) in group.iter().zip(&mut line) {
                    let Some(by) = self.coefficient(&entry.parts, Some(*other)) else { continue };
                    let by = self.maker.rename(by, self.axes.row, self.axes.column);
                    let part = self.maker.mul(scores, by);
                    *sum = Some(self.maker.plus(*sum, part));
                }
            }
            if inverts {
                return vec![self.inverted(state, x, line[0], right)];
            }
            let right = right.unwrap_or_else(|| self.maker.number(0.0));
            known.push(self.rowed(right));
            system.push(line);
        }
        self.solved(known, system)
    }

    /// `P = (I - M)⁻¹ x · S + (I - M)⁻¹ plain`: what waits for the state is one product with it.
    fn inverted(&mut self, state: usize, x: ValueId, matrix: Option<ValueId>, plain: Option<ValueId>) -> ValueId {
        let (row, column, third) = (self.axes.row, self.axes.column, self.axes.third);
        let (own, other) = (self.maker.op(Op::Index(row), &[]), self.maker.op(Op::Index(third), &[]));
        let meets = self.maker.op(Op::Binary(Binary::Eq), &[own, other]);
        let [one, zero] = [1.0, 0.0].map(|number| self.maker.number(number));
        let unit = self.maker.op(Op::Select, &[meets, one, zero]);
        let matrix = matrix.unwrap_or_else(|| self.maker.number(0.0));
        let inverse = self.maker.op(Op::Substitute { row, column, rank: None }, &[matrix, unit]);
        let over = self.memories[state].contracted.clone();
        let x = self.rowed(x);
        let old = self.old(state);
        let (x, weights) = match self.decay(state, Rows::Before) {
            Some(decay) if self.maker.carries(decay, &over) => (self.maker.mul(x, decay), inverse),
            Some(decay) => {
                let decay = self.maker.rename(decay, row, third);
                (x, self.maker.mul(inverse, decay))
            }
            None => (x, inverse),
        };
        let x = self.maker.rename(x, row, third);
        let x = self.maker.contract(weights, x, &[third]);
        let read = self.maker.contract(x, old, &over);
        let Some(plain) = plain else { return read };
        let plain = self.rowed(plain);
        let plain = self.maker.rename(plain, row, third);
        let own = self.maker.contract(inverse, plain, &[third]);
        self.maker.plus(Some(read), own)
    }

    fn solved(&mut self, known: Vec<ValueId>, system: Vec<Vec<Option<ValueId>>>) -> Vec<ValueId> {
        let (row, column) = (self.axes.row, self.axes.column);
        match known.len() {
            _ if system.iter().flatten().all(Option::is_none) => known,
            1 => {
                let matrix = system[0][0].unwrap_or_else(|| self.maker.number(0.0));
                vec![self.maker.op(Op::Substitute { row, column, rank: None }, &[matrix, known[0]])]
            }
            count => {
                let (own, summed) = self.axes.stacks(count);
                let right = self.stacked(&known, own);
                let none = self.maker.number(0.0);
                let empty = self.masked(none, false);
                let lines: Vec<ValueId> = system
                    .into_iter()
                    .map(|line| {
                        let line: Vec<ValueId> = line.into_iter().map(|x| x.unwrap_or(empty)).collect();
                        self.stacked(&line, summed)
                    })
                    .collect();
                let matrix = self.stacked(&lines, own);
                let all = self.maker.op(Op::Substitute { row, column, rank: Some((own, summed)) }, &[matrix, right]);
                (0..count).map(|index| self.maker.op(Op::Pick { axis: own, index }, &[all])).collect()
            }
        }
    }

    /// Values side by side along a new axis.
    fn stacked(&mut self, list: &[ValueId], axis: AxisId) -> ValueId {
        let unit = self.axes.unit;
        let zeros = self.zeros(unit);
        let parts: Vec<ValueId> = list.iter().map(|x| self.maker.op(Op::Binary(Binary::Add), &[*x, zeros])).collect();
        self.maker.op(Op::Concat(vec![unit; list.len()], axis), &parts)
    }

    /// What a read of a state gives, row by row.
    fn read(&mut self, state: usize, inner: &[ValueId], after: bool) -> ValueId {
        let name = (state, after, inner.to_vec());
        if let Some(known) = self.reads.get(&name) {
            return *known;
        }
        let x = self.maker.product(1.0, inner);
        let mut total = self.entering(state, x, after);
        for entry in self.entries(state) {
            let scores = self.scores(state, x, &entry, after);
            let written = self.written(&entry);
            let part = self.seen(scores, written);
            total = Some(self.maker.plus(total, part));
        }
        let total = total.unwrap_or_else(|| self.maker.number(0.0));
        self.reads.insert(name, total);
        total
    }

    /// An output for all rows.
    pub fn output(&mut self, id: ValueId) -> ValueId {
        let Some(form) = self.terms(true).form(id) else {
            let value = self.recur.body.values[id.0 as usize].clone();
            let args: Vec<ValueId> = value.args.iter().map(|arg| self.output(*arg)).collect();
            return self.maker.applied(&value, &args);
        };
        if form.terms.is_empty() {
            return self.maker.lift(id);
        }
        let mut total = None;
        for term in form.terms {
            let read = self.read(term.state, &term.inner, term.after);
            let by = self.maker.product(term.number, &term.outer);
            let part = self.maker.mul(by, read);
            total = Some(self.maker.plus(total, part));
        }
        for (number, factors) in form.free {
            let part = self.maker.product(number, &factors);
            total = Some(self.maker.plus(total, part));
        }
        total.unwrap_or_else(|| self.maker.number(0.0))
    }

    /// The state after the chunk.
    pub fn leaving(&mut self, state: usize) -> ValueId {
        let (row, column, last) = (self.axes.row, self.axes.column, self.axes.rows - 1);
        if self.memories[state].replaced {
            return self.replaced(state);
        }
        let mut total = None;
        for from in self.entered_by(state) {
            let old = self.old(from);
            let part = match self.since(state, from, true) {
                Some(decay) => {
                    let decay = self.maker.op(Op::Pick { axis: row, index: last }, &[decay]);
                    self.maker.mul(decay, old)
                }
                None => old,
            };
            total = Some(self.maker.plus(total, part));
        }
        let kept: Vec<(ValueId, ValueId)> = self.entries(state).iter().map(|entry| self.kept(state, entry)).collect();
        if self.axes.inverts {
            // Matrix units sum over rows alone.
            let add = |total, (key, value)| {
                let part = self.maker.contract(key, value, &[column]);
                Some(self.maker.plus(total, part))
            };
            let total = kept.into_iter().fold(total, add);
            return total.unwrap_or_else(|| self.maker.number(0.0));
        }
        let (keys, written): (Vec<ValueId>, Vec<ValueId>) = kept.into_iter().unzip();
        let (key, value, over) = match keys.len() {
            0 => return total.unwrap_or_else(|| self.maker.number(0.0)),
            1 => (keys[0], written[0], vec![column]),
            // One sum over rows and keys touches the state once.
            count => {
                let (own, _) = self.axes.stacks(count);
                (self.stacked(&keys, own), self.stacked(&written, own), vec![own, column])
            }
        };
        let part = self.maker.contract(key, value, &over);
        self.maker.plus(total, part)
    }

    /// A key and what was written under it as the state at the chunk's end holds them, over columns.
    fn kept(&mut self, state: usize, entry: &Entry) -> (ValueId, ValueId) {
        let (row, column) = (self.axes.row, self.axes.column);
        let y = self.maker.product(1.0, &entry.key);
        let (mut y, written) = (self.maker.rename(y, row, column), self.written(entry));
        let mut written = self.maker.rename(written, row, column);
        let contracted = self.memories[state].contracted.clone();
        let own = self.memories[state].decay.filter(|_| entry.is_own(state));
        let left = match own {
            None if entry.is_own(state) => None,
            Some(decay) if self.maker.carries(decay, &contracted) => {
                let after = self.decay(state, Rows::After);
                after.map(|decay| self.maker.rename(decay, row, column))
            }
            Some(_) => {
                let all = self.decay(state, Rows::Between(column));
                all.map(|all| self.last(all))
            }
            None => {
                let all = self.spans(state, entry, false);
                Some(self.last(all))
            }
        };
        match left {
            Some(left) if self.maker.carries(left, &contracted) => y = self.maker.mul(y, left),
            Some(left) => written = self.maker.mul(left, written),
            None => {}
        }
        // Every key is summed over the columns.
        (self.over_columns(y), written)
    }

    /// The last row.
    fn last(&mut self, x: ValueId) -> ValueId {
        self.maker.op(Op::Pick { axis: self.axes.row, index: self.axes.rows - 1 }, &[x])
    }

    fn over_columns(&mut self, x: ValueId) -> ValueId {
        if self.maker.carries(x, &[self.axes.column]) {
            return x;
        }
        let zeros = self.zeros(self.axes.column);
        self.maker.op(Op::Binary(Binary::Add), &[x, zeros])
    }

    /// Ends the derivation.
    pub fn finish(self) -> Body {
        self.maker.finish()
    }
}
