//! The timeout of connections without progress.
//!
//! The framework limits the time of the first head only. It waits forever for later heads and for
//! clients that do not read. Here a connection ends unless something is sent within the timeout.
//! The timeout begins when a part of a request has arrived, or a part of a response could not be
//! sent. Knows nothing of the bytes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::time::{Sleep, sleep};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that fails after the timeout without progress.
pub(super) struct IoTimeout<T> {
    io: T,
    /// Half of the timeout. The clock is read twice per timeout, so that it costs requests nothing.
    tick: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Something has arrived, and nothing was sent since.
    unanswered: bool,
    /// Something could not be sent, and nothing was sent since.
    unread: bool,
    /// One of the two held at the last tick.
    held_before: bool,
}

impl<T> IoTimeout<T> {
    pub(super) fn new(io: T, timeout: Duration) -> Self {
        let tick = timeout / 2;
        Self { io, tick, alarm: None, unanswered: false, unread: false, held_before: false }
    }

    pub(super) fn io(&self) -> &T {
        &self.io
    }

    /// Records that a response is owed, since the HTTP library now has bytes that were read before.
    pub(super) fn owe(&mut self) {
        self.unanswered = true;
    }

    /// Records that the client waits for the response, and owes nothing itself.
    pub(super) fn excuse(&mut self) {
        self.unanswered = false;
        self.progress();
    }

    /// Records that the client goes on sending. One that does not read is not excused by that.
    pub(super) fn progress(&mut self) {
        self.held_before &= self.unread;
    }

    fn sent(&mut self) {
        self.unanswered = false;
        self.unread = false;
        self.held_before = false;
    }

    /// Waits for the next tick. Fails after the timeout.
    fn wait(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.unanswered || self.unread {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(self.tick)));
            // The alarm is set again only if there is something to wait for.
            if alarm.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            self.alarm = None;
            if std::mem::replace(&mut self.held_before, true) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for IoTimeout<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.unanswered |= buffer.filled().len() > before;
        if read.is_pending() {
            self.wait(context)?;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IoTimeout<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        match written {
            Poll::Pending => {
                self.unread = true;
                self.wait(context)?;
            }
            Poll::Ready(_) => self.sent(),
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
