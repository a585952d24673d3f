//! Identity and version of a file. Knows nothing of its content.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Device and inode. While a file is open, no other file can have them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// Identity and version of a file: device, inode, size and mtime. Detects replacement and
/// modification in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileVersion {
    id: FileId,
    size: u64,
    mtime: (i64, i64),
}

impl FileId {
    pub(crate) fn new(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl FileVersion {
    /// Reads the version of the file at `path`, links followed.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self::new(&meta))
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn new(meta: &Metadata) -> Self {
        Self {
            id: FileId { device: meta.dev(), inode: meta.ino() },
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}
