//! Hostile clients: they pipeline, flood the log, take all connections, or send content that the
//! server does not read.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::support::SetOnDrop;
use crate::support::cli::{ServerProcess, command, run};
use crate::support::client::{Connection, Request, basic};
use crate::support::server::with_roy;
use crate::support::store::TempStore;

fn serve(store: &TempStore, words: &str) -> ServerProcess {
    drop(store.open()); // created if missing
    let database = store.database().display().to_string();
    let words = format!("serve --port 0 --cost 4 --database {database} {words}");
    ServerProcess::start(command(store.folder(), words.split_whitespace()))
}

/// Starts a server on one core. It has one request thread, so all connections share it, and one for
/// its control socket.
fn serve_on_one_core(store: &TempStore) -> ServerProcess {
    let server = std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|&n| all.is_set(n)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            serve(store, "")
        });
        started.join().unwrap()
    });
    // A thread has its name after its first work.
    assert_eq!(Request::get("/healthz").send(server.address).status, 200);
    let status = format!("status --database {}", store.database().display());
    assert_eq!(run(store.folder(), &status, "").code, 0);
    let workers = server.threads().into_iter().filter(|name| name.starts_with("actix-rt"));
    assert_eq!(workers.count(), 2, "one thread serves all connections");
    server
}

/// Pipelines requests on many connections, and reads responses until it is stopped.
struct Pipelining<'a> {
    connections: Vec<(TcpStream, usize)>,
    /// Bytes of responses so far.
    read: &'a AtomicU64,
}

impl<'a> Pipelining<'a> {
    fn open(count: usize, to: SocketAddr, read: &'a AtomicU64) -> Self {
        let open = || {
            let stream = TcpStream::connect(to).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, 0)
        };
        Self { connections: (0..count).map(|_| open()).collect(), read }
    }

    fn pipeline(&mut self, requests: &[u8], stop: &AtomicBool) {
        let mut responses = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            for (stream, sent) in &mut self.connections {
                match stream.write(&requests[*sent..]) {
                    Ok(some) => *sent = (*sent + some) % requests.len(),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
                match stream.read(&mut responses) {
                    Ok(some) => _ = self.read.fetch_add(some as u64, Ordering::Relaxed),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
            }
        }
    }
}

/// counts the responses to other connections, which needs no clock. The server takes one
/// request of each connection by turns, so the count is about the number of connections.
#[test]
fn pipelining_connections_wait_for_their_turn() {
    const CONNECTIONS: usize = 64;
    const ASKED: u64 = 50;
    let store = TempStore::new();
    let server = serve_on_one_core(&store);
    let (read, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let request = Request::get("/healthz");
    let mut other = Connection::open(server.address);
    assert_eq!(other.send(&request).status, 200);
    let between = std::thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        scope.spawn(|| {
            let mut pipelining = Pipelining::open(CONNECTIONS, server.address, &read);
            pipelining.pipeline(&request.bytes().repeat(1000), &stop);
        });
        // All connections are busy.
        while read.load(Ordering::Relaxed) < 1_000_000 {
            std::thread::yield_now();
        }
        let before = read.load(Ordering::Relaxed);
        for _ in 0..ASKED {
            assert_eq!(other.send(&request).status, 200);
        }
        let after = read.load(Ordering::Relaxed);
        after - before
    });
    // A response has about 150 bytes.
    let responses = between / 150 / ASKED;
    assert!(
        responses < 20 * CONNECTIONS as u64,
        "{responses} responses to others for each of ours"
    );
}

/// a few lines per second name the source, and the others are counted.
#[test]
fn malformed_heads_are_counted_and_do_not_flood_the_log() {
    const SENT: usize = 300;
    let store = TempStore::new();
    let server = serve(&store, "");
    for n in 0..SENT {
        let mut connection = Connection::open(server.address);
        let head = ["\r\n\x01", "GET / HTTP/1.1\nHost: a\r\n\r\n", "BREW\r\n\r\n"][n % 3];
        connection.write(head.as_bytes());
        assert_eq!(connection.read_head().status, 400);
    }
    let mut long = Connection::open(server.address);
    long.write(&Request::get("/healthz").header("X", "y".repeat(100_000)).bytes());
    assert_eq!(long.read_head().status, 431);
    let said = server.stop();
    assert!(said.iter().all(|line| line.starts_with("outcome=")), "{said:?}");
    let with_source = |reason| {
        let line = format!("outcome=rejected reason={reason} source=127.0.0.1");
        said.iter().filter(|said| **said == line).count()
    };
    let more = said.iter().filter_map(|line| {
        line.strip_prefix("outcome=rejected reason=malformed-request more=")?.parse::<usize>().ok()
    });
    assert_eq!(with_source("malformed-request") + more.sum::<usize>(), SENT);
    assert_eq!(with_source("head-too-long"), 1);
    assert!(said.len() < SENT / 2, "{} lines", said.len());
}

const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

///
#[test]
fn source_that_takes_all_connections_makes_room_for_others() {
    let store = TempStore::new();
    let server = serve(&store, "--max-connections 8");
    let status_of = |connection: &mut Connection| connection.send(&Request::get("/healthz")).status;
    let mut first = Connection::open_from(HERE, server.address);
    assert_eq!(status_of(&mut first), 200);
    let mut greedy: Vec<_> = (0..7)
        .map(|_| {
            let mut connection = Connection::open_from(THERE, server.address);
            assert_eq!(status_of(&mut connection), 200);
            connection
        })
        .collect();
    // The first connection is used again, so the second is idle for the longest time.
    assert_eq!(status_of(&mut greedy[0]), 200);
    let mut second = Connection::open_from(HERE, server.address);
    assert_eq!(status_of(&mut second), 200, "served although all connections were taken");
    assert_eq!(greedy.remove(1).rest(), "");
    for connection in greedy.iter_mut().chain([&mut first, &mut second]) {
        assert_eq!(status_of(connection), 200, "no other client has lost a connection");
    }
}

/// trusted proxies speak for many clients.
#[test]
fn trusted_proxies_lose_no_connection() {
    let store = TempStore::new();
    let server = serve(&store, "--max-connections 4 --trusted-proxy 127.0.0.2");
    let status_of = |connection: &mut Connection| connection.send(&Request::get("/healthz")).status;
    let mut proxy: Vec<_> = (0..3).map(|_| Connection::open_from(THERE, server.address)).collect();
    assert!(proxy.iter_mut().all(|connection| status_of(connection) == 200));
    let mut first = Connection::open_from(HERE, server.address);
    assert_eq!(status_of(&mut first), 200);
    // It waits: no connection of a trusted proxy is closed.
    let mut waiting = Connection::open_from(HERE, server.address);
    waiting.write(&Request::get("/healthz").bytes());
    assert!(proxy.iter_mut().chain([&mut first]).all(|connection| status_of(connection) == 200));
    drop(first);
    assert_eq!(waiting.read().status, 200);
    assert!(proxy.iter_mut().all(|connection| status_of(connection) == 200));
}

/// sources have no limit while connections are free.
#[test]
fn hundreds_of_clients_behind_one_address_are_served() {
    let store = TempStore::new();
    let server = serve(&store, "");
    let mut clients: Vec<_> = (0..500).map(|_| Connection::open(server.address)).collect();
    for _ in 0..2 {
        for client in &mut clients {
            assert_eq!(client.send(&Request::get("/healthz")).status, 200);
        }
    }
}

/// the client reads the response first, so the content follows a finished request.
#[test]
fn content_that_follows_an_early_response_is_no_error() {
    const CONTENT: usize = 1 << 20;
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = serve(&store, "--source-failures 3/24h --require-group admin");
    let status_of =
        |method, target| Request::new(method, target).header("Content-Length", CONTENT.to_string());
    let wrong = basic("roy", "wrong");
    for (request, status) in [
        (status_of("PUT", "/rest-auth"), 405),
        (status_of("GET", "/rest-auth"), 401),
        (status_of("POST", "/auth"), 401),
        (status_of("POST", "/nowhere"), 404),
        (status_of("GET", "/healthz"), 200),
        (status_of("POST", "/auth").basic("roy", "open-sesame"), 403),
        (status_of("GET", "/rest-auth").authorization("x".repeat(9000)), 431),
        (status_of("GET", "/rest-auth").header("X", "y".repeat(70_000)), 431),
        (status_of("GET", "/rest-auth").header("X", "a\0b"), 400),
        (status_of("GET", "/rest-auth").header("Content-Length", "1"), 400),
        (status_of("GET", "/rest-auth").authorization(&wrong), 401),
        (status_of("GET", "/rest-auth").authorization(&wrong), 401),
        (status_of("GET", "/rest-auth").authorization(&wrong), 401),
        (status_of("GET", "/rest-auth").authorization(&wrong), 429),
    ] {
        let mut connection = Connection::open(server.address);
        connection.write(&request.bytes());
        let response = connection.read();
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.header("connection"), Some("close"), "{request:?}");
        for _ in 0..CONTENT / 4096 {
            connection.write(&[b'x'; 4096]);
        }
        assert_eq!(connection.close().unwrap(), "", "{request:?}");
    }
}

/// for chunked content too, whose length is unknown.
#[test]
fn chunks_that_follow_an_early_response_are_no_error() {
    let (_store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    let head = Request::new("PUT", "/rest-auth").header("Transfer-Encoding", "chunked");
    connection.write(&head.bytes());
    let response = connection.read();
    assert_eq!((response.status, response.header("connection")), (405, Some("close")));
    for _ in 0..256 {
        connection.write(format!("1000\r\n{}\r\n", "x".repeat(0x1000)).as_bytes());
    }
    connection.write(b"0\r\n\r\n");
    assert_eq!(connection.close().unwrap(), "");
}

/// R-06 (RFC 9110 section 10.1.1): the server needs no content, and asks no client for it.
#[test]
fn expect_100_continue_gets_the_final_status_at_once() {
    let (_store, server) = with_roy();
    let status_of = |method, target| {
        Request::new(method, target).header("Content-Length", "5").header("Expect", "100-continue")
    };
    for (request, status) in [
        (status_of("GET", "/rest-auth"), 401),
        (status_of("GET", "/rest-auth").basic("roy", "wrong"), 401),
        (status_of("GET", "/rest-auth").basic("roy", "open-sesame"), 200),
        (status_of("POST", "/auth").basic("roy", "open-sesame"), 200),
        (status_of("PUT", "/rest-auth"), 405),
        (status_of("PUT", "/nowhere"), 404),
    ] {
        let mut connection = Connection::open(server.address);
        connection.write(&request.bytes());
        let response = connection.read();
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.header("connection"), Some("close"), "{request:?}");
        assert_eq!(connection.close().unwrap(), "");
    }
    // A request without content leaves the connection open.
    let mut connection = Connection::open(server.address);
    let request = Request::get("/rest-auth").header("Expect", "100-continue");
    for _ in 0..2 {
        assert_eq!(connection.send(&request).status, 401);
    }
}

/// a warning names the untrusted proxy, also beside trusted ones.
#[test]
fn proxies_that_do_not_name_their_clients_are_warned_about_once() {
    let store = TempStore::new();
    let server = serve(&store, "--trusted-proxy 127.0.0.1");
    let request = |forwarded: &str| Request::get("/rest-auth").header("X-Forwarded-For", forwarded);
    let status_of = |from, forwarded| {
        Connection::open_from(from, server.address).send(&request(forwarded)).status
    };
    assert_eq!(status_of(HERE, "192.0.2.1"), 401);
    assert_eq!(status_of(HERE, "fe80::1%eth0"), 401);
    for _ in 0..2 {
        assert_eq!(status_of(THERE, "192.0.2.2"), 401);
        assert_eq!(status_of(HERE, "192.0.2.3, unknown"), 401);
    }
    let said = server.stop();
    let (audit, said): (Vec<_>, Vec<_>) =
        said.iter().partition(|line| line.starts_with("outcome="));
    let sources: Vec<_> = audit.iter().map(|line| line.rsplit_once("source=").unwrap().1).collect();
    let seen = ["192.0.2.1", "fe80::1", "127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.1"];
    assert_eq!(sources, seen);
    let warned: Vec<_> = said.iter().filter(|line| line.contains("X-Forwarded-For")).collect();
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0].contains("127.0.0.2") && warned[1].contains("127.0.0.1"), "{warned:?}");
}
