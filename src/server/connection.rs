//! A connection, whatever it goes through.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::rt::time::timeout;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::heads::Heads;
use super::patient::Patient;
use super::tls::Tls;

/// A connection with a client.
pub(super) struct Connection {
    stream: Stream,
    heads: Heads,
}

enum Stream {
    Plain(Patient<TcpStream>),
    // Boxed, since it is many times as large.
    Tls(Box<TlsStream<Patient<TcpStream>>>),
    Local(Patient<UnixStream>),
}

/// A connection, and who is at its other end.
type WithPeer = (Connection, Option<SocketAddr>);

impl Connection {
    /// Begins to talk, by TLS if there is one. Whoever can't be named is gone.
    pub(super) async fn begin(
        stream: TcpStream,
        tls: Option<Tls>,
        patience: Duration,
    ) -> io::Result<WithPeer> {
        let peer = Some(stream.peer_addr()?);
        // Otherwise the first answer over TLS waits until the client has acknowledged what was sent before it, and that takes its time.
        stream.set_nodelay(true)?;
        let stream = Patient::new(stream, patience);
        let Some(tls) = tls else { return Ok((Self::over(Stream::Plain(stream)), peer)) };
        let stream = timeout(patience, TlsAcceptor::from(tls.config).accept(stream)).await??;
        Ok((Self::over(Stream::Tls(Box::new(stream))), peer))
    }

    /// Begins to talk to somebody on this machine.
    pub(super) fn local(stream: UnixStream, patience: Duration) -> WithPeer {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        (Self::over(Stream::Local(Patient::new(stream, patience))), Some(here))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, heads: Heads::new() }
    }
}

macro_rules! with {
    ($connection:expr, $stream:ident => $call:expr) => {
        match &mut $connection.get_mut().stream {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Local(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = with!(self.as_mut(), stream => stream.poll_read(context, buffer));
        self.heads.check(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::rt::System;
    use actix_web::rt::net::TcpListener;

    use super::*;

    #[test]
    fn no_answer_waits_for_an_acknowledgement() {
        System::new().block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let begun = Connection::begin(accepted, None, Duration::from_secs(10)).await;
            let Stream::Plain(stream) = begun.unwrap().0.stream else { panic!("over TLS") };
            assert!(stream.io().nodelay().unwrap());
        });
    }
}
