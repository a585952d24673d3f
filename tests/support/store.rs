//! A store in a temporary folder.

use std::path::{Path, PathBuf};

use resttool::testing::{
    CredentialVersion, DesiredPassword, DesiredUser, Groups, IfExists, IfGone, IfMissing, Location,
    Password, Policy, ReconcileOptions, Timestamp, UserName, UserStore, open_store, reconcile,
    remove_user,
};
use tempfile::TempDir;

use super::server::Server;
use super::{Account, Cost, PasswordHash};

/// A temporary folder with a store in it.
pub struct TempStore(TempDir);

impl TempStore {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn database(&self) -> PathBuf {
        self.0.path().join("users.db")
    }

    pub fn open(&self) -> Box<dyn UserStore> {
        open_store(&Location::File(self.database())).unwrap()
    }

    pub fn serve(&self) -> Server {
        Server::start(self.open())
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

    /// Runs SQL as another program would: a running server sees the change on its own.
    pub fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
    }
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
