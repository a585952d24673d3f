//! The bytes of a connection, handed to the HTTP library one request at a time.
//!
//! The library would take all pipelined requests at once, keep their heads, and serve them in a
//! row. Meanwhile every other connection of the thread would wait. Here the library gets the next
//! head only after the previous response has been sent and the other connections of the thread had
//! their turn. Does not parse requests.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::rt::task::yield_now;
use actix_web::rt::time::timeout;
use actix_web::web::Bytes;
use rustix::net::sockopt::set_tcp_cork;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::Occupant;
use super::exchange::Exchange;
use super::io_timeout::IoTimeout;
use super::strict_head::{AcceptedBytes, Framing};
use super::tls::Tls;
use super::window::ReceiveWindow;

/// The maximum length of a head that is read at once, and of a response that is encoded at once, in
/// bytes. A client that pipelines costs up to one such piece beyond the buffers of the HTTP
/// library.
pub(super) const PIECE: usize = 2048;

/// A connection with a client. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    inner: Rc<RefCell<Inner>>,
    exchange: CurrentExchange,
    window: Rc<ReceiveWindow>,
}

/// The current exchange of a connection, shared with the body of its response.
#[derive(Clone, Default)]
pub(super) struct CurrentExchange(Rc<Cell<Exchange>>);

struct Inner {
    stream: Stream,
    framing: Framing,
    /// Bytes of later requests that were read already.
    ahead: Vec<u8>,
    occupant: Arc<Occupant>,
    /// The task that an eviction wakes. It is registered once, since that takes atomic steps.
    registered: Option<Waker>,
}

/// The transport of a connection.
pub(super) enum Stream {
    Plain(IoTimeout<TcpStream>),
    // Boxed, since it is many times larger than the others.
    Tls(Box<TlsStream<IoTimeout<TcpStream>>>),
    Local(IoTimeout<UnixStream>),
}

impl Stream {
    /// Begins a connection over TCP, with a TLS handshake if there is a certificate.
    pub(super) async fn over_tcp(
        stream: TcpStream,
        tls: Option<Tls>,
        io_timeout: Duration,
    ) -> io::Result<Self> {
        let stream = IoTimeout::new(stream, io_timeout);
        let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
        let stream = timeout(io_timeout, TlsAcceptor::from(tls.config).accept(stream)).await??;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Begins a connection with a client on this machine.
    pub(super) fn over_unix(stream: UnixStream, io_timeout: Duration) -> Self {
        Self::Local(IoTimeout::new(stream, io_timeout))
    }

    /// Returns the id of the user at the other end of a Unix socket.
    fn peer_user(&self) -> Option<u32> {
        match self {
            Self::Local(stream) => stream.io().peer_cred().ok().map(|peer| peer.uid()),
            Self::Plain(_) | Self::Tls(_) => None,
        }
    }

    /// Returns the TCP connection, if it is one.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream.io()),
            Self::Tls(stream) => Some(stream.get_ref().0.io()),
            Self::Local(_) => None,
        }
    }

    /// Has the system hold back the last segment until the connection is closed, so that the end needs
    /// none of its own. Linux sends it after 200 ms in any case (tcp(7)).
    fn hold_until_closed(&self) -> io::Result<()> {
        match self.tcp() {
            Some(tcp) => Ok(set_tcp_cork(tcp, true)?),
            None => Ok(()),
        }
    }

    /// Has the system drop bytes that were not delivered when the connection is closed. A Unix
    /// socket has none.
    fn drop_undelivered(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), TcpStream::set_zero_linger)
    }
}

/// Calls a method of the timeout of a stream.
macro_rules! io_timeout {
    ($stream:expr, $method:ident) => {
        match $stream {
            Stream::Plain(stream) => stream.$method(),
            Stream::Tls(stream) => stream.get_mut().0.$method(),
            Stream::Local(stream) => stream.$method(),
        }
    };
}

macro_rules! each {
    ($stream:expr, $each:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => {
                let $each = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $each = Pin::new(stream);
                $call
            }
            Stream::Local(stream) => {
                let $each = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}

impl Inner {
    /// Reads the next bytes of the current request.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<AcceptedBytes>> {
        let Self { stream, framing, ahead, .. } = self;
        let room = buffer.remaining();
        if framing.certain() >= room as u64 {
            let before = buffer.filled().len();
            ready!(Pin::new(stream).poll_read(context, buffer))?;
            return Poll::Ready(Ok(framing.accept(&mut buffer.filled_mut()[before..])));
        }
        if !ahead.is_empty() {
            let some = ahead.len().min(room);
            let accepted = framing.accept(&mut ahead[..some]);
            buffer.put_slice(&ahead[..accepted.bytes]);
            ahead.drain(..accepted.bytes);
            if ahead.is_empty() {
                *ahead = Vec::new();
            }
            return Poll::Ready(Ok(accepted));
        }
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut space[..PIECE.min(room)]);
        ready!(Pin::new(stream).poll_read(context, &mut piece))?;
        let read = piece.filled_mut();
        let accepted = framing.accept(read);
        let (request, later) = read.split_at(accepted.bytes);
        buffer.put_slice(request);
        *ahead = later.to_vec();
        Poll::Ready(Ok(accepted))
    }

    /// Returns true if the connection was evicted. Otherwise wakes the task when that happens.
    fn is_evicted(&mut self, context: &mut Context<'_>) -> bool {
        let task = context.waker();
        if self.registered.as_ref().is_some_and(|registered| registered.will_wake(task)) {
            return self.occupant.was_evicted();
        }
        self.registered = Some(task.clone());
        self.occupant.is_evicted(context)
    }

    /// Returns an error if the connection was cut, so that nothing more is sent.
    fn check_cut(&self) -> io::Result<()> {
        if !self.occupant.is_cut() {
            return Ok(());
        }
        self.stream.drop_undelivered()?;
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Reads bytes of later requests, at most one piece, so that the end of the connection is
    /// noticed.
    fn read_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            return Poll::Pending;
        }
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
        self.ahead = piece.filled().to_vec();
        if self.ahead.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, occupant: Arc<Occupant>) -> Self {
        let (framing, ahead) = (Framing::new(), Vec::new());
        let inner =
            Rc::new(RefCell::new(Inner { stream, framing, ahead, occupant, registered: None }));
        Self { inner, exchange: CurrentExchange::default(), window: Rc::default() }
    }

    pub(super) fn exchange(&self) -> CurrentExchange {
        self.exchange.clone()
    }

    /// Returns the window of the content, for its receiver.
    pub(super) fn window(&self) -> Rc<ReceiveWindow> {
        Rc::clone(&self.window)
    }

    /// Returns the means to cut the connection.
    pub(super) fn end(&self) -> ConnectionEnd {
        ConnectionEnd(Arc::clone(&self.inner.borrow().occupant))
    }

    /// Returns the id of the user at the other end, if that can be told.
    pub(super) fn peer_user(&self) -> Option<u32> {
        self.inner.borrow().stream.peer_user()
    }

    /// Returns the stream if the client may still be sending, or has sent bytes that were not read.
    /// Call it when the HTTP library is done with the connection.
    pub(super) fn into_unread(self) -> Option<Stream> {
        let inner = Rc::into_inner(self.inner)?.into_inner();
        let Inner { stream, framing, ahead, occupant, .. } = inner;
        if occupant.is_cut() {
            return None;
        }
        (framing.is_within() || !ahead.is_empty()).then_some(stream)
    }
}

/// The means to cut a connection.
pub(super) struct ConnectionEnd(pub(super) Arc<Occupant>);

impl CurrentExchange {
    /// Records that the request is passed on to an upstream. From now on, only the silence of the
    /// client is limited, and not the time until the response.
    pub(super) fn pass_on(&self) {
        self.step(Exchange::passed_on);
    }

    /// Records that the connection is closed after the response.
    pub(super) fn last(&self) {
        self.step(Exchange::last);
    }

    /// Returns true until the whole request is read.
    pub(super) fn is_within_request(&self) -> bool {
        !self.0.get().is_open()
    }

    /// Applies a step to the exchange. Returns the new state if it is another one.
    fn step(&self, step: impl FnOnce(Exchange) -> Exchange) -> Option<Exchange> {
        let next = step(self.0.get());
        (self.0.replace(next) != next).then_some(next)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        inner.check_cut()?;
        let exchange = self.exchange.0.get();
        // While the response is due, the client owes nothing. The time of a decision has its own limit.
        if exchange.is_open() || (exchange.is_passed_on() && inner.framing.is_tunnel()) {
            io_timeout!(&mut inner.stream, excuse);
        }
        let read = if exchange.is_open() {
            inner.read_ahead(context)
        } else if exchange.is_answered_early() || inner.framing.is_stuck() {
            Poll::Ready(Ok(()))
        } else if inner.framing.is_in_content() && self.window.poll_open(context).is_pending() {
            Poll::Pending
        } else {
            let read = inner.read(context, buffer);
            if exchange.is_passed_on() && read.is_ready() {
                io_timeout!(&mut inner.stream, excuse);
            }
            if let Poll::Ready(Ok(accepted)) = read {
                self.window.read(accepted.content);
                if accepted.whole {
                    self.exchange.step(Exchange::request_read);
                    self.window.reopen();
                    // Before the response is sent, after which the client may rely on it.
                    inner.occupant.note_activity();
                }
            }
            read.map_ok(|_| ())
        };
        // The HTTP library reads at every poll, so it notices an eviction in time.
        if read.is_pending() && inner.is_evicted(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        inner.check_cut()?;
        if self.exchange.0.get().is_ending() {
            inner.stream.hold_until_closed()?;
        }
        Pin::new(&mut inner.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        inner.check_cut()?;
        ready!(Pin::new(&mut inner.stream).poll_flush(context))?;
        if let Some(exchange) = self.exchange.step(Exchange::flushed)
            && (!inner.ahead.is_empty() || exchange.is_answered_early())
        {
            // The next request is read after the other connections of this thread had their turn.
            let _ = pin!(yield_now()).poll(context);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends TLS. A plain connection is closed next, which ends it as well.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner.borrow_mut().stream {
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Plain(_) | Stream::Local(_) => Poll::Ready(Ok(())),
        }
    }
}

/// The body of a response. When it is dropped, it is encoded completely or never will be.
pub(super) struct Body {
    body: BoxBody,
    /// Bytes of the body that the HTTP library has not taken yet.
    rest: Bytes,
    /// The most bytes that the HTTP library takes at once.
    piece: usize,
    exchange: CurrentExchange,
}

impl Body {
    pub(super) fn new(body: BoxBody, piece: usize, exchange: CurrentExchange) -> Self {
        Self { body, rest: Bytes::new(), piece, exchange }
    }
}

impl MessageBody for Body {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    /// Returns the body in pieces, so that a client that reads nothing costs one piece.
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(context)) {
                Some(Ok(bytes)) => self.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(self.piece);
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.exchange.step(Exchange::response_encoded);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{IpAddr, Ipv4Addr};

    use actix_web::rt::System;
    use futures_executor::block_on;
    use rustix::net::sockopt::tcp_cork;
    use tokio::io::ReadBuf;

    use super::super::admission::{Admission, Seat};
    use super::super::tests::Wakes;
    use super::super::window::WINDOW;
    use super::*;
    use crate::auth::{EndStream, Source};

    /// A connection as the HTTP library polls it, and its client.
    struct Bench {
        connection: Connection,
        client: std::os::unix::net::UnixStream,
        wakes: Arc<Wakes>,
        _seat: Seat,
    }

    impl Bench {
        fn new() -> Self {
            Self::seated(block_on(Arc::new(Admission::new(1)).enter(None)))
        }

        fn seated(seat: Seat) -> Self {
            let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
            server.set_nonblocking(true).unwrap();
            let server = UnixStream::from_std(server).unwrap();
            let stream = Stream::over_unix(server, Duration::from_secs(10));
            let connection = Connection::new(stream, seat.occupant());
            Self { connection, client, wakes: Arc::default(), _seat: seat }
        }

        fn send(&mut self, text: &str) {
            io::Write::write_all(&mut self.client, text.as_bytes()).unwrap();
        }

        fn poll<T>(&mut self, poll: impl FnOnce(Pin<&mut Connection>, &mut Context<'_>) -> T) -> T {
            let waker = self.wakes.waker();
            poll(Pin::new(&mut self.connection), &mut Context::from_waker(&waker))
        }

        /// Returns the bytes that the HTTP library reads, or `None` if it has to wait.
        async fn read(&mut self) -> Option<String> {
            // The reactor notices sent bytes between two polls.
            actix_web::rt::task::yield_now().await;
            let mut space = [0; 2 * PIECE];
            let mut buffer = ReadBuf::new(&mut space);
            match self.poll(|connection, context| connection.poll_read(context, &mut buffer)) {
                Poll::Ready(read) => {
                    read.unwrap();
                    Some(String::from_utf8(buffer.filled().to_vec()).unwrap())
                }
                Poll::Pending => None,
            }
        }

        /// Answers as the HTTP library does. Returns true if the task is woken.
        async fn answer(&mut self) -> bool {
            drop(Body::new(BoxBody::new(()), PIECE, self.connection.exchange()));
            let before = self.wakes.number();
            let flushed = self.poll(|connection, context| connection.poll_flush(context));
            assert!(matches!(flushed, Poll::Ready(Ok(()))));
            yield_now().await;
            self.wakes.number() > before
        }
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
    }

    ///
    #[test]
    fn next_request_is_read_after_the_response_was_sent() {
        System::new().block_on(async {
            let mut bench = Bench::new();
            let requests = ["/a", "/b", "/c"].map(get);
            bench.send(&requests.concat());
            for (n, request) in requests.iter().enumerate() {
                assert_eq!(bench.read().await.as_ref(), Some(request));
                assert_eq!(bench.read().await, None, "the response is not there yet");
                assert_eq!(bench.answer().await, n < 2, "woken only for a request that waits");
            }
            assert_eq!(bench.read().await, None, "all was read");
            bench.send(&get("/d"));
            assert_eq!(bench.read().await, Some(get("/d")));
        });
    }

    /// at most one piece of the waiting requests is read.
    #[test]
    fn waiting_requests_stay_with_the_client() {
        System::new().block_on(async {
            let mut bench = Bench::new();
            bench.send(&get("/a").repeat(1000));
            assert_eq!(bench.read().await, Some(get("/a")));
            for _ in 0..10 {
                assert_eq!(bench.read().await, None);
            }
            assert_eq!(bench.connection.inner.borrow().ahead.len(), PIECE - get("/a").len());
        });
    }

    /// U-05: in content of each framing, and after a handshake.
    #[test]
    fn content_is_read_as_far_as_it_is_taken() {
        let piece = "x".repeat(PIECE);
        let pieces = 3 * WINDOW / PIECE - 1;
        let chunk = format!("{PIECE:x}\r\n{piece}\r\n");
        let length = format!("Content-Length: {}", pieces * PIECE);
        for (field, piece) in [
            (length.as_str(), &piece),
            ("Transfer-Encoding: chunked", &chunk),
            ("Upgrade: websocket", &piece),
        ] {
            System::new().block_on(async {
                let mut bench = Bench::new();
                let mut wakes = 0;
                bench.send(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
                assert!(bench.read().await.is_some());
                let mut left = piece.len() * pieces;
                bench.send(&piece.repeat(pieces));
                while left > 0 {
                    let mut read = 0;
                    while let Some(some) = bench.read().await {
                        read += some.len();
                    }
                    left -= read;
                    let most = WINDOW * piece.len() / PIECE + 2 * PIECE;
                    assert!(read <= most, "{field}: {read} at once");
                    assert!(read >= WINDOW || left == 0, "{field}: {read} at once");
                    wakes += u32::from(left > 0);
                    bench.connection.window().reopen();
                    assert_eq!(bench.wakes.number(), wakes, "{field}: woken if it waits");
                }
            });
        }
    }

    #[test]
    fn content_that_is_never_taken_does_not_count_for_the_next_request() {
        System::new().block_on(async {
            let mut bench = Bench::new();
            let length = WINDOW - 2 * PIECE;
            for _ in 0..3 {
                bench.send(&format!("PUT / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
                bench.send(&"x".repeat(length));
                while bench.read().await.is_some() {}
                assert!(!bench.connection.exchange().is_within_request());
                bench.answer().await;
            }
        });
    }

    #[test]
    fn end_of_a_connection_is_noticed_while_it_waits() {
        System::new().block_on(async {
            let mut bench = Bench::new();
            bench.send(&get("/a"));
            assert_eq!(bench.read().await, Some(get("/a")));
            assert_eq!(bench.read().await, None);
            bench.client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(bench.read().await, Some(String::new()));
            assert!(bench.connection.into_unread().is_none(), "nothing is left to read");
        });
    }

    ///
    #[test]
    fn request_that_was_answered_early_is_unread() {
        System::new().block_on(async {
            let mut bench = Bench::new();
            let head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
            bench.send(&format!("{head}01234"));
            assert_eq!(bench.read().await, Some(format!("{head}01234")));
            assert!(bench.connection.exchange().is_within_request());
            assert!(bench.answer().await, "the library learns that nothing more is read");
            assert_eq!(bench.read().await, Some(String::new()));
            assert!(bench.connection.into_unread().is_some());
        });
    }

    /// activity is recorded before the client gets the response and can see its effects.
    #[test]
    fn connection_with_a_new_request_is_not_the_longest_idle() {
        System::new().block_on(async {
            let admission = Arc::new(Admission::new(2));
            let source = Some(Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            let mut first = Bench::seated(admission.enter(source).await);
            let mut second = Bench::seated(admission.enter(source).await);
            first.send(&get("/a"));
            assert_eq!(first.read().await, Some(get("/a")));
            let _third = admission.enter(source).await;
            assert_eq!(first.read().await, None, "waits for its response");
            let mut space = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut space);
            let read =
                second.poll(|connection, context| connection.poll_read(context, &mut buffer));
            let Poll::Ready(Err(e)) = read else { panic!("{read:?}") };
            assert_eq!(e.kind(), io::ErrorKind::ConnectionAborted);
        });
    }

    ///
    #[test]
    fn eviction_wakes_the_task_that_has_read_last() {
        System::new().block_on(async {
            let admission = Arc::new(Admission::new(1));
            let seat = admission.enter(Some(Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST)))).await;
            let (mut bench, tasks) = (Bench::seated(seat), [Arc::default(), Arc::default()]);
            for task in [0, 0, 1, 1] {
                bench.wakes = Arc::clone(&tasks[task]);
                assert_eq!(bench.read().await, None);
            }
            bench.connection.end().0.end();
            assert_eq!(tasks.map(|task: Arc<Wakes>| task.number()), [0, 1]);
        });
    }

    #[test]
    fn last_segment_is_held_back_until_the_connection_is_closed() {
        System::new().block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            for last in [false, true] {
                let mut client =
                    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let stream = IoTimeout::new(listener.accept().await.unwrap().0, Duration::ZERO);
                let seat = Arc::new(Admission::new(1)).enter(None).await;
                let mut connection = Connection::new(Stream::Plain(stream), seat.occupant());
                io::Write::write_all(&mut client, get("/").as_bytes()).unwrap();
                let mut space = [0; PIECE];
                let mut request = ReadBuf::new(&mut space);
                poll_fn(|context| Pin::new(&mut connection).poll_read(context, &mut request))
                    .await
                    .unwrap();
                if last {
                    connection.exchange().last();
                }
                let body = Body::new(BoxBody::new(()), PIECE, connection.exchange());
                let mut held = Vec::new();
                for body in [Some(body), None] {
                    poll_fn(|context| Pin::new(&mut connection).poll_write(context, b"bytes"))
                        .await
                        .unwrap();
                    let inner = connection.inner.borrow();
                    let Stream::Plain(stream) = &inner.stream else { panic!("plain TCP") };
                    held.push(tcp_cork(stream.io()).unwrap());
                    drop(body);
                }
                assert_eq!(held, [false, last], "only when nothing follows");
                drop(connection);
                let mut received = String::new();
                io::Read::read_to_string(&mut client, &mut received).unwrap();
                assert_eq!(received, "bytesbytes");
            }
        });
    }

    /// A body of any size is encoded in pieces.
    #[test]
    fn large_body_is_returned_in_pieces() {
        System::new().block_on(async {
            let bench = Bench::new();
            let text = "x".repeat(3 * PIECE + 1);
            let mut body = Body::new(BoxBody::new(text), PIECE, bench.connection.exchange());
            let waker = bench.wakes.waker();
            let mut sizes = Vec::new();
            while let Poll::Ready(Some(piece)) =
                Pin::new(&mut body).poll_next(&mut Context::from_waker(&waker))
            {
                sizes.push(piece.unwrap().len());
            }
            assert_eq!(sizes, [PIECE, PIECE, PIECE, 1]);
        });
    }
}
