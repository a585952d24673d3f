//! A progress bar for people at a terminal. Knows nothing of the work.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// A bar with rate and time left on standard error, if that is a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(label: &'static str) -> Self {
        let bar = ProgressBar::new(0).with_message(label);
        let shape = "{msg} {wide_bar} {human_pos}/{human_len}, {rate}/s, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style.with_key("rate", write_rate));
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

/// Writes a rate without decimals.
fn write_rate(state: &ProgressState, out: &mut dyn Write) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{:.0}", state.per_sec());
}
