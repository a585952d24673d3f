//! Changes that a command has made count on the next request to every server.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{Fleet, eventually, login, shared, status, verified};
use crate::support::client::Connection;
use crate::support::fault_proxy::{Fault, FaultProxy};

/// The commands that take a right from a user, with the status of the next request.
const CHANGES: [(&str, u16); 4] = [
    ("userdel NAME", 401),
    ("passwd --password-stdin NAME", 401),
    ("usermod --lock NAME", 401),
    ("usermod --group wine --remove NAME", 403),
];

/// The number of commands at once.
const AT_ONCE: usize = 10;

/// Runs a command of [`CHANGES`] for a user.
fn revoke(fleet: &Fleet<'_>, change: &str, user: &str) {
    fleet.succeed(&change.replace("NAME", user), "another-password");
}

/// F-02: several commands at once, and each asks the three servers as soon as it has returned.
#[test]
#[ignore = "needs PostgreSQL"]
fn change_counts_on_the_next_request_to_every_server() {
    let fleet = Fleet::new(shared());
    let users: Vec<_> = (0..48).map(|n| format!("user{n}")).collect();
    fleet.add(users.iter().map(String::as_str));
    let servers = [(); 3].map(|()| fleet.serve("--require-group wine"));
    thread::scope(|scope| {
        for (thread, users) in users.chunks(users.len().div_ceil(AT_ONCE)).enumerate() {
            let (fleet, servers) = (&fleet, &servers);
            scope.spawn(move || {
                for (n, user) in users.iter().enumerate() {
                    let (change, expected) = CHANGES[(thread + n) % CHANGES.len()];
                    let mut clients = servers.each_ref().map(|server| verified(server, user));
                    revoke(fleet, change, user);
                    let statuses =
                        clients.each_mut().map(|client| client.send(&login(user)).status);
                    assert_eq!(statuses, [expected; 3], "{change}");
                }
            });
        }
    });
}

/// F-02, F-03: no server grants after the return of a command, also if it is frozen or cut off.
#[test]
#[ignore = "needs PostgreSQL"]
fn impaired_server_grants_nothing_after_a_change() {
    let fleet = Fleet::new(shared());
    let users: Vec<_> = (0..30).map(|n| format!("user{n}")).collect();
    fleet.add(users.iter().map(String::as_str));
    let proxies = [(); 3].map(|()| FaultProxy::start(shared().address().unwrap()));
    let impaired = proxies
        .each_ref()
        .map(|proxy| fleet.serve_at(&fleet.url_at(proxy.address()), "--require-group wine"));
    let frozen = fleet.serve("--require-group wine");
    // The last answers come in time to be relied on.
    let faults = [
        Fault::Blackhole,
        Fault::Delay(Duration::from_millis(600)),
        Fault::Delay(Duration::from_millis(200)),
    ];
    let refused = |status: u16, what: &str| {
        assert!([401, 403, 503].contains(&status), "{what}: {status}");
    };
    for users in users.chunks(15) {
        for (user, server) in users
            .iter()
            .flat_map(|user| impaired.iter().chain([&frozen]).map(move |server| (user, server)))
        {
            verified(server, user);
        }
        for (proxy, fault) in proxies.iter().zip(faults) {
            proxy.set(fault);
        }
        frozen.signal(Signal::STOP);
        thread::scope(|scope| {
            for (n, user) in users.iter().enumerate() {
                let (fleet, impaired) = (&fleet, &impaired);
                scope.spawn(move || {
                    revoke(fleet, CHANGES[n % CHANGES.len()].0, user);
                    thread::scope(|scope| {
                        for (server, fault) in impaired.iter().zip(faults) {
                            scope.spawn(move || {
                                refused(status(server, user), &format!("{fault:?}"))
                            });
                        }
                    });
                });
            }
        });
        // The server finds the requests when it goes on.
        let open = |user: &String| {
            let mut client = Connection::open(frozen.address);
            client.write(&login(user).bytes());
            client
        };
        let waiting: Vec<Connection> = users.iter().map(open).collect();
        frozen.signal(Signal::CONT);
        for mut client in waiting {
            refused(client.read().status, "frozen");
        }
        for proxy in &proxies {
            proxy.set(Fault::Forward);
        }
        for (n, user) in users.iter().enumerate() {
            let (change, expected) = CHANGES[n % CHANGES.len()];
            for server in impaired.iter().chain([&frozen]) {
                let status =
                    eventually(|| Some(status(server, user)).filter(|status| *status != 503));
                assert_eq!(status, expected, "{change}");
            }
        }
    }
}
