//! Changes by another program, and the streams of users.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{Fleet, LEASE, PASSWORD, eventually, login, shared, verified};
use crate::support::client::{Request, TIMEOUT};
use crate::support::store::hash_of;
use crate::support::upstream::Upstream;

/// F-06, F-16: a change by psql takes effect within the lease, and outdates no entry of another user.
#[test]
#[ignore = "needs PostgreSQL"]
fn change_by_psql_takes_effect_within_the_lease() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy", "ann"]);
    // The log has the values of each query.
    fleet.psql(&format!("ALTER DATABASE {} SET log_statement = 'all'", fleet.database));
    let server = fleet.serve("--require-group wine");
    let (mut roy, mut ann) = (verified(&server, "roy"), verified(&server, "ann"));
    let reads_of = |user: &str| {
        let (place, log) = (format!("@{} ", fleet.database), shared().log());
        let names = |line: &str| Some(line.split_once("$1 = '{")?.1.split_once("}'")?.0.to_owned());
        let of_database = log.lines().filter(|line| line.contains(&place)).filter_map(names);
        of_database.filter(|names| names.split(',').any(|name| name == user)).count()
    };
    let before = ["roy", "ann"].map(reads_of);
    assert!(before.iter().all(|reads| *reads > 0), "{before:?}");
    let hash = |password| {
        format!("UPDATE resttool.users SET hash = '{}' WHERE name = 'roy'", {
            hash_of(password).as_str().to_owned()
        })
    };
    let (other, back) = (hash("other"), hash(PASSWORD));
    for (change, expected) in [
        ("UPDATE resttool.users SET locked = true WHERE name = 'roy'", 401),
        ("UPDATE resttool.users SET locked = false WHERE name = 'roy'", 200),
        ("DELETE FROM resttool.memberships WHERE \"user\" = 'roy'", 403),
        ("INSERT INTO resttool.memberships VALUES ('roy', 'wine')", 200),
        ("UPDATE resttool.memberships SET \"group\" = 'beer' WHERE \"user\" = 'roy'", 403),
        ("UPDATE resttool.memberships SET \"group\" = 'wine' WHERE \"user\" = 'roy'", 200),
        (&other, 401),
        (&back, 200),
        ("UPDATE resttool.users SET name = 'bob' WHERE name = 'roy'", 401),
        ("UPDATE resttool.users SET name = 'roy' WHERE name = 'bob'", 200),
        ("DELETE FROM resttool.users WHERE name = 'roy'", 401),
    ] {
        fleet.psql(change);
        let start = Instant::now();
        eventually(|| (roy.send(&login("roy")).status == expected).then_some(()));
        // On a busy machine, the answers take their time.
        assert!(start.elapsed() < LEASE * 2, "{change}: {:?}", start.elapsed());
        assert_eq!(ann.send(&login("ann")).status, 200, "{change}");
    }
    assert!(reads_of("roy") > before[0]);
    assert_eq!(reads_of("ann"), before[1], "the entry of ann was read again");
    fleet.psql("TRUNCATE resttool.users CASCADE");
    let start = Instant::now();
    eventually(|| (ann.send(&login("ann")).status == 401).then_some(()));
    assert!(start.elapsed() < LEASE * 2, "{:?}", start.elapsed());
}

/// U-08, F-06: a removed user loses open streams, and no other user does.
#[test]
#[ignore = "needs PostgreSQL"]
fn removal_ends_the_streams_of_the_user() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy", "ann"]);
    let events = Upstream::start(|mut api| {
        api.head().unwrap();
        api.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        api.write("Transfer-Encoding: chunked\r\n\r\n");
        // Fails when the gate has closed the connection.
        while api.stream().write_all(b"6\r\ndata:\n\r\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let server = fleet.serve(&format!("--upstream {}", events.url()));
    let open = |user: &str| {
        let mut client = TcpStream::connect(server.address).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(&Request::get("/events").basic(user, PASSWORD).bytes()).unwrap();
        client
    };
    let (mut roy, mut ann) = (open("roy"), open("ann"));
    let mut piece = [0; 4096];
    for client in [&mut roy, &mut ann] {
        let mut head = Vec::new();
        while !head.ends_with(b"data:\n\r\n") {
            let read = client.read(&mut piece).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&head));
            head.extend(&piece[..read]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    }
    thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(|| fleet.succeed("userdel roy", ""));
        // A reading within a quarter of the lease, two checks of the streams, and the command.
        while let Ok(1..) = roy.read(&mut piece) {
            assert!(start.elapsed() < Duration::from_millis(2500), "the stream goes on");
        }
    });
    let end = Instant::now() + 2 * LEASE;
    while Instant::now() < end {
        assert!(ann.read(&mut piece).unwrap() > 0, "the stream of ann has ended");
    }
}
