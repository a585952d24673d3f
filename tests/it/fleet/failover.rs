//! Several hosts in the URL, pools, and a standby that becomes the primary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Fleet, LEASE, eventually, login, shared, status, verified};
use crate::support::client::Connection;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::postgres::{Bouncer, Cluster, ClusterOptions};

impl Fleet<'_> {
    fn url_of(&self, hosts: [SocketAddr; 2]) -> String {
        let [one, other] = hosts;
        format!("postgres://postgres@{one},{other}/{}?sslmode=disable", self.database)
    }
}

fn with_tcp() -> Cluster {
    Cluster::with(ClusterOptions { tcp: true, ..ClusterOptions::default() })
}

/// F-11: a host that accepts connections and says nothing does not hold up the others.
#[test]
#[ignore = "needs PostgreSQL"]
fn silent_host_does_not_hold_up_a_command() {
    let fleet = Fleet::new(shared());
    let primary = shared().address().unwrap();
    let silent = FaultProxy::start(primary);
    silent.set(Fault::Blackhole);
    let url = fleet.url_of([silent.address(), primary]);
    let start = Instant::now();
    let outcome = fleet.run_at(&url, "userlist", "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    // One host alone may take 2 s.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let server = fleet.serve_at(&url, "");
    fleet.add(["roy"]);
    verified(&server, "roy");
}

/// F-04, F-11: the standby is passed over until it is the primary, and then takes changes.
#[test]
#[ignore = "needs PostgreSQL"]
fn standby_is_used_once_it_is_promoted() {
    for frozen in [false, true] {
        let primary = with_tcp();
        let fleet = Fleet::new(&primary);
        fleet.add(["roy", "ann"]);
        let standby = primary.standby();
        // The standby answers first.
        let slow = FaultProxy::start(primary.address().unwrap());
        slow.set(Fault::Delay(Duration::from_millis(100)));
        let url = fleet.url_of([standby.address().unwrap(), slow.address()]);
        let outcome = fleet.run_at(&url, "usermod --append --group beer roy", "");
        assert_eq!(outcome.code, 0, "a standby is passed over: {}", outcome.stderr);
        let url = fleet.url_of([standby.address().unwrap(), primary.address().unwrap()]);
        let server = fleet.serve_at(&url, "");
        verified(&server, "ann");
        verified(&server, "roy");
        let beer = "SELECT count(*) FROM resttool.memberships WHERE \"group\" = 'beer'";
        eventually(|| (standby.psql(&fleet.database, beer) == "1").then_some(()));
        if frozen {
            primary.freeze();
        } else {
            primary.kill();
        }
        let gone = Instant::now();
        eventually(|| {
            let sent = gone.elapsed();
            let status = status(&server, "roy");
            assert!(status == 503 || sent < LEASE, "granted without a lease: {sent:?}");
            (status == 503).then_some(())
        });
        standby.promote();
        let promoted = Instant::now();
        eventually(|| (status(&server, "roy") == 200).then_some(()));
        assert!(promoted.elapsed() < Duration::from_secs(4), "{:?}", promoted.elapsed());
        let outcome = fleet.run_at(&url, "userdel roy", "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(status(&server, "roy"), 401);
        assert_eq!(status(&server, "ann"), 200);
    }
}

/// F-15: the server closes connections that end, and connections that it gives up.
#[test]
#[ignore = "needs PostgreSQL"]
fn hundred_failovers_leave_no_connection_open() {
    let fleet = Fleet::new(shared());
    let users: Vec<_> = (0..100).map(|n| format!("user{n}")).collect();
    fleet.add(users.iter().map(String::as_str).chain(["roy"]));
    let hosts = [(); 2].map(|()| FaultProxy::start(shared().address().unwrap()));
    let front = FaultProxy::start(hosts[0].address());
    let server = fleet.serve_at(&fleet.url_at(front.address()), "");
    let mut roy = verified(&server, "roy");
    // Passwords that are in no entry, so that each request asks the database.
    let mut others = Connection::open(server.address);
    let mut is_answered = |user: &str, expected| {
        eventually(|| (others.send(&login(user)).status == expected).then_some(()));
    };
    is_answered("is-no-user", 401);
    let backends = || shared().backends(&fleet.database);
    eventually(|| (backends() == 1).then_some(()));
    let at_start = server.descriptors();
    for (n, user) in users.iter().enumerate() {
        let host = &hosts[(n + 1) % 2];
        let before = host.accepted();
        front.retarget(host.address());
        match n {
            // The last ones are silent. No cut closes what the server leaves open then.
            97 | 98 => {
                front.set(Fault::Blackhole);
                is_answered("is-no-user", 503);
            }
            // Here it gives up an attempt to connect too.
            99 => {
                let attempts = front.accepted();
                front.set(Fault::Blackhole);
                eventually(|| (front.accepted() >= attempts + 2).then_some(()));
            }
            _ if n % 10 == 5 => {
                front.set(Fault::Refuse);
                front.cut();
                is_answered("is-no-user", 503);
            }
            _ => front.cut(),
        }
        front.set(Fault::Forward);
        is_answered(user, 200);
        assert!(host.accepted() > before, "{user}: the server asked the other host");
        assert_eq!(roy.send(&login("roy")).status, 200, "{user}");
    }
    eventually(|| (backends() == 1).then_some(()));
    eventually(|| (server.descriptors() <= at_start).then_some(()));
    eventually(|| (front.connections() == 1).then_some(()));
}

/// F-13: each transaction may have another connection of the pool.
#[test]
#[ignore = "needs PostgreSQL and PgBouncer"]
fn commands_and_servers_work_through_pgbouncer() {
    let fleet = Fleet::without_schema(shared());
    let mut bouncer = Bouncer::start(shared());
    let url = bouncer.url(&fleet.database);
    let run = |words: &str, input: &str| {
        let outcome = fleet.run_at(&url, words, input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    };
    run("database init", "");
    run("useradd --password-stdin roy", super::PASSWORD);
    run("useradd --password-stdin ann", "pass-word");
    run("passwd --password-stdin ann", super::PASSWORD);
    run("usermod --group wine ann", "");
    run("check", "");
    let servers = [(); 3].map(|()| fleet.serve_at(&url, ""));
    for server in &servers {
        verified(server, "ann");
        verified(server, "roy");
    }
    run("userdel roy", "");
    for server in &servers {
        assert_eq!((status(server, "roy"), status(server, "ann")), (401, 200));
    }
    let listed = run("userlist", "");
    assert!(listed.contains("ann") && !listed.contains("roy"), "{listed}");
    bouncer.kill();
    eventually(|| (status(&servers[0], "ann") == 503).then_some(()));
    bouncer.start_again();
    for server in &servers {
        eventually(|| (status(server, "ann") == 200).then_some(()));
    }
    run("userdel ann", "");
    for server in &servers {
        assert_eq!(status(server, "ann"), 401);
    }
}
