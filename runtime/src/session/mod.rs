//! The memory of some sequences, and feeding tokens through an artifact.
//!
//! A session has a fixed number of slots; each holds the caches and states of one sequence and knows its position. A call carries
//! rows of several slots ([`Feed`]), each at its own position. All memory is allocated when the session is made, but for snapshots
//! and what a slot's history keeps. travel.rs goes back and forth in a sequence.

mod batch;
mod engine;
mod history;
mod inputs;
mod saved;
mod states;
mod timed;
mod travel;

pub use batch::{Feed, Wanted};
pub use engine::Bandwidth;
pub use history::Keep;
pub use inputs::{Inputs, Values};
pub use saved::Saved;
pub use states::Snapshot;
pub use timed::Span;

pub(crate) use batch::Batch;
pub(crate) use engine::{Engine, Size};

use crate::artifact::{Input, Manifest};
use crate::cpu::pool;
use crate::error::{Error, Result};
use crate::load::{Artifact, Phase};
use crate::weights::Weights;
use history::History;
use states::States;
use std::sync::Arc;
use std::time::Duration;

/// How large a session is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads that compute.
    pub threads: usize,
    /// Positions that the caches of each sequence hold; rounded up to a multiple of 16.
    pub capacity: usize,
    /// Sequences at a time.
    pub slots: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threads: pool::default_threads(), capacity: 2048, slots: 1 }
    }
}

/// An artifact at work.
pub struct Session {
    artifact: Arc<Artifact>,
    weights: Arc<Weights>,
    engine: Box<dyn Engine>,
    states: States,
    histories: Vec<Option<History>>,
    batch: Batch,
    inputs: Vec<Inputs>,
}

impl Session {
    /// Allocates everything and lets the artifact prepare itself.
    pub fn new(artifact: Arc<Artifact>, weights: Arc<Weights>, settings: Settings) -> Result<Self> {
        let manifest = &artifact.manifest;
        weights.fits(manifest)?;
        let source = if manifest.encodes() { settings.capacity } else { 0 };
        let capacity = settings.capacity.saturating_add(manifest.ahead);
        let rows = most_rows(manifest, capacity).max(settings.slots).max(source);
        let states = States::new(manifest, settings.slots, capacity)?;
        let size = Size { rows, slots: settings.slots, capacity: states.capacity(), slot_bytes: states.slot_bytes() };
        let mut engine = engine::start(&artifact, Arc::clone(&weights), size, settings.threads)?;
        states.fill(manifest, &mut *engine)?;
        let batch = Batch::new(manifest, rows, settings.slots)?;
        engine.call(Phase::Prepare, &batch)?;
        let inputs = vec![Inputs::default(); settings.slots];
        Ok(Self { engine, states, histories: vec![None; settings.slots], batch, inputs, weights, artifact })
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.artifact.manifest
    }

    /// That rows of the output are logits, and nothing else: tokens are chosen from them.
    pub(crate) fn gives_logits(&self) -> Result<()> {
        match self.manifest().outputs.is_empty() {
            true => Ok(()),
            false => Err(Error::input(
                "this artifact gives other outputs behind its logits, and does not generate",
                "build it without `--outputs`, or use `logits`",
            )),
        }
    }

    /// Threads that compute; 1 if a GPU does.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// What computes, for people: `2 threads`, `NVIDIA H100 80GB HBM3`.
    pub fn engine(&self) -> String {
        self.engine.name()
    }

    /// Sequences at a time.
    pub fn slots(&self) -> usize {
        self.states.slots()
    }

    /// Positions that a slot can still take; only models with caches that grow, or with a table of positions, have a limit.
    pub fn room(&self, slot: usize) -> Result<usize> {
        let limit = self.manifest().places.map_or(self.states.limit(), |places| places.min(self.states.limit()));
        Ok(limit.saturating_sub(self.start(slot)?))
    }

    /// That a slot can take so many more positions.
    ///
    /// # Errors
    /// The table that positions are looked up in, or the caches, end before.
    pub fn takes(&self, slot: usize, more: usize) -> Result<()> {
        let wanted = self.start(slot)? + more;
        batch::check_places(wanted, self.manifest().places)?;
        match self.states.limit() {
            capacity if wanted > capacity => Err(Error::Context { wanted, capacity }),
            _ => Ok(()),
        }
    }

    /// Where a slot's next token stands: behind what stands ahead of every text.
    fn start(&self, slot: usize) -> Result<usize> {
        Ok(self.states.position(slot)?.max(self.manifest().ahead))
    }

    /// Positions that a slot has seen; what stands ahead of a text counts as soon as the text begins.
    pub fn position(&self, slot: usize) -> Result<usize> {
        self.states.position(slot)
    }

    /// How long some work takes, by the clock of what computes: on a GPU from the first to the last thing that it does.
    pub fn time<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Duration)> {
        self.engine.start()?;
        let done = work(self)?;
        Ok((done, self.engine.stop()?))
    }

    /// What memory gives, measured now.
    pub fn bandwidth(&mut self) -> Result<Bandwidth> {
        self.engine.bandwidth()
    }

    /// How long each step of the last call takes alone, on a GPU: the median of some launches, caches cold; empty on a processor.
    /// What the slots have seen is lost.
    pub fn profile(&mut self, repeats: usize) -> Result<Vec<Duration>> {
        let times = self.engine.profile(repeats)?;
        (0..self.slots()).try_for_each(|slot| self.reset(slot))?;
        Ok(times)
    }

    /// Gives a slot's sequence, this one and those after it, its numbers beside token ids, by position. They are no part of snapshots.
    pub fn give(&mut self, slot: usize, inputs: Inputs) -> Result<()> {
        let slots = self.slots();
        inputs.check(self.manifest())?;
        *self.inputs.get_mut(slot).ok_or_else(|| no_slot(slot, slots))? = inputs;
        Ok(())
    }

    /// One call: the rows of all feeds, each at most `max_rows` long. Returns `[wanted rows][vocab]` in the order of the feeds.
    pub fn forward(&mut self, feeds: &[Feed]) -> Result<&[f32]> {
        self.encode(feeds)?;
        self.lead(feeds)?;
        self.call(feeds)?;
        Ok(self.logits())
    }

    /// A call as it is: of a sequence that begins, its first rows are what stands ahead.
    fn call(&mut self, feeds: &[Feed]) -> Result<()> {
        self.batch.fill(feeds, &self.states, &self.inputs, &self.artifact.manifest)?;
        let one_each = feeds.iter().all(|feed| feed.tokens.len() == 1);
        self.engine.call(if one_each { Phase::Step } else { Phase::Prefill }, &self.batch)?;
        self.fed(feeds)
    }

    /// Feeds what stands ahead of each sequence that is about to begin.
    fn lead(&mut self, feeds: &[Feed]) -> Result<()> {
        let ahead = self.artifact.manifest.ahead;
        for feed in feeds.iter().filter(|_| ahead > 0) {
            if self.states.position(feed.slot)? > 0 {
                continue;
            }
            self.batch.check(feed, &self.states, &self.artifact.manifest)?;
            self.takes(feed.slot, feed.tokens.len())?;
            let rows = vec![0; ahead];
            for part in rows.chunks(most_rows(&self.artifact.manifest, ahead)) {
                self.call(&[Feed::new(feed.slot, part, Wanted::None)])?;
            }
        }
        Ok(())
    }

    /// Takes the source of each sequence that is about to begin.
    fn encode(&mut self, feeds: &[Feed]) -> Result<()> {
        let manifest = &self.artifact.manifest;
        if !manifest.encodes() {
            return Ok(());
        }
        for feed in feeds {
            if feed.slot >= self.states.slots() || self.states.source(feed.slot) > 0 {
                continue;
            }
            let (slot, inputs) = (feed.slot, &self.inputs[feed.slot]);
            let rows = inputs.source_rows(manifest);
            if rows == 0 {
                let names: Vec<String> = manifest.inputs.iter().filter(|input| input.encoded).map(Input::shape).collect();
                let what = format!("a sequence without a source: `{}` has no rows", names.join("`, `"));
                return Err(Error::input(what, "give it: `--input NAME=FILE`, or `Session::give`"));
            }
            batch::check_places(rows, manifest.source_places)?;
            if rows > self.states.capacity() {
                return Err(Error::Context { wanted: rows, capacity: self.states.capacity() });
            }
            self.batch.fill_source(slot, rows, inputs)?;
            self.engine.call(Phase::Encode, &self.batch)?;
            self.states.encoded(slot, rows);
        }
        Ok(())
    }

    /// What follows a call: positions go on, histories are kept.
    fn fed(&mut self, feeds: &[Feed]) -> Result<()> {
        for feed in feeds {
            self.states.advance(feed.slot, feed.tokens.len());
            self.note(feed)?;
        }
        Ok(())
    }

    /// What the last call returned.
    pub fn logits(&self) -> &[f32] {
        self.engine.output()
    }

    /// One token for each of some slots; returns a row of logits for each.
    pub fn step(&mut self, tokens: &[(usize, i32)]) -> Result<&[f32]> {
        let feeds: Vec<_> =
            tokens.iter().map(|(slot, token)| Feed::new(*slot, std::slice::from_ref(token), Wanted::Last)).collect();
        self.forward(&feeds)
    }

    /// Feeds a sequence of any length, cut into calls of at most `max_rows` rows. `each` gets, after each call, how many tokens are
    /// done and the logits of the rows of this call that were wanted.
    pub fn prefill(&mut self, slot: usize, tokens: &[i32], wanted: Wanted, mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        self.batch.check(&Feed::new(slot, tokens, wanted), &self.states, &self.artifact.manifest)?;
        self.takes(slot, tokens.len())?;
        let rows = most_rows(&self.artifact.manifest, tokens.len());
        let mut done = 0;
        for chunk in tokens.chunks(rows) {
            done += chunk.len();
            let wanted = if wanted == Wanted::Last && done < tokens.len() { Wanted::None } else { wanted };
            each(done, self.forward(&[Feed::new(slot, chunk, wanted)])?);
        }
        Ok(())
    }
}

/// Most rows of one sequence in a call of a session that holds so many positions.
fn most_rows(manifest: &Manifest, capacity: usize) -> usize {
    match manifest.first_rows {
        // A call that must hold a sequence or a prompt has no other bound.
        _ if manifest.whole_prompt => manifest.max_rows.min(capacity.max(1)),
        None => manifest.max_rows.min(capacity.max(1)),
        Some(_) => manifest.max_rows,
    }
}

/// The error of a slot number that the session does not have.
fn no_slot(slot: usize, slots: usize) -> Error {
    Error::input(format!("slot {slot} does not exist: the session has {slots}"), "")
}
