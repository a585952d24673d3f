//! `resttool serve` as its own process: its settings, its log, and its end.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::cli::{
    Completed, KilledOnDrop, ServerProcess, command, finish, run, wait_or_kill,
};
use crate::support::client::{Connection, Request, TIMEOUT, basic};
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, ok};

fn serve(store: &TempStore, words: &str) -> ServerProcess {
    drop(store.open()); // created if missing
    let database = store.database().display().to_string();
    let words = format!("serve --port 0 --database {database} {words}");
    ServerProcess::start(command(store.folder(), words.split_whitespace()))
}

fn assert_fails(store: &TempStore, code: i32, words: &str, stderr: &str) {
    let outcome = run(store.folder(), &format!("serve {words}"), "");
    assert_eq!(outcome, Completed::new(code, "", &format!("resttool: {stderr}\n")));
}

fn status(server: &ServerProcess, user: &str, password: &str) -> u16 {
    Request::get("/rest-auth").basic(user, password).send(server.address).status
}

#[test]
fn empty_store_is_served_with_a_hint_to_add_a_user() {
    let store = TempStore::new();
    let server = ServerProcess::start(command(store.folder(), ["serve", "--port", "0"]));
    let path = store.folder().join(".local/share/resttool/resttool.db").display().to_string();
    let advice = format!("there is no user yet, add one: resttool useradd NAME --database {path}");
    assert!(server.log.contains(&advice), "{}", server.log);
    assert!(server.address.ip().is_loopback());
    assert_eq!(Request::get("/healthz").send(server.address).body, "ok\n");
    assert_eq!(status(&server, "roy", "open-sesame"), 401);
    let words = format!("useradd roy --password-stdin --cost 4 --database {path}");
    assert_eq!(run(store.folder(), &words, "open-sesame").code, 0);
    assert_eq!(status(&server, "roy", "open-sesame"), 200);
    assert_eq!(run(store.folder(), &format!("userdel roy --database {path}"), "").code, 0);
    assert_eq!(status(&server, "roy", "open-sesame"), 401);
}

/// T-01
#[test]
fn non_loopback_address_needs_a_flag() {
    let store = TempStore::new();
    let why = "can be reached from other machines, and passwords would travel in the clear
hint: give --tls-cert and --tls-key, listen on 127.0.0.1 behind a proxy that speaks TLS, or give --allow-plaintext";
    for host in ["0.0.0.0", "::", "[::]", "192.0.2.1"] {
        let words = format!("--port 0 --host {host}");
        assert_fails(&store, 2, &words, &format!("cannot serve: --host {host} {why}"));
    }
    for host in ["127.0.0.1", "127.0.0.2", "localhost"] {
        assert!(serve(&store, &format!("--host {host}")).address.ip().is_loopback());
    }
    let everywhere = serve(&store, "--host 0.0.0.0 --allow-plaintext");
    assert!(everywhere.address.ip().is_unspecified());
    let here = ([127, 0, 0, 1], everywhere.address.port()).into();
    assert_eq!(Request::get("/healthz").send(here).status, 200);
}

/// O-05, P-01
#[test]
fn invalid_settings_are_reported_before_any_effect() {
    let store = TempStore::new();
    drop(store.open());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let database = store.database().display().to_string();
    assert_fails(
        &store,
        1,
        &format!("--database {database} --port {port}"),
        &format!(
            "cannot serve: cannot listen on 127.0.0.1 port {port}: Address already in use (os error 98)
hint: another program listens there: choose another --port"
        ),
    );
    assert_fails(
        &store,
        1,
        &format!("--database /dev/null/users.db --port {port}"),
        "cannot serve: cannot open /dev/null/users.db: Not a directory (os error 20)",
    );
    assert_fails(
        &store,
        2,
        "--realm a\x07b",
        "cannot serve: --realm: a realm can't hold control characters",
    );
    for (words, named) in [
        ("--port 65536", "--port"),
        ("--port x", "--port"),
        ("--cost 99", "--cost"),
        ("--log-level loud", "--log-level"),
        ("--hash-workers 0", "--hash-workers"),
        ("--queue 0", "--queue"),
        ("--cache-entries 1048577", "--cache-entries"),
        ("--cache-lifetime 0s", "--cache-lifetime"),
        ("--cache-lifetime forever", "--cache-lifetime"),
        ("--source-failures 10", "--source-failures"),
        ("--source-failures 0/1m", "--source-failures"),
        ("--user-failures 10/1ms", "--user-failures"),
        ("--user-failures 10/2d", "--user-failures"),
        ("--trusted-proxy localhost", "--trusted-proxy"),
        ("--trusted-proxy 10.0.0.1/8", "--trusted-proxy"),
        ("--colour red", "--colour"),
        ("--host no.such.host.invalid", "--host"),
    ] {
        let outcome = run(store.folder(), &format!("serve {words}"), "");
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{words}");
        assert!(outcome.stderr.contains(named), "{words}: {}", outcome.stderr);
    }
    assert!(!store.folder().join(".local").exists(), "no store was created");
}

/// P-01
#[test]
fn realm_is_settable_and_escaped() {
    let store = TempStore::new();
    drop(store.open());
    let database = store.database().display().to_string();
    let realm = r#"the "old" \ cellar"#;
    let args = ["serve", "--port", "0", "--database", &database, "--realm", realm];
    let server = ServerProcess::start(command(store.folder(), args));
    let response = Request::get("/rest-auth").send(server.address);
    let challenge = r#"Basic realm="the \"old\" \\ cellar", charset="UTF-8""#;
    assert_eq!(response.header("www-authenticate"), Some(challenge));
}

/// O-01: one client keeps its connection open, and one waits for a response.
#[test]
fn sigterm_and_sigint_finish_requests_in_flight_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let mut server = serve(&store, "--cost 4 --source-failures 1/24h --log-level debug");
        let mut idle = Connection::open(server.address);
        assert_eq!(idle.send(&Request::get("/healthz")).status, 200);
        assert_eq!(status(&server, "roy", "wrong"), 401);
        let mut waiting = Connection::open(server.address);
        waiting.write(&Request::get("/rest-auth").basic("roy", "wrong").bytes());
        // This response is delayed, so the request is in flight when it is logged. A hash may take
        // too long for that on a busy machine: the server would give up.
        server.wait_for("outcome=throttled");
        server.signal(signal);
        assert_eq!(waiting.read().status, 429);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopping: requests in flight may finish"), "{log}");
        assert!(log.trim_end().ends_with("stopped"), "{log}");
    }
}

/// O-01, C-11: workers finish a rehash after its answer, unless a second signal ends the server at
/// once.
#[test]
fn shutdown_finishes_work_unless_signalled_twice() {
    for (cost, at_once, kept) in [(13, false, 13), (15, true, 4)] {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let server = ServerProcess::start(command(
            store.folder(),
            format!(
                "serve --port 0 --cost {cost} --rehash --database {}",
                store.database().display()
            )
            .split(' '),
        ));
        // The answer precedes the rehash.
        assert_eq!(status(&server, "roy", "open-sesame"), 200);
        server.signal(Signal::TERM);
        if at_once {
            // Until the server has handled the first signal.
            while std::net::TcpStream::connect(server.address).is_ok() {}
            server.signal(Signal::TERM);
        }
        let (code, log) = server.end();
        assert_eq!(code, Some(i32::from(at_once)), "{log}");
        let hash = store.open().find(&crate::support::store::name("roy")).unwrap().unwrap().hash;
        assert_eq!(hash.cost().get(), kept, "{log}");
    }
}

/// O-01
#[test]
fn second_signal_ends_the_server_at_once() {
    let store = TempStore::new();
    let database = store.database().display().to_string();
    // A hash of this cost takes seconds, longer than the signals.
    let words = format!("useradd roy --password-stdin --cost 15 --database {database}");
    assert_eq!(run(store.folder(), &words, "open-sesame").code, 0);
    let mut server = serve(&store, "");
    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
    let mut waiting = Connection::open(server.address);
    waiting.write(&[Request::get("/healthz").bytes(), roy.bytes()].concat());
    assert_eq!(waiting.read().status, 200);
    server.signal(Signal::TERM);
    server.wait_for("stopping: requests in flight may finish");
    server.signal(Signal::INT);
    let (code, log) = server.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.trim_end().ends_with("stopped at once: requests in flight are cut off"), "{log}");
    assert_eq!(waiting.rest(), "");
}

/// O-04
#[test]
fn readiness_is_reported_once_listening_with_an_open_store() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let heard = UnixDatagram::bind(store.folder().join("notify")).unwrap();
    heard.set_read_timeout(Some(TIMEOUT)).unwrap();
    let said = || {
        let mut bytes = [0; 100];
        let length = heard.recv(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned())
    };
    let notified = || {
        let words = format!("serve --port 0 --cost 4 --database {}", store.database().display());
        let mut command = command(store.folder(), words.split(' '));
        command.env("NOTIFY_SOCKET", store.folder().join("notify"));
        command
    };
    let server = ServerProcess::start(notified());
    assert_eq!(said().unwrap(), "READY=1");
    let ask = |path| {
        let response = Request::get(path).send(server.address);
        (response.status, response.body)
    };
    assert_eq!(ask("/readyz"), (200, "ready\n".to_owned()));
    // Without a store the server is alive, and not ready.
    let aside = store.folder().join("aside.db");
    fs::rename(store.database(), &aside).unwrap();
    assert_eq!(ask("/readyz"), (503, "not ready\n".to_owned()));
    assert_eq!(ask("/healthz"), (200, "ok\n".to_owned()));
    fs::rename(&aside, store.database()).unwrap();
    assert_eq!(ask("/readyz"), (200, "ready\n".to_owned()));
    server.signal(Signal::TERM);
    assert_eq!(said().unwrap(), "STOPPING=1");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("not ready: cannot open "), "{log}");
    // A server that cannot open its store is never ready.
    fs::write(store.database(), "something else").unwrap();
    assert_eq!(finish(notified(), "").code, 1);
    heard.set_nonblocking(true).unwrap();
    assert_eq!(said().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// O-02
#[test]
fn hangup_and_unread_log_do_not_end_the_server() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let mut server = serve(&store, "--audit-hits");
    assert_eq!(status(&server, "roy", "open-sesame"), 200);
    server.signal(Signal::HUP);
    server.signal(Signal::PIPE);
    server.close_log();
    for _ in 0..50 {
        assert_eq!(status(&server, "roy", "open-sesame"), 200);
    }
    assert_eq!(status(&server, "roy", "wrong"), 401);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

/// O-02
#[test]
fn log_on_a_full_disk_does_not_end_the_server() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let mut command = SocketServer::command(&store, "--log-level trace");
    command.stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut server = SocketServer::start_unlogged(&store, command);
    for (password, status) in [("open-sesame", "HTTP/1.1 200"), ("wrong", "HTTP/1.1 401")] {
        let request = Request::get("/rest-auth").basic("roy", password);
        assert!(send_locally(&store, &request).starts_with(status));
    }
    assert_eq!(server.stop(), Some(0));
}

/// O-01: the WAL is checkpointed, so that the database is the only file to move.
#[test]
fn stopped_server_leaves_one_file() {
    let store = TempStore::new();
    let server = serve(&store, "");
    store.add("roy", "open-sesame");
    assert_eq!(status(&server, "roy", "open-sesame"), 200);
    // Bytes in the WAL. An empty file may stay.
    let log =
        || std::fs::metadata(store.folder().join("users.db-wal")).map_or(0, |meta| meta.len());
    assert!(log() > 0);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
    assert_eq!(log(), 0);
}

/// X-01, X-02, X-03, C-07: at each log level, in each format.
#[test]
fn log_holds_no_secret_and_no_unknown_name() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("broken", "open-sesame");
    store.sql("UPDATE users SET hash = '$2x$' || substr(hash, 5) WHERE name = 'broken'");
    let hash: String = rusqlite::Connection::open(store.database())
        .unwrap()
        .query_row("SELECT substr(hash, 8) FROM users WHERE name = 'roy'", [], |row| row.get(0))
        .unwrap();
    let why = "cannot check credentials: the stored hash of user \"broken\" can't be used: it is a $2x$ hash, made by a flawed program";
    for (level, says_why) in
        [("off", 0), ("error", 1), ("warn", 1), ("info", 1), ("debug", 1), ("trace", 1)]
    {
        for format in ["text", "json"] {
            let log = log_after_secrets(
                &store,
                &format!("--log-level {level} --log-format {format}"),
                &hash,
            );
            let lines: Vec<_> = log.lines().collect();
            let is_whole = |line: &&str| match format {
                "text" => line.starts_with("[20") && line.contains("] "),
                _ => serde_json::from_str::<serde_json::Value>(line).is_ok(),
            };
            assert!(lines.iter().all(is_whole), "{log}");
            let why = if format == "json" { why.replace('"', "\\\"") } else { why.to_owned() };
            assert_eq!(lines.iter().filter(|line| line.contains(&why)).count(), says_why, "{log}");
        }
    }
}

/// Returns the log of a server that receives secrets. It listens on a socket, since its log may not
/// name an address.
fn log_after_secrets(store: &TempStore, words: &str, hash: &str) -> String {
    let mut server = SocketServer::start_unlogged(store, SocketServer::command(store, words));

    let ask = |request: Request| send_locally(store, &request)["HTTP/1.1 ".len()..][..3].to_owned();
    let rest_auth = || Request::get("/rest-auth");
    let shown = [
        ("roy", "open-sesame", "200"),
        ("roy", "wrong-sesame", "401"),
        ("typed-secret", "typed-secret", "401"),
        ("bro\nken", "open-sesame", "401"),
        ("broken", "open-sesame", "503"),
    ];
    let mut secrets = vec!["sesame".to_owned(), "typed-secret".to_owned(), hash.to_owned()];
    for (user, password, expected) in shown {
        assert_eq!(ask(rest_auth().basic(user, password)), expected);
        secrets.push(STANDARD.encode(format!("{user}:{password}")));
    }
    // Malformed fields, which a parser may report.
    assert_eq!(ask(rest_auth().header("Authorization ", "Basic typed-secret")), "400");
    let secret = rest_auth().authorization("typed-secret");
    assert_eq!(ask(secret.clone().authorization(basic("roy", "open-sesame"))), "400");
    assert_eq!(ask(secret), "401");

    assert_eq!(server.stop(), Some(0));
    let mut log = String::new();
    server.1.take().unwrap().read_to_string(&mut log).unwrap();
    for secret in secrets {
        assert!(!log.contains(&secret), "{words}: {secret} in {log}");
    }
    log
}

#[test]
fn log_holds_only_the_expected_lines() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = serve(&store, "");
    let address = server.address;
    assert_eq!(status(&server, "roy", "open-sesame"), 200);
    server.signal(Signal::TERM);
    let log = server.end().1;
    // Different threads log a signal and a decision.
    let lines = log.lines().map(|line| line.split_once("] ").unwrap());
    let (audit, said): (Vec<_>, Vec<_>) = lines.partition(|(head, _)| head.ends_with(" audit"));
    let text = |lines: Vec<(&str, &str)>| {
        lines.iter().map(|(_, text)| text.to_string()).collect::<Vec<_>>()
    };
    let listening =
        format!("1 user in {}, listening on http://{address}", store.database().display());
    assert_eq!(text(said), [&listening, "stopping: requests in flight may finish", "stopped"]);
    assert_eq!(text(audit), [r#"outcome=granted reason=verified source=127.0.0.1 user="roy""#]);
}

/// X-02, X-03: each line has a reason, and a name only if it is that of a user.
#[test]
fn audit_log_has_a_line_for_every_uncached_decision() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("locked", "open-sesame");
    store.add("expired", "open-sesame");
    store.sql(
        "UPDATE users SET locked = TRUE WHERE name = 'locked';
         UPDATE users SET expires = 1 WHERE name = 'expired'",
    );
    let expected = [
        "outcome=challenged reason=no-credentials source=127.0.0.1",
        "outcome=denied reason=not-base64 source=127.0.0.1",
        "outcome=rejected reason=malformed-request source=127.0.0.1",
        r#"outcome=granted reason=verified source=127.0.0.1 user="roy""#,
        r#"outcome=denied reason=wrong-password source=127.0.0.1 user="roy""#,
        "outcome=denied reason=unknown-user source=127.0.0.1",
        r#"outcome=denied reason=locked source=127.0.0.1 user="locked""#,
        r#"outcome=denied reason=expired source=127.0.0.1 user="expired""#,
        "outcome=denied reason=unknown-user source=2001:db8::7",
        "outcome=throttled reason=too-many-failures source=127.0.0.1",
    ];
    let cached = r#"outcome=granted reason=cached source=127.0.0.1 user="roy""#;
    for hits in [false, true] {
        let flags = if hits { "--audit-hits" } else { "" };
        let server =
            serve(&store, &format!("--source-failures 4/24h --trusted-proxy 127.0.0.1 {flags}"));
        let rest_auth = || Request::get("/rest-auth");
        rest_auth().send(server.address);
        rest_auth().authorization("Basic roy").send(server.address);
        rest_auth().authorization("x").authorization("y").send(server.address);
        for (user, password) in [
            ("roy", "open-sesame"),
            ("roy", "open-sesame"),
            ("roy", "wrong"),
            ("typed-secret", "x"),
            ("locked", "open-sesame"),
            ("expired", "open-sesame"),
        ] {
            status(&server, user, password);
        }
        let elsewhere = rest_auth().basic("typed-secret", "x");
        elsewhere.header("X-Forwarded-For", "2001:db8::7").send(server.address);
        assert_eq!(status(&server, "roy", "wrong"), 429);
        let mut expected = expected.to_vec();
        if hits {
            expected.insert(4, cached);
        }
        assert_eq!(server.stop(), expected);
    }
}

/// X-02: the proxied request is on one line, truncated, and without its query.
#[test]
fn audit_log_holds_the_proxied_request_of_a_trusted_proxy() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let asked = |flags: &str| {
        let server = serve(&store, &format!("--require-group admin {flags}"));
        let evil = "/a\"b\\c\u{2028}\u{202E}";
        let long = format!("/{}", "x".repeat(8000));
        for fields in [
            vec![("X-Forwarded-Method", "POST"), ("X-Forwarded-Uri", "/orders?token=secret")],
            vec![("X-Original-Method", "GET"), ("X-Original-URI", evil)],
            vec![("X-Original-URL", &long)],
        ] {
            let request = Request::get("/auth").basic("roy", "open-sesame");
            let request =
                fields.into_iter().fold(request, |r, (name, value)| r.header(name, value));
            assert_eq!(request.send(server.address).status, 403);
        }
        server.stop()
    };
    let line = r#"outcome=forbidden reason=not-in-group source=127.0.0.1 user="roy""#;
    let expected = [
        format!("{line} request=\"POST /orders\""),
        format!(r#"{line} request="GET /a\"b\\c\u{{2028}}\u{{202e}}""#),
        format!("{line} request=\"- /{}…\"", "x".repeat(197)),
    ];
    assert_eq!(asked("--trusted-proxy 127.0.0.1"), expected);
    assert_eq!(asked(""), [line; 3]);
}

#[test]
fn invalid_query_of_a_proxy_is_logged_once() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server = serve(&store, "");
    for _ in 0..3 {
        assert_eq!(Request::get("/auth?groups=x").send(server.address).status, 403);
    }
    let log = server.stop().join("\n");
    assert_eq!(log.matches("its query string is not of the form group=NAME").count(), 1, "{log}");
}

/// X-02: one object per line, with the fields of the text.
#[test]
fn log_is_json_on_request() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let words = format!(
        "serve --port 0 --cost 4 --log-format json --trusted-proxy 127.0.0.1 --database {}",
        store.database().display()
    );
    let mut command = command(store.folder(), words.split(' '));
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = KilledOnDrop(command.spawn().unwrap());
    let stderr = child.0.stderr.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let mut next = move || -> serde_json::Value {
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    let listening = next();
    let message = listening["message"].as_str().unwrap();
    let address = message.split_once("listening on http://").unwrap().1.parse().unwrap();
    assert_eq!(
        (&listening["level"], &listening["target"]),
        (&"INFO".into(), &"resttool::cli::startup".into())
    );
    let time = listening["time"].as_str().unwrap();
    assert!(time.len() == "2026-11-24T10:00:00Z".len() && time.ends_with('Z'), "{time}");
    let request =
        Request::get("/auth").basic("roy", "wrong").header("X-Forwarded-For", "203.0.113.7");
    request.header("X-Original-URI", "/a\"b\u{2028}c").send(address);
    let mut said = next();
    said.as_object_mut().unwrap().remove("time");
    let expected = serde_json::json!({
        "level": "INFO",
        "target": "audit",
        "message": r#"outcome=denied reason=wrong-password source=203.0.113.7 user="roy" request="- /a\"b\u{2028}c""#,
        "outcome": "denied",
        "reason": "wrong-password",
        "source": "203.0.113.7",
        "user": "roy",
        "request": r#"- /a"b\u{2028}c"#,
    });
    assert_eq!(said, expected);
}

/// W-06: no name ends its value in a log line.
#[test]
fn user_name_forges_no_field_of_a_log_line() {
    let store = TempStore::new();
    let forger = r#"x request="y\"#;
    store.add("Jane Doe", "open-sesame");
    store.add(forger, "open-sesame");
    let server = serve(&store, "--cost 4");
    assert_eq!(status(&server, "Jane Doe", "wrong"), 401);
    assert_eq!(status(&server, forger, "wrong"), 401);
    assert_eq!(status(&server, "Jane  Doe", "wrong"), 401);
    let said = server.stop();
    assert_eq!(
        said,
        [
            r#"outcome=denied reason=wrong-password source=127.0.0.1 user="Jane Doe""#,
            r#"outcome=denied reason=wrong-password source=127.0.0.1 user="x request=\"y\\""#,
            "outcome=denied reason=name-not-allowed source=127.0.0.1",
        ]
    );
}

/// Over a rate, lines of each kind are counted and summed up, so no kind hides another.
#[test]
fn flood_of_failures_is_logged_in_few_lines() {
    const FLOOD: usize = 300;
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("broken", "open-sesame");
    store.sql("UPDATE users SET hash = '$2x$' || substr(hash, 5) WHERE name = 'broken'");
    let server = serve(&store, "--cost 4 --source-failures 0 --user-failures 0");
    let mut connection = Connection::open(server.address);
    let start = Instant::now();
    for user in ["roy", "broken"] {
        for _ in 0..FLOOD {
            connection.send(&Request::get("/rest-auth").basic(user, "wrong"));
        }
    }
    assert_eq!(status(&server, "roy", "open-sesame"), 200);
    let most = 20 * (usize::try_from(start.elapsed().as_secs()).unwrap() + 2);
    let said = server.stop();
    assert!(said.iter().any(|line| line.contains("reason=verified")), "{said:?}");
    let trouble = "cannot check credentials: the stored hash of user \"broken\" can't be used";
    let more = |line: &str| line.split_once(" more=").map(|(_, n)| n.parse::<usize>().unwrap());
    for (kind, summed_up) in [
        ("outcome=denied reason=wrong-password", more as fn(&str) -> Option<usize>),
        ("outcome=unavailable reason=failure", more),
        (trouble, |_| None),
    ] {
        let of_this: Vec<_> = said.iter().filter(|line| line.starts_with(kind)).collect();
        let sum: usize = of_this.iter().filter_map(|line| summed_up(line)).sum();
        let lines = of_this.iter().filter(|line| summed_up(line).is_none()).count();
        assert!((20..=most).contains(&lines), "{kind}: {lines}");
        if kind != trouble {
            assert_eq!(lines + sum, FLOOD, "{kind}");
        }
    }
    let missed: usize = said
        .iter()
        .filter_map(|line| {
            line.strip_suffix(" more failures were not written here")?.parse::<usize>().ok()
        })
        .sum();
    let written = said.iter().filter(|line| line.starts_with(trouble)).count();
    assert_eq!(written + missed, FLOOD);
}

/// B-04: the number of workers is that of the option, also under a flood.
#[test]
fn threads_and_memory_are_the_same_after_a_flood() {
    let store = TempStore::new();
    let server = serve(&store, "--cost 4 --hash-workers 3 --source-failures 0 --user-failures 0");
    let flood = |from: usize| {
        std::thread::scope(|scope| {
            for client in 0..8 {
                let address = server.address;
                scope.spawn(move || {
                    let mut connection = Connection::open(address);
                    for n in 0..100 {
                        let user = format!("user-{}", from + client * 100 + n);
                        let response =
                            connection.send(&Request::get("/rest-auth").basic(user, "x"));
                        assert_eq!(response.status, 401);
                    }
                });
            }
        });
    };
    let resident = || {
        let status = server.proc("status");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    flood(0);
    let (threads, before) = (server.threads(), resident());
    assert_eq!(threads.iter().filter(|name| name.starts_with("hash-")).count(), 3);
    flood(1000);
    assert_eq!(server.threads().len(), threads.len());
    assert!(resident() < before + 2048, "{before} KiB, and then {} KiB", resident());
}

#[test]
fn gate_options_take_effect() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let hits = |words: &str| {
        let server = serve(&store, &format!("--audit-hits {words}"));
        for _ in 0..2 {
            assert_eq!(status(&server, "roy", "open-sesame"), 200);
        }
        server.stop().iter().filter(|line| line.contains("cached")).count()
    };
    assert_eq!((hits(""), hits("--cache-entries 0"), hits("--cache-lifetime 1h")), (1, 0, 1));

    let limit = |words: &str, from: [&str; 2]| {
        let server = serve(&store, &format!("--trusted-proxy 192.0.2.0/24,127.0.0.1 {words}"));
        from.map(|from| {
            let wrong = Request::get("/rest-auth").basic("roy", "wrong");
            wrong.header("X-Forwarded-For", from).send(server.address).status
        })
    };
    let (here, there) = ("198.51.100.1", "198.51.100.2");
    assert_eq!(limit("--source-failures 1/1h", [here, here]), [401, 429]);
    assert_eq!(limit("--source-failures 1/1h", [here, there]), [401, 401]);
    assert_eq!(limit("--source-failures 0", [here, here]), [401, 401]);
    assert_eq!(limit("--user-failures 1/1h", [here, there]), [401, 429]);
    assert_eq!(limit("--user-failures 0", [here, there]), [401, 401]);
}

#[test]
fn untrusted_proxy_is_warned_about_once() {
    let store = TempStore::new();
    let told = |words: &str| {
        let server = serve(&store, words);
        for _ in 0..3 {
            let forwarded = Request::get("/rest-auth").header("X-Forwarded-For", "192.0.2.1");
            assert_eq!(forwarded.send(server.address).status, 401);
        }
        let hint = "if it is a proxy of yours, start with --trusted-proxy 127.0.0.1";
        server.stop().iter().filter(|line| line.ends_with(hint)).count()
    };
    assert_eq!(
        (told(""), told("--trusted-proxy 127.0.0.1"), told("--trusted-proxy ::1")),
        (1, 0, 1),
        "one of several may have been forgotten"
    );
}

/// X-05
#[test]
fn no_core_is_dumped() {
    let store = TempStore::new();
    let mut shell = Command::new("sh");
    let serve = "ulimit -c unlimited 2>/dev/null; exec \"$0\" serve --port 0";
    shell.args(["-c", serve, env!("CARGO_BIN_EXE_resttool")]);
    shell.env_clear().env("HOME", store.folder()).current_dir(store.folder());
    let server = ServerProcess::start(shell);
    let limits = server.proc("limits");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
    server.signal(Signal::ABORT);
    let (status, log) = server.status();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{log}");
}

/// A server on a Unix socket.
pub struct SocketServer(pub Child, Option<BufReader<ChildStderr>>);

impl SocketServer {
    pub fn command(store: &TempStore, more: &str) -> Command {
        let words = format!(
            "serve --unix-socket {} --cost 4 --database {} {more}",
            socket(store).display(),
            store.database().display()
        );
        let mut command = command(store.folder(), words.trim_end().split(' '));
        command.stderr(std::process::Stdio::piped());
        command
    }

    pub fn start(store: &TempStore, more: &str) -> Self {
        let mut child = Self::command(store, more).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on unix:") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended");
        }
        Self(child, Some(log))
    }

    /// Starts a server whose log does not report that it listens.
    pub fn start_unlogged(store: &TempStore, mut command: Command) -> Self {
        let notified = store.folder().join("notify");
        let ready = UnixDatagram::bind(&notified).unwrap();
        ready.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut child = command.env("NOTIFY_SOCKET", &notified).spawn().unwrap();
        let log = child.stderr.take().map(BufReader::new);
        let local = Self(child, log);
        ready.recv(&mut [0; 100]).unwrap();
        fs::remove_file(notified).unwrap();
        local
    }

    /// Stops it, and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn socket(store: &TempStore) -> std::path::PathBuf {
    store.folder().join("resttool.sock")
}

/// Sends a request over the Unix socket, and returns the response as text.
pub fn send_locally(store: &TempStore, request: &Request) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket(store)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = request.clone().header("Connection", "close");
    std::io::Write::write_all(&mut stream, &request.bytes()).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream, &mut said).unwrap();
    said
}

/// T-06
#[test]
fn socket_has_its_mode_and_replaces_only_a_stale_one() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let path = socket(&store);
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let mut first = SocketServer::start(&store, "--trusted-proxy 127.0.0.1");
    assert_eq!(mode(), 0o600);
    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
    assert!(send_locally(&store, &roy).starts_with("HTTP/1.1 200"));
    let words =
        format!("serve --unix-socket {} --database {}", path.display(), store.database().display());
    let taken = run(store.folder(), &words, "");
    assert_eq!(taken.code, 1);
    assert!(taken.stderr.ends_with("choose another --unix-socket\n"), "{}", taken.stderr);
    assert!(send_locally(&store, &roy).starts_with("HTTP/1.1 200"), "it goes on");

    // A client of the socket counts as 127.0.0.1, which is a trusted proxy here.
    let proxied = Request::get("/rest-auth").basic("roy", "wrong");
    send_locally(&store, &proxied.header("X-Forwarded-For", "203.0.113.7"));
    let mut log = String::new();
    while !log.contains("reason=wrong-password source=203.0.113.7") {
        assert!(first.1.as_mut().unwrap().read_line(&mut log).unwrap() > 0, "{log}");
    }
    // A killed server leaves its socket behind.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(path.exists());
    let second = SocketServer::start(&store, "--unix-socket-mode 660");
    assert_eq!(mode(), 0o660);
    assert!(send_locally(&store, &roy).starts_with("HTTP/1.1 200"));
    let id = rustix::process::Pid::from_child(&second.0);
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    let mut second = second;
    assert_eq!(second.0.wait().unwrap().code(), Some(0));
    assert!(!path.exists(), "stopped, it takes it away");
    // A file that is no socket stays.
    std::fs::write(&path, "content of another program").unwrap();
    assert_eq!(run(store.folder(), &words, "").code, 1);
    assert!(std::fs::read(&path).unwrap().starts_with(b"content"));
    assert_eq!(run(store.folder(), &format!("{words} --unix-socket-mode 999"), "").code, 2);
}

/// R-14, T-06: the old server still finishes requests when its successor starts.
#[test]
fn stopping_server_leaves_the_socket_of_its_successor() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let path = socket(&store);
    // The first server does not end before its API has answered.
    let (asked, may_answer) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let api = Upstream::answering({
        let (asked, may_answer) = (Arc::clone(&asked), Arc::clone(&may_answer));
        move |_, _| {
            asked.wait();
            may_answer.wait();
            ok("")
        }
    });
    let mut first = SocketServer::start(&store, &format!("--upstream {}", api.url()));
    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
    let mut second = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| send_locally(&store, &roy));
        asked.wait();
        kill_process(Pid::from_child(&first.0), Signal::TERM).unwrap();
        while std::os::unix::net::UnixStream::connect(&path).is_ok() {}
        let second = SocketServer::start(&store, "");
        assert!(first.0.try_wait().unwrap().is_none(), "the first one has not ended yet");
        may_answer.wait();
        assert!(waiting.join().unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(wait_or_kill(&mut first.0).code(), Some(0));
        second
    });
    let response = send_locally(&store, &roy);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert_eq!(second.stop(), Some(0));
    assert!(!path.exists(), "its own socket it takes away");
}

/// W-15: signals and sockets of a service manager that this server does not use.
#[test]
fn sockets_and_signals_that_are_not_used_do_no_harm() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let words = format!("serve --port 0 --cost 4 --database {}", store.database().display());
    let mut activated = command(store.folder(), words.split(' '));
    activated.env("LISTEN_FDS", "1");
    let mut server = ServerProcess::start(activated);
    server
        .wait_for("ignoring the sockets of the service manager (LISTEN_FDS) without a LISTEN_PID");
    for signal in [Signal::USR1, Signal::USR2] {
        server.signal(signal);
        let request = Request::get("/rest-auth").basic("roy", "open-sesame");
        assert_eq!(request.send(server.address).status, 200);
    }
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

/// W-20: a required group without a member refuses all users, and may be a typing error.
#[test]
fn required_group_without_a_member_is_a_warning() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.sql("INSERT INTO memberships VALUES ('roy', 'admin')");
    let server = serve(&store, "--require-group admin,adm");
    let log = server.log.clone();
    assert!(log.contains("no user is in the required group adm\n"), "{log}");
    assert!(!log.contains("group admin"), "{log}");
}
