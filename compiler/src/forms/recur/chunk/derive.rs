//! From linear forms to the matrices of a chunk.
//!
//! The state reads are named (`p = a · S`); with them known the recurrence is linear with a decay, so that reads, outputs and the
//! state at the chunk's end are products with score matrices, and the named reads solve a triangular system. Decays enter as
//! products of the steps' own factors over spans of rows, never as quotients: what cannot overflow step by step cannot here.
//! Equations: Yang et al. 2024, arXiv:2406.06484 and arXiv:2412.06464; Dao and Gu 2024, arXiv:2405.21060.

use super::maker::Maker;
use super::terms::{Form, Term, Terms};
use braid_dsl::model::{AxisId, Binary, Elem, Op, Recur, Type, ValueId};
use std::collections::HashMap;

/// What a key of a state is multiplied with: a number, factors, and a named read, if any.
pub(super) struct Part {
    pub(super) number: f64,
    pub(super) factors: Vec<ValueId>,
    pub(super) read: Option<usize>,
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
    pub(super) keys: Vec<(Vec<ValueId>, Vec<Part>)>,
    /// Values of the keys, once they are known.
    pub(super) written: Vec<ValueId>,
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
    /// Rows a third time, where systems are inverted.
    pub third: Option<AxisId>,
    /// Rows of a chunk.
    pub rows: usize,
    /// One index; then for each rank from 2 the axis of the unknowns and the one for sums.
    pub unit: AxisId,
    /// See `unit`.
    pub ranks: Vec<(AxisId, AxisId)>,
}

impl Axes {
    /// The axis of so many unknowns or keys side by side, and the one that stands for it under sums.
    pub(super) fn stacks(&self, count: usize) -> (AxisId, AxisId) {
        self.ranks[count - 2]
    }
}

/// A derivation in work.
pub struct Derivation<'a> {
    pub(super) maker: Maker<'a>,
    pub(super) recur: &'a Recur,
    pub(super) axes: &'a Axes,
    stateful: Vec<bool>,
    after: HashMap<ValueId, usize>,
    /// One a state.
    pub memories: Vec<Memory>,
    /// Reads that are known: whose, after the update, by which factors.
    pub(super) reads: HashMap<(usize, bool, Vec<ValueId>), ValueId>,
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

    pub(super) fn terms(&mut self, after: bool) -> Terms<'_, 'a> {
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
            Some(term) => Err(format!(
                "the update of `{name}` reads `{}`: several states at once have no chunk form",
                self.name(term.state)
            )),
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
    pub(super) fn rowed(&mut self, x: ValueId) -> ValueId {
        if self.maker.carries(x, &[self.axes.row]) {
            return x;
        }
        let zeros = self.zeros(self.axes.row);
        self.maker.op(Op::Binary(Binary::Add), &[x, zeros])
    }

    pub(super) fn zeros(&mut self, axis: AxisId) -> ValueId {
        let index = self.maker.op(Op::Index(axis), &[]);
        let (index, zero) = (self.maker.op(Op::ToFloat, &[index]), self.maker.number(0.0));
        self.maker.op(Op::Binary(Binary::Mul), &[index, zero])
    }
}

/// How a chunk sees a capture: rows in the place of the sequence.
pub fn capture_type(ty: &Type, seq: AxisId, row: AxisId) -> Type {
    let axes = ty.axes.iter().map(|axis| if *axis == seq { row } else { *axis }).collect();
    Type { elem: if ty.elem == Elem::Bool { Elem::Bool } else { ty.elem }, axes }
}
