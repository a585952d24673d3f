//! Idle connections to the upstream, which the requests of one thread share.
//!
//! Decides which connection a request gets. A connection belongs to one thread, since bodies do.

use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt;
use actix_web::rt::time::{sleep, timeout};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::UpstreamError;
use super::body::RequestBody;
use super::driver::{DriverWakeups, drive};
use super::early_response::EarlyResponse;
use super::upstream::{Upstream, UpstreamStream};

/// The most idle connections of a thread. Further ones are closed.
const MAX_IDLE: usize = 64;

/// The least time after which an idle connection is closed, and half of the longest. Many servers close
/// theirs earlier.
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
    sender: Sender,
    /// It was idle at the last look at idle connections already. No clock, which every request would
    /// read.
    was_idle: bool,
}

/// A connection that takes a request when it is ready.
pub(super) struct Sender {
    pub(super) requests: SendRequest<RequestBody>,
    pub(super) wakeups: Arc<DriverWakeups>,
}

/// The other half of a connection, which has to be polled.
pub(super) type Driver = Connection<TokioIo<EarlyResponse<Box<dyn UpstreamStream>>>, RequestBody>;

impl Pool {
    pub(super) fn new(upstream: Upstream, connect_timeout: Duration) -> Self {
        Self { upstream, connect_timeout, idle: Rc::default() }
    }

    /// Takes an idle connection that is ready, the most recently used one first.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        // One that was put back a moment ago may still be ending its last exchange, and one that the
        // upstream has closed is never ready.
        let ready = idle.iter().rposition(|idle| idle.sender.requests.is_ready())?;
        Some(idle.remove(ready).sender)
    }

    /// Puts a connection back after its exchange.
    pub(super) fn put(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.retain(|idle| !idle.sender.requests.is_closed());
        }
        if sender.requests.is_closed() || idle.len() >= MAX_IDLE {
            return;
        }
        // Only the task that closes idle connections holds a weak reference.
        if Rc::weak_count(&self.idle) == 0 {
            rt::spawn(close_idle(Rc::downgrade(&self.idle)));
        }
        idle.push(IdleConnection { sender, was_idle: false });
    }

    /// Opens a connection, and lets it run.
    pub(super) async fn open(&self) -> Result<Sender, UpstreamError> {
        let (requests, driver) = self.connect().await?;
        let (wakeups, driven) = drive(driver);
        // Its failure is that of the request too.
        rt::spawn(driven);
        Ok(Sender { requests, wakeups })
    }

    /// Opens a connection that the caller drives.
    pub(super) async fn connect(
        &self,
    ) -> Result<(SendRequest<RequestBody>, Driver), UpstreamError> {
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
        idle.retain_mut(|idle| {
            let was_idle = std::mem::replace(&mut idle.was_idle, true);
            !was_idle && !idle.sender.requests.is_closed()
        });
        if idle.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::rt::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, yield_now};
    use tokio::time::advance;

    use super::*;

    /// A pool, and its upstream.
    struct Bench {
        pool: Pool,
        api: TcpListener,
    }

    impl Bench {
        async fn new() -> Self {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", api.local_addr().unwrap()).parse().unwrap();
            let upstream = Upstream::new(address, None).unwrap();
            // A clock that does not wait for sockets must not end it.
            Self { pool: Pool::new(upstream, Duration::from_secs(1_000_000)), api }
        }

        /// Opens a connection that is ready. Returns its other end, too.
        async fn open(&self) -> (Sender, TcpStream) {
            let mut sender = self.pool.open().await.unwrap();
            let (accepted, _) = self.api.accept().await.unwrap();
            sender.requests.ready().await.unwrap();
            (sender, accepted)
        }
    }

    /// U-13
    #[tokio::test]
    async fn one_task_closes_the_idle_connections() {
        let test = async {
            let bench = Bench::new().await;
            let (sender, _accepted) = bench.open().await;
            bench.pool.put(sender);
            for _ in 0..10 {
                let sender = bench.pool.take().unwrap();
                assert!(bench.pool.take().is_none());
                bench.pool.put(sender);
            }
            assert_eq!(Rc::weak_count(&bench.pool.idle), 1);
        };
        LocalSet::new().run_until(test).await;
    }

    /// U-13
    #[tokio::test(start_paused = true)]
    async fn connection_that_stays_idle_is_closed() {
        let test = async {
            let bench = Bench::new().await;
            let (sender, _accepted) = bench.open().await;
            bench.pool.put(sender);
            yield_now().await;
            let look = async || {
                advance(IDLE).await;
                yield_now().await;
            };
            for _ in 0..3 {
                look().await;
                let used = bench.pool.take().expect("it was used since the last look");
                bench.pool.put(used);
            }
            look().await;
            assert_eq!(bench.pool.idle.borrow().len(), 1);
            look().await;
            assert_eq!(bench.pool.idle.borrow().len(), 0);
            assert_eq!(Rc::weak_count(&bench.pool.idle), 0, "the task ends with the last one");
        };
        LocalSet::new().run_until(test).await;
    }

    /// U-13
    #[tokio::test]
    async fn connections_that_the_upstream_has_closed_take_no_room() {
        let test = async {
            let bench = Bench::new().await;
            let mut accepted = Vec::new();
            for _ in 0..MAX_IDLE {
                let (sender, other) = bench.open().await;
                bench.pool.put(sender);
                accepted.push(other);
            }
            let (surplus, _accepted) = bench.open().await;
            bench.pool.put(surplus);
            assert_eq!(bench.pool.idle.borrow().len(), MAX_IDLE);
            drop(accepted);
            let is_open =
                || bench.pool.idle.borrow().iter().any(|idle| !idle.sender.requests.is_closed());
            while is_open() {
                yield_now().await;
            }
            let (sender, _accepted) = bench.open().await;
            bench.pool.put(sender);
            assert!(bench.pool.take().is_some());
        };
        LocalSet::new().run_until(test).await;
    }
}
