//! Recurrences as their papers write them, against golden results of each operator.

mod case;
mod golden;
mod linear_attention;
mod run;

use case::Case;
