//! A connection from its accept to its close: a seat, a TLS handshake, HTTP, and a close that loses
//! no response.

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::error::{DispatchError, ParseError};
use actix_service::Service;
use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::rt::time::sleep;

use super::HttpConfig;
use super::admission::Admission;
use super::connection::{Connection, Stream};
use super::gate::Gate;
use super::linger::Lingering;
use super::tls::Tls;
use crate::auth::{Rejection, Source};

/// The time in which an accepted connection may send its first request when the server stops.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
const SETTLING: Duration = Duration::from_millis(20);

/// The pause before memory is given back. mimalloc returns pages a second after they became free,
/// but not before a thread takes a new page.
const AFTER_A_CROWD: Duration = Duration::from_secs(2);
/// The size of a block that takes a new page, in bytes.
const NEW_PAGE: usize = 1024 * 1024;

/// The state that all connections of a server share.
pub(super) struct Acceptor {
    config: HttpConfig,
    admission: Arc<Admission>,
    lingering: Lingering,
}

/// An accepted connection.
pub(super) enum Accepted {
    Tcp(TcpStream, Option<Tls>, SocketAddr),
    Unix(UnixStream),
}

impl Acceptor {
    pub(super) fn new(config: &HttpConfig) -> Self {
        Self {
            config: config.clone(),
            admission: Arc::new(Admission::new(config.max_connections.get())),
            lingering: Lingering::new(),
        }
    }

    /// Returns when every accepted connection has sent its first request, at the latest after
    /// [`FIRST_REQUEST`]. No connection is accepted any more.
    pub(super) async fn settle(&self) {
        let end = Instant::now() + FIRST_REQUEST;
        // Connections on their way to a thread have no seat yet.
        sleep(SETTLING).await;
        while self.admission.has_fresh() && Instant::now() < end {
            sleep(SETTLING).await;
        }
    }

    /// Returns the memory of many connections to the system after they have left. Runs forever.
    pub(super) async fn give_memory_back(&self) {
        loop {
            self.admission.crowd_left().await;
            sleep(AFTER_A_CROWD).await;
            drop(black_box(Vec::<u8>::with_capacity(NEW_PAGE)));
        }
    }

    /// Serves a connection to its end.
    pub(super) async fn serve<H>(self: Arc<Self>, accepted: Accepted, http: Rc<H>, gate: Arc<Gate>)
    where
        H: Service<(Connection, Option<SocketAddr>), Response = (), Error = DispatchError>,
    {
        let peer = match &accepted {
            Accepted::Tcp(_, _, peer) => *peer,
            Accepted::Unix(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let seat = self.admission.enter(self.source(&accepted, peer.ip())).await;
        let Some(Ok(stream)) = seat.hold(self.begin(accepted)).await else { return };
        // From here on, the connection itself notices its eviction, which costs a request less.
        let connection = Connection::new(stream, seat.occupant());
        let served = http.call((connection.clone(), Some(peer))).await;
        if let Err(DispatchError::Parse(why)) = served {
            let why = match why {
                ParseError::TooLarge => Rejection::HeadTooLong,
                _ => Rejection::MalformedRequest,
            };
            gate.reject(peer.ip(), why);
        }
        if let Some(stream) = connection.into_unread() {
            // Closed at once if it is evicted.
            seat.hold(self.lingering.close(stream)).await;
        }
    }

    /// Returns the source that a connection counts for, or `None` if it is exempt from eviction.
    fn source(&self, accepted: &Accepted, peer: IpAddr) -> Option<Source> {
        match accepted {
            Accepted::Tcp(..) if !self.config.trusted_proxies.contains(peer) => {
                Some(Source::of(peer))
            }
            Accepted::Tcp(..) | Accepted::Unix(_) => None,
        }
    }

    async fn begin(&self, accepted: Accepted) -> io::Result<Stream> {
        let io_timeout = self.config.io_timeout;
        match accepted {
            Accepted::Tcp(stream, tls, _) => Stream::over_tcp(stream, tls, io_timeout).await,
            Accepted::Unix(stream) => Ok(Stream::over_unix(stream, io_timeout)),
        }
    }
}
