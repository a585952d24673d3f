//! The settings of `serve --upstream`, as a user gives them: rules, credentials, and health.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::client::{Request, Response, basic};
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field, ok};

/// A store with the user roy, and an API.
struct Site {
    store: TempStore,
    api: Upstream,
}

impl Site {
    fn new() -> Self {
        Self::with(Upstream::echo())
    }

    fn with(api: Upstream) -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        Self { store, api }
    }

    /// Returns `serve` with an upstream and these options.
    fn command(&self, options: &str) -> Command {
        let url = self.api.url();
        let words =
            format!("serve --port 0 --cost 4 --source-failures 0 --upstream {url} {options}");
        let mut command = command(self.store.folder(), words.split_whitespace());
        command.current_dir(self.store.folder()).env("RESTTOOL_DATABASE", self.store.database());
        command
    }

    fn serve(&self, options: &str) -> ServerProcess {
        ServerProcess::start(self.command(options))
    }

    fn check(&self, options: &str) -> Completed {
        finish(self.command(&format!("--check {options}")), "")
    }

    /// Adds roy to a group.
    fn join(&self, group: &str) {
        let words = format!("usermod roy --group {group}");
        let mut command = command(self.store.folder(), words.split_whitespace());
        command.env("RESTTOOL_DATABASE", self.store.database());
        assert_eq!(finish(command, "").code, 0);
    }
}

fn send(server: &ServerProcess, request: &Request) -> Response {
    request.send(server.address)
}

fn roy(request: Request) -> Request {
    request.basic("roy", "open-sesame")
}

/// U-10, U-16
#[test]
fn first_rule_that_matches_decides() {
    let site = Site::new();
    site.join("staff");
    let server = site.serve(
        "--require /docs/private/* --public GET,HEAD:/docs/* --require /admin/*=staff \
         --require /cellar/*=wine --public /health",
    );
    for (method, path, without, with) in [
        ("GET", "/health", 200, 200),
        ("GET", "/docs/a?b=/../c", 200, 200),
        ("HEAD", "/docs", 200, 200),
        ("POST", "/docs/a", 401, 200),
        ("GET", "/docs/private/a", 401, 200),
        ("GET", "/admin/a", 401, 200),
        ("GET", "/cellar/%61", 401, 403),
        ("GET", "/other", 401, 200),
        ("GET", "/other?/docs/a=/health", 401, 200),
        ("OPTIONS", "/other", 401, 200),
    ] {
        let request = Request::new(method, path);
        assert_eq!(send(&server, &request).status, without, "{method} {path}");
        assert_eq!(send(&server, &roy(request)).status, with, "{method} {path}");
    }
    // A path without a password has no user, and the API gets no credentials.
    let seen = send(&server, &roy(Request::get("/health"))).body;
    assert_eq!((field(&seen, "remote-user"), field(&seen, "authorization")), (None, None));
    let forged = Request::get("/health").header("Remote-User", "eve");
    assert!(!send(&server, &forged).body.contains("eve"));
    // All other protections stay.
    let mut client = crate::support::client::Connection::open(server.address);
    client.write(
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    );
    assert_eq!(client.read_head().status, 400);
}

/// U-09: also where no password is needed. Without rules, such paths pass.
#[test]
fn ambiguous_path_is_refused_with_rules_only() {
    let site = Site::new();
    let paths = [
        "/docs/..%2fadmin",
        "/docs/%2e%2e/admin",
        "/docs/../admin",
        "/docs//admin",
        "/docs/..;/admin",
        "/docs/a;b",
        "/docs/%252e%252e/admin",
        "/docs/a%00",
        "/docs\\..\\admin",
        "/docs/%C0%AE%C0%AE/admin",
        "/DOCS/a",
        "*",
    ];
    let with_rules = site.serve("--public /docs/*");
    for path in paths {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        let response = send(&with_rules, &roy(Request::new(method, path)));
        assert_eq!(response.status, 400, "{path}");
        assert!(response.body.starts_with("Bad Request. "), "{path}: {}", response.body);
    }
    assert_eq!(site.api.connections(), 0);
    let without = site.serve("");
    for path in paths.into_iter().filter(|path| *path != "*") {
        let response = send(&without, &roy(Request::get(path)));
        let line = response.body.lines().next().map(str::to_owned);
        assert_eq!(line, Some(format!("GET {path} HTTP/1.1")), "{path}");
    }
}

/// U-09: an upstream that reads the method from a field must not be fooled either.
#[test]
fn field_with_another_method_is_refused_with_rules_on_methods() {
    let site = Site::new();
    let with = |options: &str, name: &str| {
        let request = Request::new("POST", "/a").header(name, "DELETE");
        send(&site.serve(options), &roy(request)).status
    };
    assert_eq!(with("--require DELETE:/a=staff", "X-HTTP-Method-Override"), 400);
    assert_eq!(with("--require DELETE:/a=staff", "X-HTTP-Method"), 400);
    assert_eq!(with("--require DELETE:/a=staff", "X-Method-Override"), 400);
    assert_eq!(with("--require /a", "X-HTTP-Method-Override"), 200);
}

/// U-10: the order of rules is that of the arguments, of the keys of a file, or in variables.
#[test]
fn rules_stand_in_the_order_of_their_options() {
    let site = Site::new();
    let status = |mut command: Command, file: &str, variables: [(&str, &str); 2]| {
        fs::write(site.store.folder().join("resttool.toml"), file).unwrap();
        command
            .arg("--config=resttool.toml")
            .envs(variables.into_iter().filter(|variable| !variable.1.is_empty()));
        let server = ServerProcess::start(command);
        ["/a/x", "/a/y", "/b"].map(|path| send(&server, &Request::get(path)).status)
    };
    let none = [("RESTTOOL_PUBLIC", ""), ("RESTTOOL_REQUIRE", "")];
    let arguments = site.command("--public /a/x --require /a/* --public /*");
    assert_eq!(status(arguments, "", none), [200, 401, 200]);
    let file = "public = \"/a/x\"\nrequire = [\"/a/*\", \"/b\"]\n";
    assert_eq!(status(site.command(""), file, none), [200, 401, 401]);
    let file = "require = \"/a/x\"\npublic = [\"/a/*\", \"/b\"]\n";
    assert_eq!(status(site.command(""), file, none), [401, 200, 200]);
    let variables = [("RESTTOOL_PUBLIC", "/a/*;/b"), ("RESTTOOL_REQUIRE", "/a/x")];
    assert_eq!(status(site.command(""), "", variables), [401, 200, 200]);
}

/// U-10, O-05
#[test]
fn rule_that_cannot_match_is_an_error_at_the_start() {
    let site = Site::new();
    for (options, why) in [
        (
            "--public /* --require /a=staff",
            "--require /a=staff can never match: --public /* before it matches the same requests",
        ),
        ("--public /a --public /a", "--public /a can never match"),
        ("--allow-network 10.0.0.0/8 --allow-network 10.1.0.0/16", "can never match"),
        ("--public /a --require /A=staff", "is ambiguous"),
        ("--public a", "expected a path"),
        ("--public /a/../b", "can never match"),
        ("--public get:/a", "methods are upper case, e.g. GET"),
        ("--public /a=staff", "a public rule takes no groups"),
        ("--require /a=", "invalid group name"),
        ("--allow-network 10.0.0.1/8", "expected an address or a network"),
        ("--upstream-health a", "expected a path"),
        ("--max-body 1T", "expected a number of bytes"),
        ("--upstream-timeout 2h", "expected a time from 1ms to 1h, e.g. 500ms, 5s or 2m, or 0"),
        ("--websocket-origin example.com", "expected same, or an origin"),
        ("--credentials-header Cookie", "expected the name of a header field"),
        ("--ext-authz-prefix /x", "cannot be used with"),
        ("--pass-authorization --credentials-header X-Gate", "cannot be used with"),
    ] {
        let checked = site.check(options);
        assert_eq!((checked.code, checked.stdout.as_str()), (2, ""), "{options}");
        assert!(checked.stderr.contains(why), "{options}: {}", checked.stderr);
    }
    for option in ["--public /a", "--cors", "--max-body 1", "--access-log"] {
        let words = format!("serve --check {option}");
        let alone = finish(command(site.store.folder(), words.split_whitespace()), "");
        assert!(
            alone.code == 2 && alone.stderr.contains("--upstream"),
            "{option}: {}",
            alone.stderr
        );
    }
    for bad in ["127.0.0.1:8000", "http://a/b", "ftp://a", "http://roy@a", "unix:api.sock"] {
        let words = ["serve", "--check", "--upstream", bad];
        assert_eq!(finish(command(site.store.folder(), words), "").code, 2, "{bad}");
    }
    assert_eq!(site.check("--public /a --require /b=staff --cors").code, 0);
}

/// U-16
#[test]
fn network_and_preflight_need_no_password() {
    let site = Site::new();
    let server = site.serve("--allow-network 192.0.2.0/24 --trusted-proxy 127.0.0.1 --cors");
    let from = |address: &str| {
        let request = Request::get("/").header("X-Forwarded-For", address);
        send(&server, &request).status
    };
    assert_eq!((from("192.0.2.7"), from("198.51.100.7")), (200, 401));
    assert_eq!(from("192.0.2.7, 198.51.100.7"), 401, "what a client claims counts for nothing");
    let preflight = |method: &str| {
        let request = Request::new(method, "/").header("Origin", "https://app.example.com");
        request.header("Access-Control-Request-Method", "PUT")
    };
    assert_eq!(send(&server, &preflight("OPTIONS")).status, 200);
    assert_eq!(send(&server, &preflight("GET")).status, 401);
    assert_eq!(send(&server, &Request::new("OPTIONS", "/")).status, 401);
    let without = site.serve("");
    assert_eq!(send(&without, &preflight("OPTIONS")).status, 401);
}

/// U-13, B-11
#[test]
fn api_learns_of_a_trusted_proxy_what_it_forwards() {
    let site = Site::new();
    for (options, proto, addresses) in [
        ("--trusted-proxy 127.0.0.1", "https", "192.0.2.7, 127.0.0.1"),
        ("--trusted-proxy 127.0.0.2", "http", "127.0.0.1"),
    ] {
        let server = site.serve(options);
        let request = roy(Request::get("/")).header("X-Forwarded-For", "192.0.2.7");
        let seen = send(&server, &request.header("X-Forwarded-Proto", "https")).body;
        assert_eq!(field(&seen, "x-forwarded-proto"), Some(proto), "{options}");
        assert_eq!(field(&seen, "x-forwarded-for"), Some(addresses), "{options}");
    }
}

/// U-12
#[test]
fn credentials_header_is_the_only_source() {
    let site = Site::new();
    let server = site.serve("--credentials-header X-Gate");
    let right = basic("roy", "open-sesame");
    assert_eq!(send(&server, &roy(Request::get("/"))).status, 401);
    let request = Request::get("/").header("X-Gate", &right).authorization("Bearer 1");
    let seen = send(&server, &request).body;
    assert_eq!(field(&seen, "authorization"), Some("Bearer 1"));
    assert_eq!((field(&seen, "x-gate"), field(&seen, "remote-user")), (None, Some("roy")));
    let twice = Request::get("/").header("X-Gate", &right).header("X-Gate", &right);
    assert_eq!(send(&server, &twice).status, 400);
}

/// P-01
#[test]
fn script_gets_a_challenge_without_a_prompt() {
    let site = Site::new();
    let script = Request::get("/").header("X-Requested-With", "XMLHttpRequest");
    let quiet = "X-Basic realm=\"Authentication Required\", charset=\"UTF-8\"";
    let server = site.serve("--quiet-challenge");
    assert_eq!(send(&server, &script).header("www-authenticate"), Some(quiet));
    let loud = Some(&quiet[2..]);
    assert_eq!(send(&server, &Request::get("/")).header("www-authenticate"), loud);
    assert_eq!(send(&site.serve(""), &script).header("www-authenticate"), loud);
    // The routes without an upstream too.
    let mut gate = command(site.store.folder(), ["serve", "--port", "0", "--quiet-challenge"]);
    gate.env("RESTTOOL_DATABASE", site.store.database());
    let gate = ServerProcess::start(gate);
    for path in ["/rest-auth", "/auth"] {
        let script = Request::get(path).header("X-Requested-With", "XMLHttpRequest");
        assert_eq!(send(&gate, &script).header("www-authenticate"), Some(quiet), "{path}");
        assert_eq!(send(&gate, &Request::get(path)).header("www-authenticate"), loud, "{path}");
    }
}

#[test]
fn page_of_a_foreign_origin_opens_no_websocket() {
    let site = Site::new();
    let server = site.serve("--websocket-origin same,https://app.example.com");
    let status = |origin: &str| {
        let request = Request::get("/")
            .header("Connection", "upgrade")
            .header("Upgrade", "websocket")
            .header("Origin", origin);
        send(&server, &roy(request)).status
    };
    assert_eq!(status("https://evil.example"), 403);
    assert_eq!(site.api.connections(), 0);
    // The API of this test accepts no WebSocket.
    assert_eq!((status("https://app.example.com"), status("http://localhost")), (200, 200));
}

/// O-04: the readiness of the API counts if a path is set.
#[test]
fn readiness_counts_the_upstream() {
    let site = Site::with(Upstream::answering(|head, _| match head.split(' ').nth(1) {
        Some("/up") => ok(head),
        Some("/moved") => b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
    }));
    let ready = |options: &str| {
        let mut server = site.serve(&format!("--ops-listen 127.0.0.1:0 {options}"));
        let before = "for operators on http://";
        server.wait_for(before);
        let operators = server.log.split_once(before).unwrap().1.trim_end().parse().unwrap();
        let status = Request::get("/readyz").send(operators).status;
        if status == 503 {
            server.wait_for("is not ready, ");
        }
        status
    };
    assert_eq!(ready(""), 200, "the API is not asked");
    assert_eq!(site.api.connections(), 0);
    assert_eq!(ready("--upstream-health /up"), 200);
    assert_eq!(ready("--upstream-health /moved"), 200);
    assert_eq!(ready("--upstream-health /down"), 503);
}

/// X-01, U-15: a line for each passed request, without its query.
#[test]
fn access_log_has_a_line_for_each_passed_request() {
    let site = Site::with(Upstream::answering(|head, _| match head.split(' ').nth(1) {
        Some(path) if path.starts_with("/broken") => b"nonsense\r\n\r\n".to_vec(),
        _ => ok("12345"),
    }));
    let mut server = site.serve("--access-log --public /public");
    for request in [
        roy(Request::get("/a?token=secret")),
        Request::get("/public"),
        Request::get("/refused"),
        roy(Request::get("/broken")),
    ] {
        send(&server, &request);
    }
    server.wait_for("request=\"GET /broken\" bytes=0");
    let lines: Vec<_> = server.log.lines().filter(|line| line.contains("  access]")).collect();
    let field =
        |line: &str| line.split_once("] ").unwrap().1.split_once(" ms=").unwrap().0.to_owned();
    let lines: Vec<_> = lines.into_iter().map(field).collect();
    let expected = [
        "status=200 source=127.0.0.1 user=\"roy\" request=\"GET /a\" bytes=5",
        "status=200 source=127.0.0.1 request=\"GET /public\" bytes=5",
        "status=502 source=127.0.0.1 user=\"roy\" request=\"GET /broken\" bytes=0",
    ];
    assert_eq!(lines, expected);
    let start =
        format!("1 user in {}, upstream {}, ", site.store.database().display(), site.api.url());
    assert!(server.log.contains(&start), "{}", server.log);
    assert!(server.log.contains("gave no response to GET /broken: "), "{}", server.log);
    assert!(!server.log.contains("secret"), "{}", server.log);
}

/// The certificate of the API is verified. The API is another gate.
#[test]
fn upstream_with_tls_is_verified() {
    let site = Site::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = site.store.folder();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let words = "serve --port 0 --cost 4 --tls-cert cert.pem --tls-key key.pem";
    let mut api = command(folder, words.split_whitespace());
    api.current_dir(folder).env("RESTTOOL_DATABASE", site.store.database());
    let api = ServerProcess::start(api);
    let ask = |host: &str, options: &str| {
        let url = format!("https://{host}:{}", api.address.port());
        let words =
            format!("serve --port 0 --cost 4 --upstream {url} --pass-authorization {options}");
        let mut gate = command(folder, words.split_whitespace());
        gate.current_dir(folder).env("RESTTOOL_DATABASE", site.store.database());
        send(&ServerProcess::start(gate), &roy(Request::get("/rest-auth")))
    };
    let granted = ask("localhost", "--upstream-ca cert.pem");
    assert_eq!((granted.status, granted.body.contains("You are authorized")), (200, true));
    assert_eq!(granted.header("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(ask("127.0.0.1", "--upstream-ca cert.pem").status, 502, "another name");
    assert_eq!(ask("localhost", "").status, 502, "the system does not know the authority");
    let missing = site.check("--upstream https://localhost --upstream-ca none.pem");
    assert!(missing.code != 0, "{missing:?}");
}

/// The gate would ask itself, endlessly.
#[test]
fn gate_in_front_of_itself_is_an_error() {
    let store = TempStore::new();
    let check = |options: &str| {
        let words = format!("serve --check --database {} {options}", store.database().display());
        finish(command(store.folder(), words.split_whitespace()), "")
    };
    for (options, upstream) in [
        ("", "http://127.0.0.1:5000"),
        ("", "https://127.0.0.1:5000"),
        ("--port 8000", "http://localhost:8000"),
        ("--port 8000 --allow-plaintext --host 0.0.0.0", "http://127.0.0.1:8000"),
        ("--port 8000 --allow-plaintext --host ::", "http://[::1]:8000"),
        ("--unix-socket /nowhere/s", "unix:/nowhere/s"),
    ] {
        let said = check(&format!("{options} --upstream {upstream}"));
        assert_eq!(said.code, 2, "{options} {upstream}: {said:?}");
        let why = format!("--upstream {upstream} is the address of resttool itself\n");
        assert!(said.stderr.contains(&why), "{options}: {}", said.stderr);
    }
    for options in [
        "--upstream http://127.0.0.1:5001",
        "--upstream http://127.0.0.2:5000",
        "--unix-socket /nowhere/s --upstream http://127.0.0.1:5000",
        "--unix-socket /nowhere/s --upstream unix:/nowhere/other",
        "--port 0 --upstream http://127.0.0.1:5000",
    ] {
        let said = check(options);
        assert!(!said.stderr.contains("itself"), "{options}: {}", said.stderr);
    }
}
