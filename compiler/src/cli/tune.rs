//! `braid tune`: tries schedules on this machine and keeps the best.

use super::args::{CodeArgs, TuneArgs};
use super::build::{dtype, made_for};
use super::failure::Failure;
use super::schedules::{self, Tuned};
use super::spec::{self, Spec};
use super::{files, say};
use braid_compiler::schedule::Schedule;
use braid_compiler::target::Target;
use braid_runtime::artifact;
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Inputs, Session, Settings, Wanted};
use braid_runtime::{Artifact, Weights};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Tokens of the prompt.
const PROMPT: usize = 256;
/// Sequences at a time.
const SEQUENCES: usize = 8;
/// Steps that are measured together.
const STEPS: usize = 4;
/// Turns of a candidate and the best so far, one after the other; the least time of each counts.
const TURNS: usize = 5;
/// What is less better than this may be noise.
const WORTH: f64 = 0.98;

/// Times of a prompt, a step of one sequence, and a step of several.
type Times = [f64; 3];

/// A schedule that is ready to be measured.
struct Ready {
    schedule: Schedule,
    session: Session,
    weights: Arc<Weights>,
}

/// Tries what differs in one number from the best so far, number by number, and keeps the best.
pub fn tune(args: &TuneArgs) -> Result<(), Failure> {
    let spec = spec::load(&args.spec)?;
    let output = match &args.output {
        Some(path) => files::has_folder(path).map(|()| path.clone())?,
        None => schedules::kept_to_write()
            .ok_or_else(|| Failure::hinted("there is no folder for schedules", "name a file: `-o FILE`"))?,
    };
    let target = Target::parse(&args.code.target)?;
    if target.gpu.is_some() || !target.is_native() {
        return Err(Failure::user(format!(
            "`{}` cannot be measured here: schedules are for this machine's processor",
            target.name
        )));
    }
    let bench = Bench {
        spec,
        code: &args.code,
        threads: args.threads.map_or_else(braid_runtime::cpu::pool::default_threads, usize::from),
        built: AtomicUsize::new(0),
    };
    let target = schedules::applied(target, dtype(&args.code), &args.code)?;
    let mut best = bench.ready(&target, None)?;
    if !best.session.manifest().autoregressive {
        return Err(Failure::user("only models that `generate autoregressive` are tuned"));
    }
    let registers = target.vector_registers;
    for group in 0..best.schedule.neighbours(registers).len() {
        for schedule in best.schedule.neighbours(registers).swap_remove(group) {
            let mut other = bench.ready(&Target { schedule, ..target.clone() }, Some(&best.weights))?;
            let mut times = compared(&mut best.session, &mut other.session)?;
            if score(times) < WORTH {
                // What looks better is measured again: something else may have run beside the best.
                let again = compared(&mut best.session, &mut other.session)?;
                times = if score(again) > score(times) { again } else { times };
            }
            let better = score(times) < WORTH;
            let [prompt, one, several] = times;
            let mark = if better { ", taken" } else { "" };
            say(&format!(
                "{}: prompt {prompt:.2}, one sequence {one:.2}, {SEQUENCES} sequences {several:.2} of the best{mark}\n",
                shown(&schedule)
            ))?;
            if better {
                best = other;
            }
        }
    }
    let schedule = best.schedule;
    let found = Tuned { target: target.name, dtype: dtype(&args.code), machine: schedules::machine(), schedule };
    schedules::keep(&output, found)?;
    say(&format!("kept in {}: {}\n", output.display(), shown(&schedule)))
}

fn shown(schedule: &Schedule) -> String {
    let Schedule { tile_rows, panel_vectors, task_rows, ahead } = schedule;
    format!("tile_rows {tile_rows}, panel_vectors {panel_vectors}, task_rows {task_rows}, ahead {ahead}")
}

/// The geometric mean.
fn score(times: Times) -> f64 {
    times.iter().product::<f64>().powf(1.0 / times.len() as f64)
}

/// What is measured.
struct Bench<'a> {
    spec: Spec,
    code: &'a CodeArgs,
    threads: usize,
    /// Artifacts so far.
    built: AtomicUsize,
}

impl Bench<'_> {
    /// Builds the model, with the weights of another schedule if they fit.
    fn ready(&self, target: &Target, known: Option<&Arc<Weights>>) -> Result<Ready, Failure> {
        let (library, manifest) = made_for(self.spec.clone(), target.clone(), self.code)?;
        // A name of its own: the system takes a library of a known name for the one that is loaded already.
        let count = self.built.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("braid-tune-{}-{count}.braidart", std::process::id()));
        artifact::write(&path, &library, &manifest).map_err(|e| Failure::file("write", &path, &e))?;
        let opened = Artifact::open(&path);
        // Its code is loaded, or it is of no use.
        std::fs::remove_file(&path).map_err(|e| Failure::file("remove", &path, &e))?;
        let artifact = Arc::new(opened?);
        let weights = match known.filter(|known| known.fits(&artifact.manifest).is_ok()) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Weights::open(&artifact.manifest, "random:1", self.threads, &Hidden)?),
        };
        let settings = Settings { threads: self.threads, capacity: PROMPT + 4 * STEPS, slots: SEQUENCES };
        let session = Session::new(artifact, Arc::clone(&weights), settings)?;
        Ok(Ready { schedule: target.schedule, session, weights })
    }
}

/// The times of the second as parts of those of the first.
fn compared(first: &mut Session, second: &mut Session) -> Result<Times, Failure> {
    let mut least = [[f64::INFINITY; 3]; 2];
    for _ in 0..TURNS {
        for (least, session) in least.iter_mut().zip([&mut *first, &mut *second]) {
            let times = turn(session)?;
            least.iter_mut().zip(times).for_each(|(least, time)| *least = least.min(time));
        }
    }
    Ok(std::array::from_fn(|at| least[1][at] / least[0][at]))
}

/// Measures once.
fn turn(session: &mut Session) -> Result<Times, Failure> {
    let tokens = session.manifest().tokens.max(1);
    let ids: Vec<i32> = (0..PROMPT).map(|at| (at * 7 % tokens) as i32).collect();
    let blank = Inputs::blank(session.manifest(), PROMPT);
    for slot in 0..SEQUENCES {
        session.reset(slot)?;
        session.give(slot, blank.clone())?;
    }
    let start = Instant::now();
    session.prefill(0, &ids, Wanted::Last, |_, _| ())?;
    let prompt = start.elapsed().as_secs_f64();
    let mut steps = |slots: usize| {
        let feeds: Vec<(usize, i32)> = (0..slots).map(|slot| (slot, ids[slot])).collect();
        let start = Instant::now();
        (0..STEPS).try_for_each(|_| session.step(&feeds).map(drop))?;
        Ok::<f64, Failure>(start.elapsed().as_secs_f64())
    };
    Ok([prompt, steps(1)?, steps(SEQUENCES)?])
}
