//! `pack`: the weights as the artifact wants them, in a file that maps without further work.

use super::ModelOptions;
use crate::cli::Bar;
use crate::error::{Error, Result};
use crate::load;
use crate::weights::Weights;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `pack`.
#[derive(Args)]
pub struct PackArgs {
    /// The artifact; it may be one for another processor.
    pub artifact: PathBuf,
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// Packs and writes.
pub fn pack(args: &PackArgs) -> Result<()> {
    let wrong = |source| Error::Artifact { path: args.artifact.clone(), source };
    let manifest = load::manifest(&args.artifact)?.level(args.model.level.as_deref()).map_err(wrong)?;
    Weights::open(&manifest, &args.model.weights, args.model.threads(), &Bar::default())?.write(&args.output)
}
