//! `braid check` and `braid fmt`.

use super::args::{FmtArgs, SpecArgs};
use super::failure::Failure;
use super::{files, say, spec};

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
        let mut sources = braid_dsl::source::SourceMap::default();
        sources.add(&args.file.display().to_string(), text.clone());
        Failure::Spec(found, sources)
    })?;
    if canonical == text {
        return Ok(());
    }
    if args.check {
        let hint = format!("`braid fmt {}` rewrites it", args.file.display());
        return Err(Failure::hinted(format!("{} is not in canonical form", args.file.display()), hint));
    }
    files::write(&args.file, canonical.as_bytes())
}
