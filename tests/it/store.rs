//! The store under many processes at once, and what is on the disk when a command has returned.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::client::{Connection, Request};
use crate::server::{Place, name, with_roy};
use crate::tool::{Serving, command, finish, run};

/// S-04
#[test]
fn eight_processes_add_fifty_users_each_beside_a_busy_server() {
    let (place, server) = with_roy();
    let hash = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.address);
                    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(connection.ask(&roy).status, 200);
                    }
                })
            })
            .collect();
        let adders: Vec<_> = (0..8)
            .map(|process| {
                let place = &place;
                scope.spawn(move || {
                    for n in 0..50 {
                        let database = place.database().display().to_string();
                        let words = format!(
                            "useradd user-{process}-{n} --hash-stdin --database {database}"
                        );
                        let outcome = run(place.folder(), &words, hash);
                        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
                    }
                })
            })
            .collect();
        let added = adders.into_iter().map(std::thread::ScopedJoinHandle::join);
        let failed = added.filter(Result::is_err).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
        for client in clients {
            client.join().unwrap();
        }
    });
    let store = place.store();
    let there = (0..8).flat_map(|p| (0..50).map(move |n| format!("user-{p}-{n}")));
    assert_eq!(there.filter(|user| store.contains(&name(user)).unwrap()).count(), 400);
}

/// S-14: pages go from the write-ahead log into the database while others read, so that it can be begun anew.
#[test]
fn the_log_stays_bounded_under_ten_thousand_changes_with_readers() {
    const WRITERS: usize = 8;
    // Odd, so that everybody ends up locked.
    const EACH: usize = 1251;
    let place = Place::new();
    let hash = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    for n in 0..100 {
        place.hashed(&format!("user-{n}"), hash);
    }
    let wal = place.folder().join("users.db-wal");
    let (store, done, largest) = (place.store(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut there = 0;
                    let each = &mut |_| {
                        there += 1;
                        ControlFlow::Continue(())
                    };
                    store.each(each).unwrap();
                    assert_eq!(there, 100);
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (place, wal, largest) = (&place, &wal, &largest);
                scope.spawn(move || {
                    let (store, user) = (place.store(), name(&format!("user-{writer}")));
                    for n in 0..EACH {
                        let mut changes = store.begin().unwrap();
                        let mut account = changes.find(&user).unwrap().unwrap();
                        account.locked = n % 2 == 0;
                        changes.put(&account).unwrap();
                        changes.commit().unwrap();
                        largest.fetch_max(fs::metadata(wal).unwrap().len(), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let written = writers.into_iter().map(std::thread::ScopedJoinHandle::join);
        let failed = written.filter(Result::is_err).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
    });
    let locked = |n| store.find(&name(&format!("user-{n}"))).unwrap().unwrap().locked;
    assert!((0..WRITERS).all(locked) && !locked(WRITERS));
    // Never folded, it grows to ten times the 4 MB that it has.
    let largest = largest.into_inner();
    assert!((1 << 20..1 << 24).contains(&largest), "{largest} bytes");
}

/// S-03
#[test]
#[ignore = "needs root"]
fn what_root_makes_in_the_folder_of_a_service_is_the_services() {
    const SERVICE: u32 = 65_534;
    let place = Place::new();
    let home = place.folder().join("service");
    fs::create_dir(&home).unwrap();
    chown(place.folder(), Some(SERVICE), Some(SERVICE)).unwrap();
    chown(&home, Some(SERVICE), Some(SERVICE)).unwrap();
    let database = home.join("some/where/users.db");
    let command = |words: &str| {
        let words = format!("{words} --database {}", database.display());
        command(&home, words.split(' '))
    };
    let as_root = |words: &str| {
        let outcome = finish(command(words), "open-sesame");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    };
    as_root("useradd roy --password-stdin --cost 4");
    let mut serve = command("serve --port 0");
    serve.uid(SERVICE).gid(SERVICE);
    let server = Serving::start(serve);
    let login = |user| {
        let request = Request::get("/rest-auth").basic(user, "open-sesame");
        request.send(server.address).status
    };
    assert_eq!(login("roy"), 200);
    // Now there are companions, and both write to them.
    as_root("useradd ann --password-stdin --cost 4");
    assert_eq!((login("ann"), login("roy")), (200, 200));
    let mut add = command("useradd bob --password-stdin --cost 4");
    add.uid(SERVICE).gid(SERVICE);
    let outcome = finish(add, "open-sesame");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    drop(server);
    as_root("passwd roy --password-stdin --cost 4");
    for file in fs::read_dir(database.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().uid(), SERVICE, "{:?}", file.path());
    }
}

/// S-05: everything written is synced before the program ends, with its folders and names, also when the
/// store is made by a command that then has nothing to change; alone on the store (it is folded into the
/// database then) and beside others (it stays in the WAL).
#[test]
#[ignore = "needs strace"]
fn what_a_command_has_written_is_on_the_disk_when_it_ends() {
    let place = Place::new();
    let run = |database: &str, words: &str| {
        let trace = place.folder().join("trace");
        let database = place.folder().join(database).display().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", "trace=file,desc", "-o"]).arg(&trace);
        strace.arg(env!("CARGO_BIN_EXE_resttool")).args(words.split(' '));
        strace.args(["--database", &database]);
        let outcome = finish(strace, "open-sesame");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        unsynced(&fs::read_to_string(trace).unwrap(), place.folder())
    };
    let nothing = BTreeMap::new();
    assert_eq!(run("some/where/new.db", "userdel ann --if-exists"), nothing, "a new store");
    let add = |user| run("users.db", &format!("useradd {user} --password-stdin --cost 4"));
    assert_eq!(add("ann"), nothing, "a user in a new store");
    assert_eq!(add("bob"), nothing, "alone");
    let _beside = place.store();
    assert_eq!(add("cid"), nothing, "beside others");
    let wal = fs::metadata(place.folder().join("users.db-wal")).unwrap();
    assert!(wal.len() > 0, "it is in the WAL");
}

/// The files and folders in `folder` that were changed and not synced thereafter, each with
/// the call that changed it. Files that were removed do not count, nor does SQLite's `-shm`, which is made
/// anew from the WAL.
fn unsynced(trace: &str, folder: &Path) -> BTreeMap<String, String> {
    let folder = folder.display().to_string();
    let mut unsynced = BTreeMap::new();
    let mut writes = 0;
    for line in trace.lines().filter(|line| line.contains(&folder) && !line.contains(" = -1 ")) {
        let call = line.split_once(' ').unwrap().1.trim_start();
        // `-y` writes the path behind the descriptor: pwrite64(3</folder/users.db>, ...).
        let path = |open: char, close: char| {
            let path = call.split_once(open)?.1.split_once(close)?.0;
            path.starts_with(&folder).then(|| path.to_owned())
        };
        match call.split('(').next().unwrap() {
            "write" | "pwrite64" | "ftruncate" => {
                if let Some(path) = path('<', '>').filter(|path| !path.ends_with("-shm")) {
                    unsynced.insert(path, call.to_owned());
                    writes += 1;
                }
            }
            "fsync" | "fdatasync" => {
                unsynced.remove(&path('<', '>').unwrap());
            }
            "unlink" | "unlinkat" => {
                unsynced.remove(&path('"', '"').unwrap());
            }
            "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                // The last path is the new name; its folder is what was changed.
                let new = call.rsplit('"').nth(1).unwrap();
                unsynced.insert(new.rsplit_once('/').unwrap().0.to_owned(), call.to_owned());
            }
            _ => {}
        }
    }
    assert!(writes > 0, "nothing was seen: {trace}");
    unsynced
}
