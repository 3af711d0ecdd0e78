//! Tests of the whole: one binary, so that LLVM is linked once.

pub mod reference;
#[cfg(test)]
mod models;
#[cfg(test)]
mod tidy;
