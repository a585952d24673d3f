//! A moment in UTC, in whole seconds: as the store keeps it and as people write it.
//!
//! This room knows no clock but to ask for the time, and no user.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A second from 1970 to the last days of 9999, so that RFC 3339 can write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

impl Moment {
    /// 9999-12-30T22:00:00Z: from there on it is the year 10000 somewhere.
    const LAST: u64 = 253_402_207_200;

    /// The second that is now.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock that stands before 1970 has not been set yet.
        Self(since.map_or(0, |time| time.as_secs()).min(Self::LAST))
    }

    /// So many seconds after 1970-01-01T00:00:00Z; `None` if RFC 3339 can't write that.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        u64::try_from(seconds).ok().filter(|seconds| *seconds <= Self::LAST).map(Self)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Whether it is over, when the clock on the wall says `now`: that is how people say when somebody expires.
    #[must_use]
    pub fn has_passed(self, now: SystemTime) -> bool {
        SystemTime::from(self) <= now
    }

    /// What `text` says: a date, which stands for its first second in UTC, or a date and time with its offset (RFC 3339
    /// section 5.6). Fractions of a second are dropped.
    ///
    /// # Errors
    /// When it is neither, or before 1970.
    pub fn parse(text: &str) -> Result<Self, MomentError> {
        let date = || text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC));
        let time = if text.len() == "2027-01-31".len() {
            date().map(|zoned| zoned.timestamp())
        } else {
            text.parse::<Timestamp>()
        };
        time.ok().and_then(|time| Self::from_seconds(time.as_second())).ok_or(MomentError)
    }
}

impl From<Moment> for SystemTime {
    fn from(moment: Moment) -> Self {
        Self::UNIX_EPOCH + Duration::from_secs(moment.0)
    }
}

/// As RFC 3339 writes it, in UTC.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = i64::try_from(self.0).unwrap_or_default();
        Timestamp::from_second(second).unwrap_or_default().fmt(f)
    }
}

/// A text that is no moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MomentError;

impl fmt::Display for MomentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a date as 2027-01-31 or a time as 2027-01-31T18:00:00Z, from 1970 on")
    }
}

impl std::error::Error for MomentError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_second_and_a_time_is_one_with_its_offset() {
        for (text, written) in [
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T18:30:00Z", "2027-01-31T18:30:00Z"),
            ("2027-01-31T18:30:00+02:00", "2027-01-31T16:30:00Z"),
            ("2027-01-31T18:30:00.999Z", "2027-01-31T18:30:00Z"),
            ("1970-01-01", "1970-01-01T00:00:00Z"),
            ("9999-12-30T22:00:00Z", "9999-12-30T22:00:00Z"),
        ] {
            let moment = Moment::parse(text).unwrap();
            assert_eq!(moment.to_string(), written, "{text}");
            assert_eq!(Moment::parse(written), Ok(moment));
            let seconds = i64::try_from(moment.seconds()).unwrap();
            assert_eq!(Moment::from_seconds(seconds), Some(moment));
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "never",
            "tomorrow",
            "2027-02-30",
            "2027-1-31",
            "2027-01-31T18:30:00",
            "2027-01-31 18:30",
            "1969-12-31",
            "1969-12-31T23:59:59Z",
            "18:30:00Z",
            "9999-12-31",
            "+2027-01-31",
        ] {
            assert_eq!(Moment::parse(text), Err(MomentError), "{text}");
        }
        assert_eq!(Moment::from_seconds(-1), None);
        assert_eq!(Moment::from_seconds(253_402_207_201), None);
        assert_eq!(Moment::from_seconds(i64::MAX), None);
    }

    proptest::proptest! {
        #[test]
        fn a_moment_is_read_as_it_was_written(seconds in 0..=253_402_207_200_i64) {
            let moment = Moment::from_seconds(seconds).unwrap();
            assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
        }
    }
}
