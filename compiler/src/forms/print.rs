//! Forms as text: the graph, and what each of its two forms loads and stores.

use super::{Extent, Forms, recur};
use crate::graph::axes_text;
use braid_dsl::model::Op;
use std::fmt::Write;

/// Deterministic text.
pub fn print(forms: &Forms) -> String {
    let mut out = format!("{}", forms.graph);
    if forms.states.is_empty() {
        out.push_str("\nnothing is carried from call to call\n");
        return out;
    }
    out.push_str("\ncarried from call to call:\n");
    for state in &forms.states {
        let extent = match state.extent {
            Extent::Fixed { elements } => format!("{elements} elements"),
            Extent::Ring { rows, elements } => format!("ring of {rows} x {elements} elements"),
            Extent::PerPosition { elements } => format!("{elements} elements a position"),
        };
        let axes = axes_text(&state.axes, &forms.graph.axes);
        let kind = if state.kind.name() == state.name { String::new() } else { format!("{} ", state.kind.name()) };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {kind}{} {axes} of {}: {extent}", state.name, state.node);
    }
    out.push_str("\nprefill: rows of a sequence in order; states are loaded before the first and stored after the last\n");
    out.push_str("step: one row of each sequence, at its own position\n");
    for (node, states) in ordered(forms) {
        let names: Vec<&str> = states.iter().map(|s| forms.states[s.index()].name.as_str()).collect();
        let _ = writeln!(out, "  {node}: load {0}; compute; store {0}", names.join(", "));
        if let (Op::Recur(recur), Some(class)) = (forms.graph.op(node), forms.classes.get(&node)) {
            let _ = writeln!(out, "      {}", recur::title(&forms.graph, recur, class));
        }
        if let Some(Ok(chunk)) = forms.chunks.get(&node) {
            let _ = writeln!(out, "      a whole sequence in chunks of {} rows:", chunk.rows);
            for line in recur::equations(&forms.graph, node, chunk) {
                let _ = writeln!(out, "        {line}");
            }
        }
    }
    out
}

fn ordered(forms: &Forms) -> Vec<(crate::graph::NodeId, &Vec<super::StateId>)> {
    let carried = forms.graph.order().into_iter().filter_map(|n| forms.carried.get(&n).map(|states| (n, states)));
    carried.collect()
}
