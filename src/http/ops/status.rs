//! The state of a server, as the status page and `resttool status` show it.
//!
//! Plain data. Knows neither the server nor the form in which it is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::history::Rates;
use crate::text::figures::plural;

/// The state of a running server. Texts of its inside, addresses and names are on Unix sockets only.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct ServerStatus {
    /// The version of the program.
    pub version: String,
    /// The id of the process.
    pub pid: u32,
    /// The start of the server (RFC 3339).
    pub started_at: String,
    /// The time since the start.
    pub uptime_seconds: u64,
    /// The store.
    pub store: StoreStatus,
    /// The certificate, if the server speaks TLS.
    pub certificate: Option<CertificateStatus>,
    /// Requests since the start, by outcome.
    pub requests: BTreeMap<String, u64>,
    /// The cache of verified passwords.
    pub cache: CacheStatus,
    /// The queue of login attempts, and the hash workers.
    pub queue: QueueStatus,
    /// Throttled sources and user names.
    pub throttle: ThrottleStatus,
    /// The log.
    pub log: LogStatus,
    /// The process.
    pub process: ProcessStatus,
    /// Requests and hashes per second in the last minutes.
    pub rates: Rates,
}

/// The state of the store.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct StoreStatus {
    /// Users can be looked up.
    pub reachable: bool,
    /// The time since a request has read the revision, or `None` before the first one.
    pub reading_age_seconds: Option<f64>,
    /// The location, on Unix sockets.
    pub location: Option<String>,
}

/// The certificate of a server.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct CertificateStatus {
    /// The end of its validity (RFC 3339).
    pub expires_at: String,
    /// The whole days until then. Negative if it has expired.
    pub days_left: i64,
}

/// The cache of verified passwords.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct CacheStatus {
    /// Verified passwords.
    pub entries: usize,
    /// Requests that it answered.
    pub hits: u64,
    /// Requests with well-formed credentials that it did not have.
    pub misses: u64,
}

/// The queue of login attempts, and the hash workers.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct QueueStatus {
    /// Attempts that wait for a worker now.
    pub waiting: usize,
    /// Hash workers.
    pub workers: usize,
    /// Computed hashes.
    pub hashes: u64,
    /// The mean time of a hash, or `None` before the first one.
    pub mean_hash_seconds: Option<f64>,
    /// The mean time that an attempt waited for a worker, or `None` before the first one.
    pub mean_wait_seconds: Option<f64>,
}

/// Throttled sources and user names.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct ThrottleStatus {
    /// Sources whose next login is refused.
    pub sources: usize,
    /// User names whose next login from an unknown source is refused.
    pub users: usize,
    /// Those with the longest time left, on Unix sockets.
    pub longest: Option<Vec<ThrottledEntry>>,
}

/// A throttled source or user name. A name that is no user's is not shown, since it may be a
/// password: then both are `None`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ThrottledEntry {
    /// The source, e.g. `192.0.2.1` or `2001:db8::/64`.
    pub source: Option<String>,
    /// The name of a user.
    pub user: Option<String>,
    /// The time until the next login is possible, in whole seconds, rounded up.
    pub seconds: u64,
}

/// The log of the server.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct LogStatus {
    /// Lines that were dropped because the reader of the log was too slow.
    pub dropped_lines: u64,
    /// The last errors, the newest first, on Unix sockets.
    pub last_errors: Option<Vec<LoggedError>>,
}

/// An error of the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LoggedError {
    /// The time (RFC 3339).
    pub time: String,
    /// The message of the log line.
    pub message: String,
}

/// The process. A figure that the system does not give is `None`.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct ProcessStatus {
    /// User and system processor time.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// The limit of open files.
    pub max_files: Option<u64>,
}

impl CacheStatus {
    /// Returns the part of requests that the cache answered, from 0 to 1, or `None` before the first
    /// one.
    #[must_use]
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

impl ThrottledEntry {
    /// Returns the source or the user, for people.
    #[must_use]
    pub fn subject(&self) -> &str {
        let subject = self.source.as_ref().or(self.user.as_ref());
        subject.map_or("a name that is no user's", String::as_str)
    }
}

impl ServerStatus {
    /// The number of days before the end of a certificate from which on it is a problem.
    const DAYS: i64 = 14;

    /// Returns the problems that an operator has to know of, the worst first.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.store.reachable {
            problems.push("The store cannot be read. No request is granted.".to_owned());
        }
        match self.certificate.as_ref().map(|certificate| certificate.days_left) {
            Some(days) if days < 0 => problems.push("The certificate has expired.".to_owned()),
            Some(days) if days < Self::DAYS => {
                problems
                    .push(format!("The certificate expires in {}.", plural(days as u64, "day")));
            }
            _ => {}
        }
        let last = |rates: &[f64]| rates.last().copied().unwrap_or_default();
        if last(&self.rates.failed) > 0.0 {
            problems.push("The server is overloaded, or a part of it fails.".to_owned());
        }
        if let Some((open, most)) = self.process.open_files.zip(self.process.max_files)
            && open * 5 > most * 4
        {
            problems.push(format!("{open} of {most} files are open."));
        }
        if self.log.dropped_lines > 0 {
            let lines = plural(self.log.dropped_lines, "line");
            problems.push(format!("The log has dropped {lines}."));
        }
        problems
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the status of a server without problems.
    pub(in crate::http::ops) fn status() -> ServerStatus {
        ServerStatus {
            version: "0".to_owned(),
            pid: 1,
            started_at: "2026-11-26T04:00:00Z".to_owned(),
            uptime_seconds: 1,
            store: StoreStatus { reachable: true, reading_age_seconds: None, location: None },
            certificate: None,
            requests: BTreeMap::new(),
            cache: CacheStatus { entries: 0, hits: 0, misses: 0 },
            queue: QueueStatus {
                waiting: 0,
                workers: 1,
                hashes: 0,
                mean_hash_seconds: None,
                mean_wait_seconds: None,
            },
            throttle: ThrottleStatus { sources: 0, users: 0, longest: None },
            log: LogStatus { dropped_lines: 0, last_errors: None },
            process: ProcessStatus {
                cpu_seconds: None,
                resident_bytes: None,
                open_files: Some(8),
                max_files: Some(10),
            },
            rates: Rates::default(),
        }
    }

    #[test]
    fn problems_are_named_and_the_rest_is_none() {
        assert_eq!(status().problems(), Vec::<String>::new());
        let mut broken = status();
        broken.store.reachable = false;
        broken.rates.failed = vec![0.0, 0.1];
        broken.process.open_files = Some(9);
        broken.log.dropped_lines = 1;
        assert_eq!(
            broken.problems(),
            [
                "The store cannot be read. No request is granted.",
                "The server is overloaded, or a part of it fails.",
                "9 of 10 files are open.",
                "The log has dropped 1 line.",
            ]
        );
        broken.rates.failed = vec![5.0, 0.0];
        assert_eq!(broken.problems().len(), 3, "it is over");
        for (days_left, problem) in [
            (14, None),
            (13, Some("The certificate expires in 13 days.")),
            (1, Some("The certificate expires in 1 day.")),
            (0, Some("The certificate expires in 0 days.")),
            (-1, Some("The certificate has expired.")),
        ] {
            let expires_at = String::new();
            let certificate = Some(CertificateStatus { expires_at, days_left });
            let problems = ServerStatus { certificate, ..status() }.problems();
            assert_eq!(problems.first().map(String::as_str), problem);
        }
        let hits = |hits, misses| CacheStatus { entries: 0, hits, misses }.hit_ratio();
        assert_eq!((hits(0, 0), hits(3, 1)), (None, Some(0.75)));
    }
}
