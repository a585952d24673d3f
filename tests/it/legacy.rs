//! Hashes of legacy schemes: compared with those of the programs that write them, and imported.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use resttool::testing::{LegacyHash, LegacyParams, LegacyScheme, legacy_text};

use crate::support::cli::{Completed, ServerProcess, command, finish, run};
use crate::support::client::Request;
use crate::support::store::TempStore;

/// Random passwords per scheme.
const PASSWORDS: usize = 1000;

/// Random passwords per call of a program, so that its output fits into a pipe.
const PER_CALL: usize = 200;

/// Returns a password of 1 to 100 bytes, every other one of ASCII. Programs read lines and
/// arguments, so none holds NUL or a line end.
fn password(index: usize) -> Vec<u8> {
    let mut random = [0; 101];
    getrandom::fill(&mut random).unwrap();
    let (length, bytes) = random.split_first().unwrap();
    let bytes = bytes.iter().take(1 + usize::from(*length) % 100);
    bytes
        .map(|byte| if index.is_multiple_of(2) { b' ' + byte % 95 } else { *byte })
        .map(|byte| if matches!(byte, 0 | b'\n' | b'\r') { b'x' } else { byte })
        .collect()
}

/// Returns up to `most` characters that libxcrypt accepts in a salt.
fn salt(most: usize) -> String {
    let mut random = [0; 17];
    getrandom::fill(&mut random).unwrap();
    let alphabet = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (length, bytes) = random.split_first().unwrap();
    let bytes = bytes.iter().take(usize::from(*length) % (most + 1));
    bytes.map(|byte| char::from(alphabet[usize::from(byte % 64)])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn output(command: Command, input: impl AsRef<[u8]>) -> String {
    let what = format!("{command:?}");
    let outcome = finish(command, input);
    assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
    outcome.stdout
}

/// Checks that a hash of another program is accepted, and is the one that we compute.
fn assert_ours(theirs: &str, password: &[u8]) {
    let hash = LegacyHash::parse(theirs).unwrap_or_else(|e| panic!("{theirs}: {e}"));
    assert_eq!(*hash.canonical_text(), theirs);
    assert_eq!(*legacy_text(hash.params(), password), theirs, "{}", hex(password));
}

/// H-01
#[test]
#[ignore = "needs openssl"]
fn openssl_computes_the_same_legacy_hashes() {
    let per_salt = 20;
    for (option, most) in [("-apr1", 8), ("-1", 8), ("-5", 16), ("-6", 16)] {
        for _ in 0..PASSWORDS / per_salt {
            let mut passwords: Vec<_> = (0..per_salt).map(password).collect();
            // OpenSSL refuses an empty salt of SHA-crypt, and takes more than the letters.
            let salt = format!("{}*", salt(most - 1));
            let mut openssl = Command::new("openssl");
            openssl.args(["passwd", option, "-salt", &salt, "-stdin"]);
            let made = output(openssl, [passwords.join(&b'\n'), b"\n".to_vec()].concat());
            assert_eq!(made.lines().count(), per_salt);
            for (theirs, password) in made.lines().zip(passwords.drain(..)) {
                assert_ours(theirs, &password);
            }
        }
    }
}

/// H-01
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_computes_the_same_legacy_hashes() {
    for options in ["-nim", "-nis", "-ni2 -r 1000", "-ni5 -r 1234"] {
        for index in 0..PASSWORDS {
            let password = password(index);
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.args(options.split(' ')).arg("roy");
            let made = output(htpasswd, &password);
            assert_ours(made.trim_end().strip_prefix("roy:").unwrap(), &password);
        }
    }
}

/// H-01
#[test]
#[ignore = "needs perl"]
fn crypt_and_perl_compute_the_same_legacy_hashes() {
    // crypt(3) of the system, and SHA-1 of Perl, for lines of a setting and a password in hex.
    let script = r#"
        use Digest::SHA "sha1"; use MIME::Base64;
        while (<STDIN>) {
            my ($setting, $password) = map { pack "H*", $_ } split;
            if ($setting =~ s/^\{SSHA\}//) {
                print "{SSHA}", encode_base64(sha1($password, $setting) . $setting, ""), "\n";
            } else {
                print crypt($password, $setting), "\n";
            }
        }
    "#;
    for scheme in ["$1$", "$5$", "$5$rounds=1000$", "$6$", "$6$rounds=5000$", "{SSHA}"] {
        let most = if scheme == "$1$" { 8 } else { 16 };
        for _ in 0..PASSWORDS / PER_CALL {
            let passwords: Vec<_> = (0..PER_CALL).map(password).collect();
            let lines = passwords.iter().map(|password| {
                // An LDAP server never writes an empty salt.
                let salt = if scheme == "{SSHA}" { format!("{}/", salt(most)) } else { salt(most) };
                format!("{} {}\n", hex(format!("{scheme}{salt}").as_bytes()), hex(password))
            });
            let mut perl = Command::new("perl");
            perl.args(["-e", script]);
            let made = output(perl, lines.collect::<String>());
            assert_eq!(made.lines().count(), PER_CALL);
            for (theirs, password) in made.lines().zip(&passwords) {
                assert_ours(theirs, password);
            }
        }
    }
}

/// A salt that libxcrypt refuses, and htpasswd verifies.
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_verifies_an_unusual_salt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    for salt in ["a b!*;\\~", "", "é"] {
        let Ok(params) = LegacyParams::new(LegacyScheme::Apr1, salt, None) else {
            assert_eq!(salt, "é");
            continue;
        };
        let made = legacy_text(&params, b"open-sesame");
        std::fs::write(&file, format!("roy:{}\n", *made)).unwrap();
        for (password, code) in [("open-sesame", 0), ("open-sesamE", 3)] {
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.arg("-vb").arg(&file).args(["roy", password]);
            assert_eq!(finish(htpasswd, "").code, code, "{salt}: {password}");
        }
    }
}

/// `open-sesame` by `openssl passwd`, Apache's `htpasswd`, Python's hashlib and Perl's `crypt`.
const FILE: &str = "\
apr1:$apr1$r31.....$Hm1OIgTN82PzLwE0zV.OK/
md5-crypt:$1$28772684$UKwa6G6ujOWr8LWclVweg1
sha:{SHA}piGucRdTwGb7+i3S1svNik60+fw=
ssha:{SSHA}O+Oyukq0vnKtJlV8v2y8+/B3PldwZXBwZXIxMg==
sha256-crypt:$5$rounds=1000$saltstring$qkJuCbDDg/foUx6o4n3UqpYQmVvxlY905iNQvZVVUU2
sha512-crypt:$6$rounds=1000$saltstring$bXtjwWGhHv00QEFtV7pSDYAHSjHeOb4PkJhpsO558p6O6nPDZLduVOXR4RlGN3qwtFdC19Ci02mCKp4sXlq9b0
plain:{PLAIN}open-sesame
bcrypt:$2y$08$SZ9jbC/5b8vddVz8KS9.0uVhTdeWea7XxHSeFiVorC9g/c3CPN1Oq
";

/// The cost of the tests permits 1280 rounds.
const COST: &str = "--cost 8";

fn resttool(home: &TempStore, words: &str, input: &str) -> Completed {
    run(home.folder(), &format!("{words} --database {}", home.database().display()), input)
}

fn done(home: &TempStore, words: &str, input: &str) -> String {
    let outcome = resttool(home, words, input);
    assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    outcome.stdout
}

fn imported() -> TempStore {
    let home = TempStore::new();
    done(&home, &format!("import - {COST}"), FILE);
    home
}

/// Returns name and scheme of each user, if they differ.
fn schemes(home: &TempStore) -> Vec<(String, String)> {
    let list = done(home, "userlist --json", "");
    let users = list.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    users.map(|user| (text(&user["name"]), text(&user["scheme"]))).collect()
}

fn wrapped(home: &TempStore) -> usize {
    let list = done(home, "userlist --scheme legacy --json", "");
    list.lines().count()
}

/// H-01, H-04: with the old password at once, and with bcrypt alone after that.
#[test]
fn imported_users_log_in_and_get_a_bcrypt_hash() {
    let home = TempStore::new();
    let outcome = resttool(&home, &format!("import - {COST}"), FILE);
    let said = "\
resttool: warning: 1 user has a hash of a cost below 10; 'resttool serve --rehash' replaces such hashes at the next login
resttool: 7 users have no bcrypt hash: hashing with bcrypt of cost 8
resttool: 8 added
";
    assert_eq!(outcome, Completed::new(0, "", said));
    for (name, scheme) in schemes(&home) {
        let expected = if name == "plain" { "bcrypt" } else { &name };
        assert_eq!(scheme, expected);
    }
    for line in FILE.lines() {
        let name = line.split(':').next().unwrap();
        let verify = format!("verify {name} --password-stdin");
        assert_eq!(resttool(&home, &verify, "open-sesame").code, 0, "{name}");
        assert_eq!(resttool(&home, &verify, "open-sesamE").code, 3, "{name}");
    }
    assert_eq!(wrapped(&home), 6, "verify replaces no hash");
    let server = home.serve();
    for (name, _) in schemes(&home) {
        assert_eq!(server.login(&name, "wrong").status, 401);
        for _ in 0..2 {
            assert_eq!(server.login(&name, "open-sesame").status, 200, "{name}");
        }
    }
    drop(server);
    assert_eq!(wrapped(&home), 0);
    let server = home.serve();
    for (name, scheme) in schemes(&home) {
        assert_eq!(scheme, "bcrypt");
        assert_eq!(server.login(&name, "wrong").status, 401);
        assert_eq!(server.login(&name, "open-sesame").status, 200, "{name}");
    }
    assert_eq!(server.hashes_computed(), 16);
}

/// H-02: also not as bytes of a digest.
#[test]
fn no_legacy_hash_is_in_a_file_or_a_log() {
    let home = imported();
    // A reader keeps the write-ahead log from being folded into the database.
    let reader = home.open();
    reader.is_empty().unwrap();
    done(&home, &format!("import - {COST} --on-conflict replace"), FILE);
    done(&home, &format!("backup {}", home.folder().join("copy.db").display()), "");
    let lines = done(&home, "export --format jsonl", "");
    let serve =
        format!("serve --port 0 --log-level trace --database {}", home.database().display());
    let mut server = ServerProcess::start(command(home.folder(), serve.split(' ')));
    server.wait_for("listening on");
    for line in FILE.lines() {
        let name = line.split(':').next().unwrap();
        let login = Request::get("/rest-auth").basic(name, "open-sesame");
        assert_eq!(login.send(server.address).status, 200, "{name}");
    }
    let log = server.stop().join("\n");
    let mut seen = vec![log.into_bytes(), lines.into_bytes()];
    for entry in fs::read_dir(home.folder()).unwrap() {
        let path = entry.unwrap().path();
        // The folder of the control socket is none.
        seen.extend(path.is_file().then(|| fs::read(path).unwrap()));
    }
    assert!(seen.len() >= 5, "database, log, index and backup");
    for line in FILE.lines().filter(|line| !line.contains("$2y$")) {
        let (name, hash) = line.split_once(':').unwrap();
        let digest = hash.rsplit(['$', '}']).next().unwrap();
        let octets = STANDARD.decode(digest).unwrap_or_else(|_| digest.into());
        for forbidden in [hash.as_bytes(), digest.as_bytes(), &octets[..16.min(octets.len())]] {
            for bytes in &seen {
                let found = bytes.windows(forbidden.len()).any(|window| window == forbidden);
                // The password in the clear is part of no file either.
                assert!(!found, "{name}");
            }
        }
    }
}

/// H-03: the store was written to by another program.
#[test]
fn cleared_scheme_columns_leave_no_password() {
    let home = imported();
    let server = home.serve();
    home.change("UPDATE users SET scheme = NULL, salt = NULL, rounds = NULL, imported = NULL");
    for line in FILE.lines().filter(|line| !line.contains("$2y$") && !line.starts_with("plain")) {
        let (name, hash) = line.split_once(':').unwrap();
        let digest = hash.rsplit(['$', '}']).next().unwrap();
        for password in ["open-sesame", hash, digest] {
            assert_eq!(server.login(name, password).status, 401, "{name}: {password}");
        }
    }
}

/// H-05
#[test]
fn unsupported_hashes_are_refused_or_skipped_by_name() {
    let file = format!("# old\ndan:rqXexS6ZhobKA\n{FILE}eve:$y$j9T$salt$digest\n");
    let home = TempStore::new();
    let import = format!("import - {COST}");
    let refused = "\
resttool: cannot import -: line 2: the hash of dan can't be used: its scheme is DES crypt
resttool: cannot import -: line 11: the hash of eve can't be used: its scheme is yescrypt
hint: --skip-unsupported imports the other users; add these with useradd and another password
";
    assert_eq!(resttool(&home, &import, &file), Completed::new(7, "", refused));
    assert!(!home.database().exists());
    let outcome = resttool(&home, &format!("{import} --skip-unsupported --json"), &file);
    let skipped = "\
resttool: warning: skipped line 2: the hash of dan can't be used: its scheme is DES crypt
resttool: warning: skipped line 11: the hash of eve can't be used: its scheme is yescrypt
";
    assert!(outcome.stderr.starts_with(skipped), "{}", outcome.stderr);
    assert!(
        outcome.stderr.ends_with("resttool: 8 added\nresttool: 2 skipped\n"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.stdout.lines().count(), 9);
    assert_eq!(outcome.stdout.lines().last(), Some(r#"{"skipped":2}"#));
    // Other mistakes are no reason to skip a line.
    let outcome = resttool(&home, "import - --skip-unsupported", "ann:{SHA}open\nbob:$2y$05$x\n");
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    let long = format!("ann:{{PLAIN}}{}", "p".repeat(73));
    let outcome = resttool(&home, "import -", &long);
    let why = "line 1: the hash of ann can't be used: it is a password in the clear, and it is longer than 72 bytes, and bcrypt would ignore the rest";
    assert_eq!(outcome.stderr, format!("resttool: cannot import -: {why}\n"));
}

/// H-06
#[test]
fn rounds_over_the_ceiling_need_an_option_and_are_reported() {
    let home = TempStore::new();
    let line = FILE.lines().find(|line| line.starts_with("sha512")).unwrap();
    let (name, hash) = line.split_once(':').unwrap();
    let of = |rounds: &str| format!("{name}:{}\n", hash.replace("rounds=1000$", rounds));
    // 5 times 2^7 is 640, and 5000 rounds are the default.
    for (rounds, number, cost) in
        [("rounds=1000$", 1000, 7), ("", 5000, 9), ("rounds=20481$", 20481, 12)]
    {
        let outcome = resttool(&home, &format!("import - --cost {cost}"), &of(rounds));
        let most = 5 << cost;
        let said = format!(
            "resttool: cannot import -: line 1: the hash of sha512-crypt has {number} rounds, and {most} take 5 % of the time of bcrypt of cost {cost}\n\
             hint: --max-rounds {number} accepts them, but the time of a login may tell then that a user exists\n"
        );
        assert_eq!(outcome, Completed::new(7, "", &said));
    }
    assert!(!home.database().exists());
    let outcome = resttool(&home, "import - --max-rounds 999999999", &of(""));
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    let outcome = resttool(&home, "import - --max-rounds 1000000", &of("rounds=1000001$"));
    let why = "line 1: the hash of sha512-crypt can't be used: it has 1000001 rounds, and at most 1000000 are permitted";
    assert_eq!(outcome, Completed::new(7, "", &format!("resttool: cannot import -: {why}\n")));
    done(&home, "import - --cost 4 --max-rounds 1000 --quiet", line);
    let check = resttool(&home, "check --cost 4 --json", "");
    let database = home.database();
    let problem = format!(
        r#"{{"problem":"the imported hash of user \"sha512-crypt\" has 1000 rounds, so that the time of a login tells that there is this user","user":"sha512-crypt","fix":"resttool passwd --database {} sha512-crypt"}}"#,
        database.display()
    );
    assert_eq!((check.code, check.stdout.lines().next()), (1, Some(&*problem)), "{}", check.stderr);
    assert_eq!(home.serve().login("sha512-crypt", "open-sesame").status, 200);
    // A wrapped hash of another store has its own cost.
    let lines = done(&imported(), "export --format jsonl", "");
    let other = TempStore::new();
    done(&other, "import - --format jsonl --cost 4", &lines);
    let lines = lines.replace("\"rounds\":1000", "\"rounds\":1281");
    let outcome = resttool(&TempStore::new(), "import - --format jsonl --cost 15", &lines);
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("has 1281 rounds, and 1280 take 5 %"), "{}", outcome.stderr);
}

/// H-09
#[test]
fn exports_keep_wrapped_hashes_whole_or_leave_them_out() {
    let home = imported();
    let lines = done(&home, "export --format jsonl", "");
    let copy = TempStore::new();
    done(&copy, "import - --format jsonl", &lines);
    assert_eq!(done(&copy, "export --format jsonl", ""), lines);
    let again = done(&copy, "import - --format jsonl --on-conflict replace --json", &lines);
    assert!(again.lines().all(|line| line.contains("unchanged")), "{again}");
    let server = copy.serve();
    for (name, _) in schemes(&copy) {
        assert_eq!(server.login(&name, "open-sesame").status, 200, "{name}");
    }
    let outcome = resttool(&home, "export", "");
    let names: Vec<_> =
        outcome.stdout.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["bcrypt", "plain"]);
    let warning = "resttool: warning: skipped 6 users with an imported hash that no login has replaced yet; --format jsonl keeps them\n";
    assert_eq!((outcome.code, &*outcome.stderr), (0, warning));
}

#[test]
fn check_counts_the_users_who_have_not_logged_in() {
    let home = imported();
    home.sql("UPDATE users SET imported = 1700000000 WHERE name = 'sha'");
    let outcome = resttool(&home, "check --cost 8", "");
    let said = format!(
        "resttool: found no problems in {}\nresttool: 6 users have an imported hash that no login has replaced yet, the first since 2023-11-14T22:13:20Z; 'resttool userlist --scheme legacy' lists them\n",
        home.database().display()
    );
    assert_eq!(outcome, Completed::new(0, "", &said));
    let json = "{\"not_upgraded\":6,\"since\":\"2023-11-14T22:13:20Z\"}\n";
    assert_eq!(resttool(&home, "check --cost 8 --json --quiet", ""), Completed::new(0, json, ""));
    assert_eq!(home.serve().login("sha", "open-sesame").status, 200);
    let list = done(&home, "userlist --scheme sha --json", "");
    assert_eq!(list, "");
    let outcome = resttool(&home, "check --cost 8", "");
    assert!(outcome.stderr.contains("5 users have an imported hash"), "{}", outcome.stderr);
}

/// H-04: a login succeeds where the server may not write, and its log says so once.
#[test]
fn read_only_store_is_logged_once_and_grants() {
    for (option, expected) in [("", 1), ("--no-upgrade", 0)] {
        let home = imported();
        // SQLite reports a trigger like any other refusal of a write.
        home.sql(
            "CREATE TRIGGER read_only BEFORE UPDATE OF hash ON users
             BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END",
        );
        let serve = format!("serve --port 0 --database {} {option}", home.database().display());
        let mut server = ServerProcess::start(command(home.folder(), serve.split_whitespace()));
        server.wait_for("listening on");
        for name in ["apr1", "sha", "ssha"] {
            let login = Request::get("/rest-auth").basic(name, "open-sesame");
            assert_eq!(login.send(server.address).status, 200, "{name}");
        }
        let log = server.stop();
        let about =
            log.iter().filter(|line| line.contains("cannot replace the hash of user")).count();
        assert_eq!(about, expected, "{log:?}");
        assert_eq!(wrapped(&home), 6);
    }
}
