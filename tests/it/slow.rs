//! Clients that take their time, or take nothing at all. The patience with them is short here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::ServerSettings;
use crate::support::cli::{ServerProcess, command};
use crate::support::client::{Connection, Request};
use crate::support::server::Server;
use crate::support::store::TempStore;

const PATIENCE: Duration = Duration::from_millis(300);

fn impatient() -> (TempStore, Server) {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = Server::start_with_timeout(store.open(), None, PATIENCE);
    (store, server)
}

/// Somebody else is served all the while.
fn beside<T>(server: &Server, slow: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut connection = Connection::open(server.address);
            while !done.load(Ordering::Relaxed) {
                let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
                assert_eq!(connection.send(&roy).status, 200);
            }
        });
        let result = slow();
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
        result
    })
}

/// B-12: the framework waits for the first head only.
#[test]
fn a_head_that_does_not_end_ends_the_connection_whichever_it_is() {
    assert!(ServerSettings::PATIENCE <= Duration::from_secs(10), "unless told otherwise");
    let (_store, server) = impatient();
    for answered in 0..3 {
        let mut slow = Connection::open(server.address);
        for _ in 0..answered {
            assert_eq!(slow.send(&Request::get("/healthz")).status, 200);
        }
        let rest = beside(&server, || {
            slow.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ");
            slow.rest()
        });
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    }
}

/// B-12: a byte now and then buys no time.
#[test]
fn a_head_that_comes_in_drips_ends_the_connection_too() {
    let (_store, server) = impatient();
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(&Request::get("/healthz").bytes()).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").unwrap();
    beside(&server, || {
        let start = std::time::Instant::now();
        // It ends with an error, once the other side has closed.
        while slow.write_all(b"x").is_ok() {
            assert!(start.elapsed() < 20 * PATIENCE, "it waits for ever");
            std::thread::yield_now();
        }
    });
}

/// B-12
#[test]
fn a_body_that_does_not_end_ends_the_connection() {
    let (_store, server) = impatient();
    for target in ["/auth", "/rest-auth", "/nowhere"] {
        let mut slow = Connection::open(server.address);
        let head = Request::new("POST", target).header("Content-Length", "1000000");
        slow.write(&head.bytes());
        slow.write(b"only this");
        let response = slow.read();
        assert!([401, 404, 405].contains(&response.status), "{}", response.status);
        assert_eq!(beside(&server, || slow.rest()), "", "{target}");
    }
}

/// B-12: who sends requests and reads no answer.
#[test]
fn unread_responses_end_the_connection() {
    let (_store, server) = impatient();
    let mut deaf = TcpStream::connect(server.address).unwrap();
    let many = Request::get("/openapi.json").bytes().repeat(100);
    beside(&server, || {
        // First the buffers fill up, and then nothing can be sent any more; only the end of the connection ends this.
        while deaf.write_all(&many).is_ok() {}
    });
    let mut rest = Vec::new();
    // What the buffers held may still be read; then there is an end or an error.
    let _ = deaf.read_to_end(&mut rest);
}

/// How long it takes, after these connections were closed, until somebody is served who was waiting.
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
fn at_the_limit_of_connections_who_waits_is_served_when_others_have_gone() {
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

/// B-13: more clients than there are descriptors.
#[test]
fn without_descriptors_it_goes_on_when_there_are_some_again() {
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

/// B-12: hundreds of slow clients of each kind, while somebody else is served at once.
#[test]
#[ignore = "needs slowhttptest"]
fn slowhttptest_does_not_disturb_other_clients() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    // With the patience that servers have.
    let server = store.serve();
    for mode in ["-H", "-B", "-X"] {
        let mut slow = std::process::Command::new("slowhttptest");
        slow.args([mode, "-c", "300", "-r", "200", "-i", "3", "-l", "13", "-p", "3"]);
        slow.args(["-u", &format!("http://{}/rest-auth", server.address)]);
        slow.current_dir(store.folder());
        let outcome = beside(&server, || crate::support::cli::finish(slow, ""));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let available = outcome.stdout.rsplit_once("service available:").unwrap().1;
        assert!(available.contains("YES"), "{mode}: {}", outcome.stdout);
    }
}
