//! Front end of Braid: text becomes a checked [`model::Model`].
//!
//! parse/ makes the tree (ast.rs), resolve.rs loads what it imports, elaborate/ instantiates the model, and diagnostic.rs says
//! what is wrong.

pub mod ast;
pub mod constant;
pub mod diagnostic;
mod elaborate;
pub mod model;
mod parse;
mod print;
mod resolve;
pub mod source;
pub mod span;

use diagnostic::Diagnostic;
use model::{Constant, Model};
use source::{SourceMap, Sources};

/// Parses a text.
///
/// # Errors
/// What does not follow the grammar.
pub fn parse(text: &str) -> Result<ast::File, Vec<Diagnostic>> {
    parse::parse_file(text, span::FileId::default())
}

/// Parses a text that is one expression: import rules and weight maps compute with them.
///
/// # Errors
/// What does not follow the grammar.
pub fn parse_expression(text: &str) -> Result<ast::Expr, Diagnostic> {
    parse::parse_expression(text)
}

/// The canonical text of a file: the same tree and comments, laid out anew. Formatting it again changes nothing.
///
/// # Errors
/// What does not follow the grammar.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    Ok(print::file(text, &parse(text)?))
}

/// Loads `root` and what it imports, and instantiates its last model. `overrides` take the place of the model's compile-time
/// arguments. The texts that were read come back too, for showing errors.
///
/// # Errors
/// Everything that is wrong, with its place.
pub fn check(sources: &dyn Sources, root: &str, overrides: &[(String, Constant)]) -> (Result<Model, Vec<Diagnostic>>, SourceMap) {
    let (program, map, errors) = resolve::load(sources, root);
    if !errors.is_empty() {
        return (Err(errors), map);
    }
    (elaborate::elaborate(&program, overrides), map)
}
