//! The HTTP service of a connection, around the routes: one exchange per request.

use std::future::ready;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::{ConnectionType, Request, RequestHead, Response};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_factory,
    fn_service, map_config,
};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use futures_util::FutureExt;
use futures_util::future::Either;

use super::connection::{Body, CurrentExchange};
use super::gate::Gate;
use super::proxy::{Admitter, Proxy};
use super::response::{head_too_long, text};
use super::{ProxyConfig, forward_auth};
use crate::auth::Rejection;

/// The field that demands TLS for a year (RFC 6797).
const TLS_ONLY: (HeaderName, HeaderValue) =
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));

/// The body of the response after a panic.
const INTERNAL_ERROR: &str = "Internal Server Error. The log of the server says more.\n";

/// The limit of the head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Answers each request of a connection, and tells the connection when the response is encoded.
///
/// A problem of one request, e.g. a head over the limit or a panic, does not affect other requests.
/// A connection is closed after a response that is given before the whole request was read.
pub(super) fn exchanges<F, S, B>(
    app: F,
    gate: Arc<Gate>,
    transport: Transport,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Response<Body>,
    Error = actix_web::Error,
    InitError = (),
>
where
    F: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = (), Error = actix_web::Error, InitError = ()>,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
{
    apply_fn_factory(app, move |request: Request, app: &S::Service| {
        let exchange = begin_exchange(&request);
        let forwarded = gate.is_forward_auth(request.path());
        let response = if head_length(request.head()) > MAX_HEAD {
            gate.reject(gate.source(request.head()), Rejection::HeadTooLong);
            let refusal = if forwarded { forward_auth::head_too_long() } else { head_too_long() };
            Either::Left(ready(refusal.into()))
        } else {
            let called = AssertUnwindSafe(app.call(request)).catch_unwind();
            Either::Right(called.map(move |called| match called {
                Ok(Ok(response)) => response.into().map_into_boxed_body(),
                Ok(Err(e)) => e.into(),
                Err(_) if forwarded => forward_auth::unavailable().into(),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR).into(),
            }))
        };
        // No async block, which would hold the future of the application twice.
        response.map(move |response| Ok(finish(response, exchange, transport)))
    })
}

/// Begins the exchange of a request, which is the last one of its connection if the client says so.
fn begin_exchange(request: &Request) -> CurrentExchange {
    let exchange = request.conn_data::<CurrentExchange>().cloned().unwrap_or_default();
    if request.head().connection_type() == ConnectionType::Close {
        exchange.last();
    }
    exchange
}

/// Adds what all responses have in common.
fn finish(
    mut response: Response<BoxBody>,
    exchange: CurrentExchange,
    Transport { over_tls, piece }: Transport,
) -> Response<Body> {
    let headers = response.headers_mut();
    // An upstream may demand more.
    if over_tls && !headers.contains_key(TLS_ONLY.0) {
        headers.insert(TLS_ONLY.0, TLS_ONLY.1);
    }
    if exchange.is_within_request() && !response.upgrade() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response.map_body(|_, body| Body::new(body, piece, exchange))
}

/// Makes a service that passes requests to the upstream.
pub(super) fn passing(
    gate: &Arc<Gate>,
    config: &ProxyConfig,
    over_tls: bool,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Response<BoxBody>,
    Error = actix_web::Error,
    InitError = (),
> + use<> {
    let (gate, config) = (Arc::clone(gate), config.clone());
    fn_factory(move || {
        // One for each thread.
        let admitter = Admitter::new(Arc::clone(&gate), config.clone());
        let proxy = Rc::new(Proxy::new(admitter, over_tls));
        ready(Ok(fn_service(move |request| {
            let proxy = Rc::clone(&proxy);
            async move { Ok(proxy.serve(request).await) }
        })))
    })
}

/// Decides on requests with `Expect: 100-continue` before their content is sent.
pub(super) fn admitting(
    gate: &Arc<Gate>,
    config: &ProxyConfig,
    transport: Transport,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Request,
    Error = Response<BoxBody>,
    InitError = (),
> + use<> {
    let (gate, config) = (Arc::clone(gate), config.clone());
    fn_factory(move || {
        let admitter = Rc::new(Admitter::new(Arc::clone(&gate), config.clone()));
        let gate = Arc::clone(&gate);
        ready(Ok(fn_service(move |request: Request| {
            let (admitter, gate) = (Rc::clone(&admitter), Arc::clone(&gate));
            let exchange = begin_exchange(&request);
            async move {
                let admitted = if head_length(request.head()) > MAX_HEAD {
                    gate.reject(gate.source(request.head()), Rejection::HeadTooLong);
                    Ok(Err(head_too_long()))
                } else {
                    AssertUnwindSafe(admitter.admit_waiting(request)).catch_unwind().await
                };
                let refused = match admitted {
                    Ok(Ok(request)) => return Ok(request),
                    Ok(Err(refused)) => refused,
                    Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR),
                };
                Err(finish(refused.into(), exchange, transport).map_into_boxed_body())
            }
        })))
    })
}

/// Makes a service of an application without settings.
pub(super) fn application<F, S, B>(
    app: F,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = ServiceResponse<B>,
    Error = actix_web::Error,
    InitError = (),
>
where
    F: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        >,
{
    map_config(app, |()| AppConfig::default())
}

/// How the responses of a listener are sent.
#[derive(Clone, Copy)]
pub(super) struct Transport {
    pub(super) over_tls: bool,
    /// The most bytes that are encoded at once.
    pub(super) piece: usize,
}

/// Answers requests with `Expect: 100-continue` at once (RFC 9110 section 10.1.1), since no
/// response depends on the content.
pub(super) fn without_continue<F>(
    app: F,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Request,
    Error = Response<BoxBody>,
    InitError = F::InitError,
>
where
    F: ServiceFactory<Request, Config = (), Response = Response<Body>, Error = actix_web::Error>,
{
    apply_fn_factory(app.map_err(Response::from), |request: Request, app| {
        let response = app.call(request);
        // To the HTTP library, a response instead of "100 Continue" is an error.
        async move { Err(response.await?.map_into_boxed_body()) }
    })
}

/// Returns the length of the request line and the fields, without separators.
fn head_length(request: &RequestHead) -> usize {
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    target + fields
}

#[cfg(test)]
mod tests {
    use actix_web::dev::Service;
    use actix_web::test::TestRequest;
    use actix_web::{App, HttpResponse, rt};

    use super::super::gate::tests::gate;
    use super::super::ops::healthz;
    use super::super::routing::resource;
    use super::*;

    /// O-03
    #[test]
    fn panic_is_an_internal_error_of_that_request_only() {
        async fn panics() -> HttpResponse {
            panic!("on purpose")
        }
        rt::System::new().block_on(async {
            let app = App::new()
                .service(resource("/panics", panics))
                .service(resource("/healthz", healthz));
            let transport = Transport { over_tls: false, piece: 1024 };
            let app = exchanges(application(app), Arc::new(gate()), transport);
            let app = app.new_service(()).await.unwrap();
            for (path, status) in [("/panics", 500), ("/healthz", 200), ("/panics", 500)] {
                let answer = app.call(TestRequest::get().uri(path).to_request()).await.unwrap();
                assert_eq!(answer.status(), status, "{path}");
            }
        });
    }
}
