//! Artifacts whose code is PTX, on an NVIDIA GPU.
//!
//! The driver's library is loaded when the first such artifact is opened: `gpu` finds the device, `memory` holds device and pinned
//! memory, `program` translates the PTX and launches its entries (`apart`: those of single steps), `upload` brings weights over, and `engine` is what a session
//! works with (`measure`: its clock). The crate cudarc is named here only.

mod apart;
mod engine;
mod gpu;
mod measure;
mod memory;
mod program;
mod upload;

pub use gpu::{Found, gpu_at_hand};

pub(crate) use engine::Cuda;
pub(crate) use memory::Memory;
pub(crate) use program::Program;
