//! Artifacts whose code is PTX, on an NVIDIA GPU.
//!
//! The driver's library is loaded when the first such artifact is opened: `gpu` finds the device, `memory` holds device and pinned
//! memory, `program` translates the PTX and launches its entries, `upload` brings weights over, and `engine` is what a session
//! works with. The crate cudarc is named here only.

mod engine;
mod gpu;
mod memory;
mod program;
mod upload;

pub(crate) use engine::Cuda;
pub(crate) use memory::Memory;
pub(crate) use program::Program;
