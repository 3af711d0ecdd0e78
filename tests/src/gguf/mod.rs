//! GGUF files, written here byte by byte: every type's numbers, whole models under their names there, tokenizers, and broken files.

mod blocks;
mod broken;
mod models;
mod real;
mod text;
#[allow(dead_code, reason = "shared with the tests of `braid-run`")]
pub mod writer;

use writer::{F32, Writer, text};
