//! When a server reads the state of the database. Pure: time is a parameter.

use std::time::Duration;

/// The time after the last request for which the lease is renewed.
const BUSY: Duration = Duration::from_secs(60);

/// The next reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Now,
    In(Duration),
    /// A request has to come first.
    WhenUsed,
}

/// The readings on one connection.
#[derive(Default)]
pub(super) struct Schedule {
    /// The time of the last reading, and the length of its lease.
    last: Option<(Duration, Duration)>,
    sent: Duration,
}

impl Schedule {
    /// Returns the length of the lease, if the state was read.
    pub(super) fn length(&self) -> Option<Duration> {
        self.last.map(|(_, length)| length)
    }

    pub(super) fn sent(&mut self, now: Duration) {
        self.sent = now;
    }

    pub(super) fn renewed(&mut self, length: Duration) {
        self.last = Some((self.sent, length));
    }

    /// Returns when the next reading is due. The first one comes at once, four come in each lease
    /// while there are requests, and none comes a minute after the last request.
    pub(super) fn due(&self, now: Duration, used: Duration) -> Due {
        let Some((sent, length)) = self.last else { return Due::Now };
        if now.saturating_sub(used) >= BUSY {
            return Due::WhenUsed;
        }
        match (sent + length / 4).saturating_sub(now) {
            Duration::ZERO => Due::Now,
            pause => Due::In(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// F-15
    #[test]
    fn state_is_read_four_times_a_lease_while_requests_come() {
        let start = SECOND * 100;
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(start, Duration::ZERO), Due::Now, "the first one");
        schedule.sent(start);
        schedule.renewed(SECOND);
        assert_eq!(schedule.due(start, start), Due::In(SECOND / 4));
        assert_eq!(schedule.due(start + SECOND / 5, start), Due::In(SECOND / 20));
        assert_eq!(schedule.due(start + SECOND / 4, start), Due::Now);
        assert_eq!(schedule.due(start + BUSY, start + SECOND), Due::Now);
        assert_eq!(schedule.due(start + BUSY, start), Due::WhenUsed);
        let later = start + BUSY * 5;
        assert_eq!(schedule.due(later, later), Due::Now, "a request after a pause");
    }
}
