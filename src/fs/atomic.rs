//! Atomic file replacement: write to a temporary file in the same folder, sync it, rename it over
//! the destination.
//!
//! The folder is an open descriptor, not a path, which another user could redirect.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

/// The most attempts to find an unused random name.
const TRIES: usize = 8;

/// A file that is renamed to its name in a folder by [`AtomicFile::commit`]. Dropping it before
/// that removes it.
pub(crate) struct AtomicFile {
    folder: OwnedFd,
    name: OsString,
    file: File,
    /// The temporary name, or `None` after the rename.
    temporary: Option<OsString>,
}

impl AtomicFile {
    /// Creates an empty file with this mode in the folder.
    pub(crate) fn create(folder: OwnedFd, name: &OsStr, mode: Mode) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut random = [0; 8];
            getrandom::fill(&mut random)?;
            let temporary =
                OsString::from(format!(".resttool-aside-{:016x}", u64::from_ne_bytes(random)));
            let file = match openat(&folder, &temporary, flags, mode) {
                Err(Errno::EXIST) if tries < TRIES => continue,
                file => File::from(file?),
            };
            let aside = Self { folder, name: name.to_owned(), file, temporary: Some(temporary) };
            // The creation mask may have taken rights away.
            fchmod(&aside.file, mode)?;
            return Ok(aside);
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Renames the file to its name and replaces an existing file. It is durable when this returns.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(temporary) = &self.temporary {
            renameat(&self.folder, temporary, &self.folder, &self.name)?;
        }
        self.temporary = None;
        // The folder may be open for its path alone.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fsync(openat(&self.folder, ".", flags, Mode::empty())?)?)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It may be gone, with its folder.
            let _ = unlinkat(&self.folder, temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(folder: &Path) -> OwnedFd {
        File::open(folder).unwrap().into()
    }

    fn private() -> Mode {
        Mode::RUSR | Mode::WUSR
    }

    /// another user may exchange the folder of a file, and its name in the folder.
    #[test]
    fn file_goes_into_the_open_folder_despite_planted_names() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("folder")).unwrap();
        fs::create_dir(path("elsewhere")).unwrap();
        let aside =
            AtomicFile::create(open(&path("folder")), OsStr::new("file"), private()).unwrap();
        aside.file().write_all(b"text").unwrap();
        fs::rename(path("folder"), path("moved")).unwrap();
        symlink("elsewhere", path("folder")).unwrap();
        fs::write(path("kept"), "kept").unwrap();
        symlink("../kept", path("moved/file")).unwrap();
        aside.commit().unwrap();
        assert_eq!(fs::read(path("moved/file")).unwrap(), b"text");
        assert!(fs::symlink_metadata(path("moved/file")).unwrap().is_file());
        assert_eq!(fs::read(path("kept")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(path("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn dropped_file_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        drop(AtomicFile::create(open(place.path()), OsStr::new("file"), private()).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
