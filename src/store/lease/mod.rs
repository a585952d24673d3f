//! The lease of a reading: the time for which requests rely on the last revision, so that not every
//! request has to read it.
//!
//! Knows neither backends nor clocks, since time is a parameter. Three rules make it exact. A
//! reading is dated before it is taken. It is relied on for the length of the lease. A change waits
//! for at least that length after its commit before its command returns. So a reading that a later
//! request relies on was taken after the commit.
//!
//! SQLite reads when a request needs it, within [`LOCAL`]. PostgreSQL is read by a timer, and
//! [`Follower`] says which users have changed. `model` explores the protocol.

mod changed_names;
mod follower;
#[cfg(test)]
mod model;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Revision;
pub(super) use changed_names::ChangedNames;
pub(super) use follower::{Answer, Changes, Follower, Rejected, StateTag};

/// The length of the lease of a store on this machine. A change waits as long before it returns.
pub(crate) const LOCAL: Duration = Duration::from_millis(1);

/// Returns the time that a change waits after its commit if other machines hold leases of this
/// length. Their clocks may run up to 8 % slower than this one, and this one 8 % faster.
pub(super) fn wait_for_machines(length: Duration) -> Duration {
    length + length / 4
}

/// A reading of the revision. Times are those of one clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Reading {
    pub(crate) revision: Revision,
    /// The time before the reading began.
    sent: Duration,
    length: Duration,
}

impl Reading {
    /// Makes a reading that began at `sent`, and is relied on for `length` from then on.
    pub(crate) fn new(revision: Revision, sent: Duration, length: Duration) -> Self {
        Self { revision, sent, length }
    }

    fn until(self) -> Duration {
        self.sent.saturating_add(self.length)
    }
}

/// A clock that begins with the store.
pub(crate) struct StoreClock(Instant);

impl StoreClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn at(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.0)
    }
}

/// The last reading. Every request looks at it, so a look takes no lock. The fields are published
/// under a sequence lock, as nanoseconds.
#[derive(Default)]
pub(crate) struct Lease {
    /// Serializes publishers.
    publishing: Mutex<()>,
    /// An odd number while the others are being changed.
    sequence: AtomicU64,
    sent: AtomicU64,
    /// The end of the lease, or 0 if there is none.
    until: AtomicU64,
    revision: AtomicU64,
}

impl Lease {
    /// Returns the last reading if a request that arrived at `now` may rely on it.
    pub(crate) fn current(&self, now: Duration) -> Option<Revision> {
        self.look(now, || {})
    }

    /// Returns true if it is time to renew: in the last quarter of the lease, and after it.
    pub(crate) fn ends_soon(&self, now: Duration) -> bool {
        let (sent, until) = (load(&self.sent), load(&self.until));
        nanos(now) >= until.saturating_sub(until.saturating_sub(sent) / 4)
    }

    /// Returns the age of the last reading, or `None` if there is none. It may be relied on only as
    /// [`Lease::current`] says.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        let sent = (load(&self.until) > 0).then(|| load(&self.sent))?;
        Some(now.saturating_sub(Duration::from_nanos(sent)))
    }

    /// Takes a reading of [`LOCAL`] length, and publishes it. `now` is the time before the reading
    /// begins. A failed reading ends the lease of the one before it.
    pub(crate) fn renew<E>(
        &self,
        now: Duration,
        read: impl FnOnce() -> Result<Revision, E>,
    ) -> Result<Revision, E> {
        let revision = read().inspect_err(|_| self.end())?;
        self.publish(Reading::new(revision, now, LOCAL));
        Ok(revision)
    }

    /// Publishes a reading.
    pub(crate) fn publish(&self, reading: Reading) {
        self.store(reading, || {});
    }

    /// Ends the lease of the last reading.
    pub(crate) fn end(&self) {
        self.publish(Reading::new(Revision(0), Duration::ZERO, Duration::ZERO));
    }

    /// Reads the fields. Tests let a publication go on in `before_step`.
    fn look(&self, now: Duration, mut before_step: impl FnMut()) -> Option<Revision> {
        let mut load = |from: &AtomicU64| {
            before_step();
            load(from)
        };
        let sequence = load(&self.sequence);
        let (until, revision) = (load(&self.until), load(&self.revision));
        let is_whole = sequence.is_multiple_of(2) && load(&self.sequence) == sequence;
        (is_whole && nanos(now) < until).then_some(Revision(revision))
    }

    fn store(&self, reading: Reading, mut before_step: impl FnMut()) {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = |to: &AtomicU64, value| {
            before_step();
            to.store(value, Ordering::SeqCst);
        };
        let sequence = self.sequence.load(Ordering::SeqCst);
        store(&self.sequence, sequence.wrapping_add(1));
        self.sent.store(nanos(reading.sent), Ordering::SeqCst);
        store(&self.until, nanos(reading.until()));
        store(&self.revision, reading.revision.0);
        store(&self.sequence, sequence.wrapping_add(2));
    }
}

fn load(from: &AtomicU64) -> u64 {
    from.load(Ordering::SeqCst)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const START: Duration = Duration::from_secs(10);
    const NANOSECOND: Duration = Duration::from_nanos(1);

    #[test]
    fn reading_is_valid_for_its_lease_and_not_after_a_failure() {
        let lease = Lease::default();
        let seven = Revision(7);
        assert_eq!((lease.current(START), lease.age(START)), (None, None));
        assert_eq!(lease.renew(START, || Ok::<_, ()>(seven)), Ok(seven));
        assert_eq!(lease.current(START), Some(seven));
        assert_eq!(lease.current(START + LOCAL - NANOSECOND), Some(seven));
        assert_eq!(lease.current(START + LOCAL), None);
        let age = Duration::from_secs(5);
        assert_eq!(lease.age(START + age), Some(age));
        // A request that arrived before another thread took the reading.
        assert_eq!(lease.current(START - Duration::from_secs(1)), Some(seven));
        assert_eq!(lease.renew(START, || Err(())), Err(()));
        assert_eq!((lease.current(START), lease.age(START)), (None, None));
        assert_eq!(lease.renew(START, || Ok::<_, ()>(seven)), Ok(seven));
        lease.end();
        assert_eq!(lease.current(START), None);
        let second = Duration::from_secs(1);
        lease.publish(Reading::new(seven, START, second));
        assert_eq!(lease.current(START + second - NANOSECOND), Some(seven));
        assert_eq!(lease.current(START + second), None);
    }

    #[test]
    fn lease_is_renewed_in_its_last_quarter() {
        let lease = Lease::default();
        assert!(lease.ends_soon(START), "there is none");
        lease.publish(Reading::new(Revision(1), START, LOCAL));
        let quarter = START + LOCAL * 3 / 4;
        assert!(!lease.ends_soon(START) && !lease.ends_soon(quarter - NANOSECOND));
        assert!(lease.ends_soon(quarter) && lease.ends_soon(START + LOCAL));
        lease.end();
        assert!(lease.ends_soon(START));
    }

    /// Plays one order of the steps of a look and of a publication. `order` gives the step of the
    /// look at which each step of the publication comes. Returns the result of the look.
    fn play(order: [usize; 4]) -> Option<Revision> {
        let lease = Lease::default();
        // This lease is over for the request, so its revision must not be seen with the later end.
        lease.renew(START - LOCAL, || Ok::<_, ()>(Revision(1))).unwrap();
        // The steps of a real publication, as they change the fields.
        let fields = |lease: &Lease| [&lease.sequence, &lease.until, &lease.revision].map(load);
        let states = RefCell::new(Vec::new());
        let copy = Lease::default();
        for (to, value) in [&copy.sequence, &copy.until, &copy.revision].iter().zip(fields(&lease))
        {
            to.store(value, Ordering::SeqCst);
        }
        let reading = Reading::new(Revision(2), START, LOCAL);
        copy.store(reading, || states.borrow_mut().push(fields(&copy)));
        states.borrow_mut().push(fields(&copy));
        let states = states.into_inner();
        assert_eq!(states.len(), 5, "four steps");
        let mut looked = 0;
        lease.look(START, || {
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
