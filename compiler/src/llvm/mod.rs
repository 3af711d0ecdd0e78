//! LLVM IR to machine code: the only folder that names `inkwell`.

mod codegen;
mod handover;
mod link;

pub use codegen::{Code, generate};
pub use link::link;
