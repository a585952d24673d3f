//! Commands as a script runs them. Sessions with fixed output stand in `tests/cmd`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::cli::{Completed, command, finish, help_of_commands, run, without_audit};
use crate::support::store::TempStore;

const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const CHEAP: &str =
    "resttool: warning: a cost of 4 is quick to guess against; 10 is the least advised\n";
const NO_TERMINAL: &str = "there is no terminal to ask for the password on
hint: give --password-stdin, --password-file PATH or --generate\n";

fn failed(code: i32, stderr: &str) -> Completed {
    Completed::new(code, "", &format!("resttool: {stderr}\n"))
}

/// L-04
#[test]
fn one_of_twenty_concurrent_useradds_of_a_name_succeeds() {
    let home = TempStore::new();
    let mut codes: Vec<_> = std::thread::scope(|scope| {
        let add =
            || run(home.folder(), "useradd roy --password-stdin --cost 4", "open-sesame").code;
        let runs: Vec<_> = (0..20).map(|_| scope.spawn(add)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    codes.sort_unstable();
    assert_eq!(codes, [vec![0], vec![9; 19]].concat());
}

/// L-01: standard input is left for the next reader, e.g. a loop of the shell.
#[test]
fn missing_password_source_is_refused_with_stdin_unread() {
    let home = TempStore::new();
    assert_eq!(
        run(home.folder(), "useradd roy", "open-sesame\n"),
        failed(2, &format!("cannot add user roy: {}", NO_TERMINAL.trim_end()))
    );
    assert_eq!(
        run(home.folder(), "hash", "open-sesame\n"),
        failed(2, &format!("cannot make a hash: {}", NO_TERMINAL.trim_end()))
    );
    let names = home.folder().join("names");
    fs::write(&names, "ann\nbob\ncid\n").unwrap();
    let tool = env!("CARGO_BIN_EXE_resttool");
    let script = format!("while read name; do {tool} useradd $name; echo $name $?; done <names");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(home.folder()).env_clear().env("HOME", home.folder());
    assert_eq!(finish(shell, "").stdout, "ann 2\nbob 2\ncid 2\n");
    assert!(!home.folder().join(".local").exists(), "no store was created");
}

/// L-01, L-02
#[test]
fn password_is_exactly_one_line_of_stdin_or_a_file() {
    let home = TempStore::new();
    let file = home.folder().join("password");
    let many = format!("{}\n", "x".repeat(5000));
    for (content, refused) in [
        ("open-sesame", None),
        ("open-sesame\n", None),
        ("open-sesame\r\n", None),
        ("", Some("is empty")),
        ("\n", Some("is empty")),
        ("\r\n", Some("is empty")),
        ("open-sesame\n\n", Some("holds more than one line")),
        ("open-sesame\nmore", Some("holds more than one line")),
        ("\nopen-sesame\n", Some("holds more than one line")),
        (&many, Some("holds more than a line can be long")),
    ] {
        fs::write(&file, content).unwrap();
        for (words, source) in [
            ("hash --cost 10 --password-stdin".to_owned(), "standard input".to_owned()),
            (
                format!("hash --cost 10 --password-file {}", file.display()),
                file.display().to_string(),
            ),
        ] {
            let outcome = run(home.folder(), &words, content);
            match refused {
                None => assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{content:?}"),
                Some(why) => {
                    let why = format!("cannot make a hash: {source} {why}");
                    assert_eq!(outcome, failed(3, &why), "{content:?}");
                }
            }
        }
    }
    let outcome = run(home.folder(), "hash --password-file nowhere", "");
    let why = "cannot make a hash: cannot open nowhere: No such file or directory (os error 2)";
    assert_eq!(outcome, failed(1, why));
}

/// C-02, C-03, C-04, C-12, P-06: the error repeats nothing of the password.
#[test]
fn password_that_bcrypt_would_truncate_is_refused() {
    let home = TempStore::new();
    let hash = |input: &[u8]| run(home.folder(), "hash --cost 10 --password-stdin", input);
    let refused = |why| failed(3, &format!("cannot make a hash: the password is refused: {why}"));
    assert_eq!(hash(&b"p".repeat(72)).code, 0);
    assert_eq!(
        hash(&b"p".repeat(73)),
        refused("it is longer than 72 bytes, and bcrypt would ignore the rest")
    );
    assert_eq!(hash("e\u{301}".repeat(36).as_bytes()).code, 0, "72 bytes after normalisation");
    for control in [&b"open\0sesame"[..], b"open\rsesame", b"open\tsesame", b"open-sesame\r\r\n"] {
        assert_eq!(hash(control), refused("it holds a control character"));
    }
    assert_eq!(hash(b"caf\xE9 ole"), failed(3, "cannot make a hash: standard input is not UTF-8"));
}

/// C-13, L-07
#[test]
fn hash_prints_only_a_hash() {
    let home = TempStore::new();
    let hash = || run(home.folder(), "hash --password-stdin --cost 10", "open-sesame\n");
    let (one, other) = (hash(), hash());
    assert_eq!((one.code, one.stderr.as_str(), one.stdout.len()), (0, "", 61));
    assert!(one.stdout.starts_with("$2y$10$") && one.stdout.ends_with('\n'));
    assert_ne!(one.stdout, other.stdout, "each has its own salt");
    assert!(!home.folder().join(".local").exists(), "no store is needed");
}

#[test]
fn generated_password_is_alone_on_stdout_and_works() {
    let home = TempStore::new();
    let database = home.database().display().to_string();
    let words = format!("--database {database} useradd roy --generate --cost 4");
    let outcome = run(home.folder(), &words, "");
    let password = outcome.stdout.strip_suffix('\n').unwrap().to_owned();
    assert_eq!(password.len(), 24);
    let said = format!("{CHEAP}resttool: added user roy\n");
    assert_eq!(outcome, Completed::new(0, &outcome.stdout, &said));
    assert_eq!(home.serve().login("roy", password).status, 200);

    let again = run(home.folder(), &format!("{words} --if-not-exists"), "");
    assert_eq!(again, Completed::new(0, "", "resttool: user roy exists, nothing changed\n"));

    let hash = run(home.folder(), "hash --generate --cost 10", "");
    assert_eq!((hash.code, hash.stdout.len()), (0, 61));
    assert!(hash.stderr.starts_with("password: ") && hash.stderr.len() == 35, "{}", hash.stderr);
}

/// C-01
#[test]
fn ready_hash_is_stored_as_it_is() {
    let home = TempStore::new();
    let database = home.database().display().to_string();
    let add = |user: &str, hash: &str| {
        run(home.folder(), &format!("useradd {user} --hash-stdin --database {database}"), hash)
    };
    let tail = "$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    for ident in ["2a", "2b", "2y"] {
        let user = format!("user-{ident}");
        let said = format!("resttool: added user {user}\n");
        assert_eq!(add(&user, &format!("${ident}{tail}\n")), Completed::new(0, "", &said));
        assert_eq!(home.serve().login(&user, "U*U").status, 200);
        assert_eq!(home.serve().login(&user, "U*V").status, 401);
    }
}

#[test]
fn database_option_stands_anywhere_or_in_the_environment() {
    let home = TempStore::new();
    for (n, words) in (0..).zip([
        "--database DB useradd USER --password-stdin",
        "useradd --database DB USER --password-stdin",
        "useradd USER --password-stdin --database=DB",
    ]) {
        let database = home.folder().join(format!("new/folders/{n}.db"));
        let words = words.replace("DB", &database.display().to_string()).replace("USER", "roy");
        assert_eq!(run(home.folder(), &words, "open-sesame").code, 0);
        let mut removed = command(home.folder(), ["userdel", "roy"]);
        removed.env("RESTTOOL_DATABASE", &database);
        assert_eq!(finish(removed, "").code, 0);
    }
    let mut elsewhere = command(home.folder(), ["useradd", "roy", "--generate", "--cost=4"]);
    elsewhere.env("XDG_DATA_HOME", home.folder().join("data"));
    assert_eq!(finish(elsewhere, "").code, 0);
    assert!(home.folder().join("data/resttool/resttool.db").is_file());
    let mut relative = command(home.folder(), ["useradd", "roy", "--generate", "--cost=4"]);
    relative.env("XDG_DATA_HOME", "relative").current_dir(home.folder());
    assert_eq!(finish(relative, "").code, 0);
    assert!(home.folder().join(".local/share/resttool/resttool.db").is_file());
}

/// O-05
#[test]
fn environment_sets_options_and_unknown_variables_are_named() {
    let home = TempStore::new();
    let with = |variables: &[(&str, &str)], words: &str| {
        let mut command = command(home.folder(), words.split(' '));
        command.envs(variables.iter().copied());
        finish(command, "open-sesame")
    };
    let hash = with(&[("RESTTOOL_COST", "10")], "hash --password-stdin");
    assert_eq!((hash.code, &hash.stdout[..7]), (0, "$2y$10$"));
    let check = |json| with(&[("RESTTOOL_JSON", json)], "check");
    for (off, on) in [("no", "yes"), ("0", "1"), ("false", "true")] {
        assert!(check(on).stdout.starts_with('{'), "{on}: {}", check(on).stdout);
        assert!(!check(off).stdout.starts_with('{'), "{off}: {}", check(off).stdout);
    }
    let overruled = with(&[("RESTTOOL_COST", "15")], "hash --password-stdin --cost 10");
    assert_eq!(&overruled.stdout[..7], "$2y$10$", "an argument overrules the environment");
    let why = "usage: unknown environment variable RESTTOOL_COTS
hint: a similar variable is RESTTOOL_COST";
    assert_eq!(with(&[("RESTTOOL_COTS", "10")], "hash --password-stdin"), failed(2, why));
    let wrong = with(&[("RESTTOOL_COST", "ten")], "hash --password-stdin");
    assert_eq!((wrong.code, wrong.stderr.contains("--cost <N>")), (2, true), "{}", wrong.stderr);
    let password = with(&[("RESTTOOL_PASSWORD", "open-sesame")], "useradd roy");
    assert_eq!(
        (password.code, password.stderr.contains("sesame")),
        (2, false),
        "there is no such variable"
    );
}

/// C-10, X-02
#[test]
fn invalid_name_is_refused_and_shown_escaped_on_one_line() {
    let home = TempStore::new();
    let long = "n".repeat(8192);
    for (name, shown, why) in [
        ("", "", "it is empty"),
        ("foo  bar", "foo  bar", "it begins or ends with a space, or has two in a row"),
        ("admin\u{200B}", r"admin\u{200b}", "it holds U+200B, which is not allowed there"),
        ("a\nb", r"a\nb", "it holds U+000A, which is not allowed there"),
        ("\x1B[2Ja", r"\u{1b}[2Ja", "it holds U+001B, which is not allowed there"),
        ("a\u{2028}b", r"a\u{2028}b", "it holds U+2028, which is not allowed there"),
        ("a\u{202E}b", r"a\u{202e}b", "it holds U+202E, which is not allowed there"),
        (&long, &format!("{}…", "n".repeat(200)), "it is longer than 128 bytes"),
    ] {
        let outcome = finish(command(home.folder(), ["userdel", name]), "");
        let why = format!("cannot remove user {shown}: invalid user name: {why}");
        assert_eq!(outcome, failed(19, &why));
    }
}

/// S-01
#[test]
fn store_is_readable_by_its_owner_only_under_any_umask() {
    for umask in ["000", "022", "077", "277", "777"] {
        let home = TempStore::new();
        let tool = env!("CARGO_BIN_EXE_resttool");
        let script =
            format!("umask {umask}; echo open-sesame | {tool} useradd roy --password-stdin");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).env_clear().env("HOME", home.folder());
        assert_eq!(finish(shell, "").code, 0, "umask {umask}");
        let mode = |path: &str| {
            let meta = fs::metadata(home.folder().join(path)).unwrap();
            meta.permissions().mode() & 0o777
        };
        assert_eq!(mode(".local/share/resttool/resttool.db"), 0o600, "umask {umask}");
        assert_eq!(mode(".local/share/resttool"), 0o700, "umask {umask}");
    }
}

/// S-01, S-08, S-09: by every command that opens the store.
#[test]
fn file_that_is_no_store_is_refused_by_every_command_unchanged() {
    let home = TempStore::new();
    let database = home.database();
    let refused = |why: &str, hint: &str| {
        for (verb, what) in [
            ("useradd roy --password-stdin", "add user roy"),
            ("useradd roy --password-stdin --if-not-exists", "add user roy"),
            ("userdel roy", "remove user roy"),
            ("userdel roy --if-exists", "remove user roy"),
            ("serve --port 0", "serve"),
        ] {
            let before = fs::read(&database).unwrap();
            let words = format!("{verb} --database {}", database.display());
            let why = format!("cannot {what}: {}: {why}\nhint: {hint}", database.display());
            assert_eq!(run(home.folder(), &words, "open-sesame"), failed(1, &why), "{verb}");
            assert_eq!(fs::read(&database).unwrap(), before, "{verb}");
        }
    };
    let put = |path: &Path, content: &str| {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(&database, "content of another program");
    let another = "name another file with --database; a missing one is made";
    refused("it is no resttool store", another);
    put(&database, "");
    refused("it is no resttool store", another);
    home.sql("CREATE TABLE theirs (x); PRAGMA user_version = 1");
    refused("it is no resttool store", another);
    fs::remove_file(&database).unwrap();
    home.add("roy", "open-sesame");
    home.sql("PRAGMA user_version = 7");
    refused("its schema is version 7, and this resttool knows up to 3", "use a newer resttool");
    home.sql("PRAGMA user_version = 2");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    refused(
        "other users may read or write it (mode 0644)",
        &format!("chmod 600 {}", database.display()),
    );
}

#[test]
fn locked_store_is_busy_after_a_timeout() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    let other = rusqlite::Connection::open(home.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let words = format!("userdel roy --database {}", home.database().display());
    let why =
        "cannot remove user roy: the store was locked by others for 5 seconds\nhint: try again";
    assert_eq!(run(home.folder(), &words, ""), failed(5, why));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(run(home.folder(), &words, "").code, 0);
}

#[test]
fn undelivered_generated_password_is_an_error_with_a_hint() {
    let home = TempStore::new();
    let mut command = command(home.folder(), ["useradd", "roy", "--generate", "--cost=10"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let database = home.folder().join(".local/share/resttool/resttool.db");
    let remove = format!("resttool userdel --database {} roy", database.display());
    assert_eq!(
        without_audit(&String::from_utf8(output.stderr).unwrap()),
        format!(
            "resttool: cannot add user roy: cannot write to standard output: No space left on device (os error 28)
hint: user roy was added, but its generated password could not be printed; remove the user with: {remove}\n"
        )
    );
}

/// S-07: the change is stored, so its password is needed.
#[test]
fn unaudited_change_is_an_error_and_still_prints_its_password() {
    let home = TempStore::new();
    let words = ["useradd", "roy", "--generate", "--cost=10", "--audit-log=/dev/full"];
    let outcome = finish(command(home.folder(), words), "");
    assert_eq!((outcome.code, outcome.stdout.trim_end().len()), (1, 24));
    assert_eq!(
        outcome.stderr,
        "resttool: cannot add user roy: the change was made, but the audit log cannot be written: No space left on device (os error 28)\n"
    );
}

/// W-20
#[test]
fn option_without_effect_is_a_warning() {
    let home = TempStore::new();
    let warnings = |words: &str, input: &str| {
        let stderr = run(home.folder(), words, input).stderr;
        let warnings = stderr.lines().filter_map(|line| line.strip_prefix("resttool: warning: "));
        warnings.map(str::to_owned).collect::<Vec<_>>()
    };
    for (words, expected) in [
        // These do not start, for another reason.
        (
            "serve --unix-socket /nowhere/s --port 80 --host ::1 --database /nowhere/a",
            &[
                "--host has no effect beside --unix-socket",
                "--port has no effect beside --unix-socket",
            ][..],
        ),
        (
            "serve --unix-socket-mode 660 --database /nowhere/a",
            &["--unix-socket-mode has no effect without --unix-socket"],
        ),
        (
            "serve --cache-entries 0 --cache-lifetime 1h --database /nowhere/a",
            &["--cache-lifetime has no effect beside --cache-entries 0"],
        ),
        ("serve --cache-entries 10 --cache-lifetime 1h --database /nowhere/a", &[]),
        (
            "hash --calibrate 1ms --cost 9 --generate",
            &[
                "--generate has no effect beside --calibrate",
                "--cost has no effect beside --calibrate",
            ],
        ),
        (
            "print fail2ban --group a --port 80",
            &["--group has no effect for fail2ban", "--port has no effect for fail2ban"],
        ),
        ("print systemd --port 80", &[]),
        ("print systemd-socket --group a --port 80", &["--group has no effect for systemd-socket"]),
        ("print nginx --group a --port 80", &[]),
    ] {
        assert_eq!(warnings(words, ""), expected, "{words}");
    }
    let add = "useradd roy --hash-stdin --min-length 9";
    assert_eq!(warnings(add, HASH), ["--min-length has no effect beside --hash-stdin"]);
    assert_eq!(warnings("userlist --json --long", ""), ["--long has no effect beside --json"]);
    // A variable may be meant for other commands.
    let mut list = command(home.folder(), ["userlist", "--long"]);
    list.env("RESTTOOL_JSON", "false");
    assert_eq!(finish(list, "").stderr, "");
}

/// W-23: the hint fits the command, and no possible password is shown.
#[test]
fn hint_about_an_extra_argument_fits_the_command() {
    let home = TempStore::new();
    for (words, extra, hint) in [
        ("serve", "5000", "a port is given as --port 5000"),
        ("serve", "0.0.0.0", "an address is given as --host 0.0.0.0"),
        ("serve", "[::1]:80", "an address is given as --host [::1] --port 80"),
        ("serve", "db", "serve takes options only, e.g. --port 5000 or --database PATH"),
        (
            "userlist a",
            "b.txt",
            "quote a pattern with * or ?, which the shell replaces by file names",
        ),
        ("check", "users.db", "the database is given as --database PATH"),
        ("man a", "b", "'resttool man --help' lists the arguments"),
    ] {
        let expected = format!("usage: unexpected argument '{extra}'\nhint: {hint}");
        assert_eq!(run(home.folder(), &format!("{words} {extra}"), ""), failed(2, &expected));
    }
    for (name, similar) in [("serv", "serve"), ("usrdel", "userdel"), ("chpaswd", "chpasswd")] {
        let expected = format!(
            "unknown command '{name}'\nhint: a similar command is {similar}; 'resttool --help' lists all"
        );
        assert_eq!(run(home.folder(), name, ""), failed(2, &format!("usage: {expected}")));
    }
    let unknown = "unknown command 'x\\n'\nhint: 'resttool --help' lists the commands";
    assert_eq!(
        finish(command(home.folder(), ["x\n"]), ""),
        failed(2, &format!("usage: {unknown}"))
    );
    for (words, hint) in [
        ("passwd roy", "--password-stdin"),
        ("hash", "--password-stdin"),
        ("chpasswd", "chpasswd reads name:password lines"),
        ("import a", "import takes one file; the database is given as --database PATH"),
        ("usermod roy", "use resttool passwd"),
    ] {
        let outcome = run(home.folder(), &format!("{words} open-sesame"), "");
        assert_eq!(outcome.code, 2, "{words}");
        let said = outcome.stderr;
        assert!(said.contains(hint) && !said.contains("sesame"), "{said}");
    }
}

/// W-22: all users are removed, or none. One run names all that do not exist.
#[test]
fn userdel_removes_several_users_or_none() {
    let home = TempStore::new();
    let run = |words: &str, input: &str| run(home.folder(), words, input);
    let three = format!("ann:{HASH}\nbob:{HASH}\ncid:{HASH}\n");
    assert_eq!(run("import -", &three).code, 0);
    let store = home.folder().join(".local/share/resttool/resttool.db");
    let store = store.display();
    let refused = run("userdel ann dan bob eve", "");
    let expected = format!(
        "resttool: cannot remove 4 users: there is no user dan in {store}
resttool: cannot remove 4 users: there is no user eve in {store}\n"
    );
    assert_eq!(refused, Completed::new(6, "", &expected));
    let bad = run("userdel ann a:b", "");
    let why = "a:b: invalid user name: it holds a colon, which HTTP Basic can't carry";
    assert_eq!(bad, failed(19, &format!("cannot remove 2 users: {why}")));
    let removed = run("userdel ann ann dan bob --if-exists --json", "");
    let json = r#"{"name":"ann","changed":true,"outcome":"removed","changes":[]}
{"name":"dan","changed":false,"outcome":"unchanged","changes":[]}
{"name":"bob","changed":true,"outcome":"removed","changes":[]}
"#;
    assert_eq!(removed, Completed::new(0, json, "resttool: 2 removed, 1 unchanged\n"));
    let left = run("userlist --json", "").stdout;
    assert!(left.starts_with(r#"{"name":"cid","#) && left.lines().count() == 1, "{left}");
}

/// W-22: a full standard output hides no change from the audit log.
#[test]
fn every_change_is_audited_if_the_output_fails() {
    let home = TempStore::new();
    let many: String = (0..2000).map(|n| format!("user-{n}:{HASH}\n")).collect();
    fs::write(home.folder().join("users"), many).unwrap();
    let mut import = command(home.folder(), ["import", "users", "--json", "--audit-log=log"]);
    import.current_dir(home.folder());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(import.stdout(full).output().unwrap().status.code(), Some(1));
    assert_eq!(fs::read_to_string(home.folder().join("log")).unwrap().lines().count(), 2000);
}

/// S-10
#[test]
fn version_is_printed_alone_or_with_that_of_sqlite() {
    let home = TempStore::new();
    let version = env!("CARGO_PKG_VERSION");
    let sqlite = rusqlite::version();
    let long = format!("resttool {version}\nSQLite {sqlite}\n");
    assert_eq!(run(home.folder(), "--version", ""), Completed::new(0, &long, ""));
    let short = format!("resttool {version}\n");
    assert_eq!(run(home.folder(), "-V", ""), Completed::new(0, &short, ""));
    let parts: Vec<u32> = sqlite.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts >= vec![3, 51, 3], "{sqlite}");
}

/// Each command has examples, and the main help lists the exit codes.
#[test]
fn help_has_examples_and_exit_codes() {
    let home = TempStore::new();
    let help = |words: &str| {
        let outcome = run(home.folder(), words, "");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        outcome.stdout
    };
    let main = help("--help");
    for code in ["   0  done", "   6  user does not exist", "  19  invalid user name"] {
        assert!(main.contains(code), "{code} in {main}");
    }
    for verb in [
        "serve",
        "useradd",
        "passwd",
        "usermod",
        "userdel",
        "userlist",
        "verify",
        "chpasswd",
        "import",
        "export",
        "apply",
        "hash",
        "completions",
        "man",
    ] {
        let text = help(&format!("{verb} --help"));
        assert!(text.contains(&format!("Examples:\n  resttool {verb}")), "{text}");
    }
    for variable in [None, Some(("RESTTOOL_DATABASE", "users.db"))] {
        let mut nothing = command(home.folder(), [""; 0]);
        nothing.envs(variable);
        let nothing = finish(nothing, "");
        assert_eq!((nothing.code, nothing.stdout.as_str()), (2, ""), "{variable:?}");
        assert!(nothing.stderr.contains("Usage: resttool"), "{variable:?}: {}", nothing.stderr);
    }
}

/// O-05: a variable holds a setting. It never changes the effect of a command on users.
#[test]
fn only_settings_have_environment_variables() {
    const SETTINGS: [&str; 9] = [
        // Options of all commands, or of commands that hash or print.
        "audit-log",
        "control-socket",
        "cost",
        "database",
        "json",
        "min-length",
        "quiet",
        // Options of `print`, whose configurations are about the server.
        "host",
        "port",
    ];
    let home = TempStore::new();
    for (verb, text) in help_of_commands(home.folder()) {
        for line in text.lines().map(str::trim).filter(|line| line.starts_with('-')) {
            let Some((_, option)) = line.split_once("--") else { continue };
            let option = option.split(' ').next().unwrap();
            let variable = format!("[env: RESTTOOL_{}=]", option.replace('-', "_").to_uppercase());
            let is_setting = SETTINGS.contains(&option) || verb == "serve";
            // `check` says what one call does.
            let expected = is_setting && !["check", "help", "version"].contains(&option);
            assert_eq!(text.contains(&variable), expected, "{verb} --{option} in {text}");
        }
    }
}

#[test]
fn docs_list_the_exit_codes_of_the_help() {
    let home = TempStore::new();
    let help = run(home.folder(), "--help", "").stdout;
    let docs = include_str!("../../docs/commands.md");
    let (_, table) = help.split_once("Exit codes:\n").unwrap();
    assert_eq!(table.lines().count(), 11);
    for row in table.lines() {
        let (code, meaning) = row.trim().split_once("  ").unwrap();
        assert!(docs.contains(&format!("| {code} | {meaning} |")), "{row}");
    }
}

/// W-01: editors and shells write a byte order mark, which is no part of a password.
#[test]
fn byte_order_mark_is_dropped_from_every_input() {
    let home = TempStore::new();
    let bom = |text: &str| format!("\u{FEFF}{text}");
    let run = |words: &str, input: &str| {
        let outcome = run(home.folder(), words, input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    };
    let hash = run("hash --password-stdin --cost 4", "open-sesame");
    let file = |name: &str, text: String| fs::write(home.folder().join(name), text).unwrap();
    run("useradd stdin --password-stdin --cost 4", &bom("open-sesame\r\n"));
    file("password", bom("open-sesame\n"));
    let password = home.folder().join("password");
    let password = password.display();
    run(&format!("useradd file --password-file {password} --cost 4"), "");
    run("useradd hash --hash-stdin", &bom(&hash));
    run("chpasswd --create --cost 4", &bom("chpasswd:open-sesame\n"));
    run("import -", &bom(&format!("htpasswd:{hash}")));
    let line = format!(r#"{{"name":"jsonl","hash":"{}"}}"#, hash.trim());
    run("import - --format jsonl", &bom(&line));
    let desired = format!("[[user]]\nname = \"apply\"\npassword_file = \"{password}\"\n");
    run("apply - --cost 4", &bom(&desired));
    for user in ["stdin", "file", "hash", "chpasswd", "htpasswd", "jsonl", "apply"] {
        run(&format!("verify {user} --password-stdin"), "open-sesame");
    }
}

/// W-01
#[test]
fn utf16_input_is_named_with_a_hint() {
    let home = TempStore::new();
    let utf16 = |text: &str| {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [0xFF, 0xFE].into_iter().chain(units).collect::<Vec<_>>()
    };
    for (words, code, what) in [
        ("useradd roy --password-stdin", 3, "standard input"),
        ("useradd roy --hash-stdin", 3, "standard input"),
        ("chpasswd", 7, "standard input"),
        ("import -", 7, "standard input"),
        ("apply -", 7, "standard input"),
    ] {
        let outcome = run(home.folder(), words, utf16("roy:open-sesame\n"));
        let expected = format!(": {what} is UTF-16 and not UTF-8\nhint: save it as UTF-8");
        assert_eq!(outcome.code, code, "{words}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(&expected), "{words}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 2, "{words}: {}", outcome.stderr);
    }
}

/// W-02: no invisible character comes into a new password, by any command that sets one.
#[test]
fn invisible_character_is_refused_in_a_new_password() {
    let home = TempStore::new();
    let why = "character 5 of it is U+200B, which is invisible";
    let added = run(home.folder(), "useradd roy --password-stdin --cost 4", "open-sesame");
    assert_eq!(added.code, 0, "{}", added.stderr);
    fs::write(home.folder().join("password"), "open\u{200B}sesame").unwrap();
    fs::write(
        home.folder().join("apply.toml"),
        "[[user]]\nname = \"roy\"\npassword_file = \"password\"\n",
    )
    .unwrap();
    let apply = format!("apply {}", home.folder().join("apply.toml").display());
    for (words, input, code, subject) in [
        ("useradd ann --password-stdin", "open\u{200B}sesame", 3, "the password is refused"),
        ("passwd roy --password-stdin", "open\u{200B}sesame", 3, "the password is refused"),
        ("hash --password-stdin", "open\u{200B}sesame", 3, "the password is refused"),
        (&apply, "", 7, "the password is refused"),
        ("chpasswd", "roy:open\u{200B}sesame", 7, "line 1: the password of roy is refused"),
    ] {
        let outcome = run(home.folder(), words, input);
        assert_eq!(outcome.code, code, "{words}: {}", outcome.stderr);
        let expected = format!("{subject}: {why}\n");
        assert!(outcome.stderr.ends_with(&expected), "{words}: {}", outcome.stderr);
    }
    let usable = "I \u{2764}\u{FE0F} Rust";
    assert_eq!(run(home.folder(), "passwd roy --password-stdin --cost 4", usable).code, 0);
    assert_eq!(run(home.folder(), "verify roy --password-stdin", usable).code, 0);
}

/// W-07: one run names all bad lines, at most 20 of them, and changes nothing.
#[test]
fn every_bad_line_is_named() {
    let home = TempStore::new();
    let good = format!("ann:{HASH}");
    let import = [&good, "no colon", "r  y:x", &format!("bob:{HASH}x")].join("\n");
    let outcome = run(home.folder(), "import -", import);
    assert_eq!(outcome.code, 7);
    let expected = "resttool: cannot import -: line 2: there is no colon in it
resttool: cannot import -: line 3: what stands before the colon can't be a user's name: it begins or ends with a space, or has two in a row
resttool: cannot import -: line 4: the hash of bob can't be used: it has 61 bytes, and a bcrypt hash has 60
";
    assert_eq!(outcome.stderr, expected);

    let lines = ["ann:open-sesame", "x", "bob:a\u{7}", "cid:short"].join("\n");
    let outcome = run(home.folder(), "chpasswd --create --min-length 10", lines);
    let expected = "resttool: cannot change passwords: line 2: there is no colon in it
resttool: cannot change passwords: line 3: the password of bob is refused: it holds a control character
resttool: cannot change passwords: line 4: the password of cid is refused: it has fewer than 10 characters
";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (7, expected));

    let table = |name: &str, rest: &str| format!("[[user]]\nname = \"{name}\"\n{rest}\n");
    let state = [
        table("ann", "generate = true"),
        table("b  b", "generate = true"),
        table("cid", "password_file = \"/nowhere\""),
        table("dan", ""),
    ];
    let outcome = run(home.folder(), "apply -", state.concat());
    let expected = "resttool: cannot apply -: user 2, b  b: invalid user name: it begins or ends with a space, or has two in a row
resttool: cannot apply -: user cid: cannot open /nowhere: No such file or directory (os error 2)
resttool: cannot apply -: user 4, dan: it takes one of password_file, password_hash and generate = true
";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (7, expected));

    let outcome = run(home.folder(), "import -", "x\n".repeat(50));
    assert_eq!(outcome.stderr.lines().count(), 21);
    assert!(outcome.stderr.ends_with("resttool: cannot import -: 30 more like these\n"));
    assert!(!home.folder().join(".local").exists(), "nothing was created");
}

/// W-10
#[test]
fn import_warns_about_cheap_hashes_once() {
    let home = TempStore::new();
    let advised = HASH.replace("$05$", "$10$");
    let lines = format!("ann:{HASH}\nbob:{HASH}\ncid:{advised}\n");
    let outcome = run(home.folder(), "import -", &lines);
    let expected = "resttool: warning: 2 users have hashes of a cost below 10; \
        'resttool serve --rehash' replaces such hashes at the next login\nresttool: 3 added\n";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, expected));
    let outcome = run(home.folder(), "import - --on-conflict replace", format!("cid:{advised}"));
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
}

/// W-11: Kubernetes sets variables for a Service that is named like the program.
#[test]
fn variables_of_a_kubernetes_service_set_nothing() {
    let home = TempStore::new();
    let with = |variables: &[(&str, &str)], words: &str| {
        let mut command = command(home.folder(), words.split(' '));
        command.envs(variables.iter().copied());
        finish(command, "open-sesame")
    };
    let link = [
        ("RESTTOOL_SERVICE_HOST", "10.0.0.1"),
        ("RESTTOOL_SERVICE_PORT", "80"),
        ("RESTTOOL_PORT", "tcp://10.0.0.1:80"),
        ("RESTTOOL_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(with(&link, "useradd roy --password-stdin --cost 10").code, 0);
    let printed = with(&link, "print systemd");
    assert_eq!((printed.code, printed.stdout.contains("--port 5000")), (0, true));
    let printed = with(&link, "print systemd --port 8080");
    assert!(printed.stdout.contains("--port 8080"), "{}", printed.stdout);
    let alone = with(&link[1..2], "userlist");
    let why = "usage: unknown environment variable RESTTOOL_SERVICE_PORT
hint: 'resttool --help' and 'resttool COMMAND --help' list the variables";
    assert_eq!(alone, failed(2, why));
}

/// W-23: the names of other programs find the commands, and stay out of the help.
#[test]
fn names_of_other_programs_are_hidden_aliases() {
    let home = TempStore::new();
    let run = |words: &str| run(home.folder(), words, "open-sesame");
    assert_eq!(run("adduser roy --password-stdin --cost 10").code, 0);
    assert!(run("list").stdout.contains("roy"));
    assert_eq!(run("delete roy").code, 0);
    let help = run("--help").stdout;
    for hidden in ["adduser", "  list", "delete"] {
        assert!(!help.contains(hidden), "{hidden}");
    }
}

/// W-20: the words of `apply`, so that `--group` without `--append` is noticed.
#[test]
fn usermod_names_the_differences_and_a_past_expiry() {
    let home = TempStore::new();
    let run = |words: &str| run(home.folder(), words, "open-sesame").stderr;
    run("useradd roy --password-stdin --cost 10 --group admin");
    let changed = run("usermod roy --group adm");
    assert_eq!(changed, "resttool: changed user roy: joins adm, leaves admin\n");
    let expired = run("usermod roy --expire 2001-01-31");
    let warning = "resttool: warning: the expiry 2001-01-31T00:00:00Z is in the past\n";
    let changed = "resttool: changed user roy: expires 2001-01-31T00:00:00Z\n";
    assert_eq!(expired, [warning, changed].concat());
}

/// W-08
#[test]
fn mangled_hash_is_refused_with_the_reason() {
    let home = TempStore::new();
    let refused = |hash: &str| run(home.folder(), "useradd roy --hash-stdin", hash);
    for (hash, why) in [
        (HASH.replace('$', "$$"), "each $ is doubled, which only a compose file needs"),
        (format!("'{HASH}'"), "there are quotes around it"),
        (format!("roy:{HASH}"), "a name stands in front of it; import reads htpasswd lines"),
    ] {
        let why = format!("cannot add user roy: the hash is refused: {why}");
        assert_eq!(refused(&hash), failed(3, &why));
    }
}
