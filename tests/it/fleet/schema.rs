//! `resttool database`: the schema, the role of servers, and copies.

use std::fs;
use std::sync::Barrier;
use std::thread;

use rustix::process::Signal;

use super::{Fleet, PASSWORD, eventually, login, shared, status, verified};
use crate::support::cli::{Completed, run, run_shell, shell_blocks};
use crate::support::client::Request;
use crate::support::postgres::psql;

/// Asserts that a command failed with these parts of its messages.
fn failed(outcome: &Completed, code: i32, parts: &[&str]) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
    }
}

/// F-18
#[test]
#[ignore = "needs PostgreSQL"]
fn schema_is_created_once() {
    let fleet = Fleet::without_schema(shared());
    let url = fleet.url();
    let hint = format!("hint: resttool database init --database '{url}'");
    for words in ["userlist", "useradd --generate roy", "serve --port 0", "database migrate"] {
        failed(&fleet.run(words, ""), 1, &[&hint]);
    }
    let barrier = Barrier::new(2);
    let mut outcomes = thread::scope(|scope| {
        let runs = [(); 2].map(|()| {
            scope.spawn(|| {
                barrier.wait();
                fleet.run("database init", "")
            })
        });
        runs.map(|run| run.join().unwrap())
    });
    outcomes.sort_by_key(|outcome| outcome.code);
    assert_eq!(outcomes[0].code, 0, "{}", outcomes[0].stderr);
    for outcome in [&outcomes[1], &fleet.run("database init", "")] {
        failed(outcome, 1, &["has the schema already", "hint: 'resttool database migrate'"]);
    }
    let migrated = fleet.run("database migrate", "");
    assert!(migrated.stderr.contains("has the current schema, version 3"), "{}", migrated.stderr);
    assert_eq!(migrated.code, 0);
}

/// F-10, F-18: two migrations at once are one.
#[test]
#[ignore = "needs PostgreSQL"]
fn older_schema_is_migrated_by_its_command_only() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    fleet.psql(
        "ALTER TABLE resttool.users DROP scheme, DROP salt, DROP rounds, DROP imported, \
             DROP credential_version;
         UPDATE resttool.state SET version = 2",
    );
    let hint = format!("hint: resttool database migrate --database '{}'", fleet.url());
    for words in ["userlist", "userdel roy", "serve --port 0"] {
        failed(&fleet.run(words, ""), 1, &["schema", &hint]);
    }
    assert_eq!(fleet.psql("SELECT version FROM resttool.state"), "2");
    let outcomes = thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| fleet.run("database migrate", "")));
        runs.map(|run| run.join().unwrap())
    });
    let migrated = |outcome: &&Completed| outcome.stderr.contains("from version 2 to 3");
    assert!(outcomes.iter().all(|outcome| outcome.code == 0), "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(migrated).count(), 1, "{outcomes:?}");
    verified(&fleet.serve(""), "roy");
}

/// F-18: also while a server runs.
#[test]
#[ignore = "needs PostgreSQL"]
fn newer_schema_is_refused() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    let server = fleet.serve("");
    verified(&server, "roy");
    fleet.psql("UPDATE resttool.state SET version = 4");
    for words in ["userlist", "userdel roy", "serve --port 0", "database migrate"] {
        failed(&fleet.run(words, ""), 1, &["version 4", "hint: use a newer resttool"]);
    }
    failed(&fleet.run("database init", ""), 1, &["has the schema already"]);
    eventually(|| (status(&server, "roy") == 503).then_some(()));
    fleet.psql("UPDATE resttool.state SET version = 3");
    eventually(|| (status(&server, "roy") == 200).then_some(()));
}

/// F-10: the role of the printed SQL is enough for a server, and changes nothing.
#[test]
#[ignore = "needs PostgreSQL"]
fn server_needs_a_role_that_may_select_only() {
    let fleet = Fleet::without_schema(shared());
    let sql = fleet.succeed("database init", "");
    // Roles are those of all databases of the cluster.
    let role = format!("serve_{}", fleet.database);
    fleet.psql(&sql.replace("resttool_serve", &role));
    fleet.add(["roy", "ann"]);
    let url = fleet.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    for table in ["users", "memberships", "state", "changes"] {
        let denied = psql(&url, &format!("DELETE FROM resttool.{table}")).unwrap_err();
        assert!(denied.contains("permission denied"), "{denied}");
    }
    let server = fleet.serve_at(&url, "--require-group wine");
    verified(&server, "roy");
    fleet.succeed("userdel roy", "");
    assert_eq!(status(&server, "roy"), 401);
    for words in ["useradd --password-stdin bob", "userdel ann", "database migrate"] {
        let outcome = fleet.run_at(&url, words, PASSWORD);
        if words == "database migrate" {
            assert_eq!(outcome.code, 0, "there is nothing to migrate: {}", outcome.stderr);
        } else {
            failed(&outcome, 1, &["permission denied for table state"]);
        }
    }
    fleet.add(["bob"]);
    let mut rehashing = fleet.serve_at(&url, "--rehash --cost 5");
    for user in ["ann", "bob"] {
        assert_eq!(login(user).send(rehashing.address).status, 200);
        rehashing.wait_for("cannot replace the hash of user");
    }
    rehashing.signal(Signal::TERM);
    let (_, log) = rehashing.end();
    assert_eq!(log.matches("cannot replace the hash").count(), 1, "{log}");
    assert!(log.contains("permission denied for table state"), "{log}");
}

/// F-17: everything is kept on the way to PostgreSQL and back.
#[test]
#[ignore = "needs PostgreSQL"]
fn copy_keeps_everything_in_both_directions() {
    let fleet = Fleet::new(shared());
    let (home, url) = (fleet.home.folder(), fleet.url());
    let [file, back] = ["users.db", "back.db"].map(|name| home.join(name).display().to_string());
    let on_file = |words: &str, input: &str| {
        let outcome = run(home, &format!("{words} --database {file}"), input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    };
    let old = "old:$apr1$saltsalt$Bpf3YY7gSpRMU0bq2ZWbJ0\n";
    on_file("useradd --password-stdin --cost 4 --group wine,staff roy", PASSWORD);
    on_file("useradd --password-stdin --cost 4 --expire 2037-01-31 ann", PASSWORD);
    on_file("useradd --password-stdin --cost 4 jürgen", PASSWORD);
    on_file("usermod --lock jürgen", "");
    on_file("passwd --password-stdin --cost 4 roy", "another-password");
    on_file("import --cost 4 -", old);
    let copy = |words: &str| run(home, &format!("database copy {words}"), "");
    let succeed = |words: &str| {
        let outcome = copy(words);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    };
    failed(&copy(&format!("--verify {file} {url}")), 1, &["is missing in"]);
    succeed(&format!("{file} {url}"));
    succeed(&format!("--verify {file} {url}"));
    succeed(&format!("{url} {back}"));
    for pair in [format!("{file} {back}"), format!("{back} {url}"), format!("{url} {back}")] {
        succeed(&format!("--verify {pair}"));
    }
    let export = on_file("export --format jsonl", "");
    assert_eq!(fleet.succeed("export --format jsonl", ""), export);
    for (target, name) in [(&url, "postgres://"), (&back, "back.db")] {
        failed(&copy(&format!("{file} {target}")), 1, &["has users already", name]);
    }
    for (change, how) in [
        ("usermod --unlock jürgen", "is different in"),
        ("usermod --lock jürgen", "is different in"),
        ("userdel jürgen", "is missing in"),
    ] {
        fleet.succeed(change, "");
        let outcome = copy(&format!("--verify {file} {url}"));
        // A change and its opposite within a second leave the same record.
        if outcome.code != 0 || how == "is missing in" {
            failed(&outcome, 1, &["user jürgen", how]);
        }
    }
}

/// F-17: the examples of the help, with another URL.
#[test]
#[ignore = "needs PostgreSQL"]
fn examples_of_the_help_of_database_work() {
    let fleet = Fleet::without_schema(shared());
    let home = fleet.home.folder();
    let help = run(home, "database --help", "").stdout;
    let (_, examples) = help.split_once("Examples:\n").unwrap();
    let examples: Vec<_> = examples.lines().filter(|line| line.contains("resttool ")).collect();
    assert_eq!(examples.len(), 4, "{help}");
    let file = home.join("users.db").display().to_string();
    let added =
        run(home, &format!("useradd --password-stdin --cost 4 --database {file} roy"), PASSWORD);
    assert_eq!(added.code, 0, "{}", added.stderr);
    for example in examples {
        let url = "postgres://admin@db.example.com/users";
        assert!(example.contains(url), "{example}");
        run_shell(home, &example.replace(url, &format!("'{}'", fleet.url())), &[]);
    }
    assert!(fs::metadata(&file).is_ok());
    let server = fleet.serve("");
    let request = Request::get("/rest-auth").basic("roy", PASSWORD);
    eventually(|| (request.send(server.address).status == 200).then_some(()));
}

/// The commands of the page lead from a file to three servers, which refuse a removed user.
#[test]
#[ignore = "needs PostgreSQL"]
fn page_leads_from_one_gate_to_three() {
    let fleet = Fleet::without_schema(shared());
    let home = fleet.home.folder();
    let file = home.join("users.db").display().to_string();
    let added = run(home, &format!("useradd roy --password-stdin --database {file}"), PASSWORD);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let blocks = shell_blocks("docs/fleet.md", "## From one gate to three");
    let [schema, copy, serve, remove] = &blocks[..] else { panic!("{blocks:?}") };
    let url_of =
        |role: &str| fleet.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    let run_block = |block: &str| {
        let admin = "postgres://admin@db.example.com/users";
        run_shell(home, &block.replace(admin, &format!("'{}'", fleet.url())), &[]);
    };
    run_block(&format!("{schema}{copy}"));
    let (export, command) = serve.trim_end().split_once('\n').unwrap();
    let (role, _) = export.split_once("postgres://").unwrap().1.split_once('@').unwrap();
    assert_eq!(command, "resttool serve");
    let servers = [(); 3].map(|()| fleet.serve_at(&url_of(role), ""));
    assert!(servers.iter().all(|server| status(server, "roy") == 200));
    run_block(remove);
    assert!(servers.iter().all(|server| status(server, "roy") == 401));
}

/// The page leads back to an older version, for which the schema of this one stands.
#[test]
#[ignore = "needs PostgreSQL"]
fn documented_rollback_returns_to_the_copied_users() {
    let fleet = Fleet::new(shared());
    fleet.add(["roy"]);
    let blocks = shell_blocks("docs/install.md", "## Upgrade and rollback");
    let [_, _, copy, back] = &blocks[..] else { panic!("{blocks:?}") };
    let url = fleet.url();
    let run_block =
        |block: &str| run_shell(fleet.home.folder(), block, &[("RESTTOOL_DATABASE", &url)]);
    run_block(copy);
    fleet.psql("ALTER TABLE resttool.users ADD later text; UPDATE resttool.state SET version = 4");
    fleet.psql("DELETE FROM resttool.users");
    failed(&fleet.run("userlist", ""), 1, &["its schema is version 4", "use a newer resttool"]);
    run_block(back);
    verified(&fleet.serve(""), "roy");
}
