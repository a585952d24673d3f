//! Cache, worker queue and throttle, over HTTP. The tests count hashes instead of measuring time.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::client::{Connection, Request, Response, TIMEOUT};
use crate::support::server::{Server, unlimited, with_roy};
use crate::support::store::{TempStore, account, hash_of};
use crate::support::{AuthConfig, Call, Cost, Delays, Limit, MockStore};

fn roy() -> Request {
    roy_with("open-sesame")
}

fn roy_with(password: &str) -> Request {
    Request::get("/rest-auth").basic("roy", password)
}

fn store_with_roy() -> TempStore {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store
}

/// B-05: successes only.
#[test]
fn verified_password_is_cached_and_a_wrong_one_is_not() {
    let (_store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    for _ in 0..10 {
        assert_eq!(connection.send(&roy()).status, 200);
    }
    assert_eq!(server.login("roy", "open-sesame").status, 200, "on another connection");
    assert_eq!(
        (server.hashes_computed(), server.count("verified"), server.count("cached")),
        (1, 1, 10)
    );
    for n in 2..5 {
        assert_eq!(server.login("roy", "wrong").status, 401);
        assert_eq!(server.hashes_computed(), n);
    }
    assert_eq!(server.login("nobody", "x").status, 401);
    assert_eq!(server.login("nobody", "x").status, 401);
    assert_eq!((server.hashes_computed(), server.counters().hash_time > Duration::ZERO), (6, true));
}

/// B-05
#[test]
fn cache_entries_expire_and_a_cache_of_size_0_is_off() {
    let none = AuthConfig { cache_entries: 0, ..unlimited() };
    let expired = AuthConfig { cache_lifetime: Duration::ZERO, ..unlimited() };
    for settings in [none, expired] {
        let store = store_with_roy();
        let server = Server::start_with(store.reader(), &settings, &[]);
        for n in 1..=3 {
            assert_eq!(server.login("roy", "open-sesame").status, 200);
            assert_eq!(server.hashes_computed(), n);
        }
    }
}

/// B-06: each kind of change counts on the next request.
#[test]
fn change_invalidates_cache_entries_on_next_request() {
    let (store, server) = with_roy();
    store.add("ann", "open-sesame");
    let mut connection = Connection::open(server.address);
    let ann = Request::get("/rest-auth").basic("ann", "open-sesame");
    assert_eq!((connection.send(&roy()).status, connection.send(&ann).status), (200, 200));
    let mut others = 0;
    for (change, status) in [
        ("UPDATE users SET locked = TRUE WHERE name = 'roy'", 401),
        ("UPDATE users SET locked = FALSE WHERE name = 'roy'", 200),
        ("UPDATE users SET expires = unixepoch() WHERE name = 'roy'", 401),
        ("UPDATE users SET expires = unixepoch() + 3600 WHERE name = 'roy'", 200),
        // The same password with a new hash: it is unverified.
        (
            "UPDATE users SET hash = (SELECT hash FROM users WHERE name = 'ann') WHERE name = 'roy'",
            200,
        ),
        ("UPDATE users SET name = 'bob' WHERE name = 'roy'", 401),
        ("UPDATE users SET name = 'roy' WHERE name = 'bob'", 200),
        (
            "UPDATE users SET hash = '$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui'",
            401,
        ),
    ] {
        others += 1;
        store.change(change);
        let before = server.hashes_computed();
        assert_eq!(connection.send(&roy()).status, status, "{change}");
        assert_eq!(server.hashes_computed(), before + 1, "{change}");
        if others < 8 {
            assert_eq!(connection.send(&ann).status, 200, "{change}");
            assert_eq!(server.hashes_computed(), before + 1, "ann's has not changed: {change}");
        }
    }
}

/// B-06
#[test]
fn removed_user_is_refused_on_next_request() {
    let store = TempStore::new();
    let server = store.serve();
    let mut connection = Connection::open(server.address);
    for _ in 0..20 {
        store.add("roy", "open-sesame");
        assert_eq!(connection.send(&roy()).status, 200);
        assert_eq!(connection.send(&roy()).status, 200);
        store.remove("roy");
        assert_eq!(connection.send(&roy()).status, 401);
    }
    assert_eq!(server.count("cached"), 20);
}

/// B-07
#[test]
fn new_user_works_at_once_and_junk_evicts_no_verified_user() {
    let store = store_with_roy();
    let settings = AuthConfig { cache_entries: 4, ..unlimited() };
    let server = Server::start_with(store.reader(), &settings, &[]);
    assert_eq!(server.login("roy", "open-sesame").status, 200);
    for n in 0..20 {
        assert_eq!(server.login(format!("junk-{n}"), "x").status, 401);
        assert_eq!(server.login("ann", "open-sesame").status, 401);
    }
    store.add("ann", "open-sesame");
    assert_eq!(server.login("ann", "open-sesame").status, 200);
    let hashes = server.hashes_computed();
    assert_eq!(server.login("roy", "open-sesame").status, 200);
    assert_eq!(server.hashes_computed(), hashes, "roy is still cached");
}

/// S-12
#[test]
fn replaced_database_grants_nothing_of_the_old_one() {
    let (store, server) = with_roy();
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.send(&roy()).status, 200);
    let other = TempStore::new();
    other.add("ann", "open-sesame");
    let aside = store.folder().join("aside.db");
    std::fs::rename(store.database(), &aside).unwrap();
    wait_until(|| connection.send(&roy()).status != 200);
    assert_eq!(connection.send(&roy()).status, 503);
    std::fs::rename(other.database(), store.database()).unwrap();
    assert_eq!(connection.send(&roy()).status, 401);
    assert_eq!(server.login("ann", "open-sesame").status, 200);
    std::fs::rename(aside, store.database()).unwrap();
    assert_eq!(server.login("ann", "open-sesame").status, 401);
    assert_eq!(connection.send(&roy()).status, 200);
}

/// S-12: databases replace each other under load. Once a client has seen a database, no client is
/// granted access by an earlier one.
#[test]
fn swapped_databases_cause_no_stale_grant_or_lost_request() {
    let password = |n| format!("password-{n}");
    let store = TempStore::new();
    store.add("roy", &password(0));
    let server = store.serve();
    assert_eq!(server.send(&roy_with(&password(0))).status, 200);
    let (in_force, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.address);
                    while !done.load(Ordering::SeqCst) {
                        let n = in_force.load(Ordering::SeqCst);
                        if n > 0 {
                            let stale = connection.send(&roy_with(&password(n - 1))).status;
                            assert!([401, 503].contains(&stale), "{stale}");
                        }
                        // The next database may replace it at any time.
                        let status = connection.send(&roy_with(&password(n))).status;
                        assert!([200, 401, 503].contains(&status), "{status}");
                    }
                })
            })
            .collect();
        let mut connection = Connection::open(server.address);
        let swap = |n| {
            let next = TempStore::new();
            next.add("roy", &password(n));
            std::fs::rename(store.database(), store.folder().join("aside.db")).unwrap();
            std::fs::rename(next.database(), store.database()).unwrap();
        };
        let mut swapped = || {
            for n in 1..=20 {
                swap(n);
                wait_until(|| connection.send(&roy_with(&password(n))).status == 200);
                in_force.store(n, Ordering::SeqCst);
            }
        };
        let swapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut swapped));
        done.store(true, Ordering::SeqCst);
        assert!(swapped.is_ok());
        for client in clients {
            client.join().unwrap();
        }
    });
}

/// Waits for the server to notice a moved file, for at most 1 s.
fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

/// Returns a server with one worker, a receiver that reports each lookup of a user, and a sender
/// that lets a lookup continue. Lookups continue by themselves once one of the two is dropped.
fn gated(settings: AuthConfig, proxies: &[&str]) -> (Server, Receiver<()>, Sender<()>) {
    let (started, lookups) = channel();
    let (permits, permit) = channel();
    let permit = Mutex::new(permit);
    let store = MockStore::with_hook(move |call| {
        if matches!(call, Call::Find | Call::FindWithGroups) {
            let _ = started.send(());
            let _ = permit.lock().unwrap_or_else(PoisonError::into_inner).recv();
        }
        Ok(())
    });
    store.put(account("roy", "open-sesame"));
    let settings = AuthConfig { workers: NonZeroUsize::MIN, ..settings };
    (Server::start_with(Box::new(store), &settings, proxies), lookups, permits)
}

/// Sends a request, and waits until `waiting` logins are in the queue.
fn send(server: &Server, request: &Request, waiting: usize) -> Connection {
    let mut connection = Connection::open(server.address);
    connection.write(&request.bytes());
    let start = Instant::now();
    while server.counters().waiting < waiting {
        assert!(start.elapsed() < TIMEOUT, "{:?}", server.counters());
        std::thread::yield_now();
    }
    connection
}

/// B-04
#[test]
fn full_queue_is_overload_at_once_and_drains() {
    let (server, lookups, permits) = gated(AuthConfig { queue: Some(3), ..unlimited() }, &[]);
    let login = |n| Request::get("/rest-auth").basic(format!("user-{n}"), "x");
    let mut connections = vec![send(&server, &login(0), 0)];
    lookups.recv().unwrap(); // the worker has taken it
    for n in 1..=3 {
        connections.push(send(&server, &login(n), n));
    }
    for n in 4..50 {
        let response = server.send(&login(n));
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    }
    assert_eq!(server.count("too-many-waiting"), 46);
    drop(permits);
    for connection in &mut connections {
        assert_eq!(connection.read().status, 401);
    }
    assert_eq!(server.send(&login(99)).status, 401);
    assert_eq!(server.hashes_computed(), 5);
}

/// B-03: equal attempts in the queue share one slot and its answer.
#[test]
fn equal_waiting_attempts_share_one_queue_slot() {
    let (server, lookups, permits) = gated(AuthConfig { queue: Some(3), ..unlimited() }, &[]);
    let mut first = send(&server, &roy(), 0);
    lookups.recv().unwrap();
    // A started attempt is not shared: its lookup may be outdated.
    let mut equal = vec![send(&server, &roy(), 1)];
    for _ in 0..10 {
        equal.push(send(&server, &roy(), 1));
    }
    // The parts are length-prefixed: equal letters are not equal credentials.
    let login = |user, password| Request::get("/rest-auth").basic(user, password);
    let mut other = send(&server, &login("ro", "yopen-sesame"), 2);
    let mut third = send(&server, &login("royo", "pen-sesame"), 3);
    assert_eq!(server.send(&login("ann", "x")).status, 503, "and now it is full");
    drop(permits);
    assert_eq!(first.read().status, 200);
    for connection in &mut equal {
        assert_eq!(connection.read().status, 200);
    }
    assert_eq!((other.read().status, third.read().status), (401, 401));
    // The second slot found the result of the first in the cache.
    assert_eq!(server.hashes_computed(), 3);
}

/// A source that floods the queue leaves slots for others, with any number of connections.
#[test]
fn one_source_cannot_fill_the_queue() {
    let settings = AuthConfig {
        source_limit: Limit::new(2, Duration::from_secs(60)),
        queue: Some(4),
        ..unlimited()
    };
    let (server, lookups, permits) = gated(settings, &["127.0.0.1"]);
    let from = |address: &str, n: usize| {
        let login = Request::get("/rest-auth").basic(format!("user-{n}"), "x");
        login.header("X-Forwarded-For", address)
    };
    let mut flood = vec![send(&server, &from("192.0.2.1", 0), 0)];
    lookups.recv().unwrap();
    flood.push(send(&server, &from("192.0.2.1", 1), 1));
    for n in 2..20 {
        let response = server.send(&from("192.0.2.1", n));
        assert_eq!((response.status, response.header("retry-after")), (429, Some("1")));
    }
    let roy = roy().header("X-Forwarded-For", "192.0.2.2");
    let mut other = send(&server, &roy, 2);
    drop(permits);
    assert_eq!(other.read().status, 200);
    for connection in &mut flood {
        assert_eq!(connection.read().status, 401);
    }
    assert_eq!(server.send(&from("192.0.2.1", 20)).status, 429, "and now they are");
}

fn limited(source: u32, user: u32) -> AuthConfig {
    let day = Limit::MAX_PERIOD;
    AuthConfig {
        source_limit: Limit::new(source, day),
        user_limit: Limit::new(user, day),
        ..unlimited()
    }
}

fn retry_after_of(response: &Response) -> Option<u64> {
    assert!(matches!(response.status, 401 | 429), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    response.header("retry-after").map(|seconds| seconds.parse().unwrap())
}

/// B-08, B-14, B-11: X-Forwarded-For of an untrusted peer is ignored.
#[test]
fn failing_source_is_throttled_on_every_route_without_a_hash() {
    let store = store_with_roy();
    let server = Server::start_with(store.reader(), &limited(4, 1000), &[]);
    assert_eq!(server.send(&roy()).status, 200);
    for (n, method) in ["GET", "HEAD", "GET", "HEAD"].into_iter().enumerate() {
        let target = ["/rest-auth", "/rest-auth?x", "http://elsewhere/rest-auth"][n % 3];
        let wrong = Request::new(method, target).basic(format!("user-{n}"), "x");
        let wrong = wrong.header("X-Forwarded-For", format!("192.0.2.{n}"));
        assert_eq!(server.send(&wrong).status, 401);
    }
    let hashes = server.hashes_computed();
    for target in ["/rest-auth", "/rest-auth?y"] {
        let response = server.send(&Request::get(target).basic("ann", "x"));
        assert_eq!(response.body, "Too many failures. Try again in 6 hours.\n");
        let retry_after = retry_after_of(&response).unwrap();
        assert!((21_000..=21_600).contains(&retry_after), "a quarter of a day: {retry_after}");
    }
    assert_eq!(server.login("roy", "wrong").status, 429);
    assert_eq!(server.hashes_computed(), hashes);
    // Requests without credentials and cached logins are not throttled.
    assert_eq!(server.send(&Request::get("/rest-auth")).status, 401);
    assert_eq!(server.send(&roy()).status, 200);
    assert_eq!(server.count("too-many-failures"), 3);
}

/// B-08, B-04: a throttled answer waits 1 s, one for overload less than 50 ms, and others do not
/// wait.
#[test]
fn only_throttled_clients_get_delayed_answers() {
    let delays = Delays { throttled: Duration::from_secs(1), overloaded: Duration::MAX };
    let store = store_with_roy();
    let server = Server::start_with_delays(store.reader(), &limited(1, 1000), &[], delays);
    assert_eq!(server.send(&roy()).status, 200);
    assert_eq!(server.login("roy", "wrong").status, 401);
    let start = Instant::now();
    let mut throttled = Connection::open(server.address);
    throttled.write(&roy_with("wrong").bytes());
    assert_eq!(server.send(&roy()).status, 200);
    assert_eq!(server.send(&Request::get("/rest-auth")).status, 401);
    assert_eq!(throttled.read().status, 429);
    assert!(start.elapsed() >= delays.throttled);
    let usual = Delays::default();
    assert_eq!((usual.throttled, usual.overloaded), (delays.throttled, Duration::from_millis(20)));
}

/// B-08, B-10, B-11
#[test]
fn sources_behind_a_trusted_proxy_count_separately() {
    let store = store_with_roy();
    let server = Server::start_with(store.reader(), &limited(2, 1000), &["127.0.0.0/8"]);
    let from = |fields: &[&str]| {
        let request = Request::get("/rest-auth").basic("ann", "x");
        let with = |request: Request, field: &&str| request.header("X-Forwarded-For", field);
        server.send(&fields.iter().fold(request, with)).status
    };
    for expected in [401, 401, 429] {
        assert_eq!(from(&["192.0.2.1"]), expected);
    }
    assert_eq!(from(&["192.0.2.2"]), 401);
    assert_eq!(from(&["192.0.2.9, 192.0.2.1"]), 429, "the last one counts");
    assert_eq!(from(&["192.0.2.9", "192.0.2.1, 127.0.0.7"]), 429, "the last one that is no proxy");
    assert_eq!(from(&["::ffff:192.0.2.1"]), 429);
    for (address, expected) in
        [("2001:db8::1", 401), ("2001:db8::2", 401), ("2001:db8::3", 429), ("2001:db8:0:1::1", 401)]
    {
        assert_eq!(from(&[address]), expected, "{address}");
    }
    assert_eq!(from(&[]), 401, "the proxy itself");
}

/// B-09
#[test]
fn guessed_user_can_still_log_in_from_known_sources() {
    let store = store_with_roy();
    store.add("ann", "open-sesame");
    let server = Server::start_with(store.reader(), &limited(100, 5), &["127.0.0.1"]);
    let login = |user: &str, password: &str, from: &str| {
        let request = Request::get("/rest-auth").basic(user, password);
        server.send(&request.header("X-Forwarded-For", from)).status
    };
    assert_eq!(login("roy", "open-sesame", "192.0.2.1"), 200);
    assert_eq!(login("roy", "open-sesame", "192.0.2.2"), 200, "cached, from another source");
    // The change of the password empties the cache. Roy's known source stays.
    store.change(&format!(
        "UPDATE users SET hash = '{}' WHERE name = 'roy'",
        hash_of("new").as_str()
    ));
    for n in 0..5 {
        assert_eq!(login("roy", "wrong", &format!("198.51.100.{n}")), 401);
    }
    assert_eq!(login("roy", "new", "198.51.100.9"), 429, "slowed, where roy never was");
    assert_eq!(login("roy", "wrong", "192.0.2.1"), 401, "one typing error does not lock roy out");
    assert_eq!(login("roy", "wrong", "192.0.2.2"), 401);
    assert_eq!(login("roy", "new", "192.0.2.2"), 200);
    assert_eq!(login("roy", "new", "192.0.2.1"), 200);
    assert_eq!(login("roy", "new", "198.51.100.9"), 200, "cached now");
    assert_eq!(login("ann", "wrong", "198.51.100.9"), 401, "another user");
    // An unknown name is throttled like a known one.
    for n in 0..5 {
        assert_eq!(login("nobody", "x", &format!("198.51.100.{n}")), 401);
    }
    assert_eq!(login("nobody", "x", "198.51.100.9"), 429);
}

#[test]
fn counters_count_each_reason() {
    let (store, server) = with_roy();
    store.add("locked", "open-sesame");
    store.add("expired", "open-sesame");
    store.sql(
        "UPDATE users SET locked = TRUE WHERE name = 'locked';
         UPDATE users SET expires = 1 WHERE name = 'expired'",
    );
    let mut requests = vec![
        Request::get("/rest-auth"),
        Request::get("/rest-auth").authorization("Basic ="),
        Request::get("/rest-auth").authorization("x".repeat(9000)),
        Request::get("/rest-auth").authorization("x").authorization("y"),
    ];
    for (user, password) in [
        ("roy", "open-sesame"),
        ("roy", "open-sesame"),
        ("roy", "wrong"),
        ("nobody", "x"),
        ("locked", "open-sesame"),
        ("expired", "open-sesame"),
    ] {
        requests.push(Request::get("/rest-auth").basic(user, password));
    }
    for request in &requests {
        server.send(request);
    }
    store.hide_users();
    server.login("roy", "wrong");
    let seen = [
        server.count("no-credentials"),
        server.count("not-base64"),
        server.count("malformed-request"),
        server.count("head-too-long"),
        server.count("verified"),
        server.count("cached"),
        server.count("wrong-password"),
        server.count("unknown-user"),
        server.count("locked"),
        server.count("expired"),
        server.count("failure"),
        server.count("too-many-failures") + server.count("too-many-waiting"),
        server.hashes_computed(),
    ];
    assert_eq!(seen, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 5]);
}

/// Returns the cost of the user's hash.
fn cost_of(store: &TempStore, user: &str) -> u8 {
    let found = store.open().find(&crate::support::store::name(user)).unwrap();
    found.unwrap().hash.cost().get()
}

/// C-11
#[test]
fn login_rehashes_a_weak_hash_when_enabled() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let cost = Cost::new(5).unwrap();
    for (rehash, expected) in [(false, 4), (true, 5), (true, 5)] {
        let settings = AuthConfig { cost, rehash, workers: NonZeroUsize::MIN, ..unlimited() };
        let server = Server::start_with(store.reader(), &settings, &[]);
        assert_eq!(server.login("roy", "wrong").status, 401);
        assert_eq!(server.login("roy", "open-sesame").status, 200);
        // The one worker has finished the rehash when it takes this login.
        assert_eq!(server.login("nobody", "x").status, 401);
        assert_eq!(cost_of(&store, "roy"), expected, "{rehash}");
        assert_eq!(server.login("roy", "open-sesame").status, 200);
        assert_eq!(server.login("roy", "wrong").status, 401);
    }
}
