//! Requests that last: streams in both directions, WebSockets, and their end when the user may not
//! log in any more.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::support::client::{Connection, Request, TIMEOUT};
use crate::support::server::{Server, unlimited};
use crate::support::store::{TempStore, account, name};
use crate::support::upstream::{Accepted, Upstream, ok};
use crate::support::{
    Account, AuthConfig, CredentialVersion, GroupName, Groups, HttpConfig, MockStore, SetOnDrop,
    Timestamp,
};

/// A short timeout of slow clients. Only tests that wait for it use it.
const SHORT: Duration = Duration::from_millis(300);

fn start(upstream: &Upstream, timeout: Duration) -> (TempStore, Server) {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = Server::start_proxy(store.reader(), &upstream.url(), timeout, |_| {});
    (store, server)
}

fn roy(request: Request) -> Request {
    request.basic("roy", "open-sesame")
}

fn websocket() -> Request {
    Request::get("/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An API whose connections a test plays itself, in their order.
fn played() -> (Upstream, Receiver<Accepted>) {
    let (sender, connections) = channel();
    let sender: Mutex<Sender<_>> = Mutex::new(sender);
    let upstream = Upstream::start(move |api| {
        // The test may be over.
        let _ = sender.lock().unwrap().send(api);
    });
    (upstream, connections)
}

fn next(connections: &Receiver<Accepted>) -> Accepted {
    connections.recv_timeout(TIMEOUT).unwrap()
}

/// U-07: each event arrives when the API has sent it.
#[test]
fn events_arrive_one_by_one() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let mut client = Connection::open(server.address);
    client.write(&roy(Request::get("/events")).bytes());
    let mut api = next(&connections);
    api.head().unwrap();
    api.write(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.read_head().header("content-type"), Some("text/event-stream"));
    for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        api.write(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(client.read_chunk().unwrap(), event.as_bytes());
    }
    api.write("0\r\n\r\n");
    assert_eq!(client.read_chunk(), None);
}

/// U-07: only the silence of the client ends a connection. The clock is a client whose head does not
/// end.
#[test]
fn quiet_api_does_not_end_a_stream() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, SHORT);
    let open = |request: &Request| {
        let mut client = Connection::open(server.address);
        client.write(&request.bytes());
        let mut api = next(&connections);
        api.head().unwrap();
        (client, api)
    };
    let (mut waiting, mut late) = open(&roy(Request::get("/long-poll")));
    let (mut stream, mut events) = open(&roy(Request::get("/events")));
    events.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    stream.read_head();
    assert_eq!(stream.read_chunk().unwrap(), b"a");
    let (mut socket, mut tunnel) = open(&roy(websocket()));
    tunnel.write(SWITCHING);
    socket.read_head();
    socket.write(b"ping");
    assert_eq!(tunnel.read_some(4), b"ping");
    for _ in 0..2 {
        let mut slow = Connection::open(server.address);
        slow.write(b"GET / HTTP/1.1\r\n");
        assert_eq!(slow.rest(), "", "the timeout is over");
    }
    late.write(ok("late"));
    assert_eq!(waiting.read().body, "late");
    events.write("1\r\nb\r\n");
    assert_eq!(stream.read_chunk().unwrap(), b"b");
    tunnel.write("pong");
    assert_eq!(socket.read_exactly(4), b"pong");
}

/// B-12, U-16: a client that stops in its body is cut. One that goes on is not.
#[test]
fn silent_client_is_cut_in_its_body() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, SHORT);
    let post = roy(Request::new("POST", "/").header("Content-Length", "1000000000"));
    let open = || {
        let mut client = Connection::open(server.address);
        client.write(&[post.bytes(), b"some".to_vec()].concat());
        let mut api = next(&connections);
        api.head().unwrap();
        (client, api)
    };
    let (mut steady, mut other) = open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = SetOnDrop(&done);
        let sender = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                steady.write(b"x");
                assert!(!other.read_some(100).is_empty(), "cut, although it goes on");
            }
            (steady, other)
        });
        for _ in 0..3 {
            let (mut silent, mut api) = open();
            assert_eq!(silent.rest(), "");
            api.wait_for_end();
        }
        drop(end);
        let (mut steady, mut other) = sender.join().unwrap();
        other.write(ok("early"));
        assert_eq!(steady.read().body, "early");
    });
}

/// B-12: a client that does not read a stream is cut, and so is the API's side.
#[test]
fn client_that_does_not_read_a_stream_is_cut() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, SHORT);
    for (request, head) in
        [(Request::get("/"), "HTTP/1.1 200 OK\r\n\r\n"), (websocket(), SWITCHING)]
    {
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all(&roy(request).bytes()).unwrap();
        let mut api = next(&connections);
        api.head().unwrap();
        api.write(head);
        let piece = [b'x'; 1 << 16];
        // Fails when the gate has closed the connection.
        while api.stream().write_all(&piece).is_ok() {}
    }
}

/// U-05: the receiver sets the pace, so the gate keeps no more than its buffers.
#[test]
fn sender_is_held_back_by_the_receiver() {
    const TOTAL: usize = 256 << 20;
    // What sockets and buffers take in all.
    const BUFFERED: usize = 64 << 20;
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let head = Request::new("PUT", "/").header("Content-Length", TOTAL.to_string());
    let mut client = TcpStream::connect(server.address).unwrap();
    client.write_all(&roy(head).bytes()).unwrap();
    let mut api = next(&connections);
    api.head().unwrap();
    assert!(sent_until_blocked(&mut client, TOTAL) < BUFFERED, "upload");
    drop((client, api));

    let mut client = Connection::open(server.address);
    client.write(&roy(Request::get("/")).bytes());
    let mut api = next(&connections);
    api.head().unwrap();
    api.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"));
    client.read_head();
    assert!(sent_until_blocked(api.stream(), TOTAL) < BUFFERED, "download");
}

/// U-05: content is read window by window, wherever it is cut.
#[test]
fn long_content_arrives_in_all_framings() {
    const TOTAL: usize = 200_000;
    let upstream = Upstream::answering(|_, body| ok(body));
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let mut client = Connection::open(server.address);
    let content: Vec<u8> = (0..=u8::MAX).cycle().take(TOTAL).collect();
    let mut put = |field: (&str, String), sent: &[u8]| {
        client.write(&roy(Request::new("PUT", "/").header(field.0, field.1)).bytes());
        client.write(sent);
        let response = client.read_head();
        assert_eq!(response.status, 200);
        assert!(client.read_exactly(TOTAL) == content, "{}: other content", field.0);
    };
    put(("Content-Length", TOTAL.to_string()), &content);
    for size in [1, 5, 2048, 40_000, TOTAL] {
        let mut sent = Vec::new();
        for piece in content.chunks(size) {
            sent.extend(format!("{:x};a=b\r\n", piece.len()).into_bytes());
            sent.extend(piece);
            sent.extend(b"\r\n");
        }
        sent.extend(b"0\r\n\r\n");
        put(("Transfer-Encoding", "chunked".to_owned()), &sent);
    }
}

/// U-05: an API may respond before it has the whole request, and a client may send all of it before it
/// reads the response.
#[test]
fn request_is_passed_on_while_the_client_reads_no_response() {
    // More than sockets and buffers take in all.
    const TOTAL: usize = 64 << 20;
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let mut client = Connection::open(server.address);
    let head = Request::new("PUT", "/").header("Content-Length", TOTAL.to_string());
    client.write(&roy(head).bytes());
    let mut api = next(&connections);
    api.head().unwrap();
    let mut response = api.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || response.write_all(&ok(vec![b'x'; TOTAL])).unwrap());
        assert_eq!(client.read_head().status, 200);
        let receiving = scope.spawn(|| {
            let mut received = 0;
            while received < TOTAL {
                let piece = api.read_some(1 << 16);
                assert!(!piece.is_empty(), "the request ends after {received} bytes");
                received += piece.len();
            }
        });
        client.write(&vec![b'x'; TOTAL]);
        receiving.join().unwrap();
        assert_eq!(client.read_exactly(TOTAL).len(), TOTAL);
    });
}

/// Sends until nothing more is taken for a while. Returns the number of bytes.
fn sent_until_blocked(stream: &mut TcpStream, total: usize) -> usize {
    let piece = [b'x'; 1 << 16];
    let mut sent = 0;
    // Blocked means that a send waits for longer than any of the receivers takes.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while sent < total {
        match stream.write(&piece) {
            Ok(some) => sent += some,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => panic!("{e}"),
        }
    }
    sent
}

/// U-06: bytes pass after the 101 only, and then both ways.
#[test]
fn websocket_passes_after_the_api_has_switched() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let mut client = Connection::open(server.address);
    // A client that does not wait for the 101.
    client.write(&[roy(websocket()).bytes(), b"early".to_vec()].concat());
    let mut api = next(&connections);
    let head = api.head().unwrap().to_lowercase();
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "remote-user: roy",
    ] {
        assert!(head.lines().any(|seen| seen == line), "{line} in {head}");
    }
    let fields = "Keep-Alive: timeout=5\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n";
    api.write(SWITCHING.replace("\r\n\r\n", &format!("\r\n{fields}first")));
    let switched = client.read_head();
    assert_eq!(switched.status, 101);
    for name in ["keep-alive", "x-own"] {
        assert_eq!(switched.header(name), None, "{name}");
    }
    assert_eq!(switched.header("upgrade"), Some("websocket"));
    assert_eq!(switched.header("connection"), Some("upgrade"));
    assert_eq!(switched.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.read_exactly(5), b"first");
    assert_eq!(api.read_some(5), b"early");
    // More than any buffer, in both directions at once, from a client that writes before it reads.
    let megabyte = vec![b'm'; 1 << 20];
    let echo = std::thread::spawn(move || {
        let mut echoed = 0;
        while echoed < 1 << 20 {
            let piece = api.read_some(1 << 16);
            assert!(!piece.is_empty());
            echoed += piece.len();
            api.write(&piece);
        }
        api.close();
    });
    client.write(&megabyte);
    assert_eq!(client.read_exactly(1 << 20), megabyte);
    echo.join().unwrap();
    assert_eq!(client.rest(), "", "the end of the API ends the tunnel");
}

/// U-06: what follows a refused handshake is no request.
#[test]
fn refused_websocket_passes_nothing() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for refusal in [
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ] {
        let mut client = Connection::open(server.address);
        client.write(&[&roy(websocket()).bytes(), &smuggled[..]].concat());
        let mut api = next(&connections);
        api.head().unwrap();
        api.write(refusal);
        let response = client.read_head();
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
        assert_eq!(response.header("transfer-encoding"), None);
        assert_eq!(client.rest(), "no");
        api.wait_for_end();
    }
    assert_eq!(upstream.connections(), 2);
}

/// U-14
#[test]
fn end_of_a_websocket_ends_the_other_side() {
    let (upstream, connections) = played();
    let (_store, server) = start(&upstream, HttpConfig::IO_TIMEOUT);
    let mut client = Connection::open(server.address);
    client.write(&roy(websocket()).bytes());
    let mut api = next(&connections);
    api.head().unwrap();
    api.write(SWITCHING);
    client.read_head();
    drop(client);
    api.wait_for_end();
}

/// U-08: every stream of a user ends in any state, and no stream of another user.
#[test]
fn change_of_a_user_ends_all_streams_of_that_user() {
    let member = || {
        let wine = Groups::new([GroupName::parse("wine").unwrap()]).unwrap();
        Account { groups: wine, ..account("roy", "open-sesame") }
    };
    let credential_version = CredentialVersion::from_number(1);
    let past = Timestamp::from_seconds(0);
    for (change, ends) in [
        (None, true),
        (Some(Account { locked: true, ..member() }), true),
        (Some(Account { expires: past, ..member() }), true),
        (Some(Account { credential_version, ..member() }), true),
        (Some(Account { groups: Groups::default(), ..member() }), true),
        // Another hash of the same password, as after an upgrade at login.
        (Some(member()), false),
    ] {
        let what = format!("{change:?}");
        let store = MockStore::default();
        store.put(member());
        store.put(Account { name: name("ann"), ..member() });
        let (upstream, connections) = played();
        let wine = vec![GroupName::parse("wine").unwrap()];
        let settings = AuthConfig { require_groups: wine, ..unlimited() };
        let (url, timeout) = (upstream.url(), HttpConfig::IO_TIMEOUT);
        let reader = Box::new(store.clone());
        let server = Server::start_proxy_with(reader, &settings, &url, timeout, |_| {});
        let mut streams = open_streams(&server, &connections, "roy");
        let mut others = open_streams(&server, &connections, "ann");
        match change {
            None => store.remove(&name("roy")),
            Some(account) => store.put(account),
        }
        if ends {
            for (client, api) in &mut streams {
                api.wait_for_end();
                assert_eq!(client.rest_until_cut(), b"", "{what}");
            }
            streams.clear();
        } else {
            // The clock: the removal of another user ends the streams of that user.
            store.remove(&name("ann"));
            others.drain(..).for_each(|(_, mut api)| api.wait_for_end());
            others = streams;
        }
        let (client, api) = &mut others[1];
        api.write("2\r\nok\r\n");
        assert_eq!(client.read_chunk().unwrap(), b"ok", "{what}");
    }
}

/// U-08: a client that does not read is cut as well, and what it has not got is dropped.
#[test]
fn removed_user_gets_no_more_of_a_download() {
    const TOTAL: usize = 256 << 20;
    let store = MockStore::default();
    store.put(account("roy", "open-sesame"));
    let (upstream, connections) = played();
    let (url, timeout) = (upstream.url(), HttpConfig::IO_TIMEOUT);
    let server = Server::start_proxy(Box::new(store.clone()), &url, timeout, |_| {});
    let mut client = Connection::open(server.address);
    client.write(&roy(Request::get("/")).bytes());
    let mut api = next(&connections);
    api.head().unwrap();
    api.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"));
    client.read_head();
    let sent = sent_until_blocked(api.stream(), TOTAL);
    let received = client.received();
    // The rest waits in the queue of the gate.
    assert!(received < sent / 2, "{received} of {sent}");
    store.remove(&name("roy"));
    api.wait_for_end();
    let got = client.rest_until_cut().len();
    assert!(got <= received, "{got} bytes were delivered, {received} of them before");
}

/// Opens a WebSocket, a stream of events, an upload and a request that waits, of a user.
fn open_streams(
    server: &Server,
    connections: &Receiver<Accepted>,
    user: &str,
) -> Vec<(Connection, Accepted)> {
    let put = Request::new("PUT", "/").header("Content-Length", "1000");
    let requests = [websocket(), Request::get("/events"), put, Request::get("/wait")];
    let open = |(n, request): (usize, Request)| {
        let mut client = Connection::open(server.address);
        client.write(&request.basic(user, "open-sesame").bytes());
        let mut api = next(connections);
        api.head().unwrap();
        match n {
            0 => api.write(SWITCHING),
            1 => api.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            2 => {
                client.write(b"some");
                assert_eq!(api.read_some(4), b"some");
            }
            _ => {}
        }
        if n < 2 {
            client.read_head();
        }
        (client, api)
    };
    requests.into_iter().enumerate().map(open).collect()
}
