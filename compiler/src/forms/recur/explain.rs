//! The derivation of a recurrence's class, told to people.

use super::{Class, Corrections, Group, Read, Transition, classify, names, solve};
use crate::graph::{Graph, NodeId, axes_text, scope_path};
use braid_dsl::model::{Op, Recur};
use std::fmt::Write;

/// What was found out about one recurrence; empty for other nodes.
pub fn explain(graph: &Graph, node: NodeId) -> String {
    let (Op::Recur(recur), Some(class)) = (graph.op(node), classify(graph, node)) else { return String::new() };
    let scope = scope_path(&graph.scopes, graph.node(node).scope);
    let place = if scope.is_empty() { String::new() } else { format!(" of {scope}") };
    let mut out = format!("recurrence {node}{place}\n");
    for group in &class.groups {
        out.push_str(&group_text(graph, recur, group));
    }
    let solved = solve::in_matrices(recur);
    if !solved.is_empty() {
        out += &format!("  {} read through a linear solve\n", names(recur, &solved));
    }
    let written = writeln!(out, "  whole sequence: {}", form(&class));
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    out
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
    if let Some(m) = group.stabilised_by {
        let m = &recur.states[m].name;
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
        if let Some(m) = self.stabilised_by {
            text += &format!(", exponentials stabilised by the running maximum `{}`", recur.states[m].name);
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

/// How a whole sequence can be computed.
fn form(class: &Class) -> &'static str {
    let any = |test: fn(&Group) -> bool| class.groups.iter().any(test);
    if any(|group| matches!(group.transition, Transition::NonLinear(_))) {
        return "step by step only";
    }
    if any(|group| matches!(group.transition, Transition::Dense(_) | Transition::Coupled)) {
        return "step by step; linear, so a scan over chunks with full transitions is possible";
    }
    if any(|group| group.corrections.is_some()) {
        return "step by step today; chunks by matrix products and a triangular system are possible";
    }
    if any(|group| matches!(group.transition, Transition::ElementWise | Transition::Complex)) {
        return "step by step, vectorised over the state; a scan is possible, matrix products are not";
    }
    "step by step today; chunks by matrix products are possible"
}
