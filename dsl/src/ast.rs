//! The syntax tree: what the grammar accepts, with the place of every part.

mod expr;

pub use expr::{Arg, Arm, Attend, BinOp, Comprehension, Expr, ExprKind, IndexItem, Reducer, Route, UnOp};

use crate::span::Span;

/// A name and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ident {
    /// The name.
    pub name: String,
    /// Its place.
    pub span: Span,
}

/// One source file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The text of its `//!` comments.
    pub doc: String,
    /// What it declares, in order.
    pub items: Vec<Item>,
}

/// A declaration.
#[derive(Clone, Debug)]
pub enum Item {
    /// `use …`
    Use(Use),
    /// `fn …`
    Fn(Fn),
    /// `block …` or `model …` with a body.
    Block(Block),
    /// `model a = b(…)`
    Alias(Alias),
}

/// An import.
#[derive(Clone, Debug)]
pub struct Use {
    /// The module's dotted path, or the file's name.
    pub target: UseTarget,
    /// The place of the whole item.
    pub span: Span,
}

/// What is imported.
#[derive(Clone, Debug, PartialEq)]
pub enum UseTarget {
    /// A dotted path.
    Module(String),
    /// A file, relative to the importing one.
    File(String),
}

/// An inlined function.
#[derive(Clone, Debug)]
pub struct Fn {
    /// The doc comment.
    pub doc: String,
    /// Its name.
    pub name: Ident,
    /// Axis parameters, in brackets.
    pub axes: Vec<Ident>,
    /// Value parameters.
    pub params: Vec<Ident>,
    /// Its value.
    pub body: Expr,
    /// The place of the whole item.
    pub span: Span,
}

/// A block or a model.
#[derive(Clone, Debug)]
pub struct Block {
    /// The doc comment.
    pub doc: String,
    /// Whether it was declared by `model`.
    pub is_model: bool,
    /// Its name.
    pub name: Ident,
    /// Compile-time parameters.
    pub params: Vec<CParam>,
    /// Inputs.
    pub inputs: Vec<Input>,
    /// Results; empty if not declared.
    pub outputs: Vec<TensorType>,
    /// Constraints on the compile-time parameters.
    pub wheres: Vec<Expr>,
    /// Statements.
    pub body: Body,
    /// The place of the whole item.
    pub span: Span,
}

/// A model made from another one by arguments.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The doc comment.
    pub doc: String,
    /// Its name.
    pub name: Ident,
    /// The model it is made from.
    pub base: Ident,
    /// Arguments.
    pub args: Vec<Arg>,
    /// The policy for its attentions, with arguments.
    pub policy: Option<(Ident, Vec<Arg>)>,
    /// How parameters are stored.
    pub stores: Vec<Store>,
    /// The place of the whole item.
    pub span: Span,
}

/// A compile-time parameter.
#[derive(Clone, Debug)]
pub struct CParam {
    /// Its name.
    pub name: Ident,
    /// Its type.
    pub ty: CType,
    /// What it is if not given.
    pub default: Option<Expr>,
    /// The place of the whole parameter.
    pub span: Span,
}

/// The type of a compile-time parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the words of the language")]
pub enum CType {
    Dim,
    Dims,
    Int,
    Float,
    Bool,
    String,
    Block,
    Ints,
    Floats,
    Bools,
    Strings,
}

/// A tensor that a block is called with.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: Ident,
    /// Its type.
    pub ty: TensorType,
}

/// An element type, if given, and axes.
#[derive(Clone, Debug)]
pub struct TensorType {
    /// The element type, if written.
    pub elem: Option<crate::model::Elem>,
    /// The axes.
    pub axes: AxisList,
    /// Its place.
    pub span: Span,
}

/// A list of axes in a declaration.
#[derive(Clone, Debug)]
pub struct AxisList {
    /// The named ones, in order.
    pub names: Vec<Ident>,
    /// How many names stand before `..`, if it is there.
    pub rest: Option<usize>,
    /// Its place.
    pub span: Span,
}

/// `store "pattern" as type`
#[derive(Clone, Debug)]
pub struct Store {
    /// Which parameters: the text.
    pub pattern: Ident,
    /// How.
    pub storage: Expr,
}

/// Statements in braces.
#[derive(Clone, Debug)]
pub struct Body {
    /// The statements.
    pub stmts: Vec<Stmt>,
    /// The place, with the braces.
    pub span: Span,
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What it is.
    pub kind: StmtKind,
    /// Its place.
    pub span: Span,
}

/// The kinds of statements.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// `param a, b: [..]`, or `param a, b: [..] as type`
    Param(Vec<Ident>, AxisList, Option<Expr>),
    /// `store "pattern" as type`
    Store(Store),
    /// `dim a = e`
    Dim(Ident, Expr),
    /// `share a = e`
    Share(Ident, Expr),
    /// `a = e` or `(a, b) = e`
    Assign(Vec<Ident>, Expr),
    /// `repeat i in a..b as name { … }`
    Repeat(Repeat),
    /// `if … { … } else if … { … } else { … }`
    If(Vec<(Expr, Body)>, Option<Body>),
    /// `recur … over t { … }`
    Recur(Recur),
    /// `generate how` or `generate how(name: value, …)`
    Generate(Ident, Vec<Arg>),
    /// `output a = e`
    Output(Ident, Expr),
    /// `return a, b`
    Return(Vec<Expr>),
}

/// A compile-time loop.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// The counter.
    pub var: Ident,
    /// Its first value.
    pub from: Expr,
    /// One past its last value.
    pub to: Expr,
    /// What the iterations are called in paths.
    pub label: Option<Ident>,
    /// What is repeated.
    pub body: Body,
}

/// A recurrence.
#[derive(Clone, Debug)]
pub struct Recur {
    /// The states.
    pub states: Vec<RecurState>,
    /// The sequence axis.
    pub axis: Ident,
    /// Positions of a mini-batch.
    pub every: Option<Expr>,
    /// One step.
    pub body: Body,
}

/// A state of a recurrence.
#[derive(Clone, Debug)]
pub struct RecurState {
    /// Its name.
    pub name: Ident,
    /// Its axes.
    pub axes: AxisList,
    /// What it starts with.
    pub init: Option<Expr>,
    /// The place of the whole declaration.
    pub span: Span,
}

impl Item {
    /// The name it declares, if any.
    pub fn name(&self) -> Option<&Ident> {
        match self {
            Item::Use(_) => None,
            Item::Fn(f) => Some(&f.name),
            Item::Block(b) => Some(&b.name),
            Item::Alias(a) => Some(&a.name),
        }
    }

    /// The place of the whole item.
    pub fn span(&self) -> Span {
        match self {
            Item::Use(i) => i.span,
            Item::Fn(i) => i.span,
            Item::Block(i) => i.span,
            Item::Alias(i) => i.span,
        }
    }
}
