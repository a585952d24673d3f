//! An unread log: no request and no signal waits for it.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::serve::{SocketServer, send_locally, socket};
use crate::support::cli::{command, wait_or_kill};
use crate::support::client::Request;
use crate::support::store::TempStore;

/// Returns a full pipe. Another open file fills it, so that the server's one has no O_NONBLOCK.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let mut filler = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .unwrap();
    while filler.write(b"filler\n").is_ok() {}
    (reader, writer)
}

/// Starts a server that blocks on its log.
fn server_with_blocked_log(store: &TempStore, more: &str) -> (SocketServer, PipeReader) {
    let (reader, stderr) = full_pipe();
    let mut command = SocketServer::command(store, more);
    command.stderr(stderr);
    (SocketServer::start_unlogged(store, command), reader)
}

/// Makes requests that the server logs, of every kind.
fn log_every_kind(store: &TempStore) {
    let rest_auth = || Request::get("/rest-auth");
    let ask = |request: Request, status: &str| {
        let answer = send_locally(store, &request);
        assert_eq!(&answer["HTTP/1.1 ".len()..][..3], status, "{answer}");
    };
    for _ in 0..3 {
        ask(rest_auth().basic("roy", "open-sesame"), "200");
        ask(rest_auth().basic("roy", "open-sesame").header("X-Forwarded-For", "192.0.2.1"), "200");
        ask(rest_auth().basic("roy", "wrong"), "401");
        ask(rest_auth().authorization("Basic roy"), "401");
        ask(rest_auth().basic("broken", "open-sesame"), "503");
        ask(Request::get("/auth?groups=x"), "403");
        ask(rest_auth().header("Authorization ", "x"), "400");
        let mut malformed = UnixStream::connect(socket(store)).unwrap();
        malformed.write_all(b"\x16\x03\x01 no head\r\n\r\n").unwrap();
        drop(malformed);
        ask(Request::get("/healthz"), "200");
    }
}

fn store() -> TempStore {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("broken", "open-sesame");
    store.sql("UPDATE users SET hash = '$2x$' || substr(hash, 5) WHERE name = 'broken'");
    store
}

/// R-02, O-02, O-01
#[test]
fn stuck_log_delays_no_request_and_no_end() {
    for (level, signal) in [("info", Signal::TERM), ("trace", Signal::INT)] {
        let store = store();
        let (mut server, _log) =
            server_with_blocked_log(&store, &format!("--audit-hits --log-level {level}"));
        log_every_kind(&store);
        kill_process(Pid::from_child(&server.0), Signal::HUP).unwrap();
        log_every_kind(&store);
        kill_process(Pid::from_child(&server.0), signal).unwrap();
        assert_eq!(wait_or_kill(&mut server.0).code(), Some(0));
    }
}

/// R-02, O-01
#[test]
fn second_signal_ends_a_server_whose_log_is_stuck() {
    let store = store();
    let (_log, stderr) = full_pipe();
    // The rehash takes seconds after the answer.
    let words = format!(
        "serve --unix-socket {} --cost 15 --rehash --log-level trace --database {}",
        socket(&store).display(),
        store.database().display()
    );
    let mut command = command(store.folder(), words.split(' '));
    command.stderr(stderr);
    let mut server = SocketServer::start_unlogged(&store, command);
    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
    assert!(send_locally(&store, &roy).starts_with("HTTP/1.1 200"));
    let id = Pid::from_child(&server.0);
    kill_process(id, Signal::TERM).unwrap();
    // Until the server has handled the first signal.
    while UnixStream::connect(socket(&store)).is_ok() {}
    kill_process(id, Signal::INT).unwrap();
    assert_eq!(wait_or_kill(&mut server.0).code(), Some(1));
}

///
#[test]
fn stuck_log_does_not_keep_a_failed_start_from_ending() {
    let store = TempStore::new();
    std::fs::write(store.database(), "something else").unwrap();
    let (_log, stderr) = full_pipe();
    let database = store.database().display().to_string();
    let mut serve = command(store.folder(), ["serve", "--port", "0", "--database", &database]);
    assert_eq!(wait_or_kill(&mut serve.stderr(stderr).spawn().unwrap()).code(), Some(1));
}

/// dropped lines are counted, and the others are whole.
#[test]
fn log_reader_that_resumes_sees_how_many_lines_were_dropped() {
    let store = store();
    let (mut server, log) = server_with_blocked_log(&store, "--log-level trace");
    let mut log = BufReader::new(log);
    // More lines than the pipe and the queue hold.
    let path = format!("/{}", "x".repeat(8000));
    for _ in 0..1000 {
        let answer = send_locally(&store, &Request::get(&path));
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
    let mut seen = 0;
    let dropped = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended");
        if let Some((_, dropped)) = line.split_once("cannot write the log: dropped ") {
            break dropped.trim_end().trim_end_matches(" lines").parse::<u64>().unwrap();
        }
        let whole = line == "filler\n" || line.starts_with("[20") || line.starts_with("    ");
        assert!(whole, "{line:?}");
        seen += line.len();
    };
    assert!(dropped > 0 && seen > 64 * 1024, "{dropped} {seen}");
    // The server works as before.
    kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
    let rest: Vec<_> = log.lines().map_while(Result::ok).collect();
    assert!(rest.last().unwrap().ends_with("stopped"), "{rest:?}");
    assert_eq!(wait_or_kill(&mut server.0).code(), Some(0));
}
