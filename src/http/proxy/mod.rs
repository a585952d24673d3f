//! The proxy in front of an API: every granted request is written anew and passed to the upstream.
//!
//! Decides what reaches the upstream, and how long it may take. Decides nothing about credentials.
//! No byte of a request reaches the upstream before it is admitted.

mod access_log;
mod admit;
mod body;
mod driver;
mod early_response;
mod exchange;
mod fields;
mod health;
mod origin;
mod pool;
mod refusal;
mod response_clock;
mod tunnel;
mod upstream;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpMessage, Request, RequestHead, Response};
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use hyper::header::HeaderValue;

use super::AccessRules;
use super::connection::{Connection, ConnectionEnd, CurrentExchange};
use super::window::ReceiveWindow;
use crate::auth::{OpenStream, StreamShard};
use crate::text::printable;
use access_log::AccessRecord;
use admit::Admitted;
pub(super) use admit::Admitter;
use body::RequestContent;
use exchange::Lasting;
use fields::LastSaid;
pub use health::HealthPath;
pub(super) use health::is_healthy;
pub use origin::AllowedOrigin;
use pool::Pool;
pub(super) use refusal::ChallengeFields;
use refusal::refusal;
use response_clock::ResponseClock;
pub use upstream::{Upstream, UpstreamAddress, UpstreamTlsError};

/// The most bytes of a response that are encoded at once.
pub(super) const PIECE: usize = 16 * 1024;

/// The configuration of the proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The API.
    pub upstream: Upstream,
    /// The requests that need no password, or a group.
    pub rules: AccessRules,
    /// Pass CORS preflights without a password.
    pub cors: bool,
    /// The origins from whose pages browsers may open WebSockets. Empty for all.
    pub websocket_origins: Vec<AllowedOrigin>,
    /// The path that has to answer for the upstream to count as ready.
    pub health_path: Option<HealthPath>,
    /// Pass the Authorization field to the upstream, which learns all passwords then.
    pub pass_authorization: bool,
    /// The limit of the body of a request, in bytes.
    pub max_body: Option<u64>,
    /// The limit of the time to connect to the upstream.
    pub connect_timeout: Duration,
    /// The limit of the time from the end of a request to the head of its response.
    pub response_timeout: Option<Duration>,
    /// Log a line for each passed request.
    pub access_log: bool,
}

impl ProxyConfig {
    /// The default of [`ProxyConfig::connect_timeout`].
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

    /// The default of [`ProxyConfig::response_timeout`].
    pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

    /// Makes the default configuration for this upstream.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            rules: AccessRules::default(),
            cors: false,
            websocket_origins: Vec::new(),
            health_path: None,
            pass_authorization: false,
            max_body: None,
            connect_timeout: Self::CONNECT_TIMEOUT,
            response_timeout: Some(Self::RESPONSE_TIMEOUT),
            access_log: false,
        }
    }
}

/// The reason why the upstream gave no response.
#[derive(Debug, thiserror::Error)]
enum UpstreamError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{}", with_cause(.0))]
    Exchange(hyper::Error),
    /// The library of the client takes what that of the server has accepted.
    #[error("the request cannot be written")]
    Untransferable,
    #[error("the response is ambiguous: it has a Content-Length and a Transfer-Encoding")]
    Ambiguous,
    #[error("it switches protocols, which no request has asked for")]
    Switched,
    #[error("no response in time")]
    TimedOut,
    /// The client has sent more than it may.
    #[error("the body of the request is too long")]
    TooLong,
}

/// Describes an error with its cause, which hyper leaves out.
fn with_cause(e: &hyper::Error) -> String {
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

/// The connection of a client, as the proxy uses it for one request after the other.
pub(super) struct ClientConnection {
    exchange: CurrentExchange,
    window: Rc<ReceiveWindow>,
    end: ConnectionEnd,
    clock: ResponseClock,
    last: LastSaid,
}

impl ClientConnection {
    pub(super) fn new(connection: &Connection) -> Self {
        let (exchange, window) = (connection.exchange(), connection.window());
        Self {
            exchange,
            window,
            end: connection.end(),
            clock: ResponseClock::default(),
            last: LastSaid::default(),
        }
    }
}

/// The proxy as one thread uses it.
pub(super) struct Proxy {
    admitter: Admitter,
    pool: Rc<Pool>,
    streams: Arc<StreamShard>,
    /// The host for requests that name none.
    host: HeaderValue,
    over_tls: bool,
}

impl Proxy {
    /// Makes the proxy of one thread.
    pub(super) fn new(admitter: Admitter, over_tls: bool) -> Self {
        let Admitter { gate, config } = &admitter;
        let host = HeaderValue::from_str(&config.upstream.address().authority());
        let pool = Pool::new(config.upstream.clone(), config.connect_timeout);
        Self {
            pool: Rc::new(pool),
            streams: gate.authenticator().add_stream_shard(),
            host: host.unwrap_or(HeaderValue::from_static("localhost")),
            over_tls,
            admitter,
        }
    }

    /// Answers a request, by the upstream if it is admitted.
    pub(super) async fn serve(&self, request: Request) -> Response<BoxBody> {
        let admitted = request.extensions_mut().remove::<Admitted>();
        let admitted = match admitted {
            Some(admitted) => Ok(admitted),
            None => self.admitter.admit(request.head()).await,
        };
        match admitted {
            Ok(admitted) => self.pass_on(request, &admitted).await,
            Err(refused) => refused.into(),
        }
    }

    /// Passes a request to the upstream.
    async fn pass_on(&self, mut request: Request, admitted: &Admitted) -> Response<BoxBody> {
        let payload = request.take_payload();
        let head = request.head();
        let Some(client) = request.conn_data::<ClientConnection>() else {
            // A change of the user could not end the stream.
            return self.failed(head, &UpstreamError::Untransferable).into();
        };
        client.exchange.pass_on();
        let content = RequestContent::new(payload, Rc::clone(&client.window));
        let access = self.admitter.config.access_log.then(|| AccessRecord::begin(head, admitted));
        let mut lasting = Lasting::new(self.open_stream(client, admitted), access);
        let answered = if admitted.is_websocket {
            // Boxed, as its size would count for every request.
            Box::pin(self.open_tunnel(head, admitted, content, &client.clock, &mut lasting)).await
        } else {
            self.exchange(head, admitted, content, client).await.and_then(|(response, sender)| {
                self.respond(head, response, Some(sender), &mut lasting)
            })
        };
        answered.unwrap_or_else(|e| {
            let response = self.failed(head, &e);
            lasting.answered(response.status());
            response.into()
        })
    }

    /// Records an open stream of the user, so that a change of the user ends it.
    fn open_stream(&self, client: &ClientConnection, admitted: &Admitted) -> Option<OpenStream> {
        let grant = Arc::clone(admitted.grant.as_ref()?);
        let groups = admitted.groups.clone();
        Some(self.streams.open(grant, groups, Arc::clone(&client.end.0) as _))
    }

    /// Returns the response to a request that the upstream did not answer, and logs why.
    fn failed(&self, head: &RequestHead, why: &UpstreamError) -> HttpResponse {
        if matches!(why, UpstreamError::TooLong) {
            return self.admitter.too_long(head);
        }
        let upstream = self.admitter.config.upstream.address();
        let request = printable(&format!("{} {}", head.method, head.uri.path()));
        log::warn!("upstream {upstream} gave no response to {request}: {why}");
        let (status, text) = match why {
            UpstreamError::TimedOut => {
                (StatusCode::GATEWAY_TIMEOUT, "Gateway Timeout. The API did not respond in time.\n")
            }
            UpstreamError::Connect(_) => {
                (StatusCode::BAD_GATEWAY, "Bad Gateway. The API cannot be reached.\n")
            }
            _ => (StatusCode::BAD_GATEWAY, "Bad Gateway. The API gave no valid response.\n"),
        };
        refusal(head, status, text)
    }
}
