//! The settings file of `serve`, and its check.

use std::fs;

use rustix::process::Signal;

use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::client::Request;
use crate::support::store::TempStore;

struct Home(TempStore);

impl Home {
    fn new() -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        Self(store)
    }

    fn write(&self, settings: &str) {
        fs::write(self.0.folder().join("resttool.toml"), settings).unwrap();
    }

    fn command(&self, words: &str) -> std::process::Command {
        let mut command = command(self.0.folder(), words.split_whitespace());
        command.current_dir(self.0.folder()).env("RESTTOOL_DATABASE", self.0.database());
        command
    }

    fn check(&self, settings: &str) -> Completed {
        self.write(settings);
        finish(self.command("serve --config resttool.toml --check"), "")
    }
}

const VALID: &str = "resttool: the settings, the store and the certificate are valid\n";

/// M-06
#[test]
fn broken_settings_are_named_by_line_and_column() {
    let home = Home::new();
    let value = |option: &str, value: &str| format!("invalid value '{value}' for '--{option}'");
    let expected = "expected a text in quotes, a number, true, false, or a list of texts";
    for (settings, place, why) in [
        ("prot = 5000", "1, column 1", "unknown key prot".to_owned()),
        ("\n  Port = 5000", "2, column 3", "unknown key Port".to_owned()),
        ("check = true", "1, column 1", "unknown key check".to_owned()),
        ("config = \"a\"", "1, column 1", "unknown key config".to_owned()),
        ("help = true", "1, column 1", "unknown key help".to_owned()),
        ("\"a\\u0007b\" = 1", "1, column 1", r"unknown key a\u{7}b".to_owned()),
        ("port = 70000", "1, column 1", value("port <PORT>", "70000")),
        ("port = -1", "1, column 1", value("port <PORT>", "-1")),
        ("port = \"http\"", "1, column 1", value("port <PORT>", "http")),
        ("port = true", "1, column 1", "port: expected a text in quotes or a number".to_owned()),
        ("port = [1]", "1, column 1", "port: expected one value and no list".to_owned()),
        ("port = 1.5", "1, column 8", expected.to_owned()),
        ("port = 2027-01-31", "1, column 8", expected.to_owned()),
        ("cost = 3", "1, column 1", value("cost <N>", "3")),
        ("cost = 16", "1, column 1", value("cost <N>", "16")),
        ("hash-workers = 0", "1, column 1", value("hash-workers <N>", "0")),
        ("queue = 0", "1, column 1", value("queue <N>", "0")),
        ("max-connections = 0", "1, column 1", value("max-connections <N>", "0")),
        ("cache-entries = 9999999", "1, column 1", value("cache-entries <N>", "9999999")),
        ("cache-lifetime = \"1y\"", "1, column 1", value("cache-lifetime <TIME>", "1y")),
        ("source-failures = \"10\"", "1, column 1", value("source-failures <COUNT/PERIOD>", "10")),
        ("log-level = \"loud\"", "1, column 1", value("log-level <LEVEL>", "loud")),
        ("log-format = \"xml\"", "1, column 1", value("log-format <FORMAT>", "xml")),
        ("rehash = 1", "1, column 1", "rehash: expected true or false".to_owned()),
        ("rehash = \"yes\"", "1, column 1", "rehash: expected true or false".to_owned()),
        (
            "trusted-proxy = [\"10.0.0.0/8\", \"x\"]",
            "1, column 1",
            value("trusted-proxy <CIDR>", "x"),
        ),
        ("trusted-proxy = [[\"x\"]]", "1, column 18", "expected a text in quotes".to_owned()),
        ("require-group = \"a b\"", "1, column 1", value("require-group <GROUP>", "a b")),
        ("ops-listen = \"9090\"", "1, column 1", value("ops-listen <ADDRESS>", "9090")),
        ("unix-socket-mode = 999", "1, column 1", value("unix-socket-mode <MODE>", "999")),
        ("realm = \"a", "1, column 11", "invalid basic string, expected `\"`".to_owned()),
        ("port = 1\nport = 2", "2, column 1", "duplicate key".to_owned()),
        ("port", "1, column 5", "key with no value, expected `=`".to_owned()),
        ("[serve]\nport = 1", "1, column 1", "".to_owned()),
    ] {
        let outcome = home.check(settings);
        let begin = format!("resttool: cannot serve: resttool.toml: line {place}: {why}");
        assert_eq!((outcome.code, &*outcome.stdout), (7, ""), "{settings}");
        assert!(outcome.stderr.starts_with(&begin), "{settings}: {}", outcome.stderr);
    }
    // All of them are named at once.
    let outcome = home.check("prot = 1\ncost = 99\nrehash = 1\n");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{}", outcome.stderr);
    assert!(lines[1].starts_with("resttool: cannot serve: resttool.toml: line 2, column 1: "));
    assert_eq!(lines[3], "hint: a similar key is port");
}

/// M-06: flag over environment over file over default.
#[test]
fn arguments_override_variables_and_these_the_file() {
    let home = Home::new();
    home.write("port = 0\ncost = 4\nrealm = \"file\"\nsource-failures = \"0\"\n");
    let realm = |words: &str, variable: Option<&str>| {
        let mut serve = home.command(&format!("serve --config resttool.toml {words}"));
        serve.envs(variable.map(|realm| ("RESTTOOL_REALM", realm)));
        let server = ServerProcess::start(serve);
        let response = Request::get("/rest-auth").send(server.address);
        let challenge = response.header("www-authenticate").unwrap().to_owned();
        let (_, realm) = challenge.split_once("realm=\"").unwrap();
        realm.split('"').next().unwrap().to_owned()
    };
    assert_eq!(realm("", None), "file");
    assert_eq!(realm("", Some("variable")), "variable");
    assert_eq!(realm("--realm flag", Some("variable")), "flag");
    assert_eq!(realm("--realm flag", None), "flag");
    home.write("port = 0\ncost = 4\n");
    assert_eq!(realm("", None), "Authentication Required");
}

/// M-06
#[test]
fn settings_that_exclude_or_require_others_are_refused_in_a_file() {
    let home = Home::new();
    for (settings, why) in [
        (
            "tls-cert = \"cert.pem\"",
            "the following required arguments were not provided:\n  --tls-key <PATH>",
        ),
        (
            "unix-socket = \"s\"\ntls-cert = \"c\"\ntls-key = \"k\"",
            "the argument '--unix-socket <PATH>' cannot be used with",
        ),
    ] {
        let outcome = home.check(settings);
        assert_eq!(outcome.code, 2);
        assert!(
            outcome.stderr.starts_with(&format!("resttool: usage: {why}")),
            "{}",
            outcome.stderr
        );
    }
    let outcome = home.check("tls-cert = \"cert.pem\"\ntls-key = \"key.pem\"");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("cannot speak TLS: "), "{}", outcome.stderr);
    let outcome = home.check("database = \"nowhere.db\"");
    assert_eq!(outcome, Completed::new(0, "", VALID), "the variable overrides it");
    let mut missing = home.command("serve --config resttool.toml --check");
    let outcome = finish(
        std::mem::replace(
            missing.env_remove("RESTTOOL_DATABASE"),
            std::process::Command::new("true"),
        ),
        "",
    );
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("nowhere.db: there is no store\nhint: resttool useradd"),
        "{}",
        outcome.stderr
    );
    assert!(!home.0.folder().join("nowhere.db").exists());
    let outcome = finish(home.command("serve --config none.toml"), "");
    assert_eq!(
        (outcome.code, &*outcome.stderr),
        (
            1,
            "resttool: cannot serve: cannot open none.toml: No such file or directory (os error 2)\n"
        )
    );
}

/// M-06: the printed file has every setting of `serve`, and its defaults are those of the program.
#[test]
fn printed_file_has_every_setting_with_its_default() {
    let home = Home::new();
    let outcome = finish(home.command("print config"), "");
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
    let printed = outcome.stdout;
    assert!(printed.lines().all(|line| line.is_empty() || line.starts_with('#')), "{printed}");
    assert_eq!(home.check(&printed), Completed::new(0, "", VALID));
    let settings: Vec<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
        .collect();
    let help = finish(home.command("serve --help"), "").stdout;
    let options: Vec<_> = help
        .lines()
        .filter_map(|line| {
            line.trim_start().split("--").nth(1).filter(|_| line.trim_start().starts_with('-'))
        })
        .filter_map(|rest| rest.split([' ', ',']).next())
        .filter(|option| !["config", "check", "help", "version"].contains(option))
        .collect();
    let mut keys: Vec<_> = settings.iter().map(|line| line.split(" = ").next().unwrap()).collect();
    let mut expected = options.clone();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    // Those with a default are valid, and change nothing.
    let has_default = |line: &&&str| {
        !line.contains("= \"PATH\"")
            && !line.starts_with("unix-socket-mode")
            && !line.contains("[\"")
            && !line.contains("\"ADDRESS\"")
            && !line.contains("\"N\"")
            && !line.contains("\"URL\"")
            && !line.contains("\"SIZE\"")
            && !line.contains("\"NAME\"")
    };
    let with_default: String =
        settings.iter().filter(has_default).map(|line| format!("{line}\n")).collect();
    assert_eq!(home.check(&with_default), Completed::new(0, "", VALID), "{with_default}");
    for line in
        ["port = 5000", "rehash = false", "log-level = \"info\"", "source-failures = \"10/1m\""]
    {
        assert!(with_default.lines().any(|seen| seen == line), "{line}: {with_default}");
    }
}

/// A server whose settings file can be changed.
struct Reloaded {
    home: Home,
    server: ServerProcess,
}

impl Reloaded {
    fn start(settings: &str) -> Self {
        let home = Home::new();
        let fixed = "port = 0\ncost = 4\nuser-failures = \"0\"\n";
        home.write(&format!("{fixed}{settings}"));
        let server = ServerProcess::start(home.command("serve --config resttool.toml"));
        Self { home, server }
    }

    /// Replaces the settings, and waits for the line of the log that says `result`.
    fn reload(&mut self, settings: &str, result: &str) {
        self.home.write(settings);
        self.hang_up(result);
    }

    fn hang_up(&mut self, result: &str) {
        self.server.log.clear();
        self.server.signal(Signal::HUP);
        self.server.wait_for(result);
    }

    fn login(&self, password: &str) -> u16 {
        let request = Request::get("/rest-auth").basic("roy", password);
        request.send(self.server.address).status
    }
}

/// M-07
#[test]
fn limits_and_groups_change_on_sighup() {
    let mut gate = Reloaded::start("source-failures = \"0\"\n");
    let settings = |more: &str| format!("port = 0\ncost = 4\nuser-failures = \"0\"\n{more}");
    for _ in 0..20 {
        assert_eq!(gate.login("wrong"), 401);
    }
    gate.reload(
        &settings("source-failures = \"2/1h\"\n"),
        "the settings were read again: changed source-failures\n",
    );
    assert_eq!([gate.login("wrong"), gate.login("wrong"), gate.login("wrong")], [401, 401, 429]);
    // The default limit forgives more.
    gate.reload(&settings(""), "the settings were read again: changed source-failures\n");
    assert_eq!(gate.login("open-sesame"), 200);
    let none = settings("source-failures = \"0\"\n");
    gate.reload(&none, "the settings were read again: changed source-failures\n");
    gate.reload(&none, "the settings were read again: no change\n");
    // A cached password is refused at once without the group.
    assert_eq!(gate.login("open-sesame"), 200);
    let group = format!("{none}require-group = [\"admin\"]\n");
    gate.reload(&group, "the settings were read again: changed require-group\n");
    assert_eq!(gate.login("open-sesame"), 403);
    gate.reload(&none, "the settings were read again: changed require-group\n");
    assert_eq!(gate.login("open-sesame"), 200);
    let queue = format!("{none}queue = 7\nuser-failures = \"1/1h\"\n");
    let queue = queue.replacen("user-failures = \"0\"\n", "", 1);
    gate.reload(&queue, "the settings were read again: changed queue, user-failures\n");
    assert_eq!(gate.login("wrong"), 401);
    assert_eq!(gate.login("wrong"), 401, "a known source");
}

/// M-07
#[test]
fn trusted_proxies_and_log_level_change_on_sighup() {
    let mut gate = Reloaded::start("");
    let settings = "port = 0\ncost = 4\nuser-failures = \"0\"\n";
    let ask = |gate: &Reloaded| {
        let request = Request::get("/rest-auth").header("X-Forwarded-For", "192.0.2.7");
        assert_eq!(request.send(gate.server.address).status, 401);
    };
    ask(&gate);
    gate.server.wait_for("reason=no-credentials source=127.0.0.1\n");
    let trusted = format!("{settings}trusted-proxy = [\"127.0.0.1\"]\n");
    gate.reload(&trusted, "the settings were read again: changed trusted-proxy\n");
    ask(&gate);
    gate.server.wait_for("reason=no-credentials source=192.0.2.7\n");
    // The warning tells that the level has changed.
    let quiet = format!("{trusted}log-level = \"warn\"\nrealm = \"x\"\n");
    gate.reload(&quiet, "restart the server to change realm\n");
    for _ in 0..3 {
        ask(&gate);
    }
    gate.hang_up("restart the server to change realm\n");
    assert_eq!(gate.server.log.lines().count(), 1, "{}", gate.server.log);
    let chatty = format!("{trusted}log-level = \"info\"\n");
    gate.reload(&chatty, "the settings were read again: changed log-level\n");
    ask(&gate);
    gate.server.wait_for("reason=no-credentials source=192.0.2.7\n");
}

/// M-07: a broken file changes nothing, also not the settings before its mistake.
#[test]
fn broken_file_at_sighup_changes_nothing() {
    let mut gate = Reloaded::start("source-failures = \"0\"\n");
    let fixed = "port = 0\ncost = 4\nuser-failures = \"0\"\n";
    let why = "cannot reload the settings, still using the previous ones: ";
    for (settings, mistakes) in [
        (
            "source-failures = \"1/1h\"\nrequire-group = [\"admin\"]\nprot = 1\n",
            "line 6, column 1: unknown key prot",
        ),
        (
            "source-failures = \"1/1h\"\nrequire-group = [\"a b\"]\n",
            "line 5, column 1: invalid value 'a b'",
        ),
        ("require-group = [\"admin\"]\nrealm = \"a\n", "line 5, column 11: invalid basic string"),
        (
            "require-group = [\"admin\"]\ntls-cert = \"c\"\n",
            "the following required arguments were not provided",
        ),
    ] {
        gate.reload(&format!("{fixed}{settings}"), why);
        gate.server.wait_for(mistakes);
        for _ in 0..3 {
            assert_eq!(gate.login("wrong"), 401, "{settings}");
        }
        assert_eq!(gate.login("open-sesame"), 200, "{settings}");
    }
    // All mistakes are named.
    gate.reload("prot = 1\ncots = 4\n", "unknown key cots\n");
    assert_eq!(gate.server.log.matches(why).count(), 2, "{}", gate.server.log);
    let file = gate.home.0.folder().join("resttool.toml");
    fs::remove_file(&file).unwrap();
    gate.hang_up(why);
    gate.server.wait_for("cannot open resttool.toml: No such file or directory");
    // The content of a pipe is gone.
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    gate.hang_up("resttool.toml is not a file that can be read again\n");
    assert_eq!(gate.login("open-sesame"), 200);
    // So is that of standard input.
    let home = Home::new();
    home.write(&format!("{fixed}source-failures = \"0\"\n"));
    let mut serve = home.command("serve --config -");
    serve.stdin(fs::File::open(home.0.folder().join("resttool.toml")).unwrap());
    let mut gate = Reloaded { server: ServerProcess::start(serve), home };
    gate.hang_up("cannot reload the settings, still using the previous ones: - is not a file");
    assert_eq!([(); 12].map(|()| gate.login("wrong")), [401; 12]);
}

/// M-07: a setting that cannot change is named at each reload until it is as it was.
#[test]
fn settings_that_need_a_restart_are_named_on_sighup() {
    let mut gate = Reloaded::start("");
    let fixed = "port = 0\ncost = 4\nuser-failures = \"0\"\n";
    let other = "port = 1\ncost = 5\nrealm = \"x\"\nuser-failures = \"0\"\nqueue = 9\n";
    gate.reload(other, "restart the server to change cost, port, realm\n");
    assert!(gate.server.log.contains("the settings were read again: changed queue\n"));
    gate.hang_up("restart the server to change cost, port, realm\n");
    assert!(gate.server.log.contains("the settings were read again: no change\n"));
    gate.reload(fixed, "the settings were read again: changed queue\n");
    gate.hang_up("the settings were read again: no change\n");
    assert!(!gate.server.log.contains("restart"), "{}", gate.server.log);
    let response = Request::get("/rest-auth").send(gate.server.address);
    assert_eq!(
        response.header("www-authenticate"),
        Some("Basic realm=\"Authentication Required\", charset=\"UTF-8\"")
    );
    // A flag overrides the file then as at the start.
    let home = Home::new();
    home.write(fixed);
    let server =
        ServerProcess::start(home.command("serve --config resttool.toml --source-failures 0"));
    let mut gate = Reloaded { home, server };
    let limited = format!("{fixed}source-failures = \"1/1h\"\n");
    gate.reload(&limited, "the settings were read again: no change\n");
    assert_eq!([(); 3].map(|()| gate.login("wrong")), [401; 3]);
}
