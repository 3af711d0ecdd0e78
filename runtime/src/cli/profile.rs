//! `profile`: where the time goes, kernel by kernel.

use super::{ModelOptions, print, print_json};
use crate::artifact::replace;
use crate::error::{Error, Result};
use crate::profile::{Group, Phase, Profile, Wish, page, profile, share};
use crate::session::{Session, Settings};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `profile`.
#[derive(Args)]
pub struct ProfileArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// All the rest.
    #[command(flatten)]
    pub options: ProfileOptions,
}

/// Arguments that do not depend on where the artifact comes from.
#[derive(Args, Clone, Debug)]
pub struct ProfileOptions {
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tokens of the prompt; at most as many as one call takes are looked at.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub prompt: u32,
    /// Single tokens after the prompt.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub steps: u32,
    /// Times that the prompt is read.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Also write a page with a roofline, a timeline and all kernels.
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measures, prints a table, and writes a page if that is asked for.
pub fn run_profile(artifact: &Path, options: &ProfileOptions) -> Result<()> {
    let (artifact, weights) = options.model.load(artifact)?;
    let wish = Wish { prompt: options.prompt as usize, steps: options.steps as usize, runs: options.runs as usize };
    let settings = Settings { threads: options.model.threads(), capacity: wish.prompt + wish.steps + 1, slots: 1 };
    let mut session = Session::new(artifact, weights, settings)?;
    let profile = profile(&mut session, wish)?;
    if let Some(path) = &options.html {
        replace(path, page(&profile).as_bytes()).map_err(Error::file("write", path))?;
    }
    if options.json {
        return print_json(&profile);
    }
    print(&text(&profile))
}

fn text(profile: &Profile) -> String {
    let Profile { model, target, threads, ceilings, phases } = profile;
    let head = format!(
        "{model}, {target}, {threads} threads; ceilings measured: {:.1} GB/s read, {:.1} GFLOP/s in f32\n",
        ceilings.bandwidth / 1e9,
        ceilings.flops / 1e9
    );
    head + &phases.iter().map(|phase| table(phase, profile)).collect::<String>()
}

fn table(phase: &Phase, profile: &Profile) -> String {
    let whole: f64 = phase.groups.iter().map(|group| group.seconds).sum::<f64>().max(1e-12);
    let width = phase.groups.iter().map(|group| group.part.chars().count()).max().unwrap_or(4).clamp(4, 40);
    let mut out = format!(
        "\n{}, {}: {:.3} ms\n  {:width$}  {:16} times        ms   time      MB    GB/s     MFLOP  GFLOP/s  of ceiling\n",
        phase.name,
        phase.about,
        phase.seconds * 1e3,
        "part",
        "kernel"
    );
    for group in &phase.groups {
        let Group { part, function, count, seconds, flops, bytes, .. } = group;
        out += &format!(
            "  {part:width$}  {function:16} {count:5} {:9.3} {:5.1}% {:7.2} {:7.1} {:9.2} {:8.1} {:9.0} %\n",
            seconds * 1e3,
            seconds / whole * 100.0,
            bytes / 1e6,
            bytes / seconds.max(1e-12) / 1e9,
            flops / 1e6,
            flops / seconds.max(1e-12) / 1e9,
            share(&profile.ceilings, *flops, *bytes, *seconds) * 100.0
        );
    }
    out
}
