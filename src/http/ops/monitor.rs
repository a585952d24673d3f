//! The figures of a running server, read when they are asked for.
//!
//! Decides which figures there are. Knows no form in which they are shown.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::OpsConfig;
use super::history::{History, RequestTotals};
use super::status::{
    CacheStatus, CertificateStatus, LogStatus, ProcessStatus, QueueStatus, ServerStatus,
    StoreStatus, ThrottleStatus, ThrottledEntry,
};
use crate::auth::{Authenticator, Counters, HistogramSnapshot, Subject, Throttled};
use crate::http::Tls;
use crate::http::gate::Gate;
use crate::http::proxy;
use crate::http::response::whole_seconds;
use crate::time::Timestamp;

/// The number of throttled sources and names that a status lists.
const LISTED: usize = 20;

const DAY: i64 = 24 * 60 * 60;

/// What the services for operators look at and steer.
pub(in crate::http) struct Monitor {
    gate: Arc<Gate>,
    certificate: Option<Tls>,
    config: OpsConfig,
    history: Mutex<History>,
}

/// The figures of one scrape.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) counters: Counters,
    pub(super) store_reachable: bool,
    pub(super) certificate_expires: Option<Timestamp>,
    pub(super) dropped_log_lines: u64,
    pub(super) process: ProcessStatus,
    pub(super) started: SystemTime,
}

impl Monitor {
    pub(in crate::http) fn new(
        gate: Arc<Gate>,
        certificate: Option<Tls>,
        config: OpsConfig,
    ) -> Self {
        let monitor = Self { gate, certificate, config, history: Mutex::default() };
        monitor.sample();
        monitor
    }

    /// Returns the time between two samples.
    pub(in crate::http) fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Adds the counters of now to the history.
    pub(in crate::http) fn sample(&self) {
        let mut tally =
            RequestTotals { hashes: self.authenticator().hashes(), ..RequestTotals::default() };
        for (outcome, count) in self.authenticator().outcomes() {
            *match outcome {
                "granted" => &mut tally.granted,
                "throttled" => &mut tally.throttled,
                "overloaded" | "unavailable" => &mut tally.failed,
                _ => &mut tally.denied,
            } += count;
        }
        self.history().add(Instant::now(), tally);
    }

    pub(super) fn authenticator(&self) -> &Authenticator {
        self.gate.authenticator()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.authenticator().is_ready()
    }

    /// Asks the upstream whether it is ready, if there is one with a health path.
    pub(super) async fn is_upstream_ready(&self) -> bool {
        match self.gate.proxy() {
            Some(proxy) => proxy::is_healthy(proxy).await,
            None => true,
        }
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            counters: self.authenticator().counters(),
            store_reachable: self.is_ready(),
            certificate_expires: self.certificate.as_ref().and_then(Tls::expires),
            dropped_log_lines: (self.config.dropped_log_lines)(),
            process: ProcessStatus::read(),
            started: self.gate.started(),
        }
    }

    /// Returns the state of the server. Addresses, names and texts of its inside are for private
    /// sockets only.
    pub(super) fn status(&self, is_private: bool) -> ServerStatus {
        let Figures {
            counters,
            store_reachable,
            certificate_expires,
            dropped_log_lines,
            process,
            started,
        } = self.figures();
        let now = Timestamp::now();
        let started_at = Timestamp::of(started);
        let mut requests = BTreeMap::<String, u64>::new();
        for (outcome, _, count) in counters.outcomes() {
            *requests.entry(outcome.to_owned()).or_default() += count;
        }
        let certificate = certificate_expires.map(|end| CertificateStatus {
            expires_at: end.to_string(),
            days_left: (end.seconds().cast_signed() - now.seconds().cast_signed()).div_euclid(DAY),
        });
        ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: started_at.to_string(),
            uptime_seconds: now.seconds().saturating_sub(started_at.seconds()),
            store: StoreStatus {
                reachable: store_reachable,
                reading_age_seconds: counters.store_reading_age.map(|age| age.as_secs_f64()),
                location: is_private.then(|| self.config.store.clone()),
            },
            certificate,
            requests,
            cache: CacheStatus {
                entries: counters.cache_entries,
                hits: counters.outcome("cached").unwrap_or_default(),
                misses: counters.cache_misses,
            },
            queue: QueueStatus {
                waiting: counters.waiting,
                workers: counters.workers,
                hashes: counters.hashes,
                mean_hash_seconds: mean(&counters.hash_seconds),
                mean_wait_seconds: mean(&counters.queue_wait),
            },
            throttle: ThrottleStatus {
                sources: counters.throttled_sources,
                users: counters.throttled_users,
                longest: is_private.then(|| self.throttled(LISTED)),
            },
            log: LogStatus {
                dropped_lines: dropped_log_lines,
                last_errors: is_private.then(self.config.last_errors),
            },
            process,
            rates: self.history().rates(),
        }
    }

    /// Returns the throttled sources and user names, at most this many, those with the longest time
    /// left first.
    pub(super) fn throttled(&self, most: usize) -> Vec<ThrottledEntry> {
        let mut all = self.authenticator().throttled();
        all.sort_by_key(|throttled| Reverse(throttled.retry_after));
        all.into_iter().take(most).map(ThrottledEntry::from).collect()
    }

    // A panic while it was locked has left it consistent, because each call on it is one step.
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Throttled> for ThrottledEntry {
    fn from(throttled: Throttled) -> Self {
        let seconds = whole_seconds(throttled.retry_after);
        match throttled.subject {
            Subject::Source(source) => {
                Self { source: Some(source.to_string()), user: None, seconds }
            }
            Subject::User(user) => {
                Self { source: None, user: user.map(|user| user.to_string()), seconds }
            }
        }
    }
}

/// Returns the mean of all times in seconds, or `None` if there are none.
fn mean(times: &HistogramSnapshot) -> Option<f64> {
    let count = times.count();
    (count > 0).then(|| times.sum.as_secs_f64() / count as f64)
}
