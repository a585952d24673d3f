//! The PostgreSQL backend, for several machines.
//!
//! Commands use a connection that blocks ([`PostgresStore`]), and each transaction has one of its
//! own. A server has one thread with one connection ([`PostgresReader`]). Every statement is one
//! unnamed query, so that a pool in front of the database may give each transaction another
//! connection (PgBouncer in transaction mode).

mod boot_clock;
mod check;
mod connect;
mod hint;
mod passfile;
mod reader;
mod rows;
mod schema;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
pub(super) mod url;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::pin_mut;
use tokio_postgres::types::Type;

use super::{
    FoundUser, RecordState, Revision, StoreError, Transaction, UserReader, UserStore, Visibility,
    WaitNotice,
};
use crate::domain::{Account, GroupName, StoredHash, User, UserName};
pub(super) use check::check;
use connect::ConnectionParams;
pub(super) use reader::PostgresReader;
use session::Session;
use url::PostgresUrl;

/// The default length of the lease of servers.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// Returns the SQL for a role that can read users, and nothing else.
pub(crate) fn serve_role() -> String {
    let [usage, select] = serve_grants("resttool_serve");
    format!("CREATE ROLE resttool_serve LOGIN;\n{usage}\n{select}")
}

/// Returns the SQL that gives a role the rights to read users. The name is one in SQL, e.g. quoted.
pub(crate) fn serve_grants(role: &str) -> [String; 2] {
    [
        format!("GRANT USAGE ON SCHEMA resttool TO {role};"),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA resttool TO {role};"),
    ]
}

/// Users in a PostgreSQL database, as commands use them.
pub(super) struct PostgresStore {
    params: Arc<ConnectionParams>,
    session: Mutex<Session>,
    lease: Duration,
    notice: Option<WaitNotice>,
}

/// Starts to follow a database for a server. Returns without a connection.
pub(super) fn follow(url: &PostgresUrl) -> Result<PostgresReader, StoreError> {
    PostgresReader::start(ConnectionParams::new(url)?)
}

/// Creates the schema. Returns false if there is one.
pub(super) fn initialize(url: &PostgresUrl, lease: Duration) -> Result<bool, StoreError> {
    let lease_ms = i32::try_from(lease.as_millis()).unwrap_or(i32::MAX);
    schema::initialize(&ConnectionParams::new(url)?, lease_ms)
}

/// Migrates an older schema. Returns its version before, and the current one.
pub(super) fn migrate(url: &PostgresUrl) -> Result<(i32, i32), StoreError> {
    Ok((schema::migrate(&ConnectionParams::new(url)?)?, schema::SCHEMA))
}

impl PostgresStore {
    /// Connects to a database with the current schema.
    pub(super) fn open(url: &PostgresUrl) -> Result<Self, StoreError> {
        let params = ConnectionParams::new(url)?;
        let session = Session::open(&params)?;
        schema::check(url, schema::version(&session)?)?;
        let lease = transaction::read_lease(&session)?;
        Ok(Self { params: Arc::new(params), session: Mutex::new(session), lease, notice: None })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exists(&self, sql: &str, value: Option<&str>) -> Result<bool, StoreError> {
        self.session().run(async |client| {
            let row = match value {
                Some(value) => client.query_typed_one(sql, &[(&value, Type::TEXT)]).await?,
                None => client.query_typed_one(sql, &[]).await?,
            };
            row.try_get(0)
        })
    }
}

impl UserReader for PostgresStore {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        Ok(self.find_with_groups(name)?.map(|found| found.user))
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError> {
        let row = self.session().run(async |client| {
            let names = [name.as_str()];
            client
                .query_typed_one(rows::USERS_WITH_GROUPS, &[(&&names[..], Type::TEXT_ARRAY)])
                .await
        })?;
        let Some((name, found)) = rows::found(&row, true)? else { return Ok(None) };
        let (user, groups) = found.map_err(|why| StoreError::BadRecord { user: name, why })?;
        // There is no revision of a command.
        let state = RecordState::Unknown;
        Ok(Some(FoundUser { user, groups: Arc::new(groups), state }))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.is_empty().map(drop)
    }

    /// Commands have no lease, so there is no revision to rely on.
    fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
        Err(StoreError::Lapsed)
    }

    fn reading_age(&self, _: Instant) -> Option<Duration> {
        None
    }

    fn replace_hash(
        &self,
        name: &UserName,
        old: &StoredHash,
        new: StoredHash,
    ) -> Result<bool, StoreError> {
        super::replace_hash(self, name, old, new)
    }
}

impl UserStore for PostgresStore {
    fn is_empty(&self) -> Result<bool, StoreError> {
        self.exists("SELECT NOT EXISTS (SELECT FROM resttool.users)", None)
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        self.exists(
            "SELECT EXISTS (SELECT FROM resttool.users WHERE name = $1)",
            Some(name.as_str()),
        )
    }

    fn first(&self) -> Result<Option<UserName>, StoreError> {
        let name: Option<String> = self.session().run(async |client| {
            let sql = "SELECT min(name) FROM resttool.users";
            client.query_typed_one(sql, &[]).await?.try_get(0)
        })?;
        Ok(name.and_then(|name| UserName::parse(&name).ok()))
    }

    fn has_member(&self, group: &GroupName) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM resttool.memberships WHERE \"group\" = $1)";
        self.exists(sql, Some(group.as_str()))
    }

    fn count(&self) -> Result<u64, StoreError> {
        let count: i64 = self.session().run(async |client| {
            client.query_typed_one("SELECT count(*) FROM resttool.users", &[]).await?.try_get(0)
        })?;
        // A count is never negative.
        Ok(count.unsigned_abs())
    }

    /// Reads the rows as they come, as of one point in time: that of the statement.
    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        let mut bad_record = None;
        self.session().stream(async |client| {
            let rows = client.query_typed_raw::<&str, _>(rows::ALL_ACCOUNTS, []).await?;
            pin_mut!(rows);
            while let Some(row) = rows.next().await {
                match rows::account(&row?) {
                    Ok(account) => {
                        if visit(account).is_break() {
                            break;
                        }
                    }
                    Err(e) => {
                        bad_record = Some(e);
                        break;
                    }
                }
            }
            Ok(())
        })?;
        bad_record.map_or(Ok(()), Err)
    }

    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        transaction::begin(Arc::clone(&self.params), self.notice)
    }

    fn notify_of_waits(&mut self, notice: WaitNotice) {
        self.notice = Some(notice);
    }

    fn visibility(&self) -> Visibility {
        transaction::visibility(Ok(()), self.lease, self.notice)
    }
}
