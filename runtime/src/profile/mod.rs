//! Where the time of a model goes: every kernel of a long call and of a single token, beside the ceilings of the machine.

mod ceilings;
mod page;

pub use ceilings::Ceilings;
pub use page::page;

use crate::artifact::Work;
use crate::error::{Error, Result};
use crate::session::{Feed, Inputs, Session, Span, Wanted};
use serde::Serialize;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Single tokens after it.
    pub steps: usize,
    /// Times that the prompt is read.
    pub runs: usize,
}

/// One kind of call.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// `prefill` or `decode`.
    pub name: &'static str,
    /// What stands for it in words.
    pub about: String,
    /// Every kernel of a call, in order: the median of all calls.
    pub kernels: Vec<Timed>,
    /// Kernels of equal layers together, the longest first.
    pub groups: Vec<Group>,
    /// Seconds of a call.
    pub seconds: f64,
}

/// One kernel of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// The function.
    pub function: String,
    /// The part of the model.
    pub part: String,
    /// Seconds.
    pub seconds: f64,
    /// Operations.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
}

/// Kernels that differ in the number of their layer only.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `layers.{0–29}.attn`.
    pub part: String,
    /// The function.
    pub function: String,
    /// What it computes.
    pub ops: String,
    /// How many kernels of a call.
    pub count: usize,
    /// Seconds of all in one call.
    pub seconds: f64,
    /// Operations of all.
    pub flops: f64,
    /// Bytes of all.
    pub bytes: f64,
}

/// Everything measured.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The model.
    pub model: String,
    /// What its code is for.
    pub target: String,
    /// Threads.
    pub threads: usize,
    /// The machine's.
    pub ceilings: Ceilings,
    /// A prompt, and single tokens after it.
    pub phases: Vec<Phase>,
}

/// The least time for some work, as a part of the time that it took.
pub fn share(ceilings: &Ceilings, flops: f64, bytes: f64, seconds: f64) -> f64 {
    (flops / ceilings.flops).max(bytes / ceilings.bandwidth) / seconds.max(1e-12)
}

/// Measures in slot 0.
///
/// # Errors
/// An artifact without what is needed for it; those of the calls.
pub fn profile(session: &mut Session, wish: Wish) -> Result<Profile> {
    let manifest = session.manifest().clone();
    if manifest.work.is_empty() {
        return Err(Error::input("the artifact does not say what its kernels do", "build it again, for a CPU"));
    }
    session.give(0, Inputs::blank(&manifest, wish.prompt))?;
    let ceilings = Ceilings::measure(session)?;
    let ids: Vec<i32> = (0..wish.prompt).map(|at| ((at * 7919 + 13) % manifest.tokens.max(1)) as i32).collect();
    let (mut long, mut short) = (Vec::new(), Vec::new());
    let rows = wish.prompt.min(manifest.max_rows);
    // The first call finds cold caches.
    for run in 0..=wish.runs {
        session.reset(0)?;
        for part in ids.chunks(rows) {
            let spans = session.timed(&[Feed::new(0, part, Wanted::Last)])?;
            if run > 0 && session.position(0)? == rows {
                long.push(spans);
            }
        }
    }
    // A model that fills masks has no single tokens.
    let single = if manifest.autoregressive { wish.steps + 1 } else { 0 };
    for step in 0..single {
        let spans = session.timed(&[Feed::new(0, &ids[step % ids.len()..][..1], Wanted::Last)])?;
        if step > 0 {
            short.push(spans);
        }
    }
    let prefill = phase("prefill", format!("{rows} tokens at once"), &manifest.work, &long, (0, rows));
    let middle = wish.prompt + wish.steps / 2;
    let decode = phase("decode", format!("one token after about {middle}"), &manifest.work, &short, (middle, 1));
    let phases = [(prefill, true), (decode, single > 0)].into_iter().filter_map(|(phase, done)| done.then_some(phase)).collect();
    let (model, target) = (manifest.model, manifest.target);
    Ok(Profile { model, target, threads: session.threads(), ceilings, phases })
}

fn phase(name: &'static str, about: String, work: &[Work], calls: &[Vec<Span>], (position, rows): (usize, usize)) -> Phase {
    let one = |(at, work): (usize, &Work)| {
        let (flops, bytes) = work.of(position, rows, 1);
        let seconds = median(calls.iter().map(|spans| spans[at].end - spans[at].begin).collect());
        Timed { function: work.function.clone(), part: work.part.clone(), seconds, flops, bytes }
    };
    let kernels: Vec<Timed> = work.iter().enumerate().map(one).collect();
    let seconds = median(calls.iter().filter_map(|spans| Some(spans.last()?.end)).collect());
    Phase { name, about, groups: groups(work, &kernels), kernels, seconds }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// Kernels of one function in parts that differ in a number, together.
fn groups(work: &[Work], kernels: &[Timed]) -> Vec<Group> {
    let mut found: Vec<(String, Vec<usize>, Group)> = Vec::new();
    for (work, timed) in work.iter().zip(kernels) {
        let (pattern, layer) = holed(&work.part);
        let same = |(known, _, group): &&mut (String, Vec<usize>, Group)| {
            *known == pattern && group.function == work.function && group.ops == work.ops
        };
        match found.iter_mut().find(same) {
            Some((_, layers, group)) => {
                layers.extend(layer);
                group.count += 1;
                group.seconds += timed.seconds;
                group.flops += timed.flops;
                group.bytes += timed.bytes;
            }
            None => {
                let group = Group {
                    part: String::new(),
                    function: work.function.clone(),
                    ops: work.ops.clone(),
                    count: 1,
                    seconds: timed.seconds,
                    flops: timed.flops,
                    bytes: timed.bytes,
                };
                found.push((pattern, layer.into_iter().collect(), group));
            }
        }
    }
    let named = |(pattern, layers, group): (String, Vec<usize>, Group)| Group { part: filled(&pattern, layers), ..group };
    let mut groups: Vec<Group> = found.into_iter().map(named).collect();
    groups.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    groups
}

const HOLE: &str = "{}";

/// A path with a hole for its first number, and that number.
fn holed(path: &str) -> (String, Option<usize>) {
    let mut number = None;
    let part = |part: &str| match part.parse() {
        Ok(layer) if number.is_none() => {
            number = Some(layer);
            HOLE.to_string()
        }
        _ => part.to_string(),
    };
    let pattern: Vec<String> = path.split('.').map(part).collect();
    (pattern.join("."), number)
}

/// The path with the range of its layers: `layers.{0–5, 7}.attn`.
fn filled(pattern: &str, mut layers: Vec<usize>) -> String {
    layers.sort_unstable();
    layers.dedup();
    let ranges: Vec<String> = layers
        .chunk_by(|a, b| b - a == 1)
        .map(|run| if run.len() == 1 { run[0].to_string() } else { format!("{}–{}", run[0], run[run.len() - 1]) })
        .collect();
    let text = if layers.len() == 1 { ranges.concat() } else { format!("{{{}}}", ranges.join(", ")) };
    pattern.replace(HOLE, &text)
}
