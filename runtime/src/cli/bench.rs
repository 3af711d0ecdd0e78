//! `bench`: how fast an artifact reads a prompt and generates, beside what memory gives.

use super::{ModelOptions, print, print_json, size};
use crate::artifact::{Launch, Manifest};
use crate::error::{Error, Result};
use crate::random;
use crate::session::{Bandwidth, Inputs, Session, Settings, Wanted};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tokens of the prompt, of each sequence.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Steps of decoding.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Sequences at a time.
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// Tokens that each sequence has seen when decoding begins; by default the prompt.
    #[arg(long, value_name = "C")]
    pub context: Option<u32>,
    /// List how long each step of the GPU's launch takes alone when decoding.
    #[arg(long)]
    pub steps: bool,
    /// List the same for the last call of the prompt.
    #[arg(long, conflicts_with = "steps")]
    pub prompt_steps: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Turns of the prompt; the median counts.
const TURNS: usize = 5;
/// Launches of each step; the median counts.
const LAUNCHES: usize = 15;

/// What was measured.
struct Report {
    prefill: Duration,
    /// Of one step, by the clock of what computes.
    decode: Duration,
    /// Of one step, by the clock on the wall: sampling is not in it, everything else is.
    wall: Duration,
    weights: usize,
    bandwidth: Bandwidth,
    /// For each step of a launch: its tasks, and how long it takes.
    steps: Vec<(usize, Duration)>,
}

/// Measures and prints.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let (artifact, weights) = args.model.load(&args.artifact)?;
    let (prompt, tokens, batch) = (args.prompt as usize, args.tokens as usize, usize::from(args.batch));
    let context = args.context.map_or(prompt, |context| context as usize);
    if context < prompt {
        return Err(Error::input(
            format!("a context of {context} tokens after a prompt of {prompt}"),
            "give a shorter `--prompt`",
        ));
    }
    let settings = Settings { threads: args.model.threads(), capacity: context + 2 * tokens + 2, slots: batch };
    let blank = Inputs::blank(&artifact.manifest, prompt);
    let mut session = Session::new(artifact, weights, settings)?;
    (0..batch).try_for_each(|slot| session.give(slot, blank.clone()))?;
    let report = Report::measure(&mut session, [prompt, context, tokens], (args.steps, args.prompt_steps))?;
    let shape = Shape { prompt, context, batch };
    if args.json { print_json(&report.json(&session, &shape)) } else { print(&report.table(&session, &shape)) }
}

struct Shape {
    prompt: usize,
    context: usize,
    batch: usize,
}

impl Report {
    fn measure(session: &mut Session, [prompt, context, tokens]: [usize; 3], (steps, of_prompt): (bool, bool)) -> Result<Self> {
        let ids = ids(session, context);
        read(session, &ids[..prompt])?; // a warm-up
        let prefill = median(TURNS, || read(session, &ids[..prompt]))?;
        let rows = (prompt - 1) % session.manifest().max_rows + 1;
        let prompt_steps = if of_prompt { alone(session, rows)? } else { Vec::new() };
        read(session, &ids)?;
        let next: Vec<_> = (0..session.slots()).map(|slot| (slot, ids[slot % ids.len()])).collect();
        session.step(&next)?;
        let decode = median(tokens, || Ok(session.time(|session| session.step(&next).map(drop))?.1))?;
        let start = Instant::now();
        for _ in 0..tokens {
            session.step(&next)?;
        }
        let wall = start.elapsed() / tokens as u32;
        let weights = read_bytes(session.manifest());
        let bandwidth = session.bandwidth()?;
        let steps = if steps { alone(session, session.slots())? } else { prompt_steps };
        Ok(Self { prefill, decode, wall, weights, bandwidth, steps })
    }

    fn achieved(&self) -> f64 {
        self.weights as f64 / seconds(self.decode)
    }

    fn table(&self, session: &Session, shape: &Shape) -> String {
        let Shape { prompt, context, batch } = shape;
        let rate = |count: usize, time| count as f64 / seconds(time);
        let rows = [
            ("model", format!("{} for {}, on {}", session.manifest().model, session.manifest().target, session.engine())),
            (
                "prefill",
                format!(
                    "{batch} x {prompt} tokens in {}, {:.0} tokens/s",
                    milli(self.prefill),
                    rate(batch * prompt, self.prefill)
                ),
            ),
            (
                "decode",
                format!(
                    "{batch} x 1 token behind {context} in {}, {:.1} tokens/s; {} on the wall, {:.1} tokens/s",
                    milli(self.decode),
                    rate(*batch, self.decode),
                    milli(self.wall),
                    rate(*batch, self.wall)
                ),
            ),
            (
                "weights",
                format!(
                    "{} a step, {:.1} GB/s; memory gives {:.1} GB/s ({}): {:.2} of it",
                    size(self.weights),
                    self.achieved() / 1e9,
                    self.bandwidth.bytes / 1e9,
                    self.bandwidth.how,
                    self.achieved() / self.bandwidth.bytes
                ),
            ),
        ];
        let rows: String = rows.iter().map(|(name, value)| format!("{name:<9}{value}\n")).collect();
        rows + &self.launches(session)
    }

    /// The steps of a launch, and their sum.
    fn launches(&self, session: &Session) -> String {
        let Some(device) = session.manifest().device.as_ref().filter(|_| !self.steps.is_empty()) else { return String::new() };
        // Calls of one row have steps that others have not, and others some that these have not.
        let busy = || device.steps.iter().zip(&self.steps).enumerate().filter(|(_, (_, (tasks, _)))| *tasks > 0);
        let line = |(number, (step, (tasks, time))): (usize, (&Launch, &(usize, Duration)))| {
            let name = &device.functions[step.function];
            format!("{number:>5}  {:>9.2} µs  {tasks:>7} tasks  {}{name}\n", micro(*time), if step.wait { "" } else { "+ " })
        };
        let lines: String = busy().map(line).collect();
        let sum: Duration = busy().map(|(_, (_, (_, time)))| *time).sum();
        format!(
            "\n{lines}  sum  {:>9.2} µs of {} steps in one launch, each alone with cold caches; + goes on without waiting\n",
            micro(sum),
            busy().count()
        )
    }

    fn json(&self, session: &Session, shape: &Shape) -> serde_json::Value {
        let manifest = session.manifest();
        let steps = manifest.device.iter().flat_map(|device| {
            let step = |(step, (tasks, time)): (&Launch, &(usize, Duration))| {
                serde_json::json!({"function": device.functions[step.function], "tasks": tasks, "microseconds": micro(*time), "waits": step.wait})
            };
            device.steps.iter().zip(&self.steps).map(step).collect::<Vec<_>>()
        });
        serde_json::json!({
            "model": manifest.model,
            "target": manifest.target,
            "engine": session.engine(),
            "batch": shape.batch,
            "prefill": {"tokens": shape.prompt, "seconds": seconds(self.prefill)},
            "decode": {"context": shape.context, "seconds": seconds(self.decode), "wall_seconds": seconds(self.wall)},
            "weights_bytes": self.weights,
            "weights_bytes_per_second": self.achieved(),
            "memory_bytes_per_second": self.bandwidth.bytes,
            "memory_how": self.bandwidth.how,
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

/// Bytes of weights that a step reads at least: other sequences may choose other experts.
fn read_bytes(manifest: &Manifest) -> usize {
    Some(manifest.token_weights_bytes).filter(|bytes| *bytes > 0).unwrap_or(manifest.weights_bytes)
}

/// Makes every sequence begin with these tokens, and says how long that takes.
fn read(session: &mut Session, ids: &[i32]) -> Result<Duration> {
    let slots = 0..session.slots();
    slots.clone().try_for_each(|slot| session.reset(slot))?;
    let prefill = |session: &mut Session| slots.clone().try_for_each(|slot| session.prefill(slot, ids, Wanted::Last, |_, _| ()));
    Ok(session.time(prefill)?.1)
}

/// The steps of the last call, of so many rows: tasks, and how long each takes alone.
fn alone(session: &mut Session, rows: usize) -> Result<Vec<(usize, Duration)>> {
    let times = session.profile(LAUNCHES)?;
    let multiprocessors = crate::gpu_at_hand()?.multiprocessors;
    let slots = session.slots();
    let Some(device) = &session.manifest().device else { return Ok(vec![]) };
    let (wanted, segments) = if rows > slots { (1, 1) } else { (rows, rows) };
    let counts = [1, rows, wanted, segments, device.step.blocks * multiprocessors];
    let tasks = device.steps.iter().map(|step| step.count(counts, rows, device.step_rows));
    Ok(tasks.zip(times).collect())
}

/// Tokens without a pattern.
fn ids(session: &Session, count: usize) -> Vec<i32> {
    let tokens = session.manifest().tokens.max(1) as u64;
    (0..count as u64).map(|at| (random::mix(at) % tokens) as i32).collect()
}

fn median(turns: usize, mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..turns.max(1)).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(1e-9)
}

fn micro(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn milli(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}
