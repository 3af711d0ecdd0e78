//! What comes into a recurrence, called as in the source.

use crate::graph::{Graph, NodeId, op_text};
use braid_dsl::model::{Binary, Op, Unary};

/// Rows of a chunk in equations: no value is called so.
const ROWS: &[&str] = &["i", "j", "s"];

/// How deep a value without a name is written out.
const DEEPEST: usize = 3;

/// A text about a recurrence with names in the place of node numbers. Different values have different names.
pub fn called(graph: &Graph, node: NodeId, text: &str) -> String {
    let Op::Recur(recur) = graph.op(node) else { return text.into() };
    let mut taken: Vec<String> = recur.states.iter().map(|state| state.name.clone()).collect();
    taken.extend(ROWS.iter().map(|name| (*name).to_string()));
    let mut names = vec![];
    for arg in graph.args(node) {
        let mut name = match graph.name(arg) {
            Some(name) => name.to_string(),
            None => described(graph, arg, DEEPEST),
        };
        while taken.contains(&name) {
            name.push('_');
        }
        taken.push(name.clone());
        names.push((arg, name));
    }
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let id = part[..digits].parse().ok().map(NodeId);
        match names.iter().find(|(arg, _)| Some(*arg) == id) {
            Some((_, name)) => out += &format!("{name}{}", &part[digits..]),
            None => out += &format!("%{part}"),
        }
    }
    out.replace(" + -", " - ")
}

/// A value without a name by what it is made of.
fn described(graph: &Graph, id: NodeId, deepest: usize) -> String {
    if let Some(name) = graph.name(id) {
        return name.to_string();
    }
    if deepest == 0 && !graph.args(id).is_empty() {
        return "..".into();
    }
    let args: Vec<String> = graph.args(id).into_iter().map(|arg| described(graph, arg, deepest - 1)).collect();
    let axis = |axis| graph.axis(axis).name.as_str();
    match graph.op(id) {
        Op::Param(id) => graph.params[id.0 as usize].path.clone(),
        Op::Binary(Binary::Add) => format!("({} + {})", args[0], args[1]),
        Op::Binary(Binary::Sub) => format!("({} - {})", args[0], args[1]),
        Op::Binary(Binary::Mul) => format!("{} {}", args[0], args[1]),
        Op::Binary(Binary::Div) => format!("{} / {}", args[0], args[1]),
        Op::Unary(Unary::Neg) => format!("(-{})", args[0]),
        Op::Rename(from, to) => format!("{}[{} as {}]", args[0], axis(*from), axis(*to)),
        Op::Pick { axis: at, index } => format!("{}[{} = {index}]", args[0], axis(*at)),
        op => op_text(op, &graph.axes, &graph.params, &args),
    }
}
