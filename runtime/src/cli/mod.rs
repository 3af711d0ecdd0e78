//! The command line of everything that runs artifacts. `braid-run` is exactly this; `braid` has the same subcommands over it.

mod bench;
mod chat;
mod fill;
mod given;
mod info;
mod logits;
mod pack;
mod profile;
mod progress;
mod run;
mod verify;

pub use bench::{BenchArgs, bench};
pub use given::InputOptions;
pub use info::{InfoArgs, info};
pub use logits::{LogitsArgs, logits};
pub use pack::{PackArgs, pack};
pub use profile::{ProfileArgs, ProfileOptions, run_profile};
pub use progress::Bar;
pub use run::{RunArgs, RunOptions, run};
pub use verify::{VerifyArgs, verify};

use crate::cpu::pool;
use crate::error::{Error, Result};
use crate::load::Artifact;
use crate::weights::Weights;
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Runs models that `braid build` compiled; no compiler inside.
#[derive(Parser)]
#[command(name = "braid-run", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  braid-run run model.braidart --weights checkpoint/ --prompt \"Once upon a time\"
  braid-run run model.braidart --weights model.gguf --chat --prompt \"What is a braid?\"
  braid-run run model.braidart --weights random:1 --ids 1,2,3 --max-tokens 64 --json
  braid-run run model.braidart --weights checkpoint/ --prompt \"$(cat long.txt)\" -n 0 --save-state long.state
  braid-run run model.braidart --weights checkpoint/ --load-state long.state --prompt \"In short:\"
  braid-run logits model.braidart --weights checkpoint/ --ids input.safetensors -o output.safetensors
  braid-run logits model.braidart --weights checkpoint/ --input patches=image.safetensors -o output.safetensors
  braid-run verify model.braidart --weights checkpoint/ --golden golden.safetensors --tolerance 1e-4
  braid-run pack model.braidart --weights checkpoint/ -o weights.bin
  braid-run bench model.braidart --weights random:1 --prompt 512 --tokens 64
  braid-run profile model.braidart --weights checkpoint/ --html profile.html
  braid-run info model.braidart

Exit codes: 0 success, 1 an error in what was given, 2 usage, 3 a limit of Braid, 4 a bug in Braid.";

/// The subcommands that need no compiler.
#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one is made")]
pub enum Command {
    /// Generate text after a prompt, as a stream.
    Run(RunArgs),
    /// Compute the logits of given token ids and inputs.
    Logits(LogitsArgs),
    /// Compare with golden results.
    Verify(VerifyArgs),
    /// Write the packed weights to a file, for quick starts and C programs.
    Pack(PackArgs),
    /// Measure prefill and decoding, beside what memory gives.
    Bench(BenchArgs),
    /// Measure every kernel, beside what the machine can do at most.
    Profile(ProfileArgs),
    /// Describe an artifact.
    Info(InfoArgs),
}

/// What every computing subcommand needs.
#[derive(Args, Clone, Debug)]
pub struct ModelOptions {
    /// A checkpoint directory, a safetensors or GGUF file, a file written by `pack`, or random:SEED.
    #[arg(long, short, value_name = "DIR")]
    pub weights: String,
    /// Threads that compute; all cores by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=pool::MOST as i64))]
    pub threads: Option<u16>,
    /// Of an artifact for several levels of a processor, the one for this target; by default the last that runs here.
    #[arg(long, value_name = "TARGET")]
    pub level: Option<String>,
}

impl ModelOptions {
    /// The wanted number of threads, or as many as there are cores.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(pool::default_threads, usize::from)
    }

    /// Loads an artifact and its weights, with a progress bar.
    pub fn load(&self, artifact: &Path) -> Result<(Arc<Artifact>, Arc<Weights>)> {
        let artifact = Artifact::open_level(artifact, self.level.as_deref())?;
        let weights = Weights::open_cached(&artifact.manifest, &self.weights, self.threads(), &Bar::default())?;
        weights.place(&artifact, &Bar::default())?;
        Ok((Arc::new(artifact), Arc::new(weights)))
    }
}

/// Runs a subcommand.
pub fn execute(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run(&args.artifact, &args.options),
        Command::Logits(args) => logits(&args),
        Command::Verify(args) => verify(&args),
        Command::Pack(args) => pack(&args),
        Command::Bench(args) => bench(&args),
        Command::Profile(args) => run_profile(&args.artifact, &args.options),
        Command::Info(args) => info(&args),
    }
}

/// The whole of `braid-run`.
pub fn main() -> ExitCode {
    finish(execute(Cli::parse().command))
}

/// Prints an error with its hint, and makes an exit code of it.
pub fn finish(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    tell(&format!("error: {error}"));
    if let Some(hint) = error.hint() {
        tell(&format!("hint: {hint}"));
    }
    ExitCode::from(error.exit_code())
}

/// Writes a line to standard error. Where nobody reads it (`2>&1 | head`), nobody can be told either.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes to standard output, at once.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::file("write", Path::new("standard output")))
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Bug { what: error.to_string() })?;
    print(&format!("{text}\n"))
}

/// How many a second.
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// A number of bytes, for people.
fn size(bytes: usize) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = "bytes";
    for next in units {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{size:.1} {unit}") }
}
