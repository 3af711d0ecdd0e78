//! The chunk form of a recurrence: many rows at once, by matrix products.
//!
//! It is a body like that of a step, over rows that are an axis; states are those that enter and leave a chunk. The oracle of the
//! tests evaluates it as it stands, and every target lowers it like any other body.

mod batches;
pub mod cost;
mod derive;
pub(super) mod maker;
mod matrices;
mod powers;
mod print;
mod spans;
mod start;
pub(super) mod terms;

use super::contracted_axes;
use super::convolution::{self, Pieces};
use super::groups::stateful;
use crate::forms::{CHUNK, CONVOLUTION, Chunks, Decaying};
use crate::graph::{Graph, NodeId};
use batches::Batches;
use braid_dsl::model::{Axis, Body, Op, Recur, Size, Type, Unary, Value, ValueId};
pub(super) use derive::capture_type;
use derive::{Axes, Derivation};
use maker::Maker;

pub use batches::held;
pub use cost::{flops, of_chunk, of_steps};
pub use print::{lines, size};

/// Many rows of a recurrence at once. Captures with a sequence axis have the row axis in its place; outputs too.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Rows of a chunk.
    pub rows: usize,
    /// A chunk is a mini-batch: it begins at a position that its rows divide.
    pub aligned: bool,
    /// The axis that counts them.
    pub row: braid_dsl::model::AxisId,
    /// The axis that counts them under sums.
    pub column: braid_dsl::model::AxisId,
    /// The axis that counts them between two decays, or in the inverse of a system, if there is one.
    pub third: Option<braid_dsl::model::AxisId>,
    /// Axes of keys and reads that stand side by side.
    pub stacks: Vec<braid_dsl::model::AxisId>,
    /// Pieces that a convolution is cut into, if it is one.
    pub pieces: Option<Pieces>,
    /// The equations.
    pub body: Body,
    /// For each state its value after the chunk.
    pub next: Vec<ValueId>,
    /// What is read, row by row.
    pub outputs: Vec<ValueId>,
}

/// The largest number of named reads, and of keys, of one state.
const MOST_READS: usize = 4;

/// Derives the chunk form of a recurrence; the chunk's axes are added to the graph's. `invert`: the system of named reads is inverted
/// before the state is known, so that what waits for the state are products.
///
/// # Errors
/// What stands in the way, in words.
pub fn derive(graph: &mut Graph, node: NodeId, rows: usize, invert: bool) -> Result<Chunk, String> {
    let Op::Recur(recur) = graph.op(node).clone() else { return Err("no recurrence".into()) };
    let batches = Batches::of(graph, node, &recur);
    if invert && (!choices(&recur).is_empty() || batches.every.is_some() || !batches.firsts.is_empty()) {
        return Err("conditions choose between states, for which matrix units have no form".into());
    }
    let (rows, aligned) = (batches.every.unwrap_or(rows), batches.every.is_some());
    let axes = chunk_axes(&mut graph.axes, rows, invert);
    let captures: Vec<Type> = graph.args(node).iter().map(|arg| capture_type(graph.ty(*arg), recur.seq, axes.row)).collect();
    let maker = Maker::new(&graph.axes, &recur, captures);
    let mut derivation = Derivation::new(maker, &recur, &axes, &batches)?;
    if invert && derivation.crosses() {
        return Err("its states read one another, for which matrix units have no form".into());
    }
    if derivation.parts() > MOST_READS {
        return Err(format!("the update of a state has more than {MOST_READS} keys or reads"));
    }
    derivation.settle();
    let outputs = recur.outputs.iter().map(|id| derivation.output(*id)).collect();
    let next = (0..recur.states.len()).map(|n| derivation.leaving(n)).collect();
    let body = derivation.finish();
    let third = body.values.iter().any(|value| value.ty.axes.contains(&axes.third)).then_some(axes.third);
    let stacks = axes.ranks.iter().flat_map(|(own, summed)| [*own, *summed]).chain([axes.unit]).chain(third).collect();
    let mut chunk = Chunk { rows, aligned, row: axes.row, column: axes.column, third, stacks, pieces: None, body, next, outputs };
    let mut results: Vec<&mut ValueId> = chunk.next.iter_mut().chain(chunk.outputs.iter_mut()).collect();
    chunk.body = crate::graph::body::cleaned(&chunk.body, &graph.axes, &mut results);
    Ok(chunk)
}

/// Where updates choose between values that a state is in: mini-batches, starts with a tensor, places that are written.
fn choices(recur: &Recur) -> Vec<ValueId> {
    let (body, stateful) = (&recur.body, stateful(&recur.body, &[]));
    let needed = cost::needed(body, &recur.next);
    let chooses = |id: &ValueId| {
        let value = &body.values[id.0 as usize];
        value.op == Op::Select && needed[id.0 as usize] && value.args.iter().any(|arg| stateful[arg.0 as usize])
    };
    (0..body.values.len() as u32).map(ValueId).filter(chooses).collect()
}

/// The chunk form of a recurrence, if it is wanted and, unless its size is given, worth it.
///
/// # Errors
/// Why there is none, in words.
pub fn chunked(graph: &mut Graph, node: NodeId, chunks: Chunks) -> Result<Chunk, String> {
    let rows = match chunks {
        Chunks::Off => return Err("chunks are turned off".into()),
        Chunks::Auto => CHUNK,
        Chunks::Rows(rows) => rows,
        Chunks::Matrices { rows, solving, decaying } => return of_matrices(graph, node, (rows, solving), decaying),
    };
    let plain = derive(graph, node, rows, false);
    let rows = if chunks == Chunks::Auto { CONVOLUTION } else { rows };
    let (plain, convolved) = match (plain, convolved(graph, node, rows)) {
        (Err(why), Some(Err(not))) => return Err(format!("{why}; no convolution: {not}")),
        (Err(why), None) => return Err(why),
        (plain, convolved) => (plain.ok(), convolved.and_then(Result::ok)),
    };
    let Op::Recur(recur) = graph.op(node) else { return Err("no recurrence".into()) };
    let cost = |graph: &Graph, chunk: &Chunk| of_chunk(&graph.axes, recur, chunk);
    let plain = plain.map(|chunk| (cost(graph, &chunk), None, chunk));
    let convolved = convolved.map(|(graph, chunk)| (cost(&graph, &chunk), Some(graph), chunk));
    let best = plain.into_iter().chain(convolved).min_by_key(|(cost, ..)| *cost);
    let Some((at_once, changed, chunk)) = best else { return Err("no form was found".into()) };
    let steps = of_steps(&graph.axes, recur);
    if chunks == Chunks::Auto && at_once >= steps {
        let rows = chunk.rows;
        return Err(format!("a chunk of {rows} rows would cost {at_once} a row, a step {steps}, with what they store"));
    }
    if let Some(changed) = changed {
        *graph = changed;
    }
    Ok(chunk)
}

/// A recurrence whose class is the same at every step as a convolution in chunks of so many rows, with the graph that has its tables.
fn convolved(graph: &Graph, node: NodeId, rows: usize) -> Option<Result<(Graph, Chunk), String>> {
    let class = super::classify(graph, node)?;
    if !class.groups.iter().all(|group| group.invariant) {
        return None;
    }
    let mut graph = graph.clone();
    Some(convolution::derive(&mut graph, node, rows).map(|chunk| (graph, chunk)))
}

/// The chunk form for matrix units.
fn of_matrices(graph: &mut Graph, node: NodeId, (rows, solving): (usize, usize), decaying: Decaying) -> Result<Chunk, String> {
    if matches!(graph.op(node), Op::Recur(recur) if contracted_axes(recur).is_empty()) {
        return Err("no read sums over the state: there is no product of matrices".into());
    }
    let known = graph.axes.len();
    let chunk = derive(graph, node, rows, true)?;
    let solves = chunk.body.values.iter().any(|value| matches!(value.op, Op::Substitute { .. }));
    let chunk = if solves && solving != rows {
        graph.axes.truncate(known);
        derive(graph, node, solving, true)?
    } else {
        chunk
    };
    let decays = scores(&chunk.body).next().is_some();
    let by_halves = decaying == Decaying::Halves;
    if let Some(why) = no_faster(&chunk.body, decaying).filter(|_| decays && !by_halves) {
        return Err(format!("its keys decay row after row, {why}"));
    }
    let chunk = if decays { by_powers(graph, node, chunk, by_halves)? } else { chunk };
    if decays && !chunk.rows.is_power_of_two() {
        return Err(format!(
            "its keys decay row after row: chunks of {} rows have no halves, for which there are products",
            chunk.rows
        ));
    }
    Ok(chunk)
}

/// Scores of a chunk whose keys decay row after row.
fn scores(body: &Body) -> impl Iterator<Item = &Value> {
    body.values.iter().filter(|value| matches!(value.op, Op::Scores { .. }))
}

/// Why chunks whose keys decay row after row are no faster than steps on matrix units, whatever they decay by.
fn no_faster(body: &Body, decaying: Decaying) -> Option<&'static str> {
    let axes = |value: &Value, n: usize| &body.values[value.args[n].0 as usize].ty.axes;
    // Axes of the decay that neither side of the product has.
    let apart = |value: &Value| axes(value, 2).iter().any(|axis| !(0..2).any(|n| axes(value, n).contains(axis)));
    if decaying == Decaying::Never {
        Some("in numbers that are not rounded: chunks of it are no faster than steps")
    } else if scores(body).any(apart) {
        Some("in each value of its own: there are no scores that values share, and so no product of matrices")
    } else {
        None
    }
}

/// A chunk whose decays are powers of e, with operands that the step does not have where these come from outside; what is none may stay only if
/// it goes by halves.
///
/// # Errors
/// That decays are no such powers.
fn by_powers(graph: &mut Graph, node: NodeId, chunk: Chunk, by_halves: bool) -> Result<Chunk, String> {
    let Op::Recur(recur) = graph.op(node).clone() else { return Ok(chunk) };
    let (mut changed, mut made) = (graph.clone(), chunk);
    powers::as_powers(&mut changed, node, &recur, &mut made);
    let is_power = |value: &Value| made.body.values[value.args[2].0 as usize].op == Op::Unary(Unary::Exp);
    if !by_halves && !scores(&made.body).all(is_power) {
        let why = "its keys decay row after row, by factors that are no powers of e: by halves of halves of a chunk this is no faster than steps";
        return Err(why.into());
    }
    *graph = changed;
    Ok(made)
}

/// The axes of chunks of so many rows, each once in a graph. A user's axis cannot have these names.
fn chunk_axes(all: &mut Vec<Axis>, rows: usize, invert: bool) -> Axes {
    let mut named = |name: String, size: usize| {
        let axis = Axis { name, size: Size::Fixed(size) };
        let at = all.iter().position(|known| *known == axis).unwrap_or_else(|| {
            all.push(axis);
            all.len() - 1
        });
        braid_dsl::model::AxisId(at as u32)
    };
    Axes {
        row: named("i'".into(), rows),
        column: named("j'".into(), rows),
        third: named("l'".into(), rows),
        inverts: invert,
        rows,
        unit: named("one'".into(), 1),
        ranks: (2..=MOST_READS).map(|n| (named(format!("r{n}'"), n), named(format!("s{n}'"), n))).collect(),
    }
}
