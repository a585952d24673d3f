//! Files that commands write. No output destroys the store, an input, or a file that another user
//! chose.

mod target;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, Stat, fstat, stat};
use rustix::io::Errno;

use super::advice;
use super::exit::{Exit, Failure};
use crate::fs::{AtomicFile, FileId, folder};
use crate::store::Location;
use target::Target;

/// The mode of a file that holds hashes.
pub(super) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// The mode of a file that all users may read.
pub(super) const PUBLIC: Mode = PRIVATE.union(Mode::RGRP).union(Mode::ROTH);

/// An open output.
pub(super) enum Output {
    /// A file that replaces an existing one, or creates it, when it is finished.
    Whole(AtomicFile),
    /// A pipe, a device, or a file that is open already.
    Stream(File),
}

impl Output {
    /// Opens an output that replaces a file atomically. The new file gets this mode.
    pub(super) fn replace(path: &Path, mode: Mode, inputs: &Inputs) -> Result<Self, Refusal> {
        match Target::of(path)? {
            Target::Folder => Err(Errno::ISDIR.into()),
            Target::Open(file) => inputs.spare(&file).map(|()| Self::Stream(file)),
            Target::Name { folder, name, is: Some(is) } if !is_file(&is) => {
                let file = target::open(&folder, &name)?;
                // Another process may have put a file there meanwhile.
                if is_file(&fstat(&file)?) {
                    Err(Errno::BUSY.into())
                } else {
                    Ok(Self::Stream(file))
                }
            }
            Target::Name { folder, name, is } => {
                inputs.spare_name(&folder, &name)?;
                is.map_or(Ok(()), |is| inputs.spare_file(&is))?;
                Ok(Self::Whole(AtomicFile::create(folder, &name, mode)?))
            }
        }
    }

    /// Renames a replaced file into place. A stream needs no further step.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.commit(),
            Self::Stream(_) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.file().write(bytes),
            Self::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file to append to it. A new file has mode 0600.
pub(super) fn append(path: &Path, inputs: &Inputs) -> Result<File, Refusal> {
    let file = match Target::of(path)? {
        Target::Folder => return Err(Errno::ISDIR.into()),
        Target::Open(file) => file,
        Target::Name { folder, name, .. } => {
            inputs.spare_name(&folder, &name)?;
            target::open(&folder, &name)?
        }
    };
    inputs.spare(&file)?;
    Ok(file)
}

/// Creates a folder and its missing parents.
pub(super) fn create_folders(path: &Path) -> Result<(), Refusal> {
    // Without a trailing slash, which demands an existing folder.
    let path = path.components().as_path();
    let all: Vec<_> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    for path in all.into_iter().rev() {
        match Target::of(path)? {
            Target::Folder => {}
            Target::Name { folder, name, is: None } => target::create_folder(&folder, &name)?,
            Target::Name { .. } | Target::Open(_) => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(())
}

/// Files that no output of a command may write to.
pub(super) struct Inputs {
    files: Vec<(FileId, &'static str)>,
    /// The folder and the name of each file of the store, also of missing ones.
    names: Vec<(FileId, OsString)>,
}

const STORE: &str = "it is a file of the user database";
const INPUT: &str = "the command reads it";

impl Inputs {
    /// Returns the store with its companions.
    pub(super) fn of_store(store: &Location) -> Self {
        let store = store.files();
        let names = store.iter().filter_map(|path| {
            let folder = stat(folder(path)).ok()?;
            Some((FileId::new(&folder), path.file_name()?.to_owned()))
        });
        let mut inputs = Self { files: Vec::new(), names: names.collect() };
        inputs.add(store.iter().map(stat), STORE);
        inputs
    }

    /// Returns the store with its companions, standard input, and the files that the command reads.
    pub(super) fn new<'a>(store: &Location, read: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut inputs = Self::of_store(store);
        inputs.add(read.into_iter().map(stat).chain([fstat(io::stdin())]), INPUT);
        inputs
    }

    fn add(&mut self, files: impl Iterator<Item = rustix::io::Result<Stat>>, what: &'static str) {
        // A terminal or /dev/null may be input and output.
        let files = files.filter_map(Result::ok).filter(is_file);
        self.files.extend(files.map(|is| (FileId::new(&is), what)));
    }

    /// Refuses an output that is one of these files, under any name.
    pub(super) fn spare(&self, file: impl AsFd) -> Result<(), Refusal> {
        self.spare_file(&fstat(file)?)
    }

    fn spare_file(&self, is: &Stat) -> Result<(), Refusal> {
        match self.files.iter().find(|(file, _)| *file == FileId::new(is)) {
            Some((_, why)) => Err(Refusal::new(why, "name another file")),
            None => Ok(()),
        }
    }

    fn spare_name(&self, folder: &OwnedFd, name: &OsStr) -> Result<(), Refusal> {
        let folder = FileId::new(&fstat(folder)?);
        match self.names.iter().any(|(store, file)| *store == folder && file == name) {
            true => Err(Refusal::new(STORE, "name another file")),
            false => Ok(()),
        }
    }
}

fn is_file(is: &Stat) -> bool {
    FileType::from_raw_mode(is.st_mode).is_file()
}

/// The reason why an output was not opened.
#[derive(Debug)]
pub(super) struct Refusal {
    why: String,
    hint: Option<&'static str>,
}

impl Refusal {
    fn new(why: &str, hint: &'static str) -> Self {
        Self { why: why.to_owned(), hint: Some(hint) }
    }

    /// Returns the failure of a command that cannot do `what`.
    pub(super) fn failure(self, what: impl fmt::Display) -> Failure {
        let failure = Failure::new(Exit::Failed, format_args!("cannot {what}: {}", self.why));
        match self.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        Self { why: e.to_string(), hint: advice::system(&e) }
    }
}

impl From<Errno> for Refusal {
    fn from(e: Errno) -> Self {
        io::Error::from(e).into()
    }
}
