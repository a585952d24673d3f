//! The real server, started in this process on a free port.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use resttool::testing::{
    Authenticator, Counters, Listener, OpsConfig, ProxyConfig, Realm, Service, TrustedProxies,
    Upstream, UserReader, run_server,
};
use tokio::sync::oneshot;

use super::client::{Request, Response};
use super::store::{TempStore, min_cost};
use super::{AuthConfig, Delays, HttpConfig, Tls};

/// A running server. Stops when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    authenticator: Arc<Authenticator>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves from `store` without limits on failures.
    pub fn start(store: Box<dyn UserReader>) -> Self {
        Self::start_with(store, &unlimited(), &[])
    }

    /// Serves with these settings and trusted proxies, and answers refusals without a delay.
    pub fn start_with(store: Box<dyn UserReader>, settings: &AuthConfig, proxies: &[&str]) -> Self {
        Self::start_with_delays(store, settings, proxies, Delays::NONE)
    }

    /// Serves with these settings, trusted proxies and delays of refusals.
    pub fn start_with_delays(
        store: Box<dyn UserReader>,
        settings: &AuthConfig,
        proxies: &[&str],
        delays: Delays,
    ) -> Self {
        let trusted_proxies = proxies.iter().map(|proxy| proxy.parse().unwrap()).collect();
        let trusted_proxies = TrustedProxies::new(trusted_proxies);
        Self::spawn(store, settings, HttpConfig { trusted_proxies, delays, ..http() }, None)
    }

    /// Serves with a listener for operators, whose address is returned, and samples of the rates in
    /// this interval.
    pub fn start_with_operators(
        store: Box<dyn UserReader>,
        interval: Duration,
    ) -> (Self, SocketAddr) {
        let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let operators = Listener { socket: socket.into(), tls: None, service: Service::Ops };
        let ops = OpsConfig { interval, ..OpsConfig::default() };
        let http = HttpConfig { ops, ..http() };
        (Self::spawn_with(store, &unlimited(), http, None, vec![operators]), address)
    }

    /// Serves with this timeout for slow clients, over TLS if it is given.
    pub fn start_with_timeout(
        store: Box<dyn UserReader>,
        tls: Option<Tls>,
        timeout: Duration,
    ) -> Self {
        let http = HttpConfig { io_timeout: timeout, ..http() };
        Self::spawn(store, &unlimited(), http, tls)
    }

    /// Serves as a proxy in front of this upstream, with changes of its configuration and this
    /// timeout for slow clients.
    pub fn start_proxy(
        store: Box<dyn UserReader>,
        upstream: &str,
        timeout: Duration,
        change: impl FnOnce(&mut ProxyConfig),
    ) -> Self {
        Self::start_proxy_with(store, &unlimited(), upstream, timeout, change)
    }

    /// The same with these settings of authentication.
    pub fn start_proxy_with(
        store: Box<dyn UserReader>,
        settings: &AuthConfig,
        upstream: &str,
        timeout: Duration,
        change: impl FnOnce(&mut ProxyConfig),
    ) -> Self {
        let upstream = upstream.parse().unwrap();
        let mut proxy = ProxyConfig::new(Upstream::new(upstream, None).unwrap());
        change(&mut proxy);
        let http = HttpConfig { io_timeout: timeout, proxy: Some(proxy), ..http() };
        Self::spawn(store, settings, http, None)
    }

    fn spawn(
        store: Box<dyn UserReader>,
        settings: &AuthConfig,
        http: HttpConfig,
        tls: Option<Tls>,
    ) -> Self {
        Self::spawn_with(store, settings, http, tls, Vec::new())
    }

    fn spawn_with(
        store: Box<dyn UserReader>,
        settings: &AuthConfig,
        http: HttpConfig,
        tls: Option<Tls>,
        mut listeners: Vec<Listener>,
    ) -> Self {
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
            let service = if http.proxy.is_some() { Service::Proxy } else { Service::Gate };
            let listener = Listener { socket: listener.into(), tls, service };
            listeners.push(listener);
            run_server(listeners, decides, &http, ready).unwrap();
        });
        is_ready.recv().unwrap();
        Self { address, authenticator, stop: Some(stop), thread: Some(thread) }
    }

    pub fn counters(&self) -> Counters {
        self.authenticator.counters()
    }

    /// Returns the number of requests with this reason in the audit log.
    pub fn count(&self, reason: &str) -> u64 {
        self.counters().outcome(reason).unwrap()
    }

    pub fn hashes_computed(&self) -> u64 {
        self.counters().hashes
    }

    pub fn send(&self, request: &Request) -> Response {
        request.send(self.address)
    }

    /// Requests `/rest-auth` with this name and password.
    pub fn login(&self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Response {
        self.send(&Request::get("/rest-auth").basic(user, password))
    }

    /// Asks the server to stop, and does not wait for its end.
    pub fn request_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.request_stop();
        }
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server's thread panicked");
    }
}

/// The configuration of a server without trusted proxies and delays.
fn http() -> HttpConfig {
    HttpConfig { delays: Delays::NONE, ..HttpConfig::new(Realm::new(Realm::DEFAULT).unwrap()) }
}

/// Settings with the lowest cost, and without limits on failures: tests fail often.
pub fn unlimited() -> AuthConfig {
    AuthConfig { cost: min_cost(), source_limit: None, user_limit: None, ..AuthConfig::default() }
}

/// Returns a store with the user roy, whose password is `open-sesame`, and a server on it.
pub fn with_roy() -> (TempStore, Server) {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = store.serve();
    (store, server)
}
