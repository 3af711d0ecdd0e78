//! `logits`: token ids and other inputs go in, logits come out.

use super::{Bar, InputOptions, ModelOptions};
use crate::artifact::Manifest;
use crate::checkpoint::{self, Checkpoint, Numbers};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::session::{Inputs, Session, Settings, Wanted};
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
    pub ids: Option<String>,
    /// What else the model is given.
    #[command(flatten)]
    pub inputs: InputOptions,
    /// The safetensors file to write: `input_ids` as given, `logits` [B, T, vocab], f32, and [B, T, …] of each further output that the artifact
    /// gives. `verify` takes it as a golden file, unless the model has other inputs or outputs.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// Computes the logits of every position of every row.
pub fn logits(args: &LogitsArgs) -> Result<()> {
    let (artifact, weights) = args.model.load(&args.artifact)?;
    let batch = args.inputs.read(&artifact.manifest)?;
    let rows = rows(args, &artifact.manifest, &batch)?;
    let (length, width) = (rows[0].len(), artifact.manifest.vocab);
    let has_ids = artifact.manifest.tokens > 0;
    let parts = parts(&artifact.manifest);
    let sources = batch.iter().map(|inputs| inputs.source_rows(&artifact.manifest));
    let capacity = sources.max().unwrap_or(0).max(length);
    let settings = Settings { threads: args.model.threads(), capacity, slots: 1 };
    let mut session = Session::new(artifact, weights, settings)?;
    let mut all = Vec::with_capacity(rows.len() * length * width);
    let bar = Bar::default();
    bar.begin("computing logits", (rows.len() * length) as u64);
    for (number, row) in rows.iter().enumerate() {
        session.reset(0)?;
        session.give(0, batch.get(number).cloned().unwrap_or_default())?;
        session.prefill(0, row, Wanted::All, |done, logits| {
            all.extend_from_slice(logits);
            bar.set((number * length + done) as u64);
        })?;
    }
    bar.end();
    let whole = [rows.len(), length];
    let rows = rows.concat();
    let mut begin = 0;
    let named = parts.into_iter().map(|(name, axes)| {
        let (from, elements) = (begin, axes.iter().product::<usize>());
        begin += elements;
        let numbers: Vec<f32> = all.chunks(width).flat_map(|row| &row[from..from + elements]).copied().collect();
        (name, [&whole[..], &axes].concat(), numbers)
    });
    let named: Vec<(String, Vec<usize>, Vec<f32>)> = named.collect();
    let mut tensors: Vec<(&str, &[usize], Numbers)> =
        named.iter().map(|(name, shape, numbers)| (&name[..], &shape[..], Numbers::Floats(numbers))).collect();
    if has_ids {
        tensors.insert(0, ("input_ids", &whole, Numbers::Ids(&rows)));
    }
    save(&args.output, &tensors).map_err(Error::file("write", &args.output))
}

/// What a row of the output holds: names and shapes.
fn parts(manifest: &Manifest) -> Vec<(String, Vec<usize>)> {
    let outputs =
        manifest.outputs.iter().map(|output| (output.name.clone(), output.axes.iter().map(|(_, size)| *size).collect()));
    std::iter::once(("logits".into(), vec![manifest.result()])).chain(outputs).collect()
}

/// The token ids of each sequence, as long as its inputs; zeros in a model that takes none.
fn rows(args: &LogitsArgs, manifest: &Manifest, batch: &[Inputs]) -> Result<Vec<Vec<i32>>> {
    let rows = match (&args.ids, manifest.tokens) {
        (Some(_), 0) => return Err(Error::input("the model takes no token ids", "leave `--ids` out")),
        (None, 0) => batch.iter().map(|inputs| vec![0; inputs.rows(manifest)]).collect(),
        (None, _) => {
            return Err(Error::input("there are no token ids", "give `--ids 1,2,3`, or a safetensors file with `input_ids`"));
        }
        (Some(text), _) => match text.split(',').map(|id| id.trim().parse()).collect() {
            Ok(row) => vec![row],
            Err(_) => ids(&Checkpoint::open(Path::new(text))?, "input_ids")?,
        },
    };
    if !batch.is_empty() && batch.len() != rows.len() {
        let what = format!("{} sequences of token ids, and {} of the other inputs", rows.len(), batch.len());
        return Err(Error::input(what, "give as many of each"));
    }
    if let Some((inputs, row)) = batch.iter().zip(&rows).find(|(inputs, row)| inputs.rows(manifest) > row.len()) {
        let what = format!("inputs of {} positions beside {} token ids", inputs.rows(manifest), row.len());
        return Err(Error::input(what, "a position has one of each; inputs may end before the ids do"));
    }
    Ok(rows)
}

fn save(path: &Path, tensors: &[(&str, &[usize], Numbers)]) -> std::io::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    checkpoint::write_numbers(&mut out, tensors)?;
    out.flush()
}
