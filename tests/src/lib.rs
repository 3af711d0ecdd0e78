//! Tests of the whole: one binary, so that LLVM is linked once.

#[cfg(test)]
mod kernels;
#[cfg(test)]
mod models;
pub mod reference;
#[cfg(test)]
mod runtime;
#[cfg(test)]
mod tidy;
