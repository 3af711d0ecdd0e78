//! Kernels to MLIR through typed builders. The only folder that names the MLIR bindings.

pub mod common;
pub mod cpu;
pub mod gpu;
