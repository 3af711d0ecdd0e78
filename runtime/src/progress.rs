//! Progress of long work, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::OnceLock;

/// A bar on stderr if that is a terminal, nothing otherwise.
#[derive(Default)]
pub struct Progress {
    bar: OnceLock<ProgressBar>,
    shown: bool,
}

impl Progress {
    /// For command lines.
    pub fn new() -> Self {
        Self { bar: OnceLock::new(), shown: true }
    }

    /// For libraries and tests.
    pub fn hidden() -> Self {
        Self::default()
    }

    /// Announces work of `total` steps.
    pub fn begin(&self, what: &'static str, total: u64) {
        if self.shown {
            let style = ProgressStyle::with_template("{msg:16} {bar:40} {percent:>3} %  {eta}");
            let bar = self.bar.get_or_init(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar.set_length(total);
            bar.reset();
        }
    }

    /// So many more steps are done.
    pub fn advance(&self, steps: u64) {
        if let Some(bar) = self.bar.get() {
            bar.inc(steps);
        }
    }

    /// Wipes the bar.
    pub fn end(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
