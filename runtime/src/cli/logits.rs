//! `logits`: token ids go in, logits come out.

use super::{Bar, ModelOptions};
use crate::checkpoint::{self, Checkpoint, Numbers};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::session::{Session, Settings, Wanted};
use crate::verify::ids;
use clap::Args;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Arguments of `logits`.
#[derive(Args)]
pub struct LogitsArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// A safetensors file with `input_ids` [B, T], or one row of ids: 1,2,3.
    #[arg(long, value_name = "IDS_OR_FILE")]
    pub ids: String,
    /// The safetensors file to write: `input_ids` as given, and `logits` [B, T, vocab], f32. `verify` takes it as a golden file.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// Computes the logits of every position of every row.
pub fn logits(args: &LogitsArgs) -> Result<()> {
    let rows = match args.ids.split(',').map(|id| id.trim().parse()).collect() {
        Ok(row) => vec![row],
        Err(_) => ids(&Checkpoint::open(Path::new(&args.ids))?, "input_ids")?,
    };
    let (artifact, weights) = args.model.load(&args.artifact)?;
    let (length, vocab) = (rows[0].len(), artifact.manifest.vocab);
    let settings = Settings { threads: args.model.threads(), capacity: length, slots: 1 };
    let mut session = Session::new(artifact, weights, settings)?;
    let mut all = Vec::with_capacity(rows.len() * length * vocab);
    let bar = Bar::default();
    bar.begin("computing logits", (rows.len() * length) as u64);
    for (number, row) in rows.iter().enumerate() {
        session.reset(0)?;
        session.prefill(0, row, Wanted::All, |done, logits| {
            all.extend_from_slice(logits);
            bar.set((number * length + done) as u64);
        })?;
    }
    bar.end();
    let shape = [rows.len(), length, vocab];
    let (ids, logits) = (Numbers::Ids(&rows.concat()), Numbers::Floats(&all));
    let tensors = [("input_ids", &shape[..2], ids), ("logits", &shape[..], logits)];
    save(&args.output, &tensors).map_err(Error::file("write", &args.output))
}

fn save(path: &Path, tensors: &[(&str, &[usize], Numbers)]) -> std::io::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    checkpoint::write_numbers(&mut out, tensors)?;
    out.flush()
}
