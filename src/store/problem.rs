//! Problems of a store, as data. The command line turns them into advice.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::StoreError;
use super::lease::wait_for_machines;
use crate::domain::{Account, BadRecord, Cost, StoredHash, UserName};
use crate::hashing::{exceeds_ceiling, needs_rehash};
use crate::text::{printable, quoted};
use crate::time::Timestamp;

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// The problems.
    pub problems: Vec<Problem>,
    /// The users whose imported hash no login has replaced yet.
    pub not_upgraded: NotUpgraded,
}

impl From<Vec<Problem>> for Findings {
    fn from(problems: Vec<Problem>) -> Self {
        Self { problems, not_upgraded: NotUpgraded::default() }
    }
}

impl Findings {
    /// Adds the problems of a record, as it was read.
    pub(super) fn record(&mut self, read: Result<Account, StoreError>, minimum: Cost) {
        match read {
            Ok(Account { name: user, hash: Err(why), .. })
            | Err(StoreError::BadRecord { user, why }) => {
                self.problems.push(Problem::BadRecord { user, why });
            }
            Ok(Account { name, hash: Ok(hash), .. }) => self.add(name, &hash, minimum),
            Err(e) => self.problems.push(Problem::BadName(e.to_string())),
        }
    }

    /// Adds what there is to say about the hash of a user.
    fn add(&mut self, user: UserName, hash: &StoredHash, minimum: Cost) {
        if let Some(wrapped) = &hash.wrapped {
            self.not_upgraded.users += 1;
            let first = self.not_upgraded.since.get_or_insert(wrapped.imported);
            *first = wrapped.imported.min(*first);
            if let Some(rounds) = exceeds_ceiling(hash) {
                self.problems.push(Problem::TooManyRounds { user: user.clone(), rounds });
            }
        }
        if needs_rehash(&hash.bcrypt, minimum.get()) {
            self.problems.push(Problem::WeakHash { user, cost: hash.cost(), minimum });
        }
    }
}

/// Users whose hash wraps one of a legacy scheme.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NotUpgraded {
    /// Their number.
    pub users: u64,
    /// The time of the first import.
    pub since: Option<Timestamp>,
}

/// A problem of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no store.
    Missing,
    /// The file is not a resttool store.
    NotAStore,
    /// The schema has this version, which is not one from 1 to `known`.
    UnknownSchema {
        /// The version in the file.
        version: i32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The schema has this version, and has to be migrated to `known`.
    OlderSchema {
        /// The version in the database.
        version: i32,
        /// The version that this program needs.
        known: i32,
    },
    /// There is no database, but this companion of one, whose content SQLite would bring back.
    OrphanedCompanion(PathBuf),
    /// The database is damaged, with details if there are any.
    Damaged(Option<String>),
    /// A file or folder can be read or changed by other users.
    File(FileProblem),
    /// A setting or the state of a PostgreSQL database.
    Database(DatabaseProblem),
    /// A stored user name is invalid.
    BadName(String),
    /// A stored record is unusable.
    BadRecord {
        /// The user of the record.
        user: UserName,
        /// The problem of the record.
        why: BadRecord,
    },
    /// The rounds of a wrapped hash take longer than 5 % of its bcrypt hash.
    TooManyRounds {
        /// The user of the hash.
        user: UserName,
        /// The rounds.
        rounds: u32,
    },
    /// A hash costs less than the minimum.
    WeakHash {
        /// The user of the hash.
        user: UserName,
        /// The cost of the hash.
        cost: Cost,
        /// The minimum.
        minimum: Cost,
    },
}

impl Problem {
    /// Returns the user whose record has the problem.
    #[must_use]
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::BadRecord { user, .. }
            | Self::TooManyRounds { user, .. }
            | Self::WeakHash { user, .. } => Some(user),
            _ => None,
        }
    }
}

/// Describes the problem in a sentence about the store, "it".
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no store"),
            Self::NotAStore => f.write_str("it is no resttool store"),
            Self::UnknownSchema { version, known } => {
                write!(f, "its schema is version {version}, and this resttool knows up to {known}")
            }
            Self::OlderSchema { version, known } => {
                write!(f, "its schema is version {version}, and this resttool needs {known}")
            }
            Self::OrphanedCompanion(path) => {
                let path = printable(&path.to_string_lossy());
                write!(f, "it is missing, but its companion {path} is there")
            }
            Self::Damaged(None) => f.write_str("it is damaged"),
            Self::Damaged(Some(details)) => write!(f, "it is damaged: {details}"),
            Self::File(problem) => f.write_str(&problem.describe("it")),
            Self::Database(problem) => problem.fmt(f),
            Self::BadName(why) => f.write_str(why),
            Self::BadRecord { user, why } => f.write_str(&super::describe_record(user, why)),
            Self::TooManyRounds { user, rounds } => {
                let user = quoted(user.as_str());
                write!(
                    f,
                    "the imported hash of user {user} has {rounds} rounds, so that the time of a login tells that there is this user"
                )
            }
            Self::WeakHash { user, cost, minimum } => {
                let (cost, minimum) = (cost.get(), minimum.get());
                let user = quoted(user.as_str());
                write!(f, "the hash of user {user} is of cost {cost}, below {minimum}")
            }
        }
    }
}

/// A problem of a PostgreSQL database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DatabaseProblem {
    /// It cannot hold every name.
    Encoding {
        /// The name of its encoding.
        encoding: String,
    },
    /// The role may not read users.
    BlindRole {
        /// The role.
        role: String,
        /// The rights that it lacks, separated by commas.
        rights: String,
    },
    /// The role may read users, and may not change them.
    ReadOnlyRole {
        /// The role.
        role: String,
        /// The rights that it lacks, separated by commas.
        rights: String,
    },
    /// A crash may lose the last changes, since commits do not wait for the disk.
    AsynchronousCommits,
    /// A failover may lose the last changes, since no standby confirms them.
    AsynchronousStandbys {
        /// The connected standbys.
        count: i64,
    },
    /// The clocks of the database and of this machine differ, e.g. for the expiry of users.
    ClockDiffers {
        /// The difference in seconds.
        seconds: u64,
    },
    /// The lease of servers is long, and every change waits for it.
    LongLease {
        /// The length of the lease.
        lease: Duration,
    },
    /// A transaction has a lock, so that no user can be changed.
    TableLocked {
        /// The table.
        table: String,
        /// The process of the transaction in the database.
        pid: i32,
        /// Its age in seconds.
        seconds: u64,
        /// No user can be looked up either.
        blocks_readers: bool,
    },
    /// A trigger that records changes is missing, so servers do not see them.
    MissingTrigger {
        /// The table.
        table: String,
        /// The trigger.
        trigger: String,
    },
    /// A trigger that records changes is disabled, so servers do not see them.
    DisabledTrigger {
        /// The table.
        table: String,
        /// The trigger.
        trigger: String,
    },
}

impl DatabaseProblem {
    /// Returns true if a server cannot look up users.
    #[must_use]
    pub fn stops_servers(&self) -> bool {
        match self {
            Self::BlindRole { .. } => true,
            Self::TableLocked { blocks_readers, .. } => *blocks_readers,
            _ => false,
        }
    }
}

impl fmt::Display for DatabaseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding { encoding } => {
                write!(f, "its encoding is {encoding}, and not UTF8, so it cannot hold every name")
            }
            Self::BlindRole { role, rights } => {
                write!(f, "its role {} may not look up users: it lacks {rights}", quoted(role))
            }
            Self::ReadOnlyRole { role, rights } => {
                write!(f, "its role {} may not change users: it lacks {rights}", quoted(role))
            }
            Self::AsynchronousCommits => {
                f.write_str("its synchronous_commit is off, so a crash may lose the last changes")
            }
            Self::AsynchronousStandbys { count } => {
                let standbys = if *count == 1 { "standby" } else { "standbys" };
                write!(
                    f,
                    "it has {count} {standbys} and an empty synchronous_standby_names, so a failover may lose the last changes"
                )
            }
            Self::ClockDiffers { seconds } => {
                write!(f, "its clock and that of this machine differ by {seconds} s")
            }
            Self::LongLease { lease } => {
                let seconds = wait_for_machines(*lease).as_secs_f64();
                write!(f, "its lease has every change wait for {seconds:.1} s")
            }
            Self::TableLocked { table, pid, seconds, blocks_readers } => {
                let effect = if *blocks_readers { "looked up" } else { "changed" };
                write!(
                    f,
                    "process {pid} has kept its table {table} locked for {seconds} s, so no user can be {effect}"
                )
            }
            Self::MissingTrigger { table, trigger } => write!(
                f,
                "the trigger {trigger} of its table {table} is missing, so servers may not notice changes"
            ),
            Self::DisabledTrigger { table, trigger } => write!(
                f,
                "the trigger {trigger} of its table {table} is disabled, so servers may not notice changes"
            ),
        }
    }
}

/// A problem of a file or folder of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileProblem {
    /// The file or folder.
    pub path: PathBuf,
    /// The problem.
    pub kind: FileProblemKind,
}

/// The kinds of [`FileProblem`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileProblemKind {
    /// It is not a plain file.
    NotPlain {
        /// It is a companion of the database.
        companion: bool,
    },
    /// Other users may read or write the file.
    NotPrivate {
        /// The mode of the file.
        mode: u32,
    },
    /// The file belongs to another user.
    WrongOwner {
        /// The owner of the file.
        owner: u32,
        /// The user that has to own it.
        expected: u32,
        /// The group of the folder.
        group: u32,
        /// The number of names of the file.
        links: u64,
        /// It is a companion of the database.
        companion: bool,
    },
    /// A companion of the database has more than one name.
    ManyNames {
        /// The number of names.
        links: u64,
    },
    /// Other users may write to the folder.
    SharedFolder {
        /// The mode of the folder.
        mode: u32,
        /// The caller may change the mode, and no other program needs it.
        can_change: bool,
        /// The path of the database.
        database: PathBuf,
        /// The files of the store that exist.
        files: Vec<PathBuf>,
    },
    /// The folder belongs to another user than root and the caller.
    ForeignFolder {
        /// The owner of the folder.
        owner: u32,
    },
}

impl FileProblem {
    /// Describes the problem in a sentence about `subject`.
    #[must_use]
    pub fn describe(&self, subject: &str) -> String {
        match &self.kind {
            FileProblemKind::NotPlain { .. } => format!("{subject} is not a plain file"),
            FileProblemKind::NotPrivate { mode } => {
                format!("other users may read or write {subject} (mode {mode:04o})")
            }
            FileProblemKind::WrongOwner { owner, expected, .. } => {
                format!("{subject} belongs to another user (id {owner} instead of {expected})")
            }
            FileProblemKind::ManyNames { links } => {
                format!("{subject} has more than one name ({links} links)")
            }
            FileProblemKind::SharedFolder { mode, .. } => {
                format!("other users may write to {subject} (mode {mode:04o})")
            }
            FileProblemKind::ForeignFolder { owner } => {
                format!("{subject} belongs to another user (id {owner})")
            }
        }
    }

    /// Describes the problem with its path.
    #[must_use]
    pub fn with_path(&self) -> String {
        self.describe(&printable(&self.path.to_string_lossy()))
    }
}
