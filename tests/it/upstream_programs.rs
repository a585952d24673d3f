//! The proxy as a program, between clients and APIs that are programs too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::program::{Program, listening};
use crate::support::store::TempStore;

const CREDENTIALS: [&str; 2] = ["-u", "roy:open-sesame"];

/// A gate in front of an API, with the user roy.
struct Site {
    gate: ServerProcess,
    api: SocketAddr,
    _program: Program,
    store: TempStore,
}

impl Site {
    /// Starts the API and the gate. The API runs in the folder of the store. It answers at `path`.
    fn new(path: &str, options: &str, make: impl Fn(&Path, u16) -> Command) -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let folder = store.folder();
        let (program, api) = listening(&folder.join("api.log"), path, |port| {
            let mut api = make(folder, port);
            api.current_dir(folder);
            api
        });
        let words = format!("serve --port 0 --cost 4 --upstream http://{api} {options}");
        let mut serve = command(folder, words.split_whitespace());
        serve.env("RESTTOOL_DATABASE", store.database());
        Self { gate: ServerProcess::start(serve), api, _program: program, store }
    }

    /// Starts a gate in front of a script of `tests/upstreams`, which Node.js runs.
    fn with_node(script: &str) -> Self {
        Self::new("/", "", |_, port| {
            let mut node = Command::new("node");
            node.arg(in_upstreams(script)).arg(port.to_string());
            node
        })
    }

    fn url(&self) -> String {
        format!("http://{}", self.gate.address)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.store.folder().join(file)
    }

    /// Returns a client that runs in the folder of the store, for a minute at most.
    fn client(&self, program: &str) -> Command {
        let mut client = Command::new("timeout");
        client.args(["60", program]).current_dir(self.store.folder());
        client
    }

    /// Runs curl with these options, separated by spaces, and `input` on standard input.
    fn curl(&self, options: &str, target: &str, input: &[u8]) -> Completed {
        let mut curl = self.client("curl");
        curl.args(["-q", "-sS"]).args(options.split_whitespace()).arg(self.url() + target);
        finish(curl, input)
    }

    /// Runs curl as roy, and returns its output.
    fn curl_as_roy(&self, options: &str, target: &str) -> String {
        let options = format!("{} {options}", CREDENTIALS.join(" "));
        succeeded(self.curl(&options, target, b""))
    }

    /// Runs a script of `tests/upstreams` with these arguments, and returns its results.
    fn results(&self, program: &str, script: &str, args: &[&str]) -> Value {
        let mut client = self.client(program);
        client.arg(in_upstreams(script)).args(args);
        serde_json::from_str(&succeeded(finish(client, ""))).unwrap()
    }
}

fn in_upstreams(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstreams").join(script)
}

fn succeeded(outcome: Completed) -> String {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.stdout
}

/// Writes this number of random bytes to a file, and returns them.
fn write_random(file: &Path, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(file, &bytes).unwrap();
    bytes
}

/// Returns the SHA-256 of a file, in hexadecimal.
fn sha256(file: &Path) -> String {
    let mut program = Command::new("sha256sum");
    program.arg(file);
    succeeded(finish(program, "")).split(' ').next().unwrap().to_owned()
}

/// Asserts that a file has this content, without printing it.
fn assert_same(found: &Path, expected: &[u8]) {
    let found = fs::read(found).unwrap();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "other content");
}

fn php(folder: &Path, port: u16) -> Command {
    let script = "<?php header('Content-Type: application/json'); echo json_encode($_SERVER);";
    fs::write(folder.join("index.php"), script).unwrap();
    let mut php = Command::new("php");
    php.arg("-S").arg(format!("127.0.0.1:{port}")).arg("index.php");
    php
}

/// U-02, U-15: PHP folds the names of fields, and no spelling of a client reaches it.
#[test]
#[ignore = "needs php and curl"]
fn php_upstream_sees_fields_of_the_gate_alone() {
    let site = Site::new("/", "", php);
    let claims = [
        "Remote-User",
        "Remote_User",
        "Remote.User",
        "REMOTE_USER",
        "Remote-Groups",
        "Remote_Groups",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X.Forwarded.For",
        "X_Forwarded_Host",
        "X-Real-IP",
        "X_Real_IP",
        "Forwarded",
        "Proxy",
    ];
    let claims: String = claims.iter().map(|name| format!("-H {name}:evil ")).collect();
    let seen = |output: &str| -> BTreeMap<String, String> {
        let all: BTreeMap<String, Value> = serde_json::from_str(output).unwrap();
        let of_client = |name: &str| {
            ["HTTP_", "PHP_AUTH", "AUTH_", "REMOTE_USER"].iter().any(|p| name.starts_with(p))
        };
        let all = all.into_iter().filter(|(name, _)| of_client(name));
        all.map(|(name, value)| (name, value.as_str().unwrap().to_owned())).collect()
    };
    let expected = |host: &str| {
        BTreeMap::from(
            [
                ("HTTP_HOST", host),
                ("HTTP_ACCEPT", "*/*"),
                ("HTTP_USER_AGENT", "client"),
                ("HTTP_COOKIE", "a=1"),
                ("HTTP_REMOTE_USER", "roy"),
                ("HTTP_REMOTE_GROUPS", ""),
                ("HTTP_X_FORWARDED_FOR", "127.0.0.1"),
                ("HTTP_X_FORWARDED_PROTO", "http"),
                ("HTTP_X_FORWARDED_HOST", host),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    };
    let options = format!("-A client -H Cookie:a=1 {claims}");
    let output = site.curl_as_roy(&options, "/");
    assert_eq!(seen(&output), expected(&site.gate.address.to_string()));
    for secret in ["open-sesame", "evil", "cm95Om9wZW4tc2VzYW1l"] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }

    // Without the gate, PHP believes the client in each spelling.
    for name in ["Remote-User", "Remote_User", "Remote.User"] {
        let mut curl = site.client("curl");
        curl.args(["-q", "-sS", "-H", &format!("{name}:evil")]).args(CREDENTIALS);
        curl.arg(format!("http://{}/", site.api));
        let direct = seen(&succeeded(finish(curl, "")));
        let believed = ["HTTP_REMOTE_USER", "PHP_AUTH_USER"].map(|name| direct.get(name).cloned());
        assert_eq!(believed, [Some("evil".to_owned()), Some("roy".to_owned())], "{direct:?}");
    }

    let passing = Site::new("/", "--pass-authorization", php);
    let seen = seen(&passing.curl_as_roy("", "/"));
    let passed = ["PHP_AUTH_USER", "PHP_AUTH_PW"].map(|name| seen.get(name).map(String::as_str));
    assert_eq!(passed, [Some("roy"), Some("open-sesame")]);
}

fn python_files(_: &Path, port: u16) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    // Unbuffered: the log is read.
    python.args(["-u", "-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]);
    python
}

/// An API of HTTP/1.0, to which the gate is a client of HTTP/1.1.
#[test]
#[ignore = "needs curl and python3"]
fn curl_gets_files_of_an_http_1_0_upstream() {
    let site = Site::new("/", "", python_files);
    let content = write_random(&site.path("large"), 5_000_000);
    let write_out = "-w %{http_code}:%{http_version}:%{size_download}";
    let done = site.curl_as_roy(&format!("{write_out} -o copy"), "/large");
    assert_eq!(done, "200:1.1:5000000");
    assert_same(&site.path("copy"), &content);

    // Three requests on one connection of the client.
    let listing = site.curl_as_roy("-w %{http_code}:%{num_connects};", "/?[1-3]");
    assert_eq!(listing.matches("href=\"large\"").count(), 3, "{listing}");
    assert_eq!((listing.matches("200:1;").count(), listing.matches("200:0;").count()), (1, 2));

    let head = site.curl_as_roy("-I", "/large").to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-length: 5000000\r\n"), "{head}");
    assert_eq!(site.curl_as_roy("-o copy -w %{http_code}", "/none"), "404");
}

#[test]
#[ignore = "needs curl and python3"]
fn curl_sends_no_body_without_credentials() {
    let site = Site::new("/", "", python_files);
    write_random(&site.path("upload"), 5_000_000);
    // curl sends the body if it gets no response for this time.
    let options = "-v -T upload -H Expect:100-continue --expect100-timeout 60 \
                   -w %{http_code}:%{size_upload}";
    for credentials in ["", "-u roy:wrong"] {
        let refused = site.curl(&format!("{credentials} {options}"), "/upload-target", b"");
        assert_eq!(refused.code, 0, "{refused:?}");
        assert!(refused.stderr.contains("> Expect:100-continue\r\n"), "{refused:?}");
        assert!(refused.stderr.contains("< HTTP/1.1 401 "), "{refused:?}");
        assert!(!refused.stderr.contains("100 Continue"), "{refused:?}");
        assert!(refused.stdout.ends_with("401:0"), "{refused:?}");
    }
    // http.server refuses PUT. Its log has a line for each request that it got.
    assert!(site.curl_as_roy("-X PUT -w %{http_code}", "/reached").ends_with("501"));
    let log = fs::read_to_string(site.path("api.log")).unwrap();
    assert!(log.contains("/reached") && !log.contains("/upload-target"), "{log}");
}

#[test]
#[ignore = "needs curl and node"]
fn curl_uploads_bodies_with_and_without_a_length() {
    let site = Site::with_node("streams.js");
    let content = write_random(&site.path("upload"), 5_000_000);
    let digest = sha256(&site.path("upload"));
    let options = format!(
        "{} -v --expect100-timeout 60 -w :%{{http_code}}:%{{size_upload}}",
        CREDENTIALS.join(" ")
    );

    let chunked = site.curl(&format!("{options} -T -"), "/digest", &content);
    assert!(chunked.stderr.contains("> Transfer-Encoding: chunked\r\n"), "{chunked:?}");
    assert!(chunked.stdout.starts_with(&format!("{digest}:200:")), "{chunked:?}");

    let expect = "-T upload -H Expect:100-continue";
    let sized = site.curl(&format!("{options} {expect}"), "/digest", b"");
    assert!(sized.stderr.contains("< HTTP/1.1 100 Continue\r\n"), "{sized:?}");
    assert_eq!(sized.stdout, format!("{digest}:200:5000000"));
}

fn nginx(folder: &Path, port: u16) -> Command {
    let home = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {home}/{kind};")).concat();
    let text = format!(
        "user root; worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log;
         events {{ }}
         http {{
             access_log off; {temporary}
             gzip on; gzip_types *; gzip_min_length 1;
             server {{
                 listen 127.0.0.1:{port}; root {home}/files;
                 location = / {{ return 200; }}
                 location = /connection {{ return 200 \"$connection\\n\"; }}
             }}
         }}"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    fs::create_dir_all(folder.join("files")).unwrap();
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx.arg("-e").arg(folder.join("error.log")).arg("-c").arg(folder.join("nginx.conf"));
    nginx
}

#[test]
#[ignore = "needs curl and nginx"]
fn connections_to_nginx_are_kept_alive() {
    let site = Site::new("/", "", nginx);
    let output = site.curl_as_roy("-w %{http_code}:%{num_connects}\\n", "/connection?[1-200]");
    let mut lines = output.lines();
    let (mut connections, mut connects, mut count) = (BTreeSet::new(), 0, 0);
    while let (Some(connection), Some(done)) = (lines.next(), lines.next()) {
        connections.insert(connection.to_owned());
        let (status, opened) = done.split_once(':').unwrap();
        assert_eq!(status, "200");
        connects += opened.parse::<u32>().unwrap();
        count += 1;
    }
    assert_eq!((count, connects), (200, 1));
    // The last exchange of a connection may be ending when the next request comes.
    assert!(connections.len() <= 2, "{connections:?}");
}

#[test]
#[ignore = "needs curl and nginx"]
fn responses_of_nginx_pass_unchanged() {
    let site = Site::new("/", "", nginx);
    let content = write_random(&site.path("files/large.bin"), 20 << 20);
    fs::write(site.path("files/page.html"), "A line of many.\n".repeat(10_000)).unwrap();

    let done = site.curl_as_roy("-o copy -w %{http_code}:%{size_download}", "/large.bin");
    assert_eq!(done, format!("200:{}", 20 << 20));
    assert_same(&site.path("copy"), &content);
    let part = site.curl_as_roy("-r 1000000-1999999 -o part -w %{http_code}", "/large.bin");
    assert_eq!(part, "206");
    assert_same(&site.path("part"), &content[1_000_000..2_000_000]);

    let empty = site.curl_as_roy("-w %{http_code}:%{size_download}", "/");
    assert_eq!(empty, "200:0");

    let head = site.curl_as_roy("-I", "/page.html").to_lowercase();
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert!(head.contains("\r\ncontent-length: 160000\r\n"), "{head}");
    let conditional = format!("-H If-None-Match:{tag} -w %{{http_code}}:%{{size_download}}");
    assert_eq!(site.curl_as_roy(&conditional, "/page.html"), "304:0");
    let other = "-H If-None-Match:\"other\" -o copy -w %{http_code}";
    assert_eq!(site.curl_as_roy(other, "/page.html"), "200");

    // Without --compressed, curl writes the content as it comes.
    let encoded = "-H Accept-Encoding:gzip -D fields -o encoded -w %{http_code}";
    assert_eq!(site.curl_as_roy(encoded, "/page.html"), "200");
    let fields = fs::read_to_string(site.path("fields")).unwrap().to_lowercase();
    assert!(fields.contains("\r\ncontent-encoding: gzip\r\n"), "{fields}");
    let mut curl = site.client("curl");
    curl.args(["-q", "-sS", "-H", "Accept-Encoding: gzip", "-o", "direct"]);
    curl.arg(format!("http://{}/page.html", site.api));
    succeeded(finish(curl, ""));
    let direct = fs::read(site.path("direct")).unwrap();
    assert!(direct.starts_with(&[0x1f, 0x8b]) && direct.len() < 160_000);
    assert_same(&site.path("encoded"), &direct);
}

/// U-07, U-14: the next event is sent after the client has seen the one before. When the client
/// leaves, the API sees it.
#[test]
#[ignore = "needs node"]
fn fetch_of_node_reads_events_one_by_one() {
    let site = Site::with_node("streams.js");
    let found = site.results("node", "events_client.js", &[&site.url()]);
    let expected = json!({
        "status": 200,
        "type": "text/event-stream",
        "events": ["data: event 1\n\n", "data: event 2\n\n", "data: event 3\n\n"],
        "left": "left\n",
    });
    assert_eq!(found, expected);
}

/// U-06, U-08
#[test]
#[ignore = "needs node with ws in NODE_PATH"]
fn node_websocket_echoes_until_the_user_is_removed() {
    let site = Site::with_node("websocket.js");
    let (host, database) = (site.gate.address.to_string(), site.store.database());
    let args = [&*host, env!("CARGO_BIN_EXE_resttool"), database.to_str().unwrap()];
    let found = site.results("node", "websocket_client.js", &args);
    assert_eq!((&found["withoutCredentials"], &found["wrongPassword"]), (&401.into(), &401.into()));
    assert_eq!(found["first"], "hello roy");
    assert_eq!(found["text"], json!(["Grüße, 日本", false]));
    assert_eq!(found["binary"], json!([true, true]));
    assert_eq!((&found["openBefore"], &found["exitCode"]), (&true.into(), &0.into()));
    let closed_after = found["closedAfter"].as_f64().unwrap();
    assert!(closed_after < 1500.0, "{found}");
    assert_eq!(found["afterwards"], 401);
    assert_eq!(found["closeCode"], 1006, "the connection ends without a closing handshake");
}

/// The browser shows a page of the gate before the login, and reaches all of the API after it.
#[test]
#[ignore = "needs chromium, and node with puppeteer-core and ws in NODE_PATH"]
fn chromium_uses_page_fetch_and_websocket_after_login() {
    let site = Site::with_node("websocket.js");
    let found = site.results("node", "page_client.js", &[&site.url()]);
    let refused = json!({
        "status": 401,
        "type": "text/html; charset=utf-8",
        "title": "Unauthorized",
        "text": "401 Unauthorized\n\nLog in with a valid user name and password.",
    });
    assert_eq!(found["refused"], refused);
    let page = json!({ "status": 200, "type": "text/html", "title": "API", "text": "page" });
    assert_eq!(found["page"], page);
    assert_eq!(found["fetched"], json!([200, "roy"]));
    assert_eq!(found["messages"], json!(["hello roy", "echo"]));
}

/// requests encodes credentials in Latin-1, and httpx in UTF-8.
#[test]
#[ignore = "needs node, and python3 with requests and httpx"]
fn requests_and_httpx_stream_in_both_directions() {
    let site = Site::with_node("streams.js");
    site.store.add("bob", "pässwörd");
    let found = site.results("python3", "transfers_client.py", &[&site.url()]);
    let events = ["data: event 1", "data: event 2", "data: event 3"];
    let expected = json!([true, events, [200, 401]]);
    assert_eq!(found, json!({ "requests": expected, "httpx": expected }));
}

#[test]
#[ignore = "needs node with ws in NODE_PATH, and python3 with websockets"]
fn python_websocket_client_echoes() {
    const SCRIPT: &str = r#"
import sys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
try:
    connect(f"ws://{sys.argv[1]}/")
except InvalidStatus as refused:
    print(refused.response.status_code)
with connect(f"ws://roy:open-sesame@{sys.argv[1]}/") as socket:
    print(socket.recv())
    socket.send("echo")
    print(socket.recv())
    socket.send(bytes(1000000))
    print(len(socket.recv()))
"#;
    let site = Site::with_node("websocket.js");
    let mut python = site.client("python3");
    python.args(["-c", SCRIPT, &site.gate.address.to_string()]);
    assert_eq!(succeeded(finish(python, "")), "401\nhello roy\necho\n1000000\n");
}

/// Runs git with arguments separated by spaces, without settings of the user.
fn git(folder: &Path, words: &str) -> Completed {
    let mut git = Command::new("timeout");
    git.args(["60", "git"]).args(words.split(' ')).current_dir(folder).env("HOME", folder);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "Roy")
            .env(format!("GIT_{role}_EMAIL"), "roy@localhost");
    }
    git.env("GIT_TERMINAL_PROMPT", "0");
    finish(git, "")
}

#[test]
#[ignore = "needs git and python3"]
fn git_clones_and_pushes_over_http() {
    let path = "/orders.git/info/refs?service=git-upload-pack";
    let site = Site::new(path, "", |folder, port| {
        succeeded(git(folder, "init -q --bare -b main orders.git"));
        // http-backend names the user of a push in the reference log.
        succeeded(git(folder, "-C orders.git config core.logAllRefUpdates true"));
        let mut server = Command::new("/usr/bin/python3");
        server.arg(in_upstreams("git_server.py")).arg(port.to_string()).arg(folder);
        server
    });
    let folder = site.store.folder();
    let url = |credentials: &str| format!("http://{credentials}{}/orders.git", site.gate.address);
    let ours = url("roy:open-sesame@");

    succeeded(git(folder, &format!("clone -q {ours} first")));
    let content = write_random(&folder.join("first/large"), 5_000_000);
    for words in ["add large", "commit -q -m large", "push -q origin HEAD:main"] {
        succeeded(git(&folder.join("first"), words));
    }
    succeeded(git(folder, &format!("clone -q {ours} second")));
    assert_same(&folder.join("second/large"), &content);
    let head = |repository: &str| succeeded(git(&folder.join(repository), "rev-parse main"));
    assert_eq!(head("orders.git"), head("first"));
    assert_eq!(succeeded(git(folder, "-C orders.git log -g --format=%gn main")), "roy\n");

    for (credentials, cause) in
        [("", "could not read Username"), ("roy:wrong@", "Authentication failed")]
    {
        let refused = git(folder, &format!("ls-remote {}", url(credentials)));
        assert_eq!(refused.code, 128, "{refused:?}");
        assert!(refused.stderr.contains(cause), "{refused:?}");
    }
}
