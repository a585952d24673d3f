//! Values of settings, as users write them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::auth::{Limit, LimitError};
use crate::domain::GroupName;
use crate::time::{format_duration, parse_duration};

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

/// The address of the listener for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum OpsAddress {
    /// A host and a port.
    Tcp { host: String, port: u16 },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for OpsAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected HOST:PORT or unix:PATH, e.g. 127.0.0.1:9180";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(EXPECTED) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(EXPECTED);
        }
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| EXPECTED)? })
    }
}

/// A limit on a time, or `0` for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limited(pub(super) Option<Duration>);

impl FromStr for Limited {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self(None)),
            _ => timeout(text).map(|time| Self(Some(time))).map_err(|e| format!("{e}, or 0")),
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map_or_else(|| "0".to_owned(), format_duration))
    }
}

/// Parses a timeout.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    parse_duration(text)
        .filter(|time| (Duration::from_millis(1)..=HOUR).contains(time))
        .ok_or_else(|| "expected a time from 1ms to 1h, e.g. 500ms, 5s or 2m".to_owned())
}

/// Parses a number of bytes, with a unit of 1024 bytes (K), 1024 K (M) or 1024 M (G).
pub(super) fn byte_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let count = is_number.then(|| digits.parse::<u64>().ok()?.checked_mul(factor)).flatten();
    count.ok_or_else(|| "expected a number of bytes, e.g. 4096, 64K, 10M or 2G".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_count_has_a_unit_of_1024() {
        for (text, count) in
            [("0", 0), ("4096", 4096), ("64K", 65_536), ("10M", 10_485_760), ("2G", 2_147_483_648)]
        {
            assert_eq!(byte_count(text), Ok(count), "{text}");
        }
        for text in ["", "K", "-1", "+1", "1.5M", "10m", "10 M", "1T", "99999999999G"] {
            assert!(byte_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timeout_is_at_most_an_hour_and_0_is_none() {
        let limit = |text: &str| text.parse::<Limited>().map(|limit| limit.0);
        assert_eq!(limit("0"), Ok(None));
        assert_eq!(limit("500ms"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(limit("1h"), Ok(Some(Duration::from_secs(3600))));
        for text in ["", "0s", "2h", "-1s", "5"] {
            assert!(limit(text).is_err(), "{text}");
        }
        assert_eq!(Limited(None).to_string(), "0");
    }

    #[test]
    fn ops_address_is_a_host_with_a_port_or_a_socket() {
        let tcp = |host: &str, port| Ok(OpsAddress::Tcp { host: host.to_owned(), port });
        for (text, expected) in [
            ("127.0.0.1:9180", tcp("127.0.0.1", 9180)),
            ("localhost:0", tcp("localhost", 0)),
            ("[::1]:9090", tcp("::1", 9090)),
            ("unix:/run/ops.sock", Ok(OpsAddress::Unix("/run/ops.sock".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in
            ["", "9090", ":9090", "::1:9090", "localhost", "localhost:http", "unix:", "a:70000"]
        {
            assert!(text.parse::<OpsAddress>().is_err(), "{text}");
        }
    }
}
