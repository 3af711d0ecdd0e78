//! A session's memory on a GPU, and its calls.
//!
//! What a call needs to know travels in one block: the [`Call`] itself and behind it the tables of its rows. A call of one token for each
//! sequence is one CUDA graph, captured once for each number of rows: copy of the block, launch, copy of the logits. A call of many rows
//! that has several launches becomes one when it comes a second time in a row, as the pieces of a long prompt do. The host waits only for
//! logits, and for a block that is still to be copied.

use super::apart::{Begin, Room, Rounded, Shape};
use super::gpu::Said;
use super::measure::{self, Timer};
use super::memory::{Memory, Pinned};
use super::program::{Launched, Program, Told};
use crate::artifact::{ALIGN, Call, Segment};
use crate::buffer::Plain;
use crate::error::{Error, Result};
use crate::load::{Artifact, Phase};
use crate::session::{Bandwidth, Batch, Engine, Size};
use crate::weights::Weights;
use cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the two words that blocks wait at.
const BARRIER: usize = 8;

/// What calls have a graph in common: their rows, and how many of these are wanted.
type Key = (Shape, usize);

/// The GPU's side of a session.
pub(crate) struct Cuda {
    // Graphs first: they name what follows.
    graphs: HashMap<Key, CudaGraph>,
    /// The graph of a call of many rows, by the same.
    many: Option<(Key, CudaGraph)>,
    /// That of the last call of many rows.
    before: Option<Key>,
    stream: Arc<CudaStream>,
    program: Arc<Program>,
    weights: Arc<Weights>,
    size: Size,
    vocab: usize,
    /// Rows of a call that `braid_step` takes at most.
    step_rows: usize,
    states: Memory,
    prepared: Memory,
    arena: Memory,
    scratch: Memory,
    output: Memory,
    block: Memory,
    barrier: Memory,
    /// For steps of calls of many rows that are launches of their own.
    rounded: Option<Rounded>,
    /// The block as it is written.
    staged: Pinned<u8>,
    /// Follows the last copy of the block.
    taken: CudaEvent,
    /// Logits of the wanted rows of the last call.
    logits: Pinned<f32>,
    wanted: usize,
    /// Of the last call: its phase, and its rows.
    phase: Phase,
    shape: Shape,
    timer: Timer,
}

// SAFETY: graphs and handles are used by whoever borrows the session mutably, one thread at a time; every use binds the context.
unsafe impl Send for Cuda {}

impl Cuda {
    /// Allocates everything; copies the weights to the device unless they are there.
    pub(crate) fn new(program: &Arc<Program>, artifact: &Artifact, weights: Arc<Weights>, size: Size) -> Result<Self> {
        let (gpu, manifest) = (program.gpu(), &artifact.manifest);
        weights.place(artifact, &crate::progress::Hidden)?;
        let bytes = |each: usize, count: usize| each.saturating_mul(count);
        let memory = |bytes: usize, what: &str| Memory::new(gpu, bytes, what);
        let block = Places::new(size.rows).end;
        let states = format!("the states of {} sequences of {} positions", size.slots, size.capacity);
        let states = memory(bytes(size.slot_bytes, size.slots), &states)?;
        let stream = gpu.stream()?;
        let room = Room { rows: size.rows, slots: size.slots, capacity: size.capacity, slot_bytes: size.slot_bytes };
        let begin = Begin { weights: weights.placed()?.address(), states: states.address() };
        let rounded = program.apart.memory(gpu, &stream, begin, room)?;
        Ok(Self {
            graphs: HashMap::new(),
            many: None,
            before: None,
            stream,
            rounded,
            program: Arc::clone(program),
            size,
            vocab: manifest.vocab,
            step_rows: manifest.device.as_ref().map_or(0, |device| device.step_rows),
            states,
            prepared: memory(manifest.prepared_bytes, "prepared tables")?,
            arena: memory(bytes(manifest.arena_row_bytes, size.rows), &format!("the arena of {} rows", size.rows))?,
            scratch: memory(bytes(manifest.scratch_bytes, program.blocks()), "scratch memory")?,
            output: memory(bytes(manifest.vocab * 4, size.rows), &format!("the outputs of {} rows", size.rows))?,
            block: memory(block, "row tables")?,
            barrier: memory(BARRIER, "a barrier")?,
            staged: Pinned::new(gpu, block, "row tables")?,
            taken: gpu.context.new_event(None).said("create an event")?,
            logits: Pinned::new(gpu, manifest.vocab, "logits")?,
            wanted: 0,
            phase: Phase::Prepare,
            shape: Shape { rows: 0, segments: 0 },
            timer: Timer::new(gpu)?,
            weights,
        })
    }

    /// Makes room for the logits of so many rows.
    fn want(&mut self, rows: usize) -> Result<()> {
        let length = rows * self.vocab;
        if length > self.logits.slice().len() {
            self.stream.synchronize().said("wait for the GPU")?;
            // Graphs copy to where the logits were.
            self.graphs.clear();
            (self.many, self.before) = (None, None);
            self.logits = Pinned::new(self.program.gpu(), length, "logits")?;
        }
        self.wanted = rows;
        Ok(())
    }

    /// Writes the block of a call.
    fn stage(&mut self, phase: Phase, batch: &Batch) -> Result<()> {
        self.taken.synchronize().said("wait for the GPU")?;
        let places = Places::new(batch.rows());
        let call = self.call_of(phase, batch, &places)?;
        let block = self.staged.slice_mut();
        // SAFETY: a call is words without gaps.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const call).cast::<u8>(), size_of::<Call>()) };
        put(block, 0, bytes);
        put(block, places.tokens, &batch.tokens.slice()[..batch.rows()]);
        put(block, places.positions, &batch.positions.slice()[..batch.rows()]);
        put(block, places.row_segments, &batch.row_segments.slice()[..batch.rows()]);
        put(block, places.table, &batch.table.slice()[..batch.segments()]);
        put(block, places.wanted_rows, &batch.wanted_rows.slice()[..batch.wanted()]);
        Ok(())
    }

    /// The call with addresses of the device.
    fn call_of(&self, phase: Phase, batch: &Batch, places: &Places) -> Result<Call> {
        let at = |place: usize| self.block.address() + place as u64;
        Ok(Call {
            tokens: pointer(at(places.tokens)),
            positions: pointer(at(places.positions)),
            row_segments: pointer(at(places.row_segments)),
            segment_table: pointer(at(places.table)),
            wanted_rows: pointer(at(places.wanted_rows)),
            weights: pointer(self.weights.placed()?.address()),
            prepared: pointer(self.prepared.address()),
            arena: pointer(self.arena.address()),
            states: pointer(self.states.address()),
            scratch: pointer(self.scratch.address()),
            output: pointer(self.output.address()),
            ..batch.call(phase, &self.size)
        })
    }

    /// Begins the copy of a staged block.
    fn send(&self, rows: usize) -> Result<()> {
        self.program.gpu().bind()?;
        // SAFETY: the staged block is written again only after `taken`, which follows this.
        unsafe { self.block.send(&self.stream, 0, &self.staged, Places::new(rows).end) }
    }

    /// What launches of the present call are told.
    fn told(&self) -> Told<'_> {
        Told { call: self.block.address(), barrier: self.barrier.address(), rounded: self.rounded.as_ref() }
    }

    /// Begins the call of the block on the device, and the copy of its logits.
    fn run(&mut self, phase: Phase, shape: Shape) -> Result<()> {
        // SAFETY: the block holds a call whose addresses are those of memory that was made in `new` with the sizes that the manifest
        // asks for, with checked tables; all of it is freed only after the stream's end.
        unsafe { self.program.launch(phase, &self.stream, self.told(), Launched::Call(shape)) }?;
        if self.wanted > 0 {
            // SAFETY: the logits are read, and freed, only after the stream's end.
            unsafe { self.output.fetch(&self.stream, &mut self.logits, self.wanted * self.vocab) }?;
        }
        Ok(())
    }

    /// The graph of a call.
    fn capture(&mut self, phase: Phase, shape: Shape) -> Result<CudaGraph> {
        self.program.gpu().bind()?;
        self.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).said("begin a graph")?;
        let begun = self.send(shape.rows).and_then(|()| self.run(phase, shape));
        // The capture must end in any case.
        let graph = self.stream.end_capture(Flags(0));
        begun?;
        let graph = graph.said("capture a graph")?;
        let graph = graph.ok_or_else(|| Error::Bug { what: "a captured graph is empty".into() })?;
        graph.upload().said("upload a graph")?;
        Ok(graph)
    }

    /// The median of some launches of one step of the last call, whose block is still on the device.
    fn step_alone(&mut self, step: usize, flush: &Memory, repeats: usize) -> Result<Duration> {
        let (told, shape) = (self.told(), self.shape);
        let once = || {
            flush.clear(&self.stream)?;
            self.timer.start(&self.stream)?;
            // SAFETY: as in `run`; the step is one of the entry's.
            unsafe { self.program.launch(self.phase, &self.stream, told, Launched::Step(step, shape)) }?;
            self.timer.stop(&self.stream)
        };
        once()?;
        let mut times = (0..repeats.max(1)).map(|_| once()).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// The block may be written again when the stream is here.
    fn took(&self) -> Result<()> {
        self.taken.record(&self.stream).said("record an event")
    }

    fn step(&mut self, shape: Shape) -> Result<()> {
        let key = (shape, self.wanted);
        if !self.graphs.contains_key(&key) {
            let graph = self.capture(Phase::Step, shape)?;
            self.graphs.insert(key, graph);
        }
        self.graphs[&key].launch().said("launch a graph")
    }

    /// A call of many rows, or of what is prepared.
    fn many(&mut self, phase: Phase, shape: Shape) -> Result<()> {
        let key = (shape, self.wanted);
        let repeats = phase == Phase::Prefill && self.rounded.is_some() && self.before.replace(key) == Some(key);
        if !repeats {
            self.send(shape.rows)?;
            self.took()?;
            return self.run(phase, shape);
        }
        if self.many.as_ref().is_none_or(|(own, _)| *own != key) {
            self.many = Some((key, self.capture(phase, shape)?));
        }
        if let Some((_, graph)) = &self.many {
            graph.launch().said("launch a graph")?;
        }
        self.took()
    }
}

impl Engine for Cuda {
    fn call(&mut self, phase: Phase, batch: &Batch) -> Result<()> {
        let phase = if phase == Phase::Step && batch.rows() > self.step_rows { Phase::Prefill } else { phase };
        // Steps one by one are those of the entry that did the call.
        self.phase = if phase == Phase::Prefill && batch.rows() <= self.step_rows { Phase::Step } else { phase };
        self.shape = Shape { rows: batch.rows(), segments: batch.segments() };
        self.want(batch.wanted())?;
        self.stage(phase, batch)?;
        for (place, bytes) in batch.given() {
            self.arena.write(&self.stream, place * self.size.rows, bytes)?;
        }
        if phase == Phase::Step {
            self.step(self.shape)?;
            self.took()?;
        } else {
            self.many(phase, self.shape)?;
        }
        if self.wanted > 0 || phase == Phase::Prepare {
            self.stream.synchronize().said("run the model on the GPU")?;
        }
        Ok(())
    }

    fn output(&self) -> &[f32] {
        &self.logits.slice()[..self.wanted * self.vocab]
    }

    fn read(&self, from: usize, into: &mut [u8]) -> Result<()> {
        self.states.read(&self.stream, from, into)
    }

    fn write(&mut self, to: usize, from: &[u8]) -> Result<()> {
        self.states.write(&self.stream, to, from)
    }

    fn fill(&mut self, bytes: Range<usize>, element: &[u8]) -> Result<()> {
        self.states.fill(&self.stream, bytes, element)
    }

    fn change(&mut self, bytes: Range<usize>, change: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let mut copy = vec![0; bytes.len()];
        self.read(bytes.start, &mut copy)?;
        change(&mut copy);
        self.write(bytes.start, &copy)
    }

    fn start(&mut self) -> Result<()> {
        self.timer.start(&self.stream)
    }

    fn stop(&mut self) -> Result<Duration> {
        self.timer.stop(&self.stream)
    }

    fn bandwidth(&mut self) -> Result<Bandwidth> {
        measure::copies(self.program.gpu(), &self.stream, &self.timer)
    }

    fn profile(&mut self, repeats: usize) -> Result<Vec<Duration>> {
        let steps = self.program.steps(self.phase);
        let flush = Memory::new(self.program.gpu(), measure::FLUSH, "memory to clear caches with")?;
        steps.map(|step| self.step_alone(step, &flush, repeats)).collect()
    }

    fn threads(&self) -> usize {
        1
    }

    fn name(&self) -> String {
        self.program.gpu().name.clone()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Copies to and from pinned memory must end before it is freed; errors were told where they could be.
        let _ = self.stream.synchronize();
    }
}

/// Byte offsets of the tables behind the call in its block, for calls of so many rows.
struct Places {
    tokens: usize,
    positions: usize,
    row_segments: usize,
    table: usize,
    wanted_rows: usize,
    end: usize,
}

impl Places {
    fn new(rows: usize) -> Self {
        let mut end = size_of::<Call>().next_multiple_of(ALIGN);
        let mut take = |bytes: usize| {
            let start = end;
            end = (end + rows * bytes).next_multiple_of(ALIGN);
            start
        };
        let (tokens, positions, row_segments, wanted_rows) = (take(4), take(4), take(4), take(4));
        let table = take(size_of::<Segment>());
        Self { tokens, positions, row_segments, table, wanted_rows, end }
    }
}

/// A device address as the call spells it.
fn pointer<T>(address: u64) -> *mut T {
    std::ptr::without_provenance_mut(address as usize)
}

/// Copies values into a block.
fn put<T: Plain>(block: &mut [u8], at: usize, values: &[T]) {
    // SAFETY: `T: Plain` has no padding that matters.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
    block[at..at + bytes.len()].copy_from_slice(bytes);
}
