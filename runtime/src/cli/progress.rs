//! Progress bars.

use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr if that is a terminal, nothing otherwise.
pub struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        Self(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
    }
}

impl Bar {
    /// So many steps are done in all.
    pub fn set(&self, steps: u64) {
        self.0.set_position(steps);
    }
}

impl Progress for Bar {
    fn begin(&self, what: &'static str, total: u64) {
        let style = ProgressStyle::with_template("{msg:16} {bar:40} {percent:>3} %  {eta}");
        self.0.reset();
        self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.0.set_message(what);
        self.0.set_length(total);
    }

    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
