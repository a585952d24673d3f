//! A TCP proxy for tests, with faults that are set while it runs.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time limit of a connection to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Behaviour of a [`FaultProxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Forwards both directions.
    Forward,
    /// Forwards, and holds back each chunk of an answer (at most 64 KiB) for this time.
    Delay(Duration),
    /// Accepts connections and forwards nothing, neither bytes nor the end of a connection. A later
    /// fault forwards the bytes that were held back, as TCP does after a partition.
    Blackhole,
    /// Closes new connections at once. Open connections are forwarded.
    Refuse,
}

/// A proxy on loopback between clients and a server.
///
/// Dropping it closes all connections and joins its threads.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Starts a proxy that forwards to a server.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            fault: Fault::Forward,
            target,
            ended: false,
            accepted: 0,
            silent: 0,
            to_server: 0,
            to_client: 0,
            open: HashMap::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let acceptor = spawn(address, {
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Returns the address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the behaviour, also of open connections.
    pub fn set(&self, fault: Fault) {
        self.shared.lock().fault = fault;
        self.shared.changed.notify_all();
    }

    /// Forwards new connections to another server. Open connections stay.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.lock().target = target;
    }

    /// Forwards nothing more of the connections that are open now, also under a later fault.
    pub fn silence(&self) {
        let mut state = self.shared.lock();
        state.silent = state.accepted;
    }

    /// Closes all open connections at both ends. New connections are not affected.
    pub fn cut(&self) {
        for (_, streams) in self.shared.lock().open.drain() {
            for stream in streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Returns the number of connections since the start, without refused ones.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Returns the number of bytes that were forwarded to servers. An idle client adds none.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.lock().to_server
    }

    /// Returns the number of bytes that were forwarded to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.lock().to_client
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.cut();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        let ended = self.acceptor.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// State of a proxy and its threads.
struct Shared {
    state: Mutex<State>,
    /// Notified when the fault changes or connections are cut.
    changed: Condvar,
}

struct State {
    fault: Fault,
    target: SocketAddr,
    ended: bool,
    accepted: u64,
    /// The last connection that forwards nothing any more.
    silent: u64,
    to_server: u64,
    to_client: u64,
    /// The ends of each open connection: the client's, and the server's once there is one.
    open: HashMap<u64, Vec<TcpStream>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Accepts connections until the proxy ends, then joins their threads.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        loop {
            let (client, _) = listener.accept().unwrap();
            let mut state = self.lock();
            if state.ended {
                break;
            }
            if state.fault == Fault::Refuse {
                continue;
            }
            state.accepted += 1;
            let id = state.accepted;
            state.open.insert(id, vec![client.try_clone().unwrap()]);
            drop(state);
            threads.retain(|thread| !thread.is_finished());
            let shared = Arc::clone(self);
            threads.push(spawn(listener.local_addr().unwrap(), move || {
                shared.serve(id, &client);
                // Closes what a failed connection to the server leaves.
                let _ = client.shutdown(Shutdown::Both);
                shared.lock().open.remove(&id);
            }));
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// Connects to the server and forwards until both directions end.
    fn serve(&self, id: u64, client: &TcpStream) {
        if !self.hold(id, Direction::ToServer) {
            return;
        }
        let target = self.lock().target;
        let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else { return };
        match self.lock().open.get_mut(&id) {
            Some(streams) => streams.push(server.try_clone().unwrap()),
            None => return,
        }
        // Messages are not to wait for acknowledgements.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        thread::scope(|scope| {
            let answers = thread::Builder::new().name(thread_name(client.local_addr().ok()));
            let answers = answers.spawn_scoped(scope, || {
                self.forward(id, Direction::ToClient, &server, client);
                // The end of the server ends the connection.
                let _ = client.shutdown(Shutdown::Both);
            });
            answers.unwrap();
            if self.forward(id, Direction::ToServer, client, &server) {
                let _ = server.shutdown(Shutdown::Write);
            } else {
                let _ = server.shutdown(Shutdown::Both);
            }
        });
    }

    /// Forwards one direction until it ends. Returns false if the receiver is gone or the
    /// connection was cut.
    fn forward(
        &self,
        id: u64,
        direction: Direction,
        mut from: &TcpStream,
        mut to: &TcpStream,
    ) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if !self.hold(id, direction) {
                return false;
            }
            if count == 0 {
                return true;
            }
            // Counted first: a client that has an answer finds its request counted.
            let mut state = self.lock();
            match direction {
                Direction::ToServer => state.to_server += count as u64,
                Direction::ToClient => state.to_client += count as u64,
            }
            drop(state);
            if to.write_all(&buffer[..count]).is_err() {
                return false;
            }
        }
    }

    /// Waits as the fault demands. Returns false if the connection was cut.
    fn hold(&self, id: u64, direction: Direction) -> bool {
        let mut state = self.lock();
        if let (Fault::Delay(time), Direction::ToClient) = (state.fault, direction) {
            let delays = |state: &mut State| {
                matches!(state.fault, Fault::Delay(_)) && state.open.contains_key(&id)
            };
            state = self.changed.wait_timeout_while(state, time, delays).unwrap().0;
        }
        let holds = |state: &mut State| {
            (state.fault == Fault::Blackhole || id <= state.silent) && state.open.contains_key(&id)
        };
        state = self.changed.wait_while(state, holds).unwrap();
        state.open.contains_key(&id)
    }
}

/// Returns the name of the threads of a proxy at this address.
fn thread_name(address: Option<SocketAddr>) -> String {
    format!("proxy-{}", address.map_or(0, |address| address.port()))
}

fn spawn(address: SocketAddr, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(thread_name(Some(address))).spawn(body).unwrap()
}
