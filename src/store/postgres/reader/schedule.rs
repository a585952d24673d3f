//! When a server reads the state of the database. Pure: time is a parameter.

use std::time::Duration;

/// The time after the last request for which the lease is renewed.
const BUSY: Duration = Duration::from_secs(60);

/// The time for which the first answer on a connection may take. The length of the lease is not known
/// before.
const FIRST: Duration = Duration::from_secs(2);

/// The next reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Now,
    In(Duration),
    /// A request has to come first.
    WhenUsed,
}

/// The readings on one connection. One is under way at a time.
#[derive(Default)]
pub(super) struct Schedule {
    /// The time of the last reading that counts, and the length of its lease.
    last: Option<(Duration, Duration)>,
    /// The time of the reading that is under way, or of the last one.
    sent: Duration,
    /// The time of the first reading after the last that counts.
    since: Option<Duration>,
}

impl Schedule {
    pub(super) fn sent(&mut self, now: Duration) {
        self.sent = now;
        self.since.get_or_insert(now);
    }

    /// The reading counts.
    pub(super) fn renewed(&mut self, length: Duration) {
        self.last = Some((self.sent, length));
        self.since = None;
    }

    /// Returns the time that readings have to be answered in. A late answer does not count, and the
    /// state is read again for as long as this.
    pub(super) fn limit(&self) -> Duration {
        self.last.map_or(FIRST, |(_, length)| length / 2)
    }

    /// Returns the time until the limit is over. `None` if no reading is under way.
    pub(super) fn until_limit(&self, now: Duration) -> Option<Duration> {
        Some((self.since? + self.limit()).saturating_sub(now))
    }

    /// Returns the time for which another connection may take the place of this one: half of the
    /// lease, and not more than the lease from the first reading without an answer. `None` if this
    /// one was of no use.
    pub(super) fn time_to_replace(&self, now: Duration) -> Option<Duration> {
        let (_, length) = self.last?;
        let end = self.since.map_or(now + length / 2, |since| since + length);
        Some(end.saturating_sub(now).min(length / 2))
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

    /// F-05
    #[test]
    fn late_answers_count_against_one_limit() {
        let start = SECOND * 100;
        let mut schedule = Schedule::default();
        assert_eq!(schedule.until_limit(start), None);
        schedule.sent(start);
        schedule.sent(start + SECOND);
        assert_eq!(schedule.until_limit(start + SECOND), Some(SECOND), "since the first one");
        assert_eq!(schedule.due(start + SECOND, start), Due::Now, "again at once");
        schedule.renewed(SECOND);
        assert_eq!(schedule.until_limit(start + SECOND), None);
        let start = start + SECOND * 5 / 4;
        schedule.sent(start);
        assert_eq!(schedule.until_limit(start), Some(SECOND / 2));
        schedule.sent(start + SECOND / 2);
        assert_eq!(schedule.until_limit(start + SECOND / 2), Some(Duration::ZERO));
        assert_eq!(schedule.until_limit(start + SECOND), Some(Duration::ZERO));
    }

    /// F-05: an interruption is known a quarter and a whole lease after the last reading.
    #[test]
    fn connection_is_replaced_within_a_lease_of_the_reading() {
        let start = SECOND * 100;
        let mut schedule = Schedule::default();
        schedule.sent(start);
        assert_eq!(schedule.time_to_replace(start), None, "of no use yet");
        schedule.renewed(SECOND);
        assert_eq!(schedule.time_to_replace(start + SECOND * 9), Some(SECOND / 2), "idle");
        schedule.sent(start + SECOND);
        for (after, left) in [(0, 500), (500, 500), (600, 400), (1000, 0), (1100, 0)] {
            let now = start + SECOND + Duration::from_millis(after);
            let left = Duration::from_millis(left);
            assert_eq!(schedule.time_to_replace(now), Some(left), "{after}");
        }
    }
}
