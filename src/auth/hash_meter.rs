//! Measures hashes, so that the queue can be limited by time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::domain::{Cost, Credentials, PasswordHash};
use crate::hashing::{self, HashingError};

/// A meter that computes hashes and measures their time.
pub(super) struct HashMeter {
    /// [`hashing::verify`], except in tests about something else.
    pub(super) compute: hashing::VerifyFn,
    count: AtomicU64,
    /// Nanoseconds of all hashes.
    total: AtomicU64,
    /// Nanoseconds of one hash, a moving average.
    each: AtomicU64,
}

impl HashMeter {
    /// Assumes 60 us for each of the 2^cost rounds until a hash is measured, as on a common machine
    /// of 2020.
    pub(super) fn expecting(cost: Cost) -> Self {
        let each = AtomicU64::new(60_000 << cost.get());
        Self { compute: hashing::verify, count: AtomicU64::new(0), total: AtomicU64::new(0), each }
    }

    /// Returns true if the hash is one of the password.
    pub(super) fn verify(
        &self,
        credentials: &Credentials,
        hash: &PasswordHash,
    ) -> Result<bool, HashingError> {
        let start = Instant::now();
        let matches = (self.compute)(&credentials.password, hash);
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(took, Ordering::Relaxed);
        // The average of about the last ten hashes. If two workers do this at once, one of them is
        // not counted, which is harmless.
        let each = self.each.load(Ordering::Relaxed);
        self.each.store(each - each / 8 + took / 8, Ordering::Relaxed);
        matches
    }

    /// Returns the number of hashes that this many workers compute in about 2 s, the longest time
    /// that an attempt should wait.
    pub(super) fn in_two_seconds(&self, workers: usize) -> usize {
        const MAX: u64 = 8192;
        let each = self.each.load(Ordering::Relaxed).max(1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Password, UserName};

    /// B-04: by the measured time of hashes.
    #[test]
    fn queue_holds_two_seconds_of_work() {
        let meter = HashMeter::expecting(Cost::DEFAULT);
        assert_eq!(meter.in_two_seconds(2), 16, "0.25 s per hash");
        let slow = HashMeter::expecting(Cost::new(15).unwrap());
        assert_eq!(slow.in_two_seconds(4), 4, "at least one per worker");
        // The measured hashes take about 1 ms each.
        let fast = PasswordHash::dummy(Cost::new(4).unwrap());
        let credentials = Credentials {
            user: UserName::parse("roy").unwrap(),
            password: Password::parse("right").unwrap(),
        };
        for _ in 0..100 {
            meter.verify(&credentials, &fast).unwrap();
        }
        let waiting = meter.in_two_seconds(2);
        assert!((40..=2 * 8192).contains(&waiting), "{waiting}");
        assert_eq!(meter.count(), 100);
    }
}
