//! The control socket, `resttool status` and `resttool throttle`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::cli::{Completed, ServerProcess, command, finish, run, wait_or_kill};
use crate::support::client::Request;
use crate::support::store::TempStore;

/// A store with the user roy, and servers on it.
struct Machine(TempStore);

impl Machine {
    fn new() -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        Self(store)
    }

    fn words(&self, words: &str) -> String {
        format!("{words} --database {}", self.0.database().display())
    }

    fn serve(&self, more: &str) -> ServerProcess {
        let words = self.words(&format!("serve --port 0 --cost 4 {more}"));
        ServerProcess::start(command(self.0.folder(), words.split_whitespace()))
    }

    fn run(&self, words: &str) -> Completed {
        run(self.0.folder(), &self.words(words), "")
    }

    /// Runs a command that succeeds, and returns its standard output.
    fn done(&self, words: &str) -> String {
        let outcome = self.run(words);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    }

    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.done(words)).unwrap()
    }

    /// Returns the control sockets of all servers.
    fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.0.folder().join("resttool")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn login(server: &ServerProcess, user: &str, password: &str) -> u16 {
    Request::get("/rest-auth").basic(user, password).send(server.address).status
}

/// Sends a request over a Unix socket, and returns status and body.
fn ask(socket: &Path, method: &str, target: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body.to_owned())
}

/// M-04, M-05: two servers on one store are asked together, or one of them by its socket.
#[test]
fn cleared_source_can_try_at_once_on_that_server() {
    let machine = Machine::new();
    let own = machine.0.folder().join("own.sock");
    let mut first = machine.serve("--source-failures 2/1h");
    let mut second =
        machine.serve(&format!("--source-failures 2/1h --control-socket {}", own.display()));
    let fail = |server: &ServerProcess| {
        let statuses = [(); 3].map(|()| login(server, "roy", "wrong"));
        assert_eq!(statuses, [401, 401, 429]);
    };
    fail(&first);
    fail(&second);
    // The second server is asked by the path of its socket alone.
    let both = "throttle clear 127.0.0.1 --json";
    assert_eq!(machine.json(both), json!({ "cleared": 1, "servers": 1 }));
    assert_eq!((login(&first, "roy", "open-sesame"), login(&second, "roy", "x")), (200, 429));
    let of_second = format!("throttle clear ::ffff:127.0.0.1 --control-socket {}", own.display());
    let outcome = machine.run(&of_second);
    assert_eq!(outcome, Completed::new(0, "", "resttool: cleared 127.0.0.1\n"));
    assert_eq!(login(&second, "roy", "open-sesame"), 200);
    let outcome = machine.run(&of_second);
    assert_eq!(outcome, Completed::new(0, "", "resttool: 127.0.0.1 has no failed logins\n"));
    let by = rustix::process::getuid().as_raw();
    for server in [&mut first, &mut second] {
        server.wait_for(&format!("INFO  audit] action=throttle-clear source=127.0.0.1 by={by}\n"));
        // The next line after that of the change.
        let missing = Request::get("/rest-auth").send(server.address);
        assert_eq!(missing.status, 401);
        server.wait_for("reason=no-credentials");
        assert_eq!(server.log.matches("action=").count(), 1, "a line for each change");
    }
    let third = machine.serve("--source-failures 2/1h");
    fail(&first);
    fail(&third);
    assert_eq!(machine.json(both), json!({ "cleared": 2, "servers": 2 }));
    assert_eq!([&first, &third].map(|server| login(server, "roy", "wrong")), [401, 401]);
    let all = "throttle clear --all --json";
    assert_eq!(machine.json(all), json!({ "cleared": 4, "servers": 2 }), "sources and names");
    assert_eq!(machine.json(all), json!({ "cleared": 0, "servers": 2 }));
}

/// M-05, X-03: names that are no user's are counted and not shown.
#[test]
fn list_shows_sources_and_names_of_users_with_time_left() {
    let machine = Machine::new();
    let server = machine.serve("--source-failures 4/1h --user-failures 2/10m");
    assert_eq!(machine.done("throttle list --json"), "");
    let nothing = machine.run("throttle list");
    assert_eq!(nothing, Completed::new(0, "", "resttool: no source or user is throttled\n"));
    for user in ["roy", "roy", "hunter2", "hunter2"] {
        assert_eq!(login(&server, user, "wrong"), 401);
    }
    let lines = machine.done("throttle list --json");
    let entries: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let subjects: Vec<_> =
        entries.iter().map(|entry| (entry["source"].as_str(), entry["user"].as_str())).collect();
    assert_eq!(subjects[0], (Some("127.0.0.1"), None), "the longest time first");
    assert!(subjects[1..].contains(&(None, Some("roy"))), "{lines}");
    assert!(subjects[1..].contains(&(None, None)), "{lines}");
    let seconds: Vec<_> = entries.iter().map(|entry| entry["seconds"].as_u64().unwrap()).collect();
    assert!((800..=900).contains(&seconds[0]) && (200..=300).contains(&seconds[1]), "{lines}");
    let table = machine.done("throttle list");
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(rows[0].starts_with("SOURCE OR USER") && rows[0].ends_with("TIME LEFT"));
    assert!(rows[1].starts_with("127.0.0.1 ") && rows[1].contains(" min"), "{table}");
    assert!(table.contains("\na name that is no user's "), "{table}");
    assert!(!table.contains("hunter2") && !lines.contains("hunter2"));
    // The name of any user can be cleared, also one that is no user's.
    let clear = |user| machine.run(&format!("throttle clear --user {user}")).stderr;
    assert_eq!(clear("roy"), "resttool: cleared roy\n");
    assert_eq!(clear("hunter2"), "resttool: cleared hunter2\n");
    assert_eq!(machine.done("throttle list --json").lines().count(), 1);
}

#[test]
fn commands_say_that_no_server_is_running() {
    let machine = Machine::new();
    let killed = machine.serve("");
    drop(killed);
    assert_eq!(machine.sockets().len(), 1, "a killed server leaves its socket");
    let store = machine.0.database().display().to_string();
    let hint = "hint: start one with resttool serve, or name its socket with --control-socket\n";
    for (words, what) in [
        ("status", "show the status"),
        ("throttle list", "list throttled sources and users"),
        ("throttle clear --all", "clear the throttle"),
    ] {
        let why = format!("resttool: cannot {what}: no server is running on {store}\n{hint}");
        assert_eq!(machine.run(words), Completed::new(1, "", &why), "{words}");
        let missing = machine.0.folder().join("missing.sock");
        let words = format!("{words} --control-socket {}", missing.display());
        let missing = missing.display();
        let why = format!("resttool: cannot {what}: no server is running at {missing}\n{hint}");
        assert_eq!(machine.run(&words), Completed::new(1, "", &why), "{words}");
    }
    // A server of another store is another one.
    let other = Machine::new();
    let _server = other.serve("");
    let mut status = command(other.0.folder(), machine.words("status").split(' '));
    status.env("XDG_RUNTIME_DIR", other.0.folder());
    assert_eq!(finish(status, "").code, 1);
    let next = machine.serve("");
    assert_eq!(machine.sockets().len(), 1, "the next server removes the socket of the killed one");
    assert_eq!(machine.json("status --json")["pid"], next.id());
    next.stop();
    assert_eq!(machine.sockets(), Vec::<PathBuf>::new());
}

/// M-04
#[test]
fn control_socket_is_private_and_its_folder_too() {
    let machine = Machine::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let server = machine.serve("");
    let folder = machine.0.folder().join("resttool");
    assert_eq!((mode(&folder), mode(&machine.sockets()[0])), (0o700, 0o600));
    server.stop();
    // In a folder that other users can change, they could put a socket of their own.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let server = machine.serve("");
    let why = format!("no control socket: cannot use {}: other users may", folder.display());
    assert!(server.log.contains(&why), "{}", server.log);
    assert_eq!(machine.run("status").code, 1);
    server.stop();
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    machine.serve("").stop();
    let taken = format!("serve --port 0 --cost 4 --control-socket {}", folder.display());
    let outcome = machine.run(&taken);
    assert_eq!(outcome.code, 1);
    let why = format!("cannot listen on {}: Connection refused", folder.display());
    assert!(outcome.stderr.contains(&why), "{}", outcome.stderr);
}

/// M-04: the socket takes one method and one form of a request.
#[test]
fn invalid_requests_to_clear_are_refused() {
    let machine = Machine::new();
    let server = machine.serve("--source-failures 1/1h");
    assert_eq!(login(&server, "roy", "wrong"), 401);
    let socket = machine.sockets().remove(0);
    let post = |body: &str| ask(&socket, "POST", "/throttle/clear", body);
    for (body, why) in [
        ("", "The request is not understood: "),
        ("{}", "The request is not understood: "),
        (r#"{"source":"127.0.0.1","user":"roy"}"#, "The request is not understood: "),
        (r#"{"network":"127.0.0.1"}"#, "The request is not understood: "),
        (r#"{"source":"127.0.0.0/8"}"#, "The source is no address.\n"),
        (r#"{"user":"a:b"}"#, "The name is no user's: "),
    ] {
        let (status, answer) = post(body);
        assert_eq!(status, 400, "{body}");
        assert!(answer.starts_with(why), "{body}: {answer}");
    }
    assert_eq!(post(&format!(r#"{{"user":"{}"}}"#, "x".repeat(5000))).0, 413);
    assert_eq!(ask(&socket, "GET", "/throttle/clear", "").0, 405);
    assert_eq!(ask(&socket, "POST", "/throttle", "").0, 405);
    assert_eq!(login(&server, "roy", "open-sesame"), 429, "nothing was cleared");
    assert_eq!(post(r#"{"source":"127.0.0.1"}"#), (200, "{\"cleared\":1}\n".to_owned()));
    assert_eq!(login(&server, "roy", "open-sesame"), 200);
    for words in ["throttle list 127.0.0.1", "throttle clear", "throttle clear --all --user roy"] {
        assert_eq!(machine.run(words).code, 2, "{words}");
    }
}

#[test]
fn status_shows_each_server_and_watches() {
    let machine = Machine::new();
    let mut servers = vec![machine.serve(""), machine.serve("")];
    assert_eq!(login(&servers[0], "roy", "open-sesame"), 200);
    assert_eq!(login(&servers[0], "roy", "open-sesame"), 200);
    let lines = machine.done("status --json");
    let ids: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["pid"].clone())
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(servers.iter().all(|server| ids.contains(&server.id().into())), "{lines}");
    let text = machine.done("status");
    let blocks: Vec<_> = text.split("\n\n").collect();
    assert_eq!(blocks.len(), 2, "{text}");
    let of =
        |id: u32| blocks.iter().find(|block| block.contains(&format!("process {id}, "))).unwrap();
    let first = of(servers[0].id());
    for part in [
        concat!("resttool ", env!("CARGO_PKG_VERSION"), ", process "),
        "\nNo problems.\n",
        &format!("  store         readable, {}, revision read ", machine.0.database().display()),
        "  certificate   none\n",
        "  requests      2 granted\n",
        "  cache         1 entry, hit ratio 50.0 %\n",
        "  queue         0 waiting for ",
        "  throttled     0 sources, 0 user names\n",
        " files, processor time ",
        ", 0 log lines dropped\n",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    servers.pop();
    let mut watch = command(machine.0.folder(), machine.words("status --watch=100ms").split(' '));
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert!(shown.any(|line| line.unwrap().starts_with("resttool ")));
    }
    servers.pop();
    assert_eq!(shown.map_while(Result::ok).filter(|line| line.contains('\u{1b}')).count(), 0);
    assert_eq!(wait_or_kill(&mut watch).code(), Some(1), "the server has ended");
}

/// Another user is told whom to be.
#[test]
#[ignore = "needs root"]
fn other_users_do_not_reach_the_control_socket() {
    let machine = Machine::new();
    let _server = machine.serve("");
    let folder = machine.0.folder();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut status = command(folder, machine.words("status").split(' '));
    status.uid(65_534).gid(65_534);
    let outcome = finish(status, "");
    let why = format!(
        "resttool: cannot show the status: cannot look for a server in {}: Permission denied (os error 13)\nhint: run this as the user of the server, or as root\n",
        folder.join("resttool").display()
    );
    assert_eq!(outcome, Completed::new(1, "", &why));
    fs::set_permissions(folder.join("resttool"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut status = command(folder, machine.words("status").split(' '));
    status.uid(65_534).gid(65_534);
    let outcome = finish(status, "");
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains(": Permission denied (os error 13)\nhint: run this as the user"),
        "{}",
        outcome.stderr
    );
}
