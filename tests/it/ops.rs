//! The listener for operators: health and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use resttool::testing::Timestamp;
use serde_json::Value;

use crate::support::cli::{Completed, ServerProcess, command, finish, run};
use crate::support::client::{Connection, Request, Response};
use crate::support::server::Server;
use crate::support::store::TempStore;

/// A server with a listener for operators.
struct Operated {
    server: ServerProcess,
    operators: SocketAddr,
}

impl Operated {
    fn start(store: &TempStore, more: &str) -> Self {
        let serve = format!(
            "serve --port 0 --ops-listen 127.0.0.1:0 --database {} {more}",
            store.database().display()
        );
        let mut server = ServerProcess::start(command(store.folder(), serve.split_whitespace()));
        let before = "for operators on http://";
        server.wait_for(before);
        let (_, rest) = server.log.split_once(before).unwrap();
        let operators = rest.trim_end().parse().unwrap();
        Self { server, operators }
    }

    fn login(&self, user: &str, password: &str) -> u16 {
        Request::get("/rest-auth").basic(user, password).send(self.server.address).status
    }

    fn get(&self, path: &str) -> Response {
        Request::get(path).send(self.operators)
    }

    fn scrape(&self) -> Metrics {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        let of_type = response.header("content-type");
        assert_eq!(of_type, Some("text/plain; version=0.0.4; charset=utf-8"));
        Metrics(response.body)
    }
}

struct Metrics(String);

impl Metrics {
    /// Returns the values of all series, by their names and labels.
    fn series(&self) -> BTreeMap<&str, f64> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name, value.parse().unwrap())
            })
            .collect()
    }

    fn value(&self, name: &str) -> f64 {
        *self.series().get(name).unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    fn requests(&self, reason: &str) -> f64 {
        let series = self.series();
        let end = format!("reason=\"{reason}\"}}");
        let of_reason = series.iter().find(|(name, _)| {
            name.starts_with("resttool_requests_total{outcome=") && name.ends_with(&end)
        });
        *of_reason.unwrap_or_else(|| panic!("no {reason} in {}", self.0)).1
    }
}

/// M-01, M-02
#[test]
fn counters_equal_what_clients_saw() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let operated = Operated::start(&store, "--cost 4 --source-failures 3/1h");
    let before = operated.scrape();
    assert_eq!(before.series().iter().filter(|(name, _)| name.contains("reason")).count(), 21);
    assert!(
        before.series().iter().filter(|(name, _)| name.contains("reason")).all(|(_, n)| *n == 0.0)
    );
    for (user, password, status) in [
        ("roy", "open-sesame", 200),
        ("roy", "open-sesame", 200),
        ("roy", "wrong", 401),
        ("ann", "wrong", 401),
        ("roy", "open-sesame", 200),
        ("roy", "e\u{301}", 401),
        ("roy", "another", 429),
    ] {
        assert_eq!(operated.login(user, password), status);
    }
    assert_eq!(Request::get("/rest-auth").send(operated.server.address).status, 401);
    let field = Request::get("/rest-auth").authorization("Basic cm95=");
    assert_eq!(field.send(operated.server.address).status, 401);
    let metrics = operated.scrape();
    for (reason, count) in [
        ("verified", 1.0),
        ("cached", 2.0),
        ("wrong-password", 2.0),
        ("unknown-user", 1.0),
        ("too-many-failures", 1.0),
        ("no-credentials", 1.0),
        ("not-base64", 1.0),
        ("locked", 0.0),
    ] {
        assert_eq!(metrics.requests(reason), count, "{reason}");
    }
    for (name, value) in [
        ("resttool_hash_seconds_count", 5.0),
        ("resttool_hash_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("resttool_hash_queue_wait_seconds_count", 4.0),
        ("resttool_hash_queue_length", 0.0),
        ("resttool_cache_entries", 1.0),
        ("resttool_cache_misses_total", 5.0),
        ("resttool_throttled_sources", 1.0),
        ("resttool_throttled_users", 0.0),
        ("resttool_store_reachable", 1.0),
        ("resttool_log_lines_dropped_total", 0.0),
        (concat!("resttool_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(metrics.value(name), value, "{name}");
    }
    assert!(metrics.value("resttool_hash_seconds_sum") > 0.0);
    assert!((0.0..60.0).contains(&metrics.value("resttool_store_reading_age_seconds")));
    assert!(!before.series().contains_key("resttool_store_reading_age_seconds"));
    assert!(metrics.value("resttool_hash_workers") >= 1.0);
    assert!(
        metrics.value("process_cpu_seconds_total") >= before.value("process_cpu_seconds_total")
    );
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    let open = operated.server.descriptors();
    // The connection of the scrape is closed by now.
    assert!((metrics.value("process_open_fds") - open as f64).abs() <= 2.0);
    assert!(metrics.value("process_max_fds") >= open as f64);
    for foreign in ["roy", "ann", "127.0.0.1", "rest-auth", "wrong\"", "users.db"] {
        assert!(!metrics.0.contains(foreign), "{foreign}");
    }
}

/// M-13: every figure of the status, and the page shows the same ones.
#[test]
fn status_equals_what_clients_saw() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let operated = Operated::start(&store, "--cost 4 --source-failures 3/1h --user-failures 2/1h");
    let before: Value = serde_json::from_str(&operated.get("/status.json").body).unwrap();
    assert_eq!(before["store"]["reading_age_seconds"], Value::Null);
    assert_eq!(before["queue"]["mean_hash_seconds"], Value::Null);
    for (user, password, status) in [
        ("roy", "open-sesame", 200),
        ("roy", "open-sesame", 200),
        ("roy", "open-sesame", 200),
        ("ann", "wrong", 401),
        ("ann", "wrong", 401),
        ("roy", "", 401),
        ("roy", "wrong", 401),
        ("roy", "open-sesame", 200),
        ("roy", "another", 429),
    ] {
        assert_eq!(operated.login(user, password), status);
    }
    assert_eq!(Request::get("/rest-auth").send(operated.server.address).status, 401);
    let before = operated.scrape();
    let response = operated.get("/status.json");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let status: Value = serde_json::from_str(&response.body).unwrap();
    let metrics = operated.scrape();
    let requests = serde_json::json!({
        "granted": 4, "denied": 4, "challenged": 1, "throttled": 1,
        "forbidden": 0, "overloaded": 0, "unavailable": 0, "rejected": 0, "exempt": 0,
    });
    assert_eq!(status["requests"], requests);
    // A password that is empty is no miss.
    let cache = serde_json::json!({ "entries": 1, "hits": 3, "misses": 5 });
    assert_eq!(status["cache"], cache);
    assert_eq!(status["queue"]["waiting"], 0);
    assert_eq!(status["queue"]["workers"], metrics.value("resttool_hash_workers") as u64);
    assert_eq!(status["queue"]["hashes"], 4);
    for (figure, metric) in [
        ("mean_hash_seconds", "resttool_hash_seconds"),
        ("mean_wait_seconds", "resttool_hash_queue_wait_seconds"),
    ] {
        let sum = metrics.value(&format!("{metric}_sum"));
        let mean = sum / metrics.value(&format!("{metric}_count"));
        let shown = status["queue"][figure].as_f64().unwrap();
        assert!((shown - mean).abs() < 1e-9, "{figure}: {shown} and {mean}");
    }
    assert_eq!(
        (&status["throttle"]["sources"], &status["throttle"]["users"]),
        (&1.into(), &1.into())
    );
    assert_eq!(status["store"]["reachable"], true);
    assert!(status["store"]["reading_age_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!(status["log"]["dropped_lines"], 0);
    assert_eq!(status["certificate"], Value::Null);
    assert_eq!(
        (&status["version"], &status["pid"]),
        (&env!("CARGO_PKG_VERSION").into(), &operated.server.id().into(),)
    );
    let started = Timestamp::parse(status["started_at"].as_str().unwrap()).unwrap();
    assert_eq!(started.seconds() as f64, metrics.value("process_start_time_seconds"));
    let up = Timestamp::now().seconds() - started.seconds();
    assert!(status["uptime_seconds"].as_u64().unwrap() <= up && up < 60);
    for (figure, metric) in [
        ("resident_bytes", "process_resident_memory_bytes"),
        ("max_files", "process_max_fds"),
        ("open_files", "process_open_fds"),
        ("cpu_seconds", "process_cpu_seconds_total"),
    ] {
        let shown = status["process"][figure].as_f64().unwrap();
        let (before, after) = (before.value(metric), metrics.value(metric));
        let expected = before.min(after) * 0.8..=before.max(after) * 1.2;
        assert!(expected.contains(&shown), "{figure}: {shown}, and {before} to {after}");
    }
    // The page shows them in words.
    let page = operated.get("/status").body;
    for (label, value) in [
        ("granted", "4"),
        ("denied", "4"),
        ("challenged", "1"),
        ("throttled", "1"),
        ("forbidden", "0"),
        ("users can be looked up", "yes"),
        ("certificate", "none"),
        ("entries", "1"),
        ("hit ratio", "37.5 %"),
        ("hits", "3"),
        ("misses", "5"),
        ("waiting now", "0"),
        ("hashes", "4"),
        ("sources", "1"),
        ("user names", "1"),
        ("dropped log lines", "0"),
    ] {
        let row = format!("<dt>{label}</dt><dd>{value}</dd>");
        assert!(page.contains(&row), "{row}: {page}");
    }
    assert!(page.contains("No problems."), "{page}");
}

/// M-04, M-13: over TCP, addresses, names and errors are not shown, and nothing can be changed.
#[test]
fn names_addresses_and_errors_are_on_the_private_socket_only() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let socket = store.folder().join("own.sock");
    let more = format!(
        "--cost 4 --source-failures 1/1h --user-failures 1/1h --control-socket {}",
        socket.display()
    );
    let operated = Operated::start(&store, &more);
    let proxy = Ipv4Addr::new(127, 7, 7, 7);
    let mut connection = Connection::open_from(proxy, operated.server.address);
    let wrong = Request::get("/rest-auth").basic("roy", "wrong");
    assert_eq!(connection.send(&wrong).status, 401);
    // An error of the log, which names the store.
    fs::rename(store.database(), store.folder().join("aside")).unwrap();
    assert_eq!(operated.get("/readyz").status, 503);
    let private = |target: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        response
    };
    for target in ["/status", "/status.json"] {
        let (open, secret) = (operated.get(target), private(target));
        assert_eq!(open.status, 200);
        for text in ["127.7.7.7", "roy", "users.db", "not ready: "] {
            assert!(!open.body.contains(text), "{target} shows {text}");
            assert!(secret.contains(text), "{target} hides {text}: {secret}");
        }
    }
    let page = operated.get("/status");
    assert!(page.body.contains("The store cannot be read. No request is granted."));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    let (_, nonce) = policy.split_once("style-src 'nonce-").unwrap();
    let nonce = nonce.split('\'').next().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'nonce-"), "{policy}");
    assert!(page.body.contains(&format!("<style nonce=\"{nonce}\">")));
    assert_ne!(operated.get("/status").header("content-security-policy"), Some(policy));
    for (method, target) in
        [("GET", "/throttle"), ("POST", "/throttle/clear"), ("POST", "/throttle")]
    {
        let request = Request::new(method, target);
        assert_eq!(request.send(operated.operators).status, 404, "{method} {target}");
        assert_eq!(request.send(operated.server.address).status, 404, "{method} {target}");
    }
    for target in ["/status", "/status.json"] {
        assert_eq!(Request::get(target).send(operated.server.address).status, 404, "{target}");
        assert_eq!(Request::new("POST", target).send(operated.operators).status, 405, "{target}");
    }
}

/// M-13: requests in all intervals together are those that were sent.
#[test]
fn rates_add_up_to_the_requests() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let (server, operators) =
        Server::start_with_operators(store.reader(), Duration::from_millis(20));
    let rates = || {
        let status = Request::get("/status.json").send(operators).body;
        serde_json::from_str::<Value>(&status).unwrap()["rates"].clone()
    };
    for _ in 0..5 {
        assert_eq!(server.login("roy", "open-sesame").status, 200);
    }
    assert_eq!(server.login("roy", "wrong").status, 401);
    let sum = |rates: &Value, name: &str| -> f64 {
        rates[name].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).sum()
    };
    // The last request is in a sample soon.
    let rates = loop {
        let rates = rates();
        if sum(&rates, "denied") > 0.0 {
            break rates;
        }
    };
    let intervals = rates["granted"].as_array().unwrap().len() as f64;
    let mean = rates["seconds"].as_f64().unwrap() / intervals;
    // The intervals are not of quite the same length.
    let ratio = sum(&rates, "granted") / sum(&rates, "denied");
    assert!((2.0..=12.0).contains(&ratio), "{rates}");
    assert!((0.5..=2.0).contains(&(sum(&rates, "hashes") * mean / 2.0)), "{rates}");
    assert_eq!((sum(&rates, "throttled"), sum(&rates, "failed")), (0.0, 0.0));
}

impl Operated {
    /// Starts a server with a certificate that ends with this year.
    fn start_with_tls(store: &TempStore, year: i32) -> Self {
        write_pair(store, year);
        let [certificate, key] = ["cert.pem", "key.pem"].map(|file| store.folder().join(file));
        let more =
            format!("--cost 4 --tls-cert {} --tls-key {}", certificate.display(), key.display());
        Self::start(store, &more)
    }
}

/// Writes a certificate that ends with this year, and its key.
fn write_pair(store: &TempStore, year: i32) {
    let path = |file: &str| store.folder().join(file);
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    for (file, text) in [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(path("aside"), text).unwrap();
        fs::set_permissions(path("aside"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(path("aside"), path(file)).unwrap();
    }
}

/// The figure follows the files, without a handshake in between.
#[test]
fn operators_learn_when_the_certificate_expires() {
    let store = TempStore::new();
    store.open();
    let operated = Operated::start_with_tls(&store, 2090);
    let status = || serde_json::from_str::<Value>(&operated.get("/status.json").body).unwrap();
    let end = |text: &str| Timestamp::parse(text).unwrap().seconds();
    let name = "resttool_certificate_expiry_timestamp_seconds";
    assert_eq!(operated.scrape().value(name) as u64, end("2090-01-01"));
    assert_eq!(status()["certificate"]["expires_at"], "2090-01-01T00:00:00Z");
    let days = (end("2090-01-01") - Timestamp::now().seconds()) / 86_400;
    assert_eq!(status()["certificate"]["days_left"], days);
    write_pair(&store, 2020);
    assert_eq!(operated.scrape().value(name) as u64, end("2020-01-01"));
    assert!(status()["certificate"]["days_left"].as_i64().unwrap() < -2000);
    assert!(operated.get("/status").body.contains("The certificate has expired."));
}

#[test]
fn operators_learn_whether_the_store_can_be_used() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let operated = Operated::start(&store, "--cost 4");
    assert_eq!((operated.get("/healthz").status, operated.get("/readyz").status), (200, 200));
    fs::rename(store.database(), store.folder().join("aside")).unwrap();
    assert_eq!((operated.get("/healthz").status, operated.get("/readyz").status), (200, 503));
    assert_eq!(operated.scrape().value("resttool_store_reachable"), 0.0);
    fs::rename(store.folder().join("aside"), store.database()).unwrap();
    assert_eq!(operated.scrape().value("resttool_store_reachable"), 1.0);
}

/// M-03: connections that no other may close have taken every seat, and every connection that the
/// threads of the other listener accept.
#[test]
fn operators_are_served_while_every_seat_is_taken() {
    let store = TempStore::new();
    store.open();
    let proxy = Ipv4Addr::new(127, 0, 0, 2);
    let operated = Operated::start(&store, "--max-connections 8 --trusted-proxy 127.0.0.2");
    let open = || Connection::open_from(proxy, operated.server.address);
    let mut seated: Vec<_> = (0..8).map(|_| open()).collect();
    let mut are_served =
        move || seated.iter_mut().all(|it| it.send(&Request::get("/healthz")).status == 200);
    assert!(are_served());
    let waiting: Vec<_> = (0..32).map(|_| open()).collect();
    for _ in 0..3 {
        assert_eq!(operated.get("/healthz").status, 200);
        operated.scrape();
    }
    assert!(are_served());
    drop(waiting);
}

/// M-03
#[test]
fn operators_are_served_while_the_other_listener_is_flooded() {
    let store = TempStore::new();
    store.open();
    let operated = Operated::start(
        &store,
        "--max-connections 8 --hash-workers 1 --queue 1 --cost 14 --source-failures 0 --user-failures 0",
    );
    let address = operated.server.address;
    // A worker and the queue are busy, and connections take all seats and the queue of the kernel.
    let idle: Vec<_> = (0..64).map(|_| Connection::open(address)).collect();
    let attempt = |password: &str| {
        let mut connection = Connection::open(address);
        connection.write(&Request::get("/rest-auth").basic("ann", password).bytes());
        connection
    };
    let wait_for = |is_there: &dyn Fn(&Metrics) -> bool| {
        while !is_there(&operated.scrape()) {
            assert_eq!(operated.get("/healthz").status, 200);
        }
    };
    let first = attempt("one");
    wait_for(&|metrics| metrics.value("resttool_hash_queue_wait_seconds_count") == 1.0);
    let second = attempt("two");
    wait_for(&|metrics| metrics.value("resttool_hash_queue_length") == 1.0);
    let third = attempt("three");
    wait_for(&|metrics| metrics.requests("too-many-waiting") == 1.0);
    let mut busy = [first, second, third];
    drop(idle);
    let statuses = busy.each_mut().map(|connection| connection.read().status);
    assert_eq!(statuses, [401, 401, 503]);
}

/// M-04: a page whose name leads here (DNS rebinding) reads nothing.
#[test]
fn operators_are_asked_for_by_address_or_localhost() {
    let store = TempStore::new();
    store.open();
    let operated = Operated::start(&store, "--cost 4");
    let ask = |host: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut connection = Connection::open(operated.operators);
        connection.write(request.as_bytes());
        connection.read_head().status
    };
    for host in ["127.0.0.1", "127.0.0.1:9090", "localhost", "LOCALHOST:80", "[::1]", "[::1]:9090"]
    {
        assert_eq!(ask(host), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "",
    ] {
        assert_eq!(ask(host), 421, "{host}");
    }
    for path in ["/rest-auth", "/auth", "/openapi.json", "/"] {
        assert_eq!(operated.get(path).status, 404, "{path}");
    }
    let public = Request::get("/metrics").send(operated.server.address);
    assert_eq!(public.status, 404);
}

#[test]
fn operators_use_a_private_socket() {
    let store = TempStore::new();
    let path = store.folder().join("ops.sock");
    let serve = format!(
        "serve --port 0 --ops-listen unix:{} --database {}",
        path.display(),
        store.database().display()
    );
    store.open();
    let mut server = ServerProcess::start(command(store.folder(), serve.split_whitespace()));
    server.wait_for("for operators on unix:");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    server.stop();
    assert!(!path.exists());
}

#[test]
fn address_for_operators_is_checked_before_the_start() {
    let store = TempStore::new();
    store.open();
    let serve = |more: &str| {
        let words = format!("serve --port 0 --database {} {more}", store.database().display());
        run(store.folder(), &words, "")
    };
    let refused = |more: &str| {
        let Completed { code, stderr, .. } = serve(more);
        assert_eq!(code, 2, "{stderr}");
        stderr
    };
    let remote = refused("--ops-listen 0.0.0.0:0");
    assert!(remote.contains("--ops-listen 0.0.0.0 can be reached from other machines\nhint: listen on 127.0.0.1 or on unix:PATH, or give --allow-remote-ops\n"), "{remote}");
    assert!(refused("--ops-listen 9090").contains("expected HOST:PORT or unix:PATH"));
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let outcome = serve(&format!("--ops-listen {}", taken.local_addr().unwrap()));
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .stderr
            .ends_with("hint: another program listens there: choose another --ops-listen\n"),
        "{}",
        outcome.stderr
    );
}

/// M-01: Prometheus' own linter finds nothing.
#[test]
#[ignore = "needs promtool (prometheus)"]
fn promtool_accepts_the_metrics() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let operated = Operated::start(&store, "--cost 4");
    assert_eq!(operated.login("roy", "open-sesame"), 200);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let outcome = finish(promtool, operated.scrape().0);
    assert_eq!(outcome, Completed::new(0, "", ""));
}

/// Returns the names of metrics in a text.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_of_name(c))
        .filter(|word| ["resttool_", "process_"].iter().any(|begin| word.starts_with(begin)))
        .collect()
}

#[test]
fn dashboard_alerts_and_docs_ask_for_existing_metrics() {
    let store = TempStore::new();
    store.open();
    let operated = Operated::start(&store, "--cost 4");
    assert_eq!(operated.login("roy", "open-sesame"), 401);
    let over_tls = Operated::start_with_tls(&store, 2090);
    let metrics = operated.scrape().0 + &over_tls.scrape().0;
    let existing = metric_names(&metrics);
    let dashboard = include_str!("../../docs/prometheus/dashboard.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    let asked = [
        dashboard,
        include_str!("../../docs/prometheus/alerts.yml"),
        include_str!("../../docs/prometheus/alerts_test.yml"),
        include_str!("../../docs/monitoring.md"),
    ];
    for name in asked.into_iter().flat_map(metric_names) {
        assert!(existing.contains(name), "{name}");
    }
    let page = include_str!("../../docs/monitoring.md");
    let described = metric_names(page);
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(described.contains(name), "{name} is not described");
    }
    // So is each key of the status.
    let status: Value = serde_json::from_str(&operated.get("/status.json").body).unwrap();
    let mut keys = vec!["certificate.expires_at".to_owned(), "certificate.days_left".to_owned()];
    for (key, value) in status.as_object().unwrap() {
        match value.as_object().filter(|_| key != "requests") {
            Some(inner) => keys.extend(inner.keys().map(|inner| format!("{key}.{inner}"))),
            None => keys.push(key.clone()),
        }
    }
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "{key} is not described");
    }
}

#[test]
#[ignore = "needs promtool (prometheus)"]
fn promtool_accepts_the_configuration_and_the_alerts_fire() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/prometheus");
    for words in
        ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
    {
        let mut promtool = Command::new("promtool");
        promtool.args(words.split(' ')).current_dir(folder);
        let outcome = finish(promtool, "");
        assert_eq!(outcome.code, 0, "{words}: {}{}", outcome.stdout, outcome.stderr);
    }
    // A test for each alert, and one of a server that is well.
    let alerts = include_str!("../../docs/prometheus/alerts.yml").matches("- alert: ").count();
    let tests = include_str!("../../docs/prometheus/alerts_test.yml");
    assert_eq!(tests.matches("exp_annotations:").count(), alerts);
    assert_eq!(tests.matches("exp_alerts: []").count(), alerts);
}
