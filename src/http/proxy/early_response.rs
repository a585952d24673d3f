//! Responses of an upstream that closes the connection before it has read the request, e.g. 413 to a
//! long body.
//!
//! The HTTP library gives up when it cannot write, although the response may be there to be read.
//! So a failed write is taken for the end of the upstream's interest, and further bytes are dropped.
//! The read that follows gives the response, or the error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection with an upstream, whose response is read also after a failed write.
pub(super) struct EarlyResponse<T> {
    stream: T,
    /// A write has failed.
    is_closed: bool,
}

impl<T> EarlyResponse<T> {
    pub(super) fn new(stream: T) -> Self {
        Self { stream, is_closed: false }
    }

    pub(super) fn into_inner(self) -> T {
        self.stream
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for EarlyResponse<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> EarlyResponse<T> {
    /// Writes. Returns that all `length` bytes were written once a write has failed.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.is_closed {
            match write(Pin::new(&mut self.stream)) {
                Poll::Ready(Err(e)) if is_closed_by_peer(&e) => self.is_closed = true,
                written => return written,
            }
        }
        Poll::Ready(Ok(length))
    }
}

fn is_closed_by_peer(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EarlyResponse<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A request without a body is one piece, for which the plain call costs the system less.
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.write(length, |stream| stream.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
