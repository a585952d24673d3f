//! Responses of `/rest-auth` and `/healthz`, from the server in this process.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::support::client::{Connection, Request, Response, basic, whole};
use crate::support::server::{Server, with_roy};
use crate::support::store::TempStore;
use crate::support::{Call, MockStore};

const GRANTED: &str = "200
cache-control: no-store
content-length: 41
content-type: application/json

\"You are authorized to see this message\"\n";

const DENIED: &str = "401
cache-control: no-store
content-length: 19
content-type: text/plain; charset=utf-8
www-authenticate: Basic realm=\"Authentication Required\", charset=\"UTF-8\"

Unauthorized Access";

fn rest_auth() -> Request {
    Request::get("/rest-auth")
}

/// P-01, P-11
#[test]
fn right_password_is_granted_and_wrong_ones_challenged() {
    let (_store, server) = with_roy();
    assert_eq!(whole(&server.login("roy", "open-sesame")), GRANTED);
    assert_eq!(whole(&server.login("roy", "open-sesamE")), DENIED);
    assert_eq!(whole(&server.login("Roy", "open-sesame")), DENIED);
    assert_eq!(whole(&server.send(&rest_auth())), DENIED);
}

/// P-02
#[test]
fn scheme_matches_in_any_case_with_one_or_more_spaces() {
    let (_store, server) = with_roy();
    let encoded = STANDARD.encode("roy:open-sesame");
    for scheme in ["Basic ", "basic ", "BASIC ", "bAsIc ", "Basic  ", "Basic          "] {
        let response = server.send(&rest_auth().authorization(format!("{scheme}{encoded}")));
        assert_eq!(whole(&response), GRANTED, "{scheme:?}");
    }
}

/// P-03, P-04
#[test]
fn malformed_credentials_are_challenged_without_a_hash() {
    let (_store, server) = with_roy();
    let right = STANDARD.encode("roy:open-sesame");
    assert!(STANDARD.decode(&right).is_ok() && right.ends_with('l'), "20 characters, no padding");
    let padded = STANDARD.encode("roy:open-sesame!");
    assert!(padded.ends_with("IQ=="));
    let malformed = [
        String::new(),
        "Basic".into(),
        "Basic ".into(),
        format!("Basic{right}"),
        format!("Basic\t{right}"),
        format!("Basic \t{right}"),
        format!("Basic {right} x"),
        format!("Basic {right},"),
        format!("Basic {right}, Basic {right}"),
        format!("Basic realm=\"x\", {right}"),
        format!("Basic {} {}", &right[..8], &right[8..]),
        format!("Basic {right}\u{A0}"),
        format!("Basic :{right}"),
        format!("Basic {}", STANDARD.encode("no colon in it")),
        format!("Basic {}", STANDARD.encode("")),
        format!("Basic {}", right.replace('c', "-")),
        format!("Basic {}", right.replace('c', "_")),
        format!("Basic {}", right.replace('c', "*")),
        format!("Basic {right}="),
        format!("Basic {right}===="),
        format!("Basic {}", padded.replace("IQ==", "IQ=")),
        format!("Basic {}", padded.replace("IQ==", "IR==")),
        format!("Basic {}", &right[..right.len() - 1]),
        format!("Bearer {right}"),
        format!("Basicx {right}"),
        format!("Digest username=\"roy\", realm=\"{right}\""),
        "Negotiate abc".into(),
        "roy:open-sesame".into(),
    ];
    let mut connection = Connection::open(server.address);
    for value in malformed {
        let response = connection.send(&rest_auth().authorization(&value));
        assert_eq!(whole(&response), DENIED, "{value:?}");
    }
    assert_eq!(server.hashes_computed(), 0);
    assert_eq!(whole(&connection.send(&rest_auth().basic("roy", "open-sesame"))), GRANTED);
}

/// P-05
#[test]
fn password_may_contain_colons() {
    let store = TempStore::new();
    store.add("roy", ":a::b:");
    let server = store.serve();
    assert_eq!(server.login("roy", ":a::b:").status, 200);
    assert_eq!(server.login("roy", "a::b:").status, 401);
}

/// P-06, C-04
#[test]
fn control_characters_are_challenged_without_a_hash() {
    let (_store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    for control in (0..=0x1Fu8).chain([0x7F]) {
        for (user, password) in [
            ([b"roy", &[control][..]].concat(), b"open-sesame".to_vec()),
            (b"roy".to_vec(), [b"open-sesame", &[control][..]].concat()),
            (b"roy".to_vec(), [&[control][..], b"open-sesame"].concat()),
        ] {
            let response = connection.send(&rest_auth().basic(user, password));
            assert_eq!(whole(&response), DENIED, "{control:#x}");
        }
    }
    assert_eq!(server.hashes_computed(), 0);
}

/// P-07
#[test]
fn second_authorization_field_is_a_bad_request() {
    let (_store, server) = with_roy();
    let (right, wrong) = (basic("roy", "open-sesame"), basic("roy", "wrong"));
    for (first, second) in [(&right, &wrong), (&wrong, &right), (&right, &right)] {
        let response = server.send(&rest_auth().authorization(first).authorization(second));
        assert_eq!(
            (response.status, response.body.as_str()),
            (400, "Bad Request. Send one Authorization field.\n")
        );
    }
    assert_eq!(server.hashes_computed(), 0);
}

/// P-08
#[test]
fn names_and_passwords_match_in_nfc_and_nfd() {
    let store = TempStore::new();
    store.add("Jose\u{301}", "cafe\u{301} ole\u{301}");
    let server = store.serve();
    assert_eq!(server.login("José", "café olé").status, 200);
    assert_eq!(server.login("Jose\u{301}", "cafe\u{301} ole\u{301}").status, 200);
    assert_eq!(server.login("Ｊosé", "café\u{A0}olé").status, 200, "mapped as RFC 8265 says");
}

/// W-03: as python-requests and older Java clients send them.
#[test]
fn octets_that_are_not_utf8_are_read_as_latin1() {
    let store = TempStore::new();
    store.add("José", "café olé");
    let server = store.serve();
    assert_eq!(server.login(b"Jos\xE9", b"caf\xE9 ol\xE9").status, 200);
    assert_eq!(server.login("José", "café olé").status, 200);
    // H-08: the octets and the normalized text are compared, and the text is in the cache then.
    assert_eq!(server.hashes_computed(), 2, "both spellings have one cache entry");
    // Valid UTF-8 beside other octets is Latin-1 as a whole.
    assert_eq!(whole(&server.login("José", b"caf\xE9 ol\xE9")), DENIED);
    for other in [&b"\xFF"[..], b"\xC3", b"\xC0\xAF", b"caf\xE9 ol\xE8"] {
        assert_eq!(whole(&server.login(b"Jos\xE9", other)), DENIED);
    }
    let hashes = server.hashes_computed();
    for control in [&b"\xED\xA0\x80"[..], b"\xFF\x9F"] {
        assert_eq!(whole(&server.login(b"Jos\xE9", control)), DENIED);
        assert_eq!(whole(&server.login(control, "café olé")), DENIED);
    }
    assert_eq!(server.hashes_computed(), hashes, "80 to 9F are control characters");
}

/// P-04, W-05
#[test]
fn base64_without_padding_is_accepted() {
    let store = TempStore::new();
    store.add("roy", "open-sesame!");
    let server = store.serve();
    let bare = STANDARD_NO_PAD.encode("roy:open-sesame!");
    let padded = STANDARD.encode("roy:open-sesame!");
    assert_ne!(bare, padded);
    for encoded in [bare, padded] {
        let response = server.send(&rest_auth().authorization(format!("Basic {encoded}")));
        assert_eq!(whole(&response), GRANTED);
    }
    assert_eq!(server.hashes_computed(), 1, "both have one cache entry");
}

/// W-02: imported hashes may cover invisible characters, so a login with them is valid.
#[test]
fn invisible_character_in_a_password_can_log_in() {
    let store = TempStore::new();
    store.add("roy", "open\u{200B}sesame");
    let server = store.serve();
    assert_eq!(server.login("roy", "open\u{200B}sesame").status, 200);
    assert_eq!(server.login("roy", "opensesame").status, 401);
}

/// W-04, W-09: the client sees one 401, the operator the reason.
#[test]
fn unusable_credentials_have_a_reason_each() {
    let (_store, server) = with_roy();
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for (field, reason) in [
        ("Bearer abc".to_owned(), "other-scheme"),
        ("Basic".to_owned(), "other-scheme"),
        ("Basic cm95=".to_owned(), "not-base64"),
        (basic("roy"), "no-colon"),
        (basic(&format!("roy:{}", "p".repeat(1025))), "too-long"),
        (basic(&format!("{}:x", "n".repeat(129))), "too-long"),
        (basic("roy:a\u{7}"), "control-character"),
        (basic("r\u{7}y:x"), "control-character"),
        (basic("r  y:x"), "name-not-allowed"),
        (basic(":x"), "name-not-allowed"),
        (basic("roy:"), "empty-password"),
    ] {
        let before = server.count(reason);
        assert_eq!(whole(&server.send(&rest_auth().authorization(&field))), DENIED, "{field}");
        assert_eq!(server.count(reason), before + 1, "{field}");
    }
    assert_eq!(server.hashes_computed(), 0);
    // H-07: an imported hash may cover more than 72 bytes, so each user costs a hash.
    for user in ["roy", "ann"] {
        let before = server.count("too-long");
        let long = basic(&format!("{user}:{}", "p".repeat(73)));
        assert_eq!(whole(&server.send(&rest_auth().authorization(&long))), DENIED);
        assert_eq!(server.count("too-long"), before + 1);
    }
    assert_eq!(server.hashes_computed(), 2);
}

/// P-09, B-01: the same bytes, and one hash each.
#[test]
fn unknown_wrong_locked_and_expired_are_refused_alike() {
    let (store, server) = with_roy();
    store.add("locked", "open-sesame");
    store.add("expired", "open-sesame");
    store.sql(
        "UPDATE users SET locked = TRUE WHERE name = 'locked';
         UPDATE users SET expires = unixepoch() - 1 WHERE name = 'expired'",
    );
    let mut refusals = Vec::new();
    for (user, password) in [
        ("nobody", "open-sesame"),
        ("roy", "wrong"),
        ("locked", "open-sesame"),
        ("expired", "open-sesame"),
    ] {
        // Not sorted: the order of the fields must be the same too.
        refusals.push(server.login(user, password));
        assert_eq!(server.hashes_computed(), refusals.len() as u64, "{user}");
    }
    refusals.push(server.send(&rest_auth()));
    refusals.push(server.send(&rest_auth().authorization("Basic =")));
    for refusal in &refusals {
        assert_eq!(refusal, &refusals[0]);
    }
    store.sql("UPDATE users SET locked = FALSE, expires = unixepoch() + 3600");
    for user in ["roy", "locked", "expired"] {
        assert_eq!(whole(&server.login(user, "open-sesame")), GRANTED);
    }
}

/// P-10
#[test]
fn only_get_head_and_options_are_allowed() {
    let (_store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    let roy = |method| Request::new(method, "/rest-auth").basic("roy", "open-sesame");
    for (method, granted) in [("HEAD", GRANTED), ("GET", GRANTED)] {
        let response = connection.send(&roy(method));
        let head = |text: &str| text.split("\n\n").next().unwrap().to_owned();
        assert_eq!(head(&whole(&response)), head(granted), "{method} has the head of GET");
        assert_eq!(response.body.is_empty(), method == "HEAD");
    }
    for path in ["/rest-auth", "/healthz"] {
        let response = connection.send(&Request::new("OPTIONS", path));
        assert_eq!((response.status, response.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECTED", "get"] {
            let response = connection.send(&Request::new(method, path).basic("roy", "open-sesame"));
            assert_eq!(
                (response.status, response.header("allow")),
                (405, Some("GET, HEAD, OPTIONS"))
            );
        }
    }
    assert_eq!(connection.send(&Request::new("HEAD", "/rest-auth")).status, 401);
    assert_eq!(connection.send(&Request::new("HEAD", "/healthz")).status, 200);
}

/// P-11, X-07
#[test]
fn responses_are_uncacheable_with_known_fields_only() {
    let (store, server) = with_roy();
    let mut responses = vec![
        server.login("roy", "open-sesame"),
        server.login("roy", "wrong"),
        server.send(&rest_auth().authorization("x").authorization("y")),
        server.send(&rest_auth().authorization("x".repeat(9000))),
        server.send(&Request::new("POST", "/rest-auth")),
        server.send(&Request::get("/nowhere")),
        server.send(&Request::get("/healthz")),
    ];
    store.hide_users();
    responses.push(server.login("roy", "open-sesame"));
    let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 401, 400, 431, 405, 404, 200, 503]);
    let bodies = [
        "\"You are authorized to see this message\"\n",
        "Unauthorized Access",
        "Bad Request. Send one Authorization field.\n",
        "The header of the request is too long. Send at most 8 KiB of Authorization and 64 KiB in all.\n",
        "Method Not Allowed. Use GET or HEAD.\n",
        "Not Found. The routes are listed in /openapi.json.\n",
        "ok\n",
        "The server cannot check passwords at the moment. Try again later.\n",
    ];
    let known = [
        "content-length",
        "cache-control",
        "content-type",
        "www-authenticate",
        "allow",
        "connection",
        "retry-after",
    ];
    for (response, body) in responses.iter().zip(bodies) {
        assert_eq!(response.body, body);
        assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
        for (name, _) in &response.headers {
            assert!(known.contains(&name.as_str()), "{name} in {response:?}");
        }
    }
}

/// P-16, B-15
#[test]
fn too_long_field_is_refused_before_decoding() {
    let (_store, server) = with_roy();
    let at_the_limit = format!("Basic {}", "A".repeat(8192 - 6));
    assert_eq!(whole(&server.send(&rest_auth().authorization(&at_the_limit))), DENIED);
    let over = format!("{at_the_limit}A");
    assert_eq!(server.send(&rest_auth().authorization(over)).status, 431);

    let roy = rest_auth().basic("roy", "open-sesame");
    let padded = |bytes: usize| roy.clone().header("X-Padding", "x".repeat(bytes));
    assert_eq!(server.send(&padded(60 * 1024)).status, 200);
    let response = server.send(&padded(65 * 1024));
    assert_eq!((response.status, response.header("connection")), (431, Some("close")));
    let long_target = Request::get(&format!("/rest-auth?{}", "x".repeat(65 * 1024)));
    assert!(server.send(&long_target).status >= 400);
    assert_eq!(server.hashes_computed(), 1);
}

/// P-17
#[test]
fn only_the_exact_routes_are_answered() {
    let (_store, server) = with_roy();
    for target in [
        "//rest-auth",
        "/rest-auth/",
        "/rest-auth//",
        "/./rest-auth",
        "/x/../rest-auth",
        "/%72est-auth",
        "/rest%2Dauth",
        "/rest-auth%00",
        "/rest-auth;x",
        "/REST-AUTH",
        "/",
        "/rest-aut",
        "/rest-auth/x",
        "*",
        "/healthz/",
        "/%68ealthz",
    ] {
        let roy = Request::get(target).basic("roy", "open-sesame");
        assert!(matches!(server.send(&roy).status, 400 | 404), "{target}");
    }
    for target in ["/rest-auth?x=1", "http://localhost/rest-auth", "http://elsewhere/rest-auth?x"] {
        assert_eq!(whole(&server.send(&Request::get(target))), DENIED, "{target}");
        let roy = Request::get(target).basic("roy", "open-sesame");
        assert_eq!(whole(&server.send(&roy)), GRANTED, "{target}");
    }
}

/// P-18: the server grants nothing without the table, and recovers by itself.
#[test]
fn failing_store_is_unavailable_until_it_recovers() {
    let (store, server) = with_roy();
    assert_eq!(server.login("roy", "open-sesame").status, 200);
    store.hide_users();
    for (user, password) in [("roy", "open-sesame"), ("roy", "wrong"), ("nobody", "x")] {
        let response = server.login(user, password);
        assert_eq!(
            (response.status, response.body.as_str()),
            (503, "The server cannot check passwords at the moment. Try again later.\n")
        );
    }
    assert_eq!(
        server.send(&rest_auth()).status,
        401,
        "without credentials there is nothing to find out"
    );
    assert_eq!(server.send(&Request::get("/healthz")).status, 200);
    store.show_users(&server);
    assert_eq!(server.login("roy", "open-sesame").status, 200);
    assert_eq!(server.login("roy", "wrong").status, 401);
}

/// C-02, C-03, C-12
#[test]
fn password_is_never_truncated_and_empty_one_never_right() {
    let store = TempStore::new();
    let longest = "0123456789abcdef".repeat(4) + "01234567";
    assert_eq!(longest.len(), 72);
    store.add("roy", &longest);
    let server = store.serve();
    assert_eq!(server.login("roy", &longest).status, 200);
    assert_eq!(server.login("roy", &longest[..71]).status, 401);
    assert_eq!(server.login("roy", format!("{longest}8")).status, 401, "73 bytes");
    assert_eq!(server.login("roy", "").status, 401);
    assert_eq!(server.login("", "").status, 401);
    assert_eq!(server.login("", &longest).status, 401);
}

/// C-05, C-06, C-07: a hash whose cost is over the maximum is not computed.
#[test]
fn unusable_hash_is_unavailable_for_its_user_only() {
    let (store, server) = with_roy();
    store.add("ann", "open-sesame");
    for broken in [
        "substr(hash, 1, 59)",
        "hash || 'x'",
        "''",
        "substr(hash, 1, 58) || 'é'",
        "replace(hash, '$04$', '$+4$')",
        "replace(hash, '$04$', '$-4$')",
        "replace(hash, '$04$', '$16$')",
        "replace(hash, '$04$', '$31$')",
        "replace(hash, '$2y$', '$2x$')",
    ] {
        store.sql(&format!("UPDATE users SET hash = {broken} WHERE name = 'roy'"));
        assert_eq!(server.login("roy", "open-sesame").status, 503, "{broken}");
        assert_eq!(server.login("ann", "open-sesame").status, 200, "{broken}");
        assert_eq!(server.hashes_computed(), 1, "only ann's first, for {broken}");
        store.sql(
            "UPDATE users SET hash = (SELECT hash FROM users WHERE name = 'ann') WHERE name = 'roy'",
        );
    }
}

/// C-10
#[test]
fn invalid_user_name_is_refused_without_a_hash() {
    let (_store, server) = with_roy();
    for user in ["roy ", "r  oy", "roy\u{200B}", "roy\u{202E}", &"n".repeat(129)] {
        assert_eq!(whole(&server.login(user, "open-sesame")), DENIED, "{user:?}");
    }
    assert_eq!(server.hashes_computed(), 0);
    assert_eq!(server.login("ｒｏｙ", "open-sesame").status, 200);
}

#[test]
fn change_by_another_connection_counts_on_next_request() {
    let (store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    let ann = rest_auth().basic("ann", "open-sesame");
    assert_eq!(connection.send(&ann).status, 401);
    store.add("ann", "open-sesame");
    assert_eq!(connection.send(&ann).status, 200);
    store.remove("ann");
    assert_eq!(connection.send(&ann).status, 401);
}

/// The result of a lookup.
enum Lookup {
    NoSuchUser,
    Panic,
}

/// Returns a server, a receiver that reports each lookup of a user, and a sender of its result, for
/// which the lookup waits.
fn gated() -> (Server, Receiver<()>, Sender<Lookup>) {
    let (started, lookups) = channel();
    let (results, result) = channel();
    let result = Mutex::new(result);
    let store = MockStore::with_hook(move |call| {
        if call != Call::Find {
            return Ok(());
        }
        started.send(()).unwrap();
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap();
        match result {
            Lookup::NoSuchUser => Ok(()),
            Lookup::Panic => panic!("on purpose"),
        }
    });
    (Server::start(Box::new(store)), lookups, results)
}

/// Lets a lookup return. The server lookups an unknown user up again after the hash.
fn release_lookup(lookups: &Receiver<()>, results: &Sender<Lookup>, result: Lookup) {
    lookups.recv().unwrap();
    let again = matches!(result, Lookup::NoSuchUser);
    results.send(result).unwrap();
    if again {
        lookups.recv().unwrap();
        results.send(Lookup::NoSuchUser).unwrap();
    }
}

fn send_without_waiting(server: &Server) -> Connection {
    let mut connection = Connection::open(server.address);
    connection.write(&rest_auth().basic("roy", "open-sesame").bytes());
    connection
}

#[test]
fn hashes_and_lookups_block_no_request_thread() {
    let (server, lookups, results) = gated();
    // More than the request threads, of which there is one for each core.
    let waiting = 4 * std::thread::available_parallelism().unwrap().get();
    let mut connections: Vec<_> = (0..waiting).map(|_| send_without_waiting(&server)).collect();
    lookups.recv().unwrap();
    for _ in 0..waiting {
        assert_eq!(server.send(&Request::get("/healthz")).body, "ok\n");
        assert_eq!(whole(&server.send(&rest_auth())), DENIED);
    }
    for _ in 0..waiting {
        results.send(Lookup::NoSuchUser).unwrap();
    }
    for connection in &mut connections {
        assert_eq!(whole(&connection.read()), DENIED);
    }
}

/// P-18: the worker panics during a login.
#[test]
fn worker_recovers_from_a_panic_with_one_unavailable_response() {
    let (server, lookups, results) = gated();
    for (result, status) in [
        (Lookup::Panic, 503),
        (Lookup::NoSuchUser, 401),
        (Lookup::Panic, 503),
        (Lookup::NoSuchUser, 401),
    ] {
        let mut connection = send_without_waiting(&server);
        release_lookup(&lookups, &results, result);
        assert_eq!(connection.read().status, status);
    }
}

/// O-01
#[test]
fn requests_in_flight_are_answered_when_the_server_stops() {
    let (mut server, lookups, results) = gated();
    let mut connection = send_without_waiting(&server);
    lookups.recv().unwrap();
    server.request_stop();
    // The server accepts no new connection, and answers the accepted one.
    while std::net::TcpStream::connect(server.address).is_ok() {}
    for _ in 0..2 {
        results.send(Lookup::NoSuchUser).unwrap();
    }
    let Response { status, .. } = connection.read();
    assert_eq!(status, 401);
    drop(server);
}
