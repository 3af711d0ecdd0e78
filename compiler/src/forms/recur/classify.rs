//! From linear forms to classes.

use super::groups::{needs, next_values, ordered_groups};
use super::linear::{Form, Linear, Obstacle, Source, Term, source_state};
use super::poly::{AtomId, Atoms, Number, Product, Sum, by_number, divides, rank};
use super::{Class, Corrections, Group, Read, Reads, Transition};
use braid_dsl::model::{Axis, AxisId, Binary, Op, Param, Recur, Unary, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The longest text of what is added to a state.
const LONGEST: usize = 600;

/// What a recurrence is made of, for all questions of this file.
struct Analysis<'a> {
    axes: &'a [Axis],
    params: &'a [Param],
    recur: &'a Recur,
    captures: &'a [(String, bool)],
    /// Running maxima that are captured, before and after a step.
    maxima: Vec<(String, String)>,
    /// States that are renewed only where a mini-batch of so many rows begins.
    held: BTreeMap<usize, usize>,
    atoms: Atoms,
    /// All reads by outputs.
    reads: Vec<Term>,
    done: Vec<Group>,
}

/// Classifies all states.
pub fn classify(
    axes: &[Axis],
    params: &[Param],
    recur: &Recur,
    captures: &[(String, bool)],
    (maxima, held): (Vec<(String, String)>, BTreeMap<usize, usize>),
) -> Class {
    let (atoms, reads, done) = (Atoms::default(), vec![], vec![]);
    let mut analysis = Analysis { axes, params, recur, captures, maxima, held, atoms, reads, done };
    analysis.reads = analysis.output_reads();
    for states in ordered_groups(recur, &analysis.held) {
        let group = analysis.group(states);
        analysis.done.push(group);
    }
    Class { groups: analysis.done }
}

impl<'a> Analysis<'a> {
    fn linear(&mut self, symbols: BTreeSet<usize>, after: HashMap<ValueId, usize>) -> Linear<'_> {
        let (axes, params, recur, captures) = (self.axes, self.params, self.recur, self.captures);
        Linear { axes, params, recur, captures, symbols, after, atoms: &mut self.atoms, memo: HashMap::new() }
    }

    /// The reads that outputs make, also from within expressions that are not linear.
    fn output_reads(&mut self) -> Vec<Term> {
        let recur = self.recur;
        let mut linear = self.linear((0..recur.states.len()).collect(), next_values(recur));
        let mut reads = vec![];
        let (mut stack, mut seen) = (recur.outputs.clone(), BTreeSet::new());
        while let Some(id) = stack.pop() {
            match linear.form(id) {
                Ok(form) => reads.extend(form.terms.into_keys()),
                Err(_) if seen.insert(id) => stack.extend(&recur.body.values[id.0 as usize].args),
                Err(_) => {}
            }
        }
        reads
    }

    /// The forms of the next values of a group, in terms of its own states.
    fn updates(&mut self, states: &[usize]) -> Result<Vec<Form>, Obstacle> {
        let own: BTreeSet<usize> = states.iter().copied().collect();
        let after = next_values(self.recur).into_iter().filter(|(_, n)| !own.contains(n)).collect();
        let next = self.recur.next.clone();
        let mut linear = self.linear(own, after);
        states.iter().map(|n| linear.form(next[*n])).collect()
    }

    fn group(&mut self, states: Vec<usize>) -> Group {
        let mut group = self.blank(states);
        if let Some(rows) = self.held.get(&group.states[0]) {
            group.transition = Transition::Held(*rows);
            group.fed_by.clear();
            return group;
        }
        match self.updates(&group.states) {
            Ok(forms) => self.fill(&mut group, forms),
            Err(obstacle) => {
                let running = group.states.len() == 1 && self.is_running_max(group.states[0]);
                group.transition = if running { Transition::RunningMax } else { Transition::NonLinear(obstacle) };
            }
        }
        group
    }

    fn blank(&self, states: Vec<usize>) -> Group {
        let needed = needs(self.recur);
        let fed: BTreeSet<usize> = states.iter().flat_map(|n| needed[*n].iter().copied()).collect();
        let of = |source: fn(usize) -> Source| self.reads.iter().any(|read| states.iter().any(|n| read.source == source(*n)));
        Group {
            reads: Reads { before: of(Source::Before), after: of(Source::After) },
            fed_by: fed.into_iter().filter(|n| !states.contains(n)).collect(),
            states,
            transition: Transition::Replace,
            corrections: None,
            invariant: false,
            convolution: false,
            stabilised_by: None,
            equations: vec![],
        }
    }

    fn fill(&mut self, group: &mut Group, mut forms: Vec<Form>) {
        group.stabilised_by = self.stabiliser(group, &mut forms);
        let coefficients = |form: &Form| -> Vec<Product> { form.terms.keys().map(|t| t.inner.times(&t.outer)).collect() };
        let all: Vec<Product> = forms.iter().flat_map(coefficients).collect();
        group.invariant = all.iter().all(|product| !self.atoms.timed(product));
        group.convolution =
            group.invariant && forms.iter().all(|form| self.is_linear_in_input(&form.free)) && self.reads_are_fixed(group);
        group.equations = group.states.iter().zip(&forms).map(|(n, form)| self.equation(*n, form)).collect();
        group.corrections = forms.iter().find_map(|form| self.corrections(form));
        group.transition = match forms.as_slice() {
            [form] => self.transition(group.states[0], form),
            [a, b] if self.is_complex(&group.states, a, b) => Transition::Complex,
            _ => Transition::Coupled,
        };
    }

    fn is_linear_in_input(&self, free: &Sum) -> bool {
        let plain = |product: &Product| {
            let timed: Vec<i32> = product.powers.iter().filter(|(id, _)| self.atoms.get(**id).timed).map(|(_, p)| *p).collect();
            let inner = Product { exponent: product.exponent.clone(), ..Product::default() };
            !self.atoms.timed(&inner) && (timed.is_empty() || timed == [1])
        };
        free.0.keys().all(plain)
    }

    fn reads_are_fixed(&self, group: &Group) -> bool {
        let own = self.reads.iter().filter(|read| group.states.contains(&source_state(read.source)));
        own.into_iter().all(|read| !self.atoms.timed(&read.inner.times(&read.outer)))
    }

    /// The coefficient of the state itself, element by element.
    fn decay(&self, form: &Form, state: usize) -> Sum {
        let mut sum = Sum::default();
        let own = |term: &&Term| term.bound.is_empty() && term.moved.is_empty() && source_state(term.source) == state;
        form.terms.iter().filter(|(term, _)| own(term)).for_each(|(term, n)| sum.push(term.outer.clone(), n.0));
        sum
    }

    fn transition(&self, state: usize, form: &Form) -> Transition {
        let moved: BTreeSet<AxisId> = form.terms.keys().flat_map(|term| term.moved.keys().copied()).collect();
        if !moved.is_empty() {
            return Transition::Dense(moved.into_iter().collect());
        }
        let decay = self.decay(form, state);
        match decay.as_number() {
            Some(0.0) if form.terms.is_empty() => Transition::Replace,
            Some(1.0) => Transition::Keep,
            Some(_) => Transition::Scalar,
            None => self.decayed_axes(state, form, &self.atoms.sum_axes(&decay)),
        }
    }

    /// Which class a decay over these axes is, by what the reads sum over: `contracted` axes, `batch` axes that every read's
    /// factors carry too, and the `free` rest.
    fn decayed_axes(&self, state: usize, form: &Form, decay: &BTreeSet<AxisId>) -> Transition {
        let mut reads: Vec<&Term> = self.reads.iter().filter(|read| source_state(read.source) == state).collect();
        if reads.iter().all(|read| read.bound.is_empty()) {
            reads.extend(form.terms.keys());
        }
        reads.retain(|read| !read.bound.is_empty());
        let contracted: BTreeSet<AxisId> = reads.iter().flat_map(|read| read.bound.iter().copied()).collect();
        let own = &self.recur.states[state].axes;
        let carried = |axis: &AxisId| !reads.is_empty() && reads.iter().all(|read| self.atoms.axes(&read.inner).contains(axis));
        let free: Vec<AxisId> = own.iter().copied().filter(|axis| !contracted.contains(axis) && !carried(axis)).collect();
        let along: Vec<AxisId> = own.iter().copied().filter(|axis| decay.contains(axis) && contracted.contains(axis)).collect();
        let over: Vec<AxisId> = free.iter().copied().filter(|axis| decay.contains(axis)).collect();
        let all_free = !free.is_empty() && over.len() == free.len();
        let all = contracted.len() + free.len();
        match () {
            _ if all > 0 && along.len() == contracted.len() && over.len() == free.len() && (all_free || free.is_empty()) => {
                // Summing over the only decayed axis of a vector is still one decay an element.
                Transition::ElementWise
            }
            _ if !along.is_empty() => Transition::Diagonal(along),
            _ if all_free => Transition::Diagonal(over),
            _ => Transition::Scalar,
        }
    }

    fn corrections(&self, form: &Form) -> Option<Corrections> {
        let reads: Vec<(&Term, f64)> = form
            .terms
            .iter()
            .filter(|(term, _)| !term.bound.is_empty() && term.moved.is_empty())
            .map(|(t, n)| (t, n.0))
            .collect();
        let state = source_state(reads.first()?.0.source);
        let axes: BTreeSet<AxisId> = reads.iter().flat_map(|(term, _)| term.bound.iter().copied()).collect();
        let sets: BTreeSet<(Source, BTreeSet<AxisId>)> =
            reads.iter().map(|(term, _)| (term.source, term.bound.clone())).collect();
        let of = |set: &(Source, BTreeSet<AxisId>)| {
            rank(reads.iter().filter(|(t, _)| (t.source, &t.bound) == (set.0, &set.1)).map(|(t, n)| (&t.outer, &t.inner, *n)))
        };
        let read = self.read(&self.decay(form, state), &reads);
        Some(Corrections { rank: sets.iter().map(of).sum(), axes: axes.into_iter().collect(), read })
    }

    /// Whether corrections read the state that the decay leaves: then the decay divides every one of them.
    fn read(&self, decay: &Sum, reads: &[(&Term, f64)]) -> Read {
        let Some((decay, _)) = decay.single() else {
            return if decay.as_number().is_some() { Read::Plain } else { Read::Undecayed };
        };
        if decay.is_one() {
            return Read::Plain;
        }
        let decayed = |(term, _): &(&Term, f64)| {
            let bound: Vec<AxisId> = term.bound.iter().copied().collect();
            let (with, without) = self.atoms.parted(decay, &bound);
            divides(&with, &term.inner) && divides(&without, &term.outer)
        };
        if reads.iter().all(decayed) { Read::Decayed } else { Read::Undecayed }
    }

    fn is_complex(&self, states: &[usize], a: &Form, b: &Form) -> bool {
        let of = |form: &Form, n: usize| self.decay(form, states[n]);
        let plain = |form: &Form| form.terms.keys().all(|term| term.bound.is_empty() && term.moved.is_empty());
        plain(a) && plain(b) && of(a, 0) == of(b, 1) && of(a, 1) == of(b, 0).scaled(-1.0) && of(a, 1) != Sum::default()
    }

    /// The running maximum `m` with `exp(m - m')` in every coefficient and `exp(-m')` in every other term; both are taken out.
    fn stabiliser(&mut self, group: &Group, forms: &mut [Form]) -> Option<String> {
        let running = self.done.iter().filter(|done| done.transition == Transition::RunningMax);
        let own: Vec<usize> = running.map(|done| done.states[0]).filter(|n| group.fed_by.contains(n)).collect();
        let mut linear = self.linear(BTreeSet::new(), HashMap::new());
        let mut candidates: Vec<(String, Sum, Sum)> = vec![];
        for n in own {
            let (before, after) = (linear.form_of_source(Source::Before(n)), linear.form_of_source(Source::After(n)));
            candidates.push((linear.source_text(Source::Before(n)), before, after));
        }
        for (before, after) in &self.maxima {
            let found = [before, after].map(|text| self.atoms.named(text).map(Sum::atom));
            if let [Some(old), Some(new)] = found {
                candidates.push((before.clone(), old, new));
            }
        }
        candidates.into_iter().find_map(|(name, before, after)| {
            let stripped: Option<Vec<Form>> = forms.iter().map(|form| self.stripped(form, &before, &after)).collect();
            forms.clone_from_slice(&stripped?);
            Some(name)
        })
    }

    fn stripped(&self, form: &Form, before: &Sum, after: &Sum) -> Option<Form> {
        let factor = |sum: Sum| Product { exponent: sum, ..Product::default() };
        let seen: Vec<AtomId> =
            [before, after].iter().flat_map(|sum| sum.0.keys().flat_map(|p| p.powers.keys().copied())).collect();
        let rid = |product: &Product| seen.iter().all(|id| !self.atoms.contains(product, *id));
        // Multiplying by exp(m' - m) and exp(m') must leave nothing of the maximum.
        let (state, rest) = (factor(after.plus(&before.scaled(-1.0))), factor(after.clone()));
        let mut found = Form::default();
        for (term, number) in &form.terms {
            let whole = term.inner.times(&term.outer).times(&state);
            if !rid(&whole) {
                return None;
            }
            let bound: Vec<AxisId> = term.bound.iter().copied().collect();
            let (inner, outer) = if bound.is_empty() { (Product::default(), whole) } else { self.atoms.parted(&whole, &bound) };
            found.terms.insert(Term { inner, outer, ..term.clone() }, Number(number.0));
        }
        for (product, number) in &form.free.0 {
            let whole = product.times(&rest);
            if !rid(&whole) {
                return None;
            }
            found.free.push(whole, number.0);
        }
        Some(found)
    }

    /// Whether the update is `max(m + a, b)` with `a` and `b` free of the state.
    fn is_running_max(&mut self, state: usize) -> bool {
        let next = self.recur.next[state];
        let after = next_values(self.recur).into_iter().filter(|(_, n)| *n != state).collect();
        let recur = self.recur;
        let mut linear = self.linear(BTreeSet::from([state]), after);
        tropical(recur, &mut linear, next, false)
    }

    fn equation(&self, state: usize, form: &Form) -> String {
        let recur = self.recur;
        let source = |source: Source| match source {
            Source::Before(n) => recur.states[n].name.clone(),
            Source::After(n) => format!("{}'", recur.states[n].name),
        };
        let term = |(term, number): (&Term, &Number)| {
            let names: Vec<&str> = term.bound.iter().map(|axis| self.axes[axis.0 as usize].name.as_str()).collect();
            let spaced =
                |product: &Product| if product.is_one() { String::new() } else { self.atoms.product_text(product) + " " };
            let read = match names.is_empty() {
                true => format!("{}{}", spaced(&term.inner), source(term.source)),
                false => format!("(sum[{}] {}{})", names.join(", "), spaced(&term.inner), source(term.source)),
            };
            let sign = if number.0 == 1.0 {
                String::new()
            } else if number.0 == -1.0 {
                "-".into()
            } else {
                format!("{} ", number.0)
            };
            format!("{sign}{}{read}", spaced(&term.outer))
        };
        // What decays, then what is read.
        let placed = |t: (&Term, &Number)| (!t.0.bound.is_empty(), t.1.0 < 0.0, term(t));
        let mut terms: Vec<(bool, bool, String)> = form.terms.iter().map(placed).collect();
        terms.sort_by_cached_key(|(bound, minus, text)| (*bound, *minus, by_number(text)));
        let mut terms: Vec<String> = terms.into_iter().map(|(.., text)| text).collect();
        if !form.free.0.is_empty() {
            let text = self.atoms.text(&form.free);
            terms.push(if text.len() > LONGEST { "(what is known, too long to print)".into() } else { text });
        }
        let right = if terms.is_empty() { "0".to_string() } else { terms.join(" + ") };
        format!("{}' = {right}", recur.states[state].name)
    }
}

/// A value of the semiring of maxima (of minima where `minimum`): the state plus something free, or something free.
fn tropical(recur: &Recur, linear: &mut Linear, id: ValueId, minimum: bool) -> bool {
    if let Ok(form) = linear.form(id) {
        let expected = if minimum { -1.0 } else { 1.0 };
        return form.terms.iter().all(|(term, n)| term.bound.is_empty() && term.outer.is_one() && n.0 == expected);
    }
    let value = &recur.body.values[id.0 as usize];
    let is_free = |linear: &mut Linear, id| linear.form(id).is_ok_and(|form| form.terms.is_empty());
    match (&value.op, value.args.as_slice()) {
        (Op::Binary(Binary::Max), [a, b]) if !minimum => tropical(recur, linear, *a, false) && tropical(recur, linear, *b, false),
        (Op::Binary(Binary::Min), [a, b]) if minimum => tropical(recur, linear, *a, true) && tropical(recur, linear, *b, true),
        (Op::Binary(Binary::Add), [a, b]) if is_free(linear, *b) => tropical(recur, linear, *a, minimum),
        (Op::Binary(Binary::Add), [a, b]) if is_free(linear, *a) => tropical(recur, linear, *b, minimum),
        (Op::Binary(Binary::Sub), [a, b]) if is_free(linear, *b) => tropical(recur, linear, *a, minimum),
        (Op::Binary(Binary::Sub), [a, b]) if is_free(linear, *a) => tropical(recur, linear, *b, !minimum),
        (Op::Unary(Unary::Neg), [a]) => tropical(recur, linear, *a, !minimum),
        _ => false,
    }
}
