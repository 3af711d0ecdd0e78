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
    /// A safetensors file with `input_ids` [B, T], or rows of ids: 1,2,3, or 1,2,3;4,5,6.
    #[arg(long, value_name = "IDS_OR_FILE")]
    pub ids: Option<String>,
    /// What else the model is given.
    #[command(flatten)]
    pub inputs: InputOptions,
    /// The last so many tokens of each row come one after another, all rows side by side, as when several sequences are decoded; of each
    /// further row one more, so that they stand at different positions.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub steps: usize,
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
    let settings = Settings { threads: args.model.threads(), capacity, slots: if args.steps > 0 { rows.len() } else { 1 } };
    let mut session = Session::new(artifact, weights, settings)?;
    let mut made = Made { all: vec![0.0; rows.len() * length * width], done: 0, bar: Bar::default() };
    made.bar.begin("computing logits", (rows.len() * length) as u64);
    let mut behind = vec![length; rows.len()];
    for (number, row) in rows.iter().enumerate() {
        let slot = if args.steps > 0 { number } else { 0 };
        if args.steps > 0 {
            behind[number] = length.saturating_sub(args.steps.saturating_add(number));
        }
        session.reset(slot)?;
        session.give(slot, batch.get(number).cloned().unwrap_or_default())?;
        if behind[number] == 0 {
            continue;
        }
        let mut from = number * length;
        session.prefill(slot, &row[..behind[number]], Wanted::All, |_, logits| from = made.put(from, logits, width))?;
    }
    side_by_side(&mut session, &rows, &mut behind, |place, logits| _ = made.put(place, logits, width))?;
    let Made { all, bar, .. } = made;
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

/// Logits as they come.
struct Made {
    all: Vec<f32>,
    done: usize,
    bar: Bar,
}

impl Made {
    /// Those of some positions from this one on, all rows counted; gives the position behind them.
    fn put(&mut self, from: usize, logits: &[f32], width: usize) -> usize {
        self.all[from * width..][..logits.len()].copy_from_slice(logits);
        let rows = logits.len() / width;
        self.done += rows;
        self.bar.set(self.done as u64);
        from + rows
    }
}

/// Feeds what is left of each row, one token after another, all rows side by side; `put` gets each position, all rows counted, and its logits.
fn side_by_side(
    session: &mut Session,
    rows: &[Vec<i32>],
    behind: &mut [usize],
    mut put: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let length = rows[0].len();
    loop {
        let next: Vec<(usize, i32)> =
            rows.iter().enumerate().filter_map(|(slot, row)| Some((slot, *row.get(behind[slot])?))).collect();
        if next.is_empty() {
            return Ok(());
        }
        let logits = session.step(&next)?;
        let width = logits.len() / next.len();
        for ((slot, _), logits) in next.iter().zip(logits.chunks(width)) {
            put(slot * length + behind[*slot], logits);
            behind[*slot] += 1;
        }
    }
}

/// What a row of the output holds: names and shapes.
fn parts(manifest: &Manifest) -> Vec<(String, Vec<usize>)> {
    let outputs =
        manifest.outputs.iter().map(|output| (output.name.clone(), output.axes.iter().map(|(_, size)| *size).collect()));
    std::iter::once(("logits".into(), vec![manifest.result()])).chain(outputs).collect()
}

/// Rows of ids, if a text is such.
fn written(text: &str) -> Option<Vec<Vec<i32>>> {
    let row = |row: &str| row.split(',').map(|id| id.trim().parse().ok()).collect();
    text.split(';').map(row).collect()
}

/// The token ids of each sequence, as long as its inputs; zeros in a model that takes none.
fn rows(args: &LogitsArgs, manifest: &Manifest, batch: &[Inputs]) -> Result<Vec<Vec<i32>>> {
    let rows = match (&args.ids, manifest.tokens) {
        (Some(_), 0) => return Err(Error::input("the model takes no token ids", "leave `--ids` out")),
        (None, 0) => batch.iter().map(|inputs| vec![0; inputs.rows(manifest)]).collect(),
        (None, _) => {
            return Err(Error::input("there are no token ids", "give `--ids 1,2,3`, or a safetensors file with `input_ids`"));
        }
        (Some(text), _) => match written(text) {
            Some(rows) if rows.iter().any(|row| row.len() != rows[0].len()) => {
                return Err(Error::input("rows of token ids are not equally long", "logits have one shape for all of them"));
            }
            Some(rows) => rows,
            None => ids(&Checkpoint::open(Path::new(text))?, "input_ids")?,
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
