//! A chunk's matrices: what enters, scores of rows against the keys of rows before, named reads, outputs, and what leaves.

use super::derive::Derivation;
use braid_dsl::model::{AxisId, Binary, Body, Op, Rows, ValueId};

impl Derivation<'_> {
    /// The decay over a span of rows; none: 1.
    fn decay(&mut self, state: usize, over: Rows) -> Option<ValueId> {
        let decay = self.memories[state].decay?;
        Some(self.maker.op(Op::Products { row: self.axes.row, over }, &[decay]))
    }

    /// What reading by `x` makes of the state that enters the chunk, row by row.
    fn entering(&mut self, state: usize, x: ValueId, after: bool) -> ValueId {
        let decay = self.decay(state, if after { Rows::Upto } else { Rows::Before });
        let old = self.maker.op(Op::State(state), &[]);
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
    fn scores(&mut self, state: usize, x: ValueId, key: usize, after: bool) -> ValueId {
        let (row, column) = (self.axes.row, self.axes.column);
        let y = self.maker.product(1.0, &self.memories[state].keys[key].0.clone());
        let over = self.memories[state].contracted.clone();
        if let Some(decay) = self.memories[state].decay.filter(|decay| self.maker.carries(*decay, &over)) {
            let (x, y) = (self.rowed(x), self.rowed(y));
            return self.maker.op(Op::Scores { row, column, over, strict: !after }, &[x, y, decay]);
        }
        let y = self.maker.rename(y, row, column);
        let dots = self.maker.contract(x, y, &over);
        match self.decay(state, if after { Rows::Between(column) } else { Rows::Inside(column) }) {
            None => self.masked(dots, after),
            Some(decay) => self.maker.mul(dots, decay),
        }
    }

    /// Zero where the column is ahead of the row.
    fn masked(&mut self, x: ValueId, after: bool) -> ValueId {
        let (row, column) = (self.maker.op(Op::Index(self.axes.row), &[]), self.maker.op(Op::Index(self.axes.column), &[]));
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
    fn coefficient(&mut self, state: usize, key: usize, read: Option<usize>) -> Option<ValueId> {
        let parts = self.memories[state].keys[key].1.iter().filter(|part| part.read == read);
        let parts: Vec<(f64, Vec<ValueId>)> = parts.map(|part| (part.number, part.factors.clone())).collect();
        parts.into_iter().fold(None, |sum, (number, factors)| {
            let product = self.maker.product(number, &factors);
            Some(self.maker.plus(sum, product))
        })
    }

    /// Solves for the named reads of a state and settles what is written under each key.
    pub fn settle(&mut self, state: usize) {
        let reads = self.named_reads(state);
        for key in 0..self.memories[state].keys.len() {
            let mut value = self.coefficient(state, key, None);
            for (at, read) in reads.iter().enumerate() {
                if let Some(by) = self.coefficient(state, key, Some(at)) {
                    let part = self.maker.mul(by, *read);
                    value = Some(self.maker.plus(value, part));
                }
            }
            let value = value.unwrap_or_else(|| self.maker.number(0.0));
            self.memories[state].written.push(value);
        }
    }

    /// `P = entering + scores · plain + M P`, row after row.
    fn named_reads(&mut self, state: usize) -> Vec<ValueId> {
        let corrections = self.memories[state].corrections.clone();
        let keys = self.memories[state].keys.len();
        let count = corrections.len();
        let (mut known, mut system) = (vec![], vec![]);
        let inverts = count == 1 && self.axes.third.is_some();
        for inner in &corrections {
            let x = self.maker.product(1.0, inner);
            let mut right = if inverts { None } else { Some(self.entering(state, x, false)) };
            let mut line: Vec<Option<ValueId>> = vec![None; count];
            for key in 0..keys {
                let scores = self.scores(state, x, key, false);
                if let Some(plain) = self.coefficient(state, key, None) {
                    let part = self.seen(scores, plain);
                    right = Some(self.maker.plus(right, part));
                }
                for (at, sum) in line.iter_mut().enumerate() {
                    let Some(by) = self.coefficient(state, key, Some(at)) else { continue };
                    let by = self.maker.rename(by, self.axes.row, self.axes.column);
                    let part = self.maker.mul(scores, by);
                    *sum = Some(self.maker.plus(*sum, part));
                }
            }
            if let (true, Some(third)) = (inverts, self.axes.third) {
                return vec![self.inverted(state, (x, third), line[0], right)];
            }
            let right = right.unwrap_or_else(|| self.maker.number(0.0));
            known.push(self.rowed(right));
            system.push(line);
        }
        self.solved(known, system)
    }

    /// `P = (I - M)⁻¹ x · S + (I - M)⁻¹ plain`: what waits for the state is one product with it.
    fn inverted(
        &mut self,
        state: usize,
        (x, third): (ValueId, AxisId),
        matrix: Option<ValueId>,
        plain: Option<ValueId>,
    ) -> ValueId {
        let (row, column) = (self.axes.row, self.axes.column);
        let (own, other) = (self.maker.op(Op::Index(row), &[]), self.maker.op(Op::Index(third), &[]));
        let meets = self.maker.op(Op::Binary(Binary::Eq), &[own, other]);
        let [one, zero] = [1.0, 0.0].map(|number| self.maker.number(number));
        let unit = self.maker.op(Op::Select, &[meets, one, zero]);
        let matrix = matrix.unwrap_or_else(|| self.maker.number(0.0));
        let inverse = self.maker.op(Op::Substitute { row, column, rank: None }, &[matrix, unit]);
        let decay = self.decay(state, Rows::Before);
        let over = self.memories[state].contracted.clone();
        let old = self.maker.op(Op::State(state), &[]);
        let x = self.rowed(x);
        let (x, weights) = match decay {
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
            0 => vec![],
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
        for key in 0..self.memories[state].keys.len() {
            let scores = self.scores(state, x, key, after);
            let written = self.memories[state].written[key];
            let part = self.seen(scores, written);
            total = self.maker.plus(Some(total), part);
        }
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
        let old = self.maker.op(Op::State(state), &[]);
        let mut total = match self.decay(state, Rows::Upto) {
            Some(decay) => {
                let decay = self.maker.op(Op::Pick { axis: row, index: last }, &[decay]);
                self.maker.mul(decay, old)
            }
            None => old,
        };
        let kept: Vec<(ValueId, ValueId)> = (0..self.memories[state].keys.len()).map(|key| self.kept(state, key)).collect();
        let (keys, written): (Vec<ValueId>, Vec<ValueId>) = kept.into_iter().unzip();
        let (key, value, over) = match keys.len() {
            0 => return total,
            1 => (keys[0], written[0], vec![column]),
            // One sum over rows and keys touches the state once.
            count => {
                let (own, _) = self.axes.stacks(count);
                (self.stacked(&keys, own), self.stacked(&written, own), vec![own, column])
            }
        };
        let part = self.maker.contract(key, value, &over);
        total = self.maker.plus(Some(total), part);
        total
    }

    /// A key and what was written under it as the state at the chunk's end holds them, over columns.
    fn kept(&mut self, state: usize, key: usize) -> (ValueId, ValueId) {
        let (row, column, last) = (self.axes.row, self.axes.column, self.axes.rows - 1);
        let y = self.maker.product(1.0, &self.memories[state].keys[key].0.clone());
        let (mut y, written) = (self.maker.rename(y, row, column), self.memories[state].written[key]);
        let mut written = self.maker.rename(written, row, column);
        match self.memories[state].decay {
            None => {}
            Some(decay) if self.maker.carries(decay, &self.memories[state].contracted) => {
                if let Some(decay) = self.decay(state, Rows::After) {
                    let decay = self.maker.rename(decay, row, column);
                    y = self.maker.mul(y, decay);
                }
            }
            Some(_) => {
                if let Some(all) = self.decay(state, Rows::Between(column)) {
                    let decay = self.maker.op(Op::Pick { axis: row, index: last }, &[all]);
                    written = self.maker.mul(decay, written);
                }
            }
        }
        // Every key is summed over the columns.
        (self.over_columns(y), written)
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
