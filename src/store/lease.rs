//! A reading that may be relied on for a while, so that not every request has to take it again.
//!
//! This file knows neither SQLite nor clocks: time comes as a parameter.
//!
//! The law that makes it exact: a reading is dated before it is taken, it is relied on for [`LEASE`], and whoever
//! changes what is read waits for [`LEASE`] after the change before they say that it is done. So a reading
//! that is still relied on when a request comes, after that was said, was taken after the change.

use std::time::{Duration, Instant};

/// How long a reading is relied on, and how long a change waits before it counts as done.
pub(crate) const LEASE: Duration = Duration::from_millis(1);

/// The last reading, if there is one that did not fail.
pub(crate) struct Lease<T>(Option<(Instant, T)>);

impl<T: Copy> Lease<T> {
    /// Nothing has been read yet.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// The last reading, if it may still be relied on.
    pub(crate) fn current(&self, now: Instant) -> Option<T> {
        self.0.filter(|(at, _)| now.saturating_duration_since(*at) < LEASE).map(|(_, value)| value)
    }

    /// Reads again. `now` is from before the reading begins.
    pub(crate) fn renew<E>(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // A reading that fails must not leave the one before it in force.
        self.0 = None;
        let value = read()?;
        self.0 = Some((now, value));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_relied_on_for_less_than_the_lease_and_not_after_a_failure() {
        let start = Instant::now();
        let mut lease = Lease::new();
        assert_eq!(lease.current(start), None);
        assert_eq!(lease.renew(start, || Ok::<_, ()>(7)), Ok(7));
        assert_eq!(lease.current(start), Some(7));
        assert_eq!(lease.current(start + LEASE - Duration::from_nanos(1)), Some(7));
        assert_eq!(lease.current(start + LEASE), None);
        // A request that came before the reading was taken by another thread.
        let earlier = start.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(lease.current(earlier), Some(7));
        assert_eq!(lease.renew(start, || Err::<i32, _>(())), Err(()));
        assert_eq!(lease.current(start), None);
    }
}
