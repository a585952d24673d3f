//! Forward authentication: a proxy asks whether a request may pass, and takes the status for the answer.
//!
//! Proxies know three: 200 lets it pass, 401 and 403 are handed to the client, and whatever else there is becomes an error of the
//! proxy's own (nginx makes a 500 of it). So there is no other one here, and a field of its own says what it would have been.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Resource, web};
use percent_encoding::percent_decode_str;

use super::{Gate, PLAIN_TEXT, SharedGate, exactly, peer, response, whole_seconds, with};
use crate::auth::{Ask, Decision, Grant};
use crate::credential::{GroupName, Groups};
use crate::text::printable;

/// Where proxies ask.
pub(super) const PATH: &str = "/auth";

/// Who passes, for whoever is behind the proxy: in UTF-8, where HTTP says nothing (RFC 9110 section 5.5).
const REMOTE_USER: HeaderName = HeaderName::from_static("remote-user");
/// The groups that they are in, with commas between, in the order of their names.
const REMOTE_GROUPS: HeaderName = HeaderName::from_static("remote-groups");
/// Why it is a 403.
const REASON: HeaderName = HeaderName::from_static("x-auth-reason");

/// In which fields proxies say what they were asked for: the method, and the target.
const METHODS: [&str; 2] = ["x-forwarded-method", "x-original-method"];
const TARGETS: [&str; 3] = ["x-forwarded-uri", "x-original-uri", "x-original-url"];

/// The route: any method, since proxies pass on the one of the client, and without a look at a body.
pub(super) fn resource(gate: &SharedGate) -> Resource {
    exactly(PATH).default_service(web::to(with(gate, auth)))
}

async fn auth(request: HttpRequest, gate: SharedGate) -> HttpResponse {
    let Some(groups) = groups(request.query_string()) else {
        // A slip in somebody's configuration must not open a door.
        gate.misconfigured.call_once(|| {
            log::warn!(
                "denied a request to {PATH}: its query string is not of the form group=NAME (check the proxy configuration)"
            );
        });
        return forbidden("misconfigured").finish();
    };
    let target = || target(&gate, &request);
    let ask = Ask { groups: &groups, target: &target };
    match gate.decide(&request, &ask).await {
        Ok(decision) => answer(&gate, decision),
        Err(_) => gate.denied(),
    }
}

// A new decision must be given its response here: nothing may fall through to another one's.
#[deny(clippy::wildcard_enum_match_arm)]
fn answer(gate: &Gate, decision: Decision) -> HttpResponse {
    match decision {
        Decision::Granted(grant) => granted(&grant).unwrap_or_else(failed),
        Decision::Denied => gate.denied(),
        Decision::Forbidden => forbidden("group").finish(),
        Decision::Throttled { retry_after } => later("throttled", retry_after),
        Decision::Overloaded => later("overloaded", Duration::from_secs(1)),
        Decision::Unavailable => failed(),
    }
}

/// `None` if the name could not be said; no name that there is makes that happen.
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

fn later(reason: &'static str, retry_after: Duration) -> HttpResponse {
    forbidden(reason)
        .insert_header((header::RETRY_AFTER, whole_seconds(retry_after)))
        .body("Forbidden")
}

/// For whatever goes wrong on our side.
pub(super) fn failed() -> HttpResponse {
    later("unavailable", Duration::from_secs(1))
}

/// For a head over the limit.
pub(super) fn too_long() -> HttpResponse {
    forbidden("too-long").force_close().finish()
}

/// The longest query that is parsed, in bytes: it is parsed before the credentials are checked.
const MAX_QUERY: usize = 4096;

/// Parses the groups of a query, `group=admin&group=staff`, at most [`Groups::MAX`] of them.
/// Returns `None` for any other query: then it is not known what was meant.
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

/// What the proxy was asked for, fit for a line of the log; without the query, in which people put secrets. Only a trusted proxy is
/// believed.
fn target(gate: &Gate, request: &HttpRequest) -> Option<String> {
    if !peer::is_trusted(&gate.settings.trusted_proxies, request.peer_addr()?.ip()) {
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
    fn a_query_names_groups_or_it_is_not_known_what_was_meant() {
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

    /// what a query costs before the credentials are checked is bounded.
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
