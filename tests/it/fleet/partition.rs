//! Packets that are lost between a server and the database, by a firewall between two machines.

use std::thread;
use std::time::{Duration, Instant};

use super::{Fleet, LEASE, eventually, login, status, verified};
use crate::support::client::{Connection, Response};
use crate::support::machine::Machine;
use crate::support::postgres::{Cluster, ClusterOptions};

/// The limit of the time to reach the database after a partition: an attempt to connect takes up to
/// 2 s, and the next one begins 0.25 s later.
const RECOVERY: Duration = Duration::from_secs(4);

/// The packets that are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Answers,
    Requests,
    Both,
}

/// F-02, F-05: the server sends queries that take effect, and reads no answer.
#[test]
#[ignore = "needs PostgreSQL, root and nftables"]
fn nothing_is_granted_without_answers_of_the_database() {
    with_partition(Loss::Answers);
}

/// F-02, F-05: the database does not learn that the server has left.
#[test]
#[ignore = "needs PostgreSQL, root and nftables"]
fn nothing_is_granted_without_requests_to_the_database() {
    with_partition(Loss::Requests);
}

/// F-02, F-05
#[test]
#[ignore = "needs PostgreSQL, root and nftables"]
fn nothing_is_granted_without_packets_in_either_direction() {
    with_partition(Loss::Both);
}

/// Removes a user while packets are lost between the database and one of two servers.
fn with_partition(loss: Loss) {
    let [database, edge] = Machine::pair();
    let options = ClusterOptions { address: Some(database.address), ..Default::default() };
    let cluster = database.run(|| Cluster::with(options));
    edge.run(|| {
        let fleet = Fleet::without_schema(&cluster);
        fleet.succeed("database init", "");
        fleet.add(["roy", "ann"]);
        let server = fleet.serve("");
        // A Unix socket is not affected.
        let socket = cluster.socket_url(&fleet.database);
        let neighbour = fleet.serve_at(&socket, "");
        edge.watch(&server);
        edge.watch(&neighbour);
        let mut roy = verified(&server, "roy");
        let mut ann = verified(&server, "ann");
        verified(&neighbour, "ann");

        if loss != Loss::Requests {
            edge.lose_packets_of(&database);
        }
        if loss != Loss::Answers {
            database.lose_packets_of(&edge);
        }
        let cut = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                let outcome = fleet.run_at(&socket, "userdel ann", "");
                assert_eq!(outcome.code, 0, "{loss:?}: {}", outcome.stderr);
                assert_eq!(status(&neighbour, "ann"), 401, "{loss:?}");
                assert_unavailable(&ann.send(&login("ann")), loss);
            });
            let granted = serve_until_refused(&mut roy, cut, loss);
            assert!(granted > LEASE / 4, "{loss:?}: refused within the lease: {granted:?}");
        });
        assert_unavailable(&roy.send(&login("roy")), loss);
        assert_eq!(status(&neighbour, "roy"), 200, "{loss:?}");

        if loss != Loss::Requests {
            let lost = edge.lose_no_packets();
            // The database answers no request that it has not read.
            assert!(lost > 0 || loss == Loss::Both, "{loss:?}");
        }
        if loss != Loss::Answers {
            assert!(database.lose_no_packets() > 0, "{loss:?}");
        }
        let healed = Instant::now();
        eventually(|| (roy.send(&login("roy")).status == 200).then_some(()));
        assert!(healed.elapsed() < RECOVERY, "{loss:?}: {:?}", healed.elapsed());
        assert_eq!(ann.send(&login("ann")).status, 401, "{loss:?}");
    });
}

/// Sends requests of a verified user until one is refused. Returns the time of the last grant.
fn serve_until_refused(roy: &mut Connection, cut: Instant, loss: Loss) -> Duration {
    let mut granted = Duration::ZERO;
    loop {
        let sent = cut.elapsed();
        let response = roy.send(&login("roy"));
        if response.status != 200 {
            assert_unavailable(&response, loss);
            return granted;
        }
        assert!(sent < LEASE, "{loss:?}: granted without a lease: {sent:?}");
        granted = sent;
    }
}

fn assert_unavailable(response: &Response, loss: Loss) {
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{loss:?}");
}
