//! What commands say if they cannot use the database, and what to do about it.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use super::{Fleet, PASSWORD, shared};
use crate::support::cli::KilledOnDrop;
use crate::support::postgres::psql;
use crate::terminal::{read_until, terminal};

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

/// F-10: `check` prints the SQL that is enough for a server.
#[test]
#[ignore = "needs PostgreSQL"]
fn role_without_rights_is_told_which_ones_it_lacks() {
    let fleet = Fleet::new(shared());
    let role = format!("plain_{}", fleet.database);
    fleet.psql(&format!("CREATE ROLE {role} LOGIN"));
    let url = fleet.url_as(&role);
    let hint = "\nhint: 'resttool check' names the rights that the role lacks\n";
    let is_denied = |words: &str, what: &str, hint: &str| {
        let outcome = fleet.run_at(&url, words, PASSWORD);
        let why = format!("role \"{role}\" lacks a right: permission denied for {what}{hint}");
        assert_eq!(outcome.code, 1, "{words}: {}", outcome.stderr);
        assert!(outcome.stderr.ends_with(&why), "{words}: {}", outcome.stderr);
    };
    is_denied("userlist", "schema resttool", hint);
    is_denied("serve --port 0", "schema resttool", hint);
    let check = fleet.run_at(&url, "check", "");
    assert_eq!(check.code, 1, "{}", check.stderr);
    let (problem, fix) = check.stdout.split_once("\n  fix: ").unwrap();
    assert!(problem.contains("may not look up users: it lacks SELECT on changes, "), "{problem}");
    let check = fleet.run_at(&url, "serve --port 0 --check", "");
    assert_eq!(check.code, 1, "{}", check.stderr);
    assert!(check.stderr.contains(&format!("hint: {}\n", fix.trim_end())), "{}", check.stderr);
    fleet.psql(fix);
    for words in ["userlist", "serve --port 0 --check"] {
        let outcome = fleet.run_at(&url, words, "");
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    }
    is_denied("useradd --password-stdin roy", "table state", hint);
    let check = fleet.run_at(&url, "check", "").stdout;
    assert!(check.contains("may not change users: it lacks DELETE on memberships, "), "{check}");
    let create = "\nhint: use the owner of the database, or GRANT CREATE ON DATABASE to the role\n";
    fleet.psql("DROP SCHEMA resttool CASCADE");
    is_denied("database init", &format!("database {}", fleet.database), create);
    fleet.psql(&format!("GRANT CREATE ON DATABASE {} TO {role}", fleet.database));
    assert_eq!(fleet.run_at(&url, "database init", "").code, 0);
    assert!(psql(&fleet.url(), "SELECT FROM resttool.users").is_ok());
}

/// F-02: only a person at a terminal wonders about the time.
#[test]
#[ignore = "needs PostgreSQL"]
fn wait_for_servers_is_announced_on_a_terminal_only() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy", "ann"]);
    let on_terminal = |words: &str, input: &str, last: &str| {
        let (mut keyboard, terminal) = terminal();
        let mut command = fleet.command_at(&fleet.url(), words);
        let child = command.env("NO_COLOR", "1").stdin(Stdio::piped()).stderr(terminal).spawn();
        let mut child = KilledOnDrop(child.unwrap());
        drop(command);
        std::io::Write::write_all(&mut child.0.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let seen = read_until(&mut keyboard, last);
        assert!(child.0.wait().unwrap().success(), "{seen}");
        seen
    };
    let seen = on_terminal("userdel roy", "", "removed user roy\r\n");
    let (notice, result) = seen.split_once(" s until every server has seen the change\n").unwrap();
    let seconds: f64 = notice.strip_prefix("resttool: waiting ").unwrap().parse().unwrap();
    // What is left of 1.25 s.
    assert!((0.2..=1.25).contains(&seconds), "{seen}");
    assert_eq!(result, "resttool: removed user roy\n", "after the wait");
    let seen = on_terminal("useradd --password-stdin joe", PASSWORD, "added user joe\r\n");
    assert!(!seen.contains("waiting"), "there is no wait: {seen}");
    let piped = fleet.run("userdel ann", "");
    assert_eq!((piped.code, piped.stderr.as_str()), (0, "resttool: removed user ann\n"));
    // Shorter than a person notices.
    fleet.psql("UPDATE resttool.state SET lease_ms = 150");
    let seen = on_terminal("userdel joe", "", "removed user joe\r\n");
    assert!(!seen.contains("waiting"), "{seen}");
}
