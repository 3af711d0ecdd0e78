//! Expressions: precedence climbing over the flat lists of the grammar.

use super::{Builder, Node, Parsed, Rule};
use crate::{
    ast::{Arg, Arm, Attend, BinOp, Comprehension, Expr, ExprKind, IndexItem, Reducer, Route, UnOp},
    diagnostic::{Code, Diagnostic},
    model::Binary,
    span::Span,
};

/// How deep a tree of one expression may be.
const DEPTH: usize = 400;

/// A part of a flat expression.
enum Part<'i> {
    Prefix(Node<'i>),
    Infix(BinOp, u8),
    Operand(Node<'i>),
}

type Parts<'i> = std::iter::Peekable<std::vec::IntoIter<Part<'i>>>;

/// Binding power of `*`, and of what stands before an operand.
const PRODUCT: u8 = 7;
const PREFIX: u8 = 8;
const POWER: u8 = 9;

fn infix(text: &str) -> (BinOp, u8) {
    use Binary::*;
    let (op, power) = match text {
        "??" => return (BinOp::Else, 1),
        "||" | "|" => (Or, 3),
        "&&" | "&" => (And, 4),
        "<" => (Lt, 5),
        "<=" => (Le, 5),
        ">" => (Gt, 5),
        ">=" => (Ge, 5),
        "==" => (Eq, 5),
        "!=" => (Ne, 5),
        "+" => (Add, 6),
        "-" => (Sub, 6),
        "*" => (Mul, PRODUCT),
        "/" => (Div, PRODUCT),
        "%" => (Rem, PRODUCT),
        _ => (Pow, POWER),
    };
    (BinOp::Op(op), power)
}

impl Builder<'_> {
    pub(super) fn expr(&self, node: Node<'_>, depth: usize) -> Parsed<Expr> {
        let span = self.span(&node);
        let mut parts = Vec::new();
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::prefix => parts.extend(part.into_inner().next().map(Part::Prefix)),
                Rule::infix => {
                    let (op, power) = infix(part.as_str());
                    parts.push(Part::Infix(op, power));
                }
                _ => parts.push(Part::Operand(part)),
            }
        }
        // A chain of n operators makes a tree of depth n.
        let depth = depth + parts.len();
        if depth > DEPTH {
            return Err(Diagnostic::new(Code::TooDeep, span, "this expression nests too deep").hint("name a part of it"));
        }
        self.climb(&mut parts.into_iter().peekable(), 0, depth, span)
    }

    fn climb(&self, parts: &mut Parts<'_>, least: u8, depth: usize, whole: Span) -> Parsed<Expr> {
        let mut left = match parts.next() {
            Some(Part::Prefix(node)) => self.prefixed(node, parts, depth, whole)?,
            Some(Part::Operand(node)) => self.operand(node, depth)?,
            _ => return Err(self.missing(whole, "an expression")),
        };
        while let Some(Part::Infix(op, power)) = parts.peek() {
            let (op, power) = (*op, *power);
            if power < least {
                break;
            }
            parts.next();
            let next = if power == POWER { POWER } else { power + 1 };
            let right = match parts.next_if(|p| power == POWER && matches!(p, Part::Prefix(_))) {
                // `a ^ -b`: the sign belongs to the exponent.
                Some(Part::Prefix(node)) => self.prefixed(node, parts, depth, whole)?,
                _ => self.climb(parts, next, depth, whole)?,
            };
            let span = Span { end: right.span.end, ..left.span };
            left = Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span };
        }
        Ok(left)
    }

    fn prefixed(&self, node: Node<'_>, parts: &mut Parts<'_>, depth: usize, whole: Span) -> Parsed<Expr> {
        let start = self.span(&node);
        let rule = node.as_rule();
        let power = if rule == Rule::reduce { PRODUCT } else { PREFIX };
        let value = Box::new(self.climb(parts, power, depth, whole)?);
        let span = Span { end: value.span.end, ..start };
        let kind = match rule {
            Rule::minus => ExprKind::Unary(UnOp::Neg, value),
            Rule::not => ExprKind::Unary(UnOp::Not, value),
            _ => {
                let mut inner = node.into_inner();
                let word = inner.next().map_or(Reducer::Sum, |n| match n.as_str() {
                    "max" => Reducer::Max,
                    "min" => Reducer::Min,
                    "mean" => Reducer::Mean,
                    _ => Reducer::Sum,
                });
                ExprKind::Reduce(word, inner.next().map(|n| self.idents(n)).unwrap_or_default(), value)
            }
        };
        Ok(Expr { kind, span })
    }

    fn operand(&self, node: Node<'_>, depth: usize) -> Parsed<Expr> {
        let mut inner = node.into_inner();
        let Some(first) = inner.next() else { return Err(self.missing(Span::default(), "an expression")) };
        let mut value = self.primary(first, depth)?;
        for (n, part) in inner.enumerate() {
            if depth + n > DEPTH {
                return Err(Diagnostic::new(Code::TooDeep, value.span, "this expression nests too deep"));
            }
            let end = self.span(&part).end;
            let span = Span { end, ..value.span };
            let kind = match part.as_rule() {
                Rule::call => ExprKind::Call(Box::new(value), self.args(part, depth)?),
                Rule::index => ExprKind::Index(Box::new(value), self.index(part, depth)?),
                _ => match self.idents(part).pop() {
                    Some(name) => ExprKind::Field(Box::new(value), name),
                    None => return Err(self.missing(span, "a name")),
                },
            };
            value = Expr { kind, span };
        }
        Ok(value)
    }

    pub(super) fn args(&self, node: Node<'_>, depth: usize) -> Parsed<Vec<Arg>> {
        node.into_inner()
            .map(|arg| match arg.as_rule() {
                Rule::named_arg => {
                    let span = self.span(&arg);
                    let mut inner = arg.into_inner();
                    match (inner.next(), inner.next()) {
                        (Some(name), Some(value)) => {
                            Ok(Arg { name: Some(self.ident(&name)), value: self.expr(value, depth + 1)? })
                        }
                        _ => Err(self.missing(span, "an argument")),
                    }
                }
                _ => Ok(Arg { name: None, value: self.expr(arg, depth + 1)? }),
            })
            .collect()
    }

    fn index(&self, node: Node<'_>, depth: usize) -> Parsed<Vec<IndexItem>> {
        node.into_inner().map(|n| self.index_item(n, depth + 1)).collect()
    }

    fn index_item(&self, node: Node<'_>, depth: usize) -> Parsed<IndexItem> {
        let (rule, span) = (node.as_rule(), self.span(&node));
        if rule == Rule::expr {
            return Ok(IndexItem::Plain(self.expr(node, depth)?));
        }
        let mut names = Vec::new();
        let mut exprs = Vec::new();
        let mut into = None;
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => names.push(self.ident(&part)),
                Rule::expr => exprs.push(self.expr(part, depth)?),
                Rule::slice_as => into = self.idents(part).pop(),
                _ => {}
            }
        }
        let item = match rule {
            Rule::merge_item => names.pop().map(|to| IndexItem::Merge(names, to)),
            Rule::split_item if !names.is_empty() => Some(IndexItem::Split(names.remove(0), names)),
            Rule::rename_item => names.pop().and_then(|to| Some(IndexItem::Rename(names.pop()?, to))),
            _ => match (names.pop(), exprs.pop(), exprs.pop()) {
                (Some(axis), Some(to), Some(from)) => Some(IndexItem::Slice(axis, from, to, into)),
                (Some(axis), Some(at), None) => Some(IndexItem::At(axis, at)),
                _ => None,
            },
        };
        item.ok_or_else(|| self.missing(span, "an index"))
    }

    fn primary(&self, node: Node<'_>, depth: usize) -> Parsed<Expr> {
        let span = self.span(&node);
        let kind = match node.as_rule() {
            Rule::number => number(node.as_str(), span)?,
            Rule::string => ExprKind::Text(unescape(node.as_str())),
            Rule::list => self.list(node, depth)?,
            Rule::if_expr => self.if_expr(node, depth)?,
            Rule::match_expr => self.match_expr(node, depth)?,
            Rule::attend_expr => ExprKind::Attend(Box::new(self.attend(node, depth)?)),
            Rule::route_expr => ExprKind::Route(Box::new(self.route(node, depth)?)),
            Rule::paren => ExprKind::Paren(Box::new(self.exprs(node, depth)?.remove(0))),
            _ => ExprKind::Name(node.as_str().to_owned()),
        };
        Ok(Expr { kind, span })
    }

    /// The expressions directly inside a node; at least one.
    fn exprs(&self, node: Node<'_>, depth: usize) -> Parsed<Vec<Expr>> {
        let span = self.span(&node);
        let found = node.into_inner().filter(|n| n.as_rule() == Rule::expr).map(|n| self.expr(n, depth + 1));
        let found = found.collect::<Parsed<Vec<_>>>()?;
        if found.is_empty() { Err(self.missing(span, "an expression")) } else { Ok(found) }
    }

    fn list(&self, node: Node<'_>, depth: usize) -> Parsed<ExprKind> {
        let mut values = Vec::new();
        let mut over = None;
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::comprehension => over = Some(part),
                _ => values.push(self.expr(part, depth + 1)?),
            }
        }
        let Some(over) = over else { return Ok(ExprKind::List(values)) };
        let span = self.span(&over);
        let var = over.clone().into_inner().find(|n| n.as_rule() == Rule::ident).map(|n| self.ident(&n));
        let mut exprs = self.exprs(over, depth)?.into_iter();
        match (values.pop(), var, exprs.next()) {
            (Some(value), Some(var), Some(list)) => {
                Ok(ExprKind::Comprehension(Box::new(Comprehension { value, var, list, cond: exprs.next() })))
            }
            _ => Err(self.missing(span, "a list")),
        }
    }

    fn if_expr(&self, node: Node<'_>, depth: usize) -> Parsed<ExprKind> {
        let span = self.span(&node);
        let mut exprs = self.exprs(node, depth)?;
        let Some(other) = exprs.pop() else { return Err(self.missing(span, "`else`")) };
        let mut arms = Vec::new();
        let mut exprs = exprs.into_iter();
        while let (Some(cond), Some(value)) = (exprs.next(), exprs.next()) {
            arms.push((cond, value));
        }
        Ok(ExprKind::If(arms, Box::new(other)))
    }

    fn match_expr(&self, node: Node<'_>, depth: usize) -> Parsed<ExprKind> {
        let span = self.span(&node);
        let mut subject = None;
        let mut arms = Vec::new();
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::expr => subject = Some(self.expr(part, depth + 1)?),
                Rule::arm => arms.push(self.arm(part, depth)?),
                _ => {}
            }
        }
        match subject {
            Some(subject) => Ok(ExprKind::Match(Box::new(subject), arms)),
            None => Err(self.missing(span, "an expression")),
        }
    }

    fn arm(&self, node: Node<'_>, depth: usize) -> Parsed<Arm> {
        let span = self.span(&node);
        let mut patterns = Vec::new();
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::pattern => patterns.push(self.pattern(part, depth)?),
                Rule::expr => return Ok(Arm { patterns, value: self.expr(part, depth + 1)? }),
                _ => {}
            }
        }
        Err(self.missing(span, "an expression"))
    }

    fn pattern(&self, node: Node<'_>, depth: usize) -> Parsed<Expr> {
        let span = self.span(&node);
        let mut negative = false;
        for part in node.into_inner() {
            if part.as_rule() == Rule::minus {
                negative = true;
                continue;
            }
            let value = self.primary(part, depth)?;
            let kind = if negative { ExprKind::Unary(UnOp::Neg, Box::new(value)) } else { value.kind };
            return Ok(Expr { kind, span });
        }
        Err(self.missing(span, "a pattern"))
    }

    fn attend(&self, node: Node<'_>, depth: usize) -> Parsed<Attend> {
        let mut attend = Attend { slot: None, tally: false, axes: Vec::new(), args: Vec::new(), clauses: Vec::new() };
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::names_axes => attend.axes = self.idents(part),
                Rule::k_tally => attend.tally = true,
                // The last name of a choice counts what is chosen.
                Rule::ident => attend.axes.extend(attend.slot.replace(self.ident(&part))),
                Rule::call => attend.args = self.args(part, depth)?,
                Rule::clauses => {
                    for clause in part.into_inner() {
                        let mut inner = clause.into_inner();
                        if let (Some(name), Some(value)) = (inner.next(), inner.next()) {
                            attend.clauses.push((self.ident(&name), self.expr(value, depth + 1)?));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(attend)
    }

    fn route(&self, node: Node<'_>, depth: usize) -> Parsed<Route> {
        let span = self.span(&node);
        let axes = node.clone().into_inner().find(|n| n.as_rule() == Rule::names_axes).map(|n| self.idents(n));
        let mut exprs = self.exprs(node, depth)?.into_iter();
        match (exprs.next(), exprs.next()) {
            (Some(ids), Some(body)) => Ok(Route { axes: axes.unwrap_or_default(), ids, body }),
            _ => Err(self.missing(span, "ids and a body")),
        }
    }
}

fn number(text: &str, span: Span) -> Parsed<ExprKind> {
    let plain = text.replace('_', "");
    if plain.contains(['.', 'e', 'E']) {
        return match plain.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(ExprKind::Float(value, text.to_owned())),
            _ => Err(Diagnostic::new(Code::Arithmetic, span, "this number is too large")),
        };
    }
    plain.parse().map(ExprKind::Int).map_err(|_| Diagnostic::new(Code::Arithmetic, span, "this number is too large"))
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.get(1..text.len().saturating_sub(1)).unwrap_or("").chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}
