//! Expressions as canonical text, on one line.

use crate::{
    ast::{Arg, Attend, BinOp, Expr, ExprKind, Ident, IndexItem, Reducer, UnOp},
    constant,
};

/// An expression on one line.
pub(crate) fn expression(e: &Expr) -> String {
    match &e.kind {
        ExprKind::Int(v) => v.to_string(),
        ExprKind::Float(_, text) => text.clone(),
        ExprKind::Text(v) => constant::render(&crate::model::Constant::Text(v.clone())),
        ExprKind::Name(name) => name.clone(),
        ExprKind::Field(a, name) => format!("{}.{}", expression(a), name.name),
        ExprKind::List(items) => format!("[{}]", joined(items)),
        ExprKind::Comprehension(c) => {
            let cond = c.cond.as_ref().map_or(String::new(), |e| format!(" if {}", expression(e)));
            format!("[{} for {} in {}{cond}]", expression(&c.value), c.var.name, expression(&c.list))
        }
        ExprKind::Paren(a) => format!("({})", expression(a)),
        ExprKind::Unary(UnOp::Neg, a) => format!("-{}", expression(a)),
        ExprKind::Unary(UnOp::Not, a) => format!("!{}", expression(a)),
        ExprKind::Binary(op, a, b) => format!("{} {} {}", expression(a), sign(*op), expression(b)),
        ExprKind::Reduce(word, axes, body) => format!("{}[{}] {}", reducer(*word), names(axes), expression(body)),
        ExprKind::Call(callee, args) => format!("{}({})", expression(callee), arguments(args)),
        ExprKind::Index(base, items) => {
            format!("{}[{}]", expression(base), items.iter().map(index_item).collect::<Vec<_>>().join(", "))
        }
        ExprKind::If(arms, other) => {
            let arms = arms.iter().map(|(c, v)| format!("if {} {{ {} }} else ", expression(c), expression(v)));
            format!("{}{{ {} }}", arms.collect::<String>(), expression(other))
        }
        ExprKind::Match(subject, arms) => {
            let arms = arms.iter().map(|a| format!("{} => {}", patterns(&a.patterns), expression(&a.value)));
            format!("match {} {{ {} }}", expression(subject), arms.collect::<Vec<_>>().join(", "))
        }
        ExprKind::Attend(attend) => {
            let head = attend_head(attend);
            let clauses = attend.clauses.iter().map(|(n, e)| format!("{}: {}", n.name, expression(e)));
            match attend.clauses.is_empty() {
                true => head,
                false => format!("{head} {{ {} }}", clauses.collect::<Vec<_>>().join("   ")),
            }
        }
        ExprKind::Route(route) => {
            format!("route[{}]({}) {{ {} }}", names(&route.axes), expression(&route.ids), expression(&route.body))
        }
    }
}

/// Attention, a choice or a tally without its clauses.
pub(super) fn attend_head(attend: &Attend) -> String {
    let (axes, args) = (names(&attend.axes), arguments(&attend.args));
    match &attend.slot {
        Some(slot) => format!("choose[{axes} as {}]({args})", slot.name),
        None if attend.tally => format!("tally[{axes}]({args})"),
        None => format!("attend[{axes}]({args})"),
    }
}

/// The sign of an operator in canonical text.
pub(super) fn sign(op: BinOp) -> &'static str {
    match op {
        BinOp::Op(op) => constant::word(op),
        BinOp::Else => "??",
    }
}

fn reducer(word: Reducer) -> &'static str {
    match word {
        Reducer::Sum => "sum",
        Reducer::Max => "max",
        Reducer::Min => "min",
        Reducer::Mean => "mean",
    }
}

/// Names with commas.
pub(super) fn names(list: &[Ident]) -> String {
    list.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn joined(items: &[Expr]) -> String {
    items.iter().map(expression).collect::<Vec<_>>().join(", ")
}

/// Arguments with commas.
pub(super) fn arguments(args: &[Arg]) -> String {
    args.iter().map(argument).collect::<Vec<_>>().join(", ")
}

/// One argument.
pub(super) fn argument(arg: &Arg) -> String {
    match &arg.name {
        Some(name) => format!("{}: {}", name.name, expression(&arg.value)),
        None => expression(&arg.value),
    }
}

/// What stands before `=>`.
pub(super) fn patterns(list: &[Expr]) -> String {
    if list.is_empty() { "_".into() } else { list.iter().map(expression).collect::<Vec<_>>().join(" | ") }
}

fn index_item(item: &IndexItem) -> String {
    match item {
        IndexItem::Merge(from, to) => format!("({}) as {}", names(from), to.name),
        IndexItem::Split(from, to) => format!("{} as ({})", from.name, names(to)),
        IndexItem::Rename(from, to) => format!("{} as {}", from.name, to.name),
        IndexItem::At(axis, e) => format!("{}: {}", axis.name, expression(e)),
        IndexItem::Slice(axis, a, b, to) => {
            let to = to.as_ref().map_or(String::new(), |t| format!(" as {}", t.name));
            format!("{}: {}..{}{to}", axis.name, expression(a), expression(b))
        }
        IndexItem::Plain(e) => expression(e),
    }
}
