//! An interpreter of PTX: what a GPU would compute, on a machine that has none.
//!
//! It executes the text that the compiler wrote, instruction by instruction: a few blocks side by side, warps in turns, lanes of a warp in
//! step. Every access must lie in memory that somebody allocated. What hardware leaves open goes the way that is least kind: copies
//! arrive when they are waited for, not before. It knows the instructions that the compiler emits; another one is an error when it is
//! executed. NVIDIA, PTX ISA 8.3.

mod chunks;
mod cut;
mod goldens;
mod halves;
mod machine;
mod memory;
mod model;
mod once;
mod ops;
mod packed;
mod parse;
mod single;
mod slots;
mod sorted;
mod text;
mod warp;

use machine::{Grid, Machine};
use memory::Memory;
use parse::Module;
