//! Forward authentication. The status of `/auth` tells a reverse proxy whether to pass a request.
//!
//! Proxies handle three statuses: 200 passes the request, 401 and 403 go to the client. Any other
//! status becomes an error of the proxy (nginx: 500). So this route answers with no other status,
//! and the field X-Auth-Reason gives the reason of a 403.

use std::fmt;
use std::time::Duration;

use actix_http::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Resource, web};
use percent_encoding::percent_decode_str;

use super::gate::{Gate, SharedGate};
use super::response::{
    HEAD_TOO_LONG, NOT_IN_GROUP, OVERLOADED, PLAIN_TEXT, UNAVAILABLE, response, throttled,
    whole_seconds,
};
use super::routing::{exactly, with};
use crate::auth::{AccessRequest, Decision, Grant};
use crate::domain::{GroupName, Groups};
use crate::text::printable;

/// The path of the route.
pub(super) const PATH: &str = "/auth";

/// The user, for the API behind the proxy, in UTF-8 (HTTP does not define it: RFC 9110 section
/// 5.5).
const REMOTE_USER: HeaderName = HeaderName::from_static("remote-user");
/// The groups of the user in order, separated by commas.
const REMOTE_GROUPS: HeaderName = HeaderName::from_static("remote-groups");
/// The reason of a 403.
const REASON: HeaderName = HeaderName::from_static("x-auth-reason");

/// The body of a 401, which some proxies pass to the client.
const UNAUTHORIZED: &str = "Unauthorized. Log in with a valid user name and password.\n";
/// The body of the response to an invalid query.
const MISCONFIGURED: &str =
    "Forbidden. The proxy's configuration is wrong. Tell the administrator.\n";

/// The time after which a client may try again.
const SOON: Duration = Duration::from_secs(1);

/// The fields in which proxies send the method and the target of the original request.
const METHODS: [&str; 2] = ["x-forwarded-method", "x-original-method"];
const TARGETS: [&str; 3] = ["x-forwarded-uri", "x-original-uri", "x-original-url"];

/// Makes the route for any method, since proxies send the method of the client.
pub(super) fn resource(gate: &SharedGate) -> Resource {
    exactly(PATH).default_service(web::to(with(gate, auth)))
}

async fn auth(request: HttpRequest, gate: SharedGate) -> HttpResponse {
    let Some(groups) = groups(request.query_string()) else {
        let what = format_args!("to {PATH}: its query string is not of the form group=NAME");
        return misconfigured(&gate, &what);
    };
    let target = || target(&gate, &request);
    let access = AccessRequest { groups: &groups, target: &target };
    match gate.decide(request.head(), &access).await {
        Ok(decision) => answer(&gate, request.head(), decision),
        Err(_) => unauthorized(&gate, request.head()),
    }
}

/// Returns the response to a request of which a proxy has a mistake in its configuration. It must
/// not grant access. The log names the first one.
pub(super) fn misconfigured(gate: &Gate, what: &dyn fmt::Display) -> HttpResponse {
    gate.misconfigured.call_once(|| {
        log::warn!("denied a request {what} (check the proxy configuration)");
    });
    forbidden("misconfigured").body(MISCONFIGURED)
}

/// Returns the challenge.
pub(super) fn unauthorized(gate: &Gate, request: &RequestHead) -> HttpResponse {
    gate.denied(request, UNAUTHORIZED)
}

// Exhaustive, so that a new decision cannot get the response of another one.
#[deny(clippy::wildcard_enum_match_arm)]
pub(super) fn answer(gate: &Gate, request: &RequestHead, decision: Decision) -> HttpResponse {
    match decision {
        Decision::Granted(grant) => granted(&grant).unwrap_or_else(unavailable),
        Decision::Denied => unauthorized(gate, request),
        Decision::Forbidden => forbidden("group").body(NOT_IN_GROUP),
        Decision::Throttled { retry_after } => {
            later("throttled", retry_after).body(throttled(retry_after))
        }
        Decision::Overloaded => later("overloaded", SOON).body(OVERLOADED),
        Decision::Unavailable => unavailable(),
    }
}

/// Returns `None` if a name is no valid field value, which cannot happen with valid names.
fn granted(grant: &Grant) -> Option<HttpResponse> {
    let user = HeaderValue::from_bytes(grant.user.as_str().as_bytes()).ok()?;
    let groups = HeaderValue::from_bytes(grant.groups.to_string().as_bytes()).ok()?;
    Some(
        response(StatusCode::OK)
            .insert_header((REMOTE_USER, user))
            .insert_header((REMOTE_GROUPS, groups))
            .finish(),
    )
}

fn forbidden(reason: &'static str) -> HttpResponseBuilder {
    let mut response = response(StatusCode::FORBIDDEN);
    response.insert_header((REASON, reason)).insert_header(PLAIN_TEXT);
    response
}

fn later(reason: &'static str, retry_after: Duration) -> HttpResponseBuilder {
    let mut response = forbidden(reason);
    response.insert_header((header::RETRY_AFTER, whole_seconds(retry_after)));
    response
}

/// Returns the response after a failure of the server.
pub(super) fn unavailable() -> HttpResponse {
    later("unavailable", SOON).body(UNAVAILABLE)
}

/// Returns the response to a request whose head is over the limit.
pub(super) fn head_too_long() -> HttpResponse {
    forbidden("too-long").force_close().body(HEAD_TOO_LONG)
}

/// The maximum length of a query, in bytes. It is parsed before the credentials are checked.
const MAX_QUERY: usize = 4096;

/// Parses the groups of a query, `group=admin&group=staff`, at most [`Groups::MAX`] of them.
/// Returns `None` for any other query.
fn groups(query: &str) -> Option<Vec<GroupName>> {
    if query.is_empty() {
        return Some(Vec::new());
    }
    if query.len() > MAX_QUERY || query.split('&').count() > Groups::MAX {
        return None;
    }
    query
        .split('&')
        .map(|pair| {
            let group = pair.strip_prefix("group=")?;
            GroupName::parse(&percent_decode_str(group).decode_utf8().ok()?).ok()
        })
        .collect()
}

/// Describes the original request for the audit log, without its query, which may contain secrets.
/// Only trusted proxies can name it.
pub(super) fn target(gate: &Gate, request: &HttpRequest) -> Option<String> {
    if !gate.trusts(request.peer_addr()?.ip()) {
        return None;
    }
    let first = |names: &[&str]| {
        let value = names.iter().find_map(|name| request.headers().get(*name))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let target = first(&TARGETS)?;
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let method = first(&METHODS).unwrap_or_else(|| "-".to_owned());
    Some(printable(&format!("{method} {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_names_groups_or_is_refused() {
        let names = |query| {
            let groups = groups(query)?;
            Some(groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names("").as_deref(), Some(""));
        assert_eq!(names("group=admin").as_deref(), Some("admin"));
        assert_eq!(names("group=admin&group=staff").as_deref(), Some("admin staff"));
        assert_eq!(names("group=caf%C3%A9").as_deref(), Some("café"));
        for slip in [
            "group=",
            "group",
            "groups=admin",
            "group=admin&",
            "group=a,b",
            "group=%FF",
            "x=1&group=admin",
        ] {
            assert_eq!(names(slip), None, "{slip}");
        }
    }

    /// the cost of a query before the credentials are checked is bounded.
    #[test]
    fn query_of_too_many_groups_or_bytes_is_refused() {
        let query = |names: usize, length: usize| {
            vec![format!("group={}", "a".repeat(length)); names].join("&")
        };
        assert_eq!(groups(&query(Groups::MAX, 1)).map(|names| names.len()), Some(Groups::MAX));
        assert_eq!(groups(&query(Groups::MAX + 1, 1)), None);
        assert!(query(40, 100).len() > MAX_QUERY);
        assert!(groups(&query(30, 100)).is_some());
        assert_eq!(groups(&query(40, 100)), None);
    }
}
