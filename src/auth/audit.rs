//! The audit log of decisions, under the log target `audit`, and the counters of outcomes.
//!
//! A flood of failures causes no flood of lines, since each outcome has a quota of lines per
//! second. A thread that sleeps otherwise logs the number of further events. The deciding threads
//! write the lines, so the logger must not block. No line contains a password, or a name that is
//! not a user's.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::outcome::Label;
use super::{ClearedBy, Outcome, OwnLine};
use crate::domain::UserName;
use crate::text::log_fields;

/// The log target.
const TARGET: &str = "audit";

/// The quota of lines per outcome and second.
const LINES: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

fn fields_of(label: Label) -> Vec<(&'static str, String)> {
    vec![("outcome", label.outcome.to_owned()), ("reason", label.reason.to_owned())]
}

/// The counters and the log of outcomes. Dropping it logs the events over the quota.
pub(super) struct Audit {
    quotas: Arc<Quotas>,
    /// Wakes the summing thread. `None` only while being dropped.
    counted: Option<SyncSender<()>>,
    summing: Option<JoinHandle<()>>,
    /// Log grants by the cache too.
    hits: bool,
    counters: OwnLine<[AtomicU64; Outcome::COUNT]>,
}

/// One for each outcome, and the last for failures on this side.
#[derive(Default)]
struct Quotas([Mutex<Quota>; Outcome::COUNT + 1]);

const FAILURE: usize = Outcome::COUNT;

impl Audit {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the system gives no thread.
    pub(super) fn start(hits: bool) -> io::Result<Self> {
        let quotas = Arc::new(Quotas::default());
        let (counted, was_counted) = sync_channel(1);
        let to_sum_up = Arc::clone(&quotas);
        let summing = thread::Builder::new()
            .name("audit".into())
            .spawn(move || sum_up_each_second(&was_counted, &to_sum_up))?;
        let counters = OwnLine(Default::default());
        Ok(Self { quotas, counted: Some(counted), summing: Some(summing), hits, counters })
    }

    /// Counts and logs an outcome. `user` is an existing user. `target` describes the requested
    /// resource, and is called only for a line.
    pub(super) fn record(
        &self,
        outcome: &Outcome,
        source: IpAddr,
        user: Option<&UserName>,
        target: &dyn Fn() -> Option<String>,
    ) {
        let index = outcome.index();
        self.counters.0[index].fetch_add(1, Ordering::Relaxed);
        let logged = self.hits || !matches!(outcome, Outcome::Cached(_) | Outcome::Exempt);
        if logged && log::log_enabled!(target: TARGET, log::Level::Info) && self.may_write(index) {
            let mut fields = fields_of(Outcome::LABELS[index]);
            fields.push(("source", source.to_canonical().to_string()));
            fields.extend(user.map(|user| ("user", user.to_string())));
            fields.extend(target().map(|target| ("request", target)));
            log_fields(TARGET, &fields);
        }
    }

    /// Logs that an operator has forgiven failures.
    pub(super) fn cleared(&self, subject: (&'static str, String), by: ClearedBy) {
        let by = by.0.map_or("unknown".to_owned(), |user| user.to_string());
        log_fields(TARGET, &[("action", "throttle-clear".to_owned()), subject, ("by", by)]);
    }

    /// Logs a failure on this side.
    pub(super) fn failure(&self, what: &dyn fmt::Display) {
        if self.may_write(FAILURE) {
            log::error!("{what}");
        }
    }

    /// Logs the number of events over the quota.
    pub(super) fn flush(&self) {
        self.quotas.sum_up(None);
    }

    /// Returns the number of requests by outcome.
    pub(super) fn counters(&self) -> [u64; Outcome::COUNT] {
        self.counters.0.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }

    fn may_write(&self, which: usize) -> bool {
        let take = self.quotas.quota(which).take(Instant::now());
        if let (Take::CountFirst, Some(counted)) = (&take, &self.counted) {
            // If it is full, the thread is about to wake up anyway.
            let _ = counted.try_send(());
        }
        take == Take::Write
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.counted = None;
        if let Some(summing) = self.summing.take() {
            // A panic of it was reported by the panic hook.
            let _ = summing.join();
        }
        self.flush();
    }
}

impl Quotas {
    fn quota(&self, which: usize) -> MutexGuard<'_, Quota> {
        self.0[which].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the number of events over the quota. Returns true if the second of some is not over
    /// yet.
    fn sum_up(&self, now: Option<Instant>) -> bool {
        let mut more = false;
        for which in 0..self.0.len() {
            let missed = self.quota(which).sum(now);
            match (missed, Outcome::LABELS.get(which)) {
                (Sum::Nothing, _) => {}
                (Sum::Later, _) => more = true,
                (Sum::Missed(n), Some(label)) => {
                    log_fields(
                        TARGET,
                        &[fields_of(*label), vec![("more", n.to_string())]].concat(),
                    );
                }
                (Sum::Missed(n), None) => log::error!("{n} more failures were not written here"),
            }
        }
        more
    }
}

/// Sleeps until an event is over its quota, and then sums up each second until there are no more.
/// Ends when the audit log is dropped.
fn sum_up_each_second(counted: &Receiver<()>, quotas: &Quotas) {
    while counted.recv().is_ok() {
        let mut more = true;
        while more {
            match counted.recv_timeout(SECOND) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => more = quotas.sum_up(Some(Instant::now())),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// A number of lines per second. Further events are counted.
#[derive(Default)]
struct Quota {
    second: Option<Instant>,
    written: u32,
    missed: u64,
}

#[derive(PartialEq, Eq, Debug)]
enum Take {
    Write,
    /// The first event over the quota, after which the thread has to sum up.
    CountFirst,
    Count,
}

#[derive(PartialEq, Eq, Debug)]
enum Sum {
    Nothing,
    /// The second is not over.
    Later,
    Missed(u64),
}

impl Quota {
    fn take(&mut self, now: Instant) -> Take {
        if self.is_over(now) {
            self.second = Some(now);
            self.written = 0;
        }
        if self.written < LINES {
            self.written += 1;
            return Take::Write;
        }
        self.missed += 1;
        if self.missed == 1 { Take::CountFirst } else { Take::Count }
    }

    /// Returns the number of events over the quota if the second is over, or if `now` is `None`.
    fn sum(&mut self, now: Option<Instant>) -> Sum {
        if self.missed == 0 {
            Sum::Nothing
        } else if now.is_none_or(|now| self.is_over(now)) {
            Sum::Missed(std::mem::take(&mut self.missed))
        } else {
            Sum::Later
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.second.is_none_or(|second| now.saturating_duration_since(second) >= SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_over_the_quota_are_summed_up_after_the_second() {
        let start = Instant::now();
        let mut quota = Quota::default();
        assert_eq!(quota.sum(Some(start)), Sum::Nothing);
        for _ in 0..LINES {
            assert_eq!(quota.take(start), Take::Write);
        }
        assert_eq!(quota.sum(Some(start)), Sum::Nothing);
        assert_eq!(quota.take(start), Take::CountFirst, "the thread has to sum up");
        assert_eq!(quota.take(start + SECOND - Duration::from_nanos(1)), Take::Count);
        assert_eq!(quota.sum(Some(start)), Sum::Later);
        assert_eq!(quota.sum(Some(start + SECOND)), Sum::Missed(2));
        assert_eq!(quota.sum(Some(start + SECOND)), Sum::Nothing, "told once");
        assert_eq!(quota.take(start + SECOND), Take::Write, "a new second");
        for _ in 1..LINES {
            assert_eq!(quota.take(start + SECOND), Take::Write);
        }
        assert_eq!(quota.take(start + SECOND), Take::CountFirst);
        assert_eq!(quota.sum(None), Sum::Missed(1), "the last chance");
    }
}
