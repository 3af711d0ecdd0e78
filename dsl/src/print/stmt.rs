//! Statements.

use super::{
    Printer, WIDTH,
    expr::{expression, names},
    item::axes,
};
use crate::ast::{Body, Expr, Recur, Stmt, StmtKind};

/// What separates statements that share a line.
const GAP: &str = "   ";

impl Printer<'_> {
    /// Statements in braces; the line so far ends with `{`.
    pub(super) fn body(&mut self, body: &Body) {
        let end = body.span.end as usize;
        if body.stmts.is_empty() && !self.has_comment(body.span) {
            self.out.push('}');
            self.last = end;
            return;
        }
        if let Some(line) = self.inline(body) {
            let trailing = " }".len();
            if self.column() + line.chars().count() + trailing < WIDTH {
                self.out.push_str(&format!(" {line} }}"));
                self.last = end;
                return;
            }
        }
        self.last = body.span.start as usize + 1;
        self.indent += 2;
        if self.comments.get(self.next).is_none_or(|c| !c.trailing || self.breaks(c.start) > 0) {
            self.out.push('\n');
        }
        for (n, stmt) in body.stmts.iter().enumerate() {
            self.stmt(stmt, n.checked_sub(1).and_then(|p| body.stmts.get(p)));
        }
        self.comments_before(end.saturating_sub(1));
        self.indent -= 2;
        self.line_end();
        self.out.push_str(&" ".repeat(self.indent));
        self.out.push('}');
        self.last = end;
    }

    /// A body that the text has on one line, if its statements can stay there.
    fn inline(&self, body: &Body) -> Option<String> {
        if !self.one_line(body.span) || self.has_comment(body.span) {
            return None;
        }
        let parts: Option<Vec<String>> = body.stmts.iter().map(simple).collect();
        parts.map(|p| p.join(GAP))
    }

    fn stmt(&mut self, stmt: &Stmt, before: Option<&Stmt>) {
        let (start, end) = (stmt.span.start as usize, stmt.span.end as usize);
        let line = simple(stmt);
        if let (Some(line), Some(before)) = (&line, before) {
            let beside = self.breaks(start) == 0 && simple(before).is_some() && !self.has_comment(stmt.span);
            if beside && self.column() + GAP.len() + line.chars().count() <= WIDTH && !self.out.ends_with('\n') {
                self.out.push_str(&format!("{GAP}{line}"));
                self.last = end;
                return;
            }
        }
        self.comments_before(start);
        self.comments_inside(start, head_end(stmt));
        self.begin(start);
        match &stmt.kind {
            StmtKind::Repeat(repeat) => {
                let label = repeat.label.as_ref().map_or(String::new(), |l| format!(" as {}", l.name));
                let (from, to) = (expression(&repeat.from), expression(&repeat.to));
                self.out.push_str(&format!("repeat {} in {from}..{to}{label} {{", repeat.var.name));
                self.body(&repeat.body);
            }
            StmtKind::If(arms, other) => self.if_stmt(arms, other.as_ref()),
            StmtKind::Recur(recur) => {
                self.out.push_str(&recur_head(recur));
                self.body(&recur.body);
            }
            StmtKind::Dim(name, value) => self.assigned(&format!("dim {} = ", name.name), value),
            StmtKind::Share(name, value) => self.assigned(&format!("share {} = ", name.name), value),
            StmtKind::Assign(list, value) => self.assigned(&assign_head(list), value),
            StmtKind::Output(name, value) => self.assigned(&format!("output {} = ", name.name), value),
            StmtKind::Return(values) => match values.as_slice() {
                [one] => self.assigned("return ", one),
                _ => self.out.push_str(&line.unwrap_or_default()),
            },
            StmtKind::Param(..) | StmtKind::Store(_) | StmtKind::Generate(..) => self.out.push_str(&line.unwrap_or_default()),
        }
        self.last = end;
    }

    fn assigned(&mut self, head: &str, value: &Expr) {
        self.out.push_str(head);
        let value = self.expr(value, self.column(), self.indent);
        self.out.push_str(&value);
    }

    fn if_stmt(&mut self, arms: &[(Expr, Body)], other: Option<&Body>) {
        for (n, (cond, body)) in arms.iter().enumerate() {
            self.out.push_str(&format!("{}if {} {{", if n == 0 { "" } else { " else " }, expression(cond)));
            self.body(body);
        }
        if let Some(body) = other {
            self.out.push_str(" else {");
            self.body(body);
        }
    }
}

/// A statement without a body, on one line.
fn simple(stmt: &Stmt) -> Option<String> {
    Some(match &stmt.kind {
        StmtKind::Param(list, axis_list, None) => format!("param {}: {}", names(list), axes(axis_list)),
        StmtKind::Param(list, axis_list, Some(storage)) => {
            format!("param {}: {} as {}", names(list), axes(axis_list), expression(storage))
        }
        StmtKind::Store(store) => super::item::stored(store),
        StmtKind::Dim(name, value) => format!("dim {} = {}", name.name, expression(value)),
        StmtKind::Share(name, value) => format!("share {} = {}", name.name, expression(value)),
        StmtKind::Assign(list, value) => format!("{}{}", assign_head(list), expression(value)),
        StmtKind::Output(name, value) => format!("output {} = {}", name.name, expression(value)),
        StmtKind::Generate(how, args) if args.is_empty() => format!("generate {}", how.name),
        StmtKind::Generate(how, args) => format!("generate {}({})", how.name, super::expr::arguments(args)),
        StmtKind::Return(values) => {
            format!("return {}", values.iter().map(expression).collect::<Vec<_>>().join(", "))
        }
        StmtKind::Repeat(_) | StmtKind::If(..) | StmtKind::Recur(_) => return None,
    })
}

fn assign_head(list: &[crate::ast::Ident]) -> String {
    if list.len() == 1 { format!("{} = ", names(list)) } else { format!("({}) = ", names(list)) }
}

fn recur_head(recur: &Recur) -> String {
    let state = |s: &crate::ast::RecurState| {
        let init = s.init.as_ref().map_or(String::new(), |e| format!(" = {}", expression(e)));
        format!("{}: {}{init}", s.name.name, axes(&s.axes))
    };
    let states: Vec<String> = recur.states.iter().map(state).collect();
    let every = recur.every.as_ref().map_or(String::new(), |n| format!(" every {}", expression(n)));
    format!("recur {} over {}{every} {{", states.join(", "), recur.axis.name)
}

/// Where the part of a statement ends that is printed as a whole.
fn head_end(stmt: &Stmt) -> usize {
    let body = match &stmt.kind {
        StmtKind::Repeat(repeat) => Some(&repeat.body),
        StmtKind::Recur(recur) => Some(&recur.body),
        StmtKind::If(arms, _) => arms.first().map(|(_, b)| b),
        _ => None,
    };
    body.map_or(stmt.span.end as usize, |b| b.span.start as usize + 1)
}
