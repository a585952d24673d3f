//! `check` and `backup`: a store that is to live for years.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::Place;
use crate::tool::{Outcome, command, finish, follow, run};

/// The hash of `U*U`, of cost 5: a vector of crypt_blowfish 1.3 (wrapper.c).
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn tool(place: &Place, words: &str) -> Outcome {
    run(place.folder(), &format!("{} --database {}", words.trim(), place.database().display()), "")
}

/// What is wrong, each with its fix.
fn flaws(place: &Place, more: &str) -> Vec<(String, String)> {
    let outcome = tool(place, &format!("check {more}"));
    assert_eq!(outcome.code, i32::from(!outcome.stdout.is_empty()), "{}", outcome.stderr);
    let mut lines = outcome.stdout.lines().peekable();
    let mut flaws = Vec::new();
    while let Some(what) = lines.next() {
        let fix = lines.next_if(|line| line.starts_with("  fix: "));
        let fix = fix.map_or("", |line| line.strip_prefix("  fix: ").unwrap());
        flaws.push((what.to_owned(), fix.to_owned()));
    }
    flaws
}

#[test]
fn a_store_that_is_well_is_said_to_be() {
    let place = Place::new();
    place.hashed("roy", HASH);
    let well = format!("resttool: found no problems in {}\n", place.database().display());
    assert_eq!(tool(&place, "check --cost 5"), Outcome::new(0, "", &well));
    assert_eq!(tool(&place, "check --cost 5 --quiet --json"), Outcome::new(0, "", ""));
}

/// S-01, S-08, S-09, C-07
#[test]
fn what_is_wrong_is_named_with_its_mend_and_nothing_is_changed() {
    let place = Place::new();
    let database = place.database();
    let shown = database.display();
    let none =
        vec![("there is no store".to_owned(), format!("resttool useradd NAME --database {shown}"))];
    assert_eq!(flaws(&place, ""), none);
    assert!(!database.exists(), "it is not made for that");
    for user in ["ann", "bob", "cid", "dan"] {
        place.hashed(user, HASH);
    }
    place.sql(
        "UPDATE users SET hash = '$2x$' || substr(hash, 5) WHERE name = 'bob';
         UPDATE users SET expires = -1 WHERE name = 'cid'",
    );
    place.sql(&format!(
        "UPDATE users SET hash = '{}' WHERE name = 'dan'",
        HASH.replacen("05", "12", 1)
    ));
    let before = fs::read(&database).unwrap();
    let expected = [
        ("the hash of user ann is of cost 5, below 12", "resttool passwd DB ann"),
        (
            "the stored hash of user bob can't be used: it is a $2x$ hash, made by a flawed program",
            "resttool passwd DB bob",
        ),
        (
            "the stored expiry of user cid can't be used: it is of the wrong type or out of range",
            "resttool userdel DB cid",
        ),
    ];
    let expected = expected
        .map(|(what, fix)| (what.to_owned(), fix.replace("DB", &format!("--database {shown}"))));
    assert_eq!(flaws(&place, ""), expected);
    assert_eq!(flaws(&place, "--cost 5"), expected[1..]);
    let line = tool(&place, "check --json").stdout.lines().next().unwrap().to_owned();
    assert_eq!(
        line,
        format!(
            r#"{{"problem":"the hash of user ann is of cost 5, below 12","user":"ann","fix":"resttool passwd --database {shown} ann"}}"#
        )
    );
    let three = tool(&place, "check --quiet").stderr;
    assert_eq!(three, format!("resttool: cannot check the store: found 3 problems in {shown}\n"));
    assert_eq!(fs::read(&database).unwrap(), before);
    // The fix is a command that fixes, also of a name that looks like an option.
    place.hashed("-f", HASH);
    let fix = flaws(&place, "").into_iter().find(|(what, _)| what.contains("user -f")).unwrap().1;
    let words = fix.strip_prefix("resttool ").unwrap();
    let (verb, rest) = words.split_once(' ').unwrap();
    let fixed = run(place.folder(), &format!("{verb} --generate {rest}"), "");
    assert_eq!(fixed.code, 0, "{fix}: {}", fixed.stderr);
    assert!(!flaws(&place, "").iter().any(|(what, _)| what.contains("user -f")));
    place.remove("-f");

    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let open = format!("other users may read or write {shown} (mode 0644)");
    assert_eq!(flaws(&place, ""), [(open, format!("chmod 600 {shown}"))]);
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    place.sql("PRAGMA user_version = 9");
    let newer = "its schema is version 9, and this resttool knows up to 2".to_owned();
    assert_eq!(flaws(&place, ""), [(newer, "use a newer resttool".to_owned())]);
    fs::write(&database, "something else").unwrap();
    assert_eq!(flaws(&place, "")[0].0, "it is no resttool store");
    assert_eq!(fs::read(&database).unwrap(), b"something else");
}

/// R-12: a fix is quoted from the raw text, so that it works for every name and path.
#[test]
fn fixes_work_for_names_and_paths_of_any_kind() {
    let place = Place::new();
    place.hashed("roy", HASH);
    for user in [r"CORP\roy", "it's", "$(id)", "-f"] {
        place.rename("roy", user);
        let (what, fix) = flaws(&place, "").remove(0);
        assert!(what.contains("of cost 5"), "{what}");
        follow(&fix.replacen("resttool passwd", "resttool passwd --cost 12 --generate", 1));
        assert_eq!(flaws(&place, ""), [], "{user}");
        place.remove(user);
        place.hashed("roy", HASH);
    }
    let strange = place.folder().join("a b's \\x");
    fs::create_dir(&strange).unwrap();
    let database = strange.join("users.db");
    fs::rename(place.database(), &database).unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let check = || {
        let words = ["check", "--cost", "4", "--database"];
        finish(
            command(place.folder(), words.map(OsStr::new).iter().chain([&database.as_os_str()])),
            "",
        )
    };
    follow(check().stdout.split_once("fix: ").unwrap().1);
    assert_eq!(check().code, 0);
}

/// R-12: also where only bytes in `$'...'` stand for them.
#[test]
#[ignore = "needs bash"]
fn fixes_work_for_paths_that_do_not_print() {
    let place = Place::new();
    place.hashed("roy", HASH);
    let database = place.folder().join(OsStr::from_bytes(b"a\n\xFF\xE2\x80\xAE.db"));
    fs::rename(place.database(), &database).unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let check = || {
        let words = ["check", "--cost", "4", "--database"];
        finish(
            command(place.folder(), words.map(OsStr::new).iter().chain([&database.as_os_str()])),
            "",
        )
    };
    follow(check().stdout.split_once("fix: ").unwrap().1);
    assert_eq!(check().code, 0);
}

/// R-12: a file is handed over by its own name, and a link or a second name of another file is not.
#[test]
#[ignore = "needs root"]
fn advice_hands_over_plain_files_alone_one_by_one() {
    const SERVICE: u32 = 65_534;
    let place = Place::new();
    place.hashed("roy", HASH);
    chown(place.folder(), Some(SERVICE), Some(SERVICE)).unwrap();
    let secret = place.folder().join("secret");
    fs::write(&secret, "of root alone").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let (log, index) = (place.folder().join("users.db-wal"), place.folder().join("users.db-shm"));
    symlink(&secret, &log).unwrap();
    fs::hard_link(&secret, &index).unwrap();
    fs::write(place.folder().join("users.db.htpasswd"), "of root too").unwrap();
    let database = place.database().display().to_string();
    let found = flaws(&place, "--cost 4");
    let chowns: Vec<_> = found.iter().filter(|(_, fix)| fix.contains("chown")).collect();
    assert_eq!(chowns.len(), 1, "{found:?}");
    assert_eq!(chowns[0].1, format!("chown -h {SERVICE}:{SERVICE} {database}"));
    assert!(found.iter().any(|(what, _)| what.contains("-wal is not a plain file")), "{found:?}");
    for (_, fix) in &found {
        assert!(!fix.contains('*') && !fix.contains("secret"), "{fix}");
        if !fix.is_empty() {
            follow(fix);
        }
    }
    assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
    assert_eq!(fs::metadata(place.database()).unwrap().uid(), SERVICE);
}

/// S-08: a page of the middle is gone.
#[test]
fn damage_is_seen_where_a_look_for_one_user_would_not_meet_it() {
    let place = Place::new();
    for n in 0..200 {
        place.hashed(&format!("user-{n}"), HASH);
    }
    drop(place.store());
    let mut bytes = fs::read(place.database()).unwrap();
    let middle = 4096 * 3;
    bytes[middle..middle + 4096].fill(0x55);
    fs::write(place.database(), bytes).unwrap();
    let found = flaws(&place, "--cost 4");
    assert!(found.iter().any(|(what, _)| what.starts_with("it is damaged")), "{found:?}");
    assert!(found[0].1.contains("put a backup in its place"), "{found:?}");
}

/// S-14
#[test]
fn a_backup_taken_while_others_write_is_a_whole_store_of_one_moment() {
    let place = Place::new();
    place.add("roy", "open-sesame");
    let copy = place.folder().join("copy.db");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Each change adds one and removes one: at any moment there are roy and one other.
        scope.spawn(|| {
            place.hashed("user-0", HASH);
            for n in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let (from, to) = (format!("user-{}", n - 1), format!("user-{n}"));
                place.rename(&from, &to);
            }
        });
        for round in 0..20 {
            let words = format!("backup {}", copy.display());
            let said = format!("resttool: backed up to {}\n", copy.display());
            assert_eq!(tool(&place, &words), Outcome::new(0, "", &said));
            assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
            let database = copy.display();
            let check = run(place.folder(), &format!("check --cost 4 --database {database}"), "");
            assert_eq!(check.code, 0, "{}", check.stdout);
            let users = run(place.folder(), &format!("export --database {database}"), "").stdout;
            let others = users.lines().filter(|line| line.starts_with("user-")).count();
            // The first may be from before there was another one.
            assert!(others == 1 || (round == 0 && others == 0), "{users}");
            assert!(users.contains("roy:"), "{users}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let left = fs::read_dir(place.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("backup")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// R-11: the hashes go to the file that was made, whichever file has its name by then.
#[test]
#[ignore = "needs strace"]
fn backup_opens_its_temporary_file_once() {
    let place = Place::new();
    place.hashed("roy", HASH);
    let trace = place.folder().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=open,openat,openat2,creat", "-o"]).arg(&trace);
    strace.arg(env!("CARGO_BIN_EXE_resttool")).arg("backup").arg(place.folder().join("copy.db"));
    strace.arg("--database").arg(place.database());
    let outcome = finish(strace, "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let trace = fs::read_to_string(trace).unwrap();
    let opened: Vec<_> = trace.lines().filter(|line| line.contains(".resttool-aside-")).collect();
    assert_eq!(opened.len(), 1, "{opened:#?}");
    assert!(opened[0].contains("O_EXCL"), "{}", opened[0]);
}

/// S-12, S-14: as docs/operations.md tells it.
#[test]
fn a_backup_that_is_moved_into_place_is_what_a_running_server_decides_by() {
    let place = Place::new();
    place.add("roy", "open-sesame");
    let copy = place.folder().join("copy.db");
    assert_eq!(tool(&place, &format!("backup -q {}", copy.display())), Outcome::new(0, "", ""));
    let server = place.serve();
    place.remove("roy");
    assert_eq!(server.login("roy", "open-sesame").status, 401);
    fs::rename(&copy, place.database()).unwrap();
    assert_eq!(server.login("roy", "open-sesame").status, 200);
}

#[test]
fn a_backup_that_cannot_be_made_changes_nothing() {
    let place = Place::new();
    let copy = place.folder().join("copy.db");
    fs::write(&copy, "an older one").unwrap();
    let words = format!("backup {}", copy.display());
    assert_eq!(tool(&place, &words).code, 1);
    assert!(!place.database().exists());
    place.add("roy", "open-sesame");
    fs::set_permissions(place.database(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(tool(&place, &words).code, 1);
    assert_eq!(fs::read(&copy).unwrap(), b"an older one");
    fs::set_permissions(place.database(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(tool(&place, "backup no/such/folder/copy.db").code, 1);
}
