//! Idle connections to the upstream, which the requests of one thread share.
//!
//! Decides which connection a request gets. A connection belongs to one thread, since bodies do.

use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use actix_web::rt;
use actix_web::rt::time::{sleep, timeout};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::UpstreamError;
use super::body::RequestBody;
use super::early_response::EarlyResponse;
use super::ticker::Ticker;
use super::upstream::{Upstream, UpstreamStream};

/// The most idle connections of a thread. Further ones are closed.
const MAX_IDLE: usize = 64;

/// The time after which an idle connection is closed. Many servers close theirs earlier.
const IDLE: Duration = Duration::from_secs(30);

/// The buffer for reading from the upstream, in bytes.
const READ_BUFFER: usize = 64 * 1024;

/// The connections of one thread.
pub(super) struct Pool {
    upstream: Upstream,
    connect_timeout: Duration,
    idle: Rc<Idle>,
}

type Idle = RefCell<Vec<IdleConnection>>;

struct IdleConnection {
    connection: UpstreamConnection,
    since: Instant,
}

/// A connection, and the clock for its timeouts.
pub(super) struct UpstreamConnection {
    pub(super) sender: Sender,
    pub(super) ticker: Ticker,
}

/// A connection that takes a request when it is ready.
pub(super) type Sender = SendRequest<RequestBody>;

/// The other half of a connection, which has to be polled.
pub(super) type Driver = Connection<TokioIo<EarlyResponse<Box<dyn UpstreamStream>>>, RequestBody>;

impl Pool {
    pub(super) fn new(upstream: Upstream, connect_timeout: Duration) -> Self {
        Self { upstream, connect_timeout, idle: Rc::default() }
    }

    /// Takes an idle connection that is ready, the most recently used one first. Drops those that
    /// the upstream has closed.
    pub(super) fn take(&self) -> Option<UpstreamConnection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| !idle.connection.sender.is_closed());
        // One that was put back a moment ago may still be ending its last exchange.
        let ready = idle.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        Some(idle.swap_remove(ready).connection)
    }

    /// Puts a connection back after its exchange.
    pub(super) fn put(&self, connection: UpstreamConnection) {
        let mut idle = self.idle.borrow_mut();
        if connection.sender.is_closed() || idle.len() >= MAX_IDLE {
            return;
        }
        // Only the task that closes idle connections holds a weak reference.
        if Rc::weak_count(&self.idle) == 0 {
            rt::spawn(close_idle(Rc::downgrade(&self.idle)));
        }
        idle.push(IdleConnection { connection, since: Instant::now() });
    }

    /// Opens a connection, and lets it run.
    pub(super) async fn open(&self) -> Result<UpstreamConnection, UpstreamError> {
        let (sender, driver) = self.connect().await?;
        // Its failure is that of the request too.
        rt::spawn(driver);
        Ok(UpstreamConnection { sender, ticker: Ticker::default() })
    }

    /// Opens a connection that the caller drives.
    pub(super) async fn connect(&self) -> Result<(Sender, Driver), UpstreamError> {
        let connected = timeout(self.connect_timeout, self.upstream.connect()).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(UpstreamError::Connect(e)),
            Err(_) => return Err(UpstreamError::Connect(io::ErrorKind::TimedOut.into())),
        };
        Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(EarlyResponse::new(stream)))
            .await
            .map_err(UpstreamError::Exchange)
    }
}

/// Closes connections that are idle for too long, until there are none.
async fn close_idle(idle: Weak<Idle>) {
    loop {
        sleep(IDLE).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = idle.borrow_mut();
        idle.retain(|connection| connection.since.elapsed() < IDLE);
        if idle.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::rt::System;
    use actix_web::rt::net::TcpListener;

    use super::*;

    /// U-13
    #[test]
    fn one_task_closes_the_idle_connections() {
        System::new().block_on(async {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", api.local_addr().unwrap()).parse().unwrap();
            let upstream = Upstream::new(address, None).unwrap();
            let pool = Pool::new(upstream, Duration::from_secs(10));
            let mut connection = pool.open().await.unwrap();
            let _accepted = api.accept().await.unwrap();
            connection.sender.ready().await.unwrap();
            pool.put(connection);
            for _ in 0..10 {
                let connection = pool.take().unwrap();
                assert!(pool.take().is_none());
                pool.put(connection);
            }
            assert_eq!(Rc::weak_count(&pool.idle), 1);
        });
    }
}
