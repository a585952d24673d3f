//! The open files of a store, and the detection of changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::check::refuse_problems;
use super::connection::{connect, connect_read_only, store_error};
use super::schema::upgrade;
use super::{companions, real};
use crate::fs::FileVersion;
use crate::store::{Revision, StoreError, cannot};
use crate::text::printable;

/// The files that had the name of the store when they were opened.
pub(super) struct OpenFiles {
    /// The database, without links.
    pub(super) path: PathBuf,
    pub(super) database: FileVersion,
    /// The companions, as they were when the database was opened.
    companions: Vec<(PathBuf, FileVersion)>,
    /// Before `main`, so that it is closed first. The last connection checkpoints the log.
    detector: Mutex<ChangeDetector>,
    main: Mutex<Connection>,
}

/// Detects changes of the store by any process.
pub(super) struct ChangeDetector {
    /// The number of files that had the store's name before this one.
    epoch: u32,
    /// Opened for the first revision, and never written to: `data_version` does not count the
    /// commits of its own connection.
    connection: Option<Connection>,
}

impl OpenFiles {
    pub(super) fn open(path: &Path, epoch: u32) -> Result<Self, StoreError> {
        let database = FileVersion::of(path).map_err(|e| cannot("open", path, e))?;
        let path = real(path)?;
        refuse_problems(&path)?;
        let mut main = connect(&path)?;
        upgrade(&mut main, &path)?;
        // Checked again when all files are open, since another user may have exchanged one
        // meanwhile.
        refuse_problems(&path)?;
        let companions = companions(&path)
            .into_iter()
            .filter_map(|file| FileVersion::of(&file).ok().map(|version| (file, version)))
            .collect();
        let detector = Mutex::new(ChangeDetector { epoch, connection: None });
        Ok(Self { path, database, companions, detector, main: Mutex::new(main) })
    }

    /// Locks the main connection. A panic while it was locked leaves no change half done, because
    /// the library rolls back.
    pub(super) fn main(&self) -> MutexGuard<'_, Connection> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn detector(&self) -> MutexGuard<'_, ChangeDetector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the detector, unless another thread uses it.
    pub(super) fn try_detector(&self) -> Option<MutexGuard<'_, ChangeDetector>> {
        match self.detector.try_lock() {
            Ok(detector) => Some(detector),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Detaches from a database that was moved or deleted. Its companions kept their names, and
    /// SQLite would take them for those of the database that has the name now.
    pub(super) fn detach(&mut self) {
        let main = self.main.get_mut().unwrap_or_else(PoisonError::into_inner);
        let checkpointed = main.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i32>(0).map(|busy| busy == 0)
        });
        if !matches!(checkpointed, Ok(true)) {
            let path = printable(&self.path.to_string_lossy());
            log::warn!(
                "{path} was replaced, and the last changes of the old one could not be kept"
            );
        }
        let detector = self.detector.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SQLite must not delete files by names that belong to another database now.
        for connection in std::iter::once(main).chain(detector.connection.as_mut()) {
            if let Err(e) =
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            {
                log::warn!("cannot leave a replaced database alone: {e}");
            }
        }
        for (file, version) in &self.companions {
            let ours = FileVersion::of(file).is_ok_and(|now| now.id() == version.id());
            if let Err(e) = if ours { fs::remove_file(file) } else { Ok(()) } {
                log::warn!("{}", cannot("remove", file, e));
            }
        }
    }
}

impl ChangeDetector {
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Reads the revision: the epoch in the upper half, SQLite's `data_version` in the lower half.
    pub(super) fn revision(&mut self, path: &Path) -> Result<Revision, StoreError> {
        let (epoch, connection) = (u64::from(self.epoch), &mut self.connection);
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(connect_read_only(path)?),
        };
        connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, u32>(0)))
            .map(|version| Revision(epoch << 32 | u64::from(version)))
            .map_err(|e| store_error(e, path))
    }
}
