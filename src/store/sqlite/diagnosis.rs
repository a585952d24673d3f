//! The error of the system behind an error of SQLite, which has words of its own and no errno.
//!
//! Opens neither the database nor a companion, since closing one would release the locks of this
//! process (fcntl(2), "record locks").

use std::fs::File;
use std::path::Path;

use rusqlite::ErrorCode;
use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};
use rustix::io::Errno;

use super::companions;
use crate::fs::folder;
use crate::store::{StoreError, cannot};

/// The size of the first part of the index of the log, in bytes. If it does not fit on the disk, SQLite
/// reports an I/O error.
const INDEX_PAGE: u64 = 32 * 1024;

/// Returns the error of the system, if it can be found out.
pub(super) fn system_error(code: ErrorCode, path: &Path) -> Option<StoreError> {
    let failed = |verb, path: &Path, e: Errno| Some(cannot(verb, path, std::io::Error::from(e)));
    match code {
        ErrorCode::DiskFull => return failed("write to", path, Errno::NOSPC),
        ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::SystemIoFailure => {}
        _ => return None,
    }
    // SQLite keeps as many files open at once: the database, its companions and the folder.
    let opened: std::io::Result<Vec<_>> = (0..4).map(|_| File::open(folder(path))).collect();
    if let Err(e) = opened
        && let Some(limit @ (Errno::MFILE | Errno::NFILE)) = Errno::from_io_error(&e)
    {
        return failed("open", path, limit);
    }
    let companions = companions(path);
    let files = [path].into_iter().chain(companions.iter().map(|file| file.as_path()));
    // SQLite creates and removes the companions.
    let needed = files
        .flat_map(|file| [("read", file, Access::READ_OK), ("write to", file, Access::WRITE_OK)])
        .chain([("write to the folder", folder(path), Access::WRITE_OK | Access::EXEC_OK)]);
    for (verb, file, access) in needed {
        // A missing companion is no problem, since SQLite creates it.
        if let Err(e @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) =
            accessat(CWD, file, access, AtFlags::EACCESS)
        {
            return failed(verb, file, e);
        }
    }
    let free = statvfs(folder(path)).ok()?;
    if free.f_bavail.saturating_mul(free.f_frsize) < INDEX_PAGE {
        return failed("write to", path, Errno::NOSPC);
    }
    None
}
