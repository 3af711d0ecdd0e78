//! `braid`: what is typed (args.rs) becomes a checked model (spec.rs), and then text, a report or an artifact. All files are
//! read and written here, and all errors are shown here (failure.rs).

mod args;
mod build;
mod cache;
mod check;
mod compared;
mod convert;
mod emit;
mod failure;
mod files;
mod import;
mod inspect;
mod linearise;
mod progress;
mod quantize;
mod run;
mod schedules;
mod spec;
mod tune;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

/// Does what was typed. 0: done, 1: the user's error, 2: wrong usage, 3: our limit, 4: our bug.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match execute(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show();
            ExitCode::from(failure.code())
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(args) => check::check(&args),
        Command::Fmt(args) => check::fmt(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Explain(args) => inspect::explain(&args),
        Command::Emit(args) => emit::emit(&args),
        Command::Build(args) => build::build(&args),
        Command::Import(args) => import::import(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::Linearise(args) => linearise::linearise(&args),
        Command::Run(args) => run::run(args),
        Command::Logits(args) => run::logits(args),
        Command::Verify(args) => run::verify(args),
        Command::Pack(args) => Ok(braid_runtime::cli::pack(&args)?),
        Command::Bench(args) => Ok(braid_runtime::cli::bench(&args)?),
        Command::Profile(args) => run::profile(args),
        Command::Tune(args) => tune::tune(&args),
        Command::Info(args) => Ok(braid_runtime::cli::info(&args)?),
    }
}

/// Text on stdout. A reader that stopped early (`| head`) is no error.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::file("write", "stdout".as_ref(), &e)),
        _ => Ok(()),
    }
}
