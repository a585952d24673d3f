//! `import`: the input is read twice and never kept in memory, and all users are imported or none.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::cli::{Completed, command, finish, run, wait_or_kill, without_audit};
use crate::support::store::TempStore;

/// A hash of `U*U` with cost 5, from the test vectors of crypt_blowfish 1.3 (wrapper.c).
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// More bytes than an input or a report keeps in memory.
const LARGE: usize = 5 * 1024 * 1024;

/// Returns comments of more bytes than an input keeps in memory, as few lines.
fn comments() -> (String, usize) {
    let line = format!("#{}\n", "x".repeat(60_000));
    let count = LARGE / line.len() + 1;
    (line.repeat(count), count)
}

/// Returns `name:cost` of each user.
fn costs(home: &TempStore) -> Vec<String> {
    if !home.exists() {
        return Vec::new();
    }
    let list = run(
        home.folder(),
        &format!("userlist --json --database {}", home.database().display()),
        "",
    )
    .stdout;
    let users = list.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    users.map(|user| format!("{}:{}", user["name"].as_str().unwrap(), user["cost"])).collect()
}

/// L-05: of two lines of one user, far apart, `skip` takes the first and `replace` the last. Each
/// user is reported once, in the order of the lines. A file, a pipe and a FIFO are the same.
#[test]
fn duplicates_are_found_across_a_large_input() {
    let (comments, count) = comments();
    let line = |user: &str, cost: &str| format!("{user}:{}\n", HASH.replacen("05", cost, 1));
    let [zoe, ann, bob] = ["zoe", "ann", "bob"].map(|user| (line(user, "10"), line(user, "12")));
    let content = [&*zoe.0, &ann.0, &comments, &ann.1, &bob.0, &zoe.1].concat();
    let expected = [
        ("skip", "zoe ann bob", ["ann:10", "bob:10", "zoe:10"]),
        ("replace", "ann bob zoe", ["ann:12", "bob:10", "zoe:12"]),
    ];
    for source in ["file", "pipe", "fifo"] {
        for (policy, order, stored) in expected {
            let home = TempStore::new();
            let outcome = import(&home, source, &content, &["--json", "--on-conflict", policy]);
            let objects = order.split(' ').map(|name| {
                format!("{{\"name\":\"{name}\",\"changed\":true,\"outcome\":\"added\",\"changes\":[]}}\n")
            });
            let objects = objects.collect::<String>();
            let said = Completed::new(0, &objects, "resttool: 3 added\n");
            assert_eq!(outcome, said, "{source} {policy}");
            assert_eq!(costs(&home), stored, "{source} {policy}");
        }
        let home = TempStore::new();
        let refused = import(&home, source, &content, &[]);
        let why = format!("line {}: ann stands in line 2 already\nhint: ", count + 3);
        assert_eq!(refused.code, 7, "{source}");
        assert!(refused.stderr.contains(&why), "{source}: {}", refused.stderr);
        assert!(costs(&home).is_empty(), "{source}");
    }
}

fn import(home: &TempStore, source: &str, content: &str, more: &[&str]) -> Completed {
    let path = home.folder().join("input");
    let file = if source == "pipe" { "-" } else { "input" };
    let mut import = command(home.folder(), ["import", file].iter().chain(more));
    import.current_dir(home.folder()).env("RESTTOOL_DATABASE", home.database());
    match source {
        "pipe" => return finish(import, content),
        "file" => fs::write(&path, content).unwrap(),
        _ => {
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let (path, content) = (path, content.to_owned());
            std::thread::spawn(move || fs::write(path, content).unwrap());
        }
    }
    finish(import, "")
}

/// L-05, X-01: temporary storage that fails, of the input or of the reports, changes nothing.
#[test]
fn import_without_temporary_storage_changes_nothing() {
    let (comments, _) = comments();
    let input = format!("{comments}ann:{HASH}\n");
    let name = "x".repeat(100);
    let many = (0..LARGE / 150).map(|n| format!("{name}{n}:{HASH}\n")).collect::<String>();
    for (words, input) in
        [("import -", &*input), ("import users --json", ""), ("import users --audit-log log", "")]
    {
        let home = TempStore::new();
        fs::write(home.folder().join("users"), &many).unwrap();
        let mut import = command(home.folder(), words.split(' '));
        import.current_dir(home.folder()).env("RESTTOOL_DATABASE", home.database());
        import.env("TMPDIR", home.folder().join("none"));
        let outcome = finish(import, input);
        assert_eq!((outcome.code, &*outcome.stdout), (1, ""), "{words}: {}", outcome.stderr);
        let why = "cannot write to a temporary file: No such file or directory";
        assert!(outcome.stderr.contains(why), "{words}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains(HASH) && costs(&home).is_empty(), "{words}");
        let log = fs::read_to_string(home.folder().join("log")).unwrap_or_default();
        assert_eq!(log, "", "{words}");
    }
}

/// L-05, X-01: the transaction begins when the whole input has been read. Until then, the input is in
/// a temporary file without a name.
#[test]
fn slow_input_blocks_no_other_writer() {
    let home = TempStore::new();
    let add = format!("useradd bob --hash-stdin --database {}", home.database().display());
    let mut import = command(home.folder(), ["import", "-"]);
    let temporary = home.folder().join("temporary");
    fs::create_dir(&temporary).unwrap();
    import.env("RESTTOOL_DATABASE", home.database()).env("TMPDIR", &temporary);
    import.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut import: Child = import.spawn().unwrap();
    let mut pipe = import.stdin.take().unwrap();
    // More than a pipe holds, so a part of it was read.
    let (comments, _) = comments();
    pipe.write_all(format!("ann:{HASH}\n{comments}").as_bytes()).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", import.id())).unwrap();
    let mut open = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    assert!(open.any(|path| path.starts_with(&temporary)), "a temporary file is open");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "and has no name");
    assert_eq!(run(home.folder(), &add, HASH).code, 0);
    assert_eq!(costs(&home), ["bob:5"]);
    pipe.write_all(format!("cid:{HASH}\n").as_bytes()).unwrap();
    drop(pipe);
    let status = wait_or_kill(&mut import);
    let stderr = std::io::read_to_string(import.stderr.take().unwrap()).unwrap();
    assert!(status.success() && without_audit(&stderr).ends_with("2 added\n"), "{stderr}");
    assert_eq!(costs(&home), ["ann:5", "bob:5", "cid:5"]);
}
