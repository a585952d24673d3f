//! Verifies credentials against the cache and the store.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::audit::Audit;
use super::cache::{Cache, CacheEntry};
use super::hash_meter::HashMeter;
use super::keyed::{Key, Keyed};
use super::throttle::{LoginAttempt, LoginThrottle, Source};
use super::{AuthConfig, Grant, Outcome, OwnLine};
use crate::domain::{
    Cost, Credentials, Groups, PasswordHash, PresentedPassword, StoredHash, User, UserName,
};
use crate::hashing::{self, BcryptKey, HashingError, needs_rehash};
use crate::store::{FoundUser, Revision, StoreError, UserReader};
use crate::text::quoted;

/// Credentials to verify, which the cache does not have.
pub(super) struct Attempt {
    pub(super) credentials: Credentials,
    /// The cache keys of the candidates for the password.
    pub(super) keys: Vec<Key>,
    pub(super) source: Source,
    /// The revision of the store when the request arrived.
    pub(super) revision: Option<Revision>,
}

/// The state that requests and workers share.
pub(super) struct Verifier {
    pub(super) store: Box<dyn UserReader>,
    /// The hash for unknown users, so that they take as long as known ones.
    pub(super) dummy: StoredHash,
    pub(super) keyed: Keyed,
    cache: OwnLine<Mutex<Cache>>,
    throttle: Mutex<LoginThrottle>,
    pub(super) hashes: HashMeter,
    pub(super) audit: Audit,
    rehash: bool,
    upgrade: bool,
    /// The requests with well-formed credentials that the cache did not have.
    pub(super) cache_misses: AtomicU64,
    /// The last replacement of a hash has failed, and the log has said so.
    replacing_fails: AtomicBool,
}

impl Verifier {
    pub(super) fn new(store: Box<dyn UserReader>, config: &AuthConfig) -> io::Result<Self> {
        Ok(Self {
            store,
            dummy: PasswordHash::dummy(config.cost).into(),
            keyed: Keyed::new()?,
            cache: OwnLine(Mutex::new(Cache::new(config.cache_entries, config.cache_lifetime))),
            throttle: Mutex::new(LoginThrottle::new(config.source_limit, config.user_limit)),
            hashes: HashMeter::expecting(config.cost),
            audit: Audit::start(config.audit_hits)?,
            rehash: config.rehash,
            upgrade: config.upgrade,
            cache_misses: AtomicU64::new(0),
            replacing_fails: AtomicBool::new(false),
        })
    }

    // A panic while one of these was locked has left it consistent, because each call on it is one
    // step.
    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        #[cfg(test)]
        super::tests::interleavings::step();
        self.cache.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn throttle(&self) -> MutexGuard<'_, LoginThrottle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the cache has these credentials, outdated or not.
    pub(super) fn has_entry(&self, key: &Key) -> bool {
        self.cache().get(key, Instant::now()).is_some()
    }

    /// Looks credentials up in the cache. Takes microseconds. `now` is the time of the request.
    pub(super) fn lookup_cache(
        &self,
        key: &Key,
        source: Source,
        revision: Revision,
        now: Instant,
    ) -> CacheLookup {
        let Some(entry) = self.cache().get(key, now) else { return CacheLookup::Miss };
        let other_source = entry.source != source;
        // The clock is not read for most users, because they never expire.
        let expired = entry.expires.is_some_and(|end| end.has_passed(SystemTime::now()));
        let same = entry.revision == revision;
        if same && !other_source && !expired {
            return CacheLookup::Hit(entry.grant);
        }
        let current = CacheEntry { source, ..entry };
        let unchanged = same || self.store.is_unchanged(&current.grant.user, current.revision);
        if expired || !unchanged {
            return CacheLookup::Outdated(Box::new(current));
        }
        let current = CacheEntry { revision, ..current };
        CacheLookup::Hit(self.renew(key, current, other_source, now))
    }

    /// Reads the record of an outdated entry again. Returns the grant if the entry is still right.
    pub(super) async fn refresh(
        &self,
        key: &Key,
        entry: CacheEntry,
        revision: Revision,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        // The user is read after the revision, so that the next look-up reads later changes.
        let name = entry.grant.user.clone();
        let found = match self.store.look_up(&name).await {
            Ok(Some(found))
                if self.keyed.hash(&found.user.hash) == entry.hash
                    && !found.user.locked
                    && !found.user.has_expired(SystemTime::now()) =>
            {
                found
            }
            Ok(_) => {
                self.cache().remove(key);
                return None;
            }
            // The verification that follows meets the error too, and logs it.
            Err(_) => return None,
        };
        let FoundUser { user, groups, state } = found;
        let grant = grant_of(&name, &user, groups);
        let revision = state.revision(Some(revision))?;
        let current = CacheEntry { revision, expires: user.expires, grant, ..entry };
        Some(self.renew(key, current, true, now))
    }

    /// Enters an entry as it is now. The throttle remembers the source of its request if that may be
    /// another one.
    fn renew(&self, key: &Key, entry: CacheEntry, other_source: bool, now: Instant) -> Arc<Grant> {
        let (grant, source) = (Arc::clone(&entry.grant), entry.source);
        self.cache().insert(*key, entry, now);
        if other_source {
            let user = self.keyed.user(&grant.user);
            self.throttle().remember(LoginAttempt { user, source });
        }
        grant
    }

    /// Returns the cache keys of the candidates for a password, in their order.
    pub(super) fn candidate_keys(&self, credentials: &Credentials) -> Vec<Key> {
        let candidates = credentials.password.candidates();
        candidates.map(|octets| self.keyed.candidate(&credentials.user, octets)).collect()
    }

    /// Verifies some attempts at once. Calls `answer` for each as soon as its outcome is known.
    ///
    /// Attempts whose hashes have the same cost share the lanes of this thread. The cheapest hashes
    /// come first, so that no attempt waits for one of a higher cost. Hashes are replaced after the
    /// last answer.
    pub(super) fn verify(&self, attempts: &[&Attempt], mut answer: impl FnMut(usize, Outcome)) {
        let all: Vec<_> = attempts.iter().copied().enumerate().collect();
        let mut outdated = Vec::new();
        let replaced = self.verify_once(&all, &mut outdated, &mut answer);
        // Another server may have given the password a better hash meanwhile. A second replacement is a
        // change of the password.
        for (index, _) in self.verify_once(&replaced, &mut outdated, &mut answer) {
            answer(index, Outcome::WrongPassword);
        }
        self.rehash(&outdated);
    }

    /// Verifies attempts with their indices. Returns those whose hash was replaced after a match.
    fn verify_once<'a>(
        &self,
        attempts: &[(usize, &'a Attempt)],
        outdated: &mut Vec<OutdatedHash<'a>>,
        answer: &mut dyn FnMut(usize, Outcome),
    ) -> Vec<(usize, &'a Attempt)> {
        let mut by_cost: BTreeMap<Cost, Vec<Begun<'a>>> = BTreeMap::new();
        let mut replaced = Vec::new();
        // The records are read together, since each reading may be over a network.
        let mut finish = |group: &[(Begun<'a>, Comparison)],
                          answer: &mut dyn FnMut(usize, Outcome)| {
            let users = group.iter().map(|(begun, _)| begun.user());
            let now = self.store.find_all(&users.collect::<Vec<_>>());
            for ((begun, compared), now) in group.iter().zip(now) {
                match self.finish(begun, *compared, now, outdated) {
                    Some(outcome) => answer(begun.index, outcome),
                    None => replaced.push((begun.index, begun.attempt)),
                }
            }
        };
        let mut matched = Vec::new();
        let users = attempts.iter().map(|(_, attempt)| &attempt.credentials.user);
        let before = self.store.find_all(&users.collect::<Vec<_>>());
        for ((index, attempt), before) in attempts.iter().zip(before) {
            match before {
                Err(e) => answer(*index, self.unavailable(&e)),
                Ok(before) => {
                    let begun = self.begin(*index, attempt, before);
                    match self.matched_meanwhile(&begun) {
                        Some(candidate) => matched.push((begun, Comparison::Matches { candidate })),
                        None => by_cost.entry(begun.hash.cost()).or_default().push(begun),
                    }
                }
            }
        }
        if !matched.is_empty() {
            finish(&matched, answer);
        }
        for group in by_cost.into_values() {
            match self.compare(&group) {
                Ok(compared) => {
                    finish(&group.into_iter().zip(compared).collect::<Vec<_>>(), answer);
                }
                Err(e) => {
                    let outcome = self.unavailable(&hashing_failed(e));
                    group.iter().for_each(|begun| answer(begun.index, outcome.clone()));
                }
            }
        }
        replaced
    }

    fn begin<'a>(&self, index: usize, attempt: &'a Attempt, before: Option<User>) -> Begun<'a> {
        let is_known = before.is_some();
        let hash = before.map_or_else(|| self.dummy.clone(), |user| user.hash);
        Begun { index, attempt, is_known, hash }
    }

    /// Returns the candidate that another attempt has verified while this one waited.
    fn matched_meanwhile(&self, begun: &Begun<'_>) -> Option<usize> {
        let digest = self.keyed.hash(&begun.hash);
        let now = Instant::now();
        begun.attempt.keys.iter().position(|key| {
            let entry = self.cache().get(key, now);
            entry.is_some_and(|entry| entry.hash == digest)
        })
    }

    /// Compares passwords with hashes of one cost.
    fn compare(&self, group: &[Begun<'_>]) -> Result<Vec<Comparison>, HashingError> {
        let keys: Vec<_> = group
            .iter()
            .map(|begun| keys(&begun.attempt.credentials.password, &begun.hash))
            .collect();
        let pairs: Vec<_> = group
            .iter()
            .zip(&keys)
            .flat_map(|(begun, keys)| keys.iter().map(|key| key.pair(&begun.hash)))
            .collect();
        let mut matches = self.hashes.verify(&pairs)?.into_iter();
        Ok(keys.iter().map(|keys| Comparison::of(keys, &mut matches)).collect())
    }

    /// Returns the outcome of an attempt after its hash, or `None` if the hash of the user was replaced
    /// after it matched. `now` is the user as read after the hash.
    fn finish<'a>(
        &self,
        begun: &Begun<'a>,
        compared: Comparison,
        now: Result<Option<User>, StoreError>,
        outdated: &mut Vec<OutdatedHash<'a>>,
    ) -> Option<Outcome> {
        let Begun { attempt, is_known, ref hash, .. } = *begun;
        let name = &attempt.credentials.user;
        let before = is_known.then_some(hash);
        let decided = now.and_then(|now| decide(&*self.store, name, before, now, compared));
        let (found, candidate) = match decided {
            Ok(Ok(granted)) => granted,
            Ok(Err(NotGranted::HashReplaced)) => return None,
            Ok(Err(NotGranted::Outcome(refused))) => return Some(refused),
            Err(e) => return Some(self.unavailable(&e)),
        };
        let FoundUser { user, groups, state } = found;
        let grant = grant_of(name, &user, groups);
        let entry = state.revision(attempt.revision).map(|revision| CacheEntry {
            hash: self.keyed.hash(hash),
            revision,
            expires: user.expires,
            grant: Arc::clone(&grant),
            source: attempt.source,
        });
        if let (Some(entry), Some(key)) = (&entry, attempt.keys.get(candidate)) {
            self.cache().insert(*key, entry.clone(), Instant::now());
        }
        let is_weak = self.rehash && needs_rehash(&hash.bcrypt, self.dummy.cost().get());
        if is_weak || (self.upgrade && hash.wrapped.is_some()) {
            outdated.push(OutdatedHash { attempt, hash: hash.clone(), entry });
        }
        Some(Outcome::Verified(grant))
    }

    fn unavailable(&self, e: &StoreError) -> Outcome {
        // The error names a user only if it exists, because the text in the name field may be a
        // password.
        self.log_failure("cannot check credentials", e);
        Outcome::Unavailable
    }

    /// Logs a failure of the store, unless the store has logged it.
    pub(super) fn log_failure(&self, what: &str, e: &StoreError) {
        if !e.is_outage() {
            self.audit.failure(&format_args!("{what}: {e}"));
        }
    }

    /// Replaces hashes by bcrypt of the configured cost, if they are still those of their users.
    fn rehash(&self, outdated: &[OutdatedHash<'_>]) {
        // A password that bcrypt does not read completely keeps its imported hash.
        let with_key = outdated.iter().filter_map(|outdated| {
            let password = outdated.attempt.credentials.password.password().ok()?;
            Some((outdated, BcryptKey::from(&password)))
        });
        let (outdated, keys): (Vec<_>, Vec<_>) = with_key.unzip();
        let fresh = hashing::hash_all(&keys, self.dummy.cost());
        let fresh = fresh.inspect_err(|e| {
            self.audit.failure(&format_args!("cannot rehash passwords: {e}"));
        });
        for (outdated, fresh) in outdated.into_iter().zip(fresh.unwrap_or_default()) {
            let user = quoted(outdated.attempt.credentials.user.as_str());
            match self.replace(outdated, fresh.into()) {
                Ok(replaced) => {
                    if replaced {
                        log::info!("user {user} has a stronger hash now");
                    }
                    self.replacing_fails.store(false, Ordering::Relaxed);
                }
                // Once, since every login of a user with such a hash would fail so.
                Err(e) => {
                    if !self.replacing_fails.swap(true, Ordering::Relaxed) {
                        let what = "cannot replace the hash of user";
                        self.audit.failure(&format_args!(
                            "{what} {user}, further failures are not logged: {e}"
                        ));
                    }
                }
            }
        }
    }

    /// Replaces a hash, and keeps the password in the cache. The revision of the entry is from
    /// before the change, so the next request reads the record.
    pub(super) fn replace(
        &self,
        outdated: &OutdatedHash<'_>,
        fresh: StoredHash,
    ) -> Result<bool, StoreError> {
        let OutdatedHash { attempt, hash, entry } = outdated;
        let digest = self.keyed.hash(&fresh);
        let replaced = self.store.replace_hash(&attempt.credentials.user, hash, fresh)?;
        // The new hash covers the normalized password, the last candidate.
        if let (true, Some(entry), Some(key)) = (replaced, entry, attempt.keys.last()) {
            self.cache().insert(*key, CacheEntry { hash: digest, ..entry.clone() }, Instant::now());
        }
        Ok(replaced)
    }
}

/// The result of a look-up in the cache.
pub(super) enum CacheLookup {
    Hit(Arc<Grant>),
    Miss,
    /// The record of the user may have changed since.
    Outdated(Box<CacheEntry>),
}

/// An attempt whose user was looked up.
struct Begun<'a> {
    /// The index in the batch.
    index: usize,
    attempt: &'a Attempt,
    is_known: bool,
    /// The hash of the user, or the dummy hash.
    hash: StoredHash,
}

impl<'a> Begun<'a> {
    fn user(&self) -> &'a UserName {
        &self.attempt.credentials.user
    }
}

/// A hash to replace by a better one of the same password.
pub(super) struct OutdatedHash<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) hash: StoredHash,
    pub(super) entry: Option<CacheEntry>,
}

/// A candidate for a password as the key of a hash. A candidate that cannot be the password takes the
/// same time and matches no hash.
struct CandidateKey(Option<BcryptKey>);

impl CandidateKey {
    fn pair<'a>(&self, hash: &'a StoredHash) -> (BcryptKey, &'a PasswordHash) {
        (self.0.clone().unwrap_or_else(BcryptKey::dummy), &hash.bcrypt)
    }
}

/// Returns the candidates for a password as keys of a hash.
fn keys(password: &PresentedPassword, hash: &StoredHash) -> Vec<CandidateKey> {
    let candidates = password.candidates();
    candidates.map(|octets| CandidateKey(BcryptKey::of_candidate(octets, hash))).collect()
}

/// The result of comparing the candidates for a password with a hash.
#[derive(Clone, Copy)]
enum Comparison {
    /// This candidate matches.
    Matches { candidate: usize },
    /// No candidate matches.
    Differs,
    /// Every candidate is longer than bcrypt reads.
    TooLong,
}

impl Comparison {
    /// Takes the results of as many comparisons as there are candidates.
    fn of(keys: &[CandidateKey], matches: &mut impl Iterator<Item = bool>) -> Self {
        let mut compared = Self::TooLong;
        for (candidate, (key, matches)) in keys.iter().zip(matches).enumerate() {
            match (&key.0, matches, compared) {
                (None, ..) | (_, _, Self::Matches { .. }) => {}
                (Some(_), true, _) => compared = Self::Matches { candidate },
                (Some(_), false, _) => compared = Self::Differs,
            }
        }
        compared
    }
}

/// Checks credentials as the server does, without its cache.
pub(crate) fn check(
    store: &dyn UserReader,
    credentials: &Credentials,
) -> Result<Outcome, StoreError> {
    let before = store.find(&credentials.user)?.map(|user| user.hash);
    let dummy = PasswordHash::dummy(Cost::DEFAULT).into();
    let hash = before.as_ref().unwrap_or(&dummy);
    let keys = keys(&credentials.password, hash);
    let pairs: Vec<_> = keys.iter().map(|key| key.pair(hash)).collect();
    let matches = hashing::verify_all(&pairs).map_err(hashing_failed)?;
    let compared = Comparison::of(&keys, &mut matches.into_iter());
    let now = store.find(&credentials.user)?;
    let decided = decide(store, &credentials.user, before.as_ref(), now, compared)?;
    Ok(match decided {
        Ok((found, _)) => Outcome::Verified(grant_of(&credentials.user, &found.user, found.groups)),
        Err(NotGranted::Outcome(refused)) => refused,
        Err(NotGranted::HashReplaced) => Outcome::WrongPassword,
    })
}

/// A granted user, and the candidate that matched.
type Granted = (FoundUser, usize);

/// The reason why a password is not granted.
enum NotGranted {
    Outcome(Outcome),
    /// It matched a hash that the user has no more.
    HashReplaced,
}

impl From<Outcome> for NotGranted {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(outcome)
    }
}

/// Decides on a password that was compared with the hash `before`, `None` for an unknown user.
///
/// The hash took long, so the decision rests on the record `now`, read after it. A refusal of the
/// password does not depend on it, but its time would if only some refusals read it. So every refusal
/// takes the same look-ups, and groups are read only for a user who may log in.
fn decide(
    store: &dyn UserReader,
    name: &UserName,
    before: Option<&StoredHash>,
    now: Option<User>,
    compared: Comparison,
) -> Result<Result<Granted, NotGranted>, StoreError> {
    let (before, candidate) = match (before, compared) {
        (_, Comparison::TooLong) => return Ok(Err(Outcome::TooLong.into())),
        (None, _) => return Ok(Err(Outcome::UnknownUser.into())),
        (Some(_), Comparison::Differs) => return Ok(Err(Outcome::WrongPassword.into())),
        (Some(before), Comparison::Matches { candidate }) => (before, candidate),
    };
    if let Err(refused) = admit(now.as_ref(), before) {
        return Ok(Err(refused));
    }
    // A grant rests on the record and the groups of one point in time.
    let Some(found) = store.find_with_groups(name)? else {
        return Ok(Err(Outcome::UnknownUser.into()));
    };
    Ok(admit(Some(&found.user), before).map(|()| (found, candidate)))
}

fn grant_of(name: &UserName, user: &User, groups: Arc<Groups>) -> Arc<Grant> {
    let credential_version = user.credential_version;
    Arc::new(Grant { user: name.clone(), groups, credential_version })
}

/// Checks that the password matched the hash of the user, and that they may log in now.
fn admit(user: Option<&User>, verified: &StoredHash) -> Result<(), NotGranted> {
    match user {
        None => Err(Outcome::UnknownUser.into()),
        Some(user) if user.hash != *verified => Err(NotGranted::HashReplaced),
        Some(user) if user.locked => Err(Outcome::Locked.into()),
        Some(user) if user.has_expired(SystemTime::now()) => Err(Outcome::Expired.into()),
        Some(_) => Ok(()),
    }
}

fn hashing_failed(e: HashingError) -> StoreError {
    StoreError::failed_by(format!("bcrypt failed: {e}"), e)
}
