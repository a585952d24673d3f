//! An in-memory store for tests, also those of other crates. Each call can be observed, delayed or
//! made to fail.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture, FutureExt};

use super::lease::{LOCAL, Lease, StoreClock};
use super::{
    FoundUser, RecordState, Revision, StoreError, Transaction, UserReader, UserStore, Visibility,
};
use crate::domain::{Account, GroupName, Groups, StoredHash, User, UserName};

/// A call of the store, as the hook sees it before it takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the methods")]
pub enum Call {
    Find,
    FindWithGroups,
    Contains,
    IsEmpty,
    Ready,
    Count,
    First,
    HasMember,
    Revision,
    NextRevision,
    /// The revision is read, since no lease covers it.
    ReadRevision,
    Checkpoint,
    Each,
    Begin,
    Commit,
    /// The commit has taken effect. An error makes its outcome unknown to the caller.
    Committed,
    Rollback,
    /// The wait for visibility.
    Wait,
}

type Hook = Box<dyn Fn(Call) -> Result<(), StoreError> + Send + Sync>;

/// A store in memory. Clones share it, like processes share a file.
#[derive(Clone)]
pub struct MockStore(Arc<MockShared>);

struct MockShared {
    data: Mutex<Data>,
    lease: Lease,
    started: StoreClock,
    /// `None` for the real clock, on which waits sleep. Otherwise only waits move the clock.
    clock: Option<Mutex<Instant>>,
    /// It says which users have changed.
    knows_names: bool,
    hook: Hook,
}

#[derive(Default)]
struct Data {
    accounts: BTreeMap<UserName, Account>,
    revision: u64,
    /// The revision of the last change of each user.
    changed: BTreeMap<UserName, u64>,
    /// A transaction is open.
    writing: bool,
}

impl Default for MockStore {
    fn default() -> Self {
        Self::with_hook(|_| Ok(()))
    }
}

impl MockStore {
    /// Makes an empty store that calls `hook` at each call.
    pub fn with_hook(
        hook: impl Fn(Call) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(false, Box::new(hook))
    }

    /// Makes a store whose clock only its own waits move.
    #[cfg(test)]
    pub(crate) fn with_still_clock(
        hook: impl Fn(Call) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(true, Box::new(hook))
    }

    /// Makes a store like [`MockStore::with_still_clock`] that says which users have changed.
    #[cfg(test)]
    pub(crate) fn with_names(
        hook: impl Fn(Call) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self::make(true, true, Box::new(hook))
    }

    fn new(has_still_clock: bool, hook: Hook) -> Self {
        Self::make(has_still_clock, false, hook)
    }

    fn make(has_still_clock: bool, knows_names: bool, hook: Hook) -> Self {
        let started = StoreClock::start();
        let clock = has_still_clock.then(|| Mutex::new(Instant::now()));
        let (data, lease) = (Mutex::default(), Lease::default());
        Self(Arc::new(MockShared { data, lease, started, clock, knows_names, hook }))
    }

    /// Adds or replaces a user, like another process that commits and does not wait.
    pub fn put(&self, account: Account) {
        let mut data = self.data();
        data.revision += 1;
        let revision = data.revision;
        data.changed.insert(account.name.clone(), revision);
        data.accounts.insert(account.name.clone(), account);
    }

    /// Removes a user, like another process that commits and does not wait.
    pub fn remove(&self, name: &UserName) {
        let mut data = self.data();
        data.revision += 1;
        let revision = data.revision;
        data.changed.insert(name.clone(), revision);
        data.accounts.remove(name);
    }

    fn call(&self, call: Call) -> Result<(), StoreError> {
        (self.0.hook)(call)
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, name: &UserName) -> Result<Option<(User, Groups)>, StoreError> {
        let Some(account) = self.data().accounts.get(name).cloned() else { return Ok(None) };
        let Account { hash, credential_version, groups, locked, expires, .. } = account;
        let hash = hash.map_err(|why| StoreError::BadRecord { user: name.clone(), why })?;
        Ok(Some((User { hash, credential_version, locked, expires }, groups)))
    }

    fn end(&self, outcome: Result<(), StoreError>) -> Visibility {
        let store = self.clone();
        Visibility::new(outcome, move || {
            store.call(Call::Wait)?;
            match &store.0.clock {
                None => thread::sleep(LOCAL),
                Some(clock) => *clock.lock().unwrap_or_else(PoisonError::into_inner) += LOCAL,
            }
            Ok(())
        })
    }
}

impl UserReader for MockStore {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.call(Call::Find)?;
        Ok(self.account(name)?.map(|(user, _)| user))
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError> {
        self.call(Call::FindWithGroups)?;
        let found = self.account(name)?;
        Ok(found.map(|(user, groups)| FoundUser {
            user,
            groups: Arc::new(groups),
            state: RecordState::Current,
        }))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.call(Call::Ready)
    }

    fn revision(&self, now: Instant) -> Result<Revision, StoreError> {
        let now = match &self.0.clock {
            None => now,
            Some(clock) => *clock.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let now = self.0.started.at(now);
        self.call(Call::Revision)?;
        if let Some(revision) = self.0.lease.current(now) {
            return Ok(revision);
        }
        self.0.lease.renew(now, || {
            self.call(Call::ReadRevision)?;
            Ok(Revision(self.data().revision))
        })
    }

    fn next_revision(&self, _: Instant) -> BoxFuture<'static, Result<Revision, StoreError>> {
        let next = self.call(Call::NextRevision).and_then(|()| self.revision(Instant::now()));
        future::ready(next).boxed()
    }

    fn is_unchanged(&self, name: &UserName, since: Revision) -> bool {
        let data = self.data();
        self.0.knows_names && data.changed.get(name).is_none_or(|changed| *changed <= since.0)
    }

    fn reading_age(&self, now: Instant) -> Option<Duration> {
        self.0.lease.age(self.0.started.at(now))
    }

    fn replace_hash(
        &self,
        name: &UserName,
        old: &StoredHash,
        new: StoredHash,
    ) -> Result<bool, StoreError> {
        super::replace_hash(self, name, old, new)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.call(Call::Checkpoint)
    }
}

impl UserStore for MockStore {
    fn is_empty(&self) -> Result<bool, StoreError> {
        self.call(Call::IsEmpty)?;
        Ok(self.data().accounts.is_empty())
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        self.call(Call::Contains)?;
        Ok(self.data().accounts.contains_key(name))
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.call(Call::Count)?;
        Ok(self.data().accounts.len() as u64)
    }

    fn first(&self) -> Result<Option<UserName>, StoreError> {
        self.call(Call::First)?;
        Ok(self.data().accounts.keys().next().cloned())
    }

    fn has_member(&self, group: &GroupName) -> Result<bool, StoreError> {
        self.call(Call::HasMember)?;
        Ok(self.data().accounts.values().any(|account| account.groups.contains(group)))
    }

    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.call(Call::Each)?;
        let accounts: Vec<_> = self.data().accounts.values().cloned().collect();
        let _ = accounts.into_iter().try_for_each(visit);
        Ok(())
    }

    /// Fails as busy while another transaction is open, instead of waiting.
    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.call(Call::Begin)?;
        let mut data = self.data();
        if std::mem::replace(&mut data.writing, true) {
            return Err(StoreError::Busy);
        }
        let accounts = data.accounts.clone();
        Ok(Box::new(MockTransaction { store: self.clone(), accounts, changed: false }))
    }

    fn visibility(&self) -> Visibility {
        self.end(Ok(()))
    }
}

struct MockTransaction {
    store: MockStore,
    accounts: BTreeMap<UserName, Account>,
    changed: bool,
}

impl Drop for MockTransaction {
    fn drop(&mut self) {
        self.store.data().writing = false;
    }
}

impl Transaction for MockTransaction {
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError> {
        Ok(self.accounts.get(name).cloned())
    }

    fn names(&mut self) -> Result<Vec<UserName>, StoreError> {
        Ok(self.accounts.keys().cloned().collect())
    }

    fn put(&mut self, account: &Account) -> Result<(), StoreError> {
        let mut account = account.clone();
        if account.hash.is_err()
            && let Some(stored) = self.accounts.get(&account.name)
        {
            account.hash.clone_from(&stored.hash);
        }
        self.accounts.insert(account.name.clone(), account);
        self.changed = true;
        Ok(())
    }

    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError> {
        if self.accounts.contains_key(to) {
            return Err(StoreError::UserExists);
        }
        let account = self.accounts.remove(from).ok_or(StoreError::NoSuchUser)?;
        self.accounts.insert(to.clone(), Account { name: to.clone(), ..account });
        self.changed = true;
        Ok(())
    }

    fn remove(&mut self, name: &UserName) -> Result<bool, StoreError> {
        let removed = self.accounts.remove(name).is_some();
        self.changed |= removed;
        Ok(removed)
    }

    fn commit(mut self: Box<Self>) -> Visibility {
        let store = self.store.clone();
        let outcome = store.call(Call::Commit).and_then(|()| {
            if self.changed {
                let mut data = store.data();
                data.revision += 1;
                let (before, after) = (&data.accounts, &self.accounts);
                let is_changed = |name: &&UserName| before.get(*name) != after.get(*name);
                let names = before.keys().chain(after.keys()).filter(is_changed);
                let names: Vec<_> = names.map(|name| (name.clone(), data.revision)).collect();
                data.changed.extend(names);
                data.accounts = std::mem::take(&mut self.accounts);
            }
            store.call(Call::Committed)
        });
        drop(self);
        store.end(outcome)
    }

    fn rollback(self: Box<Self>) -> Visibility {
        let store = self.store.clone();
        let outcome = store.call(Call::Rollback);
        drop(self);
        store.end(outcome)
    }
}
