//! The block instances of a model as a tree, each with what it and its parts cost.

use super::again::Keepers;
use super::cost::{Cost, cost, elements, has_sequence};
use super::reach::{Reach, Reaches};
use crate::forms::cached;
use crate::graph::shape::union;
use braid_dsl::model::{Attend, AxisId, Gives, Model, Op, ParamId, ScopeId, Size, Type, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a sequence carries from token to token.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The state's name, or `keys`, `values`, `window`, `shift`.
    pub name: String,
    /// Elements, whatever the context; or for each kept position.
    pub elements: u64,
    /// Which positions are kept; `None`: nothing grows.
    pub reach: Option<Reach>,
}

/// Bytes of one element of a state or cache.
pub const ELEMENT_BYTES: u64 = 4;

impl Memory {
    /// Bytes at a context of `n` positions.
    pub fn bytes(&self, n: u64) -> u64 {
        self.elements * ELEMENT_BYTES * self.reach.map_or(1, |r| r.at(n))
    }
}

/// What a part mostly does, seen from its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Looks at earlier positions.
    Attention,
    /// Carries a state.
    Recurrence,
    /// Both of them side by side.
    Hybrid,
    /// Mixes a few neighbouring positions.
    Convolution,
    /// Sends tokens to chosen parameters.
    Routed,
    /// Matrix products.
    Dense,
    /// Reads a table by token.
    Lookup,
    /// No matrix product at all: a norm, a scale.
    Pointwise,
}

impl Kind {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Attention => "attention",
            Kind::Recurrence => "recurrence",
            Kind::Hybrid => "attention + recurrence",
            Kind::Convolution => "convolution",
            Kind::Routed => "routed",
            Kind::Dense => "dense",
            Kind::Lookup => "lookup",
            Kind::Pointwise => "pointwise",
        }
    }
}

/// One block instance with everything inside it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its scope.
    pub id: ScopeId,
    /// Its own name.
    pub name: String,
    /// Its dotted path.
    pub path: String,
    /// The block's name in the text.
    pub block: String,
    /// Parts directly inside, in order of first use.
    pub children: Vec<Part>,
    /// Type of what comes in, if it varies along the sequence.
    pub input: Option<Type>,
    /// Type of what goes out.
    pub output: Option<Type>,
    /// Elements of all parameters inside.
    pub params: u64,
    /// Elements of the parameters that one token reads.
    pub active: u64,
    /// Operations.
    pub cost: Cost,
    /// Operations for a position of the source, once for a sequence.
    pub encode: Cost,
    /// States and caches.
    pub memory: Vec<Memory>,
    /// What it mostly does.
    pub kind: Kind,
}

impl Part {
    /// What it does for a token; of a part that works on the source alone, for a position of that.
    pub fn work(&self) -> &Cost {
        let none = self.cost.fixed == 0 && self.cost.keys.is_empty();
        if none { &self.encode } else { &self.cost }
    }
}

/// The whole model as parts.
pub struct Tree {
    /// The model.
    pub root: Part,
}

/// Facts of one scope, own values only.
#[derive(Clone, Default)]
struct Own {
    cost: Cost,
    encode: Cost,
    memory: Vec<Memory>,
    params: u64,
    active: u64,
    ops: BTreeSet<&'static str>,
    first: usize,
}

impl Tree {
    /// Sums up a model.
    pub fn new(model: &Model) -> Tree {
        let used = used(model);
        let mut own = vec![Own { first: usize::MAX, ..Own::default() }; model.scopes.len()];
        let mut reaches = Reaches::of_model(model);
        let mut keepers = Keepers::default();
        for (at, value) in model.values.iter().enumerate().filter(|(at, _)| used[*at]) {
            let here = &mut own[value.scope.0 as usize];
            here.first = here.first.min(at);
            let side = if is_encoded(model, value) { &mut here.encode } else { &mut here.cost };
            side.add(&cost(model, &model.values, value, &mut reaches));
            if !keepers.know(value) {
                here.memory.extend(memory(model, value, &mut reaches));
            }
            here.ops.extend(mark(model, value));
        }
        for (scope, params, active) in parameters(model, &used) {
            own[scope].params += params;
            own[scope].active += active;
        }
        let mut root = part(model, &own, ScopeId(0), String::new());
        Ends::of(model, &used).fill(&mut root);
        Tree { root }
    }
}

/// Whether a value has a row for each position of the source: the second sequence axis of a model.
fn is_encoded(model: &Model, value: &Value) -> bool {
    let source = (0..model.axes.len()).filter(|at| model.axes[*at].size == Size::Seq).nth(1);
    let is_source = |axis: &AxisId| Some(axis.0 as usize) == source;
    match &value.op {
        Op::Recur(recur) => is_source(&recur.seq),
        _ => value.ty.axes.iter().any(is_source),
    }
}

/// Which values the output needs.
fn used(model: &Model) -> Vec<bool> {
    let mut used = vec![false; model.values.len()];
    used[model.output.0 as usize] = true;
    for at in (0..used.len()).rev().filter(|at| *at <= model.output.0 as usize) {
        if used[at] {
            model.values[at].args.iter().for_each(|a| used[a.0 as usize] = true);
        }
    }
    used
}

fn part(model: &Model, own: &[Own], id: ScopeId, path: String) -> Part {
    let scope = &model.scopes[id.0 as usize];
    let mut children: Vec<(usize, Part)> = Vec::new();
    for (at, child) in model.scopes.iter().enumerate().filter(|(_, s)| s.parent == Some(id)) {
        let below = if path.is_empty() { child.name.clone() } else { format!("{path}.{}", child.name) };
        let part = part(model, own, ScopeId(at as u32), below);
        let first = first(model, own, part.id);
        if first != usize::MAX || part.params > 0 {
            children.push((first, part));
        }
    }
    children.sort_by_key(|(first, _)| *first);
    let children: Vec<Part> = children.into_iter().map(|(_, part)| part).collect();
    let mine = &own[id.0 as usize];
    let mut found = Part {
        id,
        name: scope.name.clone(),
        path,
        block: scope.block.clone(),
        input: None,
        output: None,
        params: mine.params + children.iter().map(|c| c.params).sum::<u64>(),
        active: mine.active + children.iter().map(|c| c.active).sum::<u64>(),
        cost: mine.cost.clone(),
        encode: mine.encode.clone(),
        memory: mine.memory.clone(),
        kind: kind(&mine.ops, &children),
        children,
    };
    for child in &found.children {
        found.cost.add(&child.cost);
        found.encode.add(&child.encode);
        found.memory.extend(child.memory.iter().cloned());
    }
    found
}

fn first(model: &Model, own: &[Own], id: ScopeId) -> usize {
    let below = model.scopes.iter().enumerate().filter(|(_, s)| s.parent == Some(id));
    let inside = below.map(|(at, _)| first(model, own, ScopeId(at as u32))).min().unwrap_or(usize::MAX);
    inside.min(own[id.0 as usize].first)
}

fn mark(model: &Model, value: &Value) -> Option<&'static str> {
    let contracted =
        || value.args.first().is_some_and(|a| matches!(model.values[a.0 as usize].op, Op::Binary(braid_dsl::model::Binary::Mul)));
    match &value.op {
        Op::Attend(_) => Some("attend"),
        Op::Recur(_) => Some("recur"),
        Op::Conv(_) | Op::Shift(_) => Some("conv"),
        Op::Top { .. } | Op::Largest { .. } => Some("top"),
        Op::Gather(_) | Op::Fetch(..) => Some("gather"),
        Op::Contract(_) => Some("dense"),
        // A product with a parameter, summed: a norm's sum of squares has none.
        Op::Reduce(..) if contracted() && reads_param(model, value.args[0].0 as usize) => Some("dense"),
        _ => None,
    }
}

fn reads_param(model: &Model, product: usize) -> bool {
    let rooted = |mut at: usize| loop {
        match &model.values[at] {
            Value { op: Op::Param(_), .. } => return true,
            Value { op: Op::Gather(_) | Op::Rename(..) | Op::Slice { .. } | Op::Split(..) | Op::Merge(..), args, .. } => {
                at = args[0].0 as usize
            }
            _ => return false,
        }
    };
    let args = &model.values[product].args;
    args[0] != args[1] && args.iter().any(|a| rooted(a.0 as usize))
}

fn kind(own: &BTreeSet<&'static str>, children: &[Part]) -> Kind {
    let has = |op: &str, kind: Kind| own.contains(op) || children.iter().any(|c| c.kind == kind);
    let both = children.iter().any(|c| c.kind == Kind::Hybrid);
    let (attends, recurs) = (both || has("attend", Kind::Attention), both || has("recur", Kind::Recurrence));
    match (attends, recurs) {
        (true, true) => Kind::Hybrid,
        (true, false) => Kind::Attention,
        (false, true) => Kind::Recurrence,
        _ if has("top", Kind::Routed) => Kind::Routed,
        _ if has("conv", Kind::Convolution) => Kind::Convolution,
        _ if has("dense", Kind::Dense) => Kind::Dense,
        _ if has("gather", Kind::Lookup) => Kind::Lookup,
        _ => Kind::Pointwise,
    }
}

/// Caches of an attention. What no query sees any more is kept all the same, unless it lies behind a window.
fn caches(model: &Model, value: &Value, attend: &Attend, reaches: &mut Reaches) -> Vec<Memory> {
    let axes = |n: usize| value.args.get(n).map(|a| model.values[a.0 as usize].ty.axes.clone()).unwrap_or_default();
    let heads: Vec<_> = axes(1).into_iter().filter(|axis| !attend.contract.contains(axis) && *axis != attend.keys).collect();
    let of = |n: usize| elements(model, &union(&heads, &axes(n)));
    // What `keep` and `score` ask of a key's position lies beside the key, for each head of the queries that it differs in.
    let keyed: u64 = attend.keyed.iter().map(|n| of(attend.operands() + n)).sum();
    if matches!(attend.gives, Gives::Tally { .. }) {
        return vec![];
    }
    let kept = cached(attend, reaches.together);
    let reach = Some(if kept.is_ring() { reaches.of(attend) } else { Reach::Share(1.0) });
    let parts = elements(model, &heads);
    let cache = |name: &str, all: u64| {
        let elements = parts * (all / parts).div_ceil(kept.every() as u64);
        Memory { name: name.into(), elements, reach }
    };
    let keys = cache("keys", of(1) + keyed);
    if attend.gives == Gives::Values { vec![keys, cache("values", of(2))] } else { vec![keys] }
}

fn memory(model: &Model, value: &Value, reaches: &mut Reaches) -> Vec<Memory> {
    let fixed = |name: &str, elements| Memory { name: name.into(), elements, reach: None };
    match &value.op {
        Op::Recur(recur) => recur.states.iter().map(|s| fixed(&s.name, elements(model, &s.axes))).collect(),
        Op::Attend(attend) => caches(model, value, attend, reaches),
        Op::Conv(width) => {
            vec![fixed("window", (elements(model, &[*width]).saturating_sub(1)) * elements(model, &value.ty.axes))]
        }
        Op::Shift(by) => vec![fixed("shift", *by as u64 * elements(model, &value.ty.axes))],
        _ => Vec::new(),
    }
}

/// For each used parameter the scope that declares it, its elements, and how many of them one token reads.
fn parameters(model: &Model, used: &[bool]) -> Vec<(usize, u64, u64)> {
    let paths: BTreeMap<String, usize> = (0..model.scopes.len()).map(|at| (path(model, at), at)).collect();
    let mut read: BTreeMap<ParamId, (u64, usize)> = BTreeMap::new();
    for (at, value) in model.values.iter().enumerate().filter(|(at, _)| used[*at]) {
        for arg in &value.args {
            let Op::Param(id) = model.values[arg.0 as usize].op else { continue };
            let all = elements(model, &model.params[id.0 as usize].axes);
            let rows = match value.op {
                _ if is_encoded(model, value) => 0,
                Op::Gather(_) if has_sequence(model, &model.values[at].ty) => elements(model, &value.ty.axes).min(all),
                _ => all,
            };
            let known = read.entry(id).or_insert((0, value.scope.0 as usize));
            known.0 = rows.max(known.0);
        }
    }
    let owner = |path: &str, reader: usize| {
        let mut prefix = path;
        while let Some((outer, _)) = prefix.rsplit_once('.') {
            if let Some(scope) = paths.get(outer) {
                return *scope;
            }
            prefix = outer;
        }
        // A parameter of the model itself is told where it is first read.
        reader
    };
    let size = |id: ParamId| elements(model, &model.params[id.0 as usize].axes);
    let told = |(id, (active, reader)): (&ParamId, &(u64, usize))| {
        (owner(&model.params[id.0 as usize].path, *reader), size(*id), *active)
    };
    read.iter().map(told).collect()
}

fn path(model: &Model, mut at: usize) -> String {
    let mut names = Vec::new();
    while let Some(parent) = model.scopes[at].parent {
        names.push(model.scopes[at].name.as_str());
        at = parent.0 as usize;
    }
    names.reverse();
    names.join(".")
}

/// What crosses the border of each scope.
struct Ends {
    input: Vec<Option<Type>>,
    output: Vec<Option<Type>>,
}

impl Ends {
    fn of(model: &Model, used: &[bool]) -> Ends {
        let mut ends = Ends { input: vec![None; model.scopes.len()], output: vec![None; model.scopes.len()] };
        let ancestors = |scope: ScopeId| {
            let mut at = Some(scope);
            std::iter::from_fn(move || {
                let here = at?;
                at = model.scopes[here.0 as usize].parent;
                Some(here.0 as usize)
            })
        };
        for value in model.values.iter().enumerate().filter(|(at, _)| used[*at]).map(|(_, v)| v) {
            let reader: Vec<usize> = ancestors(value.scope).collect();
            for arg in &value.args {
                let made = &model.values[arg.0 as usize];
                if !has_sequence(model, &made.ty) {
                    continue;
                }
                let maker: Vec<usize> = ancestors(made.scope).collect();
                for left in maker.iter().filter(|s| !reader.contains(s)) {
                    ends.output[*left] = Some(made.ty.clone());
                }
                for entered in reader.iter().filter(|s| !maker.contains(s)) {
                    ends.input[*entered].get_or_insert_with(|| made.ty.clone());
                }
            }
        }
        let last = &model.values[model.output.0 as usize];
        ancestors(last.scope).for_each(|s| ends.output[s] = Some(last.ty.clone()));
        ends.input[0] = model.inputs.first().map(|(_, ty)| ty.clone());
        ends
    }

    fn fill(&self, part: &mut Part) {
        part.input = self.input[part.id.0 as usize].clone();
        part.output = self.output[part.id.0 as usize].clone();
        part.children.iter_mut().for_each(|c| self.fill(c));
    }
}

/// A type as text: `[t, d=256]`.
pub fn shape(model: &Model, ty: &Type) -> String {
    let named = ty.axes.iter().map(|a| {
        let axis = &model.axes[a.0 as usize];
        let name = axis.name.split('\'').next().unwrap_or_default();
        match axis.size {
            Size::Fixed(n) => format!("{name}={n}"),
            Size::Seq => name.to_string(),
        }
    });
    format!("[{}]", named.collect::<Vec<_>>().join(", "))
}
