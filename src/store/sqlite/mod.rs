//! The SQLite backend, with all users in one file.
//!
//! WAL mode with `synchronous=FULL`: a commit is durable when it returns, and readers never wait
//! for a writer. Every write begins with `BEGIN IMMEDIATE`, so that it waits before its first
//! change and not halfway. Every call uses the file that has the store's name at that time.

mod backoff;
mod check;
mod connection;
mod copy;
mod create;
mod diagnosis;
mod files;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod transaction;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, Row};

use super::lease::{Lease, StoreClock};
use super::owned::{Begin, OwnableStore};
use super::{
    FoundUser, RecordState, Revision, StoreError, Transaction, UserReader, UserStore, Visibility,
    cannot,
};
use crate::domain::{Account, BadRecord, GroupName, StoredHash, User, UserName};
use crate::fs::{FileVersion, beside};
pub(super) use check::{check_content, check_files, refuse_unsafe};
use connection::store_error;
pub(super) use copy::backup;
use files::OpenFiles;

/// Returns the name and version of the library.
pub(super) fn engine() -> String {
    format!("SQLite {}", rusqlite::version())
}

/// Users in one SQLite file.
pub(super) struct SqliteStore {
    /// An absolute path, with its links, because a link may be changed to lead elsewhere.
    path: PathBuf,
    files: RwLock<OpenFiles>,
    lease: Lease,
    clock: StoreClock,
}

impl SqliteStore {
    /// Opens an existing store.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let path = existing(path)?;
        let files = RwLock::new(OpenFiles::open(&path, 0)?);
        Ok(Self { path, files, lease: Lease::default(), clock: StoreClock::start() })
    }

    /// Opens a store, after creating it if it does not exist.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).map_err(|e| cannot("find", path, e))?;
        if !exists(&path)? {
            create::create(&path)?;
        }
        Self::open(&path)
    }

    /// Returns the open files. Opens the file that has the store's name now if it is another
    /// version.
    fn files(&self) -> Result<RwLockReadGuard<'_, OpenFiles>, StoreError> {
        let read = || self.files.read().unwrap_or_else(PoisonError::into_inner);
        let files = read();
        if files.database == self.current_version()? {
            return Ok(files);
        }
        drop(files);
        self.reopen()?;
        Ok(read())
    }

    fn current_version(&self) -> Result<FileVersion, StoreError> {
        FileVersion::of(&self.path).map_err(|e| cannot("open", &self.path, e))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.current_version()?;
        if files.database == now {
            return Ok(()); // another thread was faster
        }
        if files.database.id() != now.id() {
            files.detach();
        }
        let epoch = files.detector().epoch().wrapping_add(1);
        self.lease.end();
        *files = OpenFiles::open(&self.path, epoch)?;
        Ok(())
    }

    fn error(&self, e: rusqlite::Error) -> StoreError {
        store_error(e, &self.path)
    }

    fn query<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.files()?
            .main()
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(values, row))
            .map_err(|e| self.error(e))
    }

    /// Runs a query about one user, and reads the row that it returns, if any.
    fn query_user<T>(
        &self,
        name: &UserName,
        sql: &str,
        read: impl FnOnce(&Row<'_>) -> Result<T, BadRecord>,
    ) -> Result<Option<T>, StoreError> {
        let found = self
            .files()?
            .main()
            .prepare_cached(sql)
            .and_then(|mut statement| {
                statement.query_row([name.as_str()], |row| Ok(read(row))).optional()
            })
            .map_err(|e| self.error(e))?;
        found.transpose().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
    }
}

impl UserReader for SqliteStore {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.query_user(name, rows::ONE_USER, rows::user)
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError> {
        self.query_user(name, rows::ONE_USER_WITH_GROUPS, |row| {
            let groups = Arc::new(rows::groups(row, rows::GROUPS_OF_USER)?);
            Ok(FoundUser { user: rows::user(row)?, groups, state: RecordState::Current })
        })
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.is_empty().map(drop)
    }

    fn revision(&self, now: Instant) -> Result<Revision, StoreError> {
        let now = self.clock.at(now);
        let current = self.lease.current(now);
        if let (Some(revision), false) = (current, self.lease.ends_soon(now)) {
            return Ok(revision);
        }
        let files = self.files()?;
        let mut detector = match current {
            // Renewed before its end, and by one thread, so that no other one waits for it.
            Some(revision) => match files.try_detector() {
                Some(detector) => detector,
                None => return Ok(revision),
            },
            None => files.detector(),
        };
        if let (Some(revision), false) = (self.lease.current(now), self.lease.ends_soon(now)) {
            return Ok(revision);
        }
        self.lease.renew(now, || detector.revision(&files.path))
    }

    fn reading_age(&self, now: Instant) -> Option<Duration> {
        self.lease.age(self.clock.at(now))
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
        let files = self.files()?;
        connection::checkpoint(&files.main()).map_err(|e| self.error(e))
    }
}

impl UserStore for SqliteStore {
    fn is_empty(&self) -> Result<bool, StoreError> {
        self.query("SELECT NOT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1)";
        self.query(sql, [name.as_str()], |row| row.get(0))
    }

    fn count(&self) -> Result<u64, StoreError> {
        // A count is never negative.
        self.query("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
    }

    fn first(&self) -> Result<Option<UserName>, StoreError> {
        // Without users, the name is NULL, which is no valid name either.
        let sql = "SELECT min(name) AS name FROM users";
        self.query(sql, [], |row| Ok(rows::user_name(row).ok()))
    }

    fn has_member(&self, group: &GroupName) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM memberships WHERE \"group\" = ?1)";
        self.query(sql, [group.as_str()], |row| row.get(0))
    }

    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        let files = self.files()?;
        let main = files.main();
        let mut statement = main.prepare_cached(rows::ALL_ACCOUNTS).map_err(|e| self.error(e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(e))? {
            if visit(rows::account(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.beginner()?()
    }

    fn visibility(&self) -> Visibility {
        transaction::visibility(Ok(()))
    }
}

impl OwnableStore for SqliteStore {
    fn beginner(&self) -> Result<Begin, StoreError> {
        let path = self.files()?.path.clone();
        Ok(Box::new(move || transaction::begin(path)))
    }
}

/// Returns the database and the files that SQLite keeps beside it, in each of its modes.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let journal = beside(&path, "-journal");
    let companions = companions(&path);
    [vec![path], companions.to_vec(), vec![journal]].concat()
}

/// Returns the files that SQLite keeps beside a database in WAL mode: the write-ahead log and its
/// index.
fn companions(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| beside(path, suffix))
}

/// Returns the path of a store that exists.
///
/// Absolute, because SQLite gives names like `file:x` and `:memory:` a meaning of their own.
fn existing(path: &Path) -> Result<PathBuf, StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, e))?;
    if exists(&path)? { Ok(path) } else { Err(check::missing(&path)) }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(cannot("open", path, e)),
    }
}

/// Returns the path of the database without links. SQLite keeps the companions there, not beside a
/// link.
fn real(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|e| cannot("open", path, e))
}
