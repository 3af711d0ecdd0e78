//! What a session needs of the machine that computes: the processor's threads ([`crate::cpu`]) or a GPU ([`crate::cuda`]).

use super::{Batch, Span};
use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::error::{Error, Result};
use crate::load::{Artifact, Code, Phase};
use crate::weights::Weights;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How much memory a session has.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Most rows of a call.
    pub(crate) rows: usize,
    /// Sequences.
    pub(crate) slots: usize,
    /// Positions of each.
    pub(crate) capacity: usize,
    /// Bytes of the states of each.
    pub(crate) slot_bytes: usize,
}

/// What memory gives.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Bytes a second, read and written ones both counted.
    pub bytes: f64,
    /// What was done: `copy`, `read`.
    pub how: &'static str,
}

/// Holds all numbers of a session and runs the artifact's entries on them. Offsets count bytes in the states of all slots, one behind
/// the other; they are zero at first.
pub(crate) trait Engine: Send {
    /// Runs an entry on the rows of a checked batch.
    fn call(&mut self, phase: Phase, batch: &Batch) -> Result<()>;

    /// Runs the kernels of a call one by one, and says when each ran.
    fn timed(&mut self, _batch: &Batch, _kernels: usize) -> Result<Vec<Span>> {
        Err(Error::Limit { what: "a profile of code for a GPU".into() })
    }

    /// `[wanted][vocab]` of the last call.
    fn output(&self) -> &[f32];

    /// Copies states from here.
    fn read(&self, from: usize, into: &mut [u8]) -> Result<()>;

    /// Copies states to here.
    fn write(&mut self, to: usize, from: &[u8]) -> Result<()>;

    /// Writes an element of 1, 2 or 4 bytes again and again.
    fn fill(&mut self, bytes: Range<usize>, element: &[u8]) -> Result<()>;

    /// Lets a function of the host change some states.
    fn change(&mut self, bytes: Range<usize>, change: &mut dyn FnMut(&mut [u8])) -> Result<()>;

    /// Begins to measure time, behind all work so far.
    fn start(&mut self) -> Result<()>;

    /// Waits for all work, and says how long it took since `start`, by the clock of what computes.
    fn stop(&mut self) -> Result<Duration>;

    /// Bytes a second that memory gives, measured now.
    fn bandwidth(&mut self) -> Result<Bandwidth>;

    /// How long each step of the last call takes alone: the median of some launches, caches cold. States are not what they were then.
    /// Empty on a processor, where calls are not made of steps.
    fn profile(&mut self, repeats: usize) -> Result<Vec<Duration>>;

    /// Threads of the host that compute.
    fn threads(&self) -> usize;

    /// What computes, for people: `2 threads`, `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> String;
}

/// The engine that an artifact's code needs.
pub(super) fn start(artifact: &Artifact, weights: Arc<Weights>, size: Size, threads: usize) -> Result<Box<dyn Engine>> {
    Ok(match &artifact.code {
        Code::Library(library) => Box::new(Cpu::new(library, artifact, weights, size, threads)?),
        Code::Gpu(program) => Box::new(Cuda::new(program, artifact, weights, size)?),
    })
}
