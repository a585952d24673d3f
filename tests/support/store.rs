//! A store of its own for a test.
//!
//! The environment variable `TEST_STORE` chooses the backend of all stores of a run: `postgres`, or
//! SQLite if it is not set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use resttool::testing::{
    CredentialVersion, DesiredPassword, DesiredUser, Groups, IfExists, IfGone, IfMissing, Location,
    Password, Policy, PostgresUrl, ReconcileOptions, Timestamp, UserName, UserReader, UserStore,
    initialize_database, open_reader, open_store, reconcile, remove_user,
};
use tempfile::TempDir;

use super::client::Request;
use super::postgres::{self, wait_until};
use super::server::Server;
use super::{Account, Cost, PasswordHash};

/// Short, since each change waits for it. A busy machine answers late with a shorter one.
const LEASE: Duration = Duration::from_millis(200);

/// The URLs of PostgreSQL stores by their folders, for runs of the program.
static DATABASES: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

/// A temporary folder with a store: a SQLite file in it, or a PostgreSQL database beside it.
pub struct TempStore {
    folder: TempDir,
    /// The name of the PostgreSQL database.
    database: Option<String>,
}

impl TempStore {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = match std::env::var("TEST_STORE").as_deref() {
            Err(_) => None,
            Ok("postgres") => {
                let name = postgres::shared().create_database();
                let url = PostgresUrl::parse(&postgres::shared().url(&name)).unwrap();
                assert!(initialize_database(&url, LEASE).unwrap());
                // A function of SQLite that the SQL of tests uses.
                let function = "CREATE FUNCTION public.unixepoch() RETURNS bigint LANGUAGE sql \
                                RETURN floor(extract(epoch FROM now()))::bigint";
                postgres::shared().psql(&name, function);
                databases().insert(folder.path().to_owned(), url.to_string());
                Some(name)
            }
            Ok(other) => panic!("TEST_STORE={other} is no backend"),
        };
        Self { folder, database }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the value of `--database`: a path or a URL.
    pub fn database(&self) -> PathBuf {
        database_of(self.folder()).map_or_else(|| self.folder().join("users.db"), PathBuf::from)
    }

    /// Returns true if there is a store. Commands create a SQLite file, and no database.
    pub fn exists(&self) -> bool {
        self.database.is_some() || self.database().exists()
    }

    fn location(&self) -> Location {
        match database_of(self.folder()) {
            Some(url) => PostgresUrl::parse(&url).unwrap().into(),
            None => Location::File(self.database()),
        }
    }

    pub fn open(&self) -> Box<dyn UserStore> {
        open_store(&self.location()).unwrap()
    }

    /// Opens the store as a server does, and returns when it can answer requests.
    pub fn reader(&self) -> Box<dyn UserReader> {
        drop(self.open()); // created if missing
        let reader = open_reader(&self.location()).unwrap();
        wait_until("the store is read", || reader.revision(Instant::now()).is_ok());
        reader
    }

    pub fn serve(&self) -> Server {
        Server::start(self.reader())
    }

    pub fn add(&self, user: &str, password: &str) {
        let password = DesiredPassword::Password(Password::parse(password).unwrap());
        self.insert(DesiredUser::new(name(user), password));
    }

    /// Adds a user with this hash.
    pub fn add_hash(&self, user: &str, hash: &str) {
        let password = DesiredPassword::Hash(PasswordHash::parse(hash).unwrap().into());
        self.insert(DesiredUser::new(name(user), password));
    }

    fn insert(&self, desired: DesiredUser) {
        self.reconcile(desired, ReconcileOptions::new(IfMissing::Add, IfExists::Refuse));
    }

    pub fn rename(&self, from: &str, to: &str) {
        let desired = DesiredUser {
            rename: Some(name(to)),
            ..DesiredUser::new(name(from), DesiredPassword::Keep)
        };
        self.reconcile(desired, ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace));
    }

    fn reconcile(&self, desired: DesiredUser, options: ReconcileOptions) {
        let options = ReconcileOptions { cost: min_cost(), ..options };
        reconcile(&*self.open(), &[desired], &options, Timestamp::now(), &|_, _| {}).unwrap();
    }

    pub fn remove(&self, user: &str) {
        remove_user(&*self.open(), &[name(user)], IfGone::Refuse).unwrap();
    }

    /// Runs SQL, and returns when a running server sees the change, as the commands do.
    pub fn change(&self, sql: &str) {
        self.sql(sql);
        remove_user(&*self.open(), &[name("is-no-user")], IfGone::Refuse).unwrap_err();
    }

    /// Makes the users unreadable. Returns when a running server cannot rely on an earlier reading.
    pub fn hide_users(&self) {
        let store = self.open();
        match &self.database {
            Some(_) => self.sql("ALTER SCHEMA resttool RENAME TO hidden"),
            None => self.sql("ALTER TABLE users RENAME TO hidden"),
        }
        store.visibility().wait().unwrap();
    }

    /// Makes hidden users readable again. Returns when this server has noticed it.
    pub fn show_users(&self, server: &Server) {
        match &self.database {
            Some(_) => self.sql("ALTER SCHEMA hidden RENAME TO resttool"),
            None => self.sql("ALTER TABLE hidden RENAME TO users"),
        }
        let ready = || server.send(&Request::get("/readyz")).status == 200;
        wait_until("the server is ready", ready);
    }

    /// Runs SQL as another program would: a running server sees the change on its own.
    pub fn sql(&self, sql: &str) {
        match &self.database {
            Some(name) => {
                let sql = format!("SET search_path = resttool, public; {sql}");
                postgres::shared().psql(name, &sql);
            }
            None => {
                rusqlite::Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
            }
        }
    }
}

impl Drop for TempStore {
    fn drop(&mut self) {
        databases().remove(self.folder());
        if let Some(name) = &self.database {
            // A database takes 7 MB, which are memory in a tmpfs. FORCE ends the sessions of servers.
            let sql = format!("DROP DATABASE {name} WITH (FORCE)");
            let dropped = postgres::psql(&postgres::shared().url("postgres"), &sql);
            assert!(dropped.is_ok() || std::thread::panicking(), "{dropped:?}");
        }
    }
}

/// Returns the URL of the PostgreSQL store that has this folder.
pub fn database_of(folder: &Path) -> Option<String> {
    databases().get(folder).cloned()
}

fn databases() -> MutexGuard<'static, BTreeMap<PathBuf, String>> {
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn name(raw: &str) -> UserName {
    UserName::parse(raw).unwrap()
}

/// Hashes with the lowest cost: these tests are not about time.
pub fn hash_of(password: &str) -> PasswordHash {
    let policy = Policy { min_length: 1, cost: min_cost() };
    policy.hash(&Password::parse(password).unwrap()).unwrap()
}

pub fn min_cost() -> Cost {
    Cost::new(Cost::MIN).unwrap()
}

/// Returns the record of a user without groups.
pub fn account(user: &str, password: &str) -> Account {
    let now = Timestamp::now();
    Account {
        name: name(user),
        hash: Ok(hash_of(password).into()),
        credential_version: CredentialVersion::default(),
        groups: Groups::default(),
        locked: false,
        expires: None,
        created: now,
        changed: now,
    }
}
