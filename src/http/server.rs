//! Runs the listeners until the server is told to stop.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_service::ServiceFactory;
use actix_web::body::BoxBody;
use actix_web::{App, rt};
use rustix::net::sockopt::set_tcp_nodelay;

use super::accept::Acceptor;
use super::connection::{Body, Connection};
use super::gate::Gate;
use super::ops::{Monitor, PeerUser};
use super::proxy::ClientConnection;
use super::service::{Transport, admitting, application, exchanges, passing, without_continue};
use super::threads::{RequestThreads, Serve, Stopping};
use super::{HttpConfig, Listener, Service, Socket, TrustedProxies};
use crate::auth::Authenticator;

/// The time in which requests in flight may finish when the server stops.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The connections of all listeners for operators.
const OPS_CONNECTIONS: NonZeroUsize = match NonZeroUsize::new(32) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

/// Serves `listeners` until told to stop. Then lets requests in flight finish, for at most 10 s,
/// and finishes the authenticator.
///
/// Calls `ready` once, when connections are accepted. The future that it returns tells the server
/// to stop.
///
/// # Errors
/// Fails if the system gives no threads, or if `ready` fails.
pub fn run<S>(
    listeners: Vec<Listener>,
    authenticator: Arc<Authenticator>,
    config: &HttpConfig,
    ready: impl FnOnce() -> io::Result<S>,
) -> io::Result<()>
where
    S: Future<Output = ()> + 'static,
{
    let gate = Arc::new(Gate::new(Arc::clone(&authenticator), config));
    let acceptor = Arc::new(Acceptor::new(config));
    let certificate = listeners.iter().find_map(|listener| listener.tls.clone());
    let monitor = Arc::new(Monitor::new(Arc::clone(&gate), certificate, config.ops.clone()));
    let (ops, listeners): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|listener| listener.service == Service::Ops);
    let ops_config = HttpConfig {
        trusted_proxies: TrustedProxies::default(),
        max_connections: OPS_CONNECTIONS,
        ..config.clone()
    };
    let max_connections = config.max_connections.get();
    rt::System::new().block_on(async move {
        rt::spawn({
            let acceptor = Arc::clone(&acceptor);
            async move { acceptor.give_memory_back().await }
        });
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut server = start(threads, max_connections, listeners.len())?;
        for listener in listeners {
            listen(&mut server, listener, &gate, &monitor, &acceptor).await?;
        }
        // A thread of its own, which no other request can take.
        let mut ops_server = start(1, OPS_CONNECTIONS.get(), ops.len())?;
        let ops_acceptor = Arc::new(Acceptor::new(&ops_config));
        let has_ops = !ops.is_empty();
        if has_ops {
            rt::spawn(sample(Arc::clone(&monitor)));
        }
        if gate.proxy().is_some() {
            rt::spawn(check_streams(Arc::clone(&authenticator)));
        }
        for listener in ops {
            listen(&mut ops_server, listener, &gate, &monitor, &ops_acceptor).await?;
        }
        ready()?.await;
        // The framework closes connections without a request. New ones wait for the next server if a
        // service manager keeps the socket.
        server.pause().await;
        acceptor.settle().await;
        server.stop(SHUTDOWN).await?;
        // Operators can watch the others finish.
        ops_server.stop(Duration::ZERO).await?;
        // Not on this thread, which has to notice a second signal.
        rt::task::spawn_blocking(move || authenticator.finish()).await.map_err(io::Error::other)
    })
}

/// Takes samples of the counters forever.
async fn sample(monitor: Arc<Monitor>) {
    loop {
        rt::time::sleep(monitor.interval()).await;
        monitor.sample();
    }
}

/// Ends open streams of users who may not log in any more, forever. Not on this thread, which has to
/// notice signals.
async fn check_streams(authenticator: Arc<Authenticator>) {
    loop {
        rt::time::sleep(Authenticator::STREAM_CHECK).await;
        let authenticator = Arc::clone(&authenticator);
        // The panic hook reports a panic.
        let _ = rt::task::spawn_blocking(move || authenticator.check_streams()).await;
    }
}

/// Starts this number of threads, for this number of connections.
fn start(threads: usize, max_connections: usize, listeners: usize) -> io::Result<RequestThreads> {
    RequestThreads::start(threads, accepted_per_thread(max_connections, threads, listeners))
}

/// Adds a listener to a server.
async fn listen(
    server: &mut RequestThreads,
    listener: Listener,
    gate: &Arc<Gate>,
    monitor: &Arc<Monitor>,
    acceptor: &Arc<Acceptor>,
) -> io::Result<()> {
    let over_tls = listener.tls.is_some();
    let handler = Handler { gate: Arc::clone(gate), acceptor: Arc::clone(acceptor) };
    if listener.service == Service::Proxy
        && let Some(config) = gate.proxy()
    {
        let transport = Transport { over_tls, piece: listener.service.piece() };
        let (of_app, of_expect) = (Arc::clone(gate), Arc::clone(gate));
        let (app_config, expect_config) = (config.clone(), config.clone());
        let app = move || {
            exchanges(passing(&of_app, &app_config, over_tls), Arc::clone(&of_app), transport)
        };
        let expect = move || admitting(&of_expect, &expect_config, transport);
        return handler.listen(server, listener, app, expect).await;
    }
    let (service, is_tcp) = (listener.service, listener.socket.is_tcp());
    let (gate, monitor) = (Arc::clone(gate), Arc::clone(monitor));
    let transport = Transport { over_tls, piece: listener.service.piece() };
    let app = move || {
        // Every request clones it, which is cheaper within one thread.
        let shared = Rc::new(Arc::clone(&gate));
        let app =
            App::new().configure(|config| service.configure(&shared, &monitor, is_tcp, config));
        exchanges(application(app), Arc::clone(&gate), transport)
    };
    let expect = {
        let app = app.clone();
        move || without_continue(app())
    };
    handler.listen(server, listener, app, expect).await
}

/// What serves the connections of a listener.
struct Handler {
    gate: Arc<Gate>,
    acceptor: Arc<Acceptor>,
}

impl Handler {
    /// Adds a listener. `app` answers requests, and `expect` those that wait for `100 Continue`
    /// first.
    async fn listen<A, E>(
        self,
        server: &mut RequestThreads,
        Listener { socket, tls, service }: Listener,
        app: impl Fn() -> A + Clone + Send + 'static,
        expect: impl Fn() -> E + Clone + Send + 'static,
    ) -> io::Result<()>
    where
        A: ServiceFactory<
                Request,
                Config = (),
                Response = Response<Body>,
                Error = actix_web::Error,
                InitError = (),
            > + 'static,
        E: ServiceFactory<
                Request,
                Config = (),
                Response = Request,
                Error = Response<BoxBody>,
                InitError = (),
            > + 'static,
    {
        let Self { gate, acceptor } = self;
        let http = move |stopping: Arc<Stopping>| {
            HttpService::build()
                .on_connect_ext(move |connection: &Connection, data| {
                    data.insert(connection.exchange());
                    match service {
                        Service::Ops => {
                            connection.peer_user().map(|user| data.insert(PeerUser(user)));
                        }
                        Service::Proxy => {
                            data.insert(ClientConnection::new(connection));
                        }
                        Service::Gate => {}
                    }
                })
                // `IoTimeout` ends idle connections and slow heads. The framework's limit of the first
                // head counts from a cached time, which is old after the process was stopped.
                .keep_alive(KeepAlive::Os)
                .client_request_timeout(Duration::ZERO)
                .h1_write_buffer_size(service.piece())
                // A client that has left must not keep the upstream busy. One that closes only its
                // own half looks the same.
                .h1_allow_half_closed(service != Service::Proxy)
                .graceful_shutdown_signal(move || Arc::clone(&stopping).wait())
                .expect(expect())
                .h1(app())
        };
        // The service of one thread, which its connections share.
        let serve = move |stopping| {
            let (http, acceptor, gate) =
                (http(stopping).new_service(()), Arc::clone(&acceptor), Arc::clone(&gate));
            async move {
                let http = http.await.map_err(|()| io::Error::other("cannot start a service"))?;
                let http = Rc::new(http);
                // Boxed, since every layer around it would set its size aside again.
                let serve: Serve = Rc::new(move |accepted| {
                    let (acceptor, http) = (Arc::clone(&acceptor), Rc::clone(&http));
                    Box::pin(acceptor.serve(accepted, http, Arc::clone(&gate)))
                });
                Ok(serve)
            }
        };
        if let Socket::Tcp(listener) = &socket {
            send_at_once(listener)?;
        }
        server.listen(&socket, tls.as_ref(), serve).await
    }
}

/// Has no response wait until the client has acknowledged another one, or the handshake of TLS. Linux
/// hands the option on to accepted connections, so that it costs them nothing.
fn send_at_once(listener: &TcpListener) -> io::Result<()> {
    Ok(set_tcp_nodelay(listener, true)?)
}

/// Returns the number of connections that one thread accepts. This is its part of all seats, an eighth
/// of that for connections that wait for a seat, and one for each listener, which keeps it for the next
/// connection. More stay in the backlog of the listener.
fn accepted_per_thread(max_connections: usize, threads: usize, listeners: usize) -> usize {
    let seats = max_connections.div_ceil(threads);
    seats.saturating_add(seats / 8).saturating_add(listeners)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use rustix::net::sockopt::tcp_nodelay;

    use super::*;

    /// B-13: with fewer places than listeners, one would accept nothing.
    #[test]
    fn every_listener_has_a_place_on_each_thread() {
        for (max_connections, threads, listeners, accepted) in
            [(1, 1, 1, 2), (1, 4, 3, 4), (10_000, 2, 2, 5627), (usize::MAX, 1, 2, usize::MAX)]
        {
            assert_eq!(accepted_per_thread(max_connections, threads, listeners), accepted);
        }
    }

    #[test]
    fn no_response_waits_for_an_acknowledgement() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        send_at_once(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(tcp_nodelay(&accepted).unwrap());
    }
}
