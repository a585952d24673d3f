//! The header fields that pass a proxy (RFC 9110 section 7.6.1).
//!
//! Decides which fields of a client reach the upstream, which fields of the upstream reach the
//! client, and what the gate says about a request. Framing is written anew by the HTTP libraries.

use std::io::Write;
use std::net::IpAddr;

use actix_http::RequestHead;
use actix_http::header::{HeaderMap as ClientFields, HeaderName as ClientName};
use actix_web::http::header::HeaderValue as ClientValue;
use actix_web::web::Bytes;
use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

use crate::auth::Grant;
use crate::http::peer::FORWARDED_FOR;

/// The user, in UTF-8 (HTTP does not define it: RFC 9110 section 5.5).
const REMOTE_USER: HeaderName = HeaderName::from_static("remote-user");
/// The groups of the user in order, separated by commas.
const REMOTE_GROUPS: HeaderName = HeaderName::from_static("remote-groups");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What the gate knows about a request.
pub(super) struct Forwarded<'a> {
    /// The user, if the request needed one.
    pub(super) grant: Option<&'a Grant>,
    /// The address of the other end of the connection.
    pub(super) peer: IpAddr,
    /// The peer is a trusted proxy, so what it forwards is believed.
    pub(super) is_trusted: bool,
    pub(super) over_tls: bool,
    /// The field with the credentials of the gate. It is dropped, unless they are to be passed.
    pub(super) credentials: Option<&'a ClientName>,
    /// The host of the upstream, for a request of HTTP/1.0 that names none.
    pub(super) upstream: &'a HeaderValue,
}

/// Returns the fields of a request for the upstream, without its framing.
///
/// Dropped are fields about the connection and those that Connection names, the credentials,
/// everything that the gate says itself, in any spelling that an upstream may take for it, and
/// fields that other servers take for another target or address of the request.
pub(super) fn of_request(head: &RequestHead, about: &Forwarded<'_>) -> HeaderMap {
    let fields = head.headers();
    let named =
        NamedFields::of(fields.get_all(actix_http::header::CONNECTION).map(ClientValue::as_bytes));
    // Six are the gate's, and the client's Host and its credentials are usually dropped.
    let mut passed = HeaderMap::with_capacity(fields.len() + 4);
    for (name, value) in fields {
        let text = name.as_str();
        if about.credentials == Some(name)
            || named.contains(text)
            || is_dropped(text, about.is_trusted)
        {
            continue;
        }
        if let Some((name, value)) = for_upstream(text, value.as_bytes()) {
            passed.append(name, value);
        }
    }
    if let Some(grant) = about.grant {
        // Valid names are valid values.
        if let Ok(user) = HeaderValue::from_bytes(grant.user.as_str().as_bytes()) {
            passed.insert(REMOTE_USER, user);
        }
        let groups = Bytes::from(grant.groups.to_string());
        if let Ok(groups) = HeaderValue::from_maybe_shared(groups) {
            passed.insert(REMOTE_GROUPS, groups);
        }
    }
    if let Some(list) = forwarded_for(fields, about) {
        passed.insert(X_FORWARDED_FOR, list);
    }
    // The fields of an untrusted peer were dropped above, so that there is nothing to look up.
    let is_given = |passed: &HeaderMap, name| about.is_trusted && passed.contains_key(name);
    if !is_given(&passed, X_FORWARDED_PROTO) {
        let proto = if about.over_tls { "https" } else { "http" };
        passed.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    let host = host(head).unwrap_or_else(|| about.upstream.clone());
    if !is_given(&passed, X_FORWARDED_HOST) {
        passed.insert(X_FORWARDED_HOST, host.clone());
    }
    passed.insert(header::HOST, host);
    passed
}

/// Returns true for a field about the connection or the framing, in either direction.
fn is_about_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "content-length"
    )
}

/// Returns true for a field of a client that does not reach the upstream.
fn is_dropped(name: &str, is_trusted: bool) -> bool {
    if let Some(folded) = folded(name) {
        return is_dropped(&folded, false);
    }
    match name {
        _ if is_about_connection(name) => true,
        "http2-settings" | "proxy-authorization" => true,
        // Answered here.
        "expect" => true,
        // Written anew.
        "host" | "x-forwarded-for" => true,
        // CGI makes HTTP_PROXY of it, which programs take for a setting (CVE-2016-5385).
        "proxy" => true,
        // Frameworks take these for the target (CVE-2018-14773).
        "x-original-url" | "x-rewrite-url" => true,
        _ => is_identity(name) || (is_address(name) && !is_trusted),
    }
}

/// Returns true for fields of proxies about the client.
fn is_address(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip" | "x-client-ip" | "true-client-ip")
        || name.starts_with("x-forwarded-")
}

/// Returns true for a field about the user, which the gate alone knows.
fn is_identity(name: &str) -> bool {
    name.starts_with("remote-")
}

/// Returns the name that an upstream may read instead of this one, if there is one.
///
/// CGI and its successors fold `-`, `_` and, in PHP, `.` and others into one character.
fn folded(name: &str) -> Option<String> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let fold = |c: u8| if is_plain(c) { char::from(c) } else { '-' };
    (!name.bytes().all(is_plain)).then(|| name.bytes().map(fold).collect())
}

/// Returns the chain of addresses for the upstream: of a trusted proxy its own list and its address,
/// of any other client its address alone.
fn forwarded_for(fields: &ClientFields, about: &Forwarded<'_>) -> Option<HeaderValue> {
    let mut list = Vec::with_capacity(16);
    if about.is_trusted {
        for field in fields.get_all(FORWARDED_FOR) {
            list.extend_from_slice(field.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    match about.peer.to_canonical() {
        // The formatter would take a fifth of the instructions for the whole request.
        IpAddr::V4(address) => {
            for (n, octet) in address.octets().into_iter().enumerate() {
                list.extend_from_slice(if n == 0 { b"" } else { b"." });
                list.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to memory does not fail.
        IpAddr::V6(address) => drop(write!(list, "{address}")),
    }
    HeaderValue::from_maybe_shared(Bytes::from(list)).ok()
}

/// Returns the host of a request. That of an absolute target replaces the field (RFC 9112 section
/// 3.2.2).
fn host(head: &RequestHead) -> Option<HeaderValue> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => head.headers().get(actix_http::header::HOST)?.as_bytes(),
    };
    HeaderValue::from_bytes(host).ok()
}

/// Adds the fields of a response for the client, without its framing.
pub(super) fn of_response(fields: &HeaderMap, passed: &mut ClientFields) {
    let named =
        NamedFields::of(fields.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    for (name, value) in fields {
        let text = name.as_str();
        let is_dropped = is_about_connection(text) || text == "proxy-authentication-info";
        if is_dropped || named.contains(text) {
            continue;
        }
        let name = ClientName::from_bytes(text.as_bytes());
        if let (Ok(name), Ok(value)) = (name, ClientValue::from_bytes(value.as_bytes())) {
            passed.append(name, value);
        }
    }
}

/// Converts a field of a client. What one library accepts is valid to the other.
fn for_upstream(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// The fields that Connection names.
struct NamedFields<'a>(Vec<&'a [u8]>);

impl<'a> NamedFields<'a> {
    fn of(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let options = values.flat_map(|value| value.split(|c| *c == b',')).map(<[u8]>::trim_ascii);
        // The usual options name no field.
        let is_field = |option: &&[u8]| {
            let known: [&[u8]; 4] = [b"", b"close", b"keep-alive", b"upgrade"];
            !known.iter().any(|known| option.eq_ignore_ascii_case(known))
        };
        Self(options.filter(is_field).collect())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use actix_web::test::TestRequest;

    use super::*;
    use crate::domain::{CredentialVersion, GroupName, Groups, UserName};

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    static UPSTREAM: HeaderValue = HeaderValue::from_static("127.0.0.1:8000");

    fn grant() -> Grant {
        let groups = ["staff", "wine"].map(|group| GroupName::parse(group).unwrap());
        Grant {
            user: UserName::parse("roy").unwrap(),
            groups: Arc::new(Groups::new(groups).unwrap()),
            credential_version: CredentialVersion::default(),
        }
    }

    fn sorted(fields: impl IntoIterator<Item = (String, String)>) -> String {
        let mut lines: Vec<_> =
            fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        lines.sort();
        lines.join("\n")
    }

    /// Returns the fields that the upstream sees of a request with these fields.
    fn passed(fields: &[(&str, &str)], about: &Forwarded<'_>) -> String {
        let mut request = TestRequest::get().uri("/a");
        for field in fields {
            request = request.append_header(*field);
        }
        let passed = of_request(request.to_request().head(), about);
        sorted(passed.iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        }))
    }

    fn about(grant: Option<&Grant>) -> Forwarded<'_> {
        let credentials = Some(&actix_http::header::AUTHORIZATION);
        let upstream = &UPSTREAM;
        Forwarded { grant, peer: PEER, is_trusted: false, over_tls: false, credentials, upstream }
    }

    /// The fields of the gate about a request to `api` without a user.
    const OURS: &str =
        "host: api\nx-forwarded-for: 192.0.2.7\nx-forwarded-host: api\nx-forwarded-proto: http";

    /// U-13, U-15
    #[test]
    fn upstream_learns_user_groups_address_and_host() {
        let grant = grant();
        let fields = [("Host", "api"), ("Authorization", "Basic cm95Ong="), ("Accept", "*/*")];
        let expected = "accept: */*
host: api
remote-groups: staff,wine
remote-user: roy
x-forwarded-for: 192.0.2.7
x-forwarded-host: api
x-forwarded-proto: http";
        assert_eq!(passed(&fields, &about(Some(&grant))), expected);
        assert!(passed(&[], &about(None)).starts_with("host: 127.0.0.1:8000\n"), "of HTTP/1.0");
        let over_tls = Forwarded { over_tls: true, credentials: None, ..about(None) };
        let expected = format!("accept: */*\nauthorization: Basic cm95Ong=\n{OURS}s");
        assert_eq!(passed(&fields, &over_tls), expected);
    }

    /// U-13
    #[test]
    fn upstream_learns_addresses_of_both_families() {
        for (peer, expected) in [
            ("255.10.0.1", "255.10.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:DB8::1", "2001:db8::1"),
        ] {
            let about = Forwarded { peer: peer.parse().unwrap(), ..about(None) };
            let seen = passed(&[], &about);
            let line = format!("x-forwarded-for: {expected}");
            assert!(seen.lines().any(|one| one == line), "{seen}");
        }
    }

    /// U-02, in the spellings that upstreams fold. docs/security.md names the advisories.
    #[test]
    fn client_cannot_speak_for_the_gate() {
        for forged in [
            "Remote-User",
            "remote_user",
            "REMOTE.USER",
            "Remote-Groups",
            "Remote-Email",
            "remote*user",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "X_Forwarded-for",
            "X-Forwarded.For",
            "X-Forwarded-Proto",
            "x-forwarded_proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Uri",
            "Forwarded",
            "X-Real-IP",
            "X_Real_IP",
            "True-Client-IP",
            "X-Original-URL",
            "X_Original_URL",
            "Content_Length",
            "Transfer.Encoding",
            "Proxy_Authorization",
            "HTTP2_Settings",
            "X-Rewrite-URL",
            "Proxy",
            "Host",
        ] {
            let fields = [("Host", "api"), (forged, "forged")];
            let fields = if forged == "Host" { &fields[..1] } else { &fields[..] };
            assert_eq!(passed(fields, &about(None)), OURS, "{forged}");
        }
        for own in ["Remotely", "X-Remote-User", "remote1", "X_Own", "X-Original"] {
            let expected = format!("{}: 1", own.to_lowercase());
            let seen = passed(&[("Host", "api"), (own, "1")], &about(None));
            assert!(seen.lines().any(|line| line == expected), "{seen}");
        }
    }

    /// U-13
    #[test]
    fn trusted_proxy_is_believed_and_added_to_the_chain() {
        let trusted = Forwarded { is_trusted: true, ..about(None) };
        let fields = [
            ("Host", "api"),
            ("X-Forwarded-For", "198.51.100.1, 10.0.0.1"),
            ("X-Forwarded-For", "10.0.0.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "www.example.com"),
            ("X-Forwarded-Port", "443"),
            ("X_Forwarded_For", "forged"),
            ("X_Forwarded_Proto", "forged"),
        ];
        let expected = "host: api
x-forwarded-for: 198.51.100.1, 10.0.0.1, 10.0.0.2, 192.0.2.7
x-forwarded-host: www.example.com
x-forwarded-port: 443
x-forwarded-proto: https";
        assert_eq!(passed(&fields, &trusted), expected);
    }

    /// U-03, U-02: Connection cannot remove fields of the gate, and fields that it names end here.
    #[test]
    fn fields_about_the_connection_end_here() {
        let grant = grant();
        for field in [
            "Keep-Alive",
            "Proxy-Connection",
            "TE",
            "Trailer",
            "Upgrade",
            "HTTP2-Settings",
            "Proxy-Authorization",
            "Expect",
            "Content-Length",
            "Transfer-Encoding",
        ] {
            assert_eq!(passed(&[("Host", "api"), (field, "1")], &about(None)), OURS, "{field}");
        }
        let fields = [
            ("Host", "api"),
            ("Connection", ""),
            ("Connection", "keep-alive, X-One"),
            ("Connection", "x-two,Remote-User, Host, X-Forwarded-For"),
            ("X-One", "1"),
            ("X-Two", "2"),
        ];
        assert_eq!(passed(&fields, &about(None)), OURS);
        let seen = passed(&fields, &about(Some(&grant)));
        assert!(
            seen.contains("remote-user: roy"),
            "Connection removes nothing of the gate: {seen}"
        );
    }

    /// U-12: with a field of its own for the credentials, Authorization is the API's.
    #[test]
    fn field_with_the_credentials_is_dropped() {
        let own = ClientName::from_static("x-gate");
        let about = Forwarded { credentials: Some(&own), ..about(None) };
        let fields = [("Host", "api"), ("X-Gate", "Basic cm95Ong="), ("Authorization", "Bearer 1")];
        assert_eq!(passed(&fields, &about), format!("authorization: Bearer 1\n{OURS}"));
    }

    /// U-03
    #[test]
    fn client_gets_the_fields_of_the_response() {
        let fields = [
            ("server", "api"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("trailer", "x"),
        ];
        let mut response = HeaderMap::new();
        for (name, value) in fields {
            response.append(name, HeaderValue::from_static(value));
        }
        let mut passed = ClientFields::new();
        of_response(&response, &mut passed);
        let seen = sorted(passed.iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        }));
        assert_eq!(seen, "server: api\nset-cookie: a=1\nset-cookie: b=2");
    }
}
