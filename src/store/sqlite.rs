//! Users in one SQLite file. Nothing outside of this file knows SQLite.
//!
//! WAL mode with `synchronous=FULL`: a commit is on the disk when it returns, and readers never wait for
//! a writer. Every write begins with `BEGIN IMMEDIATE`, so that it waits for its turn and not halfway.
//! A new file is made whole beside its place and then put there, so nobody ever sees half of one.
//! Whatever is asked of a store is answered from the file that stands in its place by then.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::Backup;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::access::{Problem, beside, file_problems, folder_problems};
use super::lease::{LEASE, Lease};
use super::owner::{Begin, Shared};
use super::patience::Patience;
use super::{
    Account, BUSY_TIMEOUT, BadRecord, Flaw, Revision, Store, StoreError, Transaction, User,
};
use crate::aside::sync_folder;
use crate::credential::{Cost, GroupName, Groups, PasswordHash, UserName};
use crate::moment::Moment;
use crate::text::{printable, shell_operand, shell_word};

/// A user's groups, with commas between; NULL for none.
macro_rules! groups {
    () => {
        "(SELECT group_concat(\"group\", ',') FROM memberships WHERE user = name)"
    };
}

/// Says whose file it is, in the header of the file: `rest` in ASCII.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"rest");

/// The steps from an empty file to the current schema. `user_version` counts those that were made.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/0001_users.sql"),
    include_str!("../../migrations/0002_groups.sql"),
];

/// The version of the current schema.
const SCHEMA: u32 = MIGRATIONS.len() as u32;

pub(super) struct SqliteStore {
    /// Absolute, and otherwise as given: a link may come to lead elsewhere.
    path: PathBuf,
    files: RwLock<Files>,
    lease: Lease,
}

/// The files that stood in the store's place when they were opened.
struct Files {
    /// The database itself, without links.
    path: PathBuf,
    database: Stamp,
    /// The companions that SQLite keeps beside it: `-wal` and `-shm`.
    companions: Vec<(PathBuf, Stamp)>,
    /// Before the other, so that it is closed first: the last one to be closed folds the `-wal` in.
    watch: Mutex<Watch>,
    main: Mutex<Connection>,
}

/// What tells when somebody changes the store.
struct Watch {
    /// How many files before this one have stood in the store's place.
    epoch: u32,
    /// Opened when the first revision is asked for, and never written to: `data_version` does not count what its own
    /// connection commits.
    connection: Option<Connection>,
}

/// Tells one file from another that has taken its name, and a file from itself after somebody wrote over it.
/// While a file is open, no other one can get its numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
}

pub(super) fn engine() -> String {
    format!("SQLite {}", rusqlite::version())
}

impl SqliteStore {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // Absolute, because SQLite reads a name like `file:x` or `:memory:` as something else.
        let path = std::path::absolute(path).map_err(|e| cannot("find", path, &e))?;
        if !is_there(&path)? {
            create(&path)?;
        }
        let files = RwLock::new(Files::open(&path, 0)?);
        Ok(Self { path, files, lease: Lease::new() })
    }

    /// The files that stand in the store's place now.
    fn files(&self) -> Result<RwLockReadGuard<'_, Files>, StoreError> {
        let read = || self.files.read().unwrap_or_else(PoisonError::into_inner);
        let files = read();
        if files.database == Stamp::of(&self.path)? {
            return Ok(files);
        }
        drop(files);
        self.reopen()?;
        Ok(read())
    }

    /// Turns to what stands in the store's place now.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of(&self.path)?;
        if files.database == now {
            return Ok(()); // another thread was faster
        }
        if files.database.file != now.file {
            files.retire();
        }
        let epoch = files.watch().epoch.wrapping_add(1);
        self.lease.end();
        *files = Files::open(&self.path, epoch)?;
        Ok(())
    }

    fn error(&self, e: rusqlite::Error) -> StoreError {
        store_error(e, &self.path)
    }

    fn read<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.files()?
            .main()
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(values, row))
            .map_err(|e| self.error(e))
    }

    /// What a statement reads of one user.
    fn look_up<T>(
        &self,
        name: &UserName,
        sql: &str,
        read: impl FnOnce(&Row<'_>) -> Result<T, BadRecord>,
    ) -> Result<Option<T>, StoreError> {
        let found = self
            .files()?
            .main()
            .prepare_cached(sql)
            .and_then(|mut statement| {
                statement.query_row([name.as_str()], |row| Ok(read(row))).optional()
            })
            .map_err(|e| self.error(e))?;
        found.transpose().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
    }
}

impl Files {
    fn open(path: &Path, epoch: u32) -> Result<Self, StoreError> {
        let database = Stamp::of(path)?;
        let path = real(path)?;
        refuse_problems(&path)?;
        let mut main = connect(&path)?;
        upgrade(&mut main, &path)?;
        // Again, now that all of them are open: nobody has put another file in place meanwhile.
        refuse_problems(&path)?;
        let companions = companions(&path)
            .into_iter()
            .filter_map(|file| Stamp::of(&file).ok().map(|stamp| (file, stamp)))
            .collect();
        let watch = Mutex::new(Watch { epoch, connection: None });
        Ok(Self { path, database, companions, watch, main: Mutex::new(main) })
    }

    /// A panic while the connection was held leaves nothing half done: rusqlite rolls back.
    fn main(&self) -> MutexGuard<'_, Connection> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes leave of a database that was moved or deleted. Its companions kept their names, and SQLite would take
    /// them for the companions of whatever stands in its place now.
    fn retire(&mut self) {
        let main = self.main.get_mut().unwrap_or_else(PoisonError::into_inner);
        let folded = main.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i32>(0).map(|busy| busy == 0)
        });
        if !matches!(folded, Ok(true)) {
            let path = printable(&self.path.to_string_lossy());
            log::warn!(
                "{path} was replaced, and the last changes of the old one could not be kept"
            );
        }
        let watch = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SQLite must not delete by name what is no longer its own.
        for connection in std::iter::once(main).chain(watch.connection.as_mut()) {
            if let Err(e) =
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            {
                log::warn!("cannot leave a replaced database alone: {e}");
            }
        }
        for (file, stamp) in &self.companions {
            let ours = Stamp::of(file).is_ok_and(|now| now.file == stamp.file);
            if let Err(e) = if ours { fs::remove_file(file) } else { Ok(()) } {
                log::warn!("{}", cannot("remove", file, &e));
            }
        }
    }
}

impl Watch {
    fn revision(&mut self, path: &Path) -> Result<Revision, StoreError> {
        let (epoch, connection) = (u64::from(self.epoch), &mut self.connection);
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(connect_to_read(path)?),
        };
        connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, u32>(0)))
            .map(|version| Revision(epoch << 32 | u64::from(version)))
            .map_err(|e| store_error(e, path))
    }
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, StoreError> {
        fs::metadata(path).map(|meta| Self::new(&meta)).map_err(|e| cannot("open", path, &e))
    }

    fn new(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            written: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl Store for SqliteStore {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.look_up(name, "SELECT hash, locked, expires FROM users WHERE name = ?1", user)
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
        let sql =
            concat!("SELECT hash, locked, expires, ", groups!(), " FROM users WHERE name = ?1");
        self.look_up(name, sql, |row| Ok((user(row)?, Arc::new(groups(row, 3)?))))
    }

    fn contains(&self, name: &UserName) -> Result<bool, StoreError> {
        self.read("SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1)", [name.as_str()], |row| {
            row.get(0)
        })
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        self.read("SELECT NOT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))
    }

    fn revision(&self, now: Instant) -> Result<Revision, StoreError> {
        if let Some(revision) = self.lease.current(now) {
            return Ok(revision);
        }
        let files = self.files()?;
        let mut watch = files.watch();
        self.lease.renew(now, || watch.revision(&files.path))
    }

    fn each(&self, visit: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        let files = self.files()?;
        let main = files.main();
        let mut statement = main.prepare_cached(ALL_ACCOUNTS).map_err(|e| self.error(e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(e))? {
            if visit(account(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn fold(&self) -> Result<(), StoreError> {
        let files = self.files()?;
        fold(&files.main()).map_err(|e| self.error(e))
    }

    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.beginner()?()
    }
}

impl Shared for SqliteStore {
    fn beginner(&self) -> Result<Begin, StoreError> {
        let path = self.files()?.path.clone();
        Ok(Box::new(move || {
            let connection = connect(&path)?;
            take_turn(&connection).map_err(|e| store_error(e, &path))?;
            Ok(Box::new(Changes { path, connection, forgets: false }))
        }))
    }
}

/// The columns of an [`Account`].
macro_rules! account_columns {
    () => {
        concat!("SELECT name, hash, locked, expires, created, changed, ", groups!(), " FROM users")
    };
}

const ALL_ACCOUNTS: &str = concat!(account_columns!(), " ORDER BY name");
const ONE_ACCOUNT: &str = concat!(account_columns!(), " WHERE name = ?1");

/// How long a change waits for those who read before it leaves its log as it is.
const FOLD_TIMEOUT: Duration = Duration::from_millis(200);

/// A transaction on a connection of its own, which goes with it: so it holds up no look of this process, and dropping it rolls
/// back.
struct Changes {
    path: PathBuf,
    connection: Connection,
    /// Whether a hash is forgotten that was kept before.
    forgets: bool,
}

impl Changes {
    fn error(&self, e: rusqlite::Error) -> StoreError {
        store_error(e, &self.path)
    }

    /// Runs one statement; how many rows it changed.
    fn write(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(|e| self.error(e))
    }
}

/// Begins to write, when it is this writer's turn.
fn take_turn(connection: &Connection) -> rusqlite::Result<()> {
    let is_busy = |e: &rusqlite::Error| {
        matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    };
    let mut patience = Patience::new(Instant::now());
    connection.busy_timeout(Duration::ZERO)?;
    while let Err(e) = connection.execute_batch("BEGIN IMMEDIATE") {
        if !is_busy(&e) {
            return Err(e);
        }
        // It is another one after each commit of another connection.
        let version =
            connection.query_row("PRAGMA data_version", [], |row| row.get::<_, u32>(0)).ok();
        match patience.pause(Instant::now(), version) {
            Some(pause) => thread::sleep(pause),
            None => return Err(e),
        }
    }
    connection.busy_timeout(BUSY_TIMEOUT)
}

/// Brings the write-ahead log into the database, and leaves it empty. While somebody reads, that has to wait for the next change, or for
/// the last one who closes the store.
fn fold(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(FOLD_TIMEOUT)?;
    let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    folded
}

impl Transaction for Changes {
    fn find(&mut self, name: &UserName) -> Result<Option<Account>, StoreError> {
        let mut statement =
            self.connection.prepare_cached(ONE_ACCOUNT).map_err(|e| self.error(e))?;
        statement
            .query_row([name.as_str()], |row| Ok(account(row)))
            .optional()
            .map_err(|e| self.error(e))?
            .transpose()
    }

    fn names(&mut self) -> Result<Vec<UserName>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM users ORDER BY name")
            .map_err(|e| self.error(e))?;
        let names = statement.query_map([], |row| Ok(user_name(row))).map_err(|e| self.error(e))?;
        names.map(|name| name.map_err(|e| self.error(e))?).collect()
    }

    fn put(&mut self, account: &Account) -> Result<(), StoreError> {
        let name = account.name.as_str();
        let hash = account.hash.as_ref().ok().map(PasswordHash::as_str);
        let before = self
            .connection
            .prepare_cached("SELECT hash IS NOT ?2 AND ?2 IS NOT NULL FROM users WHERE name = ?1")
            .and_then(|mut statement| {
                statement.query_row((name, hash), |row| row.get::<_, bool>(0)).optional()
            })
            .map_err(|e| self.error(e))?;
        let sql = match before {
            None => {
                "INSERT INTO users (name, hash, locked, expires, created, changed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
            }
            Some(_) => {
                "UPDATE users SET hash = coalesce(?2, hash), locked = ?3, expires = ?4,
                     created = ?5, changed = ?6
                 WHERE name = ?1"
            }
        };
        let Account { locked, expires, created, changed, .. } = account;
        let values = (name, hash, locked, expires.map(kept), kept(*created), kept(*changed));
        self.write(sql, values)?;
        if let Some(another_hash) = before {
            self.forgets |= another_hash;
            self.write("DELETE FROM memberships WHERE user = ?1", [name])?;
        }
        for group in account.groups.iter() {
            self.write(
                "INSERT INTO memberships (user, \"group\") VALUES (?1, ?2)",
                [name, group.as_str()],
            )?;
        }
        Ok(())
    }

    fn rename(&mut self, from: &UserName, to: &UserName) -> Result<(), StoreError> {
        if self.find(to)?.is_some() {
            return Err(StoreError::UserExists);
        }
        let renamed =
            self.write("UPDATE users SET name = ?2 WHERE name = ?1", [from.as_str(), to.as_str()])?;
        if renamed == 0 { Err(StoreError::NoSuchUser) } else { Ok(()) }
    }

    fn remove(&mut self, name: &UserName) -> Result<(), StoreError> {
        let removed = self.write("DELETE FROM users WHERE name = ?1", [name.as_str()])?;
        self.forgets = true;
        if removed == 0 { Err(StoreError::NoSuchUser) } else { Ok(()) }
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.connection.execute_batch("COMMIT").map_err(|e| self.error(e))?;
        // A forgotten hash stands in the log until that is folded into the database, where nothing is left of it.
        if self.forgets { fold(&self.connection).map_err(|e| self.error(e)) } else { Ok(()) }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // Also when nothing was changed, and when it is not known what was: another process may have done it just now.
        thread::sleep(LEASE);
    }
}

/// What decides, from the columns hash, locked and expires.
fn user(row: &Row<'_>) -> Result<User, BadRecord> {
    Ok(User {
        hash: hash(row, 0)?,
        locked: flag(row, 1, "lock")?,
        expires: moment(row, 2, "expiry")?,
    })
}

/// All of a user, from the columns of [`account_columns`].
fn account(row: &Row<'_>) -> Result<Account, StoreError> {
    let name = user_name(row)?;
    let rest = || {
        Ok(Account {
            name: name.clone(),
            hash: hash(row, 1),
            locked: flag(row, 2, "lock")?,
            expires: moment(row, 3, "expiry")?,
            created: moment(row, 4, "time of creation")?
                .ok_or(BadRecord::Field("time of creation"))?,
            changed: moment(row, 5, "time of change")?.ok_or(BadRecord::Field("time of change"))?,
            groups: groups(row, 6)?,
        })
    };
    rest().map_err(|why| StoreError::BadRecord { user: name.clone(), why })
}

// Whoever can write to the file can put anything there: nothing in it is taken on trust.

fn user_name(row: &Row<'_>) -> Result<UserName, StoreError> {
    let text = match row.get_ref(0) {
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text),
        _ => "".into(),
    };
    UserName::parse(&text).map_err(|e| {
        let shown = printable(&text);
        StoreError::Failed(format!(
            "the store holds a user named '{shown}', and that can't be: {e}"
        ))
    })
}

fn hash(row: &Row<'_>, column: usize) -> Result<PasswordHash, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(text)) => {
            PasswordHash::parse(&String::from_utf8_lossy(text)).map_err(BadRecord::Hash)
        }
        _ => Err(BadRecord::Field("hash")),
    }
}

fn flag(row: &Row<'_>, column: usize, field: &'static str) -> Result<bool, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(flag)) => Ok(flag != 0),
        _ => Err(BadRecord::Field(field)),
    }
}

fn moment(row: &Row<'_>, column: usize, field: &'static str) -> Result<Option<Moment>, BadRecord> {
    match row.get_ref(column) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Integer(seconds)) => {
            Moment::from_seconds(seconds).map(Some).ok_or(BadRecord::Field(field))
        }
        _ => Err(BadRecord::Field(field)),
    }
}

fn groups(row: &Row<'_>, column: usize) -> Result<Groups, BadRecord> {
    let bad = BadRecord::Field("group");
    let text = match row.get_ref(column) {
        Ok(ValueRef::Null) => return Ok(Groups::default()),
        Ok(ValueRef::Text(text)) => std::str::from_utf8(text).map_err(|_| bad)?,
        _ => return Err(bad),
    };
    let names: Result<Vec<_>, _> = text.split(',').map(GroupName::parse).collect();
    Groups::new(names.map_err(|_| bad)?).map_err(|_| bad)
}

/// As the store keeps times.
fn kept(moment: Moment) -> i64 {
    i64::try_from(moment.seconds()).unwrap_or(i64::MAX)
}

/// Writes a copy of the database at `path` through `out`. SQLite would open its target by name, and
/// in a folder of another user a name may stand for another file by then. So the copy is made in
/// memory first.
pub(super) fn backup(path: &Path, out: &mut dyn io::Write) -> Result<(), StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, &e))?;
    let source = Files::open(&path, 0)?;
    let copy = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // This VFS lends its bytes, so that there is one copy and not two.
        let mut target = Connection::open_with_flags_and_vfs("copy", flags, "memdb")?;
        // All at once: a reader keeps nobody from writing, and sees one moment.
        let pause = Duration::from_millis(10);
        Backup::new(&source.main(), &mut target)?.run_to_completion(i32::MAX, pause, None)?;
        Ok(target)
    };
    let failed = |e| store_error(e, &path);
    let mut copy = copy().map_err(failed)?;
    let bytes = copy.serialize("main").map_err(failed)?;
    out.write_all(&bytes).map_err(|e| StoreError::Failed(format!("cannot write the copy: {e}")))
}

/// The database and what SQLite keeps beside it, in each of its modes.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut journal = path.clone().into_os_string();
    journal.push("-journal");
    let beside: Vec<_> = companions(&path).into_iter().chain([PathBuf::from(journal)]).collect();
    [vec![path], beside].concat()
}

/// Returns what is wrong with the files of the store, without opening them as a database.
pub(super) fn check_files(path: &Path) -> Result<Vec<Flaw>, StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, &e))?;
    let of_file = |problem: String, fix| Flaw { problem, user: None, fix };
    if !is_there(&path)? {
        let fix = format!("resttool useradd NAME --database {}", shell_word(&path));
        return Ok(vec![of_file("there is no store".to_owned(), Some(fix))]);
    }
    let flaw = |problem: Problem| of_file(problem.with_path(), problem.fix);
    match problems(&real(&path)?) {
        Ok(found) => Ok(found.into_iter().map(flaw).collect()),
        Err(e) => refusal(e),
    }
}

/// Returns what is wrong with what the database contains.
pub(super) fn check_content(path: &Path, cost: Cost) -> Result<Vec<Flaw>, StoreError> {
    let path = real(&std::path::absolute(path).map_err(|e| cannot("find", path, &e))?)?;
    let connection = connect_to_read(&path)?;
    let looked = connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(|e| store_error(e, &path))
        .and_then(|()| version(&connection, &path))
        .and_then(|_| integrity(&connection, &path))
        .and_then(|whole| Ok([whole, records(&connection, &path, cost)?].concat()));
    looked.or_else(refusal)
}

/// What is refused, as something that is wrong.
fn refusal(e: StoreError) -> Result<Vec<Flaw>, StoreError> {
    match e {
        StoreError::Refused { why, hint, .. } => {
            Ok(vec![Flaw { problem: why, user: None, fix: hint }])
        }
        e => Err(e),
    }
}

/// Refuses files that are there and are not the owner's alone.
pub(super) fn refuse(path: &Path) -> Result<(), StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, &e))?;
    if is_there(&path)? { refuse_problems(&real(&path)?) } else { Ok(()) }
}

fn is_there(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(cannot("open", path, &e)),
    }
}

/// Returns the path of the database itself, without links: its companions stand there, and not
/// beside a link to it.
fn real(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|e| cannot("open", path, &e))
}

fn integrity(connection: &Connection, path: &Path) -> Result<Vec<Flaw>, StoreError> {
    let failed = |e| store_error(e, path);
    let mut statement = connection.prepare("PRAGMA integrity_check").map_err(failed)?;
    let said = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
    let said = said.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let fix = "put a backup in its place, or rescue what is left with sqlite3's .recover";
    let flaw = |what: String| Flaw {
        problem: format!("it is damaged: {}", printable(&what)),
        user: None,
        fix: Some(fix.to_owned()),
    };
    Ok(said.into_iter().filter(|line| line != "ok").map(flaw).collect())
}

fn records(connection: &Connection, path: &Path, cost: Cost) -> Result<Vec<Flaw>, StoreError> {
    let failed = |e| store_error(e, path);
    let sql = "SELECT name, hash, locked, expires, created, changed FROM users ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut flaws = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        flaws.extend(record(row, cost, &shell_word(path)));
    }
    Ok(flaws)
}

/// What is wrong with one user's record.
fn record(row: &Row<'_>, cost: Cost, database: &str) -> Option<Flaw> {
    let name = match user_name(row) {
        Ok(name) => name,
        Err(e) => return Some(Flaw { problem: e.to_string(), user: None, fix: None }),
    };
    let word = shell_operand(name.as_str());
    let flaw = |problem: String, command: &str| {
        let fix = Some(format!("resttool {command} --database {database} {word}"));
        Some(Flaw { problem, user: Some(name.clone()), fix })
    };
    let unusable = |why| StoreError::BadRecord { user: name.clone(), why }.to_string();
    let fields = flag(row, 2, "lock").map(|_| ()).and_then(|()| {
        [(3, "expiry"), (4, "time of creation"), (5, "time of change")]
            .into_iter()
            .try_for_each(|(column, field)| moment(row, column, field).map(|_| ()))
    });
    match (hash(row, 1), fields) {
        (_, Err(why)) => flaw(unusable(why), "userdel"),
        (Err(why), Ok(())) => flaw(unusable(why), "passwd"),
        (Ok(hash), Ok(())) if hash.cost() < cost => {
            let (has, least) = (hash.cost().get(), cost.get());
            flaw(format!("the hash of user {name} is of cost {has}, below {least}"), "passwd")
        }
        (Ok(_), Ok(())) => None,
    }
}

/// Makes an empty store beside `path` and then gives it that name, unless somebody was faster.
fn create(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    create_folders(folder)?;
    let failed = |e: &io::Error| cannot("create", path, e);
    let problems = folder_problems(path, &companions(path)).map_err(|e| failed(&e))?;
    if let Some(problem) = problems.into_iter().next() {
        return Err(refused(problem));
    }
    // Whoever makes the database makes the companions after it. So these are of one that is gone, and SQLite
    // would bring back what is in them.
    if let Some(left) = companions(path).into_iter().find(|file| file.exists())
        && !path.exists()
    {
        return Err(StoreError::Refused {
            path: path.to_owned(),
            why: format!(
                "it is missing, but its companion {} is there",
                printable(&left.to_string_lossy())
            ),
            hint: Some(format!(
                "put the database back, or remove the companion: rm {}",
                shell_word(&left)
            )),
        });
    }
    let fresh = tempfile::Builder::new()
        .prefix(".resttool-new-")
        .tempfile_in(folder)
        .map_err(|e| failed(&e))?;
    // The creation mask may have taken away the owner's own rights.
    fresh.as_file().set_permissions(Permissions::from_mode(0o600)).map_err(|e| failed(&e))?;
    let mut connection = connect(fresh.path())?;
    initialise(&mut connection).map_err(|e| store_error(e, path))?;
    connection.close().map_err(|(_, e)| store_error(e, path))?;
    match fresh.persist_noclobber(path) {
        Ok(_) => {}
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(failed(&e.error)),
    }
    sync_folder(folder).map_err(|e| failed(&e))
}

/// Makes the folders that are missing, each for its owner alone whatever the creation mask says.
/// Each is made in the folder that was opened before it: a name that has come to lead elsewhere is
/// not followed.
fn create_folders(folder: &Path) -> Result<(), StoreError> {
    let missing: Vec<_> = folder.ancestors().take_while(|f| !f.exists()).collect();
    let Some(parent) = missing.last().and_then(|first| first.parent()) else { return Ok(()) };
    let mut parent = File::open(parent).map_err(|e| cannot("open", parent, &e))?;
    for folder in missing.into_iter().rev() {
        // Also for `..`, which is no file name.
        let name = folder.components().next_back().map_or(OsStr::new("."), Component::as_os_str);
        parent = create_folder(&parent, name).map_err(|e| cannot("create", folder, &e))?;
    }
    Ok(())
}

/// Makes a folder, or opens one that another process has just made.
fn create_folder(parent: &File, name: &OsStr) -> io::Result<File> {
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e.into()),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(openat(parent, name, flags, Mode::empty())?);
    if made {
        folder.set_permissions(Permissions::from_mode(0o700))?;
        parent.sync_all()?;
    }
    Ok(folder)
}

/// What SQLite keeps beside a database: the write-ahead log and its index.
fn companions(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| beside(path, suffix))
}

/// Returns what keeps the files from being used as a store. `path` has no links in it.
fn problems(path: &Path) -> Result<Vec<Problem>, StoreError> {
    let failed = |e| cannot("open", path, &e);
    let companions = companions(path);
    let mut problems = folder_problems(path, &companions).map_err(failed)?;
    problems.extend(file_problems(path, &companions).map_err(failed)?);
    // First of all it has to be a store: no advice is given about other files.
    if !problems.is_empty() && !is_store(path).map_err(failed)? {
        return Err(no_store(path));
    }
    Ok(problems)
}

/// Refuses files that are not the owner's alone.
fn refuse_problems(path: &Path) -> Result<(), StoreError> {
    problems(path)?.into_iter().next().map_or(Ok(()), |problem| Err(refused(problem)))
}

fn refused(problem: Problem) -> StoreError {
    let why = problem.describe("it");
    StoreError::Refused { path: problem.path, why, hint: problem.fix }
}

/// Looks at the header of a file without SQLite, which would open its companions as well. Only for
/// a file that is refused anyway: closing it ends the locks of this process on the database
/// (fcntl(2)).
fn is_store(path: &Path) -> io::Result<bool> {
    // The application id, behind 68 bytes that begin with the magic (file format of SQLite, section
    // 1.3).
    let mut header = [0; 72];
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path)?.read_exact(&mut header) {
        Ok(()) => Ok(header.starts_with(b"SQLite format 3\0")
            && header.ends_with(&APPLICATION_ID.to_be_bytes())),
        Err(e)
            if [io::ErrorKind::UnexpectedEof, io::ErrorKind::IsADirectory].contains(&e.kind()) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn no_store(path: &Path) -> StoreError {
    StoreError::Refused {
        path: path.to_owned(),
        why: "it is no resttool store".to_owned(),
        hint: Some("name another file with --database; a missing one is made".to_owned()),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        Ok(connection)
    };
    open().map_err(|e| store_error(e, path))
}

/// A connection that only ever reads, and waits for nobody.
fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| connection.busy_timeout(Duration::ZERO).map(|()| connection))
        .map_err(|e| store_error(e, path))
}

/// Makes the schema in a file that holds nothing.
fn initialise(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    migrate(connection.transaction()?, &MIGRATIONS)
}

/// Brings the file to the current schema, if it is ours.
fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |e| store_error(e, path);
    let seen = version(connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    if seen == SCHEMA {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Looked at again: another process may have been faster.
    let seen = version(&transaction, path)?;
    migrate(transaction, &MIGRATIONS[seen as usize..]).map_err(failed)
}

/// Makes the last steps to the current schema: all of them or none.
fn migrate(transaction: rusqlite::Transaction<'_>, steps: &[&str]) -> rusqlite::Result<()> {
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

/// The version of the schema in a file of ours; other files are refused. Nothing is ours but what we made
/// whole: SQLite takes a cut-off file for an empty database, and would write over what is left of it.
fn version(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let failed = |e| store_error(e, path);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(failed)?;
    let version = number("user_version").map_err(failed)?;
    match u32::try_from(version) {
        _ if application != APPLICATION_ID => Err(no_store(path)),
        Ok(version) if (1..=SCHEMA).contains(&version) => Ok(version),
        _ => Err(StoreError::Refused {
            path: path.to_owned(),
            why: format!("its schema is version {version}, and this resttool knows up to {SCHEMA}"),
            hint: Some("use a newer resttool".to_owned()),
        }),
    }
}

fn store_error(e: rusqlite::Error, path: &Path) -> StoreError {
    let refused = |why: &str, hint: &str| StoreError::Refused {
        path: path.to_owned(),
        why: why.to_owned(),
        hint: Some(hint.to_owned()),
    };
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        Some(ErrorCode::NotADatabase) => no_store(path),
        Some(ErrorCode::DatabaseCorrupt) => refused(
            "it is damaged",
            "put a backup in its place, or rescue what is left with sqlite3's .recover",
        ),
        _ => StoreError::Failed(format!("{}: {e}", printable(&path.to_string_lossy()))),
    }
}

fn cannot(what: &str, path: &Path, e: &io::Error) -> StoreError {
    StoreError::Failed(format!("cannot {what} {}: {e}", printable(&path.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::all;
    use super::*;
    use crate::credential::HashError;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn path(&self) -> PathBuf {
            self.0.path().join("users.db")
        }
        fn open(&self) -> SqliteStore {
            SqliteStore::open(&self.path()).unwrap()
        }
        fn refused(&self) -> (String, Option<String>) {
            match SqliteStore::open(&self.path()) {
                Err(StoreError::Refused { why, hint, .. }) => (why, hint),
                Err(e) => panic!("not refused, but: {e}"),
                Ok(_) => panic!("not refused"),
            }
        }
        /// Another program's view of the file.
        fn sql(&self, sql: &str) {
            Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
        }
        fn put(&self, bytes: &[u8]) {
            fs::write(self.path(), bytes).unwrap();
            fs::set_permissions(self.path(), Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn name(raw: &str) -> UserName {
        UserName::parse(raw).unwrap()
    }

    /// The revision as the file has it: no earlier reading is relied on.
    fn read_revision(store: &SqliteStore) -> Result<Revision, StoreError> {
        store.lease.end();
        store.revision(Instant::now())
    }

    fn now() -> Moment {
        Moment::from_seconds(1_800_000_000).unwrap()
    }

    fn account(of: &str) -> Account {
        Account {
            name: name(of),
            hash: Ok(hash()),
            groups: Groups::default(),
            locked: false,
            expires: None,
            created: now(),
            changed: now(),
        }
    }

    fn add(store: &SqliteStore, of: &str) -> Result<(), StoreError> {
        let mut changes = store.begin()?;
        changes.put(&account(of))?;
        changes.commit()
    }

    fn remove(store: &SqliteStore, of: &str) -> Result<(), StoreError> {
        let mut changes = store.begin()?;
        changes.remove(&name(of))?;
        changes.commit()
    }

    fn hash() -> PasswordHash {
        PasswordHash::decoy(Cost::DEFAULT)
    }

    #[test]
    fn a_user_is_there_from_add_to_remove_for_every_connection() {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let roy = name("roy");
        assert!(other.is_empty().unwrap());
        add(&one, "roy").unwrap();
        let user = User { hash: hash(), locked: false, expires: None };
        assert_eq!(other.find(&roy).unwrap(), Some(user));
        assert!(other.contains(&roy).unwrap() && !other.is_empty().unwrap());
        assert_eq!(other.find(&name("Roy")).unwrap(), None, "case matters");
        remove(&other, "roy").unwrap();
        assert_eq!(one.find(&roy).unwrap(), None);
        assert!(matches!(remove(&one, "roy"), Err(StoreError::NoSuchUser)));
    }

    fn groups(names: &[&str]) -> Groups {
        Groups::new(names.iter().map(|name| GroupName::parse(name).unwrap())).unwrap()
    }

    #[test]
    fn all_that_is_kept_of_a_user_is_read_as_it_was_put() {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let roy = Account {
            groups: groups(&["admin", "staff"]),
            locked: true,
            expires: Moment::from_seconds(1000),
            created: Moment::from_seconds(1).unwrap(),
            ..account("roy")
        };
        let changed = Account {
            hash: PasswordHash::parse(&hash().as_str().replacen("12", "11", 1))
                .map_err(BadRecord::Hash),
            groups: groups(&["staff"]),
            locked: false,
            expires: None,
            ..roy.clone()
        };
        for expected in [roy, changed] {
            let mut changes = one.begin().unwrap();
            changes.put(&expected).unwrap();
            assert_eq!(changes.find(&name("roy")).unwrap().as_ref(), Some(&expected));
            assert!(!all(&other).contains(&expected), "nobody else sees it yet");
            changes.commit().unwrap();
            assert_eq!(all(&other), [expected]);
        }
    }

    #[test]
    fn a_hash_that_cannot_be_used_is_left_as_it_is() {
        let place = Place::new();
        let store = place.open();
        add(&store, "roy").unwrap();
        place.sql("UPDATE users SET hash = 'x'");
        let bad = Account {
            hash: Err(BadRecord::Hash(HashError::NotBcrypt)),
            locked: true,
            ..account("roy")
        };
        let mut changes = store.begin().unwrap();
        changes.put(&bad).unwrap();
        changes.commit().unwrap();
        assert_eq!(all(&store), [bad]);
        let kept = Connection::open(place.path()).unwrap().query_row(
            "SELECT hash FROM users",
            [],
            |row| row.get::<_, String>(0),
        );
        assert_eq!(kept.unwrap(), "x");
    }

    #[test]
    fn changes_count_together_or_not_at_all() {
        let place = Place::new();
        let (store, other) = (place.open(), place.open());
        add(&store, "ann").unwrap();
        let begin = || {
            let mut changes = store.begin().unwrap();
            changes.put(&account("roy")).unwrap();
            changes.put(&Account { groups: groups(&["staff"]), ..account("ann") }).unwrap();
            changes.rename(&name("ann"), &name("eve")).unwrap();
            assert_eq!(changes.names().unwrap(), [name("eve"), name("roy")]);
            changes
        };
        drop(begin());
        assert_eq!(all(&other), [account("ann")]);
        begin().commit().unwrap();
        let eve = Account { groups: groups(&["staff"]), ..account("eve") };
        assert_eq!(all(&other), [eve, account("roy")], "groups go with the name");
        remove(&store, "eve").unwrap();
        add(&store, "eve").unwrap();
        assert_eq!(all(&other), [account("eve"), account("roy")], "groups went with the user");
    }

    #[test]
    fn a_name_that_is_taken_or_nobodys_cannot_be_changed() {
        let place = Place::new();
        let store = place.open();
        add(&store, "ann").unwrap();
        add(&store, "roy").unwrap();
        let rename = |from, to| store.begin().unwrap().rename(&name(from), &name(to)).unwrap_err();
        assert!(matches!(rename("ann", "roy"), StoreError::UserExists));
        assert!(matches!(rename("joe", "eve"), StoreError::NoSuchUser));
    }

    #[test]
    fn who_looks_at_all_may_break_off() {
        let place = Place::new();
        let store = place.open();
        for of in ["cid", "ann", "bob"] {
            add(&store, of).unwrap();
        }
        let mut seen = Vec::new();
        store
            .each(&mut |account| {
                seen.push(account.name);
                if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, [name("ann"), name("bob")]);
    }

    /// A store of before there were groups.
    #[test]
    fn a_store_of_the_first_schema_is_brought_to_the_current_one() {
        let place = Place::new();
        drop(place.open());
        place.sql("DROP TABLE memberships; PRAGMA user_version = 1");
        place.sql(&format!("INSERT INTO users (name, hash) VALUES ('roy', '{}')", hash().as_str()));
        let store = place.open();
        let mut roy = all(&store).remove(0);
        roy.groups = groups(&["staff"]);
        let mut changes = store.begin().unwrap();
        changes.put(&roy).unwrap();
        changes.commit().unwrap();
        assert_eq!(all(&place.open()), [roy]);
    }

    /// S-13: with a server that keeps the store open, so that nothing is folded at the end of a command; with so many
    /// users that their pages are split and merged.
    #[test]
    fn a_hash_that_is_forgotten_is_nowhere_in_the_files() {
        let place = Place::new();
        let (store, server) = (place.open(), place.open());
        let hash_of = |n: usize, what: char| {
            let unlike = format!("{what}{n:04}{}", "x".repeat(48));
            PasswordHash::parse(&format!(
                "$2y$12${}",
                &(unlike[..21].to_owned() + "." + &unlike[..30] + ".")
            ))
        };
        let put = |n: usize, what: char| Account {
            hash: Ok(hash_of(n, what).unwrap()),
            ..account(&format!("user-{n}"))
        };
        let mut changes = store.begin().unwrap();
        for n in 0..600 {
            changes.put(&put(n, 'A')).unwrap();
        }
        changes.commit().unwrap();
        for n in 0..600 {
            let mut changes = store.begin().unwrap();
            match n % 3 {
                0 => changes.remove(&name(&format!("user-{n}"))).unwrap(),
                1 => changes.put(&put(n, 'B')).unwrap(),
                _ => continue,
            }
            changes.commit().unwrap();
            server.find(&name("user-5")).unwrap();
            server.revision(Instant::now()).unwrap();
        }
        for suffix in ["", "-wal"] {
            let file = format!("{}{suffix}", place.path().display());
            let bytes = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
            let left: Vec<_> = (0..600)
                .filter(|n| n % 3 != 2 && bytes.contains(&format!("$2y$12$A{n:04}x")))
                .collect();
            assert_eq!(left, [0; 0], "{file}");
            assert_eq!(bytes.contains("$2y$12$B0001x"), suffix.is_empty(), "what is kept is there");
        }
    }

    #[test]
    fn lock_and_expiry_are_read_as_kept() {
        let place = Place::new();
        let store = place.open();
        add(&store, "roy").unwrap();
        place.sql("UPDATE users SET locked = 1, expires = 1000");
        let expires = Moment::from_seconds(1000);
        let user = User { hash: hash(), locked: true, expires };
        assert_eq!(store.find(&name("roy")).unwrap(), Some(user));
    }

    /// so a user in many groups takes no longer to refuse than any other one.
    #[test]
    fn only_a_look_with_groups_reads_groups() {
        let place = Place::new();
        let store = place.open();
        let many: Vec<_> = (0..60).map(|n| format!("group-{n:02}")).collect();
        let many = groups(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let mut changes = store.begin().unwrap();
        changes.put(&Account { groups: many.clone(), ..account("roy") }).unwrap();
        changes.commit().unwrap();
        let user = User { hash: hash(), locked: false, expires: None };
        let found = store.find_with_groups(&name("roy")).unwrap();
        assert_eq!(found, Some((user.clone(), Arc::new(many))));
        assert_eq!(store.find_with_groups(&name("ann")).unwrap(), None);
        // As another program could have left it.
        place.sql("DROP TABLE memberships");
        assert_eq!(store.find(&name("roy")).unwrap(), Some(user));
        assert!(matches!(store.find_with_groups(&name("roy")), Err(StoreError::Failed(_))));
    }

    /// C-05, C-07
    #[test]
    fn a_record_that_cannot_be_used_is_an_error_for_that_user_alone() {
        let place = Place::new();
        let store = place.open();
        // As another program could have left it, without our constraints.
        place.sql(
            "DROP TABLE users;
             CREATE TABLE users (name PRIMARY KEY, hash, locked DEFAULT 0, expires, created, changed)",
        );
        let good = hash().as_str().to_owned();
        let bad = [
            ("NULL".into(), BadRecord::Field("hash")),
            ("7".into(), BadRecord::Field("hash")),
            (format!("CAST('{good}' AS BLOB)"), BadRecord::Field("hash")),
            ("''".into(), BadRecord::Hash(HashError::NotBcrypt)),
            (format!("'{}'", &good[1..]), BadRecord::Hash(HashError::NotBcrypt)),
            (format!("'{}'", &good[..59]), BadRecord::Hash(HashError::Length(59))),
            (
                format!("CAST(x'{}' AS TEXT)", "ff".repeat(60)),
                BadRecord::Hash(HashError::NotBcrypt),
            ),
            (
                format!("CAST('{}' || x'ff' AS TEXT)", &good[..59]),
                BadRecord::Hash(HashError::Length(62)),
            ),
            (format!("'{}é'", &good[..58]), BadRecord::Hash(HashError::Malformed)),
            (format!("'{}'", good.replacen("12", "-1", 1)), BadRecord::Hash(HashError::Malformed)),
            (format!("'{}'", good.replacen("12", "31", 1)), BadRecord::Hash(HashError::Cost(31))),
            (format!("'{}'", good.replacen("2y", "2x", 1)), BadRecord::Hash(HashError::Flawed)),
            (format!("'{good}', locked = 'yes'"), BadRecord::Field("lock")),
            (format!("'{good}', locked = 0, expires = 'never'"), BadRecord::Field("expiry")),
            (format!("'{good}', expires = -1"), BadRecord::Field("expiry")),
        ];
        add(&store, "ann").unwrap();
        add(&store, "roy").unwrap();
        for (value, expected) in bad {
            place.sql(&format!("UPDATE users SET hash = {value} WHERE name = 'roy'"));
            match store.find(&name("roy")) {
                Err(StoreError::BadRecord { user, why }) => {
                    assert_eq!((user, why), (name("roy"), expected), "{value}");
                }
                other => panic!("{value}: {other:?}"),
            }
            assert!(store.find(&name("ann")).unwrap().is_some());
        }
        remove(&store, "roy").unwrap();
    }

    /// S-01
    #[test]
    fn a_file_that_others_may_read_or_write_is_refused_with_the_fix() {
        let place = Place::new();
        drop(place.open());
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
            fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
            let (why, hint) = place.refused();
            assert_eq!(why, format!("other users may read or write it (mode {mode:04o})"));
            assert_eq!(hint, Some(format!("chmod 600 {}", place.path().display())));
        }
        fs::set_permissions(place.path(), Permissions::from_mode(0o600)).unwrap();
        place.open();
    }

    /// S-01
    #[test]
    fn the_companions_of_the_file_are_for_its_owner_alone_too() {
        let place = Place::new();
        let store = place.open();
        add(&store, "roy").unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", place.path().display());
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        let wal = format!("{}-wal", place.path().display());
        fs::set_permissions(&wal, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(place.refused().1, Some(format!("chmod 600 {wal}")));
    }

    /// S-08
    #[test]
    fn what_is_no_database_is_refused_and_left_as_it_is() {
        let place = Place::new();
        let noise = b"not a database, but something that somebody may still want ".repeat(100);
        for content in [&b""[..], b"x", &noise] {
            place.put(content);
            place.refused();
            assert_eq!(fs::read(place.path()).unwrap(), content);
        }
    }

    /// S-08
    #[test]
    fn a_damaged_database_is_refused_and_left_as_it_is() {
        let place = Place::new();
        add(&place.open(), "roy").unwrap();
        let whole = fs::read(place.path()).unwrap();
        // The first page holds the header and then the schema's b-tree.
        for (at, length) in [(0, 16), (100, 12)] {
            let mut damaged = whole.clone();
            damaged[at..at + length].fill(0xAA);
            place.put(&damaged);
            place.refused();
            assert_eq!(fs::read(place.path()).unwrap(), damaged);
        }
    }

    /// S-09
    #[test]
    fn a_foreign_database_and_a_newer_schema_are_refused_and_left_as_they_are() {
        let place = Place::new();
        place.put(b"");
        place.sql("CREATE TABLE theirs (x)");
        let theirs = fs::read(place.path()).unwrap();
        assert_eq!(place.refused().0, "it is no resttool store");
        assert_eq!(fs::read(place.path()).unwrap(), theirs);
        place.sql("PRAGMA application_id = 42; PRAGMA user_version = 1");
        assert_eq!(place.refused().0, "it is no resttool store");

        fs::remove_file(place.path()).unwrap();
        drop(place.open());
        place.sql("PRAGMA user_version = 3");
        let newer = fs::read(place.path()).unwrap();
        let (why, hint) = place.refused();
        assert_eq!(why, "its schema is version 3, and this resttool knows up to 2");
        assert_eq!(hint.as_deref(), Some("use a newer resttool"));
        assert_eq!(fs::read(place.path()).unwrap(), newer);
    }

    /// S-09: half a migration is none.
    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let place = Place::new();
        place.put(b"");
        let mut connection = connect(&place.path()).unwrap();
        let steps = ["CREATE TABLE users (name)", "CREATE nonsense"];
        migrate(connection.transaction().unwrap(), &steps).unwrap_err();
        drop(connection);
        let tables: u32 = Connection::open(place.path())
            .unwrap()
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn many_who_open_a_missing_store_at_once_get_the_same_one() {
        let place = Place::new();
        let path = place.0.path().join("some/where/users.db");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let store = SqliteStore::open(path).unwrap();
                    add(&store, &format!("user-{n}")).unwrap();
                });
            }
        });
        let store = SqliteStore::open(&path).unwrap();
        assert!((0..8).all(|n| store.contains(&name(&format!("user-{n}"))).unwrap()));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| !file.starts_with("users.db"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "nothing is left of the attempts");
    }

    #[test]
    fn a_name_that_sqlite_would_read_otherwise_is_a_file() {
        let place = Place::new();
        let path = place.0.path().join("file:users.db?mode=memory");
        add(&SqliteStore::open(&path).unwrap(), "roy").unwrap();
        assert!(SqliteStore::open(&path).unwrap().contains(&name("roy")).unwrap());
        assert!(path.is_file());
    }

    #[test]
    fn a_store_that_is_kept_locked_is_busy_and_one_that_is_lost_fails() {
        let place = Place::new();
        let store = place.open();
        store.files().unwrap().main().busy_timeout(Duration::ZERO).unwrap();
        let other = Connection::open(place.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(add(&store, "roy"), Err(StoreError::Busy)));
        assert!(store.is_empty().unwrap(), "readers do not wait for a writer");
        other.execute_batch("ROLLBACK; DROP TABLE users").unwrap();
        assert!(matches!(store.find(&name("roy")), Err(StoreError::Failed(_))));
    }

    #[test]
    fn a_revision_is_another_one_after_every_change_and_only_then() {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let mut seen = vec![one.revision(Instant::now()).unwrap()];
        let mut look = |changed| {
            let now = read_revision(&one).unwrap();
            assert_eq!(!seen.contains(&now), changed, "{seen:?}, {now:?}");
            seen.push(now);
        };
        look(false);
        other.find(&name("roy")).unwrap();
        other.revision(Instant::now()).unwrap();
        look(false);
        add(&other, "roy").unwrap();
        look(true);
        remove(&one, "roy").unwrap();
        look(true);
        place.sql("INSERT INTO users (name, hash) VALUES ('ann', '')");
        look(true);
    }

    /// B-06: a reading may be as old as the lease, and the change has waited for that long.
    #[test]
    fn a_change_that_has_returned_is_in_every_revision_asked_for_after_it() {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        add(&other, "roy").unwrap();
        let theirs = Connection::open(place.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Others ask all the time, so that the last reading is from just before the change.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    one.revision(Instant::now()).unwrap();
                }
            });
            let _stop = Stop(&done);
            for n in 0..100 {
                let before = one.revision(Instant::now()).unwrap();
                add(&other, &format!("user-{n}")).unwrap();
                assert_ne!(one.revision(Instant::now()).unwrap(), before);
                // Nothing to remove: somebody else may have just done it.
                let before = one.revision(Instant::now()).unwrap();
                theirs.execute_batch("UPDATE users SET changed = changed + 1").unwrap();
                remove(&other, "nobody").unwrap_err();
                assert_ne!(one.revision(Instant::now()).unwrap(), before);
            }
        });
    }

    /// Ends a thread, also when an assertion fails.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// S-12
    #[test]
    fn a_database_put_in_place_of_another_is_used_and_neither_is_harmed() {
        let place = Place::new();
        let (path, aside) = (place.path(), place.0.path().join("aside.db"));
        let new = place.0.path().join("new.db");
        add(&SqliteStore::open(&new).unwrap(), "new").unwrap();
        // Larger than the old one, whose index would say that it ends earlier.
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                    INSERT INTO users (name, hash) SELECT 'user-' || i, '' FROM n";
        Connection::open(&new).unwrap().execute_batch(fill).unwrap();
        let store = place.open();
        let before = store.revision(Instant::now()).unwrap();
        add(&store, "old").unwrap();
        let files = || companions(&path).map(|file| Stamp::of(&file).unwrap().file);
        let olds = files();

        fs::rename(&path, &aside).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_ne!(read_revision(&store).unwrap(), before);
        assert!(files().iter().all(|file| !olds.contains(file)), "companions of its own");
        for store in [store, place.open()] {
            assert!(store.contains(&name("new")).unwrap());
            assert!((1..=5000).all(|n| store.contains(&name(&format!("user-{n}"))).unwrap()));
            assert_eq!(store.find(&name("old")).unwrap(), None);
            add(&store, "newer").unwrap();
        }
        let aside = SqliteStore::open(&aside).unwrap();
        assert!(aside.contains(&name("old")).unwrap(), "nothing of the old one is lost");
        assert!(!aside.contains(&name("newer")).unwrap());
        let check = |path| {
            let check = Connection::open(path).unwrap();
            check.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap()
        };
        assert_eq!(check(path), "ok");
    }

    /// S-12
    #[test]
    fn a_deleted_database_fails_until_there_is_one_again() {
        let place = Place::new();
        let store = place.open();
        add(&store, "roy").unwrap();
        store.revision(Instant::now()).unwrap();
        let backup = place.0.path().join("backup.db");
        place.sql(&format!("VACUUM INTO '{}'", backup.display()));
        fs::set_permissions(&backup, Permissions::from_mode(0o600)).unwrap();

        fs::remove_file(place.path()).unwrap();
        for _ in 0..2 {
            assert!(matches!(read_revision(&store), Err(StoreError::Failed(_))));
            assert!(matches!(store.find(&name("roy")), Err(StoreError::Failed(_))));
            assert!(matches!(add(&store, "ann"), Err(StoreError::Failed(_))));
        }
        // A new one must not inherit the changes of the one that is gone.
        let (why, hint) = place.refused();
        let wal = format!("{}-wal", place.path().display());
        assert_eq!(why, format!("it is missing, but its companion {wal} is there"));
        assert!(hint.unwrap().ends_with(&format!("rm {wal}")));
        assert!(!place.path().exists());

        fs::rename(&backup, place.path()).unwrap();
        assert!(store.contains(&name("roy")).unwrap());
        store.revision(Instant::now()).unwrap();
    }

    /// S-12: with `cp`, whose file keeps its numbers.
    #[test]
    fn a_database_that_is_written_over_is_read_anew() {
        let place = Place::new();
        let store = place.open();
        add(&store, "old").unwrap();
        place.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(store.contains(&name("old")).unwrap());
        let before = store.revision(Instant::now()).unwrap();
        let new = place.0.path().join("new.db");
        add(&SqliteStore::open(&new).unwrap(), "new").unwrap();
        fs::copy(&new, place.path()).unwrap();
        assert_ne!(read_revision(&store).unwrap(), before);
        assert!(store.contains(&name("new")).unwrap());
        assert!(!store.contains(&name("old")).unwrap());
    }

    /// whichever folder has the name by then, and no link is followed.
    #[test]
    fn folder_is_made_in_the_folder_that_was_opened() {
        let place = Place::new();
        let at = |name| place.0.path().join(name);
        for name in ["parent", "elsewhere"] {
            fs::create_dir(at(name)).unwrap();
        }
        let parent = File::open(at("parent")).unwrap();
        fs::rename(at("parent"), at("moved")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("parent")).unwrap();
        create_folder(&parent, OsStr::new("made")).unwrap();
        assert_eq!(fs::metadata(at("moved/made")).unwrap().permissions().mode() & 0o7777, 0o700);
        std::os::unix::fs::symlink(at("elsewhere"), at("moved/link")).unwrap();
        create_folder(&parent, OsStr::new("link")).unwrap_err();
        create_folder(&parent, OsStr::new("made")).unwrap();
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);
    }

    /// also when another file has taken the name meanwhile.
    #[test]
    fn backup_is_written_through_the_open_descriptor() {
        let place = Place::new();
        add(&place.open(), "roy").unwrap();
        let folder = place.0.path();
        let (name_of, moved) = (folder.join("copy"), folder.join("moved.db"));
        let mut out =
            File::options().write(true).create_new(true).mode(0o600).open(&name_of).unwrap();
        fs::rename(&name_of, &moved).unwrap();
        fs::write(&name_of, "of another user").unwrap();
        backup(&place.path(), &mut out).unwrap();
        assert_eq!(fs::read(&name_of).unwrap(), b"of another user");
        assert!(SqliteStore::open(&moved).unwrap().contains(&name("roy")).unwrap());
    }

    /// S-10
    #[test]
    fn the_sqlite_in_use_is_new_enough() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", engine());
    }
}
