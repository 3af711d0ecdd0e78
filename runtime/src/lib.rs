//! Runs Braid artifacts: no graph, no MLIR, no LLVM.
pub mod artifact;
