//! Expressions that do not fit a line.

use super::{
    WIDTH,
    expr::{attend_head, expression, names, patterns, sign},
};
use crate::ast::{Arg, BinOp, Expr, ExprKind};

/// Whether text that begins at a column fits its line, with room for what closes it.
fn fits(text: &str, column: usize) -> bool {
    !text.contains('\n') && column + text.chars().count() <= WIDTH
}

/// An expression that begins at `column` of a line with that indent; `spread`: each `match` gets a line for each arm.
pub(super) fn wrapped(e: &Expr, indent: usize, column: usize, spread: &dyn Fn(&Expr) -> bool) -> String {
    let line = expression(e);
    if fits(&line, column) && !spread(e) {
        return line;
    }
    let inner = indent + 2;
    let (pad, end) = (" ".repeat(inner), " ".repeat(indent));
    match &e.kind {
        ExprKind::Paren(a) => format!("({})", wrapped(a, indent, column + 1, spread)),
        ExprKind::Call(callee, args) if !args.is_empty() => {
            let head = expression(callee);
            match args.as_slice() {
                [one] if one.name.is_none() && !fits(&line, column) && fits(&head, column) => {
                    format!("{head}({})", wrapped(&one.value, indent, column + head.chars().count() + 1, spread))
                }
                _ if fits(&line, column) => line,
                _ => format!("{head}(\n{}\n{end})", filled(args, inner, spread)),
            }
        }
        ExprKind::Match(subject, arms) => {
            let mut out = format!("match {} {{\n", expression(subject));
            for arm in arms {
                let head = format!("{} => ", patterns(&arm.patterns));
                let value = wrapped(&arm.value, inner, inner + head.chars().count() + 1, spread);
                out.push_str(&format!("{pad}{head}{value},\n"));
            }
            format!("{out}{end}}}")
        }
        ExprKind::If(arms, other) => {
            let mut out = String::new();
            for (cond, value) in arms {
                let value = wrapped(value, inner, inner, spread);
                out.push_str(&format!("if {} {{\n{pad}{value}\n{end}}} else ", expression(cond)));
            }
            format!("{out}{{\n{pad}{}\n{end}}}", wrapped(other, inner, inner, spread))
        }
        ExprKind::Binary(op, a, b) if !fits(&line, column) => binary(*op, a, b, (indent, column), spread),
        ExprKind::Reduce(..) | ExprKind::Unary(..) => prefixed(e, indent, column, spread),
        ExprKind::List(items) if !fits(&line, column) => {
            let parts: Vec<String> = items.iter().map(expression).collect();
            format!("[\n{}\n{end}]", fill(&parts, inner))
        }
        ExprKind::Attend(attend) if !attend.clauses.is_empty() => {
            let mut out = format!("{} {{\n", attend_head(attend));
            for (name, clause) in &attend.clauses {
                let value = wrapped(clause, inner, inner + name.name.len() + 2, spread);
                out.push_str(&format!("{pad}{}: {value}\n", name.name));
            }
            format!("{out}{end}}}")
        }
        ExprKind::Route(route) => {
            let body = wrapped(&route.body, inner, inner, spread);
            format!("route[{}]({}) {{\n{pad}{body}\n{end}}}", names(&route.axes), expression(&route.ids))
        }
        _ => line,
    }
}

fn binary(op: BinOp, a: &Expr, b: &Expr, (indent, column): (usize, usize), spread: &dyn Fn(&Expr) -> bool) -> String {
    let left = wrapped(a, indent, column, spread);
    let last = left.rsplit('\n').next().map_or(0, |l| l.chars().count()) + if left.contains('\n') { 0 } else { column };
    let right = expression(b);
    if left.contains('\n') && fits(&right, last + 3) {
        return format!("{left} {} {right}", sign(op));
    }
    let inner = indent + 2;
    let right = wrapped(b, inner, inner + sign(op).len() + 1, spread);
    format!("{left}\n{}{} {right}", " ".repeat(inner), sign(op))
}

fn prefixed(e: &Expr, indent: usize, column: usize, spread: &dyn Fn(&Expr) -> bool) -> String {
    let (ExprKind::Reduce(_, _, body) | ExprKind::Unary(_, body)) = &e.kind else { return expression(e) };
    let line = expression(e);
    let head = line.strip_suffix(expression(body).as_str()).unwrap_or("").to_owned();
    let at = column + head.chars().count();
    format!("{head}{}", wrapped(body, indent, at, spread))
}

/// Arguments as lines as full as they go, with a comma at the end.
fn filled(args: &[Arg], indent: usize, spread: &dyn Fn(&Expr) -> bool) -> String {
    let part = |arg: &Arg| {
        let head = arg.name.as_ref().map_or(String::new(), |n| format!("{}: ", n.name));
        format!("{head}{}", wrapped(&arg.value, indent, indent + head.chars().count() + 1, spread))
    };
    fill(&args.iter().map(part).collect::<Vec<_>>(), indent)
}

/// Parts on lines as full as they go, with a comma at the end.
pub(super) fn fill(parts: &[String], indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for part in parts {
        let first = part.split('\n').next().unwrap_or("").chars().count();
        let room = line.rsplit('\n').next().map_or(0, |l| l.chars().count());
        if !line.is_empty() && (room + first + 2 > WIDTH || line.contains('\n') || part.contains('\n')) {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(if line.is_empty() { &pad } else { " " });
        line.push_str(part);
        line.push(',');
    }
    lines.push(line);
    lines.join("\n")
}
