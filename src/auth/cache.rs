//! Verified credentials: for which stored hash they were right, as of which revision.
//!
//! Only right ones are entered. Passwords and stored hashes are held as keyed digests. It does not
//! decide whether a user may enter, and time is a parameter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Grant;
use super::bounded::OfDigests;
use super::keyed::{HashDigest, Key};
use super::throttle::Source;
use crate::moment::Moment;
use crate::store::Revision;

/// Credentials that were right.
#[derive(Clone, PartialEq)]
pub(super) struct Verified {
    /// The stored hash for which they were.
    pub(super) hash: HashDigest,
    /// The store's revision before the user was last read and let in.
    pub(super) revision: Revision,
    /// When the user expires, as last read.
    pub(super) expires: Option<Moment>,
    /// The user and their groups, as last read.
    pub(super) grant: Arc<Grant>,
    /// Who showed them last.
    pub(super) source: Source,
}

pub(super) struct Cache {
    entries: OfDigests<Key, (Verified, Instant)>,
    lifetime: Duration,
    aged: Option<Instant>,
}

impl Cache {
    /// At most so many entries; each is forgotten when it was not used for `lifetime`.
    pub(super) fn new(entries: usize, lifetime: Duration) -> Self {
        Self { entries: OfDigests::new(entries), lifetime, aged: None }
    }

    /// What is known of these credentials, which are used by that.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Verified> {
        let (verified, used) = self.entries.get(key)?;
        if now.saturating_duration_since(*used) >= self.lifetime {
            self.entries.remove(key);
            return None;
        }
        *used = now;
        Some(verified.clone())
    }

    pub(super) fn insert(&mut self, key: Key, verified: Verified, now: Instant) {
        // What nobody asks for is forgotten too.
        if now.saturating_duration_since(*self.aged.get_or_insert(now)) >= self.lifetime {
            self.entries.age();
            self.aged = Some(now);
        }
        self.entries.insert(key, (verified, now));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::keyed::Keyed;
    use super::*;
    use crate::credential::{Cost, Credentials, Password, PasswordHash, UserName};

    fn key(keyed: &Keyed, user: &str) -> Key {
        let (user, password) = (UserName::parse(user).unwrap(), Password::parse("x").unwrap());
        keyed.credentials(&Credentials { user, password })
    }

    fn verified(keyed: &Keyed) -> Verified {
        Verified {
            hash: keyed.hash(&PasswordHash::decoy(Cost::DEFAULT)),
            revision: Revision(1),
            expires: None,
            grant: Arc::new(Grant {
                user: UserName::parse("roy").unwrap(),
                groups: Arc::default(),
            }),
            source: Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// B-05: an entry that is not used expires; time that another thread has seen may be a little ahead.
    #[test]
    fn an_entry_is_forgotten_when_it_was_not_used_for_its_lifetime() {
        let keyed = Keyed::new().unwrap();
        let (roy, ann) = (key(&keyed, "roy"), key(&keyed, "ann"));
        let entry = verified(&keyed);
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

        // Nobody asks for roy's again, and it goes all the same.
        cache.insert(roy, entry.clone(), now);
        for n in 1..=2 {
            cache.insert(ann, entry.clone(), now + lifetime * n);
        }
        assert_eq!(cache.entries.len(), 1);
    }

    /// B-05
    #[test]
    fn the_cache_is_bounded_and_a_cache_of_none_keeps_nothing() {
        let keyed = Keyed::new().unwrap();
        let entry = verified(&keyed);
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
