//! `braid-run`.
fn main() {}
