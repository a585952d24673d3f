//! Storage of users: the traits of a store, its errors, and the opening of a store by location.
//!
//! All commands and the server share one store, across processes. Every call sees the last
//! committed change of any process. Decides nothing about logins.

mod access;
#[cfg(test)]
pub(crate) mod contract;
mod lease;
mod location;
pub(crate) mod mock;
mod owned;
mod owner;
mod postgres;
mod problem;
mod sqlite;

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture, FutureExt};

use crate::domain::{Account, BadRecord, GroupName, Groups, StoredHash, User, UserName};
use crate::text::{printable, quoted};
pub use location::{
    Location, backup, check, initialize, migrate, open, open_or_create, open_reader,
};
pub use postgres::url::{PostgresUrl, UrlError};
pub(crate) use postgres::{LEASE as DEFAULT_LEASE, serve_grants, serve_role};
pub use problem::{DatabaseProblem, FileProblem, FileProblemKind, Findings, NotUpgraded, Problem};

/// The time after which a call fails as busy. A reader waits for it in all, a writer for the next
/// commit of another writer.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The record of a user with their groups, as of one point in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundUser {
    /// The record.
    pub user: User,
    /// The groups of the user.
    pub groups: Arc<Groups>,
    /// The state of the store that has this record.
    pub state: RecordState,
}

/// The state of the store that has a record which was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordState {
    /// Any later change has another revision than one that was read before the record.
    Current,
    /// The one of this revision.
    Revision(Revision),
    /// One without a revision yet. A failover may lose it.
    Unknown,
}

impl RecordState {
    /// Returns the revision from which on changes of the record matter. `before` is one that was read
    /// before the record.
    pub(crate) fn revision(self, before: Option<Revision>) -> Option<Revision> {
        match self {
            Self::Current => before,
            Self::Revision(revision) => Some(revision),
            Self::Unknown => Some(Revision::NONE),
        }
    }
}

/// A state of the store (see [`UserReader::revision`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Revision(pub u64);

impl Revision {
    /// Before every other one. A record of this revision is read again.
    const NONE: Self = Self(0);
}

/// The store as authentication uses it. All calls block, look-ups for microseconds.
///
/// Every method of this trait, [`UserStore`] and [`Transaction`] has these errors. It fails with
/// [`StoreError::Busy`] if another process keeps the store locked for 5 s. It fails with
/// [`StoreError::Refused`] if the file is no longer a usable store, and with [`StoreError::Failed`]
/// if the system fails. Other errors are named at the method.
pub trait UserReader: Send + Sync {
    /// Looks up a user. Takes the same work for every user, and does not read groups.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] if the record of this user is unusable.
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError>;

    /// Looks up a user and their groups, both as of one point in time.
    ///
    /// # Errors
    /// As [`UserReader::find`].
    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError>;

    /// Looks up several users as [`UserReader::find`] does, in their order. Over a network, this takes
    /// no longer than one.
    fn find_all(&self, names: &[&UserName]) -> Vec<Result<Option<User>, StoreError>> {
        names.iter().map(|name| self.find(name)).collect()
    }

    /// Looks up several users as [`UserReader::find_with_groups`] does, in their order. Over a network,
    /// this takes no longer than one.
    fn find_all_with_groups(
        &self,
        names: &[&UserName],
    ) -> Vec<Result<Option<FoundUser>, StoreError>> {
        names.iter().map(|name| self.find_with_groups(name)).collect()
    }

    /// Looks up a user as [`UserReader::find_with_groups`] does. The caller is not blocked by a
    /// network.
    fn look_up(
        &self,
        name: &UserName,
    ) -> BoxFuture<'static, Result<Option<FoundUser>, StoreError>> {
        future::ready(self.find_with_groups(name)).boxed()
    }

    /// Checks that users can be looked up, without asking a network.
    ///
    /// # Errors
    /// See the trait.
    fn ready(&self) -> Result<(), StoreError>;

    /// Returns the revision for a request that arrived at `now`.
    ///
    /// Equal revisions mean that no process has changed the store between them. The implementation
    /// may rely on an earlier reading for the length of the lease, for which [`Visibility::wait`]
    /// waits. So after a command has returned, every later request gets a new revision.
    ///
    /// # Errors
    /// [`StoreError::Lapsed`] if a reading is under way, and [`StoreError::Unreachable`] if none is
    /// possible now.
    fn revision(&self, now: Instant) -> Result<Revision, StoreError>;

    /// Waits for a revision that a request may rely on.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] as soon as an attempt to read one has failed, and
    /// [`StoreError::Lapsed`] at the deadline.
    fn next_revision(&self, deadline: Instant) -> BoxFuture<'static, Result<Revision, StoreError>> {
        let _ = deadline;
        future::ready(self.revision(Instant::now())).boxed()
    }

    /// Returns true if this user is known not to have changed from `since` to the current revision.
    /// A store that knows no names returns false.
    fn is_unchanged(&self, name: &UserName, since: Revision) -> bool {
        let _ = (name, since);
        false
    }

    /// Returns the age of the last reading of the revision, or `None` if there is none.
    fn reading_age(&self, now: Instant) -> Option<Duration>;

    /// Replaces the hash of a user, if it is still `old`. Returns false if it is not.
    ///
    /// # Errors
    /// See the trait.
    fn replace_hash(
        &self,
        name: &UserName,
        old: &StoredHash,
        new: StoredHash,
    ) -> Result<bool, StoreError>;

    /// Brings all committed changes into the file that can be moved or copied alone, as far as
    /// other users of the store allow it now. Does nothing for a store that is no file.
    ///
    /// # Errors
    /// See the trait.
    fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The store as administration uses it. Writers take turns across processes.
pub trait UserStore: UserReader {
    /// Returns true if there are no users.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn is_empty(&self) -> Result<bool, StoreError>;

    /// Returns true if there is a user of this name, also with an unusable record.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn contains(&self, name: &UserName) -> Result<bool, StoreError>;

    /// Returns the number of users.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn count(&self) -> Result<u64, StoreError>;

    /// Returns the user whose name is the first in order, or `None` if that name is invalid.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn first(&self) -> Result<Option<UserName>, StoreError>;

    /// Returns true if a user is in this group.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn has_member(&self, group: &GroupName) -> Result<bool, StoreError>;

    /// Calls `visit` for all users in the order of their names, as of one point in time, until it
    /// returns `Break`.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] if anything but the hash of a user is unusable. The users before
    /// it were visited.
    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Begins a transaction. Until its end no other one can begin, and no reader sees its changes.
    ///
    /// # Errors
    /// See [`UserReader`].
    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Has `notice` called with the time of each wait for the servers, before it begins.
    fn notify_of_waits(&mut self, notice: WaitNotice) {
        let _ = notice;
    }

    /// Returns the token to wait until everything that is committed now is visible to every server.
    ///
    /// For a command that ends without a transaction because of a state that it has read. Another
    /// process may have committed that state just before.
    fn visibility(&self) -> Visibility;
}

/// Tells of a wait for the servers. Called with its time.
pub type WaitNotice = fn(Duration);

/// Changes that take effect together or not at all. Dropping a transaction rolls it back.
///
/// The methods have the errors that [`UserReader`] names. After an error, nothing can be committed.
pub trait Transaction {
    /// Returns the number of users whose records [`Transaction::prefetch`] should read at once. One if
    /// that is no faster than reading them one by one.
    fn prefetch_size(&self) -> usize {
        1
    }

    /// Reads the records of these users ahead.
    ///
    /// # Errors
    /// See the trait.
    fn prefetch(&mut self, names: &[UserName]) -> Result<(), StoreError> {
        let _ = names;
        Ok(())
    }

    /// Returns the record of a user, with the changes so far.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] if anything but the hash is unusable.
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError>;

    /// Returns the names of all users in order, with the changes so far.
    ///
    /// # Errors
    /// See the trait.
    fn names(&mut self) -> Result<Vec<UserName>, StoreError>;

    /// Writes the record of a new or existing user. An unusable hash keeps the stored value.
    ///
    /// # Errors
    /// See the trait.
    fn put(&mut self, account: &Account) -> Result<(), StoreError>;

    /// Renames a user.
    ///
    /// # Errors
    /// [`StoreError::NoSuchUser`] and [`StoreError::UserExists`].
    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError>;

    /// Removes a user. Returns false if there is none.
    ///
    /// # Errors
    /// See the trait.
    fn remove(&mut self, name: &UserName) -> Result<bool, StoreError>;

    /// Commits the changes durably. The result is that of [`Visibility::wait`].
    fn commit(self: Box<Self>) -> Visibility;

    /// Rolls the changes back. The state that was read may have been committed by another process
    /// just before, so this has to be waited for as well.
    fn rollback(self: Box<Self>) -> Visibility;
}

/// The end of a transaction, whose result is known after a wait.
///
/// A server may rely on a reading of the store from before the commit for the length of the lease.
/// So a command may return only after the wait. This holds also if it has changed nothing, or if
/// the outcome of the commit is unknown.
#[must_use = "the change is visible to every server only after `wait`"]
pub struct Visibility {
    outcome: Result<(), StoreError>,
    wait: Box<dyn FnOnce() -> Result<(), StoreError> + Send>,
}

impl Visibility {
    /// Makes the token of a transaction that ended with `outcome`, and after which `wait` returns
    /// when every server sees it.
    pub(crate) fn new(
        outcome: Result<(), StoreError>,
        wait: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Self {
        Self { outcome, wait: Box::new(wait) }
    }

    /// Waits until the end of the transaction is visible to every server.
    ///
    /// # Errors
    /// The error of the commit. If the commit succeeded but the wait failed,
    /// [`StoreError::Unconfirmed`]: the change is committed.
    pub fn wait(self) -> Result<(), StoreError> {
        let waited = (self.wait)();
        self.outcome?;
        waited.map_err(|e| StoreError::Unconfirmed(Box::new(e)))
    }

    /// Returns the result of the commit without a wait. For a change after which every request has
    /// the same result, e.g. another hash of the same password.
    pub(crate) fn outcome(self) -> Result<(), StoreError> {
        self.outcome
    }

    /// Changes the error of the transaction.
    fn map_err(self, change: impl FnOnce(StoreError) -> StoreError) -> Self {
        Self { outcome: self.outcome.map_err(change), wait: self.wait }
    }
}

/// The errors of a store. None of them contains a hash.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The user exists already.
    #[error("user exists already")]
    UserExists,
    /// The user does not exist.
    #[error("there is no user of that name")]
    NoSuchUser,
    /// Another process kept the store locked for 5 s.
    #[error("the store was locked by others for {} seconds", BUSY_TIMEOUT.as_secs())]
    Busy,
    /// The record of this user is unusable.
    #[error("{}", describe_record(.user, .why))]
    BadRecord {
        /// The user of the record.
        user: UserName,
        /// The problem of the record.
        why: BadRecord,
    },
    /// The file or database cannot be used as a store, and is left as it is.
    #[error("{location}: {problem}")]
    Refused {
        /// The file, folder or database with the problem.
        location: Location,
        /// The problem.
        problem: Problem,
    },
    /// A concurrent change came first. Nothing was changed, and the same call may succeed now.
    #[error("a concurrent change came first")]
    Conflict,
    /// The database does not answer, or takes no changes. Nothing was changed.
    #[error("cannot reach the database: {0}")]
    Unreachable(String),
    /// There is no connection to the database. Nothing was changed.
    #[error("cannot connect to the database: {0}")]
    NotConnected(#[source] SystemError),
    /// No reading of the revision can be relied on yet.
    #[error("the database was not read yet")]
    Lapsed,
    /// The connection was lost during the commit, so the changes may be made or not.
    #[error("it is not known whether the change is committed: {0}")]
    Unknown(String),
    /// The transaction is committed, but a later step failed. It is not confirmed that every server
    /// sees the change, or that no copy of a removed hash is left.
    #[error("the change is committed, but {0}")]
    Unconfirmed(#[source] Box<StoreError>),
    /// The system or a library failed.
    #[error(transparent)]
    Failed(SystemError),
}

impl StoreError {
    /// Makes the error of a file with a problem.
    fn refused(path: &Path, problem: Problem) -> Self {
        Self::Refused { location: path.to_owned().into(), problem }
    }

    /// Returns true if the database cannot be read now. Its client logs the begin and the end of that,
    /// so that not every request has to.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NotConnected(_) | Self::Lapsed)
    }

    /// Returns an error with the same text, for another caller that waits for the same result.
    fn repeat(&self) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(why.clone()),
            Self::BadRecord { user, why } => Self::BadRecord { user: user.clone(), why: *why },
            other => Self::failed(other.to_string()),
        }
    }

    /// Makes the error of a failure without a cause of its own.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(SystemError { message: message.into(), source: None, hint: None })
    }

    /// Makes the error of a failure. `message` includes the text of its cause.
    pub(crate) fn failed_by(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed(SystemError::new(message, source))
    }

    /// Sets the hint of a failure of the system or of a library.
    fn with_hint(mut self, hint: Option<String>) -> Self {
        if let Self::Failed(e) | Self::NotConnected(e) = &mut self {
            e.hint = hint;
        }
        self
    }
}

/// A failure of the system or of a library.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SystemError {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
}

impl SystemError {
    /// `message` includes the text of its cause.
    fn new(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { message: message.into(), source: Some(source.into()), hint: None }
    }

    /// Returns a command or an action that helps, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the error of the system, if that is the cause.
    #[must_use]
    pub fn system(&self) -> Option<&io::Error> {
        self.source.as_ref()?.downcast_ref()
    }

    /// Adds text behind the message.
    fn with_context(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{} {context}", self.message), ..self }
    }
}

fn describe_record(user: &UserName, why: &BadRecord) -> String {
    let user = quoted(user.as_str());
    match why {
        BadRecord::Hash(why) => format!("the stored hash of user {user} can't be used: {why}"),
        BadRecord::Field(field) => format!(
            "the stored {field} of user {user} can't be used: it is of the wrong type or out of range"
        ),
    }
}

/// Replaces the hash of a user in a transaction, if it is still `old`.
fn replace_hash(
    store: &(impl UserStore + ?Sized),
    name: &UserName,
    old: &StoredHash,
    new: StoredHash,
) -> Result<bool, StoreError> {
    replace_hash_in(store.begin()?, name, old, new)
}

/// Replaces the hash of a user in this transaction. No server has to see that: the password stays
/// the same.
fn replace_hash_in(
    mut transaction: Box<dyn Transaction>,
    name: &UserName,
    old: &StoredHash,
    new: StoredHash,
) -> Result<bool, StoreError> {
    match transaction.find(name)? {
        Some(account) if account.hash.as_ref() == Ok(old) => {
            transaction.put(&Account { hash: Ok(new), ..account })?;
            transaction.commit().outcome()?;
            Ok(true)
        }
        Some(_) | None => Ok(false),
    }
}

/// Returns the name and version of the database library.
#[must_use]
pub(crate) fn engine() -> String {
    sqlite::engine()
}

fn cannot(what: &str, path: &Path, e: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    let e = e.into();
    let path = printable(&path.to_string_lossy());
    StoreError::failed_by(format!("cannot {what} {path}: {e}"), e)
}

/// Returns all users.
#[cfg(test)]
pub(crate) fn all(store: &dyn UserStore) -> Vec<Account> {
    let mut all = Vec::new();
    let shown = store.each(&mut |account| {
        all.push(account);
        ControlFlow::Continue(())
    });
    shown.map(|()| all).unwrap()
}
