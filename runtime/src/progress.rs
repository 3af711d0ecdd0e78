//! How long work tells that it goes on; the command line draws bars of it.

/// Told from any thread.
pub trait Progress: Sync {
    /// Work of `total` steps begins.
    fn begin(&self, what: &'static str, total: u64);
    /// So many more steps are done.
    fn advance(&self, steps: u64);
    /// It is over.
    fn end(&self);
}

/// Tells nobody.
pub struct Hidden;

impl Progress for Hidden {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
