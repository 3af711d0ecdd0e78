//! `braid inspect` and `braid explain`.

use super::args::{ExplainArgs, InspectArgs};
use super::failure::Failure;
use super::{build, files, say, spec};
use braid_compiler::inspect as report;
use braid_compiler::pipeline;

/// Prints or draws what a model is and costs.
pub fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let spec = spec::load(&args.spec)?;
    let found = report::inspect(&spec.model);
    if let Some(path) = &args.draw {
        files::has_folder(path)?;
        files::write(path, report::draw::draw(&spec.model, &found).as_bytes())?;
    }
    match (args.json, &args.draw) {
        (true, _) => say(&format!("{:#}\n", report::json(&found))),
        (false, Some(path)) => say(&format!("drew {} into {}\n", found.model, path.display())),
        (false, None) => say(&report::table(&found)),
    }
}

/// Prints what was derived and fused.
pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let spec = spec::load(&args.spec)?;
    let Some(stage) = pipeline::stage("plan") else { return Ok(()) };
    let (work, sources) = build::compile(spec, &args.code, stage)?;
    say(&report::explain(work.plan()?, &sources))
}
