//! Judges the owners and modes of the files of a store, before they are opened.
//!
//! Knows neither SQLite nor the content of a store. Links are not followed (`lstat`), so a link
//! counts as a link.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::{FileProblem, FileProblemKind};
use crate::fs::{folder, mode_if_not_private};

/// Returns the problems of the folder of `database`, the worst first. Parent folders are not
/// judged.
pub(super) fn folder_problems(
    database: &Path,
    companions: &[PathBuf],
) -> io::Result<Vec<FileProblem>> {
    let folder = folder(database);
    let meta = fs::metadata(folder)?;
    let (caller, mode) = (geteuid(), meta.mode() & 0o7777);
    let mut problems = Vec::new();
    let mut problem = |kind| problems.push(FileProblem { path: folder.to_owned(), kind });
    if mode & 0o022 != 0 {
        // A sticky folder is meant to be shared. Other programs need it unchanged.
        let can_change = mode & 0o1000 == 0 && (caller.is_root() || meta.uid() == caller.as_raw());
        let files = std::iter::once(database).chain(companions.iter().map(PathBuf::as_path));
        let is_file = |file: &&Path| fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file());
        problem(FileProblemKind::SharedFolder {
            mode,
            can_change,
            database: database.to_owned(),
            files: files.filter(is_file).map(Path::to_owned).collect(),
        });
    }
    if !caller.is_root() && ![0, caller.as_raw()].contains(&meta.uid()) {
        problem(FileProblemKind::ForeignFolder { owner: meta.uid() });
    }
    Ok(problems)
}

/// Returns the problems of `database` and its companions, in their order. A missing companion is no
/// problem.
pub(super) fn file_problems(
    database: &Path,
    companions: &[PathBuf],
) -> io::Result<Vec<FileProblem>> {
    let folder = fs::metadata(folder(database))?;
    let expected = expected_owner(&folder);
    let mut problems = Vec::new();
    let mut judge = |path: &Path, meta: &Metadata, companion: bool| {
        let mut problem = |kind| problems.push(FileProblem { path: path.to_owned(), kind });
        if !meta.is_file() {
            return problem(FileProblemKind::NotPlain { companion });
        }
        if meta.uid() != expected {
            problem(FileProblemKind::WrongOwner {
                owner: meta.uid(),
                expected,
                group: folder.gid(),
                links: meta.nlink(),
                companion,
            });
        } else if companion && meta.nlink() != 1 {
            problem(FileProblemKind::ManyNames { links: meta.nlink() });
        }
        if let Some(mode) = mode_if_not_private(meta) {
            problem(FileProblemKind::NotPrivate { mode });
        }
    };
    judge(database, &fs::symlink_metadata(database)?, false);
    for companion in companions {
        if let Some(meta) = existing(fs::symlink_metadata(companion))? {
            judge(companion, &meta, true);
        }
    }
    Ok(problems)
}

/// Returns the metadata of a file that still exists. SQLite removes the companions when the last
/// connection closes, and a file that is removed during `lstat` has no links.
fn existing(file: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match file {
        Ok(meta) => Ok((meta.nlink() > 0).then_some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns the user that has to own a store in this folder. This is the caller, or for root the
/// owner of the folder.
fn expected_owner(folder: &Metadata) -> u32 {
    let caller = geteuid();
    if caller.is_root() { folder.uid() } else { caller.as_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a companion that SQLite removes meanwhile is no problem.
    #[test]
    fn file_that_is_removed_meanwhile_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.db-wal");
        let file = fs::File::create(&path).unwrap();
        assert!(existing(fs::symlink_metadata(&path)).unwrap().is_some());
        fs::remove_file(&path).unwrap();
        assert!(existing(file.metadata()).unwrap().is_none(), "no links, as lstat can see it");
        assert!(existing(fs::symlink_metadata(&path)).unwrap().is_none());
        assert!(existing(fs::symlink_metadata(path.join("x").join("y"))).unwrap().is_none());
        assert!(existing(Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
