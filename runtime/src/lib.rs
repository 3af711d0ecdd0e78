//! Runs Braid artifacts: no graph, no MLIR, no LLVM.
//!
//! `checkpoint` (safetensors or GGUF files) becomes `weights` (one packed blob), `load` turns a file into an `Artifact`, a `session` holds
//! the memory of some sequences and feeds tokens through the artifact's entries (on the threads of `cpu::pool`, or on a GPU: `cuda`),
//! `generate` chooses the next token (`sample`), or `unmask` fills masked ones, and `tokenizer` makes text of it (`chat` of conversations). `verify` compares all
//! that with golden files, and `cli` is the command line, for `braid-run` and `braid` alike.
//!
//! Without the feature `run` only [`artifact`], the contract with the compiler, is left.

pub mod artifact;

#[cfg(feature = "run")]
mod buffer;
#[cfg(feature = "run")]
pub mod chat;
#[cfg(feature = "run")]
pub mod checkpoint;
#[cfg(feature = "run")]
pub mod cli;
#[cfg(feature = "run")]
pub mod cpu;
#[cfg(feature = "run")]
mod cuda;
#[cfg(feature = "run")]
pub mod error;
#[cfg(feature = "run")]
pub mod generate;
#[cfg(feature = "run")]
pub mod load;
#[cfg(feature = "run")]
pub mod profile;
#[cfg(feature = "run")]
pub mod progress;
#[cfg(feature = "run")]
mod random;
#[cfg(feature = "run")]
pub mod sample;
#[cfg(feature = "run")]
pub mod session;
#[cfg(feature = "run")]
pub mod tokenizer;
#[cfg(feature = "run")]
pub mod unmask;
#[cfg(feature = "run")]
pub mod verify;
#[cfg(feature = "run")]
pub mod weights;

#[cfg(feature = "run")]
pub use cuda::{Found, gpu_at_hand};
#[cfg(feature = "run")]
pub use error::{Error, Result};
#[cfg(feature = "run")]
pub use load::Artifact;
#[cfg(feature = "run")]
pub use session::{Feed, Keep, Saved, Session, Settings, Snapshot, Span, Wanted};
#[cfg(feature = "run")]
pub use weights::Weights;
