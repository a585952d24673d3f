//! The timeout of connections without progress.
//!
//! The framework limits the time of the first head only, and sets a timer for every response to end
//! idle connections. It waits forever for later heads and for clients that do not read. Here a
//! connection ends unless something is sent within the timeout, or the client is excused. Knows
//! nothing of the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alarm::Alarm;

/// A stream that fails after the timeout without progress.
pub(super) struct IoTimeout<T> {
    io: T,
    /// Half of the timeout. The clock is read twice per timeout, so that it costs requests nothing.
    tick: Duration,
    alarm: Alarm,
    /// Something could not be sent, and nothing was sent since.
    unread: bool,
    /// Nothing was sent since the last tick.
    silent: bool,
}

impl<T> IoTimeout<T> {
    pub(super) fn new(io: T, timeout: Duration) -> Self {
        let tick = timeout / 2;
        Self { io, tick, alarm: Alarm::default(), unread: false, silent: false }
    }

    pub(super) fn io(&self) -> &T {
        &self.io
    }

    /// Begins the timeout anew, unless the client does not read.
    pub(super) fn excuse(&mut self) {
        self.silent &= self.unread;
    }

    fn sent(&mut self) {
        self.unread = false;
        self.silent = false;
    }

    /// Waits for the next tick. Fails after the timeout.
    fn wait(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.poll_tick(self.tick, context).is_ready() {
            if std::mem::replace(&mut self.silent, true) {
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
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::os::unix::net::UnixStream as Client;

    use actix_web::rt::System;
    use actix_web::rt::net::UnixStream;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn pair() -> (IoTimeout<UnixStream>, Client) {
        let (client, server) = Client::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let server = UnixStream::from_std(server).unwrap();
        (IoTimeout::new(server, 2 * TICK), client)
    }

    /// Reads until the timeout, or until it has not come for as many ticks.
    async fn read(stream: &mut IoTimeout<UnixStream>, ticks: u32, excused: bool) -> io::Result<()> {
        let mut left = ticks;
        poll_fn(|context| {
            if excused {
                stream.excuse();
            }
            let (mut space, mut stream) = ([0; 8], Pin::new(&mut *stream));
            match stream.as_mut().poll_read(context, &mut ReadBuf::new(&mut space)) {
                // Only the alarm wakes this task.
                Poll::Pending if left > 0 => left -= 1,
                Poll::Pending => return Poll::Ready(Ok(())),
                read => return read,
            }
            Poll::Pending
        })
        .await
    }

    /// Writes until the client has to read. Returns the number of bytes.
    async fn fill(stream: &mut IoTimeout<UnixStream>) -> usize {
        let mut sent = 0;
        let full = |context: &mut Context<'_>| {
            while let Poll::Ready(some) = Pin::new(&mut *stream).poll_write(context, &[0; 4096])? {
                sent += some;
            }
            Poll::Ready(io::Result::Ok(()))
        };
        poll_fn(full).await.unwrap();
        sent
    }

    fn is_over(read: io::Result<()>) -> bool {
        read.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
    }

    /// B-12
    #[test]
    fn silence_ends_a_connection_unless_it_is_excused() {
        System::new().block_on(async {
            let (mut stream, _client) = pair();
            read(&mut stream, 10, true).await.unwrap();
            assert!(is_over(read(&mut stream, 10, false).await));
        });
    }

    /// B-12: one that does not read is not excused.
    #[test]
    fn excuse_does_not_cover_unread_bytes() {
        System::new().block_on(async {
            let (mut stream, _client) = pair();
            fill(&mut stream).await;
            assert!(is_over(read(&mut stream, 10, true).await));

            let (mut stream, mut client) = pair();
            let sent = fill(&mut stream).await;
            client.read_exact(&mut vec![0; sent]).unwrap();
            poll_fn(|context| Pin::new(&mut stream).poll_write(context, &[0])).await.unwrap();
            read(&mut stream, 10, true).await.unwrap();
        });
    }
}
