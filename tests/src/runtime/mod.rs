//! The runtime, on a hand-made artifact (compiled.rs apart, no compiler is asked).

mod c_interface;
mod compiled;
mod fake;
mod loading;
mod mutation;
mod packing;
mod session;
mod states;
mod text;
