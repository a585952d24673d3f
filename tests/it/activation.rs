//! Sockets that a service manager passes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use crate::support::SetOnDrop;
use crate::support::cli::{ServerProcess, command, finish};
use crate::support::client::Request;
use crate::support::store::TempStore;

/// Returns the command of a server that gets these sockets, as systemd passes them.
fn activated(store: &TempStore, sockets: &[&dyn AsFd], more: &str) -> Command {
    let mut script = String::new();
    for (n, socket) in sockets.iter().enumerate() {
        let socket = socket.as_fd();
        // The program inherits it.
        fcntl_setfd(socket, FdFlags::empty()).unwrap();
        script += &format!("exec {}<&{}; ", 3 + n, socket.as_raw_fd());
    }
    let program = command(store.folder(), ["serve", "--cost", "4"]);
    script += &format!(
        "export LISTEN_PID=$$ LISTEN_FDS={}; exec '{}' serve --cost 4 --database '{}' {more}",
        sockets.len(),
        program.get_program().to_str().unwrap(),
        store.database().display(),
    );
    // dash has descriptors of one digit only.
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).env_clear().env("HOME", store.folder());
    shell.env("XDG_RUNTIME_DIR", store.folder());
    shell
}

fn store_of_roy() -> TempStore {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store
}

fn login() -> Request {
    Request::get("/rest-auth").basic("roy", "open-sesame")
}

#[test]
#[ignore = "needs bash"]
fn every_passed_socket_is_served() {
    let store = store_of_roy();
    let [one, two] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let path = store.folder().join("passed.sock");
    let local = UnixListener::bind(&path).unwrap();
    let server = activated(&store, &[&one, &two, &local], "--log-format json");
    let mut server = ServerProcess::start_unaddressed(server);
    let addresses = [&one, &two].map(|socket| socket.local_addr().unwrap());
    let [first, second] = addresses;
    server.wait_for(&format!("listening on http://{first}, http://{second}, unix:"));
    for address in addresses {
        assert_eq!(login().send(address).status, 200);
    }
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&login().header("Connection", "close").bytes()).unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
    assert!(path.exists(), "the socket of the service manager stays");
}

/// M-12: every connection is served by the server that accepts it.
#[test]
#[ignore = "needs bash"]
fn restarts_lose_no_connection() {
    let store = store_of_roy();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start = || {
        let mut server = ServerProcess::start_unaddressed(activated(&store, &[&socket], ""));
        server.wait_for("listening on ");
        server
    };
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Ends after the clients.
    let mut servers = vec![start()];
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&done);
        for _ in 0..4 {
            scope.spawn(|| {
                let _end = SetOnDrop(&done);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(login().send(address).status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..10 {
            let before = served.load(Ordering::Relaxed);
            while served.load(Ordering::Relaxed) < before + 50 {
                assert!(!done.load(Ordering::Relaxed), "a client has lost its connection");
                std::thread::yield_now();
            }
            let server = servers.pop().unwrap();
            server.signal(Signal::TERM);
            let (code, log) = server.end();
            assert_eq!(code, Some(0), "{log}");
            servers.push(start());
        }
    });
}

#[test]
#[ignore = "needs bash"]
fn other_sockets_are_refused() {
    let store = store_of_roy();
    let refused = |socket: &dyn AsFd, more: &str, code: i32, why: &str| {
        let outcome = finish(activated(&store, &[socket], more), "");
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(why), "{why} in {}", outcome.stderr);
        assert!(outcome.stderr.contains("\nhint: "), "{}", outcome.stderr);
    };
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    refused(&datagrams, "", 1, "cannot use socket 0 of the service manager");
    let (one, _other) = UnixStream::pair().unwrap();
    refused(&one, "", 1, "it does not listen");
    let file = std::fs::File::open(store.database()).unwrap();
    refused(&file, "", 1, "is not a socket");
    let public = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    refused(&public, "", 2, "passwords would travel in the clear");
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    refused(&local, "--unix-socket own.sock", 2, "--unix-socket is given");
    let upstream = format!("--upstream http://{}", local.local_addr().unwrap());
    refused(&local, &upstream, 2, "is the address of resttool itself");
}
