//! The threads that serve connections. Up to four accept connections themselves, so that most need no
//! other thread.
//!
//! Decides which thread serves a connection, and when threads accept and end. Knows nothing of HTTP.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_rt::Arbiter;
use actix_web::rt;
use futures_util::future::{LocalBoxFuture, join_all, select_all};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::accept::Accepted;
use super::listener::Socket;
use super::tls::Tls;

/// The most threads that accept: each of them is woken for a connection, if it is idle. The others get
/// theirs from them.
const ACCEPTING: usize = 4;

/// Short connections come and go, so that small numbers differ by chance.
const SLACK: usize = 4;

/// The pause after the system has refused to accept, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves a connection to its end, on one thread.
pub(super) type Serve = Rc<dyn Fn(Accepted) -> LocalBoxFuture<'static, ()>>;

/// Threads that accept connections until they are told to pause, and serve them until they are told
/// to stop.
pub(super) struct RequestThreads {
    threads: Vec<RequestThread>,
    /// The most connections of one thread.
    most: u32,
    accepting: Vec<JoinHandle<()>>,
}

struct RequestThread {
    arbiter: Arbiter,
    places: Arc<Semaphore>,
    // One for each thread, since each connection registers for it.
    stopping: Arc<Stopping>,
}

impl RequestThreads {
    /// Starts threads. Each serves at most this many connections, of which each listener keeps one for
    /// its next connection. More stay in the backlog of their listener.
    pub(super) fn start(threads: usize, most: usize) -> io::Result<Self> {
        let most = u32::try_from(most.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let thread = |_| {
            let places = Arc::new(Semaphore::new(most as usize));
            Ok(RequestThread { arbiter: Arbiter::try_new()?, places, stopping: Arc::default() })
        };
        let threads = (0..threads).map(thread).collect::<io::Result<_>>()?;
        Ok(Self { threads, most, accepting: Vec::new() })
    }

    /// Serves the connections of a socket on all threads. `serve` is called once on each, with the
    /// stop of that thread.
    ///
    /// # Errors
    /// Fails if the system gives no file descriptors, or if `serve` fails.
    pub(super) async fn listen<F, S>(
        &mut self,
        socket: &Socket,
        tls: Option<&Tls>,
        serve: F,
    ) -> io::Result<()>
    where
        F: Fn(Arc<Stopping>) -> S + Clone + Send + 'static,
        S: Future<Output = io::Result<Serve>> + 'static,
    {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            self.threads.iter().map(|_| mpsc::unbounded_channel()).unzip();
        for (own, (thread, handed)) in self.threads.iter().zip(receivers).enumerate() {
            let (socket, tls, serve) = (socket.try_clone()?, tls.cloned(), serve.clone());
            let places = self.threads.iter().map(|thread| Arc::clone(&thread.places)).collect();
            let peers = Peers { own, most: self.most as usize, places, senders: senders.clone() };
            let (begun, has_begun) = oneshot::channel();
            let stopping = Arc::clone(&thread.stopping);
            let begin = async move || {
                let serve = serve(stopping).await?;
                rt::spawn(take(handed, tls.clone(), Rc::clone(&serve)));
                if own >= ACCEPTING {
                    return Ok::<_, io::Error>(None);
                }
                let listening = ThreadListener::new(socket, tls)?;
                Ok(Some(rt::spawn(accept(listening, peers, serve))))
            };
            // The other end waits for it.
            let begin = move || drop(rt::spawn(async move { drop(begun.send(begin().await)) }));
            thread.arbiter.spawn_fn(begin);
            self.accepting.extend(has_begun.await.map_err(io::Error::other)??);
        }
        Ok(())
    }

    /// Accepts no more connections. Those in the backlogs wait for another process with the socket, if
    /// there is one.
    pub(super) async fn pause(&mut self) {
        for task in &self.accepting {
            task.abort();
        }
        for task in self.accepting.drain(..) {
            // It was cancelled.
            let _ = task.await;
        }
    }

    /// Waits for the end of all connections, for at most this time. Then ends the threads, with the
    /// connections that are left.
    pub(super) async fn stop(mut self, limit: Duration) -> io::Result<()> {
        self.pause().await;
        for thread in &self.threads {
            thread.stopping.begin();
        }
        let free = self.threads.iter().map(|thread| thread.places.acquire_many(self.most));
        let _ = timeout(limit, join_all(free)).await;
        for thread in &self.threads {
            thread.arbiter.stop();
        }
        let join = move || self.threads.into_iter().try_for_each(|thread| thread.arbiter.join());
        let joined = rt::task::spawn_blocking(join).await.map_err(io::Error::other)?;
        joined.map_err(|_| io::Error::other("a thread that serves connections has panicked"))
    }
}

/// A listening socket, on one thread.
enum ThreadListener {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener),
}

/// A connection on its way to another thread, with its place there.
struct Handover {
    connection: Detached,
    _place: OwnedSemaphorePermit,
}

/// A connection that no thread watches.
enum Detached {
    Tcp(StdTcpStream, SocketAddr),
    Unix(StdUnixStream),
}

impl ThreadListener {
    fn new(socket: Socket, tls: Option<Tls>) -> io::Result<Self> {
        match socket {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?, tls))
            }
            Socket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, tls) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, tls.clone(), peer))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl Detached {
    fn new(accepted: Accepted) -> io::Result<Self> {
        Ok(match accepted {
            Accepted::Tcp(stream, _, peer) => Self::Tcp(stream.into_std()?, peer),
            Accepted::Unix(stream) => Self::Unix(stream.into_std()?),
        })
    }

    fn attach(self, tls: Option<Tls>) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(stream, peer) => Accepted::Tcp(TcpStream::from_std(stream)?, tls, peer),
            Self::Unix(stream) => Accepted::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// All threads, for one listener on one of them.
struct Peers {
    own: usize,
    most: usize,
    places: Vec<Arc<Semaphore>>,
    senders: Vec<mpsc::UnboundedSender<Handover>>,
}

impl Peers {
    /// Waits for a place on this thread, or on any other one if it is full.
    async fn place(&self) -> Option<(usize, OwnedSemaphorePermit)> {
        if let Ok(place) = Arc::clone(&self.places[self.own]).try_acquire_owned() {
            return Some((self.own, place));
        }
        let any = self.places.iter().map(|places| Box::pin(Arc::clone(places).acquire_owned()));
        let (place, thread, _) = select_all(any).await;
        // The semaphores are never closed.
        Some((thread, place.ok()?))
    }

    /// Returns another thread that has far fewer connections, and a place on it.
    fn other(&self) -> Option<(usize, OwnedSemaphorePermit)> {
        let taken = |places: &Arc<Semaphore>| self.most - places.available_permits();
        let other = fewer(self.own, self.places.iter().map(taken))?;
        let place = Arc::clone(&self.places[other]).try_acquire_owned().ok()?;
        Some((other, place))
    }
}

/// Returns the thread with the fewest connections, if `own` has more than that by over a half and
/// [`SLACK`]: it takes time to wake another thread.
fn fewer(own: usize, connections: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let own = connections.clone().nth(own)?;
    let (thread, fewest) = connections.enumerate().min_by_key(|(_, number)| *number)?;
    (own > fewest + fewest / 2 + SLACK).then_some(thread)
}

/// Accepts connections until it is cancelled, which loses none: it holds none while it waits.
async fn accept(listening: ThreadListener, peers: Peers, serve: Serve) {
    let mut is_failing = false;
    while let Some((thread, place)) = peers.place().await {
        match listening.accept().await {
            Ok(accepted) => {
                is_failing = false;
                let (thread, place) = peers.other().unwrap_or((thread, place));
                if thread == peers.own {
                    begin(&serve, accepted, place);
                } else {
                    hand_over(&peers.senders[thread], accepted, place);
                }
            }
            Err(e) if is_of_client(&e) => {}
            Err(e) => {
                if !std::mem::replace(&mut is_failing, true) {
                    log::error!("cannot accept connections: {e}");
                }
                drop(place);
                sleep(ACCEPT_PAUSE).await;
            }
        }
        // Another thread may take the next one, while this one begins to serve.
        rt::task::yield_now().await;
    }
}

/// Takes connections from other threads, until they accept no more.
async fn take(mut handed: mpsc::UnboundedReceiver<Handover>, tls: Option<Tls>, serve: Serve) {
    while let Some(Handover { connection, _place }) = handed.recv().await {
        match connection.attach(tls.clone()) {
            Ok(accepted) => begin(&serve, accepted, _place),
            Err(e) => log::error!("cannot serve a connection: {e}"),
        }
    }
}

fn hand_over(
    sender: &mpsc::UnboundedSender<Handover>,
    accepted: Accepted,
    place: OwnedSemaphorePermit,
) {
    match Detached::new(accepted) {
        // A thread that has ended serves nothing any more.
        Ok(connection) => drop(sender.send(Handover { connection, _place: place })),
        Err(e) => log::error!("cannot serve a connection: {e}"),
    }
}

fn begin(serve: &Serve, accepted: Accepted, place: OwnedSemaphorePermit) {
    let served = serve(accepted);
    rt::spawn(async move {
        served.await;
        drop(place);
    });
}

/// Returns true for an error of one connection, whose client has left already (accept(2)).
fn is_of_client(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// The stop of a thread, which makes its requests in flight the last ones.
#[derive(Default)]
pub(super) struct Stopping {
    has_begun: AtomicBool,
    waiting: Notify,
}

impl Stopping {
    fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    /// Waits for the stop. A connection polls this several times for each request, so a poll that
    /// would only repeat the last one is cheap.
    pub(super) fn wait(self: Arc<Self>) -> impl Future<Output = ()> {
        let stopping = Arc::clone(&self);
        let notified = async move {
            let notified = stopping.waiting.notified();
            if !stopping.has_begun.load(Ordering::Acquire) {
                notified.await;
            }
        };
        StopSignal { stopping: self, notified: Box::pin(notified), waker: None }
    }
}

struct StopSignal {
    stopping: Arc<Stopping>,
    notified: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The task that the stop wakes.
    waker: Option<Waker>,
}

impl Future for StopSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.stopping.has_begun.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        self.notified.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener as StdTcpListener;
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    use tokio::sync::watch;

    use super::super::tests::Wakes;
    use super::*;

    /// Connections that are served until the test lets them go.
    struct Held {
        address: SocketAddr,
        socket: Socket,
        served: mpsc::Receiver<ThreadId>,
        go_on: watch::Sender<bool>,
    }

    impl Held {
        async fn on(threads: &mut RequestThreads) -> Self {
            let listener = StdTcpListener::bind(("127.0.0.1", 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let (sender, served) = mpsc::channel();
            let go_on = watch::Sender::new(false);
            let may_go_on = go_on.subscribe();
            let serve = move |_| {
                let (sender, may_go_on) = (sender.clone(), may_go_on.clone());
                let serve: Serve = Rc::new(move |accepted| {
                    let (sender, mut may_go_on) = (sender.clone(), may_go_on.clone());
                    Box::pin(async move {
                        sender.send(thread::current().id()).unwrap();
                        // The test may have ended.
                        let _ = may_go_on.wait_for(|go_on| *go_on).await;
                        drop(accepted);
                    })
                });
                async { Ok(serve) }
            };
            let socket = Socket::from(listener);
            threads.listen(&socket, None, serve).await.unwrap();
            Self { address, socket, served, go_on }
        }

        fn connect(&self) -> StdTcpStream {
            StdTcpStream::connect(self.address).unwrap()
        }

        /// Connects, and returns the thread that serves the connection.
        fn thread(&self, connections: &mut Vec<StdTcpStream>) -> ThreadId {
            connections.push(self.connect());
            self.served.recv_timeout(Duration::from_secs(30)).unwrap()
        }
    }

    fn run(test: impl Future<Output = ()>) {
        actix_rt::System::new().block_on(test);
    }

    #[test]
    fn connections_are_spread_over_the_threads() {
        run(async {
            for number in [3, ACCEPTING * 2] {
                let mut threads = RequestThreads::start(number, 1).unwrap();
                let held = Held::on(&mut threads).await;
                let mut connections = Vec::new();
                let ids: HashSet<_> = (0..number).map(|_| held.thread(&mut connections)).collect();
                assert_eq!(ids.len(), number);
                held.go_on.send_replace(true);
                threads.stop(Duration::from_secs(30)).await.unwrap();
            }
        });
    }

    #[test]
    fn connection_is_handed_to_a_thread_with_far_fewer() {
        for (connections, expected) in [
            (&[4, 0][..], None),
            (&[5, 0], Some(1)),
            (&[0, 5], None),
            (&[10, 4], None),
            (&[11, 4], Some(1)),
            (&[34, 22, 19], Some(2)),
            (&[22, 19, 34], None),
            (&[30], None),
        ] {
            assert_eq!(fewer(0, connections.iter().copied()), expected, "{connections:?}");
        }
    }

    /// B-13
    #[test]
    fn full_thread_leaves_connections_in_the_backlog() {
        run(async {
            let mut threads = RequestThreads::start(1, 1).unwrap();
            let held = Held::on(&mut threads).await;
            let mut connections = Vec::new();
            held.thread(&mut connections);
            connections.push(held.connect());
            let (sender, seen) = oneshot::channel();
            threads.threads[0].arbiter.spawn(async move {
                // An event after that of the connection, and the tasks that both have woken.
                let later = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
                let _client = StdTcpStream::connect(later.local_addr().unwrap()).unwrap();
                later.accept().await.unwrap();
                for _ in 0..10 {
                    rt::task::yield_now().await;
                }
                sender.send(()).unwrap();
            });
            seen.await.unwrap();
            assert!(held.served.try_recv().is_err());
            held.go_on.send_replace(true);
            held.served.recv_timeout(Duration::from_secs(30)).unwrap();
            threads.stop(Duration::from_secs(30)).await.unwrap();
        });
    }

    #[test]
    fn each_listener_keeps_a_place() {
        run(async {
            let mut threads = RequestThreads::start(1, 3).unwrap();
            let mut listeners = Vec::new();
            for _ in 0..3 {
                listeners.push(Held::on(&mut threads).await);
            }
            let mut connections = Vec::new();
            for held in &listeners {
                held.thread(&mut connections);
            }
            for held in &listeners {
                held.go_on.send_replace(true);
            }
            threads.stop(Duration::from_secs(30)).await.unwrap();
        });
    }

    /// M-12: a service manager keeps the socket for the next server.
    #[test]
    fn paused_threads_leave_connections_to_another_process() {
        run(async {
            let mut threads = RequestThreads::start(2, 100).unwrap();
            let held = Held::on(&mut threads).await;
            threads.pause().await;
            let _client = held.connect();
            let Socket::Tcp(listener) = &held.socket else { panic!("a TCP socket") };
            listener.set_nonblocking(false).unwrap();
            listener.accept().unwrap();
            assert!(held.served.try_recv().is_err());
            threads.stop(Duration::ZERO).await.unwrap();
        });
    }

    #[test]
    fn stop_waits_for_connections_up_to_its_limit() {
        use std::io::Read;

        run(async {
            for limit in [Duration::ZERO, Duration::from_secs(30)] {
                let mut threads = RequestThreads::start(2, 100).unwrap();
                let held = Held::on(&mut threads).await;
                let mut connections = Vec::new();
                held.thread(&mut connections);
                let all = threads.threads.iter().map(|thread| Arc::clone(&thread.stopping).wait());
                let stopping = join_all(all);
                if !limit.is_zero() {
                    // Not before the stop.
                    let go_on = held.go_on.clone();
                    rt::spawn(async move {
                        stopping.await;
                        go_on.send_replace(true);
                    });
                }
                threads.stop(limit).await.unwrap();
                assert_eq!(*held.go_on.borrow(), !limit.is_zero());
                assert_eq!(connections[0].read(&mut [0]).unwrap(), 0, "it is closed");
            }
        });
    }

    #[test]
    fn stop_wakes_the_task_that_has_asked_last() {
        let stopping = Arc::<Stopping>::default();
        let mut signal = std::pin::pin!(Arc::clone(&stopping).wait());
        let tasks = [Arc::<Wakes>::default(), Arc::default()];
        let mut poll = |task: &Arc<Wakes>| {
            signal.as_mut().poll(&mut Context::from_waker(&task.waker())).is_ready()
        };
        for task in [0, 0, 1, 1] {
            assert!(!poll(&tasks[task]));
        }
        stopping.begin();
        assert_eq!(tasks.each_ref().map(|task| task.number()), [0, 1]);
        assert!(poll(&tasks[1]));
        let late = std::pin::pin!(Arc::clone(&stopping).wait());
        assert!(
            late.poll(&mut Context::from_waker(&tasks[0].waker())).is_ready(),
            "it has begun already"
        );
    }
}
