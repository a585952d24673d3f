//! The schema of a database and its migrations.

use tokio_postgres::types::Type;

use super::connect::ConnectionParams;
use super::session::Session;
use super::url::PostgresUrl;
use crate::store::{DatabaseProblem, Problem, StoreError};

/// The steps to the current schema. `resttool.state.version` counts those that were made. Their
/// numbers and meaning are those of the SQLite backend.
pub(super) const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/postgres/0001_users.sql"),
    include_str!("../../../migrations/postgres/0002_groups.sql"),
    include_str!("../../../migrations/postgres/0003_schemes.sql"),
];

/// The version of the current schema.
pub(super) const SCHEMA: i32 = MIGRATIONS.len() as i32;

/// Serializes migrations of any number of processes, for the rest of a transaction: `rest` in ASCII.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(1919251316)";

/// Returns the error of a schema of this version.
pub(super) fn check(url: &PostgresUrl, version: Option<i32>) -> Result<(), StoreError> {
    let problem = match version {
        Some(SCHEMA) => return Ok(()),
        None => Problem::Missing,
        Some(version @ 1..SCHEMA) => Problem::OlderSchema { version, known: SCHEMA },
        Some(version) => Problem::UnknownSchema { version, known: SCHEMA as u32 },
    };
    Err(StoreError::Refused { location: url.clone().into(), problem })
}

/// Returns the version of the schema, or `None` if there is none.
pub(super) fn version(session: &Session) -> Result<Option<i32>, StoreError> {
    let sql = "SELECT pg_catalog.to_regclass('resttool.state') IS NOT NULL";
    let exists = session.run(async |client| client.query_typed_one(sql, &[]).await?.try_get(0));
    if !exists? {
        return Ok(None);
    }
    let sql = "SELECT version FROM resttool.state";
    let row = session.run(async |client| client.query_typed_opt(sql, &[]).await)?;
    Ok(row.and_then(|row| row.try_get(0).ok()))
}

/// Creates the schema, with leases of this many milliseconds. Returns false if there is one.
pub(super) fn initialize(params: &ConnectionParams, lease_ms: i32) -> Result<bool, StoreError> {
    let session = begin(params)?;
    if version(&session)?.is_some() {
        return Ok(false);
    }
    let sql = "SELECT pg_catalog.current_setting('server_encoding')";
    let encoding =
        session.run(async |client| client.query_typed_one(sql, &[]).await?.try_get(0))?;
    check_encoding(encoding).map_err(|problem| StoreError::Refused {
        location: params.url.clone().into(),
        problem: Problem::Database(problem),
    })?;
    let hint = "use the owner of the database, or GRANT CREATE ON DATABASE to the role";
    batch(&session, &MIGRATIONS.concat()).map_err(|e| e.with_hint(Some(hint.to_owned())))?;
    let sql = "INSERT INTO resttool.state (version, lease_ms) VALUES ($1, $2)";
    session.run(async |client| {
        client.execute_typed(sql, &[(&SCHEMA, Type::INT4), (&lease_ms, Type::INT4)]).await
    })?;
    batch(&session, "SELECT resttool.note('{}'); COMMIT")?;
    Ok(true)
}

/// Fails for an encoding that lacks some names. A server looks up several users at once, and one such
/// name would fail them all.
pub(super) fn check_encoding(encoding: String) -> Result<(), DatabaseProblem> {
    if encoding == "UTF8" { Ok(()) } else { Err(DatabaseProblem::Encoding { encoding }) }
}

/// Migrates an older schema in one transaction. Returns the version before.
pub(super) fn migrate(params: &ConnectionParams) -> Result<i32, StoreError> {
    let session = begin(params)?;
    let before = version(&session)?;
    match check(&params.url, before) {
        Err(StoreError::Refused { problem: Problem::OlderSchema { version, .. }, .. }) => {
            let steps = MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(usize::MAX));
            batch(&session, &steps.copied().collect::<String>())?;
            let sql = "UPDATE resttool.state SET version = $1";
            session
                .run(async |client| client.execute_typed(sql, &[(&SCHEMA, Type::INT4)]).await)?;
            batch(&session, "SELECT resttool.note(NULL); COMMIT")?;
            Ok(version)
        }
        Err(e) => Err(e),
        Ok(()) => Ok(SCHEMA),
    }
}

/// Begins a transaction that no other migration interrupts. It ends with the session.
fn begin(params: &ConnectionParams) -> Result<Session, StoreError> {
    let session = Session::open(params)?;
    batch(&session, "BEGIN ISOLATION LEVEL READ COMMITTED")?;
    batch(&session, LOCK)?;
    Ok(session)
}

fn batch(session: &Session, sql: &str) -> Result<(), StoreError> {
    session.run(async |client| client.batch_execute(sql).await)
}
