//! Sums of products of atoms, in a normal form: equal mathematics is equal data.
//!
//! An atom is an expression that the analysis does not look into. Exponentials are kept apart, so that `exp(a) * exp(b)` is
//! `exp(a + b)` and `exp(a) / exp(a)` is 1.

use braid_dsl::model::AxisId;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Names an atom of [`Atoms`].
pub type AtomId = usize;

/// More products than this in one sum are an atom of their own.
const MOST: usize = 48;

/// What is known of an expression that is not looked into.
#[derive(Clone, Debug)]
pub struct Atom {
    /// Its text: equal texts are equal atoms.
    pub text: String,
    /// The axes it varies over.
    pub axes: Vec<AxisId>,
    /// Whether it differs from step to step.
    pub timed: bool,
    /// States that it is made of, or states' next values.
    pub states: BTreeSet<usize>,
}

/// All atoms of an analysis, each once.
#[derive(Clone, Debug, Default)]
pub struct Atoms {
    list: Vec<Atom>,
    known: HashMap<String, AtomId>,
}

/// A number as a key: ordered and equal by its bits' order.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Number {}
impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A product of powers of atoms and one exponential.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// Powers by atom; none is 0.
    pub powers: BTreeMap<AtomId, i32>,
    /// What the exponential is of; empty: no exponential.
    pub exponent: Sum,
}

/// A sum of products with their coefficients; none is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum(pub BTreeMap<Product, Number>);

/// What texts are sorted by. Numbers count by their value, so that equal layers, whose nodes have other numbers, read alike.
pub fn by_number(text: &str) -> Vec<(usize, Vec<u8>)> {
    let runs = text.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    runs.map(|run| (if run[0].is_ascii_digit() { run.len() } else { 0 }, run.to_vec())).collect()
}

impl Atoms {
    /// The atom of that text.
    pub fn intern(&mut self, atom: Atom) -> AtomId {
        if let Some(id) = self.known.get(&atom.text) {
            return *id;
        }
        self.known.insert(atom.text.clone(), self.list.len());
        self.list.push(atom);
        self.list.len() - 1
    }

    /// The atom of that text, if there is one.
    pub fn named(&self, text: &str) -> Option<AtomId> {
        self.known.get(text).copied()
    }

    /// Whether an atom is in a product, or in what its atoms were written with.
    pub fn contains(&self, product: &Product, id: AtomId) -> bool {
        let text = &self.get(id).text;
        let word = |other: &str| other == text || other.split([' ', '(', ')', ',', '[', ']']).any(|part| part == text);
        self.of(product).iter().any(|atom| word(&atom.text))
    }

    /// What is known of an atom.
    pub fn get(&self, id: AtomId) -> &Atom {
        &self.list[id]
    }

    /// All atoms in a product, those in exponents too.
    pub fn of(&self, product: &Product) -> Vec<&Atom> {
        let inner = product.exponent.0.keys().flat_map(|product| self.of(product));
        product.powers.keys().map(|id| self.get(*id)).chain(inner).collect()
    }

    /// The axes of a product.
    pub fn axes(&self, product: &Product) -> BTreeSet<AxisId> {
        self.of(product).into_iter().flat_map(|atom| atom.axes.iter().copied()).collect()
    }

    /// The axes of a sum.
    pub fn sum_axes(&self, sum: &Sum) -> BTreeSet<AxisId> {
        sum.0.keys().flat_map(|product| self.axes(product)).collect()
    }

    /// Whether a product differs from step to step.
    pub fn timed(&self, product: &Product) -> bool {
        self.of(product).iter().any(|atom| atom.timed)
    }

    /// The states that a product is made of.
    pub fn states(&self, product: &Product) -> BTreeSet<usize> {
        self.of(product).into_iter().flat_map(|atom| atom.states.iter().copied()).collect()
    }

    /// A product as text.
    pub fn product_text(&self, product: &Product) -> String {
        let power = |(id, power): (&AtomId, &i32)| match power {
            1 => self.get(*id).text.clone(),
            n => format!("{}^{n}", self.get(*id).text),
        };
        let mut parts: Vec<String> = product.powers.iter().map(power).collect();
        parts.sort_by_cached_key(|text| by_number(text));
        if !product.exponent.0.is_empty() {
            parts.push(format!("exp({})", self.text(&product.exponent)));
        }
        parts.join(" ")
    }

    /// A sum as text; the same for equal sums whatever the order in which their atoms were met.
    pub fn text(&self, sum: &Sum) -> String {
        let term = |(product, number): (&Product, &Number)| match (self.product_text(product), number.0) {
            (text, n) if text.is_empty() => format!("{n}"),
            (text, 1.0) => text,
            (text, -1.0) => format!("-{text}"),
            (text, n) => format!("{n} {text}"),
        };
        let mut terms: Vec<String> = sum.0.iter().map(term).collect();
        terms.sort_by_cached_key(|text| by_number(text));
        if terms.is_empty() { "0".into() } else { terms.join(" + ") }
    }

    /// The factors that carry one of `axes`, and the others.
    pub fn parted(&self, product: &Product, axes: &[AxisId]) -> (Product, Product) {
        let touches = |id: &AtomId| self.get(*id).axes.iter().any(|axis| axes.contains(axis));
        let (with, without) = product.powers.iter().partition(|(id, _)| touches(id));
        let in_exponent = |(inner, _): &(&Product, &Number)| self.axes(inner).iter().any(|axis| axes.contains(axis));
        let (inner, outer): (BTreeMap<_, _>, BTreeMap<_, _>) =
            product.exponent.0.iter().map(|(p, n)| (p.clone(), *n)).partition(|(p, n)| in_exponent(&(p, n)));
        (Product { powers: with, exponent: Sum(inner) }, Product { powers: without, exponent: Sum(outer) })
    }

    /// `product` as one atom if it is too long a sum.
    pub fn bounded(&mut self, sum: Sum) -> Sum {
        if sum.0.len() <= MOST {
            return sum;
        }
        let atom = self.summary(format!("({})", self.text(&sum)), &sum);
        Sum::atom(self.intern(atom))
    }

    /// An atom that varies as a sum does.
    pub fn summary(&self, text: String, sum: &Sum) -> Atom {
        let timed = sum.0.keys().any(|product| self.timed(product));
        let states = sum.0.keys().flat_map(|product| self.states(product)).collect();
        Atom { text, axes: self.sum_axes(sum).into_iter().collect(), timed, states }
    }
}

impl Product {
    /// The product of two.
    pub fn times(&self, other: &Product) -> Product {
        let mut powers = self.powers.clone();
        for (id, power) in &other.powers {
            *powers.entry(*id).or_insert(0) += power;
        }
        powers.retain(|_, power| *power != 0);
        Product { powers, exponent: self.exponent.plus(&other.exponent) }
    }

    /// One over it.
    pub fn inverse(&self) -> Product {
        let powers = self.powers.iter().map(|(id, power)| (*id, -power)).collect();
        Product { powers, exponent: self.exponent.scaled(-1.0) }
    }

    /// Whether it is 1.
    pub fn is_one(&self) -> bool {
        self.powers.is_empty() && self.exponent.0.is_empty()
    }
}

impl Sum {
    /// A number.
    pub fn number(value: f64) -> Sum {
        Sum::term(Product::default(), value)
    }

    /// One product.
    pub fn term(product: Product, number: f64) -> Sum {
        let mut sum = Sum::default();
        sum.push(product, number);
        sum
    }

    /// An atom.
    pub fn atom(id: AtomId) -> Sum {
        Sum::term(Product { powers: BTreeMap::from([(id, 1)]), ..Product::default() }, 1.0)
    }

    /// `exp` of a sum.
    pub fn exp(of: Sum) -> Sum {
        Sum::term(Product { exponent: of, ..Product::default() }, 1.0)
    }

    /// Adds a product.
    pub fn push(&mut self, product: Product, number: f64) {
        let total = self.0.get(&product).map_or(0.0, |old| old.0) + number;
        if total == 0.0 {
            self.0.remove(&product);
        } else {
            self.0.insert(product, Number(total));
        }
    }

    /// The sum of two.
    pub fn plus(&self, other: &Sum) -> Sum {
        let mut sum = self.clone();
        other.0.iter().for_each(|(product, number)| sum.push(product.clone(), number.0));
        sum
    }

    /// A multiple.
    pub fn scaled(&self, by: f64) -> Sum {
        let mut sum = Sum::default();
        self.0.iter().for_each(|(product, number)| sum.push(product.clone(), number.0 * by));
        sum
    }

    /// The product of two, multiplied out.
    pub fn times(&self, other: &Sum) -> Sum {
        let mut sum = Sum::default();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                sum.push(a.times(b), x.0 * y.0);
            }
        }
        sum
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self.0.iter().next() {
            None => Some(0.0),
            Some((product, number)) if self.0.len() == 1 && product.is_one() => Some(number.0),
            _ => None,
        }
    }

    /// The only product and its coefficient.
    pub fn single(&self) -> Option<(&Product, f64)> {
        let (product, number) = self.0.iter().next()?;
        (self.0.len() == 1).then_some((product, number.0))
    }
}

/// Whether `of` is `factor` times something simpler.
pub fn divides(factor: &Product, of: &Product) -> bool {
    let weight =
        |product: &Product| product.powers.values().map(|p| p.unsigned_abs() as usize).sum::<usize>() + product.exponent.0.len();
    factor.is_one() || weight(&of.times(&factor.inverse())) < weight(of)
}

/// The rank of a sum of products, taken as a matrix of coefficients over outer and inner products.
pub fn rank<'a>(terms: impl Iterator<Item = (&'a Product, &'a Product, f64)>) -> usize {
    let mut rows: BTreeMap<&Product, BTreeMap<&Product, f64>> = BTreeMap::new();
    terms.for_each(|(outer, inner, number)| *rows.entry(outer).or_default().entry(inner).or_insert(0.0) += number);
    let columns: BTreeSet<&Product> = rows.values().flat_map(|row| row.keys().copied()).collect();
    let mut matrix: Vec<Vec<f64>> =
        rows.values().map(|row| columns.iter().map(|column| row.get(column).copied().unwrap_or(0.0)).collect()).collect();
    let mut rank = 0;
    for column in 0..columns.len() {
        let Some(pivot) = (rank..matrix.len()).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))
        else {
            break;
        };
        if matrix[pivot][column].abs() < 1e-9 {
            continue;
        }
        matrix.swap(rank, pivot);
        let lead = matrix[rank].clone();
        for row in matrix.iter_mut().skip(rank + 1) {
            let by = row[column] / lead[column];
            row.iter_mut().zip(&lead).for_each(|(x, y)| *x -= by * y);
        }
        rank += 1;
    }
    rank
}
