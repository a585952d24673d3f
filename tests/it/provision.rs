//! Commands that add, change, list and remove users. Sessions with fixed output stand in
//! `tests/cmd`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::cli::{Completed, ServerProcess, command, finish, finish_with_audit, run};
use crate::support::client::{Request, whole};
use crate::support::store::TempStore;

/// A hash of `U*U` with cost 5, from the test vectors of crypt_blowfish 1.3 (wrapper.c).
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// A folder with a store, and commands that run in it.
struct Home(TempStore);

impl Home {
    fn new() -> Self {
        Self(TempStore::new())
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.0.folder().join(file)
    }

    fn command(&self, words: &str) -> std::process::Command {
        let mut command = command(self.0.folder(), words.split(' ').filter(|w| !w.is_empty()));
        command.current_dir(self.0.folder()).env("RESTTOOL_DATABASE", self.0.database());
        command
    }

    fn run(&self, words: &str, input: impl AsRef<[u8]>) -> Completed {
        finish(self.command(words), input)
    }

    /// Runs a command that succeeds, and returns its stdout.
    fn done(&self, words: &str, input: impl AsRef<[u8]>) -> String {
        let outcome = self.run(words, input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    }

    fn failed(&self, words: &str, input: impl AsRef<[u8]>) -> (i32, String) {
        let outcome = self.run(words, input);
        assert_eq!(outcome.stdout, "", "{words}");
        (outcome.code, outcome.stderr)
    }

    /// Returns the objects of `userlist --json` by name.
    fn users(&self) -> BTreeMap<String, serde_json::Value> {
        let users = self.done("userlist --json", "");
        let users = users.lines().map(|line| serde_json::from_str(line).unwrap());
        users.map(|user: serde_json::Value| (text(&user["name"]), user)).collect()
    }

    fn user(&self, name: &str) -> serde_json::Value {
        self.users().remove(name).unwrap()
    }

    fn is_password(&self, name: &str, password: &str) -> bool {
        let code = self.run(&format!("verify {name} --password-stdin"), password).code;
        assert!([0, 3].contains(&code), "{code}");
        code == 0
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

#[test]
fn useradd_sets_groups_lock_and_expiry() {
    let home = Home::new();
    home.done(
        "useradd roy --hash-stdin --group staff,admin --group ops --locked --expire 2099-01-31",
        HASH,
    );
    let roy = home.user("roy");
    assert_eq!(roy["groups"], serde_json::json!(["admin", "ops", "staff"]));
    assert_eq!(
        (&roy["locked"], &roy["expires_at"]),
        (&true.into(), &"2099-01-31T00:00:00Z".into())
    );
    assert_eq!((&roy["cost"], &roy["created_at"]), (&5.into(), &roy["updated_at"]));
}

#[test]
fn user_with_a_damaged_record_still_exists() {
    let home = Home::new();
    home.done("useradd roy --hash-stdin", HASH);
    home.0.sql("UPDATE users SET expires = -1");
    home.done("useradd roy --if-not-exists --generate --cost 4", "");
    assert_eq!(home.failed("useradd roy --update --generate --cost 4", "").0, 1);
}

/// P-09, B-06
#[test]
fn changed_user_is_refused_on_next_request() {
    let home = Home::new();
    home.done("useradd roy --password-stdin --cost 4", "open-sesame");
    let mut serve = home.command("serve --port 0 --cost 4");
    serve.env("RESTTOOL_SOURCE_FAILURES", "0");
    let server = ServerProcess::start(serve);
    let login = |user: &str, password: &str| {
        let request = Request::get("/rest-auth").basic(user, password);
        request.send(server.address)
    };
    let unknown = login("nobody", "open-sesame");
    assert_eq!(unknown.status, 401);
    for (out, back_in) in [
        ("usermod roy --lock", "usermod roy --unlock"),
        ("usermod roy --expire 2001-01-01", "usermod roy --expire never"),
        ("usermod roy --rename leroy", "usermod leroy --rename roy"),
        ("passwd roy --cost 4 --password-file other", "passwd roy --cost 4 --password-file right"),
    ] {
        write(&home.path("other"), "another-one");
        write(&home.path("right"), "open-sesame");
        assert_eq!(login("roy", "open-sesame").status, 200);
        home.done(out, "");
        let refused = login("roy", "open-sesame");
        assert_eq!(whole(&refused), whole(&unknown), "{out}");
        home.done(back_in, "");
    }
    assert_eq!(login("roy", "open-sesame").status, 200);
}

#[test]
fn userlist_prints_a_table_or_json_without_hashes() {
    let home = Home::new();
    home.done("useradd ann --hash-stdin --group staff,admin", HASH);
    home.done("useradd bob --hash-stdin --expire 2099-01-31", HASH);
    home.done("useradd ci-1 --hash-stdin --locked --group staff", HASH);
    home.done("useradd ci-2 --hash-stdin --locked --expire 2001-01-01", HASH);
    home.done("useradd dan --hash-stdin --expire 2001-01-01", HASH.replacen("05", "12", 1));
    home.done("useradd eve --hash-stdin", HASH);
    home.0.sql("UPDATE users SET hash = 'x' WHERE name = 'eve'");
    home.0.sql("UPDATE users SET created = 0, changed = 60");
    let table = "\
NAME  GROUPS       STATE                       SCHEME  COST      CREATED               CHANGED
ann   admin,staff  active                      bcrypt  5         1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
bob   -            until 2099-01-31T00:00:00Z  bcrypt  5         1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
ci-1  staff        locked                      bcrypt  5         1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
ci-2  -            locked, expired             bcrypt  5         1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
dan   -            expired                     bcrypt  12        1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
eve   -            active                      -       unusable  1970-01-01T00:00:00Z  1970-01-01T00:01:00Z
";
    assert_eq!(home.run("userlist --long", ""), Completed::new(0, table, ""));
    // W-19: the first columns, at their full width in a pipe.
    let short: String = table.lines().map(|line| format!("{}\n", line[..47].trim_end())).collect();
    assert_eq!(home.run("userlist", ""), Completed::new(0, &short, ""));
    let ann = r#"{"name":"ann","groups":["admin","staff"],"locked":false,"expires_at":null,"scheme":"bcrypt","cost":5,"created_at":"1970-01-01T00:00:00Z","updated_at":"1970-01-01T00:01:00Z"}"#;
    assert_eq!(home.done("userlist ann --json", ""), format!("{ann}\n"));
    assert_eq!(home.user("eve")["cost"], serde_json::Value::Null);
    for (words, expected) in [
        ("ci-*", "ci-1 ci-2"),
        ("?nn", "ann"),
        ("ANN", ""),
        ("--group staff", "ann ci-1"),
        ("--locked", "ci-1 ci-2"),
        ("--expired", "ci-2 dan"),
        ("--locked --expired", "ci-2"),
        ("--cost-below 12", "ann bob ci-1 ci-2"),
        ("--scheme bcrypt --group staff", "ann ci-1"),
        ("--scheme legacy", ""),
        ("* --cost-below 13 --group admin", "ann"),
    ] {
        let lines = home.done(&format!("userlist --json {words}"), "");
        let names: Vec<_> = lines.lines().map(|line| text(&json(line)["name"])).collect();
        assert_eq!(names.join(" "), expected, "{words}");
    }
}

/// L-06
#[test]
fn exported_htpasswd_file_is_private_and_lists_active_users() {
    let home = Home::new();
    for user in ["ann", "bob --locked", "cid --expire 2001-01-01", "dan --expire 2099-01-01"] {
        home.done(&format!("useradd {user} --hash-stdin"), HASH);
    }
    let expected = format!("ann:{HASH}\ndan:{HASH}\n");
    let warning = "resttool: warning: skipped 2 locked or expired users, which the htpasswd format cannot represent\n";
    assert_eq!(home.run("export", ""), Completed::new(0, &expected, warning));
    let file = home.path("htpasswd");
    write(&file, "earlier content");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let said = format!("{warning}resttool: exported to htpasswd\n");
    assert_eq!(home.run("export htpasswd", ""), Completed::new(0, "", &said));
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // A user that the format cannot hold is an error, and the file stays.
    home.done("useradd #eve --hash-stdin", HASH);
    let why =
        "resttool: cannot export to htpasswd: user #eve: a line that begins with # is a comment\n";
    assert_eq!(home.run("export htpasswd", ""), Completed::new(1, "", why));
    home.done("userdel #eve", "");
    home.0.sql("UPDATE users SET hash = 'x' WHERE name = 'dan'");
    let (code, why) =
        (home.run("export htpasswd", "").code, home.run("export htpasswd", "").stderr);
    assert!(
        code == 1 && why.contains("the stored hash of user \"dan\" can't be used"),
        "C-07: {why}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    let left: Vec<_> =
        fs::read_dir(home.0.folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("export")), "{left:?}");
    assert_eq!(home.run("export no/such/folder", "").code, 1);
}

#[test]
fn exported_jsonl_restores_every_field() {
    let home = Home::new();
    home.done("useradd ann --hash-stdin --group staff,admin --expire 2099-01-31", HASH);
    home.done("useradd bob --hash-stdin --locked", HASH);
    home.0.sql("UPDATE users SET created = 1, changed = 2 WHERE name = 'ann'");
    home.done("export users.jsonl --format jsonl", "");
    let other = Home::new();
    let text = fs::read_to_string(home.path("users.jsonl")).unwrap();
    let ann = format!(
        r#"{{"name":"ann","hash":"{HASH}","groups":["admin","staff"],"locked":false,"expires_at":"2099-01-31T00:00:00Z","created_at":"1970-01-01T00:00:01Z","updated_at":"1970-01-01T00:00:02Z"}}"#
    );
    assert_eq!(text.lines().next(), Some(&*ann));
    let warning = "resttool: warning: 2 users have hashes of a cost below 10; \
        'resttool serve --rehash' replaces such hashes at the next login\n";
    let added = format!("{warning}resttool: 2 added\n");
    assert_eq!(other.run("import - --format jsonl", &text).stderr, added);
    assert_eq!(other.users(), home.users());
    assert_eq!(other.done("export --format jsonl", ""), text);
    // Replaces a user that has changed since.
    other.done("usermod ann --group= --lock", "");
    let replaced = other.run("import - --format jsonl --on-conflict replace", &text);
    assert_eq!(replaced.stderr, format!("{warning}resttool: 1 changed, 1 unchanged\n"));
    assert_eq!(other.done("export --format jsonl", ""), text);
    let bad = text.replacen("false", "5", 1);
    let why =
        "resttool: cannot import -: line 1: there is a value of the wrong type before column 121\n";
    assert_eq!(other.run("import - --format jsonl", &bad), Completed::new(7, "", why));
}

#[test]
fn apply_reconciles_users_and_is_idempotent() {
    let home = Home::new();
    home.done("useradd ann --password-stdin --cost 10", "open-sesame");
    home.done("useradd old --hash-stdin", HASH);
    fs::create_dir(home.path("etc")).unwrap();
    write(&home.path("etc/ann"), "open-sesame\n");
    write(
        &home.path("etc/users.toml"),
        &format!(
            "[[user]]\nname = \"ann\"\npassword_file = \"ann\"\ngroups = [\"staff\", \"admin\"]\n
             [[user]]\nname = \"bob\"\npassword_hash = \"{HASH}\"\nlocked = true\nexpire = 2099-01-31\n
             [[user]]\nname = \"cid\"\ngenerate = true\n"
        ),
    );
    let apply = |more: &str| home.run(&format!("apply etc/users.toml --cost 10 {more}"), "");
    let before = home.users();
    let dry = "~ ann: joins admin, joins staff\n+ bob: locked, expires 2099-01-31T00:00:00Z\n+ cid\n- old\n";
    let would = "resttool: would be: 2 added, 1 changed, 1 removed\n";
    assert_eq!(apply("--dry-run --prune"), Completed::new(0, dry, would));
    assert_eq!(apply("-n --prune"), Completed::new(0, dry, would));
    let object = r#"{"name":"old","changed":true,"outcome":"removed","changes":[],"dry_run":true}"#;
    assert_eq!(apply("-n --prune --json").stdout.lines().last(), Some(object));
    assert_eq!(home.users(), before);
    let done = apply("");
    assert_eq!((done.code, &*done.stderr), (0, "resttool: 2 added, 1 changed\n"));
    let password = done.stdout.trim_end().rsplit_once("+ cid (password ").unwrap().1;
    assert!(home.is_password("cid", password.trim_end_matches(')')));
    let after = home.users();
    assert_eq!(after.len(), 4);
    assert_eq!(after["ann"]["groups"], serde_json::json!(["admin", "staff"]));
    assert_eq!(after["bob"]["locked"], true);
    // The hash of an unchanged password is kept.
    let kept = home.done("export --format jsonl", "");
    assert_eq!(apply(""), Completed::new(0, "", "resttool: 3 unchanged\n"));
    assert_eq!(home.done("export --format jsonl", ""), kept);
    write(&home.path("etc/ann"), "another-one\n");
    let changed = apply("--prune --json");
    let expected = r#"{"name":"ann","changed":true,"outcome":"changed","changes":["password"]}
{"name":"bob","changed":false,"outcome":"unchanged","changes":[]}
{"name":"cid","changed":false,"outcome":"unchanged","changes":[]}
{"name":"old","changed":true,"outcome":"removed","changes":[]}
"#;
    let said = "resttool: 1 changed, 1 removed, 2 unchanged\n";
    assert_eq!(changed, Completed::new(0, expected, said));
    assert!(home.is_password("ann", "another-one"));
}

/// O-06, X-02: dry runs and queries have no audit line.
#[test]
fn every_change_is_one_audit_line() {
    let home = Home::new();
    let uid = rustix::process::getuid().as_raw();
    let audit = |words: &str, input: &str| {
        let (outcome, lines) = finish_with_audit(home.command(words), input);
        assert!(outcome.code == 0 || outcome.code == 9, "{words}: {}", outcome.stderr);
        lines.iter().map(|line| line.replace(&format!(" by={uid}"), "")).collect::<Vec<_>>()
    };
    assert_eq!(
        audit("useradd roy --hash-stdin --group staff", HASH),
        [r#"added user="roy" changes="joined:staff""#]
    );
    assert_eq!(audit("useradd roy --hash-stdin", HASH), [""; 0]);
    assert_eq!(audit("useradd roy --hash-stdin --if-not-exists", HASH), [""; 0]);
    assert_eq!(
        audit("passwd roy --password-stdin --cost 4", "x"),
        [r#"changed user="roy" changes="password""#]
    );
    assert_eq!(
        audit("usermod roy --lock --rename joe", ""),
        [r#"changed user="roy" changes="locked,renamed:joe""#]
    );
    assert_eq!(audit("usermod joe --lock", ""), [""; 0]);
    // W-22: a bulk call has one line on standard error, and one for each user in a file.
    let many = audit("chpasswd --create --cost 4", "joe:x\nann:y\n");
    assert_eq!(many, ["chpasswd added=1 changed=1 removed=0"]);
    assert_eq!(audit("userlist", ""), [""; 0]);
    assert_eq!(audit("apply - --prune --dry-run", ""), [""; 0]);
    assert_eq!(audit("apply - --prune", ""), ["apply added=0 changed=0 removed=2"]);
    assert_eq!(audit("apply - --prune", ""), [""; 0]);
    let lines = format!("ann:{HASH}\nbob:{HASH}\n");
    assert_eq!(audit("import - --audit-log many.log", &lines), [""; 0]);
    assert_eq!(audit("userdel ann bob", ""), ["userdel added=0 changed=0 removed=2"]);
    let many = fs::read_to_string(home.path("many.log")).unwrap();
    let many: Vec<_> = many.lines().map(|line| line.split_once("] ").unwrap().1).collect();
    let each = ["ann", "bob"].map(|user| format!(r#"action=added user="{user}" by={uid}"#));
    assert_eq!(many, each);
    assert_eq!(audit("userdel joe --if-exists", ""), [""; 0]);
    // W-06: no name forges a field or a change.
    assert_eq!(audit("useradd jane --hash-stdin", HASH), [r#"added user="jane""#]);
    let rename = {
        let mut command = home.command("usermod jane --rename");
        command.arg("a,locked\" by=0");
        command
    };
    let (_, lines) = finish_with_audit(rename, "");
    let by = format!(" by={uid}");
    assert_eq!(
        lines,
        [format!(r#"changed user="jane"{by} changes="renamed:a\u{{2c}}locked\" by=0""#)]
    );
    // To an audit log file, with --quiet too.
    assert_eq!(audit("useradd roy --hash-stdin --quiet --audit-log audit.log", HASH), [""; 0]);
    assert_eq!(audit("userdel roy --quiet --audit-log audit.log", ""), [""; 0]);
    assert_eq!(audit("useradd roy --hash-stdin --quiet", HASH), [""; 0]);
    let log = home.path("audit.log");
    let lines = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 2);
    for (line, expected) in lines.iter().zip(["added", "removed"]) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, format!("INFO  audit] action={expected} user=\"roy\" by={uid}"));
        let time = time.strip_prefix('[').unwrap();
        assert!(time.len() == "2026-11-24T10:00:00Z".len() && time.ends_with('Z'), "{time}");
    }
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    // Without its audit line, a change is not made.
    let (code, why) = home.failed("userdel roy --audit-log no/such/folder/log", "");
    assert!(code == 1 && why.contains("cannot open the audit log"), "{why}");
    assert!(home.users().contains_key("roy"));
}

#[test]
fn quiet_prints_nothing_and_json_one_object_per_user() {
    let home = Home::new();
    write(&home.path("password"), "open-sesame");
    write(&home.path("users.toml"), "[[user]]\nname = \"ann\"\ngenerate = true\n");
    // Of a cost that is no reason for a warning.
    write(&home.path("htpasswd"), &format!("bob:{}\n", HASH.replace("$05$", "$10$")));
    for (words, outcome) in [
        ("useradd roy --password-file password --cost 10", "added"),
        ("useradd roy --password-file password --if-not-exists", "unchanged"),
        ("useradd roy --password-file password --update", "unchanged"),
        ("passwd roy --password-file password --cost 10", "changed"),
        ("usermod roy --lock", "changed"),
        ("import htpasswd", "added"),
        ("apply users.toml --cost 10", "added"),
        ("userdel roy", "removed"),
        ("userdel roy --if-exists", "unchanged"),
    ] {
        let said = home.run(&format!("{words} --quiet --json"), "");
        assert_eq!((said.code, &*said.stderr), (0, ""), "{words}");
        let object = json(said.stdout.trim_end());
        assert_eq!(object["outcome"], outcome, "{words}");
        assert_eq!(object["changed"], outcome != "unchanged", "{words}");
    }
    let generated = json(&home.done("useradd cid --generate --cost 10 --json", ""));
    assert!(home.is_password("cid", &text(&generated["password"])));
    home.done("usermod cid --unlock --quiet", "");
}

#[test]
fn calibration_prints_only_a_cost() {
    let home = Home::new();
    let cost = |limit: &str| home.done(&format!("hash --calibrate {limit}"), "");
    let (low, high) = (cost("10ms"), cost("200ms"));
    let number = |text: &str| text.trim_end().parse::<u8>().unwrap();
    assert!((4..=15).contains(&number(&low)) && number(&low) < number(&high), "{low} {high}");
    for bad in ["0ms", "soon", "2h"] {
        assert_eq!(home.failed(&format!("hash --calibrate {bad}"), "").0, 2, "{bad}");
    }
}

#[test]
fn every_shell_has_completions_and_every_command_a_manual_page() {
    let home = Home::new();
    let verbs = [
        "serve", "useradd", "passwd", "usermod", "userdel", "userlist", "verify", "chpasswd",
        "import", "export", "apply", "hash",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = home.done(&format!("completions {shell}"), "");
        assert!(script.contains("RESTTOOL_COMPLETE"), "{shell}: {script}");
    }
    home.done("man pages/man1", "");
    let page = |name: &str| fs::read_to_string(home.path(&format!("pages/man1/{name}.1"))).unwrap();
    for verb in verbs {
        // W-23: a page of section 1, with the sections of man-pages(7) in their order.
        let page = page(&format!("resttool-{verb}"));
        let title = format!(".TH RESTTOOL-{} 1 \"\" \"resttool ", verb.to_uppercase());
        assert!(page.starts_with(&title), "{page}");
        assert!(!page.contains("EXTRA"), "{verb}");
        let mut expected = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"];
        expected.extend(["ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"]);
        let known: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .map(|heading| heading.trim_matches('"'))
            .filter(|heading| expected.contains(heading))
            .collect();
        expected.retain(|heading| verb != "hash" || *heading != "FILES");
        assert_eq!(known, expected, "{verb}");
    }
    assert!(page("resttool").contains("130  interrupted"));
    assert!(page("resttool-apply").contains(".nf\n[[user]]\n"), "examples are not justified");
}

/// W-23: names of users and groups are completed from the store of the command line.
#[test]
fn names_are_completed_from_the_store() {
    let home = Home::new();
    for (name, groups) in [("roy", "admin,staff"), ("rob", ""), ("Jane Doe", "")] {
        let mut add = home.command("useradd --hash-stdin");
        add.args([name, "--group", groups]);
        assert_eq!(finish(add, HASH).code, 0, "{name}");
    }
    let complete = |words: &[&str]| {
        let mut resttool = home.command("--");
        resttool.arg("resttool").args(words).env("RESTTOOL_COMPLETE", "bash");
        resttool.env("_CLAP_COMPLETE_INDEX", words.len().to_string()).env("_CLAP_IFS", " ");
        let outcome = finish(resttool, "");
        assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{words:?}");
        outcome.stdout
    };
    assert_eq!(complete(&["userdel", "r"]), "rob roy");
    assert_eq!(complete(&["userdel", "rob", "ro"]), "rob roy");
    assert_eq!(complete(&["userdel", "J"]), "", "it would become two words");
    assert_eq!(complete(&["usermod", "roy", "--group", "admin,s"]), "admin,staff");
    assert_eq!(complete(&["serve", "--require-group", "a"]), "admin");
    assert_eq!(complete(&["useradd", "r"]), "", "a new name");
    assert_eq!(complete(&["userdel", "--database", "/nowhere/users.db", "r"]), "");
    assert_eq!(complete(&["userd"]), "userdel");
    for verb in ["serve", "useradd", "passwd", "usermod", "userlist", "verify", "chpasswd"] {
        assert_eq!(complete(&[verb]), verb);
    }
    for verb in ["import", "export", "apply", "hash", "check", "backup", "print", "man"] {
        assert_eq!(complete(&[verb]), verb);
    }
    assert_eq!(complete(&["comp"]), "completions");
}

/// W-23
#[test]
#[ignore = "needs man and bash"]
fn manual_page_and_completion_script_are_read_by_their_programs() {
    let home = Home::new();
    home.done("man pages/man1", "");
    home.done("useradd roy --hash-stdin", HASH);
    let mut man = std::process::Command::new("man");
    man.args(["--warnings", "-l"]).arg(home.path("pages/man1/resttool-serve.1"));
    man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
    let shown = finish(man, "");
    assert_eq!((shown.code, &*shown.stderr), (0, ""));
    assert!(shown.stdout.starts_with("RESTTOOL-SERVE(1) "), "{}", shown.stdout);
    let script = r#"
        PATH=${0%/*}:$PATH
        source <(resttool completions bash)
        COMP_WORDS=(resttool userdel r) COMP_CWORD=2 COMP_TYPE=9
        _clap_complete_resttool resttool r userdel 2>/dev/null
        echo "${COMPREPLY[@]}"
    "#;
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", script, env!("CARGO_BIN_EXE_resttool")]);
    bash.env("RESTTOOL_DATABASE", home.0.database());
    assert_eq!(finish(bash, "").stdout, "roy\n");
}

/// X-04
#[test]
fn no_option_of_any_verb_takes_a_password_as_its_value() {
    let home = Home::new();
    for verb in ["useradd", "passwd", "verify", "chpasswd", "import", "apply", "hash"] {
        let help = home.done(&format!("{verb} --help"), "");
        for line in help.lines().map(str::trim).filter(|line| line.starts_with("--password")) {
            assert!(["--password-stdin", "--password-file <PATH>"].contains(&line), "{line}");
        }
        let secret = run(home.0.folder(), &format!("{verb} roy open-sesame"), "");
        assert_eq!(secret.code, 2, "{verb}");
        assert!(!secret.stderr.contains("sesame"), "{verb}: {}", secret.stderr);
    }
}

#[test]
fn docs_show_the_keys_of_every_json_object() {
    let home = Home::new();
    home.done("useradd roy --hash-stdin", HASH);
    let docs = include_str!("../../docs/commands.md");
    let shown = docs.lines().map(str::trim).filter(|line| line.starts_with("{\""));
    let shown: Vec<_> = shown.map(|line| keys(&json(line))).collect();
    let des = home.done("import - --skip-unsupported --json", "dan:rqXexS6ZhobKA");
    let check = home.run("check --json", "").stdout;
    home.done("import - --quiet --cost 4", "ann:{SHA}piGucRdTwGb7+i3S1svNik60+fw=");
    let not_upgraded = home.run("check --json --cost 4", "").stdout;
    home.done("userdel ann", "");
    let server = ServerProcess::start(home.command("serve --port 0 --source-failures 1/1h"));
    let wrong = Request::get("/rest-auth").basic("roy", "wrong");
    assert_eq!(wrong.send(server.address).status, 401);
    let printed = [
        home.done("export --format jsonl", ""),
        des,
        check,
        not_upgraded,
        home.done("throttle list --json", ""),
        home.done("throttle clear 127.0.0.1 --json", ""),
        home.done("usermod roy --lock --json", ""),
        home.done("userlist --json", ""),
        home.run("verify roy --password-stdin --json", "wrong").stdout,
    ];
    assert_eq!(printed.map(|line| keys(&json(&line))).to_vec(), shown);
}

fn keys(object: &serde_json::Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// X-02, C-10: names and lines in an error.
#[test]
fn foreign_text_is_shown_on_one_line_without_harm() {
    let home = Home::new();
    home.done("useradd roy --hash-stdin", HASH);
    let evil = "a\u{1B}[2J\u{2028}\u{202E}b";
    let toml = format!("[[user]]\nname = \"{}\"\ngenerate = true\n", r"a\u001B[2J\u2028\u202Eb");
    write(&home.path("evil.toml"), &toml);
    let mut runs: Vec<_> = ["passwd", "usermod", "verify", "useradd", "hash --htpasswd"]
        .into_iter()
        .map(|verb| {
            let more = if verb == "usermod" { "--lock" } else { "--password-stdin" };
            let mut command = home.command(verb);
            command.args([evil, more]);
            finish(command, "open-sesame")
        })
        .collect();
    runs.push(home.run("chpasswd", format!("{evil}:open-sesame\n")));
    runs.push(home.run("import -", format!("{evil}:{HASH}\n")));
    runs.push(home.run("import - --format jsonl", format!("{{\"{evil}\":1}}\n")));
    runs.push(home.run("apply evil.toml", ""));
    runs.push(home.run(&format!("import {evil}"), ""));
    runs.push(home.run(&format!("usermod roy --group {evil}"), ""));
    for outcome in runs {
        assert!([1, 2, 7, 19].contains(&outcome.code), "{outcome:?}");
        let harmless = |c: char| c == '\n' || !(c.is_control() || "\u{2028}\u{202E}".contains(c));
        assert!(outcome.stderr.chars().all(harmless), "{:?}", outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| !line.starts_with("hint: ")).count();
        assert_eq!(lines, 1, "{}", outcome.stderr);
    }
}
