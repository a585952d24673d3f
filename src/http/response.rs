//! The parts of responses.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};

pub(super) const PLAIN_TEXT: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
pub(super) const JSON: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// The body of a response to a head over the limit.
pub(super) const HEAD_TOO_LONG: &str = "The header of the request is too long. Send at most 8 KiB of Authorization and 64 KiB in all.\n";
/// The body of a response to a user outside the required groups.
pub(super) const NOT_IN_GROUP: &str =
    "Forbidden. You are in none of the required groups. Ask the administrator for access.\n";
/// The body of a response from a full queue.
pub(super) const OVERLOADED: &str = "The server is busy. Try again in 1 second.\n";
/// The body of a response after a failure of the server.
pub(super) const UNAVAILABLE: &str =
    "The server cannot check passwords at the moment. Try again later.\n";

/// No cache may store the response.
pub(super) const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// Begins a response. No cache may store any of them.
pub(super) fn response(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header(NO_STORE);
    response
}

/// Responds with a sentence and a line end, so that a terminal does not run it into the prompt.
pub(super) fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    response(status).insert_header(PLAIN_TEXT).body(body)
}

/// Returns the response to a request whose head is over the limit.
pub(super) fn head_too_long() -> HttpResponse {
    response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        .force_close()
        .insert_header(PLAIN_TEXT)
        .body(HEAD_TOO_LONG)
}

pub(super) async fn not_found() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "Not Found. The routes are listed in /openapi.json.\n")
}

/// Returns the body of a response to a throttled client.
pub(super) fn throttled(retry_after: Duration) -> String {
    let seconds = whole_seconds(retry_after);
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3600), "hour"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("Too many failures. Try again in {count} {unit}{plural}.\n")
}

/// Returns whole seconds, rounded up, because an earlier retry would fail.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W-21
    #[test]
    fn throttled_client_reads_when_to_try_again() {
        for (millis, time) in [
            (1, "1 second"),
            (6001, "7 seconds"),
            (119_000, "119 seconds"),
            (120_000, "2 minutes"),
            (3_540_000, "59 minutes"),
            (3_540_001, "60 minutes"),
            (7_200_000, "2 hours"),
            (86_400_000, "24 hours"),
        ] {
            let expected = format!("Too many failures. Try again in {time}.\n");
            assert_eq!(throttled(Duration::from_millis(millis)), expected);
        }
    }
}
