//! Other programs that listen, e.g. proxies.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::client::Request;

/// A program in the foreground, with its children. They are terminated when it is dropped.
pub struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Starts a program at a free port, and waits until it finds `path`. Tries another port if another
/// process took it.
pub fn listening(log: &Path, path: &str, make: impl Fn(u16) -> Command) -> (Program, SocketAddr) {
    for _ in 0..10 {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let mut command = make(free.port());
        let log = fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.process_group(0);
        let mut program = Program(command.spawn().unwrap());
        while program.0.try_wait().unwrap().is_none() {
            // Some proxies listen before they know their upstream.
            if TcpStream::connect(free).is_ok() && Request::get(path).send(free).status != 404 {
                return (program, free);
            }
            std::thread::yield_now();
        }
    }
    panic!("it does not start: {}", fs::read_to_string(log).unwrap());
}
