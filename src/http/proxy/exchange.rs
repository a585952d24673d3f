//! One exchange with the upstream: the request is written anew, and so is the response.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use actix_http::{ConnectionType, RequestHead, Response};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::rt;
use hyper::body::{Body as _, Incoming};

use super::access_log::AccessRecord;
use super::admit::{Admitted, Admitter};
use super::body::{BodyError, BodyProgress, RequestBody, RequestContent, ResponseBody};
use super::fields::{self, Forwarded, LastSaid};
use super::pool::Sender;
use super::response_clock::ResponseClock;
use super::tunnel::Tunnel;
use super::{ClientConnection, Proxy, UpstreamError};
use crate::auth::OpenStream;

/// What lasts as long as a response: the open stream of the user, and the line of the access log.
#[derive(Default)]
pub(super) struct Lasting {
    _stream: Option<OpenStream>,
    access: Option<AccessRecord>,
}

impl Lasting {
    pub(super) fn new(stream: Option<OpenStream>, access: Option<AccessRecord>) -> Self {
        Self { _stream: stream, access }
    }

    /// Records bytes of the body for the access log.
    pub(super) fn passed(&mut self, bytes: usize) {
        if let Some(access) = &mut self.access {
            access.add(bytes);
        }
    }

    /// Records the status for the access log.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(access) = &mut self.access {
            access.answered(status.as_u16());
        }
    }
}

impl Proxy {
    /// Returns the request as the upstream gets it.
    fn request(
        &self,
        head: &RequestHead,
        admitted: &Admitted,
        body: RequestBody,
        last: &LastSaid,
    ) -> Result<hyper::Request<RequestBody>, UpstreamError> {
        let Admitter { gate, config } = &self.admitter;
        let peer = head.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let credentials = (!config.pass_authorization).then_some(gate.credentials_field());
        let about = Forwarded {
            grant: admitted.grant.as_ref(),
            peer,
            is_trusted: admitted.is_trusted,
            over_tls: self.over_tls,
            credentials,
            upstream: &self.host,
        };
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = hyper::Request::new(body);
        *request.method_mut() = hyper::Method::from_bytes(head.method.as_str().as_bytes())
            .map_err(|_| UpstreamError::Untransferable)?;
        *request.uri_mut() = target.parse().map_err(|_| UpstreamError::Untransferable)?;
        *request.headers_mut() = fields::of_request(head, &about, last);
        Ok(request)
    }

    /// Sends a request on an idle connection, or on a new one. A request that an idle connection did
    /// not take is sent again. One that it may have taken is sent again only if that has no effect.
    pub(super) async fn exchange(
        &self,
        head: &RequestHead,
        admitted: &Admitted,
        content: RequestContent,
        client: &ClientConnection,
    ) -> Result<(hyper::Response<Incoming>, Sender), UpstreamError> {
        let ClientConnection { clock, last, .. } = client;
        let body = RequestBody::new(content, head, self.admitter.config.max_body);
        let progress = body.progress();
        let is_repeatable = progress.is_none() && head.method.is_idempotent();
        let request = self.request(head, admitted, body, last)?;
        let unsent = match self.pool.take() {
            None => request,
            Some(mut sender) => {
                let sent = {
                    let sending = pin!(sender.requests.try_send_request(request));
                    self.in_time(clock, sending, progress.as_deref()).await?
                };
                let mut failed = match sent {
                    Ok(response) => return Ok((response, sender)),
                    Err(failed) => failed,
                };
                match failed.take_message() {
                    Some(unsent) => unsent,
                    None if is_repeatable && !failed.error().is_parse() => {
                        self.request(head, admitted, RequestBody::Empty, last)?
                    }
                    None => return Err(of_hyper(failed.into_error())),
                }
            }
        };
        // Boxed, as its size would count for every request.
        Box::pin(self.exchange_anew(unsent, progress.as_deref(), clock)).await
    }

    /// Sends a request on a new connection.
    async fn exchange_anew(
        &self,
        request: hyper::Request<RequestBody>,
        progress: Option<&BodyProgress>,
        clock: &ResponseClock,
    ) -> Result<(hyper::Response<Incoming>, Sender), UpstreamError> {
        let mut sender = self.pool.open().await?;
        let response = {
            let sending = pin!(sender.requests.send_request(request));
            self.in_time(clock, sending, progress).await?.map_err(of_hyper)?
        };
        Ok((response, sender))
    }

    /// Waits for the head of a response. The time begins anew with each piece of the request's body.
    async fn in_time<T>(
        &self,
        clock: &ResponseClock,
        mut sending: Pin<&mut impl Future<Output = T>>,
        progress: Option<&BodyProgress>,
    ) -> Result<T, UpstreamError> {
        let Some(limit) = self.admitter.config.response_timeout else { return Ok(sending.await) };
        clock.restart();
        poll_fn(|context| {
            if let Poll::Ready(sent) = sending.as_mut().poll(context) {
                return Poll::Ready(Ok(sent));
            }
            if progress.is_some_and(BodyProgress::take) {
                clock.restart();
            }
            clock.poll_over(limit, context).map(|()| Err(UpstreamError::TimedOut))
        })
        .await
    }

    /// Sends a WebSocket handshake on a connection of its own. After the 101 of the upstream, that
    /// is connected with the client.
    pub(super) async fn open_tunnel(
        &self,
        head: &RequestHead,
        admitted: &Admitted,
        content: RequestContent,
        clock: &ResponseClock,
        lasting: &mut Lasting,
    ) -> Result<Response<BoxBody>, UpstreamError> {
        use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
        // The last request of its connection, so there is nothing to keep.
        let said = LastSaid::default();
        let mut request = self.request(head, admitted, RequestBody::Empty, &said)?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        let (mut sender, mut driver) = self.pool.connect().await?;
        let mut is_over = false;
        let response = {
            let mut sent = pin!(sender.send_request(request));
            let answered = pin!(poll_fn(|context| {
                // A failure of the connection is that of the request too.
                is_over = is_over || driver.poll_without_shutdown(context).is_ready();
                sent.as_mut().poll(context)
            }));
            self.in_time(clock, answered, None).await?.map_err(of_hyper)?
        };
        if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
            if !is_over {
                rt::spawn(driver);
            }
            // The API may take what follows for something else, so the connection is not used again.
            let mut response = self.respond(head, response, None, lasting)?;
            // The rest of the request is no HTTP.
            response.head_mut().no_chunking(true);
            response.head_mut().set_connection_type(ConnectionType::Close);
            return Ok(response);
        }
        if !is_over {
            poll_fn(|context| driver.poll_without_shutdown(context)).await.map_err(of_hyper)?;
        }
        let parts = driver.into_parts();
        lasting.answered(StatusCode::SWITCHING_PROTOCOLS);
        let tunnel = Tunnel::new(
            content,
            parts.io.into_inner().into_inner(),
            parts.read_buf,
            std::mem::take(lasting),
        );
        let mut switched =
            Response::with_body(StatusCode::SWITCHING_PROTOCOLS, BoxBody::new(tunnel));
        fields::of_response(response.headers(), switched.headers_mut());
        let websocket = header::HeaderValue::from_static("websocket");
        switched.headers_mut().insert(header::UPGRADE, websocket);
        switched.head_mut().set_connection_type(ConnectionType::Upgrade);
        Ok(switched)
    }

    /// Returns the response of the upstream for the client. Its body takes what lasts as long, and
    /// gives the connection back.
    pub(super) fn respond(
        &self,
        request: &RequestHead,
        response: hyper::Response<Incoming>,
        sender: Option<Sender>,
        lasting: &mut Lasting,
    ) -> Result<Response<BoxBody>, UpstreamError> {
        use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
        let (parts, incoming) = response.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH);
        if length.is_some() && parts.headers.contains_key(TRANSFER_ENCODING) {
            return Err(UpstreamError::Ambiguous);
        }
        let status = match StatusCode::from_u16(parts.status.as_u16()) {
            Ok(status) if !status.is_informational() => status,
            _ => return Err(UpstreamError::Switched),
        };
        let number = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let size = match (status, incoming.size_hint().exact()) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => BodySize::None,
            _ if request.method == Method::HEAD => number.map_or(BodySize::Stream, BodySize::Sized),
            (_, Some(exact)) => BodySize::Sized(exact),
            (_, None) => BodySize::Stream,
        };
        lasting.answered(status);
        let connection = sender.map(|sender| (Rc::clone(&self.pool), sender));
        let body = ResponseBody::new(incoming, size, connection, std::mem::take(lasting));
        let mut passed = Response::with_body(status, BoxBody::new(body));
        fields::of_response(&parts.headers, passed.headers_mut());
        if let (StatusCode::NOT_MODIFIED, Some(number)) = (status, number) {
            passed.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(number));
        }
        if request.version < Version::HTTP_11 && passed.body().size() == BodySize::Stream {
            passed.head_mut().no_chunking(true);
            passed.head_mut().set_connection_type(ConnectionType::Close);
        }
        Ok(passed)
    }
}

/// Returns the error of an exchange. A body over the limit ends it too.
fn of_hyper(e: hyper::Error) -> UpstreamError {
    let source = std::error::Error::source(&e).and_then(|source| source.downcast_ref());
    match source {
        Some(BodyError::TooLong) => UpstreamError::TooLong,
        _ => UpstreamError::Exchange(e),
    }
}
