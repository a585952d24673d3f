//! Verifies credentials against the cache and the store.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::audit::Audit;
use super::cache::{Cache, CacheEntry};
use super::hash_meter::HashMeter;
use super::keyed::{Key, Keyed};
use super::throttle::{LoginAttempt, Source, Throttle};
use super::{AuthConfig, Grant, Outcome, OwnLine};
use crate::domain::{Cost, Credentials, Groups, PasswordHash, User, UserName};
use crate::hashing::{self, HashingError, needs_rehash};
use crate::store::{Revision, StoreError, UserReader};
use crate::text::quoted;

/// The state that requests and workers share.
pub(super) struct Verifier {
    pub(super) store: Box<dyn UserReader>,
    /// The hash for unknown users, so that they take as long as known ones.
    pub(super) dummy: PasswordHash,
    pub(super) keyed: Keyed,
    cache: OwnLine<Mutex<Cache>>,
    throttle: Mutex<Throttle>,
    pub(super) hashes: HashMeter,
    pub(super) audit: Audit,
    rehash: bool,
}

impl Verifier {
    pub(super) fn new(store: Box<dyn UserReader>, config: &AuthConfig) -> io::Result<Self> {
        Ok(Self {
            store,
            dummy: PasswordHash::dummy(config.cost),
            keyed: Keyed::new()?,
            cache: OwnLine(Mutex::new(Cache::new(config.cache_entries, config.cache_lifetime))),
            throttle: Mutex::new(Throttle::new(config.source_limit, config.user_limit)),
            hashes: HashMeter::expecting(config.cost),
            audit: Audit::start(config.audit_hits)?,
            rehash: config.rehash,
        })
    }

    // A panic while one of these was locked has left it consistent, because each call on it is one
    // step.
    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        #[cfg(test)]
        super::tests::interleavings::step();
        self.cache.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the revision of the store for a request that arrived at `now`. Returns `None` if it
    /// cannot be read. Then the cache is not used.
    pub(super) fn revision(&self, now: Instant) -> Option<Revision> {
        self.store
            .revision(now)
            .inspect_err(|e| self.audit.failure(&format_args!("cannot use the cache: {e}")))
            .ok()
    }

    /// Returns the grant if the cache has these credentials, and they are right at this revision.
    /// Takes microseconds. `now` is the time of the request.
    pub(super) fn lookup_cache(
        &self,
        key: &Key,
        source: Source,
        revision: Revision,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        let entry = self.cache().get(key, now)?;
        let other_source = entry.source != source;
        // The clock is not read for most users, because they never expire.
        let expired = entry.expires.is_some_and(|end| end.has_passed(SystemTime::now()));
        let outdated = entry.revision != revision || expired;
        if !other_source && !outdated {
            return Some(entry.grant);
        }
        let mut current = CacheEntry { source, ..entry };
        if outdated {
            // The user is read after the revision, so that the next look-up reads later changes.
            let name = &current.grant.user;
            let (user, groups) = match self.store.find_with_groups(name) {
                Ok(Some((user, groups)))
                    if self.keyed.hash(&user.hash) == current.hash
                        && !user.locked
                        && !user.has_expired(SystemTime::now()) =>
                {
                    (user, groups)
                }
                Ok(_) => {
                    self.cache().remove(key);
                    return None;
                }
                // The verification that follows meets the error too, and logs it.
                Err(_) => return None,
            };
            let grant = Arc::new(Grant { user: name.clone(), groups });
            current = CacheEntry { revision, expires: user.expires, grant, ..current };
        }
        let grant = Arc::clone(&current.grant);
        self.cache().insert(*key, current, now);
        if other_source {
            let user = self.keyed.user(&grant.user);
            self.throttle().remember(LoginAttempt { user, source });
        }
        Some(grant)
    }

    /// Verifies credentials. Takes as long as a hash. `revision` is from before.
    ///
    /// Returns also the hash of the user if the credentials are right and the hash should be
    /// replaced.
    pub(super) fn verify(
        &self,
        key: &Key,
        credentials: &Credentials,
        source: Source,
        revision: Option<Revision>,
    ) -> (Outcome, Option<PasswordHash>) {
        self.try_to_verify(key, credentials, source, revision).unwrap_or_else(|e| {
            // The error names a user only if it exists, because the text in the name field may be a
            // password.
            self.audit.failure(&format_args!("cannot check credentials: {e}"));
            (Outcome::Unavailable, None)
        })
    }

    fn try_to_verify(
        &self,
        key: &Key,
        credentials: &Credentials,
        source: Source,
        revision: Option<Revision>,
    ) -> Result<(Outcome, Option<PasswordHash>), StoreError> {
        let matches = |hash: &PasswordHash| {
            let digest = self.keyed.hash(hash);
            // Another attempt may have verified the same credentials while this one waited.
            let entry = self.cache().get(key, Instant::now());
            match entry.is_some_and(|entry| entry.hash == digest) {
                true => Ok(true),
                false => self.hashes.verify(credentials, hash).map_err(hashing_failed),
            }
        };
        match compare(&*self.store, &credentials.user, &self.dummy, matches)? {
            Ok((User { hash, expires, .. }, groups)) => {
                let grant = Arc::new(Grant { user: credentials.user.clone(), groups });
                if let Some(revision) = revision {
                    let (hash, grant) = (self.keyed.hash(&hash), Arc::clone(&grant));
                    let entry = CacheEntry { hash, revision, expires, grant, source };
                    self.cache().insert(*key, entry, Instant::now());
                }
                let weak = self.rehash && needs_rehash(&hash, self.dummy.cost().get());
                Ok((Outcome::Verified(grant), weak.then_some(hash)))
            }
            Err(refused) => Ok((refused, None)),
        }
    }

    /// Replaces a weak hash by one of the configured cost, if it is still the hash of the user.
    pub(super) fn rehash(&self, credentials: &Credentials, weak: &PasswordHash) {
        let user = &credentials.user;
        match self.try_to_rehash(credentials, weak) {
            Ok(true) => log::info!("user {} has a stronger hash now", quoted(user.as_str())),
            Ok(false) => {}
            Err(e) => {
                let user = quoted(user.as_str());
                self.audit.failure(&format_args!("cannot rehash the password of user {user}: {e}"))
            }
        }
    }

    pub(super) fn try_to_rehash(
        &self,
        credentials: &Credentials,
        weak: &PasswordHash,
    ) -> Result<bool, StoreError> {
        let cost = self.dummy.cost();
        let strong = hashing::hash(&credentials.password, cost).map_err(hashing_failed)?;
        self.store.replace_hash(&credentials.user, weak, strong)
    }
}

/// Checks credentials as the server does, without its cache.
pub(crate) fn check(
    store: &dyn UserReader,
    credentials: &Credentials,
) -> Result<Outcome, StoreError> {
    let matches =
        |hash: &PasswordHash| hashing::verify(&credentials.password, hash).map_err(hashing_failed);
    let dummy = PasswordHash::dummy(Cost::DEFAULT);
    let compared = compare(store, &credentials.user, &dummy, matches)?;
    Ok(compared.map_or_else(
        |refused| refused,
        |(_, groups)| Outcome::Verified(Arc::new(Grant { user: credentials.user.clone(), groups })),
    ))
}

/// Compares a password with the hash of a user. `matches` takes the time of a hash.
///
/// Every refusal takes the same look-ups. Groups are read only for a user who may log in.
fn compare(
    store: &dyn UserReader,
    name: &UserName,
    dummy: &PasswordHash,
    matches: impl FnOnce(&PasswordHash) -> Result<bool, StoreError>,
) -> Result<Result<(User, Arc<Groups>), Outcome>, StoreError> {
    let before = store.find(name)?;
    let right = matches(before.as_ref().map_or(dummy, |user| &user.hash))?;
    // The hash took long, so the decision rests on the record as it is now. A refusal does not
    // depend on it, but its time would if only some refusals read it.
    let now = store.find(name)?;
    let Some(before) = before else { return Ok(Err(Outcome::UnknownUser)) };
    if !right {
        return Ok(Err(Outcome::WrongPassword));
    }
    if let Err(refused) = admit(now, &before.hash) {
        return Ok(Err(refused));
    }
    // A grant rests on the record and the groups of one point in time.
    let Some((user, groups)) = store.find_with_groups(name)? else {
        return Ok(Err(Outcome::UnknownUser));
    };
    Ok(admit(Some(user), &before.hash).map(|user| (user, groups)))
}

/// Returns the user if the password matched their hash, and they may log in now.
fn admit(user: Option<User>, verified: &PasswordHash) -> Result<User, Outcome> {
    match user {
        None => Err(Outcome::UnknownUser),
        Some(user) if user.hash != *verified => Err(Outcome::WrongPassword),
        Some(user) if user.locked => Err(Outcome::Locked),
        Some(user) if user.has_expired(SystemTime::now()) => Err(Outcome::Expired),
        Some(user) => Ok(user),
    }
}

fn hashing_failed(e: HashingError) -> StoreError {
    StoreError::failed_by(format!("bcrypt failed: {e}"), e)
}
