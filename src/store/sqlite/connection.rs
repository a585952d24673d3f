//! Connections to a database, and their errors.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::diagnosis::system_error;
use crate::store::{BUSY_TIMEOUT, Problem, StoreError};
use crate::text::printable;

/// The time that a checkpoint waits for readers. After that, it is left to the next change.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(200);

/// Connects to read and write.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    open(path).map_err(|e| store_error(e, path))
}

/// Connects like [`connect`], with the error of the library.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// Connects to read only. The connection never waits for a lock.
pub(super) fn connect_read_only(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| connection.busy_timeout(Duration::ZERO).map(|()| connection))
        .map_err(|e| store_error(e, path))
}

/// Checkpoints the write-ahead log and truncates it. While a reader uses it, that is left to the
/// next change, or to the last connection that closes the store.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(CHECKPOINT_TIMEOUT)?;
    let done = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    done
}

pub(super) fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Translates an error of the library.
pub(super) fn store_error(e: rusqlite::Error, path: &Path) -> StoreError {
    let refused = |problem| StoreError::refused(path, problem);
    match e.sqlite_error_code() {
        _ if is_busy(&e) => StoreError::Busy,
        Some(ErrorCode::NotADatabase) => refused(Problem::NotAStore),
        Some(ErrorCode::DatabaseCorrupt) => refused(Problem::Damaged(None)),
        code => code.and_then(|code| system_error(code, path)).unwrap_or_else(|| {
            let path = printable(&path.to_string_lossy());
            StoreError::failed_by(format!("{path}: {e}"), e)
        }),
    }
}
