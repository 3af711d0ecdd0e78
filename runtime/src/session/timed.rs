//! Calls that are measured, kernel by kernel.

use super::{Feed, Session};
use crate::error::Result;

/// When a kernel ran, in seconds since the call began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its beginning.
    pub begin: f64,
    /// Its end.
    pub end: f64,
}

impl Session {
    /// As [`Session::forward`], one kernel at a time: a span for each of the manifest's `work`.
    ///
    /// # Errors
    /// Those of `forward`; code that cannot be run in parts.
    pub fn timed(&mut self, feeds: &[Feed]) -> Result<Vec<Span>> {
        self.encode(feeds)?;
        self.batch.fill(feeds, &self.states, &self.inputs, &self.artifact.manifest)?;
        let spans = self.engine.timed(&self.batch, self.artifact.manifest.work.len())?;
        self.fed(feeds)?;
        Ok(spans)
    }
}
