//! Recurrences as their papers write them, against golden results of each operator.

mod blocks;
mod case;
mod delta;
mod golden;
mod linear_attention;
mod linear_rnn;
mod run;
mod rwkv;
mod state_space;
mod xlstm;

use case::Case;
