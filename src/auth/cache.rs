//! The cache of verified credentials.
//!
//! Only right credentials are entered, passwords and stored hashes as keyed digests. Does not
//! decide whether a user may log in. Time is a parameter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Grant;
use super::bounded::OfDigests;
use super::keyed::{HashDigest, Key};
use super::throttle::Source;
use crate::store::Revision;
use crate::time::Timestamp;

/// Verified credentials.
#[derive(Clone, PartialEq)]
pub(super) struct CacheEntry {
    /// The stored hash that the password matched.
    pub(super) hash: HashDigest,
    /// The revision of the store before the record was read last.
    pub(super) revision: Revision,
    /// The expiry of the user, as read last.
    pub(super) expires: Option<Timestamp>,
    /// The user and their groups, as read last.
    pub(super) grant: Arc<Grant>,
    /// The source of the last request.
    pub(super) source: Source,
}

pub(super) struct Cache {
    entries: OfDigests<Key, (CacheEntry, Instant)>,
    lifetime: Duration,
    aged: Option<Instant>,
}

impl Cache {
    /// Makes a cache of at most this many entries, which drops an entry that is unused for
    /// `lifetime`.
    pub(super) fn new(entries: usize, lifetime: Duration) -> Self {
        Self { entries: OfDigests::new(entries), lifetime, aged: None }
    }

    /// Returns an entry, and counts it as used.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<CacheEntry> {
        let (entry, used) = self.entries.get(key)?;
        if now.saturating_duration_since(*used) >= self.lifetime {
            self.entries.remove(key);
            return None;
        }
        *used = now;
        Some(entry.clone())
    }

    pub(super) fn insert(&mut self, key: Key, entry: CacheEntry, now: Instant) {
        // Drops entries that are never asked for again too.
        if now.saturating_duration_since(*self.aged.get_or_insert(now)) >= self.lifetime {
            self.entries.age();
            self.aged = Some(now);
        }
        self.entries.insert(key, (entry, now));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::keyed::Keyed;
    use super::*;
    use crate::domain::{Cost, CredentialVersion, PasswordHash, UserName};

    fn key(keyed: &Keyed, user: &str) -> Key {
        keyed.candidate(&UserName::parse(user).unwrap(), b"x")
    }

    fn entry(keyed: &Keyed) -> CacheEntry {
        CacheEntry {
            hash: keyed.hash(&PasswordHash::dummy(Cost::DEFAULT).into()),
            revision: Revision(1),
            expires: None,
            grant: Arc::new(Grant {
                user: UserName::parse("roy").unwrap(),
                groups: Arc::default(),
                credential_version: CredentialVersion::default(),
            }),
            source: Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// B-05: an unused entry expires. The time of another thread may be a little ahead.
    #[test]
    fn entry_expires_when_it_is_unused_for_its_lifetime() {
        let keyed = Keyed::new().unwrap();
        let (roy, ann) = (key(&keyed, "roy"), key(&keyed, "ann"));
        let entry = entry(&keyed);
        let lifetime = Duration::from_secs(60);
        let mut cache = Cache::new(8, lifetime);
        let mut now = Instant::now();
        cache.insert(roy, entry.clone(), now);
        for _ in 0..5 {
            now += lifetime - Duration::from_nanos(1);
            assert!(cache.get(&roy, now) == Some(entry.clone()), "used in time");
        }
        assert!(cache.get(&roy, now - Duration::from_secs(1)).is_some());
        now += lifetime;
        assert!(cache.get(&roy, now).is_none());
        assert_eq!(cache.entries.len(), 0);

        // No request uses the entry of roy again, and it expires all the same.
        cache.insert(roy, entry.clone(), now);
        for n in 1..=2 {
            cache.insert(ann, entry.clone(), now + lifetime * n);
        }
        assert_eq!(cache.entries.len(), 1);
    }

    /// B-05
    #[test]
    fn cache_is_bounded_and_empty_without_entries() {
        let keyed = Keyed::new().unwrap();
        let entry = entry(&keyed);
        let mut cache = Cache::new(10, Duration::MAX);
        let mut none = Cache::new(0, Duration::MAX);
        let now = Instant::now();
        for n in 0..100 {
            let key = key(&keyed, &format!("user-{n}"));
            cache.insert(key, entry.clone(), now);
            none.insert(key, entry.clone(), now);
            assert!(cache.entries.len() <= 10);
            assert!(cache.get(&key, now).is_some() && none.get(&key, now).is_none());
        }
    }
}
