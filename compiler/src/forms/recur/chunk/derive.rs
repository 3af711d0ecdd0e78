//! From linear forms to the matrices of a chunk.
//!
//! The state reads are named (`p = a · S`); with them known the recurrence is linear with a decay, so that reads, outputs and the
//! state at the chunk's end are products with score matrices, and the named reads solve a triangular system. Decays enter as
//! products of the steps' own factors over spans of rows, never as quotients: what cannot overflow step by step cannot here.
//! Equations: Yang et al. 2024, arXiv:2406.06484 and arXiv:2412.06464; Dao and Gu 2024, arXiv:2405.21060.

use super::super::groups::stateful;
use super::batches::Batches;
use super::maker::Maker;
use super::terms::{Form, Term, Terms};
use crate::graph::shape::same_axes;
use braid_dsl::model::{AxisId, Binary, Elem, Op, Recur, Type, ValueId};
use std::collections::{BTreeMap, HashMap};

/// What a key of a state is multiplied with: a number, factors, and a named read, if any.
#[derive(Clone, PartialEq)]
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
    /// Other states that are added to it, each times a factor with a row axis.
    pub(super) coupled: BTreeMap<usize, ValueId>,
    /// Distinct keys and what is written under each.
    pub(super) keys: Vec<(Vec<ValueId>, Vec<Part>)>,
    /// Nothing is left of it behind the first row of a chunk, and all that is written there stays: a mini-batch begins. Nothing reads it before.
    pub(super) restarts: bool,
    /// It is made of what other states are after the update, and nothing reads it before.
    pub(super) replaced: bool,
    /// Values of the keys, once they are known.
    pub(super) written: Vec<ValueId>,
}

/// A read that updates make and that is known only row after row.
#[derive(Clone, PartialEq)]
pub(super) struct Named {
    /// Of which state.
    pub(super) state: usize,
    /// By which factors.
    pub(super) inner: Vec<ValueId>,
}

/// Axes that a derivation works with.
#[derive(Clone, Debug)]
pub struct Axes {
    /// Rows of a chunk.
    pub row: AxisId,
    /// Rows again, under sums.
    pub column: AxisId,
    /// Rows a third time: between two decays, and in the inverse of a system.
    pub third: AxisId,
    /// Systems are inverted before the state is known.
    pub inverts: bool,
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
    pub(super) stateful: Vec<bool>,
    after: HashMap<ValueId, usize>,
    /// One a state.
    pub memories: Vec<Memory>,
    /// The reads that updates make.
    pub(super) named: Vec<Named>,
    /// What conditions on positions say.
    pub(super) batches: &'a Batches,
    /// Values at the first row that are known.
    pub(super) begun: HashMap<ValueId, ValueId>,
    /// Reads that are known: whose, after the update, by which factors.
    pub(super) reads: HashMap<(usize, bool, Vec<ValueId>), ValueId>,
}

impl<'a> Derivation<'a> {
    /// Finds each state's decay, keys and reads.
    ///
    /// # Errors
    /// The term that has no place in the scheme, in words.
    pub fn new(maker: Maker<'a>, recur: &'a Recur, axes: &'a Axes, batches: &'a Batches) -> Result<Derivation<'a>, String> {
        let stateful = stateful(&recur.body, &batches.held);
        let is_own = |id: &ValueId| stateful[id.0 as usize] && !matches!(recur.body.values[id.0 as usize].op, Op::State(_));
        let after = recur.next.iter().enumerate().filter(|(_, id)| is_own(id)).map(|(n, id)| (*id, n)).collect();
        let memories = recur.states.iter().map(|_| Memory::default()).collect();
        let (named, begun, reads) = (vec![], HashMap::new(), HashMap::new());
        let mut made = Derivation { maker, recur, axes, stateful, after, memories, named, batches, begun, reads };
        made.begin();
        let mut updates = (0..recur.states.len()).map(|n| made.update(n)).collect::<Result<Vec<_>, _>>()?;
        made.find_replaced(&mut updates);
        let mut seen = vec![];
        for id in &recur.outputs {
            made.collect(*id, &mut seen);
        }
        for (n, form) in updates.iter().enumerate() {
            seen.extend(form.terms.iter().filter(|term| !made.decays(n, term)).cloned());
        }
        made.find_contracted(&updates, &seen)?;
        made.find_restarts(&updates, &seen);
        for (n, form) in updates.into_iter().enumerate() {
            made.fill(n, form)?;
        }
        made.check_couplings()?;
        Ok(made)
    }

    pub(super) fn terms(&mut self, after: bool) -> Terms<'_, 'a> {
        let stops = after;
        let after = if after { self.after.clone() } else { HashMap::new() };
        let firsts = &self.batches.firsts;
        Terms { maker: &mut self.maker, recur: self.recur, stateful: &self.stateful, after, stops, blind: false, firsts }
    }

    fn name(&self, state: usize) -> &str {
        &self.recur.states[state].name
    }

    fn update(&mut self, state: usize) -> Result<Form, String> {
        let next = self.recur.next[state];
        let found = self.terms(false).form(next);
        found.ok_or_else(|| format!("the update of `{}` is not linear in the states", self.name(state)))
    }

    /// Finds states that need no memory: those that nothing reads before the update, and that are made of what is known and of others
    /// after theirs.
    fn find_replaced(&mut self, updates: &mut [Form]) {
        let mut before = vec![];
        for id in &self.recur.outputs {
            self.collect(*id, &mut before);
        }
        before.retain(|term| !term.after);
        before.extend(updates.iter().flat_map(|form| form.terms.iter().cloned()));
        for (n, update) in updates.iter_mut().enumerate() {
            if before.iter().any(|term| term.state == n) {
                continue;
            }
            let next = self.recur.next[n];
            let own = self.after.remove(&next);
            let made = self.terms(true).form(next);
            let whole = |term: &Term| term.after && self.decays(n, &Term { after: false, ..term.clone() });
            if made.is_some_and(|form| form.terms.iter().all(whole)) {
                self.memories[n].replaced = true;
                *update = Form::default();
            } else if let Some(own) = own {
                self.after.insert(next, own);
            }
        }
    }

    /// Whether a term of a state's update is what is left of it, or of another one that is added to it element by element.
    fn decays(&self, state: usize, term: &Term) -> bool {
        let axes = |n: usize| &self.recur.states[n].axes;
        term.bound.is_empty() && !term.after && term.inner.is_empty() && same_axes(axes(state), axes(term.state))
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

    /// Which axes reads sum over: the same for all reads of a state, and of all states that are added to one another.
    fn find_contracted(&mut self, updates: &[Form], reads: &[Term]) -> Result<(), String> {
        let count = self.recur.states.len();
        let mut group: Vec<usize> = (0..count).collect();
        for (n, form) in updates.iter().enumerate() {
            for term in form.terms.iter().filter(|term| self.decays(n, term)) {
                let (from, to) = (group[term.state], group[n]);
                group.iter_mut().filter(|own| **own == from).for_each(|own| *own = to);
            }
        }
        for n in 0..count {
            let mut own = reads.iter().filter(|term| group[term.state] == group[n]);
            let Some(first) = own.next() else { continue };
            if own.any(|other| other.bound != first.bound) {
                return Err(format!("reads of `{}` sum over different axes", self.name(first.state)));
            }
            self.memories[n].contracted = first.bound.clone();
        }
        Ok(())
    }

    /// Finds states of which nothing is left behind the first row of a chunk, and which nothing sees before that.
    fn find_restarts(&mut self, updates: &[Form], reads: &[Term]) {
        let begins_anew = self.but_first();
        for (n, form) in updates.iter().enumerate() {
            let own: Vec<&Term> = form.terms.iter().filter(|term| term.state == n && self.decays(n, term)).collect();
            let [own] = own.as_slice() else { continue };
            let begins = self.maker.product(own.number, &own.outer) == begins_anew;
            let others = updates.iter().enumerate().filter(|(other, _)| *other != n).flat_map(|(_, form)| &form.terms);
            let sees = |term: &Term| term.state == n && !term.after && !term.outer.contains(&begins_anew);
            self.memories[n].restarts = begins && !others.chain(reads).any(sees);
        }
    }

    fn fill(&mut self, state: usize, form: Form) -> Result<(), String> {
        if self.memories[state].replaced {
            return Ok(());
        }
        let mut decay: Option<ValueId> = None;
        for term in form.terms {
            if !self.decays(state, &term) {
                let read = self.name_read(state, &term)?;
                self.write(state, term.number, term.outer, Some(read));
                continue;
            }
            let factor = self.maker.product(term.number, &term.outer);
            if term.state == state {
                decay = Some(self.maker.plus(decay, factor));
                continue;
            }
            let known = self.memories[state].coupled.get(&term.state).copied();
            let factor = self.maker.plus(known, factor);
            let factor = self.rowed(factor);
            self.memories[state].coupled.insert(term.state, factor);
        }
        for (number, factors) in form.free {
            self.write(state, number, factors, None);
        }
        let decay = decay.unwrap_or_else(|| self.maker.number(0.0));
        self.memories[state].decay = match self.maker.number_of(decay) {
            Some(1.0) => None,
            _ if self.memories[state].restarts => None,
            _ => Some(self.rowed(decay)),
        };
        Ok(())
    }

    /// The named read that a term of a state's update is.
    fn name_read(&mut self, state: usize, term: &Term) -> Result<usize, String> {
        let read = Named { state: term.state, inner: term.inner.clone() };
        let over = &self.memories[state].contracted;
        let inner = term.inner.iter().flat_map(|id| self.maker.axes_of(*id));
        let mut left = self.recur.states[term.state].axes.iter().chain(inner).filter(|axis| !term.bound.contains(axis));
        if term.state != state && left.any(|axis| over.contains(axis)) {
            let (of, by) = (self.name(term.state), self.name(state));
            return Err(format!("what is read of `{of}` varies along axes that reads of `{by}` sum over"));
        }
        Ok(self.named.iter().position(|known| *known == read).unwrap_or_else(|| {
            self.named.push(read);
            self.named.len() - 1
        }))
    }

    /// States that are added to one another in a circle have no decay of their own.
    fn check_couplings(&self) -> Result<(), String> {
        for n in 0..self.memories.len() {
            if self.memories[n].coupled.keys().any(|other| self.sources(*other).contains(&n)) {
                return Err(format!("`{}` is added to a state that is added to it", self.name(n)));
            }
        }
        Ok(())
    }

    /// Whether the update of a state reads another one.
    pub fn crosses(&self) -> bool {
        let read = |part: &Part| part.read.map(|read| self.named[read].state);
        let reads = |memory: &Memory, other| memory.keys.iter().flat_map(|(_, parts)| parts).filter_map(read).any(|n| n != other);
        self.memories.iter().enumerate().any(|(n, memory)| !memory.coupled.is_empty() || reads(memory, n))
    }

    /// The states that a state is made of: itself, those that are added to it, and so on.
    pub(super) fn sources(&self, state: usize) -> Vec<usize> {
        let (mut found, mut at) = (vec![state], 0);
        while let Some(own) = found.get(at) {
            let more: Vec<usize> = self.memories[*own].coupled.keys().copied().filter(|n| !found.contains(n)).collect();
            found.extend(more);
            at += 1;
        }
        found
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
