//! The target of an output path, found without a link that another user could change.
//!
//! A path is walked by descriptors, one name after the other. So the file that was judged is the
//! file that is written, even if another user renames it meanwhile. Does not know the written
//! content.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fcntl_getfl, fcntl_setfl, fstat,
    fstatfs, mkdirat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Refusal;

/// The maximum number of links in a path, which is the limit of the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The flags of a descriptor that only names a file.
const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The target of a path.
pub(super) enum Target {
    Folder,
    /// A name in an open folder, and the file that has it now. That file is no link.
    Name {
        folder: OwnedFd,
        name: OsString,
        is: Option<Stat>,
    },
    /// A file that is open already: `/dev/stdout`, or `/dev/fd/63` of a process substitution.
    Open(File),
}

impl Target {
    /// Follows a path.
    pub(super) fn of(path: &Path) -> Result<Self, Refusal> {
        let root = if path.is_absolute() { "/" } else { "." };
        let mut folder = openat(CWD, root, NAMED, Mode::empty())?;
        let mut rest = names(path.as_os_str());
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let entry = match openat(&folder, &name, NAMED, Mode::empty()) {
                Err(Errno::NOENT) if rest.is_empty() => {
                    return Ok(Self::Name { folder, name, is: None });
                }
                entry => entry?,
            };
            let is = fstat(&entry)?;
            match FileType::from_raw_mode(is.st_mode) {
                FileType::Directory => folder = entry,
                FileType::Symlink => {
                    trust_link(&folder, &is)?;
                    // The text of such a link is no path.
                    if rest.is_empty() && fstatfs(&folder)?.f_type == PROC_SUPER_MAGIC {
                        return open_again(&folder, &name).map(Self::Open);
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let path = OsString::from_vec(readlinkat(&entry, "", Vec::new())?.into_bytes());
                    if Path::new(&path).is_absolute() {
                        folder = openat(CWD, "/", NAMED, Mode::empty())?;
                    }
                    rest.extend(names(&path));
                }
                _ if rest.is_empty() => return Ok(Self::Name { folder, name, is: Some(is) }),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(Self::Folder)
    }
}

/// Returns the names of a path, the last one first. A trailing slash is the name `.`.
fn names(path: &OsStr) -> Vec<OsString> {
    let names = path.as_bytes().split(|&byte| byte == b'/').rev().enumerate();
    names
        .filter_map(|(n, name)| match name {
            b"" if n == 0 => Some(OsString::from(".")),
            b"" => None,
            name => Some(OsStr::from_bytes(name).to_owned()),
        })
        .collect()
}

/// Refuses a link that a user other than root and the caller could have made or could exchange.
fn trust_link(folder: &OwnedFd, link: &Stat) -> Result<(), Refusal> {
    if is_trusted(link.st_uid) && is_private(folder)? {
        return Ok(());
    }
    Err(Refusal::new(
        "the path leads through a symbolic link that another user can change",
        "name the file that the link leads to",
    ))
}

/// Returns true if only root and the caller can change the names in a folder.
fn is_private(folder: &OwnedFd) -> Result<bool, Refusal> {
    let folder = fstat(folder)?;
    let others_write = folder.st_mode & (Mode::WGRP | Mode::WOTH).as_raw_mode() != 0;
    Ok(is_trusted(folder.st_uid) && !others_write)
}

/// Returns true for a user that can harm the caller anyway.
fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}

/// Opens the target of a link in /proc, which is a file that a process has open.
fn open_again(folder: &OwnedFd, name: &OsStr) -> Result<File, Refusal> {
    let is = statat(folder, name, AtFlags::empty())?;
    // The same open file with its position, since shells share it and a socket cannot be opened
    // again.
    for standard in [io::stdout().as_fd(), io::stderr().as_fd()] {
        if same_file(&fstat(standard)?, &is) {
            return Ok(File::from(standard.try_clone_to_owned()?));
        }
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY;
    blocking(openat(folder, name, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a file, a pipe or a device in a folder to append to it. A missing file is created with
/// mode 0600.
pub(super) fn open(folder: &OwnedFd, name: &OsStr) -> Result<File, Refusal> {
    // O_NONBLOCK, so that a pipe without a reader is an error.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
        Errno::NXIO => Refusal::new("no process reads from it", "start its reader first"),
        e => e.into(),
    })?;
    let is = fstat(&file)?;
    match FileType::from_raw_mode(is.st_mode) {
        // A hard link is a link too.
        FileType::RegularFile if is.st_nlink > 1 && !is_private(folder)? => {
            return Err(Refusal::new(
                "it has another name, in a folder that another user can change",
                "name another file",
            ));
        }
        FileType::RegularFile => {}
        FileType::Fifo | FileType::CharacterDevice if is_trusted(is.st_uid) => {}
        FileType::Fifo | FileType::CharacterDevice => {
            return Err(Refusal::new(
                "it is a pipe or a device of another user",
                "name another file",
            ));
        }
        _ => {
            return Err(Refusal::new(
                "it is neither a file, a pipe nor a character device",
                "name another file",
            ));
        }
    }
    blocking(file)
}

/// Clears O_NONBLOCK. No other process shares the flags of this open file.
fn blocking(file: OwnedFd) -> Result<File, Refusal> {
    fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
    Ok(File::from(file))
}

pub(super) fn same_file(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Creates a folder with mode 0777 less the creation mask. Does nothing if another process was
/// faster.
pub(super) fn create_folder(folder: &OwnedFd, name: &OsStr) -> Result<(), Refusal> {
    match mkdirat(folder, name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
