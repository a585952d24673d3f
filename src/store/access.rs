//! Judges whose the files of a store are and who else may get at them, before they are opened.
//!
//! This file knows neither SQLite nor what a store contains. Every file is judged by its own name
//! (`lstat`): a link is a link here.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::text::{printable, shell_word};

/// A file or folder that keeps a store from being used.
pub(super) struct Problem {
    pub(super) path: PathBuf,
    kind: Kind,
    /// What to do about it: a command, where one is enough.
    pub(super) fix: Option<String>,
}

enum Kind {
    NotPlain,
    Open { mode: u32 },
    Owner { is: u32, expected: u32 },
    Links(u64),
    FolderOpen { mode: u32 },
    FolderOwner(u32),
}

impl Problem {
    /// Returns what is wrong as a sentence about `subject`.
    pub(super) fn describe(&self, subject: &str) -> String {
        match self.kind {
            Kind::NotPlain => format!("{subject} is not a plain file"),
            Kind::Open { mode } => {
                format!("other users may read or write {subject} (mode {mode:04o})")
            }
            Kind::Owner { is, expected } => {
                format!("{subject} belongs to another user (id {is} instead of {expected})")
            }
            Kind::Links(links) => format!("{subject} has more than one name ({links} links)"),
            Kind::FolderOpen { mode } => {
                format!("other users may write to {subject} (mode {mode:04o})")
            }
            Kind::FolderOwner(owner) => format!("{subject} belongs to another user (id {owner})"),
        }
    }

    /// Returns what is wrong with the path named.
    pub(super) fn with_path(&self) -> String {
        self.describe(&printable(&self.path.to_string_lossy()))
    }
}

/// Returns what is wrong with the folder of `database`, the worst first. Only the folder that
/// contains it is judged.
pub(super) fn folder_problems(database: &Path, companions: &[PathBuf]) -> io::Result<Vec<Problem>> {
    let folder = folder(database);
    let meta = fs::metadata(folder)?;
    let (caller, mode) = (geteuid(), meta.mode() & 0o7777);
    let problem = |kind, fix| Problem { path: folder.to_owned(), kind, fix: Some(fix) };
    let mut problems = Vec::new();
    if mode & 0o022 != 0 {
        // A sticky folder is meant to be shared. Other programs need it as it is.
        let ours = mode & 0o1000 == 0 && (caller.is_root() || meta.uid() == caller.as_raw());
        let fix = if ours {
            format!("chmod go-w {}", shell_word(folder))
        } else {
            move_to_own_folder(database, companions)
        };
        problems.push(problem(Kind::FolderOpen { mode }, fix));
    }
    if !caller.is_root() && ![0, caller.as_raw()].contains(&meta.uid()) {
        let fix = "name a file in a folder of yours with --database".to_owned();
        problems.push(problem(Kind::FolderOwner(meta.uid()), fix));
    }
    Ok(problems)
}

/// Returns what is wrong with `database` and the files beside it, in their order. A missing
/// companion is none.
pub(super) fn file_problems(database: &Path, companions: &[PathBuf]) -> io::Result<Vec<Problem>> {
    let folder = fs::metadata(folder(database))?;
    let expected = owner(&folder);
    let mut problems = Vec::new();
    let mut judge = |path: &Path, meta: &Metadata, is_companion: bool| {
        let word = shell_word(path);
        let set_aside = || format!("mv {word} {}", shell_word(beside(path, ".set-aside")));
        let mut problem = |kind, fix| problems.push(Problem { path: path.to_owned(), kind, fix });
        if !meta.is_file() {
            return problem(Kind::NotPlain, is_companion.then(set_aside));
        }
        if meta.uid() != expected {
            // A companion of another user is neither believed nor handed over: it may be any file
            // of theirs. A database is known to be a store when advice is given, and is handed over
            // unless it has another name.
            let fix = match (is_companion, meta.nlink()) {
                (true, _) => Some(set_aside()),
                (false, 1) => Some(format!("chown -h {expected}:{} {word}", folder.gid())),
                (false, _) => None,
            };
            problem(Kind::Owner { is: meta.uid(), expected }, fix);
        } else if is_companion && meta.nlink() != 1 {
            problem(Kind::Links(meta.nlink()), Some(set_aside()));
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            problem(Kind::Open { mode }, Some(format!("chmod 600 {word}")));
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
/// connection closes: a file that is removed during `lstat` has no links any more.
fn existing(file: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match file {
        Ok(meta) => Ok((meta.nlink() > 0).then_some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns the user whose a store in this folder has to be: the caller, or for root the owner of
/// the folder.
fn owner(folder: &Metadata) -> u32 {
    let caller = geteuid();
    if caller.is_root() { folder.uid() } else { caller.as_raw() }
}

/// Returns the folder that contains a file, given by an absolute path.
fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

/// Returns the path with `suffix` behind the name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns what a user does who may not change the mode of the folder, e.g. of a volume that
/// belongs to root.
fn move_to_own_folder(database: &Path, companions: &[PathBuf]) -> String {
    let own = folder(database).join("resttool");
    let new = own.join(database.file_name().unwrap_or_default());
    let new = format!("--database {}", shell_word(new));
    let files = std::iter::once(database).chain(companions.iter().map(PathBuf::as_path));
    let moved: Vec<_> = files
        .filter(|file| fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file()))
        .map(shell_word)
        .collect();
    if moved.is_empty() {
        return format!("name a file in a folder of its own: {new}");
    }
    let (own, moved) = (shell_word(own), moved.join(" "));
    format!("mkdir -m 700 {own} && mv {moved} {own}, and then {new}")
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
