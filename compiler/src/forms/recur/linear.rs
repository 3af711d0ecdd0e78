//! A body's values as linear forms of the states: `Σ outer · sum[bound](inner · S) + free`.

use super::poly::{Atom, Atoms, Number, Product, Sum};
use crate::graph::{op_text, shape};
use braid_dsl::model::{Axis, AxisId, Binary, Op, Param, Recur, Reduce, Unary, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A state, as the step begins or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Before the update.
    Before(usize),
    /// After it.
    After(usize),
}

/// One term of a form, without its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// What is read.
    pub source: Source,
    /// Axes of the state that are summed over.
    pub bound: BTreeSet<AxisId>,
    /// Axes of the state that stand under other names.
    pub moved: BTreeMap<AxisId, AxisId>,
    /// Factors under the sum.
    pub inner: Product,
    /// Factors outside.
    pub outer: Product,
}

/// What a value is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Form {
    /// What it takes from states.
    pub terms: BTreeMap<Term, Number>,
    /// The rest.
    pub free: Sum,
}

/// Why a value is not linear in the states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The operation that stands in the way.
    pub what: String,
    /// The states that it is applied to.
    pub states: BTreeSet<usize>,
}

/// What is being analysed. States in `symbols` are followed, the others are atoms.
pub struct Linear<'a> {
    /// All axes.
    pub axes: &'a [Axis],
    /// The parameters, for texts.
    pub params: &'a [Param],
    /// The recurrence.
    pub recur: &'a Recur,
    /// What each capture is called, and whether it differs from step to step.
    pub captures: &'a [(String, bool)],
    /// Followed states.
    pub symbols: BTreeSet<usize>,
    /// Values that are some state's next value and stand for it here.
    pub after: HashMap<ValueId, usize>,
    /// All atoms.
    pub atoms: &'a mut Atoms,
    /// What is known already.
    pub memo: HashMap<ValueId, Result<Form, Obstacle>>,
}

impl Form {
    fn of(free: Sum) -> Form {
        Form { free, ..Form::default() }
    }

    fn push(&mut self, term: Term, number: f64) {
        let total = self.terms.get(&term).map_or(0.0, |old| old.0) + number;
        if total == 0.0 {
            self.terms.remove(&term);
        } else {
            self.terms.insert(term, Number(total));
        }
    }

    fn plus(&self, other: &Form, by: f64) -> Form {
        let mut sum = Form { free: self.free.plus(&other.free.scaled(by)), ..self.clone() };
        other.terms.iter().for_each(|(term, number)| sum.push(term.clone(), number.0 * by));
        sum
    }

    /// The states that it reads.
    pub fn states(&self) -> BTreeSet<usize> {
        let state = |term: &Term| match term.source {
            Source::Before(n) | Source::After(n) => n,
        };
        self.terms.keys().map(state).collect()
    }

    fn times(&self, by: &Sum) -> Form {
        let mut all = Form::of(self.free.times(by));
        for (term, x) in &self.terms {
            for (factor, y) in &by.0 {
                all.push(Term { outer: term.outer.times(factor), ..term.clone() }, x.0 * y.0);
            }
        }
        all
    }
}

impl Linear<'_> {
    /// The form of a value.
    pub fn form(&mut self, id: ValueId) -> Result<Form, Obstacle> {
        if let Some(known) = self.memo.get(&id) {
            return known.clone();
        }
        let found = match self.after.get(&id) {
            Some(state) => Ok(self.state(*state, Source::After(*state))),
            None => self.made(id),
        };
        let found = found.map(|form| Form { free: self.atoms.bounded(form.free.clone()), ..form });
        self.memo.insert(id, found.clone());
        found
    }

    fn made(&mut self, id: ValueId) -> Result<Form, Obstacle> {
        let value = &self.recur.body.values[id.0 as usize];
        let args = value.args.iter().map(|arg| self.form(*arg)).collect::<Result<Vec<_>, _>>()?;
        match &value.op {
            Op::State(n) => Ok(self.state(*n, Source::Before(*n))),
            Op::Capture(n) => Ok(self.capture(*n, &value.ty.axes)),
            Op::Const(number) if number.is_finite() => Ok(Form::of(Sum::number(*number))),
            Op::ToFloat => Ok(args[0].clone()),
            Op::Unary(Unary::Neg) => Ok(Form::default().plus(&args[0], -1.0)),
            Op::Binary(Binary::Add) => Ok(args[0].plus(&args[1], 1.0)),
            Op::Binary(Binary::Sub) => Ok(args[0].plus(&args[1], -1.0)),
            Op::Binary(Binary::Mul) => self.product(&args[0], &args[1]),
            Op::Binary(Binary::Div) if args[1].terms.is_empty() => {
                let inverse = self.inverse(&args[1].free);
                Ok(args[0].times(&inverse))
            }
            Op::Contract(over) => {
                let product = self.product(&args[0], &args[1])?;
                self.summed(&product, over)
            }
            Op::Reduce(Reduce::Sum, over) => self.summed(&args[0], over),
            Op::Rename(from, to) => Ok(self.renamed(&args[0], *from, *to)),
            Op::Pick { axis, index } if !args[0].terms.is_empty() => self.picked(&args[0], *axis, *index),
            Op::Select if args[0].terms.is_empty() => self.selected(&args),
            op => self.opaque(op, &value.ty.axes, &args),
        }
    }

    fn state(&mut self, n: usize, source: Source) -> Form {
        let mut form = Form::default();
        if self.symbols.contains(&n) {
            let (bound, moved) = (BTreeSet::new(), BTreeMap::new());
            form.push(Term { source, bound, moved, inner: Product::default(), outer: Product::default() }, 1.0);
            return form;
        }
        let state = &self.recur.states[n];
        let text = self.source_text(source);
        let atom = Atom { text, axes: state.axes.clone(), timed: true, states: BTreeSet::from([n]) };
        Form::of(Sum::atom(self.atoms.intern(atom)))
    }

    /// A state that is not followed, as a sum.
    pub fn form_of_source(&mut self, source: Source) -> Sum {
        self.state(source_state(source), source).free
    }

    /// A state as text; primed after the update.
    pub fn source_text(&self, source: Source) -> String {
        match source {
            Source::Before(n) => self.recur.states[n].name.clone(),
            Source::After(n) => format!("{}'", self.recur.states[n].name),
        }
    }

    fn capture(&mut self, n: usize, axes: &[AxisId]) -> Form {
        let (text, timed) = self.captures[n].clone();
        let atom = Atom { text, axes: axes.to_vec(), timed, states: BTreeSet::new() };
        Form::of(Sum::atom(self.atoms.intern(atom)))
    }

    fn product(&mut self, a: &Form, b: &Form) -> Result<Form, Obstacle> {
        match (a.terms.is_empty(), b.terms.is_empty()) {
            (_, true) => Ok(a.times(&b.free)),
            (true, _) => Ok(b.times(&a.free)),
            _ => Err(Obstacle { what: "a product of two reads".into(), states: &a.states() | &b.states() }),
        }
    }

    fn inverse(&mut self, of: &Sum) -> Sum {
        if let Some((product, number)) = of.single() {
            return Sum::term(product.inverse(), 1.0 / number);
        }
        let atom = self.atoms.summary(format!("({})", self.atoms.text(of)), of);
        let id = self.atoms.intern(atom);
        Sum::term(Product { powers: BTreeMap::from([(id, -1)]), ..Product::default() }, 1.0)
    }

    /// `sum[over]`.
    fn summed(&mut self, form: &Form, over: &[AxisId]) -> Result<Form, Obstacle> {
        let mut all = Form::default();
        for (product, number) in &form.free.0 {
            let (product, times) = self.collapsed(product, over);
            all.free.push(product, number.0 * times);
        }
        for (term, number) in &form.terms {
            let (term, times) = self.summed_term(term, over)?;
            all.push(term, number.0 * times);
        }
        Ok(all)
    }

    /// A product summed over axes: the factors that carry them are one atom; an axis that none carries counts.
    fn collapsed(&mut self, product: &Product, over: &[AxisId]) -> (Product, f64) {
        let (with, without) = self.atoms.parted(product, over);
        let carried = self.atoms.axes(&with);
        let missing = over.iter().filter(|axis| !carried.contains(axis));
        let times: f64 = missing.map(|axis| shape::size(self.axes, *axis).unwrap_or(1) as f64).product();
        if with.is_one() {
            return (without, times);
        }
        let sum = Sum::term(with, 1.0);
        let mut names: Vec<&str> = over.iter().filter(|axis| carried.contains(axis)).map(|axis| self.name(*axis)).collect();
        names.sort_unstable();
        let text = format!("sum[{}]({})", names.join(", "), self.atoms.text(&sum));
        let mut atom = self.atoms.summary(text, &sum);
        atom.axes.retain(|axis| !over.contains(axis));
        let id = self.atoms.intern(atom);
        (without.times(&Product { powers: BTreeMap::from([(id, 1)]), ..Product::default() }), times)
    }

    fn name(&self, axis: AxisId) -> &str {
        &self.axes[axis.0 as usize].name
    }

    fn summed_term(&mut self, term: &Term, over: &[AxisId]) -> Result<(Term, f64), Obstacle> {
        let open = self.open(term);
        let (own, rest): (Vec<AxisId>, Vec<AxisId>) = over.iter().partition(|axis| open.contains_key(axis));
        let scoped: Vec<AxisId> = rest.iter().copied().filter(|axis| !term.bound.contains(axis)).collect();
        let (shared, _) = self.atoms.parted(&term.inner, &scoped);
        if !shared.is_one() {
            let states = BTreeSet::from([source_state(term.source)]);
            return Err(Obstacle { what: "a sum over an axis that the factors of a read carry".into(), states });
        }
        let (outer, times) = self.collapsed(&term.outer, &rest);
        let (with, outer) = self.atoms.parted(&outer, &own);
        let mut bound = term.bound.clone();
        bound.extend(own.iter().map(|axis| open[axis]));
        Ok((Term { bound, inner: term.inner.times(&with), outer, ..term.clone() }, times))
    }

    /// The state's axes that the value of a term still has: its name there, and the state's own.
    fn open(&self, term: &Term) -> HashMap<AxisId, AxisId> {
        let state = &self.recur.states[source_state(term.source)];
        let open = state.axes.iter().filter(|axis| !term.bound.contains(axis));
        open.map(|axis| (*term.moved.get(axis).unwrap_or(axis), *axis)).collect()
    }

    fn renamed(&mut self, form: &Form, from: AxisId, to: AxisId) -> Form {
        let mut all = Form::of(self.renamed_sum(&form.free, from, to));
        for (term, number) in &form.terms {
            let mut term = term.clone();
            if let Some(own) = self.open(&term).get(&from) {
                term.moved.insert(*own, to);
            }
            term.outer = self.renamed_product(&term.outer, from, to);
            if !term.bound.contains(&from) {
                term.inner = self.renamed_product(&term.inner, from, to);
            }
            term.moved.retain(|own, name| own != name);
            all.push(term, number.0);
        }
        all
    }

    fn renamed_sum(&mut self, sum: &Sum, from: AxisId, to: AxisId) -> Sum {
        let mut all = Sum::default();
        sum.0.iter().for_each(|(product, number)| all.push(self.renamed_product(product, from, to), number.0));
        all
    }

    fn renamed_product(&mut self, product: &Product, from: AxisId, to: AxisId) -> Product {
        let mut powers = BTreeMap::new();
        for (id, power) in &product.powers {
            let mut atom = self.atoms.get(*id).clone();
            if atom.axes.contains(&from) {
                atom.text = format!("{}[{} as {}]", atom.text, self.name(from), self.name(to));
                atom.axes.iter_mut().filter(|axis| **axis == from).for_each(|axis| *axis = to);
            }
            powers.insert(self.atoms.intern(atom), *power);
        }
        Product { powers, exponent: self.renamed_sum(&product.exponent, from, to) }
    }

    /// One index of an axis is a read by the unit vector of that index.
    fn picked(&mut self, form: &Form, axis: AxisId, index: usize) -> Result<Form, Obstacle> {
        let atom =
            Atom { text: format!("[{} = {index}]", self.name(axis)), axes: vec![axis], timed: false, states: BTreeSet::new() };
        let unit = Sum::atom(self.atoms.intern(atom));
        self.summed(&form.times(&unit), &[axis])
    }

    fn selected(&mut self, args: &[Form]) -> Result<Form, Obstacle> {
        let (yes, no) = (&args[0].free, Sum::number(1.0).plus(&args[0].free.scaled(-1.0)));
        Ok(args[1].times(yes).plus(&args[2].times(&no), 1.0))
    }

    /// Everything else: an atom, unless it reads a state.
    fn opaque(&mut self, op: &Op, axes: &[AxisId], args: &[Form]) -> Result<Form, Obstacle> {
        let states: BTreeSet<usize> = args.iter().flat_map(Form::states).collect();
        if !states.is_empty() {
            return Err(Obstacle { what: format!("`{}`", op_name(op)), states });
        }
        if let Some(sum) = self.known_function(op, args) {
            return Ok(Form::of(sum));
        }
        let mut texts: Vec<String> = args.iter().map(|arg| self.atoms.text(&arg.free)).collect();
        if matches!(op, Op::Binary(Binary::Max | Binary::Min | Binary::And | Binary::Or | Binary::Eq | Binary::Ne)) {
            texts.sort();
        }
        let whole = args.iter().fold(Sum::default(), |sum, arg| sum.plus(&arg.free.scaled(1.0)));
        let parts = args.iter().map(|arg| self.atoms.summary(String::new(), &arg.free)).collect::<Vec<_>>();
        let text = match op {
            Op::Pick { axis, index } => format!("{}[{} = {index}]", texts[0], self.axes[axis.0 as usize].name),
            op => op_text(op, self.axes, self.params, &texts),
        };
        let mut atom = self.atoms.summary(text, &whole);
        // Parts may cancel in the sum but not in the function.
        atom.timed = parts.iter().any(|part| part.timed);
        atom.states = parts.into_iter().flat_map(|part| part.states).collect();
        atom.axes = axes.to_vec();
        Ok(Form::of(Sum::atom(self.atoms.intern(atom))))
    }

    /// Functions whose laws the normal form knows.
    fn known_function(&mut self, op: &Op, args: &[Form]) -> Option<Sum> {
        let of = |n: usize| args.get(n).map(|arg| &arg.free);
        match op {
            Op::Unary(Unary::Exp) => Some(match of(0)?.as_number() {
                Some(number) => Sum::number(number.exp()),
                None => Sum::exp(of(0)?.clone()),
            }),
            Op::Unary(Unary::Log) => match of(0)?.single()? {
                (product, number) if product.powers.is_empty() && number > 0.0 => {
                    Some(product.exponent.plus(&Sum::number(number.ln())))
                }
                _ => None,
            },
            Op::Binary(Binary::Pow) => match (of(0)?.as_number(), of(1)?.as_number()) {
                (Some(base), Some(power)) => Some(Sum::number(base.powf(power))),
                (Some(base), None) if base > 0.0 => Some(Sum::exp(of(1)?.scaled(base.ln()))),
                (None, Some(power)) if [1.0, 2.0, 3.0].contains(&power) => {
                    Some((1..power as usize).fold(of(0)?.clone(), |all, _| all.times(of(0).unwrap_or(&Sum::default()))))
                }
                (None, Some(-1.0)) => Some(self.inverse(of(0)?)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whose state a term reads.
pub fn source_state(source: Source) -> usize {
    match source {
        Source::Before(n) | Source::After(n) => n,
    }
}

/// An op's name as the language spells it.
fn op_name(op: &Op) -> String {
    match op {
        Op::Unary(f) => format!("{f:?}").to_lowercase(),
        Op::Binary(f) => format!("{f:?}").to_lowercase(),
        Op::Reduce(f, _) => format!("{f:?}").to_lowercase(),
        Op::Select => "select".into(),
        Op::Top { .. } => "top".into(),
        Op::Largest { .. } => "nth_largest".into(),
        Op::Gather(_) => "gather".into(),
        Op::Solve { .. } => "solve".into(),
        Op::Split(..) => "split".into(),
        Op::Merge(..) => "merge".into(),
        Op::Concat(..) => "concat".into(),
        Op::Slice { .. } => "slice".into(),
        _ => "an operation".into(),
    }
}
