//! Model to artifact: `Model` becomes a `Graph` (graph/), gets its states (forms/), becomes kernels (fuse/) with places in
//! memory (plan/), then MLIR (mlir/), LLVM (llvm/) and an artifact.

pub mod artifact;
pub mod convert;
pub mod error;
pub mod forms;
pub mod fuse;
pub mod graph;
pub mod import;
pub mod inspect;
pub mod llvm;
pub mod mlir;
pub mod pipeline;
pub mod plan;
pub mod rewrite;
pub mod schedule;
pub mod target;
