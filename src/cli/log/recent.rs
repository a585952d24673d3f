//! The last errors of the log, for operators.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::http::LoggedError;
use crate::time::Timestamp;

/// The number of errors that are kept.
const KEPT: usize = 10;

/// The maximum length of a kept message, in characters.
const MAX_LENGTH: usize = 500;

/// The last errors, the newest first.
pub(super) struct RecentErrors(Mutex<VecDeque<LoggedError>>);

impl RecentErrors {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Adds an error. Drops the oldest one if there are too many.
    pub(super) fn add(&self, time: Timestamp, message: &str) {
        let message = message.chars().take(MAX_LENGTH).collect();
        // A panic while it was locked has left it usable.
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.truncate(KEPT - 1);
        errors.push_front(LoggedError { time: time.to_string(), message });
    }

    pub(super) fn list(&self) -> Vec<LoggedError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_errors_are_kept_and_cut() {
        let errors = RecentErrors::new();
        let time = Timestamp::parse("2026-11-26").unwrap();
        for n in 0..25 {
            errors.add(time, &format!("{n} {}", "é".repeat(2000)));
        }
        let kept = errors.list();
        assert_eq!((kept.len(), &*kept[0].time), (KEPT, "2026-11-26T00:00:00Z"));
        assert!(kept[0].message.starts_with("24 ") && kept[KEPT - 1].message.starts_with("15 "));
        assert!(kept.iter().all(|error| error.message.chars().count() == MAX_LENGTH));
    }
}
