//! Values of settings, as users write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::auth::{Limit, LimitError};
use crate::domain::GroupName;
use crate::time::parse_duration;

/// A limit on failed logins, or `0` for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures(pub(super) Option<Limit>);

impl FromStr for Failures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(None));
        }
        text.parse().map(|limit| Self(Some(limit))).map_err(|LimitError| {
            format!(
                "expected 0, or 1 to {} failures per 1s to 24h, e.g. 10/1m",
                Limit::MAX_FAILURES
            )
        })
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("0"),
        }
    }
}

pub(super) fn cache_lifetime(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    parse_duration(text)
        .filter(|time| (Duration::from_secs(1)..=30 * DAY).contains(time))
        .ok_or_else(|| "expected a time from 1s to 30d, e.g. 90s, 30m or 1h".to_owned())
}

pub(super) fn octal_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected a mode in octal, e.g. 660".to_owned())
}

pub(super) fn group_name(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).map_err(|e| format!("not a valid group name: {e}"))
}
