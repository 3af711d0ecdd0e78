//! `braid emit`.

use super::args::EmitArgs;
use super::failure::Failure;
use super::{build, files, say, spec};
use braid_compiler::pipeline::{self, STAGES};
use braid_dsl::diagnostic::did_you_mean;

/// Prints one stage.
pub fn emit(args: &EmitArgs) -> Result<(), Failure> {
    if args.stage == "ast" {
        return ast(args);
    }
    let Some(stage) = pipeline::stage(&args.stage) else { return Err(unknown(&args.stage)) };
    let spec = spec::load(&args.spec)?;
    let (work, sources) = build::compile(spec, &args.code, stage)?;
    let text = work.print(stage, args.kernel.as_deref()).map_err(|e| Failure::Compiler(e, sources))?;
    say(&text)
}

/// The tree of the file itself, in canonical form.
fn ast(args: &EmitArgs) -> Result<(), Failure> {
    let text = match spec::find(&args.spec.spec)? {
        spec::Place::File(path) => files::read(&path)?,
        spec::Place::Library(name) => braid_stdlib::file(&name).unwrap_or_default().to_string(),
    };
    let tree = braid_dsl::parse(&text).map_err(|found| {
        let mut sources = braid_dsl::source::SourceMap::default();
        sources.add(&args.spec.spec, text.clone());
        Failure::Spec(found, sources)
    })?;
    say(&format!("{tree:#?}\n"))
}

fn unknown(name: &str) -> Failure {
    let names = || ["ast"].into_iter().chain(STAGES.iter().map(|s| s.name));
    let list: Vec<String> = STAGES.iter().map(|s| format!("\n  {:9} {}", s.name, s.about)).collect();
    let near = did_you_mean(name, names()).map(|h| h + " ").unwrap_or_default();
    Failure::hinted(
        format!("there is no stage `{name}`"),
        format!("{near}the stages are\n  ast       the file as a tree{}", list.concat()),
    )
}
