//! `info`: what an artifact says about itself.

use super::{print, print_json, size};
use crate::artifact::{Manifest, Param};
use crate::error::Result;
use crate::load;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `info`.
#[derive(Args)]
pub struct InfoArgs {
    /// The artifact; it may be one for another processor.
    pub artifact: PathBuf,
    /// List all parameters and the tensors that they are bound to.
    #[arg(long)]
    pub params: bool,
    /// Print the whole manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints a summary, the parameters, or the manifest.
pub fn info(args: &InfoArgs) -> Result<()> {
    let manifest = load::manifest(&args.artifact)?;
    if args.json {
        return print_json(&manifest);
    }
    print(&summary(&manifest))?;
    let lines: String = manifest.params.iter().filter(|_| args.params).map(param).collect();
    print(&lines)
}

fn summary(manifest: &Manifest) -> String {
    let numbers: usize = manifest.params.iter().map(Param::count).sum();
    let rows = [
        ("model", manifest.model.clone()),
        ("target", format!("{} ({})", manifest.target, manifest.features.join(" "))),
        ("parameters", format!("{numbers} in {} tensors", manifest.params.len())),
        ("weights", format!("{}, matrices as {:?}", size(manifest.weights_bytes), manifest.dtype).to_lowercase()),
        ("output", format!("{} logits a row", manifest.vocab)),
        ("generates", if manifest.autoregressive { "token by token".into() } else { "no".into() }),
        ("longest call", format!("{} rows of one sequence", manifest.max_rows)),
        ("arena", format!("{} for each row", size(manifest.arena_row_bytes))),
        (
            "state",
            format!(
                "{} a sequence and {} for each position",
                size(manifest.state_fixed_bytes),
                size(manifest.state_position_bytes)
            ),
        ),
    ];
    rows.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

fn param(param: &Param) -> String {
    let axes: Vec<_> = param.axes.iter().zip(&param.shape).map(|(axis, size)| format!("{axis} {size}")).collect();
    let tensor = match &param.binding {
        None => "not bound".into(),
        Some(binding) => match &binding.tensors[..] {
            [one] => format!("{one} {:?}", binding.shape),
            many => format!("{} … {} {:?}", many[0], many[many.len() - 1], binding.shape),
        },
    };
    format!("{} [{}]  {tensor}\n", param.path, axes.join(", "))
}
