//! The backoff of a writer that waits for its turn.
//!
//! Knows neither SQLite nor clocks, since time is a parameter. SQLite's own busy handler gives up 5
//! s after it began, independent of the length of the queue. It retries less often the longer it
//! waits, so that newcomers overtake. This backoff gives up only if no other writer has committed
//! for [`BUSY_TIMEOUT`], and retries more often the longer it waits.

use std::time::{Duration, Instant};

use crate::store::BUSY_TIMEOUT;

/// The pause of a newcomer between two attempts.
const LONGEST: Duration = Duration::from_millis(8);
/// The pause of a writer that has waited for long.
const SHORTEST: Duration = Duration::from_micros(500);

/// The time after which a writer retries twice as often as before.
const HALVING: Duration = Duration::from_millis(100);

/// The backoff of one writer. `V` identifies a state of the store.
pub(super) struct Backoff<V> {
    began: Instant,
    /// The state that was seen last. It was new at `since`.
    seen: Option<V>,
    since: Instant,
}

impl<V: PartialEq> Backoff<V> {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, seen: None, since: now }
    }

    /// Returns the pause before the next attempt, or `None` to give up. `state` is that of the
    /// store after a failed attempt, if it could be read.
    pub(super) fn pause(&mut self, now: Instant, state: Option<V>) -> Option<Duration> {
        if state.is_some() && state != self.seen {
            if self.seen.is_some() {
                self.since = now;
            }
            self.seen = state;
        }
        if now.saturating_duration_since(self.since) >= BUSY_TIMEOUT {
            return None;
        }
        let waited = now.saturating_duration_since(self.began).as_millis() / HALVING.as_millis();
        let halvings = u32::try_from(waited).unwrap_or(u32::MAX).min(4);
        Some((LONGEST / 2_u32.pow(halvings)).max(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer waits to the end of a queue of eight writers whose commits take 4 s each.
    #[test]
    fn writer_waits_while_other_writers_commit() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start);
        for second in 0..32 {
            let now = start + Duration::from_secs(second);
            assert!(backoff.pause(now, Some(second / 4)).is_some(), "{second}");
        }
    }

    #[test]
    fn writer_gives_up_after_5_s_without_a_commit() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut backoff = Backoff::new(start);
        assert!(backoff.pause(at(4999), Some(1)).is_some(), "the first state is no commit");
        assert!(backoff.pause(at(4999), None).is_some());
        assert_eq!(backoff.pause(at(5000), Some(1)), None);
        let mut backoff = Backoff::new(start);
        assert!(backoff.pause(at(0), Some(1)).is_some());
        assert!(backoff.pause(at(3000), Some(2)).is_some());
        assert!(backoff.pause(at(7999), Some(2)).is_some());
        assert_eq!(backoff.pause(at(8000), None), None);
    }

    #[test]
    fn writer_retries_more_often_the_longer_it_waits() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start);
        let pauses = [0, 100, 200, 300, 400, 4900].map(|millis| {
            backoff.pause(start + Duration::from_millis(millis), Some(1)).unwrap().as_micros()
        });
        assert_eq!(pauses, [8000, 4000, 2000, 1000, 500, 500]);
    }
}
