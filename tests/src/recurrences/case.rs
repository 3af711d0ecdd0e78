//! What one case is: a golden file of an operator, the equations in the language, and which tensor is which. All inputs of a model are
//! token ids, so what changes along the sequence stands in tables whose rows are looked up: token `n` is row `n` of the batch, its
//! sequences one behind the other.

use super::golden::Golden;
use std::collections::BTreeMap;

/// Equations to be judged by one golden file. Lists of tensors are written `name=tensor[axis, axis:size]`, with blanks between; `name=` is
/// left out where the names are the same, `:size` where the golden's shape tells.
#[derive(Default)]
pub struct Case<'a> {
    /// The file.
    pub golden: &'a str,
    /// What changes along the sequence (of `in.`). `a|b|0.5` are rows side by side, a number being a constant column.
    pub columns: &'a str,
    /// What does not change (of `in.`).
    pub params: &'a str,
    /// Blocks and functions.
    pub head: &'a str,
    /// Statements.
    pub text: &'a str,
    /// Values of the statements that are compared (of `out.`; a number stands for a tensor of it).
    pub outputs: &'a str,
    /// States after the last token (of `out.`).
    pub states: &'a str,
    /// States before the first one (of `in.`); the others start as declared.
    pub starts: &'a str,
    /// Parameters of instances in the statements, by path.
    pub weights: Vec<(String, Vec<f64>)>,
    /// The tolerance of values that stand behind more than the golden's operator.
    pub tolerance: Option<f64>,
    /// Positions see later ones: a sequence comes in one call.
    pub whole: bool,
    /// The golden has one sequence and no axis for more.
    pub single: bool,
    /// Tokens of a sequence; 0: 50.
    pub times: usize,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name in the statements.
    pub name: String,
    /// Where its numbers stand.
    pub source: String,
    /// Its axes; sizes where they were given.
    pub axes: Vec<(String, Option<usize>)>,
}

/// A list of entries; sources without a prefix get `prefix`.
pub fn entries(list: &str, prefix: &str) -> Vec<Entry> {
    let blanks = |text: &str| text.split_whitespace().collect::<String>();
    let one = |entry: &str| {
        let (head, axes) = entry.split_once('[').unwrap_or_else(|| panic!("`{entry}` has no axes"));
        let head = blanks(head);
        let (name, source) = head.split_once('=').unwrap_or((&head, &head));
        let axis = |axis: &str| {
            let (name, size) = axis.split_once(':').map_or((axis, None), |(name, size)| (name, Some(size)));
            (name.to_owned(), size.map(|size| size.parse().expect("a size")))
        };
        let axes = blanks(axes);
        let axes = axes.split(',').filter(|axis| !axis.is_empty()).map(axis).collect();
        let whole = |part: &str| part.parse::<f64>().is_ok() || part.starts_with("out.");
        let source = source.split('|').map(|part| if whole(part) { part.into() } else { format!("{prefix}{part}") });
        Entry { name: name.to_owned(), source: source.collect::<Vec<String>>().join("|"), axes }
    };
    list.split(']').map(str::trim).filter(|entry| !entry.is_empty()).map(one).collect()
}

/// A case with its golden's numbers.
pub struct Ready<'a> {
    /// The golden file.
    pub golden: Golden,
    /// The model.
    pub spec: String,
    /// Outputs in the order in which a row of results has them, with the elements of each.
    pub outputs: Vec<(Entry, usize)>,
    /// Final states.
    pub states: Vec<Entry>,
    /// First states.
    pub starts: Vec<Entry>,
    /// See [`Case::tolerance`].
    pub tolerance: Option<f64>,
    /// See [`Case::whole`].
    pub whole: bool,
    dims: BTreeMap<String, usize>,
    params: BTreeMap<String, Vec<f64>>,
    case: &'a str,
}

impl Case<'_> {
    /// Writes the model.
    pub fn ready(&self) -> Ready<'_> {
        let times = if self.times == 0 { 50 } else { self.times };
        let golden = if self.single { Golden::single(self.golden, times) } else { Golden::sized(self.golden, times) };
        let (columns, params) = (entries(self.columns, "in."), entries(self.params, "in."));
        let (outputs, states) = (entries(self.outputs, "out."), entries(self.states, "out."));
        let mut dims = BTreeMap::new();
        columns.iter().for_each(|entry| note(&mut dims, entry, &golden.row_shape(&entry.source)));
        params.iter().for_each(|entry| note(&mut dims, entry, golden.shape(&entry.source)));
        outputs.iter().for_each(|entry| note(&mut dims, entry, &golden.row_shape(&entry.source)));
        let elements = |entry: &Entry| entry.axes.iter().map(|(axis, _)| dims[axis]).product();
        let outputs: Vec<(Entry, usize)> = outputs.into_iter().map(|entry| (entry.clone(), elements(&entry))).collect();
        let mut numbers: BTreeMap<String, Vec<f64>> = self.weights.iter().cloned().collect();
        numbers.extend(columns.iter().map(|entry| (format!("{}_", entry.name), golden.table(&entry.source))));
        numbers.extend(params.iter().map(|entry| (entry.name.clone(), golden.all(&entry.source).to_vec())));
        let spec = self.spec(&golden, &dims, [&columns, &params], &outputs);
        let starts = entries(self.starts, "in.");
        Ready {
            golden,
            spec,
            outputs,
            states,
            starts,
            tolerance: self.tolerance,
            whole: self.whole,
            dims,
            params: numbers,
            case: self.golden,
        }
    }

    fn spec(&self, golden: &Golden, dims: &BTreeMap<String, usize>, tables: [&[Entry]; 2], outputs: &[(Entry, usize)]) -> String {
        let places = golden.batch * golden.times;
        let total = places + outputs.iter().map(|(_, elements)| elements).sum::<usize>();
        let mut text =
            format!("{}model tested(\n  places: dim = {places}, padding: dim = {places}, out: dim = {total},", self.head);
        dims.iter().for_each(|(name, size)| text += &format!(" {name}: dim = {size},"));
        text += "\n)(tokens: [t]) -> [t, out] {\n";
        let axes = |entry: &Entry| entry.axes.iter().map(|(axis, _)| axis.clone()).collect::<Vec<_>>();
        for entry in tables[0] {
            let axes = [&["places".to_owned()], &axes(entry)[..]].concat().join(", ");
            text += &format!("  param {0}_: [{axes}]\n  {0} = {0}_[places: tokens]\n", entry.name);
        }
        tables[1].iter().for_each(|entry| text += &format!("  param {}: [{}]\n", entry.name, axes(entry).join(", ")));
        let generate = if self.whole { "" } else { "  generate autoregressive\n" };
        text += &format!("  {}\n{generate}", self.text.trim());
        let (mut parts, mut operands) = (String::new(), String::new());
        for (at, (entry, elements)) in outputs.iter().enumerate() {
            let axes = axes(entry);
            let merged = if axes.len() == 1 { axes[0].clone() } else { format!("({})", axes.join(", ")) };
            text += &format!("  dim part{at} = {elements}\n");
            parts += &format!("part{at}, ");
            operands += &format!("{}[{merged} as part{at}], ", entry.name);
        }
        // Token ids are below the number of results, so there are at least as many results as rows.
        text + &format!("  return concat[{parts}padding as out]({operands}index[padding] * 0.0)\n}}\n")
    }
}

fn note(dims: &mut BTreeMap<String, usize>, entry: &Entry, shape: &[usize]) {
    for (at, (axis, size)) in entry.axes.iter().enumerate() {
        let told = size.or(dims.get(axis).copied());
        let size = told.unwrap_or_else(|| *shape.get(at).unwrap_or_else(|| panic!("the size of {axis} in {entry:?}")));
        let known = *dims.entry(axis.clone()).or_insert(size);
        assert_eq!(known, size, "the size of {axis} in {entry:?}");
    }
}

impl Ready<'_> {
    /// Numbers of a parameter of the model.
    pub fn numbers(&self, path: &str) -> Vec<f64> {
        self.params.get(path).unwrap_or_else(|| panic!("{}: no numbers for {path}", self.case)).clone()
    }

    /// Token ids of a sequence of the batch.
    pub fn tokens(&self, sequence: usize) -> Vec<i32> {
        let first = sequence * self.golden.times;
        (first..first + self.golden.times).map(|id| id as i32).collect()
    }

    /// The numbers of a first or final state of a sequence, with axes in the order `axes`.
    pub fn state(&self, entry: &Entry, sequence: usize, axes: &[String]) -> Vec<f64> {
        let own: Vec<&String> = entry.axes.iter().map(|(axis, _)| axis).collect();
        let place = |axis: &String| own.iter().position(|name| *name == axis).unwrap_or_else(|| panic!("{axis} in {entry:?}"));
        let order: Vec<usize> = axes.iter().map(place).collect();
        assert_eq!(order.len(), own.len(), "axes of {entry:?}: {axes:?}");
        let shape: Vec<usize> = own.iter().map(|axis| self.dims[*axis]).collect();
        permuted(self.golden.sequence(&entry.source, sequence), &shape, &order)
    }

    /// That rows of results and states are the golden's, for one sequence.
    pub fn judge(&self, how: &str, sequence: usize, rows: &[f64], state: impl Fn(&Entry) -> (Vec<String>, Vec<f64>)) {
        let width = rows.len() / self.golden.times;
        let mut first = 0;
        for (entry, elements) in &self.outputs {
            let found: Vec<f64> = rows.chunks(width).flat_map(|row| &row[first..first + elements]).copied().collect();
            let number = entry.source.parse().map(|number: f64| vec![number; found.len()]);
            let wanted = number.unwrap_or_else(|_| self.golden.sequence(&entry.source, sequence).to_vec());
            self.close(how, entry, &found, &wanted);
            first += elements;
        }
        for entry in &self.states {
            let (axes, found) = state(entry);
            self.close(how, entry, &found, &self.state(entry, sequence, &axes));
        }
    }

    fn close(&self, how: &str, entry: &Entry, found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len(), "{}, {how}: {}", self.case, entry.name);
        let tolerance = self.tolerance.unwrap_or_else(|| self.golden.tolerance(&entry.source));
        let far = |(a, b): (&f64, &f64)| if a.is_finite() { (a - b).abs() } else { f64::INFINITY };
        let (place, worst) = found.iter().zip(wanted).map(far).enumerate().fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
        let (a, b) = (found[place], wanted[place]);
        assert!(worst <= tolerance, "{}, {how}: {} [{place}] is {a}, not {b}; {tolerance:.1e} is allowed", self.case, entry.name);
    }
}

/// Row-major numbers with the axes in another order.
fn permuted(data: &[f64], shape: &[usize], order: &[usize]) -> Vec<f64> {
    assert_eq!(data.len(), shape.iter().product::<usize>());
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let mut places = vec![0];
    for axis in order {
        places = places.iter().flat_map(|at| (0..shape[*axis]).map(move |i| at + i * stride(*axis))).collect();
    }
    places.into_iter().map(|at| data[at]).collect()
}

#[test]
fn lists_of_tensors() {
    let list = entries("query=q[heads, k] bias[] x = a|b|1.5[n:3]", "in.");
    let axis = |name: &str, size| (name.to_owned(), size);
    let entry = |name: &str, source: &str, axes| Entry { name: name.into(), source: source.into(), axes };
    assert_eq!(list[0], entry("query", "in.q", vec![axis("heads", None), axis("k", None)]));
    assert_eq!(list[1], entry("bias", "in.bias", vec![]));
    assert_eq!(list[2], entry("x", "in.a|in.b|1.5", vec![axis("n", Some(3))]));
}
