//! What was derived from the equations and what became one kernel, with the reasons.

use super::report::ranges;
use crate::forms::{Extent, Forms, Reach, StateDecl, StateKind, recur};
use crate::fuse::Fused;
use crate::fuse::kernel::Rows;
use crate::graph::{Graph, NodeId, axes_text, op_text, scope_path};
use crate::plan::{Plan, Step};
use braid_dsl::model::Op;
use braid_dsl::source::SourceMap;

/// The derivations of a planned model as text.
pub fn explain(plan: &Plan, sources: &SourceMap) -> String {
    let (fused, forms) = (&plan.fused, &plan.fused.forms);
    let (steps, functions) = (plan.prepare.len() + plan.steps.len(), plan.functions.len());
    let head = format!("{}: {} kernels, {steps} calls of {functions} functions\n", forms.graph.name, fused.kernels.len());
    let parts = [
        section("recurrences", recurrences(forms, sources)),
        section("memory that a sequence carries", memories(forms)),
        section("kernels, in order", kernels(plan, sources)),
        section("not joined", reasons(fused, sources)),
    ];
    head + &parts.concat()
}

/// Lines that differ in the number of their layer only become one.
fn section(title: &str, lines: Vec<String>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for line in &lines {
        let (pattern, number) = numbered(line);
        match groups.iter_mut().find(|(known, _)| *known == pattern) {
            Some((_, numbers)) => numbers.extend(number),
            None => groups.push((pattern, number.into_iter().collect())),
        }
    }
    let body: String = groups.iter().map(|(pattern, numbers)| format!("  {}\n", pattern.replace(HOLE, &list(numbers)))).collect();
    format!("\n{title}\n{body}")
}

const HOLE: &str = "{i}";

fn list(numbers: &[usize]) -> String {
    match numbers {
        [one] => one.to_string(),
        many => {
            let mut sorted = many.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            format!("{{{}}}", ranges(&sorted))
        }
    }
}

/// The line with a hole for the first number of its first path, and that number.
fn numbered(line: &str) -> (String, Option<usize>) {
    let path = line.split([' ', ':']).next().unwrap_or_default();
    let Some(part) = path.split('.').find(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) else {
        return (line.to_string(), None);
    };
    let holed = path.replacen(&format!(".{part}"), &format!(".{HOLE}"), 1);
    (format!("{holed}{}", &line[path.len()..]), part.parse().ok())
}

fn recurrences(forms: &Forms, sources: &SourceMap) -> Vec<String> {
    let graph = &forms.graph;
    let nodes = graph.order().into_iter().filter(|node| matches!(graph.op(*node), Op::Recur(_)));
    let called = |node| label(graph, node, sources, 3);
    let told = |node| {
        let path = path(graph, node);
        // Its first line says whose it is, as ours does.
        let text = recur::explain(graph, node, forms.chunks.get(&node));
        let lines: Vec<String> =
            text.trim_end().lines().skip(1).map(|line| format!("\n  {}", named(graph, line, &called))).collect();
        format!("{path}:{}", lines.concat().replace(&format!("{path}."), ""))
    };
    nodes.map(told).collect()
}

/// The dotted path of the instance that a node belongs to.
fn path(graph: &Graph, node: NodeId) -> String {
    match scope_path(&graph.scopes, graph.node(node).scope) {
        path if path.is_empty() => graph.name.clone(),
        path => path,
    }
}

fn memories(forms: &Forms) -> Vec<String> {
    forms.states.iter().filter(|s| s.kind != StateKind::Positions).map(|state| memory(forms, state)).collect()
}

fn memory(forms: &Forms, state: &StateDecl) -> String {
    let axes = axes_text(&state.axes, &forms.graph.axes);
    let kind = match (state.kind, forms.reach(state.node)) {
        (StateKind::Recurrence, _) => "state of a recurrence".to_string(),
        (StateKind::Convolution, _) => "rows under a convolution's window".to_string(),
        (StateKind::Shift, _) => "rows that a shift looks back to".to_string(),
        (kind, Reach::Full) => format!("cache of {}: every position can still be seen", kind.name()),
        (kind, Reach::Every { every }) => format!("cache of {}: the last of every {every} positions", kind.name()),
        (kind, Reach::Window { window, .. }) => format!("cache of {}: only the last {window} positions can be seen", kind.name()),
        (kind, Reach::SinksAndWindow { first, window, .. }) => {
            format!("cache of {}: the first {first} and the last {window} positions can be seen", kind.name())
        }
    };
    let size = match state.extent {
        Extent::Fixed { elements } => format!("{elements} numbers"),
        Extent::Ring { rows, elements } => format!("a ring of {rows} rows of {elements} numbers"),
        Extent::PerPosition { elements } => format!("{elements} numbers a position"),
    };
    format!("{} {axes}: {kind}; {size}", state.name)
}

fn kernels(plan: &Plan, sources: &SourceMap) -> Vec<String> {
    plan.prepare.iter().chain(&plan.encode).chain(&plan.steps).map(|step| kernel(plan, step, sources)).collect()
}

fn kernel(plan: &Plan, step: &Step, sources: &SourceMap) -> String {
    let kernel = &plan.fused.kernels[step.kernel()];
    let graph = &plan.fused.forms.graph;
    let rows = match kernel.rows {
        Rows::Once => "once",
        Rows::Source => "every row of the source",
        Rows::All => "every row",
        Rows::Wanted => "wanted rows",
    };
    let scope = kernel.nodes.last().map_or(String::new(), |n| path(graph, *n));
    let mut ops: Vec<String> = Vec::new();
    for node in &kernel.nodes {
        let name = op_name(graph, *node);
        if ops.last().is_none_or(|last| *last != name) {
            ops.push(name);
        }
    }
    format!("{scope} {} ({rows}): {}{}", plan.functions[step.function].name, ops.join(", "), place(graph, &kernel.nodes, sources))
}

/// The op without its operands.
fn op_name(graph: &Graph, node: NodeId) -> String {
    let text = op_text(graph.op(node), &graph.axes, &graph.params, &[]);
    let text = text.trim_end_matches("()").trim().to_string();
    if let Op::Const(_) = graph.op(node) { "constant".into() } else { text }
}

/// ` (file:first-last)`: the lines of the equations.
fn place(graph: &Graph, nodes: &[NodeId], sources: &SourceMap) -> String {
    let Some(last) = nodes.last().map(|n| graph.node(*n).span) else { return String::new() };
    let Some(file) = sources.file(last) else { return String::new() };
    let lines = nodes.iter().map(|n| graph.node(*n).span).filter(|s| s.file == last.file).map(|s| sources.position(s).0);
    let (least, most) = lines.fold((usize::MAX, 0), |(a, b), line| (a.min(line), b.max(line)));
    let range = if least == most { most.to_string() } else { format!("{least}-{most}") };
    format!("  ({}:{range})", file.path)
}

fn reasons(fused: &Fused, sources: &SourceMap) -> Vec<String> {
    let graph = &fused.forms.graph;
    let line = |(node, why): &(NodeId, String)| {
        let scope = path(graph, *node);
        let why = named(graph, why, &|node| format!("`{}`", op_name(graph, node))).replace(&format!("{scope}."), "");
        format!("{scope} {}: {why}{}", op_name(graph, *node), place(graph, &[*node], sources))
    };
    fused.notes.iter().map(line).collect()
}

/// A text with other names in the place of node numbers, which differ from layer to layer.
fn named(graph: &Graph, text: &str, called: &dyn Fn(NodeId) -> String) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        match part[..digits].parse().ok().filter(|at| *at < graph.bound() as u32) {
            Some(at) => out += &format!("{}{}", called(NodeId(at)), &part[digits..]),
            None => out += &format!("%{part}"),
        }
    }
    out
}

/// What people call a node: the name that the text gives it, or what is done with those that have one, so many ops deep.
fn label(graph: &Graph, node: NodeId, sources: &SourceMap, depth: usize) -> String {
    if let Some(name) = given_name(sources.text(graph.node(node).span)) {
        return name.to_string();
    }
    let pointwise = matches!(graph.op(node), Op::Unary(_) | Op::Binary(_) | Op::ToFloat);
    match graph.op(node) {
        Op::Param(id) => graph.params[id.0 as usize].path.clone(),
        op if pointwise && depth > 0 => {
            let args: Vec<String> = graph.args(node).into_iter().map(|arg| label(graph, arg, sources, depth - 1)).collect();
            op_text(op, &graph.axes, &graph.params, &args)
        }
        _ => format!("`{}`", op_name(graph, node)),
    }
}

/// The name in `name = …`.
fn given_name(statement: &str) -> Option<&str> {
    let (name, rest) = statement.split_once('=')?;
    let name = name.trim();
    let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (word && !rest.starts_with('=')).then_some(name)
}
