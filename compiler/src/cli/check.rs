//! `braid check` and `braid fmt`.

use super::args::{FmtArgs, SpecArgs};
use super::failure::Failure;
use super::{files, say, spec};
use braid_compiler::error::Error;

/// Says that a spec is right, or everything that is wrong.
pub fn check(args: &SpecArgs) -> Result<(), Failure> {
    let spec = spec::load(args)?;
    let model = &spec.model;
    super::build::bound(&spec)?;
    say(&format!("{}: {} parameters, {} values, no errors\n", model.name, model.params.len(), model.values.len()))
}

/// Rewrites a file in canonical form, or says that it is not.
pub fn fmt(args: &FmtArgs) -> Result<(), Failure> {
    files::read(&args.file)?;
    Err(Error::limit("the canonical form of a spec (`braid fmt`)").into())
}
