//! The convolution form of a recurrence whose coefficients are the same at every step: `y = K * u`.
//!
//! With `S' = A S + B u` and `y = G S + F u`, where nothing but `u` and `F u` differs from row to row, a piece of rows is
//!
//! `y_i = G A^i S + sum[j < i] (G A^(i-1-j) B) u_j + F u_i`, and leaves `A^n S + sum[j] (A^(n-1-j) B) u_j`,
//!
//! whose tables `G A^i`, `A^(n-1-j) B`, the kernel `K_d = G A^(d-1) B` as a matrix of rows and columns (Toeplitz), and `A^n` are made once, when weights are
//! loaded, by doubling (Gu, Goel and Ré 2021, arXiv:2111.00396, section 2.3). A chunk is several pieces side by side: what they write and
//! what is read are matrix products, and only the states go from piece to piece.

mod body;
mod matrix;
mod nodes;
mod reads;
mod tables;
mod tangent;

use super::chunk::{Chunk, cost};
use super::groups::stateful;
use crate::graph::{Graph, NodeId};
use braid_dsl::model::{AxisId, Body, Op, Recur, ValueId};
use matrix::{Matrix, Mixing};
use nodes::Nodes;
use tangent::Step;

/// How a chunk that is a convolution is cut.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// How many there are.
    pub count: usize,
    /// Rows of one.
    pub rows: usize,
    /// Numbers of all tables.
    pub table: usize,
    /// The tables, in the order in which they stand behind the recurrence's other operands.
    pub tables: Vec<Table>,
    /// What states behind a piece, and reads, are sums of, one a line.
    pub sums: Vec<String>,
    /// What is written of every row; `u1`, `u2` … in `sums`.
    pub inputs: Vec<ValueId>,
    /// What is read at every row; `y1`, `y2` … in `sums`.
    pub reads: Vec<ValueId>,
}

/// One table, as it is told.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What it is.
    pub meaning: String,
}

/// Axes of pieces.
#[derive(Clone, Copy, Debug)]
struct Axes {
    /// Rows of a chunk.
    row: AxisId,
    /// Pieces of a chunk.
    piece: AxisId,
    /// Rows of a piece.
    inside: AxisId,
    /// The same under sums.
    column: AxisId,
    /// One index.
    unit: AxisId,
}

/// Most pieces of a chunk: the states' way from one to the next is written out.
const MOST_PIECES: usize = 16;

/// Most numbers of the tables of a recurrence: 32 MiB of them, and some times as much while they are made.
const MOST_NUMBERS: usize = 8 << 20;

/// The convolution form of a recurrence in chunks of so many rows, in the pieces that cost least. Its tables become operands of the recurrence.
///
/// # Errors
/// What stands in the way, in words.
pub fn derive(graph: &mut Graph, node: NodeId, rows: usize) -> Result<Chunk, String> {
    let Op::Recur(recur) = graph.op(node).clone() else { return Err("no recurrence".into()) };
    let found = cuts(rows).into_iter().filter_map(|(count, size)| {
        let mut trial = graph.clone();
        let chunk = in_pieces(&mut trial, node, &recur, (count, size)).ok()?;
        Some((cost::of_chunk(&trial.axes, &recur, &chunk), count, size))
    });
    match found.min() {
        Some((_, count, size)) => in_pieces(graph, node, &recur, (count, size)),
        // What stands in the way of all of them.
        None => in_pieces(&mut graph.clone(), node, &recur, (1, rows)),
    }
}

/// Numbers of pieces and their rows that make up so many rows.
fn cuts(rows: usize) -> Vec<(usize, usize)> {
    (1..=rows.min(MOST_PIECES)).filter(|count| rows.is_multiple_of(*count)).map(|count| (count, rows / count)).collect()
}

/// The convolution form in chunks of so many pieces of so many rows.
///
/// # Errors
/// What stands in the way, in words.
pub fn in_pieces(graph: &mut Graph, node: NodeId, recur: &Recur, (count, rows): (usize, usize)) -> Result<Chunk, String> {
    let args = graph.args(node);
    let stateful = stateful(&recur.body, &[]);
    let timed = timed(graph, &args, &recur.body);
    let step = Step { recur, args: &args, stateful: &stateful, timed: &timed };
    let mut nodes = Nodes::beside(graph, node);
    let axes = Axes {
        row: nodes.axis("i'", count * rows),
        piece: nodes.axis("c'", count),
        inside: nodes.axis("p'", rows),
        column: nodes.axis("q'", rows),
        unit: nodes.axis("one'", 1),
    };
    let mixing = Mixing::of(&mut nodes, &step);
    let transition = Matrix::of_step(&mut nodes, &step, &mixing)?;
    let made = body::make(nodes, &step, &mixing, transition, (axes, count, rows))?;
    if let Some(table) = made.chunk.pieces.as_ref().map(|pieces| pieces.table).filter(|table| *table > MOST_NUMBERS) {
        return Err(format!("its tables would have {table} numbers, more than {MOST_NUMBERS}"));
    }
    let operands = [args, made.tables].concat();
    graph.set_args(node, &operands);
    graph.prune();
    Ok(made.chunk)
}

/// Which values of a step differ from row to row, apart from states.
fn timed(graph: &Graph, args: &[NodeId], body: &Body) -> Vec<bool> {
    let mut found: Vec<bool> = vec![];
    for value in &body.values {
        let own = match value.op {
            Op::Capture(n) => graph.has_seq(graph.ty(args[n])),
            Op::Position(_) | Op::Length(..) => true,
            _ => false,
        };
        found.push(own || value.args.iter().any(|arg| found[arg.0 as usize]));
    }
    found
}
