//! Statements.

use super::{Builder, Node, Parsed, Rule};
use crate::ast::{Body, Expr, Ident, Recur, RecurState, Repeat, Stmt, StmtKind, Store};

/// The parts of a statement by kind, in order.
#[derive(Default)]
struct Pieces {
    names: Vec<Ident>,
    exprs: Vec<Expr>,
    bodies: Vec<Body>,
}

impl Builder<'_> {
    pub(super) fn body(&self, node: Node<'_>, depth: usize) -> Parsed<Body> {
        let span = self.span(&node);
        let stmts = node.into_inner().map(|n| self.stmt(n, depth + 1)).collect::<Parsed<_>>()?;
        Ok(Body { stmts, span })
    }

    fn pieces(&self, node: Node<'_>, depth: usize) -> Parsed<Pieces> {
        let mut pieces = Pieces::default();
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => pieces.names.push(self.ident(&part)),
                Rule::expr => pieces.exprs.push(self.expr(part, depth)?),
                Rule::body => pieces.bodies.push(self.body(part, depth)?),
                _ => {}
            }
        }
        Ok(pieces)
    }

    fn stmt(&self, node: Node<'_>, depth: usize) -> Parsed<Stmt> {
        let (rule, span) = (node.as_rule(), self.span(&node));
        let kind = match rule {
            Rule::param_stmt => self.param(node, depth)?,
            Rule::store_stmt => StmtKind::Store(self.store(node, depth)?),
            Rule::recur_stmt => self.recur(node, depth)?,
            Rule::generate_stmt => self.generate(node, depth)?,
            _ => {
                let mut pieces = self.pieces(node, depth)?;
                let expr = if rule == Rule::return_stmt || rule == Rule::if_stmt { None } else { pieces.exprs.pop() };
                let name = if rule == Rule::tuple_stmt { None } else { pieces.names.pop() };
                match (rule, name, expr) {
                    (Rule::dim_stmt, Some(name), Some(value)) => StmtKind::Dim(name, value),
                    (Rule::share_stmt, Some(name), Some(value)) => StmtKind::Share(name, value),
                    (Rule::output_stmt, Some(name), Some(value)) => StmtKind::Output(name, value),
                    (Rule::assign_stmt, Some(name), Some(value)) => StmtKind::Assign(vec![name], value),
                    (Rule::tuple_stmt, None, Some(value)) => StmtKind::Assign(pieces.names, value),
                    (Rule::return_stmt, None, None) => StmtKind::Return(pieces.exprs),
                    (Rule::if_stmt, None, None) => branches(pieces),
                    (Rule::repeat_stmt, Some(last), Some(to)) => match (pieces.exprs.pop(), pieces.bodies.pop()) {
                        (Some(from), Some(body)) => {
                            let (var, label) = match pieces.names.pop() {
                                Some(var) => (var, Some(last)),
                                None => (last, None),
                            };
                            StmtKind::Repeat(Repeat { var, from, to, label, body })
                        }
                        _ => return Err(self.missing(span, "a body")),
                    },
                    _ => return Err(self.missing(span, "a statement")),
                }
            }
        };
        Ok(Stmt { kind, span })
    }

    fn generate(&self, node: Node<'_>, depth: usize) -> Parsed<StmtKind> {
        let span = self.span(&node);
        let (mut how, mut args) = (None, Vec::new());
        let parts = node.into_inner().flat_map(|part| match part.as_rule() {
            Rule::generate_how => part.into_inner().collect(),
            _ => vec![part],
        });
        for part in parts {
            match part.as_rule() {
                Rule::ident => how = Some(self.ident(&part)),
                Rule::call => args = self.args(part, depth)?,
                _ => {}
            }
        }
        how.map(|how| StmtKind::Generate(how, args)).ok_or_else(|| self.missing(span, "a way to generate"))
    }

    fn param(&self, node: Node<'_>, depth: usize) -> Parsed<StmtKind> {
        let mut storage = None;
        let mut axes = crate::ast::AxisList { names: Vec::new(), rest: None, span: self.span(&node) };
        let mut names = Vec::new();
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => names.push(self.ident(&part)),
                Rule::axes => axes = self.axis_list(part),
                Rule::expr => storage = Some(self.expr(part, depth)?),
                _ => {}
            }
        }
        Ok(StmtKind::Param(names, axes, storage))
    }

    /// `store "pattern" as type`; the pattern as it stands between its quotes.
    pub(super) fn store(&self, node: Node<'_>, depth: usize) -> Parsed<Store> {
        let span = self.span(&node);
        let (mut pattern, mut storage) = (None, None);
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::pattern_text => {
                    let name = part.as_str().trim_matches('"').to_owned();
                    pattern = Some(Ident { name, span: self.span(&part) });
                }
                Rule::expr => storage = Some(self.expr(part, depth)?),
                _ => {}
            }
        }
        match (pattern, storage) {
            (Some(pattern), Some(storage)) => Ok(Store { pattern, storage }),
            _ => Err(self.missing(span, "a type")),
        }
    }

    fn recur(&self, node: Node<'_>, depth: usize) -> Parsed<StmtKind> {
        let span = self.span(&node);
        let (mut states, mut axis, mut every, mut body) = (Vec::new(), None, None, None);
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::state => states.push(self.state(part, depth)?),
                Rule::ident => axis = Some(self.ident(&part)),
                Rule::expr => every = Some(self.expr(part, depth)?),
                Rule::body => body = Some(self.body(part, depth)?),
                _ => {}
            }
        }
        match (axis, body) {
            (Some(axis), Some(body)) => Ok(StmtKind::Recur(Recur { states, axis, every, body })),
            _ => Err(self.missing(span, "a body")),
        }
    }

    fn state(&self, node: Node<'_>, depth: usize) -> Parsed<RecurState> {
        let span = self.span(&node);
        let (mut name, mut axes, mut init) = (None, None, None);
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => name = Some(self.ident(&part)),
                Rule::axes => axes = Some(self.axis_list(part)),
                Rule::expr => init = Some(self.expr(part, depth)?),
                _ => {}
            }
        }
        match (name, axes) {
            (Some(name), Some(axes)) => Ok(RecurState { name, axes, init, span }),
            _ => Err(self.missing(span, "a state")),
        }
    }
}

fn branches(pieces: Pieces) -> StmtKind {
    let mut bodies = pieces.bodies.into_iter();
    let arms = pieces.exprs.into_iter().zip(bodies.by_ref()).collect();
    StmtKind::If(arms, bodies.next())
}
