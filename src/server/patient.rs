//! Patience with slow clients, and its end.
//!
//! The framework waits for the first head of a connection for a while, but for the later ones, and for clients that do not read,
//! for ever. So here every connection has to get on: once something of a request has come, or something of an answer can't be sent,
//! something must be sent within the patience, or the connection ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::time::{Sleep, sleep};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection with somebody who may be slow.
pub(super) struct Patient<T> {
    io: T,
    /// Half of the patience. It is looked at twice in that time, so that requests cost nothing for it.
    tick: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Whether something has come, or can't be sent, and nothing was sent since.
    owed: bool,
    /// Whether that was so at the last look already.
    owed_before: bool,
}

impl<T> Patient<T> {
    pub(super) fn new(io: T, patience: Duration) -> Self {
        Self { io, tick: patience / 2, alarm: None, owed: false, owed_before: false }
    }

    #[cfg(test)]
    pub(super) fn io(&self) -> &T {
        &self.io
    }

    /// Notes that a response is owed: bytes that were read before were handed to the HTTP library
    /// now.
    pub(super) fn owe(&mut self) {
        self.owed = true;
    }

    fn sent(&mut self) {
        self.owed = false;
        self.owed_before = false;
    }

    /// Looks at the clock while nothing can be done. It fails when the patience is at its end.
    fn wait(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.owed {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(self.tick)));
            // One that rings is taken away: it is set again only if there is something to wait for.
            if alarm.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            self.alarm = None;
            if std::mem::replace(&mut self.owed_before, true) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.owed |= buffer.filled().len() > before;
        if read.is_pending() {
            self.wait(context)?;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        match written {
            Poll::Pending => {
                self.owed = true;
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
