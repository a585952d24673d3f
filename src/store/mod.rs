//! How users are kept: what a store can be asked, what can go wrong, and which store a path opens.
//!
//! Every verb and the server share one store, across processes: what one of them has changed is
//! what the next call in another one sees. Who may enter is not decided here.

mod access;
mod lease;
mod owner;
mod patience;
mod sqlite;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::credential::{Cost, Groups, HashError, PasswordHash, UserName};
use crate::moment::Moment;
use crate::text::printable;
#[cfg(test)]
pub(crate) use lease::{LEASE, Lease};
use owner::{OwnedStore, Owner};
use sqlite::SqliteStore;

/// Which state of the store somebody has seen: see [`Store::revision`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revision(pub u64);

/// What decides whether a user may enter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The hash of the password.
    pub hash: PasswordHash,
    /// Refused although the password is right.
    pub locked: bool,
    /// Refused from this time on.
    pub expires: Option<Moment>,
}

/// All that is kept of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Their name.
    pub name: UserName,
    /// The hash of the password, or what is wrong with what stands in its place.
    pub hash: Result<PasswordHash, BadRecord>,
    /// The groups that they are in.
    pub groups: Groups,
    /// Refused although the password is right.
    pub locked: bool,
    /// Refused from this time on.
    pub expires: Option<Moment>,
    /// When they were added.
    pub created: Moment,
    /// When any of this was changed last.
    pub changed: Moment,
}

/// Where users are kept. All calls block: looks for microseconds, changes for as long as other
/// writers are at work. A writer takes its turn among them.
///
/// Every method fails with [`StoreError::Busy`] when another process kept the store locked for 5
/// seconds, [`StoreError::Refused`] when what is in the file is no longer a store, and
/// [`StoreError::Failed`] when the system fails. Other errors are named at the method.
pub trait Store: Send + Sync {
    /// The user of this name, as last committed by anybody; `None` if there is none. Takes the same
    /// work for every user: it does not read their groups.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] when what is kept for this user can't be used; others can.
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError>;

    /// The same with the groups of the user, both as of one moment.
    ///
    /// # Errors
    /// As [`Store::find`].
    fn find_with_groups(&self, name: &UserName) -> Result<Option<(User, Arc<Groups>)>, StoreError>;

    /// Whether there is a user of this name, in whatever state their record is.
    ///
    /// # Errors
    /// Only those that every method has.
    fn contains(&self, name: &UserName) -> Result<bool, StoreError>;

    /// Whether there is no user at all.
    ///
    /// # Errors
    /// Only those that every method has.
    fn is_empty(&self) -> Result<bool, StoreError>;

    /// Equal revisions mean that nothing was changed between them, by whichever process. A change counts from
    /// the moment when the call that made it returns: a revision that is asked for after that is another one
    /// than all before the change.
    ///
    /// Every request asks for it, and `now` is a time at which the request had come. An earlier
    /// reading may be relied on for as long as changes wait before they return.
    ///
    /// # Errors
    /// Only those that every method has.
    fn revision(&self, now: Instant) -> Result<Revision, StoreError>;

    /// Shows all users in the order of their names, as they are at one moment, until `visit` breaks off.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] when anything but the hash of a user can't be used; others can. Those before were shown.
    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Brings all that was changed into the one file that the store is, as far as others who use it let that happen: so it may be moved
    /// when nobody uses it any more.
    ///
    /// # Errors
    /// Only those that every method has.
    fn fold(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Begins to change users. Until the end of it nobody else can change any, and nobody sees what was changed.
    ///
    /// # Errors
    /// Only those that every method has.
    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;
}

/// Changes that count together or not at all: dropped without a commit, or after an error, nothing has happened.
///
/// The methods have the errors that those of [`Store`] have.
pub trait Transaction {
    /// The user of this name, as changed so far.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] when anything but the hash can't be used.
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError>;

    /// The names of all users, as changed so far, in their order.
    ///
    /// # Errors
    /// Only those that every method has.
    fn names(&mut self) -> Result<Vec<UserName>, StoreError>;

    /// Keeps this of a user, new or not. A hash that can't be used leaves what is there.
    ///
    /// # Errors
    /// Only those that every method has.
    fn put(&mut self, account: &Account) -> Result<(), StoreError>;

    /// Gives a user another name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchUser`] and [`StoreError::UserExists`].
    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError>;

    /// Forgets a user.
    ///
    /// # Errors
    /// [`StoreError::NoSuchUser`].
    fn remove(&mut self, name: &UserName) -> Result<(), StoreError>;

    /// Makes the changes count. They are durable, and every request from now on is decided by them, when it returns.
    ///
    /// # Errors
    /// Only those that every method has; then it is not known whether they count, but it is all or nothing.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// All users.
#[cfg(test)]
pub(crate) fn all(store: &dyn Store) -> Vec<Account> {
    let mut all = Vec::new();
    let shown = store.each(&mut |account| {
        all.push(account);
        ControlFlow::Continue(())
    });
    shown.map(|()| all).unwrap()
}

/// How long a call waits before it fails as busy: a reader in all, a writer for any other one to
/// commit.
pub(crate) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Opens the store at `path`; makes it, and the folders it is to stand in, if it is missing.
/// Existing files are brought to the current schema, and never replaced. Root uses a store of
/// another user as that user.
///
/// # Errors
/// [`StoreError::Refused`] when the file is no store of ours, is damaged, comes from a newer
/// version, or other users may read it or change it; otherwise as for every method of [`Store`].
pub fn open(path: &Path) -> Result<Box<dyn Store>, StoreError> {
    match owner_of(path)? {
        None => Ok(Box::new(SqliteStore::open(path)?)),
        Some(owner) => {
            let path = path.to_owned();
            Ok(Box::new(OwnedStore::open(owner, move || SqliteStore::open(&path))?))
        }
    }
}

/// Writes a copy of the store at `path` to `out`, as it is at one moment, while others go on
/// changing it. Takes memory of up to twice the size of the store.
///
/// # Errors
/// As [`open()`], but a missing store is not made; and when the copy can't be written.
pub fn backup(path: &Path, out: &mut (dyn io::Write + Send)) -> Result<(), StoreError> {
    let owner = owner_of(path)?;
    // The owner of the store writes to the file of the caller through what is open alone.
    as_owner(owner.as_ref(), || sqlite::backup(path, out))
}

/// The files that the store at `path` consists of, also those that are not there now.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    sqlite::files(path)
}

/// What is wrong with the store at `path`, as far as it can be seen from here; hashes that cost less than `cost` are. Nothing is
/// changed.
///
/// # Errors
/// When the system fails, or others keep the store locked.
pub fn check(path: &Path, cost: Cost) -> Result<Vec<Flaw>, StoreError> {
    // By the caller, who may see what its owner can't. What other users may have written is not
    // looked into.
    let flaws = sqlite::check_files(path)?;
    if flaws.is_empty() {
        let owner = Owner::of(path)?;
        return as_owner(owner.as_ref(), || sqlite::check_content(path, cost));
    }
    Ok(flaws)
}

/// Returns as whom root is to use the store, after a look at its files: root sees what the owner
/// can't, and so can say what is wrong with it.
fn owner_of(path: &Path) -> Result<Option<Owner>, StoreError> {
    let owner = Owner::of(path)?;
    if owner.is_some() {
        sqlite::refuse(path)?;
    }
    Ok(owner)
}

fn as_owner<R: Send>(
    owner: Option<&Owner>,
    job: impl FnOnce() -> Result<R, StoreError> + Send,
) -> Result<R, StoreError> {
    match owner {
        None => job(),
        Some(owner) => owner.run(job),
    }
}

/// Something that is wrong with a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// A description of the problem.
    pub problem: String,
    /// The user whose record has the problem, if it is a problem of one record.
    pub user: Option<UserName>,
    /// A command that fixes the problem, or an advice where no single command does.
    pub fix: Option<String>,
}

/// Name and version of the library that keeps the users.
#[must_use]
pub(crate) fn engine() -> String {
    sqlite::engine()
}

/// What can go wrong with a store. None of it holds a hash.
#[derive(Debug)]
pub enum StoreError {
    /// There is a user of that name already.
    UserExists,
    /// There is no user of that name.
    NoSuchUser,
    /// Others kept the store locked for 5 seconds.
    Busy,
    /// What is kept for this user can't be used.
    BadRecord {
        /// Whose record it is.
        user: UserName,
        /// What is wrong with it.
        why: BadRecord,
    },
    /// The file can't serve as a store; it was left as it is.
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The system, or the library below, failed.
    Failed(String),
}

/// What is wrong with one user's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRecord {
    /// The hash is none.
    Hash(HashError),
    /// A field holds something of another type, or out of its range.
    Field(&'static str),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserExists => f.write_str("user exists already"),
            Self::NoSuchUser => f.write_str("there is no user of that name"),
            Self::Busy => {
                write!(f, "the store was locked by others for {} seconds", BUSY_TIMEOUT.as_secs())
            }
            Self::BadRecord { user, why: BadRecord::Hash(why) } => {
                write!(f, "the stored hash of user {user} can't be used: {why}")
            }
            Self::BadRecord { user, why: BadRecord::Field(field) } => {
                write!(
                    f,
                    "the stored {field} of user {user} can't be used: it is of the wrong type or out of range"
                )
            }
            Self::Refused { path, why, .. } => {
                write!(f, "{}: {why}", printable(&path.to_string_lossy()))
            }
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StoreError {}
