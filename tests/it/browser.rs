//! The status page in a browser.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::cli::finish;
use crate::support::server::Server;
use crate::support::store::TempStore;

/// M-13: the page needs nothing but itself, breaks none of its own rules, follows the colours of the
/// system, and is as wide as a small phone.
#[test]
#[ignore = "needs chromium, and node with puppeteer-core in NODE_PATH"]
fn status_page_suits_a_phone_and_loads_nothing() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let (server, operators) =
        Server::start_with_operators(store.reader(), Duration::from_millis(50));
    assert_eq!(server.login("roy", "open-sesame").status, 200);
    let url = format!("http://{operators}/status");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/status.js");
    let mut node = Command::new("node");
    node.args([script, &url]).arg(store.folder());
    let outcome = finish(node, "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let requests = found["requests"].as_array().unwrap();
    assert!(
        requests.len() >= 4 && requests.iter().all(|request| *request == url.as_str()),
        "{found}"
    );
    // A breach of the Content-Security-Policy is a message too.
    assert_eq!(found["console"], Value::Array(Vec::new()));
    assert_eq!((&found["scripts"], &found["plots"]), (&0.into(), &5.into()));
    assert_eq!((&found["widths"]["narrow"], &found["widths"]["wide"]), (&360.into(), &1100.into()));
    assert_ne!(found["colours"]["light"], found["colours"]["dark"]);
    for name in ["wide-light", "wide-dark", "narrow-light", "narrow-dark"] {
        assert!(store.folder().join(format!("{name}.png")).exists(), "{name}");
    }
}
