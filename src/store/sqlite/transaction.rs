//! Transactions: changes on a connection of their own.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::backoff::Backoff;
use super::connection::{checkpoint, connect, is_busy, store_error};
use super::rows;
use crate::domain::{Account, LegacyParams, UserName};
use crate::store::lease::LOCAL;
use crate::store::{BUSY_TIMEOUT, StoreError, Transaction, Visibility};

/// The limit of the page cache in KiB. With the default of 2000 KiB, an import of a million users in
/// random order writes most pages to the write-ahead log again and again.
const PAGE_CACHE: i32 = 32 * 1024;

/// A transaction with its own connection, so that it blocks no look-up of this process, and
/// dropping it rolls back.
struct SqliteTransaction {
    path: PathBuf,
    connection: Connection,
    /// A stored hash was removed or replaced.
    removed_hash: bool,
}

/// Begins a transaction when it is this writer's turn.
pub(super) fn begin(path: PathBuf) -> Result<Box<dyn Transaction>, StoreError> {
    let connection = connect(&path)?;
    // The pragma reads the schema, which the transaction does anyway.
    take_turn(&connection)
        .and_then(|()| connection.pragma_update(None, "cache_size", -PAGE_CACHE))
        .map_err(|e| store_error(e, &path))?;
    Ok(Box::new(SqliteTransaction { path, connection, removed_hash: false }))
}

fn take_turn(connection: &Connection) -> rusqlite::Result<()> {
    let mut backoff = Backoff::new(Instant::now());
    connection.busy_timeout(Duration::ZERO)?;
    while let Err(e) = connection.execute_batch("BEGIN IMMEDIATE") {
        if !is_busy(&e) {
            return Err(e);
        }
        // It changes with each commit of another connection.
        let version =
            connection.query_row("PRAGMA data_version", [], |row| row.get::<_, u32>(0)).ok();
        match backoff.pause(Instant::now(), version) {
            Some(pause) => thread::sleep(pause),
            None => return Err(e),
        }
    }
    connection.busy_timeout(BUSY_TIMEOUT)
}

/// Returns the token of a transaction that ended now. It waits for the lease of every server.
pub(super) fn visibility(outcome: Result<(), StoreError>) -> Visibility {
    Visibility::new(outcome, || {
        thread::sleep(LOCAL);
        Ok(())
    })
}

impl SqliteTransaction {
    fn error(&self, e: rusqlite::Error) -> StoreError {
        store_error(e, &self.path)
    }

    /// Runs a statement and returns the number of changed rows.
    fn write(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(|e| self.error(e))
    }

    fn end(&self) -> Result<(), StoreError> {
        self.connection.execute_batch("COMMIT").map_err(|e| self.error(e))?;
        // A removed hash stays in the write-ahead log until its checkpoint. `secure_delete` has
        // zeroed it in the database, so no copy is left after that.
        if self.removed_hash {
            checkpoint(&self.connection).map_err(|e| {
                let e = self.error(e);
                let why = format!("cannot checkpoint the write-ahead log: {e}");
                StoreError::Unconfirmed(Box::new(StoreError::failed_by(why, e)))
            })?;
        }
        Ok(())
    }
}

impl Transaction for SqliteTransaction {
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError> {
        let mut statement =
            self.connection.prepare_cached(rows::ONE_ACCOUNT).map_err(|e| self.error(e))?;
        statement
            .query_row([name.as_str()], |row| Ok(rows::account(row)))
            .optional()
            .map_err(|e| self.error(e))?
            .transpose()
    }

    fn names(&mut self) -> Result<Vec<UserName>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM users ORDER BY name")
            .map_err(|e| self.error(e))?;
        let names =
            statement.query_map([], |row| Ok(rows::user_name(row))).map_err(|e| self.error(e))?;
        names.map(|name| name.map_err(|e| self.error(e))?).collect()
    }

    fn put(&mut self, account: &Account) -> Result<(), StoreError> {
        let name = account.name.as_str();
        let hash = account.hash.as_ref().ok();
        let bcrypt = hash.map(|hash| hash.bcrypt.as_str());
        // `None` for a new user. For an existing user, true if the hash is replaced.
        let replaces_hash = self
            .connection
            .prepare_cached("SELECT hash IS NOT ?2 AND ?2 IS NOT NULL FROM users WHERE name = ?1")
            .and_then(|mut statement| {
                statement.query_row((name, bcrypt), |row| row.get::<_, bool>(0)).optional()
            })
            .map_err(|e| self.error(e))?;
        let sql = match replaces_hash {
            None => {
                "INSERT INTO users (name, hash, scheme, salt, rounds, imported, credential_version,
                     locked, expires, created, changed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            }
            Some(_) if hash.is_none() => {
                "UPDATE users SET credential_version = ?7, locked = ?8, expires = ?9, created = ?10,
                     changed = ?11
                 WHERE name = ?1"
            }
            Some(_) => {
                "UPDATE users SET hash = ?2, scheme = ?3, salt = ?4, rounds = ?5, imported = ?6,
                     credential_version = ?7, locked = ?8, expires = ?9, created = ?10, changed = ?11
                 WHERE name = ?1"
            }
        };
        let wrapped = hash.and_then(|hash| hash.wrapped.as_ref());
        let params = wrapped.map(|wrapped| &wrapped.params);
        let values = rusqlite::params![
            name,
            bcrypt,
            params.map(|params| params.scheme().name()),
            params.map(LegacyParams::salt),
            params.and_then(LegacyParams::rounds),
            wrapped.map(|wrapped| rows::seconds(wrapped.imported)),
            account.credential_version.number(),
            account.locked,
            account.expires.map(rows::seconds),
            rows::seconds(account.created),
            rows::seconds(account.changed),
        ];
        self.write(sql, values)?;
        if let Some(replaces_hash) = replaces_hash {
            self.removed_hash |= replaces_hash;
            self.write("DELETE FROM memberships WHERE user = ?1", [name])?;
        }
        for group in account.groups.iter() {
            self.write(
                "INSERT INTO memberships (user, \"group\") VALUES (?1, ?2)",
                [name, group.as_str()],
            )?;
        }
        Ok(())
    }

    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError> {
        if self.find(to)?.is_some() {
            return Err(StoreError::UserExists);
        }
        let renamed =
            self.write("UPDATE users SET name = ?2 WHERE name = ?1", [from.as_str(), to.as_str()])?;
        if renamed == 0 { Err(StoreError::NoSuchUser) } else { Ok(()) }
    }

    fn remove(&mut self, name: &UserName) -> Result<bool, StoreError> {
        let removed = self.write("DELETE FROM users WHERE name = ?1", [name.as_str()])? > 0;
        self.removed_hash |= removed;
        Ok(removed)
    }

    fn commit(self: Box<Self>) -> Visibility {
        visibility(self.end())
    }

    fn rollback(self: Box<Self>) -> Visibility {
        // Closing the connection rolls back, also after an error that has ended the transaction.
        drop(self);
        visibility(Ok(()))
    }
}
