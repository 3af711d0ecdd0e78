//! Running generated code on the processor's cores.

mod engine;
pub mod pool;

pub(crate) use engine::Cpu;
