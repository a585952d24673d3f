//! The program on a pseudo-terminal of which the test holds the other end: prompts, progress, colours
//! and the width.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::cli::{KilledOnDrop, command, without_audit};
use crate::support::client::Request;
use crate::support::store::{TempStore, name};

/// Opens a pseudo-terminal, and returns both ends.
pub fn terminal() -> (File, File) {
    let keyboard: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let path = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
    (keyboard.into(), OpenOptions::new().read(true).write(true).open(path).unwrap())
}

/// A run of the program on its own terminal.
struct Session {
    /// The end at which a user types and sees the echo.
    keyboard: File,
    terminal: File,
    child: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Session {
    fn start(home: &TempStore, words: &str) -> Self {
        let (keyboard, terminal) = terminal();
        let mut child = command(home.folder(), words.split(' '))
            .stdin(terminal.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { keyboard, terminal, child, stdout, stderr }
    }

    /// Waits for text on standard error.
    fn said(&mut self, text: &str) {
        let mut said = vec![0; text.len()];
        self.stderr.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), text);
    }

    /// Waits for the prompt, and then types.
    fn answer(&mut self, prompt: &str, typed: &[u8]) {
        self.said(prompt);
        self.keyboard.write_all(typed).unwrap();
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON)
    }

    /// Waits for the end. Returns the exit code, stdout, the rest of stderr, and the echo.
    fn end(mut self) -> (Option<i32>, String, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.stderr.read_to_string(&mut err).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        assert!(self.echoes(), "the terminal echoes again");
        // Ends the read of an empty echo.
        self.terminal.write_all(b"END").unwrap();
        let mut seen = String::new();
        while !seen.ends_with("END") {
            let mut byte = [0];
            self.keyboard.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        (status.code(), out, without_audit(&err), seen.trim_end_matches("END").to_owned())
    }
}

/// L-01
#[test]
fn password_is_asked_for_twice_without_echo() {
    let home = TempStore::new();
    let database = home.database().display().to_string();
    let words = format!("useradd roy --cost 10 --database {database}");
    let mut session = Session::start(&home, &words);
    session.answer("New password for roy: ", b"open-sesame\n");
    session.answer("\nNew password for roy again: ", b"open-sesame\n");
    let said = "\nresttool: added user roy\n".to_owned();
    assert_eq!(session.end(), (Some(0), String::new(), said, String::new()));
    assert_eq!(home.serve().login("roy", "open-sesame").status, 200);
}

/// L-01
#[test]
fn new_password_is_asked_for_twice_and_a_known_one_once() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    let database = home.database().display().to_string();
    let mut session = Session::start(&home, &format!("passwd roy --cost 10 --database {database}"));
    session.answer("New password for roy: ", b"another-one\n");
    session.answer("\nNew password for roy again: ", b"another-one\n");
    let said = "\nresttool: changed the password of roy\n".to_owned();
    assert_eq!(session.end(), (Some(0), String::new(), said, String::new()));
    for (typed, code, said) in [
        (&b"another-one\n"[..], 0, "\nresttool: the password of roy is right\n"),
        (b"open-sesame\n", 3, "\nresttool: cannot verify user roy: the password is wrong\n"),
    ] {
        let mut session = Session::start(&home, &format!("verify roy --database {database}"));
        session.answer("Password for roy: ", typed);
        assert_eq!(session.end(), (Some(code), String::new(), said.to_owned(), String::new()));
    }
}

#[test]
fn prompts_of_hash_do_not_go_to_stdout() {
    let home = TempStore::new();
    let mut session = Session::start(&home, "hash --cost 10");
    session.answer("New password: ", "cafe\u{301}-latte\n".as_bytes());
    session.answer("\nNew password again: ", "café-latte\n".as_bytes());
    let (code, out, err, seen) = session.end();
    assert_eq!((code, err.as_str(), seen.as_str()), (Some(0), "\n", ""));
    assert!(out.starts_with("$2y$10$") && out.len() == 61, "{out}");
}

/// W-22
#[test]
fn new_password_may_be_typed_three_times() {
    let home = TempStore::new();
    let mut session = Session::start(&home, "hash --cost 10 --min-length 9 --htpasswd roy");
    session.answer("New password for roy: ", b"open-sesame\n");
    session.answer("\nNew password for roy again: ", b"open-sesamE\n");
    session.said("\nresttool: the two passwords differ; try again\n");
    session.answer("New password for roy: ", b"short\n");
    session
        .said("\nresttool: the password is refused: it has fewer than 9 characters; try again\n");
    session.answer("New password for roy: ", b"open-sesame\n");
    session.answer("\nNew password for roy again: ", b"open-sesame\n");
    let (code, out, err, _) = session.end();
    assert_eq!((code, err.as_str()), (Some(0), "\n"));
    assert!(out.starts_with("roy:$2y$10$"), "{out}");
}

/// W-22
#[test]
fn third_refused_password_ends_the_command() {
    let home = TempStore::new();
    let mut session = Session::start(&home, "hash");
    for _ in 0..2 {
        session.answer("New password: ", b"\n");
        session.said("\nresttool: the password is refused: it is empty; try again\n");
    }
    session.answer("New password: ", b"open-sesame\n");
    session.answer("\nNew password again: ", b"open-sesamE\n");
    let said = "\nresttool: cannot make a hash: the two passwords differ\n".to_owned();
    assert_eq!(session.end(), (Some(3), String::new(), said, String::new()));
}

/// W-22: a command that reads from a terminal says so.
#[test]
fn command_says_what_it_reads_from_the_terminal() {
    for (words, what) in [
        ("chpasswd", "name:password lines"),
        ("import -", "users"),
        ("apply -", "a desired state"),
        ("hash --password-stdin", "a password"),
        ("useradd roy --hash-stdin", "a hash"),
    ] {
        let home = TempStore::new();
        let mut session = Session::start(&home, words);
        let said =
            format!("resttool: reading {what} from the terminal; end with Ctrl-D on a new line\n");
        session.answer(&said, b"\x04");
        let (code, ..) = session.end();
        assert_ne!(code, None, "{words}");
    }
}

/// L-03: Ctrl-C and Ctrl-D, with and without text before them.
#[test]
fn interrupted_prompt_restores_the_terminal() {
    for typed in [&b"\x03"[..], b"open-ses\x03", b"\x04", b"open-ses\x04"] {
        let home = TempStore::new();
        let mut session = Session::start(&home, "useradd roy");
        session.answer("New password for roy: ", typed);
        let said = "\nresttool: cannot add user roy: interrupted\n".to_owned();
        assert_eq!(session.end(), (Some(130), String::new(), said, String::new()));
    }
}

#[test]
fn existing_user_is_refused_before_the_prompt() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    let database = home.database().display().to_string();
    let session = Session::start(&home, &format!("useradd roy --database {database}"));
    let said = "resttool: cannot add user roy: user exists already\n".to_owned();
    assert_eq!(session.end(), (Some(9), String::new(), said, String::new()));
}

/// L-05, W-22
#[test]
fn interrupted_bulk_change_shows_progress_and_changes_nothing() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    let (mut keyboard, terminal) = terminal();
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let words = format!("chpasswd --create --database {}", home.database().display());
    // 100 s of work.
    let lines: String = (0..400).map(|n| format!("user-{n}:open-sesame\n")).collect();
    let mut child = command(home.folder(), words.split(' '))
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stderr(terminal)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let mut seen = String::new();
    let rate = |seen: &str| {
        let (_, rate) = seen.split_once("/400, ")?;
        Some(rate.split_once("/s, ")?.0.to_owned())
    };
    while !seen.contains(" left") || rate(&seen).is_none() {
        let mut bytes = [0; 1024];
        let read = keyboard.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(seen.contains("hashing "), "{seen}");
    assert!(rate(&seen).unwrap().bytes().all(|c| c.is_ascii_digit()), "{seen}");
    // Not SIGINT, that of Ctrl-C: programs in the background ignore it.
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    let store = home.open();
    assert!(store.contains(&name("roy")).unwrap());
    assert!((0..400).all(|n| !store.contains(&name(&format!("user-{n}"))).unwrap()));
}

/// Returns the standard output of a command on a terminal of this width.
fn shown(command: &mut Command, columns: u16) -> String {
    let (mut keyboard, mut terminal) = terminal();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    command.env("TERM", "xterm").stdout(terminal.try_clone().unwrap());
    // It prints less than a terminal holds.
    assert!(command.status().unwrap().success());
    terminal.write_all(b"END").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"END") {
        let mut bytes = [0; 1024];
        let read = keyboard.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..read]);
    }
    let seen = String::from_utf8(seen).unwrap();
    seen.strip_suffix("END").unwrap().replace("\r\n", "\n")
}

#[test]
fn help_has_colours_at_a_terminal_unless_no_color_is_set() {
    let home = TempStore::new();
    let help = || command(home.folder(), ["--help"]);
    assert!(shown(&mut help(), 80).contains('\x1B'));
    assert!(!shown(help().env("NO_COLOR", "1"), 80).contains('\x1B'));
}

/// W-19
#[test]
fn userlist_fits_the_terminal() {
    let home = TempStore::new();
    home.add("roy", "open-sesame");
    home.change("INSERT INTO memberships VALUES ('roy', 'administrators'), ('roy', 'staff')");
    let database = home.database().display().to_string();
    let list = |more: &[&str]| {
        command(home.folder(), [&["userlist", "--database", &database], more].concat())
    };
    let narrow = "NAME  GROUPS          STATE\nroy   administrator…  active\n";
    assert_eq!(shown(&mut list(&[]), 28), narrow);
    let wide = "NAME  GROUPS                STATE\nroy   administrators,staff  active\n";
    assert_eq!(shown(&mut list(&[]), 80), wide);
    let long = shown(&mut list(&["--long"]), 28);
    assert!(long.contains("administrators,staff  active  bcrypt  4     20"), "{long}");
}

/// Starts a server whose log is a terminal, and returns what it has said when `until` is there.
fn started(command: &mut Command, until: &str) -> (KilledOnDrop, String, File) {
    let (mut keyboard, terminal) = terminal();
    let child = KilledOnDrop(command.env("TERM", "xterm").stderr(terminal).spawn().unwrap());
    let seen = read_until(&mut keyboard, until);
    (child, seen, keyboard)
}

pub fn read_until(keyboard: &mut File, until: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(until) {
        let mut bytes = [0; 1024];
        let read = keyboard.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    seen.replace("\r\n", "\n")
}

/// W-24
#[test]
fn start_on_a_terminal_says_what_is_served_and_what_to_try() {
    let home = TempStore::new();
    let database = home.database().display().to_string();
    home.add("Jane Doe", "open-sesame");
    let serve = || {
        let mut serve = command(home.folder(), ["serve", "--port=0", "--cost=4", "--database"]);
        serve.arg(&database).env("NO_COLOR", "1");
        serve
    };
    let (server, seen, mut keyboard) = started(&mut serve(), "Ctrl-C\r\n");
    let (_, url) = seen.split_once("http://").unwrap();
    let address = url.split_once('/').unwrap().0.to_owned();
    let expected = format!(
        "resttool {} is ready
  people       http://{address}/rest-auth
  proxies      http://{address}/auth (see resttool print nginx)
  users        1 user in {database}
  certificate  none, so passwords are sent in the clear
  try it       curl -u 'Jane Doe' http://{address}/rest-auth
  stop         Ctrl-C
",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(seen, expected);
    // The log goes on in lines.
    let wrong = Request::get("/rest-auth").basic("Jane Doe", "wrong");
    assert_eq!(wrong.send(address.parse().unwrap()).status, 401);
    let line = read_until(&mut keyboard, "\n");
    assert!(line.contains(" INFO  audit] outcome=denied "), "{line}");
    drop(server);

    // In front of an API, all paths are the API's.
    let mut proxying = serve();
    proxying.args(["--upstream", "http://127.0.0.1:8000"]);
    let (server, seen, _keyboard) = started(&mut proxying, "Ctrl-C\r\n");
    let (_, url) = seen.split_once("  clients      http://").unwrap();
    let address = url.split_once('/').unwrap().0;
    let rows = format!(
        "  clients      http://{address}/
  upstream     http://127.0.0.1:8000
"
    );
    assert!(seen.contains(&rows), "{seen}");
    assert!(seen.contains(&format!("curl -u 'Jane Doe' http://{address}/\n")), "{seen}");
    drop(server);

    // Colours by default, and a next step without users.
    home.remove("Jane Doe");
    let mut coloured = serve();
    coloured.env_remove("NO_COLOR");
    let (server, seen, mut keyboard) = started(&mut coloured, "Ctrl-C\r\n");
    assert!(seen.contains("\x1B[1mnext"), "{seen}");
    let advice = format!("resttool useradd NAME --database {database}\n");
    assert!(seen.contains(&advice) && seen.contains("no users in "), "{seen}");
    let (_, url) = seen.split_once("http://").unwrap();
    let address = url.split_once('/').unwrap().0;
    Request::get("/rest-auth").basic("roy", "wrong").send(address.parse().unwrap());
    let line = read_until(&mut keyboard, "\n");
    assert!(line.contains(" \x1B[32mINFO \x1B[0m audit] outcome=denied "), "{line:?}");
    drop(server);
}
