//! Open streams: requests that were granted and are still being served. Decides which of them end
//! because their user may not log in any more.
//!
//! A change of the store is noticed by its revision, which is read once for all streams. Only after
//! a change are records read, one for each user with a stream. Knows neither connections nor
//! clocks, since time is a parameter. It is exact by three rules. The revision is read before the
//! records. A stream that is newer than the last check is checked by the next one, also at
//! the same revision. A stream that could not be checked for [`AuthConfig::stream_grace`](super::AuthConfig) ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;

use super::Grant;
use crate::domain::{GroupName, Groups, User, UserName};
use crate::store::{FoundUser, Revision, StoreError};
use crate::time::Timestamp;

/// The means to end a stream.
pub trait EndStream: Send + Sync {
    /// Ends the stream at once. Is called from another thread.
    fn end(&self);
}

/// The open streams of all threads.
pub(super) struct OpenStreams {
    shards: Mutex<Vec<Arc<StreamShard>>>,
    /// The time after which a stream ends if the store could not be read since.
    grace: Duration,
}

/// The open streams of one thread, which alone opens and closes them.
#[derive(Default)]
pub struct StreamShard(Mutex<Slab<StreamEntry>>);

/// An open stream. Dropping it closes it.
pub struct OpenStream {
    shard: Arc<StreamShard>,
    key: usize,
}

struct StreamEntry {
    grant: Arc<Grant>,
    /// The user has to be in one of these groups, if there are any. `None` for none, since all threads
    /// would count the references to one empty list.
    groups: Option<Arc<[GroupName]>>,
    end: Arc<dyn EndStream>,
    /// The revision of the last check. `None` before the first one.
    checked: Option<Revision>,
    /// The expiry of the user at the last check.
    expires: Option<Timestamp>,
    /// The time of the last check that could be made, or of the first one that could not.
    confirmed: Option<Instant>,
}

/// The reason why a stream is ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum StreamEnd {
    Removed,
    Locked,
    Expired,
    NewPassword,
    NotInGroup,
    Unconfirmed,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "the user was removed",
            Self::Locked => "the user was locked",
            Self::Expired => "the user has expired",
            Self::NewPassword => "the password was changed",
            Self::NotInGroup => "the user is in none of the required groups",
            Self::Unconfirmed => "the store could not be read in time",
        })
    }
}

/// The number of ended streams by user and reason.
pub(super) type EndedStreams = BTreeMap<(UserName, StreamEnd), usize>;

/// A look-up of a user. `None` if it failed.
type Found = Option<Option<FoundUser>>;

impl OpenStreams {
    pub(super) fn new(grace: Duration) -> Self {
        Self { shards: Mutex::default(), grace }
    }

    /// Adds the streams of one more thread.
    pub(super) fn add_shard(&self) -> Arc<StreamShard> {
        let shard = Arc::<StreamShard>::default();
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.push(Arc::clone(&shard));
        shard
    }

    fn shards(&self) -> Vec<Arc<StreamShard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of open streams.
    pub(super) fn len(&self) -> usize {
        self.shards().iter().map(|shard| shard.entries().len()).sum()
    }

    /// Has all streams checked by the next check, since the required groups have changed.
    pub(super) fn recheck(&self) {
        for shard in self.shards() {
            shard.entries().iter_mut().for_each(|(_, entry)| entry.checked = None);
        }
    }
}

impl StreamShard {
    /// Opens a stream of a granted request.
    pub fn open(
        self: &Arc<Self>,
        grant: Arc<Grant>,
        groups: Option<Arc<[GroupName]>>,
        end: Arc<dyn EndStream>,
    ) -> OpenStream {
        let entry =
            StreamEntry { grant, groups, end, checked: None, expires: None, confirmed: None };
        let key = self.entries().insert(entry);
        OpenStream { shard: Arc::clone(self), key }
    }

    /// Locks the streams. A panic while they were locked has left them consistent, because each call
    /// on them is one step.
    fn entries(&self) -> MutexGuard<'_, Slab<StreamEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shard.entries().try_remove(self.key);
    }
}

/// A check of all open streams, in three steps: [`StreamCheck::begin`] after the revision was read,
/// [`StreamCheck::look_up`] and [`StreamCheck::finish`].
pub(super) struct StreamCheck {
    shards: Vec<Arc<StreamShard>>,
    /// The revision that was read for this check. `None` if it could not be read.
    revision: Option<Revision>,
    found: BTreeMap<UserName, Found>,
    grace: Duration,
}

impl StreamCheck {
    /// Collects the users whose record has to be read.
    pub(super) fn begin(
        streams: &OpenStreams,
        revision: Option<Revision>,
        is_unchanged: impl Fn(&UserName, Revision) -> bool,
    ) -> Self {
        let shards = streams.shards();
        let mut users = BTreeSet::new();
        if revision.is_some() {
            for shard in &shards {
                for (_, entry) in shard.entries().iter_mut() {
                    let user = &entry.grant.user;
                    if entry.checked.is_some_and(|since| is_unchanged(user, since)) {
                        entry.checked = revision;
                    }
                    if entry.checked != revision && !users.contains(user) {
                        users.insert(user.clone());
                    }
                }
            }
        }
        let found = users.into_iter().map(|user| (user, None)).collect();
        Self { shards, revision, found, grace: streams.grace }
    }

    /// Reads the records, without a lock.
    pub(super) fn look_up(
        &mut self,
        find_all: impl Fn(&[&UserName]) -> Vec<Result<Option<FoundUser>, StoreError>>,
        failed: impl Fn(&StoreError),
    ) {
        let read = find_all(&self.found.keys().collect::<Vec<_>>());
        for (found, read) in self.found.values_mut().zip(read) {
            *found = read.inspect_err(&failed).ok();
        }
    }

    /// Ends the streams whose user may not log in, and returns their number.
    pub(super) fn finish(
        self,
        required: &[GroupName],
        now: Instant,
        wall: SystemTime,
    ) -> EndedStreams {
        let mut ended = EndedStreams::new();
        for shard in &self.shards {
            for (_, entry) in shard.entries().iter_mut() {
                let found = self.found.get(&entry.grant.user);
                if let Err(why) = entry.check(self.revision, found, self.grace, required, now, wall)
                {
                    *ended.entry((entry.grant.user.clone(), why)).or_default() += 1;
                    entry.end.end();
                }
            }
        }
        ended
    }
}

impl StreamEntry {
    /// Checks one stream.
    fn check(
        &mut self,
        revision: Option<Revision>,
        found: Option<&Found>,
        grace: Duration,
        required: &[GroupName],
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), StreamEnd> {
        let is_unchanged = revision.is_some() && self.checked == revision;
        if let Some(Some(record)) = found.filter(|_| !is_unchanged) {
            let FoundUser { user, groups, state } = record.as_ref().ok_or(StreamEnd::Removed)?;
            self.admit(user, groups, required)?;
            self.checked = state.revision(revision);
            self.expires = user.expires;
        } else if !is_unchanged {
            // Opened during this check, or the store cannot be read.
            let since = *self.confirmed.get_or_insert(now);
            let is_lost = now.saturating_duration_since(since) >= grace;
            return if is_lost { Err(StreamEnd::Unconfirmed) } else { self.check_expiry(wall) };
        }
        self.confirmed = Some(now);
        self.check_expiry(wall)
    }

    fn check_expiry(&self, wall: SystemTime) -> Result<(), StreamEnd> {
        match self.expires {
            Some(end) if end.has_passed(wall) => Err(StreamEnd::Expired),
            _ => Ok(()),
        }
    }

    /// Decides on a record of the user. A new hash of the same password is no new password.
    fn admit(&self, user: &User, groups: &Groups, required: &[GroupName]) -> Result<(), StreamEnd> {
        if user.credential_version != self.grant.credential_version {
            Err(StreamEnd::NewPassword)
        } else if user.locked {
            Err(StreamEnd::Locked)
        } else if !groups.has_one_of(required)
            || !groups.has_one_of(self.groups.as_deref().unwrap_or_default())
        {
            Err(StreamEnd::NotInGroup)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::auth::AuthConfig;
    use crate::domain::{Account, Cost, CredentialVersion, PasswordHash};
    use crate::store::UserReader;
    use crate::store::contract::{account, groups, name};
    use crate::store::mock::MockStore;

    #[derive(Default)]
    struct Ended(AtomicUsize);

    impl EndStream for Ended {
        fn end(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A store with the user roy, and the streams of one thread.
    struct Bench {
        store: MockStore,
        streams: OpenStreams,
        shard: Arc<StreamShard>,
        ended: Arc<Ended>,
        start: Instant,
        /// The number of checks so far, which are a second apart.
        checks: Cell<u32>,
    }

    fn roy() -> Account {
        Account { groups: groups(&["staff", "wine"]), ..account("roy") }
    }

    impl Bench {
        fn new() -> Self {
            let (store, streams) =
                (MockStore::default(), OpenStreams::new(AuthConfig::STREAM_GRACE));
            store.put(roy());
            let shard = streams.add_shard();
            let (ended, start, checks) = (Arc::default(), Instant::now(), Cell::new(0));
            Self { store, streams, shard, ended, start, checks }
        }

        /// Opens a stream of a request that was granted to roy as he was at the start.
        fn open(&self, required: &[&str]) -> OpenStream {
            let Account { name, groups, credential_version, .. } = roy();
            let grant = Arc::new(Grant { user: name, groups: groups.into(), credential_version });
            let required = required.iter().map(|group| GroupName::parse(group).unwrap());
            let required = (required.len() > 0).then(|| required.collect());
            self.shard.open(grant, required, Arc::clone(&self.ended) as _)
        }

        fn begin(&self) -> StreamCheck {
            self.checks.set(self.checks.get() + 1);
            let now = self.start + Duration::from_secs(1) * self.checks.get();
            StreamCheck::begin(&self.streams, self.store.revision(now).ok(), |name, since| {
                self.store.is_unchanged(name, since)
            })
        }

        fn look_up(&self, check: &mut StreamCheck) {
            check.look_up(|names| self.store.find_all_with_groups(names), |_| {});
        }

        fn finish(&self, check: StreamCheck, after: Duration) -> Vec<StreamEnd> {
            let ended = check.finish(&[], self.start + after, SystemTime::now());
            ended.into_iter().map(|((_, why), _)| why).collect()
        }

        /// Makes a whole check. Returns why it ended streams.
        fn check(&self) -> Vec<StreamEnd> {
            let mut check = self.begin();
            self.look_up(&mut check);
            self.finish(check, Duration::ZERO)
        }
    }

    /// A change of roy, and the reason for which it ends streams that require the group wine.
    fn changes() -> [(Option<Account>, Option<StreamEnd>); 8] {
        let credential_version = CredentialVersion::from_number(1);
        let hash = Ok(PasswordHash::dummy(Cost::DEFAULT).into());
        let past = Timestamp::from_seconds(0);
        let with_groups = |names: &[&str]| Account { groups: groups(names), ..roy() };
        [
            (None, Some(StreamEnd::Removed)),
            (Some(Account { locked: true, ..roy() }), Some(StreamEnd::Locked)),
            (Some(Account { expires: past, ..roy() }), Some(StreamEnd::Expired)),
            (Some(Account { credential_version, ..roy() }), Some(StreamEnd::NewPassword)),
            (Some(with_groups(&["staff"])), Some(StreamEnd::NotInGroup)),
            // Not the end of a stream:
            (Some(with_groups(&["wine"])), None),
            (Some(Account { hash, ..roy() }), None),
            (Some(Account { changed: Timestamp::from_seconds(7).unwrap(), ..roy() }), None),
        ]
    }

    /// U-08: in every order of the steps of a check, of the opening of a stream and of a change, the
    /// next whole check after both has ended the stream, if the change revokes it.
    #[test]
    fn stream_ends_in_every_order_of_change_and_check() {
        // The steps of a first check come in their order, and so do those of a second one.
        const STEPS: usize = 6;
        let mut orders = 0;
        for (change, expected) in changes() {
            for opened in 0..=STEPS {
                for changed in 0..=STEPS {
                    let bench = Bench::new();
                    let (mut stream, mut check, mut seen) = (None, None, Vec::new());
                    for step in 0..=STEPS {
                        // A stream that was granted before the change can be opened after it.
                        if step == changed {
                            match &change {
                                Some(account) => bench.store.put(account.clone()),
                                None => bench.store.remove(&name("roy")),
                            }
                        }
                        if step == opened {
                            stream = Some(bench.open(&["wine"]));
                        }
                        match step {
                            0 | 3 => check = Some(bench.begin()),
                            1 | 4 => bench.look_up(check.as_mut().unwrap()),
                            2 | 5 => {
                                seen.extend(bench.finish(check.take().unwrap(), Duration::ZERO));
                            }
                            _ => {}
                        }
                    }
                    seen.extend(bench.check());
                    let order = format!("opened {opened}, changed {changed}: {expected:?}");
                    // A check may have told the connection more than once.
                    seen.dedup();
                    assert_eq!(seen, expected.into_iter().collect::<Vec<_>>(), "{order}");
                    drop(stream);
                    assert_eq!(bench.streams.len(), 0);
                    orders += 1;
                }
            }
        }
        assert_eq!(orders, 8 * 49);
    }

    /// U-08: idle streams cost one reading of the revision, and no record.
    #[test]
    fn records_are_read_after_a_change_only() {
        let bench = Bench::new();
        let _streams = [bench.open(&[]), bench.open(&["wine"])];
        let read = |bench: &Bench| bench.begin().found.len();
        assert_eq!(read(&bench), 1, "one record for both streams of a user");
        assert_eq!(bench.check(), []);
        assert_eq!(read(&bench), 0);
        bench.store.put(account("ann"));
        assert_eq!(read(&bench), 1);
        assert_eq!(bench.check(), []);
        assert_eq!(read(&bench), 0);
        bench.streams.recheck();
        assert_eq!(read(&bench), 1, "the required groups may have changed");
    }

    /// U-08: the time of the expiry alone ends a stream.
    #[test]
    fn stream_ends_when_its_user_expires() {
        let bench = Bench::new();
        let expires = Timestamp::from_seconds(1_900_000_000);
        bench.store.put(Account { expires, ..roy() });
        let _stream = bench.open(&[]);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |wall| {
            let mut check = bench.begin();
            bench.look_up(&mut check);
            check.finish(&[], bench.start, wall).into_keys().map(|(_, why)| why).collect::<Vec<_>>()
        };
        assert_eq!(check(at(1_899_999_999)), []);
        assert_eq!(check(at(1_900_000_000)), [StreamEnd::Expired]);
        assert_eq!(bench.ended.0.load(Ordering::Relaxed), 1);
    }

    /// F-05: a store that cannot be read ends streams after 10 s, and not before.
    #[test]
    fn unconfirmed_stream_ends_after_ten_seconds() {
        let bench = Bench::new();
        let _stream = bench.open(&[]);
        let lost = |seconds| {
            let check = StreamCheck::begin(&bench.streams, None, |_, _| true);
            bench.finish(check, Duration::from_secs(seconds))
        };
        assert_eq!(lost(0), []);
        assert_eq!(lost(9), []);
        let mut check = bench.begin();
        bench.look_up(&mut check);
        assert_eq!(bench.finish(check, Duration::from_secs(9)), [], "confirmed again");
        assert_eq!(lost(18), []);
        // The revision can be read, and the record of this user cannot.
        bench.store.put(account("ann"));
        let mut check = bench.begin();
        check.look_up(|names| names.iter().map(|_| Err(StoreError::Busy)).collect(), |_| {});
        assert_eq!(bench.finish(check, Duration::from_secs(18)), []);
        let mut check = bench.begin();
        check.look_up(|names| names.iter().map(|_| Err(StoreError::Busy)).collect(), |_| {});
        assert_eq!(bench.finish(check, Duration::from_secs(19)), [StreamEnd::Unconfirmed]);
        assert_eq!(lost(19), [StreamEnd::Unconfirmed]);
    }
}
