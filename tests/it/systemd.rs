//! The units that `resttool print` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::support::cli::{ServerProcess, command, finish, run};
use crate::support::client::Request;
use crate::support::store::TempStore;

/// Returns the output of systemd-analyze.
fn analyze(words: &[&str]) -> String {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(words);
    let outcome = finish(analyze, "");
    // The note of a kernel that does not list its system calls, which the sets do not need.
    let is_note = |line: &&str| line.starts_with("# Not showing unlisted system calls, ");
    let said = outcome.stderr.lines().find(|line| !is_note(line));
    assert_eq!((outcome.code, said), (0, None), "{}", outcome.stdout);
    outcome.stdout
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_accepts_the_printed_units() {
    let store = TempStore::new();
    let unit = run(store.folder(), "print systemd --port 7000", "").stdout;
    // systemd checks the path of the program, which may be missing here.
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (program, words) = start.split_once(' ').unwrap();
    assert_eq!(program, "/usr/local/bin/resttool");
    let file = |name: &str, text: &str| {
        let path = store.folder().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let service = file("resttool.service", &unit.replace(program, env!("CARGO_BIN_EXE_resttool")));
    let printed = run(store.folder(), "print systemd-socket --port 7000", "").stdout;
    assert!(printed.contains("\nListenStream=127.0.0.1:7000\n"), "{printed}");
    let socket = file("resttool.socket", &printed);
    analyze(&["verify", &service, &socket]);
    // M-09: fails if the exposure is above 1.9.
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=19", &service]);
    // The program accepts the arguments of the unit, and creates the file that its comment names.
    let data = unit.lines().find_map(|line| line.strip_prefix("Environment=XDG_DATA_HOME="));
    let home = store.folder().display().to_string();
    let mut serve = command(store.folder(), words.replace("7000", "0").split(' '));
    serve.env("XDG_DATA_HOME", data.unwrap().replace("/var/lib", &home));
    drop(ServerProcess::start(serve));
    assert!(unit.contains("--database /var/lib/resttool/resttool.db\n"), "{unit}");
    assert!(store.folder().join("resttool/resttool.db").exists());
}

/// M-09: the unit of the Debian package is as hardened as the printed one.
#[test]
#[ignore = "needs systemd-analyze"]
fn packaged_units_are_accepted_and_hardened() {
    let store = TempStore::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let packaged = fs::read_to_string(folder.join("resttool.service")).unwrap();
    let printed = run(store.folder(), "print systemd", "").stdout;
    let hardening = |unit: &str| {
        let (_, rest) = unit.split_once("\nRestart=on-failure\n").unwrap();
        rest.split_once("\n[Install]").unwrap().0.to_owned()
    };
    assert_eq!(hardening(&packaged), hardening(&printed));
    let service = store.folder().join("resttool.service");
    let program = env!("CARGO_BIN_EXE_resttool");
    fs::write(&service, packaged.replace("/usr/bin/resttool", program)).unwrap();
    let socket = store.folder().join("resttool.socket");
    fs::copy(folder.join("resttool.socket"), &socket).unwrap();
    let [service, socket] = [&service, &socket].map(|path| path.to_str().unwrap());
    // The manual page comes with the package.
    analyze(&["verify", "--man=no", service, socket]);
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=19", service]);
}

/// Returns the system calls that the filters of a unit permit.
fn permitted(unit: &str) -> BTreeSet<String> {
    // A set is a line with its name, and its indented members: system calls, sets and comments.
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut set = String::new();
    for line in analyze(&["syscall-filter", "--no-pager"]).lines() {
        match line.strip_prefix("    ") {
            Some(member) if !member.starts_with('#') => {
                sets.entry(set.clone()).or_default().push(member.to_owned());
            }
            Some(_) => {}
            None => line.trim().clone_into(&mut set),
        }
    }
    let mut permitted = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (removes, name) = filter.strip_prefix('~').map_or((false, filter), |name| (true, name));
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            match sets.get(&name) {
                Some(members) => open.extend(members.iter().cloned()),
                None if removes => drop(permitted.remove(&name)),
                None => drop(permitted.insert(name)),
            }
        }
    }
    permitted
}

/// M-09: the filter of the unit permits every system call of a server.
#[test]
#[ignore = "needs systemd-analyze and strace"]
fn unit_permits_what_the_server_does() {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    let permitted = permitted(&run(store.folder(), "print systemd", "").stdout);
    assert!(permitted.contains("epoll_wait") && !permitted.contains("chown"), "{permitted:?}");
    let trace = store.folder().join("trace");
    let database = store.database().display().to_string();
    let serve = ["serve", "--port", "0", "--cost", "5", "--rehash", "--database", &database];
    let serve = command(store.folder(), serve);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o"]).arg(&trace).arg(serve.get_program()).args(serve.get_args());
    traced.env("XDG_RUNTIME_DIR", store.folder());
    let server = ServerProcess::start(traced);
    for password in ["open-sesame", "wrong", "open-sesame"] {
        let status = Request::get("/rest-auth").basic("roy", password).send(server.address).status;
        assert_eq!(status, if password == "wrong" { 401 } else { 200 });
    }
    // strace passes neither signal on.
    let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).unwrap();
    let child: i32 = child.trim().parse().unwrap();
    for signal in [Signal::HUP, Signal::TERM] {
        kill_process(Pid::from_raw(child).unwrap(), signal).unwrap();
    }
    assert_eq!(server.end().0, Some(0));
    let trace = fs::read_to_string(trace).unwrap();
    let name = |line: &str| {
        let (_, call) = line.trim_start().split_once(' ')?;
        let call = call.trim_start();
        let call = call.strip_prefix("<... ").unwrap_or(call);
        let name: String = call
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_')
            .collect();
        Some(name).filter(|name| !name.is_empty())
    };
    let mut called: BTreeSet<_> = trace.lines().filter_map(name).collect();
    assert!(called.len() > 30, "{called:?}");
    // SQLite, as root only: it gives new files to the owner of the database. The unit has another user.
    if geteuid().is_root() {
        called.remove("fchown");
    }
    let forbidden: Vec<_> = called.difference(&permitted).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}
