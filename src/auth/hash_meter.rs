//! Measures hashes, so that the queue can be limited by time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use crate::domain::{Cost, PasswordHash};
use crate::hashing::{self, BcryptKey, HashingError, LANES};

/// A meter that computes hashes and measures their time.
pub(super) struct HashMeter {
    /// [`hashing::verify_all`], except in tests about something else.
    pub(super) compute: hashing::VerifyFn,
    count: AtomicU64,
    /// Nanoseconds of all hashes.
    total: AtomicU64,
    /// The time of each hash, as an attempt waits for it.
    pub(super) seconds: Histogram,
    /// The time that each attempt waited in the queue.
    pub(super) waits: Histogram,
    /// The time of a hash while many attempts wait, so that all lanes are in use.
    in_lanes: Average,
    /// The time of a hash that is computed alone.
    alone: Average,
}

/// A moving average of nanoseconds.
struct Average(AtomicU64);

impl HashMeter {
    /// Assumes 60 us for each of the 2^cost rounds until a hash is measured, as on a common machine
    /// of 2020.
    pub(super) fn expecting(cost: Cost) -> Self {
        Self {
            compute: hashing::verify_all,
            count: AtomicU64::new(0),
            total: AtomicU64::new(0),
            seconds: Histogram::default(),
            waits: Histogram::default(),
            in_lanes: Average(AtomicU64::new(0)),
            alone: Average(AtomicU64::new(60_000 << cost.get())),
        }
    }

    /// Compares keys with hashes of one cost.
    pub(super) fn verify(
        &self,
        pairs: &[(BcryptKey, &PasswordHash)],
    ) -> Result<Vec<bool>, HashingError> {
        let start = Instant::now();
        let matches = (self.compute)(pairs);
        let took = start.elapsed();
        self.seconds.add(took, pairs.len());
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let count = pairs.len() as u64;
        self.count.fetch_add(count, Ordering::Relaxed);
        self.total.fetch_add(took, Ordering::Relaxed);
        match pairs.len() {
            1 => self.alone.add(took),
            LANES => self.in_lanes.add(took / count),
            _ => {}
        }
        matches
    }

    /// Returns the number of hashes that this many workers compute in about 2 s, the longest time
    /// that an attempt should wait. Assumes that lanes double the rate until it is measured.
    pub(super) fn in_two_seconds(&self, workers: usize) -> usize {
        const MAX: u64 = 8192;
        let each = self.in_lanes.get().unwrap_or(self.alone.get().unwrap_or(0) / 2).max(1);
        let together = (2_000_000_000 / each).clamp(1, MAX) as usize;
        workers * together
    }

    /// Returns the number of computed hashes.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the time of all computed hashes, of all workers together.
    pub(super) fn total(&self) -> Duration {
        Duration::from_nanos(self.total.load(Ordering::Relaxed))
    }
}

impl Average {
    /// Returns the average of about the last ten times, or `None` if there is none.
    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|average| *average > 0)
    }

    /// Adds a time. If two workers do this at once, one time is not counted, which is harmless.
    fn add(&self, took: u64) {
        let average = self.get().map_or(took, |average| average - average / 8 + took / 8);
        self.0.store(average.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B-04: by the measured time of hashes.
    #[test]
    fn queue_holds_two_seconds_of_work() {
        let meter = HashMeter::expecting(Cost::DEFAULT);
        assert_eq!(meter.in_two_seconds(2), 32, "0.125 s per hash");
        let slow = HashMeter::expecting(Cost::new(15).unwrap());
        assert_eq!(slow.in_two_seconds(4), 8, "about 1 s per hash");
        // The measured hashes take about 1 ms each.
        let fast = PasswordHash::dummy(Cost::new(4).unwrap());
        let pairs = vec![(BcryptKey::of_octets(b"right").unwrap(), &fast); LANES];
        for _ in 0..100 {
            meter.verify(&pairs[..1]).unwrap();
        }
        let waiting = meter.in_two_seconds(2);
        assert!((40..=2 * 8192).contains(&waiting), "{waiting}");
        assert_eq!(meter.count(), 100);
        meter.verify(&pairs).unwrap();
        assert_eq!(meter.count(), 104);
    }

    /// B-04: a burst of single attempts does not hide what lanes can do, nor the other way round.
    #[test]
    fn queue_is_measured_by_full_lanes_as_soon_as_they_were_used() {
        let meter = HashMeter::expecting(Cost::DEFAULT);
        meter.in_lanes.add(100_000_000);
        assert_eq!(meter.in_two_seconds(1), 20);
        meter.alone.add(1);
        assert_eq!(meter.in_two_seconds(1), 20);
        for _ in 0..100 {
            meter.in_lanes.add(3_000_000_000);
        }
        assert_eq!(meter.in_two_seconds(3), 3, "at least one per worker");
    }
}
