//! The rates of requests over the last minutes, from samples of counters.
//!
//! Pure, with time as a parameter. Knows neither requests nor pages.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The number of intervals that are kept.
pub(super) const INTERVALS: usize = 60;

/// Counters at one time, each since the start of the server.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct RequestTotals {
    pub(super) granted: u64,
    /// Requests without valid credentials, and those that no group admits.
    pub(super) denied: u64,
    pub(super) throttled: u64,
    /// Requests that the server could not decide on: its queue was full, or a part of it failed.
    pub(super) failed: u64,
    /// Computed hashes.
    pub(super) hashes: u64,
}

/// Samples of the counters, the oldest first.
#[derive(Default, Debug)]
pub(super) struct History(VecDeque<(Instant, RequestTotals)>);

/// Events per second in each interval, the oldest first.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize, Debug)]
pub struct Rates {
    /// The length of all intervals together, in seconds.
    pub seconds: f64,
    /// Granted requests.
    pub granted: Vec<f64>,
    /// Requests without valid credentials, and those that no group admits.
    pub denied: Vec<f64>,
    /// Requests of throttled sources or for throttled names.
    pub throttled: Vec<f64>,
    /// Requests that the server could not decide on.
    pub failed: Vec<f64>,
    /// Computed hashes.
    pub hashes: Vec<f64>,
}

impl Rates {
    /// Returns the rates with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &[f64])> {
        let Self { granted, denied, throttled, failed, hashes, .. } = self;
        [
            ("granted", &granted[..]),
            ("denied", denied),
            ("throttled", throttled),
            ("failed", failed),
            ("hashes", hashes),
        ]
        .into_iter()
    }
}

impl History {
    /// Adds a sample. Drops the oldest one if there are too many.
    pub(super) fn add(&mut self, now: Instant, tally: RequestTotals) {
        if self.0.len() > INTERVALS {
            self.0.pop_front();
        }
        self.0.push_back((now, tally));
    }

    pub(super) fn rates(&self) -> Rates {
        let mut rates = Rates::default();
        for ((start, before), (end, after)) in self.0.iter().zip(self.0.iter().skip(1)) {
            let seconds = end.saturating_duration_since(*start).as_secs_f64();
            // Rounded, since more digits would say nothing.
            let per_second = |before: u64, after: u64| {
                let rate = after.saturating_sub(before) as f64 / seconds.max(f64::MIN_POSITIVE);
                (rate * 100.0).round() / 100.0
            };
            rates.seconds += seconds;
            rates.granted.push(per_second(before.granted, after.granted));
            rates.denied.push(per_second(before.denied, after.denied));
            rates.throttled.push(per_second(before.throttled, after.throttled));
            rates.failed.push(per_second(before.failed, after.failed));
            rates.hashes.push(per_second(before.hashes, after.hashes));
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// M-13
    #[test]
    fn rates_are_those_of_the_last_intervals() {
        let start = Instant::now();
        let mut history = History::default();
        assert_eq!(history.rates(), Rates::default());
        history.add(start, RequestTotals::default());
        assert_eq!(history.rates(), Rates::default());
        let tally = |granted, denied, throttled, failed, hashes| RequestTotals {
            granted,
            denied,
            throttled,
            failed,
            hashes,
        };
        history.add(start + Duration::from_secs(10), tally(100, 5, 1, 0, 6));
        history.add(start + Duration::from_secs(30), tally(100, 25, 1, 2, 26));
        let expected = Rates {
            seconds: 30.0,
            granted: vec![10.0, 0.0],
            denied: vec![0.5, 1.0],
            throttled: vec![0.1, 0.0],
            failed: vec![0.0, 0.1],
            hashes: vec![0.6, 1.0],
        };
        assert_eq!(history.rates(), expected);
        for n in 0..1000_u64 {
            let at = start + Duration::from_secs(40 + 10 * n);
            history
                .add(at, RequestTotals { granted: 100 + 10 * n * n, ..RequestTotals::default() });
        }
        let granted = history.rates().granted;
        assert_eq!(granted.len(), INTERVALS);
        // From n squared to (n + 1) squared in each interval.
        assert_eq!(granted[INTERVALS - 1], f64::from(2 * 998 + 1));
    }
}
