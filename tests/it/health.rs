//! `resttool health`.

use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::store::TempStore;

/// A server, and a folder for its sockets.
struct Asked {
    store: TempStore,
    server: ServerProcess,
}

impl Asked {
    fn start() -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let words = "serve --port 0 --ops-listen unix:ops.sock";
        let server = ServerProcess::start(with_runtime_folder(&store, words));
        Self { store, server }
    }

    fn health(&self, words: &str) -> Completed {
        finish(with_runtime_folder(&self.store, format!("health {words}").trim()), "")
    }
}

/// A command whose control socket is in the folder of the store.
fn with_runtime_folder(store: &TempStore, words: &str) -> Command {
    let mut command = command(store.folder(), words.split(' '));
    command.env("XDG_RUNTIME_DIR", store.folder());
    command.env("RESTTOOL_DATABASE", store.database());
    command.current_dir(store.folder());
    command
}

/// Asserts the exit code, the only line of output, and that there is no other one.
fn said(outcome: &Completed, code: i32, line: &str) {
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.code, code, "{all}");
    assert_eq!(all.lines().count(), 1, "{all}");
    assert!(all.contains(line), "{line} in {all}");
    assert_eq!(outcome.stdout.is_empty(), code != 0, "{all}");
}

/// M-11: over every kind of socket.
#[test]
fn ready_server_is_healthy() {
    let asked = Asked::start();
    let url = format!("http://{}", asked.server.address);
    said(&asked.health(""), 0, "ready: the server on ");
    said(&asked.health(&url), 0, &format!("ready: {url}/readyz"));
    said(&asked.health(&format!("{url}/")), 0, &format!("ready: {url}/readyz"));
    said(&asked.health(&format!("{url}/healthz")), 0, &format!("ready: {url}/healthz"));
    said(&asked.health("--unix-socket ops.sock"), 0, "ready: /readyz on unix:ops.sock");
    assert_eq!(asked.health("--quiet").stdout, "");
    let other = asked.health(&format!("{url}/rest-auth"));
    said(&other, 1, &format!("not ready: {url}/rest-auth: it answers 401 Unauthorized"));
}

/// M-11
#[test]
fn server_without_its_store_is_not_ready() {
    let asked = Asked::start();
    std::fs::remove_file(asked.store.database()).unwrap();
    let url = format!("http://{}", asked.server.address);
    let why = "it answers 503 Service Unavailable";
    said(&asked.health(""), 1, "not ready: the server on ");
    said(&asked.health(&url), 1, &format!("not ready: {url}/readyz: {why}"));
    said(&asked.health("--unix-socket ops.sock"), 1, why);
    said(&asked.health(&format!("{url}/healthz")), 0, "ready");
}

/// M-11: a server that hangs is not ready. One that is not there is unreachable.
#[test]
fn frozen_server_is_not_ready_and_a_missing_one_is_unreachable() {
    let asked = Asked::start();
    let url = format!("http://{}", asked.server.address);
    asked.server.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let by_url = scope.spawn(|| asked.health(&url));
        said(&asked.health(""), 1, "no answer within 5 s");
        said(&by_url.join().unwrap(), 1, "no answer within 5 s");
    });
    asked.server.signal(Signal::CONT);
    let Asked { store, server } = asked;
    drop(server);
    let health = |words: &str| finish(with_runtime_folder(&store, words), "");
    said(&health("health"), 4, "resttool: unreachable: the server on ");
    said(&health(&format!("health {url}")), 4, &format!("unreachable: {url}/readyz: Connection"));
    said(
        &health("health --unix-socket none.sock"),
        4,
        "unreachable: /readyz on unix:none.sock: No such",
    );
}

#[test]
fn answer_without_http_is_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closes = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let store = TempStore::new();
    said(&finish(with_runtime_folder(&store, &format!("health {url}")), ""), 1, "not ready: ");
    closes.join().unwrap();
}

#[test]
fn wrong_url_is_a_usage_error() {
    let store = TempStore::new();
    for url in
        ["127.0.0.1:5000", "ftp://a/", "http://", "http://a b/", "http://a/ b", "unix:relative"]
    {
        let mut command = with_runtime_folder(&store, "health");
        let outcome = finish(
            {
                command.arg(url);
                command
            },
            "",
        );
        assert_eq!(outcome.code, 2, "{url}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("expected http://") || outcome.stderr.contains("characters"),
            "{}",
            outcome.stderr
        );
    }
}
