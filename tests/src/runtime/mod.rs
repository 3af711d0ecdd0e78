//! The runtime, on a hand-made artifact: no compiler is asked.

mod fake;
mod session;
