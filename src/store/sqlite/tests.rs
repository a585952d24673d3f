//! Tests of the SQLite backend alone. `contract.rs` tests the behavior of all backends.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::connect;
use super::create::create_folder;
use super::schema::{APPLICATION_ID, MIGRATIONS, migrate};
use super::*;
use crate::domain::{Cost, CredentialVersion, HashError, LegacyScheme, PasswordHash};
use crate::store::contract::{
    Backend, account, add, contract, groups, hash, name, put, remove, wrapped_hash,
};
use crate::store::lease::LOCAL;
use crate::store::{FileProblem, FileProblemKind, Findings, Problem, all};
use crate::time::Timestamp;

contract!(TempStore);

/// A temporary folder for a store.
struct TempStore(tempfile::TempDir);

impl Backend for TempStore {
    fn new() -> Self {
        Self::new()
    }

    fn open(&self) -> Box<dyn UserStore> {
        Box::new(self.open())
    }
}

impl TempStore {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("users.db")
    }
    fn open(&self) -> SqliteStore {
        SqliteStore::open_or_create(&self.path()).unwrap()
    }
    fn refused(&self) -> Problem {
        match SqliteStore::open_or_create(&self.path()) {
            Err(StoreError::Refused { problem, .. }) => problem,
            Err(e) => panic!("not refused, but: {e}"),
            Ok(_) => panic!("not refused"),
        }
    }
    /// Runs SQL on the file, like another program.
    fn sql(&self, sql: &str) {
        Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }
    fn put(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
        fs::set_permissions(self.path(), Permissions::from_mode(0o600)).unwrap();
    }
}

/// Returns the revision of the file, without relying on an earlier reading.
fn read_revision(store: &SqliteStore) -> Result<Revision, StoreError> {
    store.lease.end();
    store.revision(Instant::now())
}

/// B-06: requests wait for a renewal only if no lease covers them.
#[test]
fn lease_is_renewed_early_and_by_one_thread() {
    let place = TempStore::new();
    let store = place.open();
    let start = Instant::now();
    let before = store.revision(start).unwrap();
    add(&store, "roy").unwrap();
    assert_eq!(store.revision(start + LOCAL / 2).unwrap(), before);
    let soon = start + LOCAL * 7 / 8;
    {
        let files = store.files().unwrap();
        let _renewal = files.detector();
        assert_eq!(store.revision(soon).unwrap(), before, "another thread renews");
    }
    let renewed = store.revision(soon).unwrap();
    assert_ne!(renewed, before);
    assert_eq!(store.revision(start + LOCAL).unwrap(), renewed, "until its own end");
}

#[test]
fn unusable_hash_is_left_as_it_is() {
    let place = TempStore::new();
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
    changes.commit().wait().unwrap();
    assert_eq!(all(&store), [bad]);
    let kept =
        Connection::open(place.path())
            .unwrap()
            .query_row("SELECT hash FROM users", [], |row| row.get::<_, String>(0));
    assert_eq!(kept.unwrap(), "x");
}

/// S-09: stores from before there were groups, and from before there were schemes.
#[test]
fn older_schema_is_checked_as_it_is_and_migrated() {
    for version in 1..MIGRATIONS.len() {
        let place = TempStore::new();
        place.put(b"");
        place.sql(&MIGRATIONS[..version].concat());
        place.sql(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};
             INSERT INTO users (name, hash, created, changed) VALUES ('roy', '{}', 1, 2)",
            hash().bcrypt.as_str()
        ));
        let before = fs::read(place.path()).unwrap();
        assert_eq!(check_content(&place.path(), Cost::DEFAULT).unwrap(), Findings::default());
        assert_eq!(fs::read(place.path()).unwrap(), before);
        let store = place.open();
        let time = |seconds| Timestamp::from_seconds(seconds).unwrap();
        let mut roy = Account { created: time(1), changed: time(2), ..account("roy") };
        assert_eq!(all(&store), [roy.clone()], "{version}");
        roy.groups = groups(&["staff"]);
        roy.hash = Ok(wrapped_hash(LegacyScheme::Ssha, "c2FsdA==", None));
        let mut changes = store.begin().unwrap();
        changes.put(&roy).unwrap();
        changes.commit().wait().unwrap();
        assert_eq!(all(&place.open()), [roy]);
    }
}

/// H-06: parameters that no import has written are a bad record, and nothing is computed.
#[test]
fn invalid_parameters_of_a_wrapped_hash_are_a_bad_record() {
    let place = TempStore::new();
    let store = place.open();
    let roy = Account {
        hash: Ok(wrapped_hash(LegacyScheme::Sha512Crypt, "salt", None)),
        ..account("roy")
    };
    put(&store, &roy).unwrap();
    for (sql, field) in [
        ("scheme = 'sha3'", "scheme"),
        ("scheme = 7", "scheme"),
        ("salt = NULL", "salt"),
        ("salt = 'a$b'", "scheme"),
        ("rounds = 1000000000", "scheme"),
        ("rounds = 1000001", "scheme"),
        ("rounds = -1", "rounds"),
        ("imported = NULL", "time of import"),
    ] {
        place.sql(&format!("UPDATE users SET {sql}"));
        match store.find(&name("roy")) {
            Err(StoreError::BadRecord { why: BadRecord::Field(seen), .. }) => {
                assert_eq!(seen, field)
            }
            other => panic!("{sql}: {other:?}"),
        }
        put(&store, &roy).unwrap();
    }
    // Without the scheme, the other columns are unused.
    place.sql("UPDATE users SET scheme = NULL");
    let bcrypt = roy.hash.unwrap().bcrypt;
    assert_eq!(store.find(&name("roy")).unwrap().unwrap().hash, bcrypt.into());
}

/// S-13: a server keeps the store open, so that closing the connection of a command does not
/// checkpoint it. There are so many users that pages are split and merged.
#[test]
fn removed_hash_is_nowhere_in_the_files() {
    let place = TempStore::new();
    let (store, server) = (place.open(), place.open());
    let hash_of = |n: usize, what: char| {
        let unlike = format!("{what}{n:04}{}", "x".repeat(48));
        PasswordHash::parse(&format!(
            "$2y$12${}",
            &(unlike[..21].to_owned() + "." + &unlike[..30] + ".")
        ))
        .map(StoredHash::from)
    };
    let put = |n: usize, what: char| Account {
        hash: Ok(hash_of(n, what).unwrap()),
        ..account(&format!("user-{n}"))
    };
    let mut changes = store.begin().unwrap();
    for n in 0..600 {
        changes.put(&put(n, 'A')).unwrap();
    }
    changes.commit().wait().unwrap();
    for n in 0..600 {
        let mut changes = store.begin().unwrap();
        match n % 3 {
            0 => assert!(changes.remove(&name(&format!("user-{n}"))).unwrap()),
            1 => changes.put(&put(n, 'B')).unwrap(),
            _ => continue,
        }
        changes.commit().wait().unwrap();
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
        assert_eq!(
            bytes.contains("$2y$12$B0001x"),
            suffix.is_empty(),
            "kept hashes are in the database"
        );
    }
}

/// refusing a user in many groups takes as long as refusing any other user.
#[test]
fn only_a_lookup_with_groups_reads_groups() {
    let place = TempStore::new();
    let store = place.open();
    let many: Vec<_> = (0..60).map(|n| format!("group-{n:02}")).collect();
    let many = groups(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut changes = store.begin().unwrap();
    changes.put(&Account { groups: many.clone(), ..account("roy") }).unwrap();
    changes.commit().wait().unwrap();
    let credential_version = CredentialVersion::default();
    let user = User { hash: hash(), credential_version, locked: false, expires: None };
    let found = store.find_with_groups(&name("roy")).unwrap();
    let groups = Arc::new(many);
    let state = RecordState::Current;
    assert_eq!(found, Some(FoundUser { user: user.clone(), groups, state }));
    assert_eq!(store.find_with_groups(&name("ann")).unwrap(), None);
    // As another program could have left the file.
    place.sql("DROP TABLE memberships");
    assert_eq!(store.find(&name("roy")).unwrap(), Some(user));
    assert!(matches!(store.find_with_groups(&name("roy")), Err(StoreError::Failed(_))));
}

/// C-05, C-07
#[test]
fn unusable_record_is_an_error_for_that_user_alone() {
    let place = TempStore::new();
    let store = place.open();
    // As another program could have left the file, without our constraints.
    place.sql(
        "DROP TABLE users;
         CREATE TABLE users (name PRIMARY KEY, hash, locked DEFAULT 0, expires, created, changed,
             scheme, salt, rounds, imported, credential_version)",
    );
    let good = hash().bcrypt.as_str().to_owned();
    let bad = [
        ("NULL".into(), BadRecord::Field("hash")),
        ("7".into(), BadRecord::Field("hash")),
        (format!("CAST('{good}' AS BLOB)"), BadRecord::Field("hash")),
        ("''".into(), BadRecord::Hash(HashError::NotBcrypt)),
        (format!("'{}'", &good[1..]), BadRecord::Hash(HashError::NotBcrypt)),
        (format!("'{}'", &good[..59]), BadRecord::Hash(HashError::Length(59))),
        (format!("CAST(x'{}' AS TEXT)", "ff".repeat(60)), BadRecord::Hash(HashError::NotBcrypt)),
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
fn file_that_other_users_may_read_or_write_is_refused() {
    let place = TempStore::new();
    drop(place.open());
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
        fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
        let problem = place.refused();
        let kind = FileProblemKind::NotPrivate { mode };
        assert_eq!(problem, Problem::File(FileProblem { path: place.path(), kind }));
        let why = format!("other users may read or write it (mode {mode:04o})");
        assert_eq!(problem.to_string(), why);
    }
    fs::set_permissions(place.path(), Permissions::from_mode(0o600)).unwrap();
    place.open();
}

/// S-01
#[test]
fn companions_of_the_file_are_private_too() {
    let place = TempStore::new();
    let store = place.open();
    add(&store, "roy").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", place.path().display());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let wal = format!("{}-wal", place.path().display());
    fs::set_permissions(&wal, Permissions::from_mode(0o644)).unwrap();
    let kind = FileProblemKind::NotPrivate { mode: 0o644 };
    assert_eq!(place.refused(), Problem::File(FileProblem { path: wal.into(), kind }));
}

/// S-08
#[test]
fn file_that_is_no_database_is_refused_and_left_as_it_is() {
    let place = TempStore::new();
    let noise = b"not a database, but something that somebody may still want ".repeat(100);
    for content in [&b""[..], b"x", &noise] {
        place.put(content);
        place.refused();
        assert_eq!(fs::read(place.path()).unwrap(), content);
    }
}

/// S-08
#[test]
fn damaged_database_is_refused_and_left_as_it_is() {
    let place = TempStore::new();
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
fn foreign_database_and_newer_schema_are_refused() {
    let place = TempStore::new();
    place.put(b"");
    place.sql("CREATE TABLE theirs (x)");
    let theirs = fs::read(place.path()).unwrap();
    assert_eq!(place.refused(), Problem::NotAStore);
    assert_eq!(fs::read(place.path()).unwrap(), theirs);
    place.sql("PRAGMA application_id = 42; PRAGMA user_version = 1");
    assert_eq!(place.refused(), Problem::NotAStore);

    fs::remove_file(place.path()).unwrap();
    drop(place.open());
    place.sql("PRAGMA user_version = 4");
    let newer = fs::read(place.path()).unwrap();
    let problem = place.refused();
    assert_eq!(problem, Problem::UnknownSchema { version: 4, known: 3 });
    let why = "its schema is version 4, and this resttool knows up to 3";
    assert_eq!(problem.to_string(), why);
    assert_eq!(fs::read(place.path()).unwrap(), newer);
}

/// S-09: a migration that fails halfway is rolled back.
#[test]
fn failed_migration_leaves_nothing_behind() {
    let place = TempStore::new();
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
fn processes_that_create_a_store_at_once_get_the_same_one() {
    let place = TempStore::new();
    let path = place.0.path().join("some/where/users.db");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let store = SqliteStore::open_or_create(path).unwrap();
                add(&store, &format!("user-{n}")).unwrap();
            });
        }
    });
    let store = SqliteStore::open_or_create(&path).unwrap();
    assert!((0..8).all(|n| store.contains(&name(&format!("user-{n}"))).unwrap()));
    let left: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|file| !file.starts_with("users.db"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left of the attempts");
}

#[test]
fn name_with_a_meaning_for_sqlite_is_a_file() {
    let place = TempStore::new();
    let path = place.0.path().join("file:users.db?mode=memory");
    add(&SqliteStore::open_or_create(&path).unwrap(), "roy").unwrap();
    assert!(SqliteStore::open_or_create(&path).unwrap().contains(&name("roy")).unwrap());
    assert!(path.is_file());
}

#[test]
fn locked_store_is_busy_and_lost_table_fails() {
    let place = TempStore::new();
    let store = place.open();
    store.files().unwrap().main().busy_timeout(Duration::ZERO).unwrap();
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(add(&store, "roy"), Err(StoreError::Busy)));
    assert!(store.is_empty().unwrap(), "readers do not wait for a writer");
    other.execute_batch("ROLLBACK; DROP TABLE users").unwrap();
    let lost = store.find(&name("roy")).unwrap_err();
    assert!(matches!(lost, StoreError::Failed(_)));
    let cause = std::error::Error::source(&lost).unwrap();
    assert!(cause.is::<rusqlite::Error>(), "the cause stays in the chain: {cause:?}");
}

#[test]
fn revision_changes_with_a_change_by_another_program() {
    let place = TempStore::new();
    let store = place.open();
    let before = read_revision(&store).unwrap();
    place.sql("INSERT INTO users (name, hash) VALUES ('ann', '')");
    assert_ne!(read_revision(&store).unwrap(), before);
}

/// S-12
#[test]
fn replaced_database_is_used_and_neither_is_harmed() {
    let place = TempStore::new();
    let (path, aside) = (place.path(), place.0.path().join("aside.db"));
    let new = place.0.path().join("new.db");
    add(&SqliteStore::open_or_create(&new).unwrap(), "new").unwrap();
    // Larger than the old database, whose index would give an earlier end.
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                INSERT INTO users (name, hash) SELECT 'user-' || i, '' FROM n";
    Connection::open(&new).unwrap().execute_batch(fill).unwrap();
    let store = place.open();
    let before = store.revision(Instant::now()).unwrap();
    add(&store, "old").unwrap();
    let files = || companions(&path).map(|file| FileVersion::of(&file).unwrap().id());
    let olds = files();

    fs::rename(&path, &aside).unwrap();
    fs::rename(&new, &path).unwrap();
    assert_ne!(read_revision(&store).unwrap(), before);
    assert!(files().iter().all(|file| !olds.contains(file)), "it has its own companions");
    for store in [store, place.open()] {
        assert!(store.contains(&name("new")).unwrap());
        assert!((1..=5000).all(|n| store.contains(&name(&format!("user-{n}"))).unwrap()));
        assert_eq!(store.find(&name("old")).unwrap(), None);
        add(&store, "newer").unwrap();
    }
    let aside = SqliteStore::open_or_create(&aside).unwrap();
    assert!(aside.contains(&name("old")).unwrap(), "the old database loses nothing");
    assert!(!aside.contains(&name("newer")).unwrap());
    let check = |path| {
        let check = Connection::open(path).unwrap();
        check.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(check(path), "ok");
}

/// S-12
#[test]
fn deleted_database_fails_until_it_is_restored() {
    let place = TempStore::new();
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
    // A new database must not inherit the changes of the deleted one.
    let problem = place.refused();
    let wal = format!("{}-wal", place.path().display());
    assert_eq!(problem, Problem::OrphanedCompanion(wal.clone().into()));
    let why = format!("it is missing, but its companion {wal} is there");
    assert_eq!(problem.to_string(), why);
    assert!(!place.path().exists());

    fs::rename(&backup, place.path()).unwrap();
    assert!(store.contains(&name("roy")).unwrap());
    store.revision(Instant::now()).unwrap();
}

/// S-12: `cp` overwrites a file in place, so device and inode stay the same.
#[test]
fn overwritten_database_is_read_anew() {
    let place = TempStore::new();
    let store = place.open();
    add(&store, "old").unwrap();
    place.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(store.contains(&name("old")).unwrap());
    let before = store.revision(Instant::now()).unwrap();
    let new = place.0.path().join("new.db");
    add(&SqliteStore::open_or_create(&new).unwrap(), "new").unwrap();
    fs::copy(&new, place.path()).unwrap();
    assert_ne!(read_revision(&store).unwrap(), before);
    assert!(store.contains(&name("new")).unwrap());
    assert!(!store.contains(&name("old")).unwrap());
}

/// also if another folder has the name by then. Links are not followed.
#[test]
fn folder_is_created_in_the_folder_that_was_opened() {
    let place = TempStore::new();
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

/// also if another file has taken the name meanwhile.
#[test]
fn backup_is_written_through_the_open_descriptor() {
    let place = TempStore::new();
    add(&place.open(), "roy").unwrap();
    let folder = place.0.path();
    let (name_of, moved) = (folder.join("copy"), folder.join("moved.db"));
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(&name_of).unwrap();
    fs::rename(&name_of, &moved).unwrap();
    fs::write(&name_of, "of another user").unwrap();
    backup(&place.path(), &mut out).unwrap();
    assert_eq!(fs::read(&name_of).unwrap(), b"of another user");
    assert!(SqliteStore::open_or_create(&moved).unwrap().contains(&name("roy")).unwrap());
}

/// S-10
#[test]
fn sqlite_in_use_is_new_enough() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", engine());
}
