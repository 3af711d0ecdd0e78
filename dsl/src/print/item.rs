//! Items.

use super::{
    Printer, WIDTH,
    expr::{arguments, expression, names},
    wrap::{fill, wrapped},
};
use crate::ast::{AxisList, Block, CParam, CType, Expr, ExprKind, Item, Store, TensorType, UseTarget};
use crate::model::Elem;

impl Printer<'_> {
    pub(super) fn item(&mut self, item: &Item, before: Option<&Item>) {
        let span = item.span();
        let (start, end) = (span.start as usize, span.end as usize);
        self.apart(start, item, before);
        let head_end = match item {
            Item::Block(block) => block.body.span.start as usize + 1,
            _ => end,
        };
        self.comments_before(start);
        self.comments_inside(start, head_end);
        self.begin(start);
        match item {
            Item::Use(u) => match &u.target {
                UseTarget::Module(path) => self.out.push_str(&format!("use {path}")),
                UseTarget::File(path) => self.out.push_str(&format!("use \"{path}\"")),
            },
            Item::Fn(f) => {
                let axes = if f.axes.is_empty() { String::new() } else { format!("[{}]", names(&f.axes)) };
                self.out.push_str(&format!("fn {}{axes}({}) =", f.name.name, names(&f.params)));
                let line = expression(&f.body);
                let spread = has_match(&f.body) && !self.one_line(f.body.span);
                if !spread && self.column() + 1 + line.chars().count() > WIDTH && 2 + line.chars().count() <= WIDTH {
                    self.out.push_str(&format!("\n  {line}"));
                } else {
                    let value = self.expr(&f.body, self.column() + 1, 0);
                    self.out.push_str(&format!(" {value}"));
                }
            }
            Item::Alias(a) => {
                self.out.push_str(&format!("model {} = ", a.name.name));
                let line = format!("{}({})", a.base.name, arguments(&a.args));
                if self.column() + line.chars().count() <= WIDTH {
                    self.out.push_str(&line);
                } else {
                    let part = |a: &crate::ast::Arg| {
                        let head = a.name.as_ref().map_or(String::new(), |n| format!("{}: ", n.name));
                        format!("{head}{}", wrapped(&a.value, 2, 3 + head.chars().count(), &|_| false))
                    };
                    let parts: Vec<String> = a.args.iter().map(part).collect();
                    self.out.push_str(&format!("{}(\n{}\n)", a.base.name, fill(&parts, 2)));
                }
                if let Some((policy, args)) = &a.policy {
                    let under = format!(" under {}({})", policy.name, arguments(args));
                    let breaks = self.column() + under.chars().count() > WIDTH;
                    self.out.push_str(&if breaks { format!("\n {under}") } else { under });
                }
                a.stores.iter().for_each(|store| self.out.push_str(&format!("\n  {}", stored(store))));
            }
            Item::Block(block) => self.block(block),
        }
        self.last = end;
    }

    /// A blank line between items, unless both are small and stand together.
    fn apart(&mut self, start: usize, item: &Item, before: Option<&Item>) {
        let Some(before) = before else { return };
        let next = self.comments.get(self.next).filter(|c| c.start < start && !c.trailing).map_or(start, |c| c.start);
        let trailing = self.comments.get(self.next).filter(|c| c.trailing && c.start < start).map(|c| c.end);
        let small = matches!((before, item), (Item::Use(_), Item::Use(_)) | (Item::Fn(_), Item::Fn(_)));
        let from = trailing.unwrap_or(self.last);
        let blank = self.text.get(from..next).is_some_and(|t| t.matches('\n').count() > 1);
        if !small && !blank {
            if let Some(end) = trailing {
                self.comments_before(end);
            }
            self.line_end();
            self.out.push('\n');
        }
    }

    /// Comments inside something that is printed as a whole: they move before it.
    pub(super) fn comments_inside(&mut self, start: usize, end: usize) {
        let first = self.next;
        while let Some(comment) = self.comments.get(self.next).filter(|c| c.start < end).cloned() {
            self.begin(if self.next == first { start } else { self.last });
            self.out.push_str(&comment.text);
            self.out.push('\n');
            self.next += 1;
            self.last = start;
        }
    }

    /// An expression at a column; a `match` that has several lines in the text keeps them.
    pub(super) fn expr(&self, e: &Expr, column: usize, indent: usize) -> String {
        wrapped(e, indent, column, &|e| match &e.kind {
            ExprKind::Match(..) => !self.one_line(e.span),
            ExprKind::Call(_, args) => args.iter().any(|a| has_match(&a.value) && !self.one_line(a.value.span)),
            _ => has_match(e) && !self.one_line(e.span),
        })
    }

    fn block(&mut self, block: &Block) {
        let word = if block.is_model { "model" } else { "block" };
        let inputs: Vec<String> = block.inputs.iter().map(|i| format!("{}: {}", i.name.name, tensor(&i.ty))).collect();
        let outputs: Vec<String> = block.outputs.iter().map(tensor).collect();
        let wheres: Vec<String> = block.wheres.iter().map(expression).collect();
        let mut tail = format!(")({})", inputs.join(", "));
        if !outputs.is_empty() {
            tail.push_str(&format!(" -> {}", outputs.join(", ")));
        }
        if !wheres.is_empty() {
            tail.push_str(&format!(" where {}", wheres.join(", ")));
        }
        let params: Vec<String> = block.params.iter().map(cparam).collect();
        let line = format!("{word} {}({}{tail} {{", block.name.name, params.join(", "));
        if line.chars().count() <= WIDTH || params.is_empty() {
            self.out.push_str(&line);
        } else {
            self.out.push_str(&format!("{word} {}(\n{}\n{tail} {{", block.name.name, fill(&params, 2)));
        }
        self.body(&block.body);
    }
}

fn has_match(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Match(..) => true,
        ExprKind::Paren(a) | ExprKind::Unary(_, a) | ExprKind::Reduce(_, _, a) => has_match(a),
        ExprKind::Call(_, args) => args.iter().any(|a| has_match(&a.value)),
        _ => false,
    }
}

fn cparam(param: &CParam) -> String {
    let ty = match param.ty {
        CType::Dim => "dim",
        CType::Dims => "dims",
        CType::Int => "int",
        CType::Float => "float",
        CType::Bool => "bool",
        CType::String => "string",
        CType::Block => "block",
        CType::Ints => "[int]",
        CType::Floats => "[float]",
        CType::Bools => "[bool]",
        CType::Strings => "[string]",
    };
    let default = param.default.as_ref().map_or(String::new(), |e| format!(" = {}", expression(e)));
    format!("{}: {ty}{default}", param.name.name)
}

fn tensor(ty: &TensorType) -> String {
    let elem = match ty.elem {
        None => "",
        Some(Elem::Float) => "float ",
        Some(Elem::Int) => "int ",
        Some(Elem::Bool) => "bool ",
    };
    format!("{elem}{}", axes(&ty.axes))
}

/// `store "pattern" as type`
pub(super) fn stored(store: &Store) -> String {
    format!("store \"{}\" as {}", store.pattern.name, expression(&store.storage))
}

/// Axes in brackets.
pub(super) fn axes(list: &AxisList) -> String {
    let mut parts: Vec<&str> = list.names.iter().map(|n| n.name.as_str()).collect();
    if let Some(at) = list.rest {
        parts.insert(at.min(parts.len()), "..");
    }
    format!("[{}]", parts.join(", "))
}
