//! Closes connections whose clients may still be sending (RFC 9112 section 9.6).
//!
//! A connection that is closed with unread data is reset, and the reset can overtake the response.
//! So the server closes its own half first. Then it reads and drops the remaining bytes within
//! limits.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use actix_web::rt::time::timeout;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// The maximum number of bytes that are read from one connection.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The maximum time for which one connection is read.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The maximum number of connections that are read at once. Further ones are closed without
/// reading.
const MAX_CONNECTIONS: usize = 100;

/// The number of bytes of one read.
const PIECE: usize = 16 * 1024;

/// Room for the connections that are being closed.
pub(super) struct Lingering(Semaphore);

impl Lingering {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(MAX_CONNECTIONS))
    }

    /// Closes the half of the server, and reads until the client closes its own half or a limit is
    /// reached.
    pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let Ok(_room) = self.0.try_acquire() else { return };
        // After a timeout or an error, the connection is closed all the same.
        let _ = timeout(MAX_TIME, drain(&mut stream)).await;
    }
}

async fn drain(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    poll_fn(|context| Pin::new(&mut *stream).poll_shutdown(context)).await?;
    let mut piece = vec![0; PIECE];
    let mut read = 0;
    while read < MAX_BYTES {
        let mut buffer = ReadBuf::new(&mut piece);
        poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut buffer)).await?;
        match buffer.filled().len() {
            0 => break,
            some => read += some as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;

    /// A client that never stops sending, with a record of the calls of the server.
    #[derive(Default)]
    struct Endless {
        closed: bool,
        read: u64,
    }

    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            assert!(self.closed, "the half of the server is closed first");
            self.read += buffer.remaining() as u64;
            let filled = buffer.initialize_unfilled().len();
            buffer.advance(filled);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            unreachable!("nothing is sent after the response")
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    ///
    #[test]
    fn draining_stops_at_its_limits() {
        actix_web::rt::System::new().block_on(async {
            let lingering = Lingering::new();
            let mut endless = Endless::default();
            lingering.close(&mut endless).await;
            assert_eq!(endless.read, MAX_BYTES);
            let _all = lingering.0.acquire_many(MAX_CONNECTIONS as u32).await.unwrap();
            let mut endless = Endless::default();
            lingering.close(&mut endless).await;
            assert_eq!(endless.read, 0, "there is no room for another connection");
        });
    }
}
