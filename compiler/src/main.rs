//! The command line `braid`.
fn main() {}
