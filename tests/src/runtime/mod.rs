//! The runtime, on a hand-made artifact: no compiler is asked.

mod c_interface;
mod fake;
mod loading;
mod mutation;
mod packing;
mod session;
mod text;
