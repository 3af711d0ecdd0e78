//! The numbers of a model, packed as its artifact wants them.
//!
//! `source` finds every parameter's numbers (in a checkpoint, or random ones), `pack` brings them into the order and precision of
//! the manifest's `packed` list (`quant` where integers share scales), and `blob` keeps the result in memory or in a file; `fingerprint` tells two checkpoints apart.

mod blob;
pub mod cache;
mod fingerprint;
mod pack;
mod quant;
mod source;

pub use blob::Weights;
pub use source::{Origin, numbers};
