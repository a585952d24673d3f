//! WebSockets (RFC 6455): after the 101 of the upstream, bytes pass both ways as they come.

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt;
use actix_web::rt::task::JoinHandle;
use actix_web::web::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::RequestContent;
use super::exchange::Lasting;
use super::upstream::UpstreamStream;

/// The most bytes that are read from the upstream at once.
const PIECE: usize = 8 * 1024;

type Shared = Rc<RefCell<Box<dyn UpstreamStream>>>;

/// The bytes of the upstream for the client, as the body of the 101. Dropping it ends the tunnel.
pub(super) struct Tunnel {
    upstream: Shared,
    /// Bytes that followed the 101.
    first: Bytes,
    /// Sends the bytes of the client to the upstream, also while the client reads nothing.
    sending: JoinHandle<()>,
    lasting: Lasting,
}

impl Tunnel {
    /// Connects a client with the upstream.
    pub(super) fn new(
        client: RequestContent,
        upstream: Box<dyn UpstreamStream>,
        first: Bytes,
        lasting: Lasting,
    ) -> Self {
        let upstream = Rc::new(RefCell::new(upstream));
        let sending = rt::spawn(send(client, Rc::clone(&upstream)));
        Self { upstream, first, sending, lasting }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

/// Sends all bytes of the client to the upstream. A failure ends the other direction too.
async fn send(mut client: RequestContent, upstream: Shared) {
    while let Some(Ok(piece)) = client.next().await {
        if write_all(&upstream, &piece).await.is_err() {
            break;
        }
    }
    // The upstream may be gone already.
    let _ = poll_fn(|context| Pin::new(&mut *upstream.borrow_mut()).poll_shutdown(context)).await;
}

async fn write_all(upstream: &Shared, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        let write = |context: &mut Context<'_>| {
            Pin::new(&mut *upstream.borrow_mut()).poll_write(context, piece)
        };
        match poll_fn(write).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => piece = &piece[written..],
        }
    }
    // TLS buffers what it encrypts.
    poll_fn(|context| Pin::new(&mut *upstream.borrow_mut()).poll_flush(context)).await
}

impl MessageBody for Tunnel {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let piece = if self.first.is_empty() {
            // No memory is set aside for a tunnel without traffic.
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            let mut upstream = self.upstream.borrow_mut();
            ready!(Pin::new(&mut *upstream).poll_read(context, &mut piece))?;
            Bytes::copy_from_slice(piece.filled())
        } else {
            std::mem::take(&mut self.first)
        };
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        self.lasting.passed(piece.len());
        Poll::Ready(Some(Ok(piece)))
    }
}
