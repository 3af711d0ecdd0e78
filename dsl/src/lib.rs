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
mod stride;

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
    check_under(sources, root, overrides, None)
}

/// As [`check`], with a policy for every attention of the model that looks back at all keys: a block of the root, of what it imports or of
/// the prelude, with arguments as the root would write them.
///
/// # Errors
/// The same; also if there is no such policy, or nothing that it could be applied to.
pub fn check_under(
    sources: &dyn Sources,
    root: &str,
    overrides: &[(String, Constant)],
    policy: Option<&str>,
) -> (Result<Model, Vec<Diagnostic>>, SourceMap) {
    let (program, map, errors) = resolve::load(sources, root, policy);
    if !errors.is_empty() {
        return (Err(errors), map);
    }
    (with_stack(|| elaborate::elaborate(&program, overrides)), map)
}

/// How much stack elaboration gets; its depth is bounded so that this is enough.
const STACK: usize = 512 << 20;

/// Runs elaboration, which follows the nesting of blocks, on a stack that is large enough for it.
fn with_stack<T: Send>(work: impl FnOnce() -> Result<T, Vec<Diagnostic>> + Send) -> Result<T, Vec<Diagnostic>> {
    let failed = |message: &str| Err(vec![Diagnostic::new(diagnostic::Code::TooLarge, span::Span::default(), message)]);
    std::thread::scope(|scope| match std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => failed("there is no memory to elaborate this model"),
    })
}
