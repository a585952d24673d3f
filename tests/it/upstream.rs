//! The proxy in front of an API: what reaches the API, what comes back, and what happens if the API
//! fails. The API is played connection by connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::client::{Connection, Request, Response, TIMEOUT, basic};
use crate::support::server::Server;
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field, ok};
use crate::support::{HttpConfig, ProxyConfig};

/// A gate in front of an API, with the user roy.
struct Proxied {
    upstream: Upstream,
    server: Server,
    _store: TempStore,
}

impl Proxied {
    fn new(upstream: Upstream) -> Self {
        Self::with(upstream, |_| {})
    }

    fn with(upstream: Upstream, change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let (url, timeout) = (upstream.url(), HttpConfig::IO_TIMEOUT);
        let server = Server::start_proxy(store.reader(), &url, timeout, change);
        Self { upstream, server, _store: store }
    }

    fn send(&self, request: Request) -> Response {
        roy(request).send(self.server.address)
    }

    fn connect(&self) -> Connection {
        Connection::open(self.server.address)
    }
}

/// Adds the credentials of roy.
fn roy(request: Request) -> Request {
    request.basic("roy", "open-sesame")
}

/// Returns the credentials of roy as a line of a head.
fn roy_line() -> String {
    format!("Authorization: {}\r\n", basic("roy", "open-sesame"))
}

/// U-01: a request that is not admitted opens no connection to the API.
#[test]
fn nothing_reaches_the_api_without_a_grant() {
    let proxied = Proxied::new(Upstream::echo());
    let websocket =
        |request: Request| request.header("Connection", "upgrade").header("Upgrade", "websocket");
    let body = |request: Request| request.header("Content-Length", "5");
    for (request, status) in [
        (Request::get("/"), 401),
        (Request::get("/rest-auth"), 401),
        (Request::get("/healthz"), 401),
        (Request::get("/auth"), 401),
        (Request::get("http://localhost/"), 401),
        (Request::new("OPTIONS", "*"), 401),
        (Request::get("/").basic("roy", "wrong"), 401),
        (Request::get("/").basic("ann", "open-sesame"), 401),
        (Request::get("/").authorization("Bearer open-sesame"), 401),
        (Request::get("/").header("Remote-User", "roy"), 401),
        (roy(roy(Request::get("/"))), 400),
        (roy(Request::new("CONNECT", "localhost:80")), 405),
        (body(Request::new("POST", "/")), 401),
        (body(Request::new("POST", "/")).header("Expect", "100-continue"), 401),
        (websocket(Request::get("/")), 401),
        (roy(websocket(Request::new("POST", "/"))), 400),
        (roy(body(websocket(Request::get("/")))), 400),
        (roy(Request::get("/").header("Upgrade", "websocket")), 400),
    ] {
        let response = request.send(proxied.server.address);
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.header("www-authenticate").is_some(), status == 401, "{request:?}");
    }
    assert_eq!(proxied.upstream.connections(), 0);
    assert_eq!(proxied.send(Request::get("/")).status, 200);
    assert_eq!(proxied.upstream.connections(), 1);
}

/// P-09: refusals do not tell why.
#[test]
fn refusals_of_the_proxy_are_alike() {
    let proxied = Proxied::new(Upstream::echo());
    let refused = |user: &str, password: &str| {
        Request::get("/").basic(user, password).send(proxied.server.address)
    };
    for _ in 0..10 {
        assert_eq!(refused("roy", "wrong"), refused("ann", "wrong"), "the order of fields too");
    }
    assert_eq!(refused("roy", "wrong").header("cache-control"), Some("no-store"));
}

/// U-13, U-15
#[test]
fn api_learns_the_user_and_not_the_password() {
    let proxied = Proxied::new(Upstream::echo());
    let request = Request::get("/a//b/%2e%2F;x?y=%20#z")
        .header("Remote-User", "eve")
        .header("Remote_Groups", "admin")
        .header("X-Forwarded-For", "198.51.100.1")
        .header("Connection", "Remote-User, X-Gone")
        .header("X-Gone", "1")
        .header("Cookie", "a=1");
    let response = proxied.send(Request::get("/a//b/%2e%2F;x?y=%20"));
    let target = response.body.lines().next().map(str::to_owned);
    assert_eq!(target.as_deref(), Some("GET /a//b/%2e%2F;x?y=%20 HTTP/1.1"), "as it was sent");
    let seen = proxied.send(request).body;
    for (name, value) in [
        ("remote-user", Some("roy")),
        ("remote-groups", Some("")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("localhost")),
        ("host", Some("localhost")),
        ("cookie", Some("a=1")),
        ("authorization", None),
        ("x-gone", None),
        ("connection", None),
        ("content-length", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(field(&seen, name), value, "{name} in {seen}");
    }
    assert!(!seen.contains("eve") && !seen.contains("admin"), "{seen}");
}

/// U-15
#[test]
fn authorization_is_passed_where_it_is_asked_for() {
    let proxied = Proxied::with(Upstream::echo(), |proxy| proxy.pass_authorization = true);
    let seen = proxied.send(Request::get("/")).body;
    assert_eq!(field(&seen, "authorization"), Some(&*basic("roy", "open-sesame")));
}

/// U-03: fields about the connection with the API end here, and no field is lost.
#[test]
fn response_keeps_its_fields_and_gets_framing_of_its_own() {
    let proxied = Proxied::new(Upstream::answering(|_, _| {
        b"HTTP/1.1 203 Odd\r\nContent-Length: 2\r\nConnection: X-Gone\r\nX-Gone: 1\r\n\
          Keep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: api\r\n\
          Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhi"
            .to_vec()
    }));
    let response = proxied.send(Request::get("/"));
    let mut fields = response.headers.clone();
    fields.sort();
    let expected =
        [("content-length", "2"), ("server", "api"), ("set-cookie", "a=1"), ("set-cookie", "b=2")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!((response.status, fields, &*response.body), (203, expected.into(), "hi"));
}

/// Keep-alive on both sides: the requests of one client share a connection to the API.
#[test]
fn connections_are_used_again_on_both_sides() {
    let proxied = Proxied::new(Upstream::echo());
    let mut client = proxied.connect();
    for n in 0..20 {
        let post = Request::new("POST", "/").header("Content-Length", "3");
        client.write(&[roy(post).bytes(), b"abc".to_vec()].concat());
        let response = client.read();
        assert!(response.status == 200 && response.body.ends_with("3 bytes"), "{n}: {response:?}");
        assert_eq!(client.send(&roy(Request::new("HEAD", "/"))).status, 200, "{n}");
    }
    // The last exchange of a connection may be ending when the next request comes.
    assert!(proxied.upstream.connections() <= 2, "{}", proxied.upstream.connections());
}

#[test]
fn response_without_a_body_keeps_its_length() {
    let proxied = Proxied::new(Upstream::answering(|head, _| {
        let status = head.split(['/', ' ']).nth(2).unwrap();
        let body = if head.starts_with("HEAD") { "" } else { status };
        match status {
            "204" => b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n".to_vec(),
            "304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: x\r\n\r\n".to_vec(),
            "0" => ok(""),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}").into_bytes(),
        }
    }));
    let mut client = proxied.connect();
    for _ in 0..2 {
        let head = client.send(&roy(Request::new("HEAD", "/200")));
        assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
        client.write(&roy(Request::get("/304")).bytes());
        let unmodified = client.read_head();
        let seen = (unmodified.header("content-length"), unmodified.header("etag"));
        assert_eq!((unmodified.status, seen), (304, (Some("7"), Some("x"))));
        let none = client.send(&roy(Request::get("/204")));
        assert_eq!(
            (none.status, none.header("content-length"), none.header("x")),
            (204, None, Some("1"))
        );
        assert_eq!(client.send(&roy(Request::get("/0"))).body, "");
        assert_eq!(client.send(&roy(Request::get("/200"))).body, "200");
    }
    assert!(proxied.upstream.connections() <= 2, "{}", proxied.upstream.connections());
}

/// Interim responses end here (RFC 9110 section 15.2), and the final one is passed.
#[test]
fn interim_responses_of_the_api_are_skipped() {
    let proxied = Proxied::new(Upstream::answering(|_, _| {
        let interim =
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        [&interim[..], &ok("final")].concat()
    }));
    let response = proxied.send(Request::get("/"));
    assert_eq!((response.status, &*response.body), (200, "final"));
    assert_eq!(response.header("link"), None);
}

#[test]
fn old_clients_and_old_apis_are_served() {
    // Its body ends with the connection.
    let proxied = Proxied::new(Upstream::start(|mut api| {
        let Some(head) = api.head() else { return };
        api.body(&head);
        api.write(format!("HTTP/1.0 200 OK\r\n\r\n{head}"));
        api.close();
    }));
    let mut client = proxied.connect();
    client.write(format!("GET /old HTTP/1.0\r\n{}\r\n", roy_line()).as_bytes());
    let response = client.read_head();
    assert_eq!((response.status, response.header("transfer-encoding")), (200, None));
    let seen = client.rest();
    assert!(seen.starts_with("GET /old HTTP/1.1\r\n"), "{seen}");
    let host = proxied.upstream.address.to_string();
    assert_eq!(field(&seen, "host"), Some(&*host), "the client has named none");
    // The same response to a client of HTTP/1.1, on a connection that stays.
    let mut client = proxied.connect();
    for _ in 0..2 {
        client.write(&roy(Request::get("/new")).bytes());
        assert_eq!(client.read_head().header("transfer-encoding"), Some("chunked"));
        let mut body = Vec::new();
        while let Some(chunk) = client.read_chunk() {
            body.extend(chunk);
        }
        assert!(body.starts_with(b"GET /new HTTP/1.1\r\n"));
    }
}

/// 100 Continue is sent after the decision, and before the content.
#[test]
fn content_is_asked_for_after_authentication() {
    let proxied = Proxied::with(Upstream::echo(), |proxy| proxy.max_body = Some(10));
    let expecting = |length: usize| {
        let post = Request::new("POST", "/").header("Expect", "100-continue");
        post.header("Content-Length", length.to_string())
    };
    let mut client = proxied.connect();
    client.write(&roy(expecting(5)).bytes());
    assert_eq!(client.read_head().status, 100);
    client.write(b"12345");
    let response = client.read();
    assert!(response.status == 200 && response.body.ends_with("5 bytes"), "{response:?}");
    assert_eq!(field(&response.body, "expect"), None);
    let before = proxied.upstream.connections();
    for (request, status) in
        [(expecting(5), 401), (expecting(5).basic("roy", "wrong"), 401), (roy(expecting(11)), 413)]
    {
        let response = request.send(proxied.server.address);
        let seen = (response.status, response.header("connection"));
        assert_eq!(seen, (status, Some("close")), "its content is not read");
    }
    assert_eq!(proxied.upstream.connections(), before);
}

/// U-05: a body over the limit does not reach the API, or not its end if it has no length.
#[test]
fn body_over_the_limit_is_refused() {
    let (sender, events) = channel();
    let upstream = Upstream::start(move |mut api| {
        while let Some(head) = api.head() {
            if field(&head, "content-length").is_some() {
                sender.send(api.body(&head).len()).unwrap();
            } else {
                // Sends 0 for the end of the body, and 1000 if it does not come.
                while let Some(chunk) = api.chunk() {
                    sender.send(chunk.len()).unwrap();
                    if chunk.is_empty() {
                        break;
                    }
                }
                sender.send(1000).unwrap();
            }
            api.write(ok(""));
        }
    });
    let proxied = Proxied::with(upstream, |proxy| proxy.max_body = Some(10));
    let sized = |length: usize| {
        let mut client = proxied.connect();
        let post = Request::new("POST", "/").header("Content-Length", length.to_string());
        client.write(&[roy(post).bytes(), vec![b'x'; length]].concat());
        client.read().status
    };
    assert_eq!((sized(10), events.recv().unwrap()), (200, 10));
    assert_eq!(sized(11), 413);
    assert_eq!(proxied.upstream.connections(), 1, "the API has not seen the second request");
    let chunked = |last: &[u8]| {
        let mut client = proxied.connect();
        let post = roy(Request::new("POST", "/").header("Transfer-Encoding", "chunked"));
        client.write(&[&post.bytes()[..], b"9\r\n123456789\r\n"].concat());
        assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), 9, "passed on as it comes");
        client.write(last);
        client.read().status
    };
    let next = || events.recv_timeout(TIMEOUT).unwrap();
    assert_eq!((chunked(b"1\r\nx\r\n0\r\n\r\n"), next(), next(), next()), (200, 1, 0, 1000));
    assert_eq!((chunked(b"2\r\nxx\r\n0\r\n\r\n"), next()), (413, 1000));
}

/// U-04: a request that two servers could read differently is refused, and the API sees nothing of
/// it. docs/security.md names the advisories of these cases.
#[test]
fn ambiguous_framing_never_passes() {
    let proxied = Proxied::new(Upstream::echo());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length : 4\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding\u{b}: chunked\r\n",
        "X: 1\r\n Transfer-Encoding: chunked\r\n",
        "X: 1\nTransfer-Encoding: chunked\r\n",
        "Host: b\r\n",
    ] {
        let mut client = proxied.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{}{fields}\r\n", roy_line());
        client.write(format!("{head}0\r\n\r\n{smuggled}").as_bytes());
        let _ = client.close();
    }
    let old = format!(
        "POST / HTTP/1.0\r\n{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        roy_line()
    );
    let mut client = proxied.connect();
    client.write(old.as_bytes());
    let _ = client.close();
    assert_eq!(proxied.upstream.connections(), 0);
    // Chunk extensions and trailers are not passed on.
    let mut client = proxied.connect();
    let post = roy(Request::new("POST", "/").header("Transfer-Encoding", "chunked"));
    let chunks = "5;a=b\r\nhello\r\n0\r\nRemote-User: eve\r\nX: 1\r\n\r\n";
    client.write(&[&post.bytes(), chunks.as_bytes()].concat());
    let response = client.read();
    assert!(response.body.ends_with("5 bytes") && !response.body.contains("eve"), "{response:?}");
    for chunks in [
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloxx0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut client = proxied.connect();
        client.write(&[&post.bytes(), chunks.as_bytes()].concat());
        assert!(!client.close().unwrap_or_default().contains(" 200 "), "{chunks:?}");
    }
}

/// U-04: the content of a refused request is never a request.
#[test]
fn content_of_a_refused_request_is_no_request() {
    let proxied = Proxied::new(Upstream::echo());
    let smuggled = roy(Request::get("/smuggled")).bytes();
    for (request, status) in [
        (Request::get("/"), 401),
        (Request::get("/").basic("roy", "wrong"), 401),
        (roy(Request::new("CONNECT", "localhost:80")), 405),
        (roy(roy(Request::get("/"))), 400),
    ] {
        let head = request.header("Content-Length", smuggled.len().to_string()).bytes();
        let at_once = [head.clone(), smuggled.clone()].concat();
        // With its content, and with content that follows the response.
        for (sent, late) in [(&at_once, &b""[..]), (&head, &smuggled)] {
            let mut client = proxied.connect();
            client.write(sent);
            assert_eq!(client.read().status, status);
            client.write(late);
            assert!(!client.close().unwrap_or_default().contains("HTTP/1.1"));
        }
    }
    assert_eq!(proxied.upstream.connections(), 0);
    let mut client = proxied.connect();
    client.write(&smuggled);
    assert_eq!(client.read().status, 200, "a request, if it is one");
}

/// U-11: a response that two clients could read differently does not reach the client.
#[test]
fn malformed_responses_are_a_bad_gateway() {
    for response in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: \rchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
    ] {
        let proxied = Proxied::new(Upstream::start(move |mut api| {
            api.head();
            api.write(response);
            api.close();
        }));
        let seen = proxied.send(Request::new("POST", "/"));
        assert_eq!(
            (seen.status, seen.header("content-type").is_some()),
            (502, true),
            "{response:?}"
        );
        assert_eq!(proxied.upstream.connections(), 1, "a POST is not repeated: {response:?}");
        assert_eq!(proxied.server.count("cached") + proxied.server.count("verified"), 1);
    }
}

/// U-11, U-14: the end of a response that breaks off is no end of a body.
#[test]
fn broken_off_response_is_no_whole_response() {
    for (head, expected) in
        [("Content-Length: 100\r\n", "part"), ("Transfer-Encoding: chunked\r\n", "4\r\npart\r\n")]
    {
        let proxied = Proxied::new(Upstream::start(move |mut api| {
            api.head();
            let chunked = head.starts_with('T');
            let part = if chunked { "4\r\npart\r\n" } else { "part" };
            api.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n{part}"));
            // The client has got the part, before the connection breaks.
            api.wait_for_end();
        }));
        let mut client = proxied.connect();
        client.write(&roy(Request::get("/")).bytes());
        assert_eq!(client.read_head().status, 200);
        assert_eq!(client.read_exactly(expected.len()), expected.to_lowercase().as_bytes());
        drop(client);
    }
    // Content that is too short, a chunk that is not whole, and one whose size does not fit 64 bits.
    for response in [
        "Content-Length: 100\r\n\r\npart",
        "Transfer-Encoding: chunked\r\n\r\n4\r\npa",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\npa\r\n0\r\n\r\n",
    ] {
        let proxied = Proxied::new(Upstream::start(move |mut api| {
            api.head();
            api.write(format!("HTTP/1.1 200 OK\r\n{response}"));
            api.close();
        }));
        let mut client = proxied.connect();
        client.write(&roy(Request::get("/")).bytes());
        let rest = client.rest();
        assert!(!rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }
}

/// U-11
#[test]
fn api_that_cannot_be_reached_is_a_bad_gateway() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = Server::start_proxy(store.reader(), &url, HttpConfig::IO_TIMEOUT, |_| {});
    let mut client = Connection::open(server.address);
    for (accept, content_type) in [
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
    ] {
        let response = client.send(&roy(Request::get("/")).header("Accept", accept));
        assert_eq!((response.status, response.header("content-type")), (502, Some(content_type)));
        assert!(response.body.contains("The API cannot be reached."), "{response:?}");
        assert!(!response.body.contains("127.0.0.1"), "X-07: {response:?}");
    }
}

/// U-11: the time begins anew with each piece of the request, and ends with the head.
#[test]
fn slow_api_is_a_gateway_timeout() {
    let upstream = Upstream::start(|mut api| {
        let Some(head) = api.head() else { return };
        api.body(&head);
        api.wait_for_end();
    });
    let short = Some(Duration::from_millis(50));
    let proxied = Proxied::with(upstream, |proxy| proxy.response_timeout = short);
    let mut client = proxied.connect();
    assert_eq!(client.send(&roy(Request::get("/"))).status, 504);
    let post = Request::new("POST", "/").header("Content-Length", "3");
    client.write(&[roy(post).bytes(), b"abc".to_vec()].concat());
    assert_eq!(client.read().status, 504, "the same connection goes on");
    assert_eq!(proxied.upstream.connections(), 2);
}

/// U-11: a connection that the API has closed meanwhile costs a request without effect nothing.
#[test]
fn stale_connection_is_replaced_for_idempotent_requests() {
    // Each connection answers once, and closes when it gets the next request.
    let seen = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&seen);
    let proxied = Proxied::new(Upstream::start(move |mut api| {
        for turn in 0..2 {
            let Some(head) = api.head() else { return };
            api.body(&head);
            count.fetch_add(1, Ordering::SeqCst);
            if turn == 0 {
                api.write(ok("once"));
            }
        }
        api.close();
    }));
    let mut client = proxied.connect();
    let mut status = |request: Request| {
        client.write(&roy(request).bytes());
        client.read().status
    };
    assert_eq!(status(Request::get("/")), 200);
    assert_eq!(status(Request::get("/")), 200, "sent again on a new connection");
    assert_eq!((proxied.upstream.connections(), seen.load(Ordering::SeqCst)), (2, 3));
    assert_eq!(status(Request::new("POST", "/")), 502, "it may have had its effect");
    assert_eq!((proxied.upstream.connections(), seen.load(Ordering::SeqCst)), (2, 4));
    assert_eq!(status(Request::new("POST", "/")), 200);
}

/// U-14
#[test]
fn client_that_leaves_ends_the_request_of_the_api() {
    let (sender, ended) = channel();
    let proxied = Proxied::new(Upstream::start(move |mut api| {
        let Some(head) = api.head() else { return };
        if head.starts_with("GET /stream") {
            api.write("HTTP/1.1 200 OK\r\n\r\nstream");
        }
        sender.send("begun").unwrap();
        api.wait_for_end();
        sender.send("ended").unwrap();
    }));
    for path in ["/waiting", "/stream"] {
        let mut client = proxied.connect();
        client.write(&roy(Request::get(path)).bytes());
        assert_eq!(ended.recv_timeout(TIMEOUT).unwrap(), "begun");
        drop(client);
        assert_eq!(ended.recv_timeout(TIMEOUT).unwrap(), "ended", "{path}");
    }
}

/// A client that closes its own half has left: the API would work for nothing. Documented.
#[test]
fn half_closed_client_has_left() {
    let (sender, events) = channel();
    let proxied = Proxied::new(Upstream::start(move |mut api| {
        api.head();
        sender.send("begun").unwrap();
        api.wait_for_end();
        sender.send("ended").unwrap();
    }));
    let mut client = std::net::TcpStream::connect(proxied.server.address).unwrap();
    client.write_all(&roy(Request::get("/")).bytes()).unwrap();
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "begun");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "ended");
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// An API may refuse a body before it has read it, and close the connection (RFC 9112 section 9.3).
#[test]
fn early_response_reaches_the_client() {
    const LENGTH: usize = 64 << 20;
    let proxied = Proxied::new(Upstream::start(|mut api| {
        api.head();
        api.write(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        );
        api.close();
    }));
    for _ in 0..20 {
        let head = Request::new("PUT", "/").header("Content-Length", LENGTH.to_string());
        let mut client = std::net::TcpStream::connect(proxied.server.address).unwrap();
        client.write_all(&roy(head).bytes()).unwrap();
        // Until the gate closes the connection.
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let piece = [b'x'; 1 << 16];
            (0..LENGTH / piece.len()).all(|_| sender.write_all(&piece).is_ok())
        });
        let mut response = Vec::new();
        // A reset may follow the response.
        let _ = client.read_to_end(&mut response);
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with("HTTP/1.1 413 ") && response.ends_with("no"), "{response}");
        sending.join().unwrap();
    }
}

/// Other upgrades are not offered to the API.
#[test]
fn upgrade_to_another_protocol_is_not_offered() {
    let proxied = Proxied::new(Upstream::echo());
    let request = Request::get("/")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let response = proxied.send(request);
    assert_eq!(response.status, 200);
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(field(&response.body, name), None, "{name}");
    }
}

#[test]
fn api_is_reached_over_a_unix_socket() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let path = store.folder().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let url = format!("unix:{}", path.display());
    let server = Server::start_proxy(store.reader(), &url, HttpConfig::IO_TIMEOUT, |_| {});
    let api = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream.write_all(&ok(head)).unwrap();
    });
    let response = roy(Request::get("/")).send(server.address);
    api.join().unwrap();
    assert_eq!(field(&response.body, "host"), Some("localhost"));
}
