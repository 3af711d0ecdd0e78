//! Front end of Braid: text becomes a checked [`model::Model`].
pub mod model;
pub mod span;
