//! Decides on login attempts, with a cache, a throttle, a queue and workers. Knows neither HTTP nor
//! the backend of the store.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::keyed::Key;
use super::open_streams::{OpenStreams, StreamCheck, StreamShard};
use super::throttle::{AttemptEnd, LoginAttempt, Refused, Source, Throttled};
use super::verifier::{Attempt, CacheLookup, Verifier};
use super::workers::{NotTaken, WorkerJob, Workers};
use super::{
    AccessRequest, AuthConfig, ClearedBy, Decision, Grant, HistogramSnapshot, Outcome, Subject,
};
use crate::domain::{EncodedCredentials, GroupName, UserName};
use crate::store::{Revision, StoreError, UserReader};
use crate::text::quoted;

/// Decides on login attempts. Hashes are computed on its own threads, never on the caller's.
pub struct Authenticator {
    verifier: Arc<Verifier>,
    workers: Workers<QueuedAttempt>,
    /// Attempts that no worker has taken yet, by the user and the octets of the password.
    queued: Arc<Mutex<Queued>>,
    live: ArcSwap<LiveConfig>,
    streams: OpenStreams,
    /// The requests that wait for a reading of the store.
    waiters: AtomicUsize,
}

/// The longest time of a decision. Longer ones would only meet a slow store, since the queue holds
/// about 2 s of work.
const DECISION_LIMIT: Duration = Duration::from_secs(8);

/// The time that a request waits for a reading of the store.
const REVISION_WAIT: Duration = Duration::from_secs(2);

/// The most requests that wait for a reading of the store.
pub(super) const MAX_WAITERS: usize = 1024;

/// A request that waits for a reading of the store.
pub(super) struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    /// Returns `None` if as many wait as may.
    pub(super) fn enter(waiters: &'a AtomicUsize) -> Option<Self> {
        let waiter = Self(waiters);
        (waiters.fetch_add(1, Ordering::Relaxed) < MAX_WAITERS).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The part of the configuration that can change while the server runs, without the limits of the
/// throttle.
struct LiveConfig {
    queue: Option<usize>,
    require_groups: Vec<GroupName>,
}

impl LiveConfig {
    fn of(config: &AuthConfig) -> Arc<Self> {
        let AuthConfig { queue, require_groups, .. } = config;
        Arc::new(Self { queue: *queue, require_groups: require_groups.clone() })
    }
}

/// A request with credentials.
struct Login {
    source: Source,
    /// The cache key of the credentials as they were sent.
    key: Key,
    /// The time of its arrival.
    now: Instant,
}

type Queued = HashMap<Key, WeakShared<oneshot::Receiver<Outcome>>>;

/// The outcome of an attempt that a worker verifies. Identical attempts share it.
type Answer = Shared<oneshot::Receiver<Outcome>>;

/// The reason why a request is rejected before its credentials are verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// It has no credentials.
    NoCredentials,
    /// Its Authorization field is not of the Basic scheme.
    OtherScheme,
    /// Its head, its framing or its Authorization field is malformed.
    MalformedRequest,
    /// Its head is over the limit.
    HeadTooLong,
}

impl From<Rejection> for Outcome {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NoCredentials => Self::NoCredentials,
            Rejection::OtherScheme => Self::OtherScheme,
            Rejection::MalformedRequest => Self::MalformedRequest,
            Rejection::HeadTooLong => Self::HeadTooLong,
        }
    }
}

impl Authenticator {
    /// The time between two checks of the open streams. A stream ends within twice this time.
    pub const STREAM_CHECK: Duration = Duration::from_millis(500);

    /// Starts the hash workers.
    ///
    /// # Errors
    /// Fails if the system gives no threads or no random numbers.
    pub fn new(store: Box<dyn UserReader>, config: &AuthConfig) -> io::Result<Self> {
        let verifier = Arc::new(Verifier::new(store, config)?);
        let queued = Arc::<Mutex<Queued>>::default();
        let of_worker = (Arc::clone(&verifier), Arc::clone(&queued));
        let workers = Workers::start(config.workers, move |attempts| {
            let (verifier, queued) = &of_worker;
            verify_queued(verifier, queued, attempts);
        })?;
        let (live, streams) =
            (LiveConfig::of(config).into(), OpenStreams::new(config.stream_grace));
        Ok(Self { verifier, workers, queued, live, streams, waiters: AtomicUsize::new(0) })
    }

    /// Uses these limits of failures and of the queue, and these groups, from the next request on.
    /// The rest of the configuration stays as it was at the start.
    pub fn reconfigure(&self, config: &AuthConfig) {
        let AuthConfig { source_limit, user_limit, .. } = *config;
        self.verifier.throttle().set_limits(source_limit, user_limit, Instant::now());
        self.live.store(LiveConfig::of(config));
        self.streams.recheck();
    }

    /// Makes room for the open streams of one more thread.
    pub fn add_stream_shard(&self) -> Arc<StreamShard> {
        self.streams.add_shard()
    }

    /// Ends the open streams whose user may not log in any more, e.g. was removed, or has another
    /// password. A store that cannot be read ends all of them after [`AuthConfig::stream_grace`].
    ///
    /// Reads the revision of the store once, and after a change the records of the users with open
    /// streams. Blocks for that. Call it every [`Authenticator::STREAM_CHECK`].
    pub fn check_streams(&self) {
        if self.streams.len() == 0 {
            return;
        }
        let now = Instant::now();
        let failed = |e: &StoreError| self.verifier.log_failure("cannot check open streams", e);
        let store = &self.verifier.store;
        let revision = store.revision(now).inspect_err(failed);
        let is_unchanged = |name: &UserName, since| store.is_unchanged(name, since);
        let mut check = StreamCheck::begin(&self.streams, revision.ok(), is_unchanged);
        check.look_up(|names| store.find_all_with_groups(names), failed);
        let required = self.live.load();
        for ((user, why), count) in check.finish(&required.require_groups, now, SystemTime::now()) {
            let user = quoted(user.as_str());
            log::info!("ended {count} open streams of user {user}: {why}");
        }
    }

    /// Returns the sources and user names whose next attempt is refused because of failures.
    #[must_use]
    pub fn throttled(&self) -> Vec<Throttled> {
        self.verifier.throttle().list(Instant::now())
    }

    /// Forgives all failures of a source or on a user name, and logs that. Returns true if there
    /// were any.
    pub fn clear_failures(&self, subject: &Subject, by: ClearedBy) -> bool {
        let (verifier, now) = (&self.verifier, Instant::now());
        let (cleared, field) = match subject {
            Subject::Source(source) => {
                let cleared = verifier.throttle().clear_source(*source, now);
                (cleared, ("source", source.to_string()))
            }
            Subject::User(Some(name)) => {
                let cleared = verifier.throttle().clear_user(verifier.keyed.user(name), now);
                (cleared, ("user", name.to_string()))
            }
            Subject::User(None) => return false,
        };
        if cleared {
            verifier.audit.cleared(field, by);
        }
        cleared
    }

    /// Forgives all failures, and logs that. Returns the number of sources and user names that had
    /// any.
    pub fn clear_all_failures(&self, by: ClearedBy) -> usize {
        let cleared = self.verifier.throttle().clear_all(Instant::now());
        if cleared > 0 {
            self.verifier.audit.cleared(("all", cleared.to_string()), by);
        }
        cleared
    }

    /// Decides on the credentials of a request from `peer`, within 8 s.
    pub async fn decide(
        &self,
        peer: IpAddr,
        encoded: EncodedCredentials<'_>,
        access: &AccessRequest<'_>,
    ) -> Decision {
        let verifier = &*self.verifier;
        let login = Login {
            source: Source::of(peer),
            key: verifier.keyed.encoded(encoded),
            now: Instant::now(),
        };
        let revision = verifier.store.revision(login.now);
        let found = match &revision {
            Ok(revision) => verifier.lookup_cache(&login.key, login.source, *revision, login.now),
            Err(_) => CacheLookup::Miss,
        };
        if let CacheLookup::Hit(grant) = found {
            return self.conclude(Outcome::Cached(grant), peer, None, access);
        }
        // Boxed, since few requests need it, and its size would count for every request.
        let decided = Box::pin(async {
            let (outcome, user) = self.decide_uncached(&login, encoded, revision, found).await;
            self.conclude(outcome, peer, user.as_ref(), access)
        });
        match timeout(DECISION_LIMIT, decided).await {
            Ok(decision) => decision,
            Err(_) => {
                verifier.audit.failure(&"cannot check credentials in time");
                self.conclude(Outcome::Unavailable, peer, None, access)
            }
        }
    }

    /// Decides on credentials that are not in the cache as they were sent, or are outdated there.
    /// Returns the user too if the credentials were verified.
    async fn decide_uncached(
        &self,
        login: &Login,
        encoded: EncodedCredentials<'_>,
        revision: Result<Revision, StoreError>,
        found: CacheLookup,
    ) -> (Outcome, Option<UserName>) {
        let verifier = &*self.verifier;
        let (revision, found) = match revision {
            Ok(revision) => (Some(revision), found),
            Err(e) => match self.wait_for_revision(e, &login.key, encoded).await {
                Ok(revision) => (revision, self.lookup(&login.key, login, revision)),
                Err(outcome) => return (outcome, None),
            },
        };
        if let Some(grant) = self.refreshed(&login.key, found, login, revision).await {
            return (Outcome::Cached(grant), None);
        }
        let credentials = match encoded.decode() {
            Ok(credentials) => credentials,
            Err(e) => return (e.into(), None),
        };
        // An entry is about the candidate that matched, so that a password has one entry in every
        // spelling.
        let keys = verifier.candidate_keys(&credentials);
        for candidate in keys.iter().filter(|candidate| **candidate != login.key) {
            let found = self.lookup(candidate, login, revision);
            if let Some(grant) = self.refreshed(candidate, found, login, revision).await {
                return (Outcome::Cached(grant), None);
            }
        }
        verifier.cache_misses.fetch_add(1, Ordering::Relaxed);
        let user = credentials.user.clone();
        let attempt = Attempt { credentials, keys, source: login.source, revision };
        let outcome = match self.enqueue(attempt) {
            Ok(answer) => answer.await.unwrap_or_else(|_| self.worker_failed()),
            Err(outcome) => outcome,
        };
        (outcome, Some(user))
    }

    fn lookup(&self, key: &Key, login: &Login, revision: Option<Revision>) -> CacheLookup {
        revision.map_or(CacheLookup::Miss, |revision| {
            self.verifier.lookup_cache(key, login.source, revision, login.now)
        })
    }

    /// Returns the grant of a cache entry, if it is right at this revision.
    async fn refreshed(
        &self,
        key: &Key,
        found: CacheLookup,
        login: &Login,
        revision: Option<Revision>,
    ) -> Option<Arc<Grant>> {
        match found {
            CacheLookup::Hit(grant) => Some(grant),
            CacheLookup::Miss => None,
            CacheLookup::Outdated(entry) => {
                self.verifier.refresh(key, *entry, revision?, login.now).await
            }
        }
    }

    /// Returns the revision for a request that no lease covers, or its outcome. `None` if the cache
    /// cannot be used.
    ///
    /// A request waits if the next reading is under way, or if the cache has its credentials: the
    /// store may be reachable again soon. All others are unavailable at once.
    async fn wait_for_revision(
        &self,
        mut why: StoreError,
        key: &Key,
        encoded: EncodedCredentials<'_>,
    ) -> Result<Option<Revision>, Outcome> {
        let verifier = &*self.verifier;
        let deadline = Instant::now() + REVISION_WAIT;
        let mut waiter = None;
        loop {
            let waits = match &why {
                StoreError::Lapsed => true,
                StoreError::Unreachable(_) => {
                    verifier.has_entry(key)
                        || encoded.decode().is_ok_and(|credentials| {
                            let keys = verifier.candidate_keys(&credentials);
                            keys.iter().any(|key| verifier.has_entry(key))
                        })
                }
                // The request is verified without the cache, or meets the error again.
                _ => {
                    verifier.audit.failure(&format_args!("cannot use the cache: {why}"));
                    return Ok(None);
                }
            };
            if waits && waiter.is_none() {
                waiter = Waiter::enter(&self.waiters);
            }
            if !waits || waiter.is_none() {
                return Err(Outcome::Unavailable);
            }
            match verifier.store.next_revision(deadline).await {
                Ok(revision) => return Ok(Some(revision)),
                Err(StoreError::Lapsed) => return Err(Outcome::Unavailable),
                Err(e) => why = e,
            }
        }
    }

    /// Rejects a request whose credentials are not verified.
    pub fn reject(&self, peer: IpAddr, why: Rejection, access: &AccessRequest<'_>) -> Decision {
        self.conclude(why.into(), peer, None, access)
    }

    /// Counts a request that needs no credentials.
    pub fn exempt(&self, peer: IpAddr, access: &AccessRequest<'_>) {
        self.verifier.audit.record(&Outcome::Exempt, peer, None, access.target);
    }

    /// Checks the groups, counts and logs the outcome, and derives the decision.
    fn conclude(
        &self,
        outcome: Outcome,
        peer: IpAddr,
        shown: Option<&UserName>,
        access: &AccessRequest<'_>,
    ) -> Decision {
        let outcome = self.check_groups(outcome, access);
        let user = match &outcome {
            Outcome::Cached(grant) | Outcome::Verified(grant) | Outcome::Forbidden(grant) => {
                Some(&grant.user)
            }
            refused => shown.filter(|_| refused.names_user()),
        };
        self.verifier.audit.record(&outcome, peer, user, access.target);
        outcome.decision()
    }

    /// Turns a grant to a user without a required group into a refusal. A request can require more
    /// than the configuration, never less.
    fn check_groups(&self, outcome: Outcome, access: &AccessRequest<'_>) -> Outcome {
        match outcome {
            Outcome::Cached(grant) | Outcome::Verified(grant)
                if !(grant.groups.has_one_of(&self.live.load().require_groups)
                    && grant.groups.has_one_of(access.groups)) =>
            {
                Outcome::Forbidden(grant)
            }
            outcome => outcome,
        }
    }

    /// Queues an attempt for a worker, if the throttle allows it.
    ///
    /// An attempt with the same credentials as a queued one shares its outcome. It cannot share the
    /// outcome of an attempt that a worker has taken, which may have read a record that is outdated
    /// for a later request.
    fn enqueue(&self, attempt: Attempt) -> Result<Answer, Outcome> {
        let verifier = &self.verifier;
        let user = verifier.keyed.user(&attempt.credentials.user);
        let counted = LoginAttempt { user, source: attempt.source };
        let key = attempt.keys.first().copied();
        let mut queued = lock(&self.queued);
        verifier.throttle().check(counted, Instant::now()).map_err(|refused| match refused {
            Refused::Failed(retry_after) => Outcome::Throttled { retry_after },
            // The pending attempts may all be right. Then the next one is possible when they end.
            Refused::Pending => Outcome::Throttled { retry_after: Duration::from_secs(1) },
        })?;
        let same = key.and_then(|key| queued.get(&key));
        if let Some(answer) = same.and_then(WeakShared::upgrade) {
            return Ok(answer);
        }
        let pending = PendingAttempt::begin(verifier, counted);
        let (reply, answer) = oneshot::channel();
        let answer = answer.shared();
        let workers = self.workers.threads();
        let limit = self.live.load().queue;
        let limit = limit.unwrap_or_else(|| verifier.hashes.in_two_seconds(workers));
        let queued_attempt = QueuedAttempt { attempt, pending, reply, since: Instant::now() };
        let submitted = self.workers.submit(limit, queued_attempt);
        submitted.map_err(|why| match why {
            NotTaken::Full => Outcome::Overloaded,
            NotTaken::Dead => self.worker_failed(),
        })?;
        queued.extend(key.zip(answer.downgrade()));
        Ok(answer)
    }

    fn worker_failed(&self) -> Outcome {
        self.verifier.audit.failure(&"cannot check credentials: a hash worker failed");
        Outcome::Unavailable
    }

    /// Finishes the work, and returns when the workers have ended their jobs, all audit lines are
    /// logged, and the store is in one file. An attempt that needs a worker after that is
    /// unavailable.
    pub fn finish(&self) {
        self.workers.finish();
        self.verifier.audit.flush();
        if let Err(e) = self.verifier.store.checkpoint() {
            log::warn!("cannot checkpoint the write-ahead log: {e}");
        }
    }

    /// Returns true if users can be looked up. Logs the failure otherwise.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.verifier
            .store
            .ready()
            .inspect_err(|e| self.verifier.log_failure("not ready", e))
            .is_ok()
    }

    /// Returns the number of requests since the start, by outcome. An outcome occurs once for each
    /// of its reasons.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.verifier.audit.counters();
        Outcome::LABELS.iter().zip(counts).map(|(label, count)| (label.outcome, count))
    }

    /// Returns the number of computed hashes since the start.
    pub(crate) fn hashes(&self) -> u64 {
        self.verifier.hashes.count()
    }

    /// Returns the counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let Verifier { audit, hashes, cache_misses, .. } = &*self.verifier;
        let (throttled_sources, throttled_users) =
            self.verifier.throttle().throttled(Instant::now());
        Counters {
            outcomes: audit.counters(),
            waiting: self.workers.waiting(),
            workers: self.workers.threads(),
            hashes: hashes.count(),
            hash_time: hashes.total(),
            hash_seconds: hashes.seconds.snapshot(),
            queue_wait: hashes.waits.snapshot(),
            cache_entries: self.verifier.cache().len(),
            cache_misses: cache_misses.load(Ordering::Relaxed),
            throttled_sources,
            throttled_users,
            store_reading_age: self.verifier.store.reading_age(Instant::now()),
        }
    }

    #[cfg(test)]
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    #[cfg(test)]
    pub(super) fn workers(&self) -> &Workers<QueuedAttempt> {
        &self.workers
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        lock(&self.queued).len()
    }
}

/// An attempt in the queue.
pub(super) struct QueuedAttempt {
    attempt: Attempt,
    pending: PendingAttempt,
    reply: oneshot::Sender<Outcome>,
    since: Instant,
}

impl WorkerJob for QueuedAttempt {
    fn hashes(&self) -> usize {
        self.attempt.keys.len()
    }
}

/// Verifies attempts that a worker has taken from the queue.
fn verify_queued(verifier: &Verifier, queued: &Mutex<Queued>, mut attempts: Vec<QueuedAttempt>) {
    {
        let mut queued = lock(queued);
        let keys = attempts.iter().filter_map(|queued| queued.attempt.keys.first());
        keys.for_each(|key| drop(queued.remove(key)));
    }
    let now = Instant::now();
    for queued in &attempts {
        verifier.hashes.waits.add(now.saturating_duration_since(queued.since), 1);
    }
    // All clients that waited for the others have gone.
    attempts.retain(|queued| !queued.reply.is_closed());
    let (attempts, mut open): (Vec<_>, Vec<_>) = attempts
        .into_iter()
        .map(|queued| (queued.attempt, Some((queued.pending, queued.reply))))
        .unzip();
    verifier.verify(&attempts.iter().collect::<Vec<_>>(), |index, outcome| {
        if let Some((pending, reply)) = open.get_mut(index).and_then(Option::take) {
            let user = attempts.get(index).map(|attempt| &attempt.credentials.user);
            pending.end(&outcome, user);
            // The clients may have gone by now. Then the outcome is dropped.
            let _ = reply.send(outcome);
        }
    });
}

/// Locks the map. A panic while it was locked has left it consistent, because each call on it is
/// one step.
fn lock(queued: &Mutex<Queued>) -> MutexGuard<'_, Queued> {
    queued.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Requests by outcome, in the order of [`Outcome::LABELS`].
    outcomes: [u64; Outcome::COUNT],
    /// The attempts that wait for a hash worker now.
    pub waiting: usize,
    /// The hash workers.
    pub workers: usize,
    /// Computed hashes.
    pub hashes: u64,
    /// The time of the computed hashes, of all workers together.
    pub hash_time: Duration,
    /// The time of each hash, as an attempt waited for it.
    pub hash_seconds: HistogramSnapshot,
    /// The time that each attempt waited for a hash worker.
    pub queue_wait: HistogramSnapshot,
    /// The verified passwords in the cache.
    pub cache_entries: usize,
    /// The requests with well-formed credentials that the cache did not have.
    pub cache_misses: u64,
    /// The sources whose next attempt is refused because of failures.
    pub throttled_sources: usize,
    /// The user names whose next attempt from an unknown source is refused because of failures.
    pub throttled_users: usize,
    /// The age of the last reading of the store's revision, if there is one.
    pub store_reading_age: Option<Duration>,
}

impl Counters {
    /// Returns outcome, reason and number of all requests.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let labelled = Outcome::LABELS.iter().zip(self.outcomes);
        labelled.map(|(label, count)| (label.outcome, label.reason, count))
    }

    /// Returns the number of requests whose outcome has this reason in the audit log, or `None` if
    /// there is no such reason.
    #[must_use]
    pub fn outcome(&self, reason: &str) -> Option<u64> {
        let index = Outcome::LABELS.iter().position(|label| label.reason == reason)?;
        self.outcomes.get(index).copied()
    }
}

/// An attempt that counts as pending until it ends. If it is dropped before that, it has not
/// failed, e.g. because the client has left, the queue is full, or a worker has panicked.
struct PendingAttempt {
    verifier: Arc<Verifier>,
    attempt: LoginAttempt,
    end: AttemptEnd,
}

impl PendingAttempt {
    fn begin(verifier: &Arc<Verifier>, attempt: LoginAttempt) -> Self {
        verifier.throttle().begin(attempt, Instant::now());
        Self { verifier: Arc::clone(verifier), attempt, end: AttemptEnd::Open }
    }

    fn end(mut self, outcome: &Outcome, shown: Option<&UserName>) {
        if outcome.counts_as_failure() {
            let user = shown.filter(|_| outcome.names_user()).cloned();
            self.end = AttemptEnd::Failed { user };
        }
        if outcome.grant().is_some() {
            self.verifier.throttle().remember(self.attempt);
        }
    }
}

impl Drop for PendingAttempt {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, AttemptEnd::Open);
        self.verifier.throttle().end(self.attempt, end, Instant::now());
    }
}
