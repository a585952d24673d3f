//! What is told of decisions: counters, and lines in the log under the target `audit`.
//!
//! A flood of failures is no flood of lines: of each kind so many are written a second, and the
//! rest are counted and summed up, by a thread of its own that is asleep otherwise. A logger must
//! not block: lines are written by the threads that decide. No line holds a password, nor a name
//! that is no user's.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::Record;

use super::OwnLine;
use crate::credential::UserName;

/// The target of the log's lines.
const TARGET: &str = "audit";

/// How many lines of each kind are written in a second.
const LINES: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// What an event is, in the words of the log: what came out, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Right, as was verified before.
    Remembered,
    /// Right, as was found out by a hash.
    Verified,
    NoCredentials,
    Malformed,
    UnknownUser,
    WrongPassword,
    Locked,
    Expired,
    Forbidden,
    Throttled,
    Overloaded,
    Unavailable,
    MalformedRequest,
    HeadTooLong,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Remembered,
        Self::Verified,
        Self::NoCredentials,
        Self::Malformed,
        Self::UnknownUser,
        Self::WrongPassword,
        Self::Locked,
        Self::Expired,
        Self::Forbidden,
        Self::Throttled,
        Self::Overloaded,
        Self::Unavailable,
        Self::MalformedRequest,
        Self::HeadTooLong,
    ];

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Remembered => ("granted", "remembered"),
            Self::Verified => ("granted", "verified"),
            Self::NoCredentials => ("challenged", "no-credentials"),
            Self::Malformed => ("denied", "malformed"),
            Self::UnknownUser => ("denied", "unknown-user"),
            Self::WrongPassword => ("denied", "wrong-password"),
            Self::Locked => ("denied", "locked"),
            Self::Expired => ("denied", "expired"),
            Self::Forbidden => ("forbidden", "not-in-group"),
            Self::Throttled => ("throttled", "too-many-failures"),
            Self::Overloaded => ("overloaded", "too-many-waiting"),
            Self::Unavailable => ("unavailable", "failure"),
            Self::MalformedRequest => ("rejected", "malformed-request"),
            Self::HeadTooLong => ("rejected", "head-too-long"),
        }
    }
}

/// Writes a line of fields: as text for people, and each for itself for whatever keeps the log.
fn write_fields(fields: &[(&'static str, String)]) {
    let pairs: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let words: Vec<_> = fields
        .iter()
        .map(|(name, value)| match *name {
            // It may hold spaces.
            "request" => format!("{name}=\"{}\"", value.replace('"', "\\\"")),
            _ => format!("{name}={value}"),
        })
        .collect();
    let mut record = Record::builder();
    record.level(log::Level::Info).target(TARGET).key_values(&pairs);
    log::logger().log(&record.args(format_args!("{}", words.join(" "))).build());
}

/// The outcome and the reason of a kind, as fields.
fn fields_of(kind: Kind) -> Vec<(&'static str, String)> {
    let (outcome, reason) = kind.words();
    vec![("outcome", outcome.to_owned()), ("reason", reason.to_owned())]
}

/// Takes what is to be told. Dropped, it sums up what is left.
pub(super) struct Audit {
    quotas: Arc<Quotas>,
    /// Wakes the summing thread. `None` only while being dropped.
    counted: Option<SyncSender<()>>,
    summing: Option<JoinHandle<()>>,
    /// Whether grants of what was verified before are told too.
    hits: bool,
    counters: OwnLine<[AtomicU64; Kind::ALL.len()]>,
}

/// One for each kind, and the last for troubles.
#[derive(Default)]
struct Quotas([Mutex<Quota>; Kind::ALL.len() + 1]);

const TROUBLE: usize = Kind::ALL.len();

impl Audit {
    /// # Errors
    /// When the system gives no thread.
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

    /// Counts what was decided, and tells it. `user` is who it was about, if that is a user; `target` says what they were after, and
    /// is asked only for a line.
    pub(super) fn decided(
        &self,
        kind: Kind,
        source: IpAddr,
        user: Option<&UserName>,
        target: &dyn Fn() -> Option<String>,
    ) {
        self.counters.0[kind as usize].fetch_add(1, Ordering::Relaxed);
        let told = kind != Kind::Remembered || self.hits;
        if told
            && log::log_enabled!(target: TARGET, log::Level::Info)
            && self.may_write(kind as usize)
        {
            let mut fields = fields_of(kind);
            fields.push(("source", source.to_canonical().to_string()));
            fields.extend(user.map(|user| ("user", user.to_string())));
            fields.extend(target().map(|target| ("request", target)));
            write_fields(&fields);
        }
    }

    /// Tells of a failure on our side.
    pub(super) fn trouble(&self, what: &dyn fmt::Display) {
        if self.may_write(TROUBLE) {
            log::error!("{what}");
        }
    }

    /// Sums up what was counted and not written.
    pub(super) fn flush(&self) {
        self.quotas.sum_up(None);
    }

    /// How many decisions there were of this kind.
    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.counters.0[kind as usize].load(Ordering::Relaxed)
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

    /// Writes how many lines were counted and not written; whether there are more that can't be summed up yet.
    fn sum_up(&self, now: Option<Instant>) -> bool {
        let mut more = false;
        for which in 0..self.0.len() {
            let missed = self.quota(which).sum(now);
            match (missed, Kind::ALL.get(which)) {
                (Sum::Nothing, _) => {}
                (Sum::Later, _) => more = true,
                (Sum::Missed(n), Some(kind)) => {
                    write_fields(&[fields_of(*kind), vec![("more", n.to_string())]].concat());
                }
                (Sum::Missed(n), None) => log::error!("{n} more failures were not written here"),
            }
        }
        more
    }
}

/// Sleeps until something is counted, and then sums up each second, until there is nothing more.
/// Ends when nobody counts any more.
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

/// So many lines in each second; the others are counted.
#[derive(Default)]
struct Quota {
    second: Option<Instant>,
    written: u32,
    missed: u64,
}

#[derive(PartialEq, Eq, Debug)]
enum Take {
    Write,
    /// The first that is counted: somebody must see to the sum.
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

    /// What was counted, if the second is over or it is the last chance.
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
    fn so_many_lines_a_second_and_the_rest_is_summed_up_when_it_is_over() {
        let start = Instant::now();
        let mut quota = Quota::default();
        assert_eq!(quota.sum(Some(start)), Sum::Nothing);
        for _ in 0..LINES {
            assert_eq!(quota.take(start), Take::Write);
        }
        assert_eq!(quota.sum(Some(start)), Sum::Nothing);
        assert_eq!(quota.take(start), Take::CountFirst, "somebody must see to the sum");
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

    #[test]
    fn every_kind_has_words_of_its_own_in_the_order_of_the_counters() {
        let mut words: Vec<_> = Kind::ALL.iter().map(|kind| kind.words()).collect();
        assert!(Kind::ALL.iter().enumerate().all(|(n, kind)| *kind as usize == n));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
