//! Creates a store as a temporary file that is complete before it gets its name.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::check::{orphaned_companion, refused};
use super::companions;
use super::connection::{open, store_error};
use super::schema::initialize;
use crate::fs::{folder, sync_folder};
use crate::store::access::folder_problems;
use crate::store::{StoreError, cannot};

/// Creates an empty store. Does nothing if another process was faster.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let folder = folder(path);
    create_folders(folder)?;
    let failed = |e: io::Error| cannot("create", path, without_path(e));
    let problems = folder_problems(path, &companions(path)).map_err(failed)?;
    if let Some(problem) = problems.into_iter().next() {
        return Err(refused(problem));
    }
    if let Some(problem) = orphaned_companion(path) {
        return Err(StoreError::refused(path, problem));
    }
    let fresh =
        tempfile::Builder::new().prefix(".resttool-new-").tempfile_in(folder).map_err(failed)?;
    // The creation mask may have removed the owner's own rights.
    fresh.as_file().set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    // Errors name the store and not the temporary file.
    let mut connection = open(fresh.path()).map_err(|e| store_error(e, path))?;
    initialize(&mut connection).map_err(|e| store_error(e, path))?;
    connection.close().map_err(|(_, e)| store_error(e, path))?;
    match fresh.persist_noclobber(path) {
        Ok(_) => {}
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(failed(e.error)),
    }
    sync_folder(folder).map_err(failed)
}

/// Drops the name of a temporary file, which the tempfile crate adds to an error.
fn without_path(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::PermissionDenied => Errno::ACCESS.into(),
        io::ErrorKind::ReadOnlyFilesystem => Errno::ROFS.into(),
        io::ErrorKind::StorageFull => Errno::NOSPC.into(),
        io::ErrorKind::QuotaExceeded => Errno::DQUOT.into(),
        _ => e,
    }
}

/// Creates missing folders with mode 0700 under every creation mask. Each is created in the folder
/// that was opened before it, so a name that another user has redirected is not followed.
fn create_folders(folder: &Path) -> Result<(), StoreError> {
    let missing: Vec<_> = folder.ancestors().take_while(|f| !f.exists()).collect();
    let Some(parent) = missing.last().and_then(|first| first.parent()) else { return Ok(()) };
    let mut parent = File::open(parent).map_err(|e| cannot("open", parent, e))?;
    for folder in missing.into_iter().rev() {
        // `..` is not a file name, but has to be opened too.
        let name = folder.components().next_back().map_or(OsStr::new("."), Component::as_os_str);
        parent = create_folder(&parent, name).map_err(|e| cannot("create", folder, e))?;
    }
    Ok(())
}

/// Creates a folder, or opens one that another process has just created.
pub(super) fn create_folder(parent: &File, name: &OsStr) -> io::Result<File> {
    let created = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e.into()),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(openat(parent, name, flags, Mode::empty())?);
    if created {
        folder.set_permissions(Permissions::from_mode(0o700))?;
        parent.sync_all()?;
    }
    Ok(folder)
}
