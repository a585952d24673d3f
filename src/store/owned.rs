//! A store that root uses as its owner, on threads that act as that user. Knows neither SQLite nor
//! the content of a store.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lease::LOCAL;
use super::owner::Owner;
use super::{FoundUser, Revision, StoreError, Transaction, UserReader, UserStore, Visibility};
use crate::domain::{Account, GroupName, StoredHash, User, UserName};

/// A value on a thread that acts as its owner. It is made, used and dropped there.
struct OnThread<T> {
    owner: Owner,
    /// `None` while the value is being dropped.
    jobs: Option<Sender<OwnerJob<T>>>,
    thread: Option<JoinHandle<()>>,
}

type OwnerJob<T> = Box<dyn FnOnce(&mut T) + Send>;

impl<T: 'static> OnThread<T> {
    fn start(
        owner: Owner,
        make: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, waiting) = channel::<OwnerJob<T>>();
        let (made, is_made) = sync_channel(1);
        let acting = owner.clone();
        let work = move || match acting.assume().and_then(|()| make()) {
            Ok(mut value) => {
                // The receiver is gone only if the process ends.
                let _ = made.send(Ok(()));
                for job in waiting {
                    // As in a store that is used directly, a panic fails one call.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut value)));
                }
            }
            Err(e) => drop(made.send(Err(e))),
        };
        let thread =
            thread::Builder::new().name("store".to_owned()).spawn(work).map_err(cannot_start)?;
        let on_thread = Self { owner, jobs: Some(jobs), thread: Some(thread) };
        on_thread.result(&is_made)?;
        Ok(on_thread)
    }

    /// Starts a job. Its result comes through the channel.
    fn begin<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Receiver<Result<R, StoreError>> {
        let (done, result) = sync_channel(1);
        let job = Box::new(move |value: &mut T| drop(done.send(job(value))));
        // A thread that has ended has dropped the sender of `result`, which the receiver notices.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
        result
    }

    fn result<R>(&self, result: &Receiver<Result<R, StoreError>>) -> Result<R, StoreError> {
        result.recv().unwrap_or_else(|_| Err(lost())).map_err(|e| self.owner.explain(e))
    }

    fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.result(&self.begin(job))
    }
}

impl<T> Drop for OnThread<T> {
    /// Waits until the value is dropped, because the last connection of a store checkpoints its
    /// log.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn cannot_start(e: io::Error) -> StoreError {
    StoreError::failed_by(format!("cannot start a thread for the store: {e}"), e)
}

pub(super) fn lost() -> StoreError {
    StoreError::failed("the thread of the store has failed")
}

/// A store that is used as its owner. Each transaction has its own thread, so that a transaction
/// that waits for its turn blocks no look-up.
pub(super) struct OwnedStore<S>(OnThread<S>);

impl<S: OwnableStore> OwnedStore<S> {
    pub(super) fn open(
        owner: Owner,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        OnThread::start(owner, open).map(Self)
    }
}

/// A store whose transactions can begin on another thread.
pub(super) trait OwnableStore: UserStore + 'static {
    /// Returns a function that begins a transaction.
    fn beginner(&self) -> Result<Begin, StoreError>;
}

/// Begins a transaction on the thread that calls it.
pub(super) type Begin = Box<dyn FnOnce() -> Result<Box<dyn Transaction>, StoreError> + Send>;

impl<S: OwnableStore> UserReader for OwnedStore<S> {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.find(&name))
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.find_with_groups(&name))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.0.call(|store| store.ready())
    }

    fn revision(&self, now: Instant) -> Result<Revision, StoreError> {
        self.0.call(move |store| store.revision(now))
    }

    fn reading_age(&self, now: Instant) -> Option<Duration> {
        self.0.call(move |store| Ok(store.reading_age(now))).ok().flatten()
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
        self.0.call(|store| store.checkpoint())
    }
}

impl<S: OwnableStore> UserStore for OwnedStore<S> {
    fn is_empty(&self) -> Result<bool, StoreError> {
        self.0.call(|store| store.is_empty())
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.contains(&name))
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.0.call(|store| store.count())
    }

    fn first(&self) -> Result<Option<UserName>, StoreError> {
        self.0.call(|store| store.first())
    }

    fn has_member(&self, group: &GroupName) -> Result<bool, StoreError> {
        let group = group.clone();
        self.0.call(move |store| store.has_member(&group))
    }

    /// Calls `visit` on the caller's thread, with the caller's rights.
    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        let (show, shown) = sync_channel(64);
        let result = self.0.begin(move |store| {
            store.each(&mut |account| match show.send(account) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        for account in &shown {
            if visit(account).is_break() {
                break;
            }
        }
        drop(shown);
        self.0.result(&result)
    }

    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let begin = self.0.call(|store| store.beginner())?;
        let changes = OnThread::start(self.0.owner.clone(), || begin().map(Some))?;
        Ok(Box::new(OwnedTransaction(changes)))
    }

    fn visibility(&self) -> Visibility {
        self.0
            .call(|store| Ok(store.visibility()))
            .unwrap_or_else(|e| Visibility::new(Err(e), || Ok(())))
    }
}

/// A transaction on its own thread, or `None` after its end.
struct OwnedTransaction(OnThread<Option<Box<dyn Transaction>>>);

impl OwnedTransaction {
    fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Box<dyn Transaction>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.0.call(|changes| changes.as_mut().map_or_else(|| Err(lost()), job))
    }

    fn end(&self, end: fn(Box<dyn Transaction>) -> Visibility) -> Visibility {
        let ended = self.0.call(move |changes| changes.take().map(end).ok_or_else(lost));
        match ended {
            Ok(visibility) => visibility.map_err(|e| self.0.owner.explain(e)),
            // The outcome of the commit is unknown. Its changes are visible after the longest
            // lease.
            Err(e) => Visibility::new(Err(e), || {
                thread::sleep(LOCAL);
                Ok(())
            }),
        }
    }
}

impl Transaction for OwnedTransaction {
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError> {
        let name = name.clone();
        self.call(move |changes| changes.find(&name))
    }

    fn names(&mut self) -> Result<Vec<UserName>, StoreError> {
        self.call(|changes| changes.names())
    }

    fn put(&mut self, account: &Account) -> Result<(), StoreError> {
        let account = account.clone();
        self.call(move |changes| changes.put(&account))
    }

    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError> {
        let (from, to) = (from.clone(), to.clone());
        self.call(move |changes| changes.rename(&from, &to))
    }

    fn remove(&mut self, name: &UserName) -> Result<bool, StoreError> {
        let name = name.clone();
        self.call(move |changes| changes.remove(&name))
    }

    fn commit(self: Box<Self>) -> Visibility {
        self.end(|changes| changes.commit())
    }

    fn rollback(self: Box<Self>) -> Visibility {
        self.end(|changes| changes.rollback())
    }
}
