//! Files: atomic replacement, identity and version, and access of other users.
//!
//! Decides how files are written and told apart. Knows nothing of their contents.

mod atomic;
mod version;

pub(crate) use atomic::AtomicFile;
pub(crate) use version::{FileId, FileVersion};

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Returns the folder that contains a file.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path with `suffix` behind the name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the absolute path, so that it means the same file in every folder.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Makes the names in a folder as durable as the files.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The mode of a secret file that others may read or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exposed {
    pub(crate) mode: u32,
    /// It belongs to root, and its group may read it.
    pub(crate) of_root: bool,
}

/// Decides whether the readers of a secret file are few enough. Returns its mode if they are not.
///
/// A file of its reader is for the reader alone. One of root may be for a group (Kubernetes secrets
/// with `fsGroup`). The service manager looks after the files in its folder for credentials, whose
/// modes show a mask only (`LoadCredential=`, systemd.exec(5)).
pub(crate) fn exposed(path: &Path, meta: &Metadata) -> io::Result<Option<Exposed>> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    if let Some(folder) = credentials
        && let Ok(folder) = fs::canonicalize(folder)
        && fs::canonicalize(path)?.starts_with(folder)
    {
        return Ok(None);
    }
    let of_root = meta.uid() == 0 && !geteuid().is_root();
    let forbidden = if of_root { 0o037 } else { 0o077 };
    let mode = meta.permissions().mode() & 0o7777;
    Ok((mode & forbidden != 0).then_some(Exposed { mode, of_root }))
}

/// Returns the mode of a file, if its group or other users may read or write it.
pub(crate) fn mode_if_not_private(meta: &Metadata) -> Option<u32> {
    let mode = meta.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}
