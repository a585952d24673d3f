//! What is told of decisions: counters, and lines in the log under the target `audit`.
//!
//! A flood of failures is no flood of lines: of each kind so many are written a second, and the rest are counted and
//! summed up. Lines are written by a thread of its own, so that a request never waits for whoever reads the log.
//! No line holds a password, nor a name that is no user's.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::Record;

use crate::credential::UserName;

/// The target of the log's lines.
const TARGET: &str = "audit";

/// How many lines of each kind are written in a second.
const LINES: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// How many lines may wait to be written, of all kinds.
const WAITING: usize = 1024;

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
}

impl Kind {
    const ALL: [Self; 12] = [
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
        }
    }
}

/// A line about what was decided.
struct Event {
    kind: Kind,
    source: IpAddr,
    /// Only a user's.
    user: Option<UserName>,
    /// What they are after, where that is known.
    target: Option<String>,
}

impl Event {
    /// As fields, in the order of the line.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let (outcome, reason) = self.kind.words();
        let mut fields = vec![
            ("outcome", outcome.to_owned()),
            ("reason", reason.to_owned()),
            ("source", self.source.to_string()),
        ];
        fields.extend(self.user.as_ref().map(|user| ("user", user.to_string())));
        fields.extend(self.target.clone().map(|target| ("request", target)));
        fields
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

enum Line {
    Event(Event),
    /// A failure on our side, for whoever mends it.
    Trouble(String),
    /// Something was counted and not written: it is to be summed up in a second.
    Counted,
    /// Somebody waits until everything before this is written, and what was counted is summed up.
    Flush(SyncSender<()>),
}

/// Takes what is to be told. Dropped, it writes what is left.
pub(super) struct Audit {
    shared: Arc<Shared>,
    /// `None` only while being dropped.
    lines: Option<SyncSender<Line>>,
    writer: Option<JoinHandle<()>>,
    /// Whether grants of what was verified before are told too.
    hits: bool,
    counters: [AtomicU64; Kind::ALL.len()],
}

struct Shared {
    /// One for each kind, and the last for troubles.
    quotas: [Mutex<Quota>; Kind::ALL.len() + 1],
}

const TROUBLE: usize = Kind::ALL.len();

impl Audit {
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(hits: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared { quotas: Default::default() });
        let (lines, to_write) = sync_channel(WAITING);
        let writers = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("audit".into())
            .spawn(move || write(&to_write, &writers))?;
        let counters = Default::default();
        Ok(Self { shared, lines: Some(lines), writer: Some(writer), hits, counters })
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
        self.counters[kind as usize].fetch_add(1, Ordering::Relaxed);
        let told = kind != Kind::Remembered || self.hits;
        if told && log::log_enabled!(target: TARGET, log::Level::Info) {
            self.tell(kind as usize, || {
                let source = source.to_canonical();
                Line::Event(Event { kind, source, user: user.cloned(), target: target() })
            });
        }
    }

    /// Tells of a failure on our side.
    pub(super) fn trouble(&self, what: &dyn fmt::Display) {
        self.tell(TROUBLE, || Line::Trouble(what.to_string()));
    }

    /// Returns when everything that was told is written.
    pub(super) fn flush(&self) {
        let (written, is_written) = sync_channel(1);
        if let Some(lines) = &self.lines
            && lines.send(Line::Flush(written)).is_ok()
        {
            // It fails when the writer has panicked, and then there is nothing to wait for.
            let _ = is_written.recv();
        }
    }

    /// How many decisions there were of this kind.
    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.counters[kind as usize].load(Ordering::Relaxed)
    }

    fn tell(&self, which: usize, line: impl FnOnce() -> Line) {
        let Some(lines) = &self.lines else { return };
        let mut quota = self.shared.quota(which);
        let line = match quota.take(Instant::now()) {
            Take::Write => line(),
            Take::CountFirst => Line::Counted,
            Take::Count => return,
        };
        // The writer can't be gone. It may be behind, and then the line is counted like others.
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            quota.missed += 1;
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.flush();
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // A panic of it was reported by the panic hook.
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn quota(&self, which: usize) -> MutexGuard<'_, Quota> {
        self.quotas[which].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes how many lines were counted and not written; whether there are more that can't be summed up yet.
    fn sum_up(&self, now: Option<Instant>) -> bool {
        let mut more = false;
        for which in 0..self.quotas.len() {
            let missed = self.quota(which).sum(now);
            match (missed, Kind::ALL.get(which)) {
                (Sum::Nothing, _) => {}
                (Sum::Later, _) => more = true,
                (Sum::Missed(n), Some(kind)) => {
                    let (outcome, reason) = kind.words();
                    let fields = [("outcome", outcome), ("reason", reason)];
                    let fields = fields.map(|(name, value)| (name, value.to_owned()));
                    write_fields(&[&fields[..], &[("more", n.to_string())]].concat());
                }
                (Sum::Missed(n), None) => log::error!("{n} more failures were not written here"),
            }
        }
        more
    }
}

fn write(lines: &Receiver<Line>, shared: &Shared) {
    let mut sum_up_at: Option<Instant> = None;
    loop {
        let line = match sum_up_at {
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match line {
            Ok(Line::Event(event)) => write_fields(&event.fields()),
            Ok(Line::Trouble(what)) => log::error!("{what}"),
            Ok(Line::Counted) => {}
            Ok(Line::Flush(written)) => {
                shared.sum_up(None);
                // Who asked for it waits for this.
                let _ = written.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        if sum_up_at.is_none_or(|at| at <= now) {
            sum_up_at = shared.sum_up(Some(now)).then_some(now + SECOND);
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
