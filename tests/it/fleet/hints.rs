//! What commands say if they cannot use the database, and what to do about it.

use std::fs;
use std::os::unix::net::UnixListener;

use super::{Fleet, shared};

impl Fleet<'_> {
    /// Returns the URL for another role.
    fn url_as(&self, role: &str) -> String {
        self.url().replace("postgres://postgres@", &format!("postgres://{role}@"))
    }
}

/// F-12
#[test]
#[ignore = "needs PostgreSQL"]
fn failed_connection_names_its_cause_and_a_hint() {
    let fleet = Fleet::new(shared());
    let name = &fleet.database;
    let role = |what: &str| format!("{what}_{name}");
    let [unlisted, full, barred] = ["unlisted", "full", "barred"].map(role);
    fleet.psql(&format!(
        "CREATE ROLE {unlisted} NOLOGIN; CREATE ROLE {full} LOGIN CONNECTION LIMIT 0;
         CREATE ROLE {barred} LOGIN; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {name} TO {full}"
    ));
    let home = fleet.home.folder();
    let socket = |folder: &str| format!("{}/{folder}", home.display()).replace('/', "%2F");
    fs::create_dir(home.join("left")).unwrap();
    // The socket of a server that has ended.
    drop(UnixListener::bind(home.join("left/.s.PGSQL.5432")).unwrap());
    let start = "start PostgreSQL there, or name another host or port in the URL";
    let name_role = "name a role that may log in: postgres://ROLE@HOST/DATABASE";
    for (url, cause, hint) in [
        (format!("postgres://{}/d", socket("left")), "Connection refused", Some(start)),
        (format!("postgres://{}/d", socket("none")), "No such file or directory", Some(start)),
        ("postgres://no-such-host.invalid/d".to_owned(), "no-such-host.invalid: ", None),
        (
            fleet.url().replace(name, "no_such_database"),
            "database \"no_such_database\" does not exist",
            Some("create the database, e.g. with createdb, and run 'resttool database init'"),
        ),
        (fleet.url_as("no_such_role"), "role \"no_such_role\" does not exist", Some(name_role)),
        (fleet.url_as(&unlisted), "is not permitted to log in", Some(name_role)),
        (
            fleet.url_as(&full),
            "too many connections for role",
            Some("raise max_connections, or the limit of the role or the database"),
        ),
        (
            fleet.url_as(&barred),
            "permission denied for database",
            Some("GRANT CONNECT ON DATABASE to the role"),
        ),
        (
            fleet.url().replace("?sslmode=disable", ""),
            "server does not support TLS",
            Some(
                "have the server use TLS (ssl = on), or add sslmode=disable to the URL if you trust the network",
            ),
        ),
    ] {
        let outcome = fleet.run_at(&url, "userlist", "");
        assert_eq!(outcome.code, 1, "{url}: {}", outcome.stderr);
        let (first, rest) = outcome.stderr.split_once('\n').unwrap();
        let cannot = "resttool: cannot list users: cannot connect to the database: ";
        assert!(first.starts_with(cannot) && first.contains(cause), "{url}: {first}");
        let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        assert_eq!(rest, hint, "{url}");
    }
}

/// F-14: a server starts all the same, and its log has the hint.
#[test]
#[ignore = "needs PostgreSQL"]
fn server_without_a_connection_logs_the_hint() {
    let fleet = Fleet::new(shared());
    let mut server = fleet.serve_at(&fleet.url_as("no_such_role"), "");
    server.wait_for("cannot reach the database: ");
    let hint = "starting without the database (hint: name a role that may log in: ";
    assert!(server.log.contains(hint), "{}", server.log);
}
