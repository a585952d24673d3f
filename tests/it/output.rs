//! Output files: no command overwrites the store, its input, or a file chosen by another user.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{
    FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};

use crate::support::cli::{Completed, command, finish, run, wait_or_kill, without_audit};
use crate::support::store::TempStore;

/// A hash of `U*U` with cost 5, from the test vectors of crypt_blowfish 1.3 (wrapper.c).
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// A store with the user roy.
struct Home(TempStore);

impl Home {
    fn new() -> Self {
        let home = Self(TempStore::new());
        home.0.add_hash("roy", HASH);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.folder().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Returns a command with arguments separated by spaces, in the folder of the store.
    fn command(&self, words: &str) -> std::process::Command {
        let mut command = command(self.0.folder(), words.split(' '));
        command.env("RESTTOOL_DATABASE", self.0.database()).current_dir(self.0.folder());
        command
    }

    fn run(&self, words: &str, input: &str) -> Completed {
        finish(self.command(words), input)
    }

    /// Runs a command, and asserts that it is refused for this reason.
    fn assert_refused(&self, words: &str, input: &str, why: &str) {
        let outcome = self.run(words, input);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{words}: {outcome:?}");
        assert!(outcome.stderr.contains(why), "{words}: {}", outcome.stderr);
        let hints = outcome.stderr.lines().filter(|line| line.starts_with("hint: ")).count();
        assert_eq!(hints, 1, "{words}: {}", outcome.stderr);
    }

    fn users(&self) -> Vec<String> {
        let outcome = self.run("export", "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout.lines().map(str::to_owned).collect()
    }
}

/// Commands that write to a file, without the name of the file.
const WRITERS: [&str; 3] = ["export", "backup", "usermod roy --lock --audit-log"];

/// R-13
#[test]
fn no_output_goes_onto_the_store_by_any_name() {
    let home = Home::new();
    fs::create_dir(home.path("sub")).unwrap();
    symlink("..", home.path("sub/up")).unwrap();
    symlink("users.db", home.path("link.db")).unwrap();
    symlink(home.path("link.db"), home.path("sub/link.db")).unwrap();
    symlink("users.db-journal", home.path("journal")).unwrap();
    fs::hard_link(home.0.database(), home.path("hard.db")).unwrap();
    let absolute = home.0.database().display().to_string();
    // An open store has companion files.
    let store = home.0.open();
    home.0.add_hash("ann", HASH);
    let before = home.users();
    for words in WRITERS {
        for name in [
            "users.db",
            "./users.db",
            &absolute,
            "sub/../users.db",
            "sub/up/users.db",
            "link.db",
            "sub/link.db",
            "hard.db",
            "users.db-wal",
            "users.db-shm",
            "users.db-journal",
            "journal",
            "sub/../users.db-wal",
        ] {
            home.assert_refused(
                &format!("{words} {name}"),
                "",
                "it is a file of the user database",
            );
            assert_eq!(home.users(), before, "{words} {name}");
        }
    }
    drop(store);
    // The same without companion files.
    for words in WRITERS {
        for name in ["users.db-wal", "users.db-shm", "users.db-journal"] {
            home.assert_refused(
                &format!("{words} {name}"),
                "",
                "it is a file of the user database",
            );
            assert!(!home.path("users.db-journal").exists());
        }
    }
    // An audit log does not take the name of a new store.
    let words = "useradd roy --hash-stdin --database new.db --audit-log new.db";
    home.assert_refused(words, HASH, "it is a file of the user database");
    assert!(!home.path("new.db").exists());
    // The shell opens the store for appending.
    let size = fs::metadata(home.0.database()).unwrap().len();
    for words in ["export", "userlist --json", "useradd ann --generate", "check --json"] {
        let mut command = home.command(words);
        command.stdout(File::options().append(true).open(home.0.database()).unwrap());
        let status = wait_or_kill(&mut command.stderr(Stdio::null()).spawn().unwrap());
        assert_eq!(status.code(), Some(1), "{words}");
        assert_eq!(fs::metadata(home.0.database()).unwrap().len(), size, "{words}");
    }
    for words in ["export", "userdel is-no-user", "serve --port 0"] {
        let mut command = home.command(words);
        command.stderr(File::options().append(true).open(home.0.database()).unwrap());
        let status = wait_or_kill(&mut command.stdout(Stdio::null()).spawn().unwrap());
        assert_eq!(status.code(), Some(1), "{words}");
        assert_eq!(fs::metadata(home.0.database()).unwrap().len(), size, "{words}");
    }
    assert_eq!(home.users(), before);
}

/// R-13
#[test]
fn no_audit_log_goes_onto_an_input() {
    let home = Home::new();
    let toml = "[[user]]\nname = \"ann\"\npassword_file = \"ann.password\"\n";
    for (words, input, text) in [
        ("import users.txt --audit-log users.txt", "users.txt", format!("ann:{HASH}\n")),
        ("import users.txt --audit-log ./users.txt", "users.txt", format!("ann:{HASH}\n")),
        (
            "useradd ann --password-file ann.password --audit-log ann.password",
            "ann.password",
            "open-sesame".into(),
        ),
        (
            "passwd roy --password-file ann.password --audit-log ann.password",
            "ann.password",
            "open-sesame".into(),
        ),
        ("apply users.toml --audit-log users.toml", "users.toml", toml.into()),
        ("apply users.toml --audit-log ann.password", "ann.password", "open-sesame".into()),
    ] {
        home.write("users.toml", toml);
        home.write("ann.password", "open-sesame");
        home.write(input, &text);
        home.assert_refused(words, "", "the command reads it");
        assert_eq!(fs::read_to_string(home.path(input)).unwrap(), text, "{words}");
    }
    // The same for standard input.
    home.write("passwords", "roy:open-sesame\n");
    let mut chpasswd = home.command("chpasswd --cost 4 --audit-log passwords");
    chpasswd.stdin(File::open(home.path("passwords")).unwrap()).stderr(Stdio::null());
    assert_eq!(wait_or_kill(&mut chpasswd.spawn().unwrap()).code(), Some(1));
    assert_eq!(fs::read_to_string(home.path("passwords")).unwrap(), "roy:open-sesame\n");
    assert_eq!(home.users(), [format!("roy:{HASH}")]);
    // /dev/null is allowed as input and audit log.
    let mut null = home.command("usermod roy --lock --audit-log /dev/null");
    null.stdin(File::open("/dev/null").unwrap());
    assert_eq!(wait_or_kill(&mut null.spawn().unwrap()).code(), Some(0));
}

fn mkfifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn is_fifo(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().file_type().is_fifo()
}

/// R-13
#[test]
fn pipe_without_a_reader_is_an_error_and_no_hang() {
    let home = Home::new();
    let pipe = home.path("pipe");
    mkfifo(&pipe);
    for words in WRITERS {
        let mut child = home.command(&format!("{words} pipe"));
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        let code = wait_or_kill(&mut child).code();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(code, Some(1), "{words}: {said}");
        assert!(
            said.ends_with("no process reads from it\nhint: start its reader first\n"),
            "{said}"
        );
        assert!(is_fifo(&pipe));
    }
}

/// R-13
#[test]
fn pipe_with_a_reader_is_written_to() {
    let home = Home::new();
    let pipe = home.path("pipe");
    mkfifo(&pipe);
    let users = home.users();
    for words in WRITERS {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = File::options().read(true).custom_flags(nonblocking).open(&pipe).unwrap();
        let outcome = home.run(&format!("{words} pipe"), "");
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        match words {
            "export" => assert_eq!(String::from_utf8(bytes).unwrap().trim_end(), users[0]),
            "backup" => assert!(bytes.starts_with(b"SQLite format 3\0") && bytes.len() % 4096 == 0),
            _ => assert!(String::from_utf8(bytes).unwrap().contains("action=changed user=\"roy\"")),
        }
        assert!(is_fifo(&pipe), "{words}");
    }
}

/// R-13
#[test]
fn socket_is_refused_as_output() {
    let home = Home::new();
    let _socket = std::os::unix::net::UnixListener::bind(home.path("socket")).unwrap();
    for words in WRITERS {
        assert_eq!(home.run(&format!("{words} socket"), "").code, 1);
        assert!(fs::symlink_metadata(home.path("socket")).unwrap().file_type().is_socket());
    }
}

/// R-13: devices like /dev/full and /dev/null, and a disk.
#[test]
#[ignore = "needs root"]
fn device_is_written_to_or_refused_and_stays() {
    let home = Home::new();
    let mode = Mode::RUSR | Mode::WUSR;
    let device = |name: &str, kind, major, minor| {
        mknodat(CWD, home.path(name), kind, mode, makedev(major, minor)).unwrap();
    };
    device("full", FileType::CharacterDevice, 1, 7);
    device("null", FileType::CharacterDevice, 1, 3);
    // A loop device without a file.
    device("disk", FileType::BlockDevice, 7, 255);
    for words in WRITERS {
        let full = home.run(&format!("{words} full"), "");
        assert_eq!(full.code, 1, "{words}");
        assert!(full.stderr.contains("No space left on device"), "{words}: {}", full.stderr);
        assert_eq!(home.run(&format!("{words} null"), "").code, 0, "{words}");
        assert_eq!(home.run(&format!("{words} disk"), "").code, 1, "{words}");
        for name in ["full", "null"] {
            let kind = fs::symlink_metadata(home.path(name)).unwrap().file_type();
            assert!(kind.is_char_device(), "{words} {name}");
        }
        let disk = fs::symlink_metadata(home.path("disk")).unwrap().file_type();
        assert!(disk.is_block_device(), "{words}");
        home.run("usermod roy --unlock", "");
    }
}

/// W-23: a reader that closes its pipe has read enough of a list, and has lost a hash or a password.
#[test]
fn closed_pipe_ends_a_list_in_silence_and_is_an_error_of_data() {
    let home = Home::new();
    // Found by check.
    fs::set_permissions(home.0.database(), fs::Permissions::from_mode(0o644)).unwrap();
    let run = |words: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home.command(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), without_audit(&String::from_utf8(output.stderr).unwrap()))
    };
    assert_eq!(run("check"), (Some(1), String::new()));
    fs::set_permissions(home.0.database(), fs::Permissions::from_mode(0o600)).unwrap();
    for words in ["userlist", "userlist --json", "print nginx", "--help", "serve -h", "--version"] {
        assert_eq!(run(words), (Some(0), String::new()), "{words}");
    }
    for words in ["export", "hash --generate --cost 4", "useradd ann --generate --cost 4"] {
        let (code, said) = run(words);
        assert_eq!(code, Some(1), "{words}: {said}");
        assert!(said.contains("cannot write to standard output: Broken pipe"), "{words}: {said}");
    }
}

/// R-13
#[test]
fn descriptor_of_the_caller_is_written_to() {
    let home = Home::new();
    let users = home.users();
    for path in ["/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"] {
        let outcome = home.run(&format!("export --quiet {path}"), "");
        assert_eq!(outcome, Completed::new(0, &format!("{}\n", users[0]), ""), "{path}");
    }
    // A process substitution, and a file that the shell writes before and after the command.
    let script = r#"
        { echo before; "$0" export --quiet /dev/fd/1; echo after; } >out
        exec 7>other; echo before >&7; "$0" export --quiet /dev/fd/7
    "#;
    let mut shell = std::process::Command::new("sh");
    shell.args(["-ec", script, env!("CARGO_BIN_EXE_resttool")]).current_dir(home.0.folder());
    shell.env("RESTTOOL_DATABASE", home.0.database());
    assert!(shell.status().unwrap().success());
    let read = |name| fs::read_to_string(home.path(name)).unwrap();
    assert_eq!(read("out"), format!("before\n{}\nafter\n", users[0]));
    assert_eq!(read("other"), format!("before\n{}\n", users[0]));
    // Log files of containers are such links.
    symlink("/proc/self/fd/1", home.path("audit.log")).unwrap();
    let outcome = home.run("usermod roy --lock --audit-log audit.log", "");
    assert!(outcome.stdout.contains("action=changed user=\"roy\""), "{outcome:?}");
}

/// R-13
#[test]
fn link_that_only_the_caller_can_change_is_followed() {
    let home = Home::new();
    fs::create_dir(home.path("real")).unwrap();
    symlink("real", home.path("folder")).unwrap();
    symlink("folder/file", home.path("link")).unwrap();
    for words in WRITERS {
        for path in ["link", "folder/other"] {
            let outcome = home.run(&format!("{words} {path}"), "");
            assert_eq!(outcome.code, 0, "{words} {path}: {}", outcome.stderr);
            home.run("usermod roy --unlock", "");
        }
        for file in ["real/file", "real/other"] {
            let meta = fs::symlink_metadata(home.path(file)).unwrap();
            assert!(meta.is_file() && meta.len() > 0, "{words} {file}");
            assert_eq!(meta.mode() & 0o777, 0o600, "{words} {file}");
            fs::remove_file(home.path(file)).unwrap();
        }
        assert!(fs::symlink_metadata(home.path("link")).unwrap().is_symlink(), "{words}");
        assert_eq!(fs::read_dir(home.path("real")).unwrap().count(), 0, "{words}");
    }
}

/// R-13
#[test]
fn link_in_a_shared_folder_is_refused() {
    let home = Home::new();
    fs::create_dir(home.path("real")).unwrap();
    home.write("real/file", "something");
    for mode in [0o777, 0o1777, 0o775, 0o2775] {
        let shared = home.path("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(mode)).unwrap();
        symlink("../real/file", shared.join("link")).unwrap();
        symlink("../real/new", shared.join("dangling")).unwrap();
        symlink("../real", shared.join("folder")).unwrap();
        let why = "a symbolic link that another user can change";
        for words in WRITERS {
            for path in
                ["shared/link", "shared/dangling", "shared/folder/file", "shared/folder/new"]
            {
                home.assert_refused(&format!("{words} {path}"), "", why);
            }
            assert_eq!(home.run(&format!("{words} shared/plain"), "").code, 0, "{words}");
            fs::remove_file(shared.join("plain")).unwrap();
            home.run("usermod roy --unlock", "");
        }
        home.assert_refused("man shared/folder/man1", "", why);
        assert_eq!(fs::read_dir(home.path("real")).unwrap().count(), 1);
        assert_eq!(fs::read(home.path("real/file")).unwrap(), b"something");
        fs::remove_dir_all(shared).unwrap();
    }
}

/// R-13: files that root writes into the folder of another user stay in that folder.
#[test]
#[ignore = "needs root"]
fn root_follows_no_link_of_another_user() {
    const NOBODY: u32 = 65534;
    let home = Home::new();
    home.write("secret", "something");
    let folder = home.path("theirs");
    fs::create_dir(&folder).unwrap();
    for (name, to) in [("link", "../secret"), ("dangling", "../new"), ("up", "..")] {
        symlink(to, folder.join(name)).unwrap();
        lchown(folder.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::hard_link(home.path("secret"), folder.join("hard")).unwrap();
    mkfifo(&folder.join("pipe"));
    chown(folder.join("pipe"), Some(NOBODY), Some(NOBODY)).unwrap();
    let reader = OFlags::NONBLOCK.bits().cast_signed();
    let _reader =
        File::options().read(true).custom_flags(reader).open(folder.join("pipe")).unwrap();
    let why = "a symbolic link that another user can change";
    // In root's folder too: the link belongs to another user.
    for owner in [0, NOBODY] {
        chown(&folder, Some(owner), Some(owner)).unwrap();
        for words in WRITERS {
            for path in ["theirs/link", "theirs/dangling", "theirs/up/secret", "theirs/up/new"] {
                home.assert_refused(&format!("{words} {path}"), "", why);
            }
            let pipe = format!("{words} theirs/pipe");
            home.assert_refused(&pipe, "", "it is a pipe or a device of another user");
            assert_eq!(home.run(&format!("{words} theirs/plain"), "").code, 0, "{words}");
            let plain = folder.join("plain");
            assert_eq!(fs::metadata(&plain).unwrap().mode() & 0o777, 0o600, "{words}");
            fs::remove_file(plain).unwrap();
            home.run("usermod roy --unlock", "");
        }
        home.assert_refused("man theirs/up/pages", "", why);
        if owner == NOBODY {
            let words = "usermod roy --lock --audit-log theirs/hard";
            home.assert_refused(words, "", "it has another name");
        }
    }
    assert_eq!(fs::read(home.path("secret")).unwrap(), b"something");
    assert!(!home.path("new").exists() && !home.path("pages").exists());
}

/// R-13
#[test]
fn manual_pages_overwrite_no_store_file() {
    let home = Home::new();
    let before = home.users();
    fs::create_dir(home.path("pages")).unwrap();
    symlink("../users.db", home.path("pages/resttool.1")).unwrap();
    home.assert_refused("man pages", "", "it is a file of the user database");
    assert_eq!(home.users(), before);
    fs::remove_file(home.path("pages/resttool.1")).unwrap();
    // An existing page is replaced, and all users may read it.
    home.write("pages/resttool-serve.1", "an older one");
    for folder in ["pages", "pages/more/man1/"] {
        assert_eq!(
            run(home.0.folder(), &format!("man {}", home.path(folder).display()), "").code,
            0
        );
        for page in ["resttool.1", "resttool-serve.1"] {
            let page = home.path(folder).join(page);
            assert_eq!(fs::metadata(&page).unwrap().mode() & 0o777, 0o644);
            assert!(fs::read_to_string(page).unwrap().contains(".TH"));
        }
    }
}

/// R-13
#[test]
fn failed_output_leaves_existing_files_alone() {
    let home = Home::new();
    home.write("file", "something");
    fs::create_dir(home.path("folder")).unwrap();
    symlink("loop", home.path("loop")).unwrap();
    for words in WRITERS {
        for (path, why) in [
            ("folder", "Is a directory"),
            ("folder/", "Is a directory"),
            ("folder/..", "Is a directory"),
            ("no/file", "No such file"),
            ("new/", "No such file"),
            ("file/", "Not a directory"),
            ("file/x", "Not a directory"),
            ("loop", "Too many levels of symbolic links"),
        ] {
            let outcome = home.run(&format!("{words} {path}"), "");
            assert_eq!(outcome.code, 1, "{words} {path}");
            assert!(outcome.stderr.contains(why), "{words} {path}: {}", outcome.stderr);
        }
    }
    assert_eq!(fs::read(home.path("file")).unwrap(), b"something");
    assert!(!home.path("new").exists());
    // A failed export leaves no temporary file.
    home.0.sql("UPDATE users SET hash = 'none'");
    assert_eq!(home.run("export file", "").code, 1);
    assert_eq!(fs::read(home.path("file")).unwrap(), b"something");
    let names = fs::read_dir(home.0.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
}
