//! A database that Patroni manages. `.ci/full` runs it.

use std::thread;
use std::time::{Duration, Instant};

use super::{LEASE, PASSWORD, eventually, login, status, verified};
use crate::support::cli::{ServerProcess, command, finish};
use crate::support::client::Connection;
use crate::support::machine::Machine;
use crate::support::postgres::{Node, Patroni};
use crate::support::store::TempStore;

/// The limit of the time between a promotion and the first grant.
const RECOVERY: Duration = Duration::from_secs(4);

/// F-04, F-05, F-14: a primary is killed, and the next one is frozen. Patroni promotes the other
/// node, and makes a replica of the old primary.
#[test]
#[ignore = "needs PostgreSQL, Patroni, etcd and root"]
fn server_follows_the_primary_that_patroni_promotes() {
    let machine = Machine::alone();
    machine.run(|| {
        let patroni = Patroni::start();
        let [one, other] = &patroni.nodes;
        let (home, url) = (TempStore::new(), patroni.url("postgres"));
        let at_url = |words: &str| {
            let words = words.split(' ').chain(["--database", &url]);
            let mut command = command(home.folder(), words);
            command.env("RESTTOOL_COST", "4");
            command
        };
        let run = |words: &str, input: &str| {
            let outcome = finish(at_url(words), input);
            assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        };
        run("database init", "");
        for user in ["roy", "ann", "tom", "eva"] {
            run(&format!("useradd --password-stdin {user}"), PASSWORD);
        }
        let words = "serve --port 0 --source-failures 0 --user-failures 0";
        let server = ServerProcess::start(at_url(words));
        machine.watch(&server);
        let removed = |user: &str| {
            verified(&server, user);
            run(&format!("userdel {user}"), "");
            assert_eq!((status(&server, user), status(&server, "roy")), (401, 200), "{user}");
        };
        let has = |node: &Node, users: &str| {
            let sql = "SELECT string_agg(name, ' ' ORDER BY name) FROM resttool.users";
            eventually(|| (node.psql("postgres", sql).ok()? == users).then_some(()));
        };

        // A promoted replica lacks what it has not received.
        has(other, "ann eva roy tom");
        let roy = verified(&server, "roy");
        one.kill();
        wait_for_recovery(roy, other);
        removed("ann");
        one.start_again();
        eventually(|| other.has_replica().then_some(()));
        removed("tom");
        has(one, "eva roy");
        let roy = verified(&server, "roy");
        other.freeze();
        wait_for_recovery(roy, one);
        removed("eva");
        other.thaw();
        eventually(|| {
            assert_eq!(status(&server, "eva"), 401, "the old primary still has the user");
            one.has_replica().then_some(())
        });
        eventually(|| (other.takes_changes() == Some(false)).then_some(()));
        assert_eq!((status(&server, "eva"), status(&server, "roy")), (401, 200));
    });
}

/// Sends requests of a verified user until they are granted by the new primary. Until then, each is
/// granted by a lease or refused for a time.
fn wait_for_recovery(mut roy: Connection, new: &Node) {
    let gone = Instant::now();
    let is_promoted = || new.takes_changes() == Some(true);
    thread::scope(|scope| {
        let promotion = scope.spawn(|| {
            eventually(|| is_promoted().then_some(()));
            Instant::now()
        });
        let mut refused = false;
        let recovered = eventually(|| {
            let sent = gone.elapsed();
            let response = roy.send(&login("roy"));
            if response.status == 200 {
                assert!(sent < LEASE || is_promoted(), "granted without a primary: {sent:?}");
                return refused.then(Instant::now);
            }
            assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
            refused = true;
            None
        });
        let time = recovered.saturating_duration_since(promotion.join().unwrap());
        assert!(time < RECOVERY, "{time:?} after the promotion");
    });
}
