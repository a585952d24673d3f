//! A progress bar for people at a terminal. Knows nothing of the work.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar with rate and time left on standard error, if that is a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new(0);
        let shape = "{wide_bar} {pos}/{len}, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Shows the progress, if there is more than one item.
    pub(super) fn show(&self, done: usize, of: usize) {
        if of > 1 {
            self.0.set_length(of as u64);
            self.0.set_position(done as u64);
        }
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
