//! Responses of an upstream, as a client gets them through the proxy. The first byte of the input
//! chooses the request, the rest is what the upstream sends.
#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use actix_web::rt::signal::unix::{SignalKind, signal};
use libfuzzer_sys::fuzz_target;
use resttool::testing::{
    AccessRule, AccessRules, AuthConfig, Authenticator, Cost, Delays, HttpConfig, Listener,
    MockStore, ProxyConfig, Realm, Service, Upstream, run_server,
};

/// The time that the upstream waits for another request. It closes the connection then, so that a
/// response without an end has one.
const WAIT: Duration = Duration::from_millis(5);

/// What the upstream sends for the request of the input.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The body of the response to the other request, which no input can know.
static NEXT: AtomicU64 = AtomicU64::new(0x5eed_f00d_cafe);

/// The address of the proxy.
static PROXY: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("resttool-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (api, proxy) = (folder.join("api"), folder.join("proxy"));
    let upstream = UnixListener::bind(&api).unwrap();
    thread::spawn(move || {
        for connection in upstream.incoming() {
            thread::spawn(move || answer(connection.unwrap()));
        }
    });
    start(&api, &proxy);
    proxy
});

fn start(api: &Path, proxy: &Path) {
    let upstream = format!("unix:{}", api.display()).parse().unwrap();
    let rules = AccessRules::new(vec![AccessRule::public("/*").unwrap()]).unwrap();
    let config = ProxyConfig { rules, ..ProxyConfig::new(Upstream::new(upstream, None).unwrap()) };
    let http = HttpConfig {
        delays: Delays::NONE,
        proxy: Some(config),
        ..HttpConfig::new(Realm::new(Realm::DEFAULT).unwrap())
    };
    let auth = AuthConfig { cost: Cost::new(4).unwrap(), ..AuthConfig::default() };
    let authenticator = Authenticator::new(Box::new(MockStore::default()), &auth).unwrap();
    let socket = UnixListener::bind(proxy).unwrap().into();
    let listener = Listener { socket, tls: None, service: Service::Proxy };
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        let ready = || {
            // A program of Rust ignores this signal from its start, but the fuzzer's is none. Without a
            // handler, a write to a closed socket would end it.
            signal(SignalKind::pipe())?;
            ready.send(()).unwrap();
            Ok(std::future::pending::<()>())
        };
        run_server(vec![listener], Arc::new(authenticator), &http, ready).unwrap();
    });
    is_ready.recv().unwrap();
}

/// Answers the requests of a connection.
fn answer(mut connection: UnixStream) {
    connection.set_read_timeout(Some(WAIT)).unwrap();
    while let Some(head) = read_head(&mut connection) {
        let (bytes, close) = if head.starts_with(b"GET /next") {
            let next = NEXT.load(Ordering::SeqCst).to_string();
            let length = next.len();
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{next}").into(), false)
        } else {
            (ANSWER.lock().unwrap().clone(), contains(&head, b"x-close"))
        };
        if connection.write_all(&bytes).is_err() || close {
            return;
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn read_head(connection: &mut UnixStream) -> Option<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(head)
}

/// A response as a strict client reads it.
struct Response {
    status: u16,
    body: Vec<u8>,
    /// The connection is as it was before the request.
    is_whole: bool,
}

/// Reads a response, and panics if it can be read in two ways. Returns `None` without one: if a body
/// fails at once, the connection ends.
fn read(connection: &mut UnixStream, method: &str) -> Option<Response> {
    let head = read_head(connection)?;
    let head = String::from_utf8_lossy(&head[..head.len() - 4]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap();
    assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{head:?}");
    let status = status.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().unwrap();
    assert!(status >= 200, "an interim response: {head:?}");
    let (mut length, mut chunked, mut close) = (None, false, false);
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field");
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        assert!(!name.is_empty() && name.chars().all(is_token), "{name:?}");
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => {
                assert!(length.is_none() && value.bytes().all(|c| c.is_ascii_digit()), "{head:?}");
                length = Some(value.parse().expect("a length"));
            }
            ("transfer-encoding", value) => {
                assert!(!chunked && value == "chunked", "{head:?}");
                chunked = true;
            }
            ("connection", value) => {
                assert!(["close", "keep-alive"].contains(&value), "{head:?}");
                close |= value == "close";
            }
            ("upgrade" | "trailer" | "te" | "proxy-authenticate", _) => panic!("{head:?}"),
            _ => {}
        }
    }
    assert!(!chunked || length.is_none(), "{head:?}");
    let mut body = Vec::new();
    let is_whole = if method == "HEAD" || status == 204 || status == 304 {
        true
    } else if chunked {
        read_chunks(connection, &mut body)
    } else if let Some(length) = length {
        connection.take(length).read_to_end(&mut body).unwrap();
        body.len() as u64 == length
    } else {
        connection.read_to_end(&mut body).unwrap();
        false
    };
    Some(Response { status, body, is_whole: is_whole && !close })
}

/// Reads a body in chunks. Returns false if it is not whole.
fn read_chunks(connection: &mut UnixStream, body: &mut Vec<u8>) -> bool {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        line.clear();
        while !line.ends_with(b"\r\n") {
            if connection.read_exact(&mut byte).is_err() {
                return false;
            }
            line.push(byte[0]);
        }
        let size = std::str::from_utf8(&line[..line.len() - 2]).expect("a chunk size");
        let size = u64::from_str_radix(size, 16).expect("a chunk size");
        let before = body.len() as u64;
        connection.take(size).read_to_end(body).unwrap();
        let mut end = [0; 2];
        if body.len() as u64 != before + size || connection.read_exact(&mut end).is_err() {
            return false;
        }
        assert_eq!(&end, b"\r\n");
        if size == 0 {
            return true;
        }
    }
}

/// Checks that the other request gets its own response, or none.
fn check_next(connection: &mut UnixStream) {
    let expected = NEXT.load(Ordering::SeqCst).to_string();
    connection.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let next = read(connection, "GET").expect("a response");
    assert!(next.status == 502 || next.status == 200, "{}", next.status);
    assert!(next.status == 502 || next.body == expected.as_bytes(), "not its own response");
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let method = if choice & 1 == 1 { "HEAD" } else { "GET" };
    let close = if choice & 2 == 2 { "X-Close: 1\r\n" } else { "" };
    bytes.clone_into(&mut ANSWER.lock().unwrap());
    NEXT.fetch_add(1, Ordering::SeqCst);
    let mut client = UnixStream::connect(&*PROXY).unwrap();
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{close}\r\n");
    client.write_all(request.as_bytes()).unwrap();
    if let Some(response) = read(&mut client, method) {
        assert!(!contains(&response.body, b"The log of the server says more"), "a panic");
        if response.is_whole {
            check_next(&mut client);
        }
    }
    // Another client takes the connection to the upstream, if that was kept.
    check_next(&mut UnixStream::connect(&*PROXY).unwrap());
});
