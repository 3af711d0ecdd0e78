//! From linear forms to the matrices of a chunk.
//!
//! The state reads are named (`p = a · S`); with them known the recurrence is linear with a decay, so that reads, outputs and the
//! state at the chunk's end are products with score matrices, and the named reads solve a triangular system. Decays enter as
//! products of the steps' own factors over spans of rows, never as quotients: what cannot overflow step by step cannot here.
//! Equations: Yang et al. 2024, arXiv:2406.06484 and arXiv:2412.06464; Dao and Gu 2024, arXiv:2405.21060.

use super::maker::Maker;
use super::terms::{Form, Term, Terms};
use braid_dsl::model::{AxisId, Binary, Elem, Op, Recur, Rows, Type, ValueId};
use std::collections::HashMap;

/// What a key of a state is multiplied with: a number, factors, and a named read, if any.
struct Part {
    number: f64,
    factors: Vec<ValueId>,
    read: Option<usize>,
}

/// One state as the derivation sees it.
#[derive(Default)]
pub struct Memory {
    /// Axes that its reads sum over.
    pub contracted: Vec<AxisId>,
    /// The factor of the old state, with a row axis; none: it is kept.
    pub decay: Option<ValueId>,
    /// The reads that the update makes: their factors.
    pub corrections: Vec<Vec<ValueId>>,
    /// Distinct keys and what is written under each.
    keys: Vec<(Vec<ValueId>, Vec<Part>)>,
    /// Values of the keys, once they are known.
    written: Vec<ValueId>,
}

impl Memory {
    /// The larger number of its keys and its named reads.
    pub fn parts(&self) -> usize {
        self.corrections.len().max(self.keys.len())
    }
}

/// Axes that a derivation works with.
#[derive(Clone, Debug)]
pub struct Axes {
    /// Rows of a chunk.
    pub row: AxisId,
    /// Rows again, under sums.
    pub column: AxisId,
    /// Rows of a chunk.
    pub rows: usize,
    /// One index; then for each rank from 2 the axis of the unknowns and the one for sums.
    pub unit: AxisId,
    /// See `unit`.
    pub ranks: Vec<(AxisId, AxisId)>,
}

impl Axes {
    /// The axis of so many unknowns or keys side by side, and the one that stands for it under sums.
    fn stacks(&self, count: usize) -> (AxisId, AxisId) {
        self.ranks[count - 2]
    }
}

/// A derivation in work.
pub struct Derivation<'a> {
    maker: Maker<'a>,
    recur: &'a Recur,
    axes: &'a Axes,
    stateful: Vec<bool>,
    after: HashMap<ValueId, usize>,
    /// One a state.
    pub memories: Vec<Memory>,
    reads: HashMap<(usize, bool, Vec<ValueId>), ValueId>,
}

impl<'a> Derivation<'a> {
    /// Finds each state's decay, keys and reads.
    ///
    /// # Errors
    /// The term that has no place in the scheme, in words.
    pub fn new(maker: Maker<'a>, recur: &'a Recur, axes: &'a Axes) -> Result<Derivation<'a>, String> {
        let mut stateful = vec![false; recur.body.values.len()];
        for (at, value) in recur.body.values.iter().enumerate() {
            stateful[at] = matches!(value.op, Op::State(_)) || value.args.iter().any(|arg| stateful[arg.0 as usize]);
        }
        let is_own = |id: &ValueId| stateful[id.0 as usize] && !matches!(recur.body.values[id.0 as usize].op, Op::State(_));
        let after = recur.next.iter().enumerate().filter(|(_, id)| is_own(id)).map(|(n, id)| (*id, n)).collect();
        let memories = recur.states.iter().map(|_| Memory::default()).collect();
        let mut made = Derivation { maker, recur, axes, stateful, after, memories, reads: HashMap::new() };
        let updates = (0..recur.states.len()).map(|n| made.update(n)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = vec![];
        for id in &recur.outputs {
            made.collect(*id, &mut seen);
        }
        for (n, form) in updates.into_iter().enumerate() {
            made.find_contracted(n, form.terms.iter().chain(&seen))?;
            made.fill(n, form)?;
        }
        Ok(made)
    }

    fn terms(&mut self, after: bool) -> Terms<'_, 'a> {
        let after = if after { self.after.clone() } else { HashMap::new() };
        Terms { maker: &mut self.maker, recur: self.recur, stateful: &self.stateful, after }
    }

    fn name(&self, state: usize) -> &str {
        &self.recur.states[state].name
    }

    fn update(&mut self, state: usize) -> Result<Form, String> {
        let next = self.recur.next[state];
        let name = self.name(state).to_string();
        let form = self.terms(false).form(next).ok_or_else(|| format!("the update of `{name}` is not linear in it"))?;
        match form.terms.iter().find(|term| term.state != state) {
            Some(term) => Err(format!("the update of `{name}` reads `{}`", self.name(term.state))),
            None => Ok(form),
        }
    }

    /// All reads that a value makes, also from within expressions that are not linear.
    fn collect(&mut self, id: ValueId, seen: &mut Vec<Term>) {
        if let Some(form) = self.terms(true).form(id) {
            seen.extend(form.terms);
            return;
        }
        for arg in self.recur.body.values[id.0 as usize].args.clone() {
            self.collect(arg, seen);
        }
    }

    fn find_contracted<'t>(&mut self, state: usize, terms: impl Iterator<Item = &'t Term>) -> Result<(), String> {
        let decay = |term: &&Term| term.bound.is_empty() && !term.after && term.inner.is_empty();
        let own: Vec<&Term> = terms.filter(|term| term.state == state).collect();
        let bound: Vec<&Vec<AxisId>> = own.iter().filter(|term| !decay(term)).map(|term| &term.bound).collect();
        let Some(first) = bound.first() else { return Ok(()) };
        if bound.iter().any(|other| other != first) {
            return Err(format!("reads of `{}` sum over different axes", self.name(state)));
        }
        self.memories[state].contracted = first.to_vec();
        Ok(())
    }

    fn fill(&mut self, state: usize, form: Form) -> Result<(), String> {
        let contracted = self.memories[state].contracted.clone();
        let mut decay: Option<ValueId> = None;
        for term in form.terms {
            if term.bound.is_empty() {
                let factor = self.maker.product(term.number, &term.outer);
                decay = Some(self.maker.plus(decay, factor));
                continue;
            }
            if term.bound != contracted {
                return Err(format!("reads of `{}` sum over different axes", self.name(state)));
            }
            let corrections = &mut self.memories[state].corrections;
            let at = corrections.iter().position(|known| *known == term.inner).unwrap_or_else(|| {
                corrections.push(term.inner.clone());
                corrections.len() - 1
            });
            self.write(state, term.number, term.outer, Some(at));
        }
        for (number, factors) in form.free {
            self.write(state, number, factors, None);
        }
        let decay = decay.unwrap_or_else(|| self.maker.number(0.0));
        self.memories[state].decay = match self.maker.number_of(decay) {
            Some(1.0) => None,
            _ => Some(self.rowed(decay)),
        };
        Ok(())
    }

    /// Adds a product to what is written, under the key that its factors along the contracted axes make.
    fn write(&mut self, state: usize, number: f64, factors: Vec<ValueId>, read: Option<usize>) {
        let contracted = &self.memories[state].contracted;
        let (mut key, factors): (Vec<_>, Vec<_>) = factors.into_iter().partition(|id| self.maker.carries(*id, contracted));
        key.sort();
        let keys = &mut self.memories[state].keys;
        let at = keys.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            keys.push((key, vec![]));
            keys.len() - 1
        });
        keys[at].1.push(Part { number, factors, read });
    }

    /// A value that varies along the rows, if only by name.
    fn rowed(&mut self, x: ValueId) -> ValueId {
        if self.maker.carries(x, &[self.axes.row]) {
            return x;
        }
        let zeros = self.zeros(self.axes.row);
        self.maker.op(Op::Binary(Binary::Add), &[x, zeros])
    }

    fn zeros(&mut self, axis: AxisId) -> ValueId {
        let index = self.maker.op(Op::Index(axis), &[]);
        let (index, zero) = (self.maker.op(Op::ToFloat, &[index]), self.maker.number(0.0));
        self.maker.op(Op::Binary(Binary::Mul), &[index, zero])
    }

    /// The decay over a span of rows; none: 1.
    fn decay(&mut self, state: usize, over: Rows) -> Option<ValueId> {
        let decay = self.memories[state].decay?;
        Some(self.maker.op(Op::Products { row: self.axes.row, over }, &[decay]))
    }

    /// What reading by `x` makes of the state that enters the chunk, row by row.
    fn entering(&mut self, state: usize, x: ValueId, after: bool) -> ValueId {
        let decay = self.decay(state, if after { Rows::Upto } else { Rows::Before });
        let x = decay.map_or(x, |decay| self.maker.mul(x, decay));
        let old = self.maker.op(Op::State(state), &[]);
        let over = self.memories[state].contracted.clone();
        self.maker.contract(x, old, &over)
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

    /// The sum of a key's parts that need no read.
    fn plain(&mut self, state: usize, key: usize) -> Option<ValueId> {
        let parts: Vec<(f64, Vec<ValueId>)> = self.memories[state].keys[key]
            .1
            .iter()
            .filter(|part| part.read.is_none())
            .map(|part| (part.number, part.factors.clone()))
            .collect();
        parts.into_iter().fold(None, |sum, (number, factors)| {
            let product = self.maker.product(number, &factors);
            Some(self.maker.plus(sum, product))
        })
    }

    /// What a named read is multiplied with under a key.
    fn coefficient(&mut self, state: usize, key: usize, read: usize) -> Option<ValueId> {
        let parts: Vec<(f64, Vec<ValueId>)> = self.memories[state].keys[key]
            .1
            .iter()
            .filter(|part| part.read == Some(read))
            .map(|part| (part.number, part.factors.clone()))
            .collect();
        parts.into_iter().fold(None, |sum, (number, factors)| {
            let product = self.maker.product(number, &factors);
            Some(self.maker.plus(sum, product))
        })
    }

    /// Solves for the named reads of a state and settles what is written under each key.
    pub fn settle(&mut self, state: usize) {
        let reads = self.named_reads(state);
        for key in 0..self.memories[state].keys.len() {
            let mut value = self.plain(state, key);
            for (at, read) in reads.iter().enumerate() {
                if let Some(by) = self.coefficient(state, key, at) {
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
        for inner in &corrections {
            let x = self.maker.product(1.0, inner);
            let mut right = self.entering(state, x, false);
            let mut line: Vec<Option<ValueId>> = vec![None; count];
            for key in 0..keys {
                let scores = self.scores(state, x, key, false);
                if let Some(plain) = self.plain(state, key) {
                    let part = self.seen(scores, plain);
                    right = self.maker.plus(Some(right), part);
                }
                for (at, sum) in line.iter_mut().enumerate() {
                    let Some(by) = self.coefficient(state, key, at) else { continue };
                    let by = self.maker.rename(by, self.axes.row, self.axes.column);
                    let part = self.maker.mul(scores, by);
                    *sum = Some(self.maker.plus(*sum, part));
                }
            }
            known.push(self.rowed(right));
            system.push(line);
        }
        self.solved(known, system)
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
        let keys: Vec<ValueId> = (0..self.memories[state].keys.len()).map(|key| self.kept(state, key)).collect();
        let written: Vec<ValueId> =
            self.memories[state].written.clone().into_iter().map(|x| self.maker.rename(x, row, column)).collect();
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

    /// A key as the state at the chunk's end holds it, over columns.
    fn kept(&mut self, state: usize, key: usize) -> ValueId {
        let (row, column, last) = (self.axes.row, self.axes.column, self.axes.rows - 1);
        let y = self.maker.product(1.0, &self.memories[state].keys[key].0.clone());
        let decay = match self.memories[state].decay {
            None => None,
            Some(decay) if self.maker.carries(decay, &self.memories[state].contracted) => self.decay(state, Rows::After),
            Some(_) => {
                let all = self.decay(state, Rows::Between(column));
                all.map(|all| self.maker.op(Op::Pick { axis: row, index: last }, &[all]))
            }
        };
        let y = match decay {
            Some(decay) => {
                let decay = self.maker.rename(decay, row, column);
                let y = self.maker.rename(y, row, column);
                self.maker.mul(y, decay)
            }
            None => self.maker.rename(y, row, column),
        };
        // Every key is summed over the columns.
        self.over_columns(y)
    }

    fn over_columns(&mut self, x: ValueId) -> ValueId {
        if self.maker.carries(x, &[self.axes.column]) {
            return x;
        }
        let zeros = self.zeros(self.axes.column);
        self.maker.op(Op::Binary(Binary::Add), &[x, zeros])
    }

    /// Ends the derivation.
    pub fn finish(self) -> (braid_dsl::model::Body, Vec<Memory>) {
        (self.maker.finish(), self.memories)
    }
}

/// How a chunk sees a capture: rows in the place of the sequence.
pub fn capture_type(ty: &Type, seq: AxisId, row: AxisId) -> Type {
    let axes = ty.axes.iter().map(|axis| if *axis == seq { row } else { *axis }).collect();
    Type { elem: if ty.elem == Elem::Bool { Elem::Bool } else { ty.elem }, axes }
}
