//! Running generated code on the processor's cores.

pub mod pool;
