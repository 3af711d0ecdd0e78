//! What a model is and costs, before anything is compiled: shapes, parameters, operations, memory, complexity; and its picture.
//!
//! A [`Model`]'s values are counted one by one (cost.rs), attention by the keys that a query can see (reach.rs), and summed by
//! block instance (tree.rs), so every row of a report comes from the text. report.rs groups equal layers; table.rs and json.rs
//! print the report; draw/ draws it. explain.rs tells what the later stages made of it.

mod again;
mod class;
mod cost;
pub mod draw;
mod ends;
mod explain;
mod json;
mod reach;
mod report;
mod table;
mod tree;
mod units;

pub use cost::{Cost, KeyCost};
pub use explain::explain;
pub use json::json;
pub use reach::Reach;
pub use report::{CONTEXTS, Layer, Report, Row};
pub use table::table;
pub use tree::{Kind, Memory};

use braid_dsl::model::Model;

/// Counts a model.
pub fn inspect(model: &Model) -> Report {
    let model = &ends::named(model);
    report::Report::new(tree::Tree::new(model), model)
}

#[cfg(test)]
mod tests;
