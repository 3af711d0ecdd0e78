//! The memory of some sequences, and feeding tokens through an artifact.
//!
//! A session has a fixed number of slots; each holds the caches and states of one sequence and knows its position. A call carries
//! rows of several slots ([`Feed`]), each at its own position. All memory is allocated when the session is made, but for snapshots
//! and what a slot's history keeps. travel.rs goes back and forth in a sequence.

mod batch;
mod history;
mod saved;
mod states;
mod travel;

pub use batch::{Feed, Wanted};
pub use history::Keep;
pub use saved::Saved;
pub use states::Snapshot;

use crate::artifact::{Call, Manifest};
use crate::buffer::Buffer;
use crate::cpu::pool::{self, Pool};
use crate::error::{Error, Result};
use crate::load::{Artifact, Phase};
use crate::weights::Weights;
use batch::Batch;
use history::History;
use states::States;
use std::sync::Arc;

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
    pool: Pool,
    states: States,
    histories: Vec<Option<History>>,
    batch: Batch,
    prepared: Buffer<u8>,
    arena: Buffer<u8>,
    scratch: Buffer<u8>,
    output: Buffer<f32>,
}

impl Session {
    /// Allocates everything and lets the artifact prepare itself.
    pub fn new(artifact: Arc<Artifact>, weights: Arc<Weights>, settings: Settings) -> Result<Self> {
        let manifest = &artifact.manifest;
        weights.fits(manifest)?;
        let rows = most_rows(manifest, settings.capacity).max(settings.slots);
        let pool = Pool::new(settings.threads)?;
        let bytes = |each: usize, count: usize| each.saturating_mul(count);
        let mut session = Self {
            states: States::new(manifest, settings.slots, settings.capacity)?,
            histories: vec![None; settings.slots],
            batch: Batch::new(rows, settings.slots)?,
            prepared: Buffer::new(manifest.prepared_bytes, "prepared tables")?,
            arena: Buffer::new(bytes(manifest.arena_row_bytes, rows), format!("the arena of {rows} rows"))?,
            scratch: Buffer::new(bytes(manifest.scratch_bytes, pool.threads()), "scratch memory")?,
            output: Buffer::new(bytes(manifest.vocab, rows), format!("the outputs of {rows} rows"))?,
            pool,
            weights,
            artifact,
        };
        session.call(Phase::Prepare)?;
        Ok(session)
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.artifact.manifest
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Sequences at a time.
    pub fn slots(&self) -> usize {
        self.states.slots()
    }

    /// Positions that a slot can still take before [`Error::Context`]; only models with caches that grow have a limit.
    pub fn room(&self, slot: usize) -> Result<usize> {
        Ok(self.states.limit() - self.states.position(slot)?)
    }

    /// Positions that a slot has seen.
    pub fn position(&self, slot: usize) -> Result<usize> {
        self.states.position(slot)
    }

    /// One call: the rows of all feeds, each at most `max_rows` long. Returns `[wanted rows][vocab]` in the order of the feeds.
    pub fn forward(&mut self, feeds: &[Feed]) -> Result<&[f32]> {
        self.batch.fill(feeds, &self.states, &self.artifact.manifest)?;
        let one_each = feeds.iter().all(|feed| feed.tokens.len() == 1);
        self.call(if one_each { Phase::Step } else { Phase::Prefill })?;
        for feed in feeds {
            self.states.advance(feed.slot, feed.tokens.len());
            self.note(feed)?;
        }
        Ok(self.logits())
    }

    /// What the last call returned.
    pub fn logits(&self) -> &[f32] {
        &self.output.slice()[..self.batch.wanted() * self.artifact.manifest.vocab]
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
        let rows = most_rows(&self.artifact.manifest, tokens.len());
        let mut done = 0;
        for chunk in tokens.chunks(rows) {
            done += chunk.len();
            let wanted = if wanted == Wanted::Last && done < tokens.len() { Wanted::None } else { wanted };
            each(done, self.forward(&[Feed::new(slot, chunk, wanted)])?);
        }
        Ok(())
    }

    fn call(&mut self, phase: Phase) -> Result<()> {
        let preparing = phase == Phase::Prepare;
        let call = Call {
            rows: if preparing { 0 } else { self.batch.rows() as i64 },
            rows_capacity: self.batch.capacity() as i64,
            segments: if preparing { 0 } else { self.batch.segments() as i64 },
            wanted: if preparing { 0 } else { self.batch.wanted() as i64 },
            capacity: self.states.capacity() as i64,
            tokens: self.batch.tokens.pointer(),
            positions: self.batch.positions.pointer(),
            row_segments: self.batch.row_segments.pointer(),
            segment_table: self.batch.table.pointer(),
            wanted_rows: self.batch.wanted_rows.pointer(),
            weights: self.weights.bytes().as_ptr(),
            prepared: self.prepared.pointer_mut(),
            arena: self.arena.pointer_mut(),
            states: self.states.pointer_mut(),
            slot_bytes: self.states.slot_bytes() as i64,
            scratch: self.scratch.pointer_mut(),
            output: self.output.pointer_mut(),
            parallel: Some(pool::parallel),
            pool: pool::handle(&self.pool),
        };
        // SAFETY: the buffers were made in `new` with the sizes that the manifest asks for; `Batch::fill` checked token ids, slots,
        // positions and row counts; the session is borrowed mutably, so nobody else touches any of it.
        unsafe { self.artifact.call(phase, &call) }
    }
}

/// Most rows of one sequence in a call of a session that holds so many positions.
fn most_rows(manifest: &Manifest, capacity: usize) -> usize {
    match manifest.first_rows {
        // A call that must hold a sequence has no other bound.
        None => manifest.max_rows.min(capacity.max(1)),
        Some(_) => manifest.max_rows,
    }
}

/// The error of a slot number that the session does not have.
fn no_slot(slot: usize, slots: usize) -> Error {
    Error::input(format!("slot {slot} does not exist: the session has {slots}"), "")
}
