//! Clients, hashes and documents, checked with programs of other projects.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::cli::{Completed, finish, run};
use crate::support::server::with_roy;
use crate::support::store::TempStore;

fn run_other(program: &str, args: &[&str], input: &str) -> Completed {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, input)
}

/// Runs curl. Returns the body and the status.
fn curl(args: &[&str]) -> (String, i32) {
    let outcome = run_other("curl", &[&["-s", "-w", "|%{http_code}"], args].concat(), "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let (body, status) = outcome.stdout.rsplit_once('|').unwrap();
    (body.to_owned(), status.parse().unwrap())
}

#[test]
#[ignore = "needs curl"]
fn curl_logs_in_only_with_the_right_password() {
    let (store, server) = with_roy();
    let url = format!("http://{}/rest-auth", server.address);
    let granted = ("\"You are authorized to see this message\"\n".to_owned(), 200);
    let denied = ("Unauthorized Access".to_owned(), 401);
    assert_eq!(curl(&["-u", "roy:open-sesame", &url]), granted);
    assert_eq!(curl(&["--basic", "-u", "roy:wrong", &url]), denied);
    assert_eq!(curl(&[&url]), denied);
    // curl sends a request without credentials first, and answers the challenge on the same
    // connection.
    assert_eq!(curl(&["--anyauth", "-u", "roy:open-sesame", &url]), granted);
    assert_eq!(curl(&["-I", "-o", "/dev/null", "-u", "roy:open-sesame", &url]).1, 200);
    let netrc = store.folder().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login roy password open-sesame\n").unwrap();
    assert_eq!(curl(&["--netrc-file", netrc.to_str().unwrap(), &url]), granted);
}

/// Sends a right password, a wrong one, and none.
#[test]
#[ignore = "needs python3 with requests (python3-requests)"]
fn python_requests_logs_in_only_with_the_right_password() {
    let (_store, server) = with_roy();
    let script = "import sys, requests
url = sys.stdin.read()
for auth in [('roy', 'open-sesame'), ('roy', 'wrong'), None]:
    response = requests.get(url, auth=auth)
    print(response.status_code, response.json() if response.ok else response.text)";
    let said = python(script, &format!("http://{}/rest-auth", server.address));
    let expected = "200 You are authorized to see this message
401 Unauthorized Access
401 Unauthorized Access\n";
    assert_eq!(said, expected);
}

#[test]
#[ignore = "needs node"]
fn node_fetch_logs_in_only_with_the_right_password() {
    let (_store, server) = with_roy();
    let script = "const url = process.argv[1];
(async () => {
    for (const pair of ['roy:open-sesame', 'roy:wrong', null]) {
        const headers = pair ? { Authorization: 'Basic ' + btoa(pair) } : {};
        const response = await fetch(url, { headers });
        console.log(response.status, response.ok ? await response.json() : await response.text());
    }
})();";
    let url = format!("http://{}/rest-auth", server.address);
    let outcome = run_other("node", &["-e", script, &url], "");
    let expected = "200 You are authorized to see this message
401 Unauthorized Access
401 Unauthorized Access\n";
    assert_eq!((outcome.code, &*outcome.stdout), (0, expected), "{}", outcome.stderr);
}

#[test]
#[ignore = "needs newman"]
fn postman_collection_passes() {
    let (store, server) = with_roy();
    store.add("joe", "open-sesame");
    store.remove("joe");
    let collection = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/resttool.postman_collection.json");
    let url = format!("url=http://{}", server.address);
    let words = ["run", collection, "--env-var", &url, "--reporters", "json,cli", "--color", "off"];
    let report = store.folder().join("report.json").display().to_string();
    let words = [&words[..], &["--reporter-json-export", &report]].concat();
    let outcome = run_other("newman", &words, "");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    let stats = &report["run"]["stats"]["assertions"];
    assert_eq!((&stats["total"], &stats["failed"]), (&8.into(), &0.into()));
}

/// Schemathesis generates requests from the document, and checks the responses against it.
#[test]
#[ignore = "needs schemathesis (the package of that name of Python)"]
fn schemathesis_finds_no_undocumented_response() {
    let (store, server) = with_roy();
    let url = format!("http://{}/openapi.json", server.address);
    let mut schemathesis = Command::new("schemathesis");
    schemathesis.args(["run", &url, "-a", "roy:open-sesame", "-c", "all", "--max-examples", "50"]);
    schemathesis.current_dir(store.folder());
    let outcome = finish(schemathesis, "");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("No issues found"), "{}", outcome.stdout);
}

const PASSWORDS: [&str; 4] = ["open-sesame", "a:b c'd\"e$f", "café olé €", LONGEST];
const LONGEST: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

fn our_hash(home: &Path, password: &str) -> String {
    let outcome = run(home, "hash --password-stdin --cost 5", password);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome.stdout.trim_end().to_owned()
}

/// Returns whether the server accepts this password for this hash.
fn server_accepts(password: &str, hash: &str) -> bool {
    let store = TempStore::new();
    let database = store.database().display().to_string();
    let words = format!("useradd roy --hash-stdin --database {database}");
    let outcome = run(store.folder(), &words, hash);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let server = store.serve();
    assert_eq!(server.login("roy", format!("x{}", &password[1..])).status, 401);
    server.login("roy", password).status == 200
}

/// C-01, L-07
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_and_resttool_accept_hashes_of_each_other() {
    let store = TempStore::new();
    let file = store.folder().join("htpasswd").display().to_string();
    for password in PASSWORDS {
        fs::write(&file, format!("roy:{}\n", our_hash(store.folder(), password))).unwrap();
        assert_eq!(run_other("htpasswd", &["-vi", &file, "roy"], password).code, 0);
        assert_eq!(run_other("htpasswd", &["-vi", &file, "roy"], "wrong").code, 3);
        let line = run_other("htpasswd", &["-inBC5", "roy"], password).stdout;
        let hash = line.trim().strip_prefix("roy:").unwrap();
        assert!(hash.starts_with("$2y$05$") && server_accepts(password, hash));
    }
}

/// C-01, L-07
#[test]
#[ignore = "needs python3 with bcrypt (python3-bcrypt)"]
fn python_bcrypt_and_resttool_accept_hashes_of_each_other() {
    let store = TempStore::new();
    let check = "import bcrypt, sys; h, p = sys.stdin.buffer.read().split(b'\\n', 1); print(bcrypt.checkpw(p, h))";
    let make = "import bcrypt, sys
for prefix in (b'2a', b'2b'): print(bcrypt.hashpw(sys.stdin.buffer.peek(), bcrypt.gensalt(5, prefix)).decode())";
    for password in PASSWORDS {
        let hash = our_hash(store.folder(), password);
        let checked = |password| python(check, &format!("{hash}\n{password}"));
        assert_eq!(checked(password), "True\n");
        assert_eq!(checked("wrong"), "False\n");
        let made = python(make, password);
        assert_eq!(made.lines().count(), 2);
        for hash in made.lines() {
            assert!(server_accepts(password, hash), "{hash}");
        }
    }
}

/// C-01, L-07: Perl's `crypt` is that of libxcrypt.
#[test]
#[ignore = "needs perl on a system whose crypt(3) is libxcrypt"]
fn libxcrypt_and_resttool_accept_hashes_of_each_other() {
    let store = TempStore::new();
    let crypt =
        "my ($salt, $password) = split /\\n/, join('', <STDIN>), 2; print crypt($password, $salt)";
    let crypt = |salt: &str, password: &str| {
        let outcome = run_other("perl", &["-e", crypt], &format!("{salt}\n{password}"));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        outcome.stdout
    };
    for password in PASSWORDS {
        let hash = our_hash(store.folder(), password);
        assert_eq!(crypt(&hash, password), hash);
        assert_ne!(crypt(&hash, "wrong"), hash);
        for ident in ["2a", "2b", "2y"] {
            let hash = crypt(&format!("${ident}$05$abcdefghijklmnopqrstuu"), password);
            assert!(hash.starts_with(&format!("${ident}$05$")), "{hash}");
            assert!(server_accepts(password, &hash), "{hash}");
        }
    }
}

fn python(script: &str, input: &str) -> String {
    let outcome = run_other("/usr/bin/python3", &["-c", script], input);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome.stdout
}
