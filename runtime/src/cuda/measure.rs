//! The device's clock, and what its memory gives.

use super::gpu::{Gpu, Said};
use super::memory::Memory;
use crate::error::Result;
use crate::session::Bandwidth;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};
use std::sync::Arc;
use std::time::Duration;

/// Bytes to write so that nothing else is left in the device's caches.
pub(super) const FLUSH: usize = 256 << 20;
/// Most bytes to copy at a time.
const COPIED: usize = 2 << 30;
/// The median of so many copies counts.
const ROUNDS: usize = 9;

/// Two events that measure what lies between them.
pub(super) struct Timer {
    begin: CudaEvent,
    end: CudaEvent,
}

impl Timer {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let event = || gpu.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).said("create an event");
        Ok(Self { begin: event()?, end: event()? })
    }

    /// Marks the beginning, behind what the stream has to do.
    pub(super) fn start(&self, stream: &CudaStream) -> Result<()> {
        self.begin.record(stream).said("record an event")
    }

    /// Marks the end, waits for it, and tells the time between.
    pub(super) fn stop(&self, stream: &CudaStream) -> Result<Duration> {
        self.end.record(stream).said("record an event")?;
        let milliseconds = self.begin.elapsed_ms(&self.end).said("run the model on the GPU")?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

/// What copies from device memory to device memory reach; a byte that is copied is read and written.
pub(super) fn copies(gpu: &Arc<Gpu>, stream: &CudaStream, timer: &Timer) -> Result<Bandwidth> {
    let bytes = (gpu.memory()?.0 / 4).clamp(1, COPIED);
    let [from, to] = [Memory::new(gpu, bytes, "memory to copy")?, Memory::new(gpu, bytes, "memory to copy")?];
    let round = || {
        timer.start(stream)?;
        to.copy(stream, &from)?;
        Ok(2.0 * bytes as f64 / timer.stop(stream)?.as_secs_f64().max(1e-9))
    };
    round()?;
    let mut rates = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<f64>>>()?;
    rates.sort_by(f64::total_cmp);
    Ok(Bandwidth { bytes: rates[ROUNDS / 2], how: "copy" })
}
