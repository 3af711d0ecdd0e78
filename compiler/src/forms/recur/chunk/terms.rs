//! A step's values as linear forms of the states whose coefficients are values of the chunk's body:
//! `Σ number · outer · sum[bound](inner · S) + Σ number · factors`.
//!
//! Unlike the normal form of the classes (linear.rs) nothing is multiplied out that need not be: what no state is in stays as it
//! was written, so that `1 - f` loses no digits.

use super::maker::Maker;
use braid_dsl::model::{AxisId, Binary, Op, Recur, Reduce, Unary, ValueId};
use std::collections::HashMap;

/// One product that reads a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Which state.
    pub state: usize,
    /// After the update, not before.
    pub after: bool,
    /// A number.
    pub number: f64,
    /// Axes of the state that are summed over.
    pub bound: Vec<AxisId>,
    /// Factors under the sum.
    pub inner: Vec<ValueId>,
    /// Factors outside.
    pub outer: Vec<ValueId>,
}

/// What a value is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Form {
    /// What it takes from states.
    pub terms: Vec<Term>,
    /// Products that no state is in.
    pub free: Vec<(f64, Vec<ValueId>)>,
}

/// Finds forms.
pub struct Terms<'m, 'a> {
    /// Writes coefficients.
    pub maker: &'m mut Maker<'a>,
    /// The recurrence.
    pub recur: &'a Recur,
    /// Which values of the step a state is in.
    pub stateful: &'m [bool],
    /// Values that stand for a state after its update.
    pub after: HashMap<ValueId, usize>,
    /// What is read is not summed again as part of the read: a mean of a read goes over its result.
    pub stops: bool,
    /// Only what no state is in is wanted.
    pub blind: bool,
    /// Values that stand for a state that starts with a tensor.
    pub firsts: &'m HashMap<ValueId, usize>,
}

impl Form {
    fn scaled(mut self, by: f64) -> Form {
        self.terms.iter_mut().for_each(|term| term.number *= by);
        self.free.iter_mut().for_each(|(number, _)| *number *= by);
        self
    }

    fn plus(mut self, other: Form) -> Form {
        self.terms.extend(other.terms);
        self.free.extend(other.free.into_iter().filter(|(number, _)| *number != 0.0));
        self.free.retain(|(number, _)| *number != 0.0);
        self
    }

    fn times(mut self, (number, factors): &(f64, Vec<ValueId>)) -> Form {
        self.terms.iter_mut().for_each(|term| {
            term.number *= number;
            term.outer.extend(factors);
        });
        self.free.iter_mut().for_each(|(own, list)| {
            *own *= number;
            list.extend(factors);
        });
        self
    }
}

impl Terms<'_, '_> {
    /// The form of a value, if it is linear in the states.
    pub fn form(&mut self, id: ValueId) -> Option<Form> {
        if let Some(state) = self.after.get(&id) {
            return Some(read(*state, true));
        }
        if let Some(state) = self.firsts.get(&id) {
            return Some(read(*state, false));
        }
        if !self.stateful[id.0 as usize] {
            return Some(Form { terms: vec![], free: vec![self.factors(id)] });
        }
        let value = self.recur.body.values[id.0 as usize].clone();
        let arg = |n: usize| value.args[n];
        match &value.op {
            Op::State(_) if self.blind => Some(Form::default()),
            Op::State(n) => Some(read(*n, false)),
            Op::ToFloat => self.form(arg(0)),
            Op::Unary(Unary::Neg) => Some(self.form(arg(0))?.scaled(-1.0)),
            Op::Binary(Binary::Add) => Some(self.form(arg(0))?.plus(self.form(arg(1))?)),
            Op::Binary(Binary::Sub) => Some(self.form(arg(0))?.plus(self.form(arg(1))?.scaled(-1.0))),
            Op::Binary(Binary::Mul) => self.product(arg(0), arg(1)),
            Op::Binary(Binary::Div) if !self.stateful[arg(1).0 as usize] => {
                let one = self.maker.number(1.0);
                let by = self.maker.lift(arg(1));
                let inverse = self.maker.op(Op::Binary(Binary::Div), &[one, by]);
                Some(self.form(arg(0))?.times(&(1.0, vec![inverse])))
            }
            Op::Select if !self.stateful[arg(0).0 as usize] => {
                let condition = self.maker.lift(arg(0));
                let (a, b) = (self.form(arg(1))?, self.form(arg(2))?);
                Some(self.taken(a, condition, true).plus(self.taken(b, condition, false)))
            }
            Op::Contract(over) => {
                let product = self.product(arg(0), arg(1))?;
                self.summed(product, over)
            }
            Op::Reduce(Reduce::Sum, over) => {
                let form = self.form(arg(0))?;
                self.summed(form, over)
            }
            Op::Rename(from, to) => {
                let form = self.form(arg(0))?;
                self.renamed(form, *from, *to)
            }
            _ => None,
        }
    }

    /// A branch of a choice: its factors are zero where it is not taken, each of them, as one may be infinite there, or no number.
    fn taken(&mut self, mut form: Form, condition: ValueId, holds: bool) -> Form {
        let along = self.maker.axes_of(condition).to_vec();
        for term in &mut form.terms {
            // A condition that varies along what is summed over stays outside.
            if !along.iter().any(|axis| term.bound.contains(axis)) {
                term.inner.iter_mut().for_each(|id| *id = self.chosen(condition, *id, holds));
                term.inner.sort();
            }
            self.all_chosen(condition, &mut term.outer, holds);
        }
        form.free.iter_mut().for_each(|(_, list)| self.all_chosen(condition, list, holds));
        form
    }

    fn all_chosen(&mut self, condition: ValueId, factors: &mut Vec<ValueId>, holds: bool) {
        if factors.is_empty() {
            factors.push(self.maker.number(1.0));
        }
        factors.iter_mut().for_each(|id| *id = self.chosen(condition, *id, holds));
    }

    fn chosen(&mut self, condition: ValueId, x: ValueId, holds: bool) -> ValueId {
        let zero = self.maker.number(0.0);
        let [yes, no] = if holds { [x, zero] } else { [zero, x] };
        self.maker.op(Op::Select, &[condition, yes, no])
    }

    /// A value that no state is in, as factors: products are taken apart, sums are not.
    fn factors(&mut self, id: ValueId) -> (f64, Vec<ValueId>) {
        let value = &self.recur.body.values[id.0 as usize];
        match (&value.op, value.args.as_slice()) {
            (Op::Const(number), _) if number.is_finite() => (*number, vec![]),
            (Op::ToFloat, [a]) if matches!(self.recur.body.values[a.0 as usize].op, Op::Const(_)) => self.factors(*a),
            (Op::Unary(Unary::Neg), [a]) => {
                let (number, factors) = self.factors(*a);
                (-number, factors)
            }
            (Op::Binary(Binary::Mul), [a, b]) => {
                let ((x, mut left), (y, right)) = (self.factors(*a), self.factors(*b));
                left.extend(right);
                (x * y, left)
            }
            _ => (1.0, vec![self.maker.lift(id)]),
        }
    }

    fn product(&mut self, a: ValueId, b: ValueId) -> Option<Form> {
        let (left, right) = (self.stateful[a.0 as usize], self.stateful[b.0 as usize]);
        let (form, by) = match (left, right) {
            (true, true) => return None,
            (true, false) => (self.form(a)?, self.factors(b)),
            _ => (self.form(b)?, self.factors(a)),
        };
        Some(form.times(&by))
    }

    fn summed(&mut self, form: Form, over: &[AxisId]) -> Option<Form> {
        let free = form.free.into_iter().map(|(number, list)| self.collapsed(number, list, over)).collect();
        let terms = form.terms.into_iter().map(|term| self.summed_term(term, over)).collect::<Option<Vec<_>>>()?;
        Some(Form { terms, free })
    }

    /// A product summed: the factors that carry the axes become one.
    fn collapsed(&mut self, number: f64, list: Vec<ValueId>, over: &[AxisId]) -> (f64, Vec<ValueId>) {
        let (with, mut without): (Vec<_>, Vec<_>) = list.into_iter().partition(|id| self.maker.carries(*id, over));
        let total = match with.as_slice() {
            [a, rest @ ..] if !rest.is_empty() => {
                let other = self.maker.product(1.0, rest);
                self.maker.contract(*a, other, over)
            }
            _ => {
                let product = self.maker.product(1.0, &with);
                self.maker.sum(product, over)
            }
        };
        match self.maker.number_of(total) {
            Some(times) => (number * times, without),
            None => {
                without.push(total);
                (number, without)
            }
        }
    }

    fn summed_term(&mut self, mut term: Term, over: &[AxisId]) -> Option<Term> {
        let state = &self.recur.states[term.state].axes;
        let (own, rest): (Vec<AxisId>, Vec<AxisId>) = over.iter().partition(|a| state.contains(a) && !term.bound.contains(a));
        if self.stops && !term.bound.is_empty() && !own.is_empty() {
            return None;
        }
        if !rest.is_empty() {
            let loose: Vec<AxisId> = rest.iter().copied().filter(|axis| !term.bound.contains(axis)).collect();
            if term.inner.iter().any(|id| self.maker.carries(*id, &loose)) {
                return None;
            }
            (term.number, term.outer) = self.collapsed(term.number, term.outer, &rest);
        }
        let (with, without): (Vec<_>, Vec<_>) = term.outer.into_iter().partition(|id| self.maker.carries(*id, &own));
        term.bound.extend(own);
        term.bound.sort();
        term.inner.extend(with);
        term.inner.sort();
        Some(Term { outer: without, ..term })
    }

    fn renamed(&mut self, mut form: Form, from: AxisId, to: AxisId) -> Option<Form> {
        for term in &mut form.terms {
            let state = &self.recur.states[term.state].axes;
            if state.contains(&from) && !term.bound.contains(&from) {
                return None;
            }
            let inner = if term.bound.contains(&from) { vec![] } else { term.inner.iter_mut().collect() };
            inner.into_iter().chain(&mut term.outer).for_each(|id| *id = self.maker.rename(*id, from, to));
        }
        form.free.iter_mut().for_each(|(_, list)| list.iter_mut().for_each(|id| *id = self.maker.rename(*id, from, to)));
        Some(form)
    }
}

fn read(state: usize, after: bool) -> Form {
    let term = Term { state, after, number: 1.0, bound: vec![], inner: vec![], outer: vec![] };
    Form { terms: vec![term], free: vec![] }
}
