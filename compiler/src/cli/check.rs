//! `braid check` and `braid fmt`.

use super::args::{FmtArgs, SpecArgs};
use super::failure::Failure;
use super::{files, say, spec};
use braid_dsl::source::SourceMap;

/// Says that a spec is right, or everything that is wrong.
pub fn check(args: &SpecArgs) -> Result<(), Failure> {
    let spec = spec::load(args)?;
    let model = &spec.model;
    super::build::bound(&spec)?;
    say(&format!("{}: {} parameters, {} values, no errors\n", model.name, model.params.len(), model.values.len()))
}

/// Rewrites a file in canonical form, or says that it is not.
pub fn fmt(args: &FmtArgs) -> Result<(), Failure> {
    let text = files::read(&args.file)?;
    let canonical = braid_dsl::format(&text).map_err(|found| {
        let mut sources = SourceMap::default();
        sources.add(&args.file.to_string_lossy(), text.clone());
        Failure::Spec(found, sources)
    })?;
    if canonical == text {
        return Ok(());
    }
    match args.check {
        true => Err(Failure::hinted(
            format!("{} is not in canonical form", args.file.display()),
            format!("braid fmt {}", args.file.display()),
        )),
        false => files::write(&args.file, canonical.as_bytes()),
    }
}
