//! Tests against a real database. They need PostgreSQL.

use std::cell::Cell;

use futures_executor::block_on;

use super::*;
use crate::admin::{
    DesiredPassword, DesiredUser, IfExists, IfGone, IfMissing, ReconcileError, ReconcileOptions,
};
use crate::domain::{BadRecord, Cost, HashError};
use crate::store::contract::{
    Backend, account, add, contract, groups, hash, name, put, remove, soon,
};
use crate::store::{DatabaseProblem, Location, Problem, all, open, open_reader};
use crate::time::Timestamp;

#[path = "../../../tests/support/postgres.rs"]
mod cluster;

use cluster::{Cluster, wait_until};
use reader::{RETRY, STATE};
use schema::{MIGRATIONS, SCHEMA};

/// A database of its own, with short leases.
struct TestDatabase {
    cluster: &'static Cluster,
    name: String,
}

/// Short, since many tests wait for it. A server on a busy machine has to read within half of it.
const LEASE: Duration = Duration::from_millis(500);

impl TestDatabase {
    fn url(&self) -> PostgresUrl {
        PostgresUrl::parse(&self.cluster.url(&self.name)).unwrap()
    }

    fn location(&self) -> Location {
        self.url().into()
    }
}

impl Backend for TestDatabase {
    fn new() -> Self {
        let cluster = cluster::shared();
        let database = Self { cluster, name: cluster.create_database() };
        assert!(initialize(&database.url(), LEASE).unwrap());
        database
    }

    fn open(&self) -> Box<dyn UserStore> {
        open(&self.location()).unwrap()
    }

    fn serve(&self) -> Box<dyn UserReader> {
        open_reader(&self.location()).unwrap()
    }

    fn rounds(&self) -> u32 {
        3
    }
}

contract!(TestDatabase, #[ignore = "needs PostgreSQL"]);

impl TestDatabase {
    fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.name, sql)
    }
}

thread_local! {
    static WAITS: Cell<u32> = const { Cell::new(0) };
}

/// Returns the number of waits for servers during a change of the store.
fn waits(database: &TestDatabase, change: impl FnOnce(&dyn UserStore)) -> u32 {
    let mut store = database.open();
    store.notify_of_waits(|_| WAITS.set(WAITS.get() + 1));
    WAITS.set(0);
    change(&*store);
    WAITS.get()
}

/// F-02: only a name that no server can have in its cache is added without a wait.
#[test]
#[ignore = "needs PostgreSQL"]
fn new_name_needs_no_wait_and_a_removed_one_does() {
    let database = TestDatabase::new();
    let add_user = |of: &str| waits(&database, |store| add(store, of).unwrap());
    assert_eq!(add_user("roy"), 0, "a new name");
    assert_eq!(add_user("roy"), 1, "an existing user");
    let with_group = Account { groups: groups(&["staff"]), ..account("ann") };
    assert_eq!(waits(&database, |store| put(store, &with_group).unwrap()), 0);
    assert_eq!(waits(&database, |store| assert!(remove(store, "roy").unwrap())), 1);
    assert_eq!(add_user("roy"), 1, "a removed name");
    assert_eq!(
        waits(&database, |store| assert!(!remove(store, "is-no-user").unwrap())),
        1,
        "no change"
    );
    let replace = |store: &dyn UserStore| {
        assert!(store.replace_hash(&name("ann"), &hash(), hash()).unwrap());
    };
    assert_eq!(waits(&database, replace), 0, "another hash of the same password");
    // Servers may rely on users that were removed without their names.
    database.psql("TRUNCATE resttool.users CASCADE");
    assert_eq!(add_user("bob"), 1);
    // All leases of that time have ended.
    database.psql("UPDATE resttool.changes SET at = at - interval '10 minutes'");
    assert_eq!(add_user("cid"), 0);
    // A statement of long ago, whose transaction has just ended.
    assert_eq!(waits(&database, |store| assert!(remove(store, "cid").unwrap())), 1);
    database.psql("UPDATE resttool.changes SET at = at - interval '10 minutes'");
    assert_eq!(add_user("cid"), 1);
    database.psql(
        "BEGIN; DELETE FROM resttool.users WHERE name = 'cid'; DELETE FROM resttool.users;
         UPDATE resttool.changes SET at = at - interval '10 minutes'; COMMIT",
    );
    assert_eq!(add_user("cid"), 1, "a later statement of the same transaction");
}

/// Waits until the server sees another revision than this one.
fn next_revision(server: &dyn UserReader, before: Revision) -> Revision {
    loop {
        let revision = block_on(server.next_revision(soon())).unwrap();
        if revision != before {
            return revision;
        }
        std::thread::yield_now();
    }
}

/// F-06, F-16: a change by any program is noticed, with the names of the changed users.
#[test]
#[ignore = "needs PostgreSQL"]
fn change_by_another_program_outdates_the_changed_users() {
    let database = TestDatabase::new();
    let (store, server) = (database.open(), database.serve());
    for of in ["ann", "bob", "cid"] {
        add(&*store, of).unwrap();
    }
    // Not a reading from before the last user.
    store.visibility().wait().unwrap();
    let mut before = block_on(server.next_revision(soon())).unwrap();
    let all = ["ann", "bob", "cid"];
    for (sql, changed) in [
        ("UPDATE resttool.users SET locked = true WHERE name = 'ann'", &["ann"][..]),
        ("INSERT INTO resttool.memberships VALUES ('bob', 'staff'), ('bob', 'wine')", &["bob"]),
        ("UPDATE resttool.memberships SET \"group\" = 'beer' WHERE \"group\" = 'wine'", &["bob"]),
        ("DELETE FROM resttool.memberships WHERE \"user\" = 'bob'", &["bob"]),
        ("UPDATE resttool.users SET hash = 'x' WHERE name IN ('ann', 'cid')", &["ann", "cid"]),
        ("INSERT INTO resttool.users (name, hash) VALUES ('dan', 'x')", &[]),
        ("UPDATE resttool.users SET name = 'eve' WHERE name = 'cid'", &["cid"]),
        ("DELETE FROM resttool.users WHERE name = 'ann'", &["ann"]),
        // The log has a gap, so any user may have changed.
        ("DELETE FROM resttool.changes; UPDATE resttool.users SET locked = true", &all),
        ("TRUNCATE resttool.memberships", &all),
        ("TRUNCATE resttool.users CASCADE", &all),
    ] {
        database.psql(sql);
        let now = next_revision(&*server, before);
        let seen = all.iter().filter(|of| !server.is_unchanged(&name(of), before));
        assert_eq!(seen.copied().collect::<Vec<_>>(), changed, "{sql}");
        assert!(all.iter().all(|of| server.is_unchanged(&name(of), now)), "{sql}");
        before = now;
    }
}

/// The names of many users are not recorded, since each server would have to read them.
#[test]
#[ignore = "needs PostgreSQL"]
fn change_of_many_users_outdates_all() {
    let database = TestDatabase::new();
    let server = database.serve();
    let first = block_on(server.next_revision(soon())).unwrap();
    database.psql(
        "INSERT INTO resttool.users (name, hash) SELECT 'user-' || n, 'x' FROM generate_series(1, 1001) n",
    );
    let before = next_revision(&*server, first);
    database.psql("UPDATE resttool.users SET locked = true WHERE name <> 'user-1'");
    let now = next_revision(&*server, before);
    assert!(server.is_unchanged(&name("user-1"), before), "1000 names are recorded");
    database.psql("UPDATE resttool.users SET locked = false");
    next_revision(&*server, now);
    assert!(!server.is_unchanged(&name("ann"), now));
}

/// The migrations of both backends have the same numbers and lead to the same tables.
#[test]
#[ignore = "needs PostgreSQL"]
fn both_backends_have_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.db");
    drop(crate::store::open_or_create(&file.clone().into()).unwrap());
    let sqlite = rusqlite::Connection::open(&file).unwrap();
    let columns_of = |table: &str| {
        let mut statement = sqlite.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let names = statement.query_map([table], |row| row.get::<_, String>(0)).unwrap();
        let mut names = names.map(Result::unwrap).collect::<Vec<_>>();
        names.sort();
        names
    };
    let database = TestDatabase::new();
    for table in ["users", "memberships"] {
        let theirs = database.psql(&format!(
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = 'resttool' AND table_name = '{table}' ORDER BY 1"
        ));
        assert_eq!(theirs.lines().collect::<Vec<_>>(), columns_of(table), "{table}");
    }
    let version: i32 = sqlite.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(database.psql("SELECT version FROM resttool.state"), version.to_string());
    for folder in ["sqlite", "postgres"] {
        let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0001_users.sql", "0002_groups.sql", "0003_schemes.sql"], "{folder}");
    }
}

/// F-09: a failed serialization is planned again, and fails as busy only if it lasts.
#[test]
#[ignore = "needs PostgreSQL"]
fn serialization_failure_is_planned_again() {
    let database = TestDatabase::new();
    let store = database.open();
    add(&*store, "ann").unwrap();
    // Fails as often as the sequence says, which no rollback resets.
    let fail = |times: u32| {
        database.psql(&format!(
            "DROP SEQUENCE IF EXISTS failures; CREATE SEQUENCE failures;
             CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('failures') <= {times} THEN
                     RAISE EXCEPTION 'planned' USING ERRCODE = 'serialization_failure';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE OR REPLACE TRIGGER fail AFTER UPDATE OR DELETE ON resttool.users
                 FOR EACH STATEMENT EXECUTE FUNCTION fail()"
        ))
    };
    let lock = || {
        let desired = DesiredUser {
            locked: Some(true),
            ..DesiredUser::new(name("ann"), DesiredPassword::Keep)
        };
        let options = ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace);
        crate::admin::reconcile(&*store, &[desired], &options, Timestamp::now(), &|_, _| {})
    };
    fail(3);
    assert_eq!(lock().unwrap().len(), 1);
    assert!(store.find(&name("ann")).unwrap().unwrap().locked);
    fail(3);
    let removed = crate::admin::remove(&*store, &[name("ann")], IfGone::Refuse).unwrap();
    assert_eq!(removed.len(), 1);
    add(&*store, "ann").unwrap();
    fail(1000);
    assert!(matches!(lock(), Err(ReconcileError::Store(StoreError::Busy))));
    assert!(!store.find(&name("ann")).unwrap().unwrap().locked, "nothing was changed");
}

/// An unusable hash that another program has written is kept, and the rest can be changed.
#[test]
#[ignore = "needs PostgreSQL"]
fn unusable_hash_is_left_as_it_is() {
    let database = TestDatabase::new();
    let store = database.open();
    add(&*store, "roy").unwrap();
    database.psql("UPDATE resttool.users SET hash = 'x'");
    let bad = Account {
        hash: Err(BadRecord::Hash(HashError::NotBcrypt)),
        locked: true,
        groups: groups(&["staff"]),
        ..account("roy")
    };
    put(&*store, &bad).unwrap();
    assert_eq!(all(&*store), [bad]);
    assert_eq!(database.psql("SELECT hash FROM resttool.users"), "x");
    assert!(matches!(store.find(&name("roy")), Err(StoreError::BadRecord { .. })));
    // It fails no other user.
    add(&*store, "ann").unwrap();
    let server = database.serve();
    store.visibility().wait().unwrap();
    block_on(server.next_revision(soon())).unwrap();
    let names = ["ann", "roy", "bob"].map(name);
    let found = server.find_all(&names.each_ref());
    assert!(
        matches!(&found[..], [Ok(Some(_)), Err(StoreError::BadRecord { user, .. }), Ok(None)] if *user == names[1]),
        "{found:?}"
    );
}

/// A name that the encoding lacks would be an error of every look-up beside it.
#[test]
#[ignore = "needs PostgreSQL"]
fn database_of_another_encoding_is_refused() {
    let cluster = cluster::shared();
    let database = TestDatabase { cluster, name: "latin1".to_owned() };
    cluster.psql("postgres", "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0");
    let refused = initialize(&database.url(), LEASE).unwrap_err();
    assert!(refused.to_string().contains("its encoding is LATIN1"), "{refused}");
    assert_eq!(database.psql("SELECT to_regnamespace('resttool') IS NULL"), "t");
    // A dump can be restored there.
    database.psql(&format!(
        "{}; INSERT INTO resttool.state (version, lease_ms) VALUES ({SCHEMA}, 1000)",
        MIGRATIONS.concat()
    ));
    let problems = crate::store::check(&database.location(), Cost::DEFAULT).unwrap().problems;
    assert_eq!(
        problems,
        [Problem::Database(DatabaseProblem::Encoding { encoding: "LATIN1".to_owned() })]
    );
}

/// A thousand users are written at once, in any mix of new, changed and equal names.
#[test]
#[ignore = "needs PostgreSQL"]
fn many_users_are_written_in_one_transaction() {
    let database = TestDatabase::new();
    let store = database.open();
    let user = |n: usize, locked| Account {
        locked,
        groups: groups(if n.is_multiple_of(2) { &["even", "all"] } else { &["all"] }),
        ..account(&format!("user-{n:04}"))
    };
    for round in [false, true] {
        let mut transaction = store.begin().unwrap();
        let names: Vec<_> = (0..2500).map(|n| user(n, round).name).collect();
        transaction.prefetch(&names).unwrap();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(transaction.find(name).unwrap(), round.then(|| user(n, false)));
            transaction.put(&user(n, round)).unwrap();
            assert_eq!(transaction.find(name).unwrap(), Some(user(n, round)));
        }
        transaction.commit().wait().unwrap();
        assert_eq!(all(&*store), (0..2500).map(|n| user(n, round)).collect::<Vec<_>>());
    }
}

/// A plan is compiled from a cost of 100000 on (`jit_above_cost`), which takes longer than the query.
#[test]
#[ignore = "needs PostgreSQL"]
fn reading_of_the_state_is_cheap_to_the_planner() {
    let database = TestDatabase::new();
    let sql = format!("EXPLAIN {}", STATE.replace("$1", "0"));
    let plan = database.cluster.psql(&database.name, &sql);
    // E.g. `Nested Loop Left Join  (cost=0.15..105.75 rows=1 width=50)`.
    let (_, cost) = plan.split_once("..").unwrap();
    let cost: f64 = cost.split(' ').next().unwrap().parse().unwrap();
    assert!(cost < 1000.0, "{plan}");
}

/// F-05: a request that waits for a reading is told that none is possible, and not at its deadline.
#[test]
fn waiting_request_learns_that_the_database_is_lost() {
    let database = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = database.local_addr().unwrap();
    let url =
        PostgresUrl::parse(&format!("postgres://roy@{address}/users?sslmode=disable")).unwrap();
    let server = open_reader(&url.into()).unwrap();
    let (connection, _) = database.accept().unwrap();
    assert!(matches!(server.revision(Instant::now()), Err(StoreError::Lapsed)));
    let waiting = server.next_revision(Instant::now() + Duration::from_secs(30));
    drop((connection, database));
    let told = block_on(waiting);
    assert!(matches!(told, Err(StoreError::Unreachable(_))), "{told:?}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn unreadable_database_is_tried_at_intervals() {
    let cluster = cluster::shared();
    // It has no schema, but accepts connections.
    let database = TestDatabase { cluster, name: cluster.create_database() };
    let start = Instant::now();
    let _reader = open_reader(&database.location()).unwrap();
    let sql = format!("SELECT sessions FROM pg_stat_database WHERE datname = '{}'", database.name);
    let attempts = || cluster.psql("postgres", &sql).parse::<u32>().unwrap();
    wait_until("the fourth attempt", || attempts() >= 4);
    assert!(start.elapsed() >= RETRY * 3, "{:?}", start.elapsed());
}

/// Each statement that adds users is a change of the state, so an import of single rows would take a
/// hundred times as long.
#[test]
#[ignore = "needs PostgreSQL"]
fn added_users_are_written_by_one_statement() {
    let database = TestDatabase::new();
    let sql = "SELECT revision FROM resttool.state";
    let revision = || database.cluster.psql(&database.name, sql).parse::<u64>().unwrap();
    let before = revision();
    let accounts = ["ann", "bob", "cid"].map(account);
    let names: Vec<_> = accounts.iter().map(|account| account.name.clone()).collect();
    let store = database.open();
    let mut transaction = store.begin().unwrap();
    transaction.prefetch(&names).unwrap();
    for account in &accounts {
        assert!(transaction.find(&account.name).unwrap().is_none());
        transaction.put(account).unwrap();
    }
    transaction.commit().wait().unwrap();
    assert_eq!((store.count().unwrap(), revision()), (3, before + 1));
}

/// Each statement makes the next one slower, since it writes the row of the state: 10,000 of them
/// take half a minute.
#[test]
#[ignore = "needs PostgreSQL"]
fn users_are_removed_by_one_statement() {
    let database = TestDatabase::new();
    let sql = "SELECT revision FROM resttool.state";
    let revision = || database.psql(sql).parse::<u64>().unwrap();
    let store = database.open();
    let names = ["ann", "bob", "cid"].map(name);
    let prune = || {
        let options = ReconcileOptions {
            prune: true,
            ..ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace)
        };
        crate::admin::reconcile(&*store, &[], &options, Timestamp::now(), &|_, _| {}).unwrap()
    };
    let userdel = || crate::admin::remove(&*store, &names, IfGone::Refuse).unwrap();
    let removals: [(&str, &dyn Fn() -> Vec<crate::admin::Change>); 2] =
        [("prune", &prune), ("userdel", &userdel)];
    for (how, remove) in removals {
        names.iter().for_each(|name| add(&*store, name.as_str()).unwrap());
        let before = revision();
        assert_eq!(remove().len(), 3, "{how}");
        assert_eq!((store.count().unwrap(), revision()), (0, before + 1), "{how}");
    }
}

/// Returns the problems of a database, as this role sees them.
fn problems_as(database: &TestDatabase, role: &str) -> Vec<String> {
    let url = database.cluster.url(&database.name);
    let url = PostgresUrl::parse(&url.replace("//postgres@", &format!("//{role}@"))).unwrap();
    let findings = crate::store::check(&url.into(), Cost::new(Cost::MIN).unwrap()).unwrap();
    findings.problems.iter().map(ToString::to_string).collect()
}

fn problems(database: &TestDatabase) -> Vec<String> {
    problems_as(database, "postgres")
}

const NONE: [&str; 0] = [];

/// Each problem of a database is found, and none in a healthy one.
#[test]
#[ignore = "needs PostgreSQL"]
fn check_finds_the_problems_of_a_database() {
    let database = TestDatabase::new();
    add(&*database.open(), "roy").unwrap();
    assert_eq!(problems(&database), NONE);
    let name = &database.name;
    database.psql(&format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    database.psql("ALTER TABLE resttool.users DISABLE TRIGGER note_update");
    database.psql("DROP TRIGGER note_join ON resttool.memberships");
    database.psql("UPDATE resttool.state SET lease_ms = 20000");
    database.psql("INSERT INTO resttool.users (name, hash) VALUES ('ann', 'x'), ('a:b', 'x')");
    let expected = [
        "its synchronous_commit is off, so a crash may lose the last changes",
        "its lease has every change wait for 25.0 s",
        "the trigger note_update of its table users is disabled, so servers may not notice changes",
        "the trigger note_join of its table memberships is missing, so servers may not notice changes",
    ];
    let seen = problems(&database);
    assert_eq!(seen[..4], expected);
    assert!(seen[4].contains("a user named 'a:b'") && seen[5].contains("user \"ann\""), "{seen:?}");
}

/// F-10
#[test]
#[ignore = "needs PostgreSQL"]
fn check_names_the_rights_that_a_role_lacks() {
    let database = TestDatabase::new();
    // Roles are those of all databases of the cluster.
    let role = format!("role_{}", database.name);
    database.psql(&format!("CREATE ROLE {role} LOGIN"));
    let cannot = |what: &str, rights: &str| {
        [format!("its role \"{role}\" may not {what} users: it lacks {rights}")]
    };
    assert_eq!(
        problems_as(&database, &role),
        cannot(
            "look up",
            "SELECT on changes, SELECT on memberships, SELECT on state, SELECT on users, USAGE on the schema"
        )
    );
    let grant = |right: &str| database.psql(&format!("GRANT {right} TO {role}"));
    grant("USAGE ON SCHEMA resttool");
    grant("SELECT ON resttool.users, resttool.memberships, resttool.state");
    assert_eq!(problems_as(&database, &role), cannot("look up", "SELECT on changes"));
    grant("SELECT ON resttool.changes");
    let rights = "DELETE on memberships, DELETE on users, INSERT on memberships, INSERT on users, UPDATE on state, UPDATE on users";
    assert_eq!(problems_as(&database, &role), cannot("change", rights));
    grant("INSERT, UPDATE, DELETE ON resttool.users, resttool.memberships");
    assert_eq!(problems_as(&database, &role), cannot("change", "UPDATE on state"));
    grant("UPDATE ON resttool.state");
    assert_eq!(problems_as(&database, &role), NONE);
    // These are enough for commands.
    let url = database.cluster.url(&database.name).replace("//postgres@", &format!("//{role}@"));
    let store = open(&PostgresUrl::parse(&url).unwrap().into()).unwrap();
    put(&*store, &Account { groups: groups(&["staff"]), ..account("roy") }).unwrap();
    put(&*store, &Account { groups: groups(&["wine"]), ..account("roy") }).unwrap();
    let mut transaction = store.begin().unwrap();
    transaction.rename(&name("roy"), &name("ann")).unwrap();
    transaction.commit().wait().unwrap();
    assert!(remove(&*store, "ann").unwrap());
}

/// Also if the age of the transaction is hidden from the role.
#[test]
#[ignore = "needs PostgreSQL"]
fn check_names_a_transaction_that_keeps_others_waiting() {
    let database = TestDatabase::new();
    let role = format!("role_{}", database.name);
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA resttool TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA resttool TO {role}"
    ));
    let store = database.open();
    let transaction = store.begin().unwrap();
    assert_eq!(problems(&database), NONE, "a usual change");
    let is_named = |problem: &str, table: &str, effect: &str| {
        let (_, rest) =
            problem.split_once(&format!(" has kept its table {table} locked for ")).unwrap();
        let (seconds, effect_found) = rest.split_once(" s, so no user can be ").unwrap();
        assert_eq!(effect_found, effect, "{problem}");
        assert!(seconds.parse::<u32>().unwrap() >= 5, "{problem}");
    };
    let [hidden] = &problems_as(&database, &role)[..] else { panic!("one problem") };
    is_named(hidden, "state", "changed");
    let [seen] = &problems(&database)[..] else { panic!("one problem") };
    is_named(seen, "state", "changed");
    // A database that was copied from this one has the same tables.
    let copy = format!("copy_of_{}", database.name);
    drop((transaction, store));
    wait_until("the sessions have ended", || {
        let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", database.name);
        cluster::psql(&database.cluster.url("postgres"), &sql).is_ok()
    });
    let copy = TestDatabase { cluster: database.cluster, name: copy };
    let lock = "BEGIN; LOCK TABLE resttool.users; SELECT pg_sleep(60)";
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| cluster::psql(&database.cluster.url(&database.name), lock));
        let is_held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
             AND relation = 'resttool.users'::regclass";
        wait_until("the lock", || database.psql(is_held) == "1");
        let [seen] = &problems(&database)[..] else { panic!("one problem") };
        is_named(seen, "users", "looked up");
        assert_eq!(problems(&copy), NONE);
        let (pid, _) = seen.strip_prefix("process ").unwrap().split_once(' ').unwrap();
        database.psql(&format!("SELECT pg_terminate_backend({pid})"));
        assert!(holder.join().unwrap().is_err());
    });
    assert_eq!(problems(&database), NONE);
}

/// The check of a standby itself fails, as it takes no changes.
#[test]
#[ignore = "needs PostgreSQL"]
fn check_counts_standbys_for_which_no_commit_waits() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start()));
    let database = TestDatabase { cluster, name: cluster.create_database() };
    assert!(initialize(&database.url(), LEASE).unwrap());
    assert_eq!(problems(&database), NONE);
    let standbys = [cluster.standby(), cluster.standby()];
    let asynchronous = |count: &str| {
        [format!(
            "it has {count} and an empty synchronous_standby_names, so a failover may lose the last changes"
        )]
    };
    assert_eq!(problems(&database), asynchronous("2 standbys"));
    let [standby, mut other] = standbys;
    other.stop();
    wait_until("the standby has left", || problems(&database) == asynchronous("1 standby"));
    database.psql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    database.psql("SELECT pg_reload_conf()");
    wait_until("commits wait", || problems(&database).is_empty());
    let url = PostgresUrl::parse(&standby.url(&database.name)).unwrap().into();
    let minimum = Cost::new(Cost::MIN).unwrap();
    for error in [crate::store::check(&url, minimum).err(), open(&url).err()] {
        let Some(StoreError::NotConnected(e)) = error else { panic!("{error:?}") };
        assert!(e.to_string().contains("it takes no changes, so it is a standby"), "{e}");
        let hint =
            "name the primary, or all hosts of the database: postgres://USER@HOST1,HOST2/DATABASE";
        assert_eq!(e.hint(), Some(hint));
    }
}
