//! The schema of a database and its migrations.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::connection::store_error;
use crate::store::{Problem, StoreError};

/// Marks a database as a store, in the header of the file: `rest` in ASCII.
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"rest");

/// The steps from an empty file to the current schema. `user_version` counts those that were made.
pub(super) const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/sqlite/0001_users.sql"),
    include_str!("../../../migrations/sqlite/0002_groups.sql"),
    include_str!("../../../migrations/sqlite/0003_schemes.sql"),
];

/// The version of the current schema.
const SCHEMA: u32 = MIGRATIONS.len() as u32;

/// Creates the schema in an empty database.
pub(super) fn initialize(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    migrate(connection.transaction()?, &MIGRATIONS)
}

/// Migrates a store to the current schema.
pub(super) fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |e| store_error(e, path);
    let seen = version(connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    if seen == SCHEMA {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Read again, since another process may have been faster.
    let seen = version(&transaction, path)?;
    migrate(transaction, &MIGRATIONS[seen as usize..]).map_err(failed)
}

/// Runs the last steps to the current schema in one transaction.
pub(super) fn migrate(
    transaction: rusqlite::Transaction<'_>,
    steps: &[&str],
) -> rusqlite::Result<()> {
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

/// Returns the version of the schema of a store. Refuses other files: SQLite takes a truncated file
/// for an empty database, and would overwrite the rest of it.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let failed = |e| store_error(e, path);
    let refused = |problem| Err(StoreError::refused(path, problem));
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(failed)?;
    let version = number("user_version").map_err(failed)?;
    match u32::try_from(version) {
        _ if application != APPLICATION_ID => refused(Problem::NotAStore),
        Ok(version) if (1..=SCHEMA).contains(&version) => Ok(version),
        _ => refused(Problem::UnknownSchema { version, known: SCHEMA }),
    }
}
