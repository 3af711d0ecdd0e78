//! Tests of the whole: one binary, so that LLVM is linked once.

#[cfg(test)]
mod models;
#[cfg(test)]
mod tidy;
