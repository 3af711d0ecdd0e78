//! Model to artifact.
