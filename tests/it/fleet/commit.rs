//! Commits whose answer is lost or in doubt, and concurrent writers.

use std::thread;

use super::{Fleet, eventually, shared, status, verified};
use crate::support::cli::Completed;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::postgres::{Cluster, ClusterOptions};

/// Has each commit that changes a user take a second.
const SLOW_COMMITS: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
     CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE OR DELETE ON resttool.users \
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();";

impl Fleet<'_> {
    /// Waits until a command commits. Returns the process ID of its session.
    fn wait_for_commit(&self, wait_event: &str) -> String {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
             AND query = 'COMMIT' AND state = 'active' AND wait_event = '{wait_event}'"
        );
        eventually(|| Some(self.psql(&sql)).filter(|pid| !pid.is_empty()))
    }

    fn has(&self, user: &str) -> bool {
        self.psql(&format!("SELECT count(*) FROM resttool.users WHERE name = '{user}'")) == "1"
    }

    /// Runs a command through a proxy, and `meanwhile` beside it.
    fn run_through(&self, proxy: &FaultProxy, words: &str, meanwhile: impl FnOnce()) -> Completed {
        let url = self.url_at(proxy.address());
        thread::scope(|scope| {
            let run = scope.spawn(|| self.run_at(&url, words, ""));
            meanwhile();
            run.join().unwrap()
        })
    }
}

fn proxy_of(cluster: &Cluster) -> FaultProxy {
    FaultProxy::start(cluster.address().unwrap())
}

/// F-08: the answer was lost, so the command finds the tag of its change.
#[test]
#[ignore = "needs PostgreSQL"]
fn commit_whose_answer_is_lost_is_found_by_its_tag() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    fleet.psql(SLOW_COMMITS);
    let (proxy, server) = (proxy_of(shared()), fleet.serve(""));
    verified(&server, "roy");
    let outcome = fleet.run_through(&proxy, "userdel roy", || {
        fleet.wait_for_commit("PgSleep");
        proxy.set(Fault::Blackhole);
        eventually(|| (!fleet.has("roy")).then_some(()));
        proxy.cut();
        proxy.set(Fault::Forward);
    });
    assert_eq!((status(&server, "roy"), outcome.code), (401, 0), "{}", outcome.stderr);
}

/// F-08: the server goes on with a commit whose client is gone.
#[test]
#[ignore = "needs PostgreSQL"]
fn commit_that_ends_after_its_connection_is_found() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    fleet.psql(SLOW_COMMITS);
    let (proxy, server) = (proxy_of(shared()), fleet.serve(""));
    verified(&server, "roy");
    let outcome = fleet.run_through(&proxy, "userdel roy", || {
        fleet.wait_for_commit("PgSleep");
        proxy.cut();
    });
    assert!(!fleet.has("roy"));
    assert_eq!((status(&server, "roy"), outcome.code), (401, 0), "{}", outcome.stderr);
}

/// F-08: the tag is not there, so nothing was changed.
#[test]
#[ignore = "needs PostgreSQL"]
fn commit_that_was_ended_changed_nothing() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    fleet.psql(SLOW_COMMITS);
    let outcome = fleet.run_through(&proxy_of(shared()), "userdel roy", || {
        let session = fleet.wait_for_commit("PgSleep");
        fleet.psql(&format!("SELECT pg_terminate_backend({session})"));
    });
    assert!(fleet.has("roy"));
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("cannot reach the database: "), "{}", outcome.stderr);
}

/// F-08: neither a cancelled wait for the standby nor a lost connection tells that the change will
/// survive.
#[test]
#[ignore = "needs PostgreSQL"]
fn commit_without_its_standby_is_reported_as_unknown() {
    let cluster = Cluster::with(ClusterOptions { tcp: true, ..ClusterOptions::default() });
    let fleet = Fleet::new(&cluster);
    fleet.add(["roy", "ann"]);
    fleet.psql("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'");
    fleet.psql("SELECT pg_reload_conf()");
    let proxy = proxy_of(&cluster);
    let cancel = |session: &str| {
        fleet.psql(&format!("SELECT pg_cancel_backend({session})"));
    };
    let is_unknown = |outcome: Completed| {
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        for part in ["it is not known whether the change is committed: ", "hint: "] {
            assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        }
    };
    is_unknown(fleet.run_through(&proxy, "userdel roy", || {
        cancel(&fleet.wait_for_commit("SyncRep"));
    }));
    is_unknown(fleet.run_through(&proxy, "userdel ann", || {
        fleet.wait_for_commit("SyncRep");
        proxy.cut();
    }));
    cancel(&fleet.wait_for_commit("SyncRep"));
}

/// F-09: the default of the database does not matter.
#[test]
#[ignore = "needs PostgreSQL"]
fn concurrent_writers_succeed_with_serializable_as_default() {
    let fleet = Fleet::new(shared());
    let database = &fleet.database;
    fleet.psql(&format!(
        "ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
    ));
    let names: Vec<_> = (0..8).map(|n| format!("user{n}")).collect();
    fleet.add(names.iter().map(String::as_str));
    thread::scope(|scope| {
        for name in &names {
            let fleet = &fleet;
            scope.spawn(move || {
                fleet.succeed(&format!("usermod --group beer {name}"), "");
                fleet.succeed(&format!("useradd --password-stdin more-{name}"), "pass-word");
            });
        }
    });
    let members = "SELECT count(*) FROM resttool.memberships WHERE \"group\" = 'beer'";
    assert_eq!(fleet.psql(members), "8");
    assert_eq!(fleet.psql("SELECT count(*) FROM resttool.users"), "16");
}
