//! The decision: may whoever shows these credentials pass?
//!
//! This room knows neither HTTP nor SQLite. What fails becomes [`Decision::Unavailable`], never a grant.

mod audit;
mod bounded;
mod cache;
pub(crate) mod hash;
#[cfg(test)]
mod interleavings;
mod keyed;
mod throttle;
mod workers;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use tokio::sync::oneshot;

use crate::credential::{
    Cost, Credentials, EncodedCredentials, GroupName, Groups, PasswordHash, UserName,
};
use crate::moment::Moment;
use crate::store::{Account, Revision, Store, StoreError, User};
use audit::{Audit, Kind};
use cache::{Cache, Verified};
use keyed::{Key, Keyed};
pub use throttle::Limit;
pub(crate) use throttle::Source;
use throttle::{Outcome, Refused, Throttle, Try};
use workers::{NotTaken, Workers};

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Name and password are right, and the user may enter.
    Granted(Arc<Grant>),
    /// They are right, but the user is in none of the groups that open this door.
    Forbidden,
    /// They are not, or the user may not. Which of them it was is nobody's business.
    Denied,
    /// Too many were wrong, from there or for that user, or are pending. Nothing was looked at.
    Throttled {
        /// When one more may be tried.
        retry_after: Duration,
    },
    /// Too many are waiting already. Nothing was looked at.
    Overloaded,
    /// It could not be found out, by a failure on our side.
    Unavailable,
}

/// Who may pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Their name.
    pub user: UserName,
    /// The groups that they are in.
    pub groups: Arc<Groups>,
}

/// What somebody asks to be let through to.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// They have to be in one of these groups; if none is named, no group is asked for.
    pub groups: &'a [GroupName],
    /// What they are after, as the audit log is to say it: fit for a line, and without secrets. Made only if there is to be a line.
    pub target: &'a dyn Fn() -> Option<String>,
}

impl Ask<'_> {
    /// To whatever it is, in any group or none.
    pub const ANYTHING: Ask<'static> = Ask { groups: &[], target: &|| None };
}

/// Why a request shows nothing to decide on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It shows no credentials: the client waits for the challenge.
    Missing,
    /// What it shows can't be right, whoever is in the store.
    Malformed,
}

/// Why a request was refused before its credentials were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRequest {
    /// Its head or its framing is malformed.
    Malformed,
    /// Its head is over the limit.
    HeadTooLong,
}

/// How decisions are made. The defaults are for one machine with some thousands of users.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the store's hashes usually cost, and what a name costs that is no user's.
    pub cost: Cost,
    /// How many threads compute hashes. Default: one for each core.
    pub workers: NonZeroUsize,
    /// How many tries may wait for a worker. Default: two seconds of work, by the time that hashes take.
    pub queue: Option<usize>,
    /// How many verified credentials are remembered; 0 for none.
    pub cache_entries: usize,
    /// How long they are remembered when nobody shows them.
    pub cache_lifetime: Duration,
    /// Nobody may enter who is in none of these groups; if none is named, no group is asked for.
    pub require_groups: Vec<GroupName>,
    /// How often one source may fail.
    pub source_limit: Option<Limit>,
    /// How often somebody may fail to be one user.
    pub user_limit: Option<Limit>,
    /// Whether grants of remembered credentials are told in the audit log too.
    pub audit_hits: bool,
    /// Whether a user whose password is right gets a new hash, if theirs costs less than [`Settings::cost`].
    pub rehash: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            cost: Cost::DEFAULT,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            queue: None,
            cache_entries: 65_536,
            cache_lifetime: 60 * minute,
            require_groups: Vec::new(),
            source_limit: Limit::new(10, minute),
            user_limit: Limit::new(30, minute),
            audit_hits: false,
            rehash: false,
        }
    }
}

/// Decides, on threads of its own: no hash is waited for by the caller's thread.
pub struct Authenticator {
    verifier: Arc<Verifier>,
    workers: Workers,
    queue: Option<usize>,
    require_groups: Vec<GroupName>,
}

impl Authenticator {
    /// Decides by what is in `store`.
    ///
    /// # Errors
    /// When the system gives no threads or no random numbers.
    pub fn new(store: Box<dyn Store>, settings: &Settings) -> io::Result<Self> {
        let workers = Workers::start(settings.workers)?;
        let verifier = Verifier::new(store, settings)?;
        Ok(Self {
            verifier: Arc::new(verifier),
            workers,
            queue: settings.queue,
            require_groups: settings.require_groups.clone(),
        })
    }

    /// Decides on the credentials of a request from `peer`.
    pub async fn decide(
        &self,
        peer: IpAddr,
        encoded: EncodedCredentials<'_>,
        ask: &Ask<'_>,
    ) -> Decision {
        let verifier = &*self.verifier;
        let source = Source::of(peer);
        let now = Instant::now();
        let revision = verifier.revision(now);
        let recall = |key: &Key| verifier.recall(key, source, revision?, now);
        let key = verifier.keyed.encoded(encoded);
        if let Some(grant) = recall(&key) {
            return self.let_in(grant, Kind::Remembered, peer, ask);
        }
        let Some(shown) = encoded.decode() else {
            return self.turn_away(peer, Unfit::Malformed, ask);
        };
        // Only normalized credentials are cached, so that a password has one entry however it is
        // written.
        let normalized = verifier.keyed.credentials(&shown);
        if normalized != key
            && let Some(grant) = recall(&normalized)
        {
            return self.let_in(grant, Kind::Remembered, peer, ask);
        }
        // Boxed, since its size would count for every request.
        Box::pin(self.find_out(peer, normalized, source, shown, revision, ask)).await
    }

    /// Has a worker find out what is not known, and waits for it.
    async fn find_out(
        &self,
        peer: IpAddr,
        key: Key,
        source: Source,
        shown: Credentials,
        revision: Option<Revision>,
        ask: &Ask<'_>,
    ) -> Decision {
        let shown = Arc::new(shown);
        let verdict = match self.line_up(key, source, &shown, revision) {
            Ok(answer) => answer.await.unwrap_or_else(|_| self.without_a_worker()),
            Err(verdict) => verdict,
        };
        let kind = verdict.kind();
        let about = verdict.is_about_a_user().then_some(&shown.user);
        let decision = match verdict {
            Verdict::Verified(grant) => return self.let_in(grant, kind, peer, ask),
            Verdict::UnknownUser | Verdict::WrongPassword | Verdict::Locked | Verdict::Expired => {
                Decision::Denied
            }
            Verdict::Throttled(retry_after) => Decision::Throttled { retry_after },
            Verdict::Overloaded => Decision::Overloaded,
            Verdict::Unavailable => Decision::Unavailable,
        };
        self.verifier.audit.decided(kind, peer, about, ask.target);
        decision
    }

    /// Lets a user in whose password is right, if their groups open the door. A door can ask for more than all of them do, never
    /// for less.
    fn let_in(&self, grant: Arc<Grant>, kind: Kind, peer: IpAddr, ask: &Ask<'_>) -> Decision {
        let open = |door: &[GroupName]| {
            door.is_empty() || door.iter().any(|group| grant.groups.contains(group))
        };
        let admitted = open(&self.require_groups) && open(ask.groups);
        let kind = if admitted { kind } else { Kind::Forbidden };
        self.verifier.audit.decided(kind, peer, Some(&grant.user), ask.target);
        if admitted { Decision::Granted(grant) } else { Decision::Forbidden }
    }

    /// Denies a request that shows nothing to decide on.
    pub fn turn_away(&self, peer: IpAddr, why: Unfit, ask: &Ask<'_>) -> Decision {
        let kind = match why {
            Unfit::Missing => Kind::NoCredentials,
            Unfit::Malformed => Kind::Malformed,
        };
        self.verifier.audit.decided(kind, peer, None, ask.target);
        Decision::Denied
    }

    /// Counts and logs a request that was refused before its credentials were looked at.
    pub fn reject(&self, peer: IpAddr, why: BadRequest) {
        let kind = match why {
            BadRequest::Malformed => Kind::MalformedRequest,
            BadRequest::HeadTooLong => Kind::HeadTooLong,
        };
        self.verifier.audit.decided(kind, peer, None, &|| None);
    }

    /// Takes a place in the queue for a worker, if there is one for this try.
    ///
    /// Who shows what somebody in the queue shows already shares their place. It can't be shared once the work
    /// has begun: that may have read what is outdated for whoever comes later.
    fn line_up(
        &self,
        key: Key,
        source: Source,
        shown: &Arc<Credentials>,
        revision: Option<Revision>,
    ) -> Result<Answer, Verdict> {
        let verifier = &self.verifier;
        let of = Try { user: verifier.keyed.user(&shown.user), source };
        let mut waiting = verifier.waiting();
        verifier.throttle().check(of, Instant::now()).map_err(|refused| match refused {
            Refused::Failed(retry_after) => Verdict::Throttled(retry_after),
            // Its tries may all be right, and then it may go on as soon as they are done.
            Refused::Pending => Verdict::Throttled(Duration::from_secs(1)),
        })?;
        if let Some(answer) = waiting.get(&key).and_then(WeakShared::upgrade) {
            return Ok(answer);
        }
        let ticket = Ticket::take(verifier, of);
        let (reply, answer) = oneshot::channel();
        let answer = answer.shared();
        let shown = Arc::clone(shown);
        let job = move || {
            let verifier = Arc::clone(&ticket.verifier);
            verifier.waiting().remove(&key);
            if reply.is_closed() {
                return; // nobody waits for it any more
            }
            let (verdict, weak) = verifier.verify(&key, &shown, source, revision);
            ticket.settle(&verdict);
            // Nobody may wait for it any more by now: then it is dropped.
            let _ = reply.send(verdict);
            if let Some(weak) = weak {
                verifier.strengthen(&shown, &weak);
            }
        };
        let most =
            self.queue.unwrap_or_else(|| verifier.hashes.in_two_seconds(self.workers.threads()));
        self.workers.submit(most, job).map_err(|why| match why {
            NotTaken::Full => Verdict::Overloaded,
            NotTaken::Dead => self.without_a_worker(),
        })?;
        waiting.extend(answer.downgrade().map(|answer| (key, answer)));
        Ok(answer)
    }

    /// What comes out when nobody has found anything out.
    fn without_a_worker(&self) -> Verdict {
        self.verifier.audit.trouble(&"cannot check credentials: a hash worker failed");
        Verdict::Unavailable
    }

    /// Brings everything to an end that nobody is to wait for later: returns when the workers are done with what was begun,
    /// every line about what was decided is in the log, and everything that was changed in the store's one file.
    /// Who asks for a decision that needs a worker after that gets none.
    pub fn finish(&self) {
        self.workers.finish();
        self.verifier.audit.flush();
        if let Err(e) = self.verifier.store.fold() {
            log::warn!("cannot checkpoint the write-ahead log: {e}");
        }
    }

    /// Whether users can be looked up. What stands in the way is told in the log.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.verifier
            .store
            .is_empty()
            .inspect_err(|e| self.verifier.audit.trouble(&format_args!("not ready: {e}")))
            .is_ok()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Verifier { audit, hashes, .. } = &*self.verifier;
        Counts {
            remembered: audit.count(Kind::Remembered),
            verified: audit.count(Kind::Verified),
            no_credentials: audit.count(Kind::NoCredentials),
            malformed: audit.count(Kind::Malformed),
            unknown_user: audit.count(Kind::UnknownUser),
            wrong_password: audit.count(Kind::WrongPassword),
            locked: audit.count(Kind::Locked),
            expired: audit.count(Kind::Expired),
            forbidden: audit.count(Kind::Forbidden),
            throttled: audit.count(Kind::Throttled),
            overloaded: audit.count(Kind::Overloaded),
            unavailable: audit.count(Kind::Unavailable),
            malformed_requests: audit.count(Kind::MalformedRequest),
            long_heads: audit.count(Kind::HeadTooLong),
            waiting: self.workers.waiting(),
            hashes: hashes.count.load(Ordering::Relaxed),
            hash_time: Duration::from_nanos(hashes.total.load(Ordering::Relaxed)),
        }
    }
}

/// Counters since the start. Each request is counted once, by what came out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs, reason = "the names say it: granted, and why not")]
pub struct Counts {
    /// Granted without a hash.
    pub remembered: u64,
    /// Granted after a hash.
    pub verified: u64,
    pub no_credentials: u64,
    pub malformed: u64,
    pub unknown_user: u64,
    pub wrong_password: u64,
    pub locked: u64,
    pub expired: u64,
    pub forbidden: u64,
    pub throttled: u64,
    pub overloaded: u64,
    pub unavailable: u64,
    pub malformed_requests: u64,
    pub long_heads: u64,
    /// How many tries wait for a worker at this moment.
    pub waiting: usize,
    /// Hashes computed, and the time they took, of all workers together.
    pub hashes: u64,
    pub hash_time: Duration,
}

/// What a worker will have found out.
type Answer = Shared<oneshot::Receiver<Verdict>>;

/// What was found out, or why nothing was.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    Verified(Arc<Grant>),
    UnknownUser,
    WrongPassword,
    Locked,
    Expired,
    Throttled(Duration),
    Overloaded,
    Unavailable,
}

impl Verdict {
    fn kind(&self) -> Kind {
        match self {
            Self::Verified(_) => Kind::Verified,
            Self::UnknownUser => Kind::UnknownUser,
            Self::WrongPassword => Kind::WrongPassword,
            Self::Locked => Kind::Locked,
            Self::Expired => Kind::Expired,
            Self::Throttled(_) => Kind::Throttled,
            Self::Overloaded => Kind::Overloaded,
            Self::Unavailable => Kind::Unavailable,
        }
    }

    /// Whether the name that was shown is a user's, as far as is known.
    fn is_about_a_user(&self) -> bool {
        matches!(self, Self::Verified(_) | Self::WrongPassword | Self::Locked | Self::Expired)
    }
}

/// A try that is counted as pending until this is settled or dropped.
struct Ticket {
    verifier: Arc<Verifier>,
    of: Try,
    outcome: Outcome,
}

impl Ticket {
    fn take(verifier: &Arc<Verifier>, of: Try) -> Self {
        verifier.throttle().begin(of, Instant::now());
        Self { verifier: Arc::clone(verifier), of, outcome: Outcome::Open }
    }

    fn settle(mut self, verdict: &Verdict) {
        self.outcome = match verdict {
            Verdict::Verified(_) => Outcome::Right,
            Verdict::UnknownUser | Verdict::WrongPassword | Verdict::Locked | Verdict::Expired => {
                Outcome::Wrong
            }
            Verdict::Throttled(_) | Verdict::Overloaded | Verdict::Unavailable => Outcome::Open,
        };
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.verifier.throttle().end(self.of, self.outcome, Instant::now());
    }
}

/// Keeps a value that every request writes out of the cache lines that every request reads, since
/// each thread would have to fetch those again. 128 bytes, because processors fetch lines in pairs.
#[repr(align(128))]
struct OwnLine<T>(T);

/// What the requests and the workers share.
struct Verifier {
    store: Box<dyn Store>,
    /// What an unknown user's password is held against, so that it takes as long as a known one's.
    decoy: PasswordHash,
    keyed: Keyed,
    cache: OwnLine<Mutex<Cache>>,
    throttle: Mutex<Throttle>,
    /// Tries that no worker has begun with.
    waiting: Mutex<HashMap<Key, WeakShared<oneshot::Receiver<Verdict>>>>,
    hashes: Hashes,
    audit: Audit,
    rehash: bool,
}

impl Verifier {
    fn new(store: Box<dyn Store>, settings: &Settings) -> io::Result<Self> {
        Ok(Self {
            store,
            decoy: PasswordHash::decoy(settings.cost),
            keyed: Keyed::new()?,
            cache: OwnLine(Mutex::new(Cache::new(settings.cache_entries, settings.cache_lifetime))),
            throttle: Mutex::new(Throttle::new(settings.source_limit, settings.user_limit)),
            waiting: Mutex::default(),
            hashes: Hashes::expected(settings.cost),
            audit: Audit::start(settings.audit_hits)?,
            rehash: settings.rehash,
        })
    }

    // A panic while one of these was held has left it whole: each call on it is one step.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        #[cfg(test)]
        interleavings::step();
        self.cache.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, WeakShared<oneshot::Receiver<Verdict>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the store's revision for a request of this time. `None` when it cannot be read:
    /// then nothing is cached.
    fn revision(&self, now: Instant) -> Option<Revision> {
        self.store
            .revision(now)
            .inspect_err(|e| self.audit.trouble(&format_args!("cannot use the cache: {e}")))
            .ok()
    }

    /// Returns the grant if these credentials were right before and still are at this revision.
    /// `now` is the time of the request. Takes microseconds.
    fn recall(
        &self,
        key: &Key,
        source: Source,
        revision: Revision,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        let known = self.cache().get(key, now)?;
        let elsewhere = known.source != source;
        // Most users never expire: the clock is not read for them.
        let expired = known.expires.is_some_and(|end| end.has_passed(SystemTime::now()));
        let outdated = known.revision != revision || expired;
        if !elsewhere && !outdated {
            return Some(known.grant);
        }
        let mut current = Verified { source, ..known };
        if outdated {
            // The user is read after the revision: what changes between them is read again the next time.
            let name = &current.grant.user;
            let (user, groups) = match self.store.find_with_groups(name) {
                Ok(Some((user, groups)))
                    if self.keyed.hash(&user.hash) == current.hash
                        && may_enter(&user, SystemTime::now()) =>
                {
                    (user, groups)
                }
                Ok(_) => {
                    self.cache().remove(key);
                    return None;
                }
                // Whoever verifies it will meet the error too, and tell.
                Err(_) => return None,
            };
            let grant = Arc::new(Grant { user: name.clone(), groups });
            current = Verified { revision, expires: user.expires, grant, ..current };
        }
        let grant = Arc::clone(&current.grant);
        self.cache().insert(*key, current, now);
        if elsewhere {
            let user = self.keyed.user(&grant.user);
            self.throttle().remember(Try { user, source });
        }
        Some(grant)
    }

    /// Finds out whether these credentials are right. Takes as long as a hash. `revision` is one from before. With it comes the user's
    /// hash, if they are right and it is to be a stronger one.
    fn verify(
        &self,
        key: &Key,
        shown: &Credentials,
        source: Source,
        revision: Option<Revision>,
    ) -> (Verdict, Option<PasswordHash>) {
        self.try_to_verify(key, shown, source, revision).unwrap_or_else(|e| {
            // The error names a user only if there is one: what was typed as a name may be a password.
            self.audit.trouble(&format_args!("cannot check credentials: {e}"));
            (Verdict::Unavailable, None)
        })
    }

    /// Keeps a stronger hash of a password that was right for this one. If the user has another one by now, that stays.
    fn strengthen(&self, shown: &Credentials, weak: &PasswordHash) {
        let user = &shown.user;
        match self.try_to_strengthen(shown, weak) {
            Ok(true) => log::info!("user {user} has a stronger hash now"),
            Ok(false) => {}
            Err(e) => self.audit.trouble(&format_args!("no stronger hash for user {user}: {e}")),
        }
    }

    fn try_to_strengthen(
        &self,
        shown: &Credentials,
        weak: &PasswordHash,
    ) -> Result<bool, StoreError> {
        let strong = hash::hash(&shown.password, self.decoy.cost()).map_err(bcrypt_failed)?;
        let mut transaction = self.store.begin()?;
        match transaction.find(&shown.user)? {
            Some(account) if account.hash.as_ref() == Ok(weak) => {
                transaction.put(&Account { hash: Ok(strong), ..account })?;
                transaction.commit()?;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    fn try_to_verify(
        &self,
        key: &Key,
        shown: &Credentials,
        source: Source,
        revision: Option<Revision>,
    ) -> Result<(Verdict, Option<PasswordHash>), StoreError> {
        let finding = find_out(&*self.store, &shown.user, &self.decoy, |hash| {
            let digest = self.keyed.hash(hash);
            // Somebody may have verified the same while this one waited.
            let verified = self.cache().get(key, Instant::now()).is_some_and(|v| v.hash == digest);
            Ok(verified || self.hashes.verify(shown, hash)?)
        })?;
        let verdict = match finding {
            Finding::Right(User { hash, expires, .. }, groups) => {
                let grant = Arc::new(Grant { user: shown.user.clone(), groups });
                if let Some(revision) = revision {
                    let (hash, grant) = (self.keyed.hash(&hash), Arc::clone(&grant));
                    let verified = Verified { hash, revision, expires, grant, source };
                    self.cache().insert(*key, verified, Instant::now());
                }
                let is_weak = self.rehash && hash.cost() < self.decoy.cost();
                return Ok((Verdict::Verified(grant), is_weak.then_some(hash)));
            }
            Finding::UnknownUser => Verdict::UnknownUser,
            Finding::WrongPassword => Verdict::WrongPassword,
            Finding::Locked => Verdict::Locked,
            Finding::Expired => Verdict::Expired,
        };
        Ok((verdict, None))
    }
}

/// What the store and one hash tell of credentials.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Name and password are right, and the user may enter.
    Right(User, Arc<Groups>),
    UnknownUser,
    WrongPassword,
    Locked,
    Expired,
}

/// Finds out whether credentials are right, as the server does, with nothing remembered. An unknown user costs a hash of this
/// cost.
pub(crate) fn check(
    store: &dyn Store,
    shown: &Credentials,
    cost: Cost,
) -> Result<Finding, StoreError> {
    find_out(store, &shown.user, &PasswordHash::decoy(cost), |hash| {
        hash::verify(&shown.password, hash).map_err(bcrypt_failed)
    })
}

/// `is_right` says whether the password is that of a hash, and takes its time.
///
/// Every refusal takes the same look-ups. Groups are read only of a user who may enter.
fn find_out(
    store: &dyn Store,
    name: &UserName,
    decoy: &PasswordHash,
    is_right: impl FnOnce(&PasswordHash) -> Result<bool, StoreError>,
) -> Result<Finding, StoreError> {
    let before = store.find(name)?;
    let right = is_right(before.as_ref().map_or(decoy, |user| &user.hash))?;
    // bcrypt took its time: what counts is the user as they are now. It makes no difference to who
    // is refused anyway, but it would to the time that this takes.
    let now = store.find(name)?;
    let Some(before) = before else { return Ok(Finding::UnknownUser) };
    if !right {
        return Ok(Finding::WrongPassword);
    }
    if let Err(refused) = admit(now, &before.hash) {
        return Ok(refused);
    }
    // A grant rests on the row and the groups of one moment.
    let Some((user, groups)) = store.find_with_groups(name)? else {
        return Ok(Finding::UnknownUser);
    };
    Ok(match admit(Some(user), &before.hash) {
        Ok(user) => Finding::Right(user, groups),
        Err(refused) => refused,
    })
}

/// Whether a user for whose hash the password was right may enter as they are now.
fn admit(user: Option<User>, verified: &PasswordHash) -> Result<User, Finding> {
    match user {
        None => Err(Finding::UnknownUser),
        Some(user) if user.hash != *verified => Err(Finding::WrongPassword),
        Some(user) if user.locked => Err(Finding::Locked),
        Some(user) if has_passed(user.expires, SystemTime::now()) => Err(Finding::Expired),
        Some(user) => Ok(user),
    }
}

fn bcrypt_failed(e: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("bcrypt failed: {e}"))
}

fn may_enter(user: &User, now: SystemTime) -> bool {
    !user.locked && !has_passed(user.expires, now)
}

fn has_passed(end: Option<Moment>, now: SystemTime) -> bool {
    end.is_some_and(|end| end.has_passed(now))
}

/// Computes hashes, and keeps account of how long they take.
struct Hashes {
    /// [`hash::verify`], but where tests are about something else.
    compute: hash::Verify,
    count: AtomicU64,
    /// Nanoseconds of all of them.
    total: AtomicU64,
    /// Nanoseconds that one takes, of late.
    each: AtomicU64,
}

impl Hashes {
    /// What is assumed until one was computed: 60 microseconds for each of the 2^cost rounds, as on a
    /// common machine of 2020.
    fn expected(cost: Cost) -> Self {
        let each = AtomicU64::new(60_000 << cost.get());
        Self { compute: hash::verify, count: AtomicU64::new(0), total: AtomicU64::new(0), each }
    }

    fn verify(&self, shown: &Credentials, hash: &PasswordHash) -> Result<bool, StoreError> {
        let start = Instant::now();
        let right = (self.compute)(&shown.password, hash).map_err(bcrypt_failed);
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(took, Ordering::Relaxed);
        // Of the last ten or so. When two workers do this at once, one of them is not counted in: no harm.
        let each = self.each.load(Ordering::Relaxed);
        self.each.store(each - each / 8 + took / 8, Ordering::Relaxed);
        right
    }

    /// How many hashes these workers compute in about two seconds: longer than that nobody should wait.
    fn in_two_seconds(&self, threads: usize) -> usize {
        const MOST: u64 = 8192;
        let each = self.each.load(Ordering::Relaxed).max(1);
        let together = (2_000_000_000 / each).clamp(1, MOST) as usize;
        threads * together
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::ops::ControlFlow;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::{Context, Waker};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use futures_executor::block_on;

    use super::*;
    use crate::credential::{HashError, Password};
    use crate::store::{BadRecord, Transaction};

    /// A store that answers what it was told to, one answer a look. The user is in no group.
    struct Script {
        answers: Mutex<Vec<Result<Option<User>, StoreError>>>,
        /// The method of each look.
        looks: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Script {
        fn look(&self, method: &'static str) -> Result<Option<User>, StoreError> {
            self.looks.lock().unwrap().push(method);
            self.answers.lock().unwrap().remove(0)
        }
    }

    impl Store for Script {
        fn find(&self, _: &UserName) -> Result<Option<User>, StoreError> {
            self.look("find")
        }
        fn find_with_groups(
            &self,
            _: &UserName,
        ) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
            Ok(self.look("find_with_groups")?.map(|user| (user, Arc::default())))
        }
        fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn is_empty(&self) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
            Ok(Revision(0))
        }
        fn each(&self, _: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
            unreachable!("the decision changes nothing")
        }
        fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
            unreachable!("the decision changes nothing")
        }
    }

    fn shown(password: &str) -> Credentials {
        Credentials {
            user: UserName::parse("roy").unwrap(),
            password: Password::parse(password).unwrap(),
        }
    }

    fn granted() -> Decision {
        let user = UserName::parse("roy").unwrap();
        Decision::Granted(Arc::new(Grant { user, groups: Arc::default() }))
    }

    fn user(password: &str) -> User {
        let cost = Cost::new(4).unwrap();
        let hash = hash::hash(&Password::parse(password).unwrap(), cost).unwrap();
        User { hash, locked: false, expires: None }
    }

    fn decide_from_here(authenticator: &Authenticator, password: &str) -> Decision {
        let encoded = shown(password).encode();
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        block_on(authenticator.decide(HERE, encoded, &Ask::ANYTHING))
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn authenticator(answers: Vec<Result<Option<User>, StoreError>>, cost: u8) -> Authenticator {
        let store = Box::new(Script { answers: Mutex::new(answers), looks: Arc::default() });
        let settings = Settings { cost: Cost::new(cost).unwrap(), ..Settings::default() };
        Authenticator::new(store, &settings).unwrap()
    }

    /// What is decided on the password `right` when the store gives these answers, and how many
    /// hashes that took.
    fn decide(answers: Vec<Result<Option<User>, StoreError>>) -> (Decision, u64) {
        let authenticator = authenticator(answers, 4);
        let decision = decide_from_here(&authenticator, "right");
        (decision, authenticator.counts().hashes)
    }

    /// So many looks that find this user.
    fn each_look(user: &User, looks: usize) -> Vec<Result<Option<User>, StoreError>> {
        std::iter::repeat_with(|| Ok(Some(user.clone()))).take(looks).collect()
    }

    /// no refusal takes a look that another one does not take, and none reads groups.
    #[test]
    fn every_refusal_takes_the_same_look_ups() {
        let roy = user("right");
        let locked = User { locked: true, ..roy.clone() };
        let expired = User { expires: Moment::from_seconds(0), ..roy.clone() };
        let looks = |user: Option<&User>, password: &str| {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let answers = (0..3).map(|_| Ok(user.cloned())).collect();
            let store = Script { answers: Mutex::new(answers), looks: Arc::clone(&seen) };
            let settings = Settings { cost: Cost::new(4).unwrap(), ..Settings::default() };
            let authenticator = Authenticator::new(Box::new(store), &settings).unwrap();
            let decision = decide_from_here(&authenticator, password);
            assert_eq!(authenticator.counts().hashes, 1);
            let seen = seen.lock().unwrap().clone();
            (decision, seen)
        };
        let refused = (Decision::Denied, vec!["find", "find"]);
        for user in [None, Some(&locked), Some(&expired)] {
            for password in ["right", "wrong"] {
                assert_eq!(looks(user, password), refused, "{user:?} {password}");
            }
        }
        assert_eq!(looks(Some(&roy), "wrong"), refused);
        let grant = (granted(), vec!["find", "find", "find_with_groups"]);
        assert_eq!(looks(Some(&roy), "right"), grant);
    }

    #[test]
    fn the_right_password_is_granted_and_a_wrong_one_denied() {
        let roy = user("right");
        assert_eq!(decide(each_look(&roy, 3)), (granted(), 1));
        assert_eq!(decide(each_look(&user("wrong"), 2)), (Decision::Denied, 1));
    }

    /// B-01: the same work, so the same time.
    #[test]
    fn an_unknown_user_costs_one_hash_at_the_configured_cost() {
        assert_eq!(decide(vec![Ok(None), Ok(None)]), (Decision::Denied, 1));
        for cost in [4, 7] {
            let authenticator = authenticator(Vec::new(), cost);
            assert_eq!(authenticator.verifier.decoy.cost(), Cost::new(cost).unwrap());
        }
    }

    /// P-09: it takes as long to refuse them as anybody.
    #[test]
    fn locked_and_expired_users_are_denied_after_a_hash() {
        let roy = user("right");
        let locked = User { locked: true, ..roy.clone() };
        let expired = User { expires: Moment::from_seconds(0), ..roy };
        for user in [locked, expired] {
            assert_eq!(decide(each_look(&user, 2)), (Decision::Denied, 1));
        }
    }

    #[test]
    fn a_user_may_enter_until_the_second_of_expiry() {
        let roy = User { expires: Moment::from_seconds(1000), ..user("right") };
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert!(may_enter(&roy, end - Duration::from_nanos(1)));
        assert!(!may_enter(&roy, end));
    }

    /// B-04: as long as hashes are seen to take.
    #[test]
    fn the_queue_holds_two_seconds_of_work() {
        let hashes = Hashes::expected(Cost::DEFAULT);
        assert_eq!(hashes.in_two_seconds(2), 16, "a quarter of a second each");
        assert_eq!(
            Hashes::expected(Cost::new(15).unwrap()).in_two_seconds(4),
            4,
            "one each at least"
        );
        // They turn out to take a millisecond or so.
        let quick = PasswordHash::decoy(Cost::new(4).unwrap());
        for _ in 0..100 {
            hashes.verify(&shown("right"), &quick).unwrap();
        }
        let waiting = hashes.in_two_seconds(2);
        assert!((40..=2 * 8192).contains(&waiting), "{waiting}");
        assert_eq!(hashes.count.load(Ordering::Relaxed), 100);
    }

    /// A store whose first look waits until it may go on, and then knows nobody.
    struct Slow {
        looked: Mutex<Sender<()>>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Store for Slow {
        fn find(&self, _: &UserName) -> Result<Option<User>, StoreError> {
            // Later looks find nobody who listens or holds them.
            let _ = self.looked.lock().unwrap().send(());
            let _ = self.go_on.lock().unwrap().recv();
            Ok(None)
        }
        fn find_with_groups(
            &self,
            _: &UserName,
        ) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
            unreachable!("it knows nobody")
        }
        fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
            Ok(Revision(0))
        }
        fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn is_empty(&self) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn each(&self, _: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
            unreachable!("the decision changes nothing")
        }
        fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
            unreachable!("the decision changes nothing")
        }
    }

    /// B-08: but who goes away while a hash is computed has had their try.
    #[test]
    fn a_try_that_nobody_waits_for_costs_no_hash_and_is_no_failure() {
        let (looked, looks) = channel();
        let (go_on, may_go_on) = channel();
        let store = Slow { looked: Mutex::new(looked), go_on: Mutex::new(may_go_on) };
        let settings = Settings {
            cost: Cost::new(4).unwrap(),
            workers: NonZeroUsize::MIN,
            source_limit: Limit::new(3, Limit::MAX_PERIOD),
            ..Settings::default()
        };
        let authenticator = Authenticator::new(Box::new(store), &settings).unwrap();
        let mut idle = Context::from_waker(Waker::noop());
        let encoded = ["begun", "queued"].map(|password| shown(password).encode());
        let [mut begun, mut queued] = encoded.each_ref().map(|encoded| {
            let encoded = EncodedCredentials::new(encoded.as_bytes());
            Box::pin(authenticator.decide(HERE, encoded, &Ask::ANYTHING))
        });
        assert!(begun.as_mut().poll(&mut idle).is_pending());
        looks.recv().unwrap();
        assert!(queued.as_mut().poll(&mut idle).is_pending());
        drop((begun, queued));
        drop((looks, go_on));
        // After what has begun, and what was skipped.
        assert_eq!(decide_from_here(&authenticator, "third"), Decision::Denied);
        assert_eq!(authenticator.counts().hashes, 2);
        assert_eq!(decide_from_here(&authenticator, "fourth"), Decision::Denied);
        let fifth = decide_from_here(&authenticator, "fifth");
        assert!(matches!(fifth, Decision::Throttled { .. }), "{fifth:?}");
    }

    /// P-18: nobody waits for ever, nobody is let in, and who is remembered does not notice.
    #[test]
    fn without_workers_only_what_is_remembered_is_granted() {
        let roy = user("right");
        let authenticator = authenticator(each_look(&roy, 3), 4);
        let decide = decide_from_here;
        assert_eq!(decide(&authenticator, "right"), granted());
        authenticator.workers.finish();
        for _ in 0..20 {
            assert_eq!(decide(&authenticator, "wrong"), Decision::Unavailable);
        }
        assert_eq!(decide(&authenticator, "right"), granted());
        let counts = authenticator.counts();
        assert_eq!((counts.remembered, counts.unavailable, counts.throttled), (1, 20, 0));
        assert!(authenticator.verifier.waiting().is_empty(), "nothing is kept of them");
    }

    /// B-05: a client cannot fill the cache with the spellings of one password.
    #[test]
    fn spellings_of_a_password_share_one_cache_entry() {
        let authenticator = authenticator(each_look(&user("\u{e9}"), 3), 4);
        for password in ["e\u{301}", "\u{e9}", "e\u{301}"] {
            let encoded = STANDARD.encode(format!("roy:{password}"));
            let encoded = EncodedCredentials::new(encoded.as_bytes());
            let decision = block_on(authenticator.decide(HERE, encoded, &Ask::ANYTHING));
            assert_eq!(decision, granted(), "{password:?}");
        }
        let counts = authenticator.counts();
        assert_eq!((counts.hashes, counts.verified, counts.remembered), (1, 1, 2));
        assert_eq!(authenticator.verifier.cache().len(), 1);
    }

    /// P-03
    #[test]
    fn malformed_credentials_are_denied_without_a_look_at_the_store() {
        let authenticator = authenticator(Vec::new(), 4);
        for encoded in
            ["", "cm95OnJpZ2h0=", "cm95", "cm95OnJpZ2h", "cm95Og==", "OnJpZ2h0", "\u{e9}"]
        {
            let encoded = EncodedCredentials::new(encoded.as_bytes());
            let decision = block_on(authenticator.decide(HERE, encoded, &Ask::ANYTHING));
            assert_eq!(decision, Decision::Denied);
        }
        assert_eq!(authenticator.counts().malformed, 7);
    }

    /// B-06: also when nothing in the store has changed but the time.
    #[test]
    fn a_user_who_expires_while_remembered_is_read_again() {
        let end = Moment::from_seconds(1);
        let roy = user("right");
        let expired = User { expires: end, ..roy.clone() };
        let mut answers = each_look(&roy, 3);
        answers.extend(each_look(&expired, 3));
        let authenticator = authenticator(answers, 4);
        assert_eq!(decide_from_here(&authenticator, "right"), granted());
        // As it was read when the end was still to come.
        let key = authenticator.verifier.keyed.credentials(&shown("right"));
        let now = Instant::now();
        let known = authenticator.verifier.cache().get(&key, now).unwrap();
        let known = Verified { expires: end, ..known };
        authenticator.verifier.cache().insert(key, known, now);
        assert_eq!(decide_from_here(&authenticator, "right"), Decision::Denied);
        assert_eq!(authenticator.counts().expired, 1);
    }

    /// C-11
    #[test]
    fn a_stronger_hash_takes_the_place_of_the_one_that_was_right_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let open = || crate::store::open(&folder.path().join("users.db")).unwrap();
        let cost = Cost::new(5).unwrap();
        let verifier = Verifier::new(open(), &Settings { cost, ..Settings::default() }).unwrap();
        let name = UserName::parse("roy").unwrap();
        let put = |password: &str| {
            let now = Moment::now();
            let hash = user(password).hash;
            let roy = Account {
                name: name.clone(),
                hash: Ok(hash.clone()),
                groups: Groups::default(),
                locked: true,
                expires: None,
                created: now,
                changed: now,
            };
            let store = open();
            let mut transaction = store.begin().unwrap();
            transaction.put(&roy).unwrap();
            transaction.commit().unwrap();
            hash
        };
        let is = |password: &str, cost: u8| {
            let roy = open().find(&name).unwrap().unwrap();
            let right = hash::verify(&shown(password).password, &roy.hash).unwrap();
            right && roy.hash.cost().get() == cost && roy.locked
        };
        let weak = put("right");
        assert!(verifier.try_to_strengthen(&shown("right"), &weak).unwrap());
        assert!(is("right", 5), "and all else is as it was");
        // It was changed while the stronger one was computed, also to the same password anew.
        for password in ["another", "right"] {
            put(password);
            assert!(!verifier.try_to_strengthen(&shown("right"), &weak).unwrap());
            assert!(is(password, 4));
        }
        open().begin().and_then(|mut t| t.remove(&name).and_then(|()| t.commit())).unwrap();
        assert!(!verifier.try_to_strengthen(&shown("right"), &weak).unwrap());
        assert_eq!(open().find(&name).unwrap(), None, "a removed user is not brought back");
    }

    /// B-06
    #[test]
    fn what_changed_while_the_hash_was_computed_counts() {
        let roy = user("right");
        let locked = User { locked: true, ..roy.clone() };
        for now in [None, Some(locked), Some(user("right"))] {
            let answers = vec![Ok(Some(roy.clone())), Ok(now.clone())];
            assert_eq!(decide(answers), (Decision::Denied, 1));
            // And what changed before the groups were read.
            let late = [each_look(&roy, 2), vec![Ok(now)]].into_iter().flatten().collect();
            assert_eq!(decide(late), (Decision::Denied, 1));
        }
    }

    /// P-18, C-06, C-07
    #[test]
    fn no_failure_becomes_a_grant_and_a_bad_record_costs_no_hash() {
        let roy = UserName::parse("roy").unwrap();
        let bad = |why| StoreError::BadRecord { user: roy.clone(), why };
        for error in [
            StoreError::Busy,
            StoreError::Failed("disk on fire".into()),
            bad(BadRecord::Field("hash")),
            bad(BadRecord::Hash(HashError::Cost(31))),
        ] {
            assert_eq!(decide(vec![Err(error)]), (Decision::Unavailable, 0));
        }
        for looks in [1, 2] {
            let mut late = each_look(&user("right"), looks);
            late.push(Err(StoreError::Busy));
            assert_eq!(decide(late), (Decision::Unavailable, 1));
        }
        assert_eq!(decide(Vec::new()), (Decision::Unavailable, 0), "a store that panics");
    }
}
