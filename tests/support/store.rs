//! A store in a temporary folder, and a store that calls a closure.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use resttool::{
    Account, Existing, Groups, Missing, Moment, Password, Policy, Revision, Rule, Secret, Store,
    StoreError, Transaction, UserName, Wanted, open_store, remove_user, settle,
};
use tempfile::TempDir;

use super::server::Server;
use super::{Cost, PasswordHash, User};

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

    pub fn open(&self) -> Box<dyn Store> {
        open_store(&self.database()).unwrap()
    }

    pub fn serve(&self) -> Server {
        Server::start(self.open())
    }

    pub fn add(&self, user: &str, password: &str) {
        let password = Secret::Password(Password::parse(password).unwrap());
        self.insert(Wanted::new(name(user), password));
    }

    /// Adds a user with this hash.
    pub fn add_hash(&self, user: &str, hash: &str) {
        let secret = Secret::Hash(PasswordHash::parse(hash).unwrap());
        self.insert(Wanted::new(name(user), secret));
    }

    fn insert(&self, wanted: Wanted) {
        let rule = Rule::new(Missing::Add, Existing::Refuse, min_cost());
        settle(&*self.open(), &[wanted], &rule, Moment::now(), &|_, _| {}).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        let wanted = Wanted { rename: Some(name(to)), ..Wanted::new(name(from), Secret::Keep) };
        let rule = Rule::new(Missing::Refuse, Existing::Replace, min_cost());
        settle(&*self.open(), &[wanted], &rule, Moment::now(), &|_, _| {}).unwrap();
    }

    pub fn remove(&self, user: &str) {
        remove_user(&*self.open(), &name(user)).unwrap();
    }

    /// Runs SQL, and returns when a running server sees the change, as the commands do.
    pub fn change(&self, sql: &str) {
        self.sql(sql);
        remove_user(&*self.open(), &name("is-no-user")).unwrap_err();
    }

    /// Runs SQL as another program would: a running server sees the change on its own.
    pub fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
    }
}

/// A store that finds users with a closure. It has no other function that a server needs.
pub struct StubStore<F>(F);

impl<F: Fn(&UserName) -> Option<User>> StubStore<F> {
    pub fn new(find: F) -> Self {
        Self(find)
    }
}

impl<F: Fn(&UserName) -> Option<User> + Send + Sync> Store for StubStore<F> {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        Ok((self.0)(name))
    }
    fn find_with_groups(&self, name: &UserName) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
        Ok(self.find(name)?.map(|user| (user, Arc::default())))
    }
    fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
        Ok(Revision(1))
    }
    fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
        unreachable!("not called by the server")
    }
    fn is_empty(&self) -> Result<bool, StoreError> {
        unreachable!("not called by the server")
    }
    fn each(&self, _: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        unreachable!("not called by the server")
    }
    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        unreachable!("not called by the server")
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
