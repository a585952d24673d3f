//! Timestamps and durations, as the store keeps them and as users write them.
//!
//! Decides which times are valid, and their text form. Reads the clock in [`Timestamp::now`] only,
//! and knows no user.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo};

/// A second in UTC, from 1970 to the last days of 9999, so that RFC 3339 can express it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 9999-12-30T22:00:00Z. Later seconds are in the year 10000 in some time zone.
    const MAX: u64 = 253_402_207_200;

    /// Returns the current second.
    #[must_use]
    pub fn now() -> Self {
        Self::of(SystemTime::now())
    }

    /// Returns the second of a time. An earlier time than 1970 is its first second.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 has not been set yet.
        Self(since.map_or(0, |time| time.as_secs()).min(Self::MAX))
    }

    /// Returns the time this many seconds after 1970-01-01T00:00:00Z, or `None` if it is out of
    /// range.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        u64::try_from(seconds).ok().filter(|seconds| *seconds <= Self::MAX).map(Self)
    }

    /// Returns the seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Returns true if this time has come when the wall clock shows `now`.
    #[must_use]
    pub fn has_passed(self, now: SystemTime) -> bool {
        SystemTime::from(self) <= now
    }

    /// Parses a date, which stands for its first second in UTC, or a date and time with its offset
    /// (RFC 3339 section 5.6). Drops fractions of a second.
    ///
    /// # Errors
    /// Fails if `text` is neither, or before 1970.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let date = || text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC));
        let time = if text.len() == "2027-01-31".len() {
            date().map(|zoned| zoned.timestamp())
        } else {
            text.parse::<jiff::Timestamp>()
        };
        time.ok().and_then(|time| Self::from_seconds(time.as_second())).ok_or(TimestampError)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_secs(timestamp.0)
    }
}

/// Writes RFC 3339 in UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = i64::try_from(self.0).unwrap_or_default();
        jiff::Timestamp::from_second(second).unwrap_or_default().fmt(f)
    }
}

/// An error: the text is not a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a date (e.g. 2027-01-31) or a time (e.g. 2027-01-31T18:00:00Z), from 1970 on")]
pub struct TimestampError;

/// Parses a duration as users write it (e.g. `90s`, `1h 30m`, `30d`). A day has 24 hours. Returns
/// `None` for other text, negative durations, months and years.
#[must_use]
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let span = text.parse::<Span>().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    duration.try_into().ok()
}

/// Formats a duration in the form that [`parse_duration`] reads.
#[must_use]
pub(crate) fn format_duration(duration: Duration) -> String {
    format!("{:#}", SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_its_first_second_and_time_has_an_offset() {
        for (text, written) in [
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T18:30:00Z", "2027-01-31T18:30:00Z"),
            ("2027-01-31T18:30:00+02:00", "2027-01-31T16:30:00Z"),
            ("2027-01-31T18:30:00.999Z", "2027-01-31T18:30:00Z"),
            ("1970-01-01", "1970-01-01T00:00:00Z"),
            ("9999-12-30T22:00:00Z", "9999-12-30T22:00:00Z"),
        ] {
            let timestamp = Timestamp::parse(text).unwrap();
            assert_eq!(timestamp.to_string(), written, "{text}");
            assert_eq!(Timestamp::parse(written), Ok(timestamp));
            let seconds = i64::try_from(timestamp.seconds()).unwrap();
            assert_eq!(Timestamp::from_seconds(seconds), Some(timestamp));
        }
    }

    #[test]
    fn other_text_is_no_timestamp() {
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
            assert_eq!(Timestamp::parse(text), Err(TimestampError), "{text}");
        }
        assert_eq!(Timestamp::from_seconds(-1), None);
        assert_eq!(Timestamp::from_seconds(253_402_207_201), None);
        assert_eq!(Timestamp::from_seconds(i64::MAX), None);
    }

    #[test]
    fn duration_has_a_unit_and_a_day_has_24_hours() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("1h 30m", 5400),
            ("1h30min", 5400),
            ("30d", 30 * 86400),
            ("2 days", 2 * 86400),
            ("1w", 7 * 86400),
            ("0s", 0),
        ] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(format_duration(Duration::from_secs(3600)), "1h");
        for text in ["", "90", "-90s", "90s ago", "1mo", "1y", "1h,", "s", "soon"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn written_timestamp_is_read_back(seconds in 0..=253_402_207_200_i64) {
            let timestamp = Timestamp::from_seconds(seconds).unwrap();
            assert_eq!(Timestamp::parse(&timestamp.to_string()), Ok(timestamp));
        }
    }
}
