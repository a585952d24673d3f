//! The settings file of `serve`, and its check.

use std::fs;

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
