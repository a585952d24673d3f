//! Requests that two servers could parse differently, sent as raw bytes. The tests check the number
//! of responses, their status, and that the connection is closed.

use std::io::Write;
use std::net::TcpStream;

use crate::support::HttpConfig;
use crate::support::client::{Connection, Request, basic, last_segment};
use crate::support::server::{Server, with_roy};
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, ok};

/// Returns the status of each response until the server closes the connection.
fn statuses(bytes: &str) -> Vec<u16> {
    let (_store, server) = with_roy();
    statuses_of(&server, bytes)
}

fn statuses_of(server: &Server, bytes: &str) -> Vec<u16> {
    let mut connection = Connection::open(server.address);
    connection.write(bytes.as_bytes());
    let responses = connection.rest();
    let statuses = responses.match_indices("HTTP/1.1 ").map(|(at, line)| at + line.len());
    statuses.map(|at| responses[at..at + 3].parse().unwrap()).collect()
}

/// P-15, R-07
#[test]
fn ambiguous_framing_is_one_400_and_closes_the_connection() {
    let roy = basic("roy", "open-sesame");
    // A smuggled request.
    let smuggled = format!("GET /rest-auth HTTP/1.1\r\nHost: a\r\nAuthorization: {roy}\r\n\r\n");
    for (what, head) in [
        (
            "length and chunks",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunks and length",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "the same length twice",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        ),
        ("a list of lengths", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n"),
        (
            "a length after many spaces",
            &*format!(
                "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length:{}0\r\n\r\n",
                " ".repeat(33)
            ),
        ),
        (
            "chunks after many tabs",
            &format!(
                "GET /rest-auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{}chunked\r\n\r\n0\r\n\r\n",
                "\t".repeat(40)
            ),
        ),
        (
            "a length with a sign",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        ),
        ("a negative length", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"),
        ("an empty length", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        (
            "chunks in HTTP/1.0",
            "GET /rest-auth HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "an unknown encoding",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        ),
        (
            "two encodings",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a space before the colon",
            "GET /rest-auth HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
        ),
        ("a folded line", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        ("no host", "GET /rest-auth HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("a NUL in a value", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("a bare CR in a value", "GET /rest-auth HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        ("a bare LF after the request line", "GET /rest-auth HTTP/1.1\nHost: a\r\n\r\n"),
        ("a bare LF after a field", "GET /rest-auth HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        ("a bare LF for the end", "GET /rest-auth HTTP/1.1\r\nHost: a\r\n\n"),
        ("a bare LF before it", "\nGET /rest-auth HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no version", "GET /rest-auth\r\nHost: a\r\n\r\n"),
        ("another version", "GET /rest-auth HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("two spaces in the request line", "GET  /rest-auth HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        assert_eq!(statuses(&format!("{head}{smuggled}")), [400], "{what}");
    }
}

/// The hash of `open-sesame` at a cost of 10, which takes some 60 ms.
const COST_10: &str = "$2y$10$3goIDRMEoW0MXNgY0VnXuOfSiJA4U0lzL5FozFIoqqZbj9GgixXLe";

/// P-14
#[test]
fn get_with_a_missing_body_is_answered_and_closed() {
    let roy = basic("roy", "open-sesame");
    let head = format!(
        "GET /rest-auth HTTP/1.1\r\nHost: a\r\nAuthorization: {roy}\r\nContent-Length: 5\r\n\r\n"
    );
    let store = TempStore::new();
    store.add_hash("roy", COST_10);
    let server = store.serve();
    // The server takes these bytes for the announced body and the start of a malformed request. It
    // reads them while it computes the hash.
    let next = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(statuses_of(&server, &format!("{head}{next}")), [200, 400]);
    // A cached password is granted before the body is read, so the connection ends.
    assert_eq!(statuses_of(&server, &format!("{head}{next}")), [200]);
    assert_eq!(statuses_of(&server, &head), [200]);
}

/// P-14
#[test]
fn body_of_a_get_is_never_parsed_as_a_request() {
    let (_store, server) = with_roy();
    let body = Request::get("/healthz").bytes();
    let mut connection = Connection::open(server.address);
    let announced = Request::get("/rest-auth").header("Content-Length", body.len().to_string());
    connection.write(&[announced.bytes(), body.clone()].concat());
    let response = connection.read();
    assert_eq!((response.status, response.header("connection")), (401, Some("close")));
    assert_eq!(connection.rest(), "");

    let mut connection = Connection::open(server.address);
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", body.len(), String::from_utf8(body).unwrap());
    let announced = Request::get("/rest-auth").header("Transfer-Encoding", "chunked");
    connection.write(&[announced.bytes(), chunk.into_bytes()].concat());
    assert_eq!(connection.read().status, 401);
    assert_eq!(connection.send(&Request::get("/healthz")).body, "ok\n");
}

/// P-15: no earlier request on the connection changes that.
#[test]
fn bare_lf_is_refused_in_later_heads_too() {
    let roy = basic("roy", "open-sesame");
    let bare = format!("GET /rest-auth HTTP/1.1\r\nHost: a\nAuthorization: {roy}\r\n\r\n");
    for (what, before, seen) in [
        ("another request", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 400][..]),
        ("an empty line", "\r\n", &[400]),
        // The server reads nothing after a response with `Connection: close` (RFC 9112 section
        // 9.6).
        ("a body", "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\na\n\nb", &[405]),
        (
            "chunks",
            "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[405, 400],
        ),
    ] {
        assert_eq!(statuses(&format!("{before}{bare}")), seen, "{what}");
    }
}

/// P-16: 97 fields, and a head that never ends.
#[test]
fn oversized_head_is_refused_and_closes_the_connection() {
    let many = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(statuses(&many), [431]);
    let endless = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(1 << 20));
    assert_eq!(statuses(&endless), [431]);
}

#[test]
fn last_response_arrives_with_the_end_of_its_connection() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let upstream = Upstream::answering(|_, _| ok("hello"));
    let gate = Server::start(store.reader());
    let proxy =
        Server::start_proxy(store.reader(), &upstream.url(), HttpConfig::IO_TIMEOUT, |_| {});
    let roy = format!("Authorization: {}\r\n", basic("roy", "open-sesame"));
    for (server, rest, status) in [
        (&gate, format!("1.1\r\nHost: a\r\nConnection: close\r\n{roy}"), "200"),
        (&gate, format!("1.0\r\n{roy}"), "200"),
        (&gate, "1.1\r\nHost: a\r\nConnection: close\r\n".to_owned(), "401"),
        (&proxy, format!("1.1\r\nHost: a\r\nConnection: close\r\n{roy}"), "200"),
    ] {
        for _ in 0..20 {
            let mut client = TcpStream::connect(server.address).unwrap();
            client.write_all(format!("GET /rest-auth HTTP/{rest}\r\n").as_bytes()).unwrap();
            let response = String::from_utf8(last_segment(client)).unwrap();
            assert_eq!(response.get(9..12), Some(status), "{response}");
        }
    }
}
