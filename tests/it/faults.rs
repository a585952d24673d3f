//! Commands that are killed, or whose disk fails, at every call that writes: what is left is the old state or the new
//! one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::client::Request;
use crate::server::Place;
use crate::tool::{Serving, command, run};

/// The hash of `U*U`, of cost 5: a vector of crypt_blowfish 1.3 (wrapper.c).
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// What SQLite writes with, and what makes it durable.
const CALLS: [&str; 5] = ["pwrite64", "ftruncate", "fdatasync", "fsync", "unlink"];

/// What a command does, what it reads, and whether the users are as they should be after it.
type Case<'a> = (&'a str, String, &'a dyn Fn(&[String]) -> bool);

/// The users with their hashes, a line each: what an export prints.
fn users(place: &Place) -> Vec<String> {
    let words = format!("export --database {}", place.database().display());
    let outcome = run(place.folder(), &words, "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome.stdout.lines().map(str::to_owned).collect()
}

fn names(users: &[String]) -> String {
    users.iter().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>().join(" ")
}

/// Runs it with a fault at the nth of these calls; how it ended, and whether the fault was met.
fn with_fault(
    place: &Place,
    words: &str,
    input: &Path,
    call: &str,
    fault: &str,
    nth: u32,
) -> (Option<i32>, bool) {
    let trace = place.folder().join("trace");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:{fault}:when={nth}"),
        "-o",
    ]);
    strace.arg(&trace).arg(env!("CARGO_BIN_EXE_resttool")).args(words.split(' '));
    strace.arg("--database").arg(place.database()).env("HOME", place.folder());
    strace.stdin(fs::File::open(input).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = strace.status().unwrap();
    let met = fs::read_to_string(&trace).unwrap();
    (status.code(), met.contains("(INJECTED)") || met.contains("+++ killed by SIGKILL"))
}

/// Each command on a fresh copy of the same store, with a fault at its first, second, ... write or sync, until there is none any
/// more. `beside` keeps the store open the while, as a server does.
fn at_every_call(fault: &str, beside: bool) -> u32 {
    let seed = Place::new();
    for user in ["ann", "bob"] {
        seed.hashed(user, HASH);
    }
    let before = users(&seed);
    let kept = before.clone();
    let lines: String = (0..300).map(|n| format!("user-{n}:{HASH}\n")).collect();
    let toml = "[[user]]\nname = \"ann\"\ngenerate = true\nlocked = true\n[[user]]\nname = \"cid\"\ngenerate = true\n";
    let cases: [Case<'_>; 5] = [
        ("useradd cid --hash-stdin", HASH.to_owned(), &|users| names(users) == "ann bob cid"),
        ("passwd ann --password-stdin --cost 4", "another-one".to_owned(), &|users| {
            names(users) == "ann bob" && users[0] != kept[0] && users[1] == kept[1]
        }),
        ("userdel ann", String::new(), &|users| names(users) == "bob"),
        ("import -", lines, &|users| users.len() == 302),
        ("apply - --prune --cost 4", toml.to_owned(), &|users| names(users) == "cid"),
    ];
    let mut faults = 0;
    for (words, input, is_new) in &cases {
        for call in CALLS {
            for nth in 1.. {
                let place = Place::new();
                fs::copy(seed.database(), place.database()).unwrap();
                let file = place.folder().join("input");
                fs::write(&file, input).unwrap();
                let held = beside.then(|| place.store());
                let (code, met) = with_fault(&place, words, &file, call, fault, nth);
                let what = format!("{words}: {fault} at {call} {nth}");
                if let Some(store) = held {
                    // It goes on serving, whatever became of the command.
                    store.is_empty().unwrap_or_else(|e| panic!("{what}: {e}"));
                }
                let after = users(&place);
                assert!(after == before || is_new(&after), "{what}: {after:?}");
                if code == Some(0) {
                    assert!(is_new(&after), "{what}: it said that it was done");
                }
                if !met {
                    assert_eq!(code, Some(0), "{what}");
                    break;
                }
                faults += 1;
            }
        }
    }
    faults
}

/// S-06
#[test]
#[ignore = "needs strace"]
fn a_command_that_is_killed_at_any_write_or_sync_leaves_the_old_or_the_new_state() {
    let (alone, beside) = (at_every_call("signal=KILL", false), at_every_call("signal=KILL", true));
    assert!(alone > 50 && beside > 50, "{alone} {beside}");
}

/// S-07
#[test]
#[ignore = "needs strace"]
fn a_full_disk_or_one_that_fails_is_an_error_and_leaves_the_old_or_the_new_state() {
    for fault in ["error=ENOSPC", "error=EIO"] {
        let (alone, beside) = (at_every_call(fault, false), at_every_call(fault, true));
        assert!(alone > 50 && beside > 50, "{alone} {beside}");
    }
}

/// P-18, S-07: a server whose disk fails refuses, grants nothing, and is well again when the disk is.
#[test]
#[ignore = "needs strace"]
fn a_server_whose_disk_fails_grants_nothing_and_recovers() {
    let place = Place::new();
    place.add("roy", "open-sesame");
    let words = format!(
        "serve --port 0 --cost 4 --source-failures 0 --database {}",
        place.database().display()
    );
    let server = Serving::start(command(place.folder(), words.split(' ')));
    let login = |user: &str| {
        let request = Request::get("/rest-auth").basic(user, "open-sesame");
        request.send(server.address).status
    };
    assert_eq!(login("roy"), 200);
    for (n, call) in ["pread64", "statx", "pread64,statx,openat"].into_iter().enumerate() {
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:error=EIO"),
        ]);
        strace.args(["-o", "/dev/null", "-p", &server.id().to_string()]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("attached")));
        // Something has changed, so that nothing that was known before counts.
        let new = format!("user-{n}");
        place.add(&new, "open-sesame");
        assert_eq!((login(&new), login("roy")), (503, 503), "{call}");
        let id = rustix::process::Pid::from_child(&strace);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        strace.wait().unwrap();
        assert_eq!((login(&new), login("roy")), (200, 200), "{call}");
    }
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}
