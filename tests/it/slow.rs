//! Slow clients, and clients that read nothing. The server's timeout is short here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::cli::{ServerProcess, command};
use crate::support::client::{Connection, Request};
use crate::support::server::Server;
use crate::support::store::TempStore;
use crate::support::{Call, HttpConfig, MockStore, SetOnDrop};

const TIMEOUT: Duration = Duration::from_millis(300);

fn server_with_short_timeout() -> (TempStore, Server) {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = Server::start_with_timeout(store.reader(), None, TIMEOUT);
    (store, server)
}

/// Runs `slow` while another client is served.
fn beside_a_client<T>(server: &Server, slow: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut connection = Connection::open(server.address);
            while !done.load(Ordering::Relaxed) {
                let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
                assert_eq!(connection.send(&roy).status, 200);
            }
        });
        let end = SetOnDrop(&done);
        let result = slow();
        drop(end);
        other.join().unwrap();
        result
    })
}

/// B-12: in a later request too.
#[test]
fn endless_head_ends_the_connection_at_any_request() {
    assert!(HttpConfig::IO_TIMEOUT <= Duration::from_secs(10), "by default");
    let (_store, server) = server_with_short_timeout();
    for answered in 0..3 {
        let mut slow = Connection::open(server.address);
        for _ in 0..answered {
            assert_eq!(slow.send(&Request::get("/healthz")).status, 200);
        }
        let rest = beside_a_client(&server, || {
            slow.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ");
            slow.rest()
        });
        assert_eq!(rest, "");
    }
}

/// B-12: a client that waits for a decision is not slow.
#[test]
fn slow_store_does_not_end_the_connection() {
    let (looked, looks) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (looked, may_go_on) = (Mutex::new(looked), Mutex::new(may_go_on));
    let store = MockStore::with_hook(move |call| {
        if call == Call::Find {
            looked.lock().unwrap().send(()).unwrap();
            // Once the test has dropped its end, the store is fast.
            let _ = may_go_on.lock().unwrap().recv();
        }
        Ok(())
    });
    let server = Server::start_with_timeout(Box::new(store), None, TIMEOUT);
    let mut client = Connection::open(server.address);
    client.write(&Request::get("/rest-auth").basic("roy", "wrong").bytes());
    looks.recv().unwrap();
    // Each of them is ended after the timeout.
    for _ in 0..3 {
        assert_eq!(Connection::open(server.address).rest(), "");
    }
    drop(go_on);
    assert_eq!(client.read().status, 401);
    assert!(client.rest().is_empty(), "ended when it is idle");
}

/// B-12: single bytes do not extend the timeout.
#[test]
fn slowly_sent_head_ends_the_connection() {
    let (_store, server) = server_with_short_timeout();
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(&Request::get("/healthz").bytes()).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").unwrap();
    beside_a_client(&server, || {
        let start = std::time::Instant::now();
        // Fails after the server has closed the connection.
        while slow.write_all(b"x").is_ok() {
            assert!(start.elapsed() < 20 * TIMEOUT, "the server does not time out");
            std::thread::yield_now();
        }
    });
}

/// B-12
#[test]
fn endless_body_ends_the_connection() {
    let (_store, server) = server_with_short_timeout();
    for target in ["/auth", "/rest-auth", "/nowhere"] {
        let mut slow = Connection::open(server.address);
        let head = Request::new("POST", target).header("Content-Length", "1000000");
        slow.write(&head.bytes());
        slow.write(b"only this");
        let response = slow.read();
        assert!([401, 404, 405].contains(&response.status), "{}", response.status);
        assert_eq!(beside_a_client(&server, || slow.rest()), "", "{target}");
    }
}

/// B-12: between requests, and before the first.
#[test]
fn idle_connection_ends() {
    let (_store, server) = server_with_short_timeout();
    for requests in 0..3 {
        let mut idle = Connection::open(server.address);
        for _ in 0..requests {
            assert_eq!(idle.send(&Request::get("/healthz")).status, 200);
        }
        assert_eq!(beside_a_client(&server, || idle.rest()), "", "after {requests} requests");
    }
}

/// B-12: the client sends requests and reads no response.
#[test]
fn unread_responses_end_the_connection() {
    let (_store, server) = server_with_short_timeout();
    let mut deaf = TcpStream::connect(server.address).unwrap();
    let many = Request::get("/openapi.json").bytes().repeat(100);
    beside_a_client(&server, || {
        // The buffers fill up, and then a write waits until the server closes the connection.
        while deaf.write_all(&many).is_ok() {}
    });
    let mut rest = Vec::new();
    // The client may still read the buffers.
    let _ = deaf.read_to_end(&mut rest);
}

/// Returns the time from the close of these connections until a waiting client is served.
fn served_after(address: SocketAddr, held: Vec<Connection>) -> Duration {
    let mut waiting = Connection::open(address);
    waiting.write(&Request::get("/healthz").bytes());
    let released = Instant::now();
    drop(held);
    assert_eq!(waiting.read().status, 200);
    released.elapsed()
}

/// B-13
#[test]
fn waiting_client_is_served_once_connections_are_released() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let threads = std::thread::available_parallelism().unwrap().get();
    let words = format!(
        "serve --port 0 --max-connections {threads} --database {}",
        store.database().display()
    );
    let serving = ServerProcess::start(command(store.folder(), words.split(' ')));
    let held: Vec<_> = (0..threads)
        .map(|_| {
            let mut connection = Connection::open(serving.address);
            assert_eq!(connection.send(&Request::get("/healthz")).status, 200);
            connection
        })
        .collect();
    let took = served_after(serving.address, held);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// B-13: more clients than descriptors.
#[test]
fn server_recovers_once_descriptors_are_released() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let mut shell = std::process::Command::new("sh");
    let words = format!("serve --port 0 --cost 4 --database {}", store.database().display());
    shell.args(["-c", &format!("ulimit -n 64; exec {} {words}", env!("CARGO_BIN_EXE_resttool"))]);
    shell.stdin(std::process::Stdio::null());
    let serving = ServerProcess::start(shell);
    assert!(serving.log.contains("do not fit into the limit of 64 open files"), "{}", serving.log);
    let held: Vec<_> = (0..100).map(|_| Connection::open(serving.address)).collect();
    let took = served_after(serving.address, held);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
    assert_eq!(roy.send(serving.address).status, 200);
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.end().0, Some(0));
}

/// B-12: hundreds of slow clients of each kind beside another client.
#[test]
#[ignore = "needs slowhttptest"]
fn slowhttptest_does_not_disturb_other_clients() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    // With the default timeout.
    let server = store.serve();
    for mode in ["-H", "-B", "-X"] {
        let mut slow = std::process::Command::new("slowhttptest");
        slow.args([mode, "-c", "300", "-r", "200", "-i", "3", "-l", "13", "-p", "3"]);
        slow.args(["-u", &format!("http://{}/rest-auth", server.address)]);
        slow.current_dir(store.folder());
        let outcome = beside_a_client(&server, || crate::support::cli::finish(slow, ""));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let available = outcome.stdout.rsplit_once("service available:").unwrap().1;
        assert!(available.contains("YES"), "{mode}: {}", outcome.stdout);
    }
}
