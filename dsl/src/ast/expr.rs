//! Expressions of the syntax tree.

use super::Ident;
use crate::span::Span;

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Its place.
    pub span: Span,
}

/// An argument of a call.
#[derive(Clone, Debug)]
pub struct Arg {
    /// The name, for `name: value`.
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
}

/// Operators of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinOp {
    /// A pointwise one.
    Op(crate::model::Binary),
    /// `a ?? b`: `b` if `a` is missing.
    Else,
}

/// Operators of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the operators")]
pub enum UnOp {
    Neg,
    Not,
}

/// The words of reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the words")]
pub enum Reducer {
    Sum,
    Max,
    Min,
    Mean,
}

/// The kinds of expressions.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// A whole number.
    Int(i64),
    /// A real number; the text it was written as.
    Float(f64, String),
    /// A text.
    Text(String),
    /// A name.
    Name(String),
    /// `a.b`
    Field(Box<Expr>, Ident),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `[a for x in list if c]`
    Comprehension(Box<Comprehension>),
    /// `(a)`
    Paren(Box<Expr>),
    /// `-a`, `!a`
    Unary(UnOp, Box<Expr>),
    /// `a + b`
    Binary(BinOp, Box<Expr>, Box<Expr>),
    /// `sum[a] e`
    Reduce(Reducer, Vec<Ident>, Box<Expr>),
    /// `f(a, b: c)`
    Call(Box<Expr>, Vec<Arg>),
    /// `x[…]`
    Index(Box<Expr>, Vec<IndexItem>),
    /// `if a { b } else if c { d } else { e }`
    If(Vec<(Expr, Expr)>, Box<Expr>),
    /// `match e { … }`
    Match(Box<Expr>, Vec<Arm>),
    /// `attend[k](q, k, v) { … }`
    Attend(Box<Attend>),
    /// `route[a](ids) { e }`
    Route(Box<Route>),
}

/// `[value for var in list if cond]`
#[derive(Clone, Debug)]
pub struct Comprehension {
    /// Each element.
    pub value: Expr,
    /// The variable.
    pub var: Ident,
    /// What it runs over.
    pub list: Expr,
    /// Which elements stay.
    pub cond: Option<Expr>,
}

/// What stands in the brackets after a value.
#[derive(Clone, Debug)]
pub enum IndexItem {
    /// `(a, b) as c`
    Merge(Vec<Ident>, Ident),
    /// `a as (b, c)`
    Split(Ident, Vec<Ident>),
    /// `a as b`
    Rename(Ident, Ident),
    /// `a: e`
    At(Ident, Expr),
    /// `a: from..to as b`
    Slice(Ident, Expr, Expr, Option<Ident>),
    /// an expression, or the name of an axis
    Plain(Expr),
}

/// An arm of a `match`.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What it takes; empty for `_`.
    pub patterns: Vec<Expr>,
    /// Its value.
    pub value: Expr,
}

/// Attention, the choice of keys by it, and the tally of what it gives to them.
#[derive(Clone, Debug)]
pub struct Attend {
    /// `choose[… as slot]`: the axis that counts the positions chosen.
    pub slot: Option<Ident>,
    /// `tally[…]`.
    pub tally: bool,
    /// The axes that the dot product contracts.
    pub axes: Vec<Ident>,
    /// Queries, keys, values; of a choice or a tally queries, keys and how many.
    pub args: Vec<Arg>,
    /// `keep`, `score`, `weight`, `sink`, `policy`, `by`.
    pub clauses: Vec<(Ident, Expr)>,
}

/// A body whose parameters are chosen by ids.
#[derive(Clone, Debug)]
pub struct Route {
    /// The axis of the experts.
    pub axes: Vec<Ident>,
    /// Which experts.
    pub ids: Expr,
    /// What one expert does.
    pub body: Expr,
}
