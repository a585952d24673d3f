//! Envoy's `ext_authz` over HTTP. Envoy appends the path and the query of each request to a prefix,
//! and the Gateway API does the same.
//!
//! Below the configured prefix, the first segment says what is required: `any` user, or
//! `group=NAME,NAME`. The rest belongs to the client. It is the audited target, and decides nothing.
//! The responses are those of [`forward_auth`].

use std::fmt;
use std::str::FromStr;

use actix_web::{HttpRequest, HttpResponse, Resource, guard, web};
use percent_encoding::percent_decode_str;

use super::gate::SharedGate;
use super::response;
use super::routing::with;
use super::{forward_auth, gate::Gate};
use crate::auth::AccessRequest;
use crate::domain::{GroupName, Groups};
use crate::text::printable;

/// The path below which requests of `ext_authz` are answered, e.g. `/ext-authz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtAuthzPrefix(String);

/// An error: the text is no prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a path of letters, digits, hyphens and dots, e.g. /ext-authz")]
pub struct PrefixError;

impl FromStr for ExtAuthzPrefix {
    type Err = PrefixError;

    /// Parses an absolute path without characters that a proxy may encode or remove.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let is_segment = |segment: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
            !matches!(segment, "" | "." | "..") && segment.chars().all(fits)
        };
        match text.strip_prefix('/') {
            Some(path) if path.split('/').all(is_segment) => Ok(Self(text.to_owned())),
            _ => Err(PrefixError),
        }
    }
}

impl fmt::Display for ExtAuthzPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ExtAuthzPrefix {
    /// Returns the path behind the prefix and a slash.
    pub(super) fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str())?.strip_prefix('/')
    }
}

/// Makes the route, if it is configured. It matches every path below the prefix, as it is received.
pub(super) fn resource(gate: &SharedGate) -> Option<Resource> {
    let prefix = gate.ext_authz()?.clone();
    let below = guard::fn_guard(move |context| prefix.rest(context.head().uri.path()).is_some());
    Some(web::resource("/{path:.*}").guard(below).default_service(web::to(with(gate, ext_authz))))
}

async fn ext_authz(request: HttpRequest, gate: SharedGate) -> HttpResponse {
    let Some(prefix) = gate.ext_authz() else { return response::not_found().await };
    // The query is the client's.
    let path = request.head().uri.path();
    let Some((groups, target)) = prefix.rest(path).and_then(requirement) else {
        return forward_auth::misconfigured(
            &gate,
            &format_args!("below {prefix}: the next segment is neither any nor group=NAME"),
        );
    };
    let target = || audited(&gate, &request, target);
    let access = AccessRequest { groups: &groups, target: &target };
    match gate.decide(request.head(), &access).await {
        Ok(decision) => forward_auth::answer(&gate, request.head(), decision),
        Err(_) => forward_auth::unauthorized(&gate, request.head()),
    }
}

/// Describes the original request for the audit log. Some gateways send no path below the prefix.
fn audited(gate: &Gate, request: &HttpRequest, target: &str) -> Option<String> {
    if target.is_empty() {
        return forward_auth::target(gate, request);
    }
    let trusted = gate.trusts(request.peer_addr()?.ip());
    trusted.then(|| printable(&format!("{} {target}", request.method())))
}

/// The maximum length of the first segment, in bytes. It is parsed before the credentials are
/// checked.
const MAX_SEGMENT: usize = 4096;

/// Parses the first segment into the required groups, one of which a user must belong to. Returns
/// them with the rest of the path.
fn requirement(path: &str) -> Option<(Vec<GroupName>, &str)> {
    let (segment, target) = path.split_at(path.find('/').unwrap_or(path.len()));
    if segment == "any" {
        return Some((Vec::new(), target));
    }
    let names = segment.strip_prefix("group=")?;
    if names.len() > MAX_SEGMENT || names.split(',').count() > Groups::MAX {
        return None;
    }
    let group = |name| GroupName::parse(&percent_decode_str(name).decode_utf8().ok()?).ok();
    Some((names.split(',').map(group).collect::<Option<_>>()?, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W-16
    #[test]
    fn prefix_is_an_absolute_path_of_plain_segments() {
        for good in ["/ext-authz", "/a/b.c", "/auth"] {
            assert_eq!(good.parse::<ExtAuthzPrefix>().unwrap().to_string(), good);
        }
        for bad in ["", "/", "ext", "/a/", "//a", "/a/../b", "/a%2F", "/a?b", "/ä", "/a b"] {
            assert_eq!(bad.parse::<ExtAuthzPrefix>(), Err(PrefixError), "{bad}");
        }
        let prefix: ExtAuthzPrefix = "/ext".parse().unwrap();
        assert_eq!(prefix.rest("/ext/any/orders"), Some("any/orders"));
        for other in ["/ext", "/extra/any", "/Ext/any", "/a/ext/any"] {
            assert_eq!(prefix.rest(other), None, "{other}");
        }
    }

    /// W-16: the groups stand in the first segment, and nothing behind it counts.
    #[test]
    fn first_segment_names_the_groups() {
        let seen = |path: &str| {
            let (groups, target) = requirement(path)?;
            let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
            Some((groups.join(" "), target.to_owned()))
        };
        let of = |groups: &str, target: &str| Some((groups.to_owned(), target.to_owned()));
        assert_eq!(seen("any/orders/7"), of("", "/orders/7"));
        assert_eq!(seen("any"), of("", ""));
        assert_eq!(seen("any//x"), of("", "//x"));
        assert_eq!(seen("any/group=staff/x"), of("", "/group=staff/x"));
        assert_eq!(seen("group=admin/any/x"), of("admin", "/any/x"));
        assert_eq!(seen("group=admin,staff/"), of("admin staff", "/"));
        assert_eq!(seen("group=a%2Fb,caf%C3%A9/x"), of("a/b café", "/x"));
        for slip in
            ["", "/x", "orders/7", "anyx/", "group=", "group=/x", "group=a,/x", "group=%FF/"]
        {
            assert_eq!(seen(slip), None, "{slip}");
        }
        let many = |count: usize| format!("group={}/x", vec!["a"; count].join(","));
        assert!(seen(&many(Groups::MAX)).is_some());
        assert_eq!(seen(&many(Groups::MAX + 1)), None);
    }
}
