//! Bodies on their way through the proxy, piece by piece, in both directions.
//!
//! The receiver sets the pace: nothing is read that is not asked for.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::{Payload, RequestHead};
use actix_web::body::{BodySize, MessageBody};
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::admit::content_length;
use super::exchange::Lasting;
use super::pool::{Pool, Sender};
use crate::http::window::ReceiveWindow;

/// The content of a request as it comes from the client.
pub(super) struct RequestContent {
    payload: Payload,
    window: Rc<ReceiveWindow>,
}

impl RequestContent {
    pub(super) fn new(payload: Payload, window: Rc<ReceiveWindow>) -> Self {
        Self { payload, window }
    }
}

impl Stream for RequestContent {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, PayloadError>>> {
        let next = Pin::new(&mut self.payload).poll_next(context);
        if next.is_pending() {
            self.window.reopen();
        }
        next
    }
}

/// The body of a request, for the upstream.
pub(super) enum RequestBody {
    Empty,
    // Boxed, since the HTTP library moves each request several times, and few have a body.
    Passed(Box<PassedBody>),
}

/// A body that is passed on.
pub(super) struct PassedBody {
    content: RequestContent,
    /// The bytes to come, if the client has given the length.
    left: Option<u64>,
    /// The bytes that may still come, if there is a limit.
    allowed: Option<u64>,
    progress: Rc<BodyProgress>,
}

/// The progress of a body, for the task that waits for the response.
pub(super) struct BodyProgress {
    /// A piece was passed on.
    moved: Cell<bool>,
}

/// The reason why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the client sent an incomplete body: {0}")]
    Incomplete(PayloadError),
    #[error("the body is over the limit")]
    TooLong,
}

impl BodyProgress {
    /// Returns true if a piece was passed on since the last call.
    pub(super) fn take(&self) -> bool {
        self.moved.replace(false)
    }
}

impl RequestBody {
    /// Makes the body of the request with this head, of which at most `limit` bytes are passed on.
    pub(super) fn new(content: RequestContent, head: &RequestHead, limit: Option<u64>) -> Self {
        if matches!(content.payload, Payload::None) {
            return Self::Empty;
        }
        let progress = Rc::new(BodyProgress { moved: Cell::new(false) });
        let left = content_length(head);
        Self::Passed(Box::new(PassedBody { content, left, allowed: limit, progress }))
    }

    /// Returns the progress, unless there is nothing to pass on.
    pub(super) fn progress(&self) -> Option<Rc<BodyProgress>> {
        match self {
            Self::Empty => None,
            Self::Passed(body) => Some(Rc::clone(&body.progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Passed(body) = self.get_mut() else { return Poll::Ready(None) };
        let piece = match ready!(Pin::new(&mut body.content).poll_next(context)) {
            None => return Poll::Ready(None),
            Some(Err(e)) => return Poll::Ready(Some(Err(BodyError::Incomplete(e)))),
            Some(Ok(piece)) => piece,
        };
        let length = piece.len() as u64;
        if let Some(allowed) = &mut body.allowed {
            let Some(rest) = allowed.checked_sub(length) else {
                return Poll::Ready(Some(Err(BodyError::TooLong)));
            };
            *allowed = rest;
        }
        body.left = body.left.map(|left| left.saturating_sub(length));
        body.progress.moved.set(true);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Passed(body) => body.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Passed(body) => body.left.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

/// The body of a response, for the client.
pub(super) struct ResponseBody {
    incoming: Incoming,
    size: BodySize,
    /// The connection, if it can be used again after the body.
    connection: Option<(Rc<Pool>, Sender)>,
    lasting: Lasting,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        size: BodySize,
        connection: Option<(Rc<Pool>, Sender)>,
        lasting: Lasting,
    ) -> Self {
        let mut body = Self { incoming, size, connection, lasting };
        // The HTTP library does not ask an empty body for its end.
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { incoming, connection, .. } = self;
        let Some((_, sender)) = connection else { return Pin::new(incoming).poll_frame(context) };
        sender.wakeups.hold(|| {
            let frame = Pin::new(&mut *incoming).poll_frame(context);
            // After it has sent the last piece, the driver has nothing to do before the next request.
            (frame, !incoming.is_end_stream())
        })
    }

    /// Lets another request have the connection.
    fn release(&mut self) {
        if let Some((pool, sender)) = self.connection.take() {
            pool.put(sender);
        }
    }
}

impl MessageBody for ResponseBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        loop {
            let frame = match ready!(self.poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => {
                    log::warn!("the response of the upstream is incomplete: {e}");
                    return Poll::Ready(Some(Err(e.into())));
                }
                None => {
                    self.release();
                    return Poll::Ready(None);
                }
            };
            // Trailers end here. An empty piece would end a chunked body.
            let Ok(piece) = frame.into_data() else { continue };
            if piece.is_empty() {
                continue;
            }
            self.lasting.passed(piece.len());
            return Poll::Ready(Some(Ok(piece)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::task::Waker;
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::{LocalSet, spawn_local, yield_now};
    use tokio::time::timeout;

    use super::super::driver::drive;
    use super::super::upstream::Upstream;
    use super::*;
    use crate::http::window::WINDOW;

    /// Returns the body of the response to a request, and how often its driver was polled after the
    /// head of the response.
    async fn exchange(response: &str) -> (String, u32) {
        let (client, mut api) = duplex(4096);
        let (requests, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        let (polls, mut connection) = (Rc::new(Cell::new(0)), Box::pin(connection));
        let counted = Rc::clone(&polls);
        let (wakeups, driven) = drive(poll_fn(move |context| {
            counted.set(counted.get() + 1);
            connection.as_mut().poll(context)
        }));
        spawn_local(driven);
        let mut sender = Sender { requests, wakeups };
        sender.requests.ready().await.unwrap();
        let request = hyper::Request::new(RequestBody::Empty);
        let sent = spawn_local(sender.requests.send_request(request));
        api.read_exact(&mut [0; 4]).await.unwrap();
        api.write_all(response.as_bytes()).await.unwrap();
        let (head, incoming) = sent.await.unwrap().unwrap().into_parts();
        let before = polls.get();
        assert_eq!(head.status, 200);
        let upstream = Upstream::new("http://127.0.0.1:1".parse().unwrap(), None).unwrap();
        let pool = Rc::new(Pool::new(upstream, Duration::ZERO));
        let connection = Some((Rc::clone(&pool), sender));
        let body = ResponseBody::new(incoming, BodySize::Stream, connection, Lasting::default());
        let mut body = Box::pin(body);
        let mut text = String::new();
        while let Some(piece) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            text += std::str::from_utf8(&piece.unwrap()).unwrap();
        }
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(pool.take().is_some(), "the connection can be used again");
        (text, polls.get() - before)
    }

    #[test]
    fn more_content_is_read_when_all_of_it_is_taken() {
        let pieces = stream::iter(["a", "b"].map(|piece| Ok(Bytes::from(piece))));
        let payload = Payload::Stream { payload: pieces.chain(stream::pending()).boxed_local() };
        let window = Rc::<ReceiveWindow>::default();
        window.read(WINDOW);
        let mut content = RequestContent::new(payload, Rc::clone(&window));
        let mut context = Context::from_waker(Waker::noop());
        for piece in ["a", "b"] {
            let taken = Pin::new(&mut content).poll_next(&mut context);
            let Poll::Ready(Some(Ok(taken))) = taken else { panic!("{taken:?}") };
            assert_eq!(taken, piece);
            assert!(window.poll_open(&context).is_pending());
        }
        assert!(Pin::new(&mut content).poll_next(&mut context).is_pending());
        assert!(window.poll_open(&context).is_ready());
    }

    #[tokio::test]
    async fn body_of_one_piece_does_not_wake_the_driver() {
        let test = async {
            let sized = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwine";
            assert_eq!(exchange(sized).await, ("wine".to_owned(), 0));
            let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           4\r\nwine\r\n3\r\nand\r\n0\r\n\r\n";
            let (text, polls) = exchange(chunked).await;
            assert_eq!(text, "wineand");
            assert!(polls > 0, "it has to send the other pieces");
        };
        // A driver that is not woken would wait forever.
        let tasks = LocalSet::new();
        let tested = timeout(Duration::from_secs(30), tasks.run_until(test)).await;
        tested.expect("the driver is woken");
    }
}
