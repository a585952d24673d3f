//! Files that are written aside, for their owner alone, and then put in place: so nobody ever meets half of one.
//!
//! This room knows nothing of what is written.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file that is to stand at a place. Dropped before it is put there, it is gone.
pub(crate) struct Aside {
    place: PathBuf,
    file: NamedTempFile,
}

impl Aside {
    /// An empty file beside its place.
    pub(crate) fn create(place: &Path) -> io::Result<Self> {
        let file = Builder::new().prefix(".resttool-aside-").tempfile_in(folder(place))?;
        // The creation mask may have taken away the owner's own rights.
        file.as_file().set_permissions(Permissions::from_mode(0o600))?;
        Ok(Self { place: place.to_owned(), file })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// In place of whatever is there. Durable when it returns.
    pub(crate) fn put_in_place(self) -> io::Result<()> {
        let Self { place, file } = self;
        file.as_file().sync_all()?;
        file.persist(&place).map_err(|e| e.error)?;
        sync_folder(folder(&place))
    }
}

/// Where a file stands.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder as durable as what they name.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
