//! Histograms of times, for metrics. Knows nothing of what was measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of buckets. The last one has no upper bound.
const BUCKETS: usize = HistogramSnapshot::BOUNDS.len() + 1;

/// A histogram that threads add to at the same time.
#[derive(Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    /// Nanoseconds of all times.
    sum: AtomicU64,
}

impl Histogram {
    /// Adds a time, as often as `count` says.
    pub(super) fn add(&self, time: Duration, count: usize) {
        let count = count as u64;
        let bucket = HistogramSnapshot::BOUNDS.iter().position(|bound| time <= *bound);
        let bucket = bucket.unwrap_or(HistogramSnapshot::BOUNDS.len());
        if let Some(bucket) = self.counts.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanoseconds.saturating_mul(count), Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum.load(Ordering::Relaxed)),
        }
    }
}

/// The state of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistogramSnapshot {
    counts: [u64; BUCKETS],
    /// The sum of all times.
    pub sum: Duration,
}

impl HistogramSnapshot {
    /// The upper bounds of all buckets but the last.
    pub const BOUNDS: [Duration; 11] = [
        Duration::from_millis(1),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_millis(2500),
        Duration::from_secs(5),
    ];

    /// Returns the upper bound of each bucket in seconds, and the number of times in it. A time
    /// counts in one bucket.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// Returns the number of times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (milliseconds, count) in
            [(0, 1), (1, 1), (2, 3), (100, 1), (101, 1), (5000, 1), (9000, 2)]
        {
            histogram.add(Duration::from_millis(milliseconds), count);
        }
        let snapshot = histogram.snapshot();
        let filled: Vec<_> = snapshot.buckets().filter(|(_, count)| *count > 0).collect();
        let expected = [(0.001, 2), (0.005, 3), (0.1, 1), (0.25, 1), (5.0, 1), (f64::INFINITY, 2)];
        assert_eq!(filled, expected);
        assert_eq!(snapshot.count(), 10);
        assert_eq!(snapshot.sum, Duration::from_millis(1 + 6 + 100 + 101 + 5000 + 18_000));
    }
}
