//! The real server, started in this process on a store of its own and a port that was free.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use resttool::{
    AuthSettings, Authenticator, Cost, Counts, Delays, Existing, Missing, Moment, Password,
    PasswordHash, Realm, Rule, Secret, ServerSettings, Store, Tls, UserName, Wanted, open_store,
    remove_user, run_server, settle,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::client::{Reply, Request};

/// The server. Dropped, it stops.
pub struct Server {
    pub address: SocketAddr,
    authenticator: Arc<Authenticator>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves from this store.
    pub fn on(store: Box<dyn Store>) -> Self {
        Self::with(store, &unlimited(), &[])
    }

    /// Serves from this store, with these settings and trusted proxies.
    pub fn with(store: Box<dyn Store>, settings: &AuthSettings, proxies: &[&str]) -> Self {
        Self::delaying(store, settings, proxies, Delays::NONE)
    }

    /// And with these delays.
    pub fn delaying(
        store: Box<dyn Store>,
        settings: &AuthSettings,
        proxies: &[&str],
        delays: Delays,
    ) -> Self {
        let trusted_proxies = proxies.iter().map(|proxy| proxy.parse().unwrap()).collect();
        Self::start(store, settings, ServerSettings { trusted_proxies, delays, ..http() })
    }

    /// Serves from this store, over TLS if it is given that, with this patience for slow clients.
    pub fn impatient(store: Box<dyn Store>, tls: Option<Tls>, patience: Duration) -> Self {
        Self::start(store, &unlimited(), ServerSettings { tls, patience, ..http() })
    }

    fn start(store: Box<dyn Store>, settings: &AuthSettings, http: ServerSettings) -> Self {
        let authenticator = Arc::new(Authenticator::new(store, settings).unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = channel();
        let decides = Arc::clone(&authenticator);
        let thread = std::thread::spawn(move || {
            let ready = || {
                ready.send(()).unwrap();
                Ok(async { stopped.await.unwrap() })
            };
            run_server(listener, decides, &http, ready).unwrap();
        });
        is_ready.recv().unwrap();
        Self { address, authenticator, stop: Some(stop), thread: Some(thread) }
    }

    pub fn counts(&self) -> Counts {
        self.authenticator.counts()
    }

    pub fn hashes_computed(&self) -> u64 {
        self.counts().hashes
    }

    pub fn ask(&self, request: &Request) -> Reply {
        request.send(self.address)
    }

    /// What `/rest-auth` answers to this name and password.
    pub fn login(&self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Reply {
        self.ask(&Request::get("/rest-auth").basic(user, password))
    }

    /// Tells it to stop, and does not wait for it.
    pub fn begin_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.begin_to_stop();
        }
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server's thread panicked");
    }
}

/// A folder with a store in it.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn database(&self) -> PathBuf {
        self.0.path().join("users.db")
    }

    pub fn store(&self) -> Box<dyn Store> {
        open_store(&self.database()).unwrap()
    }

    pub fn serve(&self) -> Server {
        Server::on(self.store())
    }

    pub fn add(&self, user: &str, password: &str) {
        let password = Secret::Password(Password::parse(password).unwrap());
        self.put(Wanted::new(name(user), password));
    }

    /// Adds a user with a hash that was made elsewhere.
    pub fn hashed(&self, user: &str, hash: &str) {
        let secret = Secret::Hash(PasswordHash::parse(hash).unwrap());
        self.put(Wanted::new(name(user), secret));
    }

    fn put(&self, wanted: Wanted) {
        let rule = Rule::new(Missing::Add, Existing::Refuse, cheap());
        settle(&*self.store(), &[wanted], &rule, Moment::now(), &|_, _| {}).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        let wanted = Wanted { rename: Some(name(to)), ..Wanted::new(name(from), Secret::Keep) };
        let rule = Rule::new(Missing::Refuse, Existing::Replace, cheap());
        settle(&*self.store(), &[wanted], &rule, Moment::now(), &|_, _| {}).unwrap();
    }

    pub fn remove(&self, user: &str) {
        remove_user(&*self.store(), &name(user)).unwrap();
    }

    /// Changes the database, and returns when that counts for a running server, as our own commands do.
    pub fn change(&self, sql: &str) {
        self.sql(sql);
        remove_user(&*self.store(), &name("is-no-user")).unwrap_err();
    }

    /// What another program does to the database.
    pub fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.database()).unwrap().execute_batch(sql).unwrap();
    }
}

/// In the clear, for nobody but the clients of this machine, and nobody is made to wait.
fn http() -> ServerSettings {
    ServerSettings {
        realm: Realm::new(Realm::DEFAULT).unwrap(),
        trusted_proxies: Vec::new(),
        delays: Delays::NONE,
        patience: ServerSettings::PATIENCE,
        tls: None,
        max_connections: ServerSettings::MAX_CONNECTIONS,
    }
}

/// Cheap hashes, and no limit on failures: tests fail often.
pub fn unlimited() -> AuthSettings {
    AuthSettings { cost: cheap(), source_limit: None, user_limit: None, ..AuthSettings::default() }
}

/// A store with the user roy, whose password is `open-sesame`, and a server on it.
pub fn with_roy() -> (Place, Server) {
    let place = Place::new();
    place.add("roy", "open-sesame");
    let server = place.serve();
    (place, server)
}

pub fn name(raw: &str) -> UserName {
    UserName::parse(raw).unwrap()
}

/// The least cost there is: these tests are not about time.
pub fn cheap() -> Cost {
    Cost::new(Cost::MIN).unwrap()
}
