//! The parts of responses.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};

pub(super) const PLAIN_TEXT: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
pub(super) const JSON: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// Begins a response. No cache may store any of them.
pub(super) fn response(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header(NO_STORE);
    response
}

pub(super) fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    response(status).insert_header(PLAIN_TEXT).body(body)
}

/// Returns the response to a request whose head is over the limit.
pub(super) fn head_too_long() -> HttpResponse {
    response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        .force_close()
        .insert_header(PLAIN_TEXT)
        .body("Request Header Fields Too Large")
}

pub(super) async fn not_found() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "Not Found")
}

/// Returns whole seconds, rounded up, because an earlier retry would fail.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
