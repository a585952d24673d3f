//! The store under concurrent processes, its files and their owners, and durability.

use std::collections::BTreeMap;
use std::fs;
use std::fs::Permissions;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::cli::{Completed, ServerProcess, command, finish, run, run_advice_as};
use crate::support::client::{Connection, Request};
use crate::support::server::with_roy;
use crate::support::store::{TempStore, name};

/// S-04
#[test]
fn eight_processes_add_fifty_users_each_beside_a_busy_server() {
    let (store, server) = with_roy();
    let hash = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.address);
                    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(connection.send(&roy).status, 200);
                    }
                })
            })
            .collect();
        let adders: Vec<_> = (0..8)
            .map(|process| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..50 {
                        let database = store.database().display().to_string();
                        let words = format!(
                            "useradd user-{process}-{n} --hash-stdin --database {database}"
                        );
                        let outcome = run(store.folder(), &words, hash);
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
    let users = store.open();
    let there = (0..8).flat_map(|p| (0..50).map(move |n| format!("user-{p}-{n}")));
    assert_eq!(there.filter(|user| users.contains(&name(user)).unwrap()).count(), 400);
}

/// S-14: checkpoints go on beside readers, so that the WAL can start again.
#[test]
fn wal_stays_bounded_under_ten_thousand_changes_with_readers() {
    const WRITERS: usize = 8;
    // Odd, so that each user ends up locked.
    const EACH: usize = 1251;
    let store = TempStore::new();
    let hash = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
    for n in 0..100 {
        store.add_hash(&format!("user-{n}"), hash);
    }
    let wal = store.folder().join("users.db-wal");
    let (users, done, largest) = (store.open(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut there = 0;
                    let each = &mut |_| {
                        there += 1;
                        ControlFlow::Continue(())
                    };
                    users.each(each).unwrap();
                    assert_eq!(there, 100);
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, wal, largest) = (&store, &wal, &largest);
                scope.spawn(move || {
                    let (users, user) = (store.open(), name(&format!("user-{writer}")));
                    for n in 0..EACH {
                        let mut changes = users.begin().unwrap();
                        let mut account = changes.find(&user).unwrap().unwrap();
                        account.locked = n % 2 == 0;
                        changes.put(&account).unwrap();
                        changes.commit().wait().unwrap();
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
    let locked = |n| users.find(&name(&format!("user-{n}"))).unwrap().unwrap().locked;
    assert!((0..WRITERS).all(locked) && !locked(WRITERS));
    // Without checkpoints it grows to ten times its 4 MB.
    let largest = largest.into_inner();
    assert!((1 << 20..1 << 24).contains(&largest), "{largest} bytes");
}

/// R-15: a file that is no store is reported as such, with any mode, owner and folder, and without
/// advice.
#[test]
fn file_that_is_no_store_gets_no_advice() {
    let store = TempStore::new();
    let strange = store.folder().join("strange.db");
    fs::write(&strange, "something else").unwrap();
    for file in [Path::new("/etc/passwd"), &strange] {
        for (mode, folder) in [(0o644, 0o700), (0o600, 0o777), (0o666, 0o1777)] {
            fs::set_permissions(&strange, Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(store.folder(), Permissions::from_mode(folder)).unwrap();
            for words in ["check", "userlist", "userdel roy", "serve --port 0", "backup copy.db"] {
                let mut command = command(store.folder(), words.split(' '));
                command.arg("--database").arg(file).current_dir(store.folder());
                let Completed { code, stdout, stderr } = finish(command, "");
                let said = stdout + &stderr;
                assert_eq!(code, 1, "{words}: {said}");
                assert!(said.contains("it is no resttool store"), "{words}: {said}");
                assert!(!said.contains("chmod") && !said.contains("chown"), "{words}: {said}");
            }
        }
    }
    assert_eq!(fs::read(&strange).unwrap(), b"something else");
}

/// System users: a service, and an attacker.
const SERVICE: u32 = 65_534;
const NEIGHBOUR: u32 = 65_533;

const HASH: &str = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";

/// Runs the program on this database as this user of the system, or as the caller for 0.
fn run_as(user: u32, words: &str, database: &Path) -> Completed {
    let mut command = command(database.parent().unwrap(), words.split(' '));
    command.arg("--database").arg(database);
    if user != 0 {
        command.uid(user).gid(user);
    }
    finish(command, HASH)
}

/// Follows the program's advice until it succeeds. Returns the database that it used last, and the
/// number of refusals.
fn follow_hints(user: u32, words: &str, database: &Path) -> (PathBuf, usize) {
    let mut database = database.to_owned();
    for refusals in 0..8 {
        let outcome = run_as(user, words, &database);
        if outcome.code == 0 {
            return (database, refusals);
        }
        let (_, hint) = outcome.stderr.trim_end().split_once("hint: ").expect(&outcome.stderr);
        let (advice, moved) = match hint.split_once("--database ") {
            Some((before, path)) => (before.strip_suffix(", and then ").unwrap_or(""), Some(path)),
            None => (hint, None),
        };
        if !advice.is_empty() {
            run_advice_as(user, advice);
        }
        database = moved.map_or(database, PathBuf::from);
    }
    panic!("the advice does not help");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// R-10: by `serve` and by commands, and `check` reports it. The hint keeps the users.
#[test]
fn folder_that_others_may_write_to_is_refused() {
    for folder in [0o777, 0o1777, 0o770, 0o720, 0o702, 0o2775] {
        let store = TempStore::new();
        store.add_hash("roy", HASH);
        let database = store.database();
        set_mode(store.folder(), folder);
        let why = format!(
            "{}: other users may write to it (mode {folder:04o})\n",
            store.folder().display()
        );
        for words in ["serve --port 0", "useradd ann --hash-stdin", "userdel roy", "userlist"] {
            let outcome = run_as(0, words, &database);
            assert_eq!(outcome.code, 1, "{words}");
            assert!(outcome.stderr.contains(&why), "{words}: {}", outcome.stderr);
        }
        let check = run_as(0, "check --cost 4", &database);
        let found = format!("other users may write to {}", store.folder().display());
        assert!(check.code == 1 && check.stdout.contains(&found), "{}", check.stdout);
        let missing = run_as(0, "useradd ann --hash-stdin", &store.folder().join("new.db"));
        assert!(missing.stderr.contains(&why), "{}", missing.stderr);
        assert!(!store.folder().join("new.db").exists());
        let (database, refusals) = follow_hints(0, "useradd ann --hash-stdin", &database);
        assert_eq!(refusals, 1);
        assert_eq!(mode(database.parent().unwrap()) & 0o022, 0);
        let users = run_as(0, "export", &database).stdout;
        assert!(users.contains("roy:") && users.contains("ann:"), "{users}");
        assert_eq!(run_as(0, "check --cost 4", &database).stdout, "");
    }
}

/// R-10: Kubernetes mounts an emptyDir with mode 0777, or as root's with 2775 and `fsGroup`. Later
/// mounts give the group all rights on files in a volume.
#[test]
#[ignore = "needs root"]
fn volumes_of_kubernetes_have_a_way_out() {
    for volume_mode in [0o777, 0o2775, 0o2777] {
        let store = TempStore::new();
        set_mode(store.folder(), 0o755);
        let volume = store.folder().join("data");
        fs::create_dir(&volume).unwrap();
        chown(&volume, Some(0), Some(SERVICE)).unwrap();
        set_mode(&volume, volume_mode);
        let add = |user: &str| format!("useradd {user} --hash-stdin");
        let (database, refusals) = follow_hints(SERVICE, &add("roy"), &volume.join("users.db"));
        assert_eq!((database.clone(), refusals), (volume.join("resttool/users.db"), 1));
        let folder = database.parent().unwrap();
        assert_eq!((mode(folder), mode(&database)), (0o700, 0o600));
        // A killed server leaves its companion files.
        let mut serve = command(&volume, ["serve", "--port", "0", "--database"]);
        serve.arg(&database).uid(SERVICE).gid(SERVICE);
        let server = ServerProcess::start(serve);
        assert_eq!(run_as(SERVICE, &add("ann"), &database).code, 0);
        drop(server);
        // As the kubelet does, with the second group of the service.
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            chown(&file, None, Some(SERVICE)).unwrap();
            set_mode(&file, 0o660);
        }
        set_mode(folder, 0o2770);
        let refused = run_as(SERVICE, "serve --port 0", &database);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        let (same, refusals) = follow_hints(SERVICE, &add("eve"), &database);
        assert_eq!((same == database, refusals), (true, 4), "the folder and three files");
        let users = run_as(SERVICE, "export", &database).stdout;
        assert!(["roy:", "ann:", "eve:"].iter().all(|user| users.contains(user)), "{users}");
    }
}

/// R-10: SQLite would read users from a planted log, change its owner, and write to the target of a
/// link.
#[test]
#[ignore = "needs root"]
fn planted_companions_are_refused_and_set_aside() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 4] = [
        ("is not a plain file", |secret, at| symlink(secret, at).unwrap()),
        ("belongs to another user", |secret, at| fs::hard_link(secret, at).unwrap()),
        ("belongs to another user", |secret, at| {
            fs::copy(secret, at).unwrap();
            chown(at, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
        }),
        ("has more than one name", |_, at| {
            let own = at.with_extension("own");
            fs::write(&own, "of the service").unwrap();
            set_mode(&own, 0o600);
            chown(&own, Some(SERVICE), Some(SERVICE)).unwrap();
            fs::hard_link(own, at).unwrap();
        }),
    ];
    for (why, plant) in plants {
        for suffix in ["-wal", "-shm"] {
            let store = TempStore::new();
            store.add_hash("roy", HASH);
            let database = store.database();
            chown(store.folder(), Some(SERVICE), Some(SERVICE)).unwrap();
            chown(&database, Some(SERVICE), Some(SERVICE)).unwrap();
            let secret = store.folder().join("secret");
            fs::write(&secret, "of root alone").unwrap();
            set_mode(&secret, 0o600);
            plant(&secret, Path::new(&format!("{}{suffix}", database.display())));
            let before = fs::read(&database).unwrap();
            for user in [0, SERVICE] {
                let backup = format!("backup {}", store.folder().join("copy").display());
                for words in ["serve --port 0", "useradd ann --hash-stdin", &backup] {
                    let outcome = run_as(user, words, &database);
                    assert_eq!(outcome.code, 1, "{words}");
                    assert!(outcome.stderr.contains(why), "{words}: {}", outcome.stderr);
                }
                let found = run_as(user, "check --cost 4", &database).stdout;
                assert!(found.contains(&format!("users.db{suffix} {why}")), "{found}");
            }
            assert_eq!(fs::read(&database).unwrap(), before);
            let meta = fs::metadata(&secret).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600));
            assert_eq!(fs::read(&secret).unwrap(), b"of root alone");
            let (_, refusals) = follow_hints(0, "useradd ann --hash-stdin", &database);
            assert_eq!(refusals, 1);
            assert_eq!(fs::read(&secret).unwrap(), b"of root alone");
            assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
        }
    }
}

/// R-10: the log of another store holds other users. Only its owner distinguishes it.
#[test]
#[ignore = "needs root"]
fn planted_log_of_a_neighbour_replaces_no_user() {
    let store = TempStore::new();
    set_mode(store.folder(), 0o755);
    let shared = store.folder().join("shared");
    fs::create_dir(&shared).unwrap();
    set_mode(&shared, 0o777);
    let database = shared.join("users.db");
    store.add_hash("roy", HASH);
    fs::copy(store.database(), &database).unwrap();
    set_mode(&database, 0o600);
    chown(&database, Some(SERVICE), Some(SERVICE)).unwrap();
    // The neighbour copies the log of their own store while it is in use.
    let theirs = store.folder().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::copy(store.database(), theirs.join("users.db")).unwrap();
    set_mode(&theirs.join("users.db"), 0o600);
    let connection = rusqlite::Connection::open(theirs.join("users.db")).unwrap();
    connection.execute_batch("UPDATE users SET name = 'mallory'").unwrap();
    let log = shared.join("users.db-wal");
    fs::copy(theirs.join("users.db-wal"), &log).unwrap();
    set_mode(&log, 0o666);
    chown(&log, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    for user in [0, SERVICE] {
        for words in ["serve --port 0", "useradd ann --hash-stdin", "userlist", "check"] {
            let Completed { code, stdout, stderr } = run_as(user, words, &database);
            assert_eq!(code, 1, "{words}: {stderr}");
            assert!(!(stdout + &stderr).contains("mallory"), "{words}");
        }
    }
    let found = run_as(SERVICE, "check", &database).stdout;
    assert!(found.contains("users.db-wal belongs to another user"), "{found}");
    assert!(found.contains("other users may write to"), "{found}");
    let (moved, _) = follow_hints(SERVICE, "useradd ann --hash-stdin", &database);
    let users = run_as(SERVICE, "export", &moved).stdout;
    assert!(users.contains("roy:") && !users.contains("mallory"), "{users}");
}

/// S-03
#[test]
#[ignore = "needs root"]
fn files_made_by_root_belong_to_the_service() {
    let store = TempStore::new();
    let home = store.folder().join("service");
    fs::create_dir(&home).unwrap();
    chown(store.folder(), Some(SERVICE), Some(SERVICE)).unwrap();
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
    let server = ServerProcess::start(serve);
    let login = |user| {
        let request = Request::get("/rest-auth").basic(user, "open-sesame");
        request.send(server.address).status
    };
    assert_eq!(login("roy"), 200);
    // Both write to the companion files now.
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

/// R-09: a link in a folder leads root only to files that the owner of the folder can change.
#[test]
#[ignore = "needs root"]
fn owner_of_a_folder_leads_root_nowhere() {
    let store = TempStore::new();
    set_mode(store.folder(), 0o755);
    let (home, target) = (store.folder().join("home"), store.folder().join("target"));
    fs::create_dir_all(home.join(".local")).unwrap();
    fs::create_dir(&target).unwrap();
    chown(&home, Some(SERVICE), Some(SERVICE)).unwrap();
    chown(home.join(".local"), Some(SERVICE), Some(SERVICE)).unwrap();
    let link = |to: &Path, at: &str| {
        let at = home.join(at);
        symlink(to, &at).unwrap();
        std::os::unix::fs::lchown(&at, Some(SERVICE), Some(SERVICE)).unwrap();
        at
    };
    // Commands that create a missing store, and all.
    let (by_default, named) =
        (["useradd ann --hash-stdin", "serve --port 0"], ["useradd ann --hash-stdin"]);
    let all = ["useradd ann --hash-stdin", "serve --port 0", "userdel roy"];
    let refused = |commands: &[&str], data: Option<&Path>, database: Option<&Path>| {
        for words in commands {
            let mut command = command(&home, words.split(' '));
            command.envs(data.map(|data| ("XDG_DATA_HOME", data)));
            command.args(database.map(|path| [Path::new("--database"), path]).iter().flatten());
            let outcome = finish(command, HASH);
            assert_eq!(outcome.code, 1, "{words}: {}", outcome.stderr);
            let why = format!("(as the user with id {SERVICE}, who owns a folder on the way)");
            assert!(outcome.stderr.contains(&why), "{words}: {}", outcome.stderr);
        }
    };
    // The user's HOME, which sudo may keep.
    link(&target, ".local/share");
    refused(&by_default, None, None);
    let data = link(&target, "data");
    refused(&by_default, Some(&data), None);
    refused(&named, None, Some(&data.join("some/where/users.db")));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing was made there");
    // A store of root.
    let of_root = target.join("users.db");
    store.add_hash("roy", HASH);
    fs::rename(store.database(), &of_root).unwrap();
    let before = fs::read(&of_root).unwrap();
    let database = link(&of_root, "users.db");
    refused(&all, None, Some(&database));
    // Through a link of root too.
    let detour = store.folder().join("detour");
    symlink("home/data/users.db", &detour).unwrap();
    refused(&named, None, Some(&detour));
    let copy = store.folder().join("copy");
    let backup = run_as(0, &format!("backup {}", copy.display()), &database);
    assert_eq!((backup.code, copy.exists()), (1, false), "{}", backup.stderr);
    assert_eq!(run_as(0, "check", &database).code, 1);
    assert_eq!(fs::read(&of_root).unwrap(), before);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

/// R-09: one thread has the rights of the owner and no others, and the rest of the process keeps
/// its own.
#[test]
#[ignore = "needs root"]
fn store_of_another_user_is_used_by_a_thread_of_that_user() {
    // A user that the system knows, and one that it does not.
    for (user, group, expected) in [(SERVICE, 4242, SERVICE), (NEIGHBOUR, 4242, 4242)] {
        let store = TempStore::new();
        set_mode(store.folder(), 0o755);
        let home = store.folder().join("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(user), Some(group)).unwrap();
        let database = home.join("resttool/users.db");
        assert_eq!(run_as(0, "useradd roy --hash-stdin", &database).code, 0);
        let mut serve = command(&home, ["serve", "--port", "0", "--database"]);
        serve.arg(&database);
        let server = ServerProcess::start(serve);
        // The store is in use by another process.
        assert_eq!(run_as(0, "useradd ann --hash-stdin", &database).code, 0);
        let status = Request::get("/rest-auth").basic("roy", "wrong").send(server.address).status;
        assert_eq!(status, 401);
        let statuses = statuses_of_store_threads(&server);
        assert_eq!(statuses.len(), 1);
        let field = |name| status_field(&statuses[0], name);
        assert_eq!(field("Uid:"), [user; 4].map(|id| id.to_string()).join(" "));
        assert_eq!(field("Gid:"), [expected; 4].map(|id| id.to_string()).join(" "));
        assert_eq!(field("Groups:"), expected.to_string());
        for capabilities in ["CapPrm:", "CapEff:"] {
            assert_eq!(field(capabilities), "0".repeat(16));
        }
        for file in fs::read_dir(database.parent().unwrap()).unwrap() {
            let meta = file.unwrap().metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid()), (user, expected));
        }
        assert_eq!(fs::metadata(database.parent().unwrap()).unwrap().uid(), user);
    }
}

/// R-09: the owner of the store may be in a group that leads to it.
#[test]
#[ignore = "needs root"]
fn owner_of_the_store_has_all_groups_of_theirs() {
    let store = TempStore::new();
    set_mode(store.folder(), 0o755);
    let team = store.folder().join("team");
    let home = team.join("home");
    fs::create_dir_all(&home).unwrap();
    chown(&team, Some(0), Some(4242)).unwrap();
    set_mode(&team, 0o710);
    chown(&home, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    let (users, groups) = (store.folder().join("passwd"), store.folder().join("group"));
    fs::write(&users, format!("svc:x:{NEIGHBOUR}:{NEIGHBOUR}::/:/bin/false\n")).unwrap();
    fs::write(&groups, format!("svc:x:{NEIGHBOUR}:\nteam:x:4242:svc\n")).unwrap();
    // A mount namespace with other system files.
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c"]);
    unshare.arg(
        r#"mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/group &&
            "$3" useradd roy --generate --quiet --database "$4" >/dev/null &&
            exec "$3" serve --port 0 --database "$4""#,
    );
    unshare.arg("sh").arg(&users).arg(&groups).arg(env!("CARGO_BIN_EXE_resttool"));
    unshare.arg(home.join("users.db"));
    let server = ServerProcess::start(unshare);
    let statuses = statuses_of_store_threads(&server);
    assert_eq!(statuses.len(), 1);
    assert_eq!(status_field(&statuses[0], "Groups:"), format!("4242 {NEIGHBOUR}"));
    assert_eq!(status_field(&statuses[0], "CapEff:"), "0".repeat(16), "the group lets them in");
    assert_eq!(fs::metadata(home.join("users.db")).unwrap().uid(), NEIGHBOUR);
}

/// R-09: as with `DynamicUser` of systemd. Its folder stands in one of root that the user cannot
/// enter.
#[test]
#[ignore = "needs root"]
fn store_of_a_dynamic_user_is_administered_by_root() {
    let store = TempStore::new();
    let (private, link) = (store.folder().join("private"), store.folder().join("state"));
    let state = private.join("state");
    fs::create_dir_all(&state).unwrap();
    set_mode(&private, 0o700);
    set_mode(&state, 0o700);
    chown(&state, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    symlink("private/state", &link).unwrap();
    let database = link.join("users.db");
    let backup = format!("backup {}", store.folder().join("copy").display());
    for words in ["useradd roy --hash-stdin", "userlist", "check --cost 4", &backup, "userdel roy"]
    {
        let outcome = run_as(0, words, &database);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    }
    assert_eq!(fs::metadata(&database).unwrap().uid(), NEIGHBOUR);
    let mut serve = command(&link, ["serve", "--port", "0", "--database"]);
    serve.arg(&database);
    let server = ServerProcess::start(serve);
    let statuses = statuses_of_store_threads(&server);
    assert_eq!(statuses.len(), 1);
    for capabilities in ["CapPrm:", "CapEff:"] {
        // CAP_DAC_READ_SEARCH alone.
        assert_eq!(status_field(&statuses[0], capabilities), format!("{:016x}", 1 << 2));
    }
    drop(server);
    // A link does not lead to files that this capability makes readable.
    let of_root = private.join("root.db");
    store.add_hash("ann", HASH);
    fs::rename(store.database(), &of_root).unwrap();
    let theirs = state.join("theirs.db");
    symlink(&of_root, &theirs).unwrap();
    std::os::unix::fs::lchown(&theirs, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    for words in ["userlist", "userdel ann", &backup] {
        let outcome = run_as(0, words, &theirs);
        assert!(outcome.code == 1 && outcome.stderr.contains("through a link"), "{outcome:?}");
    }
}

/// Returns the status of the threads that act as the owner of the store.
fn statuses_of_store_threads(server: &ServerProcess) -> Vec<String> {
    fs::read_dir(format!("/proc/{}/task", server.id()))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .filter(|status| {
            let acts = status_field(status, "Name:") == "store";
            assert!(acts || status_field(status, "Uid:") == "0 0 0 0", "{status}");
            acts
        })
        .collect()
}

fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

/// R-09: root reads and writes other files with its own rights.
#[test]
#[ignore = "needs root"]
fn output_and_password_files_stay_the_callers() {
    let store = TempStore::new();
    set_mode(store.folder(), 0o755);
    let (home, own) = (store.folder().join("home"), store.folder().join("own"));
    fs::create_dir(&home).unwrap();
    fs::create_dir(&own).unwrap();
    chown(&home, Some(SERVICE), Some(SERVICE)).unwrap();
    set_mode(&own, 0o700);
    let database = home.join("users.db");
    fs::write(own.join("password"), "open-sesame").unwrap();
    set_mode(&own.join("password"), 0o600);
    fs::write(own.join("users.toml"), "[[user]]\nname = \"ann\"\npassword_file = \"password\"\n")
        .unwrap();
    let file = |name: &str| own.join(name).display().to_string();
    for words in [
        format!(
            "useradd roy --cost 4 --password-file {} --audit-log {}",
            file("password"),
            file("audit")
        ),
        format!("apply {} --cost 4", file("users.toml")),
        format!("export {}", file("htpasswd")),
        format!("import {} --on-conflict replace", file("htpasswd")),
        format!("backup {}", file("copy.db")),
        "passwd roy --hash-stdin".to_owned(),
        "usermod roy --rename leroy --group staff".to_owned(),
        "userlist".to_owned(),
        "check --cost 4".to_owned(),
        "userdel leroy".to_owned(),
    ] {
        let outcome = run_as(0, &words, &database);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    }
    for written in ["audit", "htpasswd", "copy.db"] {
        assert_eq!(fs::metadata(own.join(written)).unwrap().uid(), 0, "{written}");
    }
    assert_eq!(run_as(0, "check --cost 4", &own.join("copy.db")).code, 0);
    assert_eq!(fs::metadata(&database).unwrap().uid(), SERVICE);
    let users = run_as(SERVICE, "export", &database).stdout;
    assert!(users.contains("ann:") && !users.contains("roy:"), "{users}");
}

/// S-05: a command syncs files, folders and names before it ends, also if it creates a store and
/// changes nothing. Alone it checkpoints the WAL, and beside other processes the change stays in
/// the WAL.
#[test]
#[ignore = "needs strace"]
fn finished_command_has_synced_its_changes() {
    let store = TempStore::new();
    let run = |database: &str, words: &str| {
        let trace = store.folder().join("trace");
        let database = store.folder().join(database).display().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", "trace=file,desc", "-o"]).arg(&trace);
        strace.arg(env!("CARGO_BIN_EXE_resttool")).args(words.split(' '));
        strace.args(["--database", &database]);
        let outcome = finish(strace, "open-sesame");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        unsynced(&fs::read_to_string(trace).unwrap(), store.folder())
    };
    let nothing = BTreeMap::new();
    assert_eq!(run("some/where/new.db", "import /dev/null"), nothing, "a new store");
    let add = |user| run("users.db", &format!("useradd {user} --password-stdin --cost 4"));
    assert_eq!(add("ann"), nothing, "a user in a new store");
    assert_eq!(add("bob"), nothing, "alone");
    let _beside = store.open();
    assert_eq!(add("cid"), nothing, "beside others");
    let wal = fs::metadata(store.folder().join("users.db-wal")).unwrap();
    assert!(wal.len() > 0, "it is in the WAL");
}

/// Returns the files and folders in `folder` that were changed and not synced, each with the call
/// that changed it. Removed files do not count, nor does `-shm`, which SQLite rebuilds from the
/// WAL.
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
                // The last path is the new name, whose folder was changed.
                let new = call.rsplit('"').nth(1).unwrap();
                // A relative name is one in the folder of the descriptor before it.
                let folder = new.rsplit_once('/').map(|(folder, _)| folder.to_owned());
                unsynced.insert(folder.or_else(|| path('<', '>')).unwrap(), call.to_owned());
            }
            _ => {}
        }
    }
    assert!(writes > 0, "nothing was seen: {trace}");
    unsynced
}

/// W-18: a mistyped path is no empty store.
#[test]
fn only_commands_that_add_users_create_a_store() {
    let home = TempStore::new();
    let database = home.folder().join("new/users.db");
    let path = database.display();
    let users = home.folder().join("users.toml");
    fs::write(&users, "[[user]]\nname = \"roy\"\ngenerate = true\n").unwrap();
    let on =
        |words: &str, input: &str| run(home.folder(), &format!("{words} --database {path}"), input);
    for words in [
        "userlist",
        "userlist --json",
        "export",
        "verify roy --password-stdin",
        "userdel roy --if-exists",
        "usermod roy --lock",
        "passwd roy --password-stdin --cost 10",
        "chpasswd --cost 10",
        "backup copy",
        "serve --port 0",
    ] {
        let refused = on(words, "roy:open-sesame\n");
        let why =
            format!("{path}: there is no store\nhint: resttool useradd NAME --database {path}\n");
        assert!(refused.code == 1 && refused.stdout.is_empty(), "{words}: {refused:?}");
        assert!(refused.stderr.ends_with(&why), "{words}: {}", refused.stderr);
        assert!(!home.folder().join("new").exists(), "{words}");
    }
    let plan = on(&format!("apply {} --dry-run", users.display()), "");
    assert_eq!(plan, Completed::new(0, "+ roy\n", "resttool: would be: 1 added\n"));
    assert!(!home.folder().join("new").exists());
    for words in ["useradd roy --password-stdin --cost 10", "chpasswd --create --cost 10"] {
        assert_eq!(on(words, "roy:open-sesame\n").code, 0, "{words}");
        fs::remove_dir_all(home.folder().join("new")).unwrap();
    }
}

/// W-18
#[test]
fn unknown_user_is_reported_with_the_store() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    let path = home.database().display().to_string();
    for words in ["userdel ann", "usermod ann --lock", "verify ann --password-stdin"] {
        let unknown = run(home.folder(), &format!("{words} --database {path}"), "open-sesame");
        assert_eq!(unknown.code, 6, "{words}");
        let why = format!("there is no user of that name in {path}\n");
        assert!(unknown.stderr.ends_with(&why), "{words}: {}", unknown.stderr);
    }
    let words = format!("userdel ann --if-exists --database {path}");
    let said = format!("resttool: there is no user ann in {path}, nothing changed\n");
    assert_eq!(run(home.folder(), &words, ""), Completed::new(0, "", &said));
}
