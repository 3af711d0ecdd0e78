//! A typed builder of MLIR for kernels of every target, and the module that it makes.
//!
//! [`Emitter`] appends operations at a current place. Its values ([`Val`]) are copyable and know their type ([`Ty`]); scalars are
//! spread over vectors where both meet. Memory is raw `!llvm.ptr` with explicit byte offsets. A wrong use (operands of different
//! element types, say) does not panic: it is remembered and [`Emitter::finish`] returns it as an error.

mod abi;
mod arith;
pub mod cache;
mod control;
pub mod copies;
pub mod device;
mod dot;
mod emitter;
pub mod expr;
mod global;
mod groups;
mod lower;
pub mod math;
mod matrix;
mod memory;
pub mod pair;
mod pow;
pub mod segment;
pub mod site;
pub mod tables;
mod trig;
mod ty;
mod vector;

pub use abi::{Field, KernelArgs};
pub use arith::Cmp;
pub use control::Linkage;
pub use emitter::{Emitter, Val};
pub use lower::{Context, Lowered, Module};
pub use tables::SegmentFields;
pub use ty::{Elem, Ty};
