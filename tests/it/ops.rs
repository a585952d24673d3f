//! The listener for operators: health and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::support::cli::{Completed, ServerProcess, command, finish, run};
use crate::support::client::{Connection, Request, Response};
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
    assert_eq!(before.series().iter().filter(|(name, _)| name.contains("reason")).count(), 20);
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
    let open = fs::read_dir(format!("/proc/{}/fd", operated.server.id())).unwrap().count();
    // The connection of the scrape is closed by now.
    assert!((metrics.value("process_open_fds") - open as f64).abs() <= 2.0);
    assert!(metrics.value("process_max_fds") >= open as f64);
    for foreign in ["roy", "ann", "127.0.0.1", "rest-auth", "wrong\"", "users.db"] {
        assert!(!metrics.0.contains(foreign), "{foreign}");
    }
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
        "--max-connections 8 --hash-workers 1 --queue 1 --cost 15 --source-failures 0 --user-failures 0",
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
    let metrics = operated.scrape().0;
    let existing = metric_names(&metrics);
    let dashboard = include_str!("../../docs/prometheus/dashboard.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    let asked = [
        dashboard,
        include_str!("../../docs/prometheus/alerts.yml"),
        include_str!("../../docs/prometheus/alerts_test.yml"),
        include_str!("../../docs/operations.md"),
    ];
    for name in asked.into_iter().flat_map(metric_names) {
        assert!(existing.contains(name), "{name}");
    }
    let described = metric_names(include_str!("../../docs/operations.md"));
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(described.contains(name), "{name} is not described");
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
