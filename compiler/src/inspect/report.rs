//! The rows of a report: the parts of a model with equal layers told once.

use super::class::{Class, Width};
use super::cost::elements;
use super::tree::{Part, Tree, shape};
use braid_dsl::model::{Generate, Model, Storage, Type};
use std::collections::BTreeMap;

/// Contexts that totals are shown for.
pub const CONTEXTS: [u64; 5] = [1 << 10, 1 << 12, 1 << 15, 1 << 17, 1 << 20];

/// Everything that is known about a model before it is compiled.
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Its doc comment.
    pub doc: String,
    /// Whether it generates one token after another.
    pub autoregressive: bool,
    /// Positions that stand ahead of every text.
    pub ahead: usize,
    /// What d is.
    pub width: Width,
    /// What the text says of storage: how parameters are stored, which, and how many numbers they have.
    pub stored: Vec<(Storage, Vec<String>, u64)>,
    /// The model with all its parts.
    pub root: Layer,
    /// The parts as a table, equal layers once.
    pub rows: Vec<Row>,
}

/// A part with the texts that follow from it.
pub struct Layer {
    /// The facts.
    pub part: Part,
    /// What comes in.
    pub input: String,
    /// What goes out.
    pub output: String,
    /// How work and memory grow.
    pub class: Class,
    /// The parts directly inside.
    pub children: Vec<Layer>,
    /// Equal for parts that look and cost the same.
    pub signature: String,
}

/// One line of the table.
pub struct Row {
    /// How deep it stands.
    pub depth: usize,
    /// `layers 0–2, 4–6`.
    pub name: String,
    /// How often the model has it.
    pub times: usize,
    /// Which children lead from the root to its first instance.
    pub path: Vec<usize>,
}

impl Report {
    pub(super) fn new(tree: Tree, model: &Model) -> Report {
        let width = width(model, &tree.root);
        let root = Layer::new(tree.root, model, &width);
        let mut rows = Vec::new();
        list(&root, 0, &mut Vec::new(), &mut rows);
        Report {
            model: model.name.clone(),
            doc: model.doc.clone(),
            autoregressive: model.generate == Generate::Autoregressive,
            ahead: model.ahead,
            width,
            stored: stored(model),
            root,
            rows,
        }
    }

    /// The part that a row tells of.
    pub fn layer(&self, row: &Row) -> &Layer {
        row.path.iter().fold(&self.root, |layer, at| &layer.children[*at])
    }
}

impl Layer {
    fn new(mut part: Part, model: &Model, width: &Width) -> Layer {
        let children: Vec<Layer> = std::mem::take(&mut part.children).into_iter().map(|c| Layer::new(c, model, width)).collect();
        let text = |ty: &Option<_>| ty.as_ref().map_or(String::new(), |ty| shape(model, ty));
        let (input, output, class) = (text(&part.input), text(&part.output), Class::of(&part, width));
        let inside: Vec<String> = children.iter().map(|c| format!("{}={}", c.part.name, c.signature)).collect();
        let signature =
            format!("{} {input} {output} {} {:?} {:?} ({})", part.block, part.params, part.cost, part.memory, inside.join(", "));
        Layer { part, input, output, class, children, signature }
    }

    /// The children, equal iterations of one `repeat` together, in order of first use.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (at, child) in self.children.iter().enumerate() {
            let same = |group: &&mut Vec<usize>| {
                let first = &self.children[group[0]];
                child.iteration().is_some()
                    && child.iteration().map(|i| i.0) == first.iteration().map(|i| i.0)
                    && child.signature == first.signature
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(at),
                None => groups.push(vec![at]),
            }
        }
        groups
    }

    /// `("layers", 3)` of an iteration of a `repeat`.
    pub fn iteration(&self) -> Option<(&str, usize)> {
        let (label, number) = self.part.name.rsplit_once('.')?;
        Some((label, number.parse().ok()?))
    }
}

/// The parameters of which the text says how they are stored, by how.
fn stored(model: &Model) -> Vec<(Storage, Vec<String>, u64)> {
    let of = |storage: Storage| {
        let params = || model.params.iter().filter(move |param| param.stored.is_some_and(|stored| stored.storage == storage));
        let paths: Vec<String> = params().map(|param| param.path.clone()).collect();
        (!paths.is_empty()).then(|| (storage, paths, params().map(|param| elements(model, &param.axes)).sum()))
    };
    Storage::ALL.into_iter().filter_map(of).collect()
}

/// The size that most layers hand on.
fn width(model: &Model, root: &Part) -> Width {
    let mut votes: BTreeMap<(u64, String), usize> = BTreeMap::new();
    vote(model, root, &mut votes);
    let best = votes.into_iter().max_by_key(|(_, count)| *count).map(|(key, _)| key);
    let (size, name) = best.unwrap_or((1, "d".into()));
    Width { name, size }
}

fn vote(model: &Model, part: &Part, votes: &mut BTreeMap<(u64, String), usize>) {
    for child in &part.children {
        let result = &model.values[model.output.0 as usize].ty;
        let is_row = |ty: &&Type| ty.axes.len() == 2 && elements(model, &ty.axes) > 1 && *ty != result;
        if let Some(ty) = child.output.as_ref().filter(is_row) {
            let named =
                ty.axes.iter().map(|a| &model.axes[a.0 as usize]).find(|a| matches!(a.size, braid_dsl::model::Size::Fixed(_)));
            let name = named.map_or("d".into(), |a| a.name.clone());
            *votes.entry((elements(model, &ty.axes), name)).or_default() += 1;
        }
        vote(model, child, votes);
    }
}

/// Parts inside layers are told down to this depth.
const DEEPEST: usize = 2;

fn list(layer: &Layer, depth: usize, path: &mut Vec<usize>, rows: &mut Vec<Row>) {
    for group in layer.groups() {
        let first = &layer.children[group[0]];
        path.push(group[0]);
        rows.push(Row { depth, name: group_name(layer, &group), times: group.len(), path: path.clone() });
        if depth + 1 < DEEPEST {
            list(first, depth + 1, path, rows);
        }
        path.pop();
    }
}

fn group_name(layer: &Layer, group: &[usize]) -> String {
    let Some((label, _)) = layer.children[group[0]].iteration() else { return layer.children[group[0]].part.name.clone() };
    let numbers: Vec<usize> = group.iter().filter_map(|at| layer.children[*at].iteration()).map(|(_, n)| n).collect();
    format!("{label} {}", ranges(&numbers))
}

/// `0–2, 4, 6–8`; of a long list the beginning.
pub fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let text = |(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}–{b}") };
    let shown: Vec<String> = runs.iter().take(4).map(text).collect();
    let more = if runs.len() > 4 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
