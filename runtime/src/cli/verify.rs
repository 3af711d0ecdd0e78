//! `verify`: comparison with golden results.

use super::{ModelOptions, print, print_json};
use crate::error::{Error, Result};
use crate::verify::{Difference, Report, compare};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// The golden safetensors file.
    #[arg(long, value_name = "FILE")]
    pub golden: PathBuf,
    /// Largest absolute difference of a logit; by default `suggested_tolerance.atol` of a meta.json beside the golden file, or 1e-3.
    #[arg(long, value_name = "ATOL")]
    pub tolerance: Option<f64>,
    /// The same as a part of the largest golden logit: what rounds its factors (bf16) is as exact as they are large.
    #[arg(long, value_name = "RTOL", conflicts_with = "tolerance")]
    pub relative: Option<f64>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Compares, prints what was found, and fails if it is too much.
pub fn verify(args: &VerifyArgs) -> Result<()> {
    let (artifact, weights) = args.model.load(&args.artifact)?;
    let report = compare(artifact, weights, &args.golden, args.model.threads())?;
    let tolerance = match (args.tolerance, args.relative) {
        (Some(tolerance), _) => tolerance,
        (None, Some(relative)) => relative * report.peak(),
        (None, None) => suggested(&args.golden).unwrap_or(1e-3),
    };
    if args.json {
        print_json(&serde_json::json!({"tolerance": tolerance, "max_abs": report.max_abs(), "report": report}))?;
    } else {
        print(&table(&report, tolerance))?;
    }
    verdict(&report, tolerance)
}

fn verdict(report: &Report, tolerance: f64) -> Result<()> {
    let (worst, gap) = (report.max_abs(), report.gap());
    if worst > tolerance {
        return Err(Error::Differs { what: format!("the largest difference is {worst:.3e}, beyond {tolerance:.3e}") });
    }
    // Where two logits are nearly equal, an error within the tolerance may turn them round.
    if gap > 2.0 * tolerance {
        return Err(Error::Differs { what: format!("a greedy token differs, by {gap:.3e} in its logit") });
    }
    Ok(())
}

/// The tolerance that a golden folder's meta.json suggests.
fn suggested(golden: &Path) -> Option<f64> {
    let text = std::fs::read(golden.with_file_name("meta.json")).ok()?;
    let meta: serde_json::Value = serde_json::from_slice(&text).ok()?;
    meta["suggested_tolerance"]["atol"].as_f64()
}

fn table(report: &Report, tolerance: f64) -> String {
    let mut lines = vec![format!("{:<24} {:>9}  {:>9}  {:>9}  {:>9}", "", "", "max", "relative", "rms")];
    let numbers = |what: &Difference| format!("{:>9.2e}  {:>9.2e}  {:>9.2e}", what.max_abs, what.relative, what.rms);
    for whole in &report.whole {
        let name = format!("{}, whole sequence", whole.name);
        lines.push(format!("{name:<24} {:>9}  {}", whole.positions, numbers(&whole.difference)));
    }
    for decoding in &report.decoding {
        for (step, difference) in decoding.steps.iter().enumerate() {
            lines.push(format!("{:<24} {:>9}  {}", format!("{}, step", decoding.name), step, numbers(difference)));
        }
        let name = format!("{}, greedy tokens", decoding.name);
        lines.push(format!("{name:<24} {:>9}", format!("{} of {}", decoding.equal, decoding.tokens)));
    }
    lines.push(format!("largest difference {:.3e}, tolerance {tolerance:.3e}\n", report.max_abs()));
    lines.join("\n")
}
