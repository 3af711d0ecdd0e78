//! A session's memory on the host, and its calls on the threads of a pool.

use super::pool::{self, Pool};
use crate::artifact::Call;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::load::{Artifact, Library, Phase};
use crate::session::{Bandwidth, Batch, Engine, Size, Span};
use crate::weights::Weights;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The processor's side of a session.
pub(crate) struct Cpu {
    library: Arc<Library>,
    weights: Arc<Weights>,
    pool: Pool,
    size: Size,
    vocab: usize,
    wanted: usize,
    since: Instant,
    states: Buffer<u8>,
    prepared: Buffer<u8>,
    arena: Buffer<u8>,
    scratch: Buffer<u8>,
    output: Buffer<f32>,
}

impl Cpu {
    /// Allocates everything and starts the threads.
    pub(crate) fn new(
        library: &Arc<Library>,
        artifact: &Artifact,
        weights: Arc<Weights>,
        size: Size,
        threads: usize,
    ) -> Result<Self> {
        let manifest = &artifact.manifest;
        let pool = Pool::new(threads)?;
        let bytes = |each: usize, count: usize| each.saturating_mul(count);
        let states = format!("the states of {} sequences of {} positions", size.slots, size.capacity);
        Ok(Self {
            library: Arc::clone(library),
            weights,
            size,
            vocab: manifest.vocab,
            wanted: 0,
            since: Instant::now(),
            states: Buffer::new(bytes(size.slot_bytes, size.slots), states)?,
            prepared: Buffer::new(manifest.prepared_bytes, "prepared tables")?,
            arena: Buffer::new(bytes(manifest.arena_row_bytes, size.rows), format!("the arena of {} rows", size.rows))?,
            scratch: Buffer::new(bytes(manifest.scratch_bytes, pool.threads()), "scratch memory")?,
            output: Buffer::new(bytes(manifest.vocab, size.rows), format!("the outputs of {} rows", size.rows))?,
            pool,
        })
    }
}

impl Cpu {
    /// What the artifact's entries get to see of a batch.
    fn described(&mut self, phase: Phase, batch: &Batch) -> Call {
        self.wanted = batch.wanted();
        for (place, bytes) in batch.given() {
            let start = place * self.size.rows;
            self.arena.slice_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        }
        Call {
            tokens: batch.tokens.pointer(),
            positions: batch.positions.pointer(),
            row_segments: batch.row_segments.pointer(),
            segment_table: batch.table.pointer(),
            wanted_rows: batch.wanted_rows.pointer(),
            weights: self.weights.bytes().as_ptr(),
            prepared: self.prepared.pointer_mut(),
            arena: self.arena.pointer_mut(),
            states: self.states.pointer_mut(),
            scratch: self.scratch.pointer_mut(),
            output: self.output.pointer_mut(),
            parallel: Some(pool::parallel),
            pool: pool::handle(&self.pool),
            ..batch.call(phase, &self.size)
        }
    }
}

impl Engine for Cpu {
    fn call(&mut self, phase: Phase, batch: &Batch) -> Result<()> {
        let call = self.described(phase, batch);
        // SAFETY: the buffers were made in `new` with the sizes that the manifest asks for; `Batch::fill` checked token ids, slots,
        // positions and row counts; this is borrowed mutably, so nobody else touches any of it.
        unsafe { self.library.call(phase, &call) }
    }

    fn timed(&mut self, batch: &Batch, kernels: usize) -> Result<Vec<Span>> {
        let call = self.described(Phase::Prefill, batch);
        let start = Instant::now();
        let mut begin = 0.0;
        let one = |kernel| {
            // SAFETY: as in `call`; all kernels run, in order.
            unsafe { self.library.part(&call, kernel) }?;
            let end = start.elapsed().as_secs_f64();
            Ok(Span { begin: std::mem::replace(&mut begin, end), end })
        };
        (0..kernels).map(one).collect()
    }

    fn output(&self) -> &[f32] {
        &self.output.slice()[..self.wanted * self.vocab]
    }

    fn read(&self, from: usize, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.states.slice()[from..from + into.len()]);
        Ok(())
    }

    fn write(&mut self, to: usize, from: &[u8]) -> Result<()> {
        self.states.slice_mut()[to..to + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn fill(&mut self, bytes: Range<usize>, element: &[u8]) -> Result<()> {
        let cells = self.states.slice_mut()[bytes].chunks_exact_mut(element.len());
        cells.for_each(|cell| cell.copy_from_slice(element));
        Ok(())
    }

    fn change(&mut self, bytes: Range<usize>, change: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        change(&mut self.states.slice_mut()[bytes]);
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.since = Instant::now();
        Ok(())
    }

    fn stop(&mut self) -> Result<Duration> {
        Ok(self.since.elapsed())
    }

    fn bandwidth(&mut self) -> Result<Bandwidth> {
        Ok(Bandwidth { bytes: super::read::bandwidth(self.pool.threads())?, how: "read" })
    }

    fn profile(&mut self, _: usize) -> Result<Vec<Duration>> {
        Ok(Vec::new())
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn name(&self) -> String {
        format!("{} threads", self.pool.threads())
    }
}
