//! Running generated code on the processor's cores.

mod engine;
pub mod pool;
mod read;

pub(crate) use engine::Cpu;
