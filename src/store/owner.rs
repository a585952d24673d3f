//! Root uses a store of another user as that user.
//!
//! The owner of a folder can exchange what stands in it at any moment, so that root's own rights
//! would reach files of other users. Here a thread gives root's rights up for good before it
//! touches the store: it takes the owner's groups, then the group, then the user. The other threads
//! of the process keep their rights, for output and password files. This file knows nothing of what
//! a store contains.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{Account, Revision, Store, StoreError, Transaction, User};
use crate::credential::{Groups, UserName};
use crate::text::printable;

/// How many links a path may lead through, as for the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A user of the system with all the groups of theirs.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    /// A folder of root's that this user can't pass stands before the first one of another user,
    /// e.g. `/var/lib/private`, which systemd opens to a service alone.
    is_shut_out: bool,
}

impl Owner {
    /// Returns the user as whom a store at this path is to be used, or `None` if the caller uses it
    /// directly. For root that is the last user on the way to it, links included, who is not root:
    /// the owner of the folder, or a user who could have led the way to a folder of root's.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let cannot_find = |e: &dyn fmt::Display| {
            let path = printable(&path.to_string_lossy());
            StoreError::Failed(format!("cannot find {path}: {e}"))
        };
        let way = std::path::absolute(path).and_then(|path| Way::along(&path));
        let way = way.map_err(|e| cannot_find(&e))?;
        let Some((user, group)) = way.owner else { return Ok(None) };
        let owner = Self::with_groups(user, group, &way.before);
        if owner.is_shut_out && way.foreign_link {
            return Err(cannot_find(
                &"it leads through a link of another user, and past a closed folder",
            ));
        }
        Ok(Some(owner))
    }

    /// Looks up the groups of a user. A user that the system has no entry for, e.g. one of a
    /// container, has the group of the folder alone.
    fn with_groups(user: Uid, folder_group: Gid, before: &[(Gid, Mode)]) -> Self {
        let entry = nix::unistd::User::from_uid(user.as_raw().into()).ok().flatten();
        let group = entry.as_ref().map_or(folder_group, |entry| Gid::from_raw(entry.gid.as_raw()));
        let groups = entry.and_then(|entry| {
            let name = CString::new(entry.name).ok()?;
            nix::unistd::getgrouplist(&name, entry.gid).ok()
        });
        let groups = groups.map_or_else(
            || vec![group],
            |groups| groups.iter().map(|group| Gid::from_raw(group.as_raw())).collect(),
        );
        let is_shut_out = before.iter().any(|(group, mode)| {
            let bit = if groups.contains(group) { Mode::XGRP } else { Mode::XOTH };
            !mode.contains(bit)
        });
        Self { user, group, groups, is_shut_out }
    }

    /// Makes the calling thread act as this user, for good.
    fn assume(&self) -> Result<(), StoreError> {
        let Self { user, group, is_shut_out, .. } = *self;
        set_thread_groups(&self.groups)
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_keep_capabilities(is_shut_out))
            .and_then(|()| set_thread_res_uid(user, user, user))
            .and_then(|()| if is_shut_out { keep_search_alone() } else { Ok(()) })
            .map_err(|e| {
                StoreError::Failed(format!("cannot act as the user with id {}: {e}", user.as_raw()))
            })
    }

    /// Does something as this user, on a thread that ends thereafter.
    pub(super) fn run<R: Send>(
        &self,
        job: impl FnOnce() -> Result<R, StoreError> + Send,
    ) -> Result<R, StoreError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("store".to_owned())
                .spawn_scoped(scope, || self.assume().and_then(|()| job()))
                .map_err(|e| cannot_start(&e))?;
            thread.join().unwrap_or_else(|_| Err(lost()))
        })
        .map_err(|e| self.explain(e))
    }

    /// Says as whom something failed: root is used to be let in everywhere.
    fn explain(&self, e: StoreError) -> StoreError {
        match e {
            StoreError::Failed(why) => StoreError::Failed(format!(
                "{why} (as the user with id {}, who owns a folder on the way)",
                self.user.as_raw()
            )),
            e => e,
        }
    }
}

/// Gives all of root's capabilities up but the one to pass closed folders, which writes nothing. A
/// container may lack it.
fn keep_search_alone() -> rustix::io::Result<()> {
    let search = capabilities(None)?.permitted & CapabilitySet::DAC_READ_SEARCH;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: search, permitted: search, inheritable })?;
    set_keep_capabilities(false)
}

/// Who can lead the way along a path.
struct Way {
    /// The last user who is not root, and the group of what is theirs.
    owner: Option<(Uid, Gid)>,
    /// The folders of root's before the first one of another user.
    before: Vec<(Gid, Mode)>,
    /// One of the links belongs to a user who is not root.
    foreign_link: bool,
}

impl Way {
    /// Follows `path` by descriptors as far as it exists.
    fn along(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = open("/", flags, Mode::empty())?;
        let mut ahead = names(path);
        let mut way = Self { owner: None, before: Vec::new(), foreign_link: false };
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            let entry = match openat(&folder, &name, flags, Mode::empty()) {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let meta = fstat(&entry)?;
            let kind = FileType::from_raw_mode(meta.st_mode);
            let group = Gid::from_raw(meta.st_gid);
            if meta.st_uid != 0 && kind != FileType::RegularFile {
                way.owner = Some((Uid::from_raw(meta.st_uid), group));
            } else if way.owner.is_none() && kind == FileType::Directory {
                way.before.push((group, Mode::from_raw_mode(meta.st_mode)));
            }
            match kind {
                FileType::Symlink if links == MOST_LINKS => return Err(Errno::LOOP.into()),
                FileType::Symlink => {
                    links += 1;
                    way.foreign_link |= meta.st_uid != 0;
                    let target = readlinkat(&entry, c"", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        folder = open("/", flags, Mode::empty())?;
                    }
                    let mut names = names(&target);
                    names.append(&mut ahead);
                    ahead = names;
                }
                FileType::Directory => folder = entry,
                _ => break,
            }
        }
        Ok(way)
    }
}

/// The names in a path, from the root or the folder that it begins in.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// A value that lives on a thread which acts as its owner: made there, used there, and dropped
/// there.
struct OnThread<T> {
    owner: Owner,
    /// `None` when it is being dropped.
    jobs: Option<Sender<Job<T>>>,
    thread: Option<JoinHandle<()>>,
}

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

impl<T: 'static> OnThread<T> {
    fn start(
        owner: Owner,
        make: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, waiting) = channel::<Job<T>>();
        let (made, is_made) = sync_channel(1);
        let acting = owner.clone();
        let work = move || match acting.assume().and_then(|()| make()) {
            Ok(mut value) => {
                // Whoever waits for this is gone only if the process ends.
                let _ = made.send(Ok(()));
                for job in waiting {
                    // As in a store that is used directly: a panic is the failure of one call.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut value)));
                }
            }
            Err(e) => drop(made.send(Err(e))),
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(work)
            .map_err(|e| cannot_start(&e))?;
        let on_thread = Self { owner, jobs: Some(jobs), thread: Some(thread) };
        on_thread.result(&is_made)?;
        Ok(on_thread)
    }

    /// Starts a job; its result comes through the channel.
    fn begin<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Receiver<Result<R, StoreError>> {
        let (done, result) = sync_channel(1);
        let job = Box::new(move |value: &mut T| drop(done.send(job(value))));
        // A thread that is gone has dropped the other end, which is seen by whoever waits for the
        // result.
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
    /// Waits for the value to be dropped: the last one who closes a store folds its log in.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn cannot_start(e: &io::Error) -> StoreError {
    StoreError::Failed(format!("cannot start a thread for the store: {e}"))
}

fn lost() -> StoreError {
    StoreError::Failed("the thread of the store has failed".to_owned())
}

/// A store that is used as its owner. Transactions have a thread of their own each, so that one
/// that waits for its turn holds up no look.
pub(super) struct OwnedStore<S>(OnThread<S>);

impl<S: Shared> OwnedStore<S> {
    pub(super) fn open(
        owner: Owner,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        OnThread::start(owner, open).map(Self)
    }
}

/// A store whose transactions can begin on another thread than its own.
pub(super) trait Shared: Store + 'static {
    /// Returns what begins a transaction.
    fn beginner(&self) -> Result<Begin, StoreError>;
}

/// Begins a transaction, on whichever thread it is called.
pub(super) type Begin = Box<dyn FnOnce() -> Result<Box<dyn Transaction>, StoreError> + Send>;

impl<S: Shared> Store for OwnedStore<S> {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.find(&name))
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.find_with_groups(&name))
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        let name = name.clone();
        self.0.call(move |store| store.contains(&name))
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        self.0.call(|store| store.is_empty())
    }

    fn revision(&self, now: Instant) -> Result<Revision, StoreError> {
        self.0.call(move |store| store.revision(now))
    }

    /// Shows them on the caller's thread, since what becomes of them is the caller's.
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

    fn fold(&self) -> Result<(), StoreError> {
        self.0.call(|store| store.fold())
    }

    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let begin = self.0.call(|store| store.beginner())?;
        let changes = OnThread::start(self.0.owner.clone(), || begin().map(Some))?;
        Ok(Box::new(OwnedTransaction(changes)))
    }
}

/// `None` after its commit.
struct OwnedTransaction(OnThread<Option<Box<dyn Transaction>>>);

impl OwnedTransaction {
    fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Box<dyn Transaction>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.0.call(|changes| changes.as_mut().map_or_else(|| Err(lost()), job))
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

    fn remove(&mut self, name: &UserName) -> Result<(), StoreError> {
        let name = name.clone();
        self.call(move |changes| changes.remove(&name))
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.0
            .call(|changes| changes.take().map_or_else(|| Err(lost()), |changes| changes.commit()))
    }
}
