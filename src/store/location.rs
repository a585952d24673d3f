//! The location of a store, and the choice of the backend that opens it.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::owned::OwnedStore;
use super::owner::Owner;
use super::postgres::url::PostgresUrl;
use super::postgres::{self, PostgresStore};
use super::sqlite::{self, SqliteStore};
use super::{Findings, StoreError, UserReader, UserStore};
use crate::domain::Cost;
use crate::fs::absolute;
use crate::text::{printable, shell_word};

/// The location of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<PostgresUrl>),
}

impl Location {
    /// Returns the files of the store, existing or not. No output of a command may write to them.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => sqlite::files(path),
            Self::Postgres(_) => Vec::new(),
        }
    }

    /// Returns a short name for this store, which is the same for every path to it.
    pub(crate) fn id(&self) -> String {
        let digest = match self {
            Self::File(path) => {
                let real = path.canonicalize().unwrap_or_else(|_| absolute(path));
                blake3::hash(real.as_os_str().as_bytes())
            }
            Self::Postgres(url) => blake3::hash(url.to_string().as_bytes()),
        };
        digest.to_hex().chars().take(16).collect()
    }

    /// Returns the location as one word of a shell command, valid in every folder.
    pub(crate) fn shell_word(&self) -> String {
        match self {
            Self::File(path) => shell_word(absolute(path)),
            Self::Postgres(url) => shell_word(url.to_string()),
        }
    }
}

impl From<PostgresUrl> for Location {
    fn from(url: PostgresUrl) -> Self {
        Self::Postgres(Box::new(url))
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Shows the location in messages.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&printable(&path.to_string_lossy())),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// Opens a store for a command, and migrates an older schema of a file. Root uses the store of another
/// user as that user.
///
/// # Errors
/// As [`open_or_create`], and [`StoreError::Refused`] if there is no store.
pub fn open(location: &Location) -> Result<Box<dyn UserStore>, StoreError> {
    open_by(location, SqliteStore::open)
}

/// Opens a store for a command. Creates a file and its folders if it does not exist. For commands that
/// add users: the others would take a mistyped path for an empty store.
///
/// # Errors
/// [`StoreError::Refused`] if the file is not a store, is damaged, has a newer schema, or if other
/// users may read or change it. [`StoreError::NotConnected`] if there is no connection to the database.
/// Otherwise the errors of every method of [`UserReader`].
pub fn open_or_create(location: &Location) -> Result<Box<dyn UserStore>, StoreError> {
    open_by(location, SqliteStore::open_or_create)
}

/// Opens a store for a server. A database may be unreachable then: the server keeps trying.
///
/// # Errors
/// As `open`.
pub fn open_reader(location: &Location) -> Result<Box<dyn UserReader>, StoreError> {
    match location {
        Location::File(_) => Ok(open(location)?),
        Location::Postgres(url) => Ok(Box::new(postgres::follow(url)?)),
    }
}

fn open_by(
    location: &Location,
    open: impl FnOnce(&Path) -> Result<SqliteStore, StoreError> + Send + 'static,
) -> Result<Box<dyn UserStore>, StoreError> {
    let path = match location {
        Location::File(path) => path,
        Location::Postgres(url) => return Ok(Box::new(PostgresStore::open(url)?)),
    };
    match owner_of(path)? {
        None => Ok(Box::new(open(path)?)),
        Some(owner) => {
            let path = path.clone();
            Ok(Box::new(OwnedStore::open(owner, move || open(&path))?))
        }
    }
}

/// Writes a copy of the store to `out`, as of one point in time, while other processes use the
/// store. Takes memory of up to twice the size of the store.
///
/// # Errors
/// As [`open()`]. Fails if the copy cannot be written, and for a PostgreSQL database, which has
/// `pg_dump`.
pub fn backup(location: &Location, out: &mut (dyn io::Write + Send)) -> Result<(), StoreError> {
    let path = match location {
        Location::File(path) => path,
        Location::Postgres(_) => {
            return Err(StoreError::failed("a PostgreSQL database is copied by pg_dump"));
        }
    };
    let owner = owner_of(path)?;
    // The owner of the store writes to the file of the caller only through the open descriptor.
    as_owner(owner.as_ref(), || sqlite::backup(path, out))
}

/// Checks a store. Hashes that cost less than `minimum` are problems. Changes nothing.
///
/// # Errors
/// Fails if the system fails, if another process keeps the store locked, or if the database cannot be
/// reached.
pub fn check(location: &Location, minimum: Cost) -> Result<Findings, StoreError> {
    let path = match location {
        Location::File(path) => path,
        Location::Postgres(url) => return postgres::check(url, minimum),
    };
    // As the caller, since root sees more than the owner. Files that other users may have written
    // are not read.
    let problems = sqlite::check_files(path)?;
    if problems.is_empty() {
        let owner = Owner::of(path)?;
        return as_owner(owner.as_ref(), || sqlite::check_content(path, minimum));
    }
    Ok(problems.into())
}

/// Creates the schema in a PostgreSQL database, with leases of this length, from 100 ms to 1 min.
/// Returns false if there is one.
///
/// # Errors
/// As `open`.
pub fn initialize(url: &PostgresUrl, lease: Duration) -> Result<bool, StoreError> {
    postgres::initialize(url, lease)
}

/// Migrates the schema of a PostgreSQL database. Returns its version before, and the current one.
///
/// # Errors
/// As `open`.
pub fn migrate(url: &PostgresUrl) -> Result<(i32, i32), StoreError> {
    postgres::migrate(url)
}

/// Returns the user that root has to become to use the store. Checks the files first, since root
/// sees problems that the owner cannot see.
fn owner_of(path: &Path) -> Result<Option<Owner>, StoreError> {
    let owner = Owner::of(path)?;
    if owner.is_some() {
        sqlite::refuse_unsafe(path)?;
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
