//! Transactions: changes on a connection of their own.
//!
//! A transaction holds the row of the state, so writers take turns. Records are read and written by
//! the hundred: a round trip for each user would take longer than all the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::boot_clock::boot_time;
use super::connect::{ConnectionParams, describe};
use super::rows;
use super::session::{Session, store_error};
use crate::domain::{Account, UserName};
use crate::store::lease::wait_for_machines;
use crate::store::{BUSY_TIMEOUT, StoreError, Transaction, Visibility, WaitNotice};

/// The number of records that are written at once.
const BATCH: usize = 1000;

/// Takes the turn of a writer. The isolation is said, since the database may have another default.
fn take_turn() -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {};
         SELECT FROM resttool.state FOR UPDATE",
        BUSY_TIMEOUT.as_millis()
    )
}

/// The length of the lease of every server.
const LEASE: &str = "SELECT lease_ms FROM resttool.state";

/// The tag of the last change in this transaction.
const TAG: &str = "SELECT tag FROM resttool.state";

/// Returns true if a committed change has this tag.
const HAS_TAG: &str = "SELECT EXISTS (SELECT FROM resttool.changes WHERE tag = $1)";

/// Returns true if a user of one of these names was changed or removed lately. A lease takes a minute
/// at most, and the triggers keep changes of ten.
///
/// The time of a change is that of its statement, and its transaction may have ended much later. But
/// it had ended before the next transaction could record a change.
const WAS_CHANGED: &str = "SELECT EXISTS (
        SELECT FROM resttool.changes
        WHERE (names IS NULL OR names && $1) AND NOT EXISTS (
            SELECT FROM resttool.changes AS later
            WHERE later.revision > changes.revision AND later.xact <> changes.xact
                AND later.at < pg_catalog.clock_timestamp() - interval '10 minutes'
        )
    )";

const PUT: &str = "INSERT INTO resttool.users (name, hash, scheme, salt, rounds, imported,
        credential_version, locked, expires, created, changed)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bool[], $9::bigint[], $10::bigint[], $11::bigint[])
    ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, scheme = excluded.scheme,
        salt = excluded.salt, rounds = excluded.rounds, imported = excluded.imported,
        credential_version = excluded.credential_version, locked = excluded.locked,
        expires = excluded.expires, created = excluded.created, changed = excluded.changed";

/// Writes a record whose hash is unusable, and stays as it is.
const PUT_WITHOUT_HASH: &str = "UPDATE resttool.users SET credential_version = $2, locked = $3,
        expires = $4, created = $5, changed = $6
    WHERE name = $1";

const LEAVE: &str = "DELETE FROM resttool.memberships AS old WHERE \"user\" = ANY ($1)
    AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS new (\"user\", \"group\")
        WHERE new.\"user\" = old.\"user\" AND new.\"group\" = old.\"group\")";

const JOIN: &str = "INSERT INTO resttool.memberships (\"user\", \"group\")
    SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING";

/// One statement for many users, since each statement writes a new version of the row of the state, and
/// the next one in the same transaction has to pass all versions before.
const REMOVE: &str = "DELETE FROM resttool.users WHERE name = ANY ($1)";

struct PostgresTransaction {
    params: Arc<ConnectionParams>,
    session: Session,
    lease: Duration,
    notice: Option<WaitNotice>,
    /// The records of users as they are in this transaction, `None` for those that do not exist.
    read: BTreeMap<UserName, Option<Account>>,
    /// The records that are not written yet.
    unwritten: BTreeMap<UserName, Account>,
    /// The users that are not removed yet. They are removed before records are written.
    unremoved: BTreeSet<UserName>,
    /// The users that this transaction has added.
    added: BTreeSet<UserName>,
    /// A user was changed or removed.
    has_revoked: bool,
}

/// Begins a transaction when it is this writer's turn.
pub(super) fn begin(
    params: Arc<ConnectionParams>,
    notice: Option<WaitNotice>,
) -> Result<Box<dyn Transaction>, StoreError> {
    let session = Session::open(&params)?;
    session.run(async |client| client.batch_execute(&take_turn()).await)?;
    let lease = read_lease(&session)?;
    Ok(Box::new(PostgresTransaction {
        params,
        session,
        lease,
        notice,
        read: BTreeMap::new(),
        unwritten: BTreeMap::new(),
        unremoved: BTreeSet::new(),
        added: BTreeSet::new(),
        has_revoked: false,
    }))
}

/// Reads the length of the lease of every server.
pub(super) fn read_lease(session: &Session) -> Result<Duration, StoreError> {
    let lease: i32 =
        session.run(async |client| client.query_typed_one(LEASE, &[]).await?.try_get(0))?;
    Ok(Duration::from_millis(u64::from(lease.unsigned_abs())))
}

/// Returns the token of a transaction that ended now. It waits for the lease of every server, by a
/// clock that runs on while the machine sleeps.
pub(super) fn visibility(
    outcome: Result<(), StoreError>,
    lease: Duration,
    notice: Option<WaitNotice>,
) -> Visibility {
    let end = boot_time() + wait_for_machines(lease);
    Visibility::new(outcome, move || {
        if let Some(notice) = notice {
            notice(end.saturating_sub(boot_time()));
        }
        loop {
            let now = boot_time();
            if now >= end {
                return Ok(());
            }
            thread::sleep(end - now);
        }
    })
}

impl PostgresTransaction {
    fn execute(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, StoreError> {
        self.session.run(async |client| client.execute_typed(sql, values).await)
    }

    /// Reads records that were not read yet.
    fn fetch(&mut self, names: &[UserName]) -> Result<(), StoreError> {
        let missing = |name: &&UserName| !self.read.contains_key(*name);
        let names: Vec<&UserName> = names.iter().filter(missing).collect();
        for names in names.chunks(BATCH) {
            let wanted: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let rows = self.session.run(async |client| {
                client.query_typed(rows::SOME_ACCOUNTS, &[(&wanted, Type::TEXT_ARRAY)]).await
            })?;
            let mut found = BTreeMap::new();
            for row in &rows {
                let name = rows::user_name(row, 8)?;
                found.insert(name, rows::account(row));
            }
            for name in names {
                match found.remove(name) {
                    // An unusable record is read again when it is asked for, and fails then.
                    Some(Err(_)) => {}
                    Some(Ok(account)) => {
                        self.read.insert((*name).clone(), Some(account));
                    }
                    None => {
                        self.read.insert((*name).clone(), None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads one record anew, with the error of an unusable one.
    fn fetch_one(&self, name: &UserName) -> Result<Option<Account>, StoreError> {
        let wanted = [name.as_str()];
        let row = self.session.run(async |client| {
            client.query_typed_opt(rows::SOME_ACCOUNTS, &[(&&wanted[..], Type::TEXT_ARRAY)]).await
        })?;
        row.map(|row| rows::account(&row)).transpose()
    }

    /// Removes the users that are not removed yet, and writes the records that are not written yet.
    fn flush(&mut self) -> Result<(), StoreError> {
        let names = std::mem::take(&mut self.unremoved);
        let names: Vec<&str> = names.iter().map(UserName::as_str).collect();
        for batch in names.chunks(BATCH) {
            self.execute(REMOVE, &[(&batch, Type::TEXT_ARRAY)])?;
        }
        let accounts = std::mem::take(&mut self.unwritten);
        let accounts: Vec<&Account> = accounts.values().collect();
        for batch in accounts.chunks(BATCH) {
            self.write(batch)?;
        }
        Ok(())
    }

    fn write(&self, accounts: &[&Account]) -> Result<(), StoreError> {
        let mut columns = Columns::default();
        for account in accounts {
            match &account.hash {
                Ok(hash) => columns.push(account, hash),
                Err(_) => {
                    let version = account.credential_version.number();
                    let expires = account.expires.map(rows::seconds);
                    let times = [account.created, account.changed].map(rows::seconds);
                    self.execute(
                        PUT_WITHOUT_HASH,
                        &[
                            (&account.name.as_str(), Type::TEXT),
                            (&version, Type::INT8),
                            (&account.locked, Type::BOOL),
                            (&expires, Type::INT8),
                            (&times[0], Type::INT8),
                            (&times[1], Type::INT8),
                        ],
                    )?;
                }
            }
        }
        columns.put(self)?;
        let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
        let memberships = accounts
            .iter()
            .flat_map(|account| account.groups.iter().map(move |group| (account, group)));
        let (users, groups): (Vec<&str>, Vec<&str>) =
            memberships.map(|(account, group)| (account.name.as_str(), group.as_str())).unzip();
        // New users have no groups to leave.
        if accounts.iter().any(|account| !self.added.contains(&account.name)) {
            let array = Type::TEXT_ARRAY;
            self.execute(
                LEAVE,
                &[(&names, array.clone()), (&users, array.clone()), (&groups, array)],
            )?;
        }
        if !users.is_empty() {
            self.execute(JOIN, &[(&users, Type::TEXT_ARRAY), (&groups, Type::TEXT_ARRAY)])?;
        }
        Ok(())
    }

    /// Returns true if servers may still rely on an earlier state of an added user.
    fn added_removed_names(&self) -> Result<bool, StoreError> {
        let names: Vec<&str> = self.added.iter().map(UserName::as_str).collect();
        for names in names.chunks(BATCH) {
            let changed = self.session.run(async |client| {
                let names = (&names as _, Type::TEXT_ARRAY);
                client.query_typed_one(WAS_CHANGED, &[names]).await?.try_get(0)
            })?;
            if changed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes everything and commits. Returns true if servers have to be waited for.
    fn end(&mut self) -> Result<bool, StoreError> {
        self.flush()?;
        let needs_wait = self.has_revoked || self.added.is_empty() || self.added_removed_names()?;
        let tag: i64 =
            self.session.run(async |client| client.query_typed_one(TAG, &[]).await?.try_get(0))?;
        self.session.take_warnings();
        match self.session.run(async |client| Ok(client.batch_execute("COMMIT").await)) {
            Ok(Ok(())) => match self.session.take_warnings().first() {
                None => Ok(needs_wait),
                // A cancelled wait for synchronous replication.
                Some(warning) => Err(StoreError::Unknown(warning.clone())),
            },
            // The server has answered that it has not committed.
            Ok(Err(e)) if e.as_db_error().is_some() && !is_lost(&e) => Err(store_error(e)),
            Ok(Err(e)) => self.look_for(tag, needs_wait, &describe(&e)),
            Err(e) => self.look_for(tag, needs_wait, &e.to_string()),
        }
    }

    /// Finds out whether a commit whose answer was lost has taken place.
    ///
    /// A server goes on with a commit whose client is gone, and holds the row of the state until it
    /// ends. So this waits for the turn of a writer first. The tag is looked for by a statement of
    /// its own, which sees what was committed during that wait.
    fn look_for(&self, tag: i64, needs_wait: bool, why: &str) -> Result<bool, StoreError> {
        let unknown = |e: StoreError| StoreError::Unknown(format!("{why}, and then: {e}"));
        let session = Session::open(&self.params).map_err(unknown)?;
        let found = session.run(async |client| {
            client.batch_execute(&take_turn()).await?;
            client.query_typed_one(HAS_TAG, &[(&tag, Type::INT8)]).await?.try_get(0)
        });
        match found.map_err(unknown)? {
            true => Ok(needs_wait),
            false => Err(StoreError::Unreachable(why.to_owned())),
        }
    }
}

/// Returns true if the server has ended the connection, so that the outcome of a commit is unknown.
fn is_lost(e: &tokio_postgres::Error) -> bool {
    matches!(
        e.code(),
        Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::QUERY_CANCELED)
    )
}

impl Transaction for PostgresTransaction {
    fn prefetch_size(&self) -> usize {
        BATCH
    }

    /// Forgets the records that were read before, so that they take no memory.
    fn prefetch(&mut self, names: &[UserName]) -> Result<(), StoreError> {
        self.flush()?;
        self.read.clear();
        self.fetch(names)
    }

    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError> {
        // Only records with a usable hash are kept for later.
        if let Some(account) = self.unwritten.get(name) {
            return Ok(Some(account.clone()));
        }
        if let Some(read) = self.read.get(name) {
            return Ok(read.clone());
        }
        let read = self.fetch_one(name)?;
        self.read.insert(name.clone(), read.clone());
        Ok(read)
    }

    fn names(&mut self) -> Result<Vec<UserName>, StoreError> {
        self.flush()?;
        let sql = "SELECT name FROM resttool.users ORDER BY name";
        let rows = self.session.run(async |client| client.query_typed(sql, &[]).await)?;
        rows.iter().map(|row| rows::user_name(row, 0)).collect()
    }

    fn put(&mut self, account: &Account) -> Result<(), StoreError> {
        let name = &account.name;
        if !self.unwritten.contains_key(name) && !self.added.contains(name) {
            match self.find(name) {
                Ok(None) => {
                    self.added.insert(name.clone());
                }
                Ok(Some(_)) | Err(StoreError::BadRecord { .. }) => self.has_revoked = true,
                Err(e) => return Err(e),
            }
        }
        self.read.remove(name);
        if account.hash.is_err() {
            self.flush()?;
            return self.write(&[account]);
        }
        self.unwritten.insert(name.clone(), account.clone());
        if self.unwritten.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError> {
        self.flush()?;
        self.has_revoked = true;
        let exists = "SELECT EXISTS (SELECT FROM resttool.users WHERE name = $1)";
        let taken: bool = self.session.run(async |client| {
            client.query_typed_one(exists, &[(&to.as_str(), Type::TEXT)]).await?.try_get(0)
        })?;
        if taken {
            return Err(StoreError::UserExists);
        }
        self.read.remove(from);
        self.read.remove(to);
        let sql = "UPDATE resttool.users SET name = $2 WHERE name = $1";
        let values: [(&(dyn ToSql + Sync), Type); 2] =
            [(&from.as_str(), Type::TEXT), (&to.as_str(), Type::TEXT)];
        if self.execute(sql, &values)? == 0 { Err(StoreError::NoSuchUser) } else { Ok(()) }
    }

    fn remove(&mut self, name: &UserName) -> Result<bool, StoreError> {
        self.has_revoked = true;
        match self.read.get(name) {
            Some(None) => Ok(false),
            Some(Some(_)) => {
                self.read.insert(name.clone(), None);
                self.unremoved.insert(name.clone());
                if self.unremoved.len() >= BATCH {
                    self.flush()?;
                }
                Ok(true)
            }
            // It was not read, or has a record that is not written yet.
            None => {
                self.flush()?;
                Ok(self.execute(REMOVE, &[(&&[name.as_str()][..], Type::TEXT_ARRAY)])? > 0)
            }
        }
    }

    fn commit(mut self: Box<Self>) -> Visibility {
        match self.end() {
            Ok(false) => Visibility::new(Ok(()), || Ok(())),
            Ok(true) => visibility(Ok(()), self.lease, self.notice),
            // Nothing was changed, and the caller tries again.
            Err(StoreError::Conflict) => Visibility::new(Err(StoreError::Conflict), || Ok(())),
            Err(e) => visibility(Err(e), self.lease, self.notice),
        }
    }

    fn rollback(self: Box<Self>) -> Visibility {
        // Closing the connection rolls back, also after an error that has ended the transaction.
        let (lease, notice) = (self.lease, self.notice);
        drop(self);
        visibility(Ok(()), lease, notice)
    }
}

/// Records by column, as they are written.
#[derive(Default)]
struct Columns<'a> {
    names: Vec<&'a str>,
    hashes: Vec<&'a str>,
    schemes: Vec<Option<&'a str>>,
    salts: Vec<Option<&'a str>>,
    rounds: Vec<Option<i64>>,
    imported: Vec<Option<i64>>,
    versions: Vec<i64>,
    locked: Vec<bool>,
    expires: Vec<Option<i64>>,
    created: Vec<i64>,
    changed: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, account: &'a Account, hash: &'a crate::domain::StoredHash) {
        let wrapped = hash.wrapped.as_ref();
        self.names.push(account.name.as_str());
        self.hashes.push(hash.bcrypt.as_str());
        self.schemes.push(wrapped.map(|wrapped| wrapped.params.scheme().name()));
        self.salts.push(wrapped.map(|wrapped| wrapped.params.salt()));
        self.rounds.push(wrapped.and_then(|wrapped| wrapped.params.rounds()).map(i64::from));
        self.imported.push(wrapped.map(|wrapped| rows::seconds(wrapped.imported)));
        self.versions.push(account.credential_version.number());
        self.locked.push(account.locked);
        self.expires.push(account.expires.map(rows::seconds));
        self.created.push(rows::seconds(account.created));
        self.changed.push(rows::seconds(account.changed));
    }

    fn put(&self, transaction: &PostgresTransaction) -> Result<(), StoreError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let (text, int8) = (Type::TEXT_ARRAY, Type::INT8_ARRAY);
        transaction.execute(
            PUT,
            &[
                (&self.names, text.clone()),
                (&self.hashes, text.clone()),
                (&self.schemes, text.clone()),
                (&self.salts, text),
                (&self.rounds, int8.clone()),
                (&self.imported, int8.clone()),
                (&self.versions, int8.clone()),
                (&self.locked, Type::BOOL_ARRAY),
                (&self.expires, int8.clone()),
                (&self.created, int8.clone()),
                (&self.changed, int8),
            ],
        )?;
        Ok(())
    }
}
