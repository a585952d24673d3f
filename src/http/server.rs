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
use actix_server::{Server, ServerBuilder};
use actix_service::{Service as _, ServiceFactory, apply_fn_factory, fn_factory, fn_service};
use actix_web::body::BoxBody;
use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::{App, rt};
use futures_util::future::try_join;
use rustix::net::sockopt::set_tcp_nodelay;

use super::accept::{Accepted, Acceptor};
use super::connection::{Body, Connection};
use super::gate::Gate;
use super::ops::{Monitor, PeerUser};
use super::proxy::ResponseClock;
use super::service::{Transport, admitting, application, exchanges, passing, without_continue};
use super::{HttpConfig, Listener, Service, Socket, TrustedProxies};
use crate::auth::Authenticator;

/// The time in which requests in flight may finish when the server stops, in seconds.
const SHUTDOWN_SECONDS: u64 = 10;

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
        let mut server = build(threads, max_connections);
        for listener in listeners {
            server = listen(server, listener, &gate, &monitor, &acceptor)?;
        }
        // A server of its own, whose connections and thread no other request can take.
        let mut ops_server = build(1, OPS_CONNECTIONS.get());
        let ops_acceptor = Arc::new(Acceptor::new(&ops_config));
        let has_ops = !ops.is_empty();
        if has_ops {
            rt::spawn(sample(Arc::clone(&monitor)));
        }
        if gate.proxy().is_some() {
            rt::spawn(check_streams(Arc::clone(&authenticator)));
        }
        for listener in ops {
            ops_server = listen(ops_server, listener, &gate, &monitor, &ops_acceptor)?;
        }
        let server = server.run();
        let ops_server = has_ops.then(|| ops_server.run());
        let (handle, ops_handle) = (server.handle(), ops_server.as_ref().map(Server::handle));
        let stop = ready()?;
        rt::spawn(async move {
            stop.await;
            // The framework drops connections that no thread has taken yet, and closes those without a
            // request. New ones wait for the next server if a service manager keeps the socket.
            handle.pause().await;
            acceptor.settle().await;
            handle.stop(true).await;
            // Operators can watch the others finish.
            if let Some(ops) = ops_handle {
                ops.stop(false).await;
            }
        });
        let ops_server = async {
            match ops_server {
                Some(server) => server.await,
                None => Ok(()),
            }
        };
        try_join(server, ops_server).await?;
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

/// Begins a server with this number of threads and connections.
fn build(threads: usize, max_connections: usize) -> ServerBuilder {
    Server::build()
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .workers(threads)
        .max_concurrent_connections(accepted_per_thread(max_connections, threads))
}

/// Adds a listener to a server.
fn listen(
    server: ServerBuilder,
    listener: Listener,
    gate: &Arc<Gate>,
    monitor: &Arc<Monitor>,
    acceptor: &Arc<Acceptor>,
) -> io::Result<ServerBuilder> {
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
        return handler.listen(server, listener, app, expect);
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
    handler.listen(server, listener, app, expect)
}

/// What serves the connections of a listener.
struct Handler {
    gate: Arc<Gate>,
    acceptor: Arc<Acceptor>,
}

impl Handler {
    /// Adds a listener. `app` answers requests, and `expect` those that wait for `100 Continue`
    /// first.
    fn listen<A, E>(
        self,
        server: ServerBuilder,
        Listener { socket, tls, service }: Listener,
        app: impl Fn() -> A + Clone + Send + 'static,
        expect: impl Fn() -> E + Clone + Send + 'static,
    ) -> io::Result<ServerBuilder>
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
        let stopping = server.graceful_shutdown_signal();
        let Self { gate, acceptor } = self;
        let http = move || {
            let stopping = stopping.clone();
            HttpService::build()
                .on_connect_ext(move |connection: &Connection, data| {
                    data.insert(connection.exchange());
                    match service {
                        Service::Ops => {
                            connection.peer_user().map(|user| data.insert(PeerUser(user)));
                        }
                        Service::Proxy => {
                            data.insert(connection.end());
                            data.insert(ResponseClock::default());
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
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .expect(expect())
                .h1(app())
        };
        // The service of one thread, which its connections share.
        let serve = move || {
            let (http, acceptor, gate) = (http(), Arc::clone(&acceptor), Arc::clone(&gate));
            fn_factory(move || {
                let (http, acceptor, gate) =
                    (http.new_service(()), Arc::clone(&acceptor), Arc::clone(&gate));
                async move {
                    let http = Rc::new(http.await?);
                    Ok::<_, ()>(fn_service(move |accepted| {
                        // Boxed, since every layer around it would set its size aside again.
                        Box::pin(Arc::clone(&acceptor).serve(
                            accepted,
                            Rc::clone(&http),
                            Arc::clone(&gate),
                        ))
                    }))
                }
            })
        };
        match socket {
            Socket::Tcp(listener) => {
                send_at_once(&listener)?;
                server.listen("http", listener, move || {
                    let tls = tls.clone();
                    apply_fn_factory(serve(), move |stream: TcpStream, service| {
                        service.call(Accepted::Tcp(stream, tls.clone()))
                    })
                })
            }
            Socket::Unix(listener) => server.listen_uds("http", listener, move || {
                apply_fn_factory(serve(), |stream: UnixStream, service| {
                    service.call(Accepted::Unix(stream))
                })
            }),
        }
    }
}

/// Has no response wait until the client has acknowledged another one, or the handshake of TLS. Linux
/// hands the option on to accepted connections, so that it costs them nothing.
fn send_at_once(listener: &TcpListener) -> io::Result<()> {
    Ok(set_tcp_nodelay(listener, true)?)
}

/// Returns the number of connections that one thread accepts. This is its part of all seats, and an
/// eighth of that for connections that wait for a seat. More stay in the backlog of the listener.
fn accepted_per_thread(max_connections: usize, threads: usize) -> usize {
    let seats = max_connections.div_ceil(threads);
    seats.saturating_add(seats / 8).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use rustix::net::sockopt::tcp_nodelay;

    use super::*;

    #[test]
    fn no_response_waits_for_an_acknowledgement() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        send_at_once(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(tcp_nodelay(&accepted).unwrap());
    }
}
