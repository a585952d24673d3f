//! The lease of a reading: the time for which requests rely on the last revision, so that not every
//! request has to read it.
//!
//! Knows neither SQLite nor clocks, since time is a parameter. Three rules make it exact. A reading
//! is dated before it is taken. It is relied on for [`LEASE`]. A change waits for [`LEASE`] after
//! its commit before its command returns. So a reading that a later request relies on was taken
//! after the commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Revision;

/// The time for which a reading is relied on, and for which a change waits before it returns.
pub(crate) const LEASE: Duration = Duration::from_millis(1);

/// The last reading. Every request looks at it, so a look takes no lock. The fields are published
/// under a sequence lock.
pub(crate) struct Lease {
    /// Serializes publishers.
    publishing: Mutex<()>,
    origin: Instant,
    /// An odd number while the other two are being changed.
    sequence: AtomicU64,
    /// The end of the lease in nanoseconds since `origin`, or 0 if there is none.
    until: AtomicU64,
    revision: AtomicU64,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            publishing: Mutex::new(()),
            origin: Instant::now(),
            sequence: AtomicU64::new(0),
            until: AtomicU64::new(0),
            revision: AtomicU64::new(0),
        }
    }

    /// Returns the last reading if a request that arrived at `now` may rely on it.
    pub(crate) fn current(&self, now: Instant) -> Option<Revision> {
        self.look(now, || {})
    }

    /// Returns the age of the last reading, or `None` if there is none. It may be relied on only as
    /// [`Lease::current`] says.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let until = self.until.load(Ordering::SeqCst);
        let read = (until > 0).then(|| self.origin + Duration::from_nanos(until))?;
        Some(now.saturating_duration_since(read.checked_sub(LEASE)?))
    }

    /// Takes a reading, and publishes it. `now` is the time before the reading begins. A failed
    /// reading ends the lease of the one before it.
    pub(crate) fn renew<E>(
        &self,
        now: Instant,
        read: impl FnOnce() -> Result<Revision, E>,
    ) -> Result<Revision, E> {
        let read = read().inspect_err(|_| self.end())?;
        self.publish(self.since_origin(now + LEASE), read, || {});
        Ok(read)
    }

    /// Ends the lease of the last reading.
    pub(crate) fn end(&self) {
        self.publish(0, Revision(0), || {});
    }

    fn since_origin(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Reads the fields. Tests let a publication go on in `before_step`.
    fn look(&self, now: Instant, mut before_step: impl FnMut()) -> Option<Revision> {
        let mut load = |from: &AtomicU64| {
            before_step();
            from.load(Ordering::SeqCst)
        };
        let sequence = load(&self.sequence);
        let (until, revision) = (load(&self.until), load(&self.revision));
        let is_whole = sequence.is_multiple_of(2) && load(&self.sequence) == sequence;
        (is_whole && self.since_origin(now) < until).then_some(Revision(revision))
    }

    fn publish(&self, until: u64, revision: Revision, mut before_step: impl FnMut()) {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = |to: &AtomicU64, value| {
            before_step();
            to.store(value, Ordering::SeqCst);
        };
        let sequence = self.sequence.load(Ordering::SeqCst);
        store(&self.sequence, sequence.wrapping_add(1));
        store(&self.until, until);
        store(&self.revision, revision.0);
        store(&self.sequence, sequence.wrapping_add(2));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn reading_is_valid_for_its_lease_and_not_after_a_failure() {
        let lease = Lease::new();
        let start = lease.origin + Duration::from_secs(10);
        let seven = Revision(7);
        assert_eq!((lease.current(start), lease.age(start)), (None, None));
        assert_eq!(lease.renew(start, || Ok::<_, ()>(seven)), Ok(seven));
        assert_eq!(lease.current(start), Some(seven));
        assert_eq!(lease.current(start + LEASE - Duration::from_nanos(1)), Some(seven));
        assert_eq!(lease.current(start + LEASE), None);
        assert_eq!(lease.age(start + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        // A request that arrived before another thread took the reading.
        assert_eq!(lease.current(start - Duration::from_secs(1)), Some(seven));
        assert_eq!(lease.renew(start, || Err(())), Err(()));
        assert_eq!((lease.current(start), lease.age(start)), (None, None));
        assert_eq!(lease.renew(start, || Ok::<_, ()>(seven)), Ok(seven));
        lease.end();
        assert_eq!(lease.current(start), None);
    }

    /// Plays one order of the steps of a look and of a publication. `order` gives the step of the
    /// look at which each step of the publication comes. Returns the result of the look.
    fn play(order: [usize; 4]) -> Option<Revision> {
        let lease = Lease::new();
        let now = lease.origin + Duration::from_secs(10);
        // This lease is over for the request, so its revision must not be seen with the later end.
        lease.renew(now - LEASE, || Ok::<_, ()>(Revision(1))).unwrap();
        let until = lease.since_origin(now + LEASE);
        // The steps of a real publication, as they change the fields.
        let fields = |lease: &Lease| {
            [&lease.sequence, &lease.until, &lease.revision].map(|f| f.load(Ordering::SeqCst))
        };
        let states = RefCell::new(Vec::new());
        let copy = Lease::new();
        for (to, value) in [&copy.sequence, &copy.until, &copy.revision].iter().zip(fields(&lease))
        {
            to.store(value, Ordering::SeqCst);
        }
        copy.publish(until, Revision(2), || states.borrow_mut().push(fields(&copy)));
        states.borrow_mut().push(fields(&copy));
        let states = states.into_inner();
        assert_eq!(states.len(), 5, "four steps");
        let mut looked = 0;
        lease.look(now, || {
            let done = order.iter().filter(|at| **at <= looked).count();
            let [sequence, until, revision] = states[done];
            lease.sequence.store(sequence, Ordering::SeqCst);
            lease.until.store(until, Ordering::SeqCst);
            lease.revision.store(revision, Ordering::SeqCst);
            looked += 1;
        })
    }

    #[test]
    fn look_during_a_publication_sees_one_reading_or_none() {
        let mut seen = [0; 2];
        for a in 0..=4 {
            for b in a..=4 {
                for c in b..=4 {
                    for d in c..=4 {
                        let order = [a, b, c, d];
                        match play(order) {
                            None => seen[0] += 1,
                            Some(Revision(2)) => seen[1] += 1,
                            Some(other) => panic!("{other:?} with the end of another: {order:?}"),
                        }
                    }
                }
            }
        }
        assert_eq!(seen, [69, 1], "only a publication that ended before the look is seen");
    }
}
