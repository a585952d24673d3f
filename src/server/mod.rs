//! HTTP and nothing else: a request becomes credentials, a decision becomes a response.
//!
//! Nothing is decided here about users. No response tells anything of the inside, and no line of a log
//! what a client has sent.

mod accept;
mod admission;
mod basic;
mod challenge;
mod connection;
mod exchange;
mod forward;
mod framing;
mod linger;
mod patient;
mod peer;
mod tls;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use actix_http::{ConnectionType, HttpService, Request, RequestHead, Response};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_factory,
    fn_service, map_config,
};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::{
    App, FromRequest, Handler, HttpRequest, HttpResponse, HttpResponseBuilder, Resource, Responder,
    guard, rt, web,
};
use futures_util::FutureExt;

use crate::auth::{Ask, Authenticator, BadRequest, Decision, Unfit};
use accept::{Accepted, Acceptor};
pub use basic::{NoCredentials, credentials};
pub use challenge::{Realm, RealmError};
use connection::{Body, Connection, CurrentExchange, PIECE};
pub use framing::{Accepted as AcceptedBytes, Framing};
use peer::Oddity;
pub use peer::{Network, NetworkError, source as source_address};
pub use tls::{Tls, TlsError};

const PLAIN_TEXT: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
const JSON: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// RFC 6797: from now on, for a year, by TLS only.
const TLS_ONLY: (HeaderName, HeaderValue) =
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));

/// The longest head of a request, in bytes, that is looked at.
const MAX_HEAD: usize = 64 * 1024;

/// How long requests in flight may take to finish when the server stops, in seconds.
const SHUTDOWN_SECONDS: u64 = 10;

/// How the server speaks, and whom it listens to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is protected.
    pub realm: Realm,
    /// The proxies whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<Network>,
    /// How long some answers are held back.
    pub delays: Delays,
    /// How long a connection may get nowhere: a head or a body that does not end, an answer that is not read. It ends when half of
    /// that is over at the earliest.
    pub patience: Duration,
    /// With what TLS is spoken, if it is.
    pub tls: Option<Tls>,
    /// The most connections at once. At the limit, the source with the most connections makes room
    /// for others.
    pub max_connections: NonZeroUsize,
}

impl Settings {
    /// What is waited for slow clients.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// How many connections there may be at once, unless told otherwise.
    pub const MAX_CONNECTIONS: NonZeroUsize = match NonZeroUsize::new(10_000) {
        Some(n) => n,
        None => NonZeroUsize::MIN,
    };
}

/// How long answers are held back that cost nothing to make. Otherwise they are quicker than any other, and who asks
/// for the next one as soon as they have one takes the cores from everybody else.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// For who fails too often.
    pub throttled: Duration,
    /// For who finds the queue full.
    pub overloaded: Duration,
}

impl Delays {
    /// Everything at once.
    pub const NONE: Self = Self { throttled: Duration::ZERO, overloaded: Duration::ZERO };

    fn before(self, decision: &Decision) -> Option<Duration> {
        match decision {
            Decision::Throttled { .. } => Some(self.throttled),
            Decision::Overloaded => Some(self.overloaded),
            Decision::Granted(_)
            | Decision::Forbidden
            | Decision::Denied
            | Decision::Unavailable => None,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self { throttled: Duration::from_secs(1), overloaded: Duration::from_millis(20) }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// By an address.
    Tcp(TcpListener),
    /// By a socket in the file system: whoever connects is on this machine, and counts as 127.0.0.1. No TLS is spoken there.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// What the routes share.
struct Gate {
    authenticator: Arc<Authenticator>,
    settings: Settings,
    /// The log has a warning of a proxy that may have been forgotten.
    untrusted_proxy: Once,
    /// The log has a warning of a proxy that does not name its clients.
    not_an_address: Once,
    /// Whether somebody was told that a location asks for what is not known.
    misconfigured: Once,
    /// The fields of every 401. The framework's map puts its fields in a random order, which copies of a
    /// map share: so all refusals are the same to the byte, and tell nothing by their order.
    denied: HeaderMap,
}

/// The gate, as the handlers of one thread share it.
type SharedGate = Rc<Arc<Gate>>;

impl Gate {
    fn new(authenticator: Arc<Authenticator>, settings: &Settings) -> Self {
        let denied = response(StatusCode::UNAUTHORIZED)
            .insert_header((header::WWW_AUTHENTICATE, settings.realm.challenge()))
            .insert_header(PLAIN_TEXT)
            .finish()
            .headers()
            .clone();
        Self {
            authenticator,
            settings: settings.clone(),
            untrusted_proxy: Once::new(),
            not_an_address: Once::new(),
            misconfigured: Once::new(),
            denied,
        }
    }

    /// Notes a request that was refused before it could be read.
    fn reject(&self, peer: IpAddr, why: BadRequest) {
        self.authenticator.reject(peer, why);
    }

    /// The address that a request comes from.
    fn source(&self, request: &RequestHead) -> IpAddr {
        // There is always a peer but in unit tests, whose requests come over no connection.
        let peer = request.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let origin = peer::origin(&self.settings.trusted_proxies, peer, request.headers());
        match origin.oddity {
            None => {}
            Some(Oddity::UntrustedProxy) => self.untrusted_proxy.call_once(|| {
                log::warn!(
                    "{peer} sends X-Forwarded-For and is not a trusted proxy: all clients behind it count as one source; if it is a proxy of yours, start with --trusted-proxy {peer}"
                );
            }),
            Some(Oddity::NotAnAddress) => self.not_an_address.call_once(|| {
                log::warn!(
                    "the trusted proxy {peer} sends an entry in X-Forwarded-For that is not an address: all clients that it cannot name count as one source"
                );
            }),
        }
        origin.source
    }

    /// Decides on what a request shows, once everything is known that has to be.
    async fn decide(
        &self,
        request: &HttpRequest,
        ask: &Ask<'_>,
    ) -> Result<Decision, NoCredentials> {
        let source = self.source(request.head());
        let why = match credentials(request.headers()) {
            Ok(shown) => {
                let decision = self.authenticator.decide(source, shown, ask).await;
                if let Some(delay) = self.settings.delays.before(&decision) {
                    // Boxed, since its size would count for every request.
                    Box::pin(rt::time::sleep(delay)).await;
                }
                return Ok(decision);
            }
            Err(why) => why,
        };
        let missing = why == NoCredentials::Missing;
        let unfit = if missing { Unfit::Missing } else { Unfit::Malformed };
        let denied = self.authenticator.turn_away(source, unfit, ask);
        match why {
            NoCredentials::Missing | NoCredentials::Malformed => Ok(denied),
            NoCredentials::Repeated | NoCredentials::TooLong => Err(why),
        }
    }

    /// The challenge.
    fn denied(&self) -> HttpResponse {
        let mut response = HttpResponse::new(StatusCode::UNAUTHORIZED);
        response.headers_mut().clone_from(&self.denied);
        response.set_body(BoxBody::new("Unauthorized Access"))
    }

    // A new decision must be given its response here: nothing may fall through to another one's.
    #[deny(clippy::wildcard_enum_match_arm)]
    fn answer(&self, decision: Decision) -> HttpResponse {
        match decision {
            Decision::Granted(_) => response(StatusCode::OK)
                .insert_header(JSON)
                .body(concat!(r#""You are authorized to see this message""#, "\n")),
            Decision::Denied => self.denied(),
            Decision::Forbidden => text(StatusCode::FORBIDDEN, "Forbidden"),
            Decision::Throttled { retry_after } => response(StatusCode::TOO_MANY_REQUESTS)
                .insert_header((header::RETRY_AFTER, whole_seconds(retry_after)))
                .insert_header(PLAIN_TEXT)
                .body("Too Many Requests"),
            Decision::Overloaded => response(StatusCode::SERVICE_UNAVAILABLE)
                .insert_header((header::RETRY_AFTER, "1"))
                .insert_header(PLAIN_TEXT)
                .body("Service Unavailable"),
            Decision::Unavailable => text(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        }
    }
}

/// Seconds, rounded up: before that it is too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Serves `listener` until told to stop, then lets requests in flight finish, for 10 seconds at most, and after them what the
/// authenticator is at.
///
/// `ready_to_serve` is called once, when connections are taken; the future that it gives says when to stop.
///
/// # Errors
/// When the system gives no threads, or `ready_to_serve` fails.
pub fn run<S>(
    listener: impl Into<Listener>,
    authenticator: Arc<Authenticator>,
    settings: &Settings,
    ready_to_serve: impl FnOnce() -> io::Result<S>,
) -> io::Result<()>
where
    S: Future<Output = ()> + 'static,
{
    let listener = listener.into();
    let gate = Arc::new(Gate::new(Arc::clone(&authenticator), settings));
    let acceptor = Arc::new(Acceptor::new(settings));
    let max_connections = settings.max_connections.get();
    rt::System::new().block_on(async move {
        rt::spawn({
            let acceptor = Arc::clone(&acceptor);
            async move { acceptor.give_memory_back().await }
        });
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let server = Server::build()
            .disable_signals()
            .shutdown_timeout(SHUTDOWN_SECONDS)
            .workers(threads)
            .max_concurrent_connections(accepted_per_thread(max_connections, threads));
        let stopping = server.graceful_shutdown_signal();
        let app = {
            let gate = Arc::clone(&gate);
            move || {
                // Every request clones it: that is cheaper within one thread.
                let shared = Rc::new(Arc::clone(&gate));
                let app = App::new()
                    .service(resource("/rest-auth", with(&shared, rest_auth)))
                    .service(forward::resource(&shared))
                    .service(resource("/healthz", healthz))
                    .service(resource("/readyz", with(&shared, readyz)))
                    .service(resource("/openapi.json", openapi))
                    .default_service(web::to(not_found));
                exchanges(app, Arc::clone(&gate))
            }
        };
        let http = move || {
            let stopping = stopping.clone();
            HttpService::build()
                .on_connect_ext(|connection: &Connection, data| {
                    data.insert(connection.exchange());
                })
                .h1_write_buffer_size(PIECE)
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .expect(without_continue(app()))
                .h1(app())
        };
        // A service of one thread: all that its connections share.
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
        let server = match listener {
            Listener::Tcp(listener) => server.listen("http", listener, move || {
                apply_fn_factory(serve(), |stream: TcpStream, service| {
                    service.call(Accepted::Tcp(stream))
                })
            }),
            Listener::Unix(listener) => server.listen_uds("http", listener, move || {
                apply_fn_factory(serve(), |stream: UnixStream, service| {
                    service.call(Accepted::Unix(stream))
                })
            }),
        };
        let server = server?.run();
        let handle = server.handle();
        let stop = ready_to_serve()?;
        rt::spawn(async move {
            stop.await;
            handle.stop(true).await;
        });
        server.await?;
        // Not on this thread, which has to hear of the wish to end at once.
        rt::task::spawn_blocking(move || authenticator.finish()).await.map_err(io::Error::other)
    })
}

/// How many connections one thread accepts: its part of all seats, and an eighth of that for
/// connections that wait for one. More stay in the backlog of the listener.
fn accepted_per_thread(max_connections: usize, threads: usize) -> usize {
    let seats = max_connections.div_ceil(threads);
    seats.saturating_add(seats / 8).saturating_add(1)
}

/// Answers each request of a connection, and tells the connection when the response is encoded.
///
/// What is wrong with one request, a head over the limit or a panic, stays with that request. A
/// connection is closed after a response that is given before the whole request was read.
fn exchanges<F, S, B>(
    app: F,
    gate: Arc<Gate>,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Response<Body>,
    Error = actix_web::Error,
    InitError = (),
>
where
    F: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        >,
    B: MessageBody + 'static,
{
    apply_fn_factory(
        map_config(app, |()| AppConfig::default()),
        move |request: Request, app: &S::Service| {
            let exchange = request.conn_data::<CurrentExchange>().cloned().unwrap_or_default();
            let secure = gate.settings.tls.is_some();
            let forwarded = request.path() == forward::PATH;
            let response = if head_length(request.head()) > MAX_HEAD {
                gate.reject(gate.source(request.head()), BadRequest::HeadTooLong);
                Err(if forwarded { forward::too_long() } else { too_long() })
            } else {
                Ok(AssertUnwindSafe(app.call(request)).catch_unwind())
            };
            async move {
                let mut response = match response {
                    Err(refusal) => refusal.into(),
                    Ok(response) => match response.await {
                        Ok(Ok(response)) => Response::from(response).map_into_boxed_body(),
                        Ok(Err(e)) => e.into(),
                        Err(_) if forwarded => forward::failed().into(),
                        Err(_) => {
                            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").into()
                        }
                    },
                };
                if secure {
                    response.headers_mut().insert(TLS_ONLY.0, TLS_ONLY.1);
                }
                if exchange.is_within_request() {
                    response.head_mut().set_connection_type(ConnectionType::Close);
                }
                Ok(response.map_body(|_, body| Body::new(body, exchange)))
            }
        },
    )
}

/// Answers requests with `Expect: 100-continue` at once (RFC 9110 section 10.1.1): no response
/// depends on the content.
fn without_continue<F>(
    app: F,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Request,
    Error = Response<BoxBody>,
    InitError = F::InitError,
>
where
    F: ServiceFactory<Request, Config = (), Response = Response<Body>, Error = actix_web::Error>,
{
    apply_fn_factory(app.map_err(Response::from), |request: Request, app| {
        let response = app.call(request);
        // To the HTTP library, a response instead of "100 Continue" is an error.
        async move { Err(response.await?.map_into_boxed_body()) }
    })
}

/// Makes a handler of a function that needs the gate.
fn with<F>(
    gate: &SharedGate,
    answer: impl Fn(HttpRequest, SharedGate) -> F + Clone + 'static,
) -> impl Fn(HttpRequest) -> F + Clone + 'static {
    let gate = Rc::clone(gate);
    move |request| answer(request, Rc::clone(&gate))
}

async fn rest_auth(request: HttpRequest, gate: SharedGate) -> HttpResponse {
    match gate.decide(&request, &Ask::ANYTHING).await {
        Ok(decision) => gate.answer(decision),
        Err(NoCredentials::TooLong) => too_long(),
        Err(_) => text(StatusCode::BAD_REQUEST, "Bad Request"),
    }
}

async fn healthz() -> HttpResponse {
    text(StatusCode::OK, "ok")
}

async fn readyz(_: HttpRequest, gate: SharedGate) -> HttpResponse {
    if gate.authenticator.is_ready() {
        text(StatusCode::OK, "ready")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not ready")
    }
}

/// What this server answers, as OpenAPI 3.1 has it.
async fn openapi() -> HttpResponse {
    response(StatusCode::OK).insert_header(JSON).body(include_str!("../../docs/openapi.json"))
}

async fn not_found() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "Not Found")
}

/// A route at exactly this path: the framework would also match what decodes to it.
fn exactly(path: &'static str) -> Resource {
    web::resource(path).guard(guard::fn_guard(move |context| context.head().uri.path() == path))
}

/// A route that answers GET and HEAD. For the body, HEAD is left to the framework: it sends what GET would, without it.
fn resource<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder<Body = BoxBody> + 'static,
{
    const ALLOW: (HeaderName, &str) = (header::ALLOW, "GET, HEAD, OPTIONS");
    exactly(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .route(
            web::method(Method::OPTIONS)
                .to(|| async { response(StatusCode::NO_CONTENT).insert_header(ALLOW).finish() }),
        )
        .default_service(web::to(|| async {
            response(StatusCode::METHOD_NOT_ALLOWED)
                .insert_header(ALLOW)
                .insert_header(PLAIN_TEXT)
                .body("Method Not Allowed")
        }))
}

/// Bytes of the request line and the fields, without what separates them.
fn head_length(request: &RequestHead) -> usize {
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    target + fields
}

fn too_long() -> HttpResponse {
    response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        .force_close()
        .insert_header(PLAIN_TEXT)
        .body("Request Header Fields Too Large")
}

fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    response(status).insert_header(PLAIN_TEXT).body(body)
}

/// Every response begins here: none of them may be kept by a cache.
fn response(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header(NO_STORE);
    response
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::time::Instant;

    use actix_web::dev::Service;
    use actix_web::test::TestRequest;

    use super::*;
    use crate::auth;
    use crate::credential::{Groups, UserName};
    use crate::store::{Account, Revision, Store, StoreError, Transaction, User};

    struct Nobody;

    impl Store for Nobody {
        fn find(&self, _: &UserName) -> Result<Option<User>, StoreError> {
            Ok(None)
        }
        fn find_with_groups(
            &self,
            _: &UserName,
        ) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
            Ok(None)
        }
        fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
            Ok(false)
        }
        fn is_empty(&self) -> Result<bool, StoreError> {
            Ok(true)
        }
        fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
            Ok(Revision(0))
        }
        fn each(&self, _: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
            unreachable!("not asked by the server")
        }
        fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
            unreachable!("not asked by the server")
        }
    }

    fn gate() -> Gate {
        let authenticator =
            Authenticator::new(Box::new(Nobody), &auth::Settings::default()).unwrap();
        let realm = Realm::new(Realm::DEFAULT).unwrap();
        let settings = Settings {
            realm,
            trusted_proxies: Vec::new(),
            delays: Delays::NONE,
            patience: Settings::PATIENCE,
            tls: None,
            max_connections: Settings::MAX_CONNECTIONS,
        };
        Gate::new(Arc::new(authenticator), &settings)
    }

    #[test]
    fn every_decision_has_its_status_and_says_when_to_come_back_if_that_helps() {
        let gate = gate();
        let user = UserName::parse("roy").unwrap();
        let grant = auth::Grant { user, groups: Arc::default() };
        let throttled = |millis| Decision::Throttled { retry_after: Duration::from_millis(millis) };
        for (decision, status, retry_after) in [
            (Decision::Granted(Arc::new(grant)), 200, None),
            (Decision::Forbidden, 403, None),
            (Decision::Denied, 401, None),
            (throttled(6000), 429, Some("6")),
            (throttled(6001), 429, Some("7")),
            (throttled(1), 429, Some("1")),
            (Decision::Overloaded, 503, Some("1")),
            (Decision::Unavailable, 503, None),
        ] {
            let what = format!("{decision:?}");
            let answer = gate.answer(decision);
            let seen =
                answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), seen), (status, retry_after), "{what}");
            assert_eq!(answer.headers().get(header::CACHE_CONTROL).unwrap(), "no-store");
        }
    }

    /// O-03
    #[test]
    fn a_panic_is_an_internal_error_of_that_request_alone() {
        async fn panics() -> HttpResponse {
            panic!("on purpose")
        }
        rt::System::new().block_on(async {
            let app = App::new()
                .service(resource("/panics", panics))
                .service(resource("/healthz", healthz));
            let app = exchanges(app, Arc::new(gate())).new_service(()).await.unwrap();
            for (path, status) in [("/panics", 500), ("/healthz", 200), ("/panics", 500)] {
                let answer = app.call(TestRequest::get().uri(path).to_request()).await.unwrap();
                assert_eq!(answer.status(), status, "{path}");
            }
        });
    }
}
