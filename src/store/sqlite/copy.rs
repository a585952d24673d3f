//! Copies a store while it is in use.

use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use super::connection::store_error;
use super::existing;
use super::files::OpenFiles;
use crate::store::StoreError;

/// Writes a copy of the database to `out`.
///
/// SQLite would open its target by name, and in the folder of another user the name may belong to
/// another file by then. So the copy is built in memory first.
pub(in crate::store) fn backup(path: &Path, out: &mut dyn io::Write) -> Result<(), StoreError> {
    let path = existing(path)?;
    let source = OpenFiles::open(&path, 0)?;
    let copy = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // This VFS lends its bytes to `serialize`, which saves a second copy.
        let mut target = Connection::open_with_flags_and_vfs("copy", flags, "memdb")?;
        // In one step, because readers do not block writers and see one point in time.
        let pause = Duration::from_millis(10);
        Backup::new(&source.main(), &mut target)?.run_to_completion(i32::MAX, pause, None)?;
        Ok(target)
    };
    let failed = |e| store_error(e, &path);
    let mut copy = copy().map_err(failed)?;
    let bytes = copy.serialize("main").map_err(failed)?;
    out.write_all(&bytes)
        .map_err(|e| StoreError::failed_by(format!("cannot write the copy: {e}"), e))
}
