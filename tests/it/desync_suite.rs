//! The cases of http_desync_guardian 0.1.3 (Apache-2.0), a public suite of requests that servers may
//! read differently, each sent through the proxy.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::HttpConfig;
use crate::support::client::{Connection, Request, basic};
use crate::support::server::Server;
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field, ok};

/// What the suite says of a request.
#[derive(PartialEq, Debug)]
enum Tier {
    /// It may pass.
    Harmless,
    /// Servers may read it differently.
    Ambiguous,
    /// It has to be refused.
    Severe,
}

struct Case {
    name: String,
    tier: Tier,
    head: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let suite = std::env::var("DESYNC_SUITE").expect("the folder of the suite, see .ci/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstreams/desync_cases.py");
    let read = Command::new("/usr/bin/python3").arg(script).arg(suite).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let cases: Vec<Value> = serde_json::from_slice(&read.stdout).unwrap();
    let case = |case: &Value| Case {
        name: case["name"].as_str().unwrap().to_owned(),
        tier: match case["tier"].as_str().unwrap() {
            "Compliant" | "Acceptable" => Tier::Harmless,
            "Ambiguous" => Tier::Ambiguous,
            "Severe" => Tier::Severe,
            other => panic!("{other}"),
        },
        head: serde_json::from_value(case["head"].clone()).unwrap(),
    };
    cases.iter().map(case).collect()
}

/// Returns a request of this head with credentials, a host, and the content that it announces.
fn request(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let value = |name: &str| field(&text, name).map(str::trim);
    let end = head.iter().position(|c| *c == b'\n').unwrap();
    let (line, fields) = head.split_at(end + 1);
    let mut ours = format!("Authorization: {}\r\n", basic("roy", "open-sesame"));
    if value("host").is_none() {
        ours.push_str("Host: a\r\n");
    }
    let content = match value("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => "x".repeat(length),
        None if value("transfer-encoding") == Some("chunked") => "0\r\n\r\n".to_owned(),
        None => String::new(),
    };
    [line, ours.as_bytes(), fields, b"\r\n", content.as_bytes()].concat()
}

/// Ambiguous requests that pass, since their framing is written anew: content of GET and HEAD is
/// allowed (RFC 9110 section 9.3.1), and no server takes these names for others. Names with an
/// underscore do not reach the upstream.
const PASSED: [&str; 10] = [
    "ambiguous.yaml: Content_Length with underscore.",
    "ambiguous.yaml: Get with a body and Content-Length",
    "ambiguous.yaml: Get with a body and Transfer-Encoding",
    "ambiguous.yaml: Head with a body and Content-Length",
    "ambiguous.yaml: Head with a body and Transfer-Encoding",
    "ambiguous.yaml: Transfer-Encoding with multiple delimiters",
    "ambiguous.yaml: Transfer-Encoding with multiple hyphens",
    "ambiguous.yaml: Transfer_Encoding with underscore.",
    "real-life-test-cases.yaml: Has a CL in GET",
    "real-life-test-cases.yaml: Has a TE in GET",
];

/// Harmless requests that are refused: invalid names, values, targets and versions, and encodings
/// other than chunked.
const REFUSED: [&str; 22] = [
    "acceptable.yaml: A non-essential header with a non-printable character (x01)",
    "acceptable.yaml: CL and some others are non-compliant",
    "acceptable.yaml: Empty version, which means HTTP/0.9",
    "acceptable.yaml: No TE/CL headers, some others are non-compliant",
    "acceptable.yaml: Non-RFC, but OK HTTP/0.9",
    "acceptable.yaml: TE and some others are non-compliant",
    "acceptable.yaml: Unknown but OK HTTP/1.2",
    "bad-header-characters.yaml: Some-Header: \\x01value",
    "bad-header-characters.yaml: Some-Header: value\\x01",
    "bad-header-characters.yaml: Some-Header\\x01",
    "bad-header-characters.yaml: \\x01Some-Header",
    "more-compliant-tests.yaml: Correct TE OK",
    "more-compliant-tests.yaml: Multiple transfer encoding headers in a single request OK",
    "more-compliant-tests.yaml: TE with custom parameters OK",
    "more-compliant-tests.yaml: Transfer-Encoding: identity and chunked OK",
    "rfc-compliant.yaml: Different Transfer-Encoding headers",
    "rfc-compliant.yaml: Different Transfer-Encoding headers combined",
    "rfc-compliant.yaml: Empty URI",
    "rfc-compliant.yaml: International in URI",
    "rfc-compliant.yaml: Transfer-Encoding with a param: chunked;custom_param",
    "uri-specific-test-cases.yaml: Extra spaces in version",
    "uri-specific-test-cases.yaml: [space] in URI",
];

/// U-04: a request of the suite is refused, or it is one request to the upstream and the next one
/// is another.
#[test]
#[ignore = "needs http_desync_guardian"]
fn requests_of_a_public_suite_have_one_reading() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let upstream = Upstream::answering({
        let seen = Arc::clone(&seen);
        move |head, _| {
            seen.lock().unwrap().push(head.to_owned());
            ok("")
        }
    });
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let server =
        Server::start_proxy(store.reader(), &upstream.url(), HttpConfig::IO_TIMEOUT, |_| {});
    let last = Request::get("/last").basic("roy", "open-sesame").header("Connection", "close");
    let (mut passed, mut refused) = (Vec::new(), Vec::new());
    let cases = cases();
    assert_eq!(cases.len(), 159);
    for Case { name, tier, head } in &cases {
        let mut client = Connection::open(server.address);
        client.write(&[request(head), last.bytes()].concat());
        let said = client.rest();
        let statuses: Vec<_> =
            said.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
        let heads = std::mem::take(&mut *seen.lock().unwrap());
        let has_one_reading = heads.iter().all(|head| has_one_reading(head));
        match (&statuses[..], &heads[..]) {
            (["400"], []) if *tier == Tier::Harmless => refused.push(name.as_str()),
            (["400"], []) => {}
            (["200", "200"], [_, next]) if next.starts_with("GET /last HTTP/1.1\r\n") => {
                assert!(has_one_reading, "{name}: {heads:?}");
                assert_ne!(*tier, Tier::Severe, "{name}");
                if *tier == Tier::Ambiguous {
                    passed.push(name.as_str());
                }
            }
            _ => panic!("{name}: {statuses:?} {heads:?}"),
        }
    }
    passed.sort_unstable();
    refused.sort_unstable();
    assert_eq!((&passed[..], &refused[..]), (&PASSED[..], &REFUSED[..]));
}

/// Returns true if a head has at most one field about its framing, and none that a server may take
/// for one.
fn has_one_reading(head: &str) -> bool {
    let names = head.lines().filter_map(|line| line.split_once(':'));
    let names = names.map(|(name, _)| name.to_lowercase());
    let framing = ["content-length", "transfer-encoding"];
    let similar = names.filter(|name| framing.contains(&name.replace(['_', '.'], "-").as_str()));
    let similar: Vec<_> = similar.collect();
    similar.len() <= 1 && similar.iter().all(|name| framing.contains(&name.as_str()))
}
