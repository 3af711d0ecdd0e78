//! Weights on their way to the device: through two pinned buffers, one of which is filled while the other one is copied.

use super::gpu::{Gpu, Said};
use super::memory::{Memory, Pinned};
use crate::error::Result;
use crate::progress::Progress;
use std::sync::Arc;

/// Bytes of a staging buffer.
const STAGE: usize = 16 << 20;

/// A copy of `bytes` on the device.
pub(super) fn upload(gpu: &Arc<Gpu>, bytes: &[u8], progress: &dyn Progress) -> Result<Memory> {
    let memory = Memory::new(gpu, bytes.len(), "the weights")?;
    let stream = gpu.stream()?;
    let size = STAGE.min(bytes.len());
    let stage = || Pinned::<u8>::new(gpu, size, "staging");
    let mut stages = [stage()?, stage()?];
    let event = || gpu.context.new_event(None).said("create an event");
    let copied = [event()?, event()?];
    progress.begin("copying to GPU", bytes.len() as u64);
    let mut done = Ok(());
    for (number, part) in bytes.chunks(STAGE).enumerate() {
        let turn = number % 2;
        done = copied[turn].synchronize().said("copy the weights").and_then(|()| {
            stages[turn].slice_mut()[..part.len()].copy_from_slice(part);
            // SAFETY: the buffer is filled again after its event, and freed after the stream's end, below.
            unsafe { memory.send(&stream, number * STAGE, &stages[turn], part.len()) }?;
            copied[turn].record(&stream).said("copy the weights")
        });
        if done.is_err() {
            break;
        }
        progress.advance(part.len() as u64);
    }
    let end = stream.synchronize().said("copy the weights");
    progress.end();
    done.and(end).map(|()| memory)
}
