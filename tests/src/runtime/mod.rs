//! The runtime, on a hand-made artifact (compiled.rs apart, no compiler is asked).

pub mod c_interface;
mod compiled;
pub mod fake;
mod loading;
pub mod mutation;
mod packing;
mod session;
mod states;
mod text;
