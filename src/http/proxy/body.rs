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

/// The body of a request, for the upstream.
pub(super) enum RequestBody {
    Empty,
    // Boxed, since the HTTP library moves each request several times, and few have a body.
    Passed(Box<PassedBody>),
}

/// A body that is passed on.
pub(super) struct PassedBody {
    payload: Payload,
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
    pub(super) fn new(payload: Payload, head: &RequestHead, limit: Option<u64>) -> Self {
        if matches!(payload, Payload::None) {
            return Self::Empty;
        }
        let progress = Rc::new(BodyProgress { moved: Cell::new(false) });
        let left = content_length(head);
        Self::Passed(Box::new(PassedBody { payload, left, allowed: limit, progress }))
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
        let piece = match ready!(Pin::new(&mut body.payload).poll_next(context)) {
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
            let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(context)) {
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
