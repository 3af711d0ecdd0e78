<<<<<<< HEAD
//! Model to artifact.

pub mod error;
=======
//! Model to artifact: `Model` becomes a `Graph` (graph/), gets its states (forms/), becomes kernels (fuse/) with places in
//! memory (plan/), then MLIR (mlir/), LLVM (llvm/) and an artifact.

pub mod error;
pub mod forms;
pub mod fuse;
pub mod graph;
pub mod plan;
>>>>>>> 6307b19 (Graph, forms, fused and plan: kernels as data from the checked model)
