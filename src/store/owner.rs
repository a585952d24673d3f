//! The user that root becomes to use the store of another user.
//!
//! The owner of a folder can exchange its files at any time, so root with its own rights would
//! reach files of other users. So a thread gives up root's rights for good before it touches the
//! store. It takes the owner's groups, then the group, then the user. The other threads of the
//! process keep their rights, for output and password files. Knows nothing of the content of a
//! store.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::owned::{cannot_start, lost};
use super::{StoreError, cannot};

/// The maximum number of links in a path, which is the limit of the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A user of the system with all their groups.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    /// A folder of root that this user cannot pass comes before the first folder of another user.
    /// An example is `/var/lib/private`, which systemd opens to one service only.
    is_shut_out: bool,
}

impl Owner {
    /// Returns the user that has to use the store at this path, or `None` if the caller uses it
    /// directly. For root, this is the last owner on the path other than root, links included. It
    /// owns the folder, or could have redirected the path.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let way = std::path::absolute(path).and_then(|path| Way::along(&path));
        let way = way.map_err(|e| cannot("find", path, e))?;
        let Some((user, group)) = way.owner else { return Ok(None) };
        let owner = Self::with_groups(user, group, &way.before);
        if owner.is_shut_out && way.foreign_link {
            let why = "it leads through a link of another user, and past a closed folder";
            return Err(cannot("find", path, why));
        }
        Ok(Some(owner))
    }

    /// Looks up the groups of a user. A user that the system has no entry for, e.g. one of a
    /// container, has the group of the folder alone.
    fn with_groups(user: Uid, folder_group: Gid, before: &[(Gid, Mode)]) -> Self {
        let entry = nix::unistd::User::from_uid(user.as_raw().into()).ok().flatten();
        let group = entry.as_ref().map_or(folder_group, |entry| Gid::from_raw(entry.gid.as_raw()));
        let groups = entry.and_then(|entry| {
            let name = CString::new(entry.name).ok()?;
            nix::unistd::getgrouplist(&name, entry.gid).ok()
        });
        let groups = groups.map_or_else(
            || vec![group],
            |groups| groups.iter().map(|group| Gid::from_raw(group.as_raw())).collect(),
        );
        let is_shut_out = before.iter().any(|(group, mode)| {
            let bit = if groups.contains(group) { Mode::XGRP } else { Mode::XOTH };
            !mode.contains(bit)
        });
        Self { user, group, groups, is_shut_out }
    }

    /// Makes the calling thread act as this user, for good.
    pub(super) fn assume(&self) -> Result<(), StoreError> {
        let Self { user, group, is_shut_out, .. } = *self;
        set_thread_groups(&self.groups)
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_keep_capabilities(is_shut_out))
            .and_then(|()| set_thread_res_uid(user, user, user))
            .and_then(|()| if is_shut_out { keep_search_alone() } else { Ok(()) })
            .map_err(|e| {
                let why = format!("cannot act as the user with id {}: {e}", user.as_raw());
                StoreError::failed_by(why, e)
            })
    }

    /// Runs a job as this user, on a thread that ends after it.
    pub(super) fn run<R: Send>(
        &self,
        job: impl FnOnce() -> Result<R, StoreError> + Send,
    ) -> Result<R, StoreError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("store".to_owned())
                .spawn_scoped(scope, || self.assume().and_then(|()| job()))
                .map_err(cannot_start)?;
            thread.join().unwrap_or_else(|_| Err(lost()))
        })
        .map_err(|e| self.explain(e))
    }

    /// Adds the user to an error, since root expects no permission errors.
    pub(super) fn explain(&self, e: StoreError) -> StoreError {
        match e {
            StoreError::Failed(e) => {
                let user = self.user.as_raw();
                StoreError::Failed(e.with_context(format_args!(
                    "(as the user with id {user}, who owns a folder on the way)"
                )))
            }
            e => e,
        }
    }
}

/// Gives up all capabilities except the one to pass closed folders, which cannot write. A container
/// may lack it.
fn keep_search_alone() -> rustix::io::Result<()> {
    let search = capabilities(None)?.permitted & CapabilitySet::DAC_READ_SEARCH;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: search, permitted: search, inheritable })?;
    set_keep_capabilities(false)
}

/// The owners on a path.
struct Way {
    /// The last owner other than root, with the group of the folder or link.
    owner: Option<(Uid, Gid)>,
    /// The folders of root before the first folder of another user.
    before: Vec<(Gid, Mode)>,
    /// A link on the path belongs to another user than root.
    foreign_link: bool,
}

impl Way {
    /// Follows `path` by descriptors as far as it exists.
    fn along(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = open("/", flags, Mode::empty())?;
        let mut ahead = names(path);
        let mut way = Self { owner: None, before: Vec::new(), foreign_link: false };
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            let entry = match openat(&folder, &name, flags, Mode::empty()) {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let meta = fstat(&entry)?;
            let kind = FileType::from_raw_mode(meta.st_mode);
            let group = Gid::from_raw(meta.st_gid);
            if meta.st_uid != 0 && kind != FileType::RegularFile {
                way.owner = Some((Uid::from_raw(meta.st_uid), group));
            } else if way.owner.is_none() && kind == FileType::Directory {
                way.before.push((group, Mode::from_raw_mode(meta.st_mode)));
            }
            match kind {
                FileType::Symlink if links == MAX_LINKS => return Err(Errno::LOOP.into()),
                FileType::Symlink => {
                    links += 1;
                    way.foreign_link |= meta.st_uid != 0;
                    let target = readlinkat(&entry, c"", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        folder = open("/", flags, Mode::empty())?;
                    }
                    let mut names = names(&target);
                    names.append(&mut ahead);
                    ahead = names;
                }
                FileType::Directory => folder = entry,
                _ => break,
            }
        }
        Ok(way)
    }
}

/// Returns the names in a path, in order.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}
