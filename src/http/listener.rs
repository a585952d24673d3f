//! Listeners as data: a socket, its TLS, and the service on it.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::web::{self, ServiceConfig};

use super::gate::SharedGate;
use super::ops::Monitor;
use super::tls::Tls;
use super::{connection, ext_authz, forward_auth, gate, ops, proxy, response};

/// A listening socket and its service.
#[derive(Debug)]
pub struct Listener {
    /// The listening socket.
    pub socket: Socket,
    /// The certificate, if connections over TCP use TLS.
    pub tls: Option<Tls>,
    /// The routes.
    pub service: Service,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, without TLS. The source of its requests is 127.0.0.1.
    Unix(UnixListener),
}

/// A set of routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// `/rest-auth`, `/auth` and some routes for operators.
    Gate,
    /// The routes for operators alone, on threads of their own. A Unix socket is private.
    Ops,
    /// The upstream of [`HttpConfig::proxy`](super::HttpConfig::proxy), on every path.
    Proxy,
}

impl Service {
    /// Returns the most bytes that are encoded at once. Responses of the gate itself are short.
    pub(super) fn piece(self) -> usize {
        match self {
            Self::Gate | Self::Ops => connection::PIECE,
            Self::Proxy => proxy::PIECE,
        }
    }

    /// Adds the routes, for a socket that browsers can or cannot reach.
    pub(super) fn configure(
        self,
        gate: &SharedGate,
        monitor: &Arc<Monitor>,
        is_tcp: bool,
        config: &mut ServiceConfig,
    ) {
        match self {
            Self::Ops => ops::configure(&Rc::new(Arc::clone(monitor)), is_tcp, config),
            // Its service has no routes.
            Self::Proxy => {}
            Self::Gate => {
                config.service(gate::resource(gate)).service(forward_auth::resource(gate));
                ops::configure_public(gate, config);
                // Last, since its pattern matches every path.
                if let Some(resource) = ext_authz::resource(gate) {
                    config.service(resource);
                }
            }
        }
        config.default_service(web::to(response::not_found));
    }
}

impl Socket {
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Returns another file descriptor of the socket.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

impl From<TcpListener> for Socket {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Socket {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}
