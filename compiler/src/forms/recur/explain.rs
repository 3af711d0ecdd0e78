//! The derivation of a recurrence's class, told to people.

use super::called::called;
use super::chunk::{self, Chunk};
use super::convolution::Pieces;
use super::{Class, Corrections, Group, Read, Transition, captures, classify, names, range, solve};
use crate::graph::{Graph, NodeId, axes_text, scope_path};
use braid_dsl::model::{Axis, Body, Op, Recur};

/// What was found out about one recurrence, and how it is computed, if that is decided; empty for other nodes.
pub fn explain(graph: &Graph, node: NodeId, chunk: Option<&Result<Chunk, String>>) -> String {
    let (Op::Recur(recur), Some(class)) = (graph.op(node), classify(graph, node)) else { return String::new() };
    let scope = scope_path(&graph.scopes, graph.node(node).scope);
    let place = if scope.is_empty() { String::new() } else { format!(" of {scope}") };
    let mut out = String::new();
    for group in &class.groups {
        out.push_str(&group_text(graph, recur, group));
    }
    let solved = solve::in_matrices(recur);
    if !solved.is_empty() {
        out += &format!("  {} read through a linear solve\n", names(recur, &solved));
    }
    match chunk {
        Some(Ok(chunk)) => out += &forms_text(graph, node, recur, &class, chunk),
        Some(Err(why)) => {
            let cost = Cost::of(&graph.axes, recur, &recur.body, 1);
            out += &format!("  whole sequence: step by step, {cost}; {why}\n");
        }
        None => {}
    }
    let mut out = called(graph, node, &out);
    if !scope.is_empty() {
        out = out.replace(&format!("{scope}."), "");
    }
    format!("recurrence{place}\n{out}")
}

/// The chunk form, why it is safe, and what it costs.
fn forms_text(graph: &Graph, node: NodeId, recur: &Recur, class: &Class, chunk: &Chunk) -> String {
    let rows = chunk.rows;
    let (steps, at_once) = (Cost::of(&graph.axes, recur, &recur.body, 1), Cost::of(&graph.axes, recur, &chunk.body, rows));
    let kind = if chunk.aligned { "mini-batches" } else { "chunks" };
    let form = if chunk.pieces.is_some() { "a convolution, " } else { "" };
    let mut out =
        format!("  whole sequence: {form}in {kind} of {rows} rows, {at_once}\n  single steps, and rows left over: {steps}\n");
    let (a_step, a_row) = (chunk::of_steps(&graph.axes, recur), chunk::of_chunk(&graph.axes, recur, chunk));
    out += &format!("  with what they store weighed in, a row of a chunk costs {a_row}, a step {a_step}\n");
    match &chunk.pieces {
        Some(pieces) => out += &pieces_text(pieces),
        None => {
            out +=
                "  a chunk, with i a row of it, j a row not ahead of i, what has no index at row i, and states as they enter:\n"
        }
    }
    equations(graph, node, chunk).iter().for_each(|line| out += &format!("    {line}\n"));
    let factors = chunk.body.values.iter().filter_map(|value| match value.op {
        Op::Products { .. } => Some(value.args[0]),
        Op::Scores { .. } => Some(value.args[2]),
        _ => None,
    });
    let ranges: Vec<_> = factors.map(|id| range::of_value(graph, node, &chunk.body, id)).collect();
    if !ranges.is_empty() {
        let within = ranges.iter().all(|(low, high)| *low >= 0.0 && *high <= 1.0);
        let running = class.groups.iter().find_map(|group| group.stabilised_by.clone());
        let known = match running {
            _ if within => "they lie in [0, 1], so no product overflows".into(),
            Some(m) => format!("the running maximum `{m}` keeps them small"),
            None => "whether they stay below 1 is not known here".into(),
        };
        out += &format!("    decays are multiplied up from the steps' own factors, never divided; {known}\n");
    }
    out
}

/// Why a convolution is allowed, and its tables.
fn pieces_text(pieces: &Pieces) -> String {
    let Pieces { count, rows, table, tables, .. } = pieces;
    let mut out = String::from(
        "  no coefficient of the states differs from row to row: what a row wrote is seen n rows on through the n-th power of one transition\n",
    );
    out += &format!(
        "  {table} numbers in tables, made once from the weights, with A a step's transition, B what it writes, G what is read of what it finds:\n"
    );
    tables.iter().for_each(|table| out += &format!("    {} = {}\n", table.name, table.meaning));
    let kind = if *count == 1 { "piece" } else { "pieces" };
    out + &format!(
        "  a chunk is {count} {kind} of {rows} rows, with c a piece, p a row of it, and j a row of it (before p in kernels):\n"
    )
}

/// The equations of a recurrence's chunk form, one a line.
pub fn equations(graph: &Graph, node: NodeId, chunk: &Chunk) -> Vec<String> {
    match graph.op(node) {
        Op::Recur(recur) => chunk::lines(&graph.axes, &graph.params, recur, &captures(graph, node), chunk),
        _ => vec![],
    }
}

/// What one row costs.
struct Cost {
    /// Operations; a multiplication and an addition are two.
    flops: usize,
    /// Bytes of states that go in and out.
    bytes: usize,
}

impl Cost {
    fn of(axes: &[Axis], recur: &Recur, body: &Body, rows: usize) -> Cost {
        let elements: usize = recur.states.iter().map(|state| chunk::size(axes, &state.axes)).sum();
        Cost { flops: chunk::flops(axes, body) / rows, bytes: 2 * 4 * elements / rows }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} operations and {} bytes of state a row", self.flops, self.bytes)
    }
}

/// The classes of a recurrence's states in one line.
pub fn title(graph: &Graph, recur: &Recur, class: &Class) -> String {
    let one = |group: &Group| format!("{}: {}", names(recur, &group.states), group.title(graph, recur));
    class.groups.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn group_text(graph: &Graph, recur: &Recur, group: &Group) -> String {
    let mut out = String::new();
    for n in &group.states {
        let state = &recur.states[*n];
        out += &format!("  state {}: {}, starts with {}\n", state.name, axes_text(&state.axes, &graph.axes), state.init);
    }
    out += &format!("    class: {}\n", group.title(graph, recur));
    for equation in &group.equations {
        out += &format!("    {equation}\n");
    }
    if let Some(m) = &group.stabilised_by {
        out += &format!("    stored times exp(-{m}); the equations are those of the state without it\n");
    }
    if !group.fed_by.is_empty() {
        out += &format!("    needs {} first\n", names(recur, &group.fed_by));
    }
    out + &format!("    read {}\n", group.reads_text())
}

impl Group {
    /// The class in words.
    fn title(&self, graph: &Graph, recur: &Recur) -> String {
        let mut text = self.transition.text(graph, recur);
        if let Some(corrections) = &self.corrections {
            text += &corrections.text(graph);
        }
        if self.invariant && self.transition != Transition::Keep && self.transition != Transition::Replace {
            text += ", the same at every step";
        }
        if self.convolution {
            text += ", a convolution of the input";
        }
        if let Some(m) = &self.stabilised_by {
            text += &format!(", exponentials stabilised by the running maximum `{m}`");
        }
        text
    }

    fn reads_text(&self) -> &'static str {
        match (self.reads.before, self.reads.after) {
            (true, true) => "before and after the update",
            (true, false) => "before the update",
            (false, true) => "after the update",
            (false, false) => "by no output directly",
        }
    }
}

impl Transition {
    fn text(&self, graph: &Graph, recur: &Recur) -> String {
        match self {
            Transition::Replace => "replaced at every step".into(),
            Transition::Keep => "no decay".into(),
            Transition::Scalar => "scalar decay".into(),
            Transition::Diagonal(axes) => format!("diagonal decay over {}", axes_text(axes, &graph.axes)),
            Transition::ElementWise => "element-wise decay".into(),
            Transition::Dense(axes) => format!("a full matrix over {}", axes_text(axes, &graph.axes)),
            Transition::Held(rows) => format!("as a mini-batch of {rows} rows began"),
            Transition::RunningMax => "running maximum".into(),
            Transition::Complex => "complex decay of real and imaginary part".into(),
            Transition::Coupled => "coupled states".into(),
            Transition::NonLinear(obstacle) => {
                let states: Vec<usize> = obstacle.states.iter().copied().collect();
                format!("not linear: {} of {} stands in the way", obstacle.what, names(recur, &states))
            }
        }
    }
}

impl Corrections {
    fn text(&self, graph: &Graph) -> String {
        let read = match self.read {
            Read::Plain => "",
            Read::Decayed => " (reads of the decayed state)",
            Read::Undecayed => " (reads of the undecayed state)",
        };
        format!(" plus rank {} over {}{read}", self.rank, axes_text(&self.axes, &graph.axes))
    }
}
