//! Model to artifact.

pub mod error;
