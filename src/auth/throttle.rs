//! Limits failed login attempts per source and per user name.
//!
//! A pure state machine with time as a parameter. Knows neither requests nor hashes. Each failure
//! counts until it is forgiven. Failures are forgiven evenly over the period of the limit. A
//! pending attempt counts like a failure, so that parallel attempts get no more guesses than
//! sequential ones.

use std::fmt;
use std::hash::Hash;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::bounded::Bounded;
use super::keyed::UserDigest;
use crate::domain::UserName;
use crate::time::{format_duration, parse_duration};

/// The maximum number of sources with failures, of user names with failures, and of users with
/// known sources. A failure is added after a hash only, so a flood evicts entries no faster than
/// hashes are computed.
const TRACKED: usize = 65_536;

/// The maximum number of known sources per user, the most recent ones. So a user with many sources
/// evicts only their own.
const SOURCES_PER_USER: usize = 32;

/// A number of failures per period. As many are possible at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    failures: u32,
    period: Duration,
}

impl Limit {
    /// The maximum number of failures.
    pub const MAX_FAILURES: u32 = 10_000;
    /// The maximum period.
    pub const MAX_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

    /// Makes a limit of 1 to [`Limit::MAX_FAILURES`] failures per 1 s to [`Limit::MAX_PERIOD`].
    /// Returns `None` for other values.
    #[must_use]
    pub const fn new(failures: u32, period: Duration) -> Option<Self> {
        let seconds = period.as_secs();
        let is_longer = seconds > Self::MAX_PERIOD.as_secs()
            || (seconds == Self::MAX_PERIOD.as_secs() && period.subsec_nanos() > 0);
        if failures == 0 || failures > Self::MAX_FAILURES || seconds == 0 || is_longer {
            return None;
        }
        Some(Self { failures, period })
    }

    /// Returns the time in which one failure is forgiven.
    fn each(self) -> Duration {
        self.period / self.failures
    }
}

/// An error: the text is not a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected 1 to {} failures per 1s to 24h, e.g. 10/1m", Limit::MAX_FAILURES)]
pub struct LimitError;

/// Parses the form `COUNT/PERIOD`, e.g. `10/1m`.
impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (failures, period) = text.split_once('/').ok_or(LimitError)?;
        let (failures, period) = (failures.parse().ok(), parse_duration(period));
        failures.zip(period).and_then(|(n, period)| Self::new(n, period)).ok_or(LimitError)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.failures, format_duration(self.period))
    }
}

/// The source of a request: an IPv4 address, or the /64 network of an IPv6 address, which belongs
/// to one customer. An IPv4-mapped IPv6 address is an IPv4 address (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6Net([u8; 8]),
}

impl Source {
    /// Returns the source of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6Net([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Writes an IPv4 address, or an IPv6 network, e.g. `2001:db8::/64`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Self::V6Net([a, b, c, d, e, f1, g, h]) => {
                let network = Ipv6Addr::from([a, b, c, d, e, f1, g, h, 0, 0, 0, 0, 0, 0, 0, 0]);
                write!(f, "{network}/64")
            }
        }
    }
}

/// Parses an address, or the form that is written.
impl FromStr for Source {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_suffix("/64") {
            Some(network) => network.parse().map(|address: Ipv6Addr| Self::of(address.into())),
            None => text.parse().map(Self::of),
        }
    }
}

/// A source or a user name whose next attempt is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Throttled {
    /// The source or the name.
    pub subject: Subject,
    /// The time until the next attempt is possible.
    pub retry_after: Duration,
}

/// Whom failures are counted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A source, for which all user names count.
    Source(Source),
    /// The name of a user. `None` is a name that is no user's, which may be a password in the wrong
    /// field.
    User(Option<UserName>),
}

/// An attempt to log in as this user from this source.
#[derive(Clone, Copy)]
pub(super) struct LoginAttempt {
    pub(super) user: UserDigest,
    pub(super) source: Source,
}

/// The reason why an attempt is refused now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// Too many failures. One is forgiven in this time.
    Failed(Duration),
    /// Too many pending attempts, which may be right.
    Pending,
}

pub(super) struct LoginThrottle {
    sources: Option<FailureCounts<Source, ()>>,
    /// With the name, if it is a user's. Boxed, since most attempts fail for none or few names.
    users: Option<FailureCounts<UserDigest, Option<Box<UserName>>>>,
    /// The sources from which users have logged in. Failures of other sources do not affect them.
    /// Kept also without a limit per user, which can be set later.
    known: Bounded<UserDigest, KnownSources>,
}

impl LoginThrottle {
    /// Makes a throttle with these limits, or without a limit for `None`.
    pub(super) fn new(source: Option<Limit>, user: Option<Limit>) -> Self {
        Self {
            sources: source.map(FailureCounts::new),
            users: user.map(FailureCounts::new),
            known: Bounded::new(TRACKED),
        }
    }

    /// Changes the limits. As many failures as were not forgiven before count on, for at most the
    /// new period.
    pub(super) fn set_limits(&mut self, source: Option<Limit>, user: Option<Limit>, now: Instant) {
        set_limit(&mut self.sources, source, now);
        set_limit(&mut self.users, user, now);
    }

    /// Checks whether an attempt is allowed, without counting it.
    pub(super) fn check(&mut self, attempt: LoginAttempt, now: Instant) -> Result<(), Refused> {
        if let Some(sources) = &mut self.sources {
            sources.check(&attempt.source, now)?;
        }
        if let Some(users) = &mut self.users
            && !self.known.get(&attempt.user).is_some_and(|sources| sources.refresh(attempt.source))
        {
            users.check(&attempt.user, now)?;
        }
        Ok(())
    }

    /// Counts a pending attempt. One [`LoginThrottle::end`] has to follow.
    pub(super) fn begin(&mut self, attempt: LoginAttempt, now: Instant) {
        if let Some(sources) = &mut self.sources {
            sources.begin(attempt.source, now);
        }
        if let Some(users) = &mut self.users {
            users.begin(attempt.user, now);
        }
    }

    /// Ends a pending attempt.
    pub(super) fn end(&mut self, attempt: LoginAttempt, end: AttemptEnd, now: Instant) {
        let (failed, name) = match end {
            AttemptEnd::Open => (false, None),
            AttemptEnd::Failed { user } => (true, user.map(Box::new)),
        };
        if let Some(sources) = &mut self.sources {
            sources.end(attempt.source, failed, (), now);
        }
        if let Some(users) = &mut self.users {
            users.end(attempt.user, failed, name, now);
        }
    }

    /// Returns the number of sources and of user names whose next attempt is refused because of
    /// failures. Takes a step for each tracked one.
    pub(super) fn throttled(&self, now: Instant) -> (usize, usize) {
        let sources = self.sources.as_ref().map_or(0, |counts| counts.throttled(now));
        (sources, self.users.as_ref().map_or(0, |counts| counts.throttled(now)))
    }

    /// Returns the sources and user names whose next attempt is refused because of failures. Takes
    /// a step for each tracked one.
    pub(super) fn list(&self, now: Instant) -> Vec<Throttled> {
        let sources = self.sources.iter().flat_map(|counts| counts.list(now)).map(
            |(source, (), retry_after)| Throttled {
                subject: Subject::Source(*source),
                retry_after,
            },
        );
        let users =
            self.users.iter().flat_map(|counts| counts.list(now)).map(|(_, name, retry_after)| {
                Throttled { subject: Subject::User(name.as_deref().cloned()), retry_after }
            });
        sources.chain(users).collect()
    }

    /// Forgives all failures of a source. Returns true if there were any.
    pub(super) fn clear_source(&mut self, source: Source, now: Instant) -> bool {
        self.sources.as_mut().is_some_and(|counts| counts.clear(source, now))
    }

    /// Forgives all failures on a user name. Returns true if there were any.
    pub(super) fn clear_user(&mut self, user: UserDigest, now: Instant) -> bool {
        self.users.as_mut().is_some_and(|counts| counts.clear(user, now))
    }

    /// Forgives all failures. Returns the number of sources and user names that had any.
    pub(super) fn clear_all(&mut self, now: Instant) -> usize {
        let sources = self.sources.as_mut().map_or(0, |counts| counts.clear_all(now));
        sources + self.users.as_mut().map_or(0, |counts| counts.clear_all(now))
    }

    /// Remembers that the user has logged in from this source.
    pub(super) fn remember(&mut self, attempt: LoginAttempt) {
        match self.known.get(&attempt.user) {
            Some(sources) => sources.add(attempt.source),
            None => self.known.insert(attempt.user, KnownSources(vec![attempt.source])),
        }
    }
}

fn set_limit<K: Copy + Eq + Hash, N: Clone + Default>(
    counts: &mut Option<FailureCounts<K, N>>,
    limit: Option<Limit>,
    now: Instant,
) {
    match (counts, limit) {
        (Some(counts), Some(limit)) => counts.set_limit(limit, now),
        (counts, limit) => *counts = limit.map(FailureCounts::new),
    }
}

/// The end of an attempt.
pub(super) enum AttemptEnd {
    /// It has not failed: the password was right, or was not verified.
    Open,
    Failed {
        /// The name, if it is a user's.
        user: Option<UserName>,
    },
}

/// The sources from which a user has logged in, the most recent one last.
struct KnownSources(Vec<Source>);

impl KnownSources {
    /// Returns true if the source is one of them, and counts it as used.
    fn refresh(&mut self, source: Source) -> bool {
        let Some(position) = self.0.iter().rposition(|known| *known == source) else {
            return false;
        };
        self.0[position..].rotate_left(1);
        true
    }

    /// Adds a source. Drops the least recent one if there are too many.
    fn add(&mut self, source: Source) {
        if self.refresh(source) {
            return;
        }
        if self.0.len() >= SOURCES_PER_USER {
            self.0.remove(0);
        }
        self.0.push(source);
    }
}

struct FailureCounts<K, N> {
    limit: Limit,
    counts: Bounded<K, FailureCount<N>>,
}

#[derive(Clone)]
struct FailureCount<N> {
    /// The time when the last failure is forgiven.
    clear: Instant,
    pending: u32,
    note: N,
}

impl<N> FailureCount<N> {
    /// Returns the time until another failure is allowed, if that is not now.
    fn retry_after(&self, limit: Limit, now: Instant) -> Option<Duration> {
        let owed = self.clear.saturating_duration_since(now);
        let after_this = owed.saturating_add(limit.each());
        (after_this > limit.period).then(|| after_this - limit.period)
    }
}

impl<K: Copy + Eq + Hash, N: Clone + Default> FailureCounts<K, N> {
    fn new(limit: Limit) -> Self {
        Self { limit, counts: Bounded::new(TRACKED) }
    }

    fn set_limit(&mut self, limit: Limit, now: Instant) {
        let before = std::mem::replace(&mut self.limit, limit);
        for count in self.counts.values_mut() {
            let owed = count.clear.saturating_duration_since(now);
            let failures = owed.div_duration_f64(before.each());
            count.clear = now + limit.each().mul_f64(failures).min(limit.period);
        }
    }

    fn list(&self, now: Instant) -> impl Iterator<Item = (&K, &N, Duration)> {
        self.counts.iter().filter_map(move |(key, count)| {
            Some((key, &count.note, count.retry_after(self.limit, now)?))
        })
    }

    fn throttled(&self, now: Instant) -> usize {
        self.list(now).count()
    }

    fn check(&mut self, key: &K, now: Instant) -> Result<(), Refused> {
        let Some(count) = self.counts.get(key) else { return Ok(()) };
        if let Some(retry_after) = count.retry_after(self.limit, now) {
            return Err(Refused::Failed(retry_after));
        }
        let each = self.limit.each();
        let owed = count.clear.saturating_duration_since(now);
        let with_pending = each.saturating_mul(count.pending.saturating_add(1));
        if owed.saturating_add(with_pending) > self.limit.period {
            return Err(Refused::Pending);
        }
        Ok(())
    }

    fn begin(&mut self, key: K, now: Instant) {
        match self.counts.get(&key) {
            Some(count) => count.pending = count.pending.saturating_add(1),
            None => {
                let count = FailureCount { clear: now, pending: 1, note: N::default() };
                self.counts.insert(key, count);
            }
        }
    }

    fn end(&mut self, key: K, failed: bool, note: N, now: Instant) {
        // It may have been evicted meanwhile.
        let evicted = FailureCount { clear: now, pending: 0, note: N::default() };
        let mut count = self.counts.get(&key).map_or(evicted, |count| count.clone());
        count.pending = count.pending.saturating_sub(1);
        if failed {
            count.clear = count.clear.max(now) + self.limit.each();
            count.note = note;
        }
        if count.pending == 0 && count.clear <= now {
            self.counts.remove(&key);
        } else {
            self.counts.insert(key, count);
        }
    }

    fn clear(&mut self, key: K, now: Instant) -> bool {
        let Some(count) = self.counts.get(&key) else { return false };
        let had_failures = count.clear > now;
        count.clear = now;
        if count.pending == 0 {
            self.counts.remove(&key);
        }
        had_failures
    }

    fn clear_all(&mut self, now: Instant) -> usize {
        let mut cleared = 0;
        self.counts.retain(|count| {
            cleared += usize::from(count.clear > now);
            count.clear = count.clear.min(now);
            count.pending > 0
        });
        cleared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keyed::Keyed;
    use crate::domain::UserName;

    const SECOND: Duration = Duration::from_secs(1);

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    /// The outcome of an attempt.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Outcome {
        Right,
        Wrong,
        /// It was not verified.
        Open,
    }

    /// Makes attempts at given times.
    struct Bench {
        keyed: Keyed,
        throttle: LoginThrottle,
        start: Instant,
    }

    impl Bench {
        /// Makes a throttle with limits of 3 failures per 30 s and source, and 5 per 50 s and user.
        fn new() -> Self {
            let limit = |failures, seconds| Limit::new(failures, SECOND * seconds);
            let throttle = LoginThrottle::new(limit(3, 30), limit(5, 50));
            Self { keyed: Keyed::new().unwrap(), throttle, start: Instant::now() }
        }

        fn attempt(&self, user: &str, from: &str) -> LoginAttempt {
            let user = self.keyed.user(&UserName::parse(user).unwrap());
            LoginAttempt { user, source: source(from) }
        }

        fn make(
            &mut self,
            user: &str,
            from: &str,
            outcome: Outcome,
            at: u32,
        ) -> Result<(), Refused> {
            let (of, now) = (self.attempt(user, from), self.start + SECOND * at);
            self.throttle.check(of, now)?;
            self.throttle.begin(of, now);
            self.end(of, outcome, now);
            Ok(())
        }

        fn end(&mut self, of: LoginAttempt, outcome: Outcome, now: Instant) {
            if outcome == Outcome::Right {
                self.throttle.remember(of);
            }
            let end = match outcome {
                Outcome::Wrong => AttemptEnd::Failed { user: None },
                Outcome::Right | Outcome::Open => AttemptEnd::Open,
            };
            self.throttle.end(of, end, now);
        }
    }

    fn wait(seconds: u32) -> Result<(), Refused> {
        Err(Refused::Failed(SECOND * seconds))
    }

    /// B-08, B-16: the only clock is [`Instant`], which is monotonic.
    #[test]
    fn failing_source_waits_and_other_sources_do_not() {
        let mut bench = Bench::new();
        for user in ["a", "b", "c"] {
            assert_eq!(bench.make(user, "192.0.2.1", Outcome::Wrong, 0), Ok(()));
        }
        // The third failure is forgiven after 30 s, the first one after 10 s.
        for (at, left) in [(0, 10), (9, 1)] {
            assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, at), wait(left));
        }
        assert_eq!(bench.make("roy", "192.0.2.2", Outcome::Wrong, 9), Ok(()), "another source");
        assert_eq!(bench.make("a", "192.0.2.1", Outcome::Wrong, 10), Ok(()));
        assert_eq!(bench.make("a", "192.0.2.1", Outcome::Wrong, 10), wait(10));
        for at in [40, 40, 40] {
            assert_eq!(bench.make("a", "192.0.2.1", Outcome::Wrong, at), Ok(()), "all forgiven");
        }
        assert_eq!(bench.make("a", "192.0.2.1", Outcome::Wrong, 40), wait(10));
    }

    #[test]
    fn only_failed_attempts_count() {
        let mut bench = Bench::new();
        for outcome in [Outcome::Right, Outcome::Open].repeat(10) {
            assert_eq!(bench.make("roy", "192.0.2.1", outcome, 0), Ok(()));
        }
        assert_eq!(bench.throttle.sources.as_ref().unwrap().counts.len(), 0, "no entry is left");
        assert_eq!(bench.throttle.users.as_ref().unwrap().counts.len(), 0);
    }

    /// B-09: sources of earlier logins are not locked out.
    #[test]
    fn distributed_guessing_does_not_delay_known_sources() {
        let mut bench = Bench::new();
        bench.make("roy", "192.0.2.100", Outcome::Right, 0).unwrap();
        for n in 1..=5 {
            assert_eq!(bench.make("roy", &format!("192.0.2.{n}"), Outcome::Wrong, 0), Ok(()));
        }
        assert_eq!(bench.make("roy", "192.0.2.6", Outcome::Wrong, 0), wait(10));
        assert_eq!(bench.make("ann", "192.0.2.6", Outcome::Wrong, 0), Ok(()), "another user");
        for outcome in [Outcome::Right, Outcome::Wrong, Outcome::Wrong, Outcome::Right] {
            assert_eq!(bench.make("roy", "192.0.2.100", outcome, 0), Ok(()), "a known source");
        }
        assert_eq!(bench.make("ann", "192.0.2.100", Outcome::Wrong, 0), Ok(()));
        assert_eq!(
            bench.make("roy", "192.0.2.100", Outcome::Right, 0),
            wait(10),
            "the limit per source still applies"
        );
        // Delayed, not locked: an attempt is possible as soon as one of the seven failures is
        // forgiven.
        assert_eq!(bench.make("roy", "192.0.2.7", Outcome::Wrong, 29), wait(1));
        assert_eq!(bench.make("roy", "192.0.2.7", Outcome::Right, 30), Ok(()));
        assert_eq!(bench.make("roy", "192.0.2.7", Outcome::Right, 30), Ok(()), "a known source");
    }

    /// B-08: pending attempts count, so that parallel attempts get no more guesses.
    #[test]
    fn pending_attempts_count_until_they_end() {
        let mut bench = Bench::new();
        let of = bench.attempt("roy", "192.0.2.1");
        let now = bench.start;
        for _ in 0..3 {
            bench.throttle.check(of, now).unwrap();
            bench.throttle.begin(of, now);
        }
        assert_eq!(bench.throttle.check(of, now), Err(Refused::Pending));
        bench.end(of, Outcome::Wrong, now);
        assert_eq!(bench.throttle.check(of, now), Err(Refused::Pending));
        bench.end(of, Outcome::Open, now);
        assert_eq!(bench.throttle.check(of, now), Ok(()));
        bench.end(of, Outcome::Right, now);
        assert_eq!(bench.throttle.check(of, now), Ok(()));
    }

    /// M-02
    #[test]
    fn throttled_sources_and_users_are_counted() {
        let keyed = Keyed::new().unwrap();
        let user = |name: &str| keyed.user(&UserName::parse(name).unwrap());
        let limit = |failures| Limit::new(failures, Duration::from_secs(60));
        let mut throttle = LoginThrottle::new(limit(2), limit(3));
        let mut now = Instant::now();
        let fail = |throttle: &mut LoginThrottle, name: &str, last: u8| {
            let source = Source::of(IpAddr::from([192, 0, 2, last]));
            let attempt = LoginAttempt { user: user(name), source };
            throttle.begin(attempt, now);
            throttle.end(attempt, AttemptEnd::Failed { user: None }, now);
        };
        assert_eq!(throttle.throttled(now), (0, 0));
        for (name, last, expected) in
            [("roy", 1, (0, 0)), ("roy", 1, (1, 0)), ("roy", 2, (1, 1)), ("ann", 2, (2, 1))]
        {
            fail(&mut throttle, name, last);
            assert_eq!(throttle.throttled(now), expected, "{name} {last}");
        }
        // 20 s forgive one of three, and 30 s one of two failures.
        now += Duration::from_secs(20);
        assert_eq!(throttle.throttled(now), (2, 0));
        now += Duration::from_secs(10);
        assert_eq!(throttle.throttled(now), (0, 0));
    }

    /// M-05
    #[test]
    fn cleared_source_or_name_can_try_at_once() {
        let mut bench = Bench::new();
        let now = bench.start;
        for n in 0..3 {
            bench.make("roy", "192.0.2.1", Outcome::Wrong, 0).unwrap();
            bench.make("roy", &format!("192.0.2.{}", 10 + n), Outcome::Wrong, 0).unwrap_or(());
        }
        let roy = bench.attempt("roy", "192.0.2.1");
        assert_eq!(bench.make("ann", "192.0.2.1", Outcome::Right, 0), wait(10));
        assert!(bench.throttle.clear_source(roy.source, now));
        assert_eq!(bench.make("ann", "192.0.2.1", Outcome::Right, 0), Ok(()));
        assert!(!bench.throttle.clear_source(roy.source, now), "nothing is left to forgive");
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, 0), wait(10), "the name");
        assert!(bench.throttle.clear_user(roy.user, now));
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, 0), Ok(()));
        assert!(!bench.throttle.clear_user(roy.user, now));
        // Two sources have a failure each.
        assert_eq!(bench.throttle.clear_all(now), 2);
        assert_eq!(bench.throttle.clear_all(now), 0);
        assert_eq!(bench.throttle.sources.as_ref().unwrap().counts.len(), 0, "no entry is left");
    }

    /// M-05: pending attempts count on, so that clearing gives no more parallel guesses.
    #[test]
    fn clearing_forgives_no_pending_attempt() {
        let mut bench = Bench::new();
        let (of, now) = (bench.attempt("roy", "192.0.2.1"), bench.start);
        for _ in 0..3 {
            bench.throttle.begin(of, now);
        }
        assert!(!bench.throttle.clear_source(of.source, now));
        assert_eq!(bench.throttle.clear_all(now), 0);
        assert_eq!(bench.throttle.check(of, now), Err(Refused::Pending));
        for _ in 0..3 {
            bench.end(of, Outcome::Open, now);
        }
        assert_eq!(bench.throttle.sources.as_ref().unwrap().counts.len(), 0);
        // Failures beside a pending attempt are forgiven.
        for _ in 0..3 {
            bench.throttle.begin(of, now);
        }
        bench.end(of, Outcome::Wrong, now);
        bench.end(of, Outcome::Wrong, now);
        assert!(bench.throttle.clear_source(of.source, now));
        assert!(bench.throttle.clear_user(of.user, now));
        assert_eq!(bench.throttle.check(of, now), Ok(()));
        bench.throttle.begin(of, now);
        assert_eq!(bench.throttle.check(of, now), Ok(()));
        bench.throttle.begin(of, now);
        assert_eq!(bench.throttle.check(of, now), Err(Refused::Pending));
    }

    /// a name that is no user's is not listed.
    #[test]
    fn list_has_the_throttled_sources_and_names_of_users() {
        let mut bench = Bench::new();
        let now = bench.start;
        for n in 0..5 {
            for (user, is_user) in [("roy", true), ("hunter2", false)] {
                let of = bench.attempt(user, &format!("192.0.2.{n}"));
                let user = is_user.then(|| UserName::parse(user).unwrap());
                bench.throttle.begin(of, now);
                bench.throttle.end(of, AttemptEnd::Failed { user }, now);
            }
        }
        bench.make("ann", "192.0.2.4", Outcome::Wrong, 0).unwrap();
        let mut listed: Vec<_> = bench
            .throttle
            .list(now)
            .into_iter()
            .map(|it| match it.subject {
                Subject::Source(source) => (source.to_string(), it.retry_after),
                Subject::User(Some(name)) => (name.to_string(), it.retry_after),
                Subject::User(None) => ("no user".to_owned(), it.retry_after),
            })
            .collect();
        listed.sort();
        let expected =
            ["192.0.2.4", "no user", "roy"].map(|subject| (subject.to_owned(), SECOND * 10));
        assert_eq!(listed, expected);
        assert_eq!(bench.throttle.list(now + SECOND * 10), []);
    }

    /// M-07
    #[test]
    fn changed_limits_apply_to_counted_failures() {
        let mut bench = Bench::new();
        let limit = |failures, seconds| Limit::new(failures, SECOND * seconds);
        for _ in 0..3 {
            bench.make("roy", "192.0.2.1", Outcome::Wrong, 0).unwrap();
        }
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, 0), wait(10));
        bench.throttle.set_limits(limit(6, 120), None, bench.start);
        for _ in 0..3 {
            let third = bench.make("roy", "192.0.2.1", Outcome::Wrong, 0);
            assert_eq!(third, Ok(()), "three of six failures count");
        }
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, 0), wait(20));
        // No source waits longer than the new period.
        bench.throttle.set_limits(limit(1, 5), limit(1, 50), bench.start);
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Right, 0), wait(5));
        assert_eq!(bench.make("roy", "192.0.2.2", Outcome::Wrong, 0), Ok(()), "a new limit");
        assert_eq!(bench.make("roy", "192.0.2.3", Outcome::Right, 0), wait(50));
        bench.throttle.set_limits(None, None, bench.start);
        assert_eq!(bench.make("roy", "192.0.2.1", Outcome::Wrong, 0), Ok(()));
    }

    #[test]
    fn written_source_is_read_again() {
        for (text, written) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8:0:1::/64", "2001:db8:0:1::/64"),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.to_string(), written);
            assert_eq!(written.parse(), Ok(source));
        }
        for text in ["", "roy", "192.0.2.0/24", "192.0.2.1/64", "2001:db8::/32", "[::1]"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    /// B-10
    #[test]
    fn ipv6_counts_by_64_bits_and_ipv4_in_ipv6_as_ipv4() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    /// B-10
    #[test]
    fn tables_are_bounded() {
        let mut bench = Bench::new();
        let users: Vec<_> =
            (0..10).map(|n| bench.attempt(&format!("user-{n}"), "192.0.2.1")).collect();
        let many = 3 * u32::try_from(TRACKED).unwrap();
        for n in 0..many {
            let of = LoginAttempt { source: Source::V4(n.to_be_bytes()), ..users[n as usize % 10] };
            bench.throttle.begin(of, bench.start);
            let outcome = if n % 2 == 0 { Outcome::Wrong } else { Outcome::Right };
            bench.end(of, outcome, bench.start);
        }
        assert!(bench.throttle.known.len() <= TRACKED);
        let known = &mut bench.throttle.known;
        let known: Vec<_> =
            users.iter().filter_map(|of| Some(known.get(&of.user)?.0.capacity())).collect();
        assert_eq!(known, [SOURCES_PER_USER; 5], "every other user has logged in");
        assert!(bench.throttle.sources.unwrap().counts.len() <= TRACKED);
    }

    /// R-04, B-09
    #[test]
    fn user_with_many_sources_evicts_only_their_own() {
        let mut bench = Bench::new();
        bench.make("ann", "192.0.2.1", Outcome::Right, 0).unwrap();
        let roy = bench.attempt("roy", "192.0.2.1");
        for n in 0..2 * u64::try_from(TRACKED).unwrap() {
            bench.throttle.remember(LoginAttempt { source: Source::V6Net(n.to_be_bytes()), ..roy });
        }
        for n in 1..=5 {
            let from = format!("198.51.100.{n}");
            assert_eq!(bench.make("ann", &from, Outcome::Wrong, 0), Ok(()));
        }
        assert_eq!(bench.make("ann", "198.51.100.6", Outcome::Wrong, 0), wait(10));
        assert_eq!(bench.make("ann", "192.0.2.1", Outcome::Right, 0), Ok(()), "a known source");
    }

    proptest::proptest! {
        /// the known sources of a user are the 32 most recent ones, independent of other
        /// users.
        #[test]
        fn known_sources_are_the_most_recent_ones_of_each_user(
            steps in proptest::collection::vec((0..3_usize, 0..40_u8, proptest::bool::ANY), 0..400)
        ) {
            let mut bench = Bench::new();
            let users = ["roy", "ann", "bob"].map(|user| bench.attempt(user, "192.0.2.1").user);
            // A list per user, with the most recent source last.
            let mut model = vec![Vec::<u8>::new(); users.len()];
            for (user, host, lets_in) in steps {
                let of = LoginAttempt { user: users[user], source: Source::V4([192, 0, 2, host]) };
                let is_known = model[user].contains(&host);
                if lets_in {
                    bench.throttle.remember(of);
                } else {
                    let known = bench.throttle.known.get(&of.user);
                    let known = known.is_some_and(|sources| sources.refresh(of.source));
                    proptest::prop_assert_eq!(known, is_known);
                }
                if lets_in || is_known {
                    model[user].retain(|other| *other != host);
                    model[user].push(host);
                    let surplus = model[user].len().saturating_sub(SOURCES_PER_USER);
                    model[user].drain(..surplus);
                }
            }
        }
    }

    #[test]
    fn written_limit_is_read_again() {
        for text in ["10/1m", "1/1s", "10000/1d", "5/10m", "3/1h 30m"] {
            let limit: Limit = text.parse().unwrap();
            assert_eq!(limit.to_string().parse(), Ok(limit), "{text}");
        }
        assert_eq!("10/1m".parse::<Limit>().unwrap().to_string(), "10/1m");
        for text in ["", "10", "0/1m", "10001/1m", "10/0s", "10/25h", "10/m", "-1/1m", "1/-1m"] {
            assert_eq!(text.parse::<Limit>(), Err(LimitError), "{text}");
        }
    }

    #[test]
    fn limit_has_bounds_and_none_is_unlimited() {
        assert_eq!(Limit::new(0, SECOND), None);
        assert_eq!(Limit::new(1, SECOND / 2), None);
        assert_eq!(Limit::new(10_001, SECOND), None);
        assert_eq!(Limit::new(1, Limit::MAX_PERIOD + SECOND), None);
        // A limit at its bounds allows exactly that many failures.
        for (failures, period) in [(1, SECOND), (10_000, SECOND), (1, Limit::MAX_PERIOD)] {
            let mut bench = Bench::new();
            bench.throttle = LoginThrottle::new(Limit::new(failures, period), None);
            let allowed = (0..20_000)
                .take_while(|_| bench.make("roy", "192.0.2.1", Outcome::Wrong, 0).is_ok())
                .count();
            assert_eq!(allowed, failures as usize);
        }
        let mut bench = Bench::new();
        bench.throttle = LoginThrottle::new(None, None);
        assert!((0..20_000).all(|_| bench.make("roy", "192.0.2.1", Outcome::Wrong, 0).is_ok()));
    }
}
