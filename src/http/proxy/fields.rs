//! The header fields that pass a proxy (RFC 9110 section 7.6.1).
//!
//! Decides which fields of a client reach the upstream, which fields of the upstream reach the
//! client, and what the gate says about a request. Framing is written anew by the HTTP libraries.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

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
    pub(super) grant: Option<&'a Arc<Grant>>,
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

/// What the gate said about the last request of a connection. The next one usually has the same user
/// and host, and a copy costs less than six new fields.
#[derive(Default)]
pub(super) struct LastSaid(RefCell<Option<Said>>);

/// What the gate says about the requests of one user to one host.
struct Said {
    grant: Option<Arc<Grant>>,
    host: HeaderValue,
    is_trusted: bool,
    fields: HeaderMap,
}

impl LastSaid {
    /// Returns the fields of the gate for a request to this host.
    fn fields(&self, host: &[u8], about: &Forwarded<'_>) -> HeaderMap {
        let mut last = self.0.borrow_mut();
        match &*last {
            Some(said) if said.fits(host, about) => said.fields.clone(),
            _ => last.insert(Said::new(host, about)).fields.clone(),
        }
    }
}

impl Said {
    fn new(host: &[u8], about: &Forwarded<'_>) -> Self {
        // Room for a few fields of a client, since copies have the same.
        let mut fields = HeaderMap::with_capacity(12);
        if let Some(grant) = about.grant {
            // Valid names are valid values.
            if let Ok(user) = HeaderValue::from_bytes(grant.user.as_str().as_bytes()) {
                fields.insert(REMOTE_USER, user);
            }
            let groups = Bytes::from(grant.groups.to_string());
            if let Ok(groups) = HeaderValue::from_maybe_shared(groups) {
                fields.insert(REMOTE_GROUPS, groups);
            }
        }
        let host = HeaderValue::from_bytes(host).unwrap_or_else(|_| about.upstream.clone());
        fields.insert(header::HOST, host.clone());
        let address = Bytes::from(about.peer.to_canonical().to_string());
        if let Ok(address) = HeaderValue::from_maybe_shared(address) {
            fields.insert(X_FORWARDED_FOR, address);
        }
        if !about.is_trusted {
            fields.insert(X_FORWARDED_PROTO, proto(about));
            fields.insert(X_FORWARDED_HOST, host.clone());
        }
        let Forwarded { grant, is_trusted, .. } = *about;
        Self { grant: grant.cloned(), host, is_trusted, fields }
    }

    /// Returns true if the gate says the same about this request. The rest of what it knows belongs to
    /// the connection.
    fn fits(&self, host: &[u8], about: &Forwarded<'_>) -> bool {
        let is_same_user = match (&self.grant, about.grant) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        is_same_user && self.is_trusted == about.is_trusted && self.host.as_bytes() == host
    }
}

/// Returns the fields of a request for the upstream, without its framing.
///
/// Dropped are fields about the connection and those that Connection names, the credentials,
/// everything that the gate says itself, in any spelling that an upstream may take for it, and
/// fields that other servers take for another target or address of the request.
pub(super) fn of_request(head: &RequestHead, about: &Forwarded<'_>, last: &LastSaid) -> HeaderMap {
    let fields = head.headers();
    let named =
        NamedFields::of(fields.get_all(actix_http::header::CONNECTION).map(ClientValue::as_bytes));
    let mut passed = last.fields(host(head).unwrap_or(about.upstream.as_bytes()), about);
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
    if about.is_trusted {
        if let Some(chain) = passed.get(X_FORWARDED_FOR).and_then(|own| chain(fields, own)) {
            passed.insert(X_FORWARDED_FOR, chain);
        }
        passed.entry(X_FORWARDED_PROTO).or_insert_with(|| proto(about));
        if !passed.contains_key(X_FORWARDED_HOST)
            && let Some(host) = passed.get(header::HOST).cloned()
        {
            passed.insert(X_FORWARDED_HOST, host);
        }
    }
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

/// Returns the addresses that a trusted proxy forwards, and its own.
fn chain(fields: &ClientFields, own: &HeaderValue) -> Option<HeaderValue> {
    let mut chain = Vec::new();
    for field in fields.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(field.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(own.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain)).ok()
}

fn proto(about: &Forwarded<'_>) -> HeaderValue {
    HeaderValue::from_static(if about.over_tls { "https" } else { "http" })
}

/// Returns the host of a request. That of an absolute target replaces the field (RFC 9112 section
/// 3.2.2).
fn host(head: &RequestHead) -> Option<&[u8]> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => head.headers().get(actix_http::header::HOST).map(ClientValue::as_bytes),
    }
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

    use actix_web::test::TestRequest;

    use super::*;
    use crate::domain::{CredentialVersion, GroupName, Groups, UserName};

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    static UPSTREAM: HeaderValue = HeaderValue::from_static("127.0.0.1:8000");

    fn grant_to(user: &str) -> Arc<Grant> {
        let groups = ["staff", "wine"].map(|group| GroupName::parse(group).unwrap());
        Arc::new(Grant {
            user: UserName::parse(user).unwrap(),
            groups: Arc::new(Groups::new(groups).unwrap()),
            credential_version: CredentialVersion::default(),
        })
    }

    fn grant() -> Arc<Grant> {
        grant_to("roy")
    }

    fn sorted(fields: impl IntoIterator<Item = (String, String)>) -> String {
        let mut lines: Vec<_> =
            fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        lines.sort();
        lines.join("\n")
    }

    /// Returns the fields that the upstream sees of a request with these fields.
    fn passed(fields: &[(&str, &str)], about: &Forwarded<'_>) -> String {
        passed_after(&LastSaid::default(), fields, about)
    }

    /// Returns the same for a request of a connection.
    fn passed_after(last: &LastSaid, fields: &[(&str, &str)], about: &Forwarded<'_>) -> String {
        let mut request = TestRequest::get().uri("/a");
        for field in fields {
            request = request.append_header(*field);
        }
        let passed = of_request(request.to_request().head(), about, last);
        sorted(passed.iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        }))
    }

    fn about(grant: Option<&Arc<Grant>>) -> Forwarded<'_> {
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

    /// U-13, U-02: in every order of two requests.
    #[test]
    fn next_request_of_a_connection_has_its_own_user_host_and_proxy() {
        let (roy, other, fields) = (grant(), grant_to("ann"), [("X-Forwarded-Proto", "wss")]);
        let mut requests = Vec::new();
        for grant in [None, Some(&roy), Some(&other)] {
            for host in ["api", "www"] {
                for is_trusted in [false, true] {
                    requests.push((host, Forwarded { is_trusted, ..about(grant) }));
                }
            }
        }
        let with_host = |host| [("Host", host), fields[0]];
        for (first, about_first) in &requests {
            for (host, about) in &requests {
                let last = LastSaid::default();
                passed_after(&last, &with_host(first), about_first);
                let alone = passed(&with_host(host), about);
                assert_eq!(passed_after(&last, &with_host(host), about), alone);
                assert!(alone.contains(&format!("host: {host}")), "{alone}");
            }
        }
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
